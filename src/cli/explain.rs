//! `tunewright explain`: which placement a request would get and why each rival lost, what rates keep a deadline, the width of the graph,
//! the ladder over shares, and per task the config.

mod ladder;
mod sizing;

use super::failure::escape;
use super::quantity::{self, show_time};
use super::table::{Align, lay_out};
use super::{
    Exit, Failure, Global, Screen,
    model::{self, OpenFlags},
    screen::Paint,
    settings,
};
use crate::artifact::{Artifact, Entry, Opening};
use crate::device::Machine;
use crate::session::{Decision, Evidence, Prediction, Session, SessionError};
use schema::{Batch, Outcome, Picos, Share, Subject};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tunewright explain resnet50.tune --deadline 15ms\n  tunewright explain resnet50.tune --qps 200\n  tunewright explain resnet50.tune --task conv2d"
)]
pub struct Arguments {
    /// An artifact
    file: PathBuf,
    /// The device
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: String,
    /// When the answer is wanted; also shows for each share with records of several batches which rate keeps it
    #[arg(long, value_name = "TIME", value_parser = quantity::duration)]
    deadline: Option<Duration>,
    /// Requests a second: which placements keep up with them
    #[arg(long, value_name = "N", value_parser = quantity::positive)]
    qps: Option<f64>,
    /// Rows of the request [default: the smallest batch tuned]
    #[arg(long, value_name = "N", value_parser = quantity::batch)]
    batch: Option<Batch>,
    /// Show the tasks whose text contains this: config, and what each of the portfolio costs at every share
    #[arg(long, value_name = "TEXT")]
    task: Option<String>,
    #[command(flatten)]
    open: OpenFlags,
}

pub fn run(arguments: &Arguments, global: &Global, screen: &mut Screen) -> Result<Exit, Failure> {
    let path = &arguments.file;
    let opening = arguments.open.opening();
    let artifact = model::open_artifact(path, opening)?;
    let machine = super::devices::open(&arguments.device)?;
    let session = open(path, &arguments.device, opening, settings::database_of_records(global, &screen.settings))?;
    let name = artifact.provenance().model_name.clone();
    let smallest = artifact.shapes().map(|(batch, _)| batch).min().unwrap_or(Batch::ONE);
    let batch = arguments.batch.unwrap_or(smallest);
    let decision = session.place(&name, batch, arguments.deadline, None).map_err(|error| from_session(path, &error))?;
    let tasks: Vec<(&Entry, String, String)> = match &arguments.task {
        None => Vec::new(),
        Some(text) => artifact
            .entries()
            .iter()
            .flat_map(|entry| entry.configs.iter().map(move |(task, config)| (entry, task.to_string(), config.to_string())))
            .filter(|(_, task, _)| task.contains(text.as_str()))
            .collect(),
    };
    let ladders = match settings::database_of_records(global, &screen.settings).filter(|_| !tasks.is_empty()) {
        Some(database) => ladder::of_tasks(&tasks, &database)?,
        None => Vec::new(),
    };
    let within = match arguments.deadline {
        Some(deadline) => sizing::rates(path, &artifact, deadline)?,
        None => Vec::new(),
    };
    let graph = artifact.shapes().position(|(of, _)| of == decision.batch).map(|at| artifact.outline(at));
    let division = graph.and_then(|graph| sizing::division(graph, &machine));
    screen.result(
        || {
            let mut object = object(arguments, &artifact, &decision, &machine, &tasks, &ladders);
            object["rates"] = sizing::rate_objects(&within).into();
            object["width"] = division.as_ref().map(sizing::Division::object).into();
            if division.is_none() {
                object["width_why"] = "no host whose cores could be divided, or no graph of that batch".into();
            }
            object
        },
        |screen| {
            let mut lines = head(arguments, &decision, screen);
            lines.extend(rates(arguments, &decision, &machine));
            lines.extend(arguments.deadline.iter().flat_map(|&deadline| sizing::rate_lines(&within, deadline)));
            lines.extend(division.as_ref().map(sizing::Division::line));
            lines.extend(ladder(&artifact));
            for (entry, task, config) in &tasks {
                lines.push(format!("  {} share {}, batch {}: {}", entry.device.name, entry.share, entry.batch, escape(task)));
                lines.push(format!("      {}", escape(config)));
            }
            lines.extend(ladders.iter().flat_map(ladder::Ladder::lines));
            lines
        },
    );
    Ok(if tasks.is_empty() && arguments.task.is_some() { Exit::No } else { Exit::Done })
}

