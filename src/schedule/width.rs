//! How to divide a host's cores among the branches of one model: pools, and threads of each.
//!
//! The width rule (Wang, Wei and Brooks 2019, arXiv 1908.04705): the average width W of the operator graph is the number of heavy operators
//! over the number of levels; ⌊W⌋ pools share the cores. It looks only at the graph, and is wrong by up to a factor of two (papers §4.9), so
//! it is the answer only where nothing else is known. With times by thread count every number of pools is tried on a list schedule, longest
//! path first, and the least makespan wins. What is predicted here is then judged in pairs against one pool; it decides nothing alone.

use super::Nanos;

/// An operator takes part in the width from this part of all time on.
const HEAVY: f64 = 0.01;
/// Shorter operators stay in the pool of what they follow: handing over takes 5 to 10 µs.
const HAND_OVER_MIN: Nanos = Nanos(50_000);
/// An operator gets no further thread that makes it less than so many times as fast.
const THREAD_GAIN_MIN: f64 = 1.05;

/// One operator of a model, in an order in which all come behind what they follow.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// With one thread, with two, and so on; at least one. More threads than were measured take as long as the most.
    pub times: Vec<Nanos>,
    /// Places of the operators whose results it needs.
    pub follows: Vec<usize>,
}

/// Cores of a host, divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Division {
    /// Threads of each pool; the sum is the number of cores.
    pub threads: Vec<u32>,
    /// Predicted for the whole model; `None` where times with several threads are not known.
    pub makespan: Option<Nanos>,
}

impl Work {
    fn alone(&self) -> Nanos {
        self.times[0]
    }

    /// With so many threads, of which it takes no more than pay.
    fn time(&self, threads: u32) -> Nanos {
        let known = &self.times[..(threads as usize).clamp(1, self.times.len())];
        let pays = |pair: &[Nanos]| pair[0].as_f64() >= THREAD_GAIN_MIN * pair[1].as_f64();
        known[known.windows(2).take_while(|pair| pays(pair)).count()]
    }
}

/// Average width: heavy operators over levels of them; 1 without any.
pub fn average_width(works: &[Work]) -> f64 {
    let (levels, heavy) = levels(works);
    let deepest = levels.into_iter().max().unwrap_or(0);
    if deepest == 0 { 1.0 } else { heavy.into_iter().filter(|heavy| *heavy).count() as f64 / deepest as f64 }
}

/// Average parallelism: all time over the critical path, both with one thread (Brent 1974); 1 without any work.
pub fn average_parallelism(works: &[Work]) -> f64 {
    let longest = paths(works, 1).into_iter().max().unwrap_or_default();
    let all: f64 = works.iter().map(|work| work.alone().as_f64()).sum();
    if longest == Nanos::ZERO { 1.0 } else { all / longest.as_f64() }
}

/// `cores` in so many pools; the first ones have one core more where they do not divide evenly.
pub fn divide(cores: u32, pools: u32) -> Vec<u32> {
    let pools = pools.clamp(1, cores.max(1));
    (0..pools).map(|pool| cores.max(1) / pools + u32::from(pool < cores % pools)).collect()
}

/// The division of least predicted makespan, of equals that of fewer pools; by the width rule where no operator was timed with two threads.
pub fn choose(works: &[Work], cores: u32) -> Division {
    if works.iter().all(|work| work.times.len() == 1) {
        return Division { threads: divide(cores, average_width(works) as u32), makespan: None };
    }
    let tried = (1..=widest(works).clamp(1, cores.max(1))).map(|pools| {
        let threads = divide(cores, pools);
        Division { makespan: Some(makespan(works, &threads)), threads }
    });
    tried.min_by_key(|division| division.makespan).expect("one pool is always tried")
}

