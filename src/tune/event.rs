//! What a tuning tells while it runs: typed events, for progress and for `--json=lines`.

use super::budget::Stop;
use crate::measure::Phases;
use schema::{Batch, Config, FailureClass, NoiseGrade, ObservationId, Picos, Ratio, Share, Split};
use std::time::Duration;

/// Why a config has no time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub class: FailureClass,
    pub detail: String,
}

/// One thing that happened. Times are since the start.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Before anything is measured.
    Start { models: Vec<String>, tasks: usize, distinct: usize, known: usize, budget: Option<Duration> },
    /// How a model's batch will be computed on a share.
    Split { model: String, batch: Batch, share: Share, split: Split },
    /// A task gets a round of search, or of run-off.
    Task { number: usize, of: usize, task: String, device: String, share: Share },
    /// A config was measured, and its journal ticket is in.
    Trial {
        id: ObservationId,
        task: String,
        config: Config,
        device: String,
        share: Share,
        outcome: Result<(Picos, NoiseGrade), Refusal>,
    },
    /// The candidates of a model's tasks run inside the whole model.
    Rehearsal { number: usize, of: usize, device: String, share: Share },
    /// A config met the default in pairs, alone or inside the whole model; its ticket is in.
    Final { id: ObservationId, task: String, config: Config, device: String, share: Share, outcome: Result<Ratio, Refusal> },
    /// What work that never changes took, round by round: how steady the machine was.
    Sentinels { times: Vec<Picos> },
    /// Slots that measured at once disturbed each other: so many trials are not counted and will be repeated, and fewer slots are used for a
    /// while.
    Disturbed { device: String, share: Share, slots: usize, discarded: u64 },
    /// A config is now the fastest of its task: `gain` of the task, and what that makes of the whole model where it matters most.
    Best { task: String, config: Config, share: Share, gain: f64, model_gain: f64, noise: NoiseGrade },
    /// So many observations are on disk.
    Saved { observations: u64 },
    /// Something the user would want to know.
    Warn { what: String },
    /// A model was measured end to end, tuned against default.
    Result { model: String, device: String, batch: Batch, share: Share, default: Picos, tuned: Picos, ratio: Ratio, kept: bool },
    /// Where the time of all trials went, over all slots.
    Phases { phases: Phases },
    /// The end.
    End { stop: Stop, measured: u64, reused: u64 },
}
