//! The session as the system that [`loadgen`](crate::loadgen) measures.
//!
//! The one place where the two meet: samples become requests, answers become outcomes. It knows no clock; when a sample was answered is
//! the run's to say.

use crate::loadgen::{Outcome, Responses, Sample, SystemUnderTest};
use crate::session::{Answer, Decision, Request, Session, SessionError};
use kernels::Datum;
use schema::Picos;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

/// A session with a request for each sample of each model.
pub struct SessionUnderTest {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Runs of one model that were placed alike.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The model's place among the requests.
    pub model: u16,
    /// Of the first of them.
    pub decision: Decision,
    pub runs: u64,
    /// What they took in all, without waiting.
    pub took: Picos,
}

struct Shared {
    session: Session,
    /// By model and sample.
    requests: Vec<Vec<Request>>,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(Sample, Arc<Responses>)>,
    closed: bool,
    placed: Vec<Placed>,
    error: Option<SessionError>,
}

impl SessionUnderTest {
    /// With so many threads that take queued samples in order; without any, whoever issues a sample runs it.
    ///
    /// # Errors
    /// [`SessionError::Threads`].
    pub fn start(session: Session, requests: Vec<Vec<Request>>, threads: usize) -> Result<Self, SessionError> {
        let shared = Arc::new(Shared { session, requests, state: Mutex::default(), work: Condvar::new() });
        let mut system = SessionUnderTest { shared, threads: Vec::with_capacity(threads) };
        for at in 0..threads {
            let shared = Arc::clone(&system.shared);
            system.threads.push(Builder::new().name(format!("lane-{at}")).spawn(move || shared.serve())?);
        }
        Ok(system)
    }

    /// What has been placed where since it was last asked.
    pub fn take_placed(&self) -> Vec<Placed> {
        std::mem::take(&mut self.shared.state().placed)
    }

    /// The first error, if there was one.
    pub fn take_error(&self) -> Option<SessionError> {
        self.shared.state().error.take()
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
        match self.session.run(request) {
            Ok(answer) => {
                let output = sample.logged.then(|| bytes(&answer));
                // Before the answer is heard, so that whoever heard the last one finds all of them counted.
                self.state().count(sample.model, answer.decision);
                responses.complete(sample.id, Outcome::Answered(output));
            }
            Err(error) => {
                let why = error.to_string();
                self.state().error.get_or_insert(error);
                responses.complete(sample.id, Outcome::Failed(why));
            }
        }
    }
}

impl State {
    fn count(&mut self, model: u16, decision: Decision) {
        let took = decision.actual.unwrap_or(Picos(0));
        let alike = |placed: &&mut Placed| {
            let known = &placed.decision;
            placed.model == model
                && (known.share, known.batch, known.rung) == (decision.share, decision.batch, decision.rung)
                && known.device == decision.device
        };
        match self.placed.iter_mut().find(alike) {
            Some(placed) => {
                placed.runs += 1;
                placed.took = Picos(placed.took.0.saturating_add(took.0));
            }
            None => self.placed.push(Placed { model, decision, runs: 1, took }),
        }
    }
}

/// The bytes of all output tensors, one after the other. Texts and sequences have none.
fn bytes(answer: &Answer) -> Vec<u8> {
    let tensors = answer.outputs.iter().filter_map(|(_, datum)| Datum::tensor(datum));
    tensors.flat_map(|tensor| tensor.bytes().iter().copied()).collect()
}
