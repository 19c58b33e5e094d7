//! The last word: for every (model, batch, share) the tuned plan meets the default plan end to end, alone on its cores. A plan that
//! is slower, wrong or does not run is not shipped: the entry keeps the defaults, whatever its tasks gained one by one.

use super::event::Event;
use super::explore::{ExploreError, Explored, Place, Rules, observation};
use super::models::Prepared;
use super::records::Records;
use super::stage::Stage;
use super::{Objective, Options, Row, TuneError, Wanted, Work, choose};
use crate::measure::end_to_end::{EndToEnd, Stages};
use crate::measure::{Effort, MeasureError, noise};
use schema::{Config, FailureClass, Line, ModelRecord, Observation, Outcome, Picos, PlanKey, Ratio, Split, Subject, Timing};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Pairs of one entry.
const PAIRS: u32 = 24;
/// Time for the pairs of one entry where the budget leaves it.
const PAIRS_TIME: Duration = Duration::from_millis(2500);
/// Part of the budget that end-to-end measurements may claim before the search has had its turn.
const RESERVE_MAX: f64 = 0.45;

/// What was decided for an entry.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// The chosen configs go into the artifact; otherwise the defaults do.
    pub tuned: bool,
    /// The record of the plan that goes into it.
    pub record: Option<Observation>,
    pub row: Option<Row>,
}

/// A measured entry before its records are written.
struct Measured {
    entry: usize,
    plan: PlanKey,
    default: Timing,
    tuned: Timing,
    ratio: Ratio,
    stages: Stages,
    memory_bytes: u64,
    energy_mj: Result<u64, String>,
    kept: bool,
    any_tuned: bool,
}

/// Judges every entry.
pub struct Judge<'a, 'b> {
    models: &'a [Prepared],
    places: &'a [Place],
    work: &'a Work,
    explored: &'a Explored,
    rules: &'a Rules<'a>,
    options: &'a Options,
    stage: &'a mut Stage<'b>,
    records: &'a mut dyn Records,
    pub measured: u64,
    pub refused: BTreeMap<FailureClass, u64>,
    pub missing: Vec<String>,
}

/// What end-to-end measurements of the open entries will take, given the expected times of all: at most a part of the budget.
pub fn reserve(open: &[bool], times: &[Picos], budget: Option<Duration>) -> Duration {
    let cost = |(open, time): (&bool, &Picos)| if *open { entry_cost(*time) } else { Duration::ZERO };
    let all: Duration = open.iter().zip(times).map(cost).sum();
    budget.map_or(all, |budget| all.min(budget.mul_f64(RESERVE_MAX)))
}

/// Loading both plans, comparing, the pairs, the stages.
fn entry_cost(time: Picos) -> Duration {
    let time = time.as_secs_f64();
    let pairs = (f64::from(PAIRS) * 2.0 * time).clamp(0.02, PAIRS_TIME.as_secs_f64() + 4.0 * time);
    Duration::from_secs_f64(0.15 + 5.0 * time + pairs)
}

/// Whether an entry has a record in the present environment, of any plan.
///
/// # Errors
/// What the records say.
pub fn has_record(
    models: &[Prepared],
    places: &[Place],
    wanted: &Wanted,
    rules: &Rules<'_>,
    objective: Objective,
    records: &mut dyn Records,
) -> Result<bool, ExploreError> {
    Ok(!entry_records(models, places, wanted, rules, objective, records)?.is_empty())
}

/// The records of an entry in the present environment, judged by this objective.
pub(super) fn entry_records(
    models: &[Prepared],
    places: &[Place],
    wanted: &Wanted,
    rules: &Rules<'_>,
    objective: Objective,
    records: &mut dyn Records,
) -> Result<Vec<Observation>, ExploreError> {
    let (model, place) = (&models[wanted.model], &places[wanted.place]);
    let bound = &model.graphs[wanted.graph];
    let mechanism = objective.mechanism(place);
    let mut all = records.of_model(model.key, place.device.key(), place.grant.share)?;
    all.retain(|one| {
        let same = |record: &ModelRecord| record.batch == bound.batch && record.dims == bound.dims;
        let fits = matches!(&one.subject, Subject::Model(record) if same(record)) && one.grant.mechanism == mechanism;
        fits && one.environment == place.environment.key() && one.numerics == rules.numerics
    });
    Ok(all)
}

