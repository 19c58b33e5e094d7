//! The page of `--report` from what a tuning gave.

use super::progress::Seen;
use crate::report::{Latency, Page, TaskGain};
use crate::tune::{Options, Outcome};
use schema::Picos;

/// Everything the page shows.
pub fn page(outcome: &Outcome, options: &Options, budget: &str, generation: u64, seen: Seen) -> Page {
    let name = |path: &std::path::Path| path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let titles: Vec<String> = outcome.models.iter().map(|tuned| name(&tuned.path)).collect();
    let latencies = outcome.models.iter().flat_map(|tuned| {
        tuned.rows.iter().map(|row| Latency {
            model: tuned.name.clone(),
            device: row.device.clone(),
            share: row.share,
            batch: row.batch,
            default: row.default.median,
            tuned: row.tuned.median,
            p99: row.tuned.p99,
            ratio: row.kept.then_some(row.ratio),
            grade: row.noise,
        })
    });
    let tasks = outcome.models.iter().flat_map(|tuned| {
        tuned.gains.iter().map(|gain| TaskGain {
            task: gain.task.clone(),
            share: gain.share,
            count: gain.count,
            default: gain.default.unwrap_or(Picos(0)),
            tuned: gain.tuned.or(gain.default).unwrap_or(Picos(0)),
            ratio: gain.ratio,
            config: gain.config.to_string(),
            trials: gain.tried,
            kept_default: gain.is_default,
        })
    });
    let machines: Vec<String> =
        options.devices.iter().map(|machine| format!("{}: {}", machine.device.name, machine.summary)).collect();
    let facts = [
        ("machine", machines.join("; ")),
        ("budget", budget.to_owned()),
        ("stopped", outcome.stop.to_string()),
        ("took", format!("{:.1} s", outcome.took.as_secs_f64())),
        ("trials", format!("{} measured, {} reused", outcome.measured, outcome.reused)),
        ("seed", outcome.seed.0.to_string()),
        ("objective", options.objective.to_string()),
        ("strategy", options.strategy.clone()),
        ("largest error allowed", options.max_error.to_string()),
        ("database generation", generation.to_string()),
        ("made by", format!("tunewright {}", env!("CARGO_PKG_VERSION"))),
    ];
    Page {
        title: titles.join(", "),
        facts: facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        latencies: latencies.collect(),
        tasks: tasks.collect(),
        refused: seen.refused,
        sentinels: seen.sentinels,
    }
}
