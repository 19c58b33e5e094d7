//! Whether slots of one device that measure at once disturb each other.
//!
//! Each slot has a sentinel, work that never changes, timed in every lap. What it takes while the other slots rest is its *quiet*
//! median. A round in which it was slower than that by more than 3 % says nothing of its configs: its trials are discarded, and for a
//! minute only half of the slots are used, and nothing is compiled while one times. Source: the design's §3.3 (4); where we differ, a sentinel is timed in every lap, not every
//! five seconds.
//!
//! It decides by times it is handed: it reads no clock.

use super::noise;
use schema::Picos;
use std::time::Duration;

/// A sentinel that is slower than its quiet median by more than this was disturbed, in per cent.
const OFF_PCT: u64 = 3;
/// So long only half of the slots are used then.
const HALVED: Duration = Duration::from_secs(60);

/// Watches the slots of one place.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The median of each slot's sentinel while the others rest.
    quiet: Vec<Option<Picos>>,
    /// Slots that may be used until `until`.
    allowed: usize,
    until: Duration,
}

impl Watch {
    /// Over so many slots, none of which was ever disturbed.
    pub fn new(slots: usize) -> Watch {
        Watch { quiet: vec![None; slots], allowed: slots, until: Duration::ZERO }
    }

    /// How many slots may be used at once at that time; one always may.
    pub fn slots(&self, now: Duration) -> usize {
        if self.is_halved(now) { self.allowed } else { self.quiet.len() }.max(1)
    }

    /// Whether somebody was disturbed within the last minute.
    pub fn is_halved(&self, now: Duration) -> bool {
        now < self.until
    }

    /// Whether a slot's quiet median is not known.
    pub fn is_unknown(&self, slot: usize) -> bool {
        self.quiet.get(slot).is_some_and(Option::is_none)
    }

    /// What a slot's sentinel took while the others rested.
    pub fn rested(&mut self, slot: usize, times: &[Picos]) {
        if let (Some(quiet), Some(timing)) = (self.quiet.get_mut(slot), noise::timing(times)) {
            *quiet = Some(timing.median);
        }
    }

    /// Which of the slots that measured at once, up to that time, were disturbed; `times` are those of their sentinels.
    pub fn together(&mut self, now: Duration, times: &[Vec<Picos>]) -> Vec<bool> {
        let is_off = |(times, quiet): (&Vec<Picos>, &Option<Picos>)| match (noise::timing(times), quiet) {
            (Some(timing), Some(quiet)) => u128::from(timing.median.0) * 100 > u128::from(quiet.0) * u128::from(100 + OFF_PCT),
            _ => false,
        };
        let disturbed: Vec<bool> = times.iter().zip(&self.quiet).map(is_off).collect();
        if disturbed.contains(&true) {
            self.allowed = (times.len() / 2).max(1);
            self.until = now.saturating_add(HALVED);
            // The machine itself may have changed its speed: what is quiet is asked anew.
            self.quiet.fill(None);
        }
        disturbed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Picos = Picos(20_000_000);

    fn laps(slowdown_pct: u64) -> Vec<Picos> {
        // One lap in five is far slower, as on any machine: the median does not see it.
        (0..10).map(|lap| Picos(QUIET.0 * (100 + slowdown_pct) / 100 * if lap % 5 == 4 { 3 } else { 1 })).collect()
    }

    fn rested(slots: usize) -> Watch {
        let mut watch = Watch::new(slots);
        (0..slots).for_each(|slot| watch.rested(slot, &[QUIET; 9]));
        watch
    }

    #[test]
    fn a_slot_that_others_slow_down_is_told_and_slots_are_halved_for_a_minute() {
        let at = Duration::from_secs;
        let mut watch = rested(4);
        assert_eq!(watch.together(at(5), &[laps(0), laps(2), laps(1), laps(3)]), [false; 4]);
        assert_eq!(watch.slots(at(5)), 4);
        assert_eq!(watch.together(at(10), &[laps(0), laps(4), laps(1), laps(2)]), [false, true, false, false]);
        assert_eq!((watch.slots(at(10)), watch.slots(at(69)), watch.slots(at(70))), (2, 2, 4));
        assert!(watch.is_halved(at(69)) && !watch.is_halved(at(70)));
        assert!((0..4).all(|slot| watch.is_unknown(slot)));
        (0..2).for_each(|slot| watch.rested(slot, &[QUIET; 9]));
        assert_eq!(watch.together(at(20), &[laps(9), laps(9)]), [true, true]);
        assert_eq!((watch.slots(at(79)), watch.slots(at(80))), (1, 4));
    }

    #[test]
    fn a_machine_that_became_slower_is_not_taken_for_interference_for_ever() {
        let mut watch = rested(2);
        assert_eq!(watch.together(Duration::ZERO, &[laps(20), laps(20)]), [true, true]);
        (0..2).for_each(|slot| watch.rested(slot, &laps(20)));
        assert_eq!(watch.together(Duration::from_secs(61), &[laps(20), laps(20)]), [false, false]);
    }

    #[test]
    fn without_a_sentinel_nothing_is_told() {
        let mut watch = Watch::new(2);
        assert_eq!(watch.together(Duration::ZERO, &[vec![], laps(50)]), [false, false], "nobody knows what is quiet");
        assert_eq!(watch.slots(Duration::ZERO), 2);
        assert_eq!(Watch::new(0).slots(Duration::ZERO), 1);
    }
}
