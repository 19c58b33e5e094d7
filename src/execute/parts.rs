//! Plans that compute a batch in parts: the plan of one part, once for each lane, over slices of the caller's buffers.
//!
//! Lanes run at once in the pool the caller is in; a lane computes its parts one after the other. Nothing is copied and nothing is
//! allocated: rows of inputs and outputs lie behind each other, so a part of them is a slice.

use super::compile::{Configs, PlanError};
use super::memory::{Home, Span};
use super::plan::{Buffer, Plan, RunError};
use super::program::{Entrance, Exit, Fixed, MemoryUse, Place, Port, Program, Source};
use crate::graph::{Graph, ValueId};
use crate::split;
use kernels::Limits;
use kernels::thread_pool::join;
use schema::Split;
use std::array;
use std::ops::Range;

/// Inputs or outputs at most: their slices stand on the stack.
const PORTS_MAX: usize = 32;

/// The plan of a part, once for each lane.
pub(super) struct Parts {
    split: Split,
    lanes: Vec<Plan>,
}

/// The outputs of a range of parts.
type Slices<'a> = [Option<&'a mut [u8]>; PORTS_MAX];

impl Plan {
    /// Compiles a graph to be computed in parts; [`Split::WHOLE`] is [`compile_owned`](Self::compile_owned). `limits` are those of the
    /// whole grant: each lane gets its part of the units.
    ///
    /// # Errors
    /// [`PlanError::Split`] when rows of the batch meet or the units cannot be shared out, and what [`compile_owned`](Self::compile_owned)
    /// says.
    pub fn compile_split(
        graph: Graph,
        split: Split,
        configs: &Configs,
        limits: &Limits,
        plan_bytes: u64,
    ) -> Result<Self, PlanError> {
        if split.is_whole() {
            return Self::compile_owned(graph, configs, limits, plan_bytes);
        }
        let refused = |reason: String| PlanError::Split { split, reason };
        if !limits.units.is_multiple_of(split.lanes()) {
            return Err(refused(format!("{} units have no {} equal parts", limits.units, split.lanes())));
        }
        if graph.inputs.len().max(graph.outputs.len()) > PORTS_MAX {
            return Err(refused(format!("more than {PORTS_MAX} inputs or outputs")));
        }
        let part = split::part(&graph, split.parts() as usize).map_err(|mixed| refused(mixed.to_string()))?;
        let (inputs, outputs) = ports(&graph);
        // The constants are the part's now: each is freed when the last kernel that prepares it is built.
        drop(graph);
        let limits = Limits { units: limits.units / split.lanes(), ..*limits };
        let first = Self::compile_owned(part, configs, &limits, plan_bytes / u64::from(split.lanes()))?;
        let one = first.memory();
        let memory = MemoryUse { arena_bytes: one.arena_bytes * u64::from(split.lanes()), ..one };
        let mut lanes = vec![first];
        while lanes.len() < split.lanes() as usize {
            lanes.push(lanes[0].another()?);
        }
        Self::over_parts(Program::of_ports(inputs, outputs, memory), Parts { split, lanes })
    }
}

/// The inputs and outputs of a graph.
pub fn ports(graph: &Graph) -> (Vec<Port>, Vec<Port>) {
    let port = |name: &str, id: ValueId| Port { name: name.to_owned(), ty: graph.value(id).ty.clone() };
    let inputs = graph.inputs.iter().map(|&id| port(&graph.value(id).name, id)).collect();
    (inputs, graph.output_names.iter().zip(&graph.outputs).map(|(name, &id)| port(name, id)).collect())
}

