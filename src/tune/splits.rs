//! How each entry may compute its batch: as a whole, or in parts. Whole plans with default configs meet before any task is explored, so
//! that the search spends its seconds on the tasks that will run; where two ways are near, both contend until their tasks are tuned.
//!
//! Parts of a few rows keep a network's activations in the caches near the cores; lanes of one core each need no barrier after every
//! operator. Against it stand weights, which every part reads again. Which of these wins is a matter of the model and the machine, so it
//! is measured: from a middling part downwards while that helps, else one step up. Source of the idea: micro-batching of pipelines
//! (GPipe, Huang et al. 2019) turned inward, to caches; we found 1.2 to 2.3 times on convolutional networks at batch 16
//! (docs/measurements/splits.md).

use super::event::Event;
use super::explore::{ExploreError, Place};
use super::model_records::{EntryRecords, Found, split_plan};
use super::models::Prepared;
use super::records::Records;
use super::stage::Stage;
use super::work::{Scope, Wanted};
use crate::measure::end_to_end::EndToEnd;
use crate::measure::{Effort, MeasureError};
use crate::split;
use crate::task::{self, Counted};
use schema::{Outcome, Split};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Rows of a part where the walk begins.
const FIRST_ROWS: u32 = 4;
/// A split must be faster than what it replaces by more than this, or the walk does not follow it.
const GAIN_MIN: f64 = 1.02;
/// A way this near to the best may win once its tasks are tuned: it contends.
const NEAR: f64 = 1.2;
/// Ways of one entry whose tasks are searched at most.
const CONTENDERS_MAX: usize = 2;
/// Pairs of one meeting, and time for them.
const EFFORT: Effort = Effort { samples: 8, least: Duration::from_millis(60), limit: Duration::from_millis(250) };
/// Part of the budget that meetings may take.
const BUDGET_MAX: f64 = 0.25;

/// A way to compute an entry's batch.
#[derive(Clone, Debug)]
pub struct Chosen {
    pub split: Split,
    /// The place whose grant a lane has.
    pub place: usize,
    /// Tasks of a part, with how often a lane runs them; `None`: those of the whole graph.
    pub tasks: Option<Arc<[Counted]>>,
}

impl Chosen {
    /// Nothing is split. A device with memory of its own computes everything in rows.
    fn whole(models: &[Prepared], places: &[Place], wanted: &Wanted) -> Chosen {
        let in_rows = || models[wanted.model].tasks_in_rows[wanted.graph].clone();
        let tasks = places[wanted.place].grant.limits.gpu.map(|_| in_rows());
        Chosen { split: Split::WHOLE, place: wanted.place, tasks }
    }
}

/// Nothing is split anywhere.
pub fn whole(models: &[Prepared], places: &[Place], entries: &[Wanted]) -> Vec<Vec<Chosen>> {
    entries.iter().map(|wanted| vec![Chosen::whole(models, places, wanted)]).collect()
}

/// The ways that contend for every entry, in order, the likeliest first, and how many plans that measured. Only the first `asked` of the
/// places have entries; the others are parts of them.
///
/// Every meeting is on record, and an entry that was judged has no more of them: the same records give the same contenders.
///
/// # Errors
/// [`ExploreError`] when records, workers or the disk fail.
pub fn contenders(
    scope: &Scope<'_>,
    asked: usize,
    entries: &[Wanted],
    records: &mut dyn Records,
    stage: &mut Stage<'_>,
    events: &mut dyn FnMut(Event),
) -> Result<(Vec<Vec<Chosen>>, u64), ExploreError> {
    let mut measured = 0;
    let mut all = Vec::with_capacity(entries.len());
    for (entry, wanted) in entries.iter().enumerate() {
        let ladder = ladder(scope.models, scope.places, asked, wanted);
        let known = EntryRecords::of(scope, wanted, records, &BTreeSet::new())?;
        let before = measured;
        let mut gains: BTreeMap<usize, f64> = BTreeMap::new();
        let best = walk(&ladder, &mut |candidate| {
            let split = ladder[candidate].split;
            let gain = match known.of_plan(split_plan(split)).map(|one| &one.outcome) {
                Some(Outcome::Ok { ratio: Some(ratio), .. }) => ratio.ppm as f64 / 1e6,
                Some(_) => 0.0,
                None => {
                    let over = scope.options.budget.time.is_some_and(|budget| scope.rules.elapsed() > budget.mul_f64(BUDGET_MAX));
                    let over = over || scope.options.budget.measures_only();
                    if over || known.any_judged() || scope.rules.interrupted.load(Ordering::SeqCst) {
                        return Ok(0.0);
                    }
                    match meet(scope, entry, wanted, split, stage, records) {
                        // Nothing is said of the split; what is known goes into the artifact.
                        Err(ExploreError::Measure(MeasureError::Interrupted)) => return Ok(0.0),
                        gain => {
                            measured += 1;
                            gain?
                        }
                    }
                }
            };
            gains.insert(candidate, gain);
            Ok(gain)
        })?;
        let ways = near(best, &gains);
        if measured > before {
            let batch = scope.models[wanted.model].graphs[wanted.graph].batch;
            let (model, share) = (scope.models[wanted.model].name.clone(), scope.places[wanted.place].grant.share);
            let split = best.map_or(Split::WHOLE, |best| ladder[best].split);
            events(Event::Split { model, batch, share, split });
        }
        let way = |candidate: &Option<usize>| match candidate {
            Some(candidate) => ladder[*candidate].chosen(scope.models, wanted),
            None => Chosen::whole(scope.models, scope.places, wanted),
        };
        all.push(ways.iter().map(way).collect());
    }
    Ok((all, measured))
}

