//! `db stat`: what is in the database.

use super::{Database, show_age};
use crate::cli::failure::{Failure, escape};
use crate::cli::quantity::{show_bytes, show_count};
use crate::cli::table::{Align, lay_out};
use crate::cli::{Exit, Screen};
use serde_json::json;
use tuning_db::lock::rfc3339;
use tuning_db::{StatReport, stat};

#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub fn run(_: &Arguments, database: &Database, screen: &mut Screen) -> Result<Exit, Failure> {
    let Some(reader) = database.reader(screen)? else { return Ok(Exit::No) };
    let report = stat(&reader).map_err(|error| database.failure(&error))?;
    screen.result(
        || {
            let device = |device: &stat::DeviceStat| {
                json!({
                    "name": device.name, "trials": device.trials, "finals": device.finals, "models": device.models, "failures": device.failures,
                    "stale": device.stale, "stale_why": device.stale_why,
                })
            };
            let environment = |found: &stat::EnvironmentStat| {
                json!({
                    "device": found.device, "environment_text": found.environment, "stale": found.stale, "observations": found.observations,
                    "oldest": rfc3339(found.first_s), "newest": rfc3339(found.last_s),
                })
            };
            json!({
                "schema": "db.stat.result", "version": 1, "path": database.path.display().to_string(), "generation": report.generation.to_string(),
                "observations": report.observations, "tasks": report.tasks, "models": report.models, "writers": report.writers,
                "conflicts": report.conflicts, "measured_ns": report.measured_ns, "journal_bytes": report.journal_bytes,
                "index_bytes": report.index_bytes, "snapshot_bytes": report.snapshot_bytes, "quarantine_bytes": report.quarantine_bytes,
                "oldest": report.first_s.map(rfc3339), "newest": report.last_s.map(rfc3339),
                "devices": report.devices.iter().map(device).collect::<Vec<_>>(),
                "environments": report.environments.iter().map(environment).collect::<Vec<_>>(),
            })
        },
        |_| {
            let fact = |name: &str, value: String| vec![name.to_owned(), value];
            let mut lines = lay_out(
                &[
                    fact("database", format!("{}, generation {}", database.path.display(), report.generation)),
                    fact("observations", format!("{} of {} tasks and {} models, by {} writers", show_count(report.observations), show_count(report.tasks), show_count(report.models), report.writers)),
                    fact("age", age(&report)),
                    fact("measured", format!("{:.1} s, which nobody needs to measure again", report.measured_ns as f64 * 1e-9)),
                    fact("size", format!("journal {}, index {}, snapshots {}, quarantine {}", show_bytes(report.journal_bytes), show_bytes(report.index_bytes), show_bytes(report.snapshot_bytes), show_bytes(report.quarantine_bytes))),
                ],
                &[Align::Left; 2],
            );
            let head = ["device", "trials", "finals", "models", "failures", "stale"].map(str::to_owned).to_vec();
            let row = |device: &stat::DeviceStat| {
                let why: Vec<String> = device.stale_why.iter().map(|(why, count)| format!("{count} {}", escape(why))).collect();
                let stale = if device.stale == 0 { "0".to_owned() } else { format!("{} ({})", device.stale, why.join(", ")) };
                vec![device.name.clone(), show_count(device.trials), show_count(device.finals), show_count(device.models), show_count(device.failures), stale]
            };
            let rows: Vec<_> = std::iter::once(head).chain(report.devices.iter().map(row)).collect();
            let right = Align::Right;
            lines.extend(lay_out(&rows, &[Align::Left, right, right, right, right, Align::Left]));
            let head = ["device", "observations", "newest", "oldest", "environment"].map(str::to_owned).to_vec();
            let row = |found: &stat::EnvironmentStat| {
                let stale = if found.stale { "stale: " } else { "fresh: " };
                let environment = format!("{stale}{}", escape(&found.environment.replace('\n', ", ")));
                vec![found.device.clone(), show_count(found.observations), show_age(found.last_s), show_age(found.first_s), environment]
            };
            let rows: Vec<_> = std::iter::once(head).chain(report.environments.iter().map(row)).collect();
            lines.extend(lay_out(&rows, &[Align::Left, right, right, right, Align::Left]));
            lines
        },
    );
    Ok(Exit::Done)
}

/// Since when and until when was measured, by the clocks of the machines.
fn age(report: &StatReport) -> String {
    let (Some(first), Some(last)) = (report.first_s, report.last_s) else { return "nothing was measured".to_owned() };
    format!("newest {} ({}), oldest {} ({})", rfc3339(last), show_age(last), rfc3339(first), show_age(first))
}
