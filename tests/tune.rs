//! A real tuning of the shipped model, with real workers: what comes out, and that the second one measures nothing.

use schema::{Batch, NewObservation, Numerics, Observation, Picos, Seed, Share, Split, Subject};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tunewright::agreement::{Tolerance, distance};
use tunewright::artifact::Artifact;
use tunewright::device;
use tunewright::measure::{Phase, Probe};
use tunewright::session::{Evidence, Request, Rung, Session};
use tunewright::tune::{Budget, Event, InMemory, Objective, Options, Outcome, Stop, StoreRecords, Tuned, tune};
use tunewright::wake;
use tunewright::worker;
use tuning_db::{OpenOptions, Store};

/// With a budget of trials, so that what comes out does not hang on how busy the machine is; its time only ends what hangs.
pub(crate) fn options(folder: &Path) -> Options {
    Options {
        devices: vec![device::open("cpu").unwrap()],
        shares: vec![Share::WHOLE],
        batches: vec![Batch::ONE, Batch::new(4).unwrap()],
        dims: BTreeMap::new(),
        budget: Budget { time: Some(Duration::from_secs(120)), trials: Some(20) },
        objective: Default::default(),
        strategy: "auto".to_owned(),
        parallel: None,
        compile_ahead: true,
        numerics: Numerics::Strict,
        max_error: 1e-4,
        seed: Seed(0),
        outputs: vec![folder.join("mnist_cnn.tune")],
        resume: false,
        fresh: false,
        import: Default::default(),
        fold: Default::default(),
        worker: worker::program().unwrap(),
        flags: vec![],
        stamp_s: None,
    }
}

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/mnist_cnn.onnx")
}

fn tuned(outcome: &Outcome) -> &Tuned {
    &outcome.models[0]
}

#[test]
fn the_shipped_model_is_tuned_once_and_never_again() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let mut records = InMemory::new();
    let mut events = Vec::new();
    let flag = AtomicBool::new(false);
    let first = tune(&[model()], &options, &mut records, &flag, &mut |event| events.push(event)).unwrap();
    assert!(first.missing.is_empty(), "{:?}", first.missing);
    // Where the default is shipped, its record comes from another's measurement.
    let observed = records.observations().len() as u64;
    assert!((observed - 2..=observed).contains(&first.measured), "{} of {observed}", first.measured);
    assert!(matches!(events.first(), Some(Event::Start { .. })) && matches!(events.last(), Some(Event::End { .. })));
    // What is counted was spent, by at most two slots at once.
    let counted: Duration = first.phases.each().map(|(_, took)| took).sum();
    assert!(counted <= 2 * first.took, "{:?} in {:?}", first.phases, first.took);
    for phase in [Phase::Propose, Phase::Generate, Phase::Load, Phase::Verify, Phase::Time] {
        assert!(first.phases.of(phase) > Duration::ZERO, "{phase:?}: {:?}", first.phases);
    }
    assert!(events.contains(&Event::Phases { phases: first.phases }));
    assert_eq!(tuned(&first).rows.len(), 2);
    for row in &tuned(&first).rows {
        assert!(row.ratio.hi_ppm >= 1_000_000 && row.default.n > 0 && row.memory_bytes > 0, "{row:?}");
        assert!(row.energy_mj.is_some() != row.energy_why.is_some());
    }
    let artifact = Artifact::open(&options.outputs[0]).unwrap();
    assert_eq!((artifact.entries().len(), artifact.records().len()), (2, 2));
    // Two gaps are within a hundredth of the budget.
    let waking = |one: &&Observation| matches!(one.subject, Subject::Trial { task, .. } if task == wake::task());
    let waking: Vec<Observation> = records.observations().iter().filter(waking).cloned().collect();
    let curve = wake::curves(&waking)[&options.devices[0].key()];
    assert!(waking.len() == 2 && curve.0[0] == 1.0 && curve.0[1..].iter().all(|&factor| factor == curve.0[1]), "{curve:?}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["mnist_cnn.tune"], "no draft is left behind");

    let count = records.observations().len();
    let second = tune(&[model()], &options, &mut records, &flag, &mut |_| {}).unwrap();
    assert_eq!((second.measured, second.stop), (0, Stop::NothingToDo));
    assert_eq!(records.observations().len(), count);
    assert_eq!(tuned(&second).rows, tuned(&first).rows);
    assert!(!tuned(&second).artifact_changed, "an identical artifact is left alone");
}

#[test]
fn a_budget_of_time_ends_a_tuning() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path());
    options.budget = Budget { time: Some(Duration::from_secs(2)), trials: None };
    let start = Instant::now();
    tune(&[model()], &options, &mut InMemory::new(), &AtomicBool::new(false), &mut |_| {}).unwrap();
    assert!(start.elapsed() < Duration::from_secs(30), "a budget of 2 s took {:?}", start.elapsed());
}

