//! When to close a batch: as late as possible without letting the device wait (papers §2.3).
//!
//! Let F be the moment at which everything in flight will have been computed, t now, and up(b) the upload of the batch in which the
//! waiting requests would go. The batch is closed at F − up(b), or at once when it is full. Not earlier, although an engine may be free: what
//! is uploaded early is frozen small (papers §2.3, step 5). Load that rises closes sooner and load that falls smaller by itself, since b
//! follows the queue, and the rate of arrivals is not needed.
//!
//! A deadline closes sooner when the batch, grown larger, would miss it. A request that no batch saves any more hurries none.

use crate::schedule::{Candidate, Curve, CurveId, Engines, Nanos, Prefix, Stages, View, Worker};

/// Median absolute deviations kept from a deadline.
const SPREADS: u32 = 2;

/// What to do with the first requests of a queue.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    /// Start them.
    Now(Part),
    /// Wait for more until then.
    At(Nanos),
    /// No engine is free; what frees one is an event.
    Blocked,
}

/// Requests from the front of a queue, with the batch they go in.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub row: usize,
    pub take: usize,
    pub stages: Stages,
}

/// The part with which to begin a model's queue on a curve.
pub(super) fn part(view: &View<'_>, id: CurveId) -> Part {
    let curve = view.index().curve(id);
    let queue = view.queue(curve.model);
    let front = queue.front().map_or(1, |front| front.rows.rows());
    // A request is not split, so the part holds at least the first one.
    let row = curve.first_part(queue.rows()).max(curve.fit(front).row);
    within(view, id, curve, queue.prefix(curve.rows[row].batch))
}

fn within(view: &View<'_>, id: CurveId, curve: &Curve, prefix: Prefix) -> Part {
    Part { row: curve.fit(prefix.rows).row, take: prefix.requests, stages: view.stages_of(id, prefix.rows) }
}

/// What to do now with the waiting requests of the candidate's model.
pub(super) fn close(view: &View<'_>, candidate: &Candidate) -> Closing {
    let curve = view.index().curve(candidate.curve);
    let worker = view.worker(candidate.worker);
    let part = part(view, candidate.curve);
    if !view.can_begin(candidate.worker, part.stages) {
        return Closing::Blocked;
    }
    let target = worker.computed(view.now) - part.stages.upload;
    let full = view.queue(curve.model).rows() >= curve.largest().batch.rows();
    let takes = part.stages.total() + curve.rows[part.row].spread * SPREADS;
    let deadline = earliest_kept(view, candidate.curve, worker, &part);
    let mut at = target;
    if deadline >= view.now + takes {
        at = at.min(deadline - takes);
    } else {
        let saving = most_saved(view, candidate.curve, worker, part);
        // A smaller batch may have to do with fewer streams; then nothing is saved by waiting for one.
        if view.can_begin(candidate.worker, saving.stages) {
            return Closing::Now(saving);
        }
    }
    if full || at <= view.now { Closing::Now(part) } else { Closing::At(at) }
}

/// The earliest deadline of the part's requests, of those that some batch still keeps; [`Nanos::NEVER`] without one.
fn earliest_kept(view: &View<'_>, id: CurveId, worker: &Worker, part: &Part) -> Nanos {
    let curve = view.index().curve(id);
    let mut earliest = Nanos::NEVER;
    // Of the requests up to and including this one.
    let mut rows = 0;
    for request in view.queue(curve.model).iter().take(part.take) {
        rows += request.rows.rows();
        // Nearly all traffic has its deadlines in order: then the first that can be kept decides.
        if request.deadline >= earliest {
            continue;
        }
        if finish(view, worker, view.stages_of(id, rows)) <= request.deadline {
            earliest = request.deadline;
        }
    }
    earliest
}

/// When a run closed now would be over.
fn finish(view: &View<'_>, worker: &Worker, stages: Stages) -> Nanos {
    let uploaded = view.now + stages.upload;
    let begins = if worker.engines == Engines::None { uploaded } else { uploaded.max(worker.computed(view.now)) };
    begins + stages.compute + stages.download
}

/// Of the tuned batches up to the part's, the smallest with which most requests keep their deadline.
fn most_saved(view: &View<'_>, id: CurveId, worker: &Worker, part: Part) -> Part {
    let curve = view.index().curve(id);
    let queue = view.queue(curve.model);
    let mut best = (0, part);
    for row in &curve.rows[..=part.row] {
        let smaller = within(view, id, curve, queue.prefix(row.batch));
        let over = finish(view, worker, smaller.stages);
        let saved = queue.iter().take(smaller.take).filter(|request| request.deadline >= over).count();
        if saved > best.0 {
            best = (saved, smaller);
        }
    }
    best.1
}
