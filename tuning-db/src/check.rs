//! Check and repair.

use crate::caught::guarded;
use crate::disk::{Disk, RealDisk};
use crate::envelope;
use crate::error::StoreError;
use crate::index::{Flow, Index, IndexError};
use crate::index_sled::open_within;
use crate::ingest::derive_all;
use crate::journal::JournalReport;
use crate::key::{self, table};
use crate::lock::Lock;
use crate::manifest::{Found, Manifest};
use crate::open::{OpenOptions, OpenReport, Verify, open_limit};
use crate::quarantine;
use crate::rebuild::Gathered;
use crate::record::trial_entry;
use crate::snapshot::{self, Head, Snapshot};
use crate::store::Store;
use crate::tables::Tables;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub path: PathBuf,
    pub what: String,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    pub findings: Vec<Finding>,
    /// What could not be looked at, and why. No fault in itself.
    pub unseen: Vec<Finding>,
    pub frames: u64,
    /// Observations in the journal.
    pub observations: u64,
    /// Keys of the index.
    pub keys: u64,
    pub snapshots: usize,
    /// Observations missing in the journal; a copy may have them.
    pub missing: u64,
    /// Observations set aside because two share an id.
    pub conflicts: u64,
    pub generation: u64,
    /// Why the index should be made again; empty when it should not.
    pub index_fault: String,
}

impl CheckReport {
    /// Whether everything that was looked at is as it was written.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    fn found(&mut self, path: &Path, what: impl Into<String>) {
        self.findings.push(Finding { path: path.to_owned(), what: what.into() });
    }
}

/// Verifies manifest, journal, snapshots and, when nobody holds the lock, the index and that it agrees with the journal.
///
/// Changes nothing of ours; opening the index may let the engine finish what a killed process left.
///
/// # Errors
/// [`StoreError::Missing`], [`StoreError::Newer`], and what the disk says. Damage is no error: it is in the report.
pub fn check(path: &Path) -> Result<CheckReport, StoreError> {
    crate::reader::Reader::open(path, crate::reader::Source::Auto)?;
    let disk = &RealDisk;
    let mut report = CheckReport::default();
    let manifest = Manifest::read(disk, path)?;
    match &manifest {
        Found::Whole(_) => {}
        Found::Missing => report.found(&path.join(crate::manifest::FILE), "is missing"),
        Found::Damaged => report.found(&path.join(crate::manifest::FILE), "fails its checksum"),
    }
    let gathered = Gathered::from_journal(disk, &path.join("journal"))?;
    journal(&mut report, path, &gathered);
    snapshots(&mut report, disk, path)?;
    if let Found::Whole(manifest) = manifest {
        index(&mut report, path, &manifest, gathered)?;
    }
    Ok(report)
}

fn journal(report: &mut CheckReport, path: &Path, gathered: &Gathered) {
    let JournalReport { frames, damaged, gaps, .. } = &gathered.journal;
    report.frames = *frames;
    report.observations = gathered.observations();
    report.missing = gathered.journal.missing().1;
    for segment in damaged {
        report.found(segment, "has bytes that belong to no frame");
    }
    for gap in gaps {
        let what = format!("frames {} to {} lack {}, {} of them observations", gap.first, gap.last, gap.frames, gap.observations);
        report.found(&path.join("journal"), what);
    }
    for what in &gathered.unreadable {
        report.found(&path.join("journal"), what.clone());
    }
}

fn snapshots(report: &mut CheckReport, disk: &dyn Disk, path: &Path) -> Result<(), StoreError> {
    let dir = path.join(snapshot::DIR);
    let head = Head::read(disk, path);
    let generations = snapshot::generations(disk, path);
    if head.is_none() && !generations.is_empty() {
        report.found(&dir.join(snapshot::HEAD), "is missing or fails its checksum");
    }
    if let Some(head) = head.filter(|head| !generations.contains(&head.generation)) {
        report.found(&dir.join(snapshot::HEAD), format!("names generation {}, which is not there", head.generation));
    }
    report.generation = head.map_or(0, |head| head.generation);
    for generation in generations {
        let file = dir.join(snapshot::file_name(generation));
        match Snapshot::open(disk, path, generation) {
            Ok(found) => {
                report.snapshots += 1;
                if let Err(error) = found.verify() {
                    report.found(&file, error.to_string());
                } else if head.is_some_and(|head| head.generation == generation && head.sum != found.sum) {
                    report.found(&file, "is not the snapshot that head names");
                }
            }
            Err(newer @ StoreError::Newer { .. }) => return Err(newer),
            Err(error) => report.found(&file, error.to_string()),
        }
    }
    Ok(())
}

fn index(report: &mut CheckReport, path: &Path, manifest: &Manifest, gathered: Gathered) -> Result<(), StoreError> {
    let dir = path.join(&manifest.engine.dir);
    let unseen = |report: &mut CheckReport, what: String| report.unseen.push(Finding { path: dir.clone(), what });
    let _lock = match Lock::take_to_read(path) {
        Ok(lock) => lock,
        Err(StoreError::Locked { pid, .. }) => {
            unseen(report, format!("in use by process {pid}"));
            return Ok(());
        }
        Err(error) => {
            unseen(report, error.to_string());
            return Ok(());
        }
    };
    if !dir.is_dir() {
        report.index_fault = "there is no index".into();
        report.found(&dir, "is missing");
        return Ok(());
    }
    let limit = open_limit(&dir);
    let looked = open_within(&dir, limit).and_then(|index| guarded(limit * 6, move || look(&index)));
    match looked {
        Err(IndexError::Newer { found, known }) => {
            return Err(crate::open::index_error(&dir, IndexError::Newer { found, known }));
        }
        Err(error) => {
            report.index_fault = error.to_string();
            report.found(&dir, error.to_string());
        }
        Ok(Looked { entries, conflicts, seq }) => {
            report.keys = entries.values().map(BTreeMap::len).sum::<usize>() as u64;
            report.conflicts = conflicts;
            let fault = disagreement(&entries, seq, gathered);
            if let Some(fault) = fault {
                report.index_fault = fault.clone();
                report.found(&dir, fault);
            }
        }
    }
    Ok(())
}

