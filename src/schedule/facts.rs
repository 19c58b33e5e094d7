//! What an index knows besides times: of models their features, of devices what was granted and how they wake, of rows how much was
//! measured. Predictions are made of it (`predict`).

use super::predict::{Cost, Example};
use super::{DeviceId, ModelId, Nanos};
use schema::{Batch, Features, Share};
use std::collections::BTreeMap;

/// See the module. What is not in it is not known; of a row that is not in `samples` enough was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    pub features: BTreeMap<(ModelId, Batch), Features>,
    /// Cores or multiprocessors granted for a share.
    pub units: BTreeMap<(DeviceId, Share), u32>,
    /// Timings behind a row; 0 of one that is only predicted.
    pub samples: BTreeMap<(ModelId, DeviceId, Share, Batch), u32>,
    pub wakes: BTreeMap<DeviceId, Wake>,
    /// What models that the index has not cost on its devices ([`examples_elsewhere`](super::examples_elsewhere)).
    pub elsewhere: Vec<(Cost, Example)>,
}

/// How much longer the first run takes after a device was idle: its time over the warm one's, at each of [`Wake::GAPS_S`] (papers §1).
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Wake(pub [f64; 5]);

impl Wake {
    /// Seconds idle.
    pub const GAPS_S: [f64; 5] = [0.0, 0.1, 1.0, 10.0, 60.0];

    /// After so long, between two of the gaps along the logarithm; beyond the last gap as at it.
    pub fn factor(&self, idle: Nanos) -> f64 {
        let (gaps, idle) = (Self::GAPS_S.map(place), place(idle.as_secs_f64()));
        let above = gaps.iter().position(|&gap| gap > idle).unwrap_or(gaps.len() - 1).max(1);
        let part = ((idle - gaps[above - 1]) / (gaps[above] - gaps[above - 1])).clamp(0.0, 1.0);
        self.0[above - 1] + part * (self.0[above] - self.0[above - 1])
    }
}

/// Seconds on a scale where a factor is a distance from about 10 ms on.
fn place(seconds: f64) -> f64 {
    (1.0 + seconds * 100.0).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_factor_lies_between_those_of_its_gaps() {
        let wake = Wake([1.0, 1.2, 2.0, 4.0, 7.0]);
        let at = |seconds| wake.factor(Nanos::from_secs_f64(seconds));
        for (gap, factor) in Wake::GAPS_S.into_iter().zip(wake.0) {
            assert!((at(gap) - factor).abs() < 1e-6, "{gap} s: {}", at(gap));
        }
        assert!(at(3.0) > 2.0 && at(3.0) < 4.0 && (at(1e6) - 7.0).abs() < 1e-9);
    }
}
