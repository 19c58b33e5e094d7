//! Graph, configs and a grant's limits to a program.
//!
//! In three goes: find a home for every value; build the kernels, which prepares the constants and tells the scratch space; lay out
//! the arena and write the list of steps. Constants that only kernels needed are dropped as soon as the last of these is built, and
//! the pages of mapped ones are released, so that raw and prepared weights are never in memory together.

use super::control;
use super::homes::{self, Home, Homes, Root};
use super::liveness;
use super::memory::{ALIGN, Home as MemoryHome, Releaser, Span};
use super::program::{Action, Entrance, Exit, Fixed, Indices, Launch, MemoryUse, Place, Port, Program, Source, Step, StepFacts};
use super::untuned::Untuned;
use crate::graph::{Graph, Node, Type, ValueId};
use crate::task;
use kernels::{BuildError, Datum, Fill, Kernel, Layout, Limits, OperandSpec, Operator, Request, Signature, Task, Tensor};
use schema::{Config, ConfigKey, Split, TaskKey};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use thiserror::Error;

/// The config chosen for each task. A task that is missing runs with its operator's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configs(BTreeMap<TaskKey, Config>);

impl Configs {
    /// Nothing chosen: every task runs with its default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses a config for a task.
    pub fn insert(&mut self, task: TaskKey, config: Config) {
        self.0.insert(task, config);
    }

    /// The config chosen for a task.
    pub fn get(&self, task: TaskKey) -> Option<&Config> {
        self.0.get(&task)
    }

    /// All that is chosen, in the order of the tasks' keys.
    pub fn iter(&self) -> impl Iterator<Item = (TaskKey, &Config)> {
        self.0.iter().map(|(key, config)| (*key, config))
    }

    /// How many tasks have a config.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is chosen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(TaskKey, Config)> for Configs {
    fn from_iter<I: IntoIterator<Item = (TaskKey, Config)>>(configs: I) -> Self {
        Configs(configs.into_iter().collect())
    }
}

/// Why a graph cannot be made executable.
#[derive(Debug, Error)]
pub enum PlanError {
    /// `what` names a value, or says that it is all activations together.
    #[error("{what} needs {need} bytes, the limit is {limit}; allow more with --limit {flag}=BYTES")]
    LimitExceeded { what: String, need: u64, limit: u64, flag: &'static str },
    #[error("node '{node}': unknown operator {op}")]
    Unsupported { node: String, op: String },
    /// A value that a kernel or the body of a control flow node uses has an open shape or type.
    #[error("node '{node}' ({op}): the size of '{value}' is open")]
    Open { node: String, op: String, value: String },
    /// A value lies in a layout that only kernels know.
    #[error("node '{node}' ({op}): '{value}' lies in {layout} and not in rows")]
    Layout { node: String, op: String, value: String, layout: Layout },
    /// The graph's types and the task's signature differ: a bug of a pass, or a damaged artifact.
    #[error("node '{node}' ({op}): {reason}")]
    Disagrees { node: String, op: String, reason: String },
    #[error("node '{node}' ({op}): {source}")]
    Build { node: String, op: String, source: BuildError },
    /// The batch cannot be computed in these parts.
    #[error("the batch cannot be computed in {split}: {reason}")]
    Split { split: Split, reason: String },
    #[error("{source}")]
    Device { source: cube_kernels::GpuError },
    #[error("no memory for {bytes} bytes of activations")]
    Memory { bytes: u64, source: std::io::Error },
}

impl PlanError {
    pub(super) fn too_large(what: &str, need: u64, limit: u64) -> Self {
        PlanError::LimitExceeded { what: format!("'{what}'"), need, limit, flag: "plan-bytes" }
    }

    /// The node it is about, if it is about one.
    pub fn node(&self) -> Option<&str> {
        match self {
            PlanError::Unsupported { node, .. }
            | PlanError::Open { node, .. }
            | PlanError::Layout { node, .. }
            | PlanError::Disagrees { node, .. }
            | PlanError::Build { node, .. } => Some(node),
            PlanError::LimitExceeded { .. } | PlanError::Split { .. } | PlanError::Device { .. } | PlanError::Memory { .. } => {
                None
            }
        }
    }
}

/// What stays the same for a graph and its bodies.
pub(super) struct Compiler<'a> {
    pub configs: &'a Configs,
    pub limits: &'a Limits,
    /// Bytes of activations that are allowed.
    pub plan_bytes: u64,
    pub releaser: Releaser,
    /// Tasks whose config is not legal here and that run with their default, with the reason.
    pub replaced: Vec<(Task, BuildError)>,
}

