//! What `bench` prints and saves.

use super::super::failure::escape;
use super::super::quantity::{show_count, show_time};
use super::super::save::save_bytes;
use super::super::screen::Paint;
use super::super::table::{Align, lay_out};
use super::{Arguments, Assertion, Failure, Measured, Model, Scenario, Screen, time};
use crate::loadgen::{self, DURATION_PUBLISHED, Figures, Mode};
use crate::schedule::Nanos;
use schema::Picos;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use tuning_db::{Reader, Source};

/// Prints the result; `broken` are the assertions that don't hold.
pub fn print(arguments: &Arguments, screen: &mut Screen, measured: &Measured, broken: &[&Assertion]) {
    screen.result(|| object(arguments, measured), |screen| lines(arguments, screen, measured, broken));
}

fn scenario(arguments: &Arguments) -> &'static str {
    match arguments.scenario {
        Scenario::SingleStream => "single_stream",
        Scenario::MultiStream => "multi_stream",
        Scenario::Server => "server",
        Scenario::Offline => "offline",
    }
}

fn object(arguments: &Arguments, measured: &Measured) -> Value {
    let (figures, settings) = (&measured.figures, &measured.run.settings);
    let first = &measured.models[0];
    let (decision, rows) = (&first.decision, first.batch.rows());
    let nanos = |time: Option<Nanos>| time.map(|time| time.0);
    let latency = |p| nanos(figures.of_queries().percentile(p));
    json!({
        "schema": "bench.result", "version": 1, "file": first.path.display().to_string(),
        "scenario": scenario(arguments), "device": decision.device.0,
        "share_pct": decision.share.as_percent(), "batch": rows, "rung": decision.rung.to_string(),
        "concurrency": arguments.policy.is_none().then(|| super::concurrency(arguments, &measured.models)),
        "requests": figures.samples.count(), "took_ns": figures.took.0,
        "predicted_ns": decision.predicted.map(|p| p.time.as_nanos()),
        "predicted_by": decision.predicted.map(|p| p.evidence.to_string()),
        "p50_ns": latency(0.5), "p99_ns": latency(0.99), "mean_ns": nanos(figures.of_queries().mean()),
        "throughput_per_s": figures.answered_per_s() * f64::from(rows),
        "assertions": arguments.assertions.iter()
            .map(|test| json!({"test": test.text, "holds": test.holds(figures, rows)})).collect::<Vec<_>>(),
        "valid": figures.is_valid(),
        "conditions": figures.conditions.iter()
            .map(|condition| json!({"name": condition.name, "met": condition.met, "found": condition.found})).collect::<Vec<_>>(),
        "short": settings.is_short(), "mode": if settings.mode == Mode::Accuracy { "accuracy" } else { "performance" },
        "queries": figures.queries, "looks": measured.run.looks,
        "target_qps": (arguments.scenario != Scenario::SingleStream && arguments.scenario != Scenario::MultiStream)
            .then_some(settings.target_qps),
        "deadline_ns": nanos(settings.target_latency),
        "in_time": figures.in_time, "refused": figures.refused,
        "goodput_per_s": figures.goodput_per_s() * f64::from(rows),
        "p90_ns": latency(0.9), "p999_ns": latency(0.999), "max_ns": nanos(figures.of_queries().most()),
        "estimate_ns": nanos(figures.estimate),
        "lateness_p99_ns": nanos(figures.lateness.percentile(0.99)),
        "peak": measured.peak.as_ref().map(|peak| json!({
            "target_qps": peak.per_s,
            "probes": peak.probes.iter().map(|(per_s, valid)| json!({"target_qps": per_s, "valid": valid})).collect::<Vec<_>>(),
        })),
        "models": measured.models.iter().enumerate().map(|(at, model)| of_model(measured, at, model)).collect::<Vec<_>>(),
    })
}

