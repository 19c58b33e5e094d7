//! The log of a run: one JSON object with LoadGen's keys.

use super::drive::Run;
use super::figures::{Figures, Latencies, PERCENTILES};
use super::settings::{Mode, Scenario, Settings};
use crate::schedule::Nanos;
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// Settings, verdict, figures and logged outputs. A key that LoadGen's detail log has means the same here; the others are ours.
pub fn log(run: &Run, figures: &Figures) -> Map<String, Value> {
    let mut map = Map::new();
    settings(&mut map, &run.settings);
    verdict(&mut map, run, figures);
    rates(&mut map, &run.settings, figures);
    latencies(&mut map, "latency_ns", &figures.samples);
    if let Some(per_query) = &figures.per_query {
        latencies(&mut map, "query_latency_ns", per_query);
    }
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            let _ = write!(text, "{byte:02X}");
            text
        })
    };
    let outputs = run.outputs.iter();
    let outputs = outputs
        .map(|(sample, bytes)| json!({"seq_id": sample.id, "model": sample.model, "qsl_idx": sample.index, "data": hex(bytes)}));
    map.insert("accuracy".to_owned(), outputs.collect());
    map
}

fn extend(map: &mut Map<String, Value>, more: Value) {
    if let Value::Object(more) = more {
        map.extend(more);
    }
}

fn settings(map: &mut Map<String, Value>, settings: &Settings) {
    let millis = |time: Nanos| time.0 / 1_000_000;
    let mode = if settings.mode == Mode::Accuracy { "AccuracyOnly" } else { "PerformanceOnly" };
    let offline = settings.scenario == Scenario::Offline;
    extend(
        map,
        json!({
            "effective_scenario": settings.scenario.rules().name,
            "effective_test_mode": mode,
            "effective_samples_per_query": if offline { settings.offline_samples() } else { settings.samples_per_query },
            "effective_target_qps": settings.target_qps,
            "effective_target_latency_ns": settings.target_latency.map_or(0, |bound| bound.0),
            "effective_target_latency_percentile": settings.percentile,
            "effective_max_async_queries": if settings.outstanding_max == u64::MAX { 0 } else { settings.outstanding_max },
            "effective_min_duration_ms": millis(settings.duration_min),
            "effective_min_query_count": settings.queries_min,
            "effective_min_sample_count": settings.samples_min,
            "effective_qsl_rng_seed": settings.seeds.qsl.to_string(),
            "effective_sample_index_rng_seed": settings.seeds.sample_index.to_string(),
            "effective_schedule_rng_seed": settings.seeds.schedule.to_string(),
            "effective_accuracy_log_rng_seed": settings.seeds.accuracy_log.to_string(),
            "effective_accuracy_log_sampling_target": settings.outputs_logged,
            "mix_rng_seed": settings.seeds.mix.to_string(),
            "looks_max": settings.looks_max,
            "confidence": settings.confidence(),
            "short": settings.is_short(),
        }),
    );
}

fn verdict(map: &mut Map<String, Value>, run: &Run, figures: &Figures) {
    let failed: Vec<String> = (figures.conditions.iter().filter(|condition| !condition.met))
        .map(|condition| format!("{}: {}", condition.name, condition.found))
        .collect();
    extend(
        map,
        json!({
            "result_validity": if failed.is_empty() { "VALID" } else { "INVALID" },
            "result_min_duration_met": figures.meets("duration"),
            "result_min_queries_met": figures.meets("queries"),
            "result_perf_constraints_met": figures.meets("percentile"),
            "early_stopping_met": figures.meets("early stopping"),
            "issue_lateness_met": figures.meets("lateness of issue"),
            "answers_met": figures.meets("answers"),
            "result_invalid_reason": failed.join("; "),
            "looks": run.looks,
            "result_query_count": figures.queries,
            "result_sample_count": figures.samples.count(),
            "result_refused_count": figures.refused,
            "num_errors": figures.failed + run.strange,
            "early_stopping_min_query_count": figures.queries_wanted,
        }),
    );
    if let (Scenario::Server, Some(bound)) = (run.settings.scenario, run.settings.target_latency) {
        map.insert("result_overlatency_query_count".to_owned(), figures.samples.over(bound).into());
    }
}

fn rates(map: &mut Map<String, Value>, settings: &Settings, figures: &Figures) {
    let nanos = |time: Option<Nanos>| time.map(|time| time.0);
    let more = match settings.scenario {
        Scenario::SingleStream => json!({
            "result_qps_with_loadgen_overhead": rate(figures.samples.count().saturating_sub(1), figures.last_issued),
            "result_qps_without_loadgen_overhead": figures.samples.mean().map(|mean| rate(1, mean)),
            "early_stopping_latency_ss": nanos(figures.estimate),
            "early_stopping_latency_ms": nanos(figures.estimate_p99),
        }),
        Scenario::MultiStream => json!({"early_stopping_latency_ms": nanos(figures.estimate)}),
        Scenario::Server => json!({
            "result_scheduled_samples_per_sec": figures.scheduled_per_s(),
            "result_completed_samples_per_sec": figures.completed_per_s(),
        }),
        Scenario::Offline => json!({"result_samples_per_second": figures.answered_per_s()}),
    };
    extend(map, more);
    extend(
        map,
        json!({
            "result_goodput_per_second": figures.goodput_per_s(),
            "result_in_time_sample_count": figures.in_time,
            "issue_lateness_99_percentile_ns": nanos(figures.lateness.percentile(0.99)),
            "issue_lateness_max_ns": nanos(figures.lateness.most()),
        }),
    );
}

fn rate(count: u64, time: Nanos) -> f64 {
    if time == Nanos::ZERO { 0.0 } else { count as f64 / time.as_secs_f64() }
}

/// `result_min_latency_ns` and the like; null where too many were refused for there to be such a latency.
fn latencies(map: &mut Map<String, Value>, what: &str, latencies: &Latencies) {
    let value = |time: Option<Nanos>| Value::from(time.map(|time| time.0));
    for (name, time) in [("min", latencies.least()), ("max", latencies.most()), ("mean", latencies.mean())] {
        map.insert(format!("result_{name}_{what}"), value(time));
    }
    let of_queries = what.starts_with("query");
    for p in PERCENTILES {
        let per = if of_queries { "per_" } else { "" };
        map.insert(format!("result_{:.2}_percentile_{per}{what}", 100.0 * p), value(latencies.percentile(p)));
    }
}
