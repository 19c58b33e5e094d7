//! What all threads of a runtime share: the scheduler's core, the accepted requests, and the mailboxes of the hands.
//!
//! Whoever brings news (a request, a finished run, the clock) holds the one lock, tells the core, and carries out what it answers until it
//! has nothing more to say: there is no thread in between. What needs no lock is done without it: which model takes a request is looked up
//! in [`Routes`] before, answers are made and given after.

use super::catalog::{Routes, Served};
use super::decision::{Decision, Happened};
use super::hand::{Done, Given, Job, PlanKey, Run, Taken};
use super::mailbox::{Bell, Sender};
use super::pending::{Answered, Slot};
use super::predict::{PlacedAt, Table};
use super::{Answer, Outputs, RuntimeError};
use crate::schedule::{
    self, Action, Cancelled, Core, DeviceId, Event, Index, IndexError, Lesson, ModelId, Nanos, RequestId, RunId, Spent, Stage,
    WorkerId,
};
use crate::worker::Death;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Workers that may die under one request before it is given up: it may be what they die of.
const ATTEMPTS_MAX: u32 = 2;

/// See the module.
pub(super) struct Shared {
    inner: Mutex<Inner>,
    routes: RwLock<Arc<Routes>>,
    /// The core wants to be asked earlier, or it is over.
    sooner: Condvar,
    /// Something changed that a thread in `wait_until` may wait for.
    changed: Condvar,
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
    /// By number; `None` where a model accepts nothing any more.
    models: Vec<Option<Arc<Served>>>,
    jobs: Vec<Sender>,
    /// When the clock asks next.
    alarm: Nanos,
    /// Threads in `wait_until`.
    waiting: usize,
    over: bool,
}

/// An accepted request.
pub(super) struct Live {
    pub model: ModelId,
    pub given: Arc<Given>,
    pub slot: Arc<Slot>,
    pub submitted: Nanos,
    pub deadline: Nanos,
    pub attempts: u32,
}

/// Answers that are to be given when the lock is free.
type Answers = Vec<(Arc<Slot>, Answered)>;

impl Shared {
    /// Without workers and models, with the thread of its clock, which runs until it is closed.
    ///
    /// # Errors
    /// When there is no thread for the clock.
    pub fn new(core: Core, index: Arc<Index>) -> io::Result<(Arc<Shared>, JoinHandle<()>)> {
        let inner = Inner {
            core,
            live: HashMap::new(),
            index,
            table: Arc::default(),
            models: Vec::new(),
            jobs: Vec::new(),
            alarm: Nanos::NEVER,
            waiting: 0,
            over: false,
        };
        let (inner, routes, start) = (Mutex::new(inner), RwLock::default(), Instant::now());
        let (sooner, changed) = (Condvar::new(), Condvar::new());
        let shared = Arc::new_cyclic(|own| Shared { inner, routes, sooner, changed, start, own: own.clone() });
        let clock = shared.clone();
        let clock = std::thread::Builder::new().name("clock".to_owned()).spawn(move || clock.keep_time())?;
        Ok((shared, clock))
    }