/// A model of the mix.
fn of_model(measured: &Measured, at: usize, model: &Model) -> Value {
    let figures = measured.run.figures_of_model(at as u16);
    let nanos = |p| figures.of_queries().percentile(p).map(|time| time.0);
    json!({
        "file": model.path.display().to_string(), "model": model.decision.model, "weight": model.weight,
        "batch": model.batch.rows(), "samples": model.samples, "requests": figures.samples.count(), "in_time": figures.in_time,
        "p50_ns": nanos(0.5), "p99_ns": nanos(0.99),
        "goodput_per_s": figures.goodput_per_s() * f64::from(model.batch.rows()),
        "placed": model.placed.iter().map(|placed| json!({
            "device": placed.device.0, "share_pct": placed.share.as_percent(),
            "rung": placed.rung.to_string(), "runs": placed.answers,
            "predicted_ns": placed.predicted.map(Picos::as_nanos),
            "took_mean_ns": placed.took.as_nanos() / placed.answers.max(1),
        })).collect::<Vec<_>>(),
    })
}

fn lines(arguments: &Arguments, screen: &Screen, measured: &Measured, broken: &[&Assertion]) -> Vec<String> {
    let figures = &measured.figures;
    let fact = |name: &str, value: String| vec![format!("  {name}"), value];
    let mut lines: Vec<String> = measured.models.iter().map(head).collect();
    let mut facts = vec![fact("verdict", verdict(screen, measured))];
    let failed = figures.conditions.iter().filter(|condition| !condition.met);
    facts.extend(failed.map(|condition| fact("", format!("{}: {}", condition.name, condition.found))));
    if let Some(peak) = &measured.peak {
        let found = match peak.per_s {
            Some(per_s) => {
                format!("{} requests/s are valid, a tenth more is not", screen.paint(Paint::Bold, &format!("{per_s:.1}")))
            }
            None => format!("even {:.1} requests/s are not valid; begin lower with --target-qps", peak.probes[0].0),
        };
        facts.push(fact(
            "peak",
            format!("{found} (rates tried: {}; what follows is of {:.1}/s)", peak.probes.len(), measured.run.settings.target_qps),
        ));
    }
    let count = show_count(figures.samples.count());
    facts.push(fact("requests", format!("{count} in {:.1} s", figures.took.as_secs_f64())));
    facts.push(fact("latency", latency(screen, measured)));
    facts.extend(estimate(measured).map(|text| fact("estimate", text)));
    let rows = f64::from(measured.models[0].batch.rows());
    facts.push(fact("throughput", format!("{:.1} rows/s", figures.answered_per_s() * rows)));
    if let Some(bound) = measured.run.settings.target_latency {
        let missed = figures.samples.count() - figures.in_time;
        let text = format!(
            "{:.1} rows/s within {}; {} missed it, of which {} refused",
            figures.goodput_per_s() * rows,
            time(bound),
            show_count(missed),
            show_count(figures.refused)
        );
        facts.push(fact("goodput", text));
    }
    if arguments.scenario == Scenario::Server {
        let text = |latency: Option<Nanos>| latency.map_or("-".to_owned(), time);
        let (p99, most) = (text(figures.lateness.percentile(0.99)), text(figures.lateness.most()));
        facts.push(fact("issued", format!("{p99} late at p99, {most} at most")));
        if arguments.looks > 1 {
            facts.push(fact("looks", format!("{} of at most {}", measured.run.looks, arguments.looks)));
        }
    }
    if measured.models.len() > 1 {
        facts.extend(measured.models.iter().enumerate().map(|(at, model)| fact("", part(measured, at, model))));
    }
    lines.extend(lay_out(&facts, &[Align::Left; 2]));
    lines.extend(broken.iter().map(|test| screen.paint(Paint::Red, &format!("  not met: {}", test.text))));
    lines
}

fn head(model: &Model) -> String {
    let decision = &model.decision;
    let file = escape(&model.path.display().to_string());
    format!("{file}   {} share {}, batch {} ({})", decision.device, decision.share, decision.batch, decision.rung)
}

