//! Whole runs on a simulated clock against systems whose latencies are known.

use super::mersenne::Mersenne;
use super::*;
use crate::schedule::Nanos;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// Time that passes only where somebody waits.
struct SimulatedClock(AtomicU64);

impl Clock for SimulatedClock {
    fn now(&self) -> Nanos {
        Nanos(self.0.load(Ordering::Relaxed))
    }

    fn wait_until(&self, at: Nanos) {
        self.0.fetch_max(at.0, Ordering::Relaxed);
    }
}

/// A system from a function: of the instant of issue and the sample, when it is over and how.
struct Simulated<F> {
    clock: Arc<dyn Clock>,
    law: RefCell<F>,
    /// Whether whoever issues is held until the answer is there.
    blocks: bool,
}

impl<F: FnMut(Nanos, &Sample) -> (Nanos, Outcome)> SystemUnderTest for Simulated<F> {
    fn issue(&self, samples: &[Sample], responses: &Arc<Responses>) {
        for sample in samples {
            let (over, outcome) = (self.law.borrow_mut())(self.clock.now(), sample);
            responses.complete_at(over, sample.id, outcome);
            if self.blocks {
                self.clock.wait_until(over);
            }
        }
    }
}

fn simulate(settings: &Settings, blocks: bool, law: impl FnMut(Nanos, &Sample) -> (Nanos, Outcome)) -> Run {
    // A clock that began long before the run: only differences may count.
    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock(AtomicU64::new(77 * SECOND)));
    let system = Simulated { clock: Arc::clone(&clock), law: RefCell::new(law), blocks };
    run(settings, &Library::new([(16, 1.0)]).unwrap(), &system, &clock).unwrap()
}

/// A system with a queue, one at a time, `service` each.
fn queue(service: Nanos) -> impl FnMut(Nanos, &Sample) -> (Nanos, Outcome) {
    let mut free = Nanos::ZERO;
    move |now, _| {
        free = free.max(now) + service;
        (free, Outcome::Answered(None))
    }
}

fn server(per_s: f64, seconds: u64, bound: Nanos) -> Settings {
    let settings = Settings::published(Scenario::Server).lasting(Nanos(seconds * SECOND));
    Settings { target_qps: per_s, target_latency: Some(bound), ..settings }
}

fn campaign() -> bool {
    std::env::var("TUNEWRIGHT_CAMPAIGN").is_ok_and(|profile| profile == "campaign")
}

/// Those of LoadGen 6.0.17 (`tests/campaigns/loadgen.py schedule`), which logs the instant after the last as the schedule's duration.
#[test]
fn a_hundred_thousand_arrivals_have_a_known_digest() {
    let mut digest = blake3::Hasher::new();
    let mut arrivals = Arrivals::new(100.0, Seeds::PUBLISHED.schedule);
    for at in arrivals.by_ref().take(100_000) {
        digest.update(&at.0.to_le_bytes());
    }
    assert_eq!(&digest.finalize().to_hex()[..32], "33f2c3ec205cdb21c6f1e00a5faa5468");
    assert_eq!(arrivals.next(), Some(Nanos(995_700_540_558)));
}

/// A second in which nothing goes on at 100 queries a second makes about 100 queries late, whether the system takes queries meanwhile
/// or holds up whoever brings them.
#[test]
fn a_stall_makes_late_what_should_have_come_meanwhile() {
    for blocks in [false, true] {
        let mut stalled = false;
        let run = simulate(&server(100.0, 60, Nanos(5 * MS)), blocks, move |now, _| {
            let stalls = !stalled && now.0 >= (77 + 30) * SECOND;
            stalled |= stalls;
            // Those that queue behind the stall are served at once, as only the stall is looked at.
            let wait = if stalls { SECOND } else { 0 };
            let over = if blocks || stalls { now.0 + wait } else { now.0 };
            let held = !blocks && stalled && now.0 < (77 + 31) * SECOND;
            (Nanos(if held { (77 + 31) * SECOND } else { over }), Outcome::Answered(None))
        });
        let figures = run.figures();
        let late = figures.samples.over(Nanos(5 * MS));
        // Four standard deviations of a Poisson number of 100 are 40.
        assert!((60..=140).contains(&late), "{late} late, blocks: {blocks}");
        assert!(figures.samples.most().unwrap() >= Nanos(900 * MS));
        assert_eq!(figures.meets("lateness of issue"), Some(!blocks), "only a system that blocks makes the issuer late");
    }
}

