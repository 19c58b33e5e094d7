//! The runtime as the system that is measured: samples are submitted as they come, and its policy puts them together.

use super::{Placed, Placing, Tally, bytes};
use crate::loadgen::{Outcome, Responses, Sample, SystemUnderTest};
use crate::runtime::{Answered, Decision, Request, Runtime, RuntimeError};
use schema::Picos;
use std::sync::Arc;

/// A runtime with a request for each sample of each model.
pub struct RuntimeUnderTest {
    runtime: Runtime,
    /// By model and sample.
    requests: Vec<Vec<Request>>,
    tally: Arc<Tally>,
}

impl RuntimeUnderTest {
    pub fn new(runtime: Runtime, requests: Vec<Vec<Request>>) -> Self {
        RuntimeUnderTest { runtime, requests, tally: Arc::default() }
    }
}

impl SystemUnderTest for RuntimeUnderTest {
    fn issue(&self, samples: &[Sample], responses: &Arc<Responses>) {
        for &sample in samples {
            let request = self.requests[usize::from(sample.model)][sample.index as usize].clone();
            match self.runtime.submit(request) {
                Ok(pending) => {
                    let (tally, responses) = (Arc::clone(&self.tally), Arc::clone(responses));
                    pending.then(move |answered| responses.complete(sample.id, outcome(&tally, &sample, answered)));
                }
                Err(error) => responses.complete(sample.id, outcome(&self.tally, &sample, Err(error))),
            }
        }
    }
}

impl Placing for RuntimeUnderTest {
    fn tally(&self) -> &Tally {
        &self.tally
    }
}

fn outcome(tally: &Tally, sample: &Sample, answered: Answered) -> Outcome {
    match answered {
        Ok(answer) => {
            let output = sample.logged.then(|| bytes(&answer.outputs));
            // Before the answer is heard, so that whoever heard the last one finds all of them counted.
            tally.count(placed(sample.model, answer.decision));
            Outcome::Answered(output)
        }
        Err(RuntimeError::Refused { .. }) => Outcome::Refused,
        Err(error) => Outcome::Failed(tally.fail(error.into())),
    }
}

fn placed(model: u16, decision: Decision) -> Placed {
    let Decision { device, share, batch, rung, predicted, actual, .. } = decision;
    let (predicted, took) = (Some(Picos::from_secs_f64(predicted.as_secs_f64())), Picos::from_secs_f64(actual.as_secs_f64()));
    Placed { model, device, share, batch, rung, predicted, answers: 1, took }
}
