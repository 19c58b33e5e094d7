//! What a tuning is to gain: how whole plans are judged.

use super::explore::Place;
use std::fmt;

/// What a plan is judged by, end to end. Tasks are always searched by their time.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Objective {
    /// The time of one inference, nothing else running.
    #[default]
    Latency,
    /// Rows per second, while every other disjoint part of the device of that size is loaded alike.
    Throughput,
    /// The energy of one inference by the device's own counter.
    Energy,
}

impl Objective {
    /// The mechanism that an end-to-end record of this objective names: a record of one objective says nothing of another.
    pub fn mechanism(self, place: &Place) -> String {
        let own = &place.grant.grant.mechanism;
        match self {
            Objective::Latency => own.clone(),
            Objective::Throughput => format!("{own}, all loaded"),
            Objective::Energy => format!("{own}, by energy"),
        }
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Objective::Latency => "latency",
            Objective::Throughput => "throughput",
            Objective::Energy => "energy",
        })
    }
}
