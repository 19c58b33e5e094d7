//! `db show`: one record in full, what else was seen of the same thing, and what it is part of; or what a key stands for.

use super::Database;
use crate::cli::failure::{Failure, escape};
use crate::cli::quantity::{show_count, show_time};
use crate::cli::table::{Align, lay_out};
use crate::cli::{Exit, Screen};
use schema::{Observation, Outcome, Subject};
use serde_json::{Value, json};
use std::cell::RefCell;
use tuning_db::Query;
use tuning_db::history::{Account, Seen, Use, account};
use tuning_db::index::{Flow, Index};
use tuning_db::lock::rfc3339;
use tuning_db::query::eval;
use tuning_db::tables::Tables;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tunewright db show 3f2a…:17\n  tunewright db show 9c1e04…")]
pub struct Arguments {
    /// The id of a record (as db query --json has it), or the key of a task or model
    #[arg(required = true)]
    id: Vec<String>,
}

/// What an id stands for.
enum Found {
    Name { key: String, text: String },
    Record(Box<Account>),
}

pub fn run(arguments: &Arguments, database: &Database, screen: &mut Screen) -> Result<Exit, Failure> {
    let Some(reader) = database.reader(screen)? else { return Ok(Exit::No) };
    let everything = Query::parse("").map_err(|error| Failure::new("bug.query", error, ""))?;
    let mut missing = false;
    let mut found = Vec::new();
    for id in &arguments.id {
        let of_id = RefCell::new(Vec::new());
        let ask = |index: &dyn Index| {
            let mut of_id = of_id.borrow_mut();
            of_id.clear();
            if let Some(text) = schema::TaskKey::parse(id).map(|key| Tables(index).name(key.0)).transpose()?.flatten() {
                of_id.push(Found::Name { key: id.clone(), text });
            }
            let mut observations = Vec::new();
            eval::observations(index, &everything, &mut |observation| {
                let text = observation.id.to_string();
                if text == *id || (id.len() >= 8 && text.starts_with(id.as_str())) {
                    observations.push(observation);
                }
                Ok(Flow::Continue(()))
            })?;
            for observation in observations {
                of_id.push(Found::Record(Box::new(account(Tables(index), observation)?)));
            }
            Ok(())
        };
        reader.tables(&ask).map_err(|error| database.failure(&error))?;
        let of_id = of_id.into_inner();
        if of_id.is_empty() {
            screen.note(&format!("nothing has the id or key {}", escape(id)));
            missing = true;
        }
        found.extend(of_id);
    }
    screen.result(
        || json!({"schema": "db.show.result", "version": 1, "records": found.iter().map(object).collect::<Vec<_>>()}),
        |_| found.iter().flat_map(lines).collect(),
    );
    Ok(if missing { Exit::No } else { Exit::Done })
}

/// The record as it is stored.
fn stored(found: &Found) -> Value {
    match found {
        Found::Name { key, text } => json!({"key": key, "text": text}),
        Found::Record(account) => serde_json::to_value(&account.seen.observation).unwrap_or_default(),
    }
}

fn object(found: &Found) -> Value {
    let mut object = stored(found);
    if let (Found::Record(account), Some(object)) = (found, object.as_object_mut()) {
        let Account { seen, history, uses } = &**account;
        object.insert("environment_text".into(), seen.environment.clone().into());
        object.insert("stale".into(), seen.stale.into());
        object.insert("generation".into(), seen.generation.map(|generation| generation.to_string()).into());
        object.insert("history".into(), history.iter().map(past).collect());
        object.insert("used_by".into(), uses.iter().map(use_object).collect());
    }
    object
}

fn past(seen: &Seen) -> Value {
    let observation = &seen.observation;
    let (median, ratio, failure) = match &observation.outcome {
        Outcome::Ok { timing, ratio } => (Some(timing.median.as_nanos()), ratio.map(|ratio| ratio.ppm as f64 * 1e-6), None),
        Outcome::Failed { class, .. } => (None, None, Some(class.name())),
    };
    json!({
        "id": observation.id.to_string(), "kind": kind(observation), "measured_at": rfc3339(observation.wall_clock_s),
        "environment_text": seen.environment, "stale": seen.stale, "generation": seen.generation.map(|generation| generation.to_string()),
        "median_ns": median, "ratio": ratio, "failure": failure, "tool_version": observation.tool_version,
    })
}

fn use_object(one: &Use) -> Value {
    match one {
        Use::Best { rank, of, best } => json!({
            "as": "best", "rank": rank, "of": of, "median_ns": best.found.timing.median.as_nanos(), "observations": best.found.observations,
        }),
        Use::ModelRow => json!({"as": "model_record"}),
    }
}

fn kind(observation: &Observation) -> &'static str {
    match &observation.subject {
        Subject::Trial { .. } => "trial",
        Subject::Final { .. } => "final",
        Subject::Model(_) => "model",
    }
}

fn lines(found: &Found) -> Vec<String> {
    let text = serde_json::to_string_pretty(&stored(found)).unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(escape).collect();
    let Found::Record(account) = found else { return lines };
    let Account { seen, history, uses } = &**account;
    let generation = seen.generation.map_or("not published yet".to_owned(), |generation| format!("generation {generation}"));
    let age = super::show_age(seen.observation.wall_clock_s);
    lines.push(format!("measured {} ({age}), {generation}, in {}", rfc3339(seen.observation.wall_clock_s), where_(seen)));
    for one in uses {
        lines.push(match one {
            Use::Best { rank, of, best } => format!(
                "used by the tuner: number {rank} of {of} configs of its task here, {} from {} observations",
                show_time(best.found.timing.median),
                show_count(u64::from(best.found.observations))
            ),
            Use::ModelRow => "used as the record of its model here: db query and the scheduler get this one".to_owned(),
        });
    }
    if uses.is_empty() {
        lines.push("used by nothing: it failed, or others are faster or newer".to_owned());
    }
    lines.push(format!("history: {} other observations of the same here", show_count(history.len() as u64)));
    let row = |seen: &Seen| {
        let observation = &seen.observation;
        let result = match &observation.outcome {
            Outcome::Ok { timing, .. } => format!("{} {}", show_time(timing.median), timing.grade.name()),
            Outcome::Failed { class, .. } => class.name().to_owned(),
        };
        vec![
            format!("  {}", rfc3339(observation.wall_clock_s)),
            kind(observation).to_owned(),
            result,
            observation.id.to_string(),
            where_(seen),
        ]
    };
    lines.extend(lay_out(&history.iter().map(row).collect::<Vec<_>>(), &[Align::Left, Align::Left, Align::Right, Align::Left]));
    lines
}

/// An environment for people.
fn where_(seen: &Seen) -> String {
    let stale = if seen.stale { "stale: " } else { "" };
    format!("{stale}{}", escape(&seen.environment.replace('\n', ", ")))
}
