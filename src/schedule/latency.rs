//! Closed forms for what a batching worker does under Poisson arrivals: capacity, mean, p99, and the rate that keeps a bound.
//!
//! Source: Zhang, Zha, Wan and Cheng 2019, corrected as papers §2.1 and §2.2 derive; the mean is Inoue's bound for dynamic batching
//! (arXiv 1912.06322). Corrections used here: E1 (the steady batch is a prediction, never a wait condition), E2 (mean and p99 instead of
//! the worst request), E3 and E7 (the rate for a bound by bisection of the p99), E4 (a pipeline is bounded by its slowest engine),
//! E6 (latency has upload and download in it), E8 (streams).

use super::{Curve, Engines, Line, Nanos, Stage};

/// One model on one worker, closing batches just in time.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Pipeline {
    pub lines: [Line; 3],
    pub engines: Engines,
    /// The largest batch.
    pub batch_max: u32,
}

impl Pipeline {
    pub fn of(curve: &Curve, engines: Engines) -> Pipeline {
        Pipeline { lines: curve.lines, engines, batch_max: curve.largest().batch.rows() }
    }

    /// Rows a second at the most: largest batches back to back.
    pub fn capacity_per_s(&self) -> f64 {
        1e9 * f64::from(self.batch_max) / self.cycle_ns(self.batch_max)
    }

    /// Nanoseconds between the ends of two batches of so many rows.
    fn cycle_ns(&self, rows: u32) -> f64 {
        let [up, cal, dn] = self.lines.map(|line| line.at(rows));
        let streams = ((up + cal + dn) / up.max(cal).max(dn)).ceil().clamp(1.0, 3.0);
        match self.engines {
            Engines::None => up + cal + dn,
            Engines::One => cal.max(up + dn).max((up + cal + dn) / streams),
            Engines::Two => up.max(cal).max(dn).max((up + cal + dn) / streams),
        }
    }

    /// Slope and fixed part of what bounds the pipeline, and the time besides it of a batch of `rows` rows; nanoseconds.
    fn bound(&self, rows: f64) -> (f64, f64, f64) {
        let [up, cal, dn] = self.lines;
        let sum = |a: Line, b: Line| (a.per_row_ns + b.per_row_ns, a.fixed_ns + b.fixed_ns);
        let at = |(k, c): (f64, f64)| k * rows + c;
        let (copies, compute) = (sum(up, dn), (cal.per_row_ns, cal.fixed_ns));
        match self.engines {
            Engines::None => (copies.0 + compute.0, copies.1 + compute.1, 0.0),
            _ => (compute.0, compute.1, at(copies)),
        }
    }

    /// The batch that arrives while one is computed, on average: c·λ / (1 − k·λ); `None` from the capacity of the slopes on.
    pub fn steady_batch(&self, rate_per_s: f64) -> Option<f64> {
        let (k, c, _) = self.bound(0.0);
        let rate = rate_per_s * 1e-9;
        (rate * k < 1.0).then(|| c * rate / (1.0 - k * rate))
    }

    /// Mean latency of single rows that arrive at random; `None` from the capacity of the slopes on. Compute-bound.
    pub fn mean(&self, rate_per_s: f64) -> Option<Nanos> {
        let batch = self.steady_batch(rate_per_s)?.max(1.0);
        let (k, c, copies) = self.bound(batch);
        let rate = rate_per_s * 1e-9;
        let load = rate * k;
        let bound = (k + c) / (2.0 * (1.0 - load)) * (1.0 + 2.0 * rate * c + (1.0 - rate * c) / (1.0 + load));
        let heavy = 1.5 * c / (1.0 - load) + k / 2.0 * (load + 2.0) / (1.0 - load * load);
        Some(Nanos::from_f64(bound.min(heavy) + copies))
    }

