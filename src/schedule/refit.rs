//! A line of times refitted with every run, so that predictions follow a device that became slower or faster.
//!
//! Recursive least squares with forgetting, a gate against outliers, and a bound on the covariance (papers §2.6).

use super::Line;

/// Weight of the past after each run. 0.98 finds a step of 30 % within 74 runs, 0.95, where records are steady, within 37 (papers §2.6).
const FORGETTING: f64 = 0.98;
const FORGETTING_STEADY: f64 = 0.95;
/// Median absolute deviation over the median up to which a record is steady: noise grade A.
pub const STEADY: f64 = 0.01;
/// Deviations beyond which a run is an outlier.
const GATE: f64 = 4.0;
/// Outliers in a row after which they are the truth.
const REJECTED_MAX: u8 = 8;
/// From a median absolute deviation to a standard deviation of a normal distribution.
const MAD_TO_SIGMA: f64 = 1.4826;

/// The line of one stage of one curve as it is now.
#[derive(Clone, Debug)]
pub struct Refit {
    /// As the records have it.
    start: Line,
    now: Line,
    forgetting: f64,
    /// Of the covariance: slope, both, fixed part.
    p: [f64; 3],
    p_start: [f64; 3],
    /// Running deviation of the errors.
    deviation: f64,
    rejected: u8,
}

impl Refit {
    /// Begins with the line of records, of which `noise` is the median absolute deviation over the median.
    pub fn new(start: Line, noise: f64) -> Refit {
        let unit = (0.03 * start.at(8)).max(f64::MIN_POSITIVE);
        // A part of zero may turn out to be more than that.
        let scale = start.at(8).max(1.0) * 1e-3;
        let part = |value: f64| 100.0 * (value.max(scale) / unit).powi(2);
        let p = [part(start.per_row_ns), 0.0, part(start.fixed_ns)];
        let forgetting = if noise <= STEADY { FORGETTING_STEADY } else { FORGETTING };
        Refit { start, now: start, forgetting, p, p_start: p, deviation: 0.02 * start.at(8), rejected: 0 }
    }

    /// Learns that a run of `rows` rows took `ratio` times what the records say of it. Ratios and not times, because measured
    /// batches lie beside their line without any drift.
    pub fn observe(&mut self, rows: u32, ratio: f64) {
        if self.start.at(8) <= 0.0 || !(ratio.is_finite() && ratio > 0.0) {
            return;
        }
        let error = ratio * self.start.at(rows) - self.now.at(rows);
        if error.abs() > GATE * self.deviation && self.rejected < REJECTED_MAX {
            self.rejected += 1;
            self.deviation = 0.95 * self.deviation + 0.05 * MAD_TO_SIGMA * error.abs().min(GATE * self.deviation);
            return;
        }
        if self.rejected >= REJECTED_MAX {
            self.p = self.p_start;
            self.deviation = self.deviation.max(error.abs() / GATE);
        }
        self.rejected = 0;
        self.step(f64::from(rows), error);
        self.deviation = 0.95 * self.deviation + 0.05 * MAD_TO_SIGMA * error.abs().min(GATE * self.deviation);
    }

    fn step(&mut self, rows: f64, error: f64) {
        let [slope, both, fixed] = self.p;
        let px = [slope * rows + both, both * rows + fixed];
        let gain = px.map(|part| part / (self.forgetting + px[0] * rows + px[1]));
        let (per_row_ns, fixed_ns) = (self.now.per_row_ns + gain[0] * error, self.now.fixed_ns + gain[1] * error);
        // A part is never negative, and what it would have been the other takes: were it only cut off, the line would miss this run by as
        // much, the next run would correct that in the same direction, and the line would run away.
        let here = (per_row_ns * rows + fixed_ns).max(0.0);
        self.now = match (per_row_ns < 0.0, fixed_ns < 0.0) {
            (true, _) => Line { per_row_ns: 0.0, fixed_ns: here },
            (_, true) => Line { per_row_ns: here / rows, fixed_ns: 0.0 },
            _ => Line { per_row_ns, fixed_ns },
        };
        let p = [slope - gain[0] * px[0], both - gain[0] * px[1], fixed - gain[1] * px[1]].map(|part| part / self.forgetting);
        // Without the bound the covariance winds up as long as all batches are alike, and the next other one throws the line far off.
        let (trace, most) = (p[0] + p[2], self.p_start[0] + self.p_start[2]);
        self.p = if trace > most { p.map(|part| part * most / trace) } else { p };
    }

