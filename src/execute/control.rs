//! `If`, `Loop`, `Scan` and `SequenceMap`: plans of their bodies, compiled once.
//!
//! A body's inputs, captures and outputs have places of their own in the body's arena (or slots), which keep their bytes between
//! rounds: captures are given once, carried values are copied from the outputs' places to the inputs' after each round. Where all
//! sizes are fixed nothing is allocated.

use super::compile::{Compiler, PlanError, Writer};
use super::memory::Memory;
use super::plan::{Plan, RunError};
use super::program::{Fixed, Place, Source};
use super::untuned::{owned, store};
use crate::graph::Node;
use bytes::Bytes;
use kernels::{Datum, Tensor};
use schema::DType;

/// A node with bodies.
pub(super) struct Control {
    node: String,
    op: String,
    kind: Kind,
}

enum Kind {
    If { condition: Source, then: Body, otherwise: Body, targets: Vec<Place> },
    Loop(Loop),
    Scan(Scan),
    SequenceMap { sources: Vec<Source>, body: Body, targets: Vec<Place> },
}

/// A body: which plan, and what it uses of the graph around it.
struct Body {
    child: usize,
    /// Where a capture is found outside, and which input of the body it is.
    captures: Vec<(Source, usize)>,
}

struct Loop {
    trips: Option<Source>,
    condition: Option<Source>,
    initial: Vec<Source>,
    body: Body,
    carried: Vec<Place>,
    stacked: Vec<Place>,
}

struct Scan {
    initial: Vec<Source>,
    sliced: Vec<(Source, Way)>,
    body: Body,
    carried: Vec<Place>,
    stacked: Vec<(Place, Way)>,
}

/// Along which axis, from which end.
#[derive(Copy, Clone, Default)]
struct Way {
    axis: i64,
    backwards: bool,
}

/// A value on its way from one plan to another.
enum Given<'a> {
    Bytes { bytes: &'a [u8], dtype: DType, shape: &'a [usize] },
    Datum(Datum),
}

/// Whether the node has bodies to run.
pub(super) fn is_control(op: &str) -> bool {
    matches!(op, "If" | "Loop" | "Scan" | "SequenceMap")
}

/// Compiles the bodies of a node and finds its operands.
///
/// # Errors
/// [`PlanError`] of the node or of a node in a body.
pub(super) fn compile(compiler: &mut Compiler<'_>, writer: &mut Writer<'_>, node: &Node) -> Result<Control, PlanError> {
    let targets = writer.places(node)?;
    let optional = |writer: &Writer<'_>, i: usize| node.input(i).map(|id| writer.source(node, id)).transpose();
    let required =
        |writer: &Writer<'_>, i: usize| optional(writer, i)?.ok_or_else(|| disagrees(node, format!("input {i} is missing")));
    let kind = match node.op.as_str() {
        "If" => Kind::If {
            condition: required(writer, 0)?,
            then: body(compiler, writer, node, "then_branch", 0, targets.len())?,
            otherwise: body(compiler, writer, node, "else_branch", 0, targets.len())?,
            targets,
        },
        "Loop" => {
            let count = node.inputs.len().saturating_sub(2);
            let initial = (0..count).map(|i| required(writer, i + 2)).collect::<Result<Vec<_>, _>>()?;
            let body = body(compiler, writer, node, "body", count + 2, targets.len() + 1)?;
            let (carried, stacked) = split(node, targets, count)?;
            Kind::Loop(Loop { trips: optional(writer, 0)?, condition: optional(writer, 1)?, initial, body, carried, stacked })
        }
        "Scan" => {
            let inputs = (0..node.inputs.len()).map(|i| required(writer, i)).collect::<Result<Vec<_>, _>>()?;
            let slices = node.attributes.int("num_scan_inputs").and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
            let count = inputs.len().checked_sub(slices).filter(|_| slices > 0);
            let count = count.ok_or_else(|| disagrees(node, "has no scan input".to_owned()))?;
            let body = body(compiler, writer, node, "body", inputs.len(), targets.len())?;
            let (initial, sliced) = (inputs[..count].to_vec(), &inputs[count..]);
            let (carried, stacked) = split(node, targets, count)?;
            let way = |prefix: &str, i: usize| way(node, prefix, i);
            Kind::Scan(Scan {
                initial,
                sliced: sliced.iter().cloned().enumerate().map(|(i, source)| (source, way("scan_input", i))).collect(),
                body,
                carried,
                stacked: stacked.into_iter().enumerate().map(|(i, place)| (place, way("scan_output", i))).collect(),
            })
        }
        _ => {
            let sources = (0..node.inputs.len()).map(|i| required(writer, i)).collect::<Result<Vec<_>, _>>()?;
            let body = body(compiler, writer, node, "body", sources.len(), targets.len())?;
            Kind::SequenceMap { sources, body, targets }
        }
    };
    Ok(Control { node: node.name.clone(), op: node.op.clone(), kind })
}

