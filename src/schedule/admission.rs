//! Whether a request is accepted: when it is predicted to finish behind all that was accepted before it.

use super::core::Wish;
use super::{Admission, Candidate, Curve, CurveId, DeviceId, ModelId, Nanos, Policy, Presence, Refusal, View};

/// Median absolute deviations that a predicted finish keeps from the deadline (papers §2.3, step 6).
const SPREADS: u32 = 2;

/// A request that is accepted.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Admitted {
    /// When it is predicted to finish; [`Nanos::NEVER`] where nothing is predicted.
    pub predicted: Nanos,
    /// Lately such requests were late. It is accepted because its model has no other: without one nothing would ever show that they no longer are.
    pub probe: bool,
}

impl Admitted {
    const UNFORESEEN: Admitted = Admitted { predicted: Nanos::NEVER, probe: false };
}

/// Whether a request that arrives now is accepted.
///
/// # Errors
/// The [`Refusal`], with the time after which such a request is predicted to be accepted.
pub(super) fn admit(view: &View<'_>, policy: &dyn Policy, wish: &Wish) -> Result<Admitted, Refusal> {
    let held = view.state.models[usize::from(wish.model.0)].held;
    let is_full = held >= view.limits().queue_len_max;
    match policy.likely(view, wish) {
        None if policy.serves(view, wish.model) => away(view, wish, is_full),
        None => Err(Refusal::NoDevice),
        Some(likely) if is_full => Err(queue_full(view, wish, &likely)),
        Some(likely) => match view.limits().admission {
            Admission::Predicted => in_time(view, wish, &likely, held == 0),
            Admission::All => Ok(Admitted::UNFORESEEN),
        },
    }
}

/// All workers of the model are being replaced: it will be served, nobody can say when.
fn away(view: &View<'_>, wish: &Wish, is_full: bool) -> Result<Admitted, Refusal> {
    let retry_after = view.limits().patience;
    match wish.deadline {
        _ if is_full => Err(Refusal::QueueFull { retry_after }),
        Nanos::NEVER => Ok(Admitted::UNFORESEEN),
        _ => Err(Refusal::TooLate { predicted: Nanos::NEVER, retry_after }),
    }
}

/// If it is predicted to keep its deadline, also when it slips as others did lately; the only one of its model need not.
fn in_time(view: &View<'_>, wish: &Wish, likely: &Candidate, only: bool) -> Result<Admitted, Refusal> {
    let curve = view.index().curve(likely.curve);
    let predicted = finish(view, wish, likely);
    let spread = curve.rows[view.steady(likely.curve)].spread * SPREADS;
    let margin = spread + view.slip(wish.model);
    if wish.deadline == Nanos::NEVER || predicted + margin <= wish.deadline {
        return Ok(Admitted { predicted, probe: false });
    }
    if only && predicted + spread <= wish.deadline {
        return Ok(Admitted { predicted, probe: true });
    }
    let late = predicted + margin - wish.deadline;
    let alone = view.stages_of(likely.curve, wish.rows.rows()).total();
    Err(Refusal::TooLate { predicted, retry_after: retry_after(view, likely, late, wish.deadline - view.now - alone) })
}

/// When there is room for one more of a full queue.
fn queue_full(view: &View<'_>, wish: &Wish, likely: &Candidate) -> Refusal {
    let own = Nanos::from_f64(view.pace(likely.curve) * f64::from(wish.rows.rows()) / workers(view, likely.curve));
    Refusal::QueueFull { retry_after: retry_after(view, likely, own, finish(view, wish, likely) - view.now) }
}

/// How long until a backlog that is `late` too long has shrunk enough: it shrinks by what capacity is left over (papers §2.4; there in
/// requests, here in time). No longer than `drain`, in which all that may wait is worked off: at full load that is all there is to say.
fn retry_after(view: &View<'_>, likely: &Candidate, late: Nanos, drain: Nanos) -> Nanos {
    let left_over = 1.0 - load(view, view.index().curve(likely.curve).device);
    let shrinks = if left_over > 0.0 { Nanos::from_f64(late.as_f64() / left_over) } else { Nanos::NEVER };
    shrinks.min(drain).max(Nanos(1))
}

