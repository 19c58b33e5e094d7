//! A damaged journal made readable without gaps: each damaged segment is copied into quarantine and replaced, at once, by one that
//! holds its valid frames and says which numbers are left out on purpose.

use crate::disk::{Disk, read_file, replace_file};
use crate::error::{At, StoreError};
use crate::journal::JournalReport;
use crate::journal::read::{Segment, list};
use crate::journal::segment::{self, FORMAT, Frame, FrameRef, HEADER_BYTES, SEGMENT_BYTES_MAX, SegmentHeader};
use crate::quarantine;
use std::path::{Path, PathBuf};

/// A segment's bytes from its frames, each with the flags it had.
pub(crate) fn segment_bytes(header: &SegmentHeader, frames: &[(Frame, u8)]) -> Vec<u8> {
    let mut bytes = header.encode().to_vec();
    for (frame, flags) in frames {
        segment::encode_frame(header, frame, *flags, &mut bytes);
    }
    bytes
}

/// The frame a reference points to.
pub(crate) fn owned(frame: &FrameRef, bytes: &[u8]) -> (Frame, u8) {
    let payload = bytes[frame.payload.clone()].to_vec();
    (Frame { kind: frame.kind, schema: frame.schema, seq: frame.seq, payload }, frame.flags)
}

/// Heals the journal up to `end`, the last number that is known to have been written. Returns the quarantine, if one was made.
///
/// # Errors
/// What the disk says.
pub(crate) fn journal(
    disk: &dyn Disk,
    db: &Path,
    dir: &Path,
    report: &mut JournalReport,
    end: u64,
) -> Result<Option<PathBuf>, StoreError> {
    let mut quarantined = None;
    let segments = list(disk, dir, &mut JournalReport::default())?;
    let mut covered = 0;
    for (i, segment) in segments.iter().enumerate() {
        let limit = segments[i + 1..].iter().map(|later| later.first_seq).min();
        if limit.is_some_and(|limit| segment.first_seq >= limit) {
            continue;
        }
        let last = limit.map_or(end, |limit| limit - 1);
        if let Some(bytes) = replacement(disk, segment, covered + 1, last)? {
            let quarantine = quarantine_of(disk, db, &mut quarantined)?;
            quarantine::copy_into(disk, &quarantine, &segment.path)?;
            let name = segment::file_name(segment.number);
            replace_file(disk, dir, &name, &bytes).at(&segment.path, "replace a damaged segment")?;
        }
        covered = last;
    }
    for lost in report.damaged.iter().filter(|path| segments.iter().all(|segment| segment.path != **path)) {
        let quarantine = quarantine_of(disk, db, &mut quarantined)?;
        quarantine::move_into(disk, &quarantine, lost)?;
    }
    if covered < end {
        let header = SegmentHeader {
            format: FORMAT,
            writer: [0; 16],
            number: report.next_segment,
            first_seq: covered + 1,
            compacted: Some((end, 0)),
        };
        let name = segment::file_name(report.next_segment);
        replace_file(disk, dir, &name, &header.encode()).at(dir, "mark lost segments")?;
        report.next_segment += 1;
    }
    report.last_seq = report.last_seq.max(end);
    Ok(quarantined)
}

fn quarantine_of(disk: &dyn Disk, db: &Path, made: &mut Option<PathBuf>) -> Result<PathBuf, StoreError> {
    let dir = match made.take() {
        Some(dir) => dir,
        None => quarantine::make(disk, db, "journal")?,
    };
    Ok(made.insert(dir).clone())
}

/// What takes a segment's place so that it covers `first..=last`; `None` when it already does.
fn replacement(disk: &dyn Disk, segment: &Segment, first: u64, last: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let bytes = read_file(disk, &segment.path, SEGMENT_BYTES_MAX).at(&segment.path, "read the journal")?.unwrap_or_default();
    let start = if segment.header.is_some() { HEADER_BYTES } else { 0 };
    let scan = segment::scan(&bytes, &segment.writer, segment.number, start);
    let frames: Vec<&FrameRef> = scan.frames.iter().filter(|frame| frame.seq >= first && frame.seq <= last).collect();
    let count = frames.len() as u64;
    let whole = scan.holes.is_empty()
        && segment.header.is_some_and(|header| match header.compacted {
            Some((to, frames)) => header.first_seq <= first && to >= last && frames == count,
            None => header.first_seq <= first && count == (last + 1).saturating_sub(first),
        });
    if whole {
        return Ok(None);
    }
    let header = SegmentHeader {
        format: FORMAT,
        writer: segment.writer,
        number: segment.number,
        first_seq: first,
        compacted: Some((last, count)),
    };
    let frames: Vec<(Frame, u8)> = frames.into_iter().map(|frame| owned(frame, &bytes)).collect();
    Ok(Some(segment_bytes(&header, &frames)))
}
