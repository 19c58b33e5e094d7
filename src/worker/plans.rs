//! The worker's bench for whole models: plans of an artifact's entries in slots, fed with random inputs, compared and timed.

use super::child::{Share, picos};
use super::protocol::{Answer, Entry, Lane};
use crate::agreement::{Tolerance, distance};
use crate::artifact::Artifact;
use crate::execute::{Configs, Plan};
use crate::graph::{Graph, Node, Type, ValueId};
use crate::space::Stream;
use kernels::{Datum, Tensor};
use schema::{Config, DType, FailureClass, Seed, Split, TaskKey};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// The least length of a sample: shorter inferences run several times in one.
const SAMPLE_MIN_PICOS: u64 = 200_000_000;
/// Inferences in one sample at most.
const RUNS_MAX: u64 = 500;
/// An inference so long that the first touch of its memory does not count.
const LONG_PICOS: u64 = 100_000_000_000;
/// Profiled runs together take about this long at most.
const STAGES_PICOS: u64 = 500_000_000_000;
/// Whole-number inputs that index nothing we know of: 0 and 1 are in range wherever an index is allowed, and are masks as well.
const INDEX_BOUND: usize = 2;
/// What an input is that says how often a loop runs: 0 or 1 would measure a model that does nothing.
const ROUNDS: usize = 8;
/// How far an input is followed to the table it indexes, or to the loop whose rounds it counts.
const FOLLOWED_MAX: usize = 8;

/// How a plan computes its batch, and its configs by the texts of their tasks.
type Chosen<'a> = (Split, &'a [(String, Config)]);

/// Plans in slots.
pub(super) struct PlanBench<'a> {
    share: &'a Share,
    /// The artifact last opened, with its path.
    artifact: Option<(String, Artifact)>,
    slots: BTreeMap<u32, Slot>,
}

struct Slot {
    plan: Plan,
    inputs: Vec<Datum>,
    /// Of the first run.
    outputs: Vec<Datum>,
    /// Aligned copies of the inputs and room for the outputs, where all sizes are fixed.
    buffers: Option<Buffers>,
    /// Inferences in one sample.
    runs: u64,
}

struct Buffers {
    inputs: Vec<Vec<u64>>,
    outputs: Vec<Vec<u64>>,
    inputs_bytes: Vec<usize>,
    outputs_bytes: Vec<usize>,
}

impl<'a> PlanBench<'a> {
    /// Without plans.
    pub fn new(share: &'a Share) -> Self {
        PlanBench { share, artifact: None, slots: BTreeMap::new() }
    }

    /// Frees slots.
    pub fn drop_slots(&mut self, slots: &[u32]) {
        slots.iter().for_each(|slot| drop(self.slots.remove(slot)));
    }

    /// Frees everything.
    pub fn close(&mut self) {
        self.slots.clear();
        self.artifact = None;
    }

    /// Makes the plan of an entry in these parts and with these configs, and random inputs for it.
    pub fn load(&mut self, slot: u32, path: &str, entry: &Entry, plan: Chosen<'_>, seed: u64) -> Answer {
        self.slots.remove(&slot);
        match self.loaded(path, entry, plan, seed) {
            Ok((loaded, first_ps, generate_ps)) => {
                let memory = loaded.plan.memory();
                self.slots.insert(slot, loaded);
                let prepared_bytes = memory.prepared_bytes + memory.constant_bytes + memory.arena_bytes;
                // A driver compiles a plan's kernels in its first run, among everything else.
                Answer::Built { first_ps, prepared_bytes, generate_ps, compile_ps: 0 }
            }
            Err(detail) => Answer::Refused { class: FailureClass::Compile, detail },
        }
    }

