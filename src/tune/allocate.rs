//! Which task gets the next seconds: the one with the most expected gain for them.
//!
//! What a task can gain is its part of its models' time, times how far its best config is from the roofline, times a trust that
//! falls with every round that brought nothing. Divided by what a round costs, that is an exchange rate, and the loop always buys
//! the cheapest gain.

use schema::Picos;

/// How an item stands.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Stand {
    /// Its part of the time of the entries that use it, summed over entries: 1 is a whole entry.
    pub weight: f64,
    /// Its best time so far, or the estimate before any.
    pub time: Picos,
    /// The roofline: no config is faster.
    pub least: Picos,
    /// Rounds so far.
    pub rounds: u32,
    /// Rounds since the last that brought a gain beyond the noise.
    pub misses: u32,
    /// Configs nobody has tried.
    pub left: usize,
    /// What a round costs, in seconds.
    pub cost_s: f64,
}

/// Gains below this part of one entry's time are noise: nothing is spent on them.
pub const GAIN_MIN: f64 = 0.0005;
/// Of the distance to the roofline, what an item's first round finds on average: every variant's own guess, and what did well on
/// similar tasks.
const FOUND_FIRST: f64 = 0.4;
/// And a later one, which refines.
const FOUND_LATER: f64 = 0.1;
/// What of that trust is left after a round without a gain.
const TRUST: f64 = 0.7;
/// Even next to the roofline something may be found: estimates of it are rough.
const DISTANCE_MIN: f64 = 0.05;
/// And nothing is expected to come closer than this.
const DISTANCE_MAX: f64 = 0.7;

impl Stand {
    /// The expected gain of one more round, as a part of one entry's time.
    pub fn gain(&self) -> f64 {
        if self.left == 0 {
            return 0.0;
        }
        let distance = 1.0 - self.least.0 as f64 / self.time.0.max(1) as f64;
        let misses = i32::try_from(self.misses).unwrap_or(i32::MAX);
        let found = if self.rounds == 0 { FOUND_FIRST } else { FOUND_LATER };
        self.weight * distance.clamp(DISTANCE_MIN, DISTANCE_MAX) * found * TRUST.powi(misses)
    }

    /// The gain per second.
    fn rate(&self) -> f64 {
        self.gain() / self.cost_s.max(1e-4)
    }
}

/// The items worth a round, the best exchange rate first.
pub fn order(stands: &[Stand]) -> Vec<usize> {
    let mut worth: Vec<usize> = (0..stands.len()).filter(|&i| stands[i].gain() >= GAIN_MIN).collect();
    worth.sort_by(|&a, &b| stands[b].rate().total_cmp(&stands[a].rate()).then(a.cmp(&b)));
    worth
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stand(weight: f64, time: u64, least: u64, misses: u32) -> Stand {
        Stand { weight, time: Picos(time), least: Picos(least), rounds: 1, misses, left: 10, cost_s: 0.1 }
    }

    #[test]
    fn seconds_go_to_what_has_most_to_gain() {
        let stands = [stand(0.1, 100, 20, 0), stand(0.5, 100, 20, 0), stand(0.5, 100, 90, 0), stand(0.5, 100, 20, 5)];
        assert_eq!(order(&stands)[0], 1);
        assert!(stands[3].gain() < stands[1].gain() / 4.0, "rounds without a gain cost trust");
    }

    #[test]
    fn nothing_is_spent_on_the_negligible_or_the_exhausted() {
        let exhausted = Stand { left: 0, ..stand(0.9, 100, 1, 0) };
        assert_eq!(order(&[stand(0.0005, 100, 1, 0), exhausted]), [] as [usize; 0]);
    }

    #[test]
    fn a_cheap_gain_is_bought_before_a_dear_one() {
        let dear = Stand { cost_s: 2.0, ..stand(0.5, 100, 20, 0) };
        assert_eq!(order(&[dear, stand(0.2, 100, 20, 0)])[0], 1);
    }
}
