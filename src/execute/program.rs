//! What a plan does: the part that all instances share and that never changes once it is compiled.

use super::control::Control;
use super::memory::Span;
use super::untuned::Untuned;
use crate::graph::Type;
use kernels::{Datum, Kernel, Tensor};
use schema::{Config, DType};
use std::sync::Arc;

/// A compiled graph.
pub(super) struct Program {
    /// Fed by the caller; of a body: its inputs, then its captures.
    pub inputs: Vec<Entrance>,
    pub outputs: Vec<Exit>,
    /// In order of execution.
    pub steps: Vec<Step>,
    /// Operands of all kernels, step after step. An absent optional operand is `None`.
    pub reads: Vec<Option<Span>>,
    /// Outputs and, after those of each step, its scratch space.
    pub writes: Vec<Span>,
    /// Which of `reads` lie in buffers of the caller.
    pub external_reads: Vec<u32>,
    /// Which of `writes` lie in buffers of the caller.
    pub external_writes: Vec<u32>,
    /// Constants that are read at run time. Those that kernels prepared are not among them.
    pub constants: Vec<Tensor>,
    pub slots: usize,
    pub children: Vec<Arc<Program>>,
    pub arena_bytes: usize,
    pub memory: MemoryUse,
}

/// Bytes a plan holds.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Activations and scratch space of one instance, bodies included.
    pub arena_bytes: u64,
    /// The greatest scratch space of one step; part of the arena.
    pub scratch_bytes: u64,
    /// Constants as kernels prepared them, shared by all instances.
    pub prepared_bytes: u64,
    /// Constants that are read as they are, shared by all instances.
    pub constant_bytes: u64,
}

/// An input or output as the caller sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    pub name: String,
    pub ty: Type,
}

/// Where an input goes.
pub(super) struct Entrance {
    pub port: Port,
    pub place: Place,
}

/// Where an output is found after a run.
pub(super) struct Exit {
    pub port: Port,
    pub source: Source,
}

/// A value of fixed size.
#[derive(Clone, Debug)]
pub(super) struct Fixed {
    pub span: Span,
    pub dtype: DType,
    pub shape: Vec<usize>,
}

/// Where a value is put.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Fixed(Fixed),
    Slot(usize),
    /// Nobody uses it.
    Nowhere,
}

/// Where a value is found.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Fixed(Fixed),
    Slot(usize),
    Constant(Datum),
}

/// One entry of the list.
pub(super) struct Step {
    pub action: Action,
    /// Indices that are checked first.
    pub indices: Option<Indices>,
    /// Slots whose last use this is.
    pub drops: Vec<u32>,
    pub facts: StepFacts,
}

/// Indices along an axis, among the operands of a kernel.
#[derive(Copy, Clone, Debug)]
pub(super) struct Indices {
    pub span: Span,
    pub dtype: DType,
    pub extent: usize,
}

/// What a step is, for profiles and messages.
#[derive(Clone, Debug, PartialEq)]
pub struct StepFacts {
    /// The node's name in the model; may be empty.
    pub node: String,
    /// The node's operator.
    pub op: String,
    /// Of a tuned kernel: the task's text and the config.
    pub task: Option<(String, Config)>,
    /// Whether a device with memory of its own computes it, and not the host; without a task by Burn.
    pub on_device: bool,
}

/// What a step does.
pub(super) enum Action {
    Kernel(Arc<dyn Kernel>, Launch),
    Untuned(Box<Untuned>),
    Control(Box<Control>),
    /// One span to another: an output that is also something else.
    Copy(Span, Span),
}

/// The operands of a kernel, as ranges of the program's tables.
#[derive(Copy, Clone, Debug)]
pub(super) struct Launch {
    pub reads: (u32, u32),
    /// The scratch space stands at the end of the range.
    pub writes: (u32, u32),
}

impl Program {
    /// The operand ranges of all kernels.
    pub fn launches(&self) -> impl Iterator<Item = &Launch> {
        self.steps.iter().filter_map(|step| match &step.action {
            Action::Kernel(_, launch) => Some(launch),
            _ => None,
        })
    }

    /// Whether every input and output has a fixed size.
    pub fn is_static(&self) -> bool {
        let inputs = self.inputs.iter().all(|input| matches!(input.place, Place::Fixed(_) | Place::Nowhere));
        inputs && self.outputs.iter().all(|output| output.port.ty.fixed_bytes().is_some())
    }
}

impl Type {
    /// The bytes of a tensor in rows, when type and shape are known; `None` for texts. Allocates nothing.
    pub fn fixed_bytes(&self) -> Option<usize> {
        let dtype = self.dtype().filter(|dtype| *dtype != DType::String)?;
        self.shape()?.iter().try_fold(dtype.bytes(), |bytes, dim| bytes.checked_mul(dim.fixed()?))
    }
}
