//! The stage: where plans of whole models run before anything is chosen, for rehearsals and for the last word.
//!
//! Workers read models from artifacts. A draft beside the artifact to be holds a model's graphs and weights without configs; it is
//! written when a model is first needed and removed with the stage.

use super::explore::{ExploreError, Place, Rehearse, Rules};
use super::models::Prepared;
use super::{Objective, Options, Work};
use crate::artifact::{self, ArtifactError};
use crate::device::Grant;
use crate::execute::release_constants;
use crate::measure::bench::WorkerBench;
use crate::measure::end_to_end::{Course, EndToEnd};
use crate::measure::meeting::Meetings;
use crate::measure::rehearsal::{Cast, Play, Rehearsed};
use crate::measure::{Bench, Effort, MeasureError};
use schema::{Config, Picos, Split};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Largest difference of a whole model's outputs between two plans, relative as in `run --rtol`: errors of many layers add up.
const MODEL_MAX_ERROR: f64 = 1e-3;

/// Plans of the entries, run by workers on the entries' shares.
pub struct Stage<'a> {
    models: &'a [Prepared],
    places: &'a [Place],
    work: &'a Work,
    options: &'a Options,
    rules: &'a Rules<'a>,
    drafts: BTreeMap<usize, Draft>,
    sentinels: Vec<Picos>,
}

impl<'a> Stage<'a> {
    /// An empty one.
    pub fn new(models: &'a [Prepared], places: &'a [Place], work: &'a Work, options: &'a Options, rules: &'a Rules<'a>) -> Self {
        Stage { models, places, work, options, rules, drafts: BTreeMap::new(), sentinels: Vec::new() }
    }

    /// The same with other work on the same entries: drafts hold no configs, so they stay.
    pub fn with_work(mut self, work: &'a Work) -> Self {
        debug_assert_eq!(self.work.entries, work.entries, "drafts are of the same entries");
        self.work = work;
        self
    }

    /// Lets plans of an entry meet that compute its batch in different parts; `course` is told how to ask what one gains over another.
    ///
    /// # Errors
    /// [`ExploreError`] when the draft cannot be written or the worker fails.
    pub fn meet<T>(
        &mut self,
        entry: usize,
        effort: Effort,
        course: impl FnOnce(&mut dyn FnMut(Split, Split) -> Result<u64, ExploreError>) -> Result<T, ExploreError>,
    ) -> Result<T, ExploreError> {
        let seed = self.options.seed.0;
        let mut bench = self.bench(entry);
        let (artifact, number) = self.draft(entry)?;
        let mut meetings = Meetings::new(&mut bench, artifact, number, seed);
        let met = course(&mut |holder, challenger| Ok(meetings.gain(holder, challenger, &effort)?));
        self.sentinels.extend(bench.sentinels());
        met
    }

    /// The draft with an entry, and the entry's number in it.
    fn draft(&mut self, entry: usize) -> Result<(&Path, u32), ArtifactError> {
        let model = self.work.entries[entry].model;
        if !self.drafts.contains_key(&model) {
            let draft = Draft::write(model, self.models, self.places, self.work, self.options)?;
            self.drafts.insert(model, draft);
        }
        let draft = &self.drafts[&model];
        Ok((&draft.path, draft.entries[&entry]))
    }

    fn max_error(&self) -> f64 {
        MODEL_MAX_ERROR.max(self.options.max_error)
    }

