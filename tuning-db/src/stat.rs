//! What a database holds, in figures.

use crate::envelope::Kind;
use crate::error::StoreError;
use crate::index::{Flow, Index, IndexError};
use crate::key::{self, table};
use crate::manifest;
use crate::quarantine::{self, size_of};
use crate::query::eval::driver_of;
use crate::reader::Reader;
use crate::record::{NameV1, parse_trial};
use crate::snapshot;
use crate::tables::{Tables, decode_as};
use schema::{DeviceKey, EnvironmentKey, Outcome, Subject};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Rows of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeviceStat {
    pub name: String,
    pub trials: u64,
    pub finals: u64,
    pub models: u64,
    pub failures: u64,
    pub stale: u64,
    /// Why they are stale: `driver 550.54 → 560.28`, with how many rows.
    pub stale_why: BTreeMap<String, u64>,
}

/// Observations of one device in one environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EnvironmentStat {
    /// The device's name.
    pub device: String,
    /// The environment's text; its key when the database has no text.
    pub environment: String,
    pub observations: u64,
    /// The device runs under another one now.
    pub stale: bool,
    /// Seconds since 1970 of the earliest and the latest observation, by the clocks of their machines.
    pub first_s: u64,
    pub last_s: u64,
}

/// What a database holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StatReport {
    pub devices: Vec<DeviceStat>,
    /// By device, fresh before stale, then the latest first.
    pub environments: Vec<EnvironmentStat>,
    pub observations: u64,
    pub tasks: u64,
    pub models: u64,
    pub conflicts: u64,
    pub generation: u64,
    /// Databases and processes the observations come from.
    pub writers: u64,
    /// Seconds since 1970 of the earliest and the latest observation, by the clocks of their machines.
    pub first_s: Option<u64>,
    pub last_s: Option<u64>,
    /// What measuring all of it again would take at least: samples times medians.
    pub measured_ns: u64,
    pub journal_bytes: u64,
    pub index_bytes: u64,
    pub snapshot_bytes: u64,
    pub quarantine_bytes: u64,
}

/// Counts what a database holds.
///
/// # Errors
/// As [`Reader::query`].
pub fn stat(reader: &Reader) -> Result<StatReport, StoreError> {
    let mut report = reader.tables(&count)?;
    let path = reader.path();
    report.journal_bytes = size_of(&path.join("journal"));
    report.snapshot_bytes = size_of(&path.join(snapshot::DIR));
    report.quarantine_bytes = size_of(&path.join(quarantine::DIR));
    report.index_bytes = index_bytes(path);
    Ok(report)
}

fn index_bytes(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let indexes = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| manifest::index_number(name).is_some()));
    indexes.map(|entry| size_of(&entry.path())).sum()
}

fn count(index: &dyn Index) -> Result<StatReport, IndexError> {
    let tables = Tables(index);
    let currents = tables.currents()?;
    let mut report = StatReport { generation: tables.generation()?, ..StatReport::default() };
    report.conflicts = tables.conflicts()?.len() as u64;
    let rows = tables.devices()?;
    let drivers: BTreeMap<(DeviceKey, EnvironmentKey), String> = rows
        .iter()
        .map(|row| {
            let driver = driver_of(&row.environment.text).unwrap_or_else(|| row.environment.key().to_string());
            ((row.key, row.environment.key()), driver)
        })
        .collect();
    let driver = |device, environment: EnvironmentKey| {
        drivers.get(&(device, environment)).cloned().unwrap_or_else(|| environment.to_string())
    };
    let mut devices: BTreeMap<DeviceKey, DeviceStat> = BTreeMap::new();
    let mut environments: BTreeMap<(DeviceKey, EnvironmentKey), EnvironmentStat> = BTreeMap::new();
    let mut writers = std::collections::BTreeSet::new();
    let mut measured: u128 = 0;
    tables.each(key::whole(table::TRIALS).as_ref(), &mut |key, value| {
        let observation = parse_trial(key, value)?;
        report.observations += 1;
        writers.insert(observation.id.writer);
        report.first_s = Some(report.first_s.map_or(observation.wall_clock_s, |first| first.min(observation.wall_clock_s)));
        report.last_s = Some(report.last_s.map_or(observation.wall_clock_s, |last| last.max(observation.wall_clock_s)));
        let stale = currents.get(&observation.device).is_some_and(|current| *current != observation.environment);
        let environment = environments.entry((observation.device, observation.environment)).or_insert_with(|| EnvironmentStat {
            device: observation.device_name.0.clone(),
            environment: observation.environment.to_string(),
            observations: 0,
            stale,
            first_s: observation.wall_clock_s,
            last_s: observation.wall_clock_s,
        });
        environment.observations += 1;
        environment.first_s = environment.first_s.min(observation.wall_clock_s);
        environment.last_s = environment.last_s.max(observation.wall_clock_s);
        let device = devices.entry(observation.device).or_default();
        device.name.clone_from(&observation.device_name.0);
        match &observation.subject {
            Subject::Trial { .. } => device.trials += 1,
            Subject::Final { .. } => device.finals += 1,
            Subject::Model(_) => device.models += 1,
        }
        match &observation.outcome {
            Outcome::Ok { timing, .. } => measured += u128::from(timing.n) * u128::from(timing.median.as_nanos()),
            Outcome::Failed { .. } => device.failures += 1,
        }
        if let Some(current) = currents.get(&observation.device).filter(|current| **current != observation.environment) {
            device.stale += 1;
            let (old, new) = (driver(observation.device, observation.environment), driver(observation.device, *current));
            *device.stale_why.entry(format!("driver {old} → {new}")).or_default() += 1;
        }
        Ok(Flow::Continue(()))
    })?;
    tables.each(key::whole(table::KEYS).as_ref(), &mut |key, value| {
        let name: NameV1 = decode_as(key, value, Kind::Name)?;
        if name.hash == [0; 32] {
            report.models += 1
        } else {
            report.tasks += 1
        }
        Ok(Flow::Continue(()))
    })?;
    for row in &rows {
        if let Some(environment) = environments.get_mut(&(row.key, row.environment.key())) {
            environment.environment.clone_from(&row.environment.text);
        }
    }
    report.environments = environments.into_values().collect();
    report.environments.sort_by(|a, b| (&a.device, a.stale, b.last_s).cmp(&(&b.device, b.stale, a.last_s)));
    report.writers = writers.len() as u64;
    report.measured_ns = u64::try_from(measured).unwrap_or(u64::MAX);
    report.devices = devices.into_values().collect();
    Ok(report)
}
