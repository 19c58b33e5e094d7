//! Opening for writing: lock, manifest, index, journal, in this order, and what is healed on the way.

use crate::disk::{Disk, random_16};
use crate::error::{At, StoreError};
use crate::index::{Index, IndexError};
use crate::index_btree::BTreeIndex;
use crate::index_sled::{SledIndex, open_within};
use crate::ingest::{Dropped, Ingest, reach};
use crate::journal::read::From;
use crate::journal::{Appender, Frame, JournalReport, read_journal};
use crate::lock::Lock;
use crate::manifest::{Found, Manifest, index_number};
use crate::probe::Probe;
use crate::rebuild::{Built, Gathered, decode_frame, fill};
use crate::record::Record;
use crate::tables::Tables;
use crate::{heal, owner, quarantine, snapshot};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Taken away when the disk is full.
const RESERVE_BYTES: usize = 4 << 20;
/// Every so many openings the index is probed although it was closed.
const PROBE_EVERY: u64 = 32;

/// How a store is opened.
#[derive(Clone)]
pub struct OpenOptions {
    /// Makes the database when there is none.
    pub create: bool,
    pub index: IndexKind,
    pub disk: Arc<dyn Disk>,
    /// Looks at the index in a child process first when the last writer did not close it.
    pub probe: Option<Probe>,
    pub allow_network_fs: bool,
    /// How often a snapshot is published while something changes; `None` leaves it to [`Store::publish_snapshot`] and the end.
    ///
    /// [`Store::publish_snapshot`]: crate::Store::publish_snapshot
    pub snapshot_every: Option<Duration>,
    /// Answers readers over a socket.
    pub serve: bool,
    /// How much is looked at before anything is believed.
    pub verify: Verify,
    /// Who writes; chosen at random when `None`. Two processes must never share one.
    pub writer: Option<[u8; 16]>,
    /// Stands between the store and an index that was opened; may refuse it. For fault injection.
    pub between: Option<Between>,
}

/// What stands between the store and its index: takes the one opened, gives the one used.
pub type Between = Arc<dyn Fn(Box<dyn Index>) -> Result<Box<dyn Index>, IndexError> + Send + Sync>;

/// How much opening looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// After a clean close only what is new, else all of the journal.
    #[default]
    Usual,
    /// All of the journal, whatever the last writer said.
    Journal,
    /// The index is damaged, for this reason, and is made again.
    Rebuild(String),
}

/// What holds the index.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum IndexKind {
    /// On disk.
    Sled,
    /// In memory, made again from the journal at every opening; takes no lock. For simulations.
    Memory,
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions {
            create: true,
            index: IndexKind::Sled,
            disk: Arc::new(crate::disk::RealDisk),
            probe: None,
            allow_network_fs: false,
            snapshot_every: Some(Duration::from_secs(30)),
            serve: true,
            verify: Verify::Usual,
            writer: None,
            between: None,
        }
    }
}

/// What opening found and did. Everything zero and empty: it was as it was left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Frames of the journal that the index lacked.
    pub replayed: u64,
    /// Why the index was made again, and from how many observations.
    pub rebuilt: Option<(String, u64)>,
    /// Observations found in a copy and written to the journal again.
    pub salvaged: u64,
    /// Observations that are in no copy.
    pub lost: u64,
    /// Bytes of an unfinished write that were cut.
    pub torn_bytes: u64,
    /// Where damaged files went.
    pub quarantine: Option<PathBuf>,
    /// The folder's permissions, when others than its owner may write into it.
    pub exposed: Option<u32>,
}

impl OpenReport {
    /// One line for people; `None` when there is nothing to say.
    pub fn line(&self) -> Option<String> {
        let quarantine = self.quarantine.as_ref().map_or(String::new(), |dir| format!("; the old one is in {}", dir.display()));
        match &self.rebuilt {
            Some((why, observations)) => {
                Some(format!("index damaged ({why}): rebuilt {observations} observations, {} lost{quarantine}", self.lost))
            }
            None if self.salvaged + self.lost > 0 || self.quarantine.is_some() => {
                Some(format!("damaged: {} observations restored from a copy, {} lost{quarantine}", self.salvaged, self.lost))
            }
            None => None,
        }
    }

    /// One line for people about who else may write; `None` when nobody may.
    pub fn exposed_line(&self) -> Option<String> {
        self.exposed.map(|mode| format!("others may write into its folder (mode {mode:03o}); chmod go-w takes that away"))
    }
}

