//! `db diff`: faster, slower, new, gone.

use super::Database;
use crate::cli::failure::{Failure, escape};
use crate::cli::quantity::show_time;
use crate::cli::table::{Align, lay_out};
use crate::cli::{Exit, Screen, screen::Paint};
use schema::Timing;
use serde_json::json;
use tuning_db::{Change, Side, Verdict, diff};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tunewright db diff @17 @18\n  tunewright db diff driver=575 driver=580\n  tunewright db diff here/db there/db"
)]
pub struct Arguments {
    /// A database, a generation (@17) or a driver (driver=575)
    before: String,
    /// The same
    after: String,
}

pub fn run(arguments: &Arguments, database: &Database, screen: &mut Screen) -> Result<Exit, Failure> {
    let (before, after) = (Side::parse(&arguments.before), Side::parse(&arguments.after));
    let report = diff(&database.path, &before, &after).map_err(|error| database.failure(&error))?;
    let time = |timing: Option<Timing>| timing.map(|timing| timing.median.as_nanos());
    screen.result(
        || {
            let change = |change: &Change| {
                json!({
                    "verdict": change.verdict.name(), "model": change.model, "device": change.device.0, "share_pct": change.share.as_percent(),
                    "batch": change.batch.rows(), "before_ns": time(change.before), "after_ns": time(change.after),
                })
            };
            json!({"schema": "db.diff.result", "version": 1, "changes": report.changes.iter().map(change).collect::<Vec<_>>()})
        },
        |screen| {
            let show = |timing: Option<Timing>| timing.map_or_else(|| "–".to_owned(), |timing| show_time(timing.median));
            let row = |change: &Change| {
                let name = change.verdict.name();
                let word = match change.verdict {
                    Verdict::Faster => screen.paint(Paint::Green, name),
                    Verdict::Slower | Verdict::Gone => screen.paint(Paint::Yellow, name),
                    Verdict::Same | Verdict::New => name.to_owned(),
                };
                let share = format!("share {} %", change.share);
                vec![word, escape(&change.model), change.device.to_string(), share, format!("batch {}", change.batch), show(change.before), show(change.after)]
            };
            let left = Align::Left;
            lay_out(&report.changes.iter().map(row).collect::<Vec<_>>(), &[left, left, left, left, left, Align::Right, Align::Right])
        },
    );
    Ok(if report.differs() { Exit::No } else { Exit::Done })
}
