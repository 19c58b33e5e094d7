//! What the tables of an index say, typed. Works on every index: sled, a snapshot with the journal's tail over it, a map.

use crate::envelope::{self, EnvelopeError, Kind};
use crate::index::{Flow, Index, IndexError};
use crate::key::{self, BestKey, RowKey, meta};
use crate::record::{
    DeviceTextV1, ModelRunV1, NameV1, Tombstone, observation_of, parse_trial, shape_key, text_hash, trial_entry,
};
use crate::reduce::BestV1;
use schema::{
    Batch, Config, Device, DeviceKey, Environment, EnvironmentKey, ModelFeatures, ModelKey, Numerics, Observation, ObservationId,
    Share, Subject, TaskKey,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

impl From<EnvelopeError> for IndexError {
    fn from(error: EnvelopeError) -> Self {
        match error {
            EnvelopeError::Newer { found, known } => IndexError::Newer { found, known },
            other => IndexError::Corrupt(other.to_string()),
        }
    }
}

/// A config's pooled time, with the key it stands under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Best {
    pub task: TaskKey,
    pub device: DeviceKey,
    pub share: Share,
    pub numerics: Numerics,
    /// Config, pooled timing, ratio against the default, environment, provenance.
    pub found: BestV1,
    /// Measured in another environment than the device's current one.
    pub stale: bool,
}

/// A model record as stored, with what the database knows about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRow {
    /// Its subject is always [`Subject::Model`].
    pub observation: Observation,
    /// Measured in another environment than the device's current one.
    pub stale: bool,
}

/// A device in an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRow {
    pub key: DeviceKey,
    pub device: Device,
    pub environment: Environment,
    pub current: bool,
}

/// Up to where the journal is in an index.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    pub seq: u64,
}

/// Up to which write of a writer each generation reached, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History(pub Vec<(u64, u64)>);

/// Typed reads of an index.
#[derive(Copy, Clone)]
pub struct Tables<'a>(pub &'a dyn Index);

impl<'a> Tables<'a> {
    /// All entries below a prefix, until an error or a break.
    pub fn each(self, prefix: &[u8], f: &mut dyn FnMut(&[u8], &[u8]) -> Result<Flow, IndexError>) -> Result<(), IndexError> {
        self.range(prefix, &key::prefix_end(prefix), f)
    }

