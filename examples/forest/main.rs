//! How well `forest` chooses devices for models that it has not seen: leave-one-model-out over the records of a database.
//!
//!     cargo run --release --example forest -- DATABASE... [--seed N] [--json]
//!
//! Every model in turn is left out (all its batches and axes together), forests are grown from the others' rows as
//! [`Index::taught`](tunewright::schedule::Index::taught) grows them, and for each batch of the one left out the place of least
//! predicted time is chosen. Decisions come in two kinds: among all places that were measured, and between two places on different
//! devices, as when the others are in use or absent. Decisions whose two best cannot be told apart within the measured noise have no right
//! answer; they are counted and left out. Of several databases each is a pass over the same settings: the median of the passes is what a
//! setting costs, and two places differ where the passes say so (`passes`). `tests/campaigns/forest.py` gathers the records. Source:
//! papers §1, *Proof*.

mod choose;
mod passes;
mod stats;

use choose::{Decision, NearestNeighbour, decisions};
use passes::Passes;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;
use tunewright::forest::Training;
use tunewright::schedule::{Cost, Index, ModelId, Predictors, Setting, examples};

/// Who chooses. The oracle is always right and needs no line.
const CHOOSERS: [&str; 4] = ["forest", "best single place", "always the largest", "nearest neighbour"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let seed = arguments.iter().position(|argument| argument == "--seed").and_then(|at| arguments.get(at + 1));
    let seed = schema::Seed(seed.and_then(|seed| seed.parse().ok()).unwrap_or(0));
    let paths: Vec<&Path> = arguments.iter().take_while(|path| !path.starts_with('-')).map(Path::new).collect();
    if paths.is_empty() {
        eprintln!("usage: forest DATABASE... [--seed N] [--json]");
        return ExitCode::from(2);
    }
    match passes::read(&paths).and_then(|(index, passes)| evaluate(&index, &passes, &Training { seed, ..Training::default() })) {
        Ok(report) => {
            if arguments.iter().any(|argument| argument == "--json") {
                println!("{report}")
            } else {
                print(&report)
            }
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("forest: {why}");
            ExitCode::FAILURE
        }
    }
}

/// A model without its axes: `bert[seq=128]` and `bert[seq=64]` are left out together.
fn family(index: &Index, model: ModelId) -> &str {
    index.models()[usize::from(model.0)].plain_name()
}

fn evaluate(index: &Index, passes: &Passes, training: &Training) -> Result<Value, String> {
    let rows = examples(index, Cost::Time);
    let families: BTreeSet<&str> = rows.iter().map(|(id, _)| family(index, index.curve(id.curve).model)).collect();
    if families.len() < 3 {
        return Err(format!("{} models have features and a time on the reference; leave-one-out needs three", families.len()));
    }
    let all = decisions(index, passes, &rows);
    let mut chosen: Vec<[usize; CHOOSERS.len()]> = vec![[0; CHOOSERS.len()]; all.len()];
    let (mut squares, mut predicted, mut out_of_bag) = (0.0, 0u32, Vec::new());
    for &held_out in &families {
        let others: Vec<_> = rows.iter().filter(|(id, _)| family(index, index.curve(id.curve).model) != held_out).collect();
        let known: Vec<_> = others.iter().map(|(_, example)| *example).collect();
        let predictors = Predictors::learn(&known, &[], training).ok_or("the rows of the other models are too few")?;
        out_of_bag.push(f64::from(predictors.time.forest().out_of_bag()));
        for (_, example) in rows.iter().filter(|(id, _)| family(index, index.curve(id.curve).model) == held_out) {
            squares += f64::from(predictors.time.ln_ratio(&example.setting) - example.ln_ratio).powi(2);
            predicted += 1;
        }
        let means = means(&others.iter().map(|(_, example)| (example.setting, example.ln_ratio)).collect::<Vec<_>>());
        let neighbours = NearestNeighbour::of(&known);
        for (decision, chosen) in all.iter().zip(&mut chosen).filter(|(decision, _)| family(index, decision.model) == held_out) {
            let least = |cost: &dyn Fn(&Setting) -> f64| {
                let costs = decision.places.iter().map(|place| cost(&place.setting));
                costs.enumerate().min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(at, _)| at)
            };
            *chosen = [
                least(&|setting| f64::from(predictors.time.ln_ratio(setting))),
                least(&|setting| means.get(&(setting.device, setting.share)).copied().unwrap_or(f64::INFINITY)),
                least(&|setting| -f64::from(u32::from(setting.class) * 2000 + u32::from(setting.share.as_per_mille()))),
                least(&|setting| neighbours.ln_ratio(setting)),
            ];
        }
    }
    let kinds = ["all places", "two places on different devices"];
    let kinds: Vec<Value> = kinds
        .iter()
        .enumerate()
        .map(|(kind, name)| {
            let own: Vec<(&Decision, &[usize; 4])> = all.iter().zip(&chosen).filter(|(one, _)| one.kind == kind).collect();
            let told: Vec<_> = own.iter().copied().filter(|(one, _)| one.can_be_told()).collect();
            let who = |at: usize| {
                let outcomes: Vec<(&str, f64)> =
                    told.iter().map(|(one, chosen)| (family(index, one.model), one.regret(chosen[at]))).collect();
                choosers_figures(CHOOSERS[at], &outcomes, training)
            };
            json!({
                "decisions": name, "n": told.len(), "within_noise": own.len() - told.len(),
                "choosers": (0..CHOOSERS.len()).map(who).collect::<Vec<_>>(),
            })
        })
        .collect();
    let places: BTreeSet<String> = index
        .curves()
        .iter()
        .map(|curve| format!("{} at {} %", index.devices()[usize::from(curve.device.0)], curve.share))
        .collect();
    Ok(json!({
        "models": families.len(), "rows": rows.len(), "passes": passes.count(), "places": places, "seed": training.seed.0.to_string(),
        "ln_error_left_out": (squares / f64::from(predicted.max(1))).sqrt(),
        "ln_error_out_of_bag": out_of_bag.iter().sum::<f64>() / out_of_bag.len() as f64,
        "kinds": kinds,
    }))
}

