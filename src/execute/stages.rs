//! Plans for a device with memory of its own: the graph in stages, those that the device computes and those that the host computes
//! between them.
//!
//! In: a graph, whose values all come to lie in rows, and the device. A node goes to the device when one of its variants there is legal for the
//! task; views of what lies there cost nothing; of the rest Burn computes there what it can on operands that lie there. Everything else
//! is computed by plans of the host, one for each stage, and what crosses is copied. Stages are made as long as the order of the nodes
//! allows, so that little crosses.
//!
//! Weights are uploaded when the plan is made, and buffers are shared by values that do not live at the same time. What a run allocates
//! are the buffers of what is uploaded, and Burn's results.

use super::compile::{Configs, PlanError};
use super::homes::{renames, same_bytes};
use super::order::{part, stages_of};
use super::plan::{Plan, RunError, StepTime, outside};
use super::program::{MemoryUse, StepFacts};
use super::rooms::Rooms;
use crate::graph::{Graph, Node, ValueId};
use crate::task;
use burn_ops::Given;
use bytes::Bytes;
use cube_kernels::{Buffer, CubeKernel, Gpu, GpuError};
use kernels::{BuildError, Datum, Fill, Limits, OperandSpec, Request, Signature, Task, Tensor};
use schema::DType;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// The stages of a plan, with the buffers of one instance.
pub(super) struct Stages {
    shared: Arc<Shared>,
    /// Plans of the host's stages, in order.
    hosts: Vec<Plan>,
    /// Of values that the device computes.
    buffers: Vec<Buffer>,
    /// Nanoseconds of each launch of the last run, when asked for.
    times: Option<Vec<u64>>,
}

/// What all instances have in common.
struct Shared {
    gpu: Gpu,
    stages: Vec<Stage>,
    /// Constants that launches read as they are, by value.
    constants: HashMap<ValueId, Buffer>,
    /// Sizes of the buffers.
    rooms: Vec<usize>,
    inputs: Vec<ValueId>,
    outputs: Vec<Crossing>,
    /// Outputs that are constants.
    known: Vec<(ValueId, Datum)>,
    /// For each value, whose bytes it is: its own, or those of the value it is a view of.
    roots: Vec<ValueId>,
    prepared_bytes: u64,
}

/// What is done in one go.
enum Stage {
    Device(Vec<Launch>),
    Host { inputs: Vec<Crossing>, outputs: Vec<ValueId> },
}

/// A value that the host reads.
struct Crossing {
    id: ValueId,
    /// `None` where nobody knows it: then it never lies on the device.
    shape: Option<Vec<usize>>,
}

/// One node on its operands.
struct Launch {
    work: Work,
    inputs: Vec<Option<ValueId>>,
    /// The input that holds indices along an axis, and the axis' extent: they are checked first.
    indices: Option<(ValueId, usize)>,
    facts: StepFacts,
}

/// What computes a node, and where it writes.
enum Work {
    /// `scratch` are buffers of its own, whose contents end with it.
    Kernel { kernel: Box<dyn CubeKernel>, outputs: Vec<Written>, scratch: Vec<Written> },
    /// It brings a buffer for its result.
    Burn { operation: burn_ops::Operation, root: ValueId },
}

/// What a launch writes.
struct Written {
    /// `None` where nobody reads it.
    root: Option<ValueId>,
    /// The buffer, and how much of it.
    room: usize,
    bytes: usize,
}

/// What the device computes a node with.
enum Chosen {
    Kernel {
        task: Task,
        config: schema::Config,
        signature: Signature,
    },
    /// An operation of Burn's, where no kernel takes the node.
    Burn(burn_ops::Operation),
}

/// Where a value is during a run.
#[derive(Clone, Default)]
struct Whereabouts {
    host: Option<Datum>,
    device: Option<Buffer>,
}

impl Plan {
    /// Compiles a graph for a device with memory of its own. `limits` are those of the grant, the host's cores beside it included.
    ///
    /// # Errors
    /// [`PlanError`]: as [`compile_owned`](Self::compile_owned), and [`PlanError::Device`].
    pub fn compile_on(gpu: &Gpu, graph: Graph, configs: &Configs, limits: &Limits, plan_bytes: u64) -> Result<Self, PlanError> {
        let plan = Self::compile_there(gpu, graph, configs, limits, plan_bytes);
        // Whatever failed then failed because of that.
        gpu.lost().map_or(plan, |source| Err(PlanError::Device { source }))
    }