#[test]
fn an_interrupted_tuning_saves_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path());
    let mut records = InMemory::new();
    let flag = AtomicBool::new(false);
    let mut stop_at_first_trial = |event: Event| {
        if matches!(event, Event::Trial { .. }) {
            flag.store(true, std::sync::atomic::Ordering::SeqCst);
        }
    };
    let cut = tune(&[model()], &options, &mut records, &flag, &mut stop_at_first_trial).unwrap();
    assert_eq!(cut.stop, Stop::Interrupted);
    // Ways to compute a batch are compared before the first trial, and one may have won.
    let rows = &tuned(&cut).rows;
    assert!(cut.measured > 0 && rows.iter().all(|row| row.split != Split::WHOLE), "{} {rows:?}", cut.measured);
    assert!(Artifact::open(&options.outputs[0]).unwrap().entries().iter().all(|entry| entry.configs.is_empty()));
    // All but the machine's own figures.
    let trial = |one: &&Observation| matches!(one.subject, Subject::Trial { task, .. } if task != wake::task());
    let before = records.observations().iter().filter(trial).count() - Probe::ALL.len();
    assert!(before > 0);
    options.resume = true;
    let on = tune(&[model()], &options, &mut records, &AtomicBool::new(false), &mut |_| {}).unwrap();
    assert!(on.reused as usize >= before && tuned(&on).rows.len() == 2, "{on:?}");
}

/// Ways to compute a batch of sixteen meet right after the start, for half a second and more: some of these moments are in a meeting.
#[test]
fn an_interruption_while_splits_meet_saves_too() {
    for after_ms in [40, 120, 200, 280] {
        let folder = tempfile::tempdir().unwrap();
        let mut options = options(folder.path());
        options.batches = vec![Batch::new(16).unwrap()];
        options.budget.trials = None;
        let flag = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let mut stop_soon = |event: Event| {
                if matches!(event, Event::Start { .. }) {
                    scope.spawn(|| {
                        std::thread::sleep(Duration::from_millis(after_ms));
                        flag.store(true, std::sync::atomic::Ordering::SeqCst);
                    });
                }
            };
            let cut = tune(&[model()], &options, &mut InMemory::new(), &flag, &mut stop_soon).unwrap();
            assert_eq!(cut.stop, Stop::Interrupted, "after {after_ms} ms");
        });
        Artifact::open(&options.outputs[0]).unwrap();
    }
}

/// Without a trial every plan is of defaults, also where the batch is computed in parts: the second tuning still knows the answer.
#[test]
fn a_tuning_without_trials_is_known_to_be_finished() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path());
    options.batches = vec![Batch::new(16).unwrap()];
    options.budget.trials = Some(0);
    let mut records = InMemory::new();
    let mut run = || tune(&[model()], &options, &mut records, &AtomicBool::new(false), &mut |_| {}).unwrap();
    let (first, second) = (run(), run());
    assert!(first.measured > 0 && first.missing.is_empty(), "{first:?}");
    assert_eq!(second.measured, 0);
    assert_eq!(tuned(&second).rows, tuned(&first).rows);
}

#[test]
fn the_database_answers_the_second_tuning() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path());
    options.budget.trials = Some(12);
    options.batches = vec![Batch::ONE];
    let database = folder.path().join("db");
    let run = || {
        let store = Store::open(&database, OpenOptions { snapshot_every: None, serve: false, ..OpenOptions::default() }).unwrap();
        let mut records = StoreRecords::new(&store);
        let outcome = tune(&[model()], &options, &mut records, &AtomicBool::new(false), &mut |_| {}).unwrap();
        store.close().unwrap();
        outcome
    };
    let (first, second) = (run(), run());
    assert!(first.measured > 0 && first.missing.is_empty(), "{first:?}");
    assert_eq!((second.measured, second.stop), (0, Stop::NothingToDo));
    assert_eq!(tuned(&second).rows, tuned(&first).rows);
    assert!(!tuned(&second).artifact_changed);
}

