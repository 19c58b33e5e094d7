//! What is kept of each model's recent past: how fast rows arrive, how much of the devices it had, how far predictions were off.

use super::Nanos;
use std::cell::Cell;

/// Rows a second of one model's arrivals, refused ones included.
///
/// The sum of arrived rows, decaying with a time constant, over that constant. The design (papers §2.4) smooths gaps instead, which has
/// a pole where two requests arrive at once and knows no rows.
#[derive(Clone, Debug)]
pub struct Rate {
    rows: f64,
    at: Nanos,
    over: Nanos,
}

/// The least time constant (papers §2.4).
const OVER_MIN: Nanos = Nanos(50_000_000);

impl Rate {
    /// `cycle` is the time of the model's largest batch: the constant is ten of them, at least 50 ms.
    pub(super) fn new(cycle: Nanos) -> Rate {
        Rate { rows: 0.0, at: Nanos::ZERO, over: (cycle * 10).max(OVER_MIN) }
    }

    pub(super) fn observe(&mut self, now: Nanos, rows: u32) {
        self.rows = self.rows * self.decay(now) + f64::from(rows);
        self.at = now;
    }

    /// Rows a second.
    pub fn per_s(&self, now: Nanos) -> f64 {
        self.rows * self.decay(now) / self.over.as_secs_f64()
    }

    fn decay(&self, now: Nanos) -> f64 {
        (-(now - self.at).as_f64() / self.over.as_f64()).exp()
    }
}

/// Device time that one model had within a sliding window: time × share.
#[derive(Clone, Debug)]
pub struct Served {
    slots: [f64; SLOTS],
    /// Number of the newest slot, counted from instant 0.
    newest: u64,
    slot: Nanos,
    /// What was last asked for: of which slot, and the answer.
    within: Cell<Option<(u64, f64)>>,
}

/// The window moves in this many steps.
const SLOTS: usize = 16;

impl Served {
    pub(super) fn new(window: Nanos) -> Served {
        Served { slots: [0.0; SLOTS], newest: 0, slot: Nanos((window.0 / SLOTS as u64).max(1)), within: Cell::new(None) }
    }

    pub(super) fn add(&mut self, now: Nanos, device_time: Nanos) {
        let slot = now.0 / self.slot.0;
        for passed in self.newest + 1..=slot.min(self.newest + SLOTS as u64) {
            self.slots[passed as usize % SLOTS] = 0.0;
        }
        self.newest = self.newest.max(slot);
        self.slots[self.newest as usize % SLOTS] += device_time.as_f64();
        self.within.set(None);
    }

    /// Nanoseconds of a whole device.
    pub fn within(&self, now: Nanos) -> f64 {
        let slot = now.0 / self.slot.0;
        if let Some((_, sum)) = self.within.get().filter(|(of, _)| *of == slot) {
            return sum;
        }
        let kept = |number: &u64| *number + SLOTS as u64 > slot;
        let first = self.newest.saturating_sub(SLOTS as u64 - 1);
        let sum = (first..=self.newest).filter(kept).map(|number| self.slots[number as usize % SLOTS]).sum();
        self.within.set(Some((slot, sum)));
        sum
    }
}

/// How much later than predicted at their admission a model's requests finish: a high quantile, followed step by step (Robbins and Monro
/// 1951). A prediction cannot know who will come before the request; this is what that cost others lately.
#[derive(Clone, Debug)]
pub(super) struct Slip {
    ns: f64,
    step_ns: f64,
}

/// The quantile.
const SLIP_QUANTILE: f64 = 0.9;
/// A step, as a part of the time of the largest batch: fifty steps forget a burst.
const SLIP_STEP: f64 = 0.02;

impl Slip {
    pub fn new(cycle: Nanos) -> Slip {
        Slip { ns: 0.0, step_ns: cycle.as_f64() * SLIP_STEP }
    }

    pub fn now(&self) -> Nanos {
        Nanos::from_f64(self.ns)
    }

    pub fn observe(&mut self, finished: Nanos, predicted: Nanos) {
        let later = finished > predicted + self.now();
        let step = if later { SLIP_QUANTILE } else { SLIP_QUANTILE - 1.0 };
        self.ns = (self.ns + step * self.step_ns).max(0.0);
    }

    /// A request that was accepted in spite of it is over. In time, it takes a whole step back: there are few of these.
    pub fn probed(&mut self, finished: Nanos, predicted: Nanos, deadline: Nanos) {
        if finished <= deadline {
            self.ns = (self.ns - self.step_ns).max(0.0);
        } else {
            self.observe(finished, predicted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_is_found_and_fades_without_arrivals() {
        let mut rate = Rate::new(Nanos(1_000_000));
        (1..=2000u64).for_each(|i| rate.observe(Nanos(i * 1_000_000), 3));
        let now = Nanos(2_000_000_000);
        assert!((rate.per_s(now) / 3000.0 - 1.0).abs() < 0.02, "{}", rate.per_s(now));
        assert!(rate.per_s(now + Nanos(500_000_000)) < 1.0);
        assert_eq!(Rate::new(Nanos(1)).per_s(now), 0.0);
        rate.observe(now, 1); // no pole at a gap of zero
        assert!(rate.per_s(now).is_finite());
    }

    #[test]
    fn served_time_is_forgotten_after_the_window() {
        let mut served = Served::new(Nanos(1600));
        served.add(Nanos(0), Nanos(10));
        served.add(Nanos(800), Nanos(20));
        assert_eq!(served.within(Nanos(1599)), 30.0);
        assert_eq!(served.within(Nanos(1600)), 20.0);
        served.add(Nanos(2400), Nanos(5));
        assert_eq!(served.within(Nanos(2400)), 5.0);
        assert_eq!(served.within(Nanos(1_000_000)), 0.0);
        served.add(Nanos(1_000_000), Nanos(7));
        assert_eq!(served.within(Nanos(1_000_000)), 7.0);
    }

    #[test]
    fn slip_is_what_nine_of_ten_stay_below() {
        let mut slip = Slip::new(Nanos(100));
        // One of ten is 70 late, three of ten are 30 late, the others are early.
        let late = [0, 0, 30, 0, 0, 30, 0, 0, 30, 70];
        (0..2000).for_each(|i| slip.observe(Nanos(1000 + late[i % 10]), Nanos(1000)));
        assert!((29..=72).contains(&slip.now().0), "{}", slip.now());
        (0..2000).for_each(|_| slip.observe(Nanos(900), Nanos(1000)));
        assert_eq!(slip.now(), Nanos(0));
    }
}
