//! `batcher`: batches closed just in time, uploads behind computing, each where its first request finishes first (papers §2).
//!
//! The stages of a batch are those of the records, refitted with every run. How full a batch gets follows from when it is closed
//! (`closing`); the closed forms of `latency` predict capacity and tails and decide nothing.

use super::closing::{Closing, close};
use super::{ModelId, Placement, Policy, Step, Turn, View, in_turn, no_argument};
use crate::schedule::Nanos;

#[derive(Default)]
struct Batcher {
    order: Vec<ModelId>,
}

pub(super) fn new(argument: &str) -> Result<Box<dyn Policy>, String> {
    no_argument::<Batcher>(argument)
}

impl Policy for Batcher {
    fn step(&mut self, view: &View<'_>) -> Step {
        in_turn(view, &mut self.order, |model| {
            let Some(best) = view.best_for_waiting(model, |_| true) else {
                return Turn::Wait { until: Nanos::NEVER, device: None };
            };
            let device = Some(view.index().curve(best.curve).device);
            match close(view, &best) {
                Closing::Now(part) => {
                    Turn::Start(Placement { curve: best.curve, worker: best.worker, row: part.row, take: part.take })
                }
                Closing::At(until) => Turn::Wait { until, device },
                Closing::Blocked => Turn::Wait { until: Nanos::NEVER, device },
            }
        })
    }
}