#[test]
fn a_runtime_predicts_by_the_database_and_takes_in_what_is_new_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path());
    options.budget.trials = Some(4);
    options.batches = vec![Batch::ONE];
    let database = folder.path().join("db");
    let open = || Store::open(&database, OpenOptions { snapshot_every: None, serve: false, ..OpenOptions::default() }).unwrap();
    let store = open();
    tune(&[model()], &options, &mut StoreRecords::new(&store), &AtomicBool::new(false), &mut |_| {}).unwrap();
    store.close().unwrap();
    let session = Session::builder().artifact(&options.outputs[0]).database(&database).open().unwrap();
    let predicted = || session.place("mnist_cnn", Batch::ONE, None, None).unwrap().predicted.unwrap();
    let before = predicted();
    assert_eq!(before.evidence, Evidence::Database);
    assert!(!session.refresh().unwrap(), "nothing is new");

    // The same plan again, faster.
    let store = open();
    let key = Artifact::open(&options.outputs[0]).unwrap().provenance().model;
    let row = store.models(key).unwrap().remove(0).observation;
    let schema::Outcome::Ok { mut timing, ratio } = row.outcome else { panic!("{row:?}") };
    timing.median = Picos(timing.median.0 / 3);
    let again = NewObservation {
        subject: row.subject,
        device: row.device,
        device_name: row.device_name,
        share: row.share,
        grant: row.grant,
        numerics: row.numerics,
        outcome: schema::Outcome::Ok { timing, ratio },
        environment: row.environment,
        tool_version: row.tool_version,
        seed: row.seed,
        wall_clock_s: row.wall_clock_s,
    };
    store.append(again).unwrap().wait().unwrap();
    store.close().unwrap();
    assert!(session.refresh().unwrap());
    assert_eq!(predicted().time, timing.median);
}

#[test]
fn a_device_with_memory_of_its_own_is_tuned_beside_the_cpu() {
    let Some(machine) = crate::stages::machine() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path());
    let mut records = InMemory::new();
    let mut run = |options: &Options| {
        let outcome = tune(&[model()], options, &mut records, &AtomicBool::new(false), &mut |_| {}).unwrap();
        assert!(outcome.missing.is_empty(), "{:?}", outcome.missing);
        outcome
    };
    options.batches = vec![Batch::ONE];
    options.budget.trials = Some(20);
    let cpu = std::mem::replace(&mut options.devices, vec![machine.clone()]);
    run(&options);
    options.devices = cpu.into_iter().chain([machine.clone()]).collect();
    options.budget.trials = Some(1);
    let outcome = run(&options);
    let devices: Vec<&str> = tuned(&outcome).rows.iter().map(|row| row.device.as_str()).collect();
    assert_eq!(devices, ["cpu", machine.device.name.0.as_str()]);
    let trials = records.observations().iter().filter_map(|one| match &one.subject {
        schema::Subject::Trial { config, .. } if one.device == machine.key() => Some((config, &one.outcome)),
        _ => None,
    });
    let (timed, fell): (Vec<_>, Vec<_>) = trials.partition(|(_, outcome)| matches!(outcome, schema::Outcome::Ok { .. }));
    assert!(timed.iter().any(|(config, _)| config.variant.contains(".cube_")), "kernels were timed on the device: {fell:?}");
    // A driver on the processor may compile for longer than a candidate is waited for.
    let late =
        |outcome: &schema::Outcome| matches!(outcome, schema::Outcome::Failed { class: schema::FailureClass::Timeout, .. });
    assert!(fell.iter().all(|(_, outcome)| late(outcome)), "every legal config builds and is right: {fell:?}");
    let session = Session::builder().artifact(&options.outputs[0]).device(&machine.device.name.0).open().unwrap();
    let (ports, _) = session.ports("mnist_cnn", Batch::ONE).unwrap();
    let image = kernels::Tensor::new(vec![1, 1, 28, 28], (0..784).map(|i| (i as f32 * 0.01).sin()).collect());
    let request = Request::new("mnist_cnn").input(&ports[0].name, image);
    let there = session.run(&request).unwrap();
    assert_eq!((there.decision.rung, &there.decision.device), (Rung::Exact, &machine.device.name));
    let here = Session::builder().artifact(&options.outputs[0]).open().unwrap().run(&request).unwrap();
    let tolerance = Tolerance { rtol: 1e-4, atol: 0.0 };
    assert!(distance(&there.outputs[0].1, &here.outputs[0].1, tolerance).unwrap().agrees());

    // This process holds all of the device, so that a part of it is not to be had.
    let least = Share::percent(machine.shares_pct()[0]).unwrap();
    if least == Share::WHOLE {
        return;
    }
    let request = request.share(least);
    let alone = || Session::builder().artifact(&options.outputs[0]).device(&machine.device.name.0);
    let error = alone().open().unwrap().run(&request).unwrap_err().to_string();
    assert!(error.contains("one process has one share of it"), "{error}");
    let session = alone().failover("cpu").open().unwrap();
    for _ in 0..2 {
        let answer = session.run(&request).unwrap();
        assert_eq!((answer.decision.device.0.as_str(), answer.decision.rung), ("cpu", Rung::OtherShare));
        let [(lost, why)] = &answer.decision.lost[..] else { panic!("{:?}", answer.decision.lost) };
        assert!(*lost == machine.device.name && why.contains("one process has one share of it"), "{why}");
        assert!(distance(&answer.outputs[0].1, &here.outputs[0].1, tolerance).unwrap().agrees());
    }
    let placed = session.place("mnist_cnn", Batch::ONE, None, None).unwrap();
    assert_eq!(placed.device.0, "cpu", "what is lost is not placed on any more");
}

