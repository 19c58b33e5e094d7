//! The ladder of a task over the shares of a device: the config chosen at each, and what each config of the task's portfolio costs there.

use crate::artifact::Entry;
use crate::cli::db;
use crate::cli::failure::{Failure, escape};
use crate::cli::quantity::show_time;
use crate::cli::table::{Align, lay_out};
use crate::tune::portfolio::{self, Portfolio, Times};
use schema::{Config, Device, Numerics, Observation, Picos, Share, TaskKey};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tuning_db::key;
use tuning_db::reader::Source;
use tuning_db::tables::Tables;
use tuning_db::{Reader, StoreError};

/// A task on a device, at every share there are times of.
pub struct Ladder {
    device: Device,
    task: String,
    portfolio: Portfolio,
    steps: Vec<Step>,
}

/// A share.
struct Step {
    share: Share,
    /// In the artifact; `None` where that keeps the default plan, or has no entry.
    chosen: Option<String>,
    best: Picos,
    /// Time and regret of each config of the portfolio.
    costs: Vec<Option<(Picos, f64)>>,
}

/// The ladders of tasks of an artifact, from the trials that a database has in the environments of the artifact's entries. A database that
/// is not there yet has none.
///
/// # Errors
/// [`Failure`] when the database cannot be read.
pub fn of_tasks(tasks: &[(&Entry, String, String)], database: &Path) -> Result<Vec<Ladder>, Failure> {
    let from_store = |error: StoreError| db::from_store(database, &error);
    let reader = match Reader::open(database, Source::Auto) {
        Ok(reader) => reader,
        Err(StoreError::Missing { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(from_store(error)),
    };
    let mut chosen: BTreeMap<(&str, &str), (&Entry, BTreeMap<Share, &str>)> = BTreeMap::new();
    for (entry, task, config) in tasks {
        let (_, shares) = chosen.entry((&entry.device.name.0, task)).or_insert_with(|| (entry, BTreeMap::new()));
        shares.insert(entry.share, config);
    }
    let mut ladders = Vec::new();
    for ((_, task), (entry, chosen)) in chosen {
        let prefix = key::trial_prefix(TaskKey::of(task).0);
        let all = reader.tables(&|index| Tables(index).observations(prefix.as_ref())).map_err(from_store)?;
        let fresh = |one: &&Observation| {
            let here = one.device == entry.device.key() && one.environment == entry.environment.key();
            here && one.numerics == Numerics::Strict
        };
        let times = portfolio::times(all.iter().filter(fresh));
        if !times.is_empty() {
            ladders.push(Ladder::new(&entry.device, task, &times, &chosen));
        }
    }
    Ok(ladders)
}

impl Ladder {
    fn new(device: &Device, task: &str, times: &Times, chosen: &BTreeMap<Share, &str>) -> Ladder {
        let portfolio = portfolio::portfolio(times);
        let cost = |share: Share, config: &Config| {
            let regret = portfolio::regret_ppm(times, share, config)? as f64 * 1e-6;
            Some((*times[&share].get(config)?, regret))
        };
        let step = |(&share, timed): (&Share, &BTreeMap<Config, Picos>)| Step {
            share,
            chosen: chosen.get(&share).map(|config| (*config).to_owned()),
            best: timed.values().min().copied().unwrap_or_default(),
            costs: portfolio.configs.iter().map(|config| cost(share, config)).collect(),
        };
        let steps = times.iter().map(step).collect();
        Ladder { device: device.clone(), task: task.to_owned(), portfolio, steps }
    }

    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let regret = self.portfolio.regret_ppm as f64 * 1e-6;
        let mut lines = vec![format!("  {} over shares, worst regret {regret:.2}: {}", self.device.name, escape(&self.task))];
        let named = |at: usize| format!("config {}", at + 1);
        for (at, config) in self.portfolio.configs.iter().enumerate() {
            lines.push(format!("      {}  {}", named(at), escape(&config.to_string())));
        }
        let head = ["      share".to_owned(), "best".to_owned()];
        let mut rows =
            vec![head.into_iter().chain((0..self.portfolio.configs.len()).map(named)).chain(["chosen".to_owned()]).collect()];
        for step in &self.steps {
            let cost = |cost: &Option<(Picos, f64)>| {
                cost.map_or_else(|| "not timed".to_owned(), |(time, regret)| format!("{} ({regret:.2})", show_time(time)))
            };
            let mut row = vec![format!("      {} %", step.share), show_time(step.best)];
            row.extend(step.costs.iter().map(cost));
            row.push(self.name_of(step));
            rows.push(row);
        }
        let align: Vec<Align> = std::iter::repeat_n(Align::Right, self.portfolio.configs.len() + 2).collect();
        lines.extend(lay_out(&rows, &align));
        lines
    }

    /// The chosen config, by its number in the portfolio where it is there.
    fn name_of(&self, step: &Step) -> String {
        let Some(chosen) = &step.chosen else { return "no config in the artifact".to_owned() };
        let at = self.portfolio.configs.iter().position(|config| config.to_string() == *chosen);
        at.map_or_else(|| escape(chosen), |at| format!("config {}", at + 1))
    }

    /// For programs.
    pub fn object(&self) -> Value {
        let cost = |cost: &Option<(Picos, f64)>| json!({"time_ns": cost.map(|(time, _)| time.as_nanos()), "regret": cost.map(|(_, regret)| regret)});
        let step = |step: &Step| {
            json!({
                "share_pct": step.share.as_percent(), "chosen": step.chosen, "best_ns": step.best.as_nanos(),
                "portfolio": step.costs.iter().map(cost).collect::<Vec<_>>(),
            })
        };
        json!({
            "device": self.device.name.0, "task": self.task, "portfolio": self.portfolio.configs.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "regret": self.portfolio.regret_ppm as f64 * 1e-6, "unserved_shares": self.portfolio.unserved,
            "shares": self.steps.iter().map(step).collect::<Vec<_>>(),
        })
    }
}
