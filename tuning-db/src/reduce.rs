//! From observations to what is asked for: the bests of a task and the row of a model, as pure functions of a *set*.
//!
//! Neither the order in which observations came nor any clock has a part in it: merging databases is a union, and the tables come
//! out byte for byte the same. Observations of different environments are never pooled; which of them is current is asked at
//! reading, so that a new driver changes no table.

use crate::envelope::{self, EnvelopeError, Kind};
use crate::key;
use crate::record::{ModelRunV1, RunV1, shape_key};
use schema::{
    Config, ConfigKey, DeviceKey, DeviceName, EnvironmentKey, Grant, ModelRecord, Numerics, Observation, ObservationId, Outcome,
    Picos, Ratio, Share, Subject, TaskKey, Timing,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bests kept per task, device, share, numerics and environment.
pub const BESTS_MAX: usize = 32;
/// Weights are computed with deviations up to 2⁵⁰ ps, 19 minutes.
const MAD_MAX_PS: u64 = 1 << 50;

/// A config's pooled time on a share of a device in one environment, as a value of the table of bests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BestV1 {
    pub config: Config,
    pub environment: EnvironmentKey,
    pub timing: Timing,
    /// Against the default, from the run-off with the narrowest interval.
    pub ratio: Option<Ratio>,
    pub observations: u32,
    /// The steadiest of them.
    pub from: ObservationId,
    pub device_name: DeviceName,
    pub grant: Grant,
    pub tool_version: String,
}

/// What tells the bests of a group apart.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BestId {
    pub config: ConfigKey,
    pub environment: EnvironmentKey,
}

impl BestId {
    /// As it stands in the key.
    pub fn cut(self) -> [u8; 8] {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&self.config.0);
        bytes[16..].copy_from_slice(&self.environment.0);
        first_8(key::cut(&bytes))
    }
}

fn first_8(hash: [u8; 16]) -> [u8; 8] {
    hash[..8].try_into().expect("8 of 16")
}

/// Medians pooled by 1/MAD², MAD being at least 0.1 % of the median; `None` for no timing.
pub fn pool(timings: &[Timing]) -> Option<Timing> {
    let floor = |timing: &Timing| timing.mad.0.max(timing.median.0 / 1000).clamp(1, MAD_MAX_PS);
    let least = timings.iter().map(floor).min()?;
    let least_squared = u128::from(least) * u128::from(least);
    let (mut weights, mut median, mut mad, mut p99, mut n) = (0u128, 0u128, 0u128, 0u128, 0u32);
    let mut grade = timings.first()?.grade;
    for timing in timings {
        let squared = u128::from(floor(timing)) * u128::from(floor(timing));
        let weight = ((least_squared << 20) / squared).max(1);
        weights += weight;
        median += weight * u128::from(timing.median.0);
        mad += weight * u128::from(timing.mad.0);
        p99 += weight * u128::from(timing.p99.0);
        n = n.saturating_add(timing.n);
        grade = grade.max(timing.grade);
    }
    let mean = |sum: u128| Picos(u64::try_from(sum / weights).unwrap_or(u64::MAX));
    Some(Timing { median: mean(median), mad: mean(mad), p99: mean(p99), n, grade })
}

/// The best made of all observations of one config in one environment; `None` when none of them has a time.
pub fn best_of(observations: &[&Observation]) -> Option<BestV1> {
    let mut timed: Vec<(&Observation, &Config, Timing, Option<Ratio>)> = observations
        .iter()
        .filter_map(|observation| match (&observation.subject, &observation.outcome) {
            (Subject::Trial { config, .. } | Subject::Final { config, .. }, Outcome::Ok { timing, ratio }) => {
                Some((*observation, config, *timing, *ratio))
            }
            _ => None,
        })
        .collect();
    timed.sort_by_key(|(observation, ..)| observation.id);
    let timing = pool(&timed.iter().map(|(_, _, timing, _)| *timing).collect::<Vec<_>>())?;
    let (steadiest, config, ..) = timed.iter().min_by_key(|(observation, _, timing, _)| (timing.mad, observation.id))?;
    let ratio = timed
        .iter()
        .filter_map(|(observation, _, _, ratio)| ratio.map(|ratio| (ratio, observation.id)))
        .min_by_key(|(ratio, id)| (ratio.hi_ppm.saturating_sub(ratio.lo_ppm), *id))
        .map(|(ratio, _)| ratio);
    Some(BestV1 {
        config: (*config).clone(),
        environment: steadiest.environment,
        timing,
        ratio,
        observations: u32::try_from(timed.len()).unwrap_or(u32::MAX),
        from: steadiest.id,
        device_name: steadiest.device_name.clone(),
        grant: steadiest.grant.clone(),
        tool_version: steadiest.tool_version.clone(),
    })
}