/// Behind what is in flight, what waits of its own model, and what waits of others on the device: whole batches ahead at the pace of
/// the slowest engine, then its own batch, grown by what arrives until then.
pub(super) fn finish(view: &View<'_>, wish: &Wish, likely: &Candidate) -> Nanos {
    let curve = view.index().curve(likely.curve);
    let full = curve.rows[kept(curve, view.steady(likely.curve), wish.deadline - view.now)].batch.rows();
    let (waiting, rows) = (view.queue(wish.model).rows(), wish.rows.rows());
    let (ahead, own) = if rows > full { (waiting, rows) } else { (waiting / full * full, (waiting % full).saturating_add(rows)) };
    let same = view.pace(likely.curve) * f64::from(ahead) / workers(view, likely.curve);
    let beside = view.beside(wish.model, likely.worker);
    let begins = likely.forecast.finish - view.stages_of(likely.curve, rows).total().scaled(beside)
        + Nanos::from_f64(same + others(view, wish, curve.device, same));
    let grown = own.saturating_add((view.rate(wish.model) * (begins - view.now).as_secs_f64()) as u32);
    let grown = grown.min(full.max(own));
    begins + view.stages_of(likely.curve, grown).total().min(curve.cost(grown)).scaled(beside)
}

/// The batch with which a long queue is worked off if each of its runs is to end within `slack`: as usual, or else the largest that does.
fn kept(curve: &Curve, steady: usize, slack: Nanos) -> usize {
    if curve.rows[steady].stages.total() <= slack {
        return steady;
    }
    curve.rows[..steady].iter().rposition(|row| row.stages.total() <= slack).unwrap_or(0)
}

/// What waits of other models that run on this device too and has its turn before, in nanoseconds of the whole device: a batch of each, and
/// as much as brings them level with what this model had and will have had with `same` before the request.
fn others(view: &View<'_>, wish: &Wish, device: DeviceId, same: f64) -> f64 {
    let had = view.served(wish.model) + same;
    let before = |model| {
        let row = view.device_time(model, device);
        let batch = |(id, curve): (CurveId, &Curve)| curve.rows[view.steady(id)].batch.rows();
        let batch = view.index().curves_of(model).map(batch).max().unwrap_or(0);
        let level = (had - view.served(model)).max(0.0) + row * f64::from(batch);
        level.min(row * f64::from(view.queue(model).rows()))
    };
    view.models().filter(|&model| model != wish.model && !view.queue(model).is_empty()).map(before).sum()
}

/// The part of a device's time that arrivals of all models ask for, if each runs where it takes least of one.
pub(super) fn load(view: &View<'_>, device: DeviceId) -> f64 {
    view.state.load(device, view.now, || {
        let costs = view.models().map(|model| (model, view.device_time(model, device)));
        costs.filter(|(_, cost)| *cost > 0.0).map(|(model, cost)| view.rate(model) * cost * 1e-9).sum()
    })
}

/// Where a row of a model takes least of a whole device, among the workers that are ready, and how many nanoseconds of it.
pub(super) fn cheapest(view: &View<'_>, model: ModelId) -> Option<(DeviceId, f64)> {
    let ready = |id| view.workers_of(id).any(|(_, worker)| worker.presence() == Presence::Ready);
    let curves = view.index().curves_of(model).filter(|(id, _)| ready(*id));
    let cost = |(id, of): (CurveId, &Curve)| (of.device, view.pace(id) * f64::from(of.share.as_per_mille()) * 1e-3);
    curves.map(cost).min_by(|a, b| a.1.total_cmp(&b.1))
}

/// Ready workers that can run a curve side by side.
fn workers(view: &View<'_>, curve: CurveId) -> f64 {
    let of = view.index().curve(curve);
    let ready = view.workers_of(curve).filter(|(_, worker)| worker.presence() == Presence::Ready).count();
    let room = 1000 / usize::from(of.share.as_per_mille());
    ready.min(room).max(1) as f64
}
