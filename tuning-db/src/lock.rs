//! The lock: one writer. Guards convenience, not correctness: two writers have two uuids and their union still holds.

use crate::error::{At, StoreError};
use crate::owner::refuse_foreign;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// The name of the lock's file, which is never deleted or moved.
pub const FILE: &str = "lock";

/// Left behind the time by a holder that only reads.
const READING: &str = "/reading";
/// How long a writer waits for one.
const READ_LIMIT: Duration = Duration::from_secs(2);

/// Held until dropped; the operating system releases it when the process dies.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock and leaves pid and start time in it.
    ///
    /// # Errors
    /// [`StoreError::Locked`] with what the holder left, when another process has it; [`StoreError::Foreign`].
    pub fn take(dir: &Path) -> Result<Self, StoreError> {
        let started = Instant::now();
        loop {
            match Self::try_take(dir, "") {
                // A reader lets go within a second.
                Err(StoreError::Locked { since, .. }) if since.ends_with(READING) && started.elapsed() < READ_LIMIT => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                other => return other,
            }
        }
    }

    /// Takes the lock to read the index, which takes a second at most: a writer that comes waits for it.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn take_to_read(dir: &Path) -> Result<Self, StoreError> {
        Self::try_take(dir, READING)
    }

    fn try_take(dir: &Path, purpose: &str) -> Result<Self, StoreError> {
        refuse_foreign(dir)?;
        let path = dir.join(FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags((rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC).bits() as i32)
            .open(&path)
            .at(&path, "open the lock")?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(error) if error == rustix::io::Errno::WOULDBLOCK => {
                let (pid, since) = holder(&mut file);
                return Err(StoreError::Locked { path: dir.to_owned(), pid, since });
            }
            Err(error) => return Err(StoreError::io(&path, "take the lock", error.into())),
        }
        let text = format!("{} {}{purpose}\n", std::process::id(), now_rfc3339());
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(text.as_bytes()))
            .at(&path, "write the lock")?;
        Ok(Lock { _file: file })
    }

    /// Whether somebody holds it, and who; asks without keeping it.
    pub fn is_held(dir: &Path) -> Option<(u32, String)> {
        let mut file = File::open(dir.join(FILE)).ok()?;
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => None,
            Err(_) => Some(holder(&mut file)),
        }
    }
}

fn holder(file: &mut File) -> (u32, String) {
    let mut text = String::new();
    if file.seek(SeekFrom::Start(0)).is_err() || file.take(256).read_to_string(&mut text).is_err() {
        return (0, String::new());
    }
    let (pid, since) = text.trim().split_once(' ').unwrap_or_default();
    let since = since.chars().filter(|c| c.is_ascii_graphic()).collect();
    (pid.parse().unwrap_or(0), since)
}

/// Now, for people: RFC 3339, UTC.
pub fn now_rfc3339() -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    rfc3339(seconds)
}

/// Seconds since 1970 as RFC 3339, UTC.
pub fn rfc3339(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, in eras of 400 years (Howard Hinnant, "chrono-compatible low-level date algorithms").
    let z = days.saturating_add(719_468).min(u64::MAX / 2);
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_767_225_599), "2025-12-31T23:59:59Z");
    }

    #[test]
    fn a_second_taker_is_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let held = Lock::take(dir.path()).unwrap();
        // flock belongs to the open file: a second opening in this process is refused like another process.
        match Lock::take(dir.path()) {
            Err(StoreError::Locked { pid, since, .. }) => {
                assert_eq!(pid, std::process::id());
                assert!(since.ends_with('Z'));
            }
            other => panic!("{other:?}"),
        }
        assert!(Lock::is_held(dir.path()).is_some());
        drop(held);
        assert!(Lock::is_held(dir.path()).is_none());
        Lock::take(dir.path()).unwrap();
    }
}