/// An opened database.
pub(crate) struct Opened {
    pub lock: Option<Lock>,
    pub manifest: Manifest,
    pub index: Box<dyn Index>,
    pub dropped: Dropped,
    pub reached: BTreeMap<[u8; 16], u64>,
    pub appender: Appender,
    pub report: OpenReport,
}

/// How long opening an index may take: 10 s and 1 s per 100 MB.
pub fn open_limit(dir: &Path) -> Duration {
    Duration::from_secs(10 + quarantine::size_of(dir) / 100_000_000)
}

pub(crate) fn open(path: &Path, options: &OpenOptions) -> Result<Opened, StoreError> {
    let disk = &*options.disk;
    let found = Manifest::read(disk, path)?;
    let journal_dir = path.join("journal");
    let has_journal = !disk.list(&journal_dir).at(&journal_dir, "list the journal")?.is_empty();
    if found == Found::Missing && !has_journal && !options.create {
        return Err(StoreError::Missing { path: path.to_owned() });
    }
    for dir in [path.to_owned(), journal_dir.clone(), path.join(snapshot::DIR)] {
        disk.create_dir(&dir).at(&dir, "make the database")?;
    }
    let lock = match options.index {
        IndexKind::Sled => {
            refuse_network(path, options.allow_network_fs)?;
            Some(Lock::take(path)?)
        }
        IndexKind::Memory => None,
    };
    disk.sync_dir(path).at(path, "sync the database's folder")?;
    let mut report = OpenReport::default();
    if lock.is_some() {
        report.exposed = owner::exposed(path);
    }
    // Left by writers that died; the lock is ours, so nobody is using them.
    for dir in [path, &journal_dir, &path.join(snapshot::DIR)] {
        remove_temporary(disk, dir)?;
    }
    let (mut manifest, was_clean) = manifest(disk, path, has_journal, &mut report)?;
    manifest.clean_close = false;
    manifest.openings = manifest.openings.saturating_add(1);
    manifest.write(disk, path)?;
    make_reserve(disk, path);
    let was_clean = was_clean && options.verify == Verify::Usual;
    let started = Instant::now();
    let index = match options.index {
        IndexKind::Sled => open_index(path, &manifest, was_clean, options),
        IndexKind::Memory => Ok(Box::new(BTreeIndex::default()) as Box<dyn Index>),
    };
    let index = match &options.between {
        Some(between) => index.and_then(|index| between(index)),
        None => index,
    };
    manifest.last_open_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let writer = match options.writer {
        Some(writer) => writer,
        None => random_16().at(Path::new("/dev/urandom"), "read random bytes")?,
    };
    let mut opening = Opening { path, options, journal_dir, writer, was_clean, manifest, report };
    let (index, dropped, reached, appender) = opening.recover(index)?;
    let Opening { manifest, report, .. } = opening;
    Ok(Opened { lock, manifest, index, dropped, reached, appender, report })
}

fn refuse_network(path: &Path, allowed: bool) -> Result<(), StoreError> {
    /// `f_type` of network file systems (statfs(2)), with their names.
    const NETWORK: &[(u64, &str)] = &[
        (0x6969, "nfs"),
        (0x517b, "smb"),
        (0xff53_4d42, "cifs"),
        (0xfe53_4d42, "smb2"),
        (0x0102_1997, "9p"),
        (0x5346_414f, "afs"),
        (0x00c3_6400, "ceph"),
    ];
    let stat = rustix::fs::statfs(path).map_err(|error| StoreError::io(path, "ask for the file system", error.into()))?;
    #[allow(clippy::unnecessary_cast, reason = "the type differs between architectures")]
    let kind = stat.f_type as u64 & 0xffff_ffff;
    match NETWORK.iter().find(|(magic, _)| *magic == kind) {
        Some((_, name)) if !allowed => Err(StoreError::NetworkFileSystem { path: path.to_owned(), kind: (*name).to_owned() }),
        _ => Ok(()),
    }
}

fn remove_temporary(disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
    let names = disk.list(dir).at(dir, "list the database")?;
    for name in names.iter().filter(|name| name.starts_with('.') && name.contains(".tmp-")) {
        // It is in nobody's way: a failure only leaves it for the next opening.
        let _ = disk.remove(&dir.join(name));
    }
    Ok(())
}

