//! The thread that keeps one worker: puts requests together in shared memory, asks the worker to run them, takes the answers apart, and
//! puts another worker in the place of one that died.

use super::catalog::{Bound, Form, Served};
use super::rows::{Cut, Part};
use super::{Outputs, Shared};
use crate::device::Grant;
use crate::execute::Port;
use crate::schedule::{DeviceId, ModelId, Nanos, RequestId, RunId, WorkerId};
use crate::worker::segment::{Segment, Sizes};
use crate::worker::{Answer, Ask, Death, Serve, SpawnError, Worker, sizes, watchdog};
use bytes::Bytes;
use kernels::{Datum, Tensor};
use schema::{Batch, FailureClass, Picos};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// A worker that takes longer for a run than this many times what was predicted hangs.
const PATIENCE_TIMES: f64 = 50.0;
/// But never less than this.
const PATIENCE_MIN: Duration = Duration::from_secs(5);
/// For making a plan.
const LOAD_MAX: Duration = Duration::from_secs(300);
/// Short asks.
const SHORT: Duration = Duration::from_secs(30);
/// A worker that dies so often, with no run between, is not replaced any more.
const DEATHS_MAX: u32 = 5;
/// Before a worker is replaced that died right away; doubled each time.
const PAUSE: Duration = Duration::from_millis(50);
/// Runs through the whole way by which a loaded plan is measured, and the time they may take.
const ROUNDS: usize = 7;
const ROUNDS_TIME: Duration = Duration::from_millis(300);

/// Which plan: of which model, for how many rows.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PlanKey {
    pub model: ModelId,
    pub rows: Batch,
}

/// What a worker makes a plan of.
#[derive(Clone)]
pub(super) struct Spec {
    pub key: PlanKey,
    pub served: Arc<Served>,
    /// Whose configs; `None`: defaults.
    pub entry: Option<usize>,
}

/// What a plan takes here, medians of some runs.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Loaded {
    /// In the worker.
    pub inner: Picos,
    /// From requests to answers.
    pub whole: Picos,
    pub runs: u32,
}

/// What a hand is told to do, in order.
pub(super) enum Job {
    Run(Run),
    Load { spec: Spec, loaded: Sender<Result<Loaded, String>> },
    Unload { model: ModelId, done: Sender<()> },
    Quit,
}

/// Requests that run together.
pub(super) struct Run {
    pub id: RunId,
    pub key: PlanKey,
    pub requests: Vec<Taken>,
    pub predicted: Nanos,
}

/// A request of a run.
pub(super) struct Taken {
    pub id: RequestId,
    pub given: Arc<Given>,
}

/// What a request brings: its inputs in the order of the ports, and how many rows they are.
pub(super) struct Given {
    pub inputs: Vec<Tensor>,
    pub rows: usize,
}

/// What a run gave.
pub(super) struct Done {
    /// For each request its outputs, or why it has none.
    pub answers: Vec<(RequestId, Result<Outputs, String>)>,
    /// From the requests to the answers.
    pub spent: Nanos,
    /// Requests were run again, one by one.
    pub disturbed: bool,
}

/// See the module.
pub(super) struct Hand {
    id: WorkerId,
    device: DeviceId,
    grant: Grant,
    program: PathBuf,
    shared: Weak<Shared>,
    jobs: Receiver<Job>,
    worker: Option<Worker>,
    plans: BTreeMap<PlanKey, Plan>,
    next_slot: u32,
    /// Since the last run.
    deaths: u32,
}

struct Plan {
    spec: Spec,
    slot: u32,
    sizes: Sizes,
    segment: Segment,
}

/// Why a run gave nothing.
enum Fault {
    Death(Death),
    Refused(String),
}

impl From<Death> for Fault {
    fn from(death: Death) -> Self {
        Fault::Death(death)
    }
}

impl Hand {
    /// With its worker, not serving yet.
    ///
    /// # Errors
    /// Why the worker cannot be started.
    pub fn new(
        (id, device): (WorkerId, DeviceId),
        grant: Grant,
        program: PathBuf,
        shared: Weak<Shared>,
        jobs: Receiver<Job>,
    ) -> Result<Hand, SpawnError> {
        let worker = Some(spawn(&grant, &program)?);
        Ok(Hand { id, device, grant, program, shared, jobs, worker, plans: BTreeMap::new(), next_slot: 0, deaths: 0 })
    }

    /// Does jobs until it is told to quit, or everyone who could tell it is gone.
    pub fn serve(mut self) {
        while let Ok(job) = self.jobs.recv() {
            match job {
                Job::Quit => break,
                Job::Run(run) => self.run(&run),
                Job::Load { spec, loaded } => {
                    // Who loads waits for it; without a receiver nobody wants to know.
                    let _ = loaded.send(self.load(spec));
                }
                Job::Unload { model, done } => {
                    self.unload(model);
                    let _ = done.send(());
                }
            }
        }
    }

