//! `forest`: each where it is predicted to cost least, by measured rows and, as far as those are few, by random forests (papers §1).
//!
//! `forest:GOAL[/explore=PART][/seed=N]`, GOAL being `latency` (the default), `throughput` or `energy`. Costs are the time from now to
//! the end of the run, that time for each row of the run, or the energy of a row, among the places that keep the first deadline; what has
//! no energy counts as late. The seed is that of what is tried now and then. Batches are closed as `batcher` closes them (`closing`).
//!
//! A row of n timings is trusted by n/(n + 3) and its prediction by the rest, on the scale of logarithms; timings of a row that drifted
//! no longer count, runs do. Predictions are those that the index was made with (`Index::taught`), a table by row that is looked up and
//! changes with the index or when a [`Lesson`] has helped. Without features in the records there are none, and measured rows decide.

use super::closing::{Closing, close};
use super::{Candidate, Learnt, Lesson, ModelId, Placement, Policy, Step, Turn, View, Wish, in_turn};
use crate::schedule::relearn::{Memory, Seen};
use crate::schedule::{Curve, CurveId, DeviceId, Forecast, Foresight, Nanos, Outcome, Predicted, Row, RowId, WorkerId};
use crate::space::Stream;
use schema::{Batch, Seed, Share};
use std::cmp::Ordering;

/// Timings by which a row is trusted as much as its prediction.
const TRUST: f64 = 3.0;
/// Costs within this factor are equal.
const TIE: f64 = 1.03;
/// Part of the time to its deadline that a run may take to be tried elsewhere.
const EXPLORE_SLACK: f64 = 0.5;
/// Part of the runs that go to the second best.
const EXPLORE: f64 = 0.01;

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Goal {
    Latency,
    Throughput,
    Energy,
}

struct Forest {
    goal: Goal,
    explore: f64,
    stream: Stream,
    /// Whether the next run goes to the second best.
    exploring: bool,
    order: Vec<ModelId>,
    memory: Memory,
    /// By number.
    rows: Vec<Known>,
    /// What a lesson taught; before the first, the index' own.
    foresight: Option<Foresight>,
    /// By device, when something was last begun there.
    launched: Vec<Nanos>,
}

type Place = (ModelId, DeviceId, Share, Batch);

/// What is behind a row.
#[derive(Copy, Clone, Debug)]
struct Known {
    place: Place,
    /// `None`: enough.
    timings: Option<u32>,
    /// That ended since.
    runs: u32,
}

/// A place for a model's first rows, with what it costs.
#[derive(Copy, Clone, Debug)]
struct Offer {
    candidate: Candidate,
    finish: Nanos,
    /// Not what the goal asks for: over the deadline, or of unknown energy.
    late: bool,
    cost: f64,
    in_flight: usize,
    energy_mj: f64,
}

impl Offer {
    fn rank(&self, other: &Offer) -> Ordering {
        self.late.cmp(&other.late).then(self.cost.total_cmp(&other.cost))
    }
}

/// Offers that are compared; of more the dearest are left out.
const OFFERS_MAX: usize = 32;

#[derive(Default)]
struct Offers {
    list: [Option<Offer>; OFFERS_MAX],
    len: usize,
}

