//! The container: header, table, sections. All integers little-endian, all offsets from the beginning of the file.
//!
//! Source: `docs/formats/artifact.md`, which this file is the code of.

use super::ArtifactError;
use std::fmt;
use xxhash_rust::xxh3::Xxh3;

/// Finds what a text-mode copy damages.
pub(super) const MAGIC: [u8; 8] = [0x89, b'T', b'W', b'A', 0x0D, 0x0A, 0x1A, 0x0A];
/// The format this build writes.
pub(super) const FORMAT: u16 = 1;
/// The oldest reader that can read what this build writes.
const MIN_READER: u16 = 1;
pub(super) const HEADER_BYTES: usize = 64;
pub(super) const ENTRY_BYTES: usize = 64;
/// Sections at most.
const COUNT_MAX: u32 = 4096;
/// Bytes of all sections but the weights.
pub(super) const METADATA_MAX: u64 = 64 << 20;
/// Weights are summed in pieces of so many bytes.
pub(super) const CHUNK_BYTES: u64 = 4 << 20;
/// Alignment of the weights section: a page, so that it can be mapped.
pub(super) const WEIGHTS_ALIGN: u32 = 4096;
/// Alignment of one tensor in it.
pub(super) const TENSOR_ALIGN: u64 = 64;
/// Alignment of all other sections.
pub(super) const METADATA_ALIGN: u32 = 8;
/// A section of unknown kind with this flag makes the file unreadable for us.
const REQUIRED: u32 = 1;

/// What a section holds.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Provenance = 1,
    Graph = 2,
    Entry = 3,
    Configs = 4,
    Records = 5,
    Strings = 6,
    Weights = 8,
    ChunkSums = 9,
    Notes = 10,
}

impl Kind {
    pub const ALL: [Kind; 9] = [
        Kind::Provenance,
        Kind::Graph,
        Kind::Entry,
        Kind::Configs,
        Kind::Records,
        Kind::Strings,
        Kind::Weights,
        Kind::ChunkSums,
        Kind::Notes,
    ];

    fn of(number: u32) -> Option<Self> {
        Kind::ALL.into_iter().find(|kind| *kind as u32 == number)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Provenance => "provenance",
            Kind::Graph => "graph",
            Kind::Entry => "entry",
            Kind::Configs => "configs",
            Kind::Records => "records",
            Kind::Strings => "strings",
            Kind::Weights => "weights",
            Kind::ChunkSums => "weights' sums",
            Kind::Notes => "notes",
        })
    }
}

/// One section, as the table has it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    /// `None` for a kind of a newer format that may be skipped.
    pub kind: Option<Kind>,
    pub offset: u64,
    pub len: u64,
    pub align: u32,
    pub xxh3: u64,
}

/// What the header and the table say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub content_id: [u8; 16],
    /// In the order of their offsets.
    pub sections: Vec<Section>,
    pub file_len: u64,
}

impl Table {
    /// The bytes header and table take.
    pub fn bytes_of(count: usize) -> u64 {
        (HEADER_BYTES + count * ENTRY_BYTES) as u64
    }

    /// Header and table as they stand in the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&FORMAT.to_le_bytes());
        header.extend_from_slice(&MIN_READER.to_le_bytes());
        header.extend_from_slice(&0u32.to_le_bytes());
        header.extend_from_slice(&self.file_len.to_le_bytes());
        header.extend_from_slice(&(HEADER_BYTES as u64).to_le_bytes());
        header.extend_from_slice(&(self.sections.len() as u32).to_le_bytes());
        header.extend_from_slice(&(ENTRY_BYTES as u32).to_le_bytes());
        header.extend_from_slice(&self.content_id);
        let mut table = Vec::with_capacity(self.sections.len() * ENTRY_BYTES);
        for section in &self.sections {
            table.extend_from_slice(&section.kind.map_or(0, |kind| kind as u32).to_le_bytes());
            table.extend_from_slice(&REQUIRED.to_le_bytes());
            table.extend_from_slice(&section.offset.to_le_bytes());
            table.extend_from_slice(&section.len.to_le_bytes());
            table.extend_from_slice(&section.align.to_le_bytes());
            table.extend_from_slice(&0u32.to_le_bytes());
            table.extend_from_slice(&section.xxh3.to_le_bytes());
            table.extend_from_slice(&section.len.to_le_bytes());
            table.extend_from_slice(&[0; 16]);
        }
        header.extend_from_slice(&sum(&header, &table).to_le_bytes());
        header.extend_from_slice(&table);
        header
    }
}

/// The sum of header (without the sum itself) and table.
fn sum(header: &[u8], table: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(header);
    hash.update(table);
    hash.digest()
}

/// Reads little-endian numbers one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.0.split_first_chunk().expect("a header or entry has its fixed length");
        self.0 = rest;
        *head
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