fn disagrees(node: &Node, reason: String) -> PlanError {
    PlanError::Disagrees { node: node.name.clone(), op: node.op.clone(), reason }
}

fn split(node: &Node, mut targets: Vec<Place>, at: usize) -> Result<(Vec<Place>, Vec<Place>), PlanError> {
    if targets.len() < at {
        // Trailing outputs nobody asked for are left out of a node.
        targets.resize_with(at, || Place::Nowhere);
    }
    let stacked = targets.split_off(at);
    if stacked.iter().any(|place| matches!(place, Place::Fixed(fixed) if fixed.shape.is_empty())) {
        return Err(disagrees(node, "a stacked output has no axis".to_owned()));
    }
    Ok((targets, stacked))
}

fn way(node: &Node, prefix: &str, i: usize) -> Way {
    let of = |name: &str| node.attributes.ints(&format!("{prefix}_{name}")).and_then(|list| list.get(i)).copied();
    Way { axis: of("axes").unwrap_or(0), backwards: of("directions").unwrap_or(0) == 1 }
}

/// Compiles one body. It must have `inputs` inputs and at least `outputs` outputs.
fn body(
    compiler: &mut Compiler<'_>,
    writer: &mut Writer<'_>,
    node: &Node,
    name: &str,
    inputs: usize,
    outputs: usize,
) -> Result<Body, PlanError> {
    let graph = node.body(name).ok_or_else(|| disagrees(node, format!("has no {name}")))?;
    if graph.inputs.len() != inputs || graph.outputs.len() < outputs {
        let (found_in, found_out) = (graph.inputs.len(), graph.outputs.len());
        let reason = format!("{name} has {found_in} inputs and {found_out} outputs, wanted are {inputs} and {outputs}");
        return Err(disagrees(node, reason));
    }
    let (mut captures, mut captured, mut known) = (Vec::new(), Vec::new(), Vec::new());
    for capture in &graph.captures {
        match writer.source(node, capture.outer)? {
            Source::Constant(Datum::Tensor(tensor)) => known.push((capture.inner, tensor)),
            source => {
                captures.push((source, inputs + captured.len()));
                captured.push(capture.inner);
            }
        }
    }
    let program = compiler.program(graph.clone(), &captured, known, true)?;
    Ok(Body { child: writer.child(program), captures })
}

