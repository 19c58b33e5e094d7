//! Measuring: config → trial.
//!
//! A [`Bench`] owns one grant of a device. It verifies a config on fresh operands before it times it, times rivals interleaved
//! ([`race`]), and lets a finalist meet the default in a paired run-off. A candidate that is wrong, hangs or crashes is a [`Trial`]
//! with that outcome and costs nothing but itself; an error is what stops the caller. Nothing here chooses the next config or writes
//! to the store.
//!
//! Three benches stand behind the trait: [`mod@bench`] is the real one, through worker processes; [`replay`] answers from recorded trials; [`fake`]
//! makes times up, with noise, drift, hangs, crashes and wrong results on demand.

pub mod ahead;
pub mod bench;
pub mod end_to_end;
pub mod fake;
pub mod interference;
pub mod noise;
pub mod phases;
pub mod race;
pub mod rehearsal;
pub mod replay;

pub use crate::worker::Probe;
pub use phases::{Phase, Phases};

use crate::worker::SpawnError;
use kernels::Task;
use schema::{Config, FailureClass, Outcome, Picos, Ratio, Timing};
use std::time::Duration;
use thiserror::Error;

/// How much is spent on a measurement.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Effort {
    /// Samples of a config that stays in the race; one that falls behind gets fewer.
    pub samples: u32,
    /// Pairs go on for at least this time, however many they become: what a machine does for some milliseconds must not judge an
    /// inference of microseconds.
    pub least: Duration,
    /// The race is cut after about this time; at least three samples are taken of everything.
    pub limit: Duration,
}

impl Effort {
    /// For search: a few milliseconds per config.
    pub const SEARCH: Effort = Effort { samples: 9, least: Duration::ZERO, limit: Duration::from_millis(250) };
    /// For a run-off: as many pairs as a difference of 2 % needs on a quiet machine.
    pub const RUNOFF: Effort = Effort { samples: 24, least: Duration::ZERO, limit: Duration::from_millis(600) };
}

/// One config, measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    pub config: Config,
    pub outcome: Outcome,
}

impl Trial {
    /// A trial without a time. `detail` is cut to the 512 bytes a record holds.
    pub fn failed(config: &Config, class: FailureClass, detail: &str) -> Self {
        let mut end = detail.len().min(512);
        while !detail.is_char_boundary(end) {
            end -= 1;
        }
        Trial { config: config.clone(), outcome: Outcome::Failed { class, detail: detail[..end].to_owned() } }
    }

    /// Whether a machine that was disturbed may have made it what it is.
    pub fn depends_on_time(&self) -> bool {
        matches!(&self.outcome, Outcome::Ok { .. } | Outcome::Failed { class: FailureClass::Timeout, .. })
    }

    /// The median time, if it has one.
    pub fn time(&self) -> Option<Picos> {
        match &self.outcome {
            Outcome::Ok { timing, .. } => Some(timing.median),
            Outcome::Failed { .. } => None,
        }
    }
}

/// A default and its rival, measured in pairs.
#[derive(Clone, Debug, PartialEq)]
pub enum Runoff {
    Ok {
        default: Timing,
        rival: Timing,
        /// Time of the default over time of the rival.
        ratio: Ratio,
    },
    /// One of the two fell; `rival` tells which.
    Failed { rival: bool, class: FailureClass, detail: String },
}

/// Why nothing can be measured.
#[derive(Debug, Error)]
pub enum MeasureError {
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("the worker cannot measure this: {0}")]
    Refused(String),
    #[error("three workers in a row died before they measured anything: {0}")]
    Lost(String),
    #[error("it was interrupted")]
    Interrupted,
    #[error("the replay has no trial of '{config}' for '{task}'")]
    NotRecorded { task: String, config: String },
}

/// Measures configs on one grant.
pub trait Bench {
    /// Verifies and times every config, interleaved: one trial each, in order.
    ///
    /// # Errors
    /// [`MeasureError`] when the bench itself fails; never for a candidate.
    fn race(&mut self, task: &Task, configs: &[Config], effort: &Effort) -> Result<Vec<Trial>, MeasureError>;

    /// Times a rival against the default in pairs, alone on its cores.
    ///
    /// # Errors
    /// As [`Bench::race`].
    fn runoff(&mut self, task: &Task, default: &Config, rival: &Config, effort: &Effort) -> Result<Runoff, MeasureError>;

    /// What the grant can do at best: the time of 10⁹ operations and of 10⁹ bytes, by probe. A fraction of a second.
    ///
    /// # Errors
    /// As [`Bench::race`]; benches that measure nothing know no figures.
    fn probe(&mut self) -> Result<Vec<(Probe, Timing)>, MeasureError> {
        Ok(Vec::new())
    }

    /// What short work takes after the device idled for so long.
    ///
    /// # Errors
    /// As [`Bench::race`]; `None` of benches that do not wait.
    fn wake(&mut self, _gap: Duration) -> Result<Option<Timing>, MeasureError> {
        Ok(None)
    }

    /// What the sentinel, work that never changes, took in each round since this was last asked: how steady the machine is.
    fn sentinels(&mut self) -> Vec<Picos> {
        Vec::new()
    }

    /// What the sentinel takes just now, some times in a row; empty for benches without one.
    ///
    /// # Errors
    /// As [`Bench::race`].
    fn try_sentinel(&mut self) -> Result<Vec<Picos>, MeasureError> {
        Ok(Vec::new())
    }

    /// Where its time went since this was last asked.
    fn phases(&mut self) -> Phases {
        Phases::default()
    }

    /// Whether compilers work beside it: also while it times, where rounds to come are foreseen.
    fn is_helped(&self) -> bool {
        false
    }

    /// Rounds to come, of any slot of its place, are expected to be these: they may be compiled while it times.
    fn foresee(&mut self, _rounds: &[(Task, Vec<Config>)]) {}

    /// Forgets the task it holds: its memory is wanted elsewhere.
    fn rest(&mut self) {}
}

/// Samples of what a device takes when it wakes.
pub const WAKES: u32 = 3;

/// Where the loop reads the time: the monotonic clock, or a made-up one.
pub trait Clock: Send + Sync {
    /// Time since some fixed instant.
    fn now(&self) -> Duration;
}

/// The monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Monotonic(std::time::Instant);

impl Monotonic {
    /// Starts at 0 now.
    pub fn start() -> Self {
        Monotonic(std::time::Instant::now())
    }
}

impl Clock for Monotonic {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}
