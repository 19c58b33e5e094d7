//! Making an index again: from the journal, from what can be read of the old index, from the newest snapshot.

use crate::disk::Disk;
use crate::envelope::{self, Kind};
use crate::error::StoreError;
use crate::index::{Changes, Flow, Index, IndexError};
use crate::index_btree::BTreeIndex;
use crate::ingest::{Dropped, Ingest, derive_all, reach};
use crate::journal::read::From;
use crate::journal::{FrameRef, JournalReport, read_journal};
use crate::key::{self, TrialKey, meta, table};
use crate::record::{DeviceTextV1, NameV1, Record, parse_trial, trial_entry};
use crate::tables::decode_as;
use schema::{EnvironmentKey, ModelKey, Observation, TaskKey};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

/// Everything a database holds, collected from all copies.
#[derive(Default)]
pub struct Gathered {
    /// The table of trials.
    trials: BTreeMap<Vec<u8>, Vec<u8>>,
    /// By the hash of its id, the key of every observation: one id under two keys is a conflict.
    ids: HashMap<[u8; 16], [u8; 16]>,
    /// Everything else.
    rest: BTreeIndex,
    conflicts: Vec<Observation>,
    dropped: Dropped,
    reached: BTreeMap<[u8; 16], u64>,
    /// What only an index or a snapshot held, to be journalled again.
    pub salvaged: Vec<Record>,
    pub journal: JournalReport,
    /// Bytes or records that were set aside as damaged, by where they were.
    pub unreadable: Vec<String>,
}

impl Gathered {
    /// Everything the journal holds.
    ///
    /// # Errors
    /// As [`read_journal`].
    pub fn from_journal(disk: &dyn Disk, dir: &Path) -> Result<Self, StoreError> {
        let mut gathered = Gathered::default();
        let mut failed = None;
        let report = read_journal(disk, dir, From::START, &mut |frame, payload| {
            if let Err(error) = gathered.frame(dir, frame, payload)? {
                failed.get_or_insert(error);
            }
            Ok(())
        })?;
        if let Some(error) = failed {
            gathered.unreadable.push(format!("journal: {error}"));
        }
        gathered.journal = report;
        Ok(gathered)
    }

    fn frame(&mut self, dir: &Path, frame: &FrameRef, payload: &[u8]) -> Result<Result<(), IndexError>, StoreError> {
        let record = decode_frame(dir, frame, payload)?;
        Ok(match record {
            Some(record) => self.record(&record).map(drop),
            None => Err(IndexError::Corrupt(format!("frame {} does not decode", frame.seq))),
        })
    }

    /// Adds a record; whether it was new.
    fn record(&mut self, record: &Record) -> Result<bool, IndexError> {
        let Record::Observation(observation) = record else {
            return self.other(record);
        };
        reach(&mut self.reached, record);
        let (key, value) = trial_entry(observation)?;
        let id_hash = key::id_hash(observation.id);
        let place = key::cut(&key);
        match self.ids.get(&id_hash) {
            None => {
                self.ids.insert(id_hash, place);
                self.trials.insert(key, value);
                Ok(true)
            }
            Some(held) if *held == place && self.trials.get(&key) == Some(&value) => Ok(false),
            Some(_) => {
                // Another observation under this id: both are set aside, wherever the first one lies.
                let first = self.trials.iter().find(|(key, _)| key.ends_with(&id_hash)).map(|(key, _)| key.clone());
                if let Some(first) = first
                    && let Some(value) = self.trials.remove(&first)
                {
                    self.conflicts.push(parse_trial(&first, &value)?);
                }
                self.conflicts.push((**observation).clone());
                Ok(true)
            }
        }
    }

    fn other(&mut self, record: &Record) -> Result<bool, IndexError> {
        if let Record::Tombstone(tombstone) = record {
            self.dropped.add(tombstone);
        }
        let mut ingest = Ingest::new(&self.rest, Dropped::default());
        ingest.reached = std::mem::take(&mut self.reached);
        ingest.record(record)?;
        self.reached = std::mem::take(&mut ingest.reached);
        let (changes, _) = ingest.finish();
        let new = changes.0.iter().any(|(key, value)| self.rest.0.get(key) != value.as_ref());
        self.rest.apply(&changes)?;
        Ok(new)
    }

    /// Adds what another index holds and the journal lacks. Only values whose sum holds count; the first that does not, and any
    /// other fault of the index, ends it.
    pub fn salvage(&mut self, index: &dyn Index, what: &str) {
        let current = meta::current_prefix();
        let known: BTreeSet<Vec<u8>> = self.rest.0.keys().filter(|key| key.starts_with(current.as_ref())).cloned().collect();
        for table in table::ALL {
            let prefix = key::whole(table);
            let mut fault = None;
            let scanned = index.scan(prefix.as_ref(), &prefix.end(), &mut |key, value| {
                if let Err(error) = self.salvage_entry(key, value, &known) {
                    fault.get_or_insert(error);
                }
                Flow::Continue(())
            });
            if let Some(error) = scanned.err().or(fault) {
                self.unreadable.push(format!("{what}: {error}"));
            }
        }
    }

