//! The scheduler under a made-up clock: the same [`Core`](crate::schedule::Core) that drives real devices, here fed with discrete events.
//!
//! In come arrivals (a trace, or drawn from a pattern), an index of predictions, a fleet, a policy, and what reality does differently
//! (noise, drift, losses); out come figures. It shows the core nothing that it could not see in reality: actual times are drawn after a
//! decision and told when they are over. All randomness comes from one seed; the same scenario gives the same figures to the last bit.

mod arrivals;
mod clairvoyant;
mod engine;
mod figures;
mod invariants;
mod oracle;
#[cfg(test)]
mod proofs;
mod swarm;
mod timeline;
mod trace;

pub use arrivals::{Arrival, Arrivals, Mix, Pattern, PatternError, ROWS_MAX, Sizes};
pub use clairvoyant::{Searched, search};
pub use engine::{Fault, Reality, Scenario, Seen, SimulateError, simulate};
pub use figures::Figures;
pub use invariants::Violation;
pub use oracle::most_in_time;
pub use swarm::{Case, swarm};
pub use timeline::{BUCKETS, Bucket, Kept, Timeline};
pub use trace::{TraceError, read_trace};
