//! `fixed`: always the same device, share and batch. The baseline of those who choose once by hand.
//!
//! `fixed:DEVICE/SHARE/BATCH`, as `fixed:cpu/50/4`. Without an argument the first device that has records of the model, there the
//! greatest share and batch 1 or the smallest. Starts when the device is free, with as many waiting requests as the batch holds.

use super::{Candidate, CurveId, ModelId, Placement, Policy, Step, Turn, View, Wish, in_turn};
use crate::schedule::{Curve, Index, Nanos};
use schema::{Batch, DeviceName, Share};

#[derive(Default)]
struct Fixed {
    choice: Option<(DeviceName, Share, Batch)>,
    /// By model its curve and row; `None` where there is no such record.
    chosen: Vec<Option<(CurveId, usize)>>,
    order: Vec<ModelId>,
}

pub(super) fn new(argument: &str) -> Result<Box<dyn Policy>, String> {
    if argument.is_empty() {
        return Ok(Box::new(Fixed::default()));
    }
    let parts: Vec<&str> = argument.split('/').collect();
    let &[device, share, batch] = parts.as_slice() else {
        return Err(format!("'{argument}' is not DEVICE/SHARE/BATCH, as cpu/50/4"));
    };
    let share = share.parse().ok().and_then(|percent| Share::percent(percent).ok());
    let share = share.ok_or_else(|| format!("in '{argument}' the share is more than 0 and at most 100"))?;
    let batch = batch.parse().ok().and_then(Batch::new);
    let batch = batch.ok_or_else(|| format!("in '{argument}' the batch is a whole number from 1 on"))?;
    Ok(Box::new(Fixed { choice: Some((DeviceName(device.to_owned()), share, batch)), ..Fixed::default() }))
}

impl Fixed {
    fn choose(&self, index: &Index, model: ModelId) -> Option<(CurveId, usize)> {
        let of = |curve: &Curve| &index.devices()[usize::from(curve.device.0)];
        match &self.choice {
            Some((device, share, batch)) => {
                let (id, curve) = index.curves_of(model).find(|(_, curve)| of(curve) == device && curve.share == *share)?;
                Some((id, curve.row_of(*batch)?))
            }
            None => {
                let first = index.curves_of(model).map(|(_, curve)| curve.device).min()?;
                let on_it = index.curves_of(model).filter(|(_, curve)| curve.device == first);
                on_it.max_by_key(|(_, curve)| curve.share).map(|(id, _)| (id, 0))
            }
        }
    }
}

impl Policy for Fixed {
    fn step(&mut self, view: &View<'_>) -> Step {
        let Fixed { chosen, order, .. } = self;
        in_turn(view, order, |model| {
            let Some((curve, row)) = chosen[usize::from(model.0)] else {
                return Turn::Wait { until: Nanos::NEVER, device: None };
            };
            let of = view.index().curve(curve);
            let take = view.queue(model).prefix(of.rows[row].batch).requests;
            let stages = of.rows[row].stages;
            let worker = view.workers_of(curve).find(|(id, at)| at.in_flight() == 0 && view.can_begin(*id, stages));
            match worker {
                Some((worker, _)) => Turn::Start(Placement { curve, worker, row, take }),
                None => Turn::Wait { until: Nanos::NEVER, device: Some(of.device) },
            }
        })
    }

    fn likely(&self, view: &View<'_>, wish: &Wish) -> Option<Candidate> {
        let (chosen, _) = self.chosen[usize::from(wish.model.0)]?;
        let all = view.candidates(wish.model, |_| wish.rows.rows()).filter(|candidate| candidate.curve == chosen);
        all.min_by_key(|candidate| candidate.forecast.finish)
    }

    fn steady(&self, id: CurveId, curve: &Curve) -> usize {
        let chosen = self.chosen.get(usize::from(curve.model.0)).copied().flatten();
        chosen.filter(|(of, _)| *of == id).map_or_else(|| curve.steady(), |(_, row)| row)
    }

    fn serves(&self, view: &View<'_>, model: ModelId) -> bool {
        self.chosen[usize::from(model.0)].is_some_and(|(curve, _)| view.is_served(curve))
    }

    fn changed(&mut self, view: &View<'_>) {
        self.chosen = view.models().map(|model| self.choose(view.index(), model)).collect();
    }
}
