//! The index on disk: sled, and the only file that names it.
//!
//! Rules that experience with 0.34.7 gave: one tree, one writer, values below 64 KiB, no `flush_async`, no transactions, no periodic
//! flush; `flush` is no acknowledgement (it calls no fsync); opening a damaged folder may panic, hence [`open_within`].

use crate::index::{Changes, Flow, Index, IndexError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// Memory for sled's page cache, in bytes. 64 MiB holds a full scan of 10⁶ records to 145 MB resident.
const CACHE_BYTES: u64 = 64 << 20;
/// Fixed, so that it never differs between two openings.
const SEGMENT_BYTES: usize = 512 << 10;

/// A sled database with one tree.
pub struct SledIndex {
    db: sled::Db,
}

impl SledIndex {
    /// Opens or makes one. May panic when the folder is damaged: see [`open_within`].
    ///
    /// # Errors
    /// [`IndexError`] as sled reports it.
    pub fn open(dir: &Path) -> Result<Self, IndexError> {
        let db = sled::Config::new()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            .segment_size(SEGMENT_BYTES)
            .flush_every_ms(None)
            .mode(sled::Mode::LowSpace)
            .open()
            .map_err(translate)?;
        Ok(SledIndex { db })
    }
}

/// Opens one on a thread of its own; a panic or a passed limit is an error. A thread that is late is left behind.
///
/// # Errors
/// [`IndexError::Corrupt`] after a panic or when the limit has passed, else as sled reports it.
pub fn open_within(dir: &Path, limit: Duration) -> Result<SledIndex, IndexError> {
    guarded(limit, {
        let dir: PathBuf = dir.to_owned();
        move || SledIndex::open(&dir)
    })
}

/// Runs `work` on a thread of its own; a panic or a passed limit is an error.
///
/// # Errors
/// [`IndexError::Corrupt`] after a panic or when the limit has passed, else what `work` returned.
pub fn guarded<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> Result<T, IndexError> + Send + 'static,
) -> Result<T, IndexError> {
    let (send, receive) = mpsc::channel();
    std::thread::Builder::new()
        .name(GUARDED_THREAD.to_owned())
        .spawn(move || {
            let done = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(IndexError::Corrupt(panic_text(&*panic))));
            // The receiver is gone when the limit has passed; then nobody wants the answer.
            let _ = send.send(done);
        })
        .map_err(|error| IndexError::Io(error.to_string()))?;
    match receive.recv_timeout(limit) {
        Ok(done) => done,
        Err(_) => Err(IndexError::Corrupt(format!("no answer within {limit:?}"))),
    }
}

/// The name of threads whose panics are caught and reported as errors: a panic hook may keep silent about them.
pub const GUARDED_THREAD: &str = "tuning-db guarded";

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("without a message").chars().take(120).collect::<String>())
}

fn translate(error: sled::Error) -> IndexError {
    match error {
        sled::Error::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => IndexError::Full,
        sled::Error::Io(error) => match error.kind() {
            // What a damaged folder looks like from here; the lock has a message and no kind of its own.
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => IndexError::Corrupt(error.to_string()),
            _ => IndexError::Io(error.to_string()),
        },
        sled::Error::Corruption { at, .. } => IndexError::Corrupt(format!("corruption at {at:?}")),
        other => IndexError::Corrupt(other.to_string()),
    }
}

/// sled panics on some damage even in reads; that is an answer like another.
fn caught<T>(work: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(IndexError::Corrupt(panic_text(&*panic))))
}

impl Index for SledIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        caught(|| Ok(self.db.get(key).map_err(translate)?.map(|value| value.to_vec())))
    }

    fn scan(&self, from: &[u8], to: &[u8], f: &mut dyn FnMut(&[u8], &[u8]) -> Flow) -> Result<(), IndexError> {
        if !to.is_empty() && from >= to {
            return Ok(());
        }
        caught(|| {
            let range = if to.is_empty() { self.db.range(from..) } else { self.db.range(from..to) };
            for entry in range {
                let (key, value) = entry.map_err(translate)?;
                if f(&key, &value).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    fn apply(&mut self, changes: &Changes) -> Result<(), IndexError> {
        let mut batch = sled::Batch::default();
        for (key, value) in &changes.0 {
            match value {
                Some(value) => batch.insert(key.as_slice(), value.as_slice()),
                None => batch.remove(key.as_slice()),
            }
        }
        caught(|| self.db.apply_batch(batch).map_err(translate))
    }

    fn hint_flush(&mut self) -> Result<(), IndexError> {
        caught(|| self.db.flush().map(drop).map_err(translate))
    }
}

impl Drop for SledIndex {
    fn drop(&mut self) {
        // A damaged database may panic while it flushes; what it held is in the journal.
        let _ = catch_unwind(AssertUnwindSafe(|| self.db.flush()));
    }
}
