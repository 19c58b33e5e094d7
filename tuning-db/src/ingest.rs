//! From frames to changes of an index: the one place where records enter the tables, whoever asks — the writer after a commit, a
//! reader that adds the journal's tail to a snapshot, the simulator.

use crate::envelope::{self, Kind};
use crate::index::{Changes, Flow, Index, IndexError, Overlay};
use crate::key::{self, meta};
use crate::record::{
    DeviceTextV1, NameV1, Note, Record, Tombstone, parse_trial, shape_key, subject_bytes, text_hash, trial_entry,
};
use crate::reduce::{
    BESTS_MAX, BestId, BestV1, Group, best_entry, best_of, bests_of_group, row_entry, row_key, row_of, rows_of_model,
};
use crate::tables::{History, Tables, Watermark, decode_as};
use schema::{ConfigKey, ModelFeatures, ModelKey, ModelRecord, Observation, ObservationId, Outcome, Subject, TaskKey};
use std::collections::{BTreeMap, BTreeSet};

/// Ids that were dropped, from all tombstones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped(BTreeMap<[u8; 16], Vec<(u64, u64)>>);

impl Dropped {
    /// The union of the tombstones of an index.
    pub fn load(index: &dyn Index) -> Result<Self, IndexError> {
        let mut dropped = Dropped::default();
        Tables(index).tombstones()?.iter().for_each(|tombstone| dropped.add(tombstone));
        Ok(dropped)
    }

    /// With the ids of one more tombstone.
    pub fn add(&mut self, tombstone: &Tombstone) {
        for (writer, ranges) in &tombstone.dropped {
            let held = self.0.entry(*writer).or_default();
            held.extend(ranges.iter().filter(|(first, last)| first <= last));
            held.sort_unstable();
            let mut joined: Vec<(u64, u64)> = Vec::with_capacity(held.len());
            for &(first, last) in held.iter() {
                match joined.last_mut() {
                    Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                    _ => joined.push((first, last)),
                }
            }
            *held = joined;
        }
    }

    /// Whether nothing was.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an id was dropped.
    pub fn contains(&self, id: ObservationId) -> bool {
        let Some(ranges) = self.0.get(&id.writer) else { return false };
        let after = ranges.partition_point(|(first, _)| *first <= id.seq);
        after.checked_sub(1).is_some_and(|at| id.seq <= ranges[at].1)
    }
}

/// What became of the records taken in.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub observations: u64,
    /// Already there, or dropped earlier.
    pub known: u64,
    /// Set aside: another has the same id.
    pub conflicts: u64,
}

/// Notes a record in what the next generation will have reached.
pub(crate) fn reach(reached: &mut BTreeMap<[u8; 16], u64>, record: &Record) {
    match record {
        Record::Observation(observation) => {
            let last = reached.entry(observation.id.writer).or_default();
            *last = (*last).max(observation.id.seq);
        }
        Record::Note(Note::Generation { reached: published, .. }) => {
            for (writer, seq) in published {
                if reached.get(writer).is_some_and(|held| held <= seq) {
                    reached.remove(writer);
                }
            }
        }
        _ => {}
    }
}

/// Takes records into an index: collects the changes, applies nothing.
pub struct Ingest<'a> {
    view: Overlay<'a>,
    dropped: Dropped,
    pub taken: Taken,
    /// Per writer, the last write taken in: what the next generation will have reached.
    pub reached: BTreeMap<[u8; 16], u64>,
}

impl<'a> Ingest<'a> {
    /// On top of an index, whose tombstones are `dropped`.
    pub fn new(index: &'a dyn Index, dropped: Dropped) -> Self {
        Ingest { view: Overlay::new(index), dropped, taken: Taken::default(), reached: BTreeMap::new() }
    }

    /// The changes, and the tombstones after them.
    pub fn finish(self) -> (Changes, Dropped) {
        (self.view.changes, self.dropped)
    }

    /// Sets up to where the journal is in the index.
    ///
    /// # Errors
    /// [`IndexError`] when the value cannot be written.
    pub fn watermark(&mut self, seq: u64) -> Result<(), IndexError> {
        self.put_meta(meta::watermark().as_ref(), &Watermark { seq })
    }