#[test]
fn a_server_within_its_bound_is_valid_and_one_beyond_is_not() {
    let figures = simulate(&server(100.0, 600, Nanos(100 * MS)), false, queue(Nanos(5 * MS))).figures();
    assert!(figures.is_valid(), "{:?}", figures.conditions);
    assert!((figures.goodput_per_s() / 100.0 - 1.0).abs() < 0.02 && (figures.completed_per_s() / 100.0 - 1.0).abs() < 0.02);
    assert!(figures.samples.percentile(0.5).unwrap() >= Nanos(5 * MS));

    let overloaded = simulate(&server(100.0, 60, Nanos(100 * MS)), false, queue(Nanos(11 * MS))).figures();
    assert_eq!((overloaded.meets("percentile"), overloaded.meets("early stopping")), (Some(false), Some(false)));
    assert_eq!((overloaded.meets("duration"), overloaded.meets("answers")), (Some(true), Some(true)));
    assert!(overloaded.goodput_per_s() < 20.0, "{}", overloaded.goodput_per_s());
}

/// The shares of late queries that single looks let pass: at most 1 % at exactly p, nearly all well within.
#[test]
fn one_look_passes_a_system_at_the_percentile_in_at_most_one_of_a_hundred_runs() {
    let (runs, sizes): (u64, &[u64]) = if campaign() { (10_000, &[2_000, 10_000]) } else { (500, &[2_000]) };
    for &queries in sizes {
        let (at, within) = (passes(runs, queries, 1, 0.01), passes(runs / 10, queries, 1, 0.001));
        println!(
            "{queries} queries, one look: {at} of {runs} runs passed at exactly p, {within} of {} at a tenth of it",
            runs / 10
        );
        assert!(at * 100 <= runs && within * 1000 >= runs * 98, "{at} and {within} of {runs}, seeds from 0");
    }
}

/// With up to 20 looks, each of a higher confidence.
#[test]
fn several_looks_pass_no_more_often_than_one() {
    let runs = if campaign() { 10_000 } else { 300 };
    let passed = passes(runs, 2_000, 20, 0.01);
    println!("2000 queries and up to 20 looks: {passed} of {runs} runs passed at exactly p");
    assert!(passed * 100 <= runs, "{passed} of {runs}, seeds from 0");
}

/// Of so many runs, those that early stopping lets pass when each query is late with a probability of `late_part`.
fn passes(runs: u64, queries: u64, looks_max: u32, late_part: f64) -> u64 {
    let settings = Settings { queries_min: queries, looks_max, ..server(1000.0, 1, Nanos(10 * MS)) };
    let settings = Settings { duration_min: Nanos(1), ..settings };
    let pass = |seed: &u64| {
        let mut random = Mersenne::new(*seed);
        let run = simulate(&settings, false, |now, _| {
            let late = random.unit() < late_part;
            (now + Nanos(if late { 11 * MS } else { MS }), Outcome::Answered(None))
        });
        assert!(run.looks >= 1 && run.looks <= looks_max);
        run.figures().meets("early stopping") == Some(true)
    };
    (0..runs).filter(pass).count() as u64
}

/// A run that needs more queries to pass goes on to exactly as many, and says that it looked twice.
#[test]
fn a_second_look_comes_after_as_many_queries_as_the_first_wanted() {
    let settings = Settings { queries_min: 1_000, looks_max: 20, ..server(1000.0, 1, Nanos(10 * MS)) };
    // Three of the first thousand are late, none later.
    let law = |now: Nanos, sample: &Sample| {
        let late = [10, 500, 700].contains(&sample.id);
        (now + Nanos(if late { 20 * MS } else { MS }), Outcome::Answered(None))
    };
    let run = simulate(&settings, false, law);
    let figures = run.figures();
    assert_eq!((run.looks, figures.queries), (2, EarlyStopping::new(0.99, 0.999).queries_min(3)));
    assert!(figures.is_valid(), "{:?}", figures.conditions);
    let once = simulate(&Settings { looks_max: 1, ..settings }, false, law);
    assert_eq!((once.looks, once.figures().queries < 1_100), (1, true), "one look fixes the size beforehand");
}

