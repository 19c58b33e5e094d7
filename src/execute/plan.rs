//! A plan: one instance of a program, with its memory, ready to run.

use super::compile::{Compiler, Configs, PlanError};
use super::memory::{Home, Memory, Releaser, Span};
use super::parts::Parts;
use super::pool::Pool;
use super::program::{Action, Entrance, Fixed, MemoryUse, Place, Port, Program, Source, StepFacts};
use super::stages::Stages;
use super::untuned;
use crate::graph::{Graph, Type};
use bytes::Bytes;
use kernels::reference::EvaluateError;
use kernels::simd::FlushDenormals;
use kernels::{BuildError, Datum, Limits, Task, Tensor};
use schema::DType;
use std::sync::Arc;
use std::time::Instant;
use thiserror::Error;

/// An executable graph with its own activations. Instances share kernels and constants ([`another`](Self::another)).
pub struct Plan {
    pub(super) program: Arc<Program>,
    pub(super) memory: Memory,
    pub(super) slots: Vec<Option<Datum>>,
    pub(super) children: Vec<Plan>,
    /// Of a plan that computes its batch in parts; its own program has no steps then.
    parts: Option<Parts>,
    /// Of a plan for a device with memory of its own; its own program has no steps then.
    stages: Option<Stages>,
    pool: Option<Arc<Pool>>,
    replaced: Arc<[(Task, BuildError)]>,
    /// Nanoseconds of each step of the last run, when asked for.
    times: Option<Vec<u64>>,
}

/// Why a run failed.
#[derive(Debug, Error)]
pub enum RunError {
    #[error("input \"{name}\" is missing")]
    MissingInput { name: String },
    #[error("there is no input \"{name}\"; the model has {known}")]
    UnknownInput { name: String, known: String },
    #[error("{found} inputs were given, the model has {wanted}")]
    InputCount { found: usize, wanted: usize },
    #[error("\"{name}\" is {found}, the model wants {wanted}")]
    Input { name: String, found: String, wanted: Type },
    /// The form of a run without allocation wants buffers of exactly the right size, aligned to the element.
    #[error("the buffer of \"{name}\" has {found} bytes, wanted are {wanted}, aligned to the element")]
    Buffer { name: String, found: usize, wanted: usize },
    #[error("the size of \"{name}\" is only known after a run")]
    NotStatic { name: String },
    #[error("node '{node}' ({op}): {source}")]
    Node { node: String, op: String, source: EvaluateError },
    #[error("node '{node}' ({op}): index {index} is none of an axis of {extent}: allowed is -{extent} to {}", .extent - 1)]
    Index { node: String, op: String, index: i64, extent: usize },
    #[error("{source}")]
    Device { source: cube_kernels::GpuError },
    #[error("node '{node}' ({op}): its result {reason}")]
    Result { node: String, op: String, reason: String },
    #[error(
        "{step} out of turn: the last step of the run was {last}; the steps are upload, compute, download, and then its outputs"
    )]
    OutOfTurn { step: String, last: String },
    /// A value was asked for before it was made: a bug of the compiler of plans.
    #[error("a value is absent")]
    Absent,
}

/// What one step of the last run took.
#[derive(Clone, Debug, PartialEq)]
pub struct StepTime {
    pub facts: StepFacts,
    pub nanos: u64,
}

impl Plan {
    /// Compiles a graph whose passes are done and whose shapes are chosen. The graph's constants stay shared with it; a caller who needs
    /// the graph no longer uses [`compile_owned`](Self::compile_owned), which frees them.
    ///
    /// # Errors
    /// [`PlanError`]: what cannot be computed, or takes more than 75 % of the machine's memory.
    pub fn compile(graph: &Graph, configs: &Configs, limits: &Limits) -> Result<Self, PlanError> {
        Self::compile_owned(graph.clone(), configs, limits, default_plan_bytes())
    }

