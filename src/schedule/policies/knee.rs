//! `knee`: several models side by side, each on the share beyond which more of the device helps it little (papers §3.1).
//!
//! A model's time over its share is T(s) = a + w/s, a serial part and a parallel one. The efficacy of a share, 1/(T²·s), is greatest at
//! s = w/a, where both parts are equal: its knee. Each model begins at the grantable share of greatest efficacy and moves from there by
//! its load, with a hysteresis of whole windows. Share that nobody waits for goes to whoever runs. Batches close just in time.

use super::closing::{Closing, close};
use super::{Candidate, DeviceId, ModelId, Placement, Policy, Step, Turn, View, Wish, in_turn, no_argument};
use crate::schedule::{Curve, CurveId, Nanos};
use schema::{Batch, Share};

/// Utilisation above which a model wants more, and below which less would do.
const BUSY: f64 = 0.9;
const IDLE: f64 = 0.6;
/// Windows in a row until it gets more, and until it gets less.
const BUSY_WINDOWS: u32 = 3;
const IDLE_WINDOWS: u32 = 10;
const WINDOW: Nanos = Nanos(1_000_000_000);
/// Error of the fit beyond which it says nothing.
const RESIDUAL_MAX: f64 = 0.1;

/// T(s) = `serial_ns` + `parallel_ns` / s, with s from 0 to 1.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct ShareLine {
    pub serial_ns: f64,
    pub parallel_ns: f64,
    /// The largest relative error over the measured shares.
    pub residual: f64,
}

impl ShareLine {
    /// Fitted through measured shares; `None` of fewer than two.
    pub fn through(measured: &[(Share, Nanos)]) -> Option<ShareLine> {
        if measured.len() < 2 {
            return None;
        }
        // Least squares of relative errors in (1, 1/s).
        let (mut n, mut x, mut xx, mut y, mut xy) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for &(share, time) in measured {
            let (inverse, time) = (1.0 / fraction(share), time.as_f64());
            let weight = 1.0 / (time * time);
            n += weight;
            x += weight * inverse;
            xx += weight * inverse * inverse;
            y += weight * time;
            xy += weight * inverse * time;
        }
        let parallel = ((n * xy - x * y) / (n * xx - x * x)).max(0.0);
        let serial = ((y - parallel * x) / n).max(0.0);
        let line = ShareLine { serial_ns: serial, parallel_ns: parallel, residual: 0.0 };
        let error = |&(share, time): &(Share, Nanos)| (line.at(share).as_f64() / time.as_f64() - 1.0).abs();
        Some(ShareLine { residual: measured.iter().map(error).fold(0.0, f64::max), ..line })
    }

    /// The time at a share.
    pub fn at(&self, share: Share) -> Nanos {
        Nanos::from_f64(self.serial_ns + self.parallel_ns / fraction(share))
    }

    /// The share of greatest efficacy, from 0 on: above 1 the whole device is not yet enough.
    pub fn knee(&self) -> f64 {
        self.parallel_ns / self.serial_ns
    }
}

/// Of measured shares the one to begin with: that of the greatest efficacy by the fitted line; where no line fits, the smallest whose
/// time is within 5 % of the largest's.
pub fn knee_of(measured: &[(Share, Nanos)]) -> Option<Share> {
    let &(largest, whole) = measured.iter().max_by_key(|(share, _)| *share)?;
    let shares = measured.iter().map(|(share, _)| *share);
    match ShareLine::through(measured).filter(|line| line.residual <= RESIDUAL_MAX) {
        Some(line) => {
            let cost = |share: Share| line.at(share).as_f64().powi(2) * fraction(share);
            shares.min_by(|&a, &b| cost(a).total_cmp(&cost(b)))
        }
        None => {
            let near = measured.iter().filter(|(_, time)| time.as_f64() <= 1.05 * whole.as_f64());
            near.map(|(share, _)| *share).min().or(Some(largest))
        }
    }
}

fn fraction(share: Share) -> f64 {
    f64::from(share.as_per_mille()) * 1e-3
}

#[derive(Default)]
struct Knee {
    order: Vec<ModelId>,
    slices: Vec<Slice>,
    window: Nanos,
}

