//! The stage: where plans of whole models run before anything is chosen, for rehearsals and for the last word.
//!
//! Workers read models from artifacts. A draft beside the artifact to be holds a model's graphs and weights without configs; it is
//! written when a model is first needed and removed with the stage.

use super::Objective;
use super::explore::{ExploreError, Rehearse};
use super::work::{Contender, Scope, Wanted};
use crate::artifact::{self, ArtifactError};
use crate::device::Grant;
use crate::execute::release_constants;
use crate::measure::bench::WorkerBench;
use crate::measure::end_to_end::{Course, EndToEnd};
use crate::measure::rehearsal::{Cast, Play, Rehearsal};
use crate::measure::{Bench, Effort, MeasureError, Phases};
use schema::{Config, Picos, Split};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Largest difference of a whole model's outputs between two plans, relative as in `run --rtol`: errors of many layers add up.
const MODEL_MAX_ERROR: f64 = 1e-3;

/// Plans of the entries, run by workers on the entries' shares.
pub struct Stage<'a> {
    scope: Scope<'a>,
    entries: &'a [Wanted],
    contenders: &'a [Contender],
    drafts: BTreeMap<usize, Draft>,
    sentinels: Vec<Picos>,
    phases: Phases,
}

impl<'a> Stage<'a> {
    /// An empty one, on which nobody contends yet.
    pub fn new(scope: Scope<'a>, entries: &'a [Wanted]) -> Self {
        Stage { scope, entries, contenders: &[], drafts: BTreeMap::new(), sentinels: Vec::new(), phases: Phases::default() }
    }

    /// Those may be rehearsed.
    pub fn admit(&mut self, contenders: &'a [Contender]) {
        self.contenders = contenders;
    }

    /// The draft with an entry, and the entry's number in it.
    fn draft(&mut self, entry: usize) -> Result<(&Path, u32), ArtifactError> {
        let model = self.entries[entry].model;
        if !self.drafts.contains_key(&model) {
            let draft = Draft::write(model, &self.scope, self.entries)?;
            self.drafts.insert(model, draft);
        }
        let draft = &self.drafts[&model];
        Ok((&draft.path, draft.entries[&entry]))
    }

    fn max_error(&self) -> f64 {
        MODEL_MAX_ERROR.max(self.scope.options.max_error)
    }

    fn bench(&self, entry: usize) -> WorkerBench<'a> {
        self.bench_on(&self.scope.places[self.entries[entry].place].grant)
    }

    fn bench_on(&self, grant: &Grant) -> WorkerBench<'a> {
        WorkerBench::new(&self.scope.options.worker, grant, self.scope.options.seed, self.scope.options.max_error)
            .interrupted_by(self.scope.rules.interrupted)
    }

    /// Measures a plan of an entry, in these parts and with these configs, against that of defaults; with `None` the defaults alone.
    ///
    /// # Errors
    /// [`ExploreError`] when the draft cannot be written or the worker fails.
    pub fn end_to_end(
        &mut self,
        entry: usize,
        plan: Option<(Split, &[(String, Config)])>,
        effort: Effort,
    ) -> Result<EndToEnd, ExploreError> {
        let (split, configs) = plan.unwrap_or((Split::WHOLE, &[]));
        let (seed, max_error) = (self.scope.options.seed.0, self.max_error());
        let mut bench = self.bench(entry);
        let mut neighbours = self.neighbours(entry);
        let by_energy = self.scope.options.objective == Objective::Energy;
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
        self.phases.absorb(bench.phases());
        Ok(found?)
    }

    /// Benches on the other disjoint parts of an entry's device, where its objective is what all of them do together.
    fn neighbours(&self, entry: usize) -> Vec<WorkerBench<'a>> {
        let place = &self.scope.places[self.entries[entry].place];
        let machine = self.scope.options.devices.iter().find(|machine| machine.device == place.device);
        let Some(machine) = machine.filter(|_| self.scope.options.objective == Objective::Throughput) else { return Vec::new() };
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
        contender: usize,
        rivals: &[Cast],
        effort: Effort,
        whole: Duration,
    ) -> Result<Rehearsal, ExploreError> {
        let (seed, max_error) = (self.scope.options.seed.0, self.max_error());
        let (entry, split) = (self.contenders[contender].entry, self.contenders[contender].chosen.split);
        let mut bench = self.bench(entry);
        let (artifact, number) = self.draft(entry)?;
        let found = bench.rehearse(&Play { artifact, entry: number, split, seed, max_error, effort, whole }, rivals);
        self.sentinels.extend(bench.sentinels());
        self.phases.absorb(bench.phases());
        match found {
            Err(MeasureError::Lost(why)) => Ok(Rehearsal { run: None, rivals: Err(why) }),
            found => Ok(found?),
        }
    }

    fn sentinels(&mut self) -> Vec<Picos> {
        std::mem::take(&mut self.sentinels)
    }

    fn phases(&mut self) -> Phases {
        std::mem::take(&mut self.phases)
    }
}

/// An artifact without configs. Removed when it is dropped.
struct Draft {
    path: PathBuf,
    /// The place of each entry in it.
    entries: BTreeMap<usize, u32>,
}

impl Draft {
    fn write(number: usize, scope: &Scope<'_>, entries: &[Wanted]) -> Result<Draft, ArtifactError> {
        let (model, options) = (&scope.models[number], scope.options);
        let contents = super::contents(number, scope, entries, &[]);
        let output = options.outputs.get(number).cloned().unwrap_or_else(|| PathBuf::from(&model.name));
        let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let path = folder.join(format!(".{}.draft-{}.tune", model.name, std::process::id()));
        let path = std::path::absolute(&path).unwrap_or(path);
        let own = (0..entries.len()).filter(|&entry| entries[entry].model == number);
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