/// A kernel with what the graph did not say.
struct Built {
    kernel: Arc<dyn Kernel>,
    signature: Signature,
    task: Task,
    config: Config,
    scratch: Root,
}

/// A graph on its way.
struct Draft<'g> {
    graph: &'g Graph,
    homes: Homes,
    kernels: Vec<Option<Built>>,
    /// Roots for outputs of kernels that nobody asked for, by node and output.
    unasked: HashMap<(usize, usize), usize>,
    prepared_bytes: u64,
}

/// What shared kernels are found by: task, config and constant operands.
type SharedKey = (TaskKey, ConfigKey, Vec<Option<ValueId>>);

/// A constant is a table that is looked up in when a task touches less than one of so many of its bytes.
const LOOKED_UP: u64 = 4;

impl Compiler<'_> {
    /// Compiles a main graph (`captured` empty, `body` false) or a body with its captures in order; `known` are the captured constants.
    pub fn program(
        &mut self,
        mut graph: Graph,
        captured: &[ValueId],
        known: Vec<(ValueId, Tensor)>,
        body: bool,
    ) -> Result<Program, PlanError> {
        let tasks = self.tasks(&graph)?;
        let mut constants: Vec<Option<Tensor>> = graph.values.iter_mut().map(|value| value.constant.take()).collect();
        for (id, tensor) in known {
            constants[id.index()].get_or_insert(tensor);
        }
        let homes = homes::find(&graph, constants, captured, body, self.plan_bytes)?;
        let mut draft = Draft { kernels: Vec::new(), unasked: HashMap::new(), prepared_bytes: 0, homes, graph: &graph };
        // Before anything is prepared: a plan that is too large costs nothing.
        self.place(&draft.homes.roots)?;
        self.build(&mut draft, tasks)?;
        self.write(draft, captured, body)
    }

    /// The task of each node that has one.
    fn tasks(&self, graph: &Graph) -> Result<Vec<Option<Task>>, PlanError> {
        let task = |node: &Node| match (task::of(graph, node), task::operator(node)) {
            (Some(task), _) => task.map(Some).map_err(|source| build_error(node, source)),
            (None, None) => Ok(None),
            (None, Some(_)) => {
                let operands = node.inputs.iter().chain(&node.outputs).flatten();
                let open = operands.map(|&id| graph.value(id)).find(|value| value.fixed_shape().is_none());
                let value = open.map_or_else(String::new, |value| value.name.clone());
                Err(PlanError::Open { node: node.name.clone(), op: node.op.clone(), value })
            }
        };
        graph.nodes.iter().map(task).collect()
    }

    /// Lays out the roots that live in the arena.
    fn place(&self, roots: &[Root]) -> Result<(Vec<usize>, usize), PlanError> {
        let in_arena = |root: &Root| if root.home == MemoryHome::Arena { root.bytes } else { 0 };
        let block = |root: &Root| liveness::Block { bytes: in_arena(root), born: root.born, dies: root.dies };
        let blocks: Vec<_> = roots.iter().map(block).collect();
        let limit = self.plan_bytes;
        let too_large = |need| PlanError::LimitExceeded { what: "all activations".to_owned(), need, limit, flag: "plan-bytes" };
        match liveness::place(&blocks, ALIGN) {
            Some((offsets, bytes)) if bytes as u64 <= limit => Ok((offsets, bytes)),
            Some((_, bytes)) => Err(too_large(bytes as u64)),
            None => Err(too_large(u64::MAX)),
        }
    }

    /// Builds the kernel of every node that has a task.
    fn build(&mut self, draft: &mut Draft<'_>, tasks: Vec<Option<Task>>) -> Result<(), PlanError> {
        let mut uses = draft.graph.uses();
        let mut shared: HashMap<SharedKey, Arc<dyn Kernel>> = HashMap::new();
        for (at, (node, task)) in draft.graph.nodes.iter().zip(tasks).enumerate() {
            let (Some(task), Some(operator)) = (task, task::operator(node)) else {
                draft.kernels.push(None);
                continue;
            };
            let signature = (operator.signature)(&task).map_err(|source| build_error(node, source))?;
            let config = self.config(operator, &task);
            let prepared = |i: usize| signature.inputs.get(i).is_some_and(|input| input.constant);
            let operand = |i: usize| node.input(i).filter(|_| prepared(i));
            let operands: Vec<Option<ValueId>> = (0..node.inputs.len()).map(operand).collect();
            let key = (task.key(), config.key(), operands.clone());
            let kernel = match shared.get(&key) {
                Some(kernel) => kernel.clone(),
                None => {
                    let constants = &draft.homes.constants;
                    let constants: Vec<Option<&Tensor>> =
                        node.inputs.iter().map(|id| id.and_then(|id| constants[id.index()].as_ref())).collect();
                    let limits = &self.limits.relaxed();
                    let request = Request { task: &task, config: &config, limits, constants: &constants };
                    let kernel: Arc<dyn Kernel> = operator.build(&request).map_err(|source| build_error(node, source))?.into();
                    draft.prepared_bytes += kernel.prepared_bytes() as u64;
                    shared.insert(key, kernel.clone());
                    kernel
                }
            };
            self.release(draft, &mut uses, &operands);
            let time = at + 1;
            let scratch = Root { bytes: kernel.scratch_bytes(), born: time, dies: time, home: MemoryHome::Arena };
            for (i, spec) in signature.outputs.iter().enumerate() {
                if node.output(i).is_none() {
                    draft.unasked.insert((at, i), draft.homes.roots.len());
                    draft.homes.roots.push(Root { bytes: spec.bytes(), ..scratch });
                }
            }
            draft.kernels.push(Some(Built { kernel, signature, task, config, scratch }));
        }
        self.look_up(draft);
        Ok(())
    }

    /// Says of the tables that kernels only look up in how they are read: a constant much larger than all a task touches is one.
    fn look_up(&self, draft: &Draft<'_>) {
        for (node, built) in draft.graph.nodes.iter().zip(&draft.kernels) {
            let Some((operator, built)) = task::operator(node).zip(built.as_ref()) else { continue };
            let touched = (operator.bytes)(&built.task);
            let constants = node.inputs.iter().flatten().filter_map(|id| draft.homes.constants[id.index()].as_ref());
            for table in
                constants.filter(|constant| constant.texts().is_none() && constant.bytes().len() as u64 / LOOKED_UP > touched)
            {
                self.releaser.look_up(table.bytes());
            }
        }
    }

    /// The config for a task: the chosen one if it is legal here, else the default.
    fn config(&mut self, operator: &Operator, task: &Task) -> Config {
        if let Some(config) = self.configs.get(task.key()) {
            let unknown = || BuildError::Unknown { what: "variant", name: config.variant.clone() };
            let variant = operator.variant(&config.variant).ok_or_else(unknown);
            // Who named it was allowed to.
            match variant.and_then(|variant| variant.check(task, config, &self.limits.relaxed())) {
                Ok(()) => return config.clone(),
                Err(reason) => self.replaced.push((task.clone(), reason)),
            }
        }
        operator.default_config(task, self.limits)
    }

    /// Gives back what a kernel has prepared: pages of mapped constants at once, the constant itself after its last use.
    fn release(&self, draft: &mut Draft<'_>, uses: &mut [u32], operands: &[Option<ValueId>]) {
        for id in operands.iter().flatten() {
            let constant = &mut draft.homes.constants[id.index()];
            if let Some(tensor) = constant {
                self.releaser.release(tensor.bytes());
            }
            uses[id.index()] = uses[id.index()].saturating_sub(1);
            if uses[id.index()] == 0 {
                *constant = None;
            }
        }
    }

    /// Lays out the arena and writes the steps.
    fn write(&mut self, mut draft: Draft<'_>, captured: &[ValueId], body: bool) -> Result<Program, PlanError> {
        let graph = draft.graph;
        let end = graph.nodes.len() + 1;
        // The caller of a body copies its outputs to its inputs one after the other: none may lie in an input's bytes.
        let mut copied = HashMap::new();
        if body {
            let entrances: Vec<Home> = graph.inputs.iter().chain(captured).map(|id| draft.homes.of[id.index()]).collect();
            for (i, id) in graph.outputs.iter().enumerate() {
                if let Home::Root(root) = draft.homes.of[id.index()]
                    && entrances.contains(&Home::Root(root))
                {
                    copied.insert(i, draft.homes.roots.len());
                    let bytes = draft.homes.roots[root].bytes;
                    draft.homes.roots.push(Root { bytes, born: end, dies: end, home: MemoryHome::Arena });
                }
            }
        }
        let first_scratch = draft.homes.roots.len();
        draft.homes.roots.extend(draft.kernels.iter().flatten().map(|built| built.scratch));
        let (offsets, arena_bytes) = self.place(&draft.homes.roots)?;
        let mut writer = Writer { offsets, graph, program: Program::empty(), homes: &draft.homes };
        let slots = graph.inputs.iter().chain(captured);
        for (i, id) in slots.enumerate() {
            let value = graph.value(*id);
            let place = writer.place(*id).map_err(|_| layout_error(&Node::new("input", vec![], vec![]), graph, *id))?;
            writer.program.inputs.push(Entrance { port: Port { name: value.name.clone(), ty: value.ty.clone() }, place });
            debug_assert_eq!(writer.program.inputs.len(), i + 1);
        }
        writer.program.slots = draft.homes.slots.len();
        let mut drops: HashMap<usize, Vec<u32>> = HashMap::new();
        for (slot, &last) in draft.homes.slots.iter().enumerate() {
            drops.entry(last).or_default().push(slot as u32);
        }
        let mut scratch = first_scratch;
        for (at, node) in graph.nodes.iter().enumerate() {
            let mut indices = None;
            let (action, task) = if draft.homes.views[at] {
                continue;
            } else if let Some(built) = &draft.kernels[at] {
                let launch = writer.launch(node, built, scratch, |i| draft.unasked.get(&(at, i)).copied())?;
                indices = writer.indices(built, launch);
                scratch += 1;
                (Action::Kernel(built.kernel.clone(), launch), Some((built.task.to_string(), built.config.clone())))
            } else if control::is_control(&node.op) {
                (Action::Control(Box::new(control::compile(self, &mut writer, node)?)), None)
            } else {
                (Action::Untuned(Box::new(Untuned::new(&mut writer, node)?)), None)
            };
            let facts = StepFacts { node: node.name.clone(), op: node.op.clone(), task, on_device: false };
            writer.program.steps.push(Step { action, drops: drops.remove(&(at + 1)).unwrap_or_default(), indices, facts });
        }
        writer.outputs(&copied)?;
        let mut program = writer.program;
        let children = program.children.iter().map(|child| child.memory);
        program.memory = children.fold(
            MemoryUse {
                arena_bytes: arena_bytes as u64,
                scratch_bytes: draft.kernels.iter().flatten().map(|built| built.scratch.bytes as u64).max().unwrap_or(0),
                prepared_bytes: draft.prepared_bytes,
                constant_bytes: program.constants.iter().map(|constant| constant.bytes().len() as u64).sum(),
            },
            MemoryUse::with,
        );
        program.arena_bytes = arena_bytes;
        program.find_external();
        Ok(program)
    }
}