/// The manifest, or one made from what the folder holds.
fn manifest(disk: &dyn Disk, path: &Path, has_journal: bool, report: &mut OpenReport) -> Result<(Manifest, bool), StoreError> {
    let names = disk.list(path).at(path, "list the database")?;
    let found = Manifest::read(disk, path)?;
    if let Found::Whole(manifest) = found {
        let clean = manifest.clean_close;
        return Ok((manifest, clean));
    }
    if found == Found::Damaged {
        let quarantine = quarantine::make(disk, path, "manifest")?;
        quarantine::move_into(disk, &quarantine, &path.join(crate::manifest::FILE))?;
        report.quarantine = Some(quarantine);
    }
    let mut manifest = Manifest::new(random_16().at(path, "read random bytes")?);
    if let Some(newest) = names.iter().filter_map(|name| index_number(name)).max() {
        manifest.engine.dir = format!("index-{newest}");
    }
    Ok((manifest, !has_journal && found == Found::Missing))
}

fn make_reserve(disk: &dyn Disk, path: &Path) {
    let reserve = path.join("reserve");
    if disk.open_read(&reserve).and_then(|file| file.size()).is_ok_and(|size| size == RESERVE_BYTES as u64) {
        return;
    }
    let _ = disk.remove(&reserve);
    let made = disk.create(&reserve).and_then(|file| file.write_at(0, &vec![0; RESERVE_BYTES]));
    if made.is_err() {
        // No room for a reserve: there may still be room for what is to be written.
        let _ = disk.remove(&reserve);
    }
}

fn open_index(path: &Path, manifest: &Manifest, was_clean: bool, options: &OpenOptions) -> Result<Box<dyn Index>, IndexError> {
    let dir = path.join(&manifest.engine.dir);
    let limit = open_limit(&dir);
    if let Some(probe) = &options.probe
        && dir.exists()
        && (!was_clean || manifest.openings.is_multiple_of(PROBE_EVERY))
    {
        probe.run(&dir, limit)?;
    }
    Ok(Box::new(open_within(&dir, limit)?))
}

struct Opening<'a> {
    path: &'a Path,
    options: &'a OpenOptions,
    journal_dir: PathBuf,
    writer: [u8; 16],
    was_clean: bool,
    manifest: Manifest,
    report: OpenReport,
}

type Recovered = (Box<dyn Index>, Dropped, BTreeMap<[u8; 16], u64>, Appender);

