//! `greedy`: whatever waits, as one batch, when the device is free; nothing overlaps. What `batcher` is compared with (papers §2.8).

use super::closing::part;
use super::{ModelId, Placement, Policy, Step, Turn, View, in_turn, no_argument};
use crate::schedule::Nanos;

#[derive(Default)]
struct Greedy {
    order: Vec<ModelId>,
}

pub(super) fn new(argument: &str) -> Result<Box<dyn Policy>, String> {
    no_argument::<Greedy>(argument)
}

impl Policy for Greedy {
    fn step(&mut self, view: &View<'_>) -> Step {
        in_turn(view, &mut self.order, |model| {
            let Some(best) = view.best_for_waiting(model, |_| true) else {
                return Turn::Wait { until: Nanos::NEVER, device: None };
            };
            let part = part(view, best.curve);
            let at = view.worker(best.worker);
            if at.in_flight() == 0 && view.can_begin(best.worker, part.stages) {
                return Turn::Start(Placement { curve: best.curve, worker: best.worker, row: part.row, take: part.take });
            }
            Turn::Wait { until: Nanos::NEVER, device: Some(at.device) }
        })
    }
}