    /// Takes in a record. Taking it in twice changes nothing.
    ///
    /// # Errors
    /// [`IndexError`] when the index below fails or holds what was never written.
    pub fn record(&mut self, record: &Record) -> Result<(), IndexError> {
        reach(&mut self.reached, record);
        match record {
            Record::Observation(observation) => self.observation(observation),
            Record::Model { key, name } => self.name(key.0, [0; 32], name),
            Record::Task { key, text } => {
                let hash = text_hash(text);
                if hash[..16] != key.0 {
                    tracing::warn!(%key, "a task with a text that is not its own is left out");
                    return Ok(());
                }
                self.name(key.0, hash, text)
            }
            Record::Device { device, environment, here } => {
                let key = key::device(device.key(), environment.key());
                let text = DeviceTextV1 { device: device.clone(), environment: environment.clone() };
                self.view.put(&key, envelope::seal(key.as_ref(), Kind::Device, &text)?);
                let current = meta::current(device.key());
                if *here || self.view.get(current.as_ref())?.is_none() {
                    self.put_meta(current.as_ref(), &environment.key())?;
                }
                Ok(())
            }
            Record::Tombstone(tombstone) => self.tombstone(tombstone),
            Record::Note(Note::Generation { number, reached }) => self.generation(*number, reached),
            Record::Note(Note::Text(_)) => Ok(()),
            Record::Features(features) => self.features(features),
        }
    }

    fn put_meta<T: serde::Serialize>(&mut self, key: &[u8], value: &T) -> Result<(), IndexError> {
        let value = envelope::seal(key, Kind::Meta, value)?;
        self.view.put(key, value);
        Ok(())
    }

    fn name(&mut self, of: [u8; 16], hash: [u8; 32], text: &str) -> Result<(), IndexError> {
        let key = key::name(of);
        let value = envelope::seal(key.as_ref(), Kind::Name, &NameV1 { hash, text: text.to_owned() })?;
        // Of two names of one model the lesser stands: which came first must not matter.
        match self.view.get(key.as_ref())? {
            Some(held) if decode_as::<NameV1>(key.as_ref(), &held, Kind::Name)?.text.as_str() <= text => {}
            _ => self.view.put(&key, value),
        }
        Ok(())
    }

    fn features(&mut self, features: &ModelFeatures) -> Result<(), IndexError> {
        let key = key::features(features.model, shape_key(features.batch, &features.dims));
        let value = envelope::seal(key.as_ref(), Kind::Features, features)?;
        // The higher revision stands, of equal ones the lesser bytes: which came first must not matter.
        if let Some(held) = self.view.get(key.as_ref())? {
            let found: ModelFeatures = decode_as(key.as_ref(), &held, Kind::Features)?;
            if (std::cmp::Reverse(found.revision), &held) <= (std::cmp::Reverse(features.revision), &value) {
                return Ok(());
            }
        }
        self.view.put(&key, value);
        Ok(())
    }

    fn generation(&mut self, number: u64, reached: &[([u8; 16], u64)]) -> Result<(), IndexError> {
        let held = Tables(&self.view).generation()?;
        self.put_meta(meta::generation().as_ref(), &held.max(number))?;
        for (writer, seq) in reached {
            let key = meta::history(*writer);
            let mut history: History = Tables(&self.view).meta(key.as_ref())?.unwrap_or_default();
            if history.0.last().is_none_or(|(last, held)| *last < number && held < seq) {
                history.0.push((number, *seq));
                self.put_meta(key.as_ref(), &history)?;
            }
        }
        Ok(())
    }

    fn observation(&mut self, observation: &Observation) -> Result<(), IndexError> {
        if self.dropped.contains(observation.id) {
            self.taken.known += 1;
            return Ok(());
        }
        let (key, value) = trial_entry(observation)?;
        let held = self.view.get(&key)?;
        if held.as_deref() == Some(value.as_slice()) {
            self.taken.known += 1;
            return Ok(());
        }
        if let Some(held) = held {
            let other = parse_trial(&key, &held)?;
            return self.conflict(&[&other, observation]);
        }
        if self.has_conflict(observation.id)? {
            return self.conflict(&[observation]);
        }
        self.view.put(&key, value);
        self.taken.observations += 1;
        self.derive(observation)
    }

