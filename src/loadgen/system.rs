//! What is measured, and how it answers.

use super::clock::Clock;
use super::samples::Sample;
use crate::schedule::Nanos;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What is measured: takes queries, answers them later.
pub trait SystemUnderTest {
    /// Takes a query and returns at once. Each of its samples is answered once, by [`Responses::complete`] from any thread; a system that
    /// takes its time here makes the next queries late, which counts against it.
    fn issue(&self, samples: &[Sample], responses: &Arc<Responses>);

    /// No query follows: what waits for more is to be answered now.
    fn flush(&self) {}
}

/// What became of a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer; its bytes where the sample's output is to be logged.
    Answered(Option<Vec<u8>>),
    /// None, because the system had no room for it. It counts as late, whatever the bound.
    Refused,
    /// None, because of an error. It ends the run.
    Failed(String),
}

/// When a sample was answered, and how it went.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Done {
    Waits,
    Answered(Nanos),
    Refused(Nanos),
    Failed(Nanos),
}

impl Done {
    /// When it was over.
    pub(super) fn at(self) -> Option<Nanos> {
        match self {
            Done::Waits => None,
            Done::Answered(at) | Done::Refused(at) | Done::Failed(at) => Some(at),
        }
    }
}

/// What a run has heard from the system so far.
pub struct Responses {
    clock: Arc<dyn Clock>,
    heard: Mutex<Heard>,
    answered: Condvar,
}

/// By sample.
#[derive(Default)]
pub(super) struct Heard {
    pub done: Vec<Done>,
    /// Samples that are not over yet.
    pub waits: u64,
    /// Answers to samples that had one already, or that were never issued.
    pub strange: u64,
    pub outputs: Vec<(u64, Vec<u8>)>,
    /// What the first failure said.
    pub failure: Option<String>,
    last: Nanos,
}

impl Responses {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Responses { clock, heard: Mutex::default(), answered: Condvar::new() }
    }

    /// A sample is over now.
    pub fn complete(&self, sample: u64, outcome: Outcome) {
        self.complete_at(self.clock.now(), sample, outcome);
    }

    /// A sample is over at an instant of the run's clock, which for a simulated system may lie ahead.
    pub fn complete_at(&self, at: Nanos, sample: u64, outcome: Outcome) {
        let mut heard = self.heard();
        let place = usize::try_from(sample).ok().and_then(|at| heard.done.get(at).copied().map(|done| (at, done)));
        let Some((place, Done::Waits)) = place else {
            heard.strange += 1;
            return;
        };
        heard.done[place] = match outcome {
            Outcome::Answered(output) => {
                heard.outputs.extend(output.map(|bytes| (sample, bytes)));
                Done::Answered(at)
            }
            Outcome::Refused => Done::Refused(at),
            Outcome::Failed(why) => {
                heard.failure.get_or_insert(why);
                Done::Failed(at)
            }
        };
        heard.last = heard.last.max(at);
        heard.waits -= 1;
        if heard.waits == 0 {
            drop(heard);
            self.answered.notify_all();
        }
    }

    /// Answers to so many more samples are expected.
    pub(super) fn expect(&self, samples: usize) {
        let mut heard = self.heard();
        let known = heard.done.len();
        heard.done.resize(known + samples, Done::Waits);
        heard.waits += samples as u64;
    }

    /// Waits until every sample is over: when the last one was.
    pub(super) fn wait(&self) -> Nanos {
        let mut heard = self.heard();
        while heard.waits > 0 {
            heard = self.answered.wait(heard).unwrap_or_else(PoisonError::into_inner);
        }
        heard.last
    }

    pub(super) fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
