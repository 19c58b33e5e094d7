//! What a policy that foresees learns from here besides the rows of loaded models: what their graphs are like, how often a plan without
//! a record was timed, what all other models of the tuning database cost on these devices, and how these wake.

use super::Known;
use super::catalog::{Bound, Served};
use super::fleet::Seat;
use super::predict::Table;
use crate::features;
use crate::schedule::{self, DeviceId, Engines, Facts, Index, IndexError, ModelId, examples_elsewhere, from_records};
use schema::Observation;
use std::sync::Arc;

/// The facts of an index.
///
/// # Errors
/// [`IndexError`] when the database's records make no sense together.
pub(super) fn facts(
    index: &Index,
    models: &[Option<Arc<Served>>],
    seats: &[Seat],
    table: &Table,
    known: Option<&Known>,
) -> Result<Facts, IndexError> {
    let mut facts = Facts::default();
    for (at, served) in models.iter().enumerate() {
        let Some(served) = served else { continue };
        let of = |bound: &Bound| ((ModelId(at as u16), bound.rows), features::of(served.source.artifact.outline(bound.graph)));
        facts.features.extend(served.graphs.iter().map(of));
    }
    for (at, seat) in seats.iter().enumerate() {
        facts.units.extend(seat.units().map(|(share, units)| ((DeviceId(at as u16), share), units)));
    }
    facts.samples.extend(table.timed().map(|(at, runs)| ((at.model, at.device, at.share, at.rows), runs)));
    if let Some(Known { records, features, wakes }) = known {
        let wake = |(at, seat): (usize, &Seat)| Some((DeviceId(at as u16), *wakes.get(&seat.site.here().device)?));
        facts.wakes.extend(seats.iter().enumerate().filter_map(wake));
        let here = |of: &Observation| seats.iter().any(|seat| seat.site.here().device == of.device);
        let rows = records.rows.iter().filter(|row| !row.stale).map(|row| &row.observation).filter(|of| here(of));
        let rows: Vec<&Observation> = rows.collect();
        let (_, all) = from_records(records.generation, Engines::None, rows.iter().copied())?;
        let told = schedule::facts(&all, rows.iter().copied(), features, wakes);
        facts.elsewhere = examples_elsewhere(index, &all.with_facts(told));
    }
    Ok(facts)
}
