//! The part of scheduling that is the same under every policy. See the module above.

use super::decision::{Action, Alarm, Decision, RIVALS_MAX, Refusal};
use super::policies::{Placement, Policy, Step};
use super::rate::Slip;
use super::state::{ModelState, State};
use super::view::View;
use super::worker::Flight;
use super::{
    CurveId, DeviceId, Fleet, Index, IndexError, Learnt, Lesson, ModelId, Nanos, Presence, Priority, Queue, Rate, RequestId,
    RowId, RunId, Served, Stage, Stages, Waiting, WorkerId, admission,
};
use schema::Batch;
use std::sync::Arc;

/// Bounds, and what is promised.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Requests of one model that are accepted and unanswered.
    pub queue_len_max: usize,
    /// How long a request without a deadline may be put behind others.
    pub patience: Nanos,
    /// Over which served device time is compared between models.
    pub window: Nanos,
    pub admission: Admission,
}

impl Default for Limits {
    fn default() -> Self {
        let second = Nanos(1_000_000_000);
        Limits { queue_len_max: 4096, patience: second, window: second, admission: Admission::Predicted }
    }
}

/// Which requests are accepted while there is room.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Those that are predicted to keep their deadline.
    Predicted,
    /// All, as benchmarks want it that count late answers.
    All,
}

/// A request as it arrives.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub model: ModelId,
    pub rows: Batch,
    /// The instant by which the answer is wanted; [`Nanos::NEVER`] for none.
    pub deadline: Nanos,
    pub priority: Priority,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Upload or compute of a run is over.
    Passed { run: RunId, stage: Stage },
    /// The answers of a run are there. `None` when it failed: its requests are answered with that, and nothing is learnt.
    Finished { run: RunId, spent: Option<Spent> },
    /// A worker can be given work (again).
    WorkerReady { worker: WorkerId },
    /// A worker died; another takes its place and will be announced. What it had goes back to the front of the queues.
    WorkerLost { worker: WorkerId },
    /// A device is lost with all its workers.
    DeviceLost { device: DeviceId },
    /// The records have changed.
    Generation(Arc<Index>),
    /// A lesson that [`Core::take_lesson`] gave out is over.
    Learnt(Learnt),
}

/// Actual times of a run.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    pub stages: Stages,
    /// From the start to the begin of the upload, when the share was changed for it.
    pub gap: Nanos,
    /// Something else was going on that the next run will not see: a tuning beside it, a device that woke up. Nothing is learnt.
    pub disturbed: bool,
}

/// A finished run, for policies that learn.
#[derive(Copy, Clone, Debug)]
pub struct Outcome<'a> {
    pub decision: &'a Decision,
    pub finished: Nanos,
    pub spent: Spent,
}

/// What became of a cancellation.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It had waited and is forgotten.
    Forgotten,
    /// It is in flight or was answered: its answer comes, or came.
    TooLate,
}

/// A run in flight, or the room for one.
#[derive(Debug)]
pub(super) struct Run {
    /// `None`: nothing is in flight here.
    pub decision: Option<Decision>,
    pub number: u64,
    pub requests: Vec<Waiting>,
    /// Which of the indexes since the start predicted it, and by which row.
    pub epoch: u64,
    pub row: RowId,
    /// Something ran beside it that makes it slower than its record: it teaches nothing.
    pub beside: bool,
}

impl Run {
    /// Nothing in flight, and room for so many requests.
    pub fn idle(requests: usize) -> Run {
        let row = RowId { curve: CurveId(0), row: 0 };
        Run { decision: None, number: 0, requests: Vec::with_capacity(requests), epoch: 0, row, beside: false }
    }
}

/// See the module above.
pub struct Core {
    state: State,
    policy: Box<dyn Policy>,
    wake: Nanos,
    next_request: u64,
    next_run: u64,
    /// Indexes that were in use before this one.
    epoch: u64,
    closing: bool,
    alarms: Vec<Alarm>,
    /// Models that no device is left for still have requests waiting.
    orphans: bool,
}

