//! A segment: header, frames, zeros.
//!
//! Header, 64 bytes: magic `TWJRNL\r\n`, u16 format, u16 flags (bit 0: compacted), 16 bytes writer, u64 segment number, u64 first
//! seq, u64 last seq (compacted, else 0), u64 frames (compacted, else 0), u32 crc32c. Frame: `len u32 | kind u8 | flags u8 |
//! schema u16 | seq u64 | payload | crc32c u32`, all under the sum, which starts from writer and segment number: a stale frame of
//! another segment never verifies. All numbers are little-endian.
//!
//! The low seven bits of `flags` count the observations of the journal up to and with this frame, modulo 128: so the observations
//! among lost frames can be counted. The high bit marks the first frame of a commit: a valid one behind a hole proves that what was
//! in the hole had been synced, while a hole in the last commit may be a write that never ended.

use crate::record::frame_kind;

/// Bytes of a segment's header.
pub const HEADER_BYTES: usize = 64;
/// Bytes around a payload.
pub const FRAME_OVERHEAD: usize = 20;
/// A segment is closed when it would grow beyond.
pub const SEGMENT_BYTES: u64 = 16 << 20;
/// Largest segment that is read.
pub const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// Largest frame.
pub const FRAME_BYTES_MAX: usize = 256 << 10;
/// Format of segments.
pub const FORMAT: u16 = 1;

const MAGIC: [u8; 8] = *b"TWJRNL\r\n";
/// A frame's number is believed to be at most so far ahead of the last one.
const SEQ_AHEAD_MAX: u64 = 1 << 32;

/// What a segment says about itself.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub format: u16,
    pub writer: [u8; 16],
    pub number: u64,
    pub first_seq: u64,
    /// Of a compacted segment: its last number and how many frames it has, numbers between being left out on purpose.
    pub compacted: Option<(u64, u64)>,
}

impl SegmentHeader {
    /// The 64 bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let (last, count) = self.compacted.unwrap_or_default();
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&self.format.to_le_bytes());
        bytes[10..12].copy_from_slice(&u16::from(self.compacted.is_some()).to_le_bytes());
        bytes[12..28].copy_from_slice(&self.writer);
        bytes[28..36].copy_from_slice(&self.number.to_le_bytes());
        bytes[36..44].copy_from_slice(&self.first_seq.to_le_bytes());
        bytes[44..52].copy_from_slice(&last.to_le_bytes());
        bytes[52..60].copy_from_slice(&count.to_le_bytes());
        let sum = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The header of a segment, when its sum holds.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        if bytes[..8] != MAGIC || crc32c::crc32c(&bytes[..60]) != u32::from_le_bytes(bytes[60..].try_into().expect("4 bytes")) {
            return None;
        }
        Some(SegmentHeader {
            format: u16::from_le_bytes([bytes[8], bytes[9]]),
            writer: bytes[12..28].try_into().expect("16 bytes"),
            number: u64_at(28),
            first_seq: u64_at(36),
            compacted: (bytes[10] & 1 == 1).then(|| (u64_at(44), u64_at(52))),
        })
    }
}

/// The name of a segment's file.
pub fn file_name(number: u64) -> String {
    format!("{number:016}.twj")
}

/// The number in a segment's file name.
pub fn file_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".twj")?;
    (digits.len() == 16).then(|| digits.parse().ok())?
}

/// A frame to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub schema: u16,
    pub seq: u64,
    pub payload: Vec<u8>,
}

/// A frame as found in the bytes of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameRef {
    pub kind: u8,
    pub flags: u8,
    pub schema: u16,
    pub seq: u64,
    /// Where the frame begins and ends, and where its payload lies.
    pub from: usize,
    pub to: usize,
    pub payload: std::ops::Range<usize>,
}

/// In a frame's flags: it is the first of a commit.
pub const STARTS_COMMIT: u8 = 0x80;
/// In a frame's flags: the counter of observations.
pub const COUNTER: u8 = 0x7f;

fn seed(writer: &[u8; 16], number: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(writer), &number.to_le_bytes())
}

/// Appends the bytes of a frame.
pub fn encode_frame(header: &SegmentHeader, frame: &Frame, flags: u8, into: &mut Vec<u8>) {
    let from = into.len();
    into.extend((frame.payload.len() as u32).to_le_bytes());
    into.extend([frame.kind, flags]);
    into.extend(frame.schema.to_le_bytes());
    into.extend(frame.seq.to_le_bytes());
    into.extend(&frame.payload);
    let sum = crc32c::crc32c_append(seed(&header.writer, header.number), &into[from..]);
    into.extend(sum.to_le_bytes());
}

/// What was found in a segment behind its header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    pub frames: Vec<FrameRef>,
    /// Bytes that belong to no frame but have a valid one behind them.
    pub holes: Vec<std::ops::Range<usize>>,
    /// Where the last valid frame ends.
    pub end: usize,
    /// Bytes behind the last valid frame up to the last one that is not zero.
    pub torn: usize,
}

