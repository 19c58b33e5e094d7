//! Group commit: what several threads hand in is taken together by one, which makes it durable with one sync and then confirms it.
//!
//! Knows no journal and no index, so that loom can try every order of its steps (`src/models.rs`). What holds in each of them:
//! - A ticket says `Ok` only after its work was durable, and seen by questions.
//! - Everything that was handed in gets an answer, whatever became of the thread that takes.
//! - A commit is as large as what was waiting: nothing waits for company (docs/adr/0008).

use crate::error::StoreError;
use crate::sync::{Condvar, Mutex, locked};
use crate::ticket::{Promise, Ticket};
use schema::ObservationId;
use std::collections::VecDeque;
use std::sync::PoisonError;

/// Work with the promise to answer.
pub(crate) struct Item<W> {
    pub work: W,
    pub promise: Promise,
}

/// What was handed in and not taken yet.
pub(crate) struct Queue<W> {
    waiting: Mutex<Waiting<W>>,
    handed_in: Condvar,
}

struct Waiting<W> {
    items: VecDeque<Item<W>>,
    /// Why nothing more is taken.
    closed: Option<StoreError>,
}

impl<W> Queue<W> {
    /// An open one with nothing in it.
    pub fn new() -> Self {
        Queue { waiting: Mutex::new(Waiting { items: VecDeque::new(), closed: None }), handed_in: Condvar::new() }
    }

    /// Hands something in.
    ///
    /// # Errors
    /// Why nothing more is taken.
    pub fn hand_in(&self, work: W) -> Result<Ticket, StoreError> {
        let (promise, ticket) = Promise::new();
        let mut waiting = locked(&self.waiting);
        if let Some(why) = &waiting.closed {
            return Err(why.clone());
        }
        waiting.items.push_back(Item { work, promise });
        self.handed_in.notify_one();
        Ok(ticket)
    }

    /// Waits for the next commit's worth: at most `most` that may go `together`, or one that stands alone.
    pub fn take(&self, most: usize, together: impl Fn(&W) -> bool) -> Vec<Item<W>> {
        let mut waiting = locked(&self.waiting);
        while waiting.items.is_empty() {
            waiting = self.handed_in.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let count = waiting.items.iter().take(most).take_while(|item| together(&item.work)).count();
        waiting.items.drain(..count.max(1)).collect()
    }

    /// Takes nothing more, and says why to all who wait.
    pub fn close(&self, why: &StoreError) {
        let mut waiting = locked(&self.waiting);
        waiting.closed = Some(why.clone());
        waiting.items.drain(..).for_each(|item| item.promise.keep(Err(why.clone())));
    }
}

/// The steps of a commit in their order: durable, then seen by questions, then confirmed.
///
/// # Errors
/// What the steps say. When the first fails nothing is confirmed; when the second does, all is: durable is durable, whatever became
/// of the index.
pub(crate) fn commit<C>(
    context: &mut C,
    promises: &mut Vec<(Promise, ObservationId)>,
    make_durable: impl FnOnce(&mut C) -> Result<(), StoreError>,
    make_seen: impl FnOnce(&mut C) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    if let Err(error) = make_durable(context) {
        promises.drain(..).for_each(|(promise, _)| promise.keep(Err(error.clone())));
        return Err(error);
    }
    let seen = make_seen(context);
    promises.drain(..).for_each(|(promise, id)| promise.keep(Ok(id)));
    seen
}
