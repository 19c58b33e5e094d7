//! The last word: for every (model, batch, share) the tuned plan of each contender meets the default plan end to end, alone on its cores,
//! and the one that gains most is shipped. A plan that is slower, wrong or does not run is not: the entry keeps the defaults, whatever its
//! tasks gained one by one.

use super::choose;
use super::event::Event;
use super::explore::{ExploreError, Explored};
use super::model_records::{EntryRecords, Found};
use super::records::Records;
use super::stage::Stage;
use super::work::{Scope, Work};
use super::{Row, TuneError};
use crate::measure::end_to_end::{EndToEnd, Stages};
use crate::measure::{Effort, MeasureError, Phase, Phases};
use schema::{Config, FailureClass, Line, Observation, ObservationId, Outcome, Picos, PlanKey, Ratio, Split, Subject, Timing};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Pairs of one entry.
const PAIRS: u32 = 24;
/// Their time: at least,
const PAIRS_LEAST: Duration = Duration::from_millis(200);
/// and at most, where the budget leaves it.
const PAIRS_TIME: Duration = Duration::from_millis(2500);
/// Part of the budget that end-to-end measurements may claim before the search has had its turn.
const RESERVE_MAX: f64 = 0.35;

/// What was decided for an entry.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// The contender whose configs go into the artifact; otherwise the defaults do.
    pub tuned: Option<usize>,
    /// The record of the plan that goes into it.
    pub record: Option<Observation>,
    pub row: Option<Row>,
}

/// A measured contender before its records are written.
struct Measured {
    contender: usize,
    plan: PlanKey,
    default: Timing,
    tuned: Timing,
    /// `None` when the default is all there is.
    ratio: Option<Ratio>,
    stages: Stages,
    memory_bytes: u64,
    energy_mj: Result<u64, String>,
}

impl Measured {
    /// What the tuned plan gains, where it may be shipped.
    fn gain(&self) -> Option<u64> {
        self.ratio.filter(is_kept).map(|ratio| ratio.ppm)
    }
}

/// Judges every entry.
pub struct Judge<'a, 'b> {
    scope: Scope<'a>,
    work: &'a Work,
    explored: &'a Explored,
    stage: &'a mut Stage<'b>,
    records: &'a mut dyn Records,
    /// Records of this tuning.
    own: BTreeSet<ObservationId>,
    pub measured: u64,
    /// What waiting for the disk took.
    pub phases: Phases,
    pub refused: BTreeMap<FailureClass, u64>,
    pub missing: Vec<String>,
}

/// What end-to-end measurements of the open entries' contenders will take, given the expected times of all contenders: at most a part of
/// the budget.
pub fn reserve(work: &Work, times: &[Picos], budget: Option<Duration>) -> Duration {
    let open = work.contenders.iter().zip(times).filter(|(contender, _)| work.open[contender.entry]);
    let all: Duration = open.map(|(_, time)| cost(*time)).sum();
    budget.map_or(all, |budget| all.min(budget.mul_f64(RESERVE_MAX)))
}

/// Loading both plans, comparing, the pairs, the stages.
fn cost(time: Picos) -> Duration {
    let time = time.as_secs_f64();
    let pairs = (f64::from(PAIRS) * 2.0 * time).clamp(PAIRS_LEAST.as_secs_f64(), PAIRS_TIME.as_secs_f64() + 4.0 * time);
    Duration::from_secs_f64(0.15 + 5.0 * time + pairs)
}

impl<'a, 'b> Judge<'a, 'b> {
    /// A judge of what was explored.
    pub fn new(
        scope: Scope<'a>,
        work: &'a Work,
        explored: &'a Explored,
        stage: &'a mut Stage<'b>,
        records: &'a mut dyn Records,
    ) -> Self {
        let (own, refused, missing) = (BTreeSet::new(), BTreeMap::new(), Vec::new());
        Judge { scope, work, explored, stage, records, own, measured: 0, phases: Phases::default(), refused, missing }
    }

