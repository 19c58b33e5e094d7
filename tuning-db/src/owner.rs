//! Whose folder a database is. Only its owner writes it: files that another user leaves in it lock the owner out.

use crate::error::{At, StoreError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Write permission for the group and for all others.
const OTHERS_WRITE: u32 = 0o022;

/// Refuses the folder of another user, root included.
///
/// # Errors
/// [`StoreError::Foreign`], and what the disk says.
pub(crate) fn refuse_foreign(dir: &Path) -> Result<(), StoreError> {
    let owner = std::fs::metadata(dir).at(dir, "ask for the owner")?.uid();
    if owner == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    Err(StoreError::Foreign { path: dir.to_owned(), owner })
}

/// The permissions of a folder into which others than its owner may write.
pub(crate) fn exposed(dir: &Path) -> Option<u32> {
    let mode = std::fs::metadata(dir).ok()?.mode() & 0o777;
    (mode & OTHERS_WRITE != 0).then_some(mode)
}
