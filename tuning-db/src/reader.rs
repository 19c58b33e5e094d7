//! Reading without ever being in a tuner's way: three ways to one answer.
//!
//! A asks the index itself, when nobody holds the lock; B asks the holder over its socket; C reads the newest snapshot and what the
//! journal has behind it, which needs neither lock nor permission to write. No way makes a database.

use crate::disk::{Disk, RealDisk};
use crate::error::StoreError;
use crate::index::{Changes, Index, IndexError, Overlay};
use crate::index_sled::open_within;
use crate::ingest::{Dropped, Ingest};
use crate::journal::read::From;
use crate::journal::read_journal;
use crate::key;
use crate::lock::Lock;
use crate::manifest::{Found, Manifest};
use crate::open::{index_error, open_limit};
use crate::query::{Query, Rows, eval};
use crate::rebuild::{Gathered, decode_frame};
use crate::snapshot::{self, Head, Snapshot};
use crate::socket;
use crate::tables::{ModelRow, Tables};
use schema::{ModelFeatures, Observation, TaskKey};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An index that took longer to open is left to writers: a snapshot answers sooner.
const OPEN_MS_MAX: u64 = 200;
/// The gravest first; what is in none of them is a way that is not open now.
const CLASSES: [&str; 4] = ["db.damaged", "machine.disk", "machine.permission", "db.locked"];
/// How much later than it was handed in an observation may be seen: a commit and what waits for it (docs/adr/0008).
const WINDOW_MS: u64 = 20;

/// Which way an answer came.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// The first of the others that works.
    #[default]
    Auto,
    /// The index.
    A,
    /// The process that writes.
    B,
    /// Snapshot and journal.
    C,
}

impl Source {
    /// `auto`, `A`, `B`, `C`.
    pub fn name(self) -> &'static str {
        match self {
            Source::Auto => "auto",
            Source::A => "A",
            Source::B => "B",
            Source::C => "C",
        }
    }

    /// That of a name.
    pub fn parse(name: &str) -> Option<Self> {
        [Source::Auto, Source::A, Source::B, Source::C].into_iter().find(|source| source.name().eq_ignore_ascii_case(name))
    }
}

/// All model records at one moment, for an index held in memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelRecords {
    pub rows: Vec<ModelRow>,
    pub generation: u64,
    pub watermark: u64,
    pub source: Source,
    pub stale_by_ms: u64,
}

/// A database opened for reading. Holds no lock between questions; every question sees what is durable then.
#[derive(Clone, Debug)]
pub struct Reader {
    path: PathBuf,
    source: Source,
}

impl Reader {
    /// Looks whether there is a database that this version can read.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is none, [`StoreError::Newer`], [`StoreError::Permission`].
    pub fn open(path: &Path, source: Source) -> Result<Self, StoreError> {
        let disk = RealDisk;
        let has_journal = !disk.list(&path.join("journal")).unwrap_or_default().is_empty();
        if Manifest::read(&disk, path)? == Found::Missing && !has_journal {
            return Err(StoreError::Missing { path: path.to_owned() });
        }
        Ok(Reader { path: path.to_owned(), source })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The rows a query asks for, with the way they came, generation and watermark.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] with the reason of each way, when none works.
    pub fn query(&self, query: &Query) -> Result<Rows, StoreError> {
        let over = |index: &dyn Index| eval::rows(index, query);
        let (mut rows, source, stale_by_ms) = self.ask(&over, &|| socket::query(&self.path, query))?;
        rows.source = Some(source);
        rows.stale_by_ms = stale_by_ms;
        Ok(rows)
    }