/// The mean ratio of each place.
fn means(examples: &[(Setting, f32)]) -> BTreeMap<(tunewright::schedule::DeviceId, schema::Share), f64> {
    let mut sums: BTreeMap<_, (f64, f64)> = BTreeMap::new();
    for (setting, ln_ratio) in examples {
        let (sum, count) = sums.entry((setting.device, setting.share)).or_default();
        (*sum, *count) = (*sum + f64::from(*ln_ratio), *count + 1.0);
    }
    sums.into_iter().map(|(place, (sum, count))| (place, sum / count)).collect()
}

/// What came of one chooser: each decision's model and regret, 0 where it was right.
fn choosers_figures(name: &str, outcomes: &[(&str, f64)], training: &Training) -> Value {
    let n = outcomes.len();
    let part = |right: &dyn Fn(f64) -> bool| outcomes.iter().filter(|(_, regret)| right(*regret)).count();
    let (right, near) = (part(&|regret| regret == 0.0), part(&|regret| regret <= 0.03));
    let mut sorted: Vec<f64> = outcomes.iter().map(|(_, regret)| *regret).collect();
    sorted.sort_by(f64::total_cmp);
    let [low, high] = stats::bootstrap(outcomes, training.seed);
    json!({
        "chooser": name,
        "right": right, "accuracy": right as f64 / n.max(1) as f64, "accuracy_at_least": stats::clopper_pearson(right, n),
        "accuracy_over_models": [low, high],
        "within_3_pct": near as f64 / n.max(1) as f64,
        "regret_mean": sorted.iter().sum::<f64>() / n.max(1) as f64,
        "regret_p95": sorted.get((n * 95).div_ceil(100).saturating_sub(1)),
    })
}

fn print(report: &Value) {
    println!(
        "{} models, {} rows, {} passes; places: {}",
        report["models"],
        report["rows"],
        report["passes"],
        report["places"].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
    );
    println!(
        "error of ln(cost ratio): {:.3} on models left out, {:.3} out of bag",
        report["ln_error_left_out"].as_f64().unwrap_or(f64::NAN),
        report["ln_error_out_of_bag"].as_f64().unwrap_or(f64::NAN)
    );
    for kind in report["kinds"].as_array().into_iter().flatten() {
        println!(
            "{}: n = {}, and {} within the noise, left out",
            kind["decisions"].as_str().unwrap_or(""),
            kind["n"],
            kind["within_noise"]
        );
        println!(
            "  {:20} {:>8} {:>9} {:>17} {:>10} {:>11} {:>10}",
            "", "right", "at least", "over models", "within 3 %", "mean regret", "p95 regret"
        );
        for who in kind["choosers"].as_array().into_iter().flatten() {
            let percent = |value: &Value| value.as_f64().map_or("-".to_owned(), |value| format!("{:.1} %", 100.0 * value));
            let over = format!("{} … {}", percent(&who["accuracy_over_models"][0]), percent(&who["accuracy_over_models"][1]));
            println!(
                "  {:20} {:>8} {:>9} {:>17} {:>10} {:>11} {:>10}",
                who["chooser"].as_str().unwrap_or(""),
                percent(&who["accuracy"]),
                percent(&who["accuracy_at_least"]),
                over,
                percent(&who["within_3_pct"]),
                percent(&who["regret_mean"]),
                percent(&who["regret_p95"])
            );
        }
    }
}