    /// Like [`compile`](Self::compile); each constant is freed when the last kernel that prepares it is built. Activations may take
    /// `plan_bytes`.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn compile_owned(graph: Graph, configs: &Configs, limits: &Limits, plan_bytes: u64) -> Result<Self, PlanError> {
        let releaser = Releaser::new();
        let mut compiler = Compiler { configs, limits, plan_bytes, releaser, replaced: Vec::new() };
        let program = compiler.program(graph, &[], Vec::new(), false)?;
        Self::instance(Arc::new(program), compiler.replaced.into())
    }

    fn instance(program: Arc<Program>, replaced: Arc<[(Task, BuildError)]>) -> Result<Self, PlanError> {
        let bytes = program.arena_bytes as u64;
        let memory = Memory::new(program.clone()).map_err(|source| PlanError::Memory { bytes, source })?;
        let children = program.children.iter().map(|child| Self::instance(child.clone(), Arc::new([])));
        let children = children.collect::<Result<_, _>>()?;
        let slots = vec![None; program.slots];
        Ok(Plan { program, memory, slots, children, parts: None, stages: None, pool: None, replaced, times: None })
    }

    /// A plan over the plans of parts of its batch.
    pub(super) fn over_parts(program: Program, parts: Parts) -> Result<Self, PlanError> {
        let mut plan = Self::instance(Arc::new(program), parts.first().replaced.clone())?;
        plan.parts = Some(parts);
        Ok(plan)
    }

    /// A plan over the stages of a device.
    pub(super) fn over_stages(
        inputs: Vec<Port>,
        outputs: Vec<Port>,
        stages: Stages,
        replaced: Vec<(Task, BuildError)>,
    ) -> Result<Self, PlanError> {
        let program = Program::of_ports(inputs, outputs, stages.memory());
        let mut plan = Self::instance(Arc::new(program), replaced.into())?;
        plan.stages = Some(stages);
        Ok(plan)
    }

    /// A second instance that shares kernels and constants, for another thread.
    ///
    /// # Errors
    /// [`PlanError::Memory`] when there is none for its activations.
    pub fn another(&self) -> Result<Self, PlanError> {
        let mut plan = Self::instance(self.program.clone(), self.replaced.clone())?;
        plan.parts = self.parts.as_ref().map(Parts::another).transpose()?;
        plan.stages = self.stages.as_ref().map(Stages::another).transpose()?;
        plan.pool = self.pool.clone();
        Ok(plan)
    }

    /// Runs in this pool from now on. A run enters it once, unless it is called from inside. Without one, kernels run on the pool the
    /// caller is in.
    #[must_use]
    pub fn in_pool(mut self, pool: Arc<Pool>) -> Self {
        self.set_pool(pool);
        self
    }

    /// As [`in_pool`](Self::in_pool), in place.
    pub fn set_pool(&mut self, pool: Arc<Pool>) {
        self.stages.iter_mut().flat_map(Stages::hosts).for_each(|host| host.set_pool(pool.clone()));
        self.pool = Some(pool);
    }

    /// What goes in, in order.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = &Port> {
        self.program.inputs.iter().map(|input| &input.port)
    }

    /// What comes out, in order.
    pub fn outputs(&self) -> impl ExactSizeIterator<Item = &Port> {
        self.program.outputs.iter().map(|output| &output.port)
    }

    /// Whether all inputs and outputs have a fixed size, so that [`run_into`](Self::run_into) can be used.
    pub fn is_static(&self) -> bool {
        self.program.is_static()
    }

    /// The bytes the plan holds.
    pub fn memory(&self) -> MemoryUse {
        self.program.memory
    }

    /// What each step does, in order of execution; of a plan in parts, the steps of one part.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = &StepFacts> {
        let facts = match &self.stages {
            Some(stages) => stages.facts(),
            None => self.of_one_part().program.steps.iter().map(|step| &step.facts).collect(),
        };
        facts.into_iter()
    }

    fn of_one_part(&self) -> &Plan {
        self.parts.as_ref().map_or(self, Parts::first)
    }

    /// Tasks whose config is not legal here, with the reason; they run with their default.
    pub fn replaced(&self) -> &[(Task, BuildError)] {
        &self.replaced
    }

    /// Takes the time of each step from now on, or no longer.
    pub fn set_profiling(&mut self, on: bool) {
        self.times = on.then(|| vec![0; self.program.steps.len()]);
        self.parts.iter_mut().flat_map(Parts::lanes).for_each(|lane| lane.set_profiling(on));
        self.stages.iter_mut().for_each(|stages| stages.set_profiling(on));
    }

    /// What each step of the last run took; empty without profiling. Of a plan in parts: of all parts that one lane computed.
    pub fn profile(&self) -> Vec<StepTime> {
        if let Some(stages) = &self.stages {
            return stages.profile();
        }
        let plan = self.of_one_part();
        let times = plan.times.as_deref().unwrap_or(&[]);
        let pairs = plan.program.steps.iter().zip(times);
        pairs.map(|(step, &nanos)| StepTime { facts: step.facts.clone(), nanos }).collect()
    }

    /// Runs on inputs given by name, in any order; fastest in the model's.
    ///
    /// # Errors
    /// [`RunError`] when an input is missing, unknown or of another type or shape, or when a node refuses its data.
    pub fn run<N: AsRef<str>>(&mut self, inputs: &[(N, Tensor)]) -> Result<Vec<Datum>, RunError> {
        let fed = self.fed(inputs)?;
        self.run_fed(&fed)
    }

    /// What each input is fed, of inputs given by name.
    fn fed<'a, N: AsRef<str>>(&self, inputs: &'a [(N, Tensor)]) -> Result<Vec<Fed<'a>>, RunError> {
        let program = &self.program;
        let given = |(at, input): (usize, &Entrance)| {
            let named = |(name, _): &&(N, Tensor)| name.as_ref() == input.port.name;
            let found = inputs.get(at).filter(named).or_else(|| inputs.iter().find(named));
            found.map(|(_, tensor)| Fed::Tensor(tensor)).ok_or_else(|| RunError::MissingInput { name: input.port.name.clone() })
        };
        let fed: Result<Vec<Fed<'a>>, RunError> = program.inputs.iter().enumerate().map(given).collect();
        if fed.is_err() || inputs.len() > program.inputs.len() {
            let known = |name: &str| program.inputs.iter().any(|input| input.port.name == name);
            if let Some((name, _)) = inputs.iter().find(|(name, _)| !known(name.as_ref())) {
                let known: Vec<&str> = self.inputs().map(|input| input.name.as_str()).collect();
                return Err(RunError::UnknownInput { name: name.as_ref().to_owned(), known: known.join(", ") });
            }
        }
        fed
    }

    /// Data in the order of the inputs, of inputs given by name, as [`run`](Self::run) takes them.
    pub(super) fn given<N: AsRef<str>>(&self, inputs: &[(N, Tensor)]) -> Result<Vec<Datum>, RunError> {
        let fed = self.fed(inputs)?;
        self.check(&fed)?;
        Ok(fed.into_iter().map(Fed::datum).collect())
    }

    fn check(&self, inputs: &[Fed<'_>]) -> Result<(), RunError> {
        let ports = &self.program.inputs;
        if inputs.len() != ports.len() {
            return Err(RunError::InputCount { found: inputs.len(), wanted: ports.len() });
        }
        ports.iter().zip(inputs).try_for_each(|(input, fed)| check_input(&input.port, *fed))
    }

    pub(super) fn stages(&self) -> Option<&Stages> {
        self.stages.as_ref()
    }

    pub(super) fn stages_mut(&mut self) -> Option<&mut Stages> {
        self.stages.as_mut()
    }

    /// Runs on data in the order of the inputs.
    ///
    /// # Errors
    /// [`RunError`] when an input is of another type or shape, or when a node refuses its data.
    pub fn run_data(&mut self, inputs: Vec<Datum>) -> Result<Vec<Datum>, RunError> {
        let fed: Vec<Fed<'_>> = inputs.iter().map(|datum| datum.tensor().map_or(Fed::Other(datum), Fed::Tensor)).collect();
        self.run_fed(&fed)
    }

    fn run_fed(&mut self, inputs: &[Fed<'_>]) -> Result<Vec<Datum>, RunError> {
        let program = self.program.clone();
        self.check(inputs)?;
        if let Some(stages) = &mut self.stages {
            return stages.run(inputs.iter().map(|fed| fed.datum()).collect());
        }
        let aligned: Vec<Option<Tensor>> = inputs.iter().map(|fed| fed.misaligned().map(super::compile::aligned)).collect();
        let inputs = || inputs.iter().zip(&aligned).map(|(fed, aligned)| aligned.as_ref().map_or(*fed, Fed::Tensor));
        for (input, fed) in program.inputs.iter().zip(inputs()) {
            if let Place::Slot(slot) = input.place {
                self.slots[slot] = Some(fed.datum());
            }
        }
        let mut buffers: Vec<Option<Vec<u64>>> = program.outputs.iter().map(|output| buffer(&output.port.ty)).collect();
        let mut lent: Vec<Option<&mut [u8]>> = buffers
            .iter_mut()
            .zip(&program.outputs)
            .map(|(words, output)| {
                let bytes = output.port.ty.fixed_bytes()?;
                Some(&mut bytemuck::cast_slice_mut::<u64, u8>(words.as_mut()?)[..bytes])
            })
            .collect();
        let given: Vec<&[u8]> = inputs().map(Fed::bytes).collect();
        self.enter(&given, &mut lent)?;
        let outputs = program.outputs.iter().zip(buffers);
        let outputs = outputs.map(|(output, words)| match words {
            Some(words) => Ok(adopt(&output.port.ty, words)),
            None => untuned::fetch(&output.source, &self.memory, &self.slots),
        });
        let outputs = outputs.collect();
        self.slots.fill(None);
        outputs
    }

    /// Runs from the caller's buffers into the caller's buffers, in the order of inputs and outputs, without allocating where every
    /// node has a kernel. The bytes are row-major, native-endian, aligned to the element.
    ///
    /// # Errors
    /// [`RunError::NotStatic`] for an input or output without a fixed size, [`RunError::Buffer`] for a buffer of the wrong size or
    /// alignment, and what nodes without a kernel refuse.
    pub fn run_into(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), RunError> {
        let program = &self.program;
        if inputs.len() != program.inputs.len() || outputs.len() != program.outputs.len() {
            return Err(RunError::InputCount { found: inputs.len(), wanted: program.inputs.len() });
        }
        for (input, bytes) in program.inputs.iter().zip(inputs) {
            check_buffer(&input.port, bytes)?;
        }
        for (output, bytes) in program.outputs.iter().zip(outputs.iter()) {
            check_buffer(&output.port, bytes)?;
        }
        if let Some(stages) = &mut self.stages {
            let tensor = |(input, bytes): (&Entrance, &&[u8])| {
                let (dtype, shape) = (input.port.ty.dtype().ok_or(RunError::Absent)?, input.port.ty.fixed_shape());
                let copy = Bytes::copy_from_slice(bytes);
                Tensor::from_bytes(dtype, shape.ok_or(RunError::Absent)?, copy).map(Datum::Tensor).ok_or(RunError::Absent)
            };
            let given = program.inputs.iter().zip(inputs).map(tensor).collect::<Result<_, _>>()?;
            for (datum, bytes) in stages.run(given)?.iter().zip(outputs) {
                bytes.copy_from_slice(datum.tensor().ok_or(RunError::Absent)?.bytes());
            }
            return Ok(());
        }
        self.enter(inputs, outputs)?;
        Ok(())
    }

    /// Binds the buffers, enters the pool and runs.
    fn enter<B: Buffer>(&mut self, inputs: &[&[u8]], outputs: &mut [B]) -> Result<(), RunError> {
        self.forget_times();
        match (&mut self.parts, &self.pool) {
            (Some(parts), Some(pool)) => pool.install(|| parts.run(inputs, outputs)),
            (Some(parts), None) => parts.run(inputs, outputs),
            (None, _) => self.run_part(inputs, outputs),
        }
    }

    /// Steps are timed from zero in each run.
    fn forget_times(&mut self) {
        self.times.iter_mut().for_each(|times| times.fill(0));
        self.parts.iter_mut().flat_map(Parts::lanes).for_each(Plan::forget_times);
    }

    /// Runs a plan that is not in parts itself, or one part of one that is.
    pub(super) fn run_part<B: Buffer>(&mut self, inputs: &[&[u8]], outputs: &mut [B]) -> Result<(), RunError> {
        let Plan { program, memory, slots, children, pool, times, .. } = self;
        let mut binding = memory.bind();
        for (i, input) in program.inputs.iter().enumerate() {
            if matches!(input.place, Place::Fixed(_)) {
                binding.input(i, inputs[i]);
            }
        }
        for (i, output) in outputs.iter_mut().enumerate() {
            if let Some(bytes) = output.bytes() {
                binding.output(i, bytes);
            }
        }
        let mut run = || {
            let _flushed = FlushDenormals::new();
            let memory = binding.memory();
            steps(program, memory, slots, children, times.as_deref_mut())?;
            program.outputs.iter().enumerate().try_for_each(|(i, output)| deliver(memory, slots, i, &output.source, &output.port))
        };
        match pool {
            Some(pool) => pool.install(run),
            None => run(),
        }
    }

    /// Runs the steps of a body whose inputs were put in place.
    pub(super) fn run_body(&mut self) -> Result<(), RunError> {
        steps(&self.program, &mut self.memory, &mut self.slots, &mut self.children, None)
    }
}

/// A caller's output buffer, or none where the size is open.
pub(super) trait Buffer: Send {
    fn bytes(&mut self) -> Option<&mut [u8]>;
}

impl Buffer for &mut [u8] {
    fn bytes(&mut self) -> Option<&mut [u8]> {
        Some(self)
    }
}

impl Buffer for Option<&mut [u8]> {
    fn bytes(&mut self) -> Option<&mut [u8]> {
        self.as_deref_mut()
    }
}

/// The loop.
fn steps(
    program: &Program,
    memory: &mut Memory,
    slots: &mut [Option<Datum>],
    children: &mut [Plan],
    mut times: Option<&mut [u64]>,
) -> Result<(), RunError> {
    for (i, step) in program.steps.iter().enumerate() {
        let start = times.is_some().then(Instant::now);
        if let Some(indices) = &step.indices
            && let Some(index) = outside(memory.bytes(indices.span), indices.dtype, indices.extent)
        {
            let (node, op) = (step.facts.node.clone(), step.facts.op.clone());
            return Err(RunError::Index { node, op, index, extent: indices.extent });
        }
        match &step.action {
            Action::Kernel(kernel, launch) => memory.launch(&**kernel, launch),
            Action::Untuned(untuned) => untuned.run(memory, slots)?,
            Action::Control(control) => control.run(memory, slots, children)?,
            Action::Copy(from, to) => memory.copy(*from, *to),
        }
        for &slot in &step.drops {
            slots[slot as usize] = None;
        }
        if let (Some(times), Some(start)) = (times.as_deref_mut(), start) {
            times[i] += u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        }
    }
    Ok(())
}

/// The first index that stands for no place of an axis of `extent`. The bytes are aligned to the type.
pub(super) fn outside(bytes: &[u8], dtype: DType, extent: usize) -> Option<i64> {
    fn first(values: impl Iterator<Item = i64> + Clone, extent: i64) -> Option<i64> {
        let wrong = |index: i64| !(-extent..extent).contains(&index);
        // Nearly always none is: one pass without branches, which costs a fraction of fetching what they stand for.
        let any = values.clone().fold(false, |any, index| any | wrong(index));
        if any { values.clone().find(|&index| wrong(index)) } else { None }
    }
    let extent = i64::try_from(extent).unwrap_or(i64::MAX);
    match dtype {
        DType::I32 => first(bytemuck::cast_slice::<u8, i32>(bytes).iter().map(|&index| i64::from(index)), extent),
        _ => first(bytemuck::cast_slice::<u8, i64>(bytes).iter().copied(), extent),
    }
}

/// Copies an output of fixed size that was not made in the caller's buffer.
fn deliver(memory: &mut Memory, slots: &[Option<Datum>], index: usize, source: &Source, port: &Port) -> Result<(), RunError> {
    let Some(bytes) = port.ty.fixed_bytes() else { return Ok(()) };
    let to = Span { home: Home::Output(index as u32), offset: 0, bytes };
    let wrong = |reason| RunError::Result { node: port.name.clone(), op: "output".to_owned(), reason };
    match source {
        Source::Fixed(fixed) if fixed.span.home == to.home => Ok(()),
        Source::Fixed(fixed) => {
            memory.copy(fixed.span, to);
            Ok(())
        }
        Source::Constant(_) | Source::Slot(_) => {
            let datum = untuned::fetch(source, memory, slots)?;
            let (dtype, shape) = (port.ty.dtype(), port.ty.fixed_shape());
            let (dtype, shape) = (dtype.ok_or(RunError::Absent)?, shape.ok_or(RunError::Absent)?);
            untuned::store(&datum, &Fixed { span: to, dtype, shape }, memory).map_err(wrong)
        }
    }
}

fn check_buffer(port: &Port, bytes: &[u8]) -> Result<(), RunError> {
    let wanted = port.ty.fixed_bytes().ok_or_else(|| RunError::NotStatic { name: port.name.clone() })?;
    let align = port.ty.dtype().map_or(1, |dtype| dtype.bytes().clamp(1, 8));
    let aligned = bytes.is_empty() || (bytes.as_ptr() as usize).is_multiple_of(align);
    if bytes.len() == wanted && aligned {
        return Ok(());
    }
    Err(RunError::Buffer { name: port.name.clone(), found: bytes.len(), wanted })
}

/// Whether data is what an input wants: open extents take any size.
fn check_input(port: &Port, fed: Fed<'_>) -> Result<(), RunError> {
    let (Type::Tensor { dtype, shape }, Fed::Tensor(tensor)) = (&port.ty, fed) else { return Ok(()) };
    let fits = |shape: &crate::graph::Shape| {
        shape.len() == tensor.shape().len()
            && shape.iter().zip(tensor.shape()).all(|(dim, &extent)| dim.fixed().is_none_or(|fixed| fixed == extent))
    };
    if *dtype == tensor.dtype() && shape.as_ref().is_none_or(fits) {
        return Ok(());
    }
    let found = format!("{}", Type::tensor(tensor.dtype(), tensor.shape()));
    Err(RunError::Input { name: port.name.clone(), found, wanted: port.ty.clone() })
}

/// What a caller feeds an input.
#[derive(Copy, Clone)]
enum Fed<'a> {
    Tensor(&'a Tensor),
    /// No tensor.
    Other(&'a Datum),
}

impl<'a> Fed<'a> {
    fn datum(self) -> Datum {
        match self {
            Fed::Tensor(tensor) => Datum::Tensor(tensor.clone()),
            Fed::Other(datum) => datum.clone(),
        }
    }

    fn bytes(self) -> &'a [u8] {
        match self {
            Fed::Tensor(tensor) => tensor.bytes(),
            Fed::Other(_) => &[],
        }
    }

    /// A tensor whose bytes kernels cannot read where they lie.
    fn misaligned(self) -> Option<&'a Tensor> {
        let Fed::Tensor(tensor) = self else { return None };
        let aligned = (tensor.bytes().as_ptr() as usize).is_multiple_of(tensor.dtype().bytes().clamp(1, 8));
        (tensor.texts().is_none() && !aligned).then_some(tensor)
    }
}

/// Room for an output of fixed size.
fn buffer(ty: &Type) -> Option<Vec<u64>> {
    ty.fixed_bytes().map(|bytes| vec![0; bytes.div_ceil(8)])
}

/// The tensor over a filled buffer.
fn adopt(ty: &Type, words: Vec<u64>) -> Datum {
    let known = "an output with a buffer has type and shape";
    let (dtype, shape) = (ty.dtype().expect(known), ty.fixed_shape().expect(known));
    let len = ty.fixed_bytes().expect(known);
    let bytes = Bytes::from_owner(super::memory::Words(words)).slice(..len);
    Datum::Tensor(Tensor::from_bytes(dtype, shape, bytes).expect("the buffer has the size of the output"))
}

/// 75 % of the machine's memory: what activations may take unless `--limit plan-bytes` says otherwise.
pub fn default_plan_bytes() -> u64 {
    let total = rustix::system::sysinfo();
    (total.totalram as u64).saturating_mul(u64::from(total.mem_unit)) / 4 * 3
}
