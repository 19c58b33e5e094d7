//! What [`loadgen`](crate::loadgen) measures: a session, or the runtime with its scheduler.
//!
//! The one place where they meet: samples become requests, answers become outcomes. Nothing here knows a clock; when a sample was
//! answered is the run's to say.

mod runtime;
mod session;

pub use runtime::RuntimeUnderTest;
pub use session::SessionUnderTest;

use crate::loadgen::SystemUnderTest;
use crate::placement::Rung;
use crate::runtime::RuntimeError;
use crate::session::SessionError;
use kernels::Datum;
use schema::{Batch, DeviceName, Picos, Share};
use std::sync::{Mutex, MutexGuard, PoisonError};
use thiserror::Error;

/// Runs of one model that were placed alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    /// The model's place among the requests.
    pub model: u16,
    pub device: DeviceName,
    pub share: Share,
    pub batch: Batch,
    pub rung: Rung,
    /// Of the first of them.
    pub predicted: Option<Picos>,
    /// Answers that came of them.
    pub answers: u64,
    /// What the runs of these answers took in all, without waiting.
    pub took: Picos,
}

/// What a system failed with.
#[derive(Debug, Error)]
pub enum UnderTestError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// A system that tells where its runs went.
pub trait Placing: SystemUnderTest {
    fn tally(&self) -> &Tally;

    /// What has been placed where since it was last asked.
    fn take_placed(&self) -> Vec<Placed> {
        std::mem::take(&mut self.tally().lock().placed)
    }

    /// The first error, if there was one.
    fn take_error(&self) -> Option<UnderTestError> {
        self.tally().lock().error.take()
    }
}

/// What was answered, and what went wrong.
#[derive(Default)]
pub struct Tally(Mutex<Counted>);

#[derive(Default)]
struct Counted {
    placed: Vec<Placed>,
    error: Option<UnderTestError>,
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more answer.
    fn count(&self, answer: Placed) {
        let mut counted = self.lock();
        let alike = |placed: &&mut Placed| {
            let of = |placed: &Placed| (placed.model, placed.share, placed.batch, placed.rung);
            of(placed) == of(&answer) && placed.device == answer.device
        };
        match counted.placed.iter_mut().find(alike) {
            Some(placed) => {
                placed.answers += 1;
                placed.took = Picos(placed.took.0.saturating_add(answer.took.0));
            }
            None => counted.placed.push(answer),
        }
    }

    /// An error; the first is kept. In words.
    fn fail(&self, error: UnderTestError) -> String {
        let why = error.to_string();
        self.lock().error.get_or_insert(error);
        why
    }
}

/// The bytes of all output tensors, one after the other. Texts and sequences have none.
fn bytes(outputs: &[(String, Datum)]) -> Vec<u8> {
    let tensors = outputs.iter().filter_map(|(_, datum)| Datum::tensor(datum));
    tensors.flat_map(|tensor| tensor.bytes().iter().copied()).collect()
}