    /// Since the runtime began.
    pub fn now(&self) -> Nanos {
        Nanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which models take what.
    pub fn routes(&self) -> Arc<Routes> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the mailboxes of the hands, by the numbers of their workers.
    pub fn employ(&self, jobs: Vec<Sender>) {
        self.lock().jobs = jobs;
    }

    /// Puts a job into a mailbox.
    pub fn tell(&self, worker: WorkerId, job: Job) {
        let bell = self.lock().put(worker, job);
        bell.iter().for_each(Bell::ring);
    }

    /// Carries out what is to be done at the instants that the core names, until the runtime is over.
    fn keep_time(&self) {
        let mut inner = self.lock();
        while !inner.over {
            let now = self.now();
            inner = match inner.alarm {
                alarm if alarm <= now => {
                    self.pump(inner);
                    self.lock()
                }
                Nanos::NEVER => self.sooner.wait(inner).unwrap_or_else(PoisonError::into_inner),
                alarm => {
                    let wait = Duration::from_nanos((alarm - now).0);
                    self.sooner.wait_timeout(inner, wait).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Asks the core until it has nothing more to say, lets the lock go, and answers what the core refuses.
    pub fn pump(&self, inner: MutexGuard<'_, Inner>) {
        give(self.settle(inner));
    }

    /// Asks the core until it has nothing more to say, and lets the lock go. What the core refuses is to be answered then.
    fn settle(&self, mut inner: MutexGuard<'_, Inner>) -> Answers {
        let (mut refused, mut bells) = (Answers::new(), Vec::new());
        let now = self.now();
        while let Some(action) = inner.core.step(now) {
            match action {
                Action::Start { run, decision } => bells.extend(inner.start(run, &decision)),
                Action::Refuse { request, refusal } => {
                    if let Some(live) = inner.live.remove(&request) {
                        let model = inner.name(live.model);
                        refused.push((live.slot, Err(RuntimeError::Refused { model, refusal })));
                    }
                }
            }
        }
        let wake = inner.core.wake_at();
        let (sooner, waited_for) = (wake < inner.alarm, inner.waiting > 0);
        inner.alarm = wake;
        drop(inner);
        bells.iter().for_each(Bell::ring);
        if sooner {
            self.sooner.notify_one();
        }
        if waited_for {
            self.changed.notify_all();
        }
        refused
    }

    /// The device is done with a leg of a run.
    pub fn passed(&self, run: RunId, stage: Stage) {
        let mut inner = self.lock();
        // Of a run that is not in flight any more nobody wants to know.
        let _ = inner.core.on(self.now(), Event::Passed { run, stage });
        self.pump(inner);
    }

    /// A run is over.
    pub fn finished(&self, run: RunId, done: Done) {
        let mut inner = self.lock();
        let now = self.now();
        let decision = inner.core.decision_of(run).copied();
        let failed = done.answers.iter().all(|(_, answer)| answer.is_err());
        let spent = decision.filter(|_| !failed).map(|decision| Spent {
            stages: done.spent,
            gap: decision.gap,
            disturbed: done.disturbed,
        });
        // A run that is not in flight any more was lost with its worker: its requests run again.
        let counts = inner.core.on(now, Event::Finished { run, spent }).unwrap_or(false);
        let (Some(decision), true) = (decision, counts) else { return self.pump(inner) };
        if let Some(lesson) = inner.core.take_lesson(now) {
            self.learn(lesson);
        }
        let (index, table) = (inner.index.clone(), inner.table.clone());
        let answered = done.answers.into_iter().filter_map(|(request, outputs)| Some((inner.live.remove(&request)?, outputs)));
        let answered: Vec<(Live, Result<Outputs, String>)> = answered.collect();
        let mut answers = self.settle(inner);
        let place = PlacedAt { model: decision.model, device: decision.device, share: decision.share, rows: decision.batch };
        answers.extend(answered.into_iter().map(|(live, outputs)| {
            let Live { submitted, deadline, attempts: attempts_lost, .. } = live;
            let happened = Happened { submitted, spent: done.spent.total(), deadline, now, attempts_lost };
            let answer = |outputs| Answer { outputs, decision: Decision::new(&decision, &index, table.get(place), &happened) };
            let failed = |detail| RuntimeError::Run { model: name(&index, live.model), detail };
            (live.slot, outputs.map(answer).map_err(failed))
        }));
        give(answers);
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

    /// A worker died, with these runs.
    pub fn worker_lost(&self, worker: WorkerId, runs: &[RunId], death: &Death) {
        let mut inner = self.lock();
        let of = |run: &RunId| inner.core.requests_of(*run).iter().map(|request| request.id);
        let requests: Vec<RequestId> = runs.iter().flat_map(of).collect();
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
        answers.extend(self.settle(inner));
        give(answers);
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
        true
    }

    /// Another generation of records or of what is loaded.
    ///
    /// # Errors
    /// [`IndexError`]; the old one stays.
    pub fn publish(&self, index: Arc<Index>, models: Vec<Option<Arc<Served>>>, table: Table) -> Result<(), IndexError> {
        let mut inner = self.lock();
        inner.core.on(self.now(), Event::Generation(index.clone()))?;
        let routes = Routes::new(&models);
        (inner.index, inner.models, inner.table) = (index, models, Arc::new(table));
        self.pump(inner);
        self.route(routes);
        Ok(())
    }

    /// Lets the models of that name accept nothing any more.
    pub fn retire(&self, name: &str) -> Vec<ModelId> {
        let mut inner = self.lock();
        let ids: Vec<ModelId> = self.routes().of(name).iter().map(|(id, _)| *id).collect();
        ids.iter().for_each(|id| inner.models[usize::from(id.0)] = None);
        let routes = Routes::new(&inner.models);
        drop(inner);
        self.route(routes);
        ids
    }

    fn route(&self, routes: Routes) {
        *self.routes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(routes);
    }

    /// Waits until something holds of what the lock keeps.
    pub fn wait_until(&self, holds: impl Fn(&Inner) -> bool) {
        let mut inner = self.lock();
        inner.waiting += 1;
        while !holds(&inner) {
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner.waiting -= 1;
    }

    /// Accepts nothing more, waits until all is answered, and tells the hands to quit.
    pub fn close(&self) {
        self.lock().core.close();
        self.wait_until(|inner| inner.live.is_empty());
        let mut inner = self.lock();
        inner.over = true;
        for jobs in std::mem::take(&mut inner.jobs) {
            jobs.send(Job::Quit);
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
    /// Whether a model accepts requests still.
    pub fn accepts(&self, id: ModelId, served: &Arc<Served>) -> bool {
        self.models.get(usize::from(id.0)).is_some_and(|model| model.as_ref().is_some_and(|model| Arc::ptr_eq(model, served)))
    }

    /// What the core decides by.
    pub fn index(&self) -> Arc<Index> {
        self.index.clone()
    }

    fn name(&self, model: ModelId) -> String {
        name(&self.index, model)
    }

    /// Keeps an accepted request.
    pub fn keep(&mut self, request: RequestId, live: Live) {
        self.live.insert(request, live);
    }

    fn put(&self, worker: WorkerId, job: Job) -> Option<Bell> {
        self.jobs.get(usize::from(worker.0))?.put(job)
    }

    /// Hands a run to its worker, whose bell is to be rung when the lock is free.
    fn start(&self, run: RunId, decision: &schedule::Decision) -> Option<Bell> {
        let taken = |waiting: &schedule::Waiting| {
            let live = self.live.get(&waiting.id)?;
            Some(Taken { id: waiting.id, given: live.given.clone() })
        };
        let requests = self.core.requests_of(run).iter().filter_map(taken).collect();
        let key = PlanKey { model: decision.model, rows: decision.batch };
        self.put(decision.worker, Job::Run(Run { id: run, key, requests, predicted: decision.stages.total() }))
    }
}

/// Gives answers, without the lock.
fn give(answers: Answers) {
    answers.into_iter().for_each(|(slot, answer)| slot.fill(answer));
}

fn name(index: &Index, model: ModelId) -> String {
    index.models()[usize::from(model.0)].name.clone()
}
