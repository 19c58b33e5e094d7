use super::*;
use crate::space::Stream;

fn rows(count: usize, width: usize, seed: u64, law: impl Fn(&[f32], &mut Stream) -> f64) -> Rows {
    let mut stream = Stream::new(Seed(seed));
    let mut rows = Rows::new(width);
    for _ in 0..count {
        let features: Vec<f32> = (0..width).map(|_| stream.unit() as f32).collect();
        let target = law(&features, &mut stream);
        rows.push(&features, target as f32);
    }
    rows
}

/// A law with a step, a bend and a product, and noise.
fn law(x: &[f32], stream: &mut Stream) -> f64 {
    let [a, b, c] = [x[0], x[1], x[2]].map(f64::from);
    (if a > 0.5 { 2.0 } else { 0.0 }) + 3.0 * (b - 0.5).abs() + 2.0 * b * c + 0.1 * stream.normal()
}

fn rmse(forest: &Forest, rows: &Rows) -> f64 {
    let squares = (0..rows.len()).map(|at| f64::from(forest.predict(rows.row(at)) - rows.targets[at]).powi(2));
    (squares.sum::<f64>() / rows.len() as f64).sqrt()
}

#[test]
fn a_constant_target_is_predicted_exactly_by_leaves_alone() {
    let forest = grow(&rows(50, 4, 1, |_, _| 1.25), &Training::default()).unwrap();
    assert_eq!((forest.predict(&[9.0; 4]), forest.nodes(), forest.out_of_bag()), (1.25, forest.trees(), 0.0));
}

#[test]
fn one_informative_feature_is_found_among_noise() {
    let step = |x: &[f32], _: &mut Stream| if x[3] > 0.4 { 1.0 } else { -1.0 };
    let forest = grow(&rows(400, 12, 2, step), &Training::default()).unwrap();
    let (mut low, mut high) = ([0.5; 12], [0.5; 12]);
    (low[3], high[3]) = (0.2, 0.8);
    assert!(forest.predict(&low) < -0.9 && forest.predict(&high) > 0.9, "{} {}", forest.predict(&low), forest.predict(&high));
}

#[test]
fn the_order_of_rows_changes_nothing_and_the_seed_does() {
    let given = rows(120, 5, 3, law);
    let mut reversed = Rows::new(5);
    (0..given.len()).rev().for_each(|at| reversed.push(given.row(at), given.targets[at]));
    let training = Training { trees: 16, ..Training::default() };
    assert_eq!(grow(&given, &training), grow(&reversed, &training));
    assert_ne!(grow(&given, &training), grow(&given, &Training { seed: Seed(1), ..training }));
}

#[test]
fn the_out_of_bag_error_is_that_of_rows_held_out() {
    for seed in 10..14 {
        let forest = grow(&rows(800, 6, seed, law), &Training::default()).unwrap();
        let held_out = rmse(&forest, &rows(2000, 6, seed + 100, law));
        let ratio = f64::from(forest.out_of_bag()) / held_out;
        assert!((0.85..1.15).contains(&ratio), "seed {seed}: out of bag {}, held out {held_out}", forest.out_of_bag());
        // The mean alone is wrong by about 1.2.
        assert!(held_out < 0.35, "seed {seed}: {held_out}");
    }
}

/// A tree of two levels at most, found by trying every split, against ours with all features in each node.
#[test]
fn splits_are_the_best_there_are() {
    for seed in 0..30 {
        let given = rows(12, 1, seed, law_of_one);
        let all = Training { trees: 40, leaf_least: 1, depth_most: 1, seed: Seed(seed) };
        let forest = grow(&given, &all).unwrap();
        for (tree, &root) in forest.roots.iter().enumerate() {
            let mut stream = Stream::named(Seed(seed + tree as u64), "forest");
            let mut sorted: Vec<(f32, f32)> = (0..12).map(|at| (given.row(at)[0], given.targets[at])).collect();
            sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
            let drawn: Vec<(f32, f32)> = (0..12).map(|_| sorted[stream.below(12)]).collect();
            let squares = |part: &[f64]| {
                let mean = part.iter().sum::<f64>() / part.len().max(1) as f64;
                part.iter().map(|y| (y - mean).powi(2)).sum::<f64>()
            };
            let left_over = |threshold: f32| {
                let part = |left| drawn.iter().filter(move |(x, _)| (*x <= threshold) == left).map(|(_, y)| f64::from(*y));
                squares(&part(true).collect::<Vec<_>>()) + squares(&part(false).collect::<Vec<_>>())
            };
            let best = drawn.iter().map(|(x, _)| left_over(*x)).fold(f64::INFINITY, f64::min);
            let ours = match forest.feature[root as usize] {
                LEAF => left_over(f32::INFINITY),
                _ => left_over(forest.threshold[root as usize]),
            };
            assert!(ours <= best + 1e-6, "seed {seed}, tree {tree}: {ours} is left over, {best} could be");
        }
    }
}

fn law_of_one(x: &[f32], stream: &mut Stream) -> f64 {
    f64::from(x[0]).powi(2) + 0.3 * stream.normal()
}

#[test]
fn predictions_stay_within_the_targets() {
    let given = rows(200, 4, 5, law);
    let forest = grow(&given, &Training::default()).unwrap();
    let (least, most) = given.targets.iter().fold((f32::MAX, f32::MIN), |(least, most), &y| (least.min(y), most.max(y)));
    for far in [[-1e30; 4], [1e30; 4], [f32::NAN; 4]] {
        assert!((least..=most).contains(&forest.predict(&far)));
    }
}

#[test]
fn rows_that_make_no_sense_are_refused() {
    let refused = |rows: &Rows, training: &Training| grow(rows, training).unwrap_err();
    let training = Training::default();
    assert_eq!(refused(&Rows::new(3), &training), ForestError::Size { rows: 0, width: 3 });
    let mut odd = rows(4, 2, 1, |_, _| 0.0);
    odd.features[5] = f32::NAN;
    assert_eq!(refused(&odd, &training), ForestError::NotFinite(2));
    assert_eq!(refused(&rows(4, 2, 1, |_, _| 0.0), &Training { trees: 0, ..training }), ForestError::Training);
    let one = grow(&rows(1, 2, 1, |_, _| 7.0), &Training::default()).unwrap();
    assert_eq!((one.predict(&[0.0, 0.0]), one.out_of_bag()), (7.0, 0.0));
}
