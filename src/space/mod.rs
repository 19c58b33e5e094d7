//! The space: every legal config of a task on a device.
//!
//! In come a task, its operator (variants, knobs and rules as data) and the limits of a grant; out come configs by index, their
//! neighbours and their features. Nothing here times or launches anything. Configs are numbered in the order of the variants and, within
//! a variant, with the last knob turning fastest; the number of a config depends on the rules, so it is never stored: records hold the
//! config itself.

mod enumerate;
pub mod features;
mod neighbours;
mod sample;
mod stream;

pub use enumerate::Refused;
pub use stream::Stream;

use kernels::{BuildError, Limits, Operator, Task, VariantFacts};
use schema::{Config, ConfigKey};
use std::collections::HashMap;
use std::sync::OnceLock;

/// The number of a legal config in a [`Space`].
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigIndex(pub u32);

impl ConfigIndex {
    /// As a place in a list.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Every legal config of a task on a grant of a device. Enumerated on the first question that needs it.
pub struct Space {
    task: Task,
    operator: &'static Operator,
    variants: Vec<VariantFacts>,
    limits: Limits,
    enumerated: OnceLock<Enumerated>,
}

/// The legal configs, as places among all combinations of knob values.
struct Enumerated {
    legal: Vec<Place>,
    by_key: HashMap<ConfigKey, ConfigIndex>,
    refused: Vec<Refused>,
}

/// A config before the rules: the variant and the number of its combination of knob values.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    variant: u16,
    combination: u32,
}

impl Space {
    /// The space of a task under these limits.
    pub fn new(task: &Task, operator: &'static Operator, limits: &Limits) -> Self {
        let variants = variants(task, operator, limits);
        Space { task: task.clone(), operator, variants, limits: *limits, enumerated: OnceLock::new() }
    }

    /// The task.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// Its operator.
    pub fn operator(&self) -> &'static Operator {
        self.operator
    }

    /// The variants it enumerates.
    pub fn variants(&self) -> &[VariantFacts] {
        &self.variants
    }

    /// The limits the rules were asked with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How many legal configs there are.
    pub fn size(&self) -> usize {
        self.enumerated().legal.len()
    }

    /// The config of a number, or `None` past the end.
    pub fn nth(&self, index: ConfigIndex) -> Option<Config> {
        let place = self.enumerated().legal.get(index.index())?;
        let variant = &self.variants[usize::from(place.variant)];
        Some(variant.config(enumerate::values(variant, place.combination)))
    }

    /// The number of a config, or `None` when it is not legal here.
    pub fn index_of(&self, config: &Config) -> Option<ConfigIndex> {
        self.enumerated().by_key.get(&config.key()).copied()
    }

    /// The config used without tuning. It is legal by the operators' contract.
    pub fn default_config(&self) -> Config {
        default_of(&self.task, &self.variants, &self.limits)
    }

    /// The number of the default.
    pub fn default_index(&self) -> Option<ConfigIndex> {
        self.index_of(&self.default_config())
    }

    /// Every number, ascending.
    pub fn indices(&self) -> impl Iterator<Item = ConfigIndex> + use<> {
        (0..u32::try_from(self.size()).unwrap_or(u32::MAX)).map(ConfigIndex)
    }

    /// The variants that have a legal config here, each with the number of what it is by default (its first legal config where its
    /// own default is illegal), in the operator's order.
    pub fn entries(&self) -> Vec<ConfigIndex> {
        let legal = &self.enumerated().legal;
        let entry = |(at, variant): (usize, &VariantFacts)| {
            let default = self.index_of(&variant.default_config(&self.task, &self.limits));
            let first = || legal.iter().position(|place| usize::from(place.variant) == at);
            default.or_else(|| first().map(|index| ConfigIndex(index as u32)))
        };
        self.variants.iter().enumerate().filter_map(entry).collect()
    }

    /// What the rules refused: for each variant and reason, how many combinations, in the order of variants and rules.
    pub fn refused(&self) -> &[Refused] {
        &self.enumerated().refused
    }

    /// Whether a config is legal here.
    ///
    /// # Errors
    /// [`BuildError`] with the reason: unknown variant, foreign revision or value, or the first rule that fails.
    pub fn explain(&self, config: &Config) -> Result<(), BuildError> {
        let unknown = || BuildError::Unknown { what: "variant", name: config.variant.clone() };
        let variant = self.variants.iter().find(|variant| variant.id == config.variant).ok_or_else(unknown)?;
        variant.check(&self.task, config, &self.limits)
    }

    fn enumerated(&self) -> &Enumerated {
        self.enumerated.get_or_init(|| enumerate::all(&self.task, &self.variants, &self.limits))
    }
}

