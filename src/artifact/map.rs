//! The weights of an artifact as shared bytes, mapped from its file.
//!
//! A file that is cut while it is mapped raises SIGBUS when a page past its new end is touched, and one that is overwritten in place
//! shows its new bytes. We only ever replace artifacts by renaming; before weights are first used, the reader looks whether the file
//! is still what it was. The time between that look and the touch remains, and is documented.

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};
use std::fs::File;
use std::io;

/// Keeps the map alive.
struct Mapped(Mmap);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Maps a part of a file, read only.
///
/// # Errors
/// When the system refuses it.
pub(super) fn map(file: &File, offset: u64, len: u64) -> io::Result<Bytes> {
    let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    if len == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the map is read only, and the bytes of an artifact are never changed in place by us; another process that does so breaks
    // the contract of the format (see the module). Nothing structural is read from the map: metadata is copied before it is checked.
    let map = unsafe { MmapOptions::new().offset(offset).len(len).map(file)? };
    Ok(Bytes::from_owner(Mapped(map)))
}