    fn has_conflict(&self, id: ObservationId) -> Result<bool, IndexError> {
        let mut found = false;
        let prefix = meta::conflict(key::id_hash(id), [0; 16]);
        let prefix = &prefix.as_ref()[..prefix.as_ref().len() - 16];
        Tables(&self.view).each(prefix, &mut |_, _| {
            found = true;
            Ok(Flow::Break(()))
        })?;
        Ok(found)
    }

    /// Sets observations aside that share an id: none of them is used by anyone.
    ///
    /// # Errors
    /// [`IndexError`] when the index below fails.
    pub fn conflict(&mut self, observations: &[&Observation]) -> Result<(), IndexError> {
        for observation in observations {
            let payload = Record::Observation(Box::new((*observation).clone())).encode();
            let key = meta::conflict(key::id_hash(observation.id), key::cut(&payload));
            if self.view.get(key.as_ref())?.is_none() {
                self.put_meta(key.as_ref(), *observation)?;
                self.taken.conflicts += 1;
            }
            let (trial, _) = trial_entry(observation)?;
            if self.view.get(&trial)?.is_some() {
                self.view.delete(&trial);
                self.rederive(observation)?;
            }
        }
        Ok(())
    }

    /// Brings the tables of bests and models up to one more observation.
    fn derive(&mut self, observation: &Observation) -> Result<(), IndexError> {
        match (&observation.subject, &observation.outcome) {
            (_, Outcome::Failed { .. }) => Ok(()),
            (Subject::Model(record), _) => self.derive_row(observation, record),
            (Subject::Trial { task, config } | Subject::Final { task, config }, _) => {
                self.derive_best(observation, *task, config.key())
            }
        }
    }

    fn derive_row(&mut self, run: &Observation, record: &ModelRecord) -> Result<(), IndexError> {
        let config = crate::record::shape_key(record.batch, &record.dims);
        let prefix = key::trial_config(record.model.0, run.device, run.share, config);
        let runs = Tables(&self.view).observations(prefix.as_ref())?;
        let alike = runs.iter().filter(|other| other.numerics == run.numerics && other.environment == run.environment);
        match row_of(alike) {
            Some(best) => {
                let Subject::Model(record) = &best.subject else { return Ok(()) };
                let (key, value) = row_entry(best, record)?;
                self.view.put(key, value);
            }
            None => self.view.delete(row_key(run, record)),
        }
        Ok(())
    }

    fn derive_best(&mut self, new: &Observation, task: TaskKey, config: ConfigKey) -> Result<(), IndexError> {
        let group = Group { task, device: new.device, share: new.share };
        let prefix = key::trial_config(task.0, new.device, new.share, config);
        let all = Tables(&self.view).observations(prefix.as_ref())?;
        let alike: Vec<&Observation> =
            all.iter().filter(|other| other.numerics == new.numerics && other.environment == new.environment).collect();
        let Some(best) = best_of(&alike) else { return Ok(()) };
        let id = BestId { config, environment: new.environment };
        // Those of the same environment, fastest first, and the one this config had so far.
        let mut held = Vec::new();
        let mut before = None;
        Tables(&self.view).each(key::best_group(task, new.device, new.share, new.numerics).as_ref(), &mut |key, value| {
            let found: BestV1 = decode_as(key, value, Kind::Best)?;
            if found.environment == new.environment {
                if key.ends_with(&id.cut()) {
                    before = Some(key.to_vec());
                }
                held.push(key.to_vec());
            }
            Ok(Flow::Continue(()))
        })?;
        let (key, value) = best_entry(group, new.numerics, &best)?;
        match before {
            // A config that became slower may have to leave for one that is not in the table.
            Some(before) if key > before && held.len() >= BESTS_MAX => return self.rederive_group(group),
            Some(before) => self.view.delete(before),
            None if held.len() >= BESTS_MAX => match held.last() {
                Some(last) if key < *last => self.view.delete(last),
                _ => return Ok(()),
            },
            None => {}
        }
        self.view.put(key, value);
        Ok(())
    }

