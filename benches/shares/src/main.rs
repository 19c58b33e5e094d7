//! Does it matter at which share of a device a model was tuned? For every entry of an artifact and every other share that the model was
//! tuned for on the same device, the entry's plan meets the other's, in pairs, in a worker that owns the entry's share.
//!
//!     shares ARTIFACT.tune ...
//!
//! Prints a line of a Markdown table for each meeting: the medians, and the ratio of the other's time to the entry's own with its 95 %
//! interval, above 1.00 where tuning at the share pays. Then the geometric mean over all meetings, and over those of different plans.

use schema::{Picos, Ratio, Seed, Share};
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tunewright::artifact::{Artifact, Entry};
use tunewright::device;
use tunewright::measure::Effort;
use tunewright::measure::bench::WorkerBench;
use tunewright::worker;

/// Pairs of one meeting, and time for them.
const EFFORT: Effort = Effort { samples: 12, least: Duration::from_millis(500), limit: Duration::from_secs(8) };
/// Largest difference of the outputs, relative as in `run --rtol`.
const MAX_ERROR: f64 = 1e-3;
const SEED: u64 = 0;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    if let Some(code) = worker::serve_if_asked() {
        return Ok(code);
    }
    let paths: Vec<String> = std::env::args().skip(1).collect();
    if paths.is_empty() {
        return Err("usage: shares ARTIFACT.tune ...".into());
    }
    println!("| model | device | batch | share | tuned there, ms | tuned at | ms | ratio (95 %) |");
    println!("|---|---|---|---|---|---|---|---|");
    let mut ratios = Vec::new();
    let mut alike = 0;
    for path in &paths {
        let path = Path::new(path);
        let artifact = Artifact::open(path)?;
        for (own, entry) in artifact.entries().iter().enumerate() {
            for (other, rival) in artifact.entries().iter().enumerate() {
                let same = (&entry.device, entry.batch, &entry.dims) == (&rival.device, rival.batch, &rival.dims);
                if !same || entry.share == rival.share {
                    continue;
                }
                let model = &artifact.provenance().model_name;
                let place = format!("| {model} | {} | {} | {} ", entry.device.name.0, entry.batch, entry.share);
                if entry.split == rival.split && entry.configs == rival.configs {
                    println!("{place}| the same plan | {} | | 1.00 |", rival.share);
                    alike += 1;
                    continue;
                }
                let [theirs, ours, ratio] = match meet(path, [(other, rival), (own, entry)], entry.share)? {
                    Ok((times, ratio)) => [ms(times[0]), ms(times[1]), words(&ratio, &mut ratios)],
                    Err(why) => [String::new(), String::new(), why],
                };
                println!("{place}| {ours} | {} | {theirs} | {ratio} |", rival.share);
            }
        }
    }
    let mean = |count: usize| (ratios.iter().map(|ratio: &f64| ratio.ln()).sum::<f64>() / count.max(1) as f64).exp();
    println!();
    println!("{} meetings of different plans, geometric mean {:.3}; {alike} of one plan;", ratios.len(), mean(ratios.len()));
    println!("over all {:.3}.", mean(ratios.len() + alike));
    Ok(ExitCode::SUCCESS)
}

/// The times of two entries' plans at a share and the ratio of the first to the second; the inner error says why there is none.
fn meet(path: &Path, entries: [(usize, &Entry); 2], share: Share) -> Result<Result<([Picos; 2], Ratio), String>, Box<dyn Error>> {
    let machine = match device::open(&entries[1].1.device.name.0) {
        Ok(machine) if machine.key() == entries[1].1.device.key() => machine,
        Ok(_) => return Ok(Err("tuned on another device".to_owned())),
        Err(error) => return Ok(Err(error.to_string())),
    };
    let grant = machine.grant(share)?;
    let program = worker::program()?;
    let mut bench = WorkerBench::new(&program, &grant, Seed(SEED), MAX_ERROR);
    let mut first = Picos(0);
    for (slot, (number, entry)) in (0u32..).zip(entries) {
        let configs: Vec<_> = entry.configs.iter().map(|(task, config)| (task.to_string(), config.clone())).collect();
        match bench.load_plan(path, u32::try_from(number)?, slot, (entry.split, &configs), SEED)? {
            Ok(time) => first = first.max(time),
            Err((_, detail)) => return Ok(Err(detail)),
        }
    }
    if let Err((_, detail)) = bench.compare_plans([0, 1], MAX_ERROR)? {
        return Ok(Err(detail));
    }
    Ok(match bench.meet([0, 1], first, &EFFORT)? {
        Ok((theirs, ours, ratio)) => Ok(([theirs.median, ours.median], ratio)),
        Err(fall) => Err(fall.detail),
    })
}

fn ms(time: Picos) -> String {
    format!("{:.3}", time.as_secs_f64() * 1e3)
}

fn words(ratio: &Ratio, all: &mut Vec<f64>) -> String {
    let [middle, low, high] = [ratio.ppm, ratio.lo_ppm, ratio.hi_ppm].map(|ppm| ppm as f64 / 1e6);
    all.push(middle);
    format!("{middle:.2} ({low:.2}–{high:.2})")
}