/// A key with its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// Where bests belong.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    pub task: TaskKey,
    pub device: DeviceKey,
    pub share: Share,
}

/// The entry of a best.
///
/// # Errors
/// [`EnvelopeError::Decode`] when it is larger than a value may be.
pub fn best_entry(group: Group, numerics: Numerics, best: &BestV1) -> Result<Entry, EnvelopeError> {
    let id = BestId { config: best.config.key(), environment: best.environment };
    let key = key::best(group.task, group.device, group.share, numerics, best.timing.median, id.cut()).0;
    let value = envelope::seal(&key, Kind::Best, best)?;
    Ok((key, value))
}

/// All bests of a group, from all its observations: per numerics and environment the fastest [`BESTS_MAX`].
///
/// # Errors
/// [`EnvelopeError::Decode`] when one is larger than a value may be.
pub fn bests_of_group(group: Group, observations: &[Observation]) -> Result<Vec<Entry>, EnvelopeError> {
    let mut sets: BTreeMap<(Numerics, EnvironmentKey, ConfigKey), Vec<&Observation>> = BTreeMap::new();
    for observation in observations {
        if let Subject::Trial { config, .. } | Subject::Final { config, .. } = &observation.subject {
            let set = (observation.numerics, observation.environment, config.key());
            sets.entry(set).or_default().push(observation);
        }
    }
    let mut kept: BTreeMap<(Numerics, EnvironmentKey), Vec<Entry>> = BTreeMap::new();
    for ((numerics, environment, _), set) in &sets {
        if let Some(best) = best_of(set) {
            kept.entry((*numerics, *environment)).or_default().push(best_entry(group, *numerics, &best)?);
        }
    }
    let mut entries = Vec::new();
    for mut bests in kept.into_values() {
        bests.sort();
        bests.truncate(BESTS_MAX);
        entries.append(&mut bests);
    }
    entries.sort();
    Ok(entries)
}

/// A model's row in the table of models: the fastest among the latest runs of each writer.
pub fn row_of<'a>(runs: impl Iterator<Item = &'a Observation>) -> Option<&'a Observation> {
    let mut latest: BTreeMap<[u8; 16], &Observation> = BTreeMap::new();
    for run in runs.filter(|run| matches!(run.outcome, Outcome::Ok { .. })) {
        let held = latest.entry(run.id.writer).or_insert(run);
        if held.id.seq < run.id.seq {
            *held = run;
        }
    }
    latest.into_values().min_by_key(|run| match &run.outcome {
        Outcome::Ok { timing, .. } => (timing.median, run.id),
        Outcome::Failed { .. } => (Picos(u64::MAX), run.id),
    })
}

/// The key of a model's row: what its runs have in common.
pub fn row_key(run: &Observation, record: &ModelRecord) -> Vec<u8> {
    let mut bytes = shape_key(record.batch, &record.dims).0.to_vec();
    bytes.push(run.numerics as u8);
    bytes.extend(run.environment.0);
    key::model(record.model, run.device, run.share, record.batch, first_8(key::cut(&bytes))).0
}

/// The entry of a model's row.
///
/// # Errors
/// [`EnvelopeError::Decode`] when it is larger than a value may be.
pub fn row_entry(run: &Observation, record: &ModelRecord) -> Result<Entry, EnvelopeError> {
    let key = row_key(run, record);
    let value = ModelRunV1 {
        id: run.id,
        record: record.clone(),
        run: RunV1 {
            device_name: run.device_name.clone(),
            grant: run.grant.clone(),
            numerics: run.numerics,
            outcome: run.outcome.clone(),
            environment: run.environment,
            tool_version: run.tool_version.clone(),
            seed: run.seed,
            wall_clock_s: run.wall_clock_s,
        },
    };
    let value = envelope::seal(&key, Kind::ModelRow, &value)?;
    Ok((key, value))
}

/// All rows of a model, from all its runs.
///
/// # Errors
/// [`EnvelopeError::Decode`] when one is larger than a value may be.
pub fn rows_of_model(runs: &[Observation]) -> Result<Vec<Entry>, EnvelopeError> {
    let mut sets: BTreeMap<Vec<u8>, Vec<&Observation>> = BTreeMap::new();
    for run in runs {
        if let Subject::Model(record) = &run.subject {
            sets.entry(row_key(run, record)).or_default().push(run);
        }
    }
    let mut entries = Vec::new();
    for set in sets.values() {
        if let Some(run) = row_of(set.iter().copied())
            && let Subject::Model(record) = &run.subject
        {
            entries.push(row_entry(run, record)?);
        }
    }
    Ok(entries)
}
