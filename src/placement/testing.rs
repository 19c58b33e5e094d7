//! Candidates on a device, for the tests of this room.

use super::{Candidate, Here, Measured};
use schema::{Batch, DeviceKey, DeviceName, EnvironmentKey, ModelKey, Picos, PlanKey, Share};
use std::sync::LazyLock;

static NAME: LazyLock<DeviceName> = LazyLock::new(|| DeviceName("cpu".into()));

/// The device and its environment.
pub fn here() -> Here<'static> {
    Here { device: DeviceKey([1; 16]), name: &NAME, environment: EnvironmentKey([1; 8]), mechanism: "core_sets" }
}

pub fn millis(ms: f64) -> Picos {
    Picos::from_secs_f64(ms * 1e-3)
}

pub fn share(percent: f64) -> Share {
    Share::percent(percent).expect("a share")
}

/// An entry of the model "m", tuned [`here`] for a share, with a record of the plan "tuned" if it has a time.
pub fn entry(percent: f64, ms: Option<f64>) -> Candidate {
    let measured = |ms| Measured { median: millis(ms), plan: Some(PlanKey::of("tuned")), mechanism: here().mechanism.into() };
    Candidate {
        artifact: 0,
        graph: 0,
        entry: Some(0),
        model: "m".into(),
        key: ModelKey::of("m"),
        batch: Batch::ONE,
        dims: vec![],
        device: Some((here().device, NAME.clone(), here().environment)),
        share: share(percent),
        record: ms.map(measured),
        tuned: 3,
    }
}

/// The same graph with defaults.
pub fn defaults() -> Candidate {
    Candidate { device: None, entry: None, tuned: 0, ..entry(100.0, None) }
}