impl MemoryUse {
    /// With what a body's plan holds besides.
    pub(super) fn with(self, other: MemoryUse) -> Self {
        MemoryUse {
            arena_bytes: self.arena_bytes + other.arena_bytes,
            scratch_bytes: self.scratch_bytes.max(other.scratch_bytes),
            prepared_bytes: self.prepared_bytes + other.prepared_bytes,
            constant_bytes: self.constant_bytes + other.constant_bytes,
        }
    }
}

impl Program {
    fn empty() -> Self {
        Program {
            inputs: Vec::new(),
            outputs: Vec::new(),
            steps: Vec::new(),
            reads: Vec::new(),
            writes: Vec::new(),
            external_reads: Vec::new(),
            external_writes: Vec::new(),
            constants: Vec::new(),
            slots: 0,
            children: Vec::new(),
            arena_bytes: 0,
            memory: MemoryUse::default(),
        }
    }

    fn find_external(&mut self) {
        let external = |span: &Span| matches!(span.home, MemoryHome::Input(_) | MemoryHome::Output(_));
        let indices = |found: Vec<usize>| found.into_iter().map(|i| i as u32).collect();
        self.external_reads = indices((0..self.reads.len()).filter(|&i| self.reads[i].as_ref().is_some_and(external)).collect());
        self.external_writes = indices((0..self.writes.len()).filter(|&i| external(&self.writes[i])).collect());
    }
}

