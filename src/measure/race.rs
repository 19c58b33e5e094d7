//! A race: rivals timed in interleaved rounds, with a sentinel that tells when the machine itself was slow.
//!
//! Every round times each rival once, in an order that turns from round to round, so that drift hits all alike. A round in which
//! the sentinel (work that never changes) ran below 95 % of its best speed is thrown away: virtual machines fall to two thirds of
//! their speed for tenths of a second. Rivals that are clearly behind leave early, as in successive halving (Karnin, Koren and
//! Somekh 2013): half of the time would otherwise go to configs nobody will choose.

use super::noise::timing;
use super::{Effort, noise};
use schema::{FailureClass, Picos, Ratio, Timing};
use std::time::Duration;

/// What runs in a lap.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Lane {
    Sentinel,
    /// The rival of that number.
    Rival(usize),
}

/// A rival that fell during a lap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fall {
    pub rival: usize,
    pub class: FailureClass,
    pub detail: String,
}

/// Where a race is run.
pub trait Track {
    /// What stops the race altogether.
    type Error;
    /// Times each lane once, in order.
    ///
    /// # Errors
    /// The outer error stops the race. The inner one is a rival that fell; the race goes on without it.
    fn lap(&mut self, lanes: &[Lane]) -> Result<Result<Vec<Picos>, Fall>, Self::Error>;
    /// Time spent so far.
    fn elapsed(&self) -> Duration;
}

/// What became of a rival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    Time(Timing),
    Fell { class: FailureClass, detail: String },
}

/// A sentinel below this part of its best speed marks a round as slow, in per cent.
const SLOW_PCT: u64 = 95;
/// Rounds that may be thrown away, as a multiple of those asked for, before slow ones count too: a machine that is always slow
/// must still give an answer.
const THROWN_MAX_FACTOR: u32 = 1;
/// After so many rounds a rival leaves that is slower than the fastest by more than this, in per cent.
const LEAVE: [(usize, u64); 4] = [(1, 150), (2, 50), (4, 20), (6, 10)];
/// Rounds that are run whatever the time limit says.
const ROUNDS_MIN: usize = 3;

/// Rounds of one race so far.
#[derive(Default)]
pub(super) struct Rounds {
    best_sentinel: Option<Picos>,
    thrown: u32,
}

impl Rounds {
    /// Whether a round with this sentinel counts.
    pub fn counts(&mut self, sentinel: Picos, asked: u32) -> bool {
        let best = self.best_sentinel.map_or(sentinel, |best| best.min(sentinel));
        self.best_sentinel = Some(best);
        // Speed is 1 / time: sentinel time · 95 % ≤ best time.
        let quick = u128::from(sentinel.0) * u128::from(SLOW_PCT) <= u128::from(best.0) * 100;
        let counts = quick || self.thrown >= asked.saturating_mul(THROWN_MAX_FACTOR);
        self.thrown += u32::from(!counts);
        counts
    }
}

