//! Merging: the union of observations. Nothing is overwritten, what is derived is derived again, merging twice changes nothing.

use crate::error::StoreError;
use crate::index::{Flow, Index, IndexError};
use crate::key::{self, TrialKey, table};
use crate::reader::{Reader, Source};
use crate::record::{DeviceTextV1, NameV1, Record, parse_trial, shape_key, trial_entry};
use crate::store::Store;
use crate::tables::{Tables, decode_as};
use crate::writer::Work;
use schema::{ModelKey, TaskKey};
use std::collections::HashMap;
use std::path::Path;

/// Handed in before one is waited for.
const AHEAD: usize = 4_096;

/// What a merge did.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct MergeReport {
    /// Observations that are new here.
    pub added: u64,
    /// That were here already, or had been dropped.
    pub known: u64,
    /// Whose id stands for another observation here: both were set aside.
    pub conflicts: u64,
    /// Names of models and tasks, devices, tombstones.
    pub others: u64,
}

/// Takes in all that the database at `other` holds.
///
/// # Errors
/// What reading the other or writing this one gives.
pub fn merge(store: &Store, other: &Path) -> Result<MergeReport, StoreError> {
    let records = Reader::open(other, Source::Auto)?.tables(&everything)?;
    take_in(store, records)
}

/// All records of an index: what keys stand for first, then tombstones, then observations.
///
/// # Errors
/// [`IndexError`] as the index reports it.
pub fn everything(index: &dyn Index) -> Result<Vec<Record>, IndexError> {
    let tables = Tables(index);
    let mut records = names(tables)?;
    records.extend(tables.tombstones()?.into_iter().map(Record::Tombstone));
    tables.each(key::whole(table::TRIALS).as_ref(), &mut |key, value| {
        records.push(Record::Observation(Box::new(parse_trial(key, value)?)));
        Ok(Flow::Continue(()))
    })?;
    records.extend(tables.conflicts()?.into_iter().map(|observation| Record::Observation(Box::new(observation))));
    Ok(records)
}

/// What keys stand for, devices, and features.
pub(crate) fn names(tables: Tables<'_>) -> Result<Vec<Record>, IndexError> {
    let mut records = Vec::new();
    tables.each(key::whole(table::KEYS).as_ref(), &mut |key, value| {
        let NameV1 { hash, text } = decode_as(key, value, crate::envelope::Kind::Name)?;
        if let Some(of) = key::parse_name(key) {
            records.push(match hash == [0; 32] {
                true => Record::Model { key: ModelKey(of), name: text },
                false => Record::Task { key: TaskKey(of), text },
            });
        }
        Ok(Flow::Continue(()))
    })?;
    tables.each(key::whole(table::DEVICES).as_ref(), &mut |key, value| {
        let DeviceTextV1 { device, environment } = decode_as(key, value, crate::envelope::Kind::Device)?;
        records.push(Record::Device { device, environment, here: false });
        Ok(Flow::Continue(()))
    })?;
    records.extend(tables.features()?.into_iter().map(|features| Record::Features(Box::new(features))));
    Ok(records)
}

/// Takes in records of other databases.
///
/// # Errors
/// [`StoreError::TooLarge`], and what the disk says.
pub(crate) fn take_in(store: &Store, records: Vec<Record>) -> Result<MergeReport, StoreError> {
    let shared = store.shared();
    let (mut ids, conflicts_before, dropped) = shared.ask(|index| {
        let tables = Tables(index);
        Ok((ids(tables)?, tables.conflicts()?.len(), crate::ingest::Dropped::load(index)?))
    })?;
    let mut report = MergeReport::default();
    let mut last = None;
    let mut crossed = false;
    for (n, record) in records.into_iter().enumerate() {
        match &record {
            Record::Observation(observation) => {
                let (key, value) = trial_entry(observation)
                    .map_err(|error| StoreError::Input { what: format!("{}: {error}", observation.id) })?;
                let id = key::id_hash(observation.id);
                let here = key::cut(&key);
                match ids.insert(id, here) {
                    _ if dropped.contains(observation.id) => {
                        report.known += 1;
                        continue;
                    }
                    Some(held) if held == here && shared.ask(|index| index.get(&key))?.as_deref() == Some(&value) => {
                        report.known += 1;
                        continue;
                    }
                    Some(held) => crossed |= held != here,
                    None => report.added += 1,
                }
            }
            Record::Model { key, .. } => report.others += u64::from(is_unknown(store, key.0)?),
            Record::Task { key, .. } => report.others += u64::from(is_unknown(store, key.0)?),
            Record::Device { device, environment, .. } => {
                let key = key::device(device.key(), environment.key());
                if shared.ask(|index| index.get(key.as_ref()))?.is_some() {
                    continue;
                }
                report.others += 1;
            }
            Record::Features(features) => {
                let key = key::features(features.model, shape_key(features.batch, &features.dims));
                report.others += u64::from(shared.ask(|index| index.get(key.as_ref()))?.is_none());
            }
            Record::Tombstone(_) => report.others += 1,
            Record::Note(_) => continue,
        }
        crate::store::check_size(&record)?;
        let ticket = shared.hand_in(Work::Record(record))?;
        if n % AHEAD == 0 { ticket.wait().map(drop)? } else { last = Some(ticket) }
    }
    if let Some(ticket) = last {
        ticket.wait()?;
    }
    if crossed {
        // One id under two keys is seen only with all of them at hand.
        store.rebuild("an id stands for two observations")?;
    }
    let conflicts = shared.ask(|index| Ok(Tables(index).conflicts()?.len()))?;
    report.conflicts = conflicts.saturating_sub(conflicts_before) as u64;
    Ok(report)
}

fn is_unknown(store: &Store, key: [u8; 16]) -> Result<bool, StoreError> {
    Ok(store.shared().ask(|index| Tables(index).name(key))?.is_none())
}

/// By the hash of its id, the hash of every observation's key.
fn ids(tables: Tables<'_>) -> Result<HashMap<[u8; 16], [u8; 16]>, IndexError> {
    let mut ids = HashMap::new();
    tables.each(key::whole(table::TRIALS).as_ref(), &mut |key, _| {
        if let Some(parts) = TrialKey::parse(key) {
            ids.insert(parts.id_hash, key::cut(key));
        }
        Ok(Flow::Continue(()))
    })?;
    Ok(ids)
}
