//! `fastest`: each request by itself, where it finishes first. The baseline of those who do not batch.

use super::{CurveId, ModelId, Placement, Policy, Step, Turn, View, in_turn, no_argument};
use crate::schedule::{Curve, Nanos};

#[derive(Default)]
struct Fastest {
    order: Vec<ModelId>,
}

pub(super) fn new(argument: &str) -> Result<Box<dyn Policy>, String> {
    no_argument::<Fastest>(argument)
}

impl Policy for Fastest {
    fn steady(&self, _id: CurveId, curve: &Curve) -> usize {
        curve.fit(1).row
    }

    fn step(&mut self, view: &View<'_>) -> Step {
        in_turn(view, &mut self.order, |model| {
            let front = view.queue(model).front().expect("only models with something waiting have a turn");
            let rows = front.rows.rows();
            let Some(best) = view.best(model, rows) else { return Turn::Wait { until: Nanos::NEVER, device: None } };
            let row = view.index().curve(best.curve).fit(rows).row;
            let at = view.worker(best.worker);
            if at.in_flight() == 0 && view.can_begin(best.worker, view.stages_of(best.curve, rows)) {
                return Turn::Start(Placement { curve: best.curve, worker: best.worker, row, take: 1 });
            }
            Turn::Wait { until: Nanos::NEVER, device: Some(at.device) }
        })
    }
}