#[test]
fn throughput_is_judged_with_every_part_loaded_and_apart_from_latency() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path());
    let machine = &options.devices[0];
    // The smallest share there is: as many parts as possible are loaded.
    options.shares = vec![Share::percent(*machine.shares_pct().first().unwrap()).unwrap()];
    options.batches = vec![Batch::ONE];
    options.objective = Objective::Throughput;
    let mut records = InMemory::new();
    let mut run = |options: &Options| tune(&[model()], options, &mut records, &AtomicBool::new(false), &mut |_| {}).unwrap();
    let (first, second) = (run(&options), run(&options));
    let row = &tuned(&first).rows[0];
    let rate = 1e3 / row.tuned.median.as_secs_f64();
    assert!((row.throughput_milli_per_s as f64 / rate - 1.0).abs() < 0.01, "{row:?}");
    assert_eq!((second.measured, &tuned(&second).rows), (0, &tuned(&first).rows));
    options.objective = Objective::Latency;
    let alone = run(&options);
    assert!(alone.reused > 0 && alone.measured > 0, "tasks are known, the model has not been judged alone: {alone:?}");
    let mechanisms: Vec<String> = records
        .observations()
        .iter()
        .filter(|one| matches!(one.subject, schema::Subject::Model(_)))
        .map(|one| one.grant.mechanism.clone())
        .collect();
    assert!(
        mechanisms.contains(&"core_sets, all loaded".to_owned()) && mechanisms.contains(&"core_sets".to_owned()),
        "{mechanisms:?}"
    );
}

/// For people: `TUNE_MODELS=a.onnx,b.onnx cargo test --release tunes_by_hand -- --ignored --nocapture`.
#[test]
#[ignore = "by hand"]
fn tunes_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let models: Vec<PathBuf> = std::env::var("TUNE_MODELS").unwrap().split(',').map(PathBuf::from).collect();
    let seconds = std::env::var("TUNE_SECONDS").map_or(60, |text| text.parse().unwrap());
    for model in models {
        let mut options = options(folder.path());
        options.budget = Budget { time: Some(Duration::from_secs(seconds)), trials: None };
        options.shares = vec![Share::percent(50.0).unwrap(), Share::WHOLE];
        options.dims = std::env::var("TUNE_DIMS")
            .unwrap_or_default()
            .split(',')
            .filter_map(|dim| dim.split_once('='))
            .map(|(name, size)| (name.to_owned(), size.parse().unwrap()))
            .collect();
        let verbose = std::env::var("TUNE_VERBOSE").is_ok();
        let start = Instant::now();
        let mut tell = |event: Event| {
            if verbose {
                eprintln!("{:7.3} {event:?}", start.elapsed().as_secs_f64());
            }
        };
        let mut records = InMemory::new();
        match tune(std::slice::from_ref(&model), &options, &mut records, &AtomicBool::new(false), &mut tell) {
            Ok(outcome) => {
                let one = tuned(&outcome);
                eprintln!(
                    "{} {} tasks, {} distinct, kept {}; measured {} refused {:?} {} took {:.1}",
                    one.name,
                    one.tasks,
                    one.distinct,
                    one.kept_default,
                    outcome.measured,
                    outcome.refused,
                    outcome.stop,
                    outcome.took.as_secs_f64()
                );
                for row in &one.rows {
                    eprintln!(
                        "  batch {} share {:>3} {:9.3} → {:9.3} ms {:.3} ({:.3} … {:.3}) {:?} kept {} n {}",
                        row.batch,
                        row.share.to_string(),
                        row.default.median.as_millis_f64(),
                        row.tuned.median.as_millis_f64(),
                        row.ratio.ppm as f64 / 1e6,
                        row.ratio.lo_ppm as f64 / 1e6,
                        row.ratio.hi_ppm as f64 / 1e6,
                        row.noise,
                        row.kept,
                        row.default.n
                    );
                }
                if verbose {
                    for gain in &one.gains {
                        eprintln!(
                            "  {} {} x{} {:?} {:?} tried {} {}",
                            gain.share,
                            gain.task,
                            gain.count,
                            gain.default.map(|t| t.as_millis_f64()),
                            gain.tuned.map(|t| t.as_millis_f64()),
                            gain.tried,
                            gain.config
                        );
                    }
                }
                outcome.missing.iter().for_each(|line| eprintln!("  missing {line}"));
            }
            Err(error) => eprintln!("{}: {error}", model.display()),
        }
    }
}
