//! A session answers requests from several threads, each with the decision behind it.

use crate::models::bound;
use crate::shipped::mnist_cnn;
use kernels::Tensor;
use schema::{Batch, Device, Environment, NoiseGrade, Observation, ObservationId, Outcome, Picos, Share, Split, Subject, Timing};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tunewright::artifact::{self, Bound, Contents, Entry};
use tunewright::device::{self, Machine};
use tunewright::execute::{Configs, Plan};
use tunewright::passes::{Options, Pipeline};
use tunewright::session::{Evidence, Prediction, Request, Rung, Session, SessionError};

fn record(machine: &Machine, share: Share, millis: f64) -> Observation {
    let timing = Timing { median: Picos::from_secs_f64(millis * 1e-3), mad: Picos(1), p99: Picos(1), n: 9, grade: NoiseGrade::A };
    Observation {
        id: ObservationId { writer: [1; 16], seq: 1 },
        subject: Subject::Trial {
            task: schema::TaskKey::of("t"),
            config: schema::Config { variant: "v".into(), revision: 1, knobs: vec![] },
        },
        device: machine.key(),
        device_name: machine.device.name.clone(),
        share,
        grant: machine.grant(share).expect("a share").grant,
        numerics: schema::Numerics::Strict,
        outcome: Outcome::Ok { timing, ratio: None },
        environment: machine.environment.key(),
        tool_version: "0".into(),
        seed: schema::Seed(0),
        wall_clock_s: 0,
    }
}

/// An artifact of the shipped model at batches 1 and 4, with an entry for each of `tuned`: device text, share, milliseconds.
pub fn artifact(folder: &Path, tuned: &[(&Device, Share, f64)]) -> PathBuf {
    let machine = device::open("cpu").expect("there is a processor");
    let graph = |rows: u32| {
        let mut graph = bound(&mnist_cnn(), rows);
        Pipeline::untimed().run(&mut graph, &Options::default()).expect("the passes run");
        Bound { batch: Batch::new(rows).unwrap(), dims: vec![], graph }
    };
    let graphs = vec![graph(1), graph(4)];
    let entry = |(i, (device, share, _)): (usize, &(&Device, Share, f64))| Entry {
        device: (*device).clone(),
        environment: Environment { text: machine.environment.text.clone() },
        share: *share,
        grant: schema::Grant { mechanism: "core_sets".into(), units: 1 },
        batch: Batch::ONE,
        dims: vec![],
        graph: 0,
        split: Split::WHOLE,
        configs: vec![],
        record: Some(i),
    };
    let contents = Contents {
        entries: tuned.iter().enumerate().map(entry).collect(),
        records: tuned.iter().map(|(_, share, millis)| record(&machine, *share, *millis)).collect(),
        ..Contents::untuned("mnist_cnn", graphs)
    };
    let path = folder.join("mnist_cnn.tune");
    artifact::write(&path, &contents).expect("the artifact is written");
    path
}

pub fn image(rows: usize) -> Tensor {
    Tensor::new(vec![rows, 1, 28, 28], (0..rows * 784).map(|i| (i as f32 * 0.013).sin()).collect())
}

/// A share that every machine can give, whatever its number of cores.
fn smallest() -> Share {
    Share::percent(device::open("cpu").unwrap().shares_pct()[0]).unwrap()
}