impl Offers {
    fn push(&mut self, offer: Offer) {
        if self.len < OFFERS_MAX {
            self.list[self.len] = Some(offer);
            self.len += 1;
        } else if let Some(dearest) =
            self.list.iter_mut().flatten().max_by(|a, b| a.rank(b)).filter(|held| offer.rank(held).is_lt())
        {
            *dearest = offer;
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Offer> + Clone {
        self.list[..self.len].iter().flatten()
    }
}

pub(super) fn new(argument: &str) -> Result<Box<dyn Policy>, String> {
    let (mut goal, mut explore, mut seed) = (Goal::Latency, EXPLORE, 0);
    for (at, part) in argument.split('/').enumerate() {
        match part.split_once('=') {
            None if at == 0 => {
                goal = match part {
                    "latency" | "" => Goal::Latency,
                    "throughput" => Goal::Throughput,
                    "energy" => Goal::Energy,
                    other => return Err(format!("'{other}' is none of latency, throughput, energy")),
                }
            }
            Some(("explore", part)) => {
                let value = part.parse().ok().filter(|value| (0.0..=1.0).contains(value));
                explore = value.ok_or_else(|| format!("explore is a number from 0 to 1, found '{part}'"))?;
            }
            Some(("seed", number)) => {
                seed = number.parse().map_err(|_| format!("seed is a whole number, found '{number}'"))?;
            }
            _ => return Err(format!("'{part}' is not GOAL, explore=PART or seed=N, as energy/explore=0.01")),
        }
    }
    Ok(Box::new(Forest {
        goal,
        explore,
        stream: Stream::named(Seed(seed), "explore"),
        exploring: false,
        order: Vec::new(),
        memory: Memory::new(0),
        rows: Vec::new(),
        foresight: None,
        launched: Vec::new(),
    }))
}

impl Policy for Forest {
    fn step(&mut self, view: &View<'_>) -> Step {
        let mut order = std::mem::take(&mut self.order);
        let step = in_turn(view, &mut order, |model| {
            let Some(best) = self.choose(view, model) else { return Turn::Wait { until: Nanos::NEVER, device: None } };
            let device = Some(view.index().curve(best.curve).device);
            match close(view, &best) {
                Closing::Now(part) => {
                    Turn::Start(Placement { curve: best.curve, worker: best.worker, row: part.row, take: part.take })
                }
                Closing::At(until) => Turn::Wait { until, device },
                Closing::Blocked => Turn::Wait { until: Nanos::NEVER, device },
            }
        });
        self.order = order;
        if let Step::Start(placement) = step {
            self.launched[usize::from(view.index().curve(placement.curve).device.0)] = view.now;
            self.exploring = self.stream.unit() < self.explore;
        }
        step
    }

    fn likely(&self, view: &View<'_>, wish: &Wish) -> Option<Candidate> {
        let offers = self.offers(view, wish.model, |_| wish.rows.rows(), Nanos::NEVER);
        let Offer { candidate, finish, .. } = best(view, offers.iter())?;
        Some(Candidate { forecast: Forecast { finish, ..candidate.forecast }, ..candidate })
    }

    fn foresees(&self) -> bool {
        true
    }

    fn observe(&mut self, outcome: &Outcome<'_>) {
        let decision = outcome.decision;
        let place = (decision.model, decision.device, decision.share, decision.batch);
        let Ok(row) = self.rows.binary_search_by_key(&place, |known| known.place) else { return };
        self.rows[row].runs += 1;
        let time = outcome.spent.stages.total().as_f64() / f64::from(decision.repeats);
        if time > 0.0 {
            let predicted = self.foresight.as_ref().and_then(|foresight| foresight.table[row].ln_time);
            self.memory.observe(Seen { row: row as u32, ln_time: time.ln() as f32 }, predicted);
        }
    }

    fn changed(&mut self, view: &View<'_>) {
        let index = view.index();
        let known = |curve: &Curve, row: &Row| {
            let place = (curve.model, curve.device, curve.share, row.batch);
            Known { place, timings: index.facts().samples.get(&place).copied(), runs: 0 }
        };
        self.rows = index.curves().iter().flat_map(|curve| curve.rows.iter().map(|row| known(curve, row))).collect();
        self.memory = Memory::new(self.rows.len());
        self.foresight = index.foresight().cloned();
        self.launched.resize(index.devices().len(), Nanos::ZERO);
    }

    fn lesson(&mut self, view: &View<'_>) -> Option<Lesson> {
        let foresight = self.foresight.as_ref().filter(|_| self.memory.is_lesson_due())?;
        Some(self.memory.lesson(&view.state.index, foresight))
    }

    fn learnt(&mut self, learnt: Learnt) {
        if learnt.foresight.is_some() {
            self.foresight = learnt.foresight;
        }
    }
}

impl Forest {
    /// Where the first waiting rows of a model go: to what costs least, now and then to the second best, where there is time to try it.
    fn choose(&self, view: &View<'_>, model: ModelId) -> Option<Candidate> {
        let queue = view.queue(model);
        let front = queue.front()?;
        let together = |curve: &Curve| queue.rows().min(curve.largest().batch.rows()).max(front.rows.rows());
        let offers = self.offers(view, model, together, front.deadline);
        let first = best(view, offers.iter())?;
        if self.exploring {
            let others = offers.iter().filter(|other| other.candidate.curve != first.candidate.curve);
            let slack = front.deadline - view.now;
            let second = best(view, others);
            if let Some(second) = second.filter(|second| second.finish - view.now <= slack.scaled(EXPLORE_SLACK)) {
                return Some(second.candidate);
            }
        }
        Some(first.candidate)
    }

    fn offers(&self, view: &View<'_>, model: ModelId, rows: impl Fn(&Curve) -> u32, deadline: Nanos) -> Offers {
        let mut offers = Offers::default();
        for candidate in view.candidates(model, &rows) {
            offers.push(self.offer(view, candidate, rows(view.index().curve(candidate.curve)), deadline));
        }
        offers
    }

    fn offer(&self, view: &View<'_>, candidate: Candidate, rows: u32, deadline: Nanos) -> Offer {
        let index = view.index();
        let curve = index.curve(candidate.curve);
        let fit = curve.fit(rows);
        let row = RowId { curve: candidate.curve, row: fit.row as u16 };
        let total = view.stages_of(candidate.curve, rows).total();
        let idle = view.now - self.launched.get(usize::from(curve.device.0)).copied().unwrap_or_default();
        let wake = index.facts().wakes.get(&curve.device).map_or(1.0, |wake| wake.factor(idle));
        let number = index.row_number(row);
        let trust = self.trust(view, row, number);
        let predicted = self.foresight.as_ref().map_or(Predicted::default(), |foresight| foresight.table[number]);
        let once = total.as_f64() / f64::from(fit.repeats);
        let time = total.scaled(wake * mixed(once, predicted.ln_time, trust) / once);
        let finish = candidate.forecast.finish + time - total;
        let recorded_mj = curve.rows[fit.row].energy_mj;
        let energy_mj = match (recorded_mj, predicted.ln_energy) {
            (Some(energy), predicted) if energy > 0.0 => mixed(energy, predicted, trust),
            (_, Some(predicted)) => f64::from(predicted).exp(),
            _ => f64::INFINITY,
        };
        let energy_mj = energy_mj * f64::from(fit.repeats) / f64::from(rows.max(1));
        let span = (finish - view.now).as_f64();
        let late = self.goal == Goal::Energy && (finish > deadline || energy_mj == f64::INFINITY);
        let cost = match self.goal {
            Goal::Energy if !late => energy_mj,
            Goal::Throughput => span / f64::from(rows.max(1)),
            _ => span,
        };
        Offer { candidate, finish, late, cost, in_flight: view.in_flight_on(curve.device), energy_mj }
    }

    /// How far a row is believed against its prediction, from 0 to 1.
    fn trust(&self, view: &View<'_>, row: RowId, number: usize) -> f64 {
        let Some(Known { timings: Some(timings), runs, .. }) = self.rows.get(number) else { return 1.0 };
        let timings = if view.is_stale(row) { 0 } else { *timings };
        let n = f64::from(timings) + f64::from(*runs);
        n / (n + TRUST)
    }
}

/// The offer of least cost; of those within 3 % the one with the shortest queue, then of least energy, then of the lowest number.
fn best<'o>(view: &View<'_>, offers: impl Iterator<Item = &'o Offer> + Clone) -> Option<Offer> {
    let least = *offers.clone().min_by(|a, b| a.rank(b))?;
    let near = offers.filter(|offer| offer.late == least.late && offer.cost <= least.cost * TIE);
    let number = |offer: &Offer| -> (Share, CurveId, WorkerId) {
        (view.index().curve(offer.candidate.curve).share, offer.candidate.curve, offer.candidate.worker)
    };
    let nearest = near.min_by(|a, b| {
        let energy = a.energy_mj.total_cmp(&b.energy_mj);
        a.in_flight.cmp(&b.in_flight).then(energy).then_with(|| number(a).cmp(&number(b)))
    });
    nearest.copied()
}

/// A cost believed by a part, and its prediction by the rest.
fn mixed(cost: f64, predicted: Option<f32>, trust: f64) -> f64 {
    match predicted {
        Some(predicted) if trust < 1.0 => (trust * cost.ln() + (1.0 - trust) * f64::from(predicted)).exp(),
        _ => cost,
    }
}