    /// 99 of 100 rows are answered within; `None` from the capacity of the slopes on. Within 4 % for loads from 0.3 to 0.9.
    pub fn p99(&self, rate_per_s: f64) -> Option<Nanos> {
        let batch = self.steady_batch(rate_per_s)?;
        let (k, c, copies) = self.bound(batch);
        let load = rate_per_s * 1e-9 * k;
        let cycle = k * batch + c;
        let deviation = k * (batch / (1.0 - load * load)).sqrt();
        Some(Nanos::from_f64(2.0 * cycle + 2.0 * (2.0 + 2.0 * load).sqrt() * deviation + copies))
    }

    /// The greatest rate, in rows a second, whose p99 keeps `bound` and whose steady batch there is; 0 when none does. The closed form of the
    /// paper overloads.
    ///
    /// It sizes a service (`explain --deadline`). Admission does not go by it: what waits and runs now says more of a request than what is usual at the rate of now
    /// (docs/measurements/schedule.md).
    pub fn rate_within(&self, bound: Nanos) -> f64 {
        let (mut low, mut high) = (0.0, self.capacity_per_s());
        for _ in 0..40 {
            let middle = (low + high) / 2.0;
            let alone = Stage::ALL.iter().map(|stage| self.lines[*stage as usize].at(1)).sum::<f64>();
            let exists = self.steady_batch(middle).is_some_and(|batch| batch <= f64::from(self.batch_max));
            let keeps = exists && self.p99(middle).is_some_and(|p99| p99.as_f64().max(alone) <= bound.as_f64());
            (low, high) = if keeps { (middle, high) } else { (low, middle) };
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference device of papers: k = 1 ms, c = 8 ms, of which a share is transfers, half of it each way.
    pub(crate) fn reference(transfers: f64, engines: Engines, batch_max: u32) -> Pipeline {
        let line = |part: f64| Line { per_row_ns: 1e6 * part, fixed_ns: 8e6 * part };
        Pipeline { lines: [line(transfers / 2.0), line(1.0 - transfers), line(transfers / 2.0)], engines, batch_max }
    }

    fn assert_near(found: f64, expected: f64, tolerance: f64) {
        assert!((found / expected - 1.0).abs() <= tolerance, "{found}, published {expected}");
    }

    #[test]
    fn capacities_are_those_published() {
        for (transfers, expected) in [(0.05, 936.0), (0.0826, 969.0), (0.20, 1111.0), (0.40, 1481.0)] {
            assert_near(reference(transfers, Engines::Two, 64).capacity_per_s(), expected, 0.001);
        }
        // Two streams would give 1778: three are needed.
        assert_near(reference(0.6, Engines::Two, 64).capacity_per_s(), 2222.0, 0.001);
        assert_near(reference(0.2, Engines::None, 64).capacity_per_s(), 1000.0 * 64.0 / 72.0, 1e-9);
        assert_near(reference(0.6, Engines::One, 64).capacity_per_s(), 1000.0 * 64.0 / 72.0 / 0.6, 1e-9);
    }

    #[test]
    fn rates_for_a_bound_are_those_published() {
        let alone = reference(0.0, Engines::None, 1 << 16);
        assert_near(alone.rate_within(Nanos(100_000_000)), 770.0, 0.005);
        assert_near(alone.rate_within(Nanos(40_000_000)), 464.0, 0.005);
        assert_near(reference(0.0826, Engines::Two, 1 << 16).rate_within(Nanos(100_000_000)), 852.0, 0.005);
        assert_near(reference(0.3, Engines::Two, 1 << 16).rate_within(Nanos(100_000_000)), 1162.0, 0.005);
        assert_eq!(alone.rate_within(Nanos(8_000_000)), 0.0, "no rate makes a row faster than it is alone");
    }

    #[test]
    fn nothing_is_predicted_beyond_capacity_and_no_pole_is_met() {
        let alone = reference(0.0, Engines::None, 64);
        assert_eq!((alone.mean(1000.0), alone.p99(1000.0), alone.steady_batch(5000.0)), (None, None, None));
        assert_eq!(alone.steady_batch(0.0), Some(0.0));
        assert_near(alone.mean(1e-6).unwrap().as_f64(), 9e6, 0.001);
    }
}
