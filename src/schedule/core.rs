//! The part of scheduling that is the same under every policy. See the module above.

use super::decision::{Action, Alarm, Decision, RIVALS_MAX, Refusal};
use super::drift::Drift;
use super::policies::{Placement, Policy, Step};
use super::rate::Slip;
use super::view::{ModelState, State, View};
use super::worker::{Flight, Worker};
use super::{
    CurveId, DeviceId, Fleet, Index, IndexError, Ledger, ModelId, Nanos, Presence, Priority, Queue, Rate, Refit, RequestId,
    RowId, RunId, STREAMS_MAX, Served, Stage, Stages, Waiting, WorkerId, admission,
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
        let workers: Vec<Worker> = fleet
            .devices
            .iter()
            .enumerate()
            .flat_map(|(at, device)| {
                let device_id = DeviceId(at as u16);
                device.workers.iter().map(move |&share| Worker::new(device_id, share, device.engines))
            })
            .collect();
        let largest = index.curves().iter().map(|curve| curve.largest().batch.rows() as usize).max().unwrap_or(0);
        let idle = |_| Run {
            decision: None,
            number: 0,
            requests: Vec::with_capacity(largest.min(limits.queue_len_max)),
            epoch: 0,
            row: RowId { curve: CurveId(0), row: 0 },
        };
        let runs = (0..workers.len() * STREAMS_MAX).map(idle).collect();
        let state = State {
            refits: refits(&index),
            drifts: vec![Drift::new(); index.row_count()],
            models: Vec::new(),
            ledger: Ledger::new(fleet.devices.iter().map(|device| device.gap)),
            index,
            workers,
            limits,
            runs,
        };
        let (wake, alarms) = (Nanos::NEVER, Vec::with_capacity(64));
        let mut core =
            Core { state, policy, wake, next_request: 0, next_run: 0, epoch: 0, closing: false, alarms, orphans: false };
        core.add_models();
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
                served: Served::new(state.limits.window),
                held: 0,
                last_share: vec![None; state.index.devices().len()],
            });
        }
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
        if wish.deadline <= now {
            return Err(Refusal::DeadlinePassed);
        }
        let view = View { state: &self.state, now };
        let likely = self.policy.likely(&view, wish.model, wish.rows.rows());
        // All its workers are being replaced: it will be served, nobody can say when.
        let away = likely.is_none() && self.policy.serves(&view, wish.model);
        let retry_after = self.state.limits.patience;
        if self.state.models[at].held >= self.state.limits.queue_len_max {
            return Err(if away { Refusal::QueueFull { retry_after } } else { admission::queue_full(&view, &wish, likely) });
        }
        let predicted = match self.state.limits.admission {
            _ if away && wish.deadline == Nanos::NEVER => Nanos::NEVER,
            _ if away => return Err(Refusal::TooLate { predicted: Nanos::NEVER, retry_after }),
            Admission::Predicted => admission::admit(&view, &wish, likely)?,
            Admission::All if likely.is_none() => return Err(Refusal::NoDevice),
            Admission::All => Nanos::NEVER,
        };
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let due = Waiting::due(now, wish.deadline, wish.priority, self.state.limits.patience);
        let model = &mut self.state.models[at];
        model.queue.insert(Waiting { id, rows: wish.rows, arrived: now, deadline: wish.deadline, due, predicted });
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
            }
            Event::WorkerLost { worker } => self.lose(worker, Presence::Away),
            Event::DeviceLost { device } => {
                for at in 0..self.state.workers.len() {
                    if self.state.workers[at].device == device {
                        self.lose(WorkerId(at as u16), Presence::Lost);
                    }
                }
                self.orphans = true;
            }
            Event::Generation(index) => self.change(now, index)?,
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
        Action::Start { run: id, decision }
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
        let stages = view.stages(row).map(|_, time| time * repeats);
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
        true
    }

    fn finished(&mut self, now: Nanos, run: RunId, spent: Option<Spent>) -> bool {
        let Some(kept) = self.run(run) else { return false };
        let (row, epoch) = (kept.row, kept.epoch);
        let state = &mut self.state;
        let slot = &mut state.runs[usize::from(run.slot)];
        let decision = slot.decision.take().expect("a run in flight has its decision");
        let model = &mut state.models[usize::from(decision.model.0)];
        model.held -= slot.requests.len();
        for request in slot.requests.drain(..).filter(|request| request.predicted < Nanos::NEVER) {
            model.slip.observe(now, request.predicted);
        }
        let worker = &mut state.workers[usize::from(decision.worker.0)];
        worker.land(run, now);
        if worker.flights.is_empty() {
            state.ledger.give_back(decision.device, decision.share);
        }
        let Some(spent) = spent else { return true };
        if decision.gap > Nanos::ZERO {
            state.ledger.observe_gap(decision.device, spent.gap);
        }
        if !spent.disturbed {
            if epoch == self.epoch {
                self.learn(row, &decision, &spent);
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
    }

    fn change(&mut self, now: Nanos, index: Arc<Index>) -> Result<(), IndexError> {
        self.state.index.leads_to(&index)?;
        // What was learnt against the old records says nothing of the new ones.
        self.state.refits = refits(&index);
        self.state.drifts = vec![Drift::new(); index.row_count()];
        self.state.index = index;
        self.epoch += 1;
        self.add_models();
        self.policy.changed(&View { state: &self.state, now });
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

fn refits(index: &Index) -> Vec<[Refit; 3]> {
    index.curves().iter().map(|curve| curve.lines.map(Refit::new)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{curve, index, placed, reference};
    use super::super::{Engines, FleetDevice, Why, policy};
    use super::*;
    use schema::Share;

    const MS: u64 = 1_000_000;

    fn share(percent: f64) -> Share {
        Share::percent(percent).unwrap()
    }

    /// One device with copy engines and one without; workers of the whole, and of halves on the second.
    fn fleet() -> Fleet {
        let halves = vec![Share::WHOLE, share(50.0), share(50.0)];
        Fleet {
            devices: vec![
                FleetDevice { engines: Engines::Two, gap: Nanos(0), workers: vec![Share::WHOLE] },
                FleetDevice { engines: Engines::None, gap: Nanos(MS), workers: halves },
            ],
        }
    }

    /// Model 0 runs on both devices, model 1 on the halves of the second only.
    fn records() -> Index {
        index(&[
            reference(&[1, 2, 4, 8], 0.2),
            placed(curve(&[1, 4], |b| (20 + b) * MS), 0, 1, 100.0),
            placed(curve(&[1, 4], |b| (35 + b) * MS), 0, 1, 50.0),
            placed(curve(&[1], |_| 5 * MS), 1, 1, 50.0),
        ])
    }

    fn core(name: &str, limits: Limits) -> Core {
        Core::new(&fleet(), Arc::new(records()), limits, policy(name).unwrap()).unwrap()
    }

    fn wish(model: u16, deadline: Option<u64>) -> Wish {
        let deadline = deadline.map_or(Nanos::NEVER, Nanos);
        Wish { model: ModelId(model), rows: Batch::ONE, deadline, priority: Priority::default() }
    }

    fn start(core: &mut Core, now: u64) -> (RunId, Decision) {
        match core.step(Nanos(now)) {
            Some(Action::Start { run, decision }) => (run, decision),
            other => panic!("a start was expected at {now}, found {other:?}"),
        }
    }

    fn finish(core: &mut Core, now: u64, run: RunId, decision: &Decision) -> bool {
        let spent = Spent { stages: decision.stages, gap: decision.gap, disturbed: false };
        core.on(Nanos(now), Event::Finished { run, spent: Some(spent) }).unwrap()
    }

    #[test]
    fn a_decision_says_what_was_predicted_and_why_rivals_lost() {
        let mut core = core("fastest", Limits::default());
        core.submit(Nanos(0), wish(0, Some(30 * MS))).unwrap();
        let (run, decision) = start(&mut core, 0);
        assert_eq!((decision.device, decision.finish, decision.deadline), (DeviceId(0), Nanos(9 * MS), Nanos(30 * MS)));
        assert_eq!(core.requests_of(run).len(), 1);
        let whys: Vec<Why> = decision.rivals().map(|rival| rival.why).collect();
        assert_eq!(whys, [Why::Late(Nanos(6 * MS)), Why::Later(Nanos(12 * MS))]);
        // The device is in use: a second request goes elsewhere only when that is sooner.
        core.submit(Nanos(0), wish(0, None)).unwrap();
        assert_eq!(core.step(Nanos(0)), None);
        core.submit(Nanos(0), wish(0, None)).unwrap();
        core.submit(Nanos(0), wish(0, None)).unwrap();
        assert!(finish(&mut core, 9 * MS, run, &decision));
        assert_eq!(core.held(ModelId(0)), 3);
    }

    #[test]
    fn what_has_no_worker_or_died_says_so() {
        let mut core = core("fastest", Limits::default());
        core.on(Nanos(0), Event::WorkerLost { worker: WorkerId(1) }).unwrap();
        core.submit(Nanos(0), wish(0, None)).unwrap();
        let (_, decision) = start(&mut core, 0);
        assert_eq!(decision.rivals().map(|rival| rival.why).collect::<Vec<_>>(), [Why::Later(Nanos(27 * MS)), Why::Away]);
        core.on(Nanos(1), Event::DeviceLost { device: DeviceId(1) }).unwrap();
        let run = core.state.runs.iter().position(|run| run.decision.is_some()).unwrap();
        let run = RunId { slot: run as u16, number: core.state.runs[run].number };
        finish(&mut core, 9 * MS, run, &decision);
        core.submit(Nanos(9 * MS), wish(0, None)).unwrap();
        let (_, decision) = start(&mut core, 9 * MS);
        assert_eq!(decision.rivals().map(|rival| rival.why).collect::<Vec<_>>(), [Why::Lost, Why::Lost]);
    }

    #[test]
    fn a_lost_worker_gives_its_requests_back_and_its_answers_are_not_used() {
        let mut core = core("greedy", Limits::default());
        let first = core.submit(Nanos(0), wish(1, None)).unwrap();
        let (run, decision) = start(&mut core, 0);
        core.submit(Nanos(1), wish(1, None)).unwrap();
        core.on(Nanos(2), Event::WorkerLost { worker: decision.worker }).unwrap();
        assert_eq!(core.view(Nanos(2)).ledger().in_use(DeviceId(1)), 0);
        assert!(!finish(&mut core, 3, run, &decision), "the run is over: its requests wait again");
        assert!(!core.on(Nanos(3), Event::Passed { run, stage: Stage::Upload }).unwrap());
        assert_eq!(core.held(ModelId(1)), 2);
        let (again, decision) = start(&mut core, 3);
        assert_eq!(core.requests_of(again)[0].id, first, "it stands where it stood");
        // The run's room may be the same one: the old number still answers nothing.
        assert!(core.requests_of(run).is_empty() || run != again);
        assert!(finish(&mut core, 8 * MS, again, &decision));
    }

    #[test]
    fn with_the_last_device_its_requests_are_refused_and_others_go_on() {
        let mut core = core("batcher", Limits::default());
        let request = core.submit(Nanos(0), wish(1, None)).unwrap();
        core.submit(Nanos(0), wish(0, None)).unwrap();
        core.on(Nanos(0), Event::DeviceLost { device: DeviceId(1) }).unwrap();
        assert_eq!(core.step(Nanos(0)), Some(Action::Refuse { request, refusal: Refusal::NoDevice }));
        assert_eq!(start(&mut core, 0).1.device, DeviceId(0));
        assert_eq!(core.submit(Nanos(1), wish(1, None)), Err(Refusal::NoDevice));
        core.on(Nanos(2), Event::WorkerReady { worker: WorkerId(2) }).unwrap();
        assert_eq!(core.submit(Nanos(2), wish(1, None)), Err(Refusal::NoDevice), "a lost device does not come back by itself");
    }

    #[test]
    fn refusals_carry_a_time_after_which_there_is_room() {
        let limits = Limits { queue_len_max: 3, ..Limits::default() };
        let mut core = core("greedy", limits);
        assert_eq!(core.submit(Nanos(0), Wish { model: ModelId(9), ..wish(0, None) }), Err(Refusal::UnknownModel));
        assert_eq!(core.submit(Nanos(5), wish(0, Some(5))), Err(Refusal::DeadlinePassed));
        // Model 1 alone takes 5 ms and two run side by side.
        let Err(Refusal::TooLate { predicted, retry_after }) = core.submit(Nanos(5), wish(1, Some(4 * MS))) else { panic!() };
        assert!(predicted == Nanos(5 + 5 * MS) && retry_after > Nanos(0), "{predicted} {retry_after}");
        (0..3).for_each(|_| assert!(core.submit(Nanos(5), wish(1, None)).is_ok()));
        let Err(Refusal::QueueFull { retry_after }) = core.submit(Nanos(5), wish(1, None)) else { panic!() };
        assert!(retry_after >= Nanos(2 * MS) && retry_after < Nanos(100 * MS), "{retry_after}");
        core.close();
        assert_eq!(core.submit(Nanos(6), wish(0, None)), Err(Refusal::Closing));
        assert!(core.step(Nanos(6)).is_some(), "what was accepted is still served");
    }

    #[test]
    fn a_waiting_request_can_be_taken_back_and_one_in_flight_cannot() {
        let mut core = core("fastest", Limits::default());
        let ids: Vec<_> = (0..2).map(|_| core.submit(Nanos(0), wish(0, None)).unwrap()).collect();
        start(&mut core, 0);
        assert_eq!(
            (core.cancel(ids[0]), core.cancel(ids[1]), core.cancel(ids[1])),
            (Cancelled::TooLate, Cancelled::Forgotten, Cancelled::TooLate)
        );
        assert_eq!(core.held(ModelId(0)), 1);
    }

    #[test]
    fn another_generation_changes_predictions_and_not_what_waits() {
        let mut core = core("fastest", Limits::default());
        core.submit(Nanos(0), wish(0, None)).unwrap();
        let slower = placed(curve(&[1], |_| 50 * MS), 0, 0, 100.0);
        let next = index(&[slower, placed(curve(&[1], |_| 5 * MS), 0, 1, 100.0), placed(curve(&[1], |_| MS), 1, 1, 50.0)]);
        core.on(Nanos(1), Event::Generation(Arc::new(next))).unwrap();
        assert_eq!(start(&mut core, 1).1.device, DeviceId(1));
        let other = index(&[curve(&[1], |_| 5)]);
        assert_eq!(core.on(Nanos(2), Event::Generation(Arc::new(other))), Err(IndexError::Layout("models")));
        assert_eq!(core.view(Nanos(2)).index().models().len(), 2, "the one in use stays");
    }

    /// A model may come with a new generation; one whose records are gone is refused.
    #[test]
    fn models_come_and_go_with_generations() {
        let mut core = core("greedy", Limits::default());
        let waiting = core.submit(Nanos(0), wish(1, None)).unwrap();
        let next = index(&[reference(&[1], 0.0), placed(curve(&[1], |_| MS), 2, 1, 100.0)]);
        core.on(Nanos(1), Event::Generation(Arc::new(next))).unwrap();
        assert_eq!(core.step(Nanos(1)), Some(Action::Refuse { request: waiting, refusal: Refusal::NoDevice }));
        core.submit(Nanos(1), wish(2, None)).unwrap();
        assert_eq!(start(&mut core, 1).1.model, ModelId(2));
    }

    /// Databases are replaced by others of the same number; what flew under the old records is no lesson for the new ones.
    #[test]
    fn runs_of_an_older_index_teach_nothing_even_under_an_equal_generation() {
        let mut core = core("fastest", Limits::default());
        core.submit(Nanos(0), wish(1, None)).unwrap();
        let (run, decision) = start(&mut core, 0);
        let next = index(&[reference(&[1], 0.0), placed(curve(&[1], |_| MS), 1, 1, 100.0)]);
        assert_eq!(next.generation(), core.view(Nanos(0)).index().generation());
        core.on(Nanos(1), Event::Generation(Arc::new(next))).unwrap();
        assert!(finish(&mut core, 5 * MS, run, &decision));
        assert_eq!(core.held(ModelId(1)), 0);
    }

    /// Gives up whatever waits.
    struct Quitter;

    impl Policy for Quitter {
        fn step(&mut self, view: &View<'_>) -> Step {
            let front = view.models().find_map(|model| view.queue(model).front());
            front.map_or(Step::Wait { until: Nanos::NEVER }, |front| Step::Refuse { request: front.id, retry_after: Nanos(7) })
        }
    }

    #[test]
    fn what_a_policy_gives_up_is_answered() {
        let mut core = Core::new(&fleet(), Arc::new(records()), Limits::default(), Box::new(Quitter)).unwrap();
        let request = core.submit(Nanos(0), wish(0, None)).unwrap();
        let refusal = Refusal::Policy { retry_after: Nanos(7) };
        assert_eq!((core.step(Nanos(0)), core.step(Nanos(0))), (Some(Action::Refuse { request, refusal }), None));
        assert_eq!(core.held(ModelId(0)), 0);
    }

    #[test]
    fn a_request_of_any_size_is_served_or_refused() {
        for name in ["batcher", "greedy", "fastest", "fixed", "knee"] {
            let mut core = core(name, Limits::default());
            let huge = Wish { rows: Batch::new(u32::MAX).unwrap(), ..wish(0, None) };
            core.submit(Nanos(0), huge).unwrap();
            core.submit(Nanos(0), huge).unwrap();
            assert!(core.submit(Nanos(0), Wish { deadline: Nanos(MS), ..huge }).is_err(), "{name}");
            let (_, decision) = start(&mut core, 0);
            assert_eq!((decision.rows, decision.requests), (u32::MAX, 1), "{name}");
        }
    }

    #[test]
    fn a_change_of_share_costs_its_gap_which_is_measured() {
        let mut core = core("fixed:d1/50/1", Limits::default());
        core.submit(Nanos(0), wish(0, None)).unwrap();
        let (run, decision) = start(&mut core, 0);
        assert_eq!(decision.gap, Nanos(0), "the first run changes nothing");
        finish(&mut core, 36 * MS, run, &decision);
        core.policy = policy("fixed:d1/100/1").unwrap();
        core.submit(Nanos(36 * MS), wish(0, None)).unwrap();
        let (run, decision) = start(&mut core, 36 * MS);
        assert_eq!((decision.gap, decision.finish), (Nanos(MS), Nanos((36 + 1 + 21) * MS)));
        let spent = Spent { stages: decision.stages, gap: Nanos(0), disturbed: false };
        core.on(Nanos(60 * MS), Event::Finished { run, spent: Some(spent) }).unwrap();
        assert_eq!(core.view(Nanos(60 * MS)).ledger().gap(DeviceId(1)), Nanos(800_000));
    }

    #[test]
    fn a_row_that_drifts_is_stale_and_predicted_anew() {
        let mut core = core("fastest", Limits::default());
        let mut now = 0;
        let mut alarms = Vec::new();
        for _ in 0..200 {
            core.submit(Nanos(now), wish(1, None)).unwrap();
            let (run, decision) = start(&mut core, now);
            let stages = Stages { compute: Nanos(8 * MS), ..Stages::default() };
            now += 8 * MS;
            core.on(Nanos(now), Event::Finished { run, spent: Some(Spent { stages, gap: decision.gap, disturbed: false }) })
                .unwrap();
            alarms.extend(core.take_alarms());
        }
        assert_eq!(alarms.len(), 1, "{alarms:?}");
        assert!((alarms[0].ratio - 1.6).abs() < 1e-3 && alarms[0].model == ModelId(1));
        core.submit(Nanos(now), wish(1, None)).unwrap();
        let (_, decision) = start(&mut core, now);
        assert!(decision.stale && decision.stages.total().0.abs_diff(8 * MS) < MS / 10, "{decision:?}");
    }

    #[test]
    fn what_was_disturbed_or_failed_teaches_nothing() {
        let mut core = core("fastest", Limits::default());
        for at in 0..200u64 {
            core.submit(Nanos(at * 100 * MS), wish(1, None)).unwrap();
            let (run, _) = start(&mut core, at * 100 * MS);
            let stages = Stages { compute: Nanos(50 * MS), ..Stages::default() };
            let spent = (at % 2 == 0).then_some(Spent { stages, gap: Nanos(0), disturbed: true });
            core.on(Nanos(at * 100 * MS + 50 * MS), Event::Finished { run, spent }).unwrap();
        }
        assert_eq!((core.take_alarms().count(), core.held(ModelId(1))), (0, 0));
        let row = RowId { curve: CurveId(3), row: 0 };
        assert_eq!(core.view(Nanos(0)).stages(row).total(), Nanos(5 * MS));
    }

    #[test]
    fn a_fleet_of_other_devices_is_refused() {
        let one = Fleet { devices: fleet().devices[..1].to_vec() };
        let made = Core::new(&one, Arc::new(records()), Limits::default(), policy("greedy").unwrap());
        assert_eq!(made.err(), Some(IndexError::Layout("devices")));
    }
}
