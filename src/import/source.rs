//! Bytes of files: small ones read, large ones mapped, always regular files and never followed into a device or a pipe.
//!
//! A mapped file that somebody cuts while it is in use ends the process by SIGBUS; the system offers no other answer. Writers that
//! replace files by renaming, as ours do, cannot cause it. Files up to [`READ_BYTES_MAX`] are read, which rules it out.

#![allow(unsafe_code)]

use super::error::{Class, ImportError};
use bytes::Bytes;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Files up to this size are read, not mapped. Reading 4 MiB costs under a millisecond.
const READ_BYTES_MAX: u64 = 4 << 20;

/// The bytes of the model file. The path is the user's own: links are followed.
///
/// # Errors
/// [`Class::NotFound`], [`Class::Unreadable`], or [`Class::LimitExceeded`] over `model-bytes`.
pub(super) fn read_model(path: &Path, allowed: u64) -> Result<Bytes, ImportError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| refuse(&error.into()))?;
    let file = File::from(file);
    let facts = file.metadata().map_err(|error| refuse(&error))?;
    if !facts.is_file() {
        return Err(ImportError::new(Class::Unreadable, "", "not a regular file").advise("give an ONNX file"));
    }
    if facts.len() > allowed {
        let excess = super::error::Excess { limit: "model-bytes", allowed, need: Some(facts.len()) };
        return Err(ImportError::limit("", "bytes of the model", excess));
    }
    bytes_of(&file, facts.len()).map_err(|error| refuse(&error))
}

fn refuse(error: &io::Error) -> ImportError {
    match error.kind() {
        io::ErrorKind::NotFound => ImportError::new(Class::NotFound, "", "no such file"),
        _ => ImportError::new(Class::Unreadable, "", format!("cannot be read: {error}")),
    }
}

/// The bytes of an open regular file of that length.
pub(super) fn bytes_of(file: &File, len: u64) -> io::Result<Bytes> {
    if len <= READ_BYTES_MAX {
        let mut bytes = Vec::new();
        file.take(READ_BYTES_MAX).read_to_end(&mut bytes)?;
        return Ok(bytes.into());
    }
    // SAFETY: the map is private and read only, and is unmapped when the last slice of it is dropped. What remains is that another
    // process changes the file while we hold it: data would change under us as they would under any reader of a shared file, and
    // nothing that was checked once (names, sizes, indices) is read again without being copied out first.
    let map = unsafe { memmap2::MmapOptions::new().map_copy_read_only(file)? };
    Ok(Bytes::from_owner(map))
}
