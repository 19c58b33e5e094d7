//! Axes folded into one element; the task is that of [`kernels::reduce`].

#[allow(unsafe_code)]
mod pass;
mod split;
mod team;

use crate::CubeVariant;
use kernels::{Knob, Rule, Task};

/// In the order in which they are tried as a default.
pub static VARIANTS: &[&CubeVariant] = &[&split::SPLIT, &team::TEAM];

/// Elements that a unit reads at once.
const VECTOR: Knob = Knob::ints("vector", &[1, 2, 4]);

/// Its rule.
const VECTORS: Rule = Rule {
    reason: "x does not lie in vectors of that many",
    holds: |task, config, _| pass::in_vectors(task, config.int("vector").unwrap_or(0) as usize),
};

/// Elements of the output.
fn kept(task: &Task) -> usize {
    task.ints("x").iter().product::<usize>() / folded(task).max(1)
}

/// Elements that are folded into one.
fn folded(task: &Task) -> usize {
    let (x, axes) = (task.ints("x"), task.ints("axes"));
    axes.iter().filter_map(|&axis| x.get(axis)).product()
}

/// Whether elements that lie side by side are folded into different ones.
fn neighbours(task: &Task) -> bool {
    !task.ints("axes").contains(&task.ints("x").len().saturating_sub(1))
}