#[test]
fn answers_from_several_threads_are_those_of_a_plan() {
    let folder = tempfile::tempdir().unwrap();
    let here = device::open("cpu").unwrap();
    let path = artifact(folder.path(), &[(&here.device, Share::WHOLE, 1.0), (&here.device, smallest(), 2.0)]);
    let session = Session::builder().artifact(&path).open().unwrap();
    let limits = here.limits;
    for rows in [1, 4] {
        let mut graph = bound(&mnist_cnn(), rows as u32);
        Pipeline::untimed().run(&mut graph, &Options::default()).unwrap();
        let mut plan = Plan::compile(&graph, &Configs::new(), &limits).unwrap();
        let name = plan.inputs().next().unwrap().name.clone();
        let wanted = plan.run(&[(name.as_str(), image(rows))]).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        let answer = session.run(&Request::new("mnist_cnn").input(&name, image(rows))).unwrap();
                        assert_eq!(answer.outputs[0].1, wanted[0]);
                        assert!(answer.decision.actual.is_some());
                        let rung = if rows == 1 { Rung::Exact } else { Rung::Default };
                        assert_eq!((answer.decision.rung, answer.decision.batch.rows() as usize), (rung, rows));
                    }
                });
            }
        });
    }
}

#[test]
fn a_decision_says_why_each_rival_lost() {
    let folder = tempfile::tempdir().unwrap();
    let here = device::open("cpu").unwrap();
    let other = Device { text: "another processor".into(), ..here.device.clone() };
    let mut tuned = vec![(&here.device, Share::WHOLE, 1.0), (&other, Share::WHOLE, 0.1)];
    if smallest() != Share::WHOLE {
        tuned.push((&here.device, smallest(), 2.0));
    }
    let path = artifact(folder.path(), &tuned);
    let session = Session::builder().artifact(&path).open().unwrap();
    let deadline = Some(Duration::from_micros(1500));
    let decision = session.place("mnist_cnn", Batch::ONE, deadline, None).unwrap();
    let by = |evidence, ms: f64| Some(Prediction { time: Picos::from_secs_f64(ms * 1e-3), evidence });
    assert_eq!((decision.share, decision.rung, decision.keeps_deadline), (Share::WHOLE, Rung::Exact, Some(true)));
    assert_eq!((decision.predicted, decision.actual), (by(Evidence::Artifact, 1.0), None));
    let mut why: Vec<String> = decision.rivals.iter().map(|rival| rival.why.to_string()).collect();
    why.sort_unstable();
    let known = ["was tuned on another device", "defaults are only taken where nothing was tuned"];
    assert!(known.iter().all(|want| why.iter().any(|why| why == want)));
    assert!(smallest() == Share::WHOLE || why.iter().any(|why| why == "misses the deadline by 0.500 ms"), "{why:?}");
    let error = session.place("mnist_cnn", Batch::new(3).unwrap(), None, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "'mnist_cnn' has no graph for batch 3; it has batch 1, batch 4; tune it with that --batch or --dim"
    );
    let error = session.place("resnet", Batch::ONE, None, None).unwrap_err();
    assert_eq!(error.to_string(), "there is no model 'resnet'; there are mnist_cnn");
}

#[test]
fn what_was_not_tuned_here_runs_with_defaults_unless_that_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let other = Device { name: schema::DeviceName("cuda:0".into()), text: "another".into() };
    let path = artifact(folder.path(), &[(&other, Share::WHOLE, 0.1)]);
    let request = Request::new("mnist_cnn").input("image", image(1));
    let session = Session::builder().artifact(&path).open().unwrap();
    assert_eq!(session.run(&request).unwrap().decision.rung, Rung::Default);
    let strict = Session::builder().artifact(&path).require_tuned(true).open().unwrap();
    match strict.run(&request).unwrap_err() {
        SessionError::Artifact(error) => assert_eq!(error.class(), "untuned"),
        other => panic!("{other}"),
    }
    let wrong = session.run(&Request::new("mnist_cnn").input("image", image(2))).unwrap_err();
    assert!(matches!(wrong, SessionError::NoGraph { .. }), "{wrong}");
    let missing = session.run(&Request::new("mnist_cnn")).unwrap_err();
    assert!(matches!(missing, SessionError::Run { .. }), "{missing}");
    let impossible = session.run(&request.share(Share::percent(0.1).unwrap())).unwrap_err();
    assert!(matches!(impossible, SessionError::Share(_)), "{impossible}");
}
