//! Meetings: plans of one entry that compute its batch in different parts, in pairs, all tasks at their defaults.

use super::bench::WorkerBench;
use super::{Effort, MeasureError};
use schema::{Picos, Split};
use std::path::Path;

/// Plans of one entry that meet. Two of them stand in the worker at a time.
pub struct Meetings<'m, 'b> {
    bench: &'m mut WorkerBench<'b>,
    /// An artifact that holds the entry.
    artifact: &'m Path,
    entry: u32,
    seed: u64,
    /// What stands in the two slots, and what a run of it took.
    standing: [Option<(Split, Picos)>; 2],
}

impl<'m, 'b> Meetings<'m, 'b> {
    /// Nobody stands yet.
    pub fn new(bench: &'m mut WorkerBench<'b>, artifact: &'m Path, entry: u32, seed: u64) -> Self {
        bench.forget_task();
        Meetings { bench, artifact, entry, seed, standing: [None; 2] }
    }

    /// What `challenger` gains over `holder`: the ratio of their times in millionths, 0 when one of them falls.
    ///
    /// # Errors
    /// [`MeasureError`] when the bench itself fails.
    pub fn gain(&mut self, holder: Split, challenger: Split, effort: &Effort) -> Result<u64, MeasureError> {
        let held_at = self.standing.iter().position(|standing| standing.is_some_and(|(split, _)| split == holder));
        let at = held_at.unwrap_or(0);
        let (Some(held), Some(challenging)) = (self.stand(at, holder)?, self.stand(1 - at, challenger)?) else { return Ok(0) };
        let met = self.bench.meet([at as u32, 1 - at as u32], held.max(challenging), effort)?;
        Ok(met.map_or(0, |(_, _, ratio)| ratio.ppm))
    }

    /// Makes a plan stand in a slot; what a run of it takes, `None` when it falls.
    fn stand(&mut self, slot: usize, split: Split) -> Result<Option<Picos>, MeasureError> {
        match self.standing[slot] {
            Some((standing, time)) if standing == split => Ok(Some(time)),
            _ => {
                let loaded = self.bench.load_plan(self.artifact, self.entry, slot as u32, (split, &[]), self.seed)?;
                self.standing[slot] = loaded.ok().map(|time| (split, time));
                Ok(self.standing[slot].map(|(_, time)| time))
            }
        }
    }
}
