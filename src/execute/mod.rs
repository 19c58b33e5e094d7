//! Execution: a graph, a config for each of its tasks and a grant in; outputs out.
//!
//! [`Plan::compile`] turns a graph whose shapes are chosen into a flat list of steps over one arena whose offsets were planned by
//! liveness. Nodes of our operators become kernels with their constants prepared; views (`Reshape`, `Squeeze`, …) become nothing;
//! other nodes are computed by Burn's operations or the plain references; `If`, `Loop` and `Scan` run plans of their bodies. Values of
//! fixed size live in the arena (or in the caller's buffers, for inputs and outputs), all others in slots.
//!
//! Running a plan whose values all have fixed sizes, and whose nodes all have kernels, allocates nothing.
//!
//! A plan for a device with memory of its own may run in steps that do not wait for it ([`Plan::begin_upload`]).
//!
//! This room chooses no config, opens no file and reads no store: what it is not given it takes from the operators' defaults.
//!
//! Invariants: one step's writes overlap neither its reads nor each other ([`memory`] refuses a table that breaks this); a plan is run
//! by one thread at a time, and [`Plan::another`] makes a second instance that shares everything but the activations.

mod compile;
mod control;
mod flight;
mod homes;
mod liveness;
#[allow(unsafe_code)]
mod memory;
mod order;
mod parts;
mod plan;
mod pool;
mod program;
mod rooms;
mod stages;
mod untuned;

pub use compile::{Configs, PlanError};
pub use flight::Leg;
pub use memory::release_constants;
pub use parts::ports;
pub use plan::{Plan, RunError, StepTime, default_plan_bytes};
pub use pool::{Pool, pool, pool_on};
pub use program::{MemoryUse, Port, StepFacts};
