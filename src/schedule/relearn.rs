//! Learning from what really happened: which runs are kept, when predictions are to be learnt anew, and whether that helped.
//!
//! A policy notices that a lesson is due and hands it out; whoever drives the core lets it be learnt where no decision waits (it is
//! plain values and takes up to a second) and gives it back as an event. Constants and rules: papers §1, (3).

use super::predict::{Cost, Example, lessons};
use super::{Foresight, Index, Predicted, Predictors};
use std::sync::Arc;

/// Runs that are kept.
const KEPT: usize = 4096;
/// Of them at most so many of one row.
const KEPT_OF_ROW: u16 = 64;
/// New runs after which a lesson is due.
const LESSON_EVERY: usize = 1024;
/// Fewer runs than this are no lesson, whatever the alarm says: their newest tenth judges nothing.
const LESSON_MIN: usize = 64;
/// Deviation from the mean that Page and Hinkley's test lets pass, and the sum of deviations beyond it that is an alarm.
const PAGE_HINKLEY: (f64, f64) = (0.02, 0.5);

/// A run.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(super) struct Seen {
    /// Its row's number.
    pub row: u32,
    /// Nanoseconds that the row's batch took once.
    pub ln_time: f32,
}

/// The newest runs.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    /// The oldest first.
    seen: Vec<Seen>,
    /// By row, how many of them are its.
    of_row: Vec<u16>,
    since_lesson: usize,
    alarm: PageHinkley,
    alarmed: bool,
}

impl Memory {
    /// Empty, for so many rows.
    pub fn new(rows: usize) -> Memory {
        let seen = Vec::with_capacity(KEPT);
        Memory { seen, of_row: vec![0; rows], since_lesson: 0, alarm: PageHinkley::default(), alarmed: false }
    }

    /// Takes in a run and what was predicted of it. Allocates nothing; costs a look through what is kept.
    pub fn observe(&mut self, seen: Seen, predicted: Option<f32>) {
        let row = seen.row as usize;
        let oldest = match self.of_row[row] == KEPT_OF_ROW {
            true => self.seen.iter().position(|old| old.row == seen.row),
            false => (self.seen.len() == KEPT).then_some(0),
        };
        if let Some(oldest) = oldest {
            self.of_row[self.seen.remove(oldest).row as usize] -= 1;
        }
        self.seen.push(seen);
        self.of_row[row] += 1;
        self.since_lesson += 1;
        if let Some(predicted) = predicted {
            self.alarmed |= self.alarm.observe(f64::from(seen.ln_time - predicted));
        }
    }

    pub fn is_lesson_due(&self) -> bool {
        self.seen.len() >= LESSON_MIN && (self.alarmed || self.since_lesson >= LESSON_EVERY)
    }

    /// The lesson of what is kept; the next one is due after as many runs again.
    pub fn lesson(&mut self, index: &Arc<Index>, foresight: &Foresight) -> Lesson {
        (self.since_lesson, self.alarmed, self.alarm) = (0, false, PageHinkley::default());
        let (index, predictors) = (index.clone(), foresight.predictors.clone());
        Lesson { index, predictors, table: foresight.table.clone(), seen: self.seen.clone() }
    }
}

/// Page and Hinkley's test, both ways: whether the mean of a sequence has moved.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
struct PageHinkley {
    count: f64,
    mean: f64,
    /// Sums of deviations from the mean so far, less what is let pass, and their least; upwards and downwards.
    sums: [f64; 2],
    least: [f64; 2],
}

impl PageHinkley {
    /// Whether this value makes it an alarm.
    fn observe(&mut self, value: f64) -> bool {
        let (pass, alarm) = PAGE_HINKLEY;
        self.count += 1.0;
        self.mean += (value - self.mean) / self.count;
        for (way, sign) in [1.0, -1.0].into_iter().enumerate() {
            self.sums[way] += sign * (value - self.mean) - pass;
            self.least[way] = self.least[way].min(self.sums[way]);
        }
        (0..2).any(|way| self.sums[way] - self.least[way] > alarm)
    }
}