/// Measures a split with default configs against the whole, puts it on record and says what it gains; 0 when it falls.
fn meet(
    scope: &Scope<'_>,
    entry: usize,
    wanted: &Wanted,
    split: Split,
    stage: &mut Stage<'_>,
    records: &mut dyn Records,
) -> Result<f64, ExploreError> {
    let plan = split_plan(split);
    let gain = match stage.end_to_end(entry, Some((split, &[])), EFFORT)? {
        EndToEnd::Ok { default, tuned, ratio, memory_bytes, energy_mj, .. } => {
            let lines = [None; 3];
            let found = Found { plan, split, default, tuned, ratio: Some(ratio), memory_bytes, energy_mj, lines };
            found.append(scope, wanted, records)?;
            ratio.ppm as f64 / 1e6
        }
        EndToEnd::Failed { tuned: true, class, detail } => {
            Found::append_fallen(scope, wanted, (plan, split), (class, &detail), records)?;
            0.0
        }
        // The default fell: nothing is said of the split.
        EndToEnd::Failed { tuned: false, .. } => return Ok(0.0),
    };
    records.commit()?;
    Ok(gain)
}

/// The best way and what is near it, at most [`CONTENDERS_MAX`]; `None` is the whole, whose gain is 1.
fn near(best: Option<usize>, gains: &BTreeMap<usize, f64>) -> Vec<Option<usize>> {
    let of = |way: &Option<usize>| way.map_or(1.0, |candidate| gains[&candidate]);
    let mut others: Vec<Option<usize>> = gains.keys().copied().map(Some).chain([None]).filter(|way| *way != best).collect();
    others.retain(|way| of(way) * NEAR >= of(&best));
    others.sort_by(|a, b| of(b).total_cmp(&of(a)));
    std::iter::once(best).chain(others).take(CONTENDERS_MAX).collect()
}

/// A split that an entry could have.
#[derive(Clone, Debug)]
struct Candidate {
    split: Split,
    place: usize,
    rows: u32,
}

impl Candidate {
    fn chosen(&self, models: &[Prepared], wanted: &Wanted) -> Chosen {
        let bound = &models[wanted.model].graphs[wanted.graph];
        let part = split::part(&bound.graph, self.split.parts() as usize).ok();
        let tasks = part.and_then(|part| task::tasks(&part).ok()).map(|mut tasks| {
            tasks.iter_mut().for_each(|counted| counted.count *= self.split.rounds() as usize);
            tasks.into()
        });
        Chosen { split: self.split, place: self.place, tasks }
    }
}

