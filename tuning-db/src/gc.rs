//! Taking superseded observations out: tombstones, so that a merge does not bring them back, then smaller segments.

use crate::disk::{Disk, read_file, replace_file};
use crate::error::{At, StoreError};
use crate::heal::{owned, segment_bytes};
use crate::index::{Flow, Index, IndexError};
use crate::ingest::Dropped;
use crate::journal::JournalReport;
use crate::journal::read::{Segment, list};
use crate::journal::segment::{self, FORMAT, Frame, HEADER_BYTES, SEGMENT_BYTES, SEGMENT_BYTES_MAX, SegmentHeader};
use crate::key::{self, table};
use crate::lock::Lock;
use crate::open::OpenOptions;
use crate::quarantine::{self, size_of};
use crate::record::{Record, Tombstone, parse_trial};
use crate::reduce::BestV1;
use crate::store::Store;
use crate::tables::{Tables, decode_as};
use crate::writer::Work;
use schema::{ConfigKey, DeviceKey, EnvironmentKey, Numerics, Observation, ObservationId, Share, Subject, TaskKey};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Ranges in one tombstone: well below the limit of a value.
const RANGES_MAX: usize = 2_000;

/// What is dropped.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct GcOptions {
    /// Only what was measured so many seconds ago, by the clocks of the machines that measured.
    pub older_s: u64,
    /// Configs kept per task, device, share, numerics and environment, fastest first.
    pub keep: usize,
    /// Empties the quarantine too.
    pub quarantine: bool,
    pub dry_run: bool,
    /// Drops even more than half of all observations.
    pub force: bool,
    /// Seconds since 1970 from which age counts.
    pub now_s: u64,
}

impl GcOptions {
    /// 90 days, three configs.
    pub fn at(now_s: u64) -> Self {
        GcOptions { older_s: 90 * 86_400, keep: 3, quarantine: false, dry_run: false, force: false, now_s }
    }
}

/// What a collection did, or would do.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    pub observations: u64,
    pub dropped: u64,
    /// More than half were to go, and nothing was done.
    pub needs_force: bool,
    pub journal_bytes_before: u64,
    pub journal_bytes_after: u64,
    pub quarantine_bytes: u64,
}

/// Drops superseded observations. What the newest valid rows and the best configs rest on stays.
///
/// # Errors
/// [`StoreError::Locked`] while somebody writes, and what the disk says.
pub fn gc(path: &Path, open: OpenOptions, options: GcOptions) -> Result<GcReport, StoreError> {
    let disk = open.disk.clone();
    let journal = path.join("journal");
    let mut report = GcReport { journal_bytes_before: size_of(&journal), ..GcReport::default() };
    let store = Store::open(path, OpenOptions { create: false, serve: false, snapshot_every: None, ..open })?;
    let (observations, ids) = store.shared().ask(|index| superseded(index, options))?;
    (report.observations, report.dropped) = (observations, ids.len() as u64);
    report.needs_force = !options.force && report.dropped.saturating_mul(2) > report.observations;
    if options.dry_run || report.needs_force {
        report.journal_bytes_after = report.journal_bytes_before;
        store.close()?;
        return Ok(report);
    }
    let mut last = None;
    for tombstone in tombstones(ids) {
        last = Some(store.shared().hand_in(Work::Record(Record::Tombstone(tombstone)))?);
    }
    if let Some(ticket) = last {
        ticket.wait()?;
    }
    let dropped = store.shared().ask(Dropped::load)?;
    store.close()?;
    // Every segment is closed now, and the lock keeps it so.
    let _lock = Lock::take(path)?;
    compact(&*disk, &journal, &dropped)?;
    report.journal_bytes_after = size_of(&journal);
    report.quarantine_bytes = quarantine::trim(path, options.quarantine);
    Ok(report)
}

type Group = (TaskKey, DeviceKey, Share, Numerics, EnvironmentKey);

/// How many observations there are, and which nothing rests on.
fn superseded(index: &dyn Index, options: GcOptions) -> Result<(u64, BTreeSet<ObservationId>), IndexError> {
    let tables = Tables(index);
    let mut kept: BTreeMap<Group, Vec<ConfigKey>> = BTreeMap::new();
    tables.each(key::whole(table::BESTS).as_ref(), &mut |key, value| {
        let best: BestV1 = decode_as(key, value, crate::envelope::Kind::Best)?;
        if let Some(parts) = key::BestKey::parse(key) {
            let group = (parts.task, parts.device, parts.share, parts.numerics, best.environment);
            let configs = kept.entry(group).or_default();
            // The newest valid row stays whatever is asked for.
            if configs.len() < options.keep.max(1) {
                configs.push(best.config.key());
            }
        }
        Ok(Flow::Continue(()))
    })?;
    let rows: BTreeSet<ObservationId> = tables.models(None)?.iter().map(|row| row.observation.id).collect();
    let (mut all, mut dropped) = (0, BTreeSet::new());
    tables.each(key::whole(table::TRIALS).as_ref(), &mut |key, value| {
        all += 1;
        let observation = parse_trial(key, value)?;
        let old = options.now_s.saturating_sub(observation.wall_clock_s) >= options.older_s;
        if old && !is_used(&observation, &kept, &rows) {
            dropped.insert(observation.id);
        }
        Ok(Flow::Continue(()))
    })?;
    Ok((all, dropped))
}

