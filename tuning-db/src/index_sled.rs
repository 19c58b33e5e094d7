//! The index on disk: sled, and the only file that names it.
//!
//! Rules that experience with 0.34.7 gave: one tree, one writer, values below 64 KiB, no `flush_async`, no transactions, no periodic
//! flush; `flush` is no acknowledgement (it calls no fsync); opening a damaged folder may panic, hence [`open_within`].

use crate::caught::{caught, guarded};
use crate::index::{Changes, Flow, Index, IndexError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Memory for sled's page cache, in bytes. 64 MiB holds a full scan of 10⁶ records to 145 MB resident.
const CACHE_BYTES: u64 = 64 << 20;
/// What sled says of its own lock: the error has no kind that would tell.
const LOCKED: &str = "could not acquire lock";
/// How long that is waited for. Jobs on sled's threads keep the file, and with it the lock, for a moment after a database was dropped.
const LOCK_LIMIT: Duration = Duration::from_secs(5);
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
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            .segment_size(SEGMENT_BYTES)
            .flush_every_ms(None)
            .mode(sled::Mode::LowSpace);
        remove_half_written(dir);
        let started = Instant::now();
        loop {
            match config.open() {
                Ok(db) => return Ok(SledIndex { db }),
                Err(sled::Error::Io(error)) if error.to_string().contains(LOCKED) && started.elapsed() < LOCK_LIMIT => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(translate(error)),
            }
        }
    }
}

/// Removes what a process that was killed while it opened left half written: sled would take it for its newest snapshot and call
/// the whole database corrupt, although the older snapshot and the log are there.
fn remove_half_written(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("snap.") && name.ends_with(".generating")) {
            // A failure shows when sled opens.
            let _ = std::fs::remove_file(entry.path());
        }
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
        let _ = caught(|| self.db.flush().map_err(translate));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FlockOperation, flock};

    #[test]
    fn a_snapshot_of_sleds_own_that_was_not_finished_is_no_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let mut index = SledIndex::open(&path).unwrap();
        index.apply(&Changes([(b"key".to_vec(), Some(b"value".to_vec()))].into())).unwrap();
        drop(index);
        for half in [&b""[..], b"half of it, and no sum"] {
            std::fs::write(path.join("snap.00000000FFFFFFFF.generating"), half).unwrap();
            let index = SledIndex::open(&path).unwrap();
            assert_eq!(index.get(b"key").unwrap(), Some(b"value".to_vec()));
        }
    }

    /// A job of a database just dropped has the file still: no reason to make the index again.
    #[test]
    fn a_lock_that_is_let_go_of_soon_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let mut index = SledIndex::open(&path).unwrap();
        index.apply(&Changes([(b"key".to_vec(), Some(b"value".to_vec()))].into())).unwrap();
        drop(index);
        let held = std::fs::File::open(path.join("db")).unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        let holder = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(held);
        });
        let index = open_within(&path, Duration::from_secs(60)).unwrap();
        assert_eq!(index.get(b"key").unwrap(), Some(b"value".to_vec()));
        holder.join().unwrap();
    }
}