    /// Makes the bests or rows that an observation had a part in again, from everything.
    fn rederive(&mut self, observation: &Observation) -> Result<(), IndexError> {
        match &observation.subject {
            Subject::Model(record) => self.derive_row(observation, record),
            Subject::Trial { task, .. } | Subject::Final { task, .. } => {
                self.rederive_group(Group { task: *task, device: observation.device, share: observation.share })
            }
        }
    }

    fn rederive_group(&mut self, group: Group) -> Result<(), IndexError> {
        let Group { task, device, share } = group;
        let observations = Tables(&self.view).observations(key::trial_group(task.0, device, share).as_ref())?;
        let mut old = Vec::new();
        let prefix = key::best_group(task, device, share, schema::Numerics::Strict).0;
        let prefix = &prefix[..prefix.len() - 1];
        Tables(&self.view).each(prefix, &mut |key, _| {
            old.push(key.to_vec());
            Ok(Flow::Continue(()))
        })?;
        old.iter().for_each(|key| self.view.delete(key));
        for (key, value) in bests_of_group(group, &observations)? {
            self.view.put(key, value);
        }
        Ok(())
    }

    fn tombstone(&mut self, tombstone: &Tombstone) -> Result<(), IndexError> {
        let payload = Record::Tombstone(tombstone.clone()).encode();
        let key = meta::tombstone(key::cut(&payload));
        if self.view.get(key.as_ref())?.is_some() {
            return Ok(());
        }
        self.put_meta(key.as_ref(), tombstone)?;
        self.dropped.add(tombstone);
        let mut gone: Vec<(Vec<u8>, Observation)> = Vec::new();
        let dropped = &self.dropped;
        Tables(&self.view).each(key::whole(key::table::TRIALS).as_ref(), &mut |key, value| {
            let observation = parse_trial(key, value)?;
            if dropped.contains(observation.id) {
                gone.push((key.to_vec(), observation));
            }
            Ok(Flow::Continue(()))
        })?;
        let mut groups = BTreeSet::new();
        for (key, observation) in &gone {
            self.view.delete(key);
            if let Subject::Trial { task, .. } | Subject::Final { task, .. } = &observation.subject {
                groups.insert(Group { task: *task, device: observation.device, share: observation.share });
            }
        }
        groups.into_iter().try_for_each(|group| self.rederive_group(group))?;
        gone.iter().try_for_each(|(_, observation)| match &observation.subject {
            Subject::Model(record) => self.derive_row(observation, record),
            _ => Ok(()),
        })
    }
}

/// The tables of bests and models made from the table of trials alone, as [`Ingest`] would have made them one by one.
///
/// # Errors
/// [`IndexError`] when `trials` holds what was never written.
pub fn derive_all<'a>(trials: impl Iterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>) -> Result<Vec<(Vec<u8>, Vec<u8>)>, IndexError> {
    let mut derived = Vec::new();
    let mut group: Vec<Observation> = Vec::new();
    let mut close = |group: &mut Vec<Observation>| -> Result<(), IndexError> {
        if let Some(first) = group.first() {
            match &first.subject {
                Subject::Model(_) => derived.extend(rows_of_model(group)?),
                Subject::Trial { task, .. } | Subject::Final { task, .. } => {
                    let place = Group { task: *task, device: first.device, share: first.share };
                    derived.extend(bests_of_group(place, group)?);
                }
            }
        }
        group.clear();
        Ok(())
    };
    for (key, value) in trials {
        let observation = parse_trial(key, value)?;
        let place = |o: &Observation| (subject_bytes(&o.subject), o.device, o.share);
        if group.first().is_some_and(|first| place(first) != place(&observation)) {
            close(&mut group)?;
        }
        group.push(observation);
    }
    close(&mut group)?;
    derived.sort();
    Ok(derived)
}

/// The key under which a model's runs are kept among the trials.
pub fn runs_prefix(model: ModelKey) -> Vec<u8> {
    key::trial_prefix(model.0).0
}