    fn compile_there(
        gpu: &Gpu,
        mut graph: Graph,
        configs: &Configs,
        limits: &Limits,
        plan_bytes: u64,
    ) -> Result<Self, PlanError> {
        let (inputs, outputs) = super::parts::ports(&graph);
        graph.lay_in_rows();
        let mut replaced = Vec::new();
        let mut chosen: Vec<Option<Chosen>> =
            graph.nodes.iter().map(|node| choose(&graph, node, configs, limits, &mut replaced)).collect();
        let mut roots: Vec<ValueId> = (0..graph.values.len() as u32).map(ValueId).collect();
        let on_device = placed(gpu, &graph, &mut chosen, &mut roots);
        let order = stages_of(&graph, &on_device);
        let mut stages = Vec::with_capacity(order.len());
        let mut hosts = Vec::new();
        for (device, nodes) in &order {
            if *device {
                stages.push(Stage::Device(Vec::new()));
                continue;
            }
            let mut part = part(&graph, nodes);
            stages.push(Stage::Host { inputs: crossings(&graph, &part.inputs), outputs: part.outputs.clone() });
            part.compact();
            hosts.push(Plan::compile_owned(part, configs, limits, plan_bytes)?);
        }
        for plan in &hosts {
            replaced.extend(plan.replaced().iter().cloned());
        }
        let mut builder = Builder { gpu, graph: &graph, limits, roots: &roots, constants: HashMap::new(), prepared_bytes: 0 };
        let mut rooms = Rooms::new(&graph, &roots, &order);
        let mut time = 0;
        for (stage, (_, nodes)) in stages.iter_mut().zip(&order) {
            for &at in nodes {
                if let (Stage::Device(launches), Some(chosen)) = (&mut *stage, chosen[at].take()) {
                    launches.push(builder.launch(at, chosen, &mut rooms)?);
                }
                rooms.pass(time);
                time += 1;
            }
        }
        let (constants, prepared_bytes) = (builder.constants, builder.prepared_bytes);
        let known = |&id: &ValueId| Some((id, Datum::Tensor(graph.value(id).constant.clone()?)));
        let shared = Shared {
            gpu: gpu.clone(),
            stages,
            constants,
            rooms: rooms.sizes,
            inputs: graph.inputs.clone(),
            outputs: crossings(&graph, &graph.outputs),
            known: graph.outputs.iter().filter_map(known).collect(),
            roots,
            prepared_bytes,
        };
        let stages = Stages::instance(Arc::new(shared), hosts)?;
        Plan::over_stages(inputs, outputs, stages, replaced)
    }
}

/// Values that the host reads.
fn crossings(graph: &Graph, ids: &[ValueId]) -> Vec<Crossing> {
    ids.iter().map(|&id| Crossing { id, shape: graph.value(id).fixed_shape() }).collect()
}

/// What the device computes a node with; `None` where it cannot.
fn choose(
    graph: &Graph,
    node: &Node,
    configs: &Configs,
    limits: &Limits,
    replaced: &mut Vec<(Task, BuildError)>,
) -> Option<Chosen> {
    let operator = cube_kernels::operator(&node.op)?;
    let task = task::of(graph, node)?.ok()?;
    let signature = (task::operator(node)?.signature)(&task).ok()?;
    let unasked = |i: usize| signature.outputs.get(i).is_some_and(|spec| spec.shape == [0]);
    let outputs = node.outputs.len().max(signature.outputs.len());
    if (0..outputs).any(|i| node.output(i).is_none() != unasked(i)) || indexes_wrongly(graph, node, &signature) {
        return None;
    }
    let chosen = configs.get(task.key()).filter(|config| operator.variant(&config.variant).is_some());
    // Who named it was allowed to.
    let legal = chosen.and_then(|config| match operator.check(&task, config, &limits.relaxed()) {
        Ok(()) => Some(config.clone()),
        Err(reason) => {
            replaced.push((task.clone(), reason));
            None
        }
    });
    let config = legal.or_else(|| operator.default_config(&task, limits))?;
    Some(Chosen::Kernel { task, config, signature })
}

/// The input that holds indices along an axis, and the axis' extent.
fn indexed(node: &Node, signature: &Signature) -> Option<(ValueId, usize)> {
    let extent = |spec: &OperandSpec| if let Fill::Index(extent) = spec.fill { Some(extent) } else { None };
    signature.inputs.iter().enumerate().find_map(|(i, spec)| node.input(i).zip(extent(spec)))
}

/// Whether constant indices lie outside of their axis: the host says so when it runs.
fn indexes_wrongly(graph: &Graph, node: &Node, signature: &Signature) -> bool {
    let constant = |(id, extent): (ValueId, usize)| Some((graph.value(id).constant.as_ref()?, extent));
    indexed(node, signature).and_then(constant).is_some_and(|(tensor, extent)| wrong_index(tensor, extent).is_some())
}

