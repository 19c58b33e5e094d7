//! What a policy sees: queues, workers, the ledger, and what is predicted on each worker.

use super::admission;
use super::core::{Limits, Wish};
use super::decision::{Decision, Rival, Why};
use super::state::State;
use super::{
    Curve, CurveId, DeviceId, Engines, Forecast, Index, Ledger, ModelId, Nanos, Presence, Queue, RowId, STREAMS_MAX, Stages,
    Worker, WorkerId,
};
use schema::Share;
use std::cell::Cell;
use std::cmp::Ordering;

/// Load beyond which a device counts as no busier.
const LOAD_MAX: f64 = 0.95;

/// See the module. Asking allocates nothing.
#[derive(Copy, Clone, Debug)]
pub struct View<'a> {
    pub(super) state: &'a State,
    pub now: Nanos,
}

/// A curve and a worker where requests could run.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub curve: CurveId,
    pub worker: WorkerId,
    pub forecast: Forecast,
}

impl<'a> View<'a> {
    pub fn index(&self) -> &'a Index {
        &self.state.index
    }

    pub fn ledger(&self) -> &'a Ledger {
        &self.state.ledger
    }

    pub fn limits(&self) -> &'a Limits {
        &self.state.limits
    }

    pub fn models(&self) -> impl Iterator<Item = ModelId> + use<> {
        (0..self.state.models.len() as u16).map(ModelId)
    }

    pub fn queue(&self, model: ModelId) -> &'a Queue {
        &self.state.models[usize::from(model.0)].queue
    }

    /// Rows a second that arrive.
    pub fn rate(&self, model: ModelId) -> f64 {
        self.state.models[usize::from(model.0)].rate.per_s(self.now)
    }

    /// How much later than admitted for the model's requests finish, all but few of them.
    pub fn slip(&self, model: ModelId) -> Nanos {
        self.state.models[usize::from(model.0)].slip.now()
    }

    /// Nanoseconds of a whole device that a row of the model takes at least; 0 when it takes less on another device, or runs nowhere.
    pub fn device_time(&self, model: ModelId, device: DeviceId) -> f64 {
        let cheapest = self.state.models[usize::from(model.0)].cheapest;
        cheapest.filter(|(at, _)| *at == device).map_or(0.0, |(_, nanos)| nanos)
    }

    /// Device time the model had within the window, over its weight, in nanoseconds of a whole device.
    pub fn served(&self, model: ModelId) -> f64 {
        let weight = self.index().models()[usize::from(model.0)].weight;
        self.state.models[usize::from(model.0)].served.within(self.now) / weight
    }

    pub fn worker(&self, worker: WorkerId) -> &'a Worker {
        &self.state.workers[usize::from(worker.0)]
    }

    /// The workers that can run a curve: those of its device and share, wherever they are now.
    pub fn workers_of(&self, curve: CurveId) -> impl Iterator<Item = (WorkerId, &'a Worker)> + use<'a> {
        let state = self.state;
        state.places(curve).iter().map(move |&id| (id, &state.workers[usize::from(id.0)]))
    }

    /// Whether a curve has a worker that is not lost.
    pub fn is_served(&self, curve: CurveId) -> bool {
        self.workers_of(curve).any(|(_, worker)| worker.presence != Presence::Lost)
    }

    /// The stages of a tuned batch, as recorded and refitted since.
    pub fn stages(&self, row: RowId) -> Stages {
        self.state.stages(self.index().row_number(row))
    }

    /// The stages of a run of so many rows.
    pub fn stages_of(&self, curve: CurveId, rows: u32) -> Stages {
        let fit = self.index().curve(curve).fit(rows);
        let stages = self.stages(RowId { curve, row: fit.row as u16 });
        if fit.repeats == 1 { stages } else { stages.map(|_, time| time * fit.repeats) }
    }

    /// Whether the runs of a row take another time than its record says.
    pub fn is_stale(&self, row: RowId) -> bool {
        self.state.drifts[self.index().row_number(row)].is_stale()
    }

    /// What comes before a run of this model on this worker: nothing, or a change of share on its device.
    pub fn gap(&self, model: ModelId, worker: WorkerId) -> Nanos {
        let worker = self.worker(worker);
        match self.state.models[usize::from(model.0)].last_share[usize::from(worker.device.0)] {
            Some(share) if share != worker.share => self.ledger().gap(worker.device),
            _ => Nanos::ZERO,
        }
    }

    /// When the worker's share can be had: now, or when enough of what is in flight on its device is over.
    pub fn share_at(&self, worker: WorkerId) -> Nanos {
        self.state.free_at(worker).max(self.now)
    }

    /// Runs in flight on a device.
    pub fn in_flight_on(&self, device: DeviceId) -> usize {
        self.state.workers[self.state.workers_on(device)].iter().map(Worker::in_flight).sum()
    }

    /// The workers in flight that own some of a worker's units.
    fn overlapping(&self, own: &'a Worker) -> impl Iterator<Item = &'a WorkerId> {
        own.overlaps.iter().filter(|&&other| self.worker(other).in_flight() > 0)
    }

    /// How many times as long a run of the model takes there beside what is in flight on the device's other workers.
    pub fn beside(&self, model: ModelId, worker: WorkerId) -> f64 {
        if !self.index().has_interference() {
            return 1.0;
        }
        let on_device = self.state.workers_on(self.worker(worker).device);
        let others = on_device.filter(|at| *at != usize::from(worker.0)).map(|at| &self.state.workers[at]);
        others.filter_map(|other| other.flights.last()).map(|flight| self.index().interference(model, flight.model)).product()
    }

    /// When a run of so many rows would start and finish on each worker of a curve that is ready. Of workers that are idle and own their units
    /// alone the first stands for all: they would do the same.
    fn forecasts(&self, id: CurveId, rows: u32) -> impl Iterator<Item = (WorkerId, Forecast)> + use<'a> {
        let view = *self;
        let curve = view.index().curve(id);
        let stages = view.stages_of(id, rows);
        let mut idle = false;
        let differs = move |(_, worker): &(WorkerId, &Worker)| {
            worker.presence == Presence::Ready
                && (worker.in_flight() > 0 || !worker.overlaps.is_empty() || !std::mem::replace(&mut idle, true))
        };
        view.workers_of(id).filter(differs).map(move |(id, worker)| {
            let stages = match view.index().has_interference() {
                true => stages.map(|_, time| time.scaled(view.beside(curve.model, id))),
                false => stages,
            };
            (id, worker.forecast(view.now, view.share_at(id), view.gap(curve.model, id), stages))
        })
    }

    /// Whether a run of these stages can begin there now.
    pub fn can_begin(&self, worker: WorkerId, stages: Stages) -> bool {
        let at = self.worker(worker);
        let is_free = || self.ledger().is_free(at.device, at.share) && self.overlapping(at).next().is_none();
        at.can_begin(stages) && (at.in_flight() > 0 || is_free())
    }

    /// Whether any worker has room for a run, however short.
    pub fn can_begin_any(&self) -> bool {
        let free =
            |worker: &Worker| self.ledger().is_free(worker.device, worker.share) && self.overlapping(worker).next().is_none();
        self.state.workers.iter().any(|worker| worker.has_room(STREAMS_MAX) && (worker.in_flight() > 0 || free(worker)))
    }

    /// Every place where `rows` rows of a model could run; of workers that are alike one.
    pub fn candidates(&self, model: ModelId, rows: impl Fn(&Curve) -> u32) -> impl Iterator<Item = Candidate> {
        let view = *self;
        view.index().curves_of(model).flat_map(move |(id, curve)| {
            let candidate = move |(worker, forecast)| Candidate { curve: id, worker, forecast };
            view.forecasts(id, rows(curve)).map(candidate)
        })
    }

    /// The place where `rows` rows of a model would finish first; of equals the smaller share, then the lower number.
    pub fn best(&self, model: ModelId, rows: u32) -> Option<Candidate> {
        self.candidates(model, |_| rows).min_by_key(|candidate| self.rank(candidate))
    }

    /// The place where a request that arrives now would finish first behind all that waits, among the curves that `allowed` lets pass.
    pub fn best_behind_queue(&self, wish: &Wish, allowed: impl Fn(&Curve) -> bool) -> Option<Candidate> {
        let all = self.candidates(wish.model, |_| wish.rows.rows());
        let all = all.filter(|candidate| allowed(self.index().curve(candidate.curve)));
        all.min_by_key(|candidate| (admission::finish(self, wish, candidate), self.rank(candidate)))
    }

    /// The place for the first of a model's waiting rows, as many of them together as a batch there takes, among the curves that `allowed`
    /// lets pass: where they keep their deadline and finish first, counting what the run costs those that come behind it.
    pub fn best_for_waiting(&self, model: ModelId, allowed: impl Fn(&Curve) -> bool) -> Option<Candidate> {
        let queue = self.queue(model);
        let front = queue.front()?.rows.rows();
        let together = |curve: &Curve| queue.rows().min(curve.largest().batch.rows()).max(front);
        let all = self.candidates(model, together).filter(|candidate| allowed(self.index().curve(candidate.curve)));
        let deadline = queue.front().map_or(Nanos::NEVER, |front| front.deadline);
        // Curves come by device: its load is asked for once.
        let known = Cell::new((None, 0.0));
        let queued = |device: DeviceId| match known.get() {
            (Some(of), queued) if of == device => queued,
            _ => {
                let load = admission::load(self, device).min(LOAD_MAX);
                known.set((Some(device), load / (1.0 - load)));
                known.get().1
            }
        };
        all.min_by_key(|candidate| {
            let Candidate { forecast: Forecast { start, finish }, worker, curve } = *candidate;
            let curve = self.index().curve(curve);
            // What a run costs those behind it: the device time it takes, as many times as a queue at the device's load is long.
            let burden = || {
                let cycle = match self.worker(worker).engines {
                    // The same, unless something beside it makes it longer.
                    Engines::None if !self.index().has_interference() => finish - start,
                    engines => engines.cycle(self.stages_of(candidate.curve, together(curve))),
                };
                cycle.scaled(f64::from(curve.share.as_per_mille()) * 1e-3 * queued(curve.device))
            };
            let late = finish > deadline;
            (late, if late { finish } else { finish + burden() }, self.rank(candidate))
        })
    }

    /// Earliest finish first, then the smaller share, then the lower number.
    fn rank(&self, candidate: &Candidate) -> (Nanos, Share, CurveId, WorkerId) {
        (candidate.forecast.finish, self.index().curve(candidate.curve).share, candidate.curve, candidate.worker)
    }

    /// Whether the first request of a model is past its due time. Such models go before all others.
    pub fn is_overdue(&self, model: ModelId) -> bool {
        self.queue(model).front().is_some_and(|front| front.due <= self.now)
    }

    /// The models that have something waiting, those first that are to be served first: overdue ones by due time, then those
    /// that had least device time within the window, for their weight.
    pub fn in_turn(&self, into: &mut Vec<ModelId>) {
        into.clear();
        into.extend(self.models().filter(|&model| !self.queue(model).is_empty()));
        let due = |model: ModelId| self.queue(model).front().map_or(Nanos::NEVER, |front| front.due);
        into.sort_unstable_by(|&a, &b| match (self.is_overdue(a), self.is_overdue(b)) {
            (true, true) => due(a).cmp(&due(b)).then(a.cmp(&b)),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => self.served(a).total_cmp(&self.served(b)).then(due(a).cmp(&due(b))).then(a.cmp(&b)),
        });
    }

    /// Fills in why each other curve of the model lost against the chosen one.
    pub(super) fn judge_rivals(&self, decision: &mut Decision) {
        for (id, curve) in self.index().curves_of(decision.model) {
            if id == decision.curve {
                continue;
            }
            let batch = curve.rows[curve.fit(decision.rows).row].batch;
            let forecasts = self.forecasts(id, decision.rows).map(|(_, forecast)| forecast);
            let best = forecasts.min_by_key(|forecast| forecast.finish);
            let finish = best.map(|forecast| forecast.finish);
            let why = match best {
                None => self.absence(id),
                Some(best) if best.finish > decision.deadline && decision.finish <= decision.deadline => {
                    Why::Late(best.finish - decision.deadline)
                }
                Some(best) if best.finish > decision.finish && best.start > self.now => Why::InUse(best.start),
                Some(best) if best.finish > decision.finish => Why::Later(best.finish - decision.finish),
                Some(_) => Why::Rule,
            };
            decision.add_rival(Rival { device: curve.device, share: curve.share, batch, finish, why });
        }
    }

    fn absence(&self, curve: CurveId) -> Why {
        let mut presences = self.workers_of(curve).map(|(_, worker)| worker.presence);
        match presences.next() {
            None => Why::NoWorker,
            Some(Presence::Lost) if presences.all(|presence| presence == Presence::Lost) => Why::Lost,
            Some(_) => Why::Away,
        }
    }

    /// The row of a curve that the policy works a long queue off with.
    pub fn steady(&self, curve: CurveId) -> usize {
        self.state.steady[curve.0 as usize]
    }

    /// Nanoseconds a row of a long queue on one worker: of its slowest engine, where engines overlap.
    pub fn pace(&self, curve: CurveId) -> f64 {
        let of = self.index().curve(curve);
        let row = self.steady(curve);
        let stages = self.stages(RowId { curve, row: row as u16 });
        let engines = self.workers_of(curve).next().map_or(Engines::None, |(_, worker)| worker.engines);
        engines.cycle(stages).as_f64() / f64::from(of.rows[row].batch.rows())
    }
}
