//! Finals: which configs beat the default, in pairs, alone on their cores.
//!
//! First in *rehearsals*: whole models run with the best few configs of every task, one plan for each rank, and every task is timed
//! within; that is the truth a user sees, and one plan judges all tasks. What no rehearsal reached (tasks inside of control flow, models
//! that do not run here, a budget that is nearly spent) meets the default alone, in a *run-off*.

use super::event::{Event, Refusal};
use super::explore::{ExploreError, Loop};
use super::item::Search;
use crate::measure::rehearsal::{Cast, Rehearsed};
use crate::measure::{Effort, Runoff};
use schema::{Config, Outcome, Picos, Subject};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Rival plans of one contender in a rehearsal: the first holds the best config of every task, the next the second best, and so on.
const CASTS: usize = 6;
/// Pairs of one rival plan.
const PAIRS: u32 = 40;
/// And their time: at least,
const PAIRS_LEAST: Duration = Duration::from_millis(150);
/// and at most, where the budget leaves it.
const PAIRS_TIME: Duration = Duration::from_millis(1000);
/// Pairs that are worth the loading.
const PAIRS_MIN: f64 = 6.0;
/// Part of the budget that is kept back for finals at most: what was never searched has no finalist.
const RESERVE_MAX: f64 = 0.25;

/// What a rehearsal of a contender costs.
struct Cost {
    /// Making the plan of defaults.
    first: Duration,
    /// One rival plan with the time of its pairs.
    each: Duration,
    /// The plan of defaults, and one rival plan with as few pairs as are worth it.
    least: Duration,
}

impl Cost {
    fn of(time: Picos) -> Cost {
        let time = time.as_secs_f64();
        let load = 0.05 + 3.0 * time;
        let fewest = (2.0 * PAIRS_MIN * time).max(PAIRS_LEAST.as_secs_f64());
        let pairs = (2.0 * f64::from(PAIRS) * time).clamp(fewest, PAIRS_TIME.as_secs_f64().max(fewest));
        let [first, each, least] = [load, load + pairs, 2.0 * load + fewest].map(Duration::from_secs_f64);
        Cost { first, each, least }
    }
}

/// What each of several rehearsals may take of what is left, asked for the first of `least`: its least, and an even part of what the
/// leasts of all leave over; an even part of all where they do not fit.
fn part_of(left: Duration, least: &[Duration]) -> Duration {
    let count = u32::try_from(least.len().max(1)).unwrap_or(u32::MAX);
    match left.checked_sub(least.iter().sum()) {
        Some(over) => least.first().copied().unwrap_or_default() + over / count,
        None => left / count,
    }
}

