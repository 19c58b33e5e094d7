//! The result block: the product's face. First the gain with its interval, then what was kept and refused and why it stopped, then the
//! next step.

use crate::cli::Screen;
use crate::cli::failure::escape;
use crate::cli::quantity::{show_bytes, show_time};
use crate::cli::screen::Paint;
use crate::cli::table::{Align, lay_out};
use crate::device::Machine;
use crate::measure::ahead::Tally;
use crate::measure::{Phase, Phases};
use crate::tune::{Ahead, Outcome, Portfolio, Row, Tuned};
use schema::{FailureClass, Ratio};
use serde_json::{Value, json};
use std::time::Duration;

/// Prints the block, or the object with `--json`.
pub fn report(screen: &mut Screen, outcome: &Outcome, devices: &[Machine], generation: u64) {
    screen.result(
        || {
            let mut object = object(outcome, generation);
            if let Value::Object(map) = &mut object {
                map.insert("took_ns".into(), json!(u64::try_from(outcome.took.as_nanos()).unwrap_or(u64::MAX)));
            }
            object
        },
        |screen| lines(screen, outcome, devices, generation),
    );
}

/// A class of failure in words.
pub fn class_name(class: FailureClass) -> &'static str {
    match class {
        FailureClass::WrongResult => "wrong result",
        FailureClass::Timeout => "time-out",
        FailureClass::Crash => "crash",
        FailureClass::OutOfMemory => "out of memory",
        FailureClass::Compile => "does not build",
        FailureClass::DeviceLost => "device lost",
    }
}

fn lines(screen: &Screen, outcome: &Outcome, devices: &[Machine], generation: u64) -> Vec<String> {
    let mut lines = Vec::new();
    for tuned in &outcome.models {
        lines.extend(model_lines(screen, tuned, devices));
    }
    let refused: u64 = outcome.refused.values().sum();
    let classes: Vec<String> = outcome.refused.iter().map(|(class, count)| format!("{count} {}", class_name(*class))).collect();
    let why = if classes.is_empty() { String::new() } else { format!(" ({})", classes.join(", ")) };
    lines.push(format!("  trials    {} measured, {} reused, {refused} refused{why}", outcome.measured, outcome.reused));
    if outcome.measured > 0 {
        let phases = outcome.phases.each().map(|(phase, took)| format!("{} {:.1}", phase.name(), took.as_secs_f64()));
        lines.push(format!("  seconds   {}", phases.collect::<Vec<_>>().join(", ")));
    }
    lines.extend(outcome.ahead.iter().filter(|ahead| ahead.tally.compilers > 0).map(ahead_line));
    lines.push(format!("  stopped   {}; seed {}; took {:.1} s", outcome.stop, outcome.seed.0, outcome.took.as_secs_f64()));
    for tuned in &outcome.models {
        let word = if tuned.artifact_changed { "saved" } else { "unchanged" };
        lines.push(format!(
            "  {word:9} {}, {}; database generation {generation}",
            tuned.artifact.display(),
            show_bytes(tuned.artifact_bytes)
        ));
    }
    if let Some(tuned) = outcome.models.first() {
        let file = tuned.artifact.display();
        lines.push(format!("  next      tunewright run {file} --input x.npz      tunewright explain {file}"));
    }
    lines
}

/// What compiling ahead brought on a place that has compilers.
fn ahead_line(ahead: &Ahead) -> String {
    let Tally { compilers, compiled, used, waited, off, .. } = &ahead.tally;
    let off = off.as_ref().map_or_else(String::new, |why| format!("; then no more: {}", escape(why)));
    let noun = if *compilers == 1 { "compiler" } else { "compilers" };
    format!(
        "  ahead     {} share {}: {compilers} {noun}, {compiled} kernels compiled, {used} used, waited for {:.1} s{off}",
        ahead.device,
        ahead.share,
        waited.as_secs_f64()
    )
}

fn model_lines(screen: &Screen, tuned: &Tuned, devices: &[Machine]) -> Vec<String> {
    let file = tuned.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let mut lines = vec![format!(
        "{}   {} tasks, {} distinct, {} known from the database",
        screen.paint(Paint::Bold, &escape(&file)),
        tuned.tasks,
        tuned.distinct,
        tuned.known
    )];
    for warning in &tuned.warnings {
        lines.push(format!("  warning   {}", escape(warning)));
    }
    let mut names: Vec<&str> = tuned.rows.iter().map(|row| row.device.as_str()).collect();
    names.dedup();
    for name in names {
        let summary = devices.iter().find(|machine| machine.device.name.0 == name).map_or("", |machine| machine.summary.as_str());
        let head = [
            format!("  {name}, {summary}"),
            String::new(),
            "default".into(),
            "tuned".into(),
            "faster, 95 % interval".into(),
            "noise".into(),
        ];
        let rows = tuned.rows.iter().filter(|row| row.device == name).map(|row| cells(screen, row));
        let rows: Vec<Vec<String>> = std::iter::once(head.to_vec()).chain(rows).collect();
        lines.extend(lay_out(&rows, &[Align::Left, Align::Left, Align::Right, Align::Right, Align::Left, Align::Left]));
    }
    let split = |row: &&Row| !row.split.is_whole();
    let parts: Vec<String> =
        (tuned.rows.iter().filter(split)).map(|row| format!("batch {} share {}: {}", row.batch, row.share, row.split)).collect();
    if !parts.is_empty() {
        lines.push(format!("  in parts  {}", parts.join("; ")));
    }
    if tuned.kept_default > 0 {
        let noun = if tuned.kept_default == 1 { "task" } else { "tasks" };
        lines.push(format!("  kept the default in {} {noun}: nothing was faster beyond the noise", tuned.kept_default));
    }
    lines
}

