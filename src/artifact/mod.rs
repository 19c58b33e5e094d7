//! The artifact: one file with everything a runtime needs. Graphs, weights once, a config for each task of each (device, share,
//! batch), the records they were chosen by, and where all of it comes from.
//!
//! [`Contents`] goes in and comes out. Opening reads header, table and metadata, and is O(1) in the weights: these are mapped, and
//! each 4 MiB of them is checked against its sum when a graph that uses it is first asked for. [`Opening`] asks for more: every byte
//! checked at once, or the weights copied where nobody can change them. The same contents make the same bytes.
//!
//! This room does not know how anything is executed. Format: `docs/formats/artifact.md`; the constants live in `layout` only.

#[allow(unsafe_code)]
mod fault;
mod layout;
#[allow(unsafe_code)]
mod map;
mod read;
mod wire;
mod write;

pub use read::Artifact;
pub use write::{Written, write, write_to};

use crate::graph::Graph;
use kernels::Task;
use schema::{Batch, Config, Device, Environment, Grant, ModelKey, Observation, Share, Split};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use thiserror::Error;

/// The identity of an artifact: BLAKE3 over its sections, cut to 16 bytes.
#[derive(Copy, Clone, PartialEq, Eq, Hash)]
pub struct ContentId(pub [u8; 16]);

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentId({self})")
    }
}

/// Where an artifact comes from. Without a clock, unless the user asked for a stamp: the same inputs make the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    pub tool_version: String,
    pub tool_commit: Option<String>,
    /// What `Session::run` calls the model: the file's name without its extension.
    pub model_name: String,
    /// Of the model's bytes, external data included.
    pub model: ModelKey,
    pub opset: Option<u32>,
    /// The tuning database: identity, generation, and how far its journal was read.
    pub database: Option<DatabaseMark>,
    pub seed: u64,
    pub budget: String,
    pub flags: Vec<String>,
    /// Seconds since 1970, with `--stamp` only.
    pub stamp_s: Option<u64>,
}

/// A state of a tuning database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseMark {
    pub uuid: [u8; 16],
    pub generation: u64,
    pub watermark: u64,
}

/// A graph with its batch and its other open axes chosen, passes done.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    pub batch: Batch,
    /// Axes besides the batch, sorted by name.
    pub dims: Vec<(String, u64)>,
    pub graph: Graph,
}

/// What was chosen for one (device, share, batch).
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub device: Device,
    pub environment: Environment,
    pub share: Share,
    pub grant: Grant,
    pub batch: Batch,
    pub dims: Vec<(String, u64)>,
    /// Which of the graphs it runs.
    pub graph: usize,
    /// How it computes the batch; the configs are those of a part's tasks.
    pub split: Split,
    /// Sorted by the tasks' texts. A task that is missing runs with its operator's default.
    pub configs: Vec<(Task, Config)>,
    /// Which of the records says how fast it is.
    pub record: Option<usize>,
}

/// Everything in an artifact but the bytes of the weights, which the graphs' constants share.
#[derive(Clone, Debug, PartialEq)]
pub struct Contents {
    pub provenance: Provenance,
    pub graphs: Vec<Bound>,
    pub entries: Vec<Entry>,
    /// Model records.
    pub records: Vec<Observation>,
    /// Lines for people.
    pub notes: Vec<String>,
}

impl Contents {
    /// A model that nobody tuned, so that its graphs run with defaults. It is not of a file: its key is that of its name.
    pub fn untuned(model_name: &str, graphs: Vec<Bound>) -> Self {
        let provenance = Provenance {
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            tool_commit: None,
            model_name: model_name.to_owned(),
            model: ModelKey::of(model_name),
            opset: None,
            database: None,
            seed: 0,
            budget: String::new(),
            flags: Vec::new(),
            stamp_s: None,
        };
        Contents { provenance, graphs, entries: Vec::new(), records: Vec::new(), notes: Vec::new() }
    }
}

/// How much of an artifact is read and checked when it is opened.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// Read and check every byte at once, instead of the weights when they are first used.
    pub eager: bool,
    /// Copy the weights into sealed memory: whatever happens to the file afterwards cannot be seen.
    pub copy: bool,
}

/// Why there is no artifact.
#[derive(Debug, Error)]
pub enum ArtifactError {
    /// With the file it is about.
    #[error("{}: {source}", path.display())]
    At { path: PathBuf, source: Box<ArtifactError> },
    #[error("{0}")]
    Read(std::io::Error),
    #[error("cannot be written: {0}")]
    Write(std::io::Error),
    #[error("damaged at byte {offset}: {what}; tune again, it takes seconds from the database")]
    Damaged { offset: u64, what: String },
    #[error("format {found} is newer than {known}, which this build reads; update tunewright")]
    Newer { found: u16, known: u16 },
    #[error("was changed while it was open; open it again")]
    ChangedUnderneath,
    #[error("has no entry for {device} at {share} %{batch}; run tune with --device {device} --share {share}")]
    Untuned { device: String, share: Share, batch: String },
    /// What was to be written cannot be: a bug of the caller.
    #[error("cannot be written: {0}")]
    Contents(String),
}

impl ArtifactError {
    fn damaged(offset: u64, what: impl Into<String>) -> Self {
        ArtifactError::Damaged { offset, what: what.into() }
    }

    pub(crate) fn at(self, path: &std::path::Path) -> Self {
        match self {
            ArtifactError::At { .. } => self,
            source => ArtifactError::At { path: path.to_owned(), source: Box::new(source) },
        }
    }

    /// The file it is about.
    pub fn path(&self) -> Option<&std::path::Path> {
        if let ArtifactError::At { path, .. } = self { Some(path) } else { None }
    }

    /// What happened, without the file.
    pub fn cause(&self) -> &ArtifactError {
        match self {
            ArtifactError::At { source, .. } => source.cause(),
            cause => cause,
        }
    }

    /// The stable name of the error's class: `damaged`, `newer`, `untuned`, `unreadable` or `unwritable`.
    pub fn class(&self) -> &'static str {
        match self.cause() {
            ArtifactError::Damaged { .. } | ArtifactError::ChangedUnderneath => "damaged",
            ArtifactError::Newer { .. } => "newer",
            ArtifactError::Untuned { .. } => "untuned",
            ArtifactError::Read(_) => "unreadable",
            ArtifactError::Write(_) | ArtifactError::Contents(_) | ArtifactError::At { .. } => "unwritable",
        }
    }
}