    /// A verdict for every entry, in order.
    ///
    /// # Errors
    /// [`TuneError`] when records, workers or the disk fail.
    pub fn all(&mut self, events: &mut dyn FnMut(Event)) -> Result<Vec<Verdict>, TuneError> {
        let mut verdicts = vec![Verdict::default(); self.work.entries.len()];
        let mut left = Vec::new();
        for (entry, place) in verdicts.iter_mut().enumerate() {
            match self.recorded(entry)? {
                Some(verdict) => {
                    if self.work.open[entry] && !self.scope.rules.interrupted.load(Ordering::SeqCst) {
                        self.settle(entry, &verdict)?;
                    }
                    *place = verdict;
                }
                None => left.push(entry),
            }
        }
        for number in 0..self.scope.models.len() {
            let mut own: Vec<usize> = left.iter().copied().filter(|&entry| self.work.entries[entry].model == number).collect();
            // The places of a batch one after the other: a machine has states, and whoever chooses among the places compares.
            own.sort_by_key(|&entry| self.work.entries[entry].graph);
            if own.is_empty() {
                continue;
            }
            let mut measured: BTreeMap<usize, Vec<Measured>> = BTreeMap::new();
            for (done, &entry) in own.iter().enumerate() {
                match self.measure_entry(entry, &own[done..], events) {
                    Err(TuneError::Explore(ExploreError::Measure(MeasureError::Interrupted))) => {
                        let model = &self.scope.models[number].name;
                        self.missing.push(format!("{model}: {} was not measured: interrupted", self.describe(entry)));
                    }
                    found => drop(measured.insert(entry, found?)),
                }
            }
            self.stage.strike(number);
            self.write_records(&measured)?;
            for &entry in measured.keys() {
                verdicts[entry] = self.recorded(entry)?.unwrap_or_default();
            }
        }
        Ok(verdicts)
    }

    fn describe(&self, entry: usize) -> String {
        let wanted = &self.work.entries[entry];
        let place = &self.scope.places[wanted.place];
        let batch = self.scope.models[wanted.model].graphs[wanted.graph].batch;
        format!("batch {batch} on {} at {} %", place.device.name, place.grant.share)
    }

    /// The key of the plan that was chosen for a contender.
    fn plan(&self, contender: usize) -> PlanKey {
        let contender = &self.work.contenders[contender];
        let choice = |&item: &usize| (self.work.items[item].task.key(), &self.explored.choices[item]);
        choose::plan_key(contender.chosen.split, contender.used.iter().map(choice))
    }

    /// The configs that were chosen for a contender where they are not the default, by the texts of their tasks.
    fn configs(&self, contender: usize) -> Vec<(String, Config)> {
        let used = self.work.contenders[contender].used.iter();
        let chosen = used.map(|&item| (&self.work.items[item].task, &self.explored.choices[item]));
        chosen.filter(|(_, choice)| !choice.is_default).map(|(task, choice)| (task.to_string(), choice.config.clone())).collect()
    }

    /// The verdict that the records give for an entry, if they know the plans of all its contenders.
    fn recorded(&mut self, entry: usize) -> Result<Option<Verdict>, TuneError> {
        let known = EntryRecords::of(&self.scope, &self.work.entries[entry], self.records, &self.own)?;
        let mut best: Option<(u64, usize, &Observation)> = None;
        for contender in self.work.of_entry(entry) {
            let plan = self.plan(contender);
            let Some(judged) = known.of_plan(plan) else { return Ok(None) };
            if let Outcome::Ok { ratio: Some(ratio), .. } = &judged.outcome
                && plan != PlanKey::of_defaults()
                && is_kept(ratio)
                && best.is_none_or(|(most, ..)| ratio.ppm > most)
            {
                best = Some((ratio.ppm, contender, judged));
            }
        }
        let Some(shipped) = best.map(|(.., judged)| judged).or_else(|| known.of_plan(PlanKey::of_defaults())) else {
            return Ok(None);
        };
        let row = self.row(entry, shipped);
        Ok(Some(Verdict { tuned: best.map(|(_, contender, _)| contender), record: Some(shipped.clone()), row }))
    }

