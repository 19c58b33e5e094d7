//! Discrete events: arrivals, engines that finish stages, losses; and the core that is asked after each instant.

use super::invariants::Checker;
use super::{Arrival, Figures, Violation};
use crate::schedule::{
    Action, Cancelled, Core, Decision, DeviceId, Engines, Event, Fleet, Index, IndexError, Limits, Nanos, Policy, Refusal,
    RequestId, RunId, Spent, Stage, Stages, View, Waiting, Wish, WorkerId,
};
use crate::space::Stream;
use schema::Seed;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use thiserror::Error;

/// What there is, and what happens to it.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub fleet: Fleet,
    pub index: Arc<Index>,
    pub limits: Limits,
    pub reality: Reality,
    /// In any order.
    pub faults: Vec<(Nanos, Fault)>,
    pub seed: Seed,
    /// How long past its due time the first request of a queue may wait before that is starvation; [`Nanos::NEVER`]: not looked at.
    pub starvation: Nanos,
}

/// How actual times differ from recorded ones.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Reality {
    /// Deviation of the logarithm of actual over recorded time.
    pub noise: f64,
    /// Runs begun from `slower_from` on take so many times as long.
    pub slower: f64,
    pub slower_from: Nanos,
    /// Requests withdrawn, as a part of all, up to `withdrawn_within` after their arrival.
    pub withdrawn: f64,
    pub withdrawn_within: Nanos,
    /// Runs take so many times as long for each other worker of their device that works when they begin.
    pub interference: f64,
}

impl Default for Reality {
    /// As recorded.
    fn default() -> Self {
        Reality {
            noise: 0.0,
            slower: 1.0,
            slower_from: Nanos::NEVER,
            withdrawn: 0.0,
            withdrawn_within: Nanos(1),
            interference: 1.0,
        }
    }
}

/// Something that goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// A worker dies, and another takes its place so much later.
    Worker {
        worker: WorkerId,
        back_after: Nanos,
    },
    Device {
        device: DeviceId,
    },
    /// The records change.
    Records(Arc<Index>),
}

/// What is to be seen of a simulation while it runs.
#[derive(Copy, Clone, Debug)]
pub enum Seen<'a> {
    /// A run is started.
    Started { run: RunId, decision: &'a Decision, requests: &'a [Waiting] },
    /// Its answers are there.
    Answered { at: Nanos, run: RunId, decision: &'a Decision, requests: &'a [Waiting] },
    /// A request arrived and is accepted.
    Accepted { at: Nanos, request: RequestId },
    /// A request is refused: on arrival, or later than it was accepted.
    Refused { at: Nanos, request: Option<RequestId>, refusal: Refusal },
    /// All that happens at an instant has happened.
    Settled { view: View<'a> },
}

/// Why a simulation ended early.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum SimulateError {
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The scheduler broke a promise: a bug of ours.
    #[error("at {at}: {violation}")]
    Violation { at: Nanos, violation: Violation },
}

/// Serves all arrivals, which come in the order of time, and shows `watch` what happens.
///
/// # Errors
/// [`SimulateError`]: an index of other devices than the fleet's, or a broken invariant.
pub fn simulate(
    scenario: &Scenario,
    arrivals: impl Iterator<Item = Arrival>,
    policy: Box<dyn Policy>,
    watch: Watch<'_>,
) -> Result<Figures, SimulateError> {
    let mut engine = Engine::new(scenario, policy)?;
    let mut arrivals = arrivals.peekable();
    let mut now = Nanos::ZERO;
    loop {
        let arrival = arrivals.peek().map_or(Nanos::NEVER, |arrival| arrival.at);
        let next = arrival.min(engine.next_event()).min(engine.core.wake_at());
        if next == Nanos::NEVER {
            return engine.end(now);
        }
        now = now.max(next);
        while let Some(arrival) = arrivals.next_if(|arrival| arrival.at <= now) {
            engine.arrive(now, &arrival, watch);
        }
        engine.happen(now, watch)?;
        engine.act(now, watch)?;
        engine.learn(now)?;
    }
}

