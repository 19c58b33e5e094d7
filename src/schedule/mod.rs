//! Where each request runs, when, and in which batch.
//!
//! [`Core`] is told what happens (a request arrived, a stage or run is over, a worker died, the records changed) and answers what is to
//! be done (start this batch there, refuse that request, ask again then). It decides nothing itself: a [`Policy`] does, from a
//! [`View`] of the queues, the ledger and the predicted finish on each worker. What the core owns is what must hold under every policy:
//! bounded queues, no share given twice, no request lost or answered twice, admission, fairness, and the reasons of each choice.
//!
//! It knows no clock, no thread, no device, no store and no random source: instants come as arguments, predictions from an [`Index`]
//! made of one generation of the records. The same code drives real devices and the simulator.
//!
//! Invariants, all looked at by `simulate::invariants` after each event:
//! - the shares in use on a device never sum over 100 %;
//! - of one model at most `Limits::queue_len_max` requests are accepted and unanswered;
//! - an accepted request is answered once: by a run that finishes, by a refusal, or it was cancelled;
//! - a request is overtaken only by those that come within a bounded time after it (`queue`), and a model whose first request is overdue
//!   goes before all others (`policies`);
//! - a decision allocates nothing once queues and runs have had their first use.
//!
//! A new policy is one file in `policies/` and one line in [`POLICIES`].

mod admission;
mod core;
mod decision;
mod drift;
mod facts;
mod holes;
mod index;
mod latency;
mod ledger;
mod line;
mod nanos;
mod policies;
mod predict;
mod queue;
mod rate;
mod records;
mod refit;
mod relearn;
mod state;
#[cfg(test)]
pub(crate) mod testing;
mod view;
pub mod width;
mod worker;

pub use core::{Admission, Cancelled, Core, Event, Limits, Outcome, Spent, Wish};
pub use decision::{Action, Alarm, Decision, RIVALS_MAX, Refusal, Rival, Why};
pub use facts::{Facts, Wake};
pub use holes::{Hole, fill};
pub use index::{
    BATCH_MAX, Curve, CurveId, DeviceId, Fit, Index, IndexError, Measured, Model, ModelId, Row, RowId, Stage, Stages,
};
pub use latency::Pipeline;
pub use ledger::Ledger;
pub use line::Line;
pub use nanos::Nanos;
pub use policies::{POLICIES, Placement, Policy, PolicyError, ShareLine, Step, knee_of, policy};
pub use predict::{Cost, Example, Foresight, Predicted, Predictor, Predictors, Setting, examples, examples_elsewhere};
pub use queue::{PRIORITIES, Prefix, Priority, Queue, RequestId, Waiting};
pub use rate::{Rate, Served};
pub use records::{facts, from_records};
pub use refit::Refit;
pub use relearn::{Learnt, Lesson};
pub use view::{Candidate, View};
pub use worker::{Engines, Fleet, FleetDevice, Forecast, Presence, RunId, STREAMS_MAX, Worker, WorkerId};
