//! Whole models, end to end: the tuned plan of an artifact's entry against the default plan, in pairs, in the worker that owns the
//! share. Outputs are compared before anything is timed.

use super::bench::WorkerBench;
use super::race::{self, Fall, Paired, Track};
use super::{Effort, MeasureError, noise};
use crate::worker::{Answer, Ask, Entry, Lane, watchdog};
use schema::{Config, FailureClass, Picos, Ratio, Split, Timing};
use std::path::Path;
use std::time::{Duration, Instant};

/// What of an end-to-end measurement is asked.
#[derive(Clone, Debug)]
pub struct Course<'a> {
    /// An artifact that holds the entry; its own configs do not matter.
    pub artifact: &'a Path,
    pub entry: u32,
    /// How the plan to be judged computes its batch; the default computes it at once.
    pub split: Split,
    /// The configs to be judged, by the texts of their tasks. Without any, of the whole batch, there is nothing to judge, only to
    /// measure.
    pub configs: &'a [(String, Config)],
    pub seed: u64,
    /// Largest difference of the tuned plan's outputs from the default's, relative as in `run --rtol`.
    pub max_error: f64,
    pub effort: Effort,
    /// The ratio is that of the energies; an error of the counter is a failure of the default then.
    pub by_energy: bool,
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
/// Pairs of energies: each takes half a second.
const ENERGY_PAIRS: usize = 8;
/// Profiled runs that the stages are medians of.
const STAGE_ROUNDS: u32 = 5;

impl WorkerBench<'_> {
    /// Measures an entry. Without configs the default plan meets itself.
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
        let rival = if course.configs.is_empty() && course.split.is_whole() { DEFAULT } else { TUNED };
        let mut first = Picos(0);
        for (slot, tuned) in [(DEFAULT, false), (TUNED, true)] {
            if slot > rival {
                continue;
            }
            let (split, configs) = if tuned { (course.split, course.configs) } else { (Split::WHOLE, &[][..]) };
            match self.load_plan(course.artifact, course.entry, slot, (split, configs), course.seed)? {
                Ok(time) => first = first.max(time),
                Err((class, detail)) => return Ok(EndToEnd::Failed { tuned, class, detail }),
            }
        }
        if rival == TUNED
            && let Err((class, detail)) = self.compare_plans([DEFAULT, TUNED], course.max_error)?
        {
            return Ok(EndToEnd::Failed { tuned: true, class, detail });
        }
        let (default, tuned, ratio) = match self.meet([DEFAULT, rival], first, &course.effort)? {
            Ok(paired) => paired,
            Err(fall) => return Ok(EndToEnd::Failed { tuned: fall.rival == 1, class: fall.class, detail: fall.detail }),
        };
        let energy_mj = self.energy(rival, tuned.median)?.map(|uj| (uj / 1000.0).round() as u64);
        let ratio = match course.by_energy {
            false => ratio,
            true => match self.energy_ratio(rival, [default.median, tuned.median])? {
                Ok(ratio) => ratio,
                Err(detail) => return Ok(EndToEnd::Failed { tuned: false, class: FailureClass::DeviceLost, detail }),
            },
        };
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
    /// [`MeasureError`] when the bench itself fails; the inner error is the plan that fell.
    pub fn meet(&mut self, slots: [u32; 2], first: Picos, effort: &Effort) -> Result<Result<Paired, Fall>, MeasureError> {
        race::pairs(&mut PlanTrack { bench: self, slots, first, start: Instant::now() }, effort, &[])
    }

    /// Whether two plans in slots say the same; the inner error when they do not.
    ///
    /// # Errors
    /// [`MeasureError`] when the bench itself fails.
    pub fn compare_plans(&mut self, slots: [u32; 2], max_error: f64) -> Result<Result<(), (FailureClass, String)>, MeasureError> {
        let ask = Ask::ComparePlans { slots: slots.to_vec(), max_error };
        Ok(match self.ask(&ask, watchdog::HARD)? {
            Ok(Answer::Errors { worst }) => {
                let worst = worst.into_iter().fold(0.0, f64::max);
                let detail = format!("outputs differ from the default's by {worst:.1e}, allowed is {max_error:.0e}");
                if worst > max_error { Err((FailureClass::WrongResult, detail)) } else { Ok(()) }
            }
            Ok(Answer::Refused { class, detail }) => Err((class, detail)),
            Ok(other) => return Err(MeasureError::Refused(format!("it answered a comparison with {other:?}"))),
            Err(death) => Err((death.class, death.detail)),
        })
    }

    /// Makes the plan of an artifact's entry in a slot, in these parts and with these configs by the texts of their tasks, and says what a
    /// run takes; the inner error is its failure.
    ///
    /// # Errors
    /// [`MeasureError`] when the bench itself fails.
    pub fn load_plan(
        &mut self,
        artifact: &Path,
        entry: u32,
        slot: u32,
        (split, configs): (Split, &[(String, Config)]),
        seed: u64,
    ) -> Result<Result<Picos, (FailureClass, String)>, MeasureError> {
        let ask = Ask::LoadPlan {
            slot,
            artifact: artifact.to_string_lossy().into_owned(),
            entry: Entry { number: entry },
            split,
            configs: configs.to_vec(),
            seed,
        };
        Ok(match self.ask(&ask, watchdog::HARD)? {
            Ok(Answer::Built { first_ps, .. }) => Ok(Picos(first_ps)),
            Ok(Answer::Refused { class, detail }) => Err((class, detail)),
            Ok(other) => return Err(MeasureError::Refused(format!("it answered a plan with {other:?}"))),
            Err(death) => Err((death.class, death.detail)),
        })
    }

    /// Energy of the default over energy of the rival, in pairs.
    fn energy_ratio(&mut self, rival: u32, times: [Picos; 2]) -> Result<Result<Ratio, String>, MeasureError> {
        let mut pairs = Vec::with_capacity(ENERGY_PAIRS);
        for turn in 0..ENERGY_PAIRS {
            let mut pair = [Picos(0); 2];
            for which in if turn % 2 == 0 { [0, 1] } else { [1, 0] } {
                let slot = if which == 0 { DEFAULT } else { rival };
                match self.energy(slot, times[which])? {
                    // A ratio has no unit: the energies may stand where times do.
                    Ok(uj) => pair[which] = Picos((uj * 1e3) as u64),
                    Err(why) => return Ok(Err(why)),
                }
            }
            pairs.push((pair[0], pair[1]));
        }
        Ok(noise::ratio(&pairs).ok_or_else(|| "no pair of energies was measured".to_owned()))
    }

    /// The energy of one inference by the processor's own counter, in microjoules.
    fn energy(&mut self, slot: u32, time: Picos) -> Result<Result<f64, String>, MeasureError> {
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
            (Ok(_), Ok(after)) if after > before => Ok((after - before) as f64 / inferences),
            (Ok(_), Ok(_)) => Err("the counter wrapped during the measurement".to_owned()),
            (Err(death), _) => Err(death.detail),
            (_, Err(why)) => Err(why.to_owned()),
        })
    }
}

/// The two plans as rivals.
struct PlanTrack<'a, 'b> {
    bench: &'a mut WorkerBench<'b>,
    /// Of rivals 0 and 1.
    slots: [u32; 2],
    first: Picos,
    start: Instant,
}

impl Track for PlanTrack<'_, '_> {
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
            Ok(Answer::Times { picos }) => {
                self.bench.saw_sentinel(lanes, &picos);
                Ok(Ok(picos.into_iter().map(Picos).collect()))
            }
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
