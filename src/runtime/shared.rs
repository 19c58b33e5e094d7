//! What all threads of a runtime share: the scheduler's core, the accepted requests, and the mailboxes of the hands.
//!
//! Whoever brings news (a request, a finished run, the clock) holds the one lock, tells the core, and carries out what it answers until it
//! has nothing more to say: there is no thread in between. Answers are given after the lock is let go.

use super::catalog::Served;
use super::decision::{Decision, Happened};
use super::hand::{Done, Job, PlanKey, Run, Taken};
use super::pending::{Answered, Slot};
use super::predict::{PlacedAt, Table};
use super::{Answer, RuntimeError};
use crate::schedule::{
    self, Action, Cancelled, Core, DeviceId, Event, Index, IndexError, Lesson, ModelId, Nanos, RequestId, RunId, Spent, Stages,
    WorkerId,
};
use crate::worker::Death;
use kernels::Tensor;
use schema::Batch;
use std::collections::HashMap;
use std::io;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Workers that may die under one request before it is given up: it may be what they die of.
const ATTEMPTS_MAX: u32 = 2;

/// See the module.
pub(super) struct Shared {
    inner: Mutex<Inner>,
    /// The core wants to be asked earlier, or it is over.
    sooner: Condvar,
    /// Something was answered.
    answered: Condvar,
    start: Instant,
    /// For threads that must not keep it alive.
    own: Weak<Shared>,
}

/// Behind the lock.
pub(super) struct Inner {
    pub core: Core,
    live: HashMap<RequestId, Live>,
    index: Arc<Index>,
    table: Arc<Table>,
    models: Vec<Option<Arc<Served>>>,
    /// Models that accept nothing any more.
    retired: Vec<ModelId>,
    jobs: Vec<Sender<Job>>,
    /// When the clock asks next.
    alarm: Nanos,
    over: bool,
}

/// An accepted request.
pub(super) struct Live {
    pub model: ModelId,
    pub inputs: Vec<Tensor>,
    pub rows: usize,
    pub slot: Arc<Slot>,
    pub submitted: Nanos,
    pub attempts: u32,
}

/// Answers that are to be given when the lock is free.
type Answers = Vec<(Arc<Slot>, Answered)>;

impl Shared {
    /// Without workers and models, with its clock running.
    ///
    /// # Errors
    /// When there is no thread for the clock.
    pub fn new(core: Core, index: Arc<Index>) -> io::Result<Arc<Shared>> {
        let inner = Inner {
            core,
            live: HashMap::new(),
            index,
            table: Arc::default(),
            models: Vec::new(),
            retired: Vec::new(),
            jobs: Vec::new(),
            alarm: Nanos::NEVER,
            over: false,
        };
        let (sooner, answered) = (Condvar::new(), Condvar::new());
        let (inner, start) = (Mutex::new(inner), Instant::now());
        let shared = Arc::new_cyclic(|own| Shared { inner, sooner, answered, start, own: own.clone() });
        let weak = shared.own.clone();
        // It holds the runtime only while it works, so that dropping it ends it.
        std::thread::Builder::new()
            .name("clock".to_owned())
            .spawn(move || while weak.upgrade().is_some_and(|shared| shared.tick()) {})?;
        Ok(shared)
    }

