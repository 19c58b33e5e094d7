//! A ticket: the promise that something handed in will be durable, and the moment it is.

use crate::error::StoreError;
use crate::sync::{Arc, Condvar, Mutex, locked};
use schema::ObservationId;
use std::sync::PoisonError;

struct Cell {
    answer: Mutex<Option<Result<ObservationId, StoreError>>>,
    answered: Condvar,
}

/// Given by [`Store::append`](crate::Store::append). What it stands for may be counted, shown or relied on only after
/// [`wait`](Self::wait) has returned `Ok`.
#[must_use = "an observation is durable only after wait() has returned"]
pub struct Ticket(Arc<Cell>);

impl Ticket {
    /// Waits until it is durable: under load at most a commit window and one sync. The id it got.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Io`], [`StoreError::Closed`]: it may be lost, and the store takes nothing more.
    pub fn wait(self) -> Result<ObservationId, StoreError> {
        let mut answer = locked(&self.0.answer);
        loop {
            if let Some(answer) = answer.take() {
                return answer;
            }
            answer = self.0.answered.wait(answer).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The other end of a ticket.
pub(crate) struct Promise(Option<Arc<Cell>>);

impl Promise {
    pub fn new() -> (Promise, Ticket) {
        let cell = Arc::new(Cell { answer: Mutex::new(None), answered: Condvar::new() });
        (Promise(Some(cell.clone())), Ticket(cell))
    }

    pub fn keep(mut self, answer: Result<ObservationId, StoreError>) {
        self.answer(answer);
    }

    fn answer(&mut self, answer: Result<ObservationId, StoreError>) {
        if let Some(cell) = self.0.take() {
            *locked(&cell.answer) = Some(answer);
            cell.answered.notify_all();
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        // Nobody waits for ever, whatever became of the writer.
        self.answer(Err(StoreError::Closed { why: "its writer stopped".into() }));
    }
}
