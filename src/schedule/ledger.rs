//! How much of each device is in use, and what it costs to change from one share to another.

use super::{DeviceId, Nanos};
use schema::Share;

/// Weight of a newly measured gap.
const GAP_WEIGHT: f64 = 0.2;

/// The shares in use. Never over the whole of a device.
#[derive(Clone, Debug)]
pub struct Ledger {
    devices: Vec<Account>,
}

#[derive(Clone, Debug)]
struct Account {
    /// Per mille.
    in_use: u16,
    /// From the last run at one share to the first at another.
    gap: Nanos,
}

impl Ledger {
    pub(super) fn new(gaps: impl Iterator<Item = Nanos>) -> Ledger {
        Ledger { devices: gaps.map(|gap| Account { in_use: 0, gap }).collect() }
    }

    /// Per mille of the device in use, 0 to 1000.
    pub fn in_use(&self, device: DeviceId) -> u16 {
        self.account(device).in_use
    }

    /// Whether a share can be had now.
    pub fn is_free(&self, device: DeviceId, share: Share) -> bool {
        self.in_use(device) + share.as_per_mille() <= Share::WHOLE.as_per_mille()
    }

    /// The gap as measured so far.
    pub fn gap(&self, device: DeviceId) -> Nanos {
        self.account(device).gap
    }

    /// # Panics
    /// When that would give away more than there is.
    pub(super) fn take(&mut self, device: DeviceId, share: Share) {
        assert!(self.is_free(device, share), "a policy gave away more than 100 % of device {}", device.0);
        self.devices[usize::from(device.0)].in_use += share.as_per_mille();
    }

    pub(super) fn give_back(&mut self, device: DeviceId, share: Share) {
        let account = &mut self.devices[usize::from(device.0)];
        account.in_use = account.in_use.checked_sub(share.as_per_mille()).expect("what is given back was taken");
    }

    pub(super) fn observe_gap(&mut self, device: DeviceId, gap: Nanos) {
        let account = &mut self.devices[usize::from(device.0)];
        account.gap = Nanos::from_f64(account.gap.as_f64() * (1.0 - GAP_WEIGHT) + gap.as_f64() * GAP_WEIGHT);
    }

    fn account(&self, device: DeviceId) -> &Account {
        &self.devices[usize::from(device.0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(percent: f64) -> Share {
        Share::percent(percent).unwrap()
    }

    #[test]
    fn shares_sum_up_to_the_whole_and_no_further() {
        let mut ledger = Ledger::new([Nanos(5)].into_iter());
        let device = DeviceId(0);
        ledger.take(device, share(50.0));
        ledger.take(device, share(37.5));
        assert!(ledger.is_free(device, share(12.5)) && !ledger.is_free(device, share(12.6)));
        ledger.give_back(device, share(50.0));
        assert_eq!(ledger.in_use(device), 375);
    }

    #[test]
    #[should_panic(expected = "more than 100 %")]
    fn giving_away_too_much_is_a_bug() {
        let mut ledger = Ledger::new([Nanos(5)].into_iter());
        ledger.take(DeviceId(0), share(60.0));
        ledger.take(DeviceId(0), share(60.0));
    }

    #[test]
    fn the_gap_follows_what_is_measured() {
        let mut ledger = Ledger::new([Nanos(1000)].into_iter());
        (0..30).for_each(|_| ledger.observe_gap(DeviceId(0), Nanos(200)));
        assert!(ledger.gap(DeviceId(0)) < Nanos(205));
    }
}