    /// Since the runtime began.
    pub fn now(&self) -> Nanos {
        Nanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the mailboxes of the hands, by the numbers of their workers.
    pub fn employ(&self, jobs: Vec<Sender<Job>>) {
        self.lock().jobs = jobs;
    }

    /// Puts a job into a mailbox. What is sent to a hand that is gone is dropped, and with it whatever waits for its answer is told.
    pub fn tell(&self, worker: WorkerId, job: Job) {
        self.lock().tell(worker, job);
    }

    /// Waits for the core's next instant, and carries out what is to be done then. Whether to go on.
    fn tick(&self) -> bool {
        /// A runtime that is dropped meanwhile is noticed after this time at most.
        const LOOK: Duration = Duration::from_millis(200);
        let inner = self.lock();
        if inner.over {
            return false;
        }
        let now = self.now();
        if inner.alarm <= now {
            self.pump(inner);
            return true;
        }
        let wait = Duration::from_nanos((inner.alarm - now).0).min(LOOK);
        let (inner, _) = self.sooner.wait_timeout(inner, wait).unwrap_or_else(PoisonError::into_inner);
        !inner.over
    }

    /// Asks the core until it has nothing more to say, lets the lock go, and answers.
    pub fn pump(&self, inner: MutexGuard<'_, Inner>) {
        self.pump_with(inner, Answers::new());
    }

    fn pump_with(&self, mut inner: MutexGuard<'_, Inner>, mut answers: Answers) {
        let now = self.now();
        while let Some(action) = inner.core.step(now) {
            match action {
                Action::Start { run, decision } => inner.start(run, &decision),
                Action::Refuse { request, refusal } => {
                    if let Some(live) = inner.live.remove(&request) {
                        let model = inner.name(live.model);
                        answers.push((live.slot, Err(RuntimeError::Refused { model, refusal })));
                    }
                }
            }
        }
        let wake = inner.core.wake_at();
        let sooner = wake < inner.alarm;
        inner.alarm = wake;
        drop(inner);
        if sooner {
            self.sooner.notify_one();
        }
        if !answers.is_empty() {
            answers.into_iter().for_each(|(slot, answer)| slot.fill(answer));
            self.answered.notify_all();
        }
    }

    /// A run is over.
    pub fn finished(&self, run: RunId, done: Done) {
        let mut inner = self.lock();
        let now = self.now();
        let decision = inner.core.decision_of(run).copied();
        let failed = done.answers.iter().all(|(_, answer)| answer.is_err());
        let waiting: Vec<_> = inner.core.requests_of(run).to_vec();
        let spent = decision.filter(|_| !failed).map(|decision| Spent {
            stages: Stages { upload: Nanos::ZERO, compute: done.spent, download: Nanos::ZERO },
            gap: decision.gap,
            disturbed: done.disturbed,
        });
        // A run that is not in flight any more was lost with its worker: its requests run again.
        let counts = inner.core.on(now, Event::Finished { run, spent }).unwrap_or(false);
        let (Some(decision), true) = (decision, counts) else { return self.pump(inner) };
        if let Some(lesson) = inner.core.take_lesson(now) {
            self.learn(lesson);
        }
        let place = PlacedAt { model: decision.model, device: decision.device, share: decision.share, rows: decision.batch };
        let (index, table) = (inner.index.clone(), inner.table.clone());
        let mut answers = Answers::with_capacity(done.answers.len());
        for (request, outputs) in done.answers {
            let Some(live) = inner.live.remove(&request) else { continue };
            let deadline = waiting.iter().find(|waiting| waiting.id == request).map_or(Nanos::NEVER, |waiting| waiting.deadline);
            let happened = Happened { submitted: live.submitted, spent: done.spent, deadline, now, attempts_lost: live.attempts };
            let answer = match outputs {
                Ok(outputs) => {
                    let decision = Decision::new(&decision, &index, table.get(place), &happened);
                    Ok(Answer { outputs, decision })
                }
                Err(detail) => Err(RuntimeError::Run { model: inner.name(live.model), detail }),
            };
            answers.push((live.slot, answer));
        }
        self.pump_with(inner, answers);
    }

    /// Learns on a thread of its own, which nothing waits for. Without one what was known stays.
    fn learn(&self, lesson: Lesson) {
        let shared = self.own.clone();
        let learn = move || {
            let learnt = lesson.learn();
            if let Some(shared) = shared.upgrade() {
                let mut inner = shared.lock();
                let _ = inner.core.on(shared.now(), Event::Learnt(learnt));
                shared.pump(inner);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("lesson".to_owned()).spawn(learn) {
            tracing::warn!("nothing is learnt from what ran: no thread: {error}");
        }
    }

    /// A worker died, with a run or without.
    pub fn worker_lost(&self, worker: WorkerId, run: Option<RunId>, death: &Death) {
        let mut inner = self.lock();
        let requests: Vec<RequestId> =
            run.map(|run| inner.core.requests_of(run).iter().map(|request| request.id).collect()).unwrap_or_default();
        let _ = inner.core.on(self.now(), Event::WorkerLost { worker });
        let mut answers = Answers::new();
        for request in requests {
            let Some(live) = inner.live.get_mut(&request) else { continue };
            live.attempts += 1;
            if live.attempts >= ATTEMPTS_MAX && inner.core.cancel(request) == Cancelled::Forgotten {
                let Some(live) = inner.live.remove(&request) else { continue };
                let detail = format!("{} workers died while they ran it, the last because it {}", live.attempts, death.detail);
                answers.push((live.slot, Err(RuntimeError::Run { model: inner.name(live.model), detail })));
            }
        }
        self.pump_with(inner, answers);
    }

    /// A worker is there again.
    pub fn worker_ready(&self, worker: WorkerId) {
        let mut inner = self.lock();
        let _ = inner.core.on(self.now(), Event::WorkerReady { worker });
        self.pump(inner);
    }

    /// A device is not to be had any more.
    pub fn device_lost(&self, device: DeviceId, death: &Death) {
        let mut inner = self.lock();
        tracing::warn!("{} is lost: {}", inner.index.devices()[usize::from(device.0)].0, death.detail);
        let _ = inner.core.on(self.now(), Event::DeviceLost { device });
        self.pump(inner);
    }

    /// Takes a request back: whether it had waited still.
    pub fn cancel(&self, request: RequestId) -> bool {
        let mut inner = self.lock();
        if !inner.live.contains_key(&request) || inner.core.cancel(request) != Cancelled::Forgotten {
            return false;
        }
        inner.live.remove(&request);
        self.pump(inner);
        self.answered.notify_all();
        true
    }

    /// Another generation of records or of what is loaded.
    ///
    /// # Errors
    /// [`IndexError`]; the old one stays.
    pub fn publish(&self, index: Arc<Index>, models: Vec<Option<Arc<Served>>>, table: Table) -> Result<(), IndexError> {
        let mut inner = self.lock();
        inner.core.on(self.now(), Event::Generation(index.clone()))?;
        inner.retired.retain(|id| models[usize::from(id.0)].is_none());
        (inner.index, inner.models, inner.table) = (index, models, Arc::new(table));
        self.pump(inner);
        Ok(())
    }

    /// Lets the models of that name accept nothing any more.
    pub fn retire(&self, name: &str) -> Vec<ModelId> {
        let mut inner = self.lock();
        let ids: Vec<ModelId> = inner.numbered().filter(|(_, served)| served.source.name() == name).map(|(id, _)| id).collect();
        inner.retired.extend(&ids);
        ids
    }

    /// Waits until something holds that answers bring about.
    pub fn wait_until(&self, holds: impl Fn(&Inner) -> bool) {
        /// A run that is answered with nothing wakes nobody.
        const LOOK: Duration = Duration::from_millis(20);
        let mut inner = self.lock();
        while !holds(&inner) {
            inner = self.answered.wait_timeout(inner, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Accepts nothing more, waits until all is answered, and tells the hands to quit.
    pub fn close(&self) {
        self.lock().core.close();
        self.wait_until(|inner| inner.live.is_empty());
        let mut inner = self.lock();
        inner.over = true;
        for jobs in std::mem::take(&mut inner.jobs) {
            // A hand that is gone needs not be told.
            let _ = jobs.send(Job::Quit);
        }
        drop(inner);
        self.sooner.notify_all();
    }

    /// Whether it was closed and all is answered.
    pub fn is_over(&self) -> bool {
        self.lock().over
    }
}

impl Inner {
    /// The model that takes these inputs, these in its order, and their rows.
    pub fn accept(&self, name: &str, inputs: &[(String, Tensor)]) -> Option<(ModelId, (Vec<Tensor>, Batch))> {
        self.numbered()
            .filter(|(_, served)| served.source.name() == name)
            .find_map(|(id, served)| Some((id, served.accept(inputs)?)))
    }

    /// What is served under a name.
    pub fn served(&self, name: &str) -> impl Iterator<Item = &Served> {
        self.numbered().map(|(_, served)| served).filter(move |served| served.source.name() == name)
    }

    /// The names by which requests call models.
    pub fn models(&self) -> Vec<String> {
        let mut names: Vec<String> = self.numbered().map(|(_, served)| served.source.name().to_owned()).collect();
        names.dedup();
        names
    }

    /// What the core decides by.
    pub fn index(&self) -> Arc<Index> {
        self.index.clone()
    }

    fn numbered(&self) -> impl Iterator<Item = (ModelId, &Served)> {
        let all = self.models.iter().enumerate().map(|(at, served)| (ModelId(at as u16), served));
        all.filter(|(id, _)| !self.retired.contains(id)).filter_map(|(id, served)| Some((id, &**served.as_ref()?)))
    }

    fn name(&self, model: ModelId) -> String {
        self.index.models()[usize::from(model.0)].name.clone()
    }

    /// Keeps an accepted request.
    pub fn keep(&mut self, request: RequestId, live: Live) {
        self.live.insert(request, live);
    }

    fn tell(&mut self, worker: WorkerId, job: Job) {
        if let Some(jobs) = self.jobs.get(usize::from(worker.0)) {
            let _ = jobs.send(job);
        }
    }

    /// Hands a run to its worker.
    fn start(&mut self, run: RunId, decision: &schedule::Decision) {
        let taken = |waiting: &schedule::Waiting| {
            let live = self.live.get(&waiting.id)?;
            Some(Taken { id: waiting.id, inputs: live.inputs.clone(), rows: live.rows })
        };
        let requests = self.core.requests_of(run).iter().filter_map(taken).collect();
        let key = PlanKey { model: decision.model, rows: decision.batch };
        self.tell(decision.worker, Job::Run(Run { id: run, key, requests, predicted: decision.stages.total() }));
    }
}
