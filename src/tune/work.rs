//! What there is to do: the entries of the artifacts, the plans that contend for each, and the items those plans are made of.

use super::Options;
use super::explore::{ExploreError, Place, Rules};
use super::item::{Item, Use};
use super::model_records::EntryRecords;
use super::models::Prepared;
use super::records::Records;
use super::splits::Chosen;
use kernels::Task;
use schema::{Outcome, Subject, TaskKey};
use std::collections::{BTreeMap, BTreeSet};

/// What a tuning is about, once models and shares are known.
#[derive(Copy, Clone)]
pub struct Scope<'a> {
    pub models: &'a [Prepared],
    pub places: &'a [Place],
    pub rules: &'a Rules<'a>,
    pub options: &'a Options,
}

/// An entry of an artifact to be.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub model: usize,
    /// Which of the model's graphs.
    pub graph: usize,
    pub place: usize,
}

impl Wanted {
    /// An entry for each graph of each model on each of the first `asked` places.
    pub fn all(models: &[Prepared], asked: usize) -> Vec<Wanted> {
        let mut entries = Vec::new();
        for place in 0..asked {
            for (model, prepared) in models.iter().enumerate() {
                entries.extend((0..prepared.graphs.len()).map(|graph| Wanted { model, graph, place }));
            }
        }
        entries
    }
}

/// A way to compute an entry's batch whose tasks are searched. Where one way is clearly the best an entry has that one; where two are
/// near, the end-to-end measurement of what the search made of both decides.
#[derive(Clone, Debug)]
pub struct Contender {
    pub entry: usize,
    pub chosen: Chosen,
    /// Its items.
    pub used: Vec<usize>,
}

/// The whole of it.
pub struct Work {
    pub entries: Vec<Wanted>,
    /// At least one for each entry, in the order of the entries, the likeliest first.
    pub contenders: Vec<Contender>,
    pub items: Vec<Item>,
    /// Entries that need an end-to-end measurement, as far as is known before the search.
    pub open: Vec<bool>,
}

impl Work {
    /// The items of all contenders; `chosen` holds those of each entry.
    ///
    /// # Errors
    /// What the records say.
    pub fn collect(
        scope: &Scope<'_>,
        entries: Vec<Wanted>,
        chosen: Vec<Vec<Chosen>>,
        records: &mut dyn Records,
    ) -> Result<Work, ExploreError> {
        let mut work = Work { entries, contenders: Vec::new(), items: Vec::new(), open: Vec::new() };
        let mut by_key: BTreeMap<(usize, TaskKey), usize> = BTreeMap::new();
        let of_entries = chosen.into_iter().enumerate().flat_map(|(entry, ways)| ways.into_iter().map(move |way| (entry, way)));
        for (contender, (entry, chosen)) in of_entries.enumerate() {
            let wanted = work.entries[entry];
            let mut used = Vec::new();
            for counted in chosen.tasks.as_deref().unwrap_or(&scope.models[wanted.model].tasks[wanted.graph]) {
                let Some(operator) = kernels::operator(counted.task.operator()) else { continue };
                let item = *by_key.entry((chosen.place, counted.task.key())).or_insert_with(|| {
                    let task: Task = counted.task.clone();
                    work.items.push(Item { task, operator, place: chosen.place, uses: Vec::new(), known: false });
                    work.items.len() - 1
                });
                let count = u32::try_from(counted.count).unwrap_or(u32::MAX);
                work.items[item].uses.push(Use { contender, count });
                used.push(item);
            }
            work.contenders.push(Contender { entry, chosen, used });
        }
        for wanted in &work.entries {
            work.open.push(!EntryRecords::of(scope, wanted, records, &BTreeSet::new())?.any_judged());
        }
        for at in 0..work.items.len() {
            work.items[at].known = !scope.rules.fresh && work.is_known(&work.items[at], scope, records)?;
        }
        Ok(work)
    }

    /// Whether the records of an item are enough.
    fn is_known(&self, item: &Item, scope: &Scope<'_>, records: &mut dyn Records) -> Result<bool, ExploreError> {
        if item.uses.iter().all(|used| !self.open[self.contenders[used.contender].entry]) {
            return Ok(true);
        }
        let place = &scope.places[item.place];
        let all = records.of_task(item.task.key(), place.device.key(), place.grant.share)?;
        let mut fresh =
            all.iter().filter(|one| one.environment == place.environment.key() && one.numerics == scope.rules.numerics);
        // What another model's tuning measured is enough; what this one's left unfinished is not.
        Ok(match scope.options.resume {
            true => fresh.any(|one| matches!(one.subject, Subject::Final { .. })),
            false => fresh.any(|one| matches!(one.outcome, Outcome::Ok { .. })),
        })
    }

    /// The contenders of an entry, the likeliest first.
    pub fn of_entry(&self, entry: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.contenders.len()).filter(move |&contender| self.contenders[contender].entry == entry)
    }

    /// The entry that a contender is for.
    pub fn wanted(&self, contender: usize) -> Wanted {
        self.entries[self.contenders[contender].entry]
    }

    /// The uses of an item in a model.
    pub fn uses_of<'w>(&'w self, item: &'w Item, model: usize) -> impl Iterator<Item = &'w Use> {
        item.uses.iter().filter(move |used| self.wanted(used.contender).model == model)
    }
}
