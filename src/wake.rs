//! How devices wake, as the records know it: what the same short work takes right after itself and after idling.
//!
//! A gap is a trial of a task that no model has, whose config names the gap, as the figures of [`tune`](crate::tune) are. So it travels,
//! goes stale and is asked for like every other observation. Source: papers §1, *Wake curve*.

use crate::schedule::Wake;
use schema::{Config, DeviceKey, KnobValue, Observation, Outcome, Share, Subject, TaskKey};
use std::collections::BTreeMap;
use std::time::Duration;

/// The task whose trials are the gaps.
pub const TASK: &str = "machine what=wake";
/// Raised when something else is measured than before.
const REVISION: u32 = 1;
const KNOB: &str = "gap_ms";

/// The key of [`TASK`].
pub fn task() -> TaskKey {
    TaskKey::of(TASK)
}

/// The gaps, ascending; the first is none.
pub fn gaps() -> [Duration; 5] {
    Wake::GAPS_S.map(Duration::from_secs_f64)
}

/// The config whose trial is the time after a gap.
pub fn config(gap: Duration) -> Config {
    let knobs = vec![(KNOB.to_owned(), KnobValue::Int(i64::try_from(gap.as_millis()).unwrap_or(i64::MAX)))];
    Config { variant: "machine.wake".to_owned(), revision: REVISION, knobs }
}

/// The curve of each device that has one, by trials of [`TASK`] on its largest share that has one. A gap that nobody had the time to wait
/// for counts as the one before it; waking never makes anything faster.
pub fn curves(trials: &[Observation]) -> BTreeMap<DeviceKey, Wake> {
    let mut times: BTreeMap<(DeviceKey, Share), [Option<f64>; 5]> = BTreeMap::new();
    for trial in trials {
        let (Subject::Trial { config: found, .. }, Outcome::Ok { timing, .. }) = (&trial.subject, &trial.outcome) else {
            continue;
        };
        let Some(gap) = gaps().iter().position(|&gap| config(gap) == *found) else { continue };
        times.entry((trial.device, trial.share)).or_default()[gap] = Some(timing.median.as_secs_f64());
    }
    let curve = |((device, _), times): ((DeviceKey, Share), [Option<f64>; 5])| {
        let warm = times[0].filter(|warm| *warm > 0.0)?;
        let mut last = 1.0;
        let factors = times.map(|time| {
            last = time.map_or(last, |time| (time / warm).max(1.0));
            last
        });
        Some((device, Wake(factors)))
    };
    // The last of a device stays, which is that of its largest share.
    times.into_iter().filter_map(curve).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;
    use schema::{FailureClass, Picos};

    fn trial(device: u8, gap: usize, micros: u64) -> Observation {
        let subject = Subject::Trial { task: task(), config: config(gaps()[gap]) };
        Observation {
            device: DeviceKey([device; 16]),
            ..made_up::observation(subject, made_up::timing(Picos(micros * 1_000_000)))
        }
    }

    #[test]
    fn a_curve_is_what_was_measured_and_flat_behind_it() {
        let mut failed = trial(1, 3, 900);
        failed.outcome = Outcome::Failed { class: FailureClass::Timeout, detail: String::new() };
        let half = |gap, micros| Observation { share: Share::percent(50.0).unwrap(), ..trial(1, gap, micros) };
        let trials = [trial(1, 2, 300), trial(1, 0, 200), half(0, 100), half(2, 900), trial(1, 1, 190), failed, trial(2, 1, 500)];
        let curves = curves(&trials);
        assert_eq!(curves.get(&DeviceKey([1; 16])), Some(&Wake([1.0, 1.0, 1.5, 1.5, 1.5])), "nothing is faster for waking");
        assert_eq!(curves.len(), 1, "without a warm time there is no curve");
    }
}
