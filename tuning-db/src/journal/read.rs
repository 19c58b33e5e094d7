//! Reading: segments put together in order, every frame once, and what is missing by number.

use super::segment::{self, COUNTER, FORMAT, FrameRef, HEADER_BYTES, SEGMENT_BYTES_MAX, SegmentHeader};
use crate::disk::{Disk, read_file};
use crate::error::{At, StoreError};
use crate::record::frame_kind;
use std::path::{Path, PathBuf};

/// Frames that must have been written and are not there.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first and the last number missing; in a compacted segment the range in which `frames` are missing somewhere.
    pub first: u64,
    pub last: u64,
    pub frames: u64,
    /// How many of them were observations, as the counters of the frames around them tell.
    pub observations: u64,
}

/// What reading the journal found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalReport {
    pub segments: usize,
    pub frames: u64,
    pub bytes: u64,
    /// The highest number found; 0 when there is no frame.
    pub last_seq: u64,
    /// The counter of observations at the last frame.
    pub counter: u8,
    /// The number the next segment gets.
    pub next_segment: u64,
    pub gaps: Vec<Gap>,
    /// Bytes of an unfinished write at the end of the last segment, and where they begin.
    pub torn_bytes: u64,
    pub torn: Option<(PathBuf, u64)>,
    /// Segments with bytes that do not verify and are no tear.
    pub damaged: Vec<PathBuf>,
    /// Segments whose place has been taken by a later one.
    pub superseded: Vec<PathBuf>,
}

impl JournalReport {
    /// Whether every byte was as written.
    pub fn is_whole(&self) -> bool {
        self.gaps.is_empty() && self.damaged.is_empty()
    }

    /// Whether a number is among the missing.
    pub fn misses(&self, seq: u64) -> bool {
        self.gaps.iter().any(|gap| (gap.first..=gap.last).contains(&seq))
    }

    /// Missing frames and observations among them.
    pub fn missing(&self) -> (u64, u64) {
        self.gaps.iter().fold((0, 0), |(frames, observations), gap| {
            (frames.saturating_add(gap.frames), observations.saturating_add(gap.observations))
        })
    }
}

/// A segment that holds, or may hold, frames.
pub(crate) struct Segment {
    pub number: u64,
    pub path: PathBuf,
    pub header: Option<SegmentHeader>,
    pub writer: [u8; 16],
    pub first_seq: u64,
}

/// Which frames are delivered: those above `above`. Segments that hold only lower ones are not read, unless `all` says that
/// every byte is to be verified.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct From {
    pub above: u64,
    pub all: bool,
}

impl From {
    /// Everything.
    pub const START: From = From { above: 0, all: true };
}

/// Reads the journal in `dir`. Frames are delivered with ascending numbers, each once.
///
/// # Errors
/// [`StoreError::Newer`] for a segment of a newer format, [`StoreError::Io`] when the disk fails, and what `f` returns. Damage is
/// no error: it is in the report.
pub fn read_journal(
    disk: &dyn Disk,
    dir: &Path,
    from: From,
    f: &mut dyn FnMut(&FrameRef, &[u8]) -> Result<(), StoreError>,
) -> Result<JournalReport, StoreError> {
    let mut report = JournalReport { next_segment: 1, ..JournalReport::default() };
    let segments = list(disk, dir, &mut report)?;
    let mut reading = Reading { expect: 1, above: from.above, report };
    for (i, segment) in segments.iter().enumerate() {
        let later = &segments[i + 1..];
        let limit = later.iter().map(|later| later.first_seq).min().unwrap_or(u64::MAX);
        if segment.first_seq >= limit {
            reading.report.superseded.push(segment.path.clone());
            continue;
        }
        if !from.all && limit <= from.above.saturating_add(1) {
            reading.expect = limit;
            reading.report.last_seq = limit - 1;
            continue;
        }
        reading.segment(disk, segment, limit, later.is_empty(), f)?;
    }
    Ok(reading.report)
}

