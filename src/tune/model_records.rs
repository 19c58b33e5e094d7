//! Records of whole models: those of an entry, which of them speaks for a plan, and new ones.

use super::choose;
use super::explore::{ExploreError, observation};
use super::records::Records;
use super::work::{Scope, Wanted};
use crate::measure::noise;
use schema::{
    FailureClass, Line, ModelRecord, NewObservation, Observation, ObservationId, Outcome, Picos, PlanKey, Ratio, Split, Subject,
    Timing,
};
use std::collections::BTreeSet;

/// The key of the plan in parts with every task at its default.
pub fn split_plan(split: Split) -> PlanKey {
    choose::plan_key(split, [])
}

/// The records of an entry that count here: of the present environment, of the same numerics and objective; under `--fresh` this tuning's own.
pub struct EntryRecords {
    all: Vec<Observation>,
}

impl EntryRecords {
    /// Reads them; under `--fresh` only those of `own`, which this tuning made.
    ///
    /// # Errors
    /// What the records say.
    pub fn of(
        scope: &Scope<'_>,
        wanted: &Wanted,
        records: &mut dyn Records,
        own: &BTreeSet<ObservationId>,
    ) -> Result<EntryRecords, ExploreError> {
        let (model, place) = (&scope.models[wanted.model], &scope.places[wanted.place]);
        let bound = &model.graphs[wanted.graph];
        let mechanism = scope.options.objective.mechanism(place);
        let mut all = records.of_model(model.key, place.device.key(), place.grant.share)?;
        all.retain(|one| {
            let same = |record: &ModelRecord| record.batch == bound.batch && record.dims == bound.dims;
            let fits = matches!(&one.subject, Subject::Model(record) if same(record)) && one.grant.mechanism == mechanism;
            let counts = !scope.rules.fresh || own.contains(&one.id);
            counts && fits && one.environment == place.environment.key() && one.numerics == scope.rules.numerics
        });
        Ok(EntryRecords { all })
    }

    /// Whether any plan was judged; one in parts with nothing but defaults only met the default.
    pub fn any_judged(&self) -> bool {
        let judged = |record: &ModelRecord| record.split.is_whole() || record.plan != split_plan(record.split);
        self.all.iter().any(|one| matches!(&one.subject, Subject::Model(record) if judged(record)))
    }

    /// The record that speaks for a plan: that it fell, before all; else the narrowest interval, else the most samples. A function of the
    /// set of records, whatever writers they came from.
    pub fn of_plan(&self, plan: PlanKey) -> Option<&Observation> {
        let own = self.all.iter().filter(|one| matches!(&one.subject, Subject::Model(record) if record.plan == plan));
        own.min_by_key(|one| match &one.outcome {
            Outcome::Failed { .. } => (0, 0, one.id),
            Outcome::Ok { ratio: Some(ratio), .. } => (1, ratio.hi_ppm.saturating_sub(ratio.lo_ppm), one.id),
            Outcome::Ok { timing, .. } => (2, u64::from(u32::MAX - timing.n), one.id),
        })
    }
}

/// What was measured of a plan, for a record.
#[derive(Clone, Debug)]
pub struct Found {
    pub plan: PlanKey,
    pub split: Split,
    pub default: Timing,
    pub tuned: Timing,
    /// `None` when the default itself was all there was to measure.
    pub ratio: Option<Ratio>,
    pub memory_bytes: u64,
    /// Of one inference, or why it is unknown.
    pub energy_mj: Result<u64, String>,
    /// Upload, compute, download.
    pub lines: [Option<Line>; 3],
}

impl Found {
    /// The default plan's own figures, from the pairs in which another plan was not faster.
    pub fn default_beside(&self) -> Found {
        Found { plan: PlanKey::of_defaults(), split: Split::WHOLE, tuned: self.default, ratio: None, ..self.clone() }
    }
}

impl Found {
    /// Hands the records what was found of an entry's plan.
    ///
    /// # Errors
    /// What the records say.
    pub fn append(&self, scope: &Scope<'_>, wanted: &Wanted, records: &mut dyn Records) -> Result<(), ExploreError> {
        let outcome = Outcome::Ok { timing: self.tuned, ratio: self.ratio };
        Ok(records.append(self.observation(scope, wanted, outcome))?)
    }

    /// Hands the records that a plan fell, so that it is never tried again.
    ///
    /// # Errors
    /// What the records say.
    pub fn append_fallen(
        scope: &Scope<'_>,
        wanted: &Wanted,
        (plan, split): (PlanKey, Split),
        (class, detail): (FailureClass, &str),
        records: &mut dyn Records,
    ) -> Result<(), ExploreError> {
        let nothing = Timing { median: Picos(0), mad: Picos(0), p99: Picos(0), n: 0, grade: noise::grade(Picos(0), Picos(0)) };
        let found = Found {
            plan,
            split,
            default: nothing,
            tuned: nothing,
            ratio: None,
            memory_bytes: 0,
            energy_mj: Err("the plan fell".to_owned()),
            lines: [None; 3],
        };
        Ok(records.append(found.observation(scope, wanted, Outcome::Failed { class, detail: detail.to_owned() }))?)
    }

    fn observation(&self, scope: &Scope<'_>, wanted: &Wanted, outcome: Outcome) -> NewObservation {
        let (model, place) = (&scope.models[wanted.model], &scope.places[wanted.place]);
        let bound = &model.graphs[wanted.graph];
        let [upload, compute, download] = self.lines;
        let record = ModelRecord {
            model: model.key,
            model_name: model.name.clone(),
            batch: bound.batch,
            dims: bound.dims.clone(),
            plan: self.plan,
            split: self.split,
            default: self.default,
            upload,
            compute,
            download,
            throughput_milli_per_s: throughput(bound.batch.rows(), self.tuned.median),
            memory_bytes: self.memory_bytes,
            energy_mj: self.energy_mj.as_ref().ok().copied(),
            energy_why: self.energy_mj.as_ref().err().cloned(),
        };
        let mut row = observation(place, Subject::Model(Box::new(record)), outcome, scope.rules);
        row.grant.mechanism = scope.options.objective.mechanism(place);
        row
    }
}

/// Thousandths of rows per second.
fn throughput(rows: u32, time: Picos) -> u64 {
    (f64::from(rows) * 1000.0 / time.as_secs_f64().max(1e-12)) as u64
}
