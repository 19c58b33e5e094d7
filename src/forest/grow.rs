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
    let columns = Columns::of(&rows);
    let distinct = columns.values.iter().map(Vec::len).max().unwrap_or(0);
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
        let mut grower = Grower {
            rows: &rows,
            columns: &columns,
            training,
            stream,
            root,
            order: (0..rows.width as u8).collect(),
            counted: vec![Alike::default(); distinct],
            alike: Vec::with_capacity(distinct),
            keys: Vec::new(),
            right: Vec::with_capacity(rows.len()),
        };
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

/// Each feature by itself: its values, and of each row the place of its own among them. Splits need no more of a value than its place.
struct Columns {
    /// By feature, ascending, each once.
    values: Vec<Vec<f32>>,
    /// By feature and row.
    places: Vec<Vec<u32>>,
}

impl Columns {
    fn of(rows: &Rows) -> Columns {
        let of_feature = |feature: usize| {
            let value = |row: usize| rows.features[row * rows.width + feature];
            let mut values: Vec<f32> = (0..rows.len()).map(value).collect();
            values.sort_unstable_by(f32::total_cmp);
            values.dedup();
            let places = (0..rows.len()).map(|row| values.partition_point(|&below| below < value(row)) as u32).collect();
            (values, places)
        };
        let (values, places) = (0..rows.width).map(of_feature).unzip();
        Columns { values, places }
    }
}

/// Where a node is divided.
struct Split {
    feature: u8,
    /// The place of the greatest value that goes left.
    place: u32,
    threshold: f32,
    /// Σ²/n of the left draws and of the right ones: the more, the smaller the squares that are left.
    gain: f64,
}

/// Draws of one value.
#[derive(Copy, Clone, Default)]
struct Alike {
    place: u32,
    count: u32,
    sum: f64,
}

/// Places for each draw up to which counting them is quicker than sorting the draws.
const COUNTED: usize = 4;

struct Grower<'a> {
    rows: &'a Rows,
    columns: &'a Columns,
    training: &'a Training,
    stream: Stream,
    root: usize,
    /// All features, shuffled anew as far as a node looks.
    order: Vec<u8>,
    /// Of one feature, by place. Empty between two looks.
    counted: Vec<Alike>,
    /// Of a node's draws by one feature, ascending.
    alike: Vec<Alike>,
    /// Draws on their way: place above row, or those that go right.
    keys: Vec<u64>,
    right: Vec<u32>,
}

impl Grower<'_> {
    /// Grows the node of these draws and everything below it.
    fn node(&mut self, forest: &mut Forest, draws: &mut [u32], depth: usize) {
        let at = forest.feature.len();
        let total: f64 = draws.iter().map(|&row| f64::from(self.rows.targets[row as usize])).sum();
        forest.feature.push(LEAF);
        forest.threshold.push((total / draws.len() as f64) as f32);
        forest.right.push(0);
        if depth == self.training.depth_most || draws.len() < 2 * self.training.leaf_least {
            return;
        }
        let Some(split) = self.best_split(draws, total) else { return };
        forest.feature[at] = split.feature;
        forest.threshold[at] = split.threshold;
        let left = self.partition(draws, &split);
        let (left, right) = draws.split_at_mut(left);
        self.node(forest, left, depth + 1);
        forest.right[at] = u16::try_from(forest.feature.len() - self.root).expect("ROWS_MAX bounds the nodes of a tree");
        self.node(forest, right, depth + 1);
    }

    /// The best split over a third of the features, drawn at random, and over more of them while all are constant here.
    fn best_split(&mut self, draws: &[u32], total: f64) -> Option<Split> {
        let width = self.rows.width;
        let (mut best, mut looked_at): (Option<Split>, usize) = (None, 0);
        for place in 0..width {
            let other = place + self.stream.below(width - place);
            self.order.swap(place, other);
            looked_at += usize::from(self.try_feature(draws, total, self.order[place], &mut best));
            if looked_at >= width.div_ceil(3) {
                break;
            }
        }
        best
    }

    /// Whether the feature varies among the draws; if a split by it gains more than the best so far, it replaces that.
    fn try_feature(&mut self, draws: &[u32], total: f64, feature: u8, best: &mut Option<Split>) -> bool {
        self.gather(draws, usize::from(feature));
        let n = draws.len() as u32;
        let least_in_leaf = self.training.leaf_least as u32;
        // What no split gains; by rounding alone nothing is divided.
        let least = total * total / f64::from(n) * (1.0 + 1e-12) + 1e-12;
        let (mut left, mut at) = (0.0, 0);
        for pair in self.alike.windows(2) {
            left += pair[0].sum;
            at += pair[0].count;
            if at < least_in_leaf || n - at < least_in_leaf {
                continue;
            }
            let right = total - left;
            let gain = left * left / f64::from(at) + right * right / f64::from(n - at);
            if gain > least && best.as_ref().is_none_or(|best| gain > best.gain) {
                let values = &self.columns.values[usize::from(feature)];
                let threshold = between(values[pair[0].place as usize], values[pair[1].place as usize]);
                *best = Some(Split { feature, place: pair[0].place, threshold, gain });
            }
        }
        self.alike.len() > 1
    }

    /// The draws by their values of a feature.
    fn gather(&mut self, draws: &[u32], feature: usize) {
        let (places, targets) = (&self.columns.places[feature], &self.rows.targets);
        let distinct = self.columns.values[feature].len();
        self.alike.clear();
        if distinct <= COUNTED * draws.len() {
            for &row in draws {
                let of = &mut self.counted[places[row as usize] as usize];
                of.count += 1;
                of.sum += f64::from(targets[row as usize]);
            }
            for (place, of) in (0..).zip(&mut self.counted[..distinct]) {
                if of.count > 0 {
                    self.alike.push(Alike { place, ..std::mem::take(of) });
                }
            }
            return;
        }
        self.keys.clear();
        self.keys.extend(draws.iter().map(|&row| u64::from(places[row as usize]) << 32 | u64::from(row)));
        self.keys.sort_unstable();
        for key in &self.keys {
            let (place, target) = ((key >> 32) as u32, f64::from(targets[(key & u64::from(u32::MAX)) as usize]));
            match self.alike.last_mut().filter(|of| of.place == place) {
                Some(of) => (of.count, of.sum) = (of.count + 1, of.sum + target),
                None => self.alike.push(Alike { place, count: 1, sum: target }),
            }
        }
    }

    /// Brings those that go left to the front, all in their order, and says how many they are.
    fn partition(&mut self, draws: &mut [u32], split: &Split) -> usize {
        let places = &self.columns.places[usize::from(split.feature)];
        self.right.clear();
        let mut left = 0;
        for at in 0..draws.len() {
            let row = draws[at];
            if places[row as usize] <= split.place {
                draws[left] = row;
                left += 1;
            } else {
                self.right.push(row);
            }
        }
        draws[left..].copy_from_slice(&self.right);
        left
    }
}

/// A number from `below` on and less than `above`: their middle, where there is one.
fn between(below: f32, above: f32) -> f32 {
    let middle = ((f64::from(below) + f64::from(above)) / 2.0) as f32;
    if middle >= above { below } else { middle }
}