fn verdict(screen: &Screen, measured: &Measured) -> String {
    let settings = &measured.run.settings;
    let valid = measured.figures.is_valid();
    let (paint, word) = if valid { (Paint::Green, "VALID") } else { (Paint::Red, "INVALID") };
    let word = screen.paint(paint, word);
    let what = match settings.mode {
        Mode::Accuracy => format!("every sample once, {} outputs logged", show_count(measured.run.outputs.len() as u64)),
        Mode::Performance => {
            let asked = settings.duration_min.as_secs_f64();
            let short = format!(", short: {asked} s of the {} s that the rules want", DURATION_PUBLISHED.as_secs_f64());
            format!("{}{}", settings.scenario.rules().name, if settings.is_short() { short } else { String::new() })
        }
    };
    format!("{word} ({what})")
}

fn latency(screen: &Screen, measured: &Measured) -> String {
    let (figures, decision) = (&measured.figures, &measured.models[0].decision);
    let text = |latency: Option<Nanos>| latency.map_or("unanswered".to_owned(), time);
    let queries = figures.of_queries();
    let median = screen.paint(Paint::Bold, &text(queries.percentile(0.5)));
    let took = |placed: &super::Placed| Picos(placed.took.0 / placed.answers.max(1));
    let usual = measured.models[0].placed.iter().max_by_key(|placed| placed.answers);
    let predicted = match (decision.predicted, usual) {
        (Some(p), Some(usual)) => {
            let part = took(usual).as_secs_f64() / p.time.as_secs_f64();
            format!("a run predicted {} by the {}, took {part:.2} of it on average", show_time(p.time), p.evidence)
        }
        _ => "no record to predict from".to_owned(),
    };
    format!("{median} median, {} p99, {} mean; {predicted}", text(queries.percentile(0.99)), text(queries.mean()))
}

/// The estimate by early stopping of the scenario's percentile.
fn estimate(measured: &Measured) -> Option<String> {
    let settings = &measured.run.settings;
    let percentile = 100.0 * settings.percentile;
    let found = measured.figures.estimate?;
    Some(format!("p{percentile} is at most {}, with a confidence of {} %", time(found), 100.0 * settings.confidence()))
}

fn part(measured: &Measured, at: usize, model: &Model) -> String {
    let figures: Figures = measured.run.figures_of_model(at as u16);
    let text = |p| figures.of_queries().percentile(p).map_or("unanswered".to_owned(), time);
    let name = escape(&model.decision.model);
    format!("{name}: {} requests, {} median, {} p99", show_count(figures.samples.count()), text(0.5), text(0.99))
}

/// Writes the log.
///
/// # Errors
/// A path that cannot be written.
pub fn save_log(path: &Path, arguments: &Arguments, measured: &Measured, database: Option<&Path>) -> Result<(), Failure> {
    let machine = super::super::devices::open(&arguments.device)?;
    // Read again: the session doesn't say which generation it goes by. The file is a log of this run, not the database's.
    let generation =
        database.and_then(|path| Reader::open(path, Source::Auto).ok()).map(|reader| reader.generation().to_string());
    let stamp_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut log = Map::new();
    let own = json!({
        "schema": "bench.log", "version": 1,
        "sut_name": format!("tunewright {}", env!("CARGO_PKG_VERSION")), "commit": env!("TUNEWRIGHT_COMMIT"),
        "notice": "By the methods of MLPerf Inference's LoadGen; not an MLPerf result.",
        "stamp_s": stamp_s,
        "machine": {
            "device": machine.device.name.0, "summary": machine.summary, "environment": machine.environment.text,
            "threads": std::thread::available_parallelism().map_or(0, usize::from),
        },
        "database_generation": generation,
        "peak_probes": measured.peak.as_ref().map(|peak| peak.probes.clone()),
        "models": measured.models.iter().enumerate().map(|(at, model)| of_model(measured, at, model)).collect::<Vec<_>>(),
    });
    if let Value::Object(own) = own {
        log.extend(own);
    }
    log.extend(loadgen::log(&measured.run, &measured.figures));
    save_bytes(path, format!("{:#}\n", Value::Object(log)).as_bytes())
}