/// Times `rivals` rivals against each other.
///
/// # Errors
/// What the track calls an error.
pub fn race<T: Track>(track: &mut T, rivals: usize, effort: &Effort) -> Result<Vec<Finish>, T::Error> {
    let mut samples: Vec<Vec<Picos>> = vec![Vec::new(); rivals];
    let mut fallen: Vec<Option<Fall>> = vec![None; rivals];
    let mut running: Vec<usize> = (0..rivals).collect();
    let mut rounds = Rounds::default();
    let start = track.elapsed();
    let mut counted = 0;
    while counted < effort.samples as usize && !running.is_empty() {
        let mut lanes: Vec<Lane> = running.iter().map(|&rival| Lane::Rival(rival)).collect();
        if counted % 2 == 1 {
            lanes.reverse();
        }
        lanes.insert(0, Lane::Sentinel);
        match track.lap(&lanes)? {
            Ok(times) => {
                // Nothing is thrown away that there is no time to repeat.
                let asked = if track.elapsed().saturating_sub(start) < effort.limit { effort.samples } else { 0 };
                if rounds.counts(times.first().copied().unwrap_or_default(), asked) {
                    counted += 1;
                    for (lane, time) in lanes.iter().zip(&times) {
                        if let Lane::Rival(rival) = lane {
                            samples[*rival].push(*time);
                        }
                    }
                    leave(&mut running, &samples, counted);
                }
            }
            Err(fall) => {
                running.retain(|&rival| rival != fall.rival);
                let at = fall.rival;
                fallen[at] = Some(fall);
            }
        }
        let spent = track.elapsed().saturating_sub(start);
        // Rivals so slow that three rounds cannot be had within eight times the limit are told apart by one: what is near meets in pairs.
        if (counted >= ROUNDS_MIN && spent >= effort.limit) || (counted > 0 && spent >= effort.limit * 8) {
            break;
        }
    }
    let finish = |(samples, fall): (Vec<Picos>, Option<Fall>)| match (fall, timing(&samples)) {
        (None, Some(timing)) => Finish::Time(timing),
        (Some(fall), _) => Finish::Fell { class: fall.class, detail: fall.detail },
        (None, None) => Finish::Fell { class: FailureClass::Timeout, detail: "no sample was taken".to_owned() },
    };
    Ok(samples.into_iter().zip(fallen).map(finish).collect())
}

/// Takes out of the race who is clearly behind.
fn leave(running: &mut Vec<usize>, samples: &[Vec<Picos>], counted: usize) {
    let Some((_, behind_pct)) = LEAVE.iter().find(|(rounds, _)| *rounds == counted) else { return };
    // The least of the samples: one disturbed sample must not send anybody home.
    let least = |rival: usize| samples[rival].iter().min().copied().unwrap_or(Picos(u64::MAX));
    let Some(best) = running.iter().map(|&rival| least(rival)).min() else { return };
    let limit = u128::from(best.0) * u128::from(100 + behind_pct);
    running.retain(|&rival| u128::from(least(rival).0) * 100 <= limit);
}

/// The result of pairs: both timings and the interval of the ratio.
pub type Paired = (Timing, Timing, Ratio);

/// Pairs at which the interval of a run-off is looked at: few looks, so that a lucky streak rarely ends it.
pub const LOOKS: [usize; 2] = [8, 16];

