//! The tuning database: observations that survive kill -9, power loss and a damaged index.
//!
//! **The index may vanish at any moment; the journal is the truth.** [`Store`] writes: an observation goes to the [`journal`], is
//! synced, taken into the [`index`] and only then confirmed by its [`Ticket`]. [`Reader`] reads by one of three ways, none of which
//! a tuner can block. [`Query`] is the question both understand.
//!
//! This package knows no kernel, no graph and no device. Its format is described in `docs/formats/`.
//!
//! Invariants:
//! - What a ticket confirmed is on disk and seen by every later question.
//! - A value that fails its sum is never an answer.
//! - `reduce` is a function of the set of observations: no order and no clock has a part in it.
//! - One file names the engine of the index.

#![deny(unsafe_code)]

mod caught;
pub mod check;
pub mod diff;
pub mod disk;
pub mod envelope;
pub mod error;
pub mod gc;
mod heal;
pub mod history;
pub mod index;
pub mod index_btree;
mod index_sled;
pub mod ingest;
pub mod journal;
pub mod key;
pub mod lock;
pub mod manifest;
pub mod merge;
#[cfg(all(test, loom))]
mod models;
pub mod notice;
mod open;
mod owner;
pub mod probe;
mod publish;
mod quarantine;
pub mod query;
mod queue;
pub mod reader;
mod rebuild;
pub mod record;
pub mod reduce;
pub mod snapshot;
pub mod socket;
pub mod stat;
mod state;
mod store;
mod sync;
pub mod tables;
mod ticket;
pub mod transfer;
mod writer;

pub use check::{CheckReport, Finding, RepairReport, check, repair};
pub use diff::{Change, DiffReport, Side, Verdict, diff};
pub use error::StoreError;
pub use gc::{GcOptions, GcReport, gc};
pub use merge::{MergeReport, merge};
pub use open::{Between, IndexKind, OpenOptions, OpenReport, Verify};
pub use probe::{Probe, probe_main};
pub use query::{Of, Query, QueryError, Rows};
pub use reader::{ModelRecords, Reader, Source};
pub use stat::{StatReport, stat};
pub use store::Store;
pub use tables::{Best, DeviceRow, ModelRow};
pub use ticket::Ticket;
pub use transfer::{ExportReport, ImportOptions, ImportReport, export, import};