fn cells(screen: &Screen, row: &Row) -> Vec<String> {
    let times = screen.sign("×", "x");
    let faster = if row.kept {
        let gain = screen.paint(Paint::Green, &format!("{:.2}{times}", part(row.ratio.ppm)));
        format!("{gain}  {:.2} {} {:.2}", part(row.ratio.lo_ppm), screen.sign("…", "..."), part(row.ratio.hi_ppm))
    } else {
        "kept the default".to_owned()
    };
    vec![
        format!("  batch {}", row.batch),
        format!("share {}", row.share),
        show_time(row.default.median),
        screen.paint(Paint::Bold, &show_time(row.tuned.median)),
        faster,
        format!("{:?}", row.noise),
    ]
}

fn part(ppm: u64) -> f64 {
    ppm as f64 * 1e-6
}

fn ratio_object(object: &mut Value, ratio: Option<Ratio>) {
    for (name, value) in
        [("ratio", ratio.map(|r| r.ppm)), ("ratio_lo", ratio.map(|r| r.lo_ppm)), ("ratio_hi", ratio.map(|r| r.hi_ppm))]
    {
        object[name] = json!(value.map(part));
    }
}

/// Nanoseconds by phase.
pub fn phases(phases: &Phases) -> Value {
    let field = |(phase, took): (Phase, Duration)| {
        (format!("{}_ns", phase.name()), json!(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)))
    };
    Value::Object(phases.each().map(field).collect())
}

fn ahead_object(ahead: &Ahead) -> Value {
    let Tally { compilers, compiled, used, waited, off, .. } = &ahead.tally;
    json!({
        "device": ahead.device, "share_pct": ahead.share.as_percent(), "compilers": compilers, "compiled": compiled, "used": used,
        "waited_ns": u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX), "off": off,
    })
}

fn portfolio(portfolio: &Portfolio) -> Value {
    let regret = (!portfolio.configs.is_empty()).then(|| part(portfolio.regret_ppm));
    let configs: Vec<String> = portfolio.configs.iter().map(ToString::to_string).collect();
    json!({"configs": configs, "regret": regret, "unserved_shares": portfolio.unserved})
}

fn object(outcome: &Outcome, generation: u64) -> Value {
    let entry = |tuned: &Tuned, row: &Row| {
        let mut entry = json!({
            "model": tuned.name, "device": row.device, "share_pct": row.share.as_percent(), "batch": row.batch.rows(),
            "default_ns": row.default.median.as_nanos(), "tuned_ns": row.tuned.median.as_nanos(), "tuned_mad_ns": row.tuned.mad.as_nanos(),
            "tuned_p99_ns": row.tuned.p99.as_nanos(), "samples": row.tuned.n, "noise": format!("{:?}", row.noise), "tuned_kept": row.kept,
            "parts": row.split.parts(), "lanes": row.split.lanes(),
            "throughput_per_s": row.throughput_milli_per_s as f64 * 1e-3, "memory_bytes": row.memory_bytes, "energy_mj": row.energy_mj,
            "energy_mj_why": row.energy_why,
        });
        ratio_object(&mut entry, Some(row.ratio));
        entry
    };
    let entries: Vec<Value> =
        outcome.models.iter().flat_map(|tuned| tuned.rows.iter().map(move |row| entry(tuned, row))).collect();
    let task = |gain: &crate::tune::TaskGain| {
        let mut task = json!({
            "task": gain.task, "device": gain.device, "share_pct": gain.share.as_percent(), "batch": gain.batch.rows(), "count": gain.count,
            "config": gain.config.to_string(), "is_default": gain.is_default, "default_ns": gain.default.map(|time| time.as_nanos()),
            "tuned_ns": gain.tuned.map(|time| time.as_nanos()), "tried": gain.tried, "portfolio": portfolio(&gain.portfolio),
        });
        ratio_object(&mut task, gain.ratio);
        task
    };
    let model = |tuned: &Tuned| {
        json!({
            "model": tuned.name, "path": tuned.path.display().to_string(), "tasks": tuned.tasks, "distinct": tuned.distinct, "known": tuned.known,
            "kept_default": tuned.kept_default, "artifact": tuned.artifact.display().to_string(), "artifact_bytes": tuned.artifact_bytes,
            "artifact_changed": tuned.artifact_changed, "warnings": tuned.warnings, "gains": tuned.gains.iter().map(task).collect::<Vec<_>>(),
        })
    };
    let refused: serde_json::Map<String, Value> =
        outcome.refused.iter().map(|(class, count)| (class_name(*class).replace([' ', '-'], "_"), json!(count))).collect();
    json!({
        "schema": "tune.result", "version": 1, "models": outcome.models.iter().map(model).collect::<Vec<_>>(), "entries": entries,
        "trials": {"measured": outcome.measured, "reused": outcome.reused, "refused": refused}, "phases": phases(&outcome.phases),
        "compile_ahead": outcome.ahead.iter().map(ahead_object).collect::<Vec<_>>(), "stopped": outcome.stop.to_string(),
        "seed": outcome.seed.0.to_string(), "generation": generation.to_string(), "missing": outcome.missing,
    })
}
