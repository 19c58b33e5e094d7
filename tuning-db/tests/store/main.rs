//! The store under test: what is promised about durability, damage, reading and merging.
//!
//! Defaults run in a minute or two; `TUNEWRIGHT_CAMPAIGN=campaign` tries ten times as often, `nightly` as often as a night allows.

mod admin;
mod basics;
mod disk_sim;
mod faults;
mod full_disk;
mod fuzz;
mod golden;
mod kill;
mod merge;
mod order;
mod permissions;
mod query;
mod sample;
mod three_ways;
mod wounds;

/// How often a campaign tries: `usual`, ten times that when a campaign is asked for, `nightly` for a night of its own.
fn campaign(usual: u64, nightly: u64) -> u64 {
    match std::env::var("TUNEWRIGHT_CAMPAIGN").as_deref() {
        Ok("nightly") => nightly,
        Ok("campaign") => nightly.min(10 * usual),
        _ => usual,
    }
}