/// Opens a session over one artifact and, if there is one, the database of the records it predicts from.
pub fn open(path: &Path, device: &str, opening: Opening, database: Option<PathBuf>) -> Result<Session, Failure> {
    super::devices::open(device)?;
    let builder = Session::builder().artifact(path).device(device).opening(opening);
    let builder = if let Some(database) = database { builder.database(database) } else { builder };
    builder.open().map_err(|error| from_session(path, &error))
}

/// Why the session refuses.
pub fn from_session(path: &Path, error: &SessionError) -> Failure {
    match error {
        SessionError::Artifact(error) => model::from_artifact(path, error),
        SessionError::Database(error) => super::db::from_store(&error.path, &error.source),
        SessionError::Share(error) => super::devices::from_grant(error),
        SessionError::Plan { source, .. } => super::run::from_plan(path, source),
        SessionError::NoGraph { .. } => {
            let text = error.to_string();
            let (why, remedy) =
                text.split_once("; tune").map_or((text.as_str(), String::new()), |(why, rest)| (why, format!("tune{rest}")));
            Failure::new("artifact.untuned", path.display(), why).remedy(remedy)
        }
        SessionError::Device(_) => Failure::new("device.unknown", path.display(), error),
        SessionError::Threads(_) => Failure::new("machine.threads", "cannot start threads", error),
        SessionError::UnknownModel { .. } | SessionError::TwoOfAName { .. } | SessionError::Run { .. } => {
            Failure::new("input.shape_mismatch", path.display(), error)
        }
    }
}

fn predicted(prediction: Option<Prediction>) -> String {
    match prediction {
        None => "no record".to_owned(),
        Some(Prediction { time, evidence: Evidence::Artifact }) => show_time(time),
        Some(Prediction { time, evidence: Evidence::Database }) => format!("{} by the database", show_time(time)),
    }
}

/// The choice and its rivals.
fn head(arguments: &Arguments, decision: &Decision, screen: &Screen) -> Vec<String> {
    let deadline = arguments
        .deadline
        .map_or_else(String::new, |deadline| format!(", deadline {}", show_time(Picos::from_secs_f64(deadline.as_secs_f64()))));
    let mut lines = vec![format!("{}, batch {}{deadline}, devices idle", escape(&decision.model), decision.batch)];
    let verdict = match decision.keeps_deadline {
        Some(true) => "meets the deadline; nothing is faster",
        Some(false) => "misses the deadline; nothing meets it",
        None => "the fastest",
    };
    let mut rows = vec![vec![
        "  chosen".to_owned(),
        screen.paint(Paint::Bold, &format!("{} share {}", decision.device, decision.share)),
        predicted(decision.predicted),
        format!("{verdict} ({})", decision.rung),
    ]];
    for (i, rival) in decision.rivals.iter().enumerate() {
        let head = if i == 0 { "  rivals" } else { "" };
        rows.push(vec![
            head.to_owned(),
            format!("{} share {}", rival.device, rival.share),
            predicted(rival.predicted),
            rival.why.to_string(),
        ]);
    }
    lines.extend(lay_out(&rows, &[Align::Left, Align::Left, Align::Right, Align::Left]));
    lines
}

/// Requests a second that a placement serves when all parts of the device of its size are busy; `None` without a record.
fn capacity(machine: &Machine, share: Share, predicted: Option<Prediction>) -> Option<f64> {
    let seconds = predicted.map(|prediction| prediction.time.as_secs_f64()).filter(|&seconds| seconds > 0.0)?;
    Some(machine.slots(share) as f64 / seconds)
}