    fn bench(&self, entry: usize) -> WorkerBench<'a> {
        self.bench_on(&self.places[self.work.entries[entry].place].grant)
    }

    fn bench_on(&self, grant: &Grant) -> WorkerBench<'a> {
        WorkerBench::new(&self.options.worker, grant, self.options.seed, self.options.max_error)
            .interrupted_by(self.rules.interrupted)
    }

    /// Measures the plan of an entry with these configs, in the parts that were chosen for it, against that of defaults; with `None` the
    /// defaults alone.
    ///
    /// # Errors
    /// [`ExploreError`] when the draft cannot be written or the worker fails.
    pub fn end_to_end(
        &mut self,
        entry: usize,
        configs: Option<&[(String, Config)]>,
        effort: Effort,
    ) -> Result<EndToEnd, ExploreError> {
        let (defaults, configs) = (configs.is_none(), configs.unwrap_or_default());
        let (seed, max_error) = (self.options.seed.0, self.max_error());
        let split = if defaults { Split::WHOLE } else { self.work.chosen[entry].split };
        let mut bench = self.bench(entry);
        let mut neighbours = self.neighbours(entry);
        let by_energy = self.options.objective == Objective::Energy;
        let (artifact, number) = self.draft(entry)?;
        let course = Course { artifact, entry: number, split, configs, seed, max_error, effort, by_energy };
        // Neighbours do the same work at the same time; what they measure is nobody's business.
        let found = std::thread::scope(|scope| {
            let course = &course;
            for neighbour in &mut neighbours {
                scope.spawn(move || neighbour.end_to_end(course));
            }
            bench.end_to_end(course)
        });
        self.sentinels.extend(bench.sentinels());
        Ok(found?)
    }

    /// Benches on the other disjoint parts of an entry's device, where its objective is what all of them do together.
    fn neighbours(&self, entry: usize) -> Vec<WorkerBench<'a>> {
        let place = &self.places[self.work.entries[entry].place];
        let machine = self.options.devices.iter().find(|machine| machine.device == place.device);
        let Some(machine) = machine.filter(|_| self.options.objective == Objective::Throughput) else { return Vec::new() };
        let grants = (1..).map_while(|slot| machine.grant_slot(place.grant.share, slot).ok());
        grants.map(|grant| self.bench_on(&grant)).collect()
    }

    /// A model is done: its draft is not needed any more.
    pub fn strike(&mut self, model: usize) {
        self.drafts.remove(&model);
    }
}

impl Rehearse for Stage<'_> {
    fn rehearse(
        &mut self,
        entry: usize,
        rivals: &[Cast],
        effort: Effort,
    ) -> Result<Result<Vec<Rehearsed>, String>, ExploreError> {
        let (seed, max_error) = (self.options.seed.0, self.max_error());
        let split = self.work.chosen[entry].split;
        let mut bench = self.bench(entry);
        let (artifact, number) = self.draft(entry)?;
        let found = bench.rehearse(&Play { artifact, entry: number, split, seed, max_error, effort }, rivals);
        self.sentinels.extend(bench.sentinels());
        match found {
            Err(MeasureError::Lost(why)) => Ok(Err(why)),
            found => Ok(found?),
        }
    }

    fn sentinels(&mut self) -> Vec<Picos> {
        std::mem::take(&mut self.sentinels)
    }
}

/// An artifact without configs. Removed when it is dropped.
struct Draft {
    path: PathBuf,
    /// The place of each entry in it.
    entries: BTreeMap<usize, u32>,
}

impl Draft {
    fn write(
        number: usize,
        models: &[Prepared],
        places: &[Place],
        work: &Work,
        options: &Options,
    ) -> Result<Draft, ArtifactError> {
        let contents = super::contents(number, &models[number], places, work, &[], &[], options);
        let output = options.outputs.get(number).cloned().unwrap_or_else(|| PathBuf::from(&models[number].name));
        let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let path = folder.join(format!(".{}.draft-{}.tune", models[number].name, std::process::id()));
        let path = std::path::absolute(&path).unwrap_or(path);
        let own = (0..work.entries.len()).filter(|&entry| work.entries[entry].model == number);
        let draft = Draft { path, entries: own.zip(0u32..).collect() };
        artifact::write(&draft.path, &contents)?;
        contents.graphs.iter().for_each(|bound| release_constants(&bound.graph));
        Ok(draft)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