impl Core {
    /// Idle, all workers ready.
    ///
    /// # Errors
    /// [`IndexError::Layout`] when the fleet has other devices than the index.
    pub fn new(fleet: &Fleet, index: Arc<Index>, limits: Limits, policy: Box<dyn Policy>) -> Result<Core, IndexError> {
        if fleet.devices.len() != index.devices().len() {
            return Err(IndexError::Layout("devices"));
        }
        let state = State::new(fleet, index, limits);
        let (wake, alarms) = (Nanos::NEVER, Vec::with_capacity(64));
        let mut core =
            Core { state, policy, wake, next_request: 0, next_run: 0, epoch: 0, closing: false, alarms, orphans: false };
        core.add_models();
        core.adopt(Nanos::ZERO);
        Ok(core)
    }

    /// Rooms for models that the index has and the core has not.
    fn add_models(&mut self) {
        let state = &mut self.state;
        for at in state.models.len()..state.index.models().len() {
            let cycles = state.index.curves_of(ModelId(at as u16)).map(|(_, curve)| curve.largest().stages.total());
            let cycle = cycles.max().unwrap_or_default();
            state.models.push(ModelState {
                queue: Queue::new(state.limits.queue_len_max),
                rate: Rate::new(cycle),
                slip: Slip::new(cycle),
                cheapest: None,
                served: Served::new(state.limits.window),
                held: 0,
                last_share: vec![None; state.index.devices().len()],
            });
        }
    }

    /// Shows the policy the records, and goes by how it works queues off.
    fn adopt(&mut self, now: Nanos) {
        self.policy.changed(&View { state: &self.state, now });
        let curves = self.state.index.curves().iter().zip(0..);
        self.state.steady = curves.map(|(curve, id)| self.policy.steady(CurveId(id), curve)).collect();
        self.price();
    }

    /// Finds anew where each model takes least device time: workers, records or refits have changed.
    fn price(&mut self) {
        (0..self.state.models.len() as u16).for_each(|model| self.price_of(ModelId(model)));
    }

    fn price_of(&mut self, model: ModelId) {
        let cheapest = admission::cheapest(&View { state: &self.state, now: Nanos::ZERO }, model);
        self.state.models[usize::from(model.0)].cheapest = cheapest;
        self.state.load_changed();
    }

