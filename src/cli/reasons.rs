//! Why something is unknown: in `--json` a null stands beside a text, never alone.

use serde_json::{Map, Value};

/// Schema, key, and why the key may be null there. The key `*` stands for every key.
static REASONS: &[(&str, &str, &str)] = &[
    ("tune.result", "ratio", "the default was kept without a comparison"),
    ("tune.result", "ratio_lo", "the default was kept without a comparison"),
    ("tune.result", "ratio_hi", "the default was kept without a comparison"),
    ("tune.result", "default_ns", "not measured"),
    ("tune.result", "regret", "no config was timed"),
    ("tune.result", "tuned_ns", "not measured"),
    ("tune.result", "memory_bytes", "not measured"),
    ("tune.result", "energy_mj", "no counter on this device"),
    ("tune.events", "budget_ns", "the budget counts trials"),
    ("tune.events", "median_ns", "the trial failed"),
    ("tune.events", "noise", "the trial failed"),
    ("tune.events", "failure", "the trial did not fail"),
    ("run.result", "worst_relative", "not compared, or not finite"),
    ("run.result", "worst_absolute", "not compared, or not finite"),
    ("run.result", "outside", "not compared"),
    ("run.result", "agrees", "not compared"),
    ("run.result", "kernel", "no tuned kernel computes this node"),
    ("bench.result", "predicted_ns", "no record to predict from"),
    ("bench.result", "predicted_by", "no record to predict from"),
    ("bench.result", "target_qps", "this scenario has no rate, or no rate was valid"),
    ("bench.result", "deadline_ns", "none was asked for"),
    ("bench.result", "estimate_ns", "not of this scenario, or too few queries"),
    ("bench.result", "peak", "not asked for with --find-peak"),
    ("bench.result", "*", "so many were not answered that there is no such latency"),
    ("explain.result", "deadline_ns", "none was asked for"),
    ("explain.result", "predicted_ns", "no record to predict from"),
    ("explain.result", "predicted_by", "no record to predict from"),
    ("explain.result", "capacity_per_s", "no record to predict from"),
    ("explain.result", "qps", "none was asked for"),
    ("explain.result", "regret", "not timed at that share"),
    ("explain.result", "time_ns", "not timed at that share"),
    ("explain.result", "chosen", "the artifact keeps the default plan at that share"),
    ("explain.result", "keeps_deadline", "no deadline, or no record to predict from"),
    ("inspect.model", "passes", "the passes run when a batch is chosen"),
    ("inspect.model", "graph", "not asked for with --graph"),
    ("db.diff.result", "before_ns", "not measured there"),
    ("db.diff.result", "after_ns", "not measured there"),
    ("db.repair.result", "done", "nothing was repaired"),
    ("db.show.result", "generation", "not published yet"),
    ("db.show.result", "median_ns", "it failed"),
    ("db.show.result", "failure", "it did not fail"),
    ("db.show.result", "ratio", "never compared with the default"),
    ("db.show.result", "*", "not measured"),
    ("db.stat.result", "oldest", "there are no observations"),
    ("db.stat.result", "newest", "there are no observations"),
    ("simulate.result", "energy_mj", "some run has no energy in its record, or it is a bound and no schedule"),
    ("simulate.result", "p50_ns", "nothing was answered, or it is a bound and no schedule"),
    ("simulate.result", "p99_ns", "nothing was answered, or it is a bound and no schedule"),
    ("simulate.result", "mean_ns", "nothing was answered, or it is a bound and no schedule"),
    ("simulate.result", "error_median", "nothing was answered, or it is a bound and no schedule"),
    ("simulate.result", "retry_after_least_ns", "nothing was refused for a time"),
    ("simulate.result", "retry_after_most_ns", "nothing was refused for a time"),
    ("simulate.result", "*", "a bound and no schedule"),
    ("doctor.settings", "value", "it has no value"),
];

/// Puts `KEY_why` behind each `KEY` that is null.
pub fn explain_nulls(schema: &str, value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| explain_nulls(schema, item)),
        Value::Object(map) => {
            let mut explained = Map::new();
            for (key, mut inner) in std::mem::take(map) {
                explain_nulls(schema, &mut inner);
                if key.ends_with("_why") && inner.is_null() {
                    continue; // what it would explain is known
                }
                let why = format!("{key}_why");
                let null = inner.is_null();
                explained.insert(key.clone(), inner);
                if let Some(reason) = reason(schema, &key).filter(|_| null) {
                    explained.insert(why, reason.into());
                }
            }
            *map = explained;
        }
        _ => {}
    }
}

fn reason(schema: &str, key: &str) -> Option<&'static str> {
    REASONS.iter().find(|(s, k, _)| *s == schema && (*k == key || *k == "*")).map(|(_, _, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_null_is_followed_by_its_reason_and_what_is_known_is_not() {
        let mut object = json!({"a": [{"predicted_ns": null, "z": 1}, {"predicted_ns": 5}]});
        explain_nulls("bench.result", &mut object);
        let text = r#"{"a":[{"predicted_ns":null,"predicted_ns_why":"no record to predict from","z":1},{"predicted_ns":5}]}"#;
        assert_eq!(object.to_string(), text);
    }
}
