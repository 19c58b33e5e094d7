//! The language everyone speaks: records, keys and units.
//!
//! What is stored in the database or is part of a key lives here, and nothing else. This package knows no store, no device, no
//! clock and no file; it is values and their encodings.

pub mod config;
pub mod device;
pub mod dtype;
pub mod features;
pub mod key;
pub mod observation;
pub mod split;
pub mod units;

pub use config::{Config, KnobValue};
pub use device::{Device, DeviceName, Environment, Grant};
pub use dtype::DType;
pub use features::{Features, ModelFeatures};
pub use key::{ConfigKey, DeviceKey, EnvironmentKey, ModelKey, PlanKey, TaskKey};
pub use observation::{
    FailureClass, Line, ModelRecord, NewObservation, NoiseGrade, Numerics, Observation, ObservationId, Outcome, Ratio, Subject,
    Timing,
};
pub use split::Split;
pub use units::{Batch, Picos, Seed, Share, ShareError};
