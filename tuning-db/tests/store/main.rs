//! The store under test: what is promised about durability, damage, reading and merging.
//!
//! Defaults run in a minute or two; `TUNEWRIGHT_CAMPAIGN=nightly` runs the long campaigns.

mod admin;
mod basics;
mod disk_sim;
mod golden;
mod kill;
mod merge;
mod order;
mod query;
mod sample;
mod three_ways;
mod wounds;

/// How often a campaign tries: `usual`, or `nightly` when that is asked for.
fn campaign(usual: u64, nightly: u64) -> u64 {
    if std::env::var("TUNEWRIGHT_CAMPAIGN").is_ok_and(|name| name == "nightly") { nightly } else { usual }
}