/// Who looks on.
type Watch<'a> = &'a mut dyn FnMut(Seen<'_>);

/// What the heap holds.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Future {
    /// The gap before a run is over.
    Begin {
        worker: u16,
        number: u64,
    },
    Over {
        worker: u16,
        number: u64,
        stage: Stage,
    },
    Back {
        worker: u16,
    },
    Fault {
        at: usize,
    },
    Withdraw {
        request: u64,
    },
}

struct Engine<'a> {
    scenario: &'a Scenario,
    core: Core,
    index: Arc<Index>,
    workers: Vec<Bench>,
    heap: BinaryHeap<Reverse<(Nanos, u64, Future)>>,
    sequence: u64,
    noise: Stream,
    withdrawals: Stream,
    checker: Checker,
    figures: Figures,
}

/// A worker's engines, as they really are.
#[derive(Debug, Default)]
struct Bench {
    engines: Engines,
    /// The oldest first.
    live: Vec<Live>,
}

#[derive(Copy, Clone, Debug)]
struct Live {
    run: RunId,
    stages: Stages,
    gap: Nanos,
    /// When the gap is over.
    begins: Nanos,
    /// The stage that is next, or running.
    stage: usize,
    running: bool,
}

impl<'a> Engine<'a> {
    fn new(scenario: &'a Scenario, policy: Box<dyn Policy>) -> Result<Engine<'a>, SimulateError> {
        let core = Core::new(&scenario.fleet, scenario.index.clone(), scenario.limits.clone(), policy)?;
        let workers = scenario
            .fleet
            .devices
            .iter()
            .flat_map(|device| device.workers.iter().map(|_| Bench { engines: device.engines, live: Vec::new() }));
        let mut engine = Engine {
            core,
            index: scenario.index.clone(),
            workers: workers.collect(),
            heap: BinaryHeap::new(),
            sequence: 0,
            noise: Stream::named(scenario.seed, "noise"),
            withdrawals: Stream::named(scenario.seed, "withdrawals"),
            checker: Checker::new(scenario),
            figures: Figures::new(scenario.fleet.devices.len()),
            scenario,
        };
        for (at, (when, _)) in scenario.faults.iter().enumerate() {
            engine.push(*when, Future::Fault { at });
        }
        Ok(engine)
    }

    fn push(&mut self, at: Nanos, future: Future) {
        self.sequence += 1;
        self.heap.push(Reverse((at, self.sequence, future)));
    }

    fn next_event(&self) -> Nanos {
        self.heap.peek().map_or(Nanos::NEVER, |Reverse((at, ..))| *at)
    }

    fn arrive(&mut self, now: Nanos, arrival: &Arrival, watch: Watch<'_>) {
        let Arrival { model, rows, deadline, priority, .. } = *arrival;
        match self.core.submit(now, Wish { model, rows, deadline, priority }) {
            Ok(id) => {
                watch(Seen::Accepted { at: now, request: id });
                self.figures.accepted();
                self.checker.accepted(id, model);
                let reality = &self.scenario.reality;
                if reality.withdrawn > 0.0 && self.withdrawals.unit() < reality.withdrawn {
                    let after = reality.withdrawn_within.scaled(self.withdrawals.unit());
                    self.push(now + after, Future::Withdraw { request: id.0 });
                }
            }
            Err(refusal) => {
                watch(Seen::Refused { at: now, request: None, refusal });
                self.figures.refused(refusal);
            }
        }
    }

    /// All that is due by now.
    fn happen(&mut self, now: Nanos, watch: Watch<'_>) -> Result<(), SimulateError> {
        while self.next_event() <= now {
            let Some(Reverse((_, _, future))) = self.heap.pop() else { break };
            match future {
                Future::Begin { worker, .. } => self.run_engines(now, worker),
                Future::Over { worker, number, stage } => self.over(now, worker, number, stage, watch)?,
                Future::Back { worker } => self.tell(now, Event::WorkerReady { worker: WorkerId(worker) })?,
                Future::Fault { at } => self.fail(now, at)?,
                Future::Withdraw { request } => {
                    if self.core.cancel(RequestId(request)) == Cancelled::Forgotten {
                        self.figures.withdrawn();
                        self.check(now, |checker| checker.answered(RequestId(request)))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn tell(&mut self, now: Nanos, event: Event) -> Result<(), SimulateError> {
        self.core.on(now, event)?;
        Ok(())
    }

    fn fail(&mut self, now: Nanos, at: usize) -> Result<(), SimulateError> {
        match &self.scenario.faults[at].1 {
            Fault::Worker { worker, back_after } => {
                self.workers[usize::from(worker.0)].live.clear();
                self.push(now + *back_after, Future::Back { worker: worker.0 });
                self.tell(now, Event::WorkerLost { worker: *worker })
            }
            Fault::Device { device } => {
                let of_device = self
                    .scenario
                    .fleet
                    .devices
                    .iter()
                    .enumerate()
                    .flat_map(|(at, device)| device.workers.iter().map(move |_| at));
                let lost = of_device.zip(&mut self.workers).filter(|(at, _)| *at == usize::from(device.0));
                lost.for_each(|(_, worker)| worker.live.clear());
                self.tell(now, Event::DeviceLost { device: *device })
            }
            Fault::Records(index) => {
                self.index = index.clone();
                self.tell(now, Event::Generation(index.clone()))
            }
        }
    }

    /// Asks the core until it waits.
    fn act(&mut self, now: Nanos, watch: Watch<'_>) -> Result<(), SimulateError> {
        while let Some(action) = self.core.step(now) {
            match action {
                Action::Start { run, decision } => {
                    watch(Seen::Started { run, decision: &decision, requests: self.core.requests_of(run) });
                    self.start(now, run, &decision);
                }
                Action::Refuse { request, refusal } => {
                    watch(Seen::Refused { at: now, request: Some(request), refusal });
                    self.figures.given_up(refusal);
                    self.check(now, |checker| checker.answered(request))?;
                }
            }
        }
        watch(Seen::Settled { view: self.core.view(now) });
        let wake = self.core.wake_at();
        let core = &self.core;
        self.checker
            .look(core, now)
            .and_then(|()| if wake > now { Ok(()) } else { Err(Violation::NoProgress { wake }) })
            .map_err(|violation| SimulateError::Violation { at: now, violation })
    }

    /// A lesson takes no time here.
    fn learn(&mut self, now: Nanos) -> Result<(), SimulateError> {
        match self.core.take_lesson(now) {
            Some(lesson) => self.tell(now, Event::Learnt(lesson.learn())),
            None => Ok(()),
        }
    }

    fn check(&mut self, now: Nanos, check: impl FnOnce(&mut Checker) -> Result<(), Violation>) -> Result<(), SimulateError> {
        check(&mut self.checker).map_err(|violation| SimulateError::Violation { at: now, violation })
    }

    fn start(&mut self, now: Nanos, run: RunId, decision: &Decision) {
        let reality = &self.scenario.reality;
        let slower = if now >= reality.slower_from { reality.slower } else { 1.0 };
        let slower = slower * reality.interference.powi(self.neighbours(decision.worker));
        let curve = self.index.curve(decision.curve);
        let row = curve.row_of(decision.batch).map(|row| &curve.rows[row]).expect("a decision names a row of the index");
        let noise = &mut self.noise;
        let mut actual = |_, recorded: Nanos| {
            let factor = if reality.noise > 0.0 { (reality.noise * noise.normal()).exp() } else { 1.0 };
            (recorded * decision.repeats).scaled(factor * slower)
        };
        let recorded = row.stages;
        let stages = Stages {
            upload: actual(Stage::Upload, recorded.upload),
            compute: actual(Stage::Compute, recorded.compute),
            download: actual(Stage::Download, recorded.download),
        };
        self.figures.started(decision, row, stages);
        let worker = decision.worker.0;
        let begins = now + decision.gap;
        let live = Live { run, stages, gap: decision.gap, begins, stage: 0, running: false };
        self.workers[usize::from(worker)].live.push(live);
        if decision.gap > Nanos::ZERO {
            self.push(begins, Future::Begin { worker, number: run.number });
        }
        self.run_engines(now, worker);
    }

    /// Other workers of the device that have something in flight.
    fn neighbours(&self, worker: WorkerId) -> i32 {
        let devices = self.scenario.fleet.devices.iter().enumerate();
        let device_of: Vec<usize> = devices.flat_map(|(at, device)| device.workers.iter().map(move |_| at)).collect();
        let own = usize::from(worker.0);
        let others = self.workers.iter().enumerate().filter(|(at, _)| *at != own && device_of[*at] == device_of[own]);
        others.filter(|(_, bench)| !bench.live.is_empty()).count() as i32
    }

    /// Begins every stage that has its engine free.
    fn run_engines(&mut self, now: Nanos, worker: u16) {
        while let Some((number, stage, over)) = self.workers[usize::from(worker)].begin_one(now) {
            self.push(over, Future::Over { worker, number, stage });
        }
    }

    fn over(&mut self, now: Nanos, worker: u16, number: u64, stage: Stage, watch: Watch<'_>) -> Result<(), SimulateError> {
        let bench = &mut self.workers[usize::from(worker)];
        // The worker died meanwhile.
        let Some(at) = bench.live.iter().position(|live| live.run.number == number) else { return Ok(()) };
        bench.live[at].stage += 1;
        bench.live[at].running = false;
        let live = bench.live[at];
        if stage == Stage::Download {
            bench.live.remove(at);
            self.answer(now, live.run, watch)?;
            let spent = Spent { stages: live.stages, gap: live.gap, disturbed: false };
            self.tell(now, Event::Finished { run: live.run, spent: Some(spent) })?;
        } else {
            self.tell(now, Event::Passed { run: live.run, stage })?;
        }
        self.run_engines(now, worker);
        Ok(())
    }

    fn answer(&mut self, now: Nanos, run: RunId, watch: Watch<'_>) -> Result<(), SimulateError> {
        let decision = self.core.decision_of(run).copied();
        if let Some(decision) = &decision {
            self.figures.predicted(decision.finish - decision.started, now - decision.started);
            watch(Seen::Answered { at: now, run, decision, requests: self.core.requests_of(run) });
        }
        for request in self.core.requests_of(run) {
            self.figures.answered(now, request);
            self.checker.answered(request.id).map_err(|violation| SimulateError::Violation { at: now, violation })?;
        }
        Ok(())
    }

    fn end(mut self, now: Nanos) -> Result<Figures, SimulateError> {
        let core = &self.core;
        self.checker.end(core).map_err(|violation| SimulateError::Violation { at: now, violation })?;
        self.figures.end();
        Ok(self.figures)
    }
}

impl Bench {
    /// Begins one stage whose engine is free: the run's number, the stage and when it will be over.
    fn begin_one(&mut self, now: Nanos) -> Option<(u64, Stage, Nanos)> {
        let busy = |stage: Stage| self.live.iter().any(|live| live.running && live.stage == stage as usize);
        let (uploading, computing, downloading) = (busy(Stage::Upload), busy(Stage::Compute), busy(Stage::Download));
        let (upload, compute, download) = match self.engines {
            Engines::None => {
                let free = !(uploading || computing || downloading);
                (free && self.live.len() == 1, free, free)
            }
            // Downloads go first: they are asked for below before uploads.
            Engines::One => (!uploading && !downloading, !computing, !uploading && !downloading),
            Engines::Two => (!uploading, !computing, !downloading),
        };
        let ready = |live: &&mut Live, stage: Stage| live.stage == stage as usize && !live.running && live.begins <= now;
        for (stage, free) in [(Stage::Download, download), (Stage::Compute, compute), (Stage::Upload, upload)] {
            if let Some(live) = self.live.iter_mut().find(|live| free && ready(live, stage)) {
                live.running = true;
                return Some((live.run.number, stage, now + live.stages.get(stage)));
            }
        }
        None
    }
}