    fn salvage_entry(&mut self, key: &[u8], value: &[u8], known: &BTreeSet<Vec<u8>>) -> Result<(), IndexError> {
        let (_, payload) = envelope::open(key, value)?;
        let record = match key.first().copied().unwrap_or_default() {
            table::TRIALS => {
                if self.trials.get(key).map(Vec::as_slice) == Some(value) {
                    return Ok(());
                }
                let parts = TrialKey::parse(key).ok_or_else(|| IndexError::Corrupt("a trial's key".into()))?;
                if !self.ids.contains_key(&parts.id_hash) {
                    Some(Record::Observation(Box::new(parse_trial(key, value)?)))
                } else {
                    None
                }
            }
            table::KEYS => {
                let name: NameV1 = decode_as(key, value, Kind::Name)?;
                key::parse_name(key).map(|of| match name.hash {
                    [0, ..] if name.hash == [0; 32] => Record::Model { key: ModelKey(of), name: name.text },
                    _ => Record::Task { key: TaskKey(of), text: name.text },
                })
            }
            table::FEATURES => Some(Record::Features(Box::new(decode_as(key, value, Kind::Features)?))),
            table::DEVICES => {
                let text: DeviceTextV1 = decode_as(key, value, Kind::Device)?;
                // A device the journal knows keeps the environment it was last seen in.
                let known = self.rest.0.contains_key(key);
                (!known).then_some(Record::Device { device: text.device, environment: text.environment, here: false })
            }
            table::META if key.starts_with(meta::tombstone_prefix().as_ref()) => {
                Some(Record::Tombstone(envelope::decode(payload)?))
            }
            // The environment a device was last seen in, unless the journal says.
            table::META if key.starts_with(meta::current_prefix().as_ref()) && !known.contains(key) => {
                let environment: EnvironmentKey = envelope::decode(payload)?;
                let row = meta::parse_current(key).and_then(|device| {
                    let key = key::device(device, environment);
                    let value = self.rest.0.get(key.as_ref())?;
                    decode_as::<DeviceTextV1>(key.as_ref(), value, Kind::Device).ok()
                });
                row.map(|row| Record::Device { device: row.device, environment: row.environment, here: true })
            }
            table::META if key == meta::generation().as_ref() => {
                let number: u64 = envelope::decode(payload)?;
                let held = crate::tables::Tables(&self.rest).generation()?;
                (number > held).then_some(Record::Note(crate::record::Note::Generation { number, reached: Vec::new() }))
            }
            _ => None,
        };
        if let Some(record) = record
            && self.record(&record)?
        {
            self.salvaged.push(record);
        }
        Ok(())
    }

    /// Observations that were in the journal's gaps and in no copy.
    pub fn lost(&self) -> u64 {
        let found = self.salvaged.iter().filter(|record| matches!(record, Record::Observation(_))).count() as u64;
        self.journal.missing().1.saturating_sub(found)
    }

    /// How many observations there are.
    pub fn observations(&self) -> u64 {
        self.trials.len() as u64
    }

    /// The whole index, sorted by key, and what the store needs beside it. `seq` is up to where the journal reaches.
    ///
    /// # Errors
    /// [`IndexError`] when a value cannot be made.
    pub fn into_index(mut self, seq: u64) -> Result<Built, IndexError> {
        if !self.dropped.is_empty() {
            let mut gone = Vec::new();
            for (key, value) in &self.trials {
                if self.dropped.contains(parse_trial(key, value)?.id) {
                    gone.push(key.clone());
                }
            }
            gone.iter().for_each(|key| drop(self.trials.remove(key)));
        }
        let derived = derive_all(self.trials.iter())?;
        let mut ingest = Ingest::new(&self.rest, Dropped::default());
        self.conflicts.iter().try_for_each(|observation| ingest.conflict(&[observation]))?;
        ingest.watermark(seq)?;
        let (changes, _) = ingest.finish();
        self.rest.apply(&changes)?;
        let mut index = self.rest;
        index.0.append(&mut self.trials);
        index.0.extend(derived);
        Ok(Built { index, dropped: self.dropped, reached: self.reached })
    }
}

/// A rebuilt index.
pub struct Built {
    pub index: BTreeIndex,
    pub dropped: Dropped,
    pub reached: BTreeMap<[u8; 16], u64>,
}

/// The record of a frame; `None` when it does not decode although its sum holds.
///
/// # Errors
/// [`StoreError::Newer`] when a newer version wrote it.
pub fn decode_frame(dir: &Path, frame: &FrameRef, payload: &[u8]) -> Result<Option<Record>, StoreError> {
    if frame.schema > envelope::SCHEMA {
        return Err(StoreError::Newer {
            path: dir.to_owned(),
            found: u32::from(frame.schema),
            known: u32::from(envelope::SCHEMA),
            made_by: "a newer tunewright".into(),
        });
    }
    Ok(Record::decode(frame.kind, payload).ok())
}

/// Fills an empty index with sorted entries.
///
/// # Errors
/// [`IndexError`] as the index reports it.
pub fn fill(index: &mut dyn Index, entries: BTreeMap<Vec<u8>, Vec<u8>>) -> Result<(), IndexError> {
    const BATCH: usize = 1_000;
    let mut batch = Changes::default();
    // The watermark goes last: an index that was not filled to its end has none, and is made again.
    let watermark = meta::watermark().0;
    let mut last = Changes::default();
    for (key, value) in entries {
        let into = if key == watermark { &mut last } else { &mut batch };
        into.0.insert(key, Some(value));
        if batch.0.len() >= BATCH {
            index.apply(&batch)?;
            batch.0.clear();
        }
    }
    index.apply(&batch)?;
    index.apply(&last)?;
    index.hint_flush()
}