/// What there is to learn from: the rows of an index and the runs since.
#[derive(Clone, Debug)]
pub struct Lesson {
    index: Arc<Index>,
    predictors: Arc<Predictors>,
    table: Vec<Predicted>,
    seen: Vec<Seen>,
}

/// What came of a lesson.
#[derive(Clone, Debug)]
pub struct Learnt {
    pub(super) index: Arc<Index>,
    /// `None` when the newest runs are predicted no better than before.
    pub(super) foresight: Option<Foresight>,
    /// Mean absolute error of the newest runs' logarithms: before, and with what was learnt from all but them.
    pub errors: (f32, f32),
}

impl Lesson {
    /// Learns; takes a second where all is kept that may be (docs/measurements/schedule.md). What is learnt must beat what there was on the newest tenth of the runs, which it has not seen.
    pub fn learn(self) -> Learnt {
        let newest = self.seen.len().div_ceil(10);
        let (older, newest) = self.seen.split_at(self.seen.len() - newest);
        let mut time = lessons(&self.index, Cost::Time);
        let energy = lessons(&self.index, Cost::Energy);
        let settings = self.index.settings();
        let ratio = |seen: &Seen| {
            let known = self.table[seen.row as usize];
            let setting = settings[seen.row as usize].filter(|_| known.ln_time.is_some())?;
            Some(Example { setting, ln_ratio: seen.ln_time - known.ln_reference })
        };
        time.extend(older.iter().filter_map(ratio));
        let error = |predictors: &Predictors| {
            let errors: Vec<f32> = newest
                .iter()
                .filter_map(&ratio)
                .map(|example| (predictors.time.ln_ratio(&example.setting) - example.ln_ratio).abs())
                .collect();
            errors.iter().sum::<f32>() / errors.len().max(1) as f32
        };
        let before = error(&self.predictors);
        let learnt = Predictors::learn(&time, &energy, &self.predictors.training);
        let after = learnt.as_ref().map_or(f32::INFINITY, error);
        let better = learnt.filter(|_| after < before).map(Arc::new);
        let foresight = better.map(|predictors| Foresight { table: predictors.table(&self.index), predictors });
        Learnt { index: self.index, foresight, errors: (before, after) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alarm_rings_when_the_mean_moves_and_not_for_noise() {
        for (step, rings) in [(0.0, false), (0.15, true), (-0.15, true)] {
            let mut test = PageHinkley::default();
            let mut rang = None;
            for at in 0..600u32 {
                // Low-discrepancy noise of ±3 %.
                let noise = 0.06 * ((f64::from(at) * 0.618_034).fract() - 0.5);
                let moved = if at >= 300 { step } else { 0.0 };
                if test.observe(noise + moved) {
                    rang.get_or_insert(at);
                }
            }
            assert_eq!(rang.is_some_and(|at| (300..340).contains(&at)), rings, "{step}: {rang:?}");
        }
    }

    #[test]
    fn memory_keeps_the_newest_and_not_too_many_of_one_row() {
        let mut memory = Memory::new(100);
        for at in 0..10_000u32 {
            memory.observe(Seen { row: if at % 2 == 0 { 0 } else { at % 100 }, ln_time: at as f32 }, None);
        }
        assert!(memory.seen.len() <= KEPT && memory.of_row.iter().all(|&count| count <= KEPT_OF_ROW));
        assert_eq!(memory.of_row.iter().map(|&count| usize::from(count)).sum::<usize>(), memory.seen.len());
        assert_eq!(memory.seen.iter().filter(|seen| seen.row == 0).map(|seen| seen.ln_time).fold(f32::MAX, f32::min), 9872.0);
        assert!(memory.seen.windows(2).all(|pair| pair[0].ln_time < pair[1].ln_time) && memory.is_lesson_due());
    }
}
