//! The weights of an artifact as shared bytes: mapped from its file, or from a sealed copy of it in memory.
//!
//! A file that is cut while it is mapped raises SIGBUS when a page past its new end is touched, and one that is overwritten in place
//! shows its new bytes. We only ever replace artifacts by renaming; before weights are first used, the reader looks whether the file
//! is still what it was. The time between that look and the touch remains: a cut is told by `fault`, and [`copy`] rules out both.

use super::fault::{self, Registered};
use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Keeps the map alive, and its name for the case that it faults.
struct Mapped {
    // Dropped first: an address must not be named after it is unmapped.
    _named: Registered,
    map: Mmap,
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

/// Maps a part of a file, read only. `path` is the file's name, for the case that it is cut.
///
/// # Errors
/// When the system refuses it.
pub(super) fn map(file: &File, offset: u64, len: u64, path: &Path) -> io::Result<Bytes> {
    let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    if len == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the map is read only, and the bytes of an artifact are never changed in place by us; another process that does so breaks
    // the contract of the format (see the module). Nothing structural is read from the map: metadata is copied before it is checked.
    let map = unsafe { MmapOptions::new().offset(offset).len(len).map(file)? };
    Ok(Bytes::from_owner(Mapped { _named: fault::register(&map, offset, path), map }))
}

/// What a sealed file cannot suffer any more.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE).union(SealFlags::SEAL);

/// Reads a part of a file into memory that nobody can change or cut, and gives it as a file of its own.
///
/// # Errors
/// When the system refuses it, has no memory left, or the part ends early.
pub(super) fn copy(file: &File, offset: u64, len: u64) -> io::Result<File> {
    let copy = File::from(memfd_create("artifact", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    copy.set_len(len)?;
    let mut piece = vec![0; 1 << 20];
    let mut at = 0;
    while at < len {
        let now = piece.len().min(usize::try_from(len - at).unwrap_or(piece.len()));
        file.read_exact_at(&mut piece[..now], offset + at)?;
        copy.write_all_at(&piece[..now], at)?;
        at += now as u64;
    }
    fcntl_add_seals(&copy, SEALS)?;
    if fcntl_get_seals(&copy)?.contains(SEALS) { Ok(copy) } else { Err(io::Error::other("the copy in memory was not sealed")) }
}
