//! The thread that keeps one worker: puts requests together in shared memory, asks the worker to run them, takes the answers apart, and
//! puts another worker in the place of one that died.
//!
//! It waits for jobs and for its worker at once. A worker of a device whose engines copy while it computes has several instances of each
//! plan, so that the next run goes up before the last one is over; the scheduler is told when a leg of a run is.

mod plans;

pub(super) use plans::{Loaded, Spec};

use super::flight::Flight;
use super::mailbox::Mailbox;
use super::{Outputs, Shared};
use crate::device::Grant;
use crate::execute::Leg;
use crate::schedule::{DeviceId, Engines, ModelId, Nanos, RequestId, RunId, Stage, Stages, WorkerId};
use crate::worker::segment::Segment;
use crate::worker::{Answer, Ask, Death, Heard, SpawnError, Told, Worker, watchdog};
use kernels::Tensor;
use plans::{Plan, no_memory};
use rustix::event::{PollFd, PollFlags, poll};
use schema::{Batch, FailureClass, Picos};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// A worker that takes longer for a run than this many times what was predicted hangs.
const PATIENCE_TIMES: f64 = 50.0;
/// But never less than this.
const PATIENCE_MIN: Duration = Duration::from_secs(5);
/// Short asks.
const SHORT: Duration = Duration::from_secs(30);
/// A worker that dies so often, with no run between, is not replaced any more.
const DEATHS_MAX: u32 = 5;
/// Before a worker is replaced that died right away; doubled each time.
const PAUSE: Duration = Duration::from_millis(50);

/// Which plan: of which model, for how many rows.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PlanKey {
    pub model: ModelId,
    pub rows: Batch,
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
    /// From the requests to the answers, without waiting for runs before it.
    pub spent: Stages,
    /// Requests were run again, one by one.
    pub disturbed: bool,
}

/// See the module.
pub(super) struct Hand {
    id: WorkerId,
    device: DeviceId,
    engines: Engines,
    grant: Grant,
    program: PathBuf,
    shared: Weak<Shared>,
    jobs: Mailbox,
    worker: Option<Worker>,
    plans: BTreeMap<PlanKey, Plan>,
    next_slot: u32,
    /// In the order they began.
    ways: Vec<Way>,
    /// When each leg was last over, of whichever run.
    ended: [Instant; 3],
    /// Since the last run.
    deaths: u32,
}

/// A flight, and where it is.
struct Way {
    /// `None`: it is only measured.
    run: Option<RunId>,
    flight: Flight,
    key: PlanKey,
    slot: u32,
    /// When the worker hangs.
    late: Instant,
    /// Since when it has been on the leg that it is on.
    since: Instant,
    /// Legs that are over of what goes through the plan now.
    passed: usize,
    spent: Stages,
    /// In the worker.
    inner: Picos,
}