impl Loop<'_, '_, '_> {
    /// For each item the contender in which it weighs most: there it is rehearsed.
    fn homes(&self, times: &[Picos]) -> Vec<Option<usize>> {
        let part = |search: &Search<'_>, contender: usize, count: u32| {
            search.expected_default().0 as f64 * f64::from(count) / times[contender].0.max(1) as f64
        };
        let home = |search: &Search<'_>| {
            let parts = search.item.uses.iter().map(|used| (part(search, used.contender, used.count), used.contender));
            parts.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1))).map(|(_, contender)| contender)
        };
        self.searches.iter().map(home).collect()
    }

    /// What judging the candidates so far will take, at most a part of the budget: rehearsals make do with what is left.
    pub(super) fn finals_reserve(&self, times: &[Picos]) -> Duration {
        let homes = self.homes(times);
        let open = |contender: &usize| {
            self.searches.iter().zip(&homes).any(|(search, home)| *home == Some(*contender) && search.finalist().is_some())
        };
        let cost = |contender: usize| {
            let cost = Cost::of(times[contender]);
            cost.first + cost.each * CASTS as u32
        };
        let all: Duration = (0..times.len()).filter(open).map(cost).sum();
        self.rules.budget.time.map_or(all, |budget| all.min(budget.mul_f64(RESERVE_MAX)))
    }

    /// Times the candidates of every item inside the whole models.
    pub(super) fn rehearsals(&mut self, reserve: &dyn Fn(&[Picos]) -> Duration) -> Result<(), ExploreError> {
        let times = self.run_times();
        let homes = self.homes(&times);
        let candidates: Vec<Vec<Config>> = self.searches.iter().map(|search| search.candidates(CASTS)).collect();
        let own: Vec<Vec<usize>> =
            (0..times.len()).map(|contender| (0..homes.len()).filter(|&at| homes[at] == Some(contender)).collect()).collect();
        let open: Vec<usize> =
            (0..times.len()).filter(|&contender| own[contender].iter().any(|&at| !candidates[at].is_empty())).collect();
        for (done, &contender) in open.iter().enumerate() {
            if self.rules.interrupted.load(Ordering::SeqCst) {
                return Ok(());
            }
            let times = self.run_times();
            let cost = Cost::of(times[contender]);
            let mut most = own[contender].iter().map(|&at| candidates[at].len()).max().unwrap_or(0);
            let (mut limit, mut whole) = (PAIRS_TIME, Duration::MAX);
            if let Some(budget) = self.rules.budget.time {
                let left = budget.saturating_sub(self.rules.elapsed() + reserve(&times));
                let least: Vec<Duration> = open[done..].iter().map(|&later| Cost::of(times[later]).least).collect();
                let own = part_of(left, &least);
                if own < cost.least {
                    continue;
                }
                whole = own;
                let fair = own.saturating_sub(cost.first);
                most = most.min((fair.as_secs_f64() / cost.each.as_secs_f64()) as usize).max(1);
                limit = limit.min(fair / most as u32);
            }
            let casts: Vec<Cast> = (0..most).map(|rank| self.cast(contender, &candidates, rank)).collect();
            self.tell_rehearsal(done, open.len(), &own[contender]);
            self.rest();
            let effort = Effort { samples: PAIRS, least: PAIRS_LEAST, limit };
            let found = self.stage.rehearse(contender, &casts, effort, whole);
            self.phases.absorb(self.stage.phases());
            let found = found?;
            self.runs[contender] = found.run.or(self.runs[contender]);
            match found.rivals {
                Err(why) => tracing::warn!(contender, why, "a model cannot be rehearsed"),
                Ok(rehearsed) => self.judge_rehearsed(&own[contender], &candidates, &rehearsed)?,
            }
            let times = self.stage.sentinels();
            (self.events)(Event::Sentinels { times });
        }
        Ok(())
    }

    fn tell_rehearsal(&mut self, done: usize, of: usize, own: &[usize]) {
        let Some(place) = own.first().map(|&at| &self.places[self.searches[at].item.place]) else { return };
        let (device, share) = (place.device.name.0.clone(), place.grant.share);
        (self.events)(Event::Rehearsal { number: done + 1, of, device, share });
    }

    /// The plan of a rank: every task of the contender with its candidate of that rank, or its best. Tasks that are rehearsed in other
    /// contenders play here too, for the caches' sake.
    fn cast(&self, contender: usize, candidates: &[Vec<Config>], rank: usize) -> Cast {
        let used = |search: &Search<'_>| search.item.uses.iter().any(|used| used.contender == contender);
        let playing = self.searches.iter().zip(candidates).filter(|(search, _)| used(search));
        let config = |(search, ranked): (&Search<'_>, &Vec<Config>)| {
            Some((search.item.task.to_string(), ranked.get(rank).or_else(|| ranked.first())?.clone()))
        };
        playing.filter_map(config).collect()
    }

    /// Records what a rehearsal says of these items.
    fn judge_rehearsed(
        &mut self,
        own: &[usize],
        candidates: &[Vec<Config>],
        rehearsed: &[Rehearsed],
    ) -> Result<(), ExploreError> {
        let mut finals = Vec::new();
        for (rank, rehearsed) in rehearsed.iter().enumerate() {
            let tasks = match rehearsed {
                Rehearsed::Ok(tasks) => tasks,
                Rehearsed::Failed { class, detail } => {
                    let what = format!("a plan of tuned tasks fell in a rehearsal ({class:?}: {detail})");
                    (self.events)(Event::Warn { what });
                    continue;
                }
            };
            for &at in own {
                let found = tasks.get(&self.searches[at].item.task.to_string());
                if let (Some(config), Some((_, timing, ratio))) = (candidates[at].get(rank), found) {
                    finals.push((at, config.clone(), Outcome::Ok { timing: *timing, ratio: Some(*ratio) }));
                }
            }
        }
        self.judged(finals)
    }

    /// Judges alone who was not rehearsed, the weightiest gain first.
    pub(super) fn run_offs(&mut self, reserve: &dyn Fn(&[Picos]) -> Duration) -> Result<(), ExploreError> {
        let times = self.contender_times();
        let mut finalists: Vec<(f64, usize)> = Vec::new();
        for (at, search) in self.searches.iter().enumerate() {
            if let Some((_, gain)) = search.finalist() {
                finalists.push((self.weight(search, &times).0 * (1.0 - 1.0 / gain), at));
            }
        }
        finalists.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (_, at) in finalists {
            if self.rules.interrupted.load(Ordering::SeqCst) {
                return Ok(());
            }
            let cost = self.searches[at].run_off_cost();
            if let Some(time) = self.rules.budget.time
                && self.rules.elapsed() + reserve(&self.run_times()) + cost > time
            {
                continue;
            }
            self.run_off(at)?;
        }
        Ok(())
    }

    fn run_off(&mut self, at: usize) -> Result<(), ExploreError> {
        let search = &self.searches[at];
        let Some((rival, _)) = search.finalist() else { return Ok(()) };
        let (task, default, place) = (search.item.task.clone(), search.default.clone(), search.item.place);
        self.tell_task(at);
        self.take_place(place);
        let bench = self.benches[place].first_mut().expect("every place has a bench");
        let outcome = match bench.runoff(&task, &default, &rival, &Effort::RUNOFF)? {
            Runoff::Ok { rival, ratio, .. } => Outcome::Ok { timing: rival, ratio: Some(ratio) },
            Runoff::Failed { rival: true, class, detail } => Outcome::Failed { class, detail },
            // The default fell: nothing is proved, and nothing is said of the rival.
            Runoff::Failed { rival: false, class, detail } => {
                tracing::warn!(%task, ?class, detail, "the default fell in a run-off");
                return Ok(());
            }
        };
        self.judged(vec![(at, rival, outcome)])?;
        let seen = self.take_sentinels(place);
        self.watches[place].rested(0, &seen[0]);
        Ok(())
    }

    /// Records finals, and counts them once they are on record.
    fn judged(&mut self, finals: Vec<(usize, Config, Outcome)>) -> Result<(), ExploreError> {
        let observation = |(at, config, outcome): &(usize, Config, Outcome)| {
            let task = self.searches[*at].item.task.key();
            (*at, self.observation(*at, Subject::Final { task, config: config.clone() }, outcome.clone()))
        };
        let observations = finals.iter().map(observation).collect();
        let ids = self.commit(observations)?;
        for ((at, config, outcome), id) in finals.into_iter().zip(ids) {
            self.measured += 1;
            let outcome = match outcome {
                Outcome::Ok { ratio: Some(ratio), .. } => Ok(ratio),
                Outcome::Ok { ratio: None, .. } => continue,
                Outcome::Failed { class, detail } => {
                    *self.refused.entry(class).or_default() += 1;
                    Err(Refusal { class, detail })
                }
            };
            let (task, place) = (self.searches[at].item.task.to_string(), &self.places[self.searches[at].item.place]);
            let (device, share) = (place.device.name.0.clone(), place.grant.share);
            (self.events)(Event::Final { id, task, config, device, share, outcome });
        }
        (self.events)(Event::Saved { observations: self.measured });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dear_rehearsal_gets_its_least_before_cheap_ones_get_more() {
        let seconds = Duration::from_secs;
        let least = [seconds(1), seconds(8), seconds(1)];
        assert_eq!(part_of(seconds(13), &least), seconds(2));
        assert_eq!(part_of(seconds(11), &least[1..]), seconds(9));
        assert_eq!(part_of(seconds(2), &least[2..]), seconds(2));
        assert_eq!(part_of(seconds(6), &least), seconds(2), "they do not all fit");
    }
}
