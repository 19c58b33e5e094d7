//! The decision behind an answer: what was chosen, what was predicted, what happened, and why each rival lost.

use super::predict::Facts;
use crate::schedule::{self, Index, Nanos, Refusal, Why};
use schema::{Batch, DeviceName, Share};
use std::fmt;
use std::time::Duration;

pub use crate::placement::Rung;

/// What a prediction comes from.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Records of the tuning database, or of the artifact.
    Records(crate::placement::Evidence),
    /// The runs with which the plan was loaded: nobody measured it at this share before.
    Loading,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Evidence::Records(records) => records.fmt(f),
            Evidence::Loading => f.write_str("loading"),
        }
    }
}

/// Where, when and with whom a request ran, and why there.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// As the scheduler calls it: `bert[seq=128]`.
    pub model: String,
    pub device: DeviceName,
    pub share: Share,
    /// The batch of the graph that ran.
    pub batch: Batch,
    /// How often it ran for the rows.
    pub repeats: u32,
    /// Requests that ran together, and their rows.
    pub requests: usize,
    pub rows: u32,
    pub rung: Rung,
    pub predicted_by: Evidence,
    /// The row it was predicted by takes another time than was recorded; what was seen since is in the prediction.
    pub stale: bool,
    /// From being submitted to the start of the run.
    pub waited: Duration,
    /// From being submitted to the answer.
    pub latency: Duration,
    /// Of the run, from its requests to their answers, without waiting for runs before it on the same engines.
    pub predicted: Duration,
    pub actual: Duration,
    /// Whether the answer came within the deadline of the request; `None` without one.
    pub in_time: Option<bool>,
    /// Runs for this request that a worker took with it when it died.
    pub attempts_lost: u32,
    pub rivals: Vec<Rival>,
}

/// A share or device where the run did not go.
#[derive(Clone, Debug, PartialEq)]
pub struct Rival {
    pub device: DeviceName,
    pub share: Share,
    pub batch: Batch,
    /// When it would have finished, from the start of the run; `None` when nothing could run there.
    pub finish: Option<Duration>,
    /// In words.
    pub why: String,
}

/// What happened to one request of a run.
pub(super) struct Happened {
    pub submitted: Nanos,
    pub spent: Nanos,
    /// Of the request.
    pub deadline: Nanos,
    pub now: Nanos,
    pub attempts_lost: u32,
}

fn duration(nanos: Nanos) -> Duration {
    Duration::from_nanos(nanos.0)
}

impl Decision {
    pub(super) fn new(decision: &schedule::Decision, index: &Index, facts: Option<&Facts>, happened: &Happened) -> Decision {
        let device = |id: schedule::DeviceId| index.devices()[usize::from(id.0)].clone();
        let rival = |rival: &schedule::Rival| Rival {
            device: device(rival.device),
            share: rival.share,
            batch: rival.batch,
            finish: rival.finish.map(|finish| duration(finish - decision.started)),
            why: why(rival.why, decision.started),
        };
        let recorded = facts.and_then(|facts| facts.recorded);
        Decision {
            model: index.models()[usize::from(decision.model.0)].name.clone(),
            device: device(decision.device),
            share: decision.share,
            batch: facts.map_or(decision.batch, |facts| facts.batch),
            repeats: decision.repeats,
            requests: decision.requests,
            rows: decision.rows,
            rung: facts.map_or(Rung::Default, |facts| facts.rung),
            predicted_by: recorded.map_or(Evidence::Loading, |recorded| Evidence::Records(recorded.evidence)),
            stale: decision.stale,
            waited: duration(decision.started - happened.submitted),
            latency: duration(happened.now - happened.submitted),
            predicted: duration(decision.stages.total()),
            actual: duration(happened.spent),
            in_time: (happened.deadline < Nanos::NEVER).then_some(happened.now <= happened.deadline),
            attempts_lost: happened.attempts_lost,
            rivals: decision.rivals().map(rival).collect(),
        }
    }
}

fn millis(nanos: Nanos) -> String {
    format!("{:.3} ms", nanos.as_f64() * 1e-6)
}

/// Why a rival lost, in words.
fn why(why: Why, started: Nanos) -> String {
    match why {
        Why::NoWorker => "has no worker".to_owned(),
        Why::Away => "its worker died and is being replaced".to_owned(),
        Why::Lost => "the device is lost".to_owned(),
        Why::Late(by) => format!("misses the deadline by {}", millis(by)),
        Why::InUse(until) => format!("is in use for another {}", millis(until - started)),
        Why::Later(by) => format!("would finish {} later", millis(by)),
        Why::Rule => "would finish no later; the policy prefers the other".to_owned(),
    }
}

/// Why a request is refused, in words.
pub(super) fn words(refusal: &Refusal) -> String {
    let again = |after: Nanos| match after {
        Nanos::NEVER => "coming again does not help".to_owned(),
        after => format!("come again in {}", millis(after)),
    };
    match *refusal {
        Refusal::UnknownModel => "there is no such model any more".to_owned(),
        Refusal::NoDevice => "no device is left that can run it; one that was lost comes back with a new runtime".to_owned(),
        Refusal::Closing => "the runtime is shutting down".to_owned(),
        Refusal::DeadlinePassed => "its deadline was over when it came".to_owned(),
        Refusal::QueueFull { retry_after } => format!("its queue is full; {}", again(retry_after)),
        Refusal::TooLate { retry_after, .. } => format!("it would miss its deadline; {}", again(retry_after)),
        Refusal::Policy { retry_after } => format!("it was given up; {}", again(retry_after)),
    }
}