/// Writes the program of one graph.
pub(super) struct Writer<'g> {
    pub graph: &'g Graph,
    pub homes: &'g Homes,
    /// Of each root that lies in the arena.
    offsets: Vec<usize>,
    pub program: Program,
}

impl Writer<'_> {
    fn span(&self, root: usize) -> Span {
        let Root { home, bytes, .. } = self.homes.roots[root];
        let offset = if home == MemoryHome::Arena { self.offsets[root] } else { 0 };
        Span { home, offset, bytes }
    }

    /// The bytes of a value in a root, whatever its layout.
    fn fixed(&self, id: ValueId, root: usize) -> Fixed {
        let value = self.graph.value(id);
        let dtype = value.dtype().expect("a value in a root has a type");
        Fixed { span: self.span(root), dtype, shape: value.fixed_shape().expect("a value in a root has a shape") }
    }

    /// Where a value is put. The error names a value that is not in rows.
    fn place(&self, id: ValueId) -> Result<Place, ValueId> {
        match self.homes.of[id.index()] {
            Home::Root(_) if self.graph.value(id).layout != Layout::Rows => Err(id),
            Home::Root(root) => Ok(Place::Fixed(self.fixed(id, root))),
            Home::Slot(slot) => Ok(Place::Slot(slot)),
            Home::Constant | Home::Nowhere => Ok(Place::Nowhere),
        }
    }

    /// Where a node that is no kernel puts each of its outputs.
    pub fn places(&self, node: &Node) -> Result<Vec<Place>, PlanError> {
        let place = |id: &Option<ValueId>| match id {
            Some(id) => self.place(*id).map_err(|id| layout_error(node, self.graph, id)),
            None => Ok(Place::Nowhere),
        };
        node.outputs.iter().map(place).collect()
    }

    /// Where a node that is no kernel finds a value.
    pub fn source(&self, node: &Node, id: ValueId) -> Result<Source, PlanError> {
        let value = self.graph.value(id);
        match self.homes.of[id.index()] {
            Home::Root(_) if value.layout != Layout::Rows => Err(layout_error(node, self.graph, id)),
            Home::Root(root) => Ok(Source::Fixed(self.fixed(id, root))),
            Home::Slot(slot) => Ok(Source::Slot(slot)),
            Home::Constant => {
                let tensor = self.homes.constants[id.index()].clone();
                Ok(Source::Constant(Datum::Tensor(tensor.expect("a constant that is read at run time is kept"))))
            }
            Home::Nowhere => Err(disagrees(node, format!("'{}' is made by nobody", value.name))),
        }
    }

    /// The operands of a kernel, checked against the task's signature.
    fn launch(
        &mut self,
        node: &Node,
        built: &Built,
        scratch: usize,
        unasked: impl Fn(usize) -> Option<usize>,
    ) -> Result<Launch, PlanError> {
        let (reads, writes) = (self.program.reads.len(), self.program.writes.len());
        for (i, spec) in built.signature.inputs.iter().enumerate() {
            let read = match node.input(i) {
                Some(id) if !spec.constant => Some(self.read(node, id, spec.bytes())?),
                _ => None,
            };
            self.program.reads.push(read);
        }
        for (i, spec) in built.signature.outputs.iter().enumerate() {
            let root = match (node.output(i), unasked(i)) {
                (None, Some(root)) => root,
                (Some(id), _) => match self.homes.of[id.index()] {
                    Home::Root(root) => root,
                    _ => return Err(open_error(node, self.graph, id)),
                },
                (None, None) => return Err(disagrees(node, format!("output {i} has no home"))),
            };
            let span = self.span(root);
            if span.bytes != spec.bytes() {
                let reason = format!("output {i} has {} bytes, its task says {}", span.bytes, spec.bytes());
                return Err(disagrees(node, reason));
            }
            self.program.writes.push(span);
        }
        let count = |n: usize| u32::try_from(n).expect("a plan has fewer than 2^32 operands");
        let launch = Launch {
            reads: (count(reads), count(self.program.reads.len())),
            writes: (count(writes), count(self.program.writes.len())),
        };
        let scratch = self.span(scratch);
        self.program.writes.push(scratch);
        Ok(launch)
    }

    /// The operand of a kernel that indexes an axis.
    fn indices(&self, built: &Built, launch: Launch) -> Option<Indices> {
        let indexed = |(i, spec): (usize, &OperandSpec)| match (spec.fill, self.program.reads[launch.reads.0 as usize + i]) {
            (Fill::Index(extent), Some(span)) => Some(Indices { span, dtype: spec.dtype, extent }),
            _ => None,
        };
        built.signature.inputs.iter().enumerate().find_map(indexed)
    }

    /// What a kernel reads.
    fn read(&mut self, node: &Node, id: ValueId, bytes: usize) -> Result<Span, PlanError> {
        let span = match self.homes.of[id.index()] {
            Home::Root(root) => self.span(root),
            Home::Constant => {
                let tensor = self.homes.constants[id.index()].as_ref().expect("a constant that is read at run time is kept");
                self.program.constants.push(aligned(tensor));
                let home = MemoryHome::Constant(self.program.constants.len() as u32 - 1);
                Span { home, offset: 0, bytes: tensor.bytes().len() }
            }
            Home::Slot(_) | Home::Nowhere => return Err(open_error(node, self.graph, id)),
        };
        if span.bytes != bytes {
            let name = &self.graph.value(id).name;
            return Err(disagrees(node, format!("'{name}' has {} bytes, the task says {bytes}", span.bytes)));
        }
        Ok(span)
    }

    /// The outputs, with a copy where a body's output lies in its input.
    fn outputs(&mut self, copied: &HashMap<usize, usize>) -> Result<(), PlanError> {
        let node = Node::new("output", vec![], vec![]);
        for (i, &id) in self.graph.outputs.iter().enumerate() {
            let mut source = self.source(&node, id)?;
            if let (Some(&root), Source::Fixed(fixed)) = (copied.get(&i), &mut source) {
                let to = self.span(root);
                let facts = StepFacts { node: String::new(), op: "output".to_owned(), task: None, on_device: false };
                self.program.steps.push(Step { action: Action::Copy(fixed.span, to), drops: vec![], indices: None, facts });
                fixed.span = to;
            }
            let name = self.graph.output_names.get(i).unwrap_or(&self.graph.value(id).name).clone();
            let ty = match &source {
                Source::Constant(Datum::Tensor(tensor)) => Type::tensor(tensor.dtype(), tensor.shape()),
                _ => self.graph.value(id).ty.clone(),
            };
            self.program.outputs.push(Exit { port: Port { name, ty }, source });
        }
        Ok(())
    }

    /// Adds the program of a body and returns its number.
    pub fn child(&mut self, program: Program) -> usize {
        self.program.children.push(Arc::new(program));
        self.program.children.len() - 1
    }
}

