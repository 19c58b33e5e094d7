//! Observations for tests, of which each says only what it is about.

use schema::{
    Batch, DeviceKey, DeviceName, EnvironmentKey, Grant, ModelKey, ModelRecord, NoiseGrade, Numerics, Observation, ObservationId,
    Outcome, Picos, PlanKey, Seed, Share, Split, Subject, Timing,
};

/// A quiet timing.
pub fn timing(median: Picos) -> Timing {
    Timing { median, mad: Picos(1), p99: median, n: 9, grade: NoiseGrade::A }
}

/// Of all of a CPU.
pub fn observation(subject: Subject, timing: Timing) -> Observation {
    Observation {
        id: ObservationId { writer: [1; 16], seq: 1 },
        subject,
        device: DeviceKey([1; 16]),
        device_name: DeviceName("cpu".into()),
        share: Share::WHOLE,
        grant: Grant { mechanism: "cores".into(), units: 1 },
        numerics: Numerics::Strict,
        outcome: Outcome::Ok { timing, ratio: None },
        environment: EnvironmentKey([1; 8]),
        tool_version: "0".into(),
        seed: Seed(0),
        wall_clock_s: 0,
    }
}

/// Of the plan "tuned" of a model of that name, one row of which was run.
pub fn model_record(name: &str, default: Timing) -> ModelRecord {
    ModelRecord {
        model: ModelKey::of(name),
        model_name: name.into(),
        batch: Batch::ONE,
        dims: vec![],
        plan: PlanKey::of("tuned"),
        split: Split::WHOLE,
        default,
        upload: None,
        compute: None,
        download: None,
        throughput_milli_per_s: 1,
        memory_bytes: 1,
        energy_mj: None,
        energy_why: None,
    }
}