/// Which placements keep up with `--qps`.
fn rates(arguments: &Arguments, decision: &Decision, machine: &Machine) -> Vec<String> {
    let Some(wanted) = arguments.qps else { return Vec::new() };
    let placements = std::iter::once((decision.share, decision.predicted));
    let placements = placements.chain(decision.rivals.iter().map(|rival| (rival.share, rival.predicted)));
    let row = |(share, predicted)| {
        let most = capacity(machine, share, predicted)?;
        let verdict = if most >= wanted { "keeps up" } else { "falls behind" };
        Some(vec![
            format!("  at {wanted} /s"),
            format!("share {share}"),
            verdict.to_owned(),
            format!("{} at once serve {most:.1} /s", machine.slots(share)),
        ])
    };
    lay_out(&placements.filter_map(row).collect::<Vec<_>>(), &[Align::Left; 4])
}

/// What each batch costs at each share, from the artifact's records.
fn ladder(artifact: &Artifact) -> Vec<String> {
    let mut rows = vec![["  ladder", "share", "batch", "default", "tuned", "evidence"].map(str::to_owned).to_vec()];
    for entry in artifact.entries() {
        let Some(record) = entry.record.and_then(|record| artifact.records().get(record)) else { continue };
        let (Subject::Model(model), Outcome::Ok { timing, ratio }) = (&record.subject, &record.outcome) else { continue };
        let interval = ratio.map_or_else(String::new, |r| {
            format!(", {:.2} to {:.2} times the default's speed", r.lo_ppm as f64 * 1e-6, r.hi_ppm as f64 * 1e-6)
        });
        rows.push(vec![
            format!("  {}", entry.device.name),
            format!("{} %", entry.share),
            entry.batch.to_string(),
            show_time(model.default.median),
            show_time(timing.median),
            format!(
                "{} samples, noise {:?}, units {} by {}{interval}",
                timing.n,
                timing.grade,
                entry.grant.units,
                entry.grant.mechanism.replace('_', " ")
            ),
        ]);
    }
    let right = Align::Right;
    lay_out(&rows, &[Align::Left, right, right, right, right, Align::Left])
}

fn object(
    arguments: &Arguments,
    artifact: &Artifact,
    decision: &Decision,
    machine: &Machine,
    tasks: &[(&Entry, String, String)],
    ladders: &[ladder::Ladder],
) -> Value {
    let nanos = |prediction: Option<Prediction>| prediction.map(|prediction| prediction.time.as_nanos());
    let by = |prediction: Option<Prediction>| prediction.map(|prediction| prediction.evidence.to_string());
    let rival = |rival: &crate::session::Rival| {
        json!({
            "device": rival.device.0, "share_pct": rival.share.as_percent(), "batch": rival.batch.rows(), "rung": rival.rung.to_string(),
            "predicted_ns": nanos(rival.predicted), "predicted_by": by(rival.predicted), "capacity_per_s": capacity(machine, rival.share, rival.predicted),
            "why": rival.why.to_string(),
        })
    };
    json!({
        "schema": "explain.result", "version": 1, "file": arguments.file.display().to_string(), "model": decision.model,
        "deadline_ns": arguments.deadline.map(|deadline| u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX)),
        "chosen": {
            "device": decision.device.0, "share_pct": decision.share.as_percent(), "batch": decision.batch.rows(), "rung": decision.rung.to_string(),
            "predicted_ns": nanos(decision.predicted), "predicted_by": by(decision.predicted),
            "capacity_per_s": capacity(machine, decision.share, decision.predicted),
            "keeps_deadline": decision.keeps_deadline, "tuned_tasks": decision.tuned,
        },
        "qps": arguments.qps, "rivals": decision.rivals.iter().map(rival).collect::<Vec<_>>(), "entries": artifact.entries().len(),
        "tasks": tasks.iter().map(|(entry, task, config)| json!({"device": entry.device.name.0, "share_pct": entry.share.as_percent(), "batch": entry.batch.rows(), "task": task, "config": config})).collect::<Vec<_>>(),
        "ladders": ladders.iter().map(ladder::Ladder::object).collect::<Vec<_>>(),
    })
}