/// The share that a model is meant to have on a device.
#[derive(Clone, Debug)]
struct Slice {
    model: ModelId,
    device: DeviceId,
    /// Curves by share, and which of them is meant.
    curves: Vec<CurveId>,
    at: usize,
    busy: u32,
    idle: u32,
}

pub(super) fn new(argument: &str) -> Result<Box<dyn Policy>, String> {
    no_argument::<Knee>(argument)
}

impl Policy for Knee {
    fn step(&mut self, view: &View<'_>) -> Step {
        while self.window + WINDOW <= view.now {
            // Windows in which nothing was asked look alike; ten of them settle everything.
            self.window = (self.window + WINDOW).max(view.now - WINDOW * (IDLE_WINDOWS + 1));
            self.adapt(view);
        }
        let Knee { order, slices, .. } = self;
        in_turn(view, order, |model| {
            let Some(best) = best(view, slices, model) else { return Turn::Wait { until: Nanos::NEVER, device: None } };
            let device = Some(view.index().curve(best.curve).device);
            match close(view, &best) {
                Closing::Now(part) => {
                    Turn::Start(Placement { curve: best.curve, worker: best.worker, row: part.row, take: part.take })
                }
                Closing::At(until) => Turn::Wait { until, device },
                Closing::Blocked => Turn::Wait { until: Nanos::NEVER, device },
            }
        })
    }

    fn likely(&self, view: &View<'_>, wish: &Wish) -> Option<Candidate> {
        let meant = |curve: &Curve| {
            let slice = self.slices.iter().find(|slice| (slice.model, slice.device) == (curve.model, curve.device));
            slice.is_none_or(|slice| view.index().curve(slice.curves[slice.at]).share == curve.share)
        };
        view.best_behind_queue(wish, meant)
    }

    fn changed(&mut self, view: &View<'_>) {
        self.slices = view.models().flat_map(|model| slices(view, model)).collect();
    }
}

/// The slices of a model, one on each of its devices.
fn slices(view: &View<'_>, model: ModelId) -> Vec<Slice> {
    let has_worker = |(id, _): &(CurveId, &Curve)| view.workers_of(*id).next().is_some();
    let curves: Vec<(CurveId, &Curve)> = view.index().curves_of(model).filter(has_worker).collect();
    let on_one_device = curves.chunk_by(|a, b| a.1.device == b.1.device);
    on_one_device
        .map(|same| {
            let batch = same.iter().map(|(_, curve)| curve.largest().batch).min().unwrap_or(Batch::ONE);
            let time = |curve: &Curve| curve.rows[curve.fit(batch.rows()).row].stages.total();
            let measured: Vec<_> = same.iter().map(|(_, curve)| (curve.share, time(curve))).collect();
            let knee = knee_of(&measured);
            Slice {
                model,
                device: same[0].1.device,
                at: same.iter().position(|(_, curve)| Some(curve.share) == knee).unwrap_or(same.len() - 1),
                curves: same.iter().map(|(id, _)| *id).collect(),
                busy: 0,
                idle: 0,
            }
        })
        .collect()
}

/// The share that was meant for the model, or, while nobody else waits, any larger one that is free.
fn best(view: &View<'_>, slices: &[Slice], model: ModelId) -> Option<Candidate> {
    let alone = !view.models().any(|other| other != model && !view.queue(other).is_empty());
    view.best_for_waiting(model, |curve| {
        let slice = slices.iter().find(|slice| slice.model == model && slice.device == curve.device);
        let meant = slice.map(|slice| view.index().curve(slice.curves[slice.at]).share);
        meant.is_some_and(|meant| {
            curve.share == meant || (alone && curve.share > meant && view.ledger().is_free(curve.device, curve.share))
        })
    })
}

impl Knee {
    /// After a window: who was busy for long gets the next larger share, who was idle for longer the next smaller.
    fn adapt(&mut self, view: &View<'_>) {
        for at in 0..self.slices.len() {
            let load = self.slices[at].load(view, self.slices[at].at);
            let slice = &mut self.slices[at];
            slice.busy = if load > BUSY { slice.busy + 1 } else { 0 };
            slice.idle = if load < IDLE { slice.idle + 1 } else { 0 };
            if slice.busy >= BUSY_WINDOWS && slice.at + 1 < slice.curves.len() && self.make_room(view, at) {
                let slice = &mut self.slices[at];
                (slice.at, slice.busy) = (slice.at + 1, 0);
            } else if self.slices[at].idle >= IDLE_WINDOWS {
                self.slices[at].shrink(view);
            }
        }
    }