/// How long a model takes on these pools, when of what is ready the operator with the longest path ahead goes first.
pub fn makespan(works: &[Work], threads: &[u32]) -> Nanos {
    let ahead = ahead(works, threads[0]);
    // When each pool is free; of each operator when it was over, and where.
    let mut free = vec![Nanos::ZERO; threads.len()];
    let mut over: Vec<Option<(Nanos, usize)>> = vec![None; works.len()];
    for _ in 0..works.len() {
        let ready = |at: &usize| over[*at].is_none() && works[*at].follows.iter().all(|&before| over[before].is_some());
        let earliest = |at: usize| {
            let last = works[at].follows.iter().filter_map(|&before| over[before]).max();
            let (since, beside) = last.map_or((Nanos::ZERO, None), |(since, pool)| (since, Some(pool)));
            let bound = beside.filter(|_| works[at].alone() < HAND_OVER_MIN);
            let pools = (0..threads.len()).filter(|&pool| bound.is_none_or(|bound| bound == pool));
            let start = |pool: usize| free[pool].max(since);
            let pool = pools.min_by_key(|&pool| (start(pool), Some(pool) != beside, std::cmp::Reverse(threads[pool])));
            let pool = pool.expect("there is a pool");
            (start(pool), pool)
        };
        let next = (0..works.len()).filter(ready).map(|at| (earliest(at), at));
        let ((start, pool), at) = next
            .min_by_key(|&((start, _), at)| (start, std::cmp::Reverse(ahead[at]), at))
            .expect("operators come behind what they follow");
        let end = start + works[at].time(threads[pool]);
        free[pool] = end;
        over[at] = Some((end, pool));
    }
    free.into_iter().max().unwrap_or_default()
}

/// The level of each operator, counted in heavy ones, and which are heavy.
fn levels(works: &[Work]) -> (Vec<usize>, Vec<bool>) {
    let all: f64 = works.iter().map(|work| work.alone().as_f64()).sum();
    let heavy: Vec<bool> = works.iter().map(|work| work.alone().as_f64() >= HEAVY * all && all > 0.0).collect();
    let mut levels = Vec::with_capacity(works.len());
    for (work, heavy) in works.iter().zip(&heavy) {
        let before = work.follows.iter().map(|&before| levels[before]).max().unwrap_or(0);
        levels.push(before + usize::from(*heavy));
    }
    (levels, heavy)
}

/// The most heavy operators on one level.
fn widest(works: &[Work]) -> u32 {
    let (levels, heavy) = levels(works);
    let mut counts = vec![0; levels.iter().max().map_or(0, |deepest| deepest + 1)];
    levels.iter().zip(heavy).filter(|(_, heavy)| *heavy).for_each(|(&level, _)| counts[level] += 1);
    counts.into_iter().max().unwrap_or(1)
}

/// The longest path up to and with each operator.
fn paths(works: &[Work], threads: u32) -> Vec<Nanos> {
    let mut paths: Vec<Nanos> = Vec::with_capacity(works.len());
    for work in works {
        let before = work.follows.iter().map(|&before| paths[before]).max().unwrap_or_default();
        paths.push(before + work.time(threads));
    }
    paths
}