impl Control {
    /// Runs the bodies as the node says.
    ///
    /// # Errors
    /// [`RunError`] of the node or of a node in a body.
    pub fn run(&self, memory: &mut Memory, slots: &mut [Option<Datum>], children: &mut [Plan]) -> Result<(), RunError> {
        let wrong = |reason| RunError::Result { node: self.node.clone(), op: self.op.clone(), reason };
        match &self.kind {
            Kind::If { condition, then, otherwise, targets } => {
                let body = if truth(&given(condition, memory, slots)?) { then } else { otherwise };
                let child = body.enter(memory, slots, children, &wrong)?;
                child.run_body()?;
                for (i, place) in targets.iter().enumerate() {
                    put(child.result(i)?, place, memory, slots).map_err(wrong)?;
                }
                child.slots.fill(None);
                Ok(())
            }
            Kind::Loop(node) => node.run(memory, slots, children, &wrong),
            Kind::Scan(node) => node.run(memory, slots, children, &wrong),
            Kind::SequenceMap { sources, body, targets } => {
                let child = body.enter(memory, slots, children, &wrong)?;
                let inputs = sources.iter().map(|source| Ok(own(given(source, memory, slots)?)));
                let inputs = inputs.collect::<Result<Vec<_>, RunError>>()?;
                let results = map_sequence(child, &inputs, targets.len(), &wrong)?;
                for (items, place) in results.into_iter().zip(targets) {
                    put(Given::Datum(Datum::Sequence(items)), place, memory, slots).map_err(wrong)?;
                }
                child.slots.fill(None);
                Ok(())
            }
        }
    }
}

/// Turns a reason into the error of the node that runs.
type Wrong<'a> = &'a dyn Fn(String) -> RunError;

fn map_sequence(child: &mut Plan, inputs: &[Datum], outputs: usize, wrong: Wrong<'_>) -> Result<Vec<Vec<Datum>>, RunError> {
    let Some(Datum::Sequence(first)) = inputs.first() else { return Err(wrong("its first input is no sequence".to_owned())) };
    let mut results = vec![Vec::with_capacity(first.len()); outputs];
    for round in 0..first.len() {
        for (i, input) in inputs.iter().enumerate() {
            let item = match input {
                Datum::Sequence(items) => items.get(round).ok_or_else(|| wrong("its sequences differ in length".to_owned()))?,
                other => other,
            };
            child.give(i, Given::Datum(item.clone())).map_err(wrong)?;
        }
        child.run_body()?;
        for (i, items) in results.iter_mut().enumerate() {
            items.push(own(child.result(i)?));
        }
    }
    Ok(results)
}

impl Body {
    /// The plan of the body, with its captures given.
    fn enter<'c>(
        &self,
        memory: &Memory,
        slots: &[Option<Datum>],
        children: &'c mut [Plan],
        wrong: Wrong<'_>,
    ) -> Result<&'c mut Plan, RunError> {
        let child = &mut children[self.child];
        for (source, input) in &self.captures {
            child.give(*input, given(source, memory, slots)?).map_err(wrong)?;
        }
        Ok(child)
    }
}

impl Loop {
    fn run(
        &self,
        memory: &mut Memory,
        slots: &mut [Option<Datum>],
        children: &mut [Plan],
        wrong: Wrong<'_>,
    ) -> Result<(), RunError> {
        let trips = self.trips.as_ref().map(|source| given(source, memory, slots)).transpose()?;
        let trips = trips.map(|trips| whole(&trips)).unwrap_or(i64::MAX);
        let condition = self.condition.as_ref().map(|source| given(source, memory, slots)).transpose()?;
        let mut go_on = condition.is_none_or(|condition| truth(&condition));
        let child = self.body.enter(memory, slots, children, wrong)?;
        for (i, source) in self.initial.iter().enumerate() {
            child.give(i + 2, given(source, memory, slots)?).map_err(wrong)?;
        }
        let mut open = Stacks::new(self.stacked.iter());
        let mut round = 0;
        while go_on && round < trips {
            child.give_number(0, round);
            child.give_truth(1, go_on);
            child.run_body()?;
            go_on = truth(&child.result(0)?);
            for (i, place) in self.stacked.iter().enumerate() {
                let slice = child.result(1 + self.carried.len() + i)?;
                open.push(i, slice, place, Way::default(), round as usize, memory).map_err(wrong)?;
            }
            child.carry(1, 2, self.carried.len()).map_err(wrong)?;
            round += 1;
        }
        for (i, place) in self.stacked.iter().enumerate() {
            let ty = &child.program.outputs[1 + self.carried.len() + i].port.ty;
            open.finish(i, place, Way::default(), round as usize, ty, slots).map_err(wrong)?;
        }
        for (i, place) in self.carried.iter().enumerate() {
            put(child.input(i + 2)?, place, memory, slots).map_err(wrong)?;
        }
        child.slots.fill(None);
        Ok(())
    }
}