/// Times rival 0 (the default) against rival 1 in the order A B B A, until the effort is spent, or the interval of the ratio has left
/// 1.00 when so many pairs are there as `looks` names.
///
/// # Errors
/// What the track calls an error; inside, the rival that fell.
pub fn pairs<T: Track>(track: &mut T, effort: &Effort, looks: &[usize]) -> Result<Result<Paired, Fall>, T::Error> {
    let mut pairs = Vec::new();
    let mut rounds = Rounds::default();
    let start = track.elapsed();
    let spent = |track: &T| track.elapsed().saturating_sub(start);
    while pairs.len() < effort.samples as usize || spent(track) < effort.least.min(effort.limit) {
        let lanes = [Lane::Sentinel, Lane::Rival(0), Lane::Rival(1), Lane::Rival(1), Lane::Rival(0)];
        match track.lap(&lanes)? {
            Err(fall) => return Ok(Err(fall)),
            Ok(times) => {
                let at = |i: usize| times.get(i).copied().unwrap_or_default();
                let asked = if spent(track) < effort.limit { effort.samples.max(pairs.len() as u32) } else { 0 };
                if rounds.counts(at(0), asked) {
                    pairs.push((at(1), at(2)));
                    pairs.push((at(4), at(3)));
                }
            }
        }
        let decided = || noise::ratio(&pairs).is_some_and(|ratio| ratio.lo_ppm > 1_005_000 || ratio.hi_ppm < 995_000);
        if looks.contains(&pairs.len()) && decided() {
            break;
        }
        if pairs.len() >= noise::PAIRS_MIN && spent(track) >= effort.limit {
            break;
        }
        // A rival so slow that six pairs cannot be had within four times the limit is judged by two.
        if pairs.len() >= 2 && spent(track) >= effort.limit * 4 {
            break;
        }
    }
    let (defaults, rivals): (Vec<Picos>, Vec<Picos>) = pairs.iter().copied().unzip();
    let paired = timing(&defaults).zip(timing(&rivals)).zip(noise::ratio(&pairs));
    let nothing = || Fall { rival: 1, class: FailureClass::Timeout, detail: "no pair was timed".to_owned() };
    Ok(paired.map(|((default, rival), ratio)| (default, rival, ratio)).ok_or_else(nothing))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::Stream;
    use schema::Seed;
    use std::convert::Infallible;

    /// Rivals of fixed times on a machine that falls to half its speed now and then.
    struct Course {
        times: Vec<u64>,
        noise: f64,
        stream: Stream,
        laps: Vec<Vec<Lane>>,
        spent_ps: u64,
        slow_phases: bool,
        falls: Option<usize>,
    }

    fn course(times: &[u64]) -> Course {
        let stream = Stream::new(Seed(1));
        Course { times: times.to_vec(), noise: 0.01, stream, laps: Vec::new(), spent_ps: 0, slow_phases: false, falls: None }
    }

    impl Track for Course {
        type Error = Infallible;
        fn lap(&mut self, lanes: &[Lane]) -> Result<Result<Vec<Picos>, Fall>, Infallible> {
            self.laps.push(lanes.to_vec());
            if let Some(rival) = self.falls.filter(|&rival| lanes.contains(&Lane::Rival(rival))) {
                return Ok(Err(Fall { rival, class: FailureClass::Crash, detail: "signal 11".into() }));
            }
            let factor = if self.slow_phases && self.laps.len().is_multiple_of(3) { 2.0 } else { 1.0 };
            let times: Vec<Picos> = lanes
                .iter()
                .map(|lane| {
                    let (base, noise) = match lane {
                        Lane::Sentinel => (1_000_000, 0.002),
                        Lane::Rival(rival) => (self.times[*rival], self.noise),
                    };
                    Picos((base as f64 * factor * (1.0 + noise * self.stream.normal())) as u64)
                })
                .collect();
            self.spent_ps += times.iter().map(|time| time.0).sum::<u64>();
            Ok(Ok(times))
        }
        fn elapsed(&self) -> Duration {
            Duration::from_nanos(self.spent_ps / 1000)
        }
    }

    fn median(finish: &Finish) -> u64 {
        match finish {
            Finish::Time(timing) => timing.median.0,
            Finish::Fell { detail, .. } => panic!("fell: {detail}"),
        }
    }

    #[test]
    fn slow_rounds_are_thrown_away() {
        let mut course = Course { slow_phases: true, noise: 0.001, ..course(&[5_000_000, 5_100_000]) };
        let Ok(finishes) = race(&mut course, 2, &Effort::SEARCH);
        for (finish, truth) in finishes.iter().zip([5_000_000u64, 5_100_000]) {
            assert!(median(finish).abs_diff(truth) < truth / 100, "{finish:?}");
        }
    }

    #[test]
    fn who_is_behind_leaves_and_who_is_near_stays() {
        let mut course = course(&[1_000_000, 1_020_000, 1_400_000, 9_000_000]);
        let Ok(finishes) = race(&mut course, 4, &Effort::SEARCH);
        let n = |i: usize| match &finishes[i] {
            Finish::Time(timing) => timing.n,
            Finish::Fell { .. } => 0,
        };
        assert_eq!((n(0), n(1), n(2), n(3)), (9, 9, 4, 1));
    }

    #[test]
    fn a_fall_takes_out_the_rival_alone() {
        let mut course = Course { falls: Some(1), ..course(&[1_000_000, 2_000_000, 1_100_000]) };
        let Ok(finishes) = race(&mut course, 3, &Effort::SEARCH);
        assert!(matches!(finishes[1], Finish::Fell { class: FailureClass::Crash, .. }));
        assert!(median(&finishes[0]) > 0 && median(&finishes[2]) > 0);
    }

    #[test]
    fn the_time_limit_cuts_a_race_after_three_rounds() {
        let mut course = course(&[400_000_000_000, 500_000_000_000]);
        let Ok(finishes) = race(&mut course, 2, &Effort::SEARCH);
        assert!(matches!(&finishes[0], Finish::Time(timing) if timing.n == 3));
    }

    #[test]
    fn what_takes_seconds_is_told_apart_by_one_round() {
        let mut slow = course(&[4_000_000_000_000, 3_000_000_000_000]);
        let Ok(finishes) = race(&mut slow, 2, &Effort::SEARCH);
        assert!(matches!(&finishes[0], Finish::Time(timing) if timing.n == 1) && slow.laps.len() == 1);
    }

    #[test]
    fn a_slow_lap_beyond_the_limit_counts() {
        // The third lap is the slow one, when the time is up.
        let mut course = Course { slow_phases: true, ..course(&[125_000_000_000, 125_000_000_000]) };
        let Ok(Ok((default, ..))) = pairs(&mut course, &Effort::RUNOFF, &[]) else { panic!("nobody falls") };
        assert_eq!((default.n, course.laps.len()), (6, 3));
        let mut course = Course { laps: Vec::new(), spent_ps: 0, ..course };
        let Ok(finishes) = race(&mut course, 2, &Effort::SEARCH);
        assert!(matches!(&finishes[0], Finish::Time(timing) if timing.n == 3), "{finishes:?}");
        assert_eq!(course.laps.len(), 3);
    }

    #[test]
    fn a_clear_run_off_ends_early_and_an_even_one_does_not() {
        let mut clear = course(&[2_000_000, 1_000_000]);
        let Ok(Ok((_, _, ratio))) = pairs(&mut clear, &Effort::RUNOFF, &LOOKS) else { panic!("nobody falls") };
        assert!(ratio.lo_ppm > 1_900_000 && clear.laps.len() == 4);
        let mut even = course(&[1_000_000, 1_000_000]);
        let Ok(Ok((_, _, ratio))) = pairs(&mut even, &Effort::RUNOFF, &LOOKS) else { panic!("nobody falls") };
        assert!(ratio.lo_ppm <= 1_003_000 && ratio.hi_ppm >= 997_000 && even.laps.len() == 12);
    }

    #[test]
    fn what_takes_microseconds_is_paired_for_as_long_as_asked() {
        let mut short = course(&[1_000_000, 1_000_000]);
        let effort = Effort { samples: 8, least: Duration::from_millis(2), limit: Duration::from_millis(100) };
        let Ok(Ok((default, _, ratio))) = pairs(&mut short, &effort, &[]) else { panic!("nobody falls") };
        assert!(default.n > 700 && ratio.hi_ppm - ratio.lo_ppm < 3_000, "{} pairs, {ratio:?}", default.n);
        let mut long = course(&[1_000_000_000, 1_000_000_000]);
        let Ok(Ok((default, ..))) = pairs(&mut long, &effort, &[]) else { panic!("nobody falls") };
        assert_eq!(default.n, 8);
    }

    #[test]
    fn equal_rivals_are_rarely_told_apart() {
        let mut wrong = 0;
        for seed in 0..400 {
            let mut even = Course { noise: 0.03, stream: Stream::new(Seed(seed)), ..course(&[1_000_000, 1_000_000]) };
            let Ok(Ok((_, _, ratio))) = pairs(&mut even, &Effort::RUNOFF, &LOOKS) else { panic!("nobody falls") };
            wrong += u32::from(ratio.lo_ppm > 1_000_000);
        }
        assert!(wrong <= 20, "{wrong} of 400 wrong winners");
    }
}