impl<'a, 'b> Judge<'a, 'b> {
    /// A judge of what was explored.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        models: &'a [Prepared],
        places: &'a [Place],
        work: &'a Work,
        explored: &'a Explored,
        rules: &'a Rules<'a>,
        options: &'a Options,
        stage: &'a mut Stage<'b>,
        records: &'a mut dyn Records,
    ) -> Self {
        let (refused, missing) = (BTreeMap::new(), Vec::new());
        Judge { models, places, work, explored, rules, options, stage, records, measured: 0, refused, missing }
    }

    /// A verdict for every entry, in order. `start` is when the budget began.
    ///
    /// # Errors
    /// [`TuneError`] when records, workers or the disk fail.
    pub fn all(&mut self, start: Duration, events: &mut dyn FnMut(Event)) -> Result<Vec<Verdict>, TuneError> {
        let mut verdicts = vec![Verdict::default(); self.work.entries.len()];
        let mut left = Vec::new();
        for (entry, place) in verdicts.iter_mut().enumerate() {
            match self.recorded(entry)? {
                Some(verdict) => *place = verdict,
                None => left.push(entry),
            }
        }
        for number in 0..self.models.len() {
            let own: Vec<usize> = left.iter().copied().filter(|&entry| self.work.entries[entry].model == number).collect();
            if own.is_empty() {
                continue;
            }
            let mut measured = Vec::new();
            for (done, &entry) in own.iter().enumerate() {
                if !self.rules.interrupted.load(Ordering::SeqCst) {
                    match self.measure(entry, own.len() - done, start, events) {
                        Err(TuneError::Explore(ExploreError::Measure(MeasureError::Interrupted))) => {}
                        found => {
                            measured.extend(found?);
                            continue;
                        }
                    }
                }
                let model = &self.models[number].name;
                self.missing.push(format!("{model}: {} was not measured: interrupted", self.describe(entry)));
            }
            self.stage.strike(number);
            self.write_records(&measured)?;
            for one in measured {
                let recorded = self.recorded(one.entry)?;
                verdicts[one.entry] = recorded.unwrap_or_default();
            }
        }
        Ok(verdicts)
    }

    fn describe(&self, entry: usize) -> String {
        let wanted = &self.work.entries[entry];
        let place = &self.places[wanted.place];
        let batch = self.models[wanted.model].graphs[wanted.graph].batch;
        format!("batch {batch} on {} at {} %", place.device.name, place.grant.share)
    }

    /// The key of the plan that was chosen for an entry.
    fn plan(&self, entry: usize) -> PlanKey {
        let items = self.work.used[entry].iter();
        choose::plan_key(
            self.work.chosen[entry].split,
            items.map(|&item| (self.work.items[item].task.key(), &self.explored.choices[item])),
        )
    }

    /// The configs that were chosen for an entry where they are not the default, by the texts of their tasks.
    fn configs(&self, entry: usize) -> Vec<(String, Config)> {
        let chosen = self.work.used[entry].iter().map(|&item| (&self.work.items[item].task, &self.explored.choices[item]));
        chosen.filter(|(_, choice)| !choice.is_default).map(|(task, choice)| (task.to_string(), choice.config.clone())).collect()
    }

    /// The verdict that the records give for the chosen plan, if they hold one.
    fn recorded(&mut self, entry: usize) -> Result<Option<Verdict>, TuneError> {
        if self.options.fresh && self.measured == 0 {
            return Ok(None);
        }
        let wanted = &self.work.entries[entry];
        let all = entry_records(self.models, self.places, wanted, self.rules, self.options.objective, self.records)?;
        let (plan, nothing) = (self.plan(entry), default_plan());
        let of = |key: PlanKey| {
            // The last of a writer, the greatest id between writers: a function of the set.
            let own = all.iter().filter(|one| matches!(&one.subject, Subject::Model(record) if record.plan == key));
            own.max_by_key(|one| (one.id.seq, one.id.writer))
        };
        let Some(judged) = of(plan) else { return Ok(None) };
        let faster = match &judged.outcome {
            Outcome::Ok { ratio: Some(ratio), .. } => is_kept(ratio),
            Outcome::Ok { ratio: None, .. } => true,
            Outcome::Failed { .. } => false,
        };
        let shipped = if faster { Some(judged) } else { of(nothing) };
        let Some(shipped) = shipped else { return Ok(None) };
        let tuned = faster && plan != nothing;
        let row = self.row(entry, shipped, judged, tuned);
        Ok(Some(Verdict { tuned, record: Some(shipped.clone()), row }))
    }

    fn row(&self, entry: usize, shipped: &Observation, judged: &Observation, kept: bool) -> Option<Row> {
        let wanted = &self.work.entries[entry];
        let place = &self.places[wanted.place];
        let (Subject::Model(record), Outcome::Ok { timing, ratio }) = (&shipped.subject, &shipped.outcome) else { return None };
        let one = Ratio { ppm: 1_000_000, lo_ppm: 1_000_000, hi_ppm: 1_000_000 };
        let ratio = if kept { ratio.unwrap_or(one) } else { one };
        let default = match &judged.subject {
            Subject::Model(judged) if kept => judged.default,
            _ => record.default,
        };
        Some(Row {
            device: place.device.name.0.clone(),
            share: place.grant.share,
            batch: record.batch,
            default,
            tuned: *timing,
            ratio,
            noise: timing.grade.max(default.grade),
            kept,
            split: record.split,
            memory_bytes: record.memory_bytes,
            throughput_milli_per_s: record.throughput_milli_per_s,
            energy_mj: record.energy_mj,
            energy_why: record.energy_why.clone(),
        })
    }

    /// Measures an entry; nothing when even its default does not run.
    fn measure(
        &mut self,
        entry: usize,
        entries_left: usize,
        start: Duration,
        events: &mut dyn FnMut(Event),
    ) -> Result<Option<Measured>, TuneError> {
        let wanted = self.work.entries[entry];
        let place = &self.places[wanted.place];
        let plan = self.plan(entry);
        let configs = self.configs(entry);
        let mut judged = plan != default_plan();
        let mut limit = PAIRS_TIME;
        if let Some(budget) = self.options.budget.time {
            let spent = self.rules.clock.now().saturating_sub(start);
            let fair = budget.saturating_sub(spent) / u32::try_from(entries_left).unwrap_or(u32::MAX);
            // The other half is for loading and comparing.
            limit = limit.min(fair / 2).max(Duration::from_millis(50));
        }
        let effort = Effort { samples: PAIRS, limit };
        let mut found = self.stage.end_to_end(entry, judged.then_some(&configs), effort)?;
        if let EndToEnd::Failed { tuned: true, class, detail } = &found {
            let what = format!(
                "{}: the tuned plan of {} fell ({detail}); it keeps the defaults",
                self.models[wanted.model].name,
                self.describe(entry)
            );
            events(Event::Warn { what });
            self.fell(entry, plan, *class, detail)?;
            judged = false;
            found = self.stage.end_to_end(entry, None, effort)?;
        }
        self.measured += 1;
        match found {
            EndToEnd::Failed { class, detail, .. } => {
                *self.refused.entry(class).or_default() += 1;
                let model = &self.models[wanted.model].name;
                self.missing.push(format!("{model}: {} was not measured: {detail}", self.describe(entry)));
                Ok(None)
            }
            EndToEnd::Ok { default, tuned, ratio, stages, memory_bytes, energy_mj } => {
                let kept = judged && is_kept(&ratio);
                events(Event::Result {
                    model: self.models[wanted.model].name.clone(),
                    device: place.device.name.0.clone(),
                    batch: self.models[wanted.model].graphs[wanted.graph].batch,
                    share: place.grant.share,
                    default: default.median,
                    tuned: if kept { tuned.median } else { default.median },
                    ratio,
                    kept,
                });
                let plan = if judged { plan } else { default_plan() };
                Ok(Some(Measured {
                    entry,
                    plan,
                    default,
                    tuned,
                    ratio,
                    stages,
                    memory_bytes,
                    energy_mj,
                    kept,
                    any_tuned: judged,
                }))
            }
        }
    }

    /// Records that a plan fell, so that it is never tried again.
    fn fell(&mut self, entry: usize, plan: PlanKey, class: FailureClass, detail: &str) -> Result<(), TuneError> {
        *self.refused.entry(class).or_default() += 1;
        let timing = Timing { median: Picos(0), mad: Picos(0), p99: Picos(0), n: 0, grade: noise::grade(Picos(0), Picos(0)) };
        let record = self.record(entry, plan, timing, timing, 0, &Err("the plan fell".to_owned()), [None; 3]);
        let outcome = Outcome::Failed { class, detail: detail.to_owned() };
        self.append(entry, record, outcome)?;
        self.records.commit().map_err(ExploreError::from)?;
        Ok(())
    }

    /// Hands the record of an entry's plan to the records.
    fn append(&mut self, entry: usize, record: ModelRecord, outcome: Outcome) -> Result<(), TuneError> {
        let place = &self.places[self.work.entries[entry].place];
        let mut row = observation(place, Subject::Model(Box::new(record)), outcome, self.rules);
        row.grant.mechanism = self.options.objective.mechanism(place);
        self.records.append(row).map_err(ExploreError::from)?;
        Ok(())
    }

    /// Writes the records of a model's entries, with the lines over the batches that were measured.
    fn write_records(&mut self, measured: &[Measured]) -> Result<(), TuneError> {
        for one in measured {
            let wanted = self.work.entries[one.entry];
            let lines = self.lines(measured, wanted.place);
            let record = self.record(one.entry, one.plan, one.default, one.tuned, one.memory_bytes, &one.energy_mj, lines);
            let ratio = one.any_tuned.then_some(one.ratio);
            let outcome = Outcome::Ok { timing: one.tuned, ratio };
            let mut rows = vec![(record.clone(), outcome)];
            if one.any_tuned && !one.kept {
                // What is shipped is the default: its figures are a record of their own, from the same pairs.
                let throughput_milli_per_s = throughput(record.batch.rows(), one.default.median);
                let record = ModelRecord { plan: default_plan(), split: Split::WHOLE, throughput_milli_per_s, ..record };
                rows.push((record, Outcome::Ok { timing: one.default, ratio: None }));
            }
            for (record, outcome) in rows {
                self.append(one.entry, record, outcome)?;
            }
        }
        self.records.commit().map_err(ExploreError::from)?;
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn record(
        &self,
        entry: usize,
        plan: PlanKey,
        default: Timing,
        tuned: Timing,
        memory_bytes: u64,
        energy: &Result<u64, String>,
        [upload, compute, download]: [Option<Line>; 3],
    ) -> ModelRecord {
        let wanted = self.work.entries[entry];
        let model = &self.models[wanted.model];
        let bound = &model.graphs[wanted.graph];
        ModelRecord {
            model: model.key,
            model_name: model.name.clone(),
            batch: bound.batch,
            dims: bound.dims.clone(),
            plan,
            split: if plan == default_plan() { Split::WHOLE } else { self.work.chosen[entry].split },
            default,
            upload,
            compute,
            download,
            throughput_milli_per_s: throughput(bound.batch.rows(), tuned.median),
            memory_bytes,
            energy_mj: energy.as_ref().ok().copied(),
            energy_why: energy.as_ref().err().cloned(),
        }
    }

    /// The lines of upload, compute and download over the batches measured on a place.
    fn lines(&self, measured: &[Measured], place: usize) -> [Option<Line>; 3] {
        let stage = |of: fn(&Stages) -> Picos| {
            let own = measured.iter().filter(|one| self.work.entries[one.entry].place == place);
            let points: Vec<(u32, Picos)> = own
                .map(|one| {
                    let wanted = self.work.entries[one.entry];
                    (self.models[wanted.model].graphs[wanted.graph].batch.rows(), of(&one.stages))
                })
                .collect();
            line(&points)
        };
        [stage(|stages| stages.upload), stage(|stages| stages.compute), stage(|stages| stages.download)]
    }
}