impl Scan {
    fn run(
        &self,
        memory: &mut Memory,
        slots: &mut [Option<Datum>],
        children: &mut [Plan],
        wrong: Wrong<'_>,
    ) -> Result<(), RunError> {
        let child = self.body.enter(memory, slots, children, wrong)?;
        let states = self.initial.len();
        for (i, source) in self.initial.iter().enumerate() {
            child.give(i, given(source, memory, slots)?).map_err(wrong)?;
        }
        let mut rounds = None;
        for (source, way) in &self.sliced {
            let value = given(source, memory, slots)?;
            let len = value.shape().and_then(|shape| shape.get(axis(way.axis, shape.len())?)).copied();
            let len = len.ok_or_else(|| wrong("a scan input has no such axis".to_owned()))?;
            if rounds.replace(len).is_some_and(|other| other != len) {
                return Err(wrong("its scan inputs differ in length".to_owned()));
            }
        }
        let rounds = rounds.unwrap_or(0);
        let mut open = Stacks::new(self.stacked.iter().map(|(place, _)| place));
        for round in 0..rounds {
            for (i, (source, way)) in self.sliced.iter().enumerate() {
                let at = if way.backwards { rounds - 1 - round } else { round };
                child.give_slice(states + i, &given(source, memory, slots)?, way.axis, at).map_err(wrong)?;
            }
            child.run_body()?;
            for (i, (place, way)) in self.stacked.iter().enumerate() {
                let at = if way.backwards { rounds - 1 - round } else { round };
                open.push(i, child.result(states + i)?, place, *way, at, memory).map_err(wrong)?;
            }
            child.carry(0, 0, states).map_err(wrong)?;
        }
        for (i, (place, way)) in self.stacked.iter().enumerate() {
            let ty = &child.program.outputs[states + i].port.ty;
            open.finish(i, place, *way, rounds, ty, slots).map_err(wrong)?;
        }
        for (i, place) in self.carried.iter().enumerate() {
            put(child.input(i)?, place, memory, slots).map_err(wrong)?;
        }
        child.slots.fill(None);
        Ok(())
    }
}

impl Plan {
    /// Puts a value into the place of an input.
    fn give(&mut self, input: usize, value: Given<'_>) -> Result<(), String> {
        put(value, &self.program.inputs[input].place, &mut self.memory, &mut self.slots)
    }

    fn give_number(&mut self, input: usize, number: i64) {
        match &self.program.inputs[input].place {
            Place::Fixed(fixed) => self.memory.bytes_mut(fixed.span).copy_from_slice(&number.to_ne_bytes()),
            Place::Slot(slot) => self.slots[*slot] = Some(Datum::Tensor(Tensor::scalar(number))),
            Place::Nowhere => {}
        }
    }

    fn give_truth(&mut self, input: usize, truth: bool) {
        match &self.program.inputs[input].place {
            Place::Fixed(fixed) => self.memory.bytes_mut(fixed.span).copy_from_slice(&[u8::from(truth)]),
            Place::Slot(slot) => self.slots[*slot] = Some(Datum::Tensor(Tensor::bools(vec![], vec![truth]))),
            Place::Nowhere => {}
        }
    }

