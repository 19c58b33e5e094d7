//! The default strategy: the prior's favourites and every variant's entry, then best first through the neighbourhoods of what is
//! near the fastest. A space small enough is simply walked in the prior's order, which is the same thing there.

use super::seen::{Seen, ranking};
use super::{Prior, Score, Strategy};
use crate::space::{ConfigIndex, Space};
use schema::Seed;

/// Favourites of the prior that are tried beside the entries before any neighbourhood.
const FAVOURITES: usize = 4;
/// Neighbourhoods are opened of configs up to this much slower than the fastest, in per cent. On the fake landscapes 15 finds
/// the optimum earlier than 5 or 40.
const NEAR_PCT: u64 = 15;
/// And of the fastest config of each other variant, up to this much slower.
const OTHER_VARIANT_PCT: u64 = 150;
/// One of so many proposals comes from the ranking instead of a neighbourhood.
const STRANGERS_ONE_OF: usize = 4;

#[derive(Clone)]
struct Auto<'a> {
    space: &'a Space,
    prior: &'a dyn Prior,
    seen: Seen,
    /// Entries and favourites.
    opening: std::vec::IntoIter<ConfigIndex>,
    rest: std::vec::IntoIter<ConfigIndex>,
    rounds: usize,
}

pub(super) fn new<'a>(space: &'a Space, prior: &'a dyn Prior, seed: Seed) -> Box<dyn Strategy + 'a> {
    let ranked = ranking(space, prior, seed);
    let favourites = ranked.iter().take(FAVOURITES).copied();
    let entries = space.entries();
    // What did well on a similar task does well here, more often than a variant's own guess: it goes first, since a slow task gets
    // few trials.
    let opening: Vec<ConfigIndex> =
        if prior.is_informed() { favourites.chain(entries).collect() } else { entries.into_iter().chain(favourites).collect() };
    Box::new(Auto { space, prior, seen: Seen::default(), opening: opening.into_iter(), rest: ranked.into_iter(), rounds: 0 })
}

impl Auto<'_> {
    /// Unseen neighbours of the fastest configs, the most promising first: of the fastest of all, and beside it of the fastest of
    /// each other variant, since a variant that starts badly may end well.
    fn around(&mut self, room: usize) -> Vec<ConfigIndex> {
        let timed = self.seen.fastest();
        let Some(&(_, best)) = timed.first() else { return Vec::new() };
        let within = |time: schema::Picos, pct: u64| time.0 <= best.0.saturating_add(best.0 / 100 * pct);
        let mut variants = Vec::new();
        let mut tops = Vec::new();
        for (index, time) in timed {
            let Some(config) = self.space.nth(index) else { continue };
            let first = !variants.contains(&config.variant);
            if within(time, NEAR_PCT) || (first && within(time, OTHER_VARIANT_PCT)) {
                tops.push(index);
                variants.push(config.variant);
            }
        }
        let mut fresh = Vec::new();
        for index in tops {
            let mut around: Vec<(f64, ConfigIndex)> = self
                .space
                .neighbours(index)
                .into_iter()
                .filter(|other| !self.seen.has(*other) && !fresh.contains(other))
                .filter_map(|other| Some((self.prior.relative_time(&self.space.nth(other)?), other)))
                .collect();
            around.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            fresh.extend(around.into_iter().map(|(_, other)| other));
            if fresh.len() >= room {
                break;
            }
        }
        fresh.truncate(room);
        fresh
    }
}

impl Strategy for Auto<'_> {
    fn propose(&mut self, room: usize) -> Vec<ConfigIndex> {
        let mut proposed: Vec<ConfigIndex> = self.opening.by_ref().filter(|&index| self.seen.take(index)).take(room).collect();
        if proposed.is_empty() {
            // One of so many is a stranger: a look elsewhere costs little and ends a climb in the wrong valley.
            let strangers = (room / STRANGERS_ONE_OF).max(usize::from(room > 0 && self.rounds.is_multiple_of(STRANGERS_ONE_OF)));
            self.rounds += 1;
            let near = self.around(room.saturating_sub(strangers));
            proposed = near.into_iter().filter(|&index| self.seen.take(index)).collect();
            let rest = self.rest.by_ref().filter(|&index| self.seen.take(index));
            let wanted = if proposed.is_empty() { room } else { strangers };
            proposed.extend(rest.take(wanted));
            if proposed.is_empty() {
                proposed = self.around(room).into_iter().filter(|&index| self.seen.take(index)).collect();
            }
        }
        proposed
    }

    fn observe(&mut self, scored: &[(ConfigIndex, Score)]) {
        self.seen.observe(scored);
    }

    fn fork(&self) -> Box<dyn Strategy + '_> {
        Box::new(self.clone())
    }
}
