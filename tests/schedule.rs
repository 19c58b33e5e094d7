//! The scheduler's core from outside.

use crate::allocations::count_of;
use crate::drive::{core, drive};
use tunewright::schedule::POLICIES;

/// Arrivals, decisions, ends of stages and runs: all of it in the memory of the first requests.
#[test]
fn deciding_allocates_nothing_after_its_first_use() {
    for (name, _) in POLICIES {
        let mut core = core(name);
        let mut clock = 0;
        drive(&mut core, 20_000, &mut clock, &mut |_, call| call());
        let (mut allocations, mut decisions) = (0, 0u64);
        let accepted = drive(&mut core, 20_000, &mut clock, &mut |decision, call| {
            decisions += u64::from(decision);
            allocations += count_of(call);
        });
        assert!(decisions > 20_000 && accepted > 1_000, "{name}: {decisions} decisions, {accepted} accepted");
        assert_eq!(allocations, 0, "{name}");
    }
}
