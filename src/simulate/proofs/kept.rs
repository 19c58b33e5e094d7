//! What the core keeps between decisions is what it would find out anew.

use crate::schedule::{Nanos, View, WorkerId, policy};
use crate::simulate::{Seen, simulate, swarm};
use schema::{Seed, Share};

/// When a worker's share can be had, found by letting what is in flight on its device end one instant after the other.
fn share_at(view: &View<'_>, workers: u16, worker: WorkerId) -> Nanos {
    let own = view.worker(worker);
    if own.in_flight() > 0 {
        return view.now;
    }
    let end = |worker: WorkerId| view.worker(worker).over_at().map(|end| end.max(view.now));
    let apart = own.overlaps().iter().filter_map(|&other| end(other)).max().unwrap_or(view.now);
    let on_device = || (0..workers).map(WorkerId).filter(|&other| view.worker(other).device == own.device);
    // The instants at which something ends, and now: the first from which on the rest leaves room.
    let mut instants: Vec<Nanos> = on_device().filter_map(end).collect();
    instants.sort_unstable();
    let held_after = |instant: Nanos| -> u16 {
        let holds = on_device().filter(|&other| end(other).is_some_and(|end| end > instant));
        holds.map(|other| view.worker(other).share.as_per_mille()).sum()
    };
    let in_use: u16 = on_device().filter_map(|other| end(other).map(|_| view.worker(other).share.as_per_mille())).sum();
    let fits = |held: u16| held + own.share.as_per_mille() <= Share::WHOLE.as_per_mille();
    let at = if fits(in_use) { Some(view.now) } else { instants.into_iter().find(|&instant| fits(held_after(instant))) };
    at.expect("the whole device fits when nothing is in flight").max(apart)
}

#[test]
fn shares_can_be_had_when_what_holds_them_is_over() {
    let mut looked_at = 0u64;
    for seed in 0..300 {
        let case = swarm(Seed(seed));
        let workers = case.scenario.fleet.devices.iter().map(|device| device.workers.len() as u16).sum();
        let mut watch = |seen: Seen<'_>| {
            let Seen::Settled { view } = seen else { return };
            for worker in (0..workers).map(WorkerId) {
                assert_eq!(
                    view.share_at(worker),
                    share_at(&view, workers, worker),
                    "seed {seed}, worker {worker:?} at {}",
                    view.now
                );
                looked_at += u64::from(view.share_at(worker) > view.now);
            }
        };
        simulate(&case.scenario, case.trace(), policy(case.policy).unwrap(), &mut watch).unwrap();
    }
    assert!(looked_at > 10_000, "{looked_at} shares were in use");
}