#[test]
fn streams_wait_for_their_answers_and_report_the_estimate() {
    let law = |now: Nanos, sample: &Sample| {
        (now + Nanos(if sample.id.is_multiple_of(20) { 9 * MS } else { 4 * MS }), Outcome::Answered(None))
    };
    let figures = simulate(&Settings::published(Scenario::SingleStream).lasting(Nanos(10 * SECOND)), false, law).figures();
    assert!(figures.is_valid(), "{:?}", figures.conditions);
    assert_eq!((figures.estimate, figures.estimate_p99), (Some(Nanos(4 * MS)), Some(Nanos(9 * MS))));
    assert_eq!((figures.samples.percentile(0.9), figures.samples.percentile(0.99)), (Some(Nanos(4 * MS)), Some(Nanos(9 * MS))));
    assert!(figures.last_issued >= Nanos(10 * SECOND) && figures.last_issued < Nanos(10 * SECOND + 9 * MS));

    let short = simulate(&Settings::published(Scenario::SingleStream).lasting(Nanos(100 * MS)), false, law).figures();
    assert_eq!((short.is_valid(), short.meets("early stopping"), short.estimate), (false, Some(false), None), "too few queries");

    // Eight samples of a query, one after the other: 8 answers, and one query latency.
    let several = simulate(&Settings::published(Scenario::MultiStream), false, queue(Nanos(MS))).figures();
    assert!(several.is_valid() && several.queries == 75_001, "{}: {:?}", several.queries, several.conditions);
    assert_eq!((several.of_queries().most(), several.samples.least()), (Some(Nanos(8 * MS)), Some(Nanos(MS))));
    assert_eq!(several.estimate, Some(Nanos(8 * MS)));
}

#[test]
fn offline_takes_as_long_as_was_asked_for_when_the_rate_is_right() {
    let settings = Settings { target_qps: 1000.0, ..Settings::published(Scenario::Offline).lasting(Nanos(10 * SECOND)) };
    let figures = simulate(&settings, false, queue(Nanos(MS))).figures();
    assert!(figures.is_valid() && figures.samples.count() == 11_000, "{:?}", figures.conditions);
    assert!((figures.answered_per_s() - 1000.0).abs() < 1e-6);
    let fast = simulate(&settings, false, queue(Nanos(MS / 2))).figures();
    assert_eq!(fast.meets("duration"), Some(false), "more was expected of it");

    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock(AtomicU64::new(0)));
    let system = Simulated { clock: Arc::clone(&clock), law: RefCell::new(queue(Nanos(MS))), blocks: false };
    let library = Library::new([(16, 1.0)]).unwrap();
    let rate = rate_at_once(&library, &system, &clock, Nanos(SECOND)).unwrap();
    assert!((rate - 1000.0).abs() < 1.0, "{rate}");
}

/// Refusals are late, whatever the bound: they spoil the percentile, the mean is over what was answered.
#[test]
fn refusals_count_as_misses() {
    let law = |now: Nanos, sample: &Sample| match sample.id % 50 {
        0 => (now, Outcome::Refused),
        _ => (now + Nanos(MS), Outcome::Answered(None)),
    };
    let figures = simulate(&server(1000.0, 10, Nanos(10 * MS)), false, law).figures();
    let refused = figures.samples.count().div_ceil(50);
    assert_eq!((figures.refused, figures.samples.over(Nanos(10 * MS))), (refused, refused));
    assert_eq!((figures.samples.percentile(0.99), figures.samples.mean()), (None, Some(Nanos(MS))));
    assert_eq!((figures.meets("percentile"), figures.meets("answers")), (Some(false), Some(true)));
    assert_eq!(figures.in_time + refused, figures.samples.count());
}

/// Answers nothing before the flush.
struct Silent(std::sync::Mutex<Vec<(u64, Arc<Responses>)>>);

impl SystemUnderTest for Silent {
    fn issue(&self, samples: &[Sample], responses: &Arc<Responses>) {
        self.0.lock().unwrap().extend(samples.iter().map(|sample| (sample.id, Arc::clone(responses))));
    }

    fn flush(&self) {
        self.0.lock().unwrap().drain(..).for_each(|(id, responses)| responses.complete(id, Outcome::Answered(None)));
    }
}

#[test]
fn a_run_ends_early_when_too_much_is_under_way_or_something_fails() {
    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock(AtomicU64::new(0)));
    let settings = Settings { outstanding_max: 50, ..server(1000.0, 60, Nanos(10 * MS)) };
    let run = run(&settings, &Library::new([(1, 1.0)]).unwrap(), &Silent(Default::default()), &clock).unwrap();
    assert_eq!(run.end, End::Overrun(51));
    let figures = run.figures();
    assert_eq!((figures.queries, figures.meets("answers"), figures.meets("duration")), (51, Some(false), Some(false)));

    for scenario in [Scenario::SingleStream, Scenario::Server, Scenario::Offline] {
        let settings = Settings { target_qps: 100.0, ..Settings::published(scenario) };
        let run = simulate(&settings, false, |now, sample| match sample.id {
            7 => (now, Outcome::Failed("out of memory".to_owned())),
            _ => (now + Nanos(MS), Outcome::Answered(None)),
        });
        let figures = run.figures();
        assert_eq!((run.end, figures.failed), (End::Failed("out of memory".to_owned()), 1));
        assert!(!figures.is_valid() && (scenario == Scenario::Offline || figures.queries == 8));
    }
}