/// The header's promise about the table, before the table is read.
pub(super) struct Header {
    pub table_bytes: usize,
    file_len: u64,
    content_id: [u8; 16],
    sum: u64,
}

/// Checks a header: length, magic, versions, `file_len` against the length the system tells, the table's bounds. In this order.
///
/// # Errors
/// [`ArtifactError::Damaged`] with the offset of what is wrong, [`ArtifactError::Newer`] for a newer format.
pub(super) fn header(bytes: &[u8], file_len: u64) -> Result<Header, ArtifactError> {
    if bytes.len() < HEADER_BYTES {
        let what = format!("the file ends after {file_len} bytes, inside the header");
        return Err(ArtifactError::damaged(bytes.len() as u64, what));
    }
    let mut fields = Fields(&bytes[..HEADER_BYTES]);
    if fields.take::<8>() != MAGIC {
        return Err(ArtifactError::damaged(0, "it does not begin as an artifact does"));
    }
    let (format, min_reader) = (fields.u16(), fields.u16());
    if min_reader > FORMAT {
        return Err(ArtifactError::Newer { found: format, known: FORMAT });
    }
    if format == 0 || min_reader == 0 || min_reader > format {
        return Err(ArtifactError::damaged(8, "its version makes no sense"));
    }
    if fields.u32() != 0 {
        return Err(ArtifactError::damaged(12, "its flags are unknown"));
    }
    let promised = fields.u64();
    if promised != file_len {
        return Err(ArtifactError::damaged(16, format!("it has {file_len} bytes and should have {promised}")));
    }
    let (table_offset, count, entry_bytes) = (fields.u64(), fields.u32(), fields.u32());
    if count > COUNT_MAX {
        return Err(ArtifactError::damaged(32, format!("it lists {count} sections, at most {COUNT_MAX} are allowed")));
    }
    if table_offset != HEADER_BYTES as u64 || entry_bytes as usize != ENTRY_BYTES {
        return Err(ArtifactError::damaged(24, "its table is not where it should be"));
    }
    if Table::bytes_of(count as usize) > file_len {
        return Err(ArtifactError::damaged(32, "its table goes past the end"));
    }
    let content_id = fields.take();
    Ok(Header { table_bytes: count as usize * ENTRY_BYTES, file_len, content_id, sum: fields.u64() })
}

/// Checks a table: its sum, then that the sections are sorted, aligned, disjoint, without holes and inside the file.
///
/// # Errors
/// [`ArtifactError::Damaged`], and [`ArtifactError::Newer`] for a section we do not know and must.
pub(super) fn table(header: &Header, header_bytes: &[u8], bytes: &[u8]) -> Result<Table, ArtifactError> {
    if sum(&header_bytes[..HEADER_BYTES - 8], bytes) != header.sum {
        return Err(ArtifactError::damaged(56, "the checksum of its header is wrong"));
    }
    let mut sections = Vec::with_capacity(bytes.len() / ENTRY_BYTES);
    let mut end = Table::bytes_of(bytes.len() / ENTRY_BYTES);
    let mut metadata = 0u64;
    for (i, entry) in bytes.chunks_exact(ENTRY_BYTES).enumerate() {
        let at = Table::bytes_of(i);
        let wrong = |what: &str| ArtifactError::damaged(at, what.to_owned());
        let mut fields = Fields(entry);
        let (number, flags, offset, len) = (fields.u32(), fields.u32(), fields.u64(), fields.u64());
        let (align, codec, xxh3, raw_len) = (fields.u32(), fields.u32(), fields.u64(), fields.u64());
        let kind = Kind::of(number);
        if kind.is_none() && flags & REQUIRED != 0 || kind.is_some() && codec != 0 {
            return Err(ArtifactError::Newer { found: FORMAT + 1, known: FORMAT });
        }
        if !(align.is_power_of_two() && align <= WEIGHTS_ALIGN) || raw_len != len {
            return Err(wrong("a section's entry makes no sense"));
        }
        if Some(offset) != end.checked_next_multiple_of(u64::from(align)) {
            return Err(wrong("a section is not where the one before it ends"));
        }
        end =
            offset.checked_add(len).filter(|&end| end <= header.file_len).ok_or_else(|| wrong("a section goes past the end"))?;
        if kind != Some(Kind::Weights) {
            metadata += len;
        }
        if metadata > METADATA_MAX {
            return Err(wrong("its metadata is over 64 MiB"));
        }
        sections.push(Section { kind, offset, len, align, xxh3 });
    }
    if end != header.file_len {
        return Err(ArtifactError::damaged(end, "something stands behind its last section"));
    }
    Ok(Table { content_id: header.content_id, sections, file_len: header.file_len })
}