fn is_used(observation: &Observation, kept: &BTreeMap<Group, Vec<ConfigKey>>, rows: &BTreeSet<ObservationId>) -> bool {
    match &observation.subject {
        Subject::Model(_) => rows.contains(&observation.id),
        Subject::Trial { task, config } | Subject::Final { task, config } => {
            let Observation { device, share, numerics, environment, .. } = observation;
            let group = (*task, *device, *share, *numerics, *environment);
            kept.get(&group).is_some_and(|configs| configs.contains(&config.key()))
        }
    }
}

/// Ids as tombstones of a bounded size.
fn tombstones(ids: BTreeSet<ObservationId>) -> Vec<Tombstone> {
    let mut all = Vec::new();
    let mut current = Tombstone::default();
    let mut ranges = 0;
    for ObservationId { writer, seq } in ids {
        let held = current.dropped.entry(writer).or_default();
        match held.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(seq) => *last = seq,
            _ => {
                held.push((seq, seq));
                ranges += 1;
            }
        }
        if ranges >= RANGES_MAX {
            all.push(std::mem::take(&mut current));
            ranges = 0;
        }
    }
    all.push(current);
    all.retain(|tombstone| !tombstone.dropped.is_empty());
    all
}

/// Segments without the frames of dropped observations, joined while they fit into one. Each replacement is one rename: it takes
/// the place of the last segment of its run and says that it covers all of them.
fn compact(disk: &dyn Disk, dir: &Path, dropped: &Dropped) -> Result<(), StoreError> {
    let mut report = JournalReport::default();
    let segments = list(disk, dir, &mut report)?;
    if !report.damaged.is_empty() {
        return Ok(());
    }
    let mut run = Run::default();
    for (i, segment) in segments.iter().enumerate() {
        let limit = segments[i + 1..].iter().map(|later| later.first_seq).min();
        if limit.is_some_and(|limit| segment.first_seq >= limit) {
            continue;
        }
        let Some(left) = survivors(disk, segment, limit, dropped)? else {
            // A segment that is not whole is for opening to heal; nothing is joined across it.
            run.end(disk, dir)?;
            continue;
        };
        if run.bytes + left.bytes > SEGMENT_BYTES as usize {
            run.end(disk, dir)?;
        }
        run.add(segment, left);
    }
    run.end(disk, dir)
}

/// What stays of a segment.
struct Left {
    frames: Vec<(Frame, u8)>,
    bytes: usize,
    last: u64,
    removed: bool,
}

fn survivors(disk: &dyn Disk, segment: &Segment, limit: Option<u64>, dropped: &Dropped) -> Result<Option<Left>, StoreError> {
    let bytes = read_file(disk, &segment.path, SEGMENT_BYTES_MAX).at(&segment.path, "read the journal")?.unwrap_or_default();
    let Some(header) = segment.header else { return Ok(None) };
    let scan = segment::scan(&bytes, &segment.writer, segment.number, HEADER_BYTES);
    let within: Vec<_> = scan.frames.iter().filter(|frame| limit.is_none_or(|limit| frame.seq < limit)).collect();
    let last = match header.compacted {
        Some((last, count)) if count == within.len() as u64 => last,
        Some(_) => return Ok(None),
        None => within.last().map_or(header.first_seq.saturating_sub(1), |frame| frame.seq),
    };
    let whole = header.compacted.is_some() || (last + 1).saturating_sub(header.first_seq) == within.len() as u64;
    if !scan.holes.is_empty() || !whole {
        return Ok(None);
    }
    let mut left = Left { frames: Vec::new(), bytes: HEADER_BYTES, last, removed: false };
    for frame in within {
        let (frame, counter) = owned(frame, &bytes);
        let gone = matches!(Record::decode(frame.kind, &frame.payload), Ok(Record::Observation(o)) if dropped.contains(o.id));
        if gone {
            left.removed = true;
        } else {
            left.bytes += frame.payload.len() + segment::FRAME_OVERHEAD;
            left.frames.push((frame, counter));
        }
    }
    Ok(Some(left))
}

/// Segments being joined.
#[derive(Default)]
struct Run {
    members: Vec<(u64, std::path::PathBuf)>,
    writer: [u8; 16],
    first_seq: u64,
    last: u64,
    frames: Vec<(Frame, u8)>,
    bytes: usize,
    removed: bool,
}

impl Run {
    fn add(&mut self, segment: &Segment, left: Left) {
        if self.members.is_empty() {
            self.first_seq = segment.first_seq;
        }
        self.members.push((segment.number, segment.path.clone()));
        self.writer = segment.writer;
        self.last = left.last.max(self.last);
        self.bytes += left.bytes;
        self.frames.extend(left.frames);
        self.removed |= left.removed;
    }

    fn end(&mut self, disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
        let run = std::mem::take(self);
        let Some(((number, path), before)) = run.members.split_last() else { return Ok(()) };
        if before.is_empty() && !run.removed {
            return Ok(());
        }
        let header = SegmentHeader {
            format: FORMAT,
            writer: run.writer,
            number: *number,
            first_seq: run.first_seq,
            compacted: Some((run.last, run.frames.len() as u64)),
        };
        let bytes = segment_bytes(&header, &run.frames);
        replace_file(disk, dir, &segment::file_name(*number), &bytes).at(path, "compact the journal")?;
        for (_, old) in before {
            // Left, it would be passed over: the new segment covers its numbers.
            let _ = disk.remove(old);
        }
        Ok(())
    }
}
