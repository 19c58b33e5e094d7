//! Observations: what was measured, as journalled. Winners are computed from them and never stored as truth.

use crate::{Batch, Config, DeviceKey, DeviceName, EnvironmentKey, Grant, ModelKey, Picos, PlanKey, Seed, Share, Split, TaskKey};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Who wrote it and which of its writes it was; unique over all databases.
///
/// Numbers grow over all writers of a database, and a database numbers past everything it has taken in from others: a later
/// observation has the greater number whenever its writer could know of the earlier one. Sorting ids themselves sorts by writer,
/// which says nothing of time; [`order`](Self::order) does.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObservationId {
    pub writer: [u8; 16],
    pub seq: u64,
}

impl Serialize for ObservationId {
    /// [`Display`](fmt::Display) where people read, else writer and number.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { (self.writer, self.seq).serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for ObservationId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            let (writer, seq) = Deserialize::deserialize(deserializer)?;
            return Ok(ObservationId { writer, seq });
        }
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("not the id of an observation"))
    }
}

/// Which arithmetic was allowed.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Numerics {
    #[default]
    Strict,
    Relaxed,
}

/// How steady the machine was: MAD over median up to 1 %, 3 %, 10 %, and beyond.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NoiseGrade {
    A,
    B,
    C,
    D,
}

/// The times of `n` samples.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    pub median: Picos,
    pub mad: Picos,
    pub p99: Picos,
    pub n: u32,
    pub grade: NoiseGrade,
}

/// Time of the default over time of this, with its 95 % interval, in parts per million: above 1,000,000 is faster.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ratio {
    pub ppm: u64,
    pub lo_ppm: u64,
    pub hi_ppm: u64,
}

/// Why a candidate has no time.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FailureClass {
    WrongResult,
    Timeout,
    Crash,
    OutOfMemory,
    Compile,
    DeviceLost,
}

/// What became of a trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Ok {
        timing: Timing,
        ratio: Option<Ratio>,
    },
    /// `detail` has at most 512 bytes.
    Failed {
        class: FailureClass,
        detail: String,
    },
}

/// time(batch) = `slope_ps` · batch + `intercept_ps`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub slope_ps: i64,
    pub intercept_ps: i64,
}

/// A model measured end to end at one batch on one share of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRecord {
    pub model: ModelKey,
    pub model_name: String,
    pub batch: Batch,
    /// The symbolic axes that were fixed besides the batch, sorted by name.
    pub dims: Vec<(String, u64)>,
    /// The configs that were measured against the default. The observation's ratio tells whether they replaced it.
    pub plan: PlanKey,
    /// How that plan computes the batch.
    pub split: Split,
    pub default: Timing,
    /// Latency lines over the batches measured: conversion and upload, compute, download.
    pub upload: Option<Line>,
    pub compute: Option<Line>,
    pub download: Option<Line>,
    /// Rows per second of back-to-back runs, in thousandths.
    pub throughput_milli_per_s: u64,
    pub memory_bytes: u64,
    pub energy_mj: Option<u64>,
    /// Why `energy_mj` is unknown.
    pub energy_why: Option<String>,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subject {
    /// A config during the search.
    Trial { task: TaskKey, config: Config },
    /// A config in a paired run-off against the default.
    Final { task: TaskKey, config: Config },
    /// A whole model with tuned configs.
    Model(Box<ModelRecord>),
}

/// One measured trial or model run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    pub id: ObservationId,
    pub subject: Subject,
    pub device: DeviceKey,
    pub device_name: DeviceName,
    pub share: Share,
    pub grant: Grant,
    pub numerics: Numerics,
    pub outcome: Outcome,
    pub environment: EnvironmentKey,
    pub tool_version: String,
    pub seed: Seed,
    /// Seconds since 1970, for people only: nothing compares it.
    pub wall_clock_s: u64,
}

