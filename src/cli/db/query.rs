//! `db query`: rows as a table, CSV or JSON, with where the answer came from.

use super::Database;
use crate::cli::failure::{Failure, nearest};
use crate::cli::quantity::{show_bytes, show_count, show_time};
use crate::cli::table::{Align, lay_out};
use crate::cli::{Exit, Screen, screen::Paint};
use serde_json::json;
use tuning_db::query::Field;
use tuning_db::query::rows::{Cell, Row, columns, default_columns};
use tuning_db::{Of, Query, Rows};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tunewright db query 'model=resnet50 and share<=50 and p99<5ms'\n  tunewright db query --of tasks 'op=conv2d and ratio_lo>1.5 and noise<=B' --format csv\n  tunewright db query --of failures 'class=wrong_result and age<7d'"
)]
pub struct Arguments {
    /// What to ask, such as 'device~cpu* and batch in (1, 16) order by throughput desc limit 5'
    expression: Vec<String>,
    /// Ask about something else than model records: tasks, trials, devices or failures
    #[arg(long, value_name = "KIND", default_value = "models", value_parser = of)]
    of: Of,
    /// Which columns, in which order
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    columns: Vec<String>,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Leave out the line of names
    #[arg(long)]
    no_header: bool,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Json,
    Jsonl,
    Csv,
}

fn of(text: &str) -> Result<Of, String> {
    Of::parse(text).ok_or_else(|| "it is models, tasks, trials, devices or failures".to_owned())
}

pub fn run(arguments: &Arguments, database: &Database, screen: &mut Screen) -> Result<Exit, Failure> {
    let text = arguments.expression.join(" ");
    let query = Query::parse(&text).map_err(|error| {
        let (what, remedy) = error.what.split_once("; ").unwrap_or((&error.what, ""));
        Failure::new("usage.query", format!("query, column {}", error.column), what)
            .at(format!("\"{}\"", error.near))
            .remedy(remedy)
    })?;
    let query = query.of(arguments.of).at(super::now_s());
    let shown = shown(arguments)?;
    let Some(reader) = database.reader(screen)? else { return Ok(Exit::No) };
    let rows = reader.query(&query).map_err(|error| database.failure(&error))?;
    if screen.json.is_some() || arguments.format == Format::Json {
        let mut object = json!({"schema": "db.query.result", "version": 1, "query": text});
        if let (Some(object), serde_json::Value::Object(answer)) = (object.as_object_mut(), rows.to_json()) {
            object.extend(answer);
        }
        if screen.json.is_some() {
            screen.result(|| object, |_| Vec::new());
        } else {
            screen.object(object);
        }
    } else {
        print(arguments, screen, &rows, &shown);
    }
    Ok(if rows.rows.is_empty() { Exit::No } else { Exit::Done })
}

/// The columns asked for, or the usual ones.
fn shown(arguments: &Arguments) -> Result<Vec<Field>, Failure> {
    let known = columns(arguments.of);
    let find = |name: &String| {
        known.iter().copied().find(|field| field.name() == name).ok_or_else(|| {
            let names = || known.iter().map(|field| field.name());
            let remedy = nearest(name, names()).map(|near| format!("did you mean {near}?"));
            let remedy = remedy.unwrap_or_else(|| format!("there are {}", names().collect::<Vec<_>>().join(", ")));
            Failure::new("usage.query", format!("--columns {name}"), "no such column").remedy(remedy)
        })
    };
    if arguments.columns.is_empty() {
        Ok(default_columns(arguments.of).to_vec())
    } else {
        arguments.columns.iter().map(find).collect()
    }
}

fn print(arguments: &Arguments, screen: &mut Screen, rows: &Rows, shown: &[Field]) {
    let places: Vec<usize> = shown.iter().filter_map(|&field| rows.column(field)).collect();
    match arguments.format {
        Format::Csv => {
            if !arguments.no_header {
                screen.line(&shown.iter().map(|field| csv(field.header())).collect::<Vec<_>>().join(","));
            }
            for row in &rows.rows {
                let cells: Vec<String> = places.iter().map(|&at| csv(&row.cells[at].plain())).collect();
                screen.line(&cells.join(","));
            }
        }
        Format::Jsonl => {
            if let Some(list) = rows.to_json()["rows"].as_array() {
                for row in list {
                    screen.line(&row.to_string());
                }
            }
        }
        Format::Table | Format::Json => {
            let mut lines = Vec::new();
            if !arguments.no_header && !rows.rows.is_empty() {
                lines.push(shown.iter().map(|field| screen.paint(Paint::Dim, field.name())).collect());
            }
            lines.extend(rows.rows.iter().map(|row| line(screen, row, &places)));
            let right = |at: &usize| rows.rows.iter().all(|row| !matches!(row.cells[*at], Cell::Text(_)));
            let align: Vec<Align> = places.iter().map(|at| if right(at) { Align::Right } else { Align::Left }).collect();
            for line in lay_out(&lines, &align) {
                screen.text(&line);
            }
            footer(screen, rows);
        }
    }
}

fn line(screen: &Screen, row: &Row, places: &[usize]) -> Vec<String> {
    let mut cells: Vec<String> = places.iter().map(|&at| cell(screen, &row.cells[at])).collect();
    if row.stale {
        let why = row
            .notes
            .iter()
            .find(|(name, _)| name == "stale_why")
            .map_or("stale".to_owned(), |(_, why)| format!("stale ({why})"));
        cells.push(why);
    } else if row.refused {
        cells.push("refused".to_owned());
    }
    cells
}

/// A cell for people.
fn cell(screen: &Screen, cell: &Cell) -> String {
    match cell {
        Cell::Null(_) => screen.sign("–", "-").to_owned(),
        Cell::Text(text) => crate::cli::failure::escape(text),
        Cell::Number(number) => number.to_string(),
        Cell::Bytes(bytes) => show_bytes(*bytes),
        Cell::Energy(energy) => format!("{energy} mJ"),
        Cell::Ratio(ppm) => format!("{:.2}{}", *ppm as f64 * 1e-6, screen.sign("×", "x")),
        Cell::Share(mille) => format!("{} %", f64::from(*mille) / 10.0),
        Cell::Time(time) => show_time(*time),
        Cell::Rate(milli) => format!("{:.1} /s", *milli as f64 * 1e-3),
        Cell::Date(_) => cell.plain(),
    }
}

fn footer(screen: &mut Screen, rows: &Rows) {
    let from = match rows.source.map(|source| source.name()) {
        Some("B") => ", live from the process that writes".to_owned(),
        Some("C") => format!(", from the snapshot and the journal, at most {} ms old", rows.stale_by_ms),
        _ => String::new(),
    };
    let count = rows.rows.len() as u64;
    let noun = if count == 1 { "row" } else { "rows" };
    screen.note(&format!("{} {noun}; generation {}{from}", show_count(count), rows.generation));
}

/// A field of CSV as RFC 4180 has it.
fn csv(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}
