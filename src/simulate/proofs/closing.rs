//! Batches are closed when a reference closes them that looks at every instant, one after the other.

use super::{device, scenario};
use crate::schedule::testing::{curve, index};
use crate::schedule::{Admission, Engines, Line, Measured, ModelId, Nanos, Priority, Stages, policy};
use crate::simulate::{Arrival, Reality, Seen, simulate};
use crate::space::Stream;
use schema::{Batch, Seed, Share};

/// A trace of single rows and the times of the tuned batches, all in a few nanoseconds.
#[derive(Debug)]
struct Puzzle {
    engines: Engines,
    /// Ascending.
    batches: Vec<u32>,
    stages: Vec<Stages>,
    /// Arrival and deadline.
    requests: Vec<(u64, u64)>,
}

/// Closed at, requests, batch.
type Close = (u64, usize, u32);

fn puzzle(seed: u64) -> (Puzzle, Vec<Measured>) {
    let mut draw = Stream::new(Seed(seed));
    let mut number = |most: usize| draw.below(most) as u64;
    let engines = [Engines::None, Engines::Two, Engines::Two][number(3) as usize];
    let mut batches: Vec<u32> = (1..=8).filter(|_| number(3) > 0).collect();
    batches.push(1 + number(8) as u32);
    batches.sort_unstable();
    batches.dedup();
    let (up, down) = ((number(3), number(4)), (number(2), number(4)));
    let (slope, fixed) = (number(4), 1 + number(20));
    let line = |(per_row, fixed): (u64, u64)| Some(Line { per_row_ns: per_row as f64, fixed_ns: fixed as f64 });
    let time = |b: u64| (slope + up.0 + down.0) * b + fixed + up.1 + down.1;
    let records = curve(&batches, time);
    let records: Vec<_> =
        records.into_iter().map(|record| Measured { upload: line(up), download: line(down), ..record }).collect();
    let of = |b: &u32| {
        let b = u64::from(*b);
        let (upload, download) = (Nanos(up.0 * b + up.1), Nanos(down.0 * b + down.1));
        Stages { upload, compute: Nanos(time(b)) - upload - download, download }
    };
    let stages = batches.iter().map(of).collect();
    let (gap, deadlines) = (1 + number(8) as usize, number(2) == 0);
    let mut at = 0;
    let requests = (0..30)
        .map(|_| {
            at += number(gap);
            (at, if deadlines && number(4) > 0 { at + 1 + number(60) } else { u64::MAX })
        })
        .collect();
    (Puzzle { engines, batches, stages, requests }, records)
}

impl Puzzle {
    fn total(&self, row: usize) -> u64 {
        self.stages[row].total().0
    }

    /// The least time for so many rows, by trying everything.
    fn cost(&self, rows: u32) -> u64 {
        let of = |row: usize| self.total(row) + self.cost(rows.saturating_sub(self.batches[row]));
        if rows == 0 { 0 } else { (0..self.batches.len()).map(of).min().unwrap() }
    }

    /// The largest part of a cheapest split.
    fn first_part(&self, rows: u32) -> usize {
        let cheapest = |&row: &usize| self.total(row) + self.cost(rows.saturating_sub(self.batches[row])) == self.cost(rows);
        (0..self.batches.len()).rev().find(cheapest).unwrap()
    }

    /// The cheapest batch that holds so many rows, the smallest of equals.
    fn holding(&self, rows: u32) -> usize {
        (0..self.batches.len()).filter(|&row| self.batches[row] >= rows).min_by_key(|&row| self.total(row)).unwrap()
    }

    /// Requests and row with which a queue would begin in a batch.
    fn part(&self, waiting: usize, row: usize) -> (usize, usize) {
        let take = waiting.min(self.batches[row] as usize);
        (take, self.holding(take as u32))
    }

