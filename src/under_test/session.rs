//! A session as the system that is measured: each sample runs on a thread of its own choosing, none waits for another to fill a batch.

use super::{Placed, Placing, Tally, bytes};
use crate::loadgen::{Outcome, Responses, Sample, SystemUnderTest};
use crate::session::{Answer, Decision, Request, Session, SessionError};
use schema::Picos;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

/// A session with a request for each sample of each model.
pub struct SessionUnderTest {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    session: Session,
    /// By model and sample.
    requests: Vec<Vec<Request>>,
    state: Mutex<State>,
    work: Condvar,
    tally: Tally,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(Sample, Arc<Responses>)>,
    closed: bool,
}

impl SessionUnderTest {
    /// With so many threads that take queued samples in order; without any, whoever issues a sample runs it.
    ///
    /// # Errors
    /// [`SessionError::Threads`].
    pub fn start(session: Session, requests: Vec<Vec<Request>>, threads: usize) -> Result<Self, SessionError> {
        let shared =
            Arc::new(Shared { session, requests, state: Mutex::default(), work: Condvar::new(), tally: Tally::default() });
        let mut system = SessionUnderTest { shared, threads: Vec::with_capacity(threads) };
        for at in 0..threads {
            let shared = Arc::clone(&system.shared);
            system.threads.push(Builder::new().name(format!("lane-{at}")).spawn(move || shared.serve())?);
        }
        Ok(system)
    }
}

impl SystemUnderTest for SessionUnderTest {
    fn issue(&self, samples: &[Sample], responses: &Arc<Responses>) {
        if self.threads.is_empty() {
            samples.iter().for_each(|sample| self.shared.answer(*sample, responses));
            return;
        }
        self.shared.state().queue.extend(samples.iter().map(|sample| (*sample, Arc::clone(responses))));
        if samples.len() == 1 { self.shared.work.notify_one() } else { self.shared.work.notify_all() }
    }
}

impl Placing for SessionUnderTest {
    fn tally(&self) -> &Tally {
        &self.shared.tally
    }
}

impl Drop for SessionUnderTest {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers samples until there are none and none will come.
    fn serve(&self) {
        let mut state = self.state();
        loop {
            if let Some((sample, responses)) = state.queue.pop_front() {
                drop(state);
                self.answer(sample, &responses);
                state = self.state();
            } else if state.closed {
                return;
            } else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn answer(&self, sample: Sample, responses: &Responses) {
        let request = &self.requests[usize::from(sample.model)][sample.index as usize];
        let outcome = match self.session.run(request) {
            Ok(Answer { outputs, decision }) => {
                let output = sample.logged.then(|| bytes(&outputs));
                // Before the answer is heard, so that whoever heard the last one finds all of them counted.
                self.tally.count(placed(sample.model, decision));
                Outcome::Answered(output)
            }
            Err(error) => Outcome::Failed(self.tally.fail(error.into())),
        };
        responses.complete(sample.id, outcome);
    }
}

fn placed(model: u16, decision: Decision) -> Placed {
    let Decision { device, share, batch, rung, predicted, actual, .. } = decision;
    let (predicted, took) = (predicted.map(|predicted| predicted.time), actual.unwrap_or(Picos(0)));
    Placed { model, device, share, batch, rung, predicted, answers: 1, took }
}