/// The frame that begins at `at`, if a whole valid one does. `above` is the number it must exceed.
fn frame_at(bytes: &[u8], at: usize, seed: u32, above: Option<u64>) -> Option<FrameRef> {
    let head = bytes.get(at..at.checked_add(16)?)?;
    let len = u32::from_le_bytes(head[..4].try_into().expect("4 bytes")) as usize;
    let (kind, flags) = (head[4], head[5]);
    let seq = u64::from_le_bytes(head[8..16].try_into().expect("8 bytes"));
    let near = above.is_none_or(|above| seq > above && seq - above < SEQ_AHEAD_MAX);
    if kind == 0 || len > FRAME_BYTES_MAX || !near {
        return None;
    }
    let sum_at = at + 16 + len;
    let stored = bytes.get(sum_at..sum_at.checked_add(4)?)?;
    if crc32c::crc32c_append(seed, &bytes[at..sum_at]) != u32::from_le_bytes(stored.try_into().expect("4 bytes")) {
        return None;
    }
    let schema = u16::from_le_bytes([head[6], head[7]]);
    Some(FrameRef { kind, flags, schema, seq, from: at, to: sum_at + 4, payload: at + 16..sum_at })
}

/// All valid frames of a segment's bytes from `start` on. A frame that does not verify is searched past, byte by byte.
pub fn scan(bytes: &[u8], writer: &[u8; 16], number: u64, start: usize) -> Scan {
    let seed = seed(writer, number);
    let mut found = Scan { end: start, ..Scan::default() };
    let mut at = start;
    let mut above = None;
    while at < bytes.len() {
        if let Some(frame) = frame_at(bytes, at, seed, above) {
            if found.end < at {
                found.holes.push(found.end..at);
            }
            above = Some(frame.seq);
            (at, found.end) = (frame.to, frame.to);
            found.frames.push(frame);
        } else {
            // Zeros cannot begin a frame (its kind is byte 4): skip runs of them, 4 bytes short of the next byte that is not zero.
            match bytes[at..].iter().position(|&byte| byte != 0) {
                None => break,
                Some(zeros) => at += zeros.saturating_sub(FRAME_OVERHEAD).max(1),
            }
        }
    }
    let rest = &bytes[found.end.min(bytes.len())..];
    found.torn = rest.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    found
}

impl Scan {
    /// Leaves out what a write that never ended may have left: everything from the first hole behind which no commit begins.
    ///
    /// Right only for the last segment of a journal: in another, what is missing shows by its number.
    pub fn without_torn_commit(mut self, bytes: &[u8], start: usize) -> Self {
        let last_start = self.frames.iter().rfind(|frame| frame.flags & STARTS_COMMIT != 0).map_or(start, |frame| frame.from);
        let Some(hole) = self.holes.iter().position(|hole| hole.start >= last_start) else { return self };
        self.end = self.holes[hole].start;
        self.holes.truncate(hole);
        self.frames.retain(|frame| frame.to <= self.end);
        self.torn = bytes[self.end.min(bytes.len())..].iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        self
    }
}

/// The writer of a segment whose header is lost: its first observation names it, and then the sums agree.
pub fn guess_writer(bytes: &[u8], number: u64) -> Option<[u8; 16]> {
    for at in 0..bytes.len().saturating_sub(FRAME_OVERHEAD + 16) {
        if bytes[at + 4] == frame_kind::OBSERVATION {
            let writer: [u8; 16] = bytes[at + 16..at + 32].try_into().expect("16 bytes");
            if frame_at(bytes, at, seed(&writer, number), None).is_some() {
                return Some(writer);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(payloads: &[&[u8]]) -> (SegmentHeader, Vec<u8>) {
        let header = SegmentHeader { format: FORMAT, writer: [7; 16], number: 3, first_seq: 10, compacted: None };
        let mut bytes = header.encode().to_vec();
        for (i, payload) in payloads.iter().enumerate() {
            let frame = Frame { kind: 6, schema: 1, seq: 10 + i as u64, payload: payload.to_vec() };
            encode_frame(&header, &frame, 0, &mut bytes);
        }
        (header, bytes)
    }

    #[test]
    fn every_flipped_byte_costs_exactly_its_frame() {
        let (header, bytes) = segment(&[b"one", b"", b"three"]);
        assert_eq!(SegmentHeader::parse(&bytes), Some(header));
        let whole = scan(&bytes, &header.writer, header.number, HEADER_BYTES);
        assert_eq!((whole.frames.len(), whole.torn, whole.holes.len()), (3, 0, 0));
        for at in HEADER_BYTES..bytes.len() {
            let mut hurt = bytes.clone();
            hurt[at] ^= 0x40;
            let found = scan(&hurt, &header.writer, header.number, HEADER_BYTES);
            let lost = whole.frames.iter().position(|frame| (frame.from..frame.to).contains(&at)).unwrap();
            let left: Vec<u64> = found.frames.iter().map(|frame| frame.seq).collect();
            assert_eq!(left, [10, 11, 12].into_iter().filter(|seq| *seq != 10 + lost as u64).collect::<Vec<_>>(), "byte {at}");
            assert_eq!(found.holes.len(), usize::from(lost < 2));
        }
    }

    #[test]
    fn every_cut_is_a_tear() {
        let (header, bytes) = segment(&[b"one", b"two", b"three"]);
        for cut in HEADER_BYTES..bytes.len() {
            let found = scan(&bytes[..cut], &header.writer, header.number, HEADER_BYTES);
            assert!(found.holes.is_empty());
            assert!(found.end + found.torn <= cut);
        }
    }

    #[test]
    fn frames_of_another_segment_never_verify() {
        let (header, bytes) = segment(&[b"one"]);
        assert!(scan(&bytes, &header.writer, header.number + 1, HEADER_BYTES).frames.is_empty());
        assert!(scan(&bytes, &[8; 16], header.number, HEADER_BYTES).frames.is_empty());
    }
}
