//! Where damaged files go: out of the way, never away.

use crate::disk::{Disk, read_file};
use crate::error::{At, StoreError};
use crate::journal::segment::SEGMENT_BYTES_MAX;
use crate::lock::now_rfc3339;
use std::fs;
use std::path::{Path, PathBuf};

/// The folder's name.
pub const DIR: &str = "quarantine";
/// Kept, the newest first.
const KEPT: usize = 3;
/// Kept at most, in bytes, beyond the newest.
const BYTES_MAX: u64 = 1 << 30;

/// A new folder in the quarantine: `<UTC>-<reason>`.
///
/// # Errors
/// What the disk says.
pub fn make(disk: &dyn Disk, db: &Path, reason: &str) -> Result<PathBuf, StoreError> {
    let quarantine = db.join(DIR);
    let stamp: String = now_rfc3339().chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    let taken = disk.list(&quarantine).at(&quarantine, "list the quarantine")?;
    let mut name = format!("{stamp}-{reason}");
    for n in 2.. {
        if !taken.contains(&name) {
            break;
        }
        name = format!("{stamp}-{reason}-{n}");
    }
    let dir = quarantine.join(name);
    disk.create_dir(&dir).at(&dir, "make the quarantine")?;
    Ok(dir)
}

/// Moves a file or folder of the database there.
///
/// # Errors
/// What the disk says; then nothing has moved.
pub fn move_into(disk: &dyn Disk, quarantine: &Path, file: &Path) -> Result<PathBuf, StoreError> {
    let name = file.file_name().unwrap_or_default();
    let to = quarantine.join(name);
    disk.rename(file, &to).at(file, "move into quarantine")?;
    Ok(to)
}

/// Copies a file there that stays in use.
///
/// # Errors
/// What the disk says.
pub fn copy_into(disk: &dyn Disk, quarantine: &Path, file: &Path) -> Result<(), StoreError> {
    let Some(bytes) = read_file(disk, file, SEGMENT_BYTES_MAX).at(file, "read for quarantine")? else { return Ok(()) };
    let to = quarantine.join(file.file_name().unwrap_or_default());
    let copy = disk.create(&to).at(&to, "copy into quarantine")?;
    copy.write_at(0, &bytes).and_then(|()| copy.sync()).at(&to, "copy into quarantine")
}

/// Takes away what is beyond the newest three or beyond 1 GB; `all` takes everything. Returns how many bytes went.
pub fn trim(db: &Path, all: bool) -> u64 {
    let dir = db.join(DIR);
    let mut names: Vec<PathBuf> = fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    names.sort();
    names.reverse();
    let (mut kept_bytes, mut gone) = (0u64, 0u64);
    for (i, path) in names.iter().enumerate() {
        let bytes = size_of(path);
        kept_bytes = kept_bytes.saturating_add(bytes);
        if (all || i >= KEPT || (i > 0 && kept_bytes > BYTES_MAX)) && fs::remove_dir_all(path).is_ok() {
            gone = gone.saturating_add(bytes);
        }
    }
    gone
}

/// Bytes of a file, or of everything in a folder; links are not followed.
pub fn size_of(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    if !meta.is_dir() {
        return meta.len();
    }
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| size_of(&entry.path())).sum()
}
