//! A request's answer, before it is there: waited for, or polled as a future.

use super::{Answer, Shared};
use crate::schedule::RequestId;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// What a request ends with.
pub type Answered = Result<Answer, super::RuntimeError>;

/// Where an answer is put.
#[derive(Default)]
pub(super) struct Slot {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Default)]
struct State {
    answer: Option<Answered>,
    waker: Option<Waker>,
    then: Option<Box<dyn FnOnce(Answered) + Send>>,
}

impl Slot {
    /// Puts the answer in and wakes whoever waits for it.
    pub fn fill(&self, answer: Answered) {
        let waker = {
            let mut state = self.lock();
            if let Some(then) = state.then.take() {
                drop(state);
                return then(answer);
            }
            state.answer = Some(answer);
            state.waker.take()
        };
        self.filled.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An accepted request. It is a future of its answer and needs no executor of any kind; [`wait`](Self::wait) is for threads. Dropped, it is
/// taken back if it still waits.
#[must_use = "dropped, the request is taken back"]
pub struct Pending {
    pub(super) slot: Arc<Slot>,
    pub(super) request: RequestId,
    pub(super) runtime: Weak<Shared>,
    /// Its answer was taken, or it was given up.
    pub(super) over: bool,
}

impl Pending {
    /// Waits for the answer.
    ///
    /// # Errors
    /// [`RuntimeError`](super::RuntimeError): its run failed, no device was left for it, or the policy gave it up.
    pub fn wait(mut self) -> Answered {
        let mut state = self.slot.lock();
        loop {
            if let Some(answer) = state.answer.take() {
                drop(state);
                self.over = true;
                return answer;
            }
            state = self.slot.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the answer so long at most; gives the request back when it is not there by then.
    ///
    /// # Errors
    /// The request itself, still on its way.
    pub fn wait_for(mut self, time: Duration) -> Result<Answered, Pending> {
        let until = Instant::now() + time;
        let mut state = self.slot.lock();
        loop {
            if let Some(answer) = state.answer.take() {
                drop(state);
                self.over = true;
                return Ok(answer);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(state);
                return Err(self);
            }
            state = self.slot.filled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Calls `then` with the answer: on the thread that brings it, which serves others and is not to be kept, or at once when it is there.
    /// It must neither wait for other answers nor end the runtime while there are some to come: they may need this thread.
    pub fn then(mut self, then: impl FnOnce(Answered) + Send + 'static) {
        self.over = true;
        let mut state = self.slot.lock();
        match state.answer.take() {
            Some(answer) => {
                drop(state);
                then(answer);
            }
            None => state.then = Some(Box::new(then)),
        }
    }

    /// Takes the request back: whether it had waited still, so that nothing is run for it.
    pub fn cancel(mut self) -> bool {
        self.take_back()
    }

    fn take_back(&mut self) -> bool {
        self.over = true;
        self.runtime.upgrade().is_some_and(|runtime| runtime.cancel(self.request))
    }
}

impl Future for Pending {
    type Output = Answered;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answered> {
        let slot = self.slot.clone();
        let mut state = slot.lock();
        match state.answer.take() {
            Some(answer) => {
                self.over = true;
                Poll::Ready(answer)
            }
            None => {
                // The last task that polls is the one that is woken.
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.over {
            self.take_back();
        }
    }
}
