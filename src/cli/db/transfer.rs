//! `db export` and `db import`: JSONL, a record a line.

use super::Database;
use crate::cli::failure::Failure;
use crate::cli::save::save;
use crate::cli::{Exit, Screen};
use serde_json::json;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use tuning_db::{ImportOptions, Query, StoreError};

#[derive(Debug, clap::Args)]
pub struct ExportArguments {
    /// Which records; all when left out
    expression: Vec<String>,
    /// Where to; stdout when left out
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct ImportArguments {
    /// An export; - is stdin
    file: PathBuf,
    /// Skip and count bad lines
    #[arg(long)]
    keep_going: bool,
}

pub fn export(arguments: &ExportArguments, database: &Database, screen: &mut Screen) -> Result<Exit, Failure> {
    let query = Query::parse(&arguments.expression.join(" ")).map_err(|error| Failure::new("usage.query", error, ""))?;
    if arguments.output.is_none() && screen.json.is_some() {
        return Err(Failure::new("usage.flag", "db export", "stdout is taken by --json").remedy("name a file with -o"));
    }
    let Some(reader) = database.reader(screen)? else { return Ok(Exit::No) };
    let report = match &arguments.output {
        Some(path) => save(path, |mut out| {
            tuning_db::export(&reader, &query, &mut out).map_err(|error| match error {
                StoreError::Full { .. } => Failure::io("write", path, &std::io::ErrorKind::StorageFull.into()),
                error => database.failure(&error),
            })
        })?,
        None => {
            let mut out = screen.writer();
            tuning_db::export(&reader, &query, &mut out).map_err(|error| database.failure(&error))?
        }
    };
    if let Some(path) = &arguments.output {
        let output = path.display().to_string();
        let object = || json!({"schema": "db.export.result", "version": 1, "output": output, "observations": report.observations, "others": report.others});
        screen.result(object, |_| Vec::new());
    }
    screen.note(&format!("{} observations, {} other records", report.observations, report.others));
    Ok(if report.observations == 0 { Exit::No } else { Exit::Done })
}

pub fn import(arguments: &ImportArguments, database: &Database, screen: &mut Screen) -> Result<Exit, Failure> {
    let path = &arguments.file;
    let mut lines: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(BufReader::new(std::io::stdin()))
    } else {
        Box::new(BufReader::new(File::open(path).map_err(|error| Failure::io("open", path, &error))?))
    };
    let store = database.store(screen)?;
    let options = ImportOptions { keep_going: arguments.keep_going };
    let report = tuning_db::import(&store, &mut lines, options).map_err(|error| match error {
        StoreError::Input { .. } => {
            let failure = database.failure(&error);
            Failure { what: path.display().to_string(), why: failure.what.clone(), ..failure }
        }
        _ => database.failure(&error),
    })?;
    store.close().map_err(|error| database.failure(&error))?;
    for (line, why) in &report.refused {
        screen.warn("import", &format!("line {line}: {}", crate::cli::failure::escape(why)));
    }
    screen.result(
        || {
            json!({
                "schema": "db.import.result", "version": 1, "lines": report.lines, "refused": report.refused.len(), "added": report.merged.added,
                "known": report.merged.known, "conflicts": report.merged.conflicts,
            })
        },
        |_| vec![format!("{} lines: {} added, {} known, {} refused", report.lines, report.merged.added, report.merged.known, report.refused.len())],
    );
    Ok(if report.refused.is_empty() { Exit::Done } else { Exit::Partly })
}
