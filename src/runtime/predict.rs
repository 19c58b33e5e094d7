//! Which entry each worker runs a batch with, and how long that will take.
//!
//! The entry is the best on the ladder of [`placement`]. Its time comes from the records of the tuning
//! database, from those of the artifact, or, where nobody measured this plan at this share, from the runs with which it was loaded. To what
//! was recorded comes what the way to the worker and back took in those runs: requests see both.

use super::catalog::{Bound, Served};
use super::fleet::Seat;
use super::hand;
use crate::placement::{self, Index, Prediction, Rung, Wish};
use crate::schedule::{DeviceId, Line, Measured, ModelId, Nanos, Stages};
use schema::{Batch, Picos, Share};
use std::collections::BTreeMap;
use std::sync::Arc;
use tuning_db::ModelRecords;

/// Where a plan is: of which model, on which share, for how many rows.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PlacedAt {
    pub model: ModelId,
    pub device: DeviceId,
    pub share: Share,
    pub rows: Batch,
}

/// What a plan is made of, before it is measured.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    candidate: usize,
    pub entry: Option<usize>,
    rung: Rung,
    batch: Batch,
}

/// A plan that is there.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Loaded {
    choice: Choice,
    time: hand::Loaded,
}

/// A plan and what is predicted of it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub rung: Rung,
    /// Of the graph.
    pub batch: Batch,
    /// Where the prediction comes from; `None`: from the runs with which it was loaded.
    pub recorded: Option<Prediction>,
    time: Nanos,
    /// Of the runs with which it was loaded.
    stages: Stages,
    spread: Nanos,
    runs: u32,
}

/// All plans of one generation.
#[derive(Debug, Default)]
pub(super) struct Table(BTreeMap<PlacedAt, Facts>);

impl Choice {
    pub fn loaded(self, time: hand::Loaded) -> Loaded {
        Loaded { choice: self, time }
    }
}

/// What a graph runs with on a share.
pub(super) fn choose(served: &Served, bound: &Bound, seat: &Seat, share: Share, records: Option<&ModelRecords>) -> Choice {
    let candidates = &served.source.candidates;
    let mine = candidates.iter().enumerate().filter(|(_, candidate)| candidate.graph == bound.graph);
    let fits: Vec<usize> = mine.map(|(at, _)| at).collect();
    let wish = Wish { fits: &fits, deadline: None, share: Some(share) };
    let index = index(served, seat, records);
    let defaults = Choice { candidate: usize::MAX, entry: None, rung: Rung::Default, batch: bound.batch };
    let chosen = placement::choose(candidates, &index, &seat.site.here(), &wish, |_| true);
    chosen.map_or(defaults, |chosen| {
        let rung = chosen.decision.rung;
        let entry = candidates[chosen.candidate].entry.filter(|_| rung != Rung::Default);
        Choice { candidate: chosen.candidate, entry, rung, batch: bound.batch }
    })
}

fn index(served: &Served, seat: &Seat, records: Option<&ModelRecords>) -> Index {
    match records {
        Some(records) => Index::of(&served.source.candidates, records, &seat.site.here()),
        None => Index::of_artifacts(&served.source.candidates),
    }
}

impl Table {
    /// What is predicted of each plan.
    pub fn new(
        models: &[Option<Arc<Served>>],
        plans: &BTreeMap<PlacedAt, Loaded>,
        seats: &[Seat],
        records: Option<&ModelRecords>,
    ) -> Table {
        let mut facts = BTreeMap::new();
        // Plans of one model on one device lie together.
        let mut last: Option<((ModelId, DeviceId), Index)> = None;
        for (&place, loaded) in plans {
            let Some(served) = &models[usize::from(place.model.0)] else { continue };
            let of = (place.model, place.device);
            if last.as_ref().is_none_or(|(known, _)| *known != of) {
                last = Some((of, index(served, &seats[usize::from(place.device.0)], records)));
            }
            let recorded = last.as_ref().and_then(|(_, index)| index.prediction(loaded.choice.candidate, place.share));
            let way = Picos(loaded.time.whole.0.saturating_sub(loaded.time.inner.0));
            let time = recorded.map_or(loaded.time.whole, |recorded| Picos(recorded.time.0.saturating_add(way.0)));
            let Choice { rung, batch, .. } = loaded.choice;
            facts.insert(
                place,
                Facts {
                    rung,
                    batch,
                    recorded,
                    time: Nanos::from(time).max(Nanos(1)),
                    stages: loaded.time.stages,
                    spread: loaded.time.spread.into(),
                    runs: loaded.time.runs,
                },
            );
        }
        Table(facts)
    }

    /// For the scheduler's index.
    pub fn measured(&self) -> Vec<Measured> {
        let one = |(place, facts): (&PlacedAt, &Facts)| {
            // Its parts are to the recorded time as they were when it was loaded.
            let part = |part: Nanos| {
                let fixed_ns = part.as_f64() / facts.stages.total().as_f64().max(1.0) * facts.time.as_f64();
                (part > Nanos::ZERO).then_some(Line { per_row_ns: 0.0, fixed_ns })
            };
            Measured {
                model: place.model,
                device: place.device,
                share: place.share,
                batch: place.rows,
                time: facts.time,
                spread: facts.spread,
                upload: part(facts.stages.upload),
                download: part(facts.stages.download),
                energy_mj: None,
            }
        };
        self.0.iter().map(one).collect()
    }

    /// How often each plan was timed that no record tells of.
    pub fn timed(&self) -> impl Iterator<Item = (PlacedAt, u32)> {
        self.0.iter().filter(|(_, facts)| facts.recorded.is_none()).map(|(place, facts)| (*place, facts.runs))
    }

    pub fn get(&self, place: PlacedAt) -> Option<&Facts> {
        self.0.get(&place)
    }
}