    fn loaded(
        &mut self,
        path: &str,
        wanted: &Entry,
        (split, configs): Chosen<'_>,
        seed: u64,
    ) -> Result<(Slot, u64, u64), String> {
        if self.artifact.as_ref().is_none_or(|(open, _)| open != path) {
            self.slots.clear();
            self.artifact = None;
            let artifact = Artifact::open(Path::new(path)).map_err(|error| error.to_string())?;
            self.artifact = Some((path.to_owned(), artifact));
        }
        let Some((_, artifact)) = &self.artifact else { return Err("no artifact is open".to_owned()) };
        let entry = artifact.entries().get(wanted.number as usize).ok_or("the artifact has no such entry")?;
        let configs: Configs = configs.iter().map(|(task, config)| (TaskKey::of(task), config.clone())).collect();
        let graph = artifact.graph(entry.graph).map_err(|error| error.to_string())?;
        let inputs = random_inputs(&graph, seed)?;
        let limits = &self.share.limits;
        let budget = crate::execute::default_plan_bytes();
        let start = Instant::now();
        let plan = self
            .share
            .pool
            .install(|| match &self.share.gpu {
                Some(gpu) => Plan::compile_on(gpu, graph, &configs, limits, budget),
                None => Plan::compile_split(graph, split, &configs, limits, budget),
            })
            .map_err(|error| error.to_string())?;
        let generate_ps = picos(start);
        let buffers = plan.is_static().then(|| Buffers::new(&plan, &inputs)).flatten();
        let mut slot = Slot { plan, inputs, outputs: Vec::new(), buffers, runs: 1 };
        let start = Instant::now();
        let given = slot.inputs.clone();
        slot.outputs = self.share.pool.install(|| slot.plan.run_data(given)).map_err(|error| error.to_string())?;
        let mut first = picos(start);
        // The first run touches its memory for the first time: where that may matter, it is not the one that counts.
        if first < LONG_PICOS {
            let start = Instant::now();
            self.share.pool.install(|| slot.run())?;
            first = picos(start);
        }
        slot.runs = SAMPLE_MIN_PICOS.div_ceil(first.max(1)).clamp(1, RUNS_MAX);
        Ok((slot, first, generate_ps))
    }

    /// The worst error of each plan's outputs against the first plan's.
    pub fn compare(&self, slots: &[u32], max_error: f64) -> Answer {
        let mut worst = Vec::with_capacity(slots.len());
        let mut outputs = Vec::with_capacity(slots.len());
        for number in slots {
            match self.slots.get(number) {
                Some(slot) => outputs.push(&slot.outputs),
                None => return Answer::Wrong { reason: format!("slot {number} is empty") },
            }
        }
        for found in &outputs {
            worst.push(outputs.first().map_or(0.0, |expected| furthest(found, expected, max_error)));
        }
        Answer::Errors { worst }
    }

    /// Times plans.
    pub fn lap(&mut self, lanes: &[Lane]) -> Answer {
        let slots = &mut self.slots;
        self.share.lap(lanes, |number| {
            let slot = slots.get_mut(&number)?;
            let start = Instant::now();
            for _ in 0..slot.runs {
                slot.run().ok()?;
            }
            Some(picos(start) / slot.runs)
        })
    }

    /// Times plans as [`lap`](Self::lap) does, and what each task takes within.
    pub fn rehearse(&mut self, lanes: &[Lane]) -> Answer {
        let slots = &mut self.slots;
        // Plans of one entry have the same nodes: each task's are counted in the first.
        let steps = slots.values().next().into_iter().flat_map(|slot| slot.plan.steps());
        let mut nodes: BTreeMap<String, u64> = BTreeMap::new();
        steps.filter_map(|step| Some(step.task.as_ref()?.0.clone())).for_each(|task| *nodes.entry(task).or_default() += 1);
        let (tasks, nodes): (Vec<String>, Vec<u64>) = nodes.into_iter().unzip();
        let mut tasks_picos = Vec::new();
        slots.values_mut().for_each(|slot| slot.plan.set_profiling(true));
        let answer = self.share.lap(lanes, |number| {
            let slot = slots.get_mut(&number)?;
            let mut row = vec![0u64; tasks.len()];
            let start = Instant::now();
            for _ in 0..slot.runs {
                slot.run().ok()?;
                for step in slot.plan.profile() {
                    let at = step.facts.task.and_then(|(task, _)| tasks.binary_search(&task).ok());
                    if let Some(sum) = at.and_then(|at| row.get_mut(at)) {
                        *sum += step.nanos.saturating_mul(1000);
                    }
                }
            }
            row.iter_mut().zip(&nodes).for_each(|(sum, nodes)| *sum /= slot.runs * nodes);
            tasks_picos.push(row);
            Some(picos(start) / slot.runs)
        });
        slots.values_mut().for_each(|slot| slot.plan.set_profiling(false));
        match answer {
            Answer::Times { picos } => Answer::Rehearsed { picos, tasks, tasks_picos },
            other => other,
        }
    }

