//! Plans for a device with memory of its own: the graph in stages, those that the device computes and those that the host computes
//! between them.
//!
//! In: a graph, whose values all come to lie in rows, and the device. A node goes to the device when one of its variants there is legal for the
//! task; views of what lies there cost nothing; of the rest Burn computes there what it can on operands that lie there. Everything else
//! is computed by plans of the host, one for each stage, and what crosses is copied. Stages are made as long as the order of the nodes
//! allows, so that little crosses.
//!
//! Weights are uploaded when the plan is made, and buffers are shared by values that do not live at the same time. How it runs is
//! [`super::flight`]'s.

use super::compile::{Configs, PlanError};
use super::flight::{Flight, Watch};
use super::homes::{renames, same_bytes};
use super::order::{part, reads, stages_of};
use super::plan::{Plan, StepTime, outside};
use super::program::{MemoryUse, StepFacts};
use super::rooms::Rooms;
use crate::graph::{Graph, Node, ValueId};
use crate::task;
use burn_ops::Given;
use cube_kernels::{Buffer, CubeKernel, Gpu, Stream};
use kernels::{BuildError, Datum, Fill, Limits, OperandSpec, Request, Signature, Task, Tensor};
use schema::DType;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The stages of a plan, with the buffers of one instance.
pub(super) struct Stages {
    pub(super) shared: Arc<Shared>,
    /// Plans of the host's stages, in order.
    pub(super) hosts: Vec<Plan>,
    /// Of values that the device computes.
    pub(super) buffers: Vec<Buffer>,
    /// Nanoseconds of each launch of the last run, when asked for.
    pub(super) times: Option<Vec<u64>>,
    /// On which everything of this instance is uploaded, launched and downloaded.
    pub(super) stream: Stream,
    pub(super) flight: Option<Flight>,
    pub(super) watch: Option<Watch>,
}

/// What all instances have in common.
pub(super) struct Shared {
    pub(super) gpu: Gpu,
    pub(super) stages: Vec<Stage>,
    /// Constants that launches read as they are, by value.
    pub(super) constants: HashMap<ValueId, Buffer>,
    /// Sizes of the buffers.
    pub(super) rooms: Vec<usize>,
    pub(super) inputs: Vec<ValueId>,
    /// Those that a launch reads.
    pub(super) uploads: Vec<ValueId>,
    pub(super) outputs: Vec<Crossing>,
    /// Whether the host reads between launches what the device computed.
    pub(super) waits_within: bool,
    /// Outputs that are constants.
    pub(super) known: Vec<(ValueId, Datum)>,
    /// For each value, whose bytes it is: its own, or those of the value it is a view of.
    pub(super) roots: Vec<ValueId>,
    pub(super) prepared_bytes: u64,
}

/// What is done in one go.
pub(super) enum Stage {
    Device(Vec<Launch>),
    Host { inputs: Vec<Crossing>, outputs: Vec<ValueId> },
}

/// A value that the host reads.
pub(super) struct Crossing {
    pub(super) id: ValueId,
    /// `None` where nobody knows it: then it never lies on the device.
    pub(super) shape: Option<Vec<usize>>,
}

/// One node on its operands.
pub(super) struct Launch {
    pub(super) work: Work,
    pub(super) inputs: Vec<Option<ValueId>>,
    /// The input that holds indices along an axis, and the axis' extent: they are checked first.
    pub(super) indices: Option<(ValueId, usize)>,
    pub(super) facts: StepFacts,
}

/// What computes a node, and where it writes.
pub(super) enum Work {
    /// `scratch` are buffers of its own, whose contents end with it.
    Kernel { kernel: Box<dyn CubeKernel>, outputs: Vec<Written>, scratch: Vec<Written> },
    /// It brings a buffer for its result.
    Burn { operation: burn_ops::Operation, root: ValueId },
}

/// What a launch writes.
pub(super) struct Written {
    /// `None` where nobody reads it.
    pub(super) root: Option<ValueId>,
    /// The buffer, and how much of it.
    pub(super) room: usize,
    pub(super) bytes: usize,
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
        let read: HashSet<ValueId> =
            stages.iter().flat_map(Stage::launches).flat_map(|launch| launch.inputs.iter().flatten().copied()).collect();
        let uploads = graph.inputs.iter().copied().filter(|id| read.contains(id)).collect();
        let waits_within = waits_within(&graph, &order);
        let known = |&id: &ValueId| Some((id, Datum::Tensor(graph.value(id).constant.clone()?)));
        let shared = Shared {
            gpu: gpu.clone(),
            stages,
            constants,
            rooms: rooms.sizes,
            inputs: graph.inputs.clone(),
            uploads,
            waits_within,
            outputs: crossings(&graph, &graph.outputs),
            known: graph.outputs.iter().filter_map(known).collect(),
            roots,
            prepared_bytes,
        };
        let stages = Stages::instance(Arc::new(shared), hosts)?;
        Plan::over_stages(inputs, outputs, stages, replaced)
    }
}

impl Stage {
    fn launches(&self) -> &[Launch] {
        match self {
            Stage::Device(launches) => launches,
            Stage::Host { .. } => &[],
        }
    }
}

/// Whether a node of the host reads what one of the device makes before it.
fn waits_within(graph: &Graph, order: &[(bool, Vec<usize>)]) -> bool {
    let mut made: HashSet<ValueId> = HashSet::new();
    for (device, nodes) in order {
        for &at in nodes {
            let node = &graph.nodes[at];
            match device {
                true => made.extend(node.outputs.iter().flatten()),
                false if reads(node).any(|id| made.contains(&id)) => return true,
                false => {}
            }
        }
    }
    false
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
pub(super) fn wrong_index(tensor: &Tensor, extent: usize) -> Option<i64> {
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
        let stream = Stream::new();
        let buffers = stream.on(|| shared.rooms.iter().map(|&bytes| shared.gpu.room(bytes)).collect::<Result<_, _>>());
        let buffers = buffers.map_err(|source| PlanError::Device { source })?;
        Ok(Stages { buffers, shared, hosts, times: None, stream, flight: None, watch: None })
    }

    /// A second instance with buffers and a stream of its own.
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
}