impl Program {
    /// A program without steps, whose outputs of fixed size are written straight into the caller's buffers.
    pub(super) fn of_ports(inputs: Vec<Port>, outputs: Vec<Port>, memory: MemoryUse) -> Self {
        let exit = |(index, port): (usize, Port)| {
            let span = |bytes| Span { home: Home::Output(index as u32), offset: 0, bytes };
            let source = match (port.ty.fixed_bytes(), port.ty.dtype(), port.ty.fixed_shape()) {
                (Some(bytes), Some(dtype), Some(shape)) => Source::Fixed(Fixed { span: span(bytes), dtype, shape }),
                _ => Source::Slot(index),
            };
            Exit { port, source }
        };
        Program {
            inputs: inputs.into_iter().map(|port| Entrance { port, place: Place::Nowhere }).collect(),
            outputs: outputs.into_iter().enumerate().map(exit).collect(),
            steps: Vec::new(),
            reads: Vec::new(),
            writes: Vec::new(),
            external_reads: Vec::new(),
            external_writes: Vec::new(),
            constants: Vec::new(),
            slots: 0,
            children: Vec::new(),
            arena_bytes: 0,
            memory,
        }
    }
}

impl Parts {
    /// A second instance of every lane.
    pub fn another(&self) -> Result<Self, PlanError> {
        Ok(Parts { split: self.split, lanes: self.lanes.iter().map(Plan::another).collect::<Result<_, _>>()? })
    }

    /// The plan of one part.
    pub fn first(&self) -> &Plan {
        &self.lanes[0]
    }

    /// The plans of all lanes.
    pub fn lanes(&mut self) -> &mut [Plan] {
        &mut self.lanes
    }

    /// Computes all parts, in the pool the caller is in.
    pub fn run<B: Buffer>(&mut self, inputs: &[&[u8]], outputs: &mut [B]) -> Result<(), RunError> {
        let count = outputs.len();
        let mut given = outputs.iter_mut();
        let slices: Slices<'_> = array::from_fn(|_| given.next().and_then(Buffer::bytes));
        let parts = self.split.parts() as usize;
        halve(&mut self.lanes, 0..parts, parts, inputs, count, slices)
    }
}

/// Runs a range of the `all` parts on as many lanes as are left.
fn halve(
    lanes: &mut [Plan],
    parts: Range<usize>,
    all: usize,
    inputs: &[&[u8]],
    outputs: usize,
    mut slices: Slices<'_>,
) -> Result<(), RunError> {
    if let [lane] = lanes {
        let count = parts.len();
        return parts.enumerate().try_for_each(|(done, number)| {
            let left = count - done;
            let part: [&[u8]; PORTS_MAX] =
                array::from_fn(|i| inputs.get(i).map_or(&[][..], |all_rows| one_of(all_rows, number, all)));
            let mut own: Slices<'_> = array::from_fn(|i| take_front(&mut slices[i], left));
            lane.run_part(&part[..inputs.len()], &mut own[..outputs])
        });
    }
    let (front, back) = lanes.split_at_mut(lanes.len() / 2);
    let rounds = parts.len() / (front.len() + back.len());
    let middle = parts.start + rounds * front.len();
    let (first, second) = (parts.start..middle, middle..parts.end);
    let first_slices: Slices<'_> = array::from_fn(|i| {
        let whole = slices[i].take()?;
        let bytes = whole.len() / (first.len() + second.len()) * first.len();
        let (head, tail) = whole.split_at_mut(bytes);
        slices[i] = Some(tail);
        Some(head)
    });
    let (mut one, mut other) = (Ok(()), Ok(()));
    join(
        || one = halve(front, first, all, inputs, outputs, first_slices),
        || other = halve(back, second, all, inputs, outputs, slices),
    );
    one.and(other)
}

/// Part `number` of `all`.
fn one_of(rows: &[u8], number: usize, all: usize) -> &[u8] {
    let bytes = rows.len() / all;
    &rows[number * bytes..][..bytes]
}

/// Takes the first of `left` parts off a buffer.
fn take_front<'a>(buffer: &mut Option<&'a mut [u8]>, left: usize) -> Option<&'a mut [u8]> {
    let whole = buffer.take()?;
    let (head, tail) = whole.split_at_mut(whole.len() / left);
    *buffer = Some(tail);
    Some(head)
}
