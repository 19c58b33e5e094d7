//! Tuning: models → records and an artifact.

pub mod allocate;
pub mod budget;
pub mod choose;
pub mod event;
pub mod explore;
pub mod portfolio;
pub mod records;

pub use budget::{Budget, BudgetError, Stop};
pub use choose::{Choice, choose, plan_key};
pub use event::Event;
