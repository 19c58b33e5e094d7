//! `db show`: one record in full, or what a key stands for.

use super::Database;
use crate::cli::failure::{Failure, escape};
use crate::cli::{Exit, Screen};
use serde_json::json;
use std::cell::RefCell;
use tuning_db::Query;
use tuning_db::index::{Flow, Index};
use tuning_db::query::eval;
use tuning_db::tables::Tables;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tunewright db show 3f2a…:17\n  tunewright db show 9c1e04…")]
pub struct Arguments {
    /// The id of a record (as db query --json has it), or the key of a task or model
    #[arg(required = true)]
    id: Vec<String>,
}

pub fn run(arguments: &Arguments, database: &Database, screen: &mut Screen) -> Result<Exit, Failure> {
    let Some(reader) = database.reader(screen)? else { return Ok(Exit::No) };
    let everything = Query::parse("").map_err(|error| Failure::new("bug.query", error, ""))?;
    let mut missing = false;
    let mut found = Vec::new();
    for id in &arguments.id {
        let records = RefCell::new(Vec::new());
        let ask = |index: &dyn Index| {
            records.borrow_mut().clear();
            if let Some(name) = schema::TaskKey::parse(id).map(|key| Tables(index).name(key.0)).transpose()?.flatten() {
                records.borrow_mut().push(json!({"key": id, "text": name}));
            }
            eval::observations(index, &everything, &mut |observation| {
                let text = observation.id.to_string();
                if text == *id || (id.len() >= 8 && text.starts_with(id.as_str())) {
                    records.borrow_mut().push(serde_json::to_value(&observation).unwrap_or_default());
                }
                Ok(Flow::Continue(()))
            })
        };
        reader.tables(&ask).map_err(|error| database.failure(&error))?;
        let records = records.into_inner();
        if records.is_empty() {
            screen.note(&format!("nothing has the id or key {}", escape(id)));
            missing = true;
        }
        found.extend(records);
    }
    screen.result(
        || json!({"schema": "db.show.result", "version": 1, "records": found}),
        |_| {
            let text = |record| serde_json::to_string_pretty(record).unwrap_or_default();
            found.iter().flat_map(|record| text(record).lines().map(escape).collect::<Vec<_>>()).collect()
        },
    );
    Ok(if missing { Exit::No } else { Exit::Done })
}