/// The key of the plan with the whole batch and every task at its default.
fn default_plan() -> PlanKey {
    choose::plan_key(Split::WHOLE, [])
}

/// A tuned plan is shipped when nothing says that it is slower than the default.
fn is_kept(ratio: &Ratio) -> bool {
    ratio.ppm >= 1_000_000 && ratio.hi_ppm >= 1_000_000
}

/// Thousandths of rows per second.
fn throughput(rows: u32, time: Picos) -> u64 {
    (f64::from(rows) * 1000.0 / time.as_secs_f64().max(1e-12)) as u64
}

/// The least-squares line through (batch, time); `None` with fewer than two batches.
fn line(points: &[(u32, Picos)]) -> Option<Line> {
    let n = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| f64::from(*x)).sum::<f64>() / n;
    let mean_y = points.iter().map(|(_, y)| y.0 as f64).sum::<f64>() / n;
    let spread = points.iter().map(|(x, _)| (f64::from(*x) - mean_x).powi(2)).sum::<f64>();
    if points.len() < 2 || spread == 0.0 {
        return None;
    }
    let slope = points.iter().map(|(x, y)| (f64::from(*x) - mean_x) * (y.0 as f64 - mean_y)).sum::<f64>() / spread;
    Some(Line { slope_ps: slope.round() as i64, intercept_ps: (mean_y - slope * mean_x).round() as i64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_through_what_was_measured() {
        let points = [(1, Picos(3_000)), (4, Picos(9_000))];
        assert_eq!(line(&points), Some(Line { slope_ps: 2_000, intercept_ps: 1_000 }));
        assert_eq!(line(&points[..1]), None);
        assert_eq!(line(&[(4, Picos(1)), (4, Picos(2))]), None);
    }

    #[test]
    fn slower_or_doubtful_plans_are_not_shipped() {
        let ratio = |ppm, lo_ppm, hi_ppm| Ratio { ppm, lo_ppm, hi_ppm };
        assert!(is_kept(&ratio(1_500_000, 1_400_000, 1_600_000)));
        assert!(is_kept(&ratio(1_001_000, 990_000, 1_010_000)));
        assert!(!is_kept(&ratio(990_000, 980_000, 1_010_000)));
        assert!(!is_kept(&ratio(900_000, 880_000, 920_000)));
    }
}
