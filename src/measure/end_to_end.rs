//! Whole models, end to end: the tuned plan of an artifact's entry against the default plan, in pairs, in the worker that owns the
//! share. Outputs are compared before anything is timed.

use super::bench::WorkerBench;
use super::race::{self, Fall, Track};
use super::{Effort, MeasureError};
use crate::worker::{Answer, Ask, Entry, Lane, watchdog};
use schema::{FailureClass, Picos, Ratio, Timing};
use std::path::Path;
use std::time::{Duration, Instant};

/// What of an end-to-end measurement is asked.
#[derive(Clone, Debug)]
pub struct Course<'a> {
    /// An artifact that holds the entry with the configs to be judged.
    pub artifact: &'a Path,
    pub entry: u32,
    /// The entry's configs are all defaults: there is nothing to judge, only to measure.
    pub default_only: bool,
    pub seed: u64,
    /// Largest difference of the tuned plan's outputs from the default's, relative as in `run --rtol`.
    pub max_error: f64,
    pub effort: Effort,
}

/// The stages of an inference.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    pub upload: Picos,
    pub compute: Picos,
    pub download: Picos,
}

/// What a model took.
#[derive(Clone, Debug, PartialEq)]
pub enum EndToEnd {
    Ok {
        default: Timing,
        tuned: Timing,
        /// Time of the default over time of the tuned plan.
        ratio: Ratio,
        /// Of the tuned plan.
        stages: Stages,
        memory_bytes: u64,
        /// Energy of one inference, or why it is unknown.
        energy_mj: Result<u64, String>,
    },
    /// One of the plans fell; `tuned` tells which.
    Failed { tuned: bool, class: FailureClass, detail: String },
}

/// The slots of the two plans.
const DEFAULT: u32 = 0;
const TUNED: u32 = 1;
/// Profiled runs that the stages are medians of.
const STAGE_ROUNDS: u32 = 5;

impl WorkerBench {
    /// Measures an entry. With `default_only` the default plan meets itself.
    ///
    /// # Errors
    /// [`MeasureError`] when the bench itself fails.
    pub fn end_to_end(&mut self, course: &Course<'_>) -> Result<EndToEnd, MeasureError> {
        self.forget_task();
        let measured = self.measured(course);
        if !matches!(self.ask(&Ask::Close, watchdog::HARD), Ok(Ok(Answer::Done))) {
            tracing::debug!("the worker was gone after an end-to-end measurement");
        }
        measured
    }

    fn measured(&mut self, course: &Course<'_>) -> Result<EndToEnd, MeasureError> {
        let rival = if course.default_only { DEFAULT } else { TUNED };
        let mut first = Picos(0);
        for (slot, tuned) in [(DEFAULT, false), (TUNED, true)] {
            if slot > rival {
                continue;
            }
            match self.load(course, slot, tuned)? {
                Ok(time) => first = first.max(time),
                Err((class, detail)) => return Ok(EndToEnd::Failed { tuned, class, detail }),
            }
        }
        if rival == TUNED {
            let ask = Ask::ComparePlans { slots: vec![DEFAULT, TUNED], max_error: course.max_error };
            match self.ask(&ask, watchdog::HARD)? {
                Ok(Answer::Errors { worst }) => {
                    let worst = worst.into_iter().fold(0.0, f64::max);
                    if worst > course.max_error {
                        let detail =
                            format!("outputs differ from the default's by {worst:.1e}, allowed is {:.0e}", course.max_error);
                        return Ok(EndToEnd::Failed { tuned: true, class: FailureClass::WrongResult, detail });
                    }
                }
                Ok(Answer::Refused { class, detail }) => return Ok(EndToEnd::Failed { tuned: true, class, detail }),
                Ok(other) => return Err(MeasureError::Refused(format!("it answered a comparison with {other:?}"))),
                Err(death) => return Ok(EndToEnd::Failed { tuned: true, class: death.class, detail: death.detail }),
            }
        }
        let (default, tuned, ratio) = match self.meet([DEFAULT, rival], first, &course.effort)? {
            Ok(paired) => paired,
            Err(fall) => return Ok(EndToEnd::Failed { tuned: fall.rival == 1, class: fall.class, detail: fall.detail }),
        };
        let energy_mj = self.energy(rival, tuned.median)?;
        match self.ask(&Ask::PlanStages { slot: rival, rounds: STAGE_ROUNDS }, watchdog::HARD)? {
            Ok(Answer::Stages { upload_ps, compute_ps, download_ps, memory_bytes }) => {
                let stages = Stages { upload: Picos(upload_ps), compute: Picos(compute_ps), download: Picos(download_ps) };
                Ok(EndToEnd::Ok { default, tuned, ratio, stages, memory_bytes, energy_mj })
            }
            Ok(other) => Err(MeasureError::Refused(format!("it answered a profile with {other:?}"))),
            Err(death) => Ok(EndToEnd::Failed { tuned: true, class: death.class, detail: death.detail }),
        }
    }