    /// All entries of a range, until an error or a break.
    pub fn range(
        self,
        from: &[u8],
        to: &[u8],
        f: &mut dyn FnMut(&[u8], &[u8]) -> Result<Flow, IndexError>,
    ) -> Result<(), IndexError> {
        let mut failed = None;
        self.0.scan(from, to, &mut |key, value| match f(key, value) {
            Ok(flow) => flow,
            Err(error) => {
                failed = Some(error);
                Flow::Break(())
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Observations below a prefix of the table of trials.
    pub fn observations(self, prefix: &[u8]) -> Result<Vec<Observation>, IndexError> {
        let mut found = Vec::new();
        self.each(prefix, &mut |key, value| {
            found.push(parse_trial(key, value)?);
            Ok(Flow::Continue(()))
        })?;
        Ok(found)
    }

    /// The environment a device was last seen in.
    pub fn current(self, device: DeviceKey) -> Result<Option<EnvironmentKey>, IndexError> {
        self.meta(meta::current(device).as_ref())
    }

    /// All of those.
    pub fn currents(self) -> Result<BTreeMap<DeviceKey, EnvironmentKey>, IndexError> {
        let mut found = BTreeMap::new();
        self.each(meta::current_prefix().as_ref(), &mut |key, value| {
            if let Some(device) = meta::parse_current(key) {
                found.insert(device, decode_as(key, value, Kind::Meta)?);
            }
            Ok(Flow::Continue(()))
        })?;
        Ok(found)
    }

    /// The fastest configs, current environment first, at most `k`.
    pub fn bests(
        self,
        task: TaskKey,
        device: DeviceKey,
        share: Share,
        numerics: Numerics,
        k: usize,
    ) -> Result<Vec<Best>, IndexError> {
        let current = self.current(device)?;
        let (mut fresh, mut stale) = (Vec::new(), Vec::new());
        self.each(key::best_group(task, device, share, numerics).as_ref(), &mut |key, value| {
            let best = parse_best(key, value, |_| current)?;
            if best.stale {
                stale.push(best)
            } else {
                fresh.push(best)
            }
            Ok(if fresh.len() < k { Flow::Continue(()) } else { Flow::Break(()) })
        })?;
        fresh.append(&mut stale);
        fresh.truncate(k);
        Ok(fresh)
    }

    /// Whether a config has been tried in the device's current environment, with any outcome.
    pub fn was_tried(self, task: TaskKey, device: DeviceKey, share: Share, config: &Config) -> Result<bool, IndexError> {
        let current = self.current(device)?;
        let mut tried = false;
        self.each(key::trial_config(task.0, device, share, config.key()).as_ref(), &mut |key, value| {
            let environment = parse_trial(key, value)?.environment;
            tried = current.is_none_or(|current| current == environment);
            Ok(if tried { Flow::Break(()) } else { Flow::Continue(()) })
        })?;
        Ok(tried)
    }

    /// Rows of a model, or of all models.
    pub fn models(self, model: Option<ModelKey>) -> Result<Vec<ModelRow>, IndexError> {
        let currents = self.currents()?;
        let prefix = model.map_or(key::whole(key::table::MODELS), key::model_prefix);
        let mut rows = Vec::new();
        self.each(prefix.as_ref(), &mut |key, value| {
            rows.push(parse_row(key, value, &currents)?);
            Ok(Flow::Continue(()))
        })?;
        Ok(rows)
    }

    /// What a model's or task's key stands for.
    pub fn name(self, of: [u8; 16]) -> Result<Option<String>, IndexError> {
        let key = key::name(of);
        let Some(value) = self.0.get(key.as_ref())? else { return Ok(None) };
        let name: NameV1 = decode_as(key.as_ref(), &value, Kind::Name)?;
        if name.hash != [0; 32] && (name.hash != text_hash(&name.text) || name.hash[..16] != of) {
            return Err(IndexError::Corrupt("a task's text under the key of another".into()));
        }
        Ok(Some(name.text))
    }

    /// The features of all models.
    pub fn features(self) -> Result<Vec<ModelFeatures>, IndexError> {
        let mut found = Vec::new();
        self.each(key::whole(key::table::FEATURES).as_ref(), &mut |key, value| {
            found.push(decode_as(key, value, Kind::Features)?);
            Ok(Flow::Continue(()))
        })?;
        Ok(found)
    }

    /// The features of a model at a batch, with these axes fixed.
    pub fn features_of(self, model: ModelKey, batch: Batch, dims: &[(String, u64)]) -> Result<Option<ModelFeatures>, IndexError> {
        let key = key::features(model, shape_key(batch, dims));
        self.0.get(key.as_ref())?.map(|value| decode_as(key.as_ref(), &value, Kind::Features)).transpose()
    }

    /// All devices in all environments.
    pub fn devices(self) -> Result<Vec<DeviceRow>, IndexError> {
        let currents = self.currents()?;
        let mut rows = Vec::new();
        self.each(key::whole(key::table::DEVICES).as_ref(), &mut |key, value| {
            let text: DeviceTextV1 = decode_as(key, value, Kind::Device)?;
            let (device, environment) = key::parse_device(key).ok_or_else(|| IndexError::Corrupt("a device's key".into()))?;
            let current = currents.get(&device) == Some(&environment);
            rows.push(DeviceRow { key: device, device: text.device, environment: text.environment, current });
            Ok(Flow::Continue(()))
        })?;
        Ok(rows)
    }

    /// Up to where the journal is in here; `None` when the index is new or lost its memory.
    pub fn watermark(self) -> Result<Option<Watermark>, IndexError> {
        self.meta(meta::watermark().as_ref())
    }

    /// The last published generation; 0 before the first.
    pub fn generation(self) -> Result<u64, IndexError> {
        Ok(self.meta(meta::generation().as_ref())?.unwrap_or(0))
    }

    /// Per writer, how far each generation reached.
    pub fn history(self) -> Result<BTreeMap<[u8; 16], History>, IndexError> {
        let mut found = BTreeMap::new();
        self.each(meta::history_prefix().as_ref(), &mut |key, value| {
            if let Some(writer) = meta::parse_history(key) {
                found.insert(writer, decode_as(key, value, Kind::Meta)?);
            }
            Ok(Flow::Continue(()))
        })?;
        Ok(found)
    }

    /// All tombstones.
    pub fn tombstones(self) -> Result<Vec<Tombstone>, IndexError> {
        let mut found = Vec::new();
        self.each(meta::tombstone_prefix().as_ref(), &mut |key, value| {
            found.push(decode_as(key, value, Kind::Meta)?);
            Ok(Flow::Continue(()))
        })?;
        Ok(found)
    }

    /// Observations set aside because another has the same id.
    pub fn conflicts(self) -> Result<Vec<Observation>, IndexError> {
        let mut found = Vec::new();
        self.each(meta::conflict_prefix().as_ref(), &mut |key, value| {
            found.push(decode_as(key, value, Kind::Meta)?);
            Ok(Flow::Continue(()))
        })?;
        Ok(found)
    }

    /// A value of the table of facts about the index.
    pub fn meta<T: serde::de::DeserializeOwned>(self, key: &[u8]) -> Result<Option<T>, IndexError> {
        self.0.get(key)?.map(|value| decode_as(key, &value, Kind::Meta)).transpose()
    }
}

/// The record of a value of that kind.
pub fn decode_as<T: serde::de::DeserializeOwned>(key: &[u8], value: &[u8], kind: Kind) -> Result<T, IndexError> {
    match envelope::open(key, value)? {
        (found, payload) if found == kind => Ok(envelope::decode(payload)?),
        (found, _) => Err(EnvelopeError::Unknown(found as u8).into()),
    }
}

/// The best of an entry; `current` gives a device's environment.
pub fn parse_best(key: &[u8], value: &[u8], current: impl Fn(DeviceKey) -> Option<EnvironmentKey>) -> Result<Best, IndexError> {
    let BestKey { task, device, share, numerics, time } =
        BestKey::parse(key).ok_or_else(|| IndexError::Corrupt("a best's key".into()))?;
    let found: BestV1 = decode_as(key, value, Kind::Best)?;
    if found.timing.median != time {
        return Err(IndexError::Corrupt("a best under another time".into()));
    }
    let stale = current(device).is_some_and(|current| current != found.environment);
    Ok(Best { task, device, share, numerics, found, stale })
}

/// The model record of an entry.
pub fn parse_row(key: &[u8], value: &[u8], currents: &BTreeMap<DeviceKey, EnvironmentKey>) -> Result<ModelRow, IndexError> {
    let parts = RowKey::parse(key).ok_or_else(|| IndexError::Corrupt("a model record's key".into()))?;
    let ModelRunV1 { id, record, run } = decode_as(key, value, Kind::ModelRow)?;
    if record.model != parts.model || record.batch != parts.batch {
        return Err(IndexError::Corrupt("a model record under the key of another".into()));
    }
    let stale = currents.get(&parts.device).is_some_and(|current| *current != run.environment);
    let observation = observation_of(id, Subject::Model(Box::new(record)), parts.device, parts.share, run);
    Ok(ModelRow { observation, stale })
}

/// The generation in which an observation was first published; `None` before that.
pub fn generation_of(history: &BTreeMap<[u8; 16], History>, id: ObservationId) -> Option<u64> {
    let reached = &history.get(&id.writer)?.0;
    let at = reached.partition_point(|(_, seq)| *seq < id.seq);
    reached.get(at).map(|(generation, _)| *generation)
}

/// The key under which an observation is stored.
pub fn key_of(observation: &Observation) -> Result<Vec<u8>, IndexError> {
    Ok(trial_entry(observation)?.0)
}
