//! How each entry computes its batch: as a whole, or in parts, chosen by meetings of whole plans with default configs before any task
//! is explored, so that the search spends its seconds on the tasks that will run.
//!
//! Parts of a few rows keep a network's activations in the caches near the cores; lanes of one core each need no barrier after every
//! operator. Against it stand weights, which every part reads again. Which of these wins is a matter of the model and the machine, so it
//! is measured: from a middling part downwards while that helps, else one step up. Source of the idea: micro-batching of pipelines
//! (GPipe, Huang et al. 2019) turned inward, to caches; we found 1.2 to 2.3 times on convolutional networks at batch 16
//! (docs/measurements/splits.md).

use super::event::Event;
use super::explore::{ExploreError, Place, Rules};
use super::models::Prepared;
use super::records::Records;
use super::stage::Stage;
use super::{Options, Wanted, judge};
use crate::measure::Effort;
use crate::split;
use crate::task::{self, Counted};
use schema::{Outcome, Split, Subject};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Rows of a part where the walk begins.
const FIRST_ROWS: u32 = 4;
/// A split must be faster than what it replaces by more than this, or its tasks are not worth a search of their own.
const GAIN_MIN_PPM: u64 = 1_020_000;
/// Pairs of one meeting, and time for them.
const EFFORT: Effort = Effort { samples: 8, limit: Duration::from_millis(250) };
/// Part of the budget that choosing splits may take.
const BUDGET_MAX: f64 = 0.25;

/// The choice for an entry.
#[derive(Clone, Debug)]
pub struct Chosen {
    pub split: Split,
    /// The place whose grant a lane has.
    pub place: usize,
    /// Tasks of a part, with how often a lane runs them; `None`: those of the whole graph.
    pub tasks: Option<Vec<Counted>>,
}

/// Nothing is split.
pub fn whole(entries: &[Wanted]) -> Vec<Chosen> {
    entries.iter().map(|wanted| Chosen { split: Split::WHOLE, place: wanted.place, tasks: None }).collect()
}

/// A split for every entry, in order. Only the first `asked` of `places` have entries; the others are parts of them.
///
/// # Errors
/// [`ExploreError`] when records, workers or the disk fail.
#[allow(clippy::too_many_arguments)]
pub fn choose(
    models: &[Prepared],
    places: &[Place],
    asked: usize,
    entries: &[Wanted],
    rules: &Rules<'_>,
    options: &Options,
    records: &mut dyn Records,
    stage: &mut Stage<'_>,
    events: &mut dyn FnMut(Event),
) -> Result<Vec<Chosen>, ExploreError> {
    let mut chosen = whole(entries);
    let start = rules.clock.now();
    let mut open: Vec<(usize, Vec<Candidate>)> = Vec::new();
    for (entry, wanted) in entries.iter().enumerate() {
        let ladder = ladder(models, places, asked, wanted);
        match recorded(models, places, wanted, rules, options, records)? {
            Some(split) => {
                let known = ladder.into_iter().find(|candidate| candidate.split == split);
                chosen[entry] = known.map_or_else(|| chosen[entry].clone(), |known| known.chosen(models, wanted));
            }
            None if ladder.is_empty() => {}
            None => open.push((entry, ladder)),
        }
    }
    for (entry, ladder) in open {
        let spent = rules.clock.now().saturating_sub(start);
        let over = options.budget.time.is_some_and(|budget| spent > budget.mul_f64(BUDGET_MAX));
        if over || rules.interrupted.load(Ordering::SeqCst) {
            break;
        }
        let wanted = &entries[entry];
        let of = |candidate: Option<usize>| candidate.map_or(Split::WHOLE, |candidate: usize| ladder[candidate].split);
        let best = stage.meet(entry, EFFORT, |gain| walk(&ladder, &mut |candidate, best| gain(of(best), of(Some(candidate)))))?;
        if let Some(best) = best {
            chosen[entry] = ladder[best].chosen(models, wanted);
        }
        let batch = models[wanted.model].graphs[wanted.graph].batch;
        let (model, share) = (models[wanted.model].name.clone(), places[wanted.place].grant.share);
        events(Event::Split { model, batch, share, split: chosen[entry].split });
    }
    Ok(chosen)
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
            tasks
        });
        Chosen { split: self.split, place: self.place, tasks }
    }
}

/// The splits of an entry, the smallest parts first; empty where its rows meet.
fn ladder(models: &[Prepared], places: &[Place], asked: usize, wanted: &Wanted) -> Vec<Candidate> {
    let bound = &models[wanted.model].graphs[wanted.graph];
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

/// Which candidate is best, `None` for the whole: from a middling part downwards while it gains, else one step up. `gain` says what a
/// candidate gains over another one or over the whole, in millionths; 0 when it falls.
fn walk(
    ladder: &[Candidate],
    gain: &mut dyn FnMut(usize, Option<usize>) -> Result<u64, ExploreError>,
) -> Result<Option<usize>, ExploreError> {
    let middle = ladder.iter().rposition(|candidate| candidate.rows <= FIRST_ROWS).unwrap_or(0);
    let mut best = None;
    for candidate in (0..=middle).rev() {
        if gain(candidate, best)? <= GAIN_MIN_PPM {
            break;
        }
        best = Some(candidate);
    }
    let above = middle + 1;
    if best.is_none_or(|best| best == middle) && above < ladder.len() && gain(above, best)? > GAIN_MIN_PPM {
        best = Some(above);
    }
    Ok(best)
}

/// The split of the plan that was judged last for an entry.
fn recorded(
    models: &[Prepared],
    places: &[Place],
    wanted: &Wanted,
    rules: &Rules<'_>,
    options: &Options,
    records: &mut dyn Records,
) -> Result<Option<Split>, ExploreError> {
    if options.fresh {
        return Ok(None);
    }
    let all = judge::entry_records(models, places, wanted, rules, options.objective, records)?;
    let judged = all.iter().filter(|one| matches!(one.outcome, Outcome::Ok { ratio: Some(_), .. }));
    let newest = judged.max_by_key(|one| (one.id.seq, one.id.writer));
    let newest = newest.or_else(|| all.iter().max_by_key(|one| (one.id.seq, one.id.writer)));
    Ok(newest.and_then(|one| match &one.subject {
        Subject::Model(record) => Some(record.split),
        _ => None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The candidate with that many rows that a walk over times per part size ends at; `whole` is the time of the whole.
    fn ends_at(rows: &[u32], times: &[u64], whole: u64) -> (Option<u32>, usize) {
        let one = |&rows: &u32| Candidate { split: Split::new(16 / rows, 1).unwrap(), place: 0, rows };
        let ladder: Vec<Candidate> = rows.iter().map(one).collect();
        let mut meetings = 0;
        let best = walk(&ladder, &mut |candidate, best| {
            meetings += 1;
            Ok(best.map_or(whole, |best: usize| times[best]) * 1_000_000 / times[candidate])
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
}