/// The first index that stands for no place of an axis.
fn wrong_index(tensor: &Tensor, extent: usize) -> Option<i64> {
    let tensor = super::compile::aligned(tensor);
    outside(tensor.bytes(), tensor.dtype(), extent)
}

/// Which nodes go to the device: those that a kernel takes, views of what lies there, which have its bytes, and what Burn takes of the
/// rest where an operand lies there.
fn placed(gpu: &Gpu, graph: &Graph, chosen: &mut [Option<Chosen>], roots: &mut [ValueId]) -> Vec<bool> {
    let mut lies_there = vec![false; graph.values.len()];
    let mut on_device = vec![false; graph.nodes.len()];
    for (at, node) in graph.nodes.iter().enumerate() {
        let view = match (node.input(0), node.output(0)) {
            (Some(from), Some(to)) if renames(node) && lies_there[from.index()] => {
                same_bytes(graph.value(from), graph.value(to)).then_some((from, to))
            }
            _ => None,
        };
        if let Some((from, to)) = view {
            roots[to.index()] = roots[from.index()];
        } else if chosen[at].is_none() && node.inputs.iter().flatten().any(|id| lies_there[id.index()]) {
            chosen[at] = operation(gpu, graph, node).map(Chosen::Burn);
        }
        on_device[at] = chosen[at].is_some() || view.is_some();
        if on_device[at] {
            node.outputs.iter().flatten().for_each(|id| lies_there[id.index()] = true);
        }
    }
    on_device
}

/// Burn's operation for a node of one f32 result, whose operands are f32 or known integers.
fn operation(gpu: &Gpu, graph: &Graph, node: &Node) -> Option<burn_ops::Operation> {
    let (&[Some(output)], true) = (&node.outputs[..], node.bodies.is_empty()) else { return None };
    let floats = |id: ValueId| graph.value(id).fixed_shape().filter(|_| graph.value(id).dtype() == Some(DType::F32));
    let given = |id: ValueId| match graph.value(id).constant.as_ref().and_then(Tensor::to_ints) {
        Some(ints) => Some(Given::Ints(ints)),
        None => floats(id).map(Given::Floats),
    };
    let operands = node.inputs.iter().map(|id| id.map_or(Some(None), |id| given(id).map(Some)));
    burn_ops::Operation::prepare(gpu, &node.op, &node.attributes, operands.collect::<Option<_>>()?, floats(output)?)
}

/// Builds the launches.
struct Builder<'a> {
    gpu: &'a Gpu,
    graph: &'a Graph,
    limits: &'a Limits,
    roots: &'a [ValueId],
    constants: HashMap<ValueId, Buffer>,
    prepared_bytes: u64,
}

impl Builder<'_> {
    fn launch(&mut self, at: usize, chosen: Chosen, rooms: &mut Rooms) -> Result<Launch, PlanError> {
        let node = &self.graph.nodes[at];
        let (node_name, op) = (node.name.clone(), node.op.clone());
        match chosen {
            Chosen::Kernel { task, config, signature } => {
                let kernel = self.kernel(node, &task, &config)?;
                let prepared = |i: usize| signature.inputs.get(i).is_some_and(|spec| spec.constant);
                let inputs = self.inputs(node, |i, _| !prepared(i))?;
                let mut write = |root: Option<ValueId>, bytes: usize| Written { root, room: rooms.lend(root, bytes), bytes };
                let outputs = signature.outputs.iter().enumerate();
                let outputs =
                    outputs.map(|(i, spec)| write(node.output(i).map(|id| self.roots[id.index()]), spec.bytes())).collect();
                let scratch = kernel.scratch_bytes().into_iter().map(|bytes| write(None, bytes)).collect();
                let constant = |id: &ValueId| self.graph.value(*id).constant.is_some();
                let indices = indexed(node, &signature).filter(|(id, _)| !constant(id));
                let facts = StepFacts { node: node_name, op, task: Some((task.to_string(), config)), on_device: true };
                Ok(Launch { work: Work::Kernel { kernel, outputs, scratch }, inputs, indices, facts })
            }
            Chosen::Burn(operation) => {
                let inputs = self.inputs(node, |_, tensor| tensor.dtype() == DType::F32)?;
                let root = node.output(0).map(|id| self.roots[id.index()]).expect("Burn takes nodes of one output");
                let facts = StepFacts { node: node_name, op, task: None, on_device: true };
                Ok(Launch { work: Work::Burn { operation, root }, inputs, indices: None, facts })
            }
        }
    }

    fn kernel(&mut self, node: &Node, task: &Task, config: &schema::Config) -> Result<Box<dyn CubeKernel>, PlanError> {
        let tensors: Vec<Option<&Tensor>> =
            node.inputs.iter().map(|id| id.and_then(|id| self.graph.value(id).constant.as_ref())).collect();
        let request = Request { task, config, limits: &self.limits.relaxed(), constants: &tensors };
        let known = "a chosen node's operator has variants here";
        let refused = |source: BuildError| PlanError::Build { node: node.name.clone(), op: node.op.clone(), source };
        let kernel = cube_kernels::operator(&node.op).expect(known).build(&request, self.gpu).map_err(refused)?;
        self.prepared_bytes += kernel.prepared_bytes() as u64;
        Ok(kernel)
    }

    /// The operands that are read at each run; of constants those that are `wanted`, which are uploaded.
    fn inputs(&mut self, node: &Node, wanted: impl Fn(usize, &Tensor) -> bool) -> Result<Vec<Option<ValueId>>, PlanError> {
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for (i, id) in node.inputs.iter().enumerate() {
            let tensor = id.and_then(|id| self.graph.value(id).constant.as_ref());
            let read = id.filter(|_| tensor.is_none_or(|tensor| wanted(i, tensor)));
            if let Some((id, tensor)) = read.zip(tensor)
                && !self.constants.contains_key(&id)
            {
                let buffer = self.gpu.upload(tensor.bytes()).map_err(|source| PlanError::Device { source })?;
                self.constants.insert(id, buffer);
            }
            inputs.push(read);
        }
        Ok(inputs)
    }
}