    /// What is closed when, instant by instant.
    fn solve(&self) -> Vec<Close> {
        let largest = *self.batches.last().unwrap();
        let (mut closes, mut waiting) = (Vec::new(), Vec::new());
        // When upload, compute and download of each run end.
        let mut runs: Vec<[u64; 3]> = Vec::new();
        let mut next = self.requests.iter().copied().peekable();
        for now in 0.. {
            while let Some(request) = next.next_if(|request| request.0 == now) {
                waiting.push(request);
                // Earliest deadline first; without one, by arrival.
                waiting.sort_by_key(|&(at, deadline): &(u64, u64)| deadline.min(at + PATIENCE));
            }
            while !waiting.is_empty() {
                let Some((take, row)) = self.close(now, &waiting, &runs, largest) else { break };
                let stages = self.stages[row];
                let before = runs.last().copied().unwrap_or_default();
                let up = now + stages.upload.0;
                let cal = up.max(before[1]) + stages.compute.0;
                runs.push([up, cal, cal.max(before[2]) + stages.download.0]);
                closes.push((now, take, self.batches[row]));
                waiting.drain(..take);
            }
            if waiting.is_empty() && next.peek().is_none() {
                return closes;
            }
        }
        unreachable!("time has no end")
    }

    fn close(&self, now: u64, waiting: &[(u64, u64)], runs: &[[u64; 3]], largest: u32) -> Option<(usize, usize)> {
        let in_flight = runs.iter().filter(|run| run[2] > now).count();
        let uploading = runs.iter().any(|run| run[0] > now);
        let free = |row: usize| match self.engines {
            Engines::None => in_flight == 0,
            _ => {
                let Stages { upload, compute, download } = self.stages[row];
                let slowest = upload.max(compute).max(download).0.max(1);
                !uploading && in_flight < (self.total(row).div_ceil(slowest) as usize).clamp(1, 3)
            }
        };
        let computed = runs.iter().filter(|run| run[2] > now).map(|run| run[1]).max().unwrap_or(now).max(now);
        let over = |row: usize| {
            (now + self.stages[row].upload.0).max(computed) + self.stages[row].compute.0 + self.stages[row].download.0
        };
        let (take, row) = self.part(waiting.len(), self.first_part(largest.min(waiting.len() as u32)));
        if !free(row) {
            return None;
        }
        // The last instant for a deadline that some batch still keeps.
        let kept =
            |&(at, &(_, deadline)): &(usize, &(u64, u64))| deadline < u64::MAX && over(self.holding(at as u32 + 1)) <= deadline;
        let first = waiting.iter().take(take).enumerate().filter(kept).map(|(_, request)| request.1).min();
        if let Some(deadline) = first {
            if deadline < now + self.total(row) {
                // Grown this large it would be late: of smaller batches the one that keeps most deadlines.
                let saved = |(take, row): (usize, usize)| waiting[..take].iter().filter(|request| over(row) <= request.1).count();
                let smaller = (0..=row).map(|row| self.part(waiting.len(), row));
                let best = smaller.rev().max_by_key(|&part| saved(part)).filter(|&part| saved(part) > 0).unwrap_or((take, row));
                if free(best.1) {
                    return Some(best);
                }
            }
            if deadline == now + self.total(row) {
                return Some((take, row));
            }
        }
        let full = waiting.len() >= largest as usize;
        (full || computed <= now + self.stages[row].upload.0).then_some((take, row))
    }
}

const PATIENCE: u64 = 1 << 40;

fn schedule(puzzle: &Puzzle, records: Vec<Measured>) -> Vec<Close> {
    let mut scenario = scenario(device(puzzle.engines, &[Share::WHOLE]), index(&[records]), Admission::All);
    scenario.limits.patience = Nanos(PATIENCE);
    scenario.reality = Reality::default();
    let arrivals = puzzle.requests.iter().map(|&(at, deadline)| Arrival {
        at: Nanos(at),
        model: ModelId(0),
        rows: Batch::ONE,
        deadline: Nanos(deadline),
        priority: Priority::default(),
    });
    let mut closes = Vec::new();
    let mut watch = |seen: Seen<'_>| {
        if let Seen::Started { decision, requests, .. } = seen {
            closes.push((decision.started.0, requests.len(), decision.batch.rows()));
        }
    };
    simulate(&scenario, arrivals, policy("batcher").unwrap(), &mut watch).unwrap();
    closes
}

#[test]
fn batches_close_when_a_reference_closes_them_on_ten_thousand_traces() {
    let mut closed_early = 0;
    for seed in 0..10_000 {
        let (puzzle, records) = puzzle(seed);
        let expected = puzzle.solve();
        assert_eq!(schedule(&puzzle, records), expected, "seed {seed}: {puzzle:?}");
        closed_early += expected.iter().filter(|(_, take, _)| *take > 1).count();
    }
    assert!(closed_early > 10_000, "traces make batches");
}