    /// Puts slice `at` along an axis into the place of an input.
    fn give_slice(&mut self, input: usize, whole: &Given<'_>, along: i64, at: usize) -> Result<(), String> {
        let (bytes, dtype, shape) = whole.parts().ok_or("a scan input is no tensor of numbers")?;
        let axis = axis(along, shape.len()).ok_or("a scan input has no such axis")?;
        let strip = Strip::new(shape, axis, dtype);
        let mut slice = shape.to_vec();
        slice.remove(axis);
        match &self.program.inputs[input].place {
            Place::Fixed(fixed) => {
                if fixed.shape != slice || fixed.dtype != dtype {
                    return Err(format!("a slice is {dtype}{slice:?}, the body wants {}{:?}", fixed.dtype, fixed.shape));
                }
                let to = self.memory.bytes_mut(fixed.span);
                strip.parts(at).for_each(|(whole, part)| to[part].copy_from_slice(&bytes[whole]));
            }
            Place::Slot(slot) => {
                let mut to = vec![0; strip.outer * strip.inner];
                strip.parts(at).for_each(|(whole, part)| to[part].copy_from_slice(&bytes[whole]));
                self.slots[*slot] = Tensor::from_bytes(dtype, slice, Bytes::from(to)).map(Datum::Tensor);
            }
            Place::Nowhere => {}
        }
        Ok(())
    }

    /// The value of an output after a run.
    fn result(&self, output: usize) -> Result<Given<'_>, RunError> {
        given(&self.program.outputs[output].source, &self.memory, &self.slots)
    }

    /// The value in the place of an input.
    fn input(&self, input: usize) -> Result<Given<'_>, RunError> {
        match &self.program.inputs[input].place {
            Place::Fixed(fixed) => Ok(in_place(fixed, &self.memory)),
            Place::Slot(slot) => self.slots[*slot].clone().map(Given::Datum).ok_or(RunError::Absent),
            Place::Nowhere => Err(RunError::Absent),
        }
    }

    /// Copies `count` outputs to inputs, for the next round.
    fn carry(&mut self, output: usize, input: usize, count: usize) -> Result<(), String> {
        // Slots first, all at once: an output may share its slot with another input.
        let program = self.program.clone();
        let data: Vec<(usize, Datum)> = (0..count)
            .filter_map(|i| match (&program.outputs[output + i].source, &program.inputs[input + i].place) {
                (Source::Slot(slot), Place::Slot(_)) => self.slots[*slot].clone().map(|datum| (i, datum)),
                _ => None,
            })
            .collect();
        for i in 0..count {
            match (&program.outputs[output + i].source, &program.inputs[input + i].place) {
                (Source::Fixed(from), Place::Fixed(to)) => {
                    if (from.dtype, &from.shape) != (to.dtype, &to.shape) {
                        return Err(format!("a carried value changes from {:?} to {:?}", to.shape, from.shape));
                    }
                    self.memory.copy(from.span, to.span);
                }
                (Source::Slot(_), Place::Slot(_)) => {}
                (source, _) => {
                    let value = own(given(source, &self.memory, &self.slots).map_err(|e| e.to_string())?);
                    self.give(input + i, Given::Datum(value))?;
                }
            }
        }
        data.into_iter().try_for_each(|(i, datum)| self.give(input + i, Given::Datum(datum)))
    }
}

impl Given<'_> {
    fn parts(&self) -> Option<(&[u8], DType, &[usize])> {
        match self {
            Given::Bytes { bytes, dtype, shape } => Some((bytes, *dtype, shape)),
            Given::Datum(datum) => {
                let tensor = datum.tensor().filter(|tensor| tensor.texts().is_none())?;
                Some((tensor.bytes(), tensor.dtype(), tensor.shape()))
            }
        }
    }

    fn shape(&self) -> Option<&[usize]> {
        self.parts().map(|(_, _, shape)| shape)
    }
}

fn in_place<'a>(fixed: &'a Fixed, memory: &'a Memory) -> Given<'a> {
    Given::Bytes { bytes: memory.bytes(fixed.span), dtype: fixed.dtype, shape: &fixed.shape }
}

