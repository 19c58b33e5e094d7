//! Two databases, two generations or two drivers against each other: faster, slower, new, gone.

use crate::disk::RealDisk;
use crate::error::StoreError;
use crate::index::{Index, IndexError};
use crate::open::index_error;
use crate::query::eval::{driver_of, glob};
use crate::reader::{Reader, Source};
use crate::snapshot::Snapshot;
use crate::tables::{ModelRow, Tables};
use schema::{Batch, DeviceKey, DeviceName, EnvironmentKey, ModelKey, Numerics, Outcome, Share, Subject, Timing};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Medians nearer than so many deviations, of both sides together, are the same.
const NOISE_MADS: u64 = 3;

/// One side of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// Another database, as it is now.
    Database(PathBuf),
    /// A generation of this one, while its snapshot is kept: `@17`.
    Generation(u64),
    /// What was measured under drivers that match a glob: `driver=575*`.
    Driver(String),
}

impl Side {
    /// `@17`, `driver=575`, else a path.
    pub fn parse(text: &str) -> Self {
        if let Some(generation) = text.strip_prefix('@').and_then(|digits| digits.parse().ok()) {
            return Side::Generation(generation);
        }
        match text.strip_prefix("driver=") {
            Some(driver) => Side::Driver(driver.to_owned()),
            None => Side::Database(PathBuf::from(text)),
        }
    }
}

/// What became of a row.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Faster,
    Slower,
    Same,
    New,
    Gone,
}

impl Verdict {
    /// In small letters.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Faster => "faster",
            Verdict::Slower => "slower",
            Verdict::Same => "same",
            Verdict::New => "new",
            Verdict::Gone => "gone",
        }
    }
}

/// A row on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub verdict: Verdict,
    pub model: String,
    pub device: DeviceName,
    pub share: Share,
    pub batch: Batch,
    pub before: Option<Timing>,
    pub after: Option<Timing>,
}

/// What differs, and what does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiffReport {
    /// By model, device, share and batch.
    pub changes: Vec<Change>,
}

impl DiffReport {
    /// Whether anything differs beyond the noise.
    pub fn differs(&self) -> bool {
        self.changes.iter().any(|change| change.verdict != Verdict::Same)
    }
}

type Place = (ModelKey, DeviceKey, Share, Batch, Vec<(String, u64)>, Numerics);

/// Compares two sides of the database at `path`.
///
/// # Errors
/// [`StoreError::Input`] for a generation that is not kept, and as [`Reader::query`].
pub fn diff(path: &Path, before: &Side, after: &Side) -> Result<DiffReport, StoreError> {
    let before = rows(path, before)?;
    let mut after = rows(path, after)?;
    let mut report = DiffReport::default();
    for (place, old) in before {
        report.changes.push(change(Some(&old), after.remove(&place).as_ref()));
    }
    report.changes.extend(after.values().map(|new| change(None, Some(new))));
    report.changes.sort_by(|a, b| (&a.model, &a.device, a.share, a.batch).cmp(&(&b.model, &b.device, b.share, b.batch)));
    Ok(report)
}

fn timing(row: &ModelRow) -> Option<Timing> {
    match row.observation.outcome {
        Outcome::Ok { timing, .. } => Some(timing),
        Outcome::Failed { .. } => None,
    }
}

fn change(before: Option<&ModelRow>, after: Option<&ModelRow>) -> Change {
    let either = after.or(before).map(|row| &row.observation);
    let (old, new) = (before.and_then(timing), after.and_then(timing));
    let verdict = match (old, new) {
        (None, _) => Verdict::New,
        (_, None) => Verdict::Gone,
        (Some(old), Some(new)) => {
            let noise = old.mad.0.saturating_add(new.mad.0).saturating_mul(NOISE_MADS);
            match old.median.0.abs_diff(new.median.0) <= noise {
                true => Verdict::Same,
                false if new.median < old.median => Verdict::Faster,
                false => Verdict::Slower,
            }
        }
    };
    let (model, batch) = match either.map(|observation| &observation.subject) {
        Some(Subject::Model(record)) => (record.model_name.clone(), record.batch),
        _ => (String::new(), Batch::ONE),
    };
    let device = either.map_or_else(|| DeviceName(String::new()), |observation| observation.device_name.clone());
    let share = either.map_or(Share::WHOLE, |observation| observation.share);
    Change { verdict, model, device, share, batch, before: old, after: new }
}

fn rows(path: &Path, side: &Side) -> Result<BTreeMap<Place, ModelRow>, StoreError> {
    let found = match side {
        Side::Database(other) => Reader::open(other, Source::Auto)?.model_records()?.rows,
        Side::Driver(pattern) => Reader::open(path, Source::Auto)?.tables(&|index| of_driver(index, pattern))?,
        Side::Generation(generation) => {
            let snapshot = match Snapshot::open(&RealDisk, path, *generation) {
                Ok(snapshot) => snapshot,
                Err(error @ StoreError::Newer { .. }) => return Err(error),
                Err(_) => {
                    let kept = crate::snapshot::generations(&RealDisk, path);
                    let kept: Vec<String> = kept.iter().rev().map(|generation| format!("@{generation}")).collect();
                    let what = format!("generation {generation} is not kept; there are {}", kept.join(", "));
                    return Err(StoreError::Input { what });
                }
            };
            Tables(&snapshot).models(None).map_err(|error| index_error(path, error))?
        }
    };
    let by_driver = matches!(side, Side::Driver(_));
    let mut rows = BTreeMap::new();
    for row in found.into_iter().filter(|row| by_driver || !row.stale) {
        if let Subject::Model(record) = &row.observation.subject {
            let seen = &row.observation;
            rows.insert((record.model, seen.device, seen.share, record.batch, record.dims.clone(), seen.numerics), row);
        }
    }
    Ok(rows)
}

/// Rows measured under a driver, stale or not.
fn of_driver(index: &dyn Index, pattern: &str) -> Result<Vec<ModelRow>, IndexError> {
    let drivers: BTreeMap<(DeviceKey, EnvironmentKey), String> = Tables(index)
        .devices()?
        .into_iter()
        .filter_map(|row| Some(((row.key, row.environment.key()), driver_of(&row.environment.text)?)))
        .collect();
    let mut rows = Tables(index).models(None)?;
    rows.retain(|row| {
        let driver = drivers.get(&(row.observation.device, row.observation.environment));
        // `driver=575` means every 575.
        driver.is_some_and(|driver| glob(pattern, driver) || glob(&format!("{pattern}.*"), driver))
    });
    Ok(rows)
}