    /// The medians of a plan's stages over some profiled runs: what moves inputs into the layouts of the network, what computes, and
    /// what moves results out.
    pub fn stages(&mut self, number: u32, rounds: u32) -> Answer {
        let Some(slot) = self.slots.get_mut(&number) else { return Answer::Wrong { reason: format!("slot {number} is empty") } };
        slot.plan.set_profiling(true);
        let mut stages: [Vec<u64>; 3] = Default::default();
        let mut spent = 0;
        for _ in 0..rounds.max(1) {
            if spent > STAGES_PICOS {
                break;
            }
            let start = Instant::now();
            if let Err(detail) = self.share.pool.install(|| slot.run()) {
                return Answer::Refused { class: FailureClass::WrongResult, detail };
            }
            spent += picos(start);
            let steps: Vec<(bool, u64)> =
                slot.plan.profile().iter().map(|step| (moves(&step.facts.op), step.nanos.saturating_mul(1000))).collect();
            let leading = steps.iter().take_while(|(moves, _)| *moves).count();
            let trailing = steps[leading..].iter().rev().take_while(|(moves, _)| *moves).count();
            let sum = |steps: &[(bool, u64)]| steps.iter().map(|(_, time)| *time).sum::<u64>();
            stages[0].push(sum(&steps[..leading]));
            stages[1].push(sum(&steps[leading..steps.len() - trailing]));
            stages[2].push(sum(&steps[steps.len() - trailing..]));
        }
        slot.plan.set_profiling(false);
        let median = |times: &mut Vec<u64>| {
            times.sort_unstable();
            times.get(times.len() / 2).copied().unwrap_or(0)
        };
        let [upload_ps, compute_ps, download_ps] = stages.each_mut().map(median);
        let memory = slot.plan.memory();
        let memory_bytes = memory.arena_bytes + memory.prepared_bytes + memory.constant_bytes;
        Answer::Stages { upload_ps, compute_ps, download_ps, memory_bytes }
    }
}

/// Whether a step only moves data between layouts or buffers.
fn moves(op: &str) -> bool {
    matches!(op, "reorder" | "copy" | "output" | "Identity")
}

/// The worst error over all outputs; infinite where they cannot be compared or differ in what must be equal.
fn furthest(outputs: &[Datum], expected: &[Datum], max_error: f64) -> f64 {
    let tolerance = Tolerance { rtol: max_error, atol: 0.0 };
    let one = |(output, expected)| match distance(output, expected, tolerance) {
        Ok(distance) if distance.agrees() => distance.relative.min(max_error),
        Ok(distance) => distance.relative.max(2.0 * max_error),
        Err(_) => f64::INFINITY,
    };
    let worst = outputs.iter().zip(expected).map(one).fold(0.0, f64::max);
    if outputs.len() == expected.len() { worst } else { f64::INFINITY }
}

impl Slot {
    fn run(&mut self) -> Result<(), String> {
        match &mut self.buffers {
            Some(buffers) => {
                let inputs = buffers.inputs.iter().zip(&buffers.inputs_bytes);
                let inputs: Vec<&[u8]> = inputs.map(|(words, &len)| &bytemuck::cast_slice::<u64, u8>(words)[..len]).collect();
                let outputs = buffers.outputs.iter_mut().zip(&buffers.outputs_bytes);
                let mut outputs: Vec<&mut [u8]> =
                    outputs.map(|(words, &len)| &mut bytemuck::cast_slice_mut::<u64, u8>(words)[..len]).collect();
                self.plan.run_into(&inputs, &mut outputs).map_err(|error| error.to_string())
            }
            None => self.plan.run_data(self.inputs.clone()).map(drop).map_err(|error| error.to_string()),
        }
    }
}

impl Buffers {
    fn new(plan: &Plan, inputs: &[Datum]) -> Option<Self> {
        let words = |bytes: usize| vec![0u64; bytes.div_ceil(8)];
        let (mut copies, mut inputs_bytes) = (Vec::new(), Vec::new());
        for input in inputs {
            let bytes = input.tensor()?.bytes();
            let mut copy = words(bytes.len());
            bytemuck::cast_slice_mut::<u64, u8>(&mut copy)[..bytes.len()].copy_from_slice(bytes);
            copies.push(copy);
            inputs_bytes.push(bytes.len());
        }
        let size = |ty: &Type| Some(ty.fixed_shape()?.iter().product::<usize>() * ty.dtype()?.bytes());
        let outputs_bytes: Vec<usize> = plan.outputs().map(|output| size(&output.ty)).collect::<Option<_>>()?;
        let outputs = outputs_bytes.iter().map(|&bytes| words(bytes)).collect();
        Some(Buffers { inputs: copies, outputs, inputs_bytes, outputs_bytes })
    }
}

