//! `.npz` files: what `run --input` reads and `run --output` writes.
//!
//! An npz is a zip of `.npy` arrays. It is untrusted: nothing is allocated by a declared size beyond the limits, sizes are those of
//! the local header and of the central directory both, inflating stops at a ratio, and pickled objects are refused.

mod npy;

use kernels::Tensor;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::path::Path;
use thiserror::Error;
use zip::read::ZipFile;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// What an archive may take.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Unpacked, all members together.
    pub bytes: u64,
    /// Unpacked over packed bytes of one member.
    pub ratio: u64,
    pub members: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { bytes: 4 << 30, ratio: 200, members: 1024 }
    }
}

/// Why an archive cannot be read or written.
#[derive(Debug, Error)]
pub enum NpzError {
    #[error("cannot be read: {0}")]
    Read(io::Error),
    #[error("cannot be written: {0}")]
    Write(io::Error),
    #[error("is no npz archive: {0}")]
    NotNpz(String),
    #[error("array \"{name}\": {reason}")]
    Array { name: String, reason: String },
    #[error("{what}: {found}, the limit is {limit}; allow more with --limit {flag}={found}")]
    LimitExceeded { what: String, found: u64, limit: u64, flag: &'static str },
}

/// Reads all arrays of an archive, in the order of the archive.
///
/// # Errors
/// [`NpzError`].
pub fn read(path: &Path, limits: &Limits) -> Result<Vec<(String, Tensor)>, NpzError> {
    read_from(File::open(path).map_err(NpzError::Read)?, limits)
}

/// Reads all arrays of an archive from its bytes.
///
/// # Errors
/// [`NpzError`].
pub fn read_bytes(bytes: &[u8], limits: &Limits) -> Result<Vec<(String, Tensor)>, NpzError> {
    read_from(Cursor::new(bytes), limits)
}

fn read_from<R: Read + Seek>(reader: R, limits: &Limits) -> Result<Vec<(String, Tensor)>, NpzError> {
    let broken = |error: zip::result::ZipError| NpzError::NotNpz(error.to_string());
    let mut archive = ZipArchive::new(reader).map_err(broken)?;
    if archive.len() > limits.members {
        let (found, limit) = (archive.len() as u64, limits.members as u64);
        return Err(NpzError::LimitExceeded { what: "arrays".to_owned(), found, limit, flag: "npz-members" });
    }
    let mut claims = Vec::with_capacity(archive.len());
    for i in 0..archive.len() {
        let member = archive.by_index_raw(i).map_err(broken)?;
        claims.push((array_name(member.name()), member.header_start(), (member.compressed_size(), member.size())));
    }
    let mut reader = archive.into_inner();
    for (name, at, claimed) in claims {
        check_local(&mut reader, at, claimed).map_err(|reason| NpzError::Array { name, reason })?;
    }
    let mut archive = ZipArchive::new(reader).map_err(broken)?;
    let mut left = limits.bytes;
    let mut arrays: Vec<(String, Tensor)> = Vec::new();
    for i in 0..archive.len() {
        let mut member = archive.by_index(i).map_err(broken)?;
        let name = array_name(member.name());
        let bytes = unpack(&mut member, &name, limits, &mut left)?;
        if arrays.iter().any(|(other, _)| *other == name) {
            return Err(NpzError::Array { name, reason: "is there twice".to_owned() });
        }
        let tensor = npy::decode(bytes).map_err(|reason| NpzError::Array { name: name.clone(), reason })?;
        arrays.push((name, tensor));
    }
    Ok(arrays)
}

fn array_name(member: &str) -> String {
    member.strip_suffix(".npy").unwrap_or(member).to_owned()
}

/// The unpacked bytes of a member, within the limits.
fn unpack<R: Read>(member: &mut ZipFile<'_, R>, name: &str, limits: &Limits, left: &mut u64) -> Result<Vec<u8>, NpzError> {
    let (packed, unpacked) = (member.compressed_size(), member.size());
    if unpacked > *left {
        let what = format!("array \"{name}\", bytes unpacked so far");
        let found = (limits.bytes - *left).saturating_add(unpacked);
        return Err(NpzError::LimitExceeded { what, found, limit: limits.bytes, flag: "npz-bytes" });
    }
    // A member of a few bytes may well unpack to a kilobyte of header.
    if unpacked > packed.saturating_mul(limits.ratio).saturating_add(4096) {
        let what = format!("array \"{name}\", unpacked over packed bytes");
        let found = unpacked / packed.max(1);
        return Err(NpzError::LimitExceeded { what, found, limit: limits.ratio, flag: "npz-ratio" });
    }
    let failed = |reason: String| NpzError::Array { name: name.to_owned(), reason };
    let mut bytes = Vec::new();
    let size = usize::try_from(unpacked).map_err(|_| failed("is too large for this machine".to_owned()))?;
    // Stored members have their bytes in the file: what is not there is not allocated.
    bytes.try_reserve_exact(size.min(64 << 20)).map_err(|error| failed(error.to_string()))?;
    member.take(unpacked.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 != unpacked {
        return Err(failed(format!("has {} bytes, its directory says {unpacked}", bytes.len())));
    }
    *left -= unpacked;
    Ok(bytes)
}

/// Compares the sizes of a member's local header with those of the central directory.
fn check_local(reader: &mut (impl Read + Seek), at: u64, claimed: (u64, u64)) -> Result<(), String> {
    /// The sizes follow the data and are 0 here.
    const SIZES_FOLLOW: u16 = 1 << 3;
    reader.seek(SeekFrom::Start(at)).map_err(|error| error.to_string())?;
    let mut head = [0; 30];
    reader.read_exact(&mut head).map_err(|error| error.to_string())?;
    let u16_at = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if u16_at(6) & SIZES_FOLLOW != 0 {
        return Ok(());
    }
    let (packed, unpacked, name_len, extra_len) = (u32_at(18), u32_at(22), u16_at(26), u16_at(28));
    let mut rest = vec![0; usize::from(name_len) + usize::from(extra_len)];
    reader.read_exact(&mut rest).map_err(|error| error.to_string())?;
    let wide = zip64_sizes(&rest[usize::from(name_len)..], packed == u32::MAX, unpacked == u32::MAX);
    let found = wide.unwrap_or((u64::from(packed), u64::from(unpacked)));
    if found == claimed {
        return Ok(());
    }
    Err(format!("its own header says {found:?} bytes packed and unpacked, the directory {claimed:?}"))
}

/// Packed and unpacked size of a Zip64 extra field, where the plain fields say that they are there.
fn zip64_sizes(mut extra: &[u8], packed: bool, unpacked: bool) -> Option<(u64, u64)> {
    if !(packed && unpacked) {
        return None;
    }
    while let Some((head, rest)) = extra.split_first_chunk::<4>() {
        let (id, len) = (u16::from_le_bytes([head[0], head[1]]), usize::from(u16::from_le_bytes([head[2], head[3]])));
        let (field, later) = rest.split_at_checked(len)?;
        if id == 1 {
            let (unpacked, field) = field.split_first_chunk::<8>()?;
            return Some((u64::from_le_bytes(*field.first_chunk::<8>()?), u64::from_le_bytes(*unpacked)));
        }
        extra = later;
    }
    None
}

/// Writes arrays as an archive, uncompressed. The same arrays make the same bytes.
///
/// # Errors
/// [`NpzError::Write`], and [`NpzError::Array`] for an element type that numpy does not know.
pub fn write<W: Write + Seek>(out: W, arrays: &[(&str, &Tensor)]) -> Result<(), NpzError> {
    let broken = |error: zip::result::ZipError| NpzError::Write(io::Error::other(error));
    let mut archive = ZipWriter::new(out);
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
    for (name, tensor) in arrays {
        archive.start_file(format!("{name}.npy"), options.last_modified_time(zip::DateTime::default())).map_err(broken)?;
        let encoded = npy::encode(tensor).map_err(|reason| NpzError::Array { name: (*name).to_owned(), reason })?;
        encoded.iter().try_for_each(|part| archive.write_all(part)).map_err(NpzError::Write)?;
    }
    archive.finish().map_err(broken)?.flush().map_err(NpzError::Write)
}
