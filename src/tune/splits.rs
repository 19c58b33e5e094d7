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
use super::{Options, TuneError, Wanted, judge};
use crate::artifact::{self, Contents, Entry};
use crate::measure::Effort;
use crate::measure::bench::WorkerBench;
use crate::measure::end_to_end::Course;
use crate::split;
use crate::task::{self, Counted};
use schema::{Outcome, Picos, Split, Subject};
use std::path::Path;
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
/// [`TuneError`] when records, workers or the disk fail.
#[allow(clippy::too_many_arguments)]
pub fn choose(
    models: &[Prepared],
    places: &[Place],
    asked: usize,
    entries: &[Wanted],
    rules: &Rules<'_>,
    options: &Options,
    records: &mut dyn Records,
    events: &mut dyn FnMut(Event),
) -> Result<Vec<Chosen>, TuneError> {
    let mut chosen = whole(entries);
    let start = rules.clock.now();
    let mut open: Vec<(usize, Vec<Candidate>)> = Vec::new();
    for (entry, wanted) in entries.iter().enumerate() {
        let ladder = ladder(models, &places[..], asked, wanted);
        match recorded(models, places, wanted, rules, options, records)? {
            Some(split) => {
                let known = ladder.into_iter().find(|candidate| candidate.split == split);
                chosen[entry] = known.map_or_else(|| chosen[entry].clone(), |known| known.chosen(models, wanted));
            }
            None if ladder.is_empty() => {}
            None => open.push((entry, ladder)),
        }
    }
    for (number, model) in models.iter().enumerate() {
        let own: Vec<&(usize, Vec<Candidate>)> = open.iter().filter(|(entry, _)| entries[*entry].model == number).collect();
        if own.is_empty() || rules.interrupted.load(Ordering::SeqCst) {
            continue;
        }
        let draft = draft(number, model, places, entries, &own, options)?;
        let mut first = 0;
        for (entry, ladder) in own {
            let spent = rules.clock.now().saturating_sub(start);
            let over = options.budget.time.is_some_and(|budget| spent > budget.mul_f64(BUDGET_MAX));
            if !over && !rules.interrupted.load(Ordering::SeqCst) {
                let wanted = &entries[*entry];
                let mut meetings = Meetings::new(&draft.path, first, &places[wanted.place], options);
                let best = walk(ladder, &mut |candidate, best| meetings.gain(candidate, best))?;
                if let Some(best) = best {
                    chosen[*entry] = ladder[best].chosen(models, wanted);
                }
                let batch = model.graphs[wanted.graph].batch;
                let share = places[wanted.place].grant.share;
                events(Event::Split { model: model.name.clone(), batch, share, split: chosen[*entry].split });
            }
            first += ladder.len() as u32 + 1;
        }
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
    gain: &mut dyn FnMut(usize, Option<usize>) -> Result<u64, TuneError>,
) -> Result<Option<usize>, TuneError> {
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
    let all = judge::entry_records(models, places, wanted, rules, records)?;
    let judged = all.iter().filter(|one| matches!(one.outcome, Outcome::Ok { ratio: Some(_), .. }));
    let newest = judged.max_by_key(|one| (one.id.seq, one.id.writer));
    let newest = newest.or_else(|| all.iter().max_by_key(|one| (one.id.seq, one.id.writer)));
    Ok(newest.and_then(|one| match &one.subject {
        Subject::Model(record) => Some(record.split),
        _ => None,
    }))
}

/// An artifact with an entry for the whole and for every candidate of each open entry, all with default configs.
fn draft(
    number: usize,
    model: &Prepared,
    places: &[Place],
    entries: &[Wanted],
    own: &[&(usize, Vec<Candidate>)],
    options: &Options,
) -> Result<judge::DraftFile, TuneError> {
    let mut contents = Contents {
        provenance: super::provenance(model, options),
        graphs: model.graphs.clone(),
        entries: Vec::new(),
        records: Vec::new(),
        notes: Vec::new(),
    };
    for (entry, ladder) in own {
        let wanted = &entries[*entry];
        let (place, bound) = (&places[wanted.place], &model.graphs[wanted.graph]);
        for split in std::iter::once(Split::WHOLE).chain(ladder.iter().map(|candidate| candidate.split)) {
            contents.entries.push(Entry {
                device: place.device.clone(),
                environment: place.environment.clone(),
                share: place.grant.share,
                grant: place.grant.grant.clone(),
                batch: bound.batch,
                dims: bound.dims.clone(),
                graph: wanted.graph,
                split,
                configs: Vec::new(),
                record: None,
            });
        }
    }
    let file = judge::DraftFile::at(number, model, options);
    artifact::write(&file.path, &contents)?;
    Ok(file)
}

/// Meetings of the plans of one entry. Two of them stand in the worker at a time.
struct Meetings<'a> {
    bench: WorkerBench,
    artifact: &'a Path,
    /// The place of the whole in the draft; candidates stand behind it.
    first: u32,
    options: &'a Options,
    /// What stands in the two slots: places in the draft, and what a run took.
    standing: [Option<(u32, Picos)>; 2],
}

impl<'a> Meetings<'a> {
    fn new(artifact: &'a Path, first: u32, place: &Place, options: &'a Options) -> Self {
        let bench = WorkerBench::new(&options.worker, &place.grant, options.seed, options.max_error);
        Meetings { bench, artifact, first, options, standing: [None; 2] }
    }

    /// What a candidate gains over `best`, or over the whole.
    fn gain(&mut self, candidate: usize, best: Option<usize>) -> Result<u64, TuneError> {
        let place = |candidate: usize| self.first + 1 + candidate as u32;
        let (challenger, holder) = (place(candidate), best.map_or(self.first, place));
        let at = self.standing.iter().position(|standing| standing.is_some_and(|(entry, _)| entry == holder));
        let at = at.unwrap_or(0);
        let (Some(held), Some(challenging)) = (self.stand(at, holder)?, self.stand(1 - at, challenger)?) else { return Ok(0) };
        let slots = [at as u32, 1 - at as u32];
        let met = self.bench.meet(slots, held.max(challenging), &EFFORT).map_err(ExploreError::from)?;
        Ok(met.map_or(0, |(_, _, ratio)| ratio.ppm))
    }

    /// Makes the plan of an entry of the draft stand in a slot; what a run of it takes, `None` when it falls.
    fn stand(&mut self, slot: usize, entry: u32) -> Result<Option<Picos>, TuneError> {
        if let Some((standing, time)) = self.standing[slot]
            && standing == entry
        {
            return Ok(Some(time));
        }
        let course = Course {
            artifact: self.artifact,
            entry,
            default_only: false,
            seed: self.options.seed.0,
            max_error: self.options.max_error,
            effort: EFFORT,
        };
        let loaded = self.bench.load(&course, slot as u32, true).map_err(ExploreError::from)?;
        self.standing[slot] = loaded.ok().map(|time| (entry, time));
        Ok(self.standing[slot].map(|(_, time)| time))
    }
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
