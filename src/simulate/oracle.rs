//! What no policy can surpass: how many requests could be answered in time by one that knows the future.
//!
//! A bound, not a schedule: finding the best schedule is NP-hard. A request takes at least its part of the most efficient batch, and only
//! between its arrival and its deadline. So within any window of arrivals no more can be answered in time than fit, cheapest first, into the
//! time from the first of them to the last deadline among them. Windows of one length cover the trace once; of all lengths the smallest sum
//! counts. With several devices, each priced by what a row usually takes there, all together do no more than their time is worth (weak
//! duality), whatever the prices. Where engines overlap, one of them is looked at, and then the other.

use super::Arrival;
use crate::schedule::{Curve, DeviceId, Engines, Fleet, FleetDevice, Index, ModelId, Nanos, Stages};

/// Requests of the trace, in order of arrival, that can be answered in time at the most, when runs take what the records say.
pub fn most_in_time(fleet: &Fleet, index: &Index, trace: &[Arrival]) -> u64 {
    let sum = |engine: fn(Engines, Stages) -> Nanos| Bound::new(fleet, index, engine).most(trace);
    sum(computing).min(sum(copying))
}

fn computing(engines: Engines, stages: Stages) -> Nanos {
    if engines == Engines::None { stages.total() } else { stages.compute }
}

fn copying(engines: Engines, stages: Stages) -> Nanos {
    match engines {
        Engines::None => stages.total(),
        Engines::One => stages.upload + stages.download,
        Engines::Two => stages.upload.max(stages.download),
    }
}

struct Bound<'a> {
    index: &'a Index,
    /// Of a row of each model, in priced device time; `None`: it runs nowhere.
    costs: Vec<Option<f64>>,
    /// Of a nanosecond of all devices.
    worth: f64,
}

impl<'a> Bound<'a> {
    fn new(fleet: &Fleet, index: &'a Index, engine: fn(Engines, Stages) -> Nanos) -> Bound<'a> {
        // Device time of a row in the most efficient batch at the most efficient share.
        let least = |model: ModelId, device: DeviceId| {
            let FleetDevice { engines, workers, .. } = &fleet.devices[usize::from(device.0)];
            let time = |curve: &Curve| {
                let per_row = curve.rows.iter().map(|row| engine(*engines, row.stages).as_f64() / f64::from(row.batch.rows()));
                per_row.fold(f64::INFINITY, f64::min) * f64::from(curve.share.as_per_mille()) * 1e-3
            };
            let curves = index.curves_of(model).filter(|(_, curve)| curve.device == device && workers.contains(&curve.share));
            curves.map(|(_, curve)| time(curve)).min_by(f64::total_cmp)
        };
        let models = || (0..index.models().len() as u16).map(ModelId);
        let devices = || (0..fleet.devices.len() as u16).map(DeviceId);
        let price = |device: DeviceId| {
            let times: Vec<f64> = models().filter_map(|model| least(model, device)).filter(|&time| time > 0.0).collect();
            if times.is_empty() { 0.0 } else { times.len() as f64 / times.iter().sum::<f64>() }
        };
        let prices: Vec<f64> = devices().map(price).collect();
        let cost = |model: ModelId| {
            let costs = devices().zip(&prices).filter_map(|(device, price)| Some(least(model, device)? * price));
            costs.min_by(f64::total_cmp)
        };
        Bound { index, costs: models().map(cost).collect(), worth: prices.iter().sum() }
    }

    fn most(&self, trace: &[Arrival]) -> u64 {
        let (Some(first), Some(last)) = (trace.first(), trace.last()) else { return 0 };
        let costs: Vec<Option<f64>> = trace.iter().map(|arrival| self.cost(arrival)).collect();
        let span = (last.at - first.at).0 + 1;
        let lengths = (0..24).map(|halving| span >> halving).filter(|&length| length > 0);
        lengths.map(|length| self.within_windows(trace, &costs, length)).min().unwrap_or(0)
    }

    /// What a request takes at least; `None` when it cannot be in time even alone.
    fn cost(&self, arrival: &Arrival) -> Option<f64> {
        let rows = arrival.rows.rows();
        let alone = |curve: &Curve| {
            let fit = curve.fit(rows);
            curve.rows[fit.row].stages.total() * fit.repeats
        };
        let possible = self.index.curves_of(arrival.model).any(|(_, curve)| arrival.at + alone(curve) <= arrival.deadline);
        let per_row = self.costs.get(usize::from(arrival.model.0)).copied().flatten();
        per_row.filter(|_| possible).map(|per_row| per_row * f64::from(rows))
    }

    /// The sum over consecutive windows of what fits into each.
    fn within_windows(&self, trace: &[Arrival], costs: &[Option<f64>], length: u64) -> u64 {
        let first = trace[0].at;
        let window_of = |arrival: &Arrival| (arrival.at - first).0 / length;
        let (mut sum, mut at, mut sorted) = (0, 0, Vec::new());
        for window in trace.chunk_by(|a, b| window_of(a) == window_of(b)) {
            sorted.clear();
            sorted.extend(costs[at..at + window.len()].iter().flatten());
            at += window.len();
            sorted.sort_unstable_by(f64::total_cmp);
            let ends = window.iter().map(|arrival| arrival.deadline).max().unwrap_or(Nanos::NEVER);
            let mut room = if ends == Nanos::NEVER { f64::INFINITY } else { (ends - window[0].at).as_f64() * self.worth };
            // Rounding never takes a request away.
            let fits = |cost: &&f64| {
                room -= **cost;
                room >= -1e-6 * **cost
            };
            sum += sorted.iter().take_while(fits).count() as u64;
        }
        sum
    }
}