    /// What a time of the records is to be multiplied with.
    pub fn factor(&self, rows: u32) -> f64 {
        let before = self.start.at(rows);
        if before > 0.0 { self.now.at(rows) / before } else { 1.0 }
    }

    pub fn line(&self) -> Line {
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deterministic numbers in [0, 1), spread evenly enough (Weyl).
    fn weyl(seed: f64) -> impl FnMut() -> f64 {
        let mut at = seed;
        move || {
            at = (at + 0.754_877_666_246_692_7) % 1.0;
            at
        }
    }

    fn line() -> Line {
        Line { per_row_ns: 1e6, fixed_ns: 8e6 }
    }

    /// Batches from 1 to 32, noise of 3 %, one in fifty six times as long; `factor` is what really holds.
    fn runs(refit: &mut Refit, count: usize, factor: f64, draw: &mut impl FnMut() -> f64) -> Vec<f64> {
        let run = |_| {
            let rows = 1 + (draw() * 32.0) as u32;
            // The sum of twelve uniform numbers is nearly normal.
            let normal: f64 = (0..12).map(|_| draw()).sum::<f64>() - 6.0;
            let outlier = if draw() < 0.02 { 6.0 } else { 1.0 };
            refit.observe(rows, factor * (1.0 + 0.03 * normal) * outlier);
            (refit.factor(8) / factor - 1.0).abs()
        };
        (0..count).map(run).collect()
    }

    #[test]
    fn a_steady_line_stays_and_a_step_is_found() {
        // Found after 74 and 37 runs as published; other draws take up to twice as many.
        for (noise, error, runs_most) in [(0.03, 0.01, 120), (0.005, 0.015, 60)] {
            let (mut refit, mut draw) = (Refit::new(line(), noise), weyl(0.1));
            let mut steady = runs(&mut refit, 1000, 1.0, &mut draw);
            steady.sort_by(f64::total_cmp);
            assert!(steady[500] < error, "noise {noise}: median error {}", steady[500]);
            let after = runs(&mut refit, 200, 1.3, &mut draw);
            let found = after.iter().position(|&error| error < 0.05).expect("the step is found");
            assert!(found <= runs_most, "noise {noise}: found after {found} runs");
            assert!(after[150..].iter().all(|&error| error < 0.05), "and kept");
        }
    }

    /// With one batch only, nothing bounds the covariance but the bound; the next other batch must not throw the line off.
    #[test]
    fn a_constant_batch_does_not_wind_up() {
        let (mut refit, mut draw) = (Refit::new(line(), 0.03), weyl(0.3));
        (0..3000).for_each(|_| refit.observe(4, 1.0 + 0.06 * (draw() - 0.5)));
        refit.observe(32, 1.03);
        assert!((refit.factor(8) - 1.0).abs() < 0.05, "{}", refit.factor(8));
    }

    /// Nearly all runs are of one row, and the line has no fixed part, or hardly any.
    #[test]
    fn a_part_that_would_be_negative_does_not_run_away() {
        for fixed_ns in [0.0, 1e5] {
            for (noise, deviation) in [(0.0, 0.05), (0.0, 0.2), (0.03, 0.2)] {
                let start = Line { per_row_ns: 11e6, fixed_ns };
                let (mut refit, mut draw) = (Refit::new(start, noise), weyl(0.3));
                for run in 0..20_000 {
                    let normal: f64 = (0..12).map(|_| draw()).sum::<f64>() - 6.0;
                    let rows = if draw() < 0.02 { 2 } else { 1 };
                    refit.observe(rows, 1.08 * (deviation * normal).exp());
                    let off = (refit.factor(1) / 1.08 - 1.0).abs();
                    assert!(run < 50 || off < 0.01 + 1.5 * deviation, "{deviation}, after {run} runs: {off}");
                }
            }
        }
    }

    #[test]
    fn a_stage_that_takes_no_time_and_nonsense_change_nothing() {
        let mut nothing = Refit::new(Line::default(), 0.0);
        nothing.observe(4, 2.0);
        assert_eq!((nothing.factor(4), nothing.line()), (1.0, Line::default()));
        let mut refit = Refit::new(line(), 0.03);
        [f64::NAN, f64::INFINITY, 0.0, -1.0].into_iter().for_each(|ratio| refit.observe(4, ratio));
        assert_eq!(refit.line(), line());
    }
}