fn given<'a>(source: &'a Source, memory: &'a Memory, slots: &[Option<Datum>]) -> Result<Given<'a>, RunError> {
    match source {
        Source::Fixed(fixed) => Ok(in_place(fixed, memory)),
        Source::Constant(datum) => Ok(Given::Datum(datum.clone())),
        Source::Slot(slot) => slots[*slot].clone().map(Given::Datum).ok_or(RunError::Absent),
    }
}

/// The value with bytes of its own.
fn own(value: Given<'_>) -> Datum {
    match value {
        Given::Datum(datum) => owned(datum),
        Given::Bytes { bytes, dtype, shape } => {
            let tensor = Tensor::from_bytes(dtype, shape.to_vec(), Bytes::copy_from_slice(bytes));
            Datum::Tensor(tensor.expect("a span has the bytes of its type and shape"))
        }
    }
}

fn put(value: Given<'_>, place: &Place, memory: &mut Memory, slots: &mut [Option<Datum>]) -> Result<(), String> {
    match (value, place) {
        (_, Place::Nowhere) => Ok(()),
        (Given::Datum(datum), Place::Slot(slot)) => {
            slots[*slot] = Some(datum);
            Ok(())
        }
        (value @ Given::Bytes { .. }, Place::Slot(slot)) => {
            slots[*slot] = Some(own(value));
            Ok(())
        }
        (Given::Datum(datum), Place::Fixed(fixed)) => store(&datum, fixed, memory),
        (Given::Bytes { bytes, dtype, shape }, Place::Fixed(fixed)) => {
            if dtype != fixed.dtype || shape != fixed.shape {
                return Err(format!("is {dtype}{shape:?}, the graph says {}{:?}", fixed.dtype, fixed.shape));
            }
            memory.bytes_mut(fixed.span).copy_from_slice(bytes);
            Ok(())
        }
    }
}

/// The truth of a scalar; no scalar is false.
fn truth(value: &Given<'_>) -> bool {
    value.parts().is_some_and(|(bytes, _, _)| bytes.first() == Some(&1))
}

/// The whole number of a scalar; no such scalar is 0.
fn whole(value: &Given<'_>) -> i64 {
    let bytes = value.parts().filter(|(_, dtype, _)| *dtype == DType::I64).and_then(|(bytes, _, _)| bytes.first_chunk::<8>());
    bytes.map_or(0, |bytes| i64::from_ne_bytes(*bytes))
}

/// An axis counted from the front.
fn axis(axis: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    let from_front = if axis < 0 { axis.checked_add(rank)? } else { axis };
    (0..rank).contains(&from_front).then_some(from_front as usize)
}

/// How slices along an axis lie in a whole tensor.
#[derive(Copy, Clone)]
struct Strip {
    outer: usize,
    len: usize,
    /// In bytes.
    inner: usize,
}

impl Strip {
    fn new(shape: &[usize], axis: usize, dtype: DType) -> Self {
        let inner = shape[axis + 1..].iter().product::<usize>() * dtype.bytes();
        Strip { outer: shape[..axis].iter().product(), len: shape[axis], inner }
    }

    /// The byte ranges of slice `at`: in the whole, and in the slice.
    fn parts(self, at: usize) -> impl Iterator<Item = (std::ops::Range<usize>, std::ops::Range<usize>)> {
        (0..self.outer).map(move |o| {
            let from = (o * self.len + at) * self.inner;
            (from..from + self.inner, o * self.inner..(o + 1) * self.inner)
        })
    }
}

/// Slices of outputs whose number is not known before, by output; outputs of fixed size are written in place and have none here.
struct Stacks(Vec<Vec<(usize, Tensor)>>);

