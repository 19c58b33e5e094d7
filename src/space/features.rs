//! Tasks and configs as numbers: what makes two of them similar.
//!
//! A task is the logarithms of its extents, of its operations and of its bytes, beside its words (layouts, epilogue). A config is the
//! place of each knob's value in the knob's list. Distances are in doublings: two tasks of which one extent differs by 2 are 1 apart.

use kernels::{Operator, Param, Task, VariantFacts};
use schema::Config;

/// What is compared of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskFeatures {
    pub operator: String,
    /// log₂ of 1 + the value, by parameter; lists by place.
    pub extents: Vec<(String, f64)>,
    pub words: Vec<(String, String)>,
    pub flops_log2: f64,
    pub bytes_log2: f64,
}

/// How far apart two tasks are whose word parameters differ, per word, in doublings.
const WORD_DISTANCE: f64 = 1.0;

/// The features of a task.
pub fn of_task(task: &Task, operator: &Operator) -> TaskFeatures {
    let log2 = |value: f64| (1.0 + value.max(0.0)).log2();
    let (mut extents, mut words) = (Vec::new(), Vec::new());
    for (name, param) in task.params() {
        match param {
            Param::Int(value) => extents.push((name.to_owned(), log2(*value as f64))),
            Param::Ints(values) => {
                extents.extend(values.iter().enumerate().map(|(i, value)| (format!("{name}.{i}"), log2(*value as f64))));
            }
            Param::Word(word) => words.push((name.to_owned(), word.clone())),
        }
    }
    TaskFeatures {
        operator: task.operator().to_owned(),
        extents,
        words,
        flops_log2: log2((operator.flops)(task) as f64),
        bytes_log2: log2((operator.bytes)(task) as f64),
    }
}

/// The distance of two tasks in doublings; infinite between operators.
pub fn distance(a: &TaskFeatures, b: &TaskFeatures) -> f64 {
    if a.operator != b.operator {
        return f64::INFINITY;
    }
    let extent = |of: &TaskFeatures, name: &str| of.extents.iter().find(|(other, _)| other == name).map(|(_, value)| *value);
    let mut squares = (a.flops_log2 - b.flops_log2).powi(2) / 4.0 + (a.bytes_log2 - b.bytes_log2).powi(2) / 4.0;
    for (name, value) in &a.extents {
        squares += extent(b, name).map_or(1.0, |other| (value - other).powi(2));
    }
    let differing = a.words.iter().filter(|word| !b.words.contains(word)).count();
    squares.sqrt() + WORD_DISTANCE * differing as f64
}

/// Where each knob's value stands in its list, 0 to 1; `None` for a config of another variant or with a foreign value.
pub fn of_config(variant: &VariantFacts, config: &Config) -> Option<Vec<f64>> {
    if config.variant != variant.id || config.knobs.len() != variant.knobs.len() {
        return None;
    }
    let place = |(knob, (name, value)): (&kernels::Knob, &(String, schema::KnobValue))| {
        let at = (0..knob.values.len()).find(|&i| knob.values.nth(i) == *value)?;
        let last = knob.values.len().saturating_sub(1).max(1);
        (knob.name == name).then_some(at as f64 / last as f64)
    };
    variant.knobs.iter().zip(&config.knobs).map(place).collect()
}

/// The distance of two configs of one variant: 0 for equal ones, about 1 for one knob from end to end.
pub fn config_distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::fake;

    #[test]
    fn nearer_extents_are_nearer_tasks() {
        let features = |size| of_task(&fake::task(size), fake::operator());
        assert_eq!(distance(&features(64), &features(64)), 0.0);
        assert!(distance(&features(64), &features(128)) < distance(&features(64), &features(512)));
        let other = TaskFeatures { operator: "gemv".into(), ..features(64) };
        assert_eq!(distance(&features(64), &other), f64::INFINITY);
    }

    #[test]
    fn configs_are_places_in_their_knobs() {
        let variant = fake::operator().variants[1].facts();
        let default = variant.default_config(&fake::task(64), &fake::limits());
        let features = of_config(&variant, &default).unwrap();
        assert!(features.iter().all(|place| (0.0..=1.0).contains(place)));
        assert_eq!(of_config(&fake::operator().variants[0].facts(), &default), None);
    }
}
