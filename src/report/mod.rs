//! Self-contained pages: about a tuning (what was gained, where the time goes, how steady the machine was, what was refused), and about a
//! simulation (what ran where and why).
//!
//! Values in, a string out. A page loads nothing and runs no script; a policy in its head says so. Every text that came from a file
//! is escaped. No figure is computed here that is not in what is handed in, but for ratios of two of them.

mod charts;
mod page;
mod parts;
mod timeline;

pub use page::html;
pub use timeline::{Part, Run, Served, Timeline, Worker, html as timeline_html};

use schema::{Batch, FailureClass, NoiseGrade, Picos, Ratio, Share};

/// Everything the page shows.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// `resnet50.onnx`, or several.
    pub title: String,
    /// Facts about the run, in the order to show: machine, budget, seed, tool version, database generation …
    pub facts: Vec<(String, String)>,
    pub latencies: Vec<Latency>,
    pub tasks: Vec<TaskGain>,
    pub refused: Vec<Refused>,
    /// What work that never changes took in each round of the measurement, in the order of time.
    pub sentinels: Vec<Picos>,
}

/// A model at one batch on one share of a device, before and after.
#[derive(Clone, Debug)]
pub struct Latency {
    pub model: String,
    pub device: String,
    pub share: Share,
    pub batch: Batch,
    pub default: Picos,
    pub tuned: Picos,
    pub p99: Picos,
    pub ratio: Option<Ratio>,
    pub grade: NoiseGrade,
}

/// A task and what tuning did for it.
#[derive(Clone, Debug)]
pub struct TaskGain {
    /// The task's text.
    pub task: String,
    pub share: Share,
    /// How often it occurs in the models.
    pub count: u32,
    pub default: Picos,
    pub tuned: Picos,
    pub ratio: Option<Ratio>,
    /// The text of the config chosen.
    pub config: String,
    /// Configs tried.
    pub trials: u32,
    pub kept_default: bool,
}

/// A candidate that has no time.
#[derive(Clone, Debug)]
pub struct Refused {
    pub task: String,
    pub config: String,
    pub share: Share,
    pub class: FailureClass,
    pub detail: String,
}