    fn row(&self, entry: usize, shipped: &Observation) -> Option<Row> {
        let place = &self.scope.places[self.work.entries[entry].place];
        let (Subject::Model(record), Outcome::Ok { timing, ratio }) = (&shipped.subject, &shipped.outcome) else { return None };
        let kept = record.plan != PlanKey::of_defaults();
        let one = Ratio { ppm: 1_000_000, lo_ppm: 1_000_000, hi_ppm: 1_000_000 };
        Some(Row {
            device: place.device.name.0.clone(),
            share: place.grant.share,
            batch: record.batch,
            default: record.default,
            tuned: *timing,
            ratio: ratio.filter(|_| kept).unwrap_or(one),
            noise: timing.grade.max(record.default.grade),
            kept,
            split: record.split,
            memory_bytes: record.memory_bytes,
            throughput_milli_per_s: record.throughput_milli_per_s,
            energy_mj: record.energy_mj,
            energy_why: record.energy_why.clone(),
        })
    }

    /// Measures the contenders of an entry whose plans no record knows; `left` are the entries still to measure, this one included. Empty
    /// when even the default does not run.
    fn measure_entry(&mut self, entry: usize, left: &[usize], events: &mut dyn FnMut(Event)) -> Result<Vec<Measured>, TuneError> {
        let known = EntryRecords::of(&self.scope, &self.work.entries[entry], self.records, &self.own)?;
        let mut plans = BTreeSet::new();
        let open: Vec<usize> = self
            .work
            .of_entry(entry)
            .filter(|&contender| {
                let plan = self.plan(contender);
                known.of_plan(plan).is_none() && plans.insert(plan)
            })
            .collect();
        let later: usize = left[1..].iter().map(|&entry| self.work.of_entry(entry).count()).sum();
        let mut measured = Vec::new();
        for (done, &contender) in open.iter().enumerate() {
            if self.scope.rules.interrupted.load(Ordering::SeqCst) {
                return Err(ExploreError::from(MeasureError::Interrupted).into());
            }
            measured.extend(self.measure(contender, open.len() - done + later, events)?);
        }
        if let Some(best) = measured.iter().max_by_key(|one| one.gain()) {
            let wanted = &self.work.entries[entry];
            let place = &self.scope.places[wanted.place];
            let kept = best.gain().is_some();
            let one = Ratio { ppm: 1_000_000, lo_ppm: 1_000_000, hi_ppm: 1_000_000 };
            events(Event::Result {
                model: self.scope.models[wanted.model].name.clone(),
                device: place.device.name.0.clone(),
                batch: self.scope.models[wanted.model].graphs[wanted.graph].batch,
                share: place.grant.share,
                default: best.default.median,
                tuned: if kept { best.tuned.median } else { best.default.median },
                ratio: best.ratio.unwrap_or(one),
                kept,
            });
        }
        Ok(measured)
    }

    /// Measures a contender; nothing when even its default does not run.
    fn measure(&mut self, contender: usize, left: usize, events: &mut dyn FnMut(Event)) -> Result<Option<Measured>, TuneError> {
        let (entry, split) = (self.work.contenders[contender].entry, self.work.contenders[contender].chosen.split);
        let (mut plan, configs) = (self.plan(contender), self.configs(contender));
        let mut limit = PAIRS_TIME;
        if let Some(budget) = self.scope.options.budget.time {
            let spent = self.scope.rules.elapsed();
            let fair = budget.saturating_sub(spent) / u32::try_from(left).unwrap_or(u32::MAX);
            // The other half is for loading and comparing.
            limit = limit.min(fair / 2).max(Duration::from_millis(50));
        }
        let effort = Effort { samples: PAIRS, least: PAIRS_LEAST, limit };
        let tuned = (plan != PlanKey::of_defaults()).then_some((split, &configs[..]));
        let mut found = self.stage.end_to_end(entry, tuned, effort)?;
        if let EndToEnd::Failed { tuned: true, class, detail } = &found {
            let model = &self.scope.models[self.work.entries[entry].model].name;
            events(Event::Warn { what: format!("{model}: a tuned plan of {} fell ({detail})", self.describe(entry)) });
            self.fell(entry, (plan, split), *class, detail)?;
            plan = PlanKey::of_defaults();
            found = self.stage.end_to_end(entry, None, effort)?;
        }
        self.measured += 1;
        Ok(match found {
            EndToEnd::Failed { class, detail, .. } => {
                *self.refused.entry(class).or_default() += 1;
                let model = &self.scope.models[self.work.entries[entry].model].name;
                self.missing.push(format!("{model}: {} was not measured: {detail}", self.describe(entry)));
                None
            }
            EndToEnd::Ok { default, tuned, ratio, stages, memory_bytes, energy_mj } => {
                let ratio = (plan != PlanKey::of_defaults()).then_some(ratio);
                Some(Measured { contender, plan, default, tuned, ratio, stages, memory_bytes, energy_mj })
            }
        })
    }