impl Stages {
    fn instance(shared: Arc<Shared>, hosts: Vec<Plan>) -> Result<Self, PlanError> {
        let buffers = shared.rooms.iter().map(|&bytes| shared.gpu.room(bytes)).collect::<Result<_, _>>();
        Ok(Stages { buffers: buffers.map_err(|source| PlanError::Device { source })?, shared, hosts, times: None })
    }

    /// A second instance with buffers of its own.
    pub fn another(&self) -> Result<Self, PlanError> {
        Self::instance(self.shared.clone(), self.hosts.iter().map(Plan::another).collect::<Result<_, _>>()?)
    }

    /// The plans of the host's stages.
    pub fn hosts(&mut self) -> &mut [Plan] {
        &mut self.hosts
    }

    /// Takes the time of each step from now on, or no longer. With it the host waits for every launch.
    pub fn set_profiling(&mut self, on: bool) {
        self.times = on.then(Vec::new);
        self.hosts.iter_mut().for_each(|host| host.set_profiling(on));
    }

    /// What each step of the last run took; empty without profiling.
    pub fn profile(&self) -> Vec<StepTime> {
        let (mut hosts, mut times) = (self.hosts.iter(), self.times.iter().flatten());
        let mut steps = Vec::new();
        for stage in &self.shared.stages {
            match stage {
                Stage::Device(launches) => steps.extend(
                    launches.iter().zip(&mut times).map(|(launch, &nanos)| StepTime { facts: launch.facts.clone(), nanos }),
                ),
                Stage::Host { .. } => steps.extend(hosts.next().into_iter().flat_map(Plan::profile)),
            }
        }
        steps
    }

    /// What each step does, in order of execution.
    pub fn facts(&self) -> Vec<&StepFacts> {
        let mut hosts = self.hosts.iter();
        let mut facts = Vec::new();
        for stage in &self.shared.stages {
            match stage {
                Stage::Device(launches) => facts.extend(launches.iter().map(|launch| &launch.facts)),
                Stage::Host { .. } => facts.extend(hosts.next().into_iter().flat_map(Plan::steps)),
            }
        }
        facts
    }

    /// The bytes it holds, on the host and on the device.
    pub fn memory(&self) -> MemoryUse {
        let rooms = self.shared.rooms.iter().sum::<usize>() as u64;
        let constants = self.shared.constants.values().map(|buffer| buffer.bytes() as u64).sum::<u64>();
        let own = MemoryUse {
            arena_bytes: rooms,
            scratch_bytes: 0,
            prepared_bytes: self.shared.prepared_bytes,
            constant_bytes: constants,
        };
        self.hosts.iter().fold(own, |sum, plan| sum.with(plan.memory()))
    }

