//! Whether a row of the records still holds: actual time over recorded time, of its newest runs.

/// Runs that are looked at together.
const RUNS: usize = 64;
/// How far their median may lie from 1 before the row is stale (papers §2.6).
const STALE: f32 = 0.1;
/// A look costs a selection among `RUNS`, so it is not taken every time.
const LOOK_EVERY: u8 = 16;

/// The newest runs of one row.
#[derive(Clone, Debug)]
pub(super) struct Drift {
    ratios: [f32; RUNS],
    runs: u64,
    since_look: u8,
    stale: bool,
}

impl Drift {
    pub fn new() -> Drift {
        Drift { ratios: [1.0; RUNS], runs: 0, since_look: 0, stale: false }
    }

    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Takes in actual over recorded time. The median, when it is that which makes the row stale now.
    pub fn observe(&mut self, ratio: f64) -> Option<f64> {
        self.ratios[self.runs as usize % RUNS] = ratio as f32;
        self.runs += 1;
        self.since_look += 1;
        if self.runs < RUNS as u64 || self.since_look < LOOK_EVERY {
            return None;
        }
        self.since_look = 0;
        let mut sorted = self.ratios;
        let (_, median, _) = sorted.select_nth_unstable_by(RUNS / 2, f32::total_cmp);
        let before = std::mem::replace(&mut self.stale, (*median - 1.0).abs() > STALE);
        (self.stale && !before).then_some(f64::from(*median))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_stale_when_the_median_moves_and_not_for_outliers() {
        let mut drift = Drift::new();
        // A third of the runs takes six times as long: that is noise.
        assert!((0..300).all(|i| drift.observe(if i % 3 == 0 { 6.0 } else { 1.02 }).is_none()));
        assert!(!drift.is_stale());
        let alarms: Vec<f64> = (0..300).filter_map(|_| drift.observe(1.3)).collect();
        assert_eq!(alarms.len(), 1, "one alarm a drift");
        assert!(drift.is_stale() && alarms[0] > 1.1, "{alarms:?}");
        (0..128).for_each(|_| assert!(drift.observe(1.0).is_none()));
        assert!(!drift.is_stale(), "what holds again is no longer stale");
    }
}