impl Opening<'_> {
    fn recover(&mut self, index: Result<Box<dyn Index>, IndexError>) -> Result<Recovered, StoreError> {
        let forced = match &self.options.verify {
            Verify::Rebuild(why) => Some(IndexError::Corrupt(why.clone())),
            Verify::Usual | Verify::Journal => None,
        };
        let (mut index, why) = match index {
            Ok(index) if forced.is_some() => (Some(index), forced),
            Ok(index) => match Tables(&*index).watermark() {
                Ok(Some(watermark)) => match self.catch_up(index, watermark.seq)? {
                    Ok(recovered) => return Ok(recovered),
                    Err((index, why)) => (Some(index), why),
                },
                Ok(None) => (Some(index), None),
                Err(error) => (Some(index), Some(error)),
            },
            Err(error) => (None, Some(error)),
        };
        if let Some(IndexError::Newer { found, known }) = why {
            return Err(self.newer(found, known));
        }
        if let Some(IndexError::Full) = why {
            return Err(StoreError::Full { path: self.path.to_owned() });
        }
        let gathered = Gathered::from_journal(&*self.options.disk, &self.journal_dir)?;
        self.rebuild(&mut index, why, gathered)
    }

    fn newer(&self, found: u16, known: u16) -> StoreError {
        StoreError::Newer {
            path: self.path.to_owned(),
            found: u32::from(found),
            known: u32::from(known),
            made_by: "a newer tunewright".into(),
        }
    }

    /// Brings a readable index up to the journal. The inner error gives the index back with what is wrong with it.
    #[allow(clippy::type_complexity, reason = "used once, private")]
    fn catch_up(
        &mut self,
        mut index: Box<dyn Index>,
        seq: u64,
    ) -> Result<Result<Recovered, (Box<dyn Index>, Option<IndexError>)>, StoreError> {
        let mut dropped = match Dropped::load(&*index) {
            Ok(dropped) => dropped,
            Err(error) => return Ok(Err((index, Some(error)))),
        };
        if let Err(error) = Tables(&*index).history() {
            return Ok(Err((index, Some(error))));
        }
        let mut reached = BTreeMap::new();
        let mut pending = Vec::new();
        let mut broken = None;
        let mut replayed = 0;
        // What is in the index and in no snapshot still has to get its generation.
        let head = snapshot::Head::read(&*self.options.disk, self.path).map_or(0, |head| head.watermark);
        let above = if self.was_clean { seq } else { seq.min(head) };
        let from = From { above, all: !self.was_clean };
        let dir = self.journal_dir.clone();
        let journal = read_journal(&*self.options.disk, &dir, from, &mut |frame, payload| {
            if frame.seq <= seq {
                if let Some(record) = decode_frame(&dir, frame, payload)? {
                    reach(&mut reached, &record);
                }
                return Ok(());
            }
            replayed += 1;
            pending.extend(decode_frame(&dir, frame, payload)?);
            if pending.len() >= 1_000 && broken.is_none() {
                broken = take_in(&mut index, &mut dropped, &mut reached, &pending, frame.seq).err();
                pending.clear();
            }
            Ok(())
        })?;
        let end = journal.last_seq.max(seq);
        if broken.is_none() && replayed > 0 {
            broken = take_in(&mut index, &mut dropped, &mut reached, &pending, end).err();
        }
        if broken.is_some() {
            return Ok(Err((index, broken)));
        }
        self.report.replayed = replayed;
        if !journal.is_whole() || journal.last_seq < seq {
            return self.restore(index, dropped, reached, seq);
        }
        self.cut_tear(&journal)?;
        let appender = self.appender(&journal, end);
        Ok(Ok((index, dropped, reached, appender)))
    }

    fn appender(&self, journal: &JournalReport, last_seq: u64) -> Appender {
        let disk = self.options.disk.clone();
        Appender::new(disk, &self.journal_dir, self.writer, journal.next_segment, last_seq, journal.counter)
    }

    /// The journal lacks frames: what the index or a snapshot holds of them is written again.
    #[allow(clippy::type_complexity, reason = "used once, private")]
    fn restore(
        &mut self,
        index: Box<dyn Index>,
        mut dropped: Dropped,
        mut reached: BTreeMap<[u8; 16], u64>,
        seq: u64,
    ) -> Result<Result<Recovered, (Box<dyn Index>, Option<IndexError>)>, StoreError> {
        let mut index = index;
        let mut gathered = Gathered::from_journal(&*self.options.disk, &self.journal_dir)?;
        gathered.salvage(&*index, "index");
        if let Some(error) = gathered.unreadable.iter().find(|what| what.starts_with("index")) {
            return Ok(Err((index, Some(IndexError::Corrupt(error.clone())))));
        }
        self.salvage_snapshot(&mut gathered);
        let end = seq.max(gathered.journal.last_seq);
        let mut appender = self.heal_journal(&gathered, end)?;
        let records = std::mem::take(&mut gathered.salvaged);
        journal_again(&mut appender, &records)?;
        if let Err(error) = take_in(&mut index, &mut dropped, &mut reached, &records, appender.next_seq() - 1) {
            return Ok(Err((index, Some(error))));
        }
        Ok(Ok((index, dropped, reached, appender)))
    }

    fn salvage_snapshot(&mut self, gathered: &mut Gathered) {
        for found in snapshot::all(&*self.options.disk, self.path) {
            gathered.salvage(&found, "snapshot");
        }
    }

    /// Counts what is lost, sets damaged segments aside and replaces them by what is left of them.
    fn heal_journal(&mut self, gathered: &Gathered, end: u64) -> Result<Appender, StoreError> {
        let restored = gathered.salvaged.iter().filter(|record| matches!(record, Record::Observation(_))).count();
        self.report.salvaged += restored as u64;
        self.report.lost += gathered.lost();
        self.cut_tear(&gathered.journal)?;
        let mut journal = gathered.journal.clone();
        if !journal.is_whole() || journal.last_seq < end {
            let quarantine = heal::journal(&*self.options.disk, self.path, &self.journal_dir, &mut journal, end)?;
            self.report.quarantine = self.report.quarantine.take().or(quarantine);
        }
        Ok(self.appender(&journal, end))
    }

    fn rebuild(
        &mut self,
        old: &mut Option<Box<dyn Index>>,
        why: Option<IndexError>,
        mut gathered: Gathered,
    ) -> Result<Recovered, StoreError> {
        let disk = &*self.options.disk;
        let is_new = gathered.journal.last_seq == 0 && why.is_none();
        if let Some(index) = old {
            gathered.salvage(&**index, "index");
        }
        self.salvage_snapshot(&mut gathered);
        let is_new = is_new && gathered.salvaged.is_empty();
        // What the snapshots reached was acknowledged, even if no frame of it is left.
        let reached_before = snapshot::watermark(disk, self.path).unwrap_or(0);
        let end = gathered.journal.last_seq.max(reached_before);
        let mut appender = self.heal_journal(&gathered, end)?;
        let records = std::mem::take(&mut gathered.salvaged);
        journal_again(&mut appender, &records)?;
        let observations = gathered.observations();
        let built =
            gathered.into_index(appender.next_seq() - 1).map_err(|error| StoreError::damaged(self.path, error.to_string()))?;
        let Built { index: built, dropped, reached } = built;
        if is_new && let Some(mut index) = old.take() {
            fill(&mut *index, built.0).map_err(|error| index_error(self.path, error))?;
            return Ok((index, dropped, reached, appender));
        }
        drop(old.take());
        let reason = why.map_or_else(|| "it had lost its contents".to_owned(), |why| why.to_string());
        let index: Box<dyn Index> = match self.options.index {
            IndexKind::Memory => Box::new(built),
            IndexKind::Sled => {
                let index = replace_index(disk, self.path, &mut self.manifest, built, &mut self.report.quarantine)?;
                self.report.rebuilt = Some((reason, observations));
                index
            }
        };
        Ok((index, dropped, reached, appender))
    }

    fn cut_tear(&mut self, journal: &JournalReport) -> Result<(), StoreError> {
        self.report.torn_bytes = journal.torn_bytes;
        if let Some((segment, end)) = &journal.torn {
            let file = self.options.disk.open(segment).at(segment, "open the journal")?;
            file.set_size(*end).and_then(|()| file.sync()).at(segment, "cut the journal")?;
        }
        for superseded in &journal.superseded {
            // Its frames are in the segment that took its place; left, it would only be passed over again.
            let _ = self.options.disk.remove(superseded);
        }
        Ok(())
    }
}

