//! The answer: a line per policy, or an object.

use super::super::failure::escape;
use super::super::quantity::{show_count, show_time};
use super::super::table::{Align, lay_out};
use super::super::{Screen, screen::Paint};
use super::{Arguments, Line, assume};
use crate::schedule::{Fleet, Index, Nanos};
use crate::simulate::{Arrival, Figures, Scenario};
use schema::Picos;
use serde_json::{Value, json};

/// The policies side by side.
pub fn print(arguments: &Arguments, screen: &mut Screen, scenario: &Scenario, trace: &[Arrival], lines: &[Line]) {
    let index = &scenario.index;
    screen.result(
        || {
            json!({
                "schema": "simulate.result", "version": 1,
                "models": index.models().iter().map(|model| &model.name).collect::<Vec<_>>(),
                "devices": devices(&scenario.fleet, index),
                "generation": index.generation().to_string(),
                "predicted_rows": assume::predicted(index), "requests": trace.len(), "seed": arguments.seed.to_string(),
                "policies": lines.iter().map(|line| object(line, index)).collect::<Vec<_>>(),
            })
        },
        |screen| {
            let models = index.models().iter().map(|model| escape(&model.name)).collect::<Vec<_>>().join(", ");
            let last = trace.last().map_or(Nanos::ZERO, |last| last.at);
            let filled = || format!("; {} of {} rows predicted", assume::predicted(index), index.row_count());
            let filled = if arguments.fill { filled() } else { String::new() };
            let head = format!("{models}: {} requests in {}{filled}", show_count(trace.len() as u64), time(last));
            let header = ["policy", "goodput", "missed", "p50", "p99", "refused", "utilisation", "energy"];
            let mut rows = vec![header.iter().map(|cell| screen.paint(Paint::Dim, cell)).collect::<Vec<_>>()];
            rows[0][0] = format!("  {}", rows[0][0]);
            rows.extend(lines.iter().map(|line| row(line, index)));
            let align =
                [Align::Left, Align::Right, Align::Right, Align::Right, Align::Right, Align::Right, Align::Left, Align::Left];
            std::iter::once(head).chain(lay_out(&rows, &align)).collect()
        },
    );
}

/// As people read times.
pub fn time(time: Nanos) -> String {
    show_time(Picos(time.0.saturating_mul(1000)))
}

fn devices(fleet: &Fleet, index: &Index) -> Vec<Value> {
    let shares = |at: usize| {
        let mut shares: Vec<f64> = fleet.devices[at].workers.iter().map(|share| share.as_percent()).collect();
        shares.dedup();
        shares
    };
    index.devices().iter().enumerate().map(|(at, device)| json!({"device": device.0, "shares_pct": shares(at)})).collect()
}

fn row(line: &Line, index: &Index) -> Vec<String> {
    let none = || "-".to_owned();
    let latency = |part| line.figures.as_ref().and_then(|figures| figures.latency(part)).map_or_else(none, time);
    let refused = line
        .figures
        .as_ref()
        .map_or_else(none, |figures| show_count(figures.refused_late + figures.refused_full + figures.refused_other));
    let used = line.figures.as_ref().map_or_else(none, |figures| {
        let of = |(at, device): (usize, &schema::DeviceName)| format!("{} {:.0} %", device.0, 100.0 * figures.utilisation(at));
        index.devices().iter().enumerate().map(of).collect::<Vec<_>>().join(", ")
    });
    let energy =
        line.figures.as_ref().and_then(|figures| figures.energy_mj).map_or_else(none, |energy| format!("{:.1} J", energy * 1e-3));
    let most = if line.figures.is_none() { "at most " } else { "" };
    vec![
        format!("  {}", line.policy),
        format!("{most}{:.1}/s", line.goodput_per_s),
        format!("{:.2} %", 100.0 * line.missed),
        latency(0.5),
        latency(0.99),
        refused,
        used,
        energy,
    ]
}

fn object(line: &Line, index: &Index) -> Value {
    let figures = line.figures.as_ref();
    let latency = |part| figures.and_then(|figures| figures.latency(part)).map(|time| time.0);
    let used = figures.map(|figures| {
        let of =
            |(at, device): (usize, &schema::DeviceName)| json!({"device": device.0, "used_pct": 100.0 * figures.utilisation(at)});
        index.devices().iter().enumerate().map(of).collect::<Vec<_>>()
    });
    json!({
        "policy": line.policy, "in_time": line.in_time, "goodput_per_s": line.goodput_per_s, "missed_pct": 100.0 * line.missed,
        "late": figures.map(|figures| figures.late),
        "refused_late": figures.map(|figures| figures.refused_late),
        "refused_full": figures.map(|figures| figures.refused_full),
        "refused_other": figures.map(|figures| figures.refused_other),
        "p50_ns": latency(0.5), "p99_ns": latency(0.99),
        "mean_ns": figures.and_then(Figures::latency_mean).map(|time| time.0),
        "runs": figures.map(|figures| figures.runs),
        "padded_rows": figures.map(|figures| figures.padded_rows),
        "utilisation": used,
        "energy_mj": figures.and_then(|figures| figures.energy_mj),
        "retry_after_least_ns": figures.and_then(|figures| figures.retry_after).map(|(least, _)| least.0),
        "retry_after_most_ns": figures.and_then(|figures| figures.retry_after).map(|(_, most)| most.0),
        "error_median": figures.and_then(Figures::error_median),
    })
}
