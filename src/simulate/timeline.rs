//! What a simulation looked like over time: the whole of it in a bounded number of buckets, and one window of it run by run.
//!
//! Memory is bounded however long a trace is: [`BUCKETS`] buckets, and the first [`RUNS_MAX`] runs of the window.

use super::Seen;
use crate::schedule::{Decision, Index, ModelId, Nanos, RunId};

/// Equal parts of the time.
pub const BUCKETS: usize = 240;
/// Runs kept one by one.
const RUNS_MAX: usize = 400;

/// A part of the time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    pub in_time: u64,
    pub late: u64,
    pub refused: u64,
    /// The most requests of each model that waited at once.
    pub waiting: Vec<usize>,
}

/// A run of the window.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    pub decision: Decision,
    /// When its answers were there; `None` when its worker died.
    pub answered: Option<Nanos>,
    /// Requests of it that were answered late.
    pub late: usize,
    /// The longest that one of its requests had waited.
    pub waited: Nanos,
}

/// Fills itself from what is [`Seen`].
#[derive(Clone, Debug)]
pub struct Timeline {
    span: Nanos,
    pub buckets: Vec<Bucket>,
    /// Runs started from `from` on, in their order, until there were too many.
    pub runs: Vec<Kept>,
    pub from: Nanos,
    /// Up to where `runs` are all there are; [`Nanos::NEVER`] when none was left out.
    pub complete_until: Nanos,
    /// Those of `runs` in flight, with their places there.
    open: Vec<(RunId, usize)>,
}

impl Timeline {
    /// For arrivals until `span`, looked at closely from `from` on. What happens later than `span` counts as at its end.
    pub fn new(index: &Index, span: Nanos, from: Nanos) -> Timeline {
        let bucket = Bucket { waiting: vec![0; index.models().len()], ..Bucket::default() };
        Timeline { span, buckets: vec![bucket; BUCKETS], runs: Vec::new(), from, complete_until: Nanos::NEVER, open: Vec::new() }
    }

    /// Takes note.
    pub fn see(&mut self, seen: &Seen<'_>) {
        match *seen {
            Seen::Started { run, decision, requests } => {
                if decision.started < self.from || decision.started >= self.complete_until {
                    return;
                }
                if self.runs.len() == RUNS_MAX {
                    self.complete_until = decision.started;
                    return;
                }
                let waited = requests.iter().map(|request| decision.started - request.arrived).max().unwrap_or_default();
                self.open.push((run, self.runs.len()));
                self.runs.push(Kept { decision: *decision, answered: None, late: 0, waited });
            }
            Seen::Answered { at, run, requests, .. } => {
                let late = requests.iter().filter(|request| request.deadline < at).count();
                let bucket = self.bucket(at);
                bucket.late += late as u64;
                bucket.in_time += (requests.len() - late) as u64;
                if let Some(open) = self.open.iter().position(|(number, _)| *number == run) {
                    let (_, place) = self.open.swap_remove(open);
                    (self.runs[place].answered, self.runs[place].late) = (Some(at), late);
                }
            }
            Seen::Refused { at, .. } => self.bucket(at).refused += 1,
            Seen::Accepted { .. } => {}
            Seen::Settled { view } => {
                let bucket = self.bucket(view.now);
                for (at, most) in bucket.waiting.iter_mut().enumerate() {
                    *most = view.queue(ModelId(at as u16)).len().max(*most);
                }
            }
        }
    }

    fn bucket(&mut self, at: Nanos) -> &mut Bucket {
        let part = at.as_f64() / self.span.as_f64().max(1.0);
        &mut self.buckets[((part * BUCKETS as f64) as usize).min(BUCKETS - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::policy;
    use crate::simulate::{simulate, swarm};
    use schema::Seed;

    /// Whatever happens, the buckets count what the figures count, and the window holds all runs of its time.
    #[test]
    fn buckets_and_figures_agree_and_the_window_is_complete() {
        let mut cut = 0;
        for seed in 0..200 {
            let case = swarm(Seed(seed));
            let trace: Vec<_> = case.trace().collect();
            let span = trace.last().unwrap().at;
            let mut timeline = Timeline::new(&case.scenario.index, span, span.scaled(0.1));
            let mut starts = Vec::new();
            let figures = simulate(&case.scenario, trace.into_iter(), policy(case.policy).unwrap(), &mut |seen| {
                timeline.see(&seen);
                if let Seen::Started { decision, .. } = seen {
                    starts.push(decision.started);
                }
            });
            let figures = figures.unwrap();
            let sum = |count: fn(&Bucket) -> u64| timeline.buckets.iter().map(count).sum::<u64>();
            assert_eq!((sum(|b| b.in_time), sum(|b| b.late)), (figures.in_time, figures.late), "seed {seed}");
            assert_eq!(sum(|b| b.refused), figures.refused_late + figures.refused_full + figures.refused_other, "seed {seed}");
            let inside = |start: &&Nanos| **start >= timeline.from && **start < timeline.complete_until;
            let kept = timeline.runs.iter().filter(|run| run.decision.started < timeline.complete_until).count();
            assert_eq!(starts.iter().filter(inside).count(), kept, "seed {seed}");
            assert!(timeline.runs.len() <= RUNS_MAX && timeline.open.len() <= RUNS_MAX);
            cut += u32::from(timeline.complete_until < Nanos::NEVER);
        }
        assert!(cut < 200, "some windows reach to the end");
    }
}