/// The same tensor with its elements aligned to their type.
pub(super) fn aligned(tensor: &Tensor) -> Tensor {
    let align = tensor.dtype().bytes().clamp(1, 8);
    if (tensor.bytes().as_ptr() as usize).is_multiple_of(align) {
        return tensor.clone();
    }
    let mut words = vec![0u64; tensor.bytes().len().div_ceil(8)];
    bytemuck::cast_slice_mut(&mut words)[..tensor.bytes().len()].copy_from_slice(tensor.bytes());
    let bytes = bytes::Bytes::from_owner(super::memory::Words(words)).slice(..tensor.bytes().len());
    Tensor::from_bytes(tensor.dtype(), tensor.shape().to_vec(), bytes).expect("the same bytes under the same shape")
}

fn build_error(node: &Node, source: BuildError) -> PlanError {
    PlanError::Build { node: node.name.clone(), op: node.op.clone(), source }
}

fn disagrees(node: &Node, reason: String) -> PlanError {
    PlanError::Disagrees { node: node.name.clone(), op: node.op.clone(), reason }
}

pub(super) fn open_error(node: &Node, graph: &Graph, id: ValueId) -> PlanError {
    PlanError::Open { node: node.name.clone(), op: node.op.clone(), value: graph.value(id).name.clone() }
}

fn layout_error(node: &Node, graph: &Graph, id: ValueId) -> PlanError {
    let value = graph.value(id);
    PlanError::Layout { node: node.name.clone(), op: node.op.clone(), value: value.name.clone(), layout: value.layout }
}
