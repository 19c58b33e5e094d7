//! Records of several passes over the same settings, each in a database of its own.
//!
//! A machine has states that last for minutes and move its speed by a third, so one record of a setting says little about which of two
//! places is the faster. The median over the passes does, and that a difference shows in each of them.

use schema::{Batch, DeviceKey, ModelKey, Observation, Outcome, Picos, Share, Subject};
use std::collections::BTreeMap;
use std::path::Path;
use tunewright::schedule::{Curve, Engines, Index, RowId, facts, from_records};
use tuning_db::{Reader, Source, StoreError};

/// What tells settings apart in records.
type Key = (ModelKey, Vec<(String, u64)>, Batch, DeviceKey, Share);

/// The indices of single passes.
pub struct Passes(Vec<Index>);

impl Passes {
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// What a row of the index over all passes took in each pass that measured it.
    pub fn of(&self, index: &Index, id: RowId) -> BTreeMap<usize, Picos> {
        let (curve, batch) = (index.curve(id.curve), index.row(id).batch);
        let model = &index.models()[usize::from(curve.model.0)].name;
        let device = &index.devices()[usize::from(curve.device.0)];
        let time = |pass: &Index| {
            let same = |other: &Curve| pass.devices()[usize::from(other.device.0)] == *device && other.share == curve.share;
            let (_, own) = pass.curves_of(pass.model(model)?).find(|(_, other)| same(other))?;
            Some(Picos((own.rows[own.row_of(batch)?].stages.total().as_f64() * 1000.0) as u64))
        };
        self.0.iter().enumerate().filter_map(|(at, pass)| Some((at, time(pass)?))).collect()
    }
}

/// The index over the median record of each setting, with what is known of the models, and that of each pass.
///
/// # Errors
/// A line: which database cannot be read, or what its records lack.
pub fn read(paths: &[&Path]) -> Result<(Index, Passes), String> {
    let (mut settings, mut features, mut passes) = (BTreeMap::<Key, Vec<Observation>>::new(), Vec::new(), Vec::new());
    for path in paths {
        let said = |error: StoreError| format!("{}: {error}", path.display());
        let reader = Reader::open(path, Source::Auto).map_err(said)?;
        let records = reader.model_records().map_err(said)?;
        let fresh: Vec<Observation> = records.rows.into_iter().filter(|row| !row.stale).map(|row| row.observation).collect();
        passes.push(from_records(1, Engines::None, &fresh).map_err(|error| format!("{}: {error}", path.display()))?.1);
        features.extend(reader.model_features().map_err(said)?);
        for (key, record) in fastest(fresh) {
            settings.entry(key).or_default().push(record);
        }
    }
    let median = |mut records: Vec<Observation>| {
        records.sort_by_key(time);
        let middle = (records.len() - 1) / 2;
        records.swap_remove(middle)
    };
    let medians: Vec<Observation> = settings.into_values().map(median).collect();
    let (_, index) = from_records(1, Engines::None, &medians).map_err(|error| error.to_string())?;
    let facts = facts(&index, &medians, &features, &BTreeMap::new());
    Ok((index.with_facts(facts), Passes(passes)))
}

/// The fastest record of each setting: that of the plan which an artifact would keep.
fn fastest(records: Vec<Observation>) -> BTreeMap<Key, Observation> {
    let mut fastest = BTreeMap::<Key, Observation>::new();
    for record in records {
        let (Subject::Model(of), Some(own)) = (&record.subject, time(&record)) else { continue };
        let key = (of.model, of.dims.clone(), of.batch, record.device, record.share);
        if fastest.get(&key).and_then(time).is_none_or(|best| own < best) {
            fastest.insert(key, record);
        }
    }
    fastest
}

fn time(record: &Observation) -> Option<Picos> {
    match &record.outcome {
        Outcome::Ok { timing, .. } => Some(timing.median),
        Outcome::Failed { .. } => None,
    }
}