    /// All model records, stale ones marked.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub fn model_records(&self) -> Result<ModelRecords, StoreError> {
        let over = |index: &dyn Index| {
            let tables = Tables(index);
            Ok(ModelRecords {
                rows: tables.models(None)?,
                generation: tables.generation()?,
                watermark: tables.watermark()?.unwrap_or_default().seq,
                source: Source::Auto,
                stale_by_ms: 0,
            })
        };
        let (mut records, source, stale_by_ms) = self.ask(&over, &|| socket::model_records(&self.path))?;
        (records.source, records.stale_by_ms) = (source, stale_by_ms);
        Ok(records)
    }

    /// The features of all models, by way A or C.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub fn model_features(&self) -> Result<Vec<ModelFeatures>, StoreError> {
        self.tables(&|index| Tables(index).features())
    }

    /// The trials of a task in the current environment of each device, by way A or C.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub fn trials_of_task(&self, task: TaskKey) -> Result<Vec<Observation>, StoreError> {
        self.tables(&|index| {
            let (tables, now) = (Tables(index), Tables(index).currents()?);
            let mut trials = tables.observations(key::trial_prefix(task.0).as_ref())?;
            trials.retain(|trial| now.get(&trial.device) == Some(&trial.environment));
            Ok(trials)
        })
    }

    /// Asks the tables of an index directly, by way A or C.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub fn tables<T>(&self, question: &dyn Fn(&dyn Index) -> Result<T, IndexError>) -> Result<T, StoreError> {
        let none = || Err(StoreError::Input { what: "the holder answers queries only".into() });
        Ok(self.ask(question, &none)?.0)
    }

    /// The last published generation; 0 before the first.
    pub fn generation(&self) -> u64 {
        Head::read(&RealDisk, &self.path).map_or(0, |head| head.generation)
    }

    /// Waits until a generation above `seen` is published, at most `limit`; the newest one either way.
    pub fn wait_change(&self, seen: u64, limit: Duration) -> u64 {
        crate::notice::wait(&self.path.join(snapshot::DIR), limit, || {
            let now = self.generation();
            (now > seen).then_some(now)
        })
        .unwrap_or_else(|| self.generation())
    }

    fn ask<T>(
        &self,
        over_index: &dyn Fn(&dyn Index) -> Result<T, IndexError>,
        over_socket: &dyn Fn() -> Result<T, StoreError>,
    ) -> Result<(T, Source, u64), StoreError> {
        let (mut reasons, mut classes) = (Vec::new(), Vec::new());
        let ways: &[Source] = match self.source {
            Source::Auto => &[Source::A, Source::B, Source::C],
            Source::A => &[Source::A],
            Source::B => &[Source::B],
            Source::C => &[Source::C],
        };
        for way in ways {
            let answer = match way {
                Source::A => self.by_index(over_index).map(|answer| (answer, 0)),
                Source::B => over_socket().map(|answer| (answer, 0)),
                _ => self.by_snapshot(over_index),
            };
            match answer {
                Ok((answer, stale_by_ms)) => return Ok((answer, *way, stale_by_ms)),
                Err(newer @ StoreError::Newer { .. }) => return Err(newer),
                Err(error) => {
                    reasons.push(format!("{}: {error}", way.name()));
                    classes.push(error.class());
                }
            }
        }
        let class = CLASSES.into_iter().find(|class| classes.contains(class)).unwrap_or("db.source");
        Err(StoreError::Unreadable { path: self.path.clone(), reasons, class })
    }

    /// Way A: takes the lock for the moment of the answer.
    fn by_index<T>(&self, question: &dyn Fn(&dyn Index) -> Result<T, IndexError>) -> Result<T, StoreError> {
        let refuse = |why: &str| Err(StoreError::Input { what: why.to_owned() });
        let Found::Whole(manifest) = Manifest::read(&RealDisk, &self.path)? else {
            return refuse("the manifest cannot be read");
        };
        if !manifest.clean_close {
            return refuse("the index is in use, or its last writer did not close it");
        }
        if self.source == Source::Auto && manifest.last_open_ms > OPEN_MS_MAX {
            return refuse("the index opens slowly");
        }
        // The engine writes when it opens, whatever one only wants to read.
        if rustix::fs::access(&self.path, rustix::fs::Access::WRITE_OK).is_err() {
            return refuse("the folder may not be written");
        }
        let dir = self.path.join(&manifest.engine.dir);
        if !dir.is_dir() {
            return refuse("there is no index");
        }
        if !self.path.join(crate::lock::FILE).exists() {
            return refuse("there is no lock");
        }
        let _lock = Lock::take_to_read(&self.path)?;
        // Another writer may have come and gone in between.
        if Manifest::read(&RealDisk, &self.path)? != Found::Whole(manifest) {
            return refuse("the index was in use");
        }
        let index = open_within(&dir, open_limit(&dir)).map_err(|error| index_error(&dir, error))?;
        if Tables(&index).watermark().map_err(|error| index_error(&dir, error))?.is_none() {
            return refuse("the index has lost its contents");
        }
        question(&index).map_err(|error| index_error(&dir, error))
    }

    /// Way C: the newest snapshot with the journal's tail over it; older ones, then the journal alone, when one is damaged.
    fn by_snapshot<T>(&self, question: &dyn Fn(&dyn Index) -> Result<T, IndexError>) -> Result<(T, u64), StoreError> {
        let disk = &RealDisk;
        let stale_by_ms = if Lock::is_held(&self.path).is_some() { WINDOW_MS } else { 0 };
        let over = |snapshot: &Snapshot| match tail(disk, &self.path, snapshot, snapshot.watermark) {
            Err(error @ (StoreError::Newer { .. } | StoreError::Permission { .. })) => Err(error),
            Err(_) => Ok(None),
            Ok(changes) => Ok(question(&Overlay::with(snapshot, changes)).ok()),
        };
        if let Some(answer) = snapshot::first_of(disk, &self.path, &mut { over })? {
            return Ok((answer, stale_by_ms));
        }
        let gathered = Gathered::from_journal(disk, &self.path.join("journal"))?;
        let (missing, _) = gathered.journal.missing();
        if missing > 0 {
            return Err(StoreError::damaged(&self.path, format!("the journal lacks {missing} frames")));
        }
        let end = gathered.journal.last_seq;
        let built = gathered.into_index(end).map_err(|error| index_error(&self.path, error))?;
        question(&built.index).map(|answer| (answer, stale_by_ms)).map_err(|error| index_error(&self.path, error))
    }
}

/// What the journal has behind a watermark, as changes over a snapshot.
fn tail(disk: &dyn Disk, path: &Path, snapshot: &Snapshot, watermark: u64) -> Result<Changes, StoreError> {
    let dir = path.join("journal");
    let dropped = Dropped::load(snapshot).map_err(|error| index_error(path, error))?;
    let mut ingest = Ingest::new(snapshot, dropped);
    let mut fault = None;
    let from = From { above: watermark, all: false };
    let report = read_journal(disk, &dir, from, &mut |frame, payload| {
        if let Some(record) = decode_frame(&dir, frame, payload)?
            && fault.is_none()
        {
            fault = ingest.record(&record).err();
        }
        Ok(())
    })?;
    if let Some(gap) = report.gaps.iter().find(|gap| gap.last > watermark) {
        return Err(StoreError::damaged(path, format!("the journal lacks {} frames", gap.frames)));
    }
    fault
        .map_or(Ok(()), Err)
        .and_then(|()| ingest.watermark(report.last_seq.max(watermark)))
        .map_err(|error| index_error(path, error))?;
    Ok(ingest.finish().0)
}