    /// Whether a slice may grow: what it needs more is free, or the one with most slack gives it.
    fn make_room(&mut self, view: &View<'_>, grows: usize) -> bool {
        let device = self.slices[grows].device;
        let share = |slice: &Slice, at: usize| view.index().curve(slice.curves[at]).share.as_per_mille();
        let grown = share(&self.slices[grows], self.slices[grows].at + 1);
        let others = |slices: &[Slice]| -> u16 {
            let of = slices.iter().enumerate().filter(|(at, slice)| *at != grows && slice.device == device);
            of.map(|(_, slice)| share(slice, slice.at)).sum()
        };
        if others(&self.slices) + grown <= 1000 {
            return true;
        }
        let slack = |slice: &Slice| slice.load(view, slice.at);
        let candidates = (0..self.slices.len()).filter(|&at| at != grows && self.slices[at].device == device);
        let Some(loser) = candidates.min_by(|&a, &b| slack(&self.slices[a]).total_cmp(&slack(&self.slices[b]))) else {
            return false;
        };
        self.slices[loser].shrink(view) && others(&self.slices) + grown <= 1000
    }
}

impl Slice {
    /// The part of the time that the model's arrivals would keep it busy at one of its shares.
    fn load(&self, view: &View<'_>, at: usize) -> f64 {
        view.rate(self.model) * view.pace(self.curves[at]) * 1e-9
    }

    /// Goes to the next smaller share, if the load leaves it less than busy there.
    fn shrink(&mut self, view: &View<'_>) -> bool {
        let can = self.at > 0 && self.load(view, self.at - 1) < BUSY;
        if can {
            (self.at, self.idle) = (self.at - 1, 0);
        }
        can
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(percent: f64) -> Share {
        Share::percent(percent).unwrap()
    }

    fn table(serial: f64, parallel: f64, shares: &[f64]) -> Vec<(Share, Nanos)> {
        shares.iter().map(|&s| (share(s), Nanos::from_f64(1e6 * (serial + parallel * 100.0 / s)))).collect()
    }

    #[test]
    fn a_share_left_out_of_the_fit_is_predicted() {
        for (serial, parallel) in [(1.0, 0.2), (1.0, 0.6), (0.1, 3.0)] {
            let all = table(serial, parallel, &[12.5, 25.0, 50.0, 75.0, 100.0]);
            for out in 0..all.len() {
                let rest: Vec<_> = all.iter().enumerate().filter(|(at, _)| *at != out).map(|(_, one)| *one).collect();
                let line = ShareLine::through(&rest).unwrap();
                let error = line.at(all[out].0).as_f64() / all[out].1.as_f64() - 1.0;
                assert!(error.abs() < 0.05, "{error} at {}", all[out].0);
            }
            let line = ShareLine::through(&all).unwrap();
            assert!((line.knee() * serial / parallel - 1.0).abs() < 1e-3, "knee {}", line.knee());
        }
    }

    #[test]
    fn the_knee_is_where_serial_and_parallel_times_are_equal() {
        let shares = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0];
        for (parallel, expected) in [(0.2, 20.0), (0.6, 60.0), (1.0, 100.0), (5.0, 100.0), (0.01, 10.0)] {
            assert_eq!(knee_of(&table(1.0, parallel, &shares)), Some(share(expected)));
        }
    }

    #[test]
    fn where_no_line_fits_the_smallest_share_near_the_whole_is_taken() {
        let cliff = [(share(25.0), Nanos(100)), (share(50.0), Nanos(20)), (share(100.0), Nanos(20))];
        assert!(ShareLine::through(&cliff).unwrap().residual > RESIDUAL_MAX);
        assert_eq!(knee_of(&cliff), Some(share(50.0)));
        assert_eq!((ShareLine::through(&cliff[..1]), knee_of(&cliff[..1])), (None, Some(share(25.0))));
        assert_eq!(knee_of(&[]), None);
    }
}