    pub fn view(&self, now: Nanos) -> View<'_> {
        View { state: &self.state, now }
    }

    /// A request arrives. Accepted, it will be answered: by a run, or by a refusal when no device is left for it.
    ///
    /// # Errors
    /// The [`Refusal`]; nothing of the request is kept then.
    pub fn submit(&mut self, now: Nanos, wish: Wish) -> Result<RequestId, Refusal> {
        if usize::from(wish.model.0) >= self.state.models.len() {
            return Err(Refusal::UnknownModel);
        }
        if self.closing {
            return Err(Refusal::Closing);
        }
        let at = usize::from(wish.model.0);
        self.state.models[at].rate.observe(now, wish.rows.rows());
        self.state.load_changed();
        if wish.deadline <= now {
            return Err(Refusal::DeadlinePassed);
        }
        let view = View { state: &self.state, now };
        let admission::Admitted { predicted, probe } = admission::admit(&view, &*self.policy, &wish)?;
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let due = Waiting::due(now, wish.deadline, wish.priority, self.state.limits.patience);
        let model = &mut self.state.models[at];
        model.queue.insert(Waiting { id, rows: wish.rows, arrived: now, deadline: wish.deadline, due, predicted, probe });
        model.held += 1;
        Ok(id)
    }

    /// Takes a waiting request back.
    pub fn cancel(&mut self, request: RequestId) -> Cancelled {
        for model in &mut self.state.models {
            if model.queue.remove(request).is_some() {
                model.held -= 1;
                return Cancelled::Forgotten;
            }
        }
        Cancelled::TooLate
    }

    /// Accepts nothing more; what was accepted is still served.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// Something happened. What concerns a run that is no longer in flight (its worker was lost meanwhile) is passed over, and
    /// answers `false`: its answers are not to be used, for its requests run again.
    ///
    /// # Errors
    /// [`IndexError::Layout`] when a new generation has other devices, or not all models in their places; the old one stays.
    pub fn on(&mut self, now: Nanos, event: Event) -> Result<bool, IndexError> {
        match event {
            Event::Passed { run, stage } => return Ok(self.passed(now, run, stage)),
            Event::Finished { run, spent } => return Ok(self.finished(now, run, spent)),
            Event::WorkerReady { worker } => {
                let worker = &mut self.state.workers[usize::from(worker.0)];
                if worker.presence == Presence::Away {
                    worker.presence = Presence::Ready;
                }
                self.price();
            }
            Event::WorkerLost { worker } => {
                self.lose(worker, Presence::Away);
                self.price();
            }
            Event::DeviceLost { device } => {
                for at in 0..self.state.workers.len() {
                    if self.state.workers[at].device == device {
                        self.lose(WorkerId(at as u16), Presence::Lost);
                    }
                }
                self.price();
                self.orphans = true;
            }
            Event::Generation(index) => self.change(now, index)?,
            // Rows of other records mean others.
            Event::Learnt(learnt) if !Arc::ptr_eq(&learnt.index, &self.state.index) => return Ok(false),
            Event::Learnt(learnt) => self.policy.learnt(learnt),
        }
        Ok(true)
    }

    /// What is to be done now; `None` when nothing is until the next event or [`wake_at`](Self::wake_at). To be called again after
    /// each answer. Allocates nothing after the first uses.
    ///
    /// # Panics
    /// When the policy has a bug: it gives away a share in use, a worker that is not ready, or requests that do not wait.
    pub fn step(&mut self, now: Nanos) -> Option<Action> {
        if self.orphans {
            if let Some(action) = self.refuse_orphan(now) {
                return Some(action);
            }
            self.orphans = false;
        }
        match self.policy.step(&View { state: &self.state, now }) {
            Step::Start(placement) => Some(self.start(now, placement)),
            Step::Refuse { request, retry_after } => {
                assert_eq!(self.cancel(request), Cancelled::Forgotten, "a policy refuses what waits");
                Some(Action::Refuse { request, refusal: Refusal::Policy { retry_after } })
            }
            Step::Wait { until } => {
                self.wake = until;
                None
            }
        }
    }

    /// When [`step`](Self::step) is to be called if nothing happens before; [`Nanos::NEVER`] when it need not.
    pub fn wake_at(&self) -> Nanos {
        self.wake
    }

    /// The requests of a run in flight; none of one that is not.
    pub fn requests_of(&self, run: RunId) -> &[Waiting] {
        self.run(run).map_or(&[], |run| &run.requests)
    }

    /// The decision behind a run in flight.
    pub fn decision_of(&self, run: RunId) -> Option<&Decision> {
        self.run(run)?.decision.as_ref()
    }

    /// Rows that drifted since this was last asked.
    pub fn take_alarms(&mut self) -> impl Iterator<Item = Alarm> + '_ {
        self.alarms.drain(..)
    }

    /// What the policy wants learnt, where no decision waits for it; what comes of it is [`Event::Learnt`].
    pub fn take_lesson(&mut self, now: Nanos) -> Option<Lesson> {
        self.policy.lesson(&View { state: &self.state, now })
    }

    /// Accepted and unanswered requests of a model.
    pub fn held(&self, model: ModelId) -> usize {
        self.state.models[usize::from(model.0)].held
    }

    fn run(&self, run: RunId) -> Option<&Run> {
        self.state.runs.get(usize::from(run.slot)).filter(|kept| kept.number == run.number && kept.decision.is_some())
    }

    fn start(&mut self, now: Nanos, placement: Placement) -> Action {
        let (decision, row) = self.decide(now, &placement);
        let state = &mut self.state;
        let slot = state.runs.iter().position(|run| run.decision.is_none()).expect("a run in flight has a stream of a worker");
        let id = RunId { slot: slot as u16, number: self.next_run };
        self.next_run += 1;
        let model = &mut state.models[usize::from(decision.model.0)];
        let run = &mut state.runs[slot];
        run.requests.clear();
        model.queue.take(placement.take, &mut run.requests);
        *run = Run {
            decision: Some(decision),
            number: id.number,
            requests: std::mem::take(&mut run.requests),
            epoch: self.epoch,
            row,
            beside: false,
        };
        let device = usize::from(decision.device.0);
        model.last_share[device] = Some(decision.share);
        let device_time = decision.stages.total().scaled(f64::from(decision.share.as_per_mille()) * 1e-3);
        model.served.add(now, device_time);
        let worker = &mut state.workers[usize::from(decision.worker.0)];
        if worker.flights.is_empty() {
            state.ledger.take(decision.device, decision.share);
        }
        worker.flights.push(Flight {
            run: id,
            model: decision.model,
            stages: decision.stages,
            begins: now + decision.gap,
            passed: 0,
            ends: [Nanos::ZERO; 3],
        });
        worker.forecast_flights(now);
        state.moved(decision.device);
        self.mark_neighbours(&decision);
        Action::Start { run: id, decision }
    }

    /// The run just started, and those beside it that it makes slower.
    fn mark_neighbours(&mut self, decision: &Decision) {
        let state = &mut self.state;
        let own = state.workers[usize::from(decision.worker.0)].flights.last().map(|flight| flight.run);
        let mut disturbed = false;
        for at in state.workers_on(decision.device).filter(|at| *at != usize::from(decision.worker.0)) {
            let slower = |flight: &&Flight| state.index.interference(decision.model, flight.model) > 1.0;
            for flight in state.workers[at].flights.iter().filter(slower) {
                state.runs[usize::from(flight.run.slot)].beside = true;
                disturbed = true;
            }
        }
        if let Some(run) = own {
            state.runs[usize::from(run.slot)].beside = disturbed;
        }
    }

    fn decide(&self, now: Nanos, placement: &Placement) -> (Decision, RowId) {
        let view = View { state: &self.state, now };
        let curve = view.index().curve(placement.curve);
        let worker = view.worker(placement.worker);
        let queue = view.queue(curve.model);
        assert!(placement.take >= 1 && placement.take <= queue.len(), "a policy starts requests that wait");
        assert!((worker.device, worker.share) == (curve.device, curve.share), "a policy starts on a worker of the curve");
        let taken = || queue.iter().take(placement.take);
        let rows: u32 = taken().map(|request| request.rows.rows()).sum();
        let batch = curve.rows[placement.row].batch;
        assert!(rows <= batch.rows() || placement.take == 1, "a policy starts no more than the batch holds");
        let repeats = rows.div_ceil(batch.rows());
        let row = RowId { curve: placement.curve, row: placement.row as u16 };
        let beside = view.beside(curve.model, placement.worker);
        let stages = view.stages(row).map(|_, time| (time * repeats).scaled(beside));
        assert!(view.can_begin(placement.worker, stages), "a policy starts where there is room");
        let gap = view.gap(curve.model, placement.worker);
        let mut decision = Decision {
            model: curve.model,
            curve: placement.curve,
            worker: placement.worker,
            device: curve.device,
            share: curve.share,
            batch,
            repeats,
            rows,
            requests: placement.take,
            started: now,
            gap,
            stages,
            spread: curve.rows[placement.row].spread * repeats,
            finish: worker.forecast(now, now, gap, stages).finish,
            deadline: taken().map(|request| request.deadline).min().unwrap_or(Nanos::NEVER),
            stale: view.is_stale(row),
            rivals: [None; RIVALS_MAX],
            rivals_left_out: 0,
        };
        view.judge_rivals(&mut decision);
        (decision, row)
    }

    fn passed(&mut self, now: Nanos, run: RunId, stage: Stage) -> bool {
        let Some(worker) = self.run(run).and_then(|run| run.decision).map(|decision| decision.worker) else { return false };
        let worker = &mut self.state.workers[usize::from(worker.0)];
        worker.pass(run, stage, now);
        let device = worker.device;
        self.state.moved(device);
        true
    }

    fn finished(&mut self, now: Nanos, run: RunId, spent: Option<Spent>) -> bool {
        let Some(kept) = self.run(run) else { return false };
        let (row, epoch, beside) = (kept.row, kept.epoch, kept.beside);
        let state = &mut self.state;
        let slot = &mut state.runs[usize::from(run.slot)];
        let decision = slot.decision.take().expect("a run in flight has its decision");
        let model = &mut state.models[usize::from(decision.model.0)];
        model.held -= slot.requests.len();
        for request in slot.requests.drain(..).filter(|request| request.predicted < Nanos::NEVER) {
            match request.probe {
                true => model.slip.probed(now, request.predicted, request.deadline),
                false => model.slip.observe(now, request.predicted),
            }
        }
        let worker = &mut state.workers[usize::from(decision.worker.0)];
        worker.land(run, now);
        if worker.flights.is_empty() {
            state.ledger.give_back(decision.device, decision.share);
        }
        state.moved(decision.device);
        let Some(spent) = spent else { return true };
        if decision.gap > Nanos::ZERO {
            state.ledger.observe_gap(decision.device, spent.gap);
        }
        if !spent.disturbed {
            if epoch == self.epoch && !beside {
                self.learn(row, &decision, &spent);
                self.price_of(decision.model);
            }
            self.policy.observe(&Outcome { decision: &decision, finished: now, spent });
        }
        true
    }

    /// Compares what a run took with what its record says.
    fn learn(&mut self, row: RowId, decision: &Decision, spent: &Spent) {
        let state = &mut self.state;
        let recorded = state.index.row(row).stages;
        let ratio = |actual: Nanos, recorded: Nanos| actual.as_f64() / (recorded.as_f64() * f64::from(decision.repeats));
        for stage in Stage::ALL.into_iter().filter(|stage| recorded.get(*stage) > Nanos::ZERO) {
            let refit = &mut state.refits[row.curve.0 as usize][stage as usize];
            refit.observe(decision.batch.rows(), ratio(spent.stages.get(stage), recorded.get(stage)));
        }
        state.refitted(row.curve);
        let drift = &mut state.drifts[state.index.row_number(row)];
        if let Some(ratio) = drift.observe(ratio(spent.stages.total(), recorded.total()))
            && self.alarms.len() < self.alarms.capacity()
        {
            let Decision { model, device, share, batch, .. } = *decision;
            self.alarms.push(Alarm { model, device, share, batch, ratio });
        }
    }

    /// A worker is gone: what it had in flight waits again, where it stood before.
    fn lose(&mut self, worker: WorkerId, presence: Presence) {
        let state = &mut self.state;
        let lost = &mut state.workers[usize::from(worker.0)];
        if !lost.flights.is_empty() {
            state.ledger.give_back(lost.device, lost.share);
        }
        if lost.presence != Presence::Lost {
            lost.presence = presence;
        }
        while let Some(flight) = lost.flights.pop() {
            let run = &mut state.runs[usize::from(flight.run.slot)];
            run.decision = None;
            run.requests.drain(..).for_each(|request| state.models[usize::from(flight.model.0)].queue.insert(request));
        }
        let device = lost.device;
        state.moved(device);
    }

    fn change(&mut self, now: Nanos, index: Arc<Index>) -> Result<(), IndexError> {
        self.state.index.leads_to(&index)?;
        self.state.change(index);
        self.epoch += 1;
        self.add_models();
        self.adopt(now);
        self.orphans = true;
        Ok(())
    }

    /// A waiting request of a model that no device is left for.
    fn refuse_orphan(&mut self, now: Nanos) -> Option<Action> {
        let view = View { state: &self.state, now };
        let served = |model| self.policy.serves(&view, model);
        let request = view.models().filter(|&model| !served(model)).find_map(|model| view.queue(model).front())?.id;
        self.cancel(request);
        Some(Action::Refuse { request, refusal: Refusal::NoDevice })
    }
}

#[cfg(test)]
mod tests;