struct Looked {
    entries: BTreeMap<u8, BTreeMap<Vec<u8>, Vec<u8>>>,
    conflicts: u64,
    seq: Option<u64>,
}

fn look(index: &dyn Index) -> Result<Looked, IndexError> {
    let mut entries: BTreeMap<u8, BTreeMap<Vec<u8>, Vec<u8>>> = BTreeMap::new();
    let mut fault = None;
    index.scan(&[], &[], &mut |key, value| {
        if let Err(error) = envelope::open(key, value) {
            fault = Some(error);
            return Flow::Break(());
        }
        entries.entry(key.first().copied().unwrap_or_default()).or_default().insert(key.to_vec(), value.to_vec());
        Flow::Continue(())
    })?;
    if let Some(fault) = fault {
        return Err(fault.into());
    }
    let tables = Tables(index);
    Ok(Looked { entries, conflicts: tables.conflicts()?.len() as u64, seq: tables.watermark()?.map(|watermark| watermark.seq) })
}

/// Where the index says something else than the journal, or than itself.
fn disagreement(entries: &BTreeMap<u8, BTreeMap<Vec<u8>, Vec<u8>>>, seq: Option<u64>, gathered: Gathered) -> Option<String> {
    let none = BTreeMap::new();
    let trials = entries.get(&table::TRIALS).unwrap_or(&none);
    // A writer that was killed while it made the database leaves an index and a journal that hold nothing yet.
    let begun = entries.is_empty() && gathered.journal.frames == 0;
    let Some(seq) = seq else { return (!begun).then(|| "has lost its contents".into()) };
    let derived = match derive_all(trials.iter()) {
        Ok(derived) => derived,
        Err(error) => return Some(error.to_string()),
    };
    let held = [table::BESTS, table::MODELS].into_iter().flat_map(|table| entries.get(&table).unwrap_or(&none).iter());
    if !held.eq(derived.iter().map(|(key, value)| (key, value))) {
        return Some("the tables of bests and models are not what the trials give".into());
    }
    if gathered.journal.is_whole() && gathered.journal.last_seq <= seq {
        let journalled = gathered.into_index(seq).ok()?.index;
        let prefix = key::whole(table::TRIALS);
        let expected = journalled.0.range(prefix.0.clone()..prefix.end());
        if !expected.eq(trials.iter()) {
            return Some("the trials are not those of the journal".into());
        }
    }
    None
}

/// What a repair did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    pub before: CheckReport,
    /// `None` for a dry run and when there was nothing to do.
    pub done: Option<OpenReport>,
    /// Snapshots that were set aside.
    pub snapshots: Vec<PathBuf>,
    /// Observations that are in no copy: lost, or to be lost.
    pub lost: u64,
}

/// Quarantines what is damaged, makes it again from what is not, and says what was lost.
///
/// # Errors
/// As [`check`], and [`StoreError::Locked`] when somebody writes.
pub fn repair(path: &Path, options: OpenOptions, dry_run: bool) -> Result<RepairReport, StoreError> {
    let before = check(path)?;
    let mut report = RepairReport { lost: would_lose(path, &before)?, before, ..RepairReport::default() };
    if report.before.is_clean() || dry_run {
        return Ok(report);
    }
    let verify = match report.before.index_fault.as_str() {
        "" => Verify::Journal,
        fault => Verify::Rebuild(fault.to_owned()),
    };
    let disk = options.disk.clone();
    let store = Store::open(path, OpenOptions { verify, create: false, serve: false, ..options })?;
    report.done = Some(store.open_report().clone());
    report.lost = store.open_report().lost;
    for generation in snapshot::generations(&*disk, path) {
        let file = path.join(snapshot::DIR).join(snapshot::file_name(generation));
        let whole = Snapshot::open(&*disk, path, generation).is_ok_and(|found| found.verify().is_ok());
        if !whole {
            let quarantine = quarantine::make(&*disk, path, "snapshot")?;
            report.snapshots.push(quarantine::move_into(&*disk, &quarantine, &file)?);
        }
    }
    store.publish_again()?;
    store.close()?;
    quarantine::trim(path, false);
    Ok(report)
}

/// How many observations no copy holds.
fn would_lose(path: &Path, before: &CheckReport) -> Result<u64, StoreError> {
    if before.missing == 0 {
        return Ok(0);
    }
    let disk = &RealDisk;
    let mut gathered = Gathered::from_journal(disk, &path.join("journal"))?;
    if let (Found::Whole(manifest), Ok(_lock)) = (Manifest::read(disk, path)?, Lock::take_to_read(path)) {
        let dir = path.join(&manifest.engine.dir);
        if let Ok(index) = open_within(&dir, open_limit(&dir)) {
            gathered.salvage(&index, "index");
        }
    }
    for found in snapshot::all(disk, path) {
        gathered.salvage(&found, "snapshot");
    }
    Ok(gathered.lost())
}

/// The bytes an observation takes in the index: key and value.
pub fn record_bytes(observation: &schema::Observation) -> usize {
    trial_entry(observation).map_or(0, |(key, value)| key.len() + value.len())
}