    /// Waits until what was handed to the records is on disk.
    fn commit(&mut self) -> Result<(), TuneError> {
        let start = self.scope.rules.clock.now();
        self.own.extend(self.records.commit().map_err(ExploreError::from)?);
        self.phases.add(Phase::Store, self.scope.rules.clock.now().saturating_sub(start));
        Ok(())
    }

    /// Records that a plan fell.
    fn fell(&mut self, entry: usize, plan: (PlanKey, Split), class: FailureClass, detail: &str) -> Result<(), TuneError> {
        *self.refused.entry(class).or_default() += 1;
        Found::append_fallen(&self.scope, &self.work.entries[entry], plan, (class, detail), self.records)?;
        self.commit()?;
        Ok(())
    }

    /// Writes the records of a model's entries, with the lines over the batches that were measured.
    fn write_records(&mut self, measured: &BTreeMap<usize, Vec<Measured>>) -> Result<(), TuneError> {
        for (&entry, contenders) in measured {
            let wanted = &self.work.entries[entry];
            let lines = self.lines(measured, wanted.place);
            let mut beside = None;
            for one in contenders {
                let found = Found {
                    plan: one.plan,
                    split: if one.ratio.is_some() { self.work.contenders[one.contender].chosen.split } else { Split::WHOLE },
                    default: one.default,
                    tuned: one.tuned,
                    ratio: one.ratio,
                    memory_bytes: one.memory_bytes,
                    energy_mj: one.energy_mj.clone(),
                    lines,
                };
                found.append(&self.scope, wanted, self.records)?;
                beside = Some(found);
            }
            // Where the default is shipped its figures are a record of their own, from the same pairs.
            if contenders.iter().all(|one| one.gain().is_none() && one.ratio.is_some())
                && let Some(found) = beside
            {
                found.default_beside().append(&self.scope, wanted, self.records)?;
            }
        }
        self.commit()?;
        Ok(())
    }

    /// Where the search left nothing but plans that met, their meetings are the verdict. What the default took there becomes a record of
    /// its own, which says that the entry was judged: the next tuning finds nothing to do.
    fn settle(&mut self, entry: usize, verdict: &Verdict) -> Result<(), TuneError> {
        let Some(Observation { subject: Subject::Model(record), .. }) = &verdict.record else { return Ok(()) };
        let found = Found {
            plan: record.plan,
            split: record.split,
            default: record.default,
            tuned: record.default,
            ratio: None,
            memory_bytes: record.memory_bytes,
            energy_mj: record.energy_mj.ok_or_else(|| record.energy_why.clone().unwrap_or_default()),
            lines: [record.upload, record.compute, record.download],
        };
        found.default_beside().append(&self.scope, &self.work.entries[entry], self.records)?;
        self.commit()?;
        Ok(())
    }

    /// The lines of upload, compute and download over the batches measured on a place, of the best plan at each.
    fn lines(&self, measured: &BTreeMap<usize, Vec<Measured>>, place: usize) -> [Option<Line>; 3] {
        let stage = |of: fn(&Stages) -> Picos| {
            let own = measured.iter().filter(|(entry, _)| self.work.entries[**entry].place == place);
            let best = own.filter_map(|(entry, all)| Some((entry, all.iter().max_by_key(|one| one.gain())?)));
            let points: Vec<(u32, Picos)> = best
                .map(|(&entry, one)| {
                    let wanted = self.work.entries[entry];
                    (self.scope.models[wanted.model].graphs[wanted.graph].batch.rows(), of(&one.stages))
                })
                .collect();
            line(&points)
        };
        [stage(|stages| stages.upload), stage(|stages| stages.compute), stage(|stages| stages.download)]
    }
}

/// A tuned plan is shipped when nothing says that it is slower than the default.
fn is_kept(ratio: &Ratio) -> bool {
    ratio.ppm >= 1_000_000 && ratio.hi_ppm >= 1_000_000
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
