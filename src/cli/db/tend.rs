//! `db merge` and `db gc`: union and tombstones.

use super::Database;
use crate::cli::failure::Failure;
use crate::cli::quantity::{self, show_bytes, show_count};
use crate::cli::{Exit, Screen};
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;
use tuning_db::GcOptions;

#[derive(Debug, clap::Args)]
pub struct MergeArguments {
    /// Other databases
    #[arg(required = true)]
    other: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct GcArguments {
    /// Only what was measured longer ago
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = quantity::duration)]
    older: Duration,
    /// Configs kept per task, device and share, fastest first
    #[arg(long, value_name = "N", default_value = "3")]
    keep: usize,
    /// Empty the quarantine too
    #[arg(long)]
    quarantine: bool,
    /// Say what would be dropped
    #[arg(long)]
    dry_run: bool,
    /// Drop even more than half of all observations
    #[arg(long)]
    force: bool,
}

pub fn merge(arguments: &MergeArguments, database: &Database, screen: &mut Screen) -> Result<Exit, Failure> {
    let store = database.store(screen)?;
    let (mut added, mut known, mut conflicts) = (0, 0, 0);
    for other in &arguments.other {
        let report = tuning_db::merge(&store, other).map_err(|error| super::from_store(other, &error))?;
        added += report.added;
        known += report.known;
        conflicts += report.conflicts;
    }
    store.close().map_err(|error| database.failure(&error))?;
    if conflicts > 0 {
        screen.warn("merge", &format!("{conflicts} observations have one id and two contents: kept aside, used by nobody"));
    }
    screen.result(
        || json!({"schema": "db.merge.result", "version": 1, "added": added, "known": known, "conflicts": conflicts}),
        |_| vec![format!("{} observations added, {} known before", show_count(added), show_count(known))],
    );
    Ok(Exit::Done)
}

pub fn gc(arguments: &GcArguments, database: &Database, screen: &mut Screen) -> Result<Exit, Failure> {
    if !database.path.exists() {
        return Ok(database.none(&database.path, screen));
    }
    let options = GcOptions {
        older_s: arguments.older.as_secs(),
        keep: arguments.keep,
        quarantine: arguments.quarantine,
        dry_run: arguments.dry_run,
        force: arguments.force,
        now_s: super::now_s(),
    };
    let report = tuning_db::gc(&database.path, database.options(), options).map_err(|error| database.failure(&error))?;
    if report.needs_force {
        let why = format!("it would drop {} of {} observations, over half", report.dropped, report.observations);
        return Err(Failure::new("usage.force", "db gc", why).remedy("look with --dry-run, then call with --force"));
    }
    screen.result(
        || {
            json!({
                "schema": "db.gc.result", "version": 1, "dry_run": arguments.dry_run, "observations": report.observations, "dropped": report.dropped,
                "journal_before_bytes": report.journal_bytes_before, "journal_after_bytes": report.journal_bytes_after, "quarantine_bytes": report.quarantine_bytes,
            })
        },
        |_| {
            let verb = if arguments.dry_run { "would be dropped" } else { "dropped" };
            vec![format!(
                "{} of {} observations {verb}; journal {} to {}, quarantine {}",
                show_count(report.dropped), show_count(report.observations), show_bytes(report.journal_bytes_before), show_bytes(report.journal_bytes_after), show_bytes(report.quarantine_bytes)
            )]
        },
    );
    Ok(Exit::Done)
}