/// What was measured, before the journal has given it an id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewObservation {
    pub subject: Subject,
    pub device: DeviceKey,
    pub device_name: DeviceName,
    pub share: Share,
    pub grant: Grant,
    pub numerics: Numerics,
    pub outcome: Outcome,
    pub environment: EnvironmentKey,
    pub tool_version: String,
    pub seed: Seed,
    /// Seconds since 1970, for people only: nothing compares it.
    pub wall_clock_s: u64,
}

impl NewObservation {
    /// The observation under its id.
    pub fn with_id(self, id: ObservationId) -> Observation {
        Observation {
            id,
            subject: self.subject,
            device: self.device,
            device_name: self.device_name,
            share: self.share,
            grant: self.grant,
            numerics: self.numerics,
            outcome: self.outcome,
            environment: self.environment,
            tool_version: self.tool_version,
            seed: self.seed,
            wall_clock_s: self.wall_clock_s,
        }
    }
}

impl fmt::Display for ObservationId {
    /// `3f0c…9a:17`: writer in hexadecimal, colon, number of its write.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.writer.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, ":{}", self.seq)
    }
}

impl ObservationId {
    /// What sorts observations by when they were made, as far as that can be known without a clock: by number, then by writer.
    ///
    /// What was written later in one database comes later, whichever of its processes wrote it, and so does what was measured after
    /// a merge than what was merged. Two observations whose databases did not know each other have no order in time; they get the
    /// same one everywhere. A clock has no part in it, because clocks jump and differ (Lamport 1978, "Time, clocks, and the ordering of
    /// events in a distributed system").
    pub fn order(self) -> (u64, [u8; 16]) {
        (self.seq, self.writer)
    }

    /// The id written by [`Display`](fmt::Display).
    pub fn parse(text: &str) -> Option<Self> {
        let (writer, seq) = text.split_once(':')?;
        let writer = TaskKey::parse(writer)?.0;
        Some(ObservationId { writer, seq: seq.parse().ok()? })
    }
}

impl FailureClass {
    /// Every class.
    pub const ALL: [FailureClass; 6] = [
        FailureClass::WrongResult,
        FailureClass::Timeout,
        FailureClass::Crash,
        FailureClass::OutOfMemory,
        FailureClass::Compile,
        FailureClass::DeviceLost,
    ];

    /// The stable name: `wrong_result`.
    pub fn name(self) -> &'static str {
        match self {
            FailureClass::WrongResult => "wrong_result",
            FailureClass::Timeout => "timeout",
            FailureClass::Crash => "crash",
            FailureClass::OutOfMemory => "out_of_memory",
            FailureClass::Compile => "compile",
            FailureClass::DeviceLost => "device_lost",
        }
    }
}

impl NoiseGrade {
    /// `A` to `D`.
    pub fn name(self) -> &'static str {
        match self {
            NoiseGrade::A => "A",
            NoiseGrade::B => "B",
            NoiseGrade::C => "C",
            NoiseGrade::D => "D",
        }
    }
}

impl Numerics {
    /// `strict` or `relaxed`.
    pub fn name(self) -> &'static str {
        match self {
            Numerics::Strict => "strict",
            Numerics::Relaxed => "relaxed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_parses_back() {
        let id = ObservationId { writer: [0xa7; 16], seq: 17 };
        assert_eq!(ObservationId::parse(&id.to_string()), Some(id));
        assert_eq!(ObservationId::parse("a7:1"), None);
    }

    #[test]
    fn a_later_number_is_newer_whoever_wrote_it() {
        let id = |writer: u8, seq| ObservationId { writer: [writer; 16], seq };
        let mut ids = [id(1, 30), id(9, 7), id(4, 30), id(2, 31)];
        ids.sort_by_key(|id| id.order());
        assert_eq!(ids, [id(9, 7), id(1, 30), id(4, 30), id(2, 31)]);
        assert!(id(2, 31).order() > id(9, 7).order() && id(2, 31) < id(9, 7), "ids themselves sort by writer");
    }
}
