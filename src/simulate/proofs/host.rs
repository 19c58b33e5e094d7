//! Whether a host should copy on some of its cores while it computes on the others (papers §2.7), at equal cores.

use super::{MS, device, poisson, run, scenario};
use crate::schedule::testing::{curve, index, placed};
use crate::schedule::{Admission, Engines, Line, Measured, Nanos};
use schema::Share;

/// Rows a second of one model on two cores: 1 ms a row and 8 ms fixed on one core, of which `copies` is copying, which a second core does not
/// make faster; computing is `speed_up` times as fast on both.
fn throughput(engines: Engines, shares: &[f64], copies: f64, speed_up: f64) -> f64 {
    let batches: Vec<u32> = (1..=32).collect();
    let of = |percent: f64| {
        let computing = if percent == 100.0 { (1.0 - copies) / speed_up } else { 1.0 - copies };
        let scale = copies + computing;
        let line = Some(Line { per_row_ns: 1e6 * copies / 2.0, fixed_ns: 8e6 * copies / 2.0 });
        let records = curve(&batches, |b| ((b + 8) as f64 * scale * MS as f64) as u64);
        let records = records.into_iter().map(|record| Measured { upload: line, download: line, ..record });
        placed(records.collect(), 0, 0, percent)
    };
    let workers: Vec<Share> = shares.iter().map(|&percent| Share::percent(percent).unwrap()).collect();
    let scenario = scenario(device(engines, &workers), index(&[of(shares[0])]), Admission::All);
    let figures = run(&scenario, "batcher", poisson(4000.0, 1, Nanos::NEVER).take(20_000));
    figures.latencies.len() as f64 / figures.took.as_secs_f64()
}

/// Overlap beats one pool of both cores just where the inequality of §2.7 says; but two pools of a core each, which copy and compute in
/// turns, do at least as much as overlap anywhere: max(copy, compute) is never less than half of their sum. So hosts have no engines
/// (`records`), and their halves are workers.
#[test]
fn on_a_host_two_halves_do_at_least_as_much_as_overlap() {
    let (mut gains, mut losses) = (0, 0);
    for speed_up in [1.3, 1.6, 1.8, 1.95] {
        for copies in [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7] {
            let whole = throughput(Engines::None, &[100.0], copies, speed_up);
            let halves = throughput(Engines::None, &[50.0, 50.0], copies, speed_up);
            let overlap = throughput(Engines::One, &[50.0], copies, speed_up);
            let (copy, compute): (f64, f64) = (copies, 1.0 - copies);
            let predicted = (copy + compute / speed_up) / copy.max(compute);
            let what =
                format!("speed-up {speed_up}, copies {copies}: whole {whole:.0}/s, halves {halves:.0}/s, overlap {overlap:.0}/s");
            println!("{what}");
            assert!((overlap / whole / predicted - 1.0).abs() < 0.05, "{what}, predicted {predicted:.2} of whole");
            assert!(halves >= 0.98 * overlap, "{what}");
            gains += u32::from(overlap > whole);
            losses += u32::from(overlap < whole);
        }
    }
    assert!(gains > 5 && losses > 5, "both sides of the inequality are seen: {gains} and {losses}");
}