impl Stacks {
    fn new<'p>(places: impl Iterator<Item = &'p Place> + Clone) -> Self {
        let open = places.clone().any(|place| matches!(place, Place::Slot(_)));
        Stacks(if open { places.map(|_| Vec::new()).collect() } else { Vec::new() })
    }

    /// Adds slice `at` of an output.
    fn push(
        &mut self,
        output: usize,
        slice: Given<'_>,
        place: &Place,
        way: Way,
        at: usize,
        memory: &mut Memory,
    ) -> Result<(), String> {
        match place {
            Place::Nowhere => Ok(()),
            Place::Slot(_) => match own(slice) {
                Datum::Tensor(tensor) if tensor.texts().is_none() => {
                    self.0[output].push((at, tensor));
                    Ok(())
                }
                _ => Err("only tensors of numbers can be stacked".to_owned()),
            },
            Place::Fixed(fixed) => {
                let axis = axis(way.axis, fixed.shape.len()).ok_or("has no such axis to stack along")?;
                let strip = Strip::new(&fixed.shape, axis, fixed.dtype);
                let (bytes, dtype, _) = slice.parts().ok_or("only tensors of numbers can be stacked")?;
                if at >= strip.len || dtype != fixed.dtype || bytes.len() != strip.outer * strip.inner {
                    return Err(format!("slice {at} does not fit into {}{:?}", fixed.dtype, fixed.shape));
                }
                let to = memory.bytes_mut(fixed.span);
                strip.parts(at).for_each(|(whole, part)| to[whole].copy_from_slice(&bytes[part]));
                Ok(())
            }
        }
    }

    /// Ends an output after `rounds` slices. `slice_type` is the type of a slice, for when there are none.
    fn finish(
        &mut self,
        output: usize,
        place: &Place,
        way: Way,
        rounds: usize,
        slice_type: &crate::graph::Type,
        slots: &mut [Option<Datum>],
    ) -> Result<(), String> {
        match place {
            Place::Nowhere => Ok(()),
            Place::Fixed(fixed) => {
                let axis = axis(way.axis, fixed.shape.len()).ok_or("has no such axis to stack along")?;
                if fixed.shape[axis] == rounds {
                    return Ok(());
                }
                Err(format!("has {rounds} slices, the graph says {}", fixed.shape[axis]))
            }
            Place::Slot(slot) => {
                let slices = std::mem::take(&mut self.0[output]);
                slots[*slot] = Some(Datum::Tensor(stack(slices, way, slice_type)?));
                Ok(())
            }
        }
    }
}

/// Slices to one tensor with a new axis.
fn stack(slices: Vec<(usize, Tensor)>, way: Way, slice_type: &crate::graph::Type) -> Result<Tensor, String> {
    let open = || {
        let extents = slice_type.shape().unwrap_or(&[]);
        extents.iter().map(|dim| dim.fixed().unwrap_or(0)).collect::<Vec<_>>()
    };
    let first = slices.first().map(|(_, tensor)| tensor);
    let slice_shape = first.map_or_else(open, |tensor| tensor.shape().to_vec());
    let dtype = first.map(Tensor::dtype).or(slice_type.dtype()).ok_or("the type of a stacked output is unknown")?;
    let axis = axis(way.axis, slice_shape.len() + 1).ok_or("has no such axis to stack along")?;
    let mut shape = slice_shape.clone();
    shape.insert(axis, slices.len());
    let strip = Strip::new(&shape, axis, dtype);
    let mut bytes = vec![0; strip.outer * strip.len * strip.inner];
    for (at, slice) in &slices {
        if slice.shape() != slice_shape || slice.dtype() != dtype {
            return Err(format!("slices of shapes {slice_shape:?} and {:?} cannot be stacked", slice.shape()));
        }
        strip.parts(*at).for_each(|(whole, part)| bytes[whole].copy_from_slice(&slice.bytes()[part]));
    }
    Tensor::from_bytes(dtype, shape, Bytes::from(bytes)).ok_or_else(|| "the stacked output is too large".to_owned())
}