/// Inputs as a model may get them: floats uniform in [0, 1], whole numbers within the table they index.
pub(super) fn random_inputs(graph: &Graph, seed: u64) -> Result<Vec<Datum>, String> {
    let mut stream = Stream::named(Seed(seed), "inputs of a model");
    let random = |&id: &ValueId| {
        let value = graph.value(id);
        let unknown = || format!("the size of input \"{}\" is open", value.name);
        let (dtype, shape) = (value.dtype().ok_or_else(unknown)?, value.fixed_shape().ok_or_else(unknown)?);
        let count: usize = shape.iter().product();
        let bound = indexed(graph, id).unwrap_or(INDEX_BOUND);
        let draw = |stream: &mut Stream| if counts_rounds(graph, id) { ROUNDS } else { stream.below(bound) };
        macro_rules! filled {
            ($type:ty, $draw:expr) => {
                Tensor::new(shape, (0..count).map(|_| $draw as $type).collect())
            };
        }
        Ok(Datum::Tensor(match dtype {
            DType::F32 => filled!(f32, stream.unit()),
            DType::F64 => filled!(f64, stream.unit()),
            DType::I64 => filled!(i64, draw(&mut stream)),
            DType::I32 => filled!(i32, draw(&mut stream)),
            DType::U8 => filled!(u8, stream.below(bound.min(256))),
            DType::I8 => filled!(i8, stream.below(bound.min(128))),
            DType::Bool => Tensor::bools(shape, (0..count).map(|_| stream.below(2) == 1).collect()),
            other => return Err(format!("input \"{}\" is {other}, which nobody makes at random", value.name)),
        }))
    };
    graph.inputs.iter().map(random).collect()
}

/// The rows of the smallest table that a value indexes, found through operators that only move numbers; `None` when it indexes none.
fn indexed(graph: &Graph, id: ValueId) -> Option<usize> {
    let mut least: Option<usize> = None;
    follow(graph, id, |node, place| {
        if matches!(node.op.as_str(), "Gather" | "gather" | "embedding" | "GatherElements" | "GatherND") && place > 0 {
            let axis = usize::try_from(node.attributes.int("axis").unwrap_or(0)).unwrap_or(0);
            let table = node.input(0).and_then(|table| graph.value(table).fixed_shape());
            let rows = table.and_then(|shape| shape.get(axis).copied()).filter(|&rows| rows > 0);
            least = least.into_iter().chain(rows).min();
        }
    });
    least
}

/// Whether a value says how often a loop runs.
fn counts_rounds(graph: &Graph, id: ValueId) -> bool {
    let mut counts = false;
    follow(graph, id, |node, place| counts |= node.op == "Loop" && place == 0);
    counts
}

/// Calls `meets` with each node a value reaches through operators that only move or choose numbers, and the place it has among the
/// node's inputs.
fn follow(graph: &Graph, id: ValueId, mut meets: impl FnMut(&Node, usize)) {
    let mut front = vec![id];
    for _ in 0..FOLLOWED_MAX {
        let mut next = Vec::new();
        for node in &graph.nodes {
            let Some(place) = node.inputs.iter().position(|input| input.is_some_and(|input| front.contains(&input))) else {
                continue;
            };
            meets(node, place);
            if matches!(
                node.op.as_str(),
                "Cast"
                    | "Reshape"
                    | "Squeeze"
                    | "Unsqueeze"
                    | "Identity"
                    | "Flatten"
                    | "Transpose"
                    | "transpose"
                    | "Slice"
                    | "Split"
                    | "Concat"
                    | "Expand"
                    | "Clip"
                    | "ReduceMax"
                    | "ReduceMin"
                    | "reduce"
                    | "copy"
            ) {
                next.extend(node.outputs.iter().flatten().copied());
            }
        }
        if next.is_empty() {
            break;
        }
        front = next;
    }
}