impl Way {
    /// A leg is over, which could not begin before the last one's was.
    fn pass(&mut self, stage: Stage, ended: &mut [Instant; 3]) {
        let now = Instant::now();
        let engine = &mut ended[stage as usize];
        let took = Nanos((now - self.since.max(*engine)).as_nanos() as u64);
        (self.since, *engine) = (now, now);
        let spent = match stage {
            Stage::Upload => &mut self.spent.upload,
            Stage::Compute => &mut self.spent.compute,
            Stage::Download => &mut self.spent.download,
        };
        *spent = *spent + took;
    }
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
        (id, device, engines): (WorkerId, DeviceId, Engines),
        grant: Grant,
        program: PathBuf,
        shared: Weak<Shared>,
        jobs: Mailbox,
    ) -> Result<Hand, SpawnError> {
        let worker = Some(spawn(&grant, &program)?);
        let (plans, ways, ended) = (BTreeMap::new(), Vec::new(), [Instant::now(); 3]);
        Ok(Hand { id, device, engines, grant, program, shared, jobs, worker, plans, next_slot: 0, ways, ended, deaths: 0 })
    }

    /// Does jobs until it is told to quit, or everyone who could tell it is gone.
    pub fn serve(mut self) {
        loop {
            self.jobs.silence();
            while let Some(job) = self.jobs.next() {
                if matches!(job, Job::Quit) {
                    return;
                }
                self.take(job);
            }
            self.hear_or_bury(true);
        }
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Quit => {}
            Job::Run(run) => self.run(run),
            Job::Load { spec, loaded } => {
                self.land_all();
                // Who loads waits for it; without a receiver nobody wants to know.
                let _ = loaded.send(self.load(spec));
            }
            Job::Unload { model, done } => {
                self.land_all();
                self.unload(model);
                let _ = done.send(());
            }
        }
    }

    fn worker(&mut self) -> Result<&mut Worker, Death> {
        let gone = || Death { class: FailureClass::Crash, detail: "it is not replaced any more".to_owned(), lane: None };
        self.worker.as_mut().ok_or_else(gone)
    }

    /// Waits until the worker says something, and does what follows from it; with `jobs` at most until there is one. Gives what was only
    /// measured, when it is over.
    fn hear(&mut self, jobs: bool) -> Result<Option<Way>, Death> {
        let late = self.ways.iter().map(|way| way.late).min();
        let bell = jobs.then(|| self.jobs.bell());
        let heard = match &mut self.worker {
            Some(worker) => worker.hear(late, bell)?,
            None => {
                let mut bell = [PollFd::from_borrowed_fd(self.jobs.bell(), PollFlags::IN)];
                // Woken for nothing it looks and waits again.
                let _ = poll(&mut bell, None);
                Heard::Bell
            }
        };
        match heard {
            Heard::Answer(Answer::Run { slot, told }) => self.told(slot, told),
            Heard::Answer(other) => {
                let detail = format!("it answered {other:?}, which nobody had asked");
                Err(Death { class: FailureClass::Crash, detail, lane: None })
            }
            Heard::Bell => Ok(None),
        }
    }

    fn hear_or_bury(&mut self, jobs: bool) {
        if let Err(death) = self.hear(jobs) {
            self.bury(&death);
        }
    }

    /// Waits for what is in flight.
    fn land_all(&mut self) {
        while !self.ways.is_empty() {
            self.hear_or_bury(false);
        }
    }

    fn ask(&mut self, ask: &Ask, files: &[BorrowedFd<'_>], within: Duration) -> Result<Answer, Death> {
        self.worker()?.ask_with(ask, files, within)
    }

    fn run(&mut self, run: Run) {
        let patience = PATIENCE_MIN.max(Duration::from_secs_f64(run.predicted.as_secs_f64().min(1e6) * PATIENCE_TIMES));
        let ids: Vec<RequestId> = run.requests.iter().map(|request| request.id).collect();
        match self.begin(Some(run.id), run.key, run.requests, patience) {
            Ok(way) => self.ways.push(way),
            Err(Fault::Refused(detail)) => {
                let answers = ids.into_iter().map(|id| (id, Err(detail.clone()))).collect();
                self.finished(run.id, Done { answers, spent: Stages::default(), disturbed: true });
            }
            Err(Fault::Death(death)) => self.bury_with(&death, vec![run.id]),
        }
    }

    /// Puts requests into an instance of a plan that is free, and has it run.
    fn begin(&mut self, run: Option<RunId>, key: PlanKey, requests: Vec<Taken>, patience: Duration) -> Result<Way, Fault> {
        let began = Instant::now();
        let slot = loop {
            let ways = &self.ways;
            let plan = self.plans.get(&key).ok_or_else(|| refused("there is no such plan"))?;
            let free = plan.instances.iter().find(|instance| ways.iter().all(|way| way.slot != instance.slot));
            match free {
                Some(instance) => break instance.slot,
                None => drop(self.hear(false)?),
            }
        };
        let served = self.plan(key)?.spec.served.clone();
        let (flight, late) = (Flight::new(served, key.rows, requests), began + patience);
        let (spent, inner) = (Stages::default(), Picos(0));
        let mut way = Way { run, flight, key, slot, late, since: began, passed: 0, spent, inner };
        self.send(&mut way)?;
        Ok(way)
    }

    fn segment(&mut self, way: &Way) -> Result<&mut Segment, Fault> {
        let instances = &mut self.plan(way.key)?.instances;
        let instance = instances.iter_mut().find(|instance| instance.slot == way.slot);
        Ok(&mut instance.ok_or_else(|| refused("there is no such instance"))?.segment)
    }

    /// Has the worker run what comes next.
    fn send(&mut self, way: &mut Way) -> Result<(), Fault> {
        way.passed = 0;
        way.flight.write(&mut self.segment(way)?.parts());
        Ok(self.worker()?.tell(&Ask::Run { slot: way.slot }, &[])?)
    }

    /// The worker tells of a run. Gives what was only measured, when it is over.
    fn told(&mut self, slot: u32, told: Told) -> Result<Option<Way>, Death> {
        // What died with a worker is not heard of again.
        let Some(at) = self.ways.iter().position(|way| way.slot == slot) else { return Ok(None) };
        let mut way = self.ways.remove(at);
        match self.advance(&mut way, told) {
            Ok(()) => {}
            Err(Fault::Refused(detail)) => way.flight.failed(&detail),
            Err(Fault::Death(death)) => {
                self.ways.insert(at, way);
                return Err(death);
            }
        }
        if !way.flight.is_over() {
            self.ways.insert(at, way);
            return Ok(None);
        }
        self.deaths = 0;
        let Some(run) = way.run else { return Ok(Some(way)) };
        let (spent, disturbed) = (way.spent, way.flight.disturbed());
        self.finished(run, Done { answers: way.flight.answers(), spent, disturbed });
        Ok(None)
    }

    /// What the worker told moves a flight on.
    fn advance(&mut self, way: &mut Way, told: Told) -> Result<(), Fault> {
        match told {
            Told::Passed(leg) => {
                let stage = if leg == Leg::Upload { Stage::Upload } else { Stage::Compute };
                way.pass(stage, &mut self.ended);
                way.passed += 1;
                if let (Some(run), true, Some(shared)) = (way.run, way.flight.is_last(), self.shared.upgrade()) {
                    shared.passed(run, stage);
                }
                return Ok(());
            }
            Told::Ran { picos, dynamic } => {
                let parts = self.segment(way)?.parts();
                way.flight.read(&parts, &dynamic);
                way.inner = Picos(way.inner.0.saturating_add(picos));
                let last = if way.passed == 0 { Stage::Compute } else { Stage::Download };
                way.pass(last, &mut self.ended);
            }
            Told::Room { bytes } => {
                let (plan, slot) = (self.plan(way.key)?, way.slot);
                plan.sizes.room = bytes.next_power_of_two();
                // The inputs are in the old one; the next run writes new ones.
                let (segment, file) = Segment::create(&plan.sizes).map_err(no_memory)?;
                let collect = Ask::Collect { slot, room: plan.sizes.room };
                *self.segment(way)? = segment;
                return Ok(self.worker()?.tell(&collect, &[file.as_fd()])?);
            }
            Told::Refused { detail } => way.flight.refused(detail),
        }
        if way.flight.is_over() { Ok(()) } else { self.send(way) }
    }

    fn finished(&self, run: RunId, done: Done) {
        if let Some(shared) = self.shared.upgrade() {
            shared.finished(run, done);
        }
    }

    /// The worker died: says so, and puts another in its place.
    fn bury(&mut self, death: &Death) {
        self.bury_with(death, Vec::new());
    }

    /// The same, with runs that were not yet on their way.
    fn bury_with(&mut self, death: &Death, mut runs: Vec<RunId>) {
        self.worker = None;
        runs.extend(self.ways.drain(..).filter_map(|way| way.run));
        let Some(shared) = self.shared.upgrade() else { return };
        tracing::warn!(
            "worker {} ({} at {} %): {}; it is replaced",
            self.id.0,
            self.grant.device.0,
            self.grant.share,
            death.detail
        );
        shared.worker_lost(self.id, &runs, death);
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

/// A worker that may hold what models need.
fn spawn(grant: &Grant, program: &Path) -> Result<Worker, SpawnError> {
    let mut worker = Worker::spawn(grant, program)?;
    worker.set_resident_max_bytes(watchdog::serving_max_bytes());
    Ok(worker)
}

fn refused(detail: impl Into<String>) -> Fault {
    Fault::Refused(detail.into())
}