/// Moves the old index away and fills a new one; the manifest makes the switch.
pub(crate) fn replace_index(
    disk: &dyn Disk,
    path: &Path,
    manifest: &mut Manifest,
    built: BTreeIndex,
    quarantined: &mut Option<PathBuf>,
) -> Result<Box<dyn Index>, StoreError> {
    let old = path.join(&manifest.engine.dir);
    let number = manifest.engine.dir_number().unwrap_or(0);
    if old.exists() {
        let quarantine = match quarantined {
            Some(quarantine) => quarantine.clone(),
            None => quarantine::make(disk, path, "index")?,
        };
        quarantine::move_into(disk, &quarantine, &old)?;
        *quarantined = Some(quarantine);
    }
    let taken = disk.list(path).at(path, "list the database")?.iter().filter_map(|name| index_number(name)).max();
    let next = number.max(taken.unwrap_or(0)) + 1;
    manifest.engine.dir = format!("index-{next}");
    let dir = path.join(&manifest.engine.dir);
    let mut index = SledIndex::open(&dir).map_err(|error| index_error(&dir, error))?;
    fill(&mut index, built.0).map_err(|error| index_error(&dir, error))?;
    manifest.write(disk, path)?;
    quarantine::trim(path, false);
    Ok(Box::new(index))
}

pub(crate) fn index_error(path: &Path, error: IndexError) -> StoreError {
    match error {
        IndexError::Full => StoreError::Full { path: path.to_owned() },
        IndexError::Newer { found, known } => StoreError::Newer {
            path: path.to_owned(),
            found: u32::from(found),
            known: u32::from(known),
            made_by: "a newer tunewright".into(),
        },
        IndexError::Corrupt(what) | IndexError::Io(what) => StoreError::damaged(path, what),
    }
}

/// Writes records that only another copy held.
pub(crate) fn journal_again(appender: &mut Appender, records: &[Record]) -> Result<(), StoreError> {
    for part in records.chunks(512) {
        let frames: Vec<Frame> = (appender.next_seq()..)
            .zip(part)
            .map(|(seq, record)| Frame { kind: record.kind(), schema: record.schema(), seq, payload: record.encode() })
            .collect();
        appender.append(&frames)?;
    }
    Ok(())
}

/// Takes records into an index and moves its watermark.
pub(crate) fn take_in(
    index: &mut Box<dyn Index>,
    dropped: &mut Dropped,
    reached: &mut BTreeMap<[u8; 16], u64>,
    records: &[Record],
    seq: u64,
) -> Result<(), IndexError> {
    let mut ingest = Ingest::new(&**index, std::mem::take(dropped));
    ingest.reached = std::mem::take(reached);
    records.iter().try_for_each(|record| ingest.record(record))?;
    ingest.watermark(seq)?;
    *reached = std::mem::take(&mut ingest.reached);
    let (changes, now_dropped) = ingest.finish();
    *dropped = now_dropped;
    index.apply(&changes)
}