    fn ask(&mut self, ask: &Ask, deadline: Duration) -> Result<Answer, Death> {
        self.ask_with(ask, &[], deadline)
    }

    fn ask_with(&mut self, ask: &Ask, files: &[BorrowedFd<'_>], deadline: Duration) -> Result<Answer, Death> {
        match &mut self.worker {
            Some(worker) => worker.ask_with(ask, files, deadline),
            None => Err(Death { class: FailureClass::Crash, detail: "it is not replaced any more".to_owned(), lane: None }),
        }
    }

    /// Makes a plan in the worker, and measures it.
    fn load(&mut self, spec: Spec) -> Result<Loaded, String> {
        let key = spec.key;
        self.make(&spec).and_then(|()| self.measure(key)).map_err(|fault| {
            self.plans.remove(&key);
            match fault {
                Fault::Refused(detail) => detail,
                Fault::Death(death) => {
                    let detail = death.detail.clone();
                    self.bury(&death, None);
                    detail
                }
            }
        })
    }

    fn plan(&mut self, key: PlanKey) -> Result<&mut Plan, Fault> {
        self.plans.get_mut(&key).ok_or_else(|| refused("there is no such plan"))
    }

    fn make(&mut self, spec: &Spec) -> Result<(), Fault> {
        let (bound, (inputs, outputs)) = spec.graph()?;
        let sizes = sizes(inputs.iter(), outputs.iter()).ok_or_else(|| refused("an input has no fixed size"))?;
        let (segment, file) = Segment::create(&sizes).map_err(no_memory)?;
        let slot = self.next_slot;
        self.next_slot += 1;
        let serve = Serve {
            artifact: spec.served.source.artifact.path().display().to_string(),
            graph: bound.graph as u32,
            entry: spec.entry.map(|entry| entry as u32),
            room: 0,
        };
        let files = [spec.served.source.file(), file.as_fd()];
        match self.ask_with(&Ask::Serve { slot, serve }, &files, LOAD_MAX)? {
            Answer::Built { .. } => {
                self.plans.insert(spec.key, Plan { spec: spec.clone(), slot, sizes, segment });
                Ok(())
            }
            other => Err(unwelcome(other)),
        }
    }

    /// Times a plan on the inputs that the worker left in its segment, by the whole way that requests go.
    fn measure(&mut self, key: PlanKey) -> Result<Loaded, Fault> {
        let plan = self.plan(key)?;
        let (_, (ports, _)) = plan.spec.graph()?;
        let tensor = |(port, bytes): (&Port, &mut &mut [u8])| {
            Tensor::from_bytes(port.ty.dtype()?, port.ty.fixed_shape()?, Bytes::copy_from_slice(bytes))
        };
        let inputs: Option<Vec<Tensor>> = ports.iter().zip(&mut plan.segment.parts().inputs).map(tensor).collect();
        let inputs = inputs.ok_or_else(|| refused("an input has no fixed size"))?;
        let given = Arc::new(Given { inputs, rows: key.rows.rows() as usize });
        let request = [Taken { id: RequestId(0), given }];
        let (mut inner, mut whole, began) = (Vec::new(), Vec::new(), Instant::now());
        while inner.is_empty() || (inner.len() < ROUNDS && began.elapsed() < ROUNDS_TIME) {
            let start = Instant::now();
            let (_, picos) = self.compute(key, &request, LOAD_MAX)?;
            whole.push((start.elapsed().as_nanos() as u64).saturating_mul(1000));
            inner.push(picos);
        }
        let median = |times: &mut Vec<u64>| {
            times.sort_unstable();
            Picos(times[times.len() / 2])
        };
        let runs = inner.len() as u32;
        Ok(Loaded { inner: median(&mut inner), whole: median(&mut whole), runs })
    }

    fn unload(&mut self, model: ModelId) {
        let slots = self.plans.iter().filter(|(key, _)| key.model == model).map(|(_, plan)| plan.slot).collect();
        if let Err(death) = self.ask(&Ask::Release { slots }, SHORT) {
            self.plans.retain(|key, _| key.model != model);
            self.bury(&death, None);
        }
        // The artifact and the segments stay until the worker has let go of them.
        self.plans.retain(|key, _| key.model != model);
    }

    fn run(&mut self, run: &Run) {
        let start = Instant::now();
        let patience = PATIENCE_MIN.max(Duration::from_secs_f64(run.predicted.as_secs_f64().min(1e6) * PATIENCE_TIMES));
        let mut answers = Vec::with_capacity(run.requests.len());
        let mut disturbed = false;
        match self.compute(run.key, &run.requests, patience) {
            Ok((outputs, _)) => {
                answers.extend(run.requests.iter().zip(outputs).map(|(request, outputs)| (request.id, Ok(outputs))))
            }
            Err(Fault::Death(death)) => return self.bury(&death, Some(run.id)),
            Err(Fault::Refused(detail)) if run.requests.len() == 1 => answers.push((run.requests[0].id, Err(detail))),
            // One of them is at fault, and the others are not to suffer for it.
            Err(Fault::Refused(_)) => {
                disturbed = true;
                for request in &run.requests {
                    let answer = match self.compute(run.key, std::slice::from_ref(request), patience) {
                        Ok((mut outputs, _)) => Ok(outputs.remove(0)),
                        Err(Fault::Refused(detail)) => Err(detail),
                        Err(Fault::Death(death)) => return self.bury(&death, Some(run.id)),
                    };
                    answers.push((request.id, answer));
                }
            }
        }
        self.deaths = 0;
        let spent = Nanos(start.elapsed().as_nanos() as u64);
        if let Some(shared) = self.shared.upgrade() {
            shared.finished(run.id, Done { answers, spent, disturbed });
        }
    }

    /// The outputs of each request, in batches of the plan's rows, and the picoseconds that the worker computed.
    fn compute(&mut self, key: PlanKey, requests: &[Taken], patience: Duration) -> Result<(Vec<Outputs>, u64), Fault> {
        let served = self.plan(key)?.spec.served.clone();
        let Form::Rows { inputs, outputs } = &served.form else {
            return self.compute_whole(key, &requests[0], patience);
        };
        let batch = key.rows.rows() as usize;
        let total: usize = requests.iter().map(|request| request.given.rows).sum();
        let bytes_of = |cut: &Cut, rows| cut.shape_of(rows).iter().product::<usize>() * cut.dtype.bytes();
        let room = |request: &Taken| outputs.iter().map(|cut| Vec::with_capacity(bytes_of(cut, request.given.rows))).collect();
        let mut results: Vec<Vec<Vec<u8>>> = requests.iter().map(room).collect();
        let mut spent = 0;
        for begin in (0..total).step_by(batch) {
            let together = pieces(requests, begin, (begin + batch).min(total));
            let mut parts = self.plan(key)?.segment.parts();
            for (at, cut) in inputs.iter().enumerate() {
                let part = |(request, taken): &(usize, Range<usize>)| {
                    let request = &requests[*request].given;
                    Part { bytes: request.inputs[at].bytes(), rows: request.rows, taken: taken.clone() }
                };
                let rows: Vec<Part<'_>> = together.iter().map(part).collect();
                cut.gather(parts.inputs[at], batch, &rows);
            }
            spent += self.ask_run(key, patience)?.0;
            let parts = self.plan(key)?.segment.parts();
            for (at, cut) in outputs.iter().enumerate() {
                let mut first = 0;
                for (request, taken) in &together {
                    let into = (&mut results[*request][at], requests[*request].given.rows, taken.clone());
                    cut.scatter(parts.outputs[at], batch, first, into);
                    first += taken.len();
                }
            }
        }
        let tensors = |(request, results): (&Taken, Vec<Vec<u8>>)| {
            let tensor = |(cut, bytes): (&Cut, Vec<u8>)| {
                let tensor = Tensor::from_bytes(cut.dtype, cut.shape_of(request.given.rows), bytes.into());
                tensor.map(|tensor| (cut.name.clone(), Datum::Tensor(tensor)))
            };
            let all: Option<Outputs> = outputs.iter().zip(results).map(tensor).collect();
            all.ok_or_else(|| refused("an output has another size than its type says"))
        };
        let answers: Result<Vec<Outputs>, Fault> = requests.iter().zip(results).map(tensors).collect();
        Ok((answers?, spent))
    }

    /// One request of exactly the plan's shapes.
    fn compute_whole(&mut self, key: PlanKey, request: &Taken, patience: Duration) -> Result<(Vec<Outputs>, u64), Fault> {
        let plan = self.plan(key)?;
        let served = plan.spec.served.clone();
        for (part, tensor) in plan.segment.parts().inputs.into_iter().zip(&request.given.inputs) {
            part.copy_from_slice(tensor.bytes());
        }
        let (picos, dynamic) = self.ask_run(key, patience)?;
        let parts = self.plan(key)?.segment.parts();
        let (mut shapes, mut end) = (dynamic.into_iter(), 0usize);
        let mut outputs = Outputs::new();
        for (port, part) in served.outputs.iter().zip(&parts.outputs) {
            let odd = || refused(format!("output \"{}\" has another size than the worker says", port.name));
            let dtype = port.ty.dtype().ok_or_else(odd)?;
            let (shape, bytes) = match port.ty.fixed_shape() {
                Some(shape) => (shape, &**part),
                None => {
                    let shape: Vec<usize> = shapes.next().ok_or_else(odd)?.iter().map(|&extent| extent as usize).collect();
                    let bytes =
                        shape.iter().try_fold(dtype.bytes(), |bytes, &extent| bytes.checked_mul(extent)).ok_or_else(odd)?;
                    let place = end..end.checked_add(bytes).ok_or_else(odd)?;
                    end = place.end;
                    (shape, parts.room.get(place).ok_or_else(odd)?)
                }
            };
            let tensor = Tensor::from_bytes(dtype, shape, Bytes::copy_from_slice(bytes)).ok_or_else(odd)?;
            outputs.push((port.name.clone(), Datum::Tensor(tensor)));
        }
        Ok((vec![outputs], picos))
    }

    /// Runs what lies in a plan's segment: picoseconds, and the shapes of outputs without a fixed size.
    fn ask_run(&mut self, key: PlanKey, patience: Duration) -> Result<(u64, Vec<Vec<u64>>), Fault> {
        let slot = self.plan(key)?.slot;
        let mut answer = self.ask(&Ask::Run { slot }, patience)?;
        if let Answer::Room { bytes } = answer {
            let plan = self.plan(key)?;
            plan.sizes.room = bytes.next_power_of_two();
            // The inputs are in the old one; the next run writes new ones.
            let (segment, file) = Segment::create(&plan.sizes).map_err(no_memory)?;
            plan.segment = segment;
            let ask = Ask::Collect { slot, room: plan.sizes.room };
            answer = self.ask_with(&ask, &[file.as_fd()], SHORT)?;
        }
        match answer {
            Answer::Ran { picos, dynamic } => Ok((picos, dynamic)),
            other => Err(unwelcome(other)),
        }
    }

    /// The worker died: says so, and puts another in its place.
    fn bury(&mut self, death: &Death, run: Option<RunId>) {
        self.worker = None;
        let Some(shared) = self.shared.upgrade() else { return };
        tracing::warn!(
            "worker {} ({} at {} %): {}; it is replaced",
            self.id.0,
            self.grant.device.0,
            self.grant.share,
            death.detail
        );
        shared.worker_lost(self.id, run, death);
        loop {
            self.deaths += 1;
            if self.deaths > DEATHS_MAX || shared.is_over() {
                break;
            }
            if self.deaths > 1 {
                std::thread::sleep(PAUSE * (1 << self.deaths.min(6)));
            }
            match self.replace() {
                Ok(()) => return shared.worker_ready(self.id),
                Err(detail) => tracing::warn!("worker {} is not replaced yet: {detail}", self.id.0),
            }
        }
        if !shared.is_over() {
            shared.device_lost(self.device, death);
        }
    }

    /// Another worker with the same plans.
    fn replace(&mut self) -> Result<(), String> {
        self.worker = Some(spawn(&self.grant, &self.program).map_err(|error| error.to_string())?);
        for spec in self.plans.values().map(|plan| plan.spec.clone()).collect::<Vec<_>>() {
            if let Err(fault) = self.make(&spec) {
                self.worker = None;
                return Err(match fault {
                    Fault::Refused(detail) => detail,
                    Fault::Death(death) => death.detail,
                });
            }
        }
        Ok(())
    }
}

impl Spec {
    /// Its graph, with inputs and outputs.
    fn graph(&self) -> Result<(Bound, (Vec<Port>, Vec<Port>)), Fault> {
        let bound = *self.served.bound(self.key.rows).ok_or_else(|| refused("there is no such graph"))?;
        let ports = self.served.ports_of(bound.graph).map_err(|error| refused(error.to_string()))?;
        Ok((bound, ports))
    }
}

/// A worker that may hold what models need.
fn spawn(grant: &Grant, program: &Path) -> Result<Worker, SpawnError> {
    let mut worker = Worker::spawn(grant, program)?;
    worker.set_resident_max_bytes(watchdog::serving_max_bytes());
    Ok(worker)
}

fn refused(detail: impl Into<String>) -> Fault {
    Fault::Refused(detail.into())
}

fn no_memory(error: io::Error) -> Fault {
    refused(format!("no memory to share with the worker: {error}"))
}

/// An answer that is none.
fn unwelcome(answer: Answer) -> Fault {
    match answer {
        Answer::Refused { detail, .. } | Answer::Wrong { reason: detail } => Fault::Refused(detail),
        other => refused(format!("the worker answered {other:?}")),
    }
}

/// Which rows of which requests are the rows `begin..end` of all.
fn pieces(requests: &[Taken], begin: usize, end: usize) -> Vec<(usize, Range<usize>)> {
    let mut first = 0;
    let mut pieces = Vec::new();
    for (at, request) in requests.iter().enumerate() {
        let rows = request.given.rows;
        let taken = begin.saturating_sub(first)..end.saturating_sub(first).min(rows);
        if taken.start < taken.end {
            pieces.push((at, taken));
        }
        first += rows;
    }
    pieces
}
