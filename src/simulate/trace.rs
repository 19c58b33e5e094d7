//! Traces: a request a line, as JSON.
//!
//! `{"at_ns": 0, "model": "resnet50", "rows": 1, "deadline_ns": 20000000, "priority": 2}`: `at_ns` counts from the start of the trace and
//! never goes back, `deadline_ns` counts from the same start. `rows` (1), `deadline_ns` (none) and `priority` (2 of 0 to 3) may be left
//! out. Empty lines are passed over.

use super::Arrival;
use crate::schedule::{Index, Nanos, Priority};
use schema::Batch;
use serde::Deserialize;
use std::io::BufRead;
use thiserror::Error;

/// Bytes of a line.
const LINE_MAX: usize = 64 << 10;
/// Lines of a trace.
const LINES_MAX: u64 = 10_000_000;

/// What is wrong with which line of a trace, lines counted from 1.
#[derive(Debug, Error)]
#[error("line {line}: {what}: {why}")]
pub struct TraceError {
    pub line: u64,
    /// The field, or the line itself.
    pub what: &'static str,
    pub why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TraceLine {
    at_ns: u64,
    model: String,
    rows: Option<u64>,
    deadline_ns: Option<u64>,
    priority: Option<u8>,
}

/// Reads a whole trace; models are those of the index.
///
/// # Errors
/// [`TraceError`] for the first line that is no request: not JSON, unknown fields or models, rows or priorities out of range, a
/// deadline that is over on arrival, time that goes back, a line or a trace that is too long; also when reading fails.
pub fn read_trace(mut lines: impl BufRead, index: &Index) -> Result<Vec<Arrival>, TraceError> {
    let (mut arrivals, mut buffer, mut line) = (Vec::new(), Vec::new(), 0u64);
    let mut last = Nanos::ZERO;
    loop {
        line += 1;
        buffer.clear();
        let fail = |what, why: String| TraceError { line, what, why };
        let mut limited = std::io::Read::take(&mut lines, LINE_MAX as u64 + 1);
        let read = limited.read_until(b'\n', &mut buffer).map_err(|error| fail("the file", error.to_string()))?;
        if read == 0 {
            return Ok(arrivals);
        }
        if read > LINE_MAX {
            return Err(fail("the line", format!("is longer than {LINE_MAX} bytes")));
        }
        if line > LINES_MAX {
            return Err(fail("the trace", format!("has more than {LINES_MAX} lines")));
        }
        if buffer.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let arrival = arrival(&buffer, index, last).map_err(|(what, why)| fail(what, why))?;
        last = arrival.at;
        arrivals.push(arrival);
    }
}

fn arrival(text: &[u8], index: &Index, last: Nanos) -> Result<Arrival, (&'static str, String)> {
    let parsed: TraceLine = serde_json::from_slice(text).map_err(|error| ("no request", reason(&error)))?;
    let at = Nanos(parsed.at_ns);
    if at < last {
        return Err(("at_ns", format!("{} lies before the line above, {}", at.0, last.0)));
    }
    let model = index.model(&parsed.model).ok_or_else(|| {
        let known: Vec<&str> = index.models().iter().map(|model| model.name.as_str()).collect();
        ("model", format!("there is no '{}'; there are {}", parsed.model, known.join(", ")))
    })?;
    let rows = parsed.rows.unwrap_or(1);
    let rows = u32::try_from(rows).ok().filter(|&rows| rows <= crate::schedule::BATCH_MAX).and_then(Batch::new);
    let rows = rows.ok_or_else(|| ("rows", "is a whole number from 1 to 65536".to_owned()))?;
    let deadline = parsed.deadline_ns.map_or(Nanos::NEVER, Nanos);
    if deadline <= at {
        return Err(("deadline_ns", format!("{} lies in the past: the request arrives at {}", deadline.0, at.0)));
    }
    let priority = parsed.priority.map_or(Some(Priority::default()), Priority::new);
    let priority = priority.ok_or_else(|| ("priority", "is a whole number from 0 to 3".to_owned()))?;
    Ok(Arrival { at, model, rows, deadline, priority })
}

/// What serde says, without its line, which counts from our buffer.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.split_once(" at line 1 column ") {
        Some((why, column)) => format!("{why}, column {column}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::testing::{curve, index};

    fn read(text: &str) -> Result<Vec<Arrival>, String> {
        read_trace(text.as_bytes(), &index(&[curve(&[1], |_| 5)])).map_err(|error| error.to_string())
    }

    #[test]
    fn what_may_be_left_out_has_its_default() {
        let text = "{\"at_ns\":5,\"model\":\"m0\"}\n\n{\"at_ns\":5,\"model\":\"m0\",\"rows\":3,\"deadline_ns\":9,\"priority\":3}";
        let read = read(text).unwrap();
        assert_eq!((read[0].rows, read[0].deadline, read[0].priority), (Batch::ONE, Nanos::NEVER, Priority::default()));
        assert_eq!((read[1].rows.rows(), read[1].deadline, read[1].priority), (3, Nanos(9), Priority::HIGHEST));
    }

    #[test]
    fn garbage_is_refused_by_line_and_field() {
        let good = "{\"at_ns\":5,\"model\":\"m0\"}\n";
        for (bad, expected) in [
            ("garbage", "line 2: no request: expected value, column 1"),
            ("{\"at_ns\":5}", "line 2: no request: missing field `model`"),
            ("{\"at_ns\":5,\"model\":\"m0\",\"size\":1}", "line 2: no request: unknown field `size`"),
            ("{\"at_ns\":-5,\"model\":\"m0\"}", "line 2: no request: invalid value: integer `-5`"),
            ("{\"at_ns\":1e99,\"model\":\"m0\"}", "line 2: no request: invalid type: floating point"),
            ("{\"at_ns\":4,\"model\":\"m0\"}", "line 2: at_ns: 4 lies before the line above, 5"),
            ("{\"at_ns\":5,\"model\":\"other\"}", "line 2: model: there is no 'other'; there are m0"),
            ("{\"at_ns\":5,\"model\":\"m0\",\"rows\":0}", "line 2: rows: is a whole number"),
            ("{\"at_ns\":5,\"model\":\"m0\",\"rows\":70000}", "line 2: rows: is a whole number"),
            ("{\"at_ns\":5,\"model\":\"m0\",\"deadline_ns\":5}", "line 2: deadline_ns: 5 lies in the past"),
            ("{\"at_ns\":5,\"model\":\"m0\",\"priority\":4}", "line 2: priority: is a whole number"),
            ("\u{0}\u{1}\u{fffd}", "line 2: no request: expected value"),
        ] {
            let found = read(&format!("{good}{bad}\n{good}")).unwrap_err();
            assert!(found.starts_with(expected), "{bad}: {found}");
        }
        let long = format!("{good}{}", "x".repeat(LINE_MAX + 1));
        assert!(read(&long).unwrap_err().starts_with("line 2: the line: is longer than"));
    }
}
