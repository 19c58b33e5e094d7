//! Grows trees: bootstrap, exact splits by least squares, no pruning.

use super::{Forest, ForestError, LEAF, ROWS_MAX, Rows, Training, WIDTH_MAX};
use crate::space::Stream;
use schema::Seed;

/// A forest over the rows.
///
/// # Errors
/// [`ForestError`]: no row, too many, a number that is not finite, no tree.
pub fn grow(rows: &Rows, training: &Training) -> Result<Forest, ForestError> {
    check(rows, training)?;
    let rows = sorted(rows);
    let mut forest = Forest {
        width: rows.width,
        roots: Vec::with_capacity(training.trees),
        feature: Vec::new(),
        threshold: Vec::new(),
        right: Vec::new(),
        out_of_bag: 0.0,
    };
    // Of each row what the trees without it predict, and how many those are.
    let mut held_out = vec![(0.0f64, 0u32); rows.len()];
    for tree in 0..training.trees {
        let mut stream = Stream::named(Seed(training.seed.0.wrapping_add(tree as u64)), "forest");
        let mut drawn = vec![false; rows.len()];
        let mut sample: Vec<u32> = (0..rows.len()).map(|_| stream.below(rows.len()) as u32).collect();
        sample.iter().for_each(|&row| drawn[row as usize] = true);
        let root = forest.feature.len();
        forest.roots.push(root as u32);
        let order = (0..rows.width as u8).collect();
        let mut grower = Grower { rows: &rows, training, stream, root, order, values: Vec::with_capacity(rows.len()) };
        grower.node(&mut forest, &mut sample, 0);
        for (row, (sum, trees)) in held_out.iter_mut().enumerate().filter(|(row, _)| !drawn[*row]) {
            *sum += f64::from(forest.tree(root as u32, rows.row(row)));
            *trees += 1;
        }
    }
    forest.out_of_bag = out_of_bag(&rows, &held_out);
    Ok(forest)
}

fn check(rows: &Rows, training: &Training) -> Result<(), ForestError> {
    if training.trees == 0 || training.leaf_least == 0 {
        return Err(ForestError::Training);
    }
    if rows.is_empty() || rows.len() > ROWS_MAX || rows.width == 0 || rows.width > WIDTH_MAX {
        return Err(ForestError::Size { rows: rows.len(), width: rows.width });
    }
    let finite = |row: usize| rows.targets[row].is_finite() && rows.row(row).iter().all(|value| value.is_finite());
    (0..rows.len()).find(|&row| !finite(row)).map_or(Ok(()), |row| Err(ForestError::NotFinite(row)))
}

/// The same rows in the order of their contents.
fn sorted(rows: &Rows) -> Rows {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|&a, &b| {
        let features = rows.row(a).iter().zip(rows.row(b)).map(|(a, b)| a.total_cmp(b)).find(|order| order.is_ne());
        features.unwrap_or_else(|| rows.targets[a].total_cmp(&rows.targets[b]))
    });
    let mut sorted = Rows::new(rows.width);
    order.into_iter().for_each(|at| sorted.push(rows.row(at), rows.targets[at]));
    sorted
}

fn out_of_bag(rows: &Rows, held_out: &[(f64, u32)]) -> f32 {
    let seen = || held_out.iter().zip(&rows.targets).filter(|((_, trees), _)| *trees > 0);
    let squared: f64 = seen().map(|((sum, trees), target)| (sum / f64::from(*trees) - f64::from(*target)).powi(2)).sum();
    (squared / seen().count().max(1) as f64).sqrt() as f32
}

/// Where a node is divided.
struct Split {
    feature: u8,
    threshold: f32,
    /// Σ²/n of the left draws and of the right ones: the more, the smaller the squares that are left.
    gain: f64,
}