    /// Runs on data in the order of the inputs.
    pub fn run(&mut self, inputs: Vec<Datum>) -> Result<Vec<Datum>, RunError> {
        let shared = self.shared.clone();
        let mut places = vec![Whereabouts::default(); shared.roots.len()];
        let given = shared.inputs.iter().copied().zip(inputs);
        for (id, datum) in given.chain(shared.known.iter().cloned()) {
            places[id.index()].host = Some(datum);
        }
        self.times.iter_mut().for_each(Vec::clear);
        let mut hosts = self.hosts.iter_mut();
        for stage in &shared.stages {
            match stage {
                Stage::Device(launches) => {
                    for launch in launches {
                        let start = self.times.is_some().then(Instant::now);
                        shared.launch(launch, &self.buffers, &mut places)?;
                        if let Some((times, start)) = self.times.as_mut().zip(start) {
                            shared.gpu.sync().map_err(|source| RunError::Device { source })?;
                            times.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
                        }
                    }
                }
                Stage::Host { inputs, outputs } => {
                    let plan = hosts.next().ok_or(RunError::Absent)?;
                    let given = inputs.iter().map(|crossing| shared.on_host(crossing, &mut places)).collect::<Result<_, _>>()?;
                    for (id, datum) in outputs.iter().zip(plan.run_data(given)?) {
                        places[id.index()].host = Some(datum);
                    }
                }
            }
        }
        let outputs = shared.outputs.iter().map(|output| shared.on_host(output, &mut places)).collect();
        // Launches fail late: without a download nobody would have asked.
        shared.gpu.sync().map_err(|source| RunError::Device { source })?;
        outputs
    }
}

impl Shared {
    fn launch(&self, launch: &Launch, buffers: &[Buffer], places: &mut [Whereabouts]) -> Result<(), RunError> {
        if let Some((id, extent)) = launch.indices {
            let place = &places[self.roots[id.index()].index()];
            let indices = place.host.as_ref().and_then(Datum::tensor).ok_or(RunError::Absent)?;
            if let Some(index) = wrong_index(indices, extent) {
                let (node, op) = (launch.facts.node.clone(), launch.facts.op.clone());
                return Err(RunError::Index { node, op, index, extent });
            }
        }
        let inputs = launch.inputs.iter().map(|id| id.map(|id| self.on_device(id, places)).transpose());
        let inputs: Vec<Option<Buffer>> = inputs.collect::<Result<_, _>>()?;
        match &launch.work {
            Work::Kernel { kernel, outputs, scratch } => {
                let cut = |written: &Written| buffers[written.room].cut(written.bytes);
                let rooms: Vec<Buffer> = outputs.iter().map(cut).collect();
                let scratch: Vec<Buffer> = scratch.iter().map(cut).collect();
                // Of nothing there is nothing to compute.
                if outputs.iter().any(|written| written.bytes > 0) {
                    kernel.launch(&self.gpu, &inputs, &rooms, &scratch);
                }
                for (written, buffer) in outputs.iter().zip(rooms) {
                    if let Some(root) = written.root {
                        places[root.index()] = Whereabouts { host: None, device: Some(buffer) };
                    }
                }
            }
            Work::Burn { operation, root } => {
                let buffer = operation.run(&self.gpu, &inputs).map_err(|source| RunError::Device { source })?;
                places[root.index()] = Whereabouts { host: None, device: Some(buffer) };
            }
        }
        Ok(())
    }

    /// A value on the device; uploaded where it is not there yet.
    fn on_device(&self, id: ValueId, places: &mut [Whereabouts]) -> Result<Buffer, RunError> {
        if let Some(constant) = self.constants.get(&id) {
            return Ok(constant.clone());
        }
        let place = &mut places[self.roots[id.index()].index()];
        if let Some(buffer) = &place.device {
            return Ok(buffer.clone());
        }
        let tensor = place.host.as_ref().and_then(Datum::tensor).ok_or(RunError::Absent)?;
        let buffer = self.gpu.upload(tensor.bytes()).map_err(|source| RunError::Device { source })?;
        place.device = Some(buffer.clone());
        Ok(buffer)
    }

    /// A value on the host; downloaded where it is not there yet.
    fn on_host(&self, crossing: &Crossing, places: &mut [Whereabouts]) -> Result<Datum, RunError> {
        let id = crossing.id;
        if let Some(datum) = &places[id.index()].host {
            return Ok(datum.clone());
        }
        let place = &places[self.roots[id.index()].index()];
        let (Some(buffer), Some(shape)) = (&place.device, &crossing.shape) else { return Err(RunError::Absent) };
        let bytes = self.gpu.download(buffer).map_err(|source: GpuError| RunError::Device { source })?;
        let tensor = Tensor::from_bytes(DType::F32, shape.clone(), Bytes::from(bytes)).ok_or(RunError::Absent)?;
        let datum = Datum::Tensor(tensor);
        places[id.index()].host = Some(datum.clone());
        Ok(datum)
    }
}