    /// Times the plans in two slots in pairs: theirs and the ratio of the first to the second. `first` is what a run may take.
    ///
    /// # Errors
    /// [`MeasureError`] when the bench itself fails; the inner error is a plan's.
    pub fn meet(
        &mut self,
        slots: [u32; 2],
        first: Picos,
        effort: &Effort,
    ) -> Result<Result<(Timing, Timing, Ratio), Fall>, MeasureError> {
        race::pairs(&mut PlanTrack { bench: self, slots, first, start: Instant::now() }, effort)
    }

    /// Makes a plan; the inner error is its failure.
    ///
    /// # Errors
    /// As [`meet`](Self::meet).
    pub fn load(
        &mut self,
        course: &Course<'_>,
        slot: u32,
        tuned: bool,
    ) -> Result<Result<Picos, (FailureClass, String)>, MeasureError> {
        let ask = Ask::LoadPlan {
            slot,
            artifact: course.artifact.to_string_lossy().into_owned(),
            entry: Entry { number: course.entry },
            tuned,
            seed: course.seed,
        };
        Ok(match self.ask(&ask, watchdog::HARD)? {
            Ok(Answer::Built { first_ps, .. }) => Ok(Picos(first_ps)),
            Ok(Answer::Refused { class, detail }) => Err((class, detail)),
            Ok(other) => return Err(MeasureError::Refused(format!("it answered a plan with {other:?}"))),
            Err(death) => Err((death.class, death.detail)),
        })
    }

    /// The energy of one inference by the processor's own counter.
    fn energy(&mut self, slot: u32, time: Picos) -> Result<Result<u64, String>, MeasureError> {
        let before = match crate::device::energy_uj() {
            Ok(before) => before,
            Err(why) => return Ok(Err(why.to_owned())),
        };
        // Enough inferences for a counter that moves every millisecond.
        let samples = (0.2 / time.as_secs_f64().max(200e-6)).clamp(1.0, 1000.0) as usize;
        let ask = Ask::LapPlans { lanes: vec![Lane::Slot(slot); samples] };
        let start = Instant::now();
        let answer = self.ask(&ask, watchdog::HARD)?;
        let spent = start.elapsed().as_secs_f64();
        let inferences = (spent / time.as_secs_f64().max(1e-9)).max(1.0);
        Ok(match (answer, crate::device::energy_uj()) {
            (Ok(_), Ok(after)) if after > before => Ok(((after - before) as f64 / 1000.0 / inferences).round() as u64),
            (Ok(_), Ok(_)) => Err("the counter wrapped during the measurement".to_owned()),
            (Err(death), _) => Err(death.detail),
            (_, Err(why)) => Err(why.to_owned()),
        })
    }
}

/// The two plans as rivals.
struct PlanTrack<'a> {
    bench: &'a mut WorkerBench,
    /// Of rivals 0 and 1.
    slots: [u32; 2],
    first: Picos,
    start: Instant,
}

impl Track for PlanTrack<'_> {
    type Error = MeasureError;

    fn lap(&mut self, lanes: &[race::Lane]) -> Result<Result<Vec<Picos>, Fall>, MeasureError> {
        let lane = |lane: &race::Lane| match lane {
            race::Lane::Sentinel => Lane::Sentinel,
            race::Lane::Rival(0) => Lane::Slot(self.slots[0]),
            race::Lane::Rival(_) => Lane::Slot(self.slots[1]),
        };
        let expected = Picos(self.first.0.saturating_mul(lanes.len() as u64));
        let ask = Ask::LapPlans { lanes: lanes.iter().map(lane).collect() };
        match self.bench.ask(&ask, watchdog::deadline(Some(expected)).max(Duration::from_secs(10)))? {
            Ok(Answer::Times { picos }) => Ok(Ok(picos.into_iter().map(Picos).collect())),
            Ok(other) => Err(MeasureError::Refused(format!("it answered a lap with {other:?}"))),
            Err(death) => {
                let at = death.lane.and_then(|lane| lanes.get(lane as usize));
                let rival = usize::from(!matches!(at, Some(race::Lane::Rival(0))));
                Ok(Err(Fall { rival, class: death.class, detail: death.detail }))
            }
        }
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}