/// The segments by number. One whose header is lost is named by its first observation.
///
/// # Errors
/// As [`read_journal`].
pub(crate) fn list(disk: &dyn Disk, dir: &Path, report: &mut JournalReport) -> Result<Vec<Segment>, StoreError> {
    let mut segments = Vec::new();
    for name in disk.list(dir).at(dir, "list the journal")? {
        let Some(number) = segment::file_number(&name) else { continue };
        report.next_segment = report.next_segment.max(number.saturating_add(1));
        let path = dir.join(&name);
        let file = match disk.open_read(&path) {
            Ok(file) => file,
            // Compaction took it away after the listing; the segment in its place is read instead.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(StoreError::io(&path, "open the journal", error)),
        };
        let mut head = [0; HEADER_BYTES];
        let read = file.read_at(0, &mut head).at(&path, "read the journal")?;
        let header = SegmentHeader::parse(&head[..read]).filter(|header| header.number == number);
        if let Some(newer) = header.filter(|header| header.format > FORMAT) {
            return Err(StoreError::Newer {
                path,
                found: u32::from(newer.format),
                known: u32::from(FORMAT),
                made_by: "a newer tunewright".into(),
            });
        }
        let found = match header {
            Some(header) => Some((header.writer, header.first_seq)),
            None => {
                let bytes = read_file(disk, &path, SEGMENT_BYTES_MAX).at(&path, "read the journal")?.unwrap_or_default();
                let first = segment::guess_writer(&bytes, number)
                    .and_then(|writer| Some((writer, segment::scan(&bytes, &writer, number, 0).frames.first()?.seq)));
                // A segment of zeros, or shorter than a header, was being made when its writer died: nothing was lost with it.
                if first.is_none() && bytes.len() > HEADER_BYTES && bytes.iter().any(|&byte| byte != 0) {
                    report.damaged.push(path.clone());
                }
                first
            }
        };
        if let Some((writer, first_seq)) = found {
            segments.push(Segment { number, path, header, writer, first_seq });
        }
    }
    report.segments = segments.len();
    Ok(segments)
}

struct Reading {
    expect: u64,
    above: u64,
    report: JournalReport,
}

impl Reading {
    fn segment(
        &mut self,
        disk: &dyn Disk,
        segment: &Segment,
        limit: u64,
        is_last: bool,
        f: &mut dyn FnMut(&FrameRef, &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let Some(bytes) = read_file(disk, &segment.path, SEGMENT_BYTES_MAX).at(&segment.path, "read the journal")? else {
            return Ok(());
        };
        let start = if segment.header.is_some() { HEADER_BYTES } else { 0 };
        let mut scan = segment::scan(&bytes, &segment.writer, segment.number, start);
        if is_last {
            scan = scan.without_torn_commit(&bytes, start);
        }
        let mut hurt = segment.header.is_none() || !scan.holes.is_empty();
        let compacted = segment.header.and_then(|header| header.compacted);
        let mut counted = 0;
        for frame in scan.frames.iter().filter(|frame| frame.seq < limit) {
            if frame.seq < self.expect {
                continue;
            }
            let floor = if compacted.is_some() { frame.seq } else { segment.first_seq.max(self.expect) };
            hurt |= compacted.is_none() && frame.seq > floor;
            self.missing_until(if compacted.is_some() { segment.first_seq.min(frame.seq) } else { frame.seq }, frame);
            self.expect = frame.seq + 1;
            self.report.last_seq = frame.seq;
            self.report.counter = frame.flags & COUNTER;
            self.report.frames += 1;
            counted += 1;
            if frame.seq > self.above {
                f(frame, &bytes[frame.payload.clone()])?;
            }
        }
        if let Some((last, count)) = compacted {
            if counted < count && limit > last {
                let lost = count - counted;
                self.report.gaps.push(Gap { first: segment.first_seq, last, frames: lost, observations: lost });
                hurt = true;
            }
            self.expect = self.expect.max(last.saturating_add(1).min(limit));
            self.report.last_seq = self.report.last_seq.max(self.expect - 1);
        }
        self.report.bytes += scan.end as u64;
        if is_last && scan.torn > 0 {
            self.report.torn_bytes = scan.torn as u64;
            self.report.torn = Some((segment.path.clone(), scan.end as u64));
        }
        if hurt {
            self.report.damaged.push(segment.path.clone());
        }
        Ok(())
    }

    /// Notes that the numbers from the expected one up to before `seq` are missing.
    fn missing_until(&mut self, seq: u64, next: &FrameRef) {
        if seq <= self.expect {
            return;
        }
        let frames = seq - self.expect;
        let is_observation = u8::from(next.kind == frame_kind::OBSERVATION);
        let among = u64::from(next.flags.wrapping_sub(self.report.counter).wrapping_sub(is_observation) & COUNTER);
        // The counters agree modulo 128: the largest such number that fits, since nearly all frames are observations.
        let observations = if among > frames { frames } else { among + (frames - among) / 128 * 128 };
        self.report.gaps.push(Gap { first: self.expect, last: seq - 1, frames, observations });
    }
}
