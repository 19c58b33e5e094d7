//! Random forests for regression: what a decision's cost is predicted with.
//!
//! In: rows of features and a target each. Out: a [`Forest`] of flat arrays, whose prediction walks them and allocates nothing, and its
//! out-of-bag error. It knows no model, no device and no record.
//!
//! Invariants: one seed and one set of rows give one forest to the last bit, in whatever order the rows come (they are sorted by their
//! contents first); splits are exact, and a forest never predicts outside of the targets it was grown from.
//!
//! Source: Breiman 2001, "Random forests"; constants as in papers §1. Where we differ: of the features drawn for a node those that
//! are constant there are passed over until one is not, so that rows which can be told apart are.

mod grow;

pub use grow::grow;

use schema::Seed;
use thiserror::Error;

/// Rows that a forest is grown from at most: a bootstrap of them has places for twice as many nodes in 16 bits.
pub const ROWS_MAX: usize = 1 << 15;
/// Features of a row at most: [`LEAF`] is no feature.
pub const WIDTH_MAX: usize = 255;
/// In the place of a feature: this node is a leaf, and its threshold is what it predicts.
const LEAF: u8 = 255;

/// How a forest is grown.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    pub trees: usize,
    /// Draws in a leaf at least.
    pub leaf_least: usize,
    /// Splits from the root to a leaf at most.
    pub depth_most: usize,
    pub seed: Seed,
}

impl Default for Training {
    fn default() -> Self {
        Training { trees: 128, leaf_least: 2, depth_most: 16, seed: Seed(0) }
    }
}

/// Features and targets, row by row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    pub width: usize,
    /// `width` values a row.
    pub features: Vec<f32>,
    pub targets: Vec<f32>,
}

impl Rows {
    /// None yet, of so many features each.
    pub fn new(width: usize) -> Rows {
        Rows { width, features: Vec::new(), targets: Vec::new() }
    }

    /// Adds a row. Panics when it has another width: a bug of the caller.
    pub fn push(&mut self, features: &[f32], target: f32) {
        assert_eq!(features.len(), self.width, "all rows have the same features");
        self.features.extend_from_slice(features);
        self.targets.push(target);
    }

    pub fn len(&self) -> usize {
        self.targets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    pub fn row(&self, at: usize) -> &[f32] {
        &self.features[at * self.width..(at + 1) * self.width]
    }
}

/// Why rows make no forest.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ForestError {
    #[error("{rows} rows of {width} features; a forest needs 1 to {ROWS_MAX} rows of 1 to {WIDTH_MAX} features")]
    Size { rows: usize, width: usize },
    #[error("row {0} has a feature or a target that is no finite number")]
    NotFinite(usize),
    #[error("a forest has at least one tree and a leaf at least one row")]
    Training,
}

/// Trees in flat arrays, each in the order root, left subtree, right subtree: the left child of a node is the next one.
#[derive(Clone, Debug, PartialEq)]
pub struct Forest {
    width: usize,
    /// The first node of each tree.
    roots: Vec<u32>,
    feature: Vec<u8>,
    /// Rows with at most this go left; of a leaf what it predicts.
    threshold: Vec<f32>,
    /// The right child, counted from the tree's root.
    right: Vec<u16>,
    out_of_bag: f32,
}

impl Forest {
    /// The mean of what the trees predict. Panics when the row has another width than those it was grown from.
    pub fn predict(&self, row: &[f32]) -> f32 {
        assert_eq!(row.len(), self.width, "a row has the features that the forest was grown from");
        let sum: f64 = self.roots.iter().map(|&root| f64::from(self.tree(root, row))).sum();
        (sum / self.roots.len() as f64) as f32
    }

    fn tree(&self, root: u32, row: &[f32]) -> f32 {
        let root = root as usize;
        let mut at = root;
        while self.feature[at] != LEAF {
            let left = row[usize::from(self.feature[at])] <= self.threshold[at];
            at = if left { at + 1 } else { root + usize::from(self.right[at]) };
        }
        self.threshold[at]
    }

    /// Root of the mean squared error of rows, each predicted by the trees that did not draw it; 0 when every tree drew every row.
    pub fn out_of_bag(&self) -> f32 {
        self.out_of_bag
    }

    pub fn trees(&self) -> usize {
        self.roots.len()
    }

    pub fn nodes(&self) -> usize {
        self.feature.len()
    }
}

#[cfg(test)]
mod tests;
