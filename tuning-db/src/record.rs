//! The stored forms: what a journal frame and a value of the index hold, frozen when released.
//!
//! A frame holds a whole [`Record`]. A value of the table of trials leaves out what its key says (subject, device, share), which
//! keeps a record below 250 bytes. Postcard does not describe itself: a changed form is a new one (`TrialV2`) under a higher
//! [`SCHEMA`](crate::envelope::SCHEMA), with `From` the old one; golden files hold the old forms to their bytes.

use crate::envelope::{self, EnvelopeError, Kind};
use crate::key::{self, TrialKey};
use schema::{
    Batch, Config, ConfigKey, Device, DeviceKey, DeviceName, Environment, EnvironmentKey, Grant, ModelFeatures, ModelKey,
    ModelRecord, Numerics, Observation, ObservationId, Outcome, Seed, Subject, TaskKey,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One entry of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Observation(Box<Observation>),
    /// What a model's key stands for.
    Model {
        key: ModelKey,
        name: String,
    },
    /// What a task's key stands for: its canonical text.
    Task {
        key: TaskKey,
        text: String,
    },
    /// A device was seen in an environment; `here`: by this database, so that it is the current one.
    Device {
        device: Device,
        environment: Environment,
        here: bool,
    },
    /// Observations that are to be forgotten.
    Tombstone(Tombstone),
    Note(Note),
    /// What a model's graph is like at a batch.
    Features(Box<ModelFeatures>),
}

/// Ids of observations that are dropped, as ranges `first..=last` per writer. A union of tombstones drops the union of ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    pub dropped: BTreeMap<[u8; 16], Vec<(u64, u64)>>,
}

/// What a journal says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Note {
    /// A generation is being published; per writer that wrote since the one before, its last write.
    Generation { number: u64, reached: Vec<([u8; 16], u64)> },
    /// For people.
    Text(String),
}

#[derive(Serialize, Deserialize)]
struct ModelV1 {
    key: ModelKey,
    name: String,
}

#[derive(Serialize, Deserialize)]
struct TaskV1 {
    key: TaskKey,
    text: String,
}

#[derive(Serialize, Deserialize)]
struct DeviceV1 {
    device: Device,
    environment: Environment,
    here: bool,
}

/// Kinds of frames.
pub mod frame_kind {
    pub const OBSERVATION: u8 = 1;
    pub const MODEL: u8 = 2;
    pub const TASK: u8 = 3;
    pub const DEVICE: u8 = 4;
    pub const TOMBSTONE: u8 = 5;
    pub const NOTE: u8 = 6;
    pub const FEATURES: u8 = 7;
}

impl Record {
    /// The kind of its frame.
    pub fn kind(&self) -> u8 {
        match self {
            Record::Observation(_) => frame_kind::OBSERVATION,
            Record::Model { .. } => frame_kind::MODEL,
            Record::Task { .. } => frame_kind::TASK,
            Record::Device { .. } => frame_kind::DEVICE,
            Record::Tombstone(_) => frame_kind::TOMBSTONE,
            Record::Note(_) => frame_kind::NOTE,
            Record::Features(_) => frame_kind::FEATURES,
        }
    }

    /// The version of its frame: readers that are older than its kind refuse it.
    pub fn schema(&self) -> u16 {
        if matches!(self, Record::Features(_)) { 2 } else { 1 }
    }

    /// The payload of its frame.
    pub fn encode(&self) -> Vec<u8> {
        let bytes = match self {
            Record::Observation(observation) => postcard::to_stdvec(&**observation),
            Record::Model { key, name } => postcard::to_stdvec(&ModelV1 { key: *key, name: name.clone() }),
            Record::Task { key, text } => postcard::to_stdvec(&TaskV1 { key: *key, text: text.clone() }),
            Record::Device { device, environment, here } => {
                postcard::to_stdvec(&DeviceV1 { device: device.clone(), environment: environment.clone(), here: *here })
            }
            Record::Tombstone(tombstone) => postcard::to_stdvec(tombstone),
            Record::Note(note) => postcard::to_stdvec(note),
            Record::Features(features) => postcard::to_stdvec(&**features),
        };
        bytes.expect("plain owned values always encode into memory")
    }

    /// The record of a frame of that kind.
    ///
    /// # Errors
    /// [`EnvelopeError::Unknown`] for another kind, [`EnvelopeError::Decode`] when the payload is no such record.
    pub fn decode(kind: u8, payload: &[u8]) -> Result<Self, EnvelopeError> {
        Ok(match kind {
            frame_kind::OBSERVATION => Record::Observation(Box::new(envelope::decode(payload)?)),
            frame_kind::MODEL => {
                let ModelV1 { key, name } = envelope::decode(payload)?;
                Record::Model { key, name }
            }
            frame_kind::TASK => {
                let TaskV1 { key, text } = envelope::decode(payload)?;
                Record::Task { key, text }
            }
            frame_kind::DEVICE => {
                let DeviceV1 { device, environment, here } = envelope::decode(payload)?;
                Record::Device { device, environment, here }
            }
            frame_kind::TOMBSTONE => Record::Tombstone(envelope::decode(payload)?),
            frame_kind::NOTE => Record::Note(envelope::decode(payload)?),
            frame_kind::FEATURES => Record::Features(Box::new(envelope::decode(payload)?)),
            other => return Err(EnvelopeError::Unknown(other)),
        })
    }
}

