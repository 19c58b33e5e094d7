//! What can go wrong with a database, each with whose fault it is and its class for the user.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// Why the store or a reader could not do what was asked.
#[derive(Clone, Debug, Error)]
pub enum StoreError {
    /// Another process writes it.
    #[error("database is held by process {pid} (since {since}); wait, or name another with --db")]
    Locked {
        path: PathBuf,
        /// 0 when the holder left no name.
        pid: u32,
        /// When the holder took the lock: RFC 3339, UTC; empty when the holder left none.
        since: String,
    },
    /// There is no database there, and reading makes none.
    #[error("no database at {}: it is made by the first tune", path.display())]
    Missing { path: PathBuf },
    /// Something in it is not what was written.
    #[error("{}: {what}; run tunewright db repair", path.display())]
    Damaged { path: PathBuf, what: String },
    /// A newer version wrote it.
    #[error("{}: format {found}, written by {made_by}; this version reads up to {known}: update tunewright", path.display())]
    Newer { path: PathBuf, found: u32, known: u32, made_by: String },
    /// No room. What was acknowledged is safe.
    #[error("cannot write {}: disk full; everything acknowledged is safe", path.display())]
    Full { path: PathBuf },
    /// The operating system forbids it.
    #[error("{}: no permission to {action}", path.display())]
    Permission { path: PathBuf, action: &'static str },
    /// The folder is another user's. It may be read, but only its owner writes it.
    #[error("{}: belongs to user {owner}; write it as that user, or name another with --db", path.display())]
    Foreign { path: PathBuf, owner: u32 },
    /// The file system is on a network, where locks and flushes cannot be relied on.
    #[error("{}: on a network file system ({kind}); use a local folder, or --allow-network-fs", path.display())]
    NetworkFileSystem { path: PathBuf, kind: String },
    /// Any other fault of the disk.
    #[error("{}: {action}: {source}", path.display())]
    Io {
        path: PathBuf,
        action: &'static str,
        #[source]
        source: Arc<io::Error>,
    },
    /// A record larger than the format allows.
    #[error("a record of {found} bytes is over the limit of {limit}")]
    TooLarge { found: usize, limit: usize },
    /// The store was closed, or its writer stopped after an earlier error.
    #[error("the database was closed: {why}")]
    Closed { why: String },
    /// None of the ways to read gave an answer; one line for each that was tried.
    #[error("cannot read {}: {}", path.display(), reasons.join("; "))]
    Unreadable {
        path: PathBuf,
        reasons: Vec<String>,
        /// The gravest of theirs; `db.source` when the ways are just not open now.
        class: &'static str,
    },
    /// A line of an import, or a name of a generation or driver, that cannot be used.
    #[error("{what}")]
    Input { what: String },
}

impl StoreError {
    /// The class shown to users, stable for ever.
    pub fn class(&self) -> &'static str {
        match self {
            StoreError::Locked { .. } => "db.locked",
            StoreError::Missing { .. } => "db.missing",
            StoreError::Damaged { .. } | StoreError::Closed { .. } => "db.damaged",
            StoreError::Unreadable { class, .. } => class,
            StoreError::Newer { .. } => "db.newer",
            StoreError::Full { .. } | StoreError::Io { .. } => "machine.disk",
            StoreError::Permission { .. } | StoreError::Foreign { .. } | StoreError::NetworkFileSystem { .. } => {
                "machine.permission"
            }
            StoreError::TooLarge { .. } | StoreError::Input { .. } => "input.malformed",
        }
    }

    /// An error of the operating system, told apart by its kind.
    pub fn io(path: &Path, action: &'static str, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { path: path.to_owned() },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                StoreError::Permission { path: path.to_owned(), action }
            }
            _ => StoreError::Io { path: path.to_owned(), action, source: Arc::new(error) },
        }
    }

    pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        StoreError::Damaged { path: path.to_owned(), what: what.into() }
    }
}

/// Adds path and action to an error of the operating system.
pub(crate) trait At<T> {
    fn at(self, path: &Path, action: &'static str) -> Result<T, StoreError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &Path, action: &'static str) -> Result<T, StoreError> {
        self.map_err(|error| StoreError::io(path, action, error))
    }
}
