//! Export and import: a record a line, as JSON, the schema first.

use crate::error::StoreError;
use crate::index::Flow;
use crate::merge::{MergeReport, names, take_in};
use crate::query::{Query, eval};
use crate::reader::Reader;
use crate::record::{Record, Tombstone, text_hash};
use crate::store::Store;
use crate::tables::Tables;
use schema::{Device, Environment, ModelFeatures, ModelKey, Observation, TaskKey};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::io::{BufRead, Read, Write};
use std::path::Path;

/// Version of the lines.
pub const VERSION: u32 = 2;
/// Longest line that is read.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// A line of an export.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line {
    Schema {
        schema: String,
        version: u32,
        made_by: String,
    },
    Model {
        key: ModelKey,
        name: String,
    },
    Task {
        key: TaskKey,
        text: String,
    },
    Device {
        device: Device,
        environment: Environment,
    },
    Dropped {
        ranges: Vec<DroppedLine>,
    },
    /// Since version 2.
    Features(Box<ModelFeatures>),
    Observation(Box<Observation>),
}

#[derive(Serialize, Deserialize)]
struct DroppedLine {
    writer: TaskKey,
    first: String,
    last: String,
}

/// What was written.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportReport {
    pub observations: u64,
    /// Names, devices, tombstones.
    pub others: u64,
}

/// How an import treats bad lines.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// Leaves them out and counts them, instead of refusing all.
    pub keep_going: bool,
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportReport {
    pub lines: u64,
    /// By number, with what is wrong.
    pub refused: Vec<(u64, String)>,
    pub merged: MergeReport,
}

/// Writes the observations a query's test holds for, with everything they refer to.
///
/// # Errors
/// As [`Reader::query`], and what writing gives.
pub fn export(reader: &Reader, query: &Query, out: &mut dyn Write) -> Result<ExportReport, StoreError> {
    let written = RefCell::new((ExportReport::default(), out, None));
    let put = |line: &Line| {
        let (_, out, failed) = &mut *written.borrow_mut();
        if failed.is_none() {
            let mut text = serde_json::to_vec(line).expect("plain owned values always encode");
            text.push(b'\n');
            *failed = out.write_all(&text).err();
        }
        failed.is_none()
    };
    let made_by = concat!("tunewright ", env!("CARGO_PKG_VERSION")).to_owned();
    reader.tables(&|index| {
        written.borrow_mut().0 = ExportReport::default();
        put(&Line::Schema { schema: "tunewright.records".into(), version: VERSION, made_by: made_by.clone() });
        for record in names(Tables(index))?.into_iter().chain(Tables(index).tombstones()?.into_iter().map(Record::Tombstone)) {
            if let Some(line) = line_of(record) {
                put(&line);
                written.borrow_mut().0.others += 1;
            }
        }
        eval::observations(index, query, &mut |observation| {
            let goes_on = put(&Line::Observation(Box::new(observation)));
            written.borrow_mut().0.observations += 1;
            Ok(if goes_on { Flow::Continue(()) } else { Flow::Break(()) })
        })
    })?;
    let (report, out, failed) = written.into_inner();
    let failed = failed.map_or_else(|| out.flush(), Err);
    failed.map_err(|error| StoreError::io(Path::new("the export"), "write", error))?;
    Ok(report)
}

fn line_of(record: Record) -> Option<Line> {
    Some(match record {
        Record::Model { key, name } => Line::Model { key, name },
        Record::Task { key, text } => Line::Task { key, text },
        Record::Device { device, environment, .. } => Line::Device { device, environment },
        Record::Tombstone(tombstone) => {
            let ranges = tombstone.dropped.iter().flat_map(|(writer, ranges)| {
                ranges.iter().map(|(first, last)| DroppedLine {
                    writer: TaskKey(*writer),
                    first: first.to_string(),
                    last: last.to_string(),
                })
            });
            Line::Dropped { ranges: ranges.collect() }
        }
        Record::Features(features) => Line::Features(features),
        Record::Observation(observation) => Line::Observation(observation),
        Record::Note(_) => return None,
    })
}

/// Takes in the lines of an export. Everything is read and checked before anything is written.
///
/// # Errors
/// [`StoreError::Input`] naming the first bad line, unless `options.keep_going`; [`StoreError::Newer`] for the export of a newer
/// version; what the disk says.
pub fn import(store: &Store, lines: &mut dyn BufRead, options: ImportOptions) -> Result<ImportReport, StoreError> {
    let mut report = ImportReport::default();
    let mut records = Vec::new();
    let mut text = Vec::new();
    loop {
        text.clear();
        let read = (&mut *lines).take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut text);
        let read = read.map_err(|error| StoreError::io(Path::new("the import"), "read", error))?;
        if read == 0 {
            break;
        }
        report.lines += 1;
        if text.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let too_long = text.len() as u64 > LINE_BYTES_MAX;
        match if too_long { Err(format!("longer than {LINE_BYTES_MAX} bytes")) } else { parse(&text, report.lines == 1)? } {
            Ok(record) => records.extend(record),
            // A first line that is no schema is no export at all; a line too long has no end to go on from.
            Err(what) if options.keep_going && report.lines > 1 && !too_long => report.refused.push((report.lines, what)),
            Err(what) => return Err(StoreError::Input { what: format!("line {}: {what}", report.lines) }),
        }
    }
    if report.lines == 0 {
        return Err(StoreError::Input { what: "line 1: expected a schema, found the end".into() });
    }
    report.merged = take_in(store, records)?;
    Ok(report)
}

/// The record of a line; none for the schema.
fn parse(text: &[u8], is_first: bool) -> Result<Result<Option<Record>, String>, StoreError> {
    let line: Line = match serde_json::from_slice(text) {
        Ok(line) => line,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let record = match line {
        Line::Schema { version, made_by, .. } if version > VERSION => {
            let made_by = made_by.chars().filter(|c| !c.is_control()).take(80).collect();
            return Err(StoreError::Newer { path: "the import".into(), found: version, known: VERSION, made_by });
        }
        Line::Schema { schema, .. } if is_first && schema == "tunewright.records" => return Ok(Ok(None)),
        Line::Schema { .. } => return Ok(Err("a schema out of place".into())),
        _ if is_first => return Ok(Err("expected a schema".into())),
        Line::Model { key, name } => Record::Model { key, name },
        Line::Task { key, text } if text_hash(&text)[..16] != key.0 => {
            return Ok(Err(format!("{key} is not the key of its text")));
        }
        Line::Task { key, text } => Record::Task { key, text },
        Line::Device { device, environment } => Record::Device { device, environment, here: false },
        Line::Dropped { ranges } => match tombstone(&ranges) {
            Some(tombstone) => Record::Tombstone(tombstone),
            None => return Ok(Err("a range that is none".into())),
        },
        Line::Features(features) => Record::Features(features),
        Line::Observation(observation) => Record::Observation(observation),
    };
    Ok(match crate::store::check_size(&record) {
        Ok(()) => Ok(Some(record)),
        Err(error) => Err(error.to_string()),
    })
}

fn tombstone(ranges: &[DroppedLine]) -> Option<Tombstone> {
    let mut tombstone = Tombstone::default();
    for range in ranges {
        let (first, last): (u64, u64) = (range.first.parse().ok()?, range.last.parse().ok()?);
        if first > last {
            return None;
        }
        tombstone.dropped.entry(range.writer.0).or_default().push((first, last));
    }
    Some(tombstone)
}