struct Grower<'a> {
    rows: &'a Rows,
    training: &'a Training,
    stream: Stream,
    root: usize,
    /// All features, shuffled anew as far as a node looks.
    order: Vec<u8>,
    /// Of a node's draws one feature and the target.
    values: Vec<(f32, f32)>,
}

impl Grower<'_> {
    /// Grows the node of these draws and everything below it.
    fn node(&mut self, forest: &mut Forest, draws: &mut [u32], depth: usize) {
        let at = forest.feature.len();
        let mean = draws.iter().map(|&row| f64::from(self.rows.targets[row as usize])).sum::<f64>() / draws.len() as f64;
        forest.feature.push(LEAF);
        forest.threshold.push(mean as f32);
        forest.right.push(0);
        if depth == self.training.depth_most || draws.len() < 2 * self.training.leaf_least {
            return;
        }
        let Some(split) = self.best_split(draws) else { return };
        let left = partition(draws, |row| self.rows.row(row as usize)[usize::from(split.feature)] <= split.threshold);
        forest.feature[at] = split.feature;
        forest.threshold[at] = split.threshold;
        let (left, right) = draws.split_at_mut(left);
        self.node(forest, left, depth + 1);
        forest.right[at] = u16::try_from(forest.feature.len() - self.root).expect("ROWS_MAX bounds the nodes of a tree");
        self.node(forest, right, depth + 1);
    }

    /// The best split over a third of the features, drawn at random, and over more of them while all are constant here.
    fn best_split(&mut self, draws: &[u32]) -> Option<Split> {
        let width = self.rows.width;
        let (mut best, mut looked_at): (Option<Split>, usize) = (None, 0);
        for place in 0..width {
            let other = place + self.stream.below(width - place);
            self.order.swap(place, other);
            looked_at += usize::from(self.try_feature(draws, self.order[place], &mut best));
            if looked_at >= width.div_ceil(3) {
                break;
            }
        }
        best
    }

    /// Whether the feature varies among the draws; if a split by it gains more than the best so far, it replaces that.
    fn try_feature(&mut self, draws: &[u32], feature: u8, best: &mut Option<Split>) -> bool {
        let rows = self.rows;
        self.values.clear();
        let value = |&row: &u32| (rows.row(row as usize)[usize::from(feature)], rows.targets[row as usize]);
        self.values.extend(draws.iter().map(value));
        self.values.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let (first, last) = (self.values[0].0, self.values[draws.len() - 1].0);
        if first == last {
            return false;
        }
        let n = draws.len();
        let total: f64 = self.values.iter().map(|(_, target)| f64::from(*target)).sum();
        // What no split gains; by rounding alone nothing is divided.
        let least = total * total / n as f64 * (1.0 + 1e-12) + 1e-12;
        let mut left = 0.0;
        for at in 1..n {
            left += f64::from(self.values[at - 1].1);
            let (below, above) = (self.values[at - 1].0, self.values[at].0);
            if below == above || at < self.training.leaf_least || n - at < self.training.leaf_least {
                continue;
            }
            let right = total - left;
            let gain = left * left / at as f64 + right * right / (n - at) as f64;
            if gain > least && best.as_ref().is_none_or(|best| gain > best.gain) {
                *best = Some(Split { feature, threshold: between(below, above), gain });
            }
        }
        true
    }
}

/// A number from `below` on and less than `above`: their middle, where there is one.
fn between(below: f32, above: f32) -> f32 {
    let middle = ((f64::from(below) + f64::from(above)) / 2.0) as f32;
    if middle >= above { below } else { middle }
}

/// Brings those that `left` lets pass to the front, all in their order, and says how many they are.
fn partition(draws: &mut [u32], left: impl Fn(u32) -> bool) -> usize {
    let (front, back): (Vec<u32>, Vec<u32>) = draws.iter().partition(|&&row| left(row));
    draws[..front.len()].copy_from_slice(&front);
    draws[front.len()..].copy_from_slice(&back);
    front.len()
}