/// The splits of an entry, the smallest parts first; empty where its rows meet.
fn ladder(models: &[Prepared], places: &[Place], asked: usize, wanted: &Wanted) -> Vec<Candidate> {
    let bound = &models[wanted.model].graphs[wanted.graph];
    // Parts are for caches near the cores, and for lanes of cores.
    if places[wanted.place].grant.limits.gpu.is_some() {
        return Vec::new();
    }
    let (batch, place) = (bound.batch.rows(), &places[wanted.place]);
    let units = place.grant.limits.units;
    let lane = lane_place(places, asked, wanted.place);
    let (lanes, lane) = lane.filter(|_| batch.is_multiple_of(units)).map_or((1, wanted.place), |lane| (units, lane));
    let sizes = (0..).map(|power| 1u32 << power).take_while(|&rows| rows <= batch / lanes && rows <= 2 * FIRST_ROWS);
    let mut sizes: Vec<u32> = sizes.filter(|rows| batch.is_multiple_of(rows * lanes)).collect();
    if lanes > 1 && !sizes.contains(&(batch / lanes)) {
        sizes.push(batch / lanes);
    }
    let candidate = |rows: u32| Some(Candidate { split: Split::new(batch / rows, lanes)?, place: lane, rows });
    let ladder: Vec<Candidate> = sizes.into_iter().filter_map(candidate).filter(|one| !one.split.is_whole()).collect();
    let apart = ladder.first().is_some_and(|least| split::part(&bound.graph, least.split.parts() as usize).is_ok());
    if apart { ladder } else { Vec::new() }
}

/// The place of one unit of another place.
fn lane_place(places: &[Place], asked: usize, of: usize) -> Option<usize> {
    let whole = &places[of];
    if whole.grant.limits.units < 2 || of >= asked {
        return None;
    }
    places.iter().position(|place| place.device == whole.device && place.grant.limits.units == 1)
}

/// Which candidate is best, `None` for the whole: from a middling part downwards while it gains, else one step up. `gain` says how much
/// faster than the whole a candidate is; 0 when it falls.
fn walk(ladder: &[Candidate], gain: &mut dyn FnMut(usize) -> Result<f64, ExploreError>) -> Result<Option<usize>, ExploreError> {
    if ladder.is_empty() {
        return Ok(None);
    }
    let middle = ladder.iter().rposition(|candidate| candidate.rows <= FIRST_ROWS).unwrap_or(0);
    let (mut best, mut most) = (None, 1.0);
    for candidate in (0..=middle).rev() {
        let gain = gain(candidate)?;
        if gain <= most * GAIN_MIN {
            break;
        }
        (best, most) = (Some(candidate), gain);
    }
    let above = middle + 1;
    if best.is_none_or(|best| best == middle) && above < ladder.len() && gain(above)? > most * GAIN_MIN {
        best = Some(above);
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The candidate with that many rows that a walk over times per part size ends at; `whole` is the time of the whole.
    fn ends_at(rows: &[u32], times: &[u64], whole: u64) -> (Option<u32>, usize) {
        let one = |&rows: &u32| Candidate { split: Split::new(16 / rows, 1).unwrap(), place: 0, rows };
        let ladder: Vec<Candidate> = rows.iter().map(one).collect();
        let mut meetings = 0;
        let best = walk(&ladder, &mut |candidate| {
            meetings += 1;
            Ok(whole as f64 / times[candidate] as f64)
        });
        (best.unwrap().map(|best| ladder[best].rows), meetings)
    }

    #[test]
    fn the_walk_goes_down_while_it_gains_and_else_one_step_up() {
        let rows = [1, 2, 4, 8];
        assert_eq!(ends_at(&rows, &[50, 60, 70, 80], 100), (Some(1), 3));
        assert_eq!(ends_at(&rows, &[90, 60, 70, 80], 100), (Some(2), 3));
        assert_eq!(ends_at(&rows, &[99, 90, 70, 60], 100), (Some(8), 3));
        assert_eq!(ends_at(&rows, &[200, 150, 120, 110], 100), (None, 2));
        assert_eq!(ends_at(&rows, &[200, 150, 120, 90], 100), (Some(8), 2));
        assert_eq!(ends_at(&[1, 2], &[99, 99], 100), (None, 1), "a gain within the noise is none");
    }

    #[test]
    fn what_is_near_the_best_contends_and_what_is_not_does_not() {
        let gains = |of: &[f64]| of.iter().copied().enumerate().collect::<BTreeMap<usize, f64>>();
        assert_eq!(near(None, &gains(&[])), [None]);
        assert_eq!(near(None, &gains(&[0.9, 0.7])), [None, Some(0)]);
        assert_eq!(near(None, &gains(&[0.0, 0.7])), [None], "what fell or is far");
        assert_eq!(near(Some(1), &gains(&[1.45, 1.5])), [Some(1), Some(0)]);
        assert_eq!(near(Some(1), &gains(&[1.0, 1.1])), [Some(1), Some(0)], "two at most");
        assert_eq!(near(Some(0), &gains(&[3.0, 1.1])), [Some(0)]);
    }
}