/// A trial or final as a value: without what its key says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialV1 {
    pub id: ObservationId,
    pub config: Config,
    pub run: RunV1,
}

/// A model run as a value, and the row made of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRunV1 {
    pub id: ObservationId,
    pub record: ModelRecord,
    pub run: RunV1,
}

/// What trials and model runs have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunV1 {
    pub device_name: DeviceName,
    pub grant: Grant,
    pub numerics: Numerics,
    pub outcome: Outcome,
    pub environment: EnvironmentKey,
    pub tool_version: String,
    pub seed: Seed,
    pub wall_clock_s: u64,
}

/// A device in an environment, as a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceTextV1 {
    pub device: Device,
    pub environment: Environment,
}

/// What a key stands for, as a value. `hash` is the whole BLAKE3 of a task's text; zero for a model, whose key hashes its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameV1 {
    pub hash: [u8; 32],
    pub text: String,
}

fn run_of(observation: &Observation) -> RunV1 {
    RunV1 {
        device_name: observation.device_name.clone(),
        grant: observation.grant.clone(),
        numerics: observation.numerics,
        outcome: observation.outcome.clone(),
        environment: observation.environment,
        tool_version: observation.tool_version.clone(),
        seed: observation.seed,
        wall_clock_s: observation.wall_clock_s,
    }
}

/// The 16 bytes that stand for what was measured: a task's key or a model's.
pub fn subject_bytes(subject: &Subject) -> [u8; 16] {
    match subject {
        Subject::Trial { task, .. } | Subject::Final { task, .. } => task.0,
        Subject::Model(record) => record.model.0,
    }
}

/// What takes the place of a config's key for a model run: batch and fixed axes.
pub fn shape_key(batch: Batch, dims: &[(String, u64)]) -> ConfigKey {
    let mut text = format!("batch={batch}");
    for (name, size) in dims {
        text.push_str(&format!(" {name}={size}"));
    }
    ConfigKey::of(&text)
}

/// Key and value of an observation in the table of trials.
///
/// # Errors
/// [`EnvelopeError::Decode`] when it is larger than a value may be.
pub fn trial_entry(observation: &Observation) -> Result<(Vec<u8>, Vec<u8>), EnvelopeError> {
    let subject = subject_bytes(&observation.subject);
    let config_key = match &observation.subject {
        Subject::Trial { config, .. } | Subject::Final { config, .. } => config.key(),
        Subject::Model(record) => shape_key(record.batch, &record.dims),
    };
    let key = key::trial(subject, observation.device, observation.share, config_key, observation.id).0;
    let run = run_of(observation);
    let value = match &observation.subject {
        Subject::Trial { config, .. } => {
            envelope::seal(&key, Kind::Trial, &TrialV1 { id: observation.id, config: config.clone(), run })?
        }
        Subject::Final { config, .. } => {
            envelope::seal(&key, Kind::Final, &TrialV1 { id: observation.id, config: config.clone(), run })?
        }
        Subject::Model(record) => {
            envelope::seal(&key, Kind::ModelRun, &ModelRunV1 { id: observation.id, record: (**record).clone(), run })?
        }
    };
    Ok((key, value))
}

/// An observation of what its key says and what its value does.
pub(crate) fn observation_of(
    id: ObservationId,
    subject: Subject,
    device: DeviceKey,
    share: schema::Share,
    run: RunV1,
) -> Observation {
    Observation {
        id,
        subject,
        device,
        device_name: run.device_name,
        share,
        grant: run.grant,
        numerics: run.numerics,
        outcome: run.outcome,
        environment: run.environment,
        tool_version: run.tool_version,
        seed: run.seed,
        wall_clock_s: run.wall_clock_s,
    }
}

/// The observation of an entry of the table of trials.
///
/// # Errors
/// [`EnvelopeError`] when the value is damaged or does not belong under its key.
pub fn parse_trial(key: &[u8], value: &[u8]) -> Result<Observation, EnvelopeError> {
    let parts = TrialKey::parse(key).ok_or_else(|| EnvelopeError::Decode("not a trial's key".into()))?;
    let (kind, payload) = envelope::open(key, value)?;
    let observation = match kind {
        Kind::Trial | Kind::Final => {
            let TrialV1 { id, config, run } = envelope::decode(payload)?;
            let task = TaskKey(parts.subject);
            let subject = if kind == Kind::Trial { Subject::Trial { task, config } } else { Subject::Final { task, config } };
            observation_of(id, subject, parts.device, parts.share, run)
        }
        Kind::ModelRun => {
            let ModelRunV1 { id, record, run } = envelope::decode(payload)?;
            observation_of(id, Subject::Model(Box::new(record)), parts.device, parts.share, run)
        }
        other => return Err(EnvelopeError::Unknown(other as u8)),
    };
    if key::id_hash(observation.id) != parts.id_hash {
        return Err(EnvelopeError::Decode("a trial under the key of another".into()));
    }
    Ok(observation)
}

/// The whole BLAKE3 of a task's text, as stored beside it.
pub fn text_hash(text: &str) -> [u8; 32] {
    *blake3::hash(text.as_bytes()).as_bytes()
}