/// The variants that may compute a task: those of the device with memory of its own, where the limits are of one and it takes the task;
/// else those of the host.
pub fn variants(task: &Task, operator: &Operator, limits: &Limits) -> Vec<VariantFacts> {
    let there = limits.gpu.and_then(|_| cube_kernels::operator(operator.id));
    match there.filter(|there| there.default_config(task, limits).is_some()) {
        Some(there) => there.ordered(task, limits).map(|variant| variant.facts()).collect(),
        None => operator.variants.iter().map(|variant| variant.facts()).collect(),
    }
}

/// The config a task runs with when nothing was chosen for it.
pub fn default_config(task: &Task, operator: &Operator, limits: &Limits) -> Config {
    default_of(task, &variants(task, operator, limits), limits)
}

fn default_of(task: &Task, variants: &[VariantFacts], limits: &Limits) -> Config {
    VariantFacts::default_of(variants.iter().copied(), task, limits).unwrap_or_else(|| variants[0].default_config(task, limits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::fake::{limits, task, tasks};
    use schema::Seed;

    fn space() -> Space {
        let task = task(96);
        Space::new(&task, crate::measure::fake::operator(), &limits())
    }

    #[test]
    fn numbers_and_configs_are_one_to_one_and_all_legal() {
        let space = space();
        assert!(space.size() > 50);
        for index in space.indices() {
            let config = space.nth(index).unwrap();
            assert_eq!(space.index_of(&config), Some(index));
            assert_eq!(space.explain(&config), Ok(()));
        }
        assert_eq!(space.nth(ConfigIndex(space.size() as u32)), None);
    }

    #[test]
    fn what_is_not_numbered_is_refused_with_its_reason() {
        let space = space();
        let variants = space.operator().variants.iter();
        let combinations: u64 = variants.map(|variant| enumerate::combinations(&variant.facts())).sum();
        let refused: u64 = space.refused().iter().map(|refused| refused.count).sum();
        assert_eq!(combinations, refused + space.size() as u64);
        assert!(refused > 0 && space.refused().iter().all(|refused| !refused.reason.is_empty()));
    }

    #[test]
    fn the_default_and_every_entry_are_numbered() {
        for task in tasks() {
            let space = Space::new(&task, crate::measure::fake::operator(), &limits());
            let entries = space.entries();
            assert_eq!(entries.first().copied(), space.default_index(), "{task}");
            assert!(entries.len() >= 2);
        }
    }

    #[test]
    fn narrow_types_are_in_the_space_of_relaxed_numerics_only_and_never_the_default() {
        let gpu = kernels::GpuLimits {
            shared_bytes: 32 << 10,
            units_per_cube: 1024,
            cube_dim: [1024; 3],
            cubes_per_axis: 65_535,
            bindings: 31,
            buffer_bytes: 128 << 20,
            turns: None,
            software: false,
            plane_units: Some(32),
            narrow: kernels::NarrowTypes { f16: true, bf16: true, tf32: false },
            matrix: kernels::NarrowTypes { f16: true, bf16: true, tf32: true },
        };
        let task = Task::parse("gemm b=dynamic k=128 m=128 n=128").unwrap();
        let on = |limits| Space::new(&task, kernels::operator("gemm").unwrap(), &limits);
        let strict = Limits { gpu: Some(gpu), ..limits() };
        let narrow = |space: &Space| {
            let all = space.indices().filter_map(|index| space.nth(index)?.name("type").map(str::to_owned));
            all.collect::<std::collections::BTreeSet<_>>()
        };
        let (strict, relaxed) = (on(strict), on(strict.relaxed()));
        assert!(narrow(&strict).is_empty());
        assert_eq!(narrow(&relaxed).into_iter().collect::<Vec<_>>(), ["bf16", "f16", "tf32"]);
        assert_eq!(strict.default_config(), relaxed.default_config());
        assert!(strict.refused().iter().any(|refused| refused.reason.contains("--numerics relaxed")));
    }

    #[test]
    fn neighbours_differ_in_one_knob_and_know_each_other() {
        let space = space();
        for index in space.indices() {
            let config = space.nth(index).unwrap();
            let neighbours = space.neighbours(index);
            assert!(!neighbours.contains(&index));
            for neighbour in neighbours {
                let other = space.nth(neighbour).unwrap();
                assert_eq!(other.variant, config.variant);
                let differing = config.knobs.iter().zip(&other.knobs).filter(|(a, b)| a != b).count();
                assert_eq!(differing, 1);
                assert!(space.neighbours(neighbour).contains(&index), "{config} and {other}");
            }
        }
    }

    #[test]
    fn samples_are_distinct_and_follow_the_seed() {
        let space = space();
        let sample = space.sample(40, Seed(7));
        assert_eq!(sample, space.sample(40, Seed(7)));
        assert_ne!(sample, space.sample(40, Seed(8)));
        let distinct: std::collections::BTreeSet<_> = sample.iter().collect();
        assert_eq!(distinct.len(), 40);
        assert_eq!(space.sample(usize::MAX, Seed(1)).len(), space.size());
    }
}