/// A system that answers twice, or what nobody asked, is told so.
#[test]
fn strange_answers_make_a_run_invalid() {
    struct Echo;
    impl SystemUnderTest for Echo {
        fn issue(&self, samples: &[Sample], responses: &Arc<Responses>) {
            for sample in samples {
                (0..2).for_each(|_| responses.complete(sample.id, Outcome::Answered(None)));
            }
            responses.complete(u64::MAX, Outcome::Answered(None));
        }
    }
    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock(AtomicU64::new(0)));
    let run = run(&server(100.0, 10, Nanos(MS)), &Library::new([(1, 1.0)]).unwrap(), &Echo, &clock).unwrap();
    let answers = run.figures().conditions.into_iter().find(|condition| condition.name == "answers").unwrap();
    assert!(!answers.met && answers.found.contains("answers to samples that wanted none"), "{}", answers.found);
}

#[test]
fn accuracy_mode_logs_every_output_once_and_performance_mode_some() {
    let law = |now: Nanos, sample: &Sample| {
        let output = sample.logged.then(|| vec![sample.index as u8, 0xab]);
        (now + Nanos(MS), Outcome::Answered(output))
    };
    for scenario in RULES.iter().map(|rules| rules.scenario) {
        let settings = Settings { mode: Mode::Accuracy, target_qps: 10.0, ..Settings::published(scenario) };
        let run = simulate(&settings, false, law);
        let log = log(&run, &run.figures());
        assert_eq!((&log["effective_test_mode"], &log["result_validity"]), (&"AccuracyOnly".into(), &"VALID".into()));
        let logged = log["accuracy"].as_array().unwrap();
        let mut seen: Vec<u64> = logged.iter().map(|output| output["qsl_idx"].as_u64().unwrap()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..16).collect::<Vec<_>>(), "{scenario:?}");
        assert!(logged.iter().all(|one| one["data"] == format!("{:02X}AB", one["qsl_idx"].as_u64().unwrap())));
    }
    let settings = Settings { outputs_logged: 20, ..server(100.0, 10, Nanos(10 * MS)) };
    let logged = simulate(&settings, false, law).outputs.len();
    assert!((5..=40).contains(&logged), "{logged} of about 1000");
}

#[test]
fn the_log_has_loadgens_keys_and_names_what_failed() {
    let run = simulate(&server(100.0, 5, Nanos(10 * MS)), false, queue(Nanos(9 * MS)));
    let log = log(&run, &run.figures());
    for key in [
        "effective_target_qps",
        "effective_schedule_rng_seed",
        "result_validity",
        "result_completed_samples_per_sec",
        "result_99.00_percentile_latency_ns",
        "result_99.90_percentile_latency_ns",
        "early_stopping_met",
    ] {
        assert!(log.get(key).is_some_and(|value| !value.is_null()), "{key} in {log:?}");
    }
    assert_eq!(log["effective_schedule_rng_seed"], "16159082839903944936");
    assert_eq!((&log["result_validity"], &log["short"]), (&"INVALID".into(), &true.into()));
    let why = log["result_invalid_reason"].as_str().unwrap();
    assert!(why.contains("percentile: p99 is") && why.contains("early stopping:") && !why.contains("duration"), "{why}");
}

/// A mix: each model has figures of its own, and together they are the run's.
#[test]
fn a_mix_is_told_by_model() {
    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock(AtomicU64::new(0)));
    let law = |now: Nanos, sample: &Sample| (now + Nanos(MS * (1 + u64::from(sample.model))), Outcome::Answered(None));
    let system = Simulated { clock: Arc::clone(&clock), law: RefCell::new(law), blocks: false };
    let library = Library::new([(1, 3.0), (2, 1.0)]).unwrap();
    let run = run(&server(1000.0, 10, Nanos(10 * MS)), &library, &system, &clock).unwrap();
    let (all, first, second) = (run.figures(), run.figures_of_model(0), run.figures_of_model(1));
    assert_eq!(first.samples.count() + second.samples.count(), all.samples.count());
    assert_eq!((first.samples.most(), second.samples.least()), (Some(Nanos(MS)), Some(Nanos(2 * MS))));
    assert!((first.queries as f64 / all.queries as f64 - 0.75).abs() < 0.03);
    assert!(first.conditions.iter().all(|condition| condition.met) && first.meets("duration").is_none());
}

/// The same settings give the same run to the last nanosecond.
#[test]
fn runs_repeat() {
    let run = || {
        let run = simulate(&server(500.0, 10, Nanos(10 * MS)), false, queue(Nanos(MS)));
        serde_json::Value::from(log(&run, &run.figures())).to_string()
    };
    assert_eq!(run(), run());
}