/// The longest path from each operator on, itself with it.
fn ahead(works: &[Work], threads: u32) -> Vec<Nanos> {
    let mut ahead: Vec<Nanos> = works.iter().map(|work| work.time(threads)).collect();
    for at in (0..works.len()).rev() {
        for &before in &works[at].follows {
            ahead[before] = ahead[before].max(works[before].time(threads) + ahead[at]);
        }
    }
    ahead
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::Stream;
    use schema::Seed;

    /// Amdahl's law with a serial part.
    fn work(micros: f64, serial: f64, follows: &[usize]) -> Work {
        let time = |threads: u32| Nanos::from_f64(1e3 * micros * (serial + (1.0 - serial) / f64::from(threads)));
        Work { times: (1..=16).map(time).collect(), follows: follows.to_vec() }
    }

    /// Layers of one to eight operators of lognormal times, each following one or two of the layer before.
    fn layered(seed: u64, serial: f64) -> Vec<Work> {
        let mut draw = Stream::new(Seed(seed));
        let (mut works, mut before): (Vec<Work>, Vec<usize>) = (Vec::new(), Vec::new());
        for _ in 0..6 + draw.below(19) {
            let layer: Vec<usize> = (0..1 + draw.below(8)).map(|at| works.len() + at).collect();
            for _ in &layer {
                let mut follows: Vec<usize> = before.iter().copied().filter(|_| draw.below(3) == 0).collect();
                follows.extend(before.get(draw.below(before.len())).filter(|_| follows.is_empty()));
                works.push(work(400.0 * (0.8 * draw.normal()).exp(), serial, &follows));
            }
            before = layer;
        }
        works
    }

    #[test]
    fn widths_are_counted_in_heavy_operators_and_in_time() {
        // A chain of two, beside it two of a kind, and a thousandth that counts nowhere.
        let works =
            [work(100.0, 0.0, &[]), work(100.0, 0.0, &[0]), work(100.0, 0.0, &[]), work(100.0, 0.0, &[2]), work(0.1, 0.0, &[1])];
        assert_eq!((average_width(&works), average_width(&[])), (2.0, 1.0));
        assert!((average_parallelism(&works) - 2.0).abs() < 0.01 && average_parallelism(&[]) == 1.0);
        assert_eq!((divide(8, 3), divide(2, 5), divide(0, 1)), (vec![3, 3, 2], vec![1, 1], vec![1]));
    }

    #[test]
    fn a_chain_gets_one_pool_and_branches_that_scale_badly_get_their_own() {
        let chain: Vec<Work> = (0..5).map(|at| work(500.0, 0.3, &if at > 0 { vec![at - 1] } else { vec![] })).collect();
        assert_eq!(choose(&chain, 8).threads, [8]);
        let branches: Vec<Work> = (0..4).map(|_| work(500.0, 0.5, &[])).collect();
        assert_eq!(choose(&branches, 4).threads, [1, 1, 1, 1]);
        // Short operators are not worth handing over.
        let short: Vec<Work> = (0..5).map(|at| work(20.0, 0.5, &if at > 0 { vec![0] } else { vec![] })).collect();
        assert_eq!(choose(&short, 4).threads, [4]);
    }

    #[test]
    fn without_times_by_threads_the_rule_answers() {
        let alone = |follows: &[usize]| Work { times: vec![Nanos(100_000)], follows: follows.to_vec() };
        let works = [alone(&[]), alone(&[]), alone(&[]), alone(&[0, 1, 2]), alone(&[3]), alone(&[3])];
        assert_eq!(choose(&works, 8), Division { threads: vec![4, 4], makespan: None });
    }

    #[test]
    fn threads_that_do_not_pay_are_not_taken() {
        let bound = Work { times: [100, 60, 58, 20].map(|us| Nanos(us * 1000)).to_vec(), follows: vec![] };
        assert_eq!([1, 2, 3, 4, 9].map(|threads| bound.time(threads).0 / 1000), [100, 60, 60, 60, 60]);
    }

    /// No schedule beats the critical path or all the work on all cores, and the chosen one is never worse than one pool.
    #[test]
    fn makespans_keep_their_bounds() {
        for seed in 0..60 {
            let works = layered(seed, 0.1);
            for cores in [2, 8] {
                let one = makespan(&works, &[cores]);
                let serial: Nanos = works.iter().map(|work| work.time(cores)).fold(Nanos::ZERO, |sum, time| sum + time);
                assert_eq!(one, serial, "one pool runs everything in turn");
                let chosen = choose(&works, cores);
                let critical = paths(&works, chosen.threads[0]).into_iter().max().unwrap();
                let makespan = chosen.makespan.unwrap();
                assert!(makespan <= one && makespan >= critical, "seed {seed}: {makespan}, one pool {one}, path {critical}");
            }
        }
    }

    /// What dividing gains over one pool, geometric mean over random graphs: more with the serial part, never more than 2/S₂ on two cores
    /// (papers §4.9). And the rule alone does not find it.
    #[test]
    fn gains_grow_with_the_serial_part_within_their_bound() {
        let gain = |cores: u32, serial: f64| {
            let (mut gain, mut right) = (0.0, 0);
            for seed in 0..120 {
                let works = layered(seed, serial);
                let best = choose(&works, cores).makespan.unwrap().as_f64();
                gain += (makespan(&works, &[cores]).as_f64() / best).ln() / 120.0;
                let rule = makespan(&works, &divide(cores, average_width(&works) as u32)).as_f64();
                right += usize::from(rule <= 1.03 * best);
            }
            (gain.exp(), right)
        };
        let on_eight = [0.02, 0.1, 0.3].map(|serial| gain(8, serial));
        assert!(on_eight[0].0 < on_eight[1].0 && on_eight[1].0 < on_eight[2].0 && on_eight[2].0 > 1.3, "{on_eight:?}");
        assert!(on_eight.iter().any(|(_, right)| *right < 116), "the rule is within 3 % in {on_eight:?} of 120");
        for serial in [0.02, 0.1, 0.3] {
            let (found, _) = gain(2, serial);
            // S₂ = 1 / (serial + (1 − serial) / 2).
            assert!(found >= 1.0 && found <= 1.0 + serial, "two cores, serial part {serial}: {found}");
        }
    }
}
