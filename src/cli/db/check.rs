//! `db check` and `db repair`: what is damaged, and mending it.

use super::Database;
use crate::cli::failure::{Failure, escape};
use crate::cli::quantity::show_count;
use crate::cli::{Exit, Screen, screen::Paint};
use serde_json::{Value, json};
use tuning_db::{CheckReport, Finding};

#[derive(Debug, clap::Args)]
pub struct CheckArguments {}

#[derive(Debug, clap::Args)]
pub struct RepairArguments {
    /// Say what would be done
    #[arg(long)]
    dry_run: bool,
}

pub fn check(_: &CheckArguments, database: &Database, screen: &mut Screen) -> Result<Exit, Failure> {
    if !database.path.exists() {
        return Ok(database.none(&database.path, screen));
    }
    let report = tuning_db::check(&database.path).map_err(|error| database.failure(&error))?;
    screen.result(
        || {
            let mut object = json!({"schema": "db.check.result", "version": 1});
            merge(&mut object, check_object(&report));
            object
        },
        |screen| check_lines(&report, screen),
    );
    Ok(if report.is_clean() { Exit::Done } else { Exit::No })
}

pub fn repair(arguments: &RepairArguments, database: &Database, screen: &mut Screen) -> Result<Exit, Failure> {
    if !database.path.exists() {
        return Ok(database.none(&database.path, screen));
    }
    let report =
        tuning_db::repair(&database.path, database.options(), arguments.dry_run).map_err(|error| database.failure(&error))?;
    let done = report.done.as_ref().and_then(|done| done.line());
    screen.result(
        || {
            json!({
                "schema": "db.repair.result", "version": 1, "dry_run": arguments.dry_run, "before": check_object(&report.before), "done": done,
                "snapshots": report.snapshots.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(), "lost": report.lost,
            })
        },
        |screen| {
            let mut lines = check_lines(&report.before, screen);
            match (&done, arguments.dry_run) {
                (_, true) => lines.push("nothing was changed; without --dry-run the damage is quarantined and the index rebuilt".to_owned()),
                (Some(done), false) => lines.push(format!("repaired: {done}")),
                (None, false) => lines.push("nothing to repair".to_owned()),
            }
            lines.push(format!("{} observations lost", show_count(report.lost)));
            lines
        },
    );
    Ok(if report.lost > 0 || (arguments.dry_run && !report.before.is_clean()) { Exit::No } else { Exit::Done })
}

fn check_object(report: &CheckReport) -> Value {
    let list = |findings: &[Finding]| -> Vec<Value> {
        findings.iter().map(|finding| json!({"path": finding.path.display().to_string(), "what": finding.what})).collect()
    };
    json!({
        "clean": report.is_clean(), "findings": list(&report.findings), "unseen": list(&report.unseen), "frames": report.frames, "observations": report.observations,
        "keys": report.keys, "snapshots": report.snapshots, "missing": report.missing, "conflicts": report.conflicts, "generation": report.generation.to_string(),
    })
}

fn merge(object: &mut Value, more: Value) {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
}

fn check_lines(report: &CheckReport, screen: &Screen) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for finding in &report.findings {
        lines.push(format!("{}  {}: {}", screen.paint(Paint::Red, "damaged"), finding.path.display(), escape(&finding.what)));
    }
    for finding in &report.unseen {
        lines.push(format!("{}  {}: {}", screen.paint(Paint::Yellow, "not seen"), finding.path.display(), escape(&finding.what)));
    }
    let counts = format!(
        "{} observations in {} frames, {} keys, {} snapshots",
        show_count(report.observations),
        show_count(report.frames),
        show_count(report.keys),
        report.snapshots
    );
    let verdict = if report.is_clean() { screen.paint(Paint::Green, "ok") } else { screen.paint(Paint::Red, "damage found") };
    lines.push(format!("{verdict}  {counts}; generation {}", report.generation));
    if !report.is_clean() {
        lines.push("run tunewright db repair".to_owned());
    }
    lines
}
