//! Policies: each answers after every event what starts, what waits, what is refused.
//!
//! A policy sees a [`View`] and nothing else: no clock, no random source, no device. It allocates only when it is made and when the
//! records change. The order in which models are considered is the same for all ([`in_turn`]): overdue ones first, then those
//! that had least; what an overdue model waits for is not given to others meanwhile.

mod batcher;
mod closing;
mod fastest;
mod fixed;
mod forest;
mod greedy;
mod knee;

pub use knee::{ShareLine, knee_of};

use super::{Candidate, Curve, CurveId, DeviceId, Learnt, Lesson, ModelId, Nanos, Outcome, RequestId, View, Wish, WorkerId};
use thiserror::Error;

/// Chooses what starts next from what the view shows: queues, ledger, predicted finish on each worker, records.
pub trait Policy: Send {
    /// Asked after every event and at the instant it named last, again and again until it waits.
    fn step(&mut self, view: &View<'_>) -> Step;

    /// Where a request that arrives now would most likely run; admission predicts by it. `None`: nowhere.
    fn likely(&self, view: &View<'_>, wish: &Wish) -> Option<Candidate> {
        view.best_behind_queue(wish, |_| true)
    }

    /// The row of a curve that it works a long queue off with; admission and what a row costs go by it.
    fn steady(&self, _id: CurveId, curve: &Curve) -> usize {
        curve.steady()
    }

    /// Whether requests of a model will ever run: on a worker that is ready, or on one that is being replaced. Those of a model that
    /// is not served any more are refused.
    fn serves(&self, view: &View<'_>, model: ModelId) -> bool {
        view.index().curves_of(model).any(|(id, _)| view.is_served(id))
    }

    /// Whether it goes by predictions of what nobody measured: an index for it is to be taught (`Index::taught`).
    fn foresees(&self) -> bool {
        false
    }

    /// A run is over.
    fn observe(&mut self, _outcome: &Outcome<'_>) {}

    /// There are records now, the first or others: ids of curves and rows mean others than before.
    fn changed(&mut self, _view: &View<'_>) {}

    /// Something to learn that takes longer than a decision may; asked after runs, mostly there is nothing.
    fn lesson(&mut self, _view: &View<'_>) -> Option<Lesson> {
        None
    }

    /// A lesson is over, under the records that it was given out under.
    fn learnt(&mut self, _learnt: Learnt) {}
}

/// An answer.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Start(Placement),
    /// Nothing to do before the next event or this instant.
    Wait {
        until: Nanos,
    },
    /// Give up an accepted request that waits.
    Refuse {
        request: RequestId,
        retry_after: Nanos,
    },
}

/// The first requests of a model's queue, as one run.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub curve: CurveId,
    pub worker: WorkerId,
    /// The batch, by its place on the curve.
    pub row: usize,
    /// How many requests. Their rows fit into the batch; a single one may be larger and takes the batch several times.
    pub take: usize,
}

/// Makes a policy; the text is what stands behind the colon of its name.
pub type Make = fn(&str) -> Result<Box<dyn Policy>, String>;

/// The policies by name. A new one is one file and one line here.
pub static POLICIES: &[(&str, Make)] = &[
    ("batcher", batcher::new),
    ("forest", forest::new),
    ("knee", knee::new),
    ("greedy", greedy::new),
    ("fastest", fastest::new),
    ("fixed", fixed::new),
];

/// Why a text is no policy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PolicyError {
    #[error("there is no policy '{0}'")]
    Unknown(String),
    #[error("policy '{name}': {why}")]
    Argument { name: String, why: String },
}

/// The policy of a name, with its argument behind a colon: `batcher`, `fixed:cpu/50/4`.
///
/// # Errors
/// [`PolicyError`].
pub fn policy(text: &str) -> Result<Box<dyn Policy>, PolicyError> {
    let (name, argument) = text.split_once(':').unwrap_or((text, ""));
    let (_, make) = POLICIES.iter().find(|(known, _)| *known == name).ok_or_else(|| PolicyError::Unknown(name.to_owned()))?;
    make(argument).map_err(|why| PolicyError::Argument { name: name.to_owned(), why })
}

/// For policies without an argument.
fn no_argument<P: Policy + Default + 'static>(argument: &str) -> Result<Box<dyn Policy>, String> {
    if argument.is_empty() { Ok(Box::new(P::default())) } else { Err(format!("it takes no argument, found '{argument}'")) }
}

/// What one model wants.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Turn {
    Start(Placement),
    /// Ask again then; meanwhile, if it is overdue, its device is kept for it.
    Wait {
        until: Nanos,
        device: Option<DeviceId>,
    },
}

/// Asks each model in turn what it wants and answers with the first start, else with the earliest instant to ask again.
///
/// A model that is overdue and must wait keeps its device: what others could start there meanwhile would take the share it waits for,
/// again and again.
fn in_turn(view: &View<'_>, order: &mut Vec<ModelId>, mut want: impl FnMut(ModelId) -> Turn) -> Step {
    if !view.can_begin_any() {
        // Whoever waits for a place waits for an event.
        return Step::Wait { until: Nanos::NEVER };
    }
    view.in_turn(order);
    let mut wake = Nanos::NEVER;
    // More devices than bits are not kept for anyone.
    let mut kept: u64 = 0;
    let bit = |device: DeviceId| 1u64.checked_shl(u32::from(device.0)).unwrap_or(0);
    for &model in order.iter() {
        match want(model) {
            Turn::Start(placement) if kept & bit(view.index().curve(placement.curve).device) == 0 => {
                return Step::Start(placement);
            }
            Turn::Start(_) => {}
            Turn::Wait { until, device } => {
                wake = wake.min(until);
                if let Some(device) = device.filter(|_| view.is_overdue(model)) {
                    kept |= bit(device);
                }
            }
        }
    }
    Step::Wait { until: wake }
}
