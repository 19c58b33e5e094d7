//! What a share of a device can do at best, measured once for each (device, environment, share) and kept in the records: the roofline
//! that says how much a task can still gain. And how the device wakes, which policies go by that foresee.
//!
//! A figure is a trial of a task that no model has (`machine what=flops`), whose config is the probe. So it travels, goes stale and is
//! asked for like every other observation.

use super::explore::{ExploreError, Place, Rules, observation};
use super::records::Records;
use crate::measure::{Bench, Probe, WAKES};
use crate::search::prior::Roofline;
use crate::wake;
use schema::{Config, Observation, Outcome, Picos, Subject, TaskKey};
use std::time::Duration;

/// Raised when a probe measures something else than before.
const REVISION: u32 = 1;
/// Waiting for a device to idle may take this part of a budget, for each gap.
const WAKE_PART: f64 = 0.01;

fn text(probe: Probe) -> String {
    format!("machine what={}", probe.name())
}

fn config(probe: Probe) -> Config {
    Config { variant: format!("machine.{}", probe.name()), revision: REVISION, knobs: Vec::new() }
}

/// The roofline of a place by its records, or by a probe that is then on record; and how many observations that made.
///
/// # Errors
/// [`ExploreError`] when the records or the bench fail.
pub fn roofline(
    place: &Place,
    bench: &mut dyn Bench,
    rules: &Rules<'_>,
    records: &mut dyn Records,
) -> Result<(Roofline, u64), ExploreError> {
    let known = |probe: Probe| -> Result<Option<Picos>, ExploreError> {
        let all = records.of_task(TaskKey::of(&text(probe)), place.device.key(), place.grant.share)?;
        let time = |one: &Observation| match (&one.subject, &one.outcome) {
            (Subject::Trial { config: found, .. }, Outcome::Ok { timing, .. }) if *found == config(probe) => Some(timing.median),
            _ => None,
        };
        Ok(all.iter().filter(|one| one.environment == place.environment.key()).filter_map(time).min())
    };
    let found = Probe::ALL.map(known);
    let [flops, l2, l3, memory] = found;
    if let (Some(flops), Some(l2), Some(l3), Some(memory)) = (flops?, l2?, l3?, memory?) {
        return Ok((of(place, [flops, l2, l3, memory]), 0));
    }
    let probed = bench.probe()?;
    for (probe, timing) in &probed {
        let key = TaskKey::of(&text(*probe));
        records.name_task(key, &text(*probe))?;
        let subject = Subject::Trial { task: key, config: config(*probe) };
        records.append(observation(place, subject, Outcome::Ok { timing: *timing, ratio: None }, rules))?;
    }
    records.commit()?;
    let time = |probe| probed.iter().find(|(one, _)| *one == probe).map_or(Picos(0), |(_, timing)| timing.median);
    Ok((of(place, Probe::ALL.map(time)), probed.len() as u64))
}

/// Measures how a device wakes, as far as that is not on record and takes no more than its part of a budget of so much time; the number of
/// new observations.
///
/// # Errors
/// [`ExploreError`] when the records or the bench fail.
pub fn wake(
    place: &Place,
    bench: &mut dyn Bench,
    time: Duration,
    rules: &Rules<'_>,
    records: &mut dyn Records,
) -> Result<u64, ExploreError> {
    let known = records.of_task(wake::task(), place.device.key(), place.grant.share)?;
    let known = known.iter().filter(|one| one.environment == place.environment.key());
    let known: Vec<&Config> = known
        .filter_map(|one| match &one.subject {
            Subject::Trial { config, .. } => Some(config),
            _ => None,
        })
        .collect();
    let affordable = |gap: &Duration| *gap * WAKES <= time.mul_f64(WAKE_PART);
    let missing = wake::gaps().into_iter().filter(affordable).filter(|gap| !known.contains(&&wake::config(*gap)));
    let mut measured = 0;
    for gap in missing {
        let Some(timing) = bench.wake(gap)? else { break };
        records.name_task(wake::task(), wake::TASK)?;
        let subject = Subject::Trial { task: wake::task(), config: wake::config(gap) };
        records.append(observation(place, subject, Outcome::Ok { timing, ratio: None }, rules))?;
        measured += 1;
    }
    if measured > 0 {
        records.commit()?;
    }
    Ok(measured)
}

/// The roofline of what 10⁹ operations take, and 10⁹ bytes from L2, L3 and memory. A figure of 0 bounds nothing.
fn of(place: &Place, times: [Picos; 4]) -> Roofline {
    let [flops_per_s, l2, l3, memory] = times.map(|time| 1e9 / time.as_secs_f64());
    let limits = &place.grant.limits;
    let (l2_bytes, l3_bytes) = (limits.l2_bytes * u64::from(limits.units), limits.l3_bytes);
    Roofline { flops_per_s, caches: [(l2_bytes, l2), (l3_bytes, l3)], bytes_per_s: memory }
}
