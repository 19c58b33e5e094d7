//! `tunewright bench` on real artifacts: scenarios, verdicts, mixes, samples, the log. Whether a run is in time depends on the machine,
//! so bounds here are wide, or such that nothing keeps them.

use crate::cli::tunewright;
use crate::shipped::mnist_cnn;
use kernels::Tensor;
use serde_json::Value;
use std::fs;
use tunewright::{artifact, npz};

/// A home with the shipped model's artifact and a small one.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let tuned = tunewright(home.path(), &["tune", mnist_cnn().to_str().unwrap(), "--budget", "trials=4", "--db", "db"]);
    assert_eq!(tuned.status.code(), Some(0), "{}", String::from_utf8_lossy(&tuned.stderr));
    artifact::write(&home.path().join("small.tune"), &crate::artifact::contents()).unwrap();
    home
}

/// What `bench` prints with `--json`, and its exit code.
fn bench(home: &tempfile::TempDir, line: &str) -> (Value, i32) {
    let words: Vec<&str> = ["--json", "--db", "db", "bench"].into_iter().chain(line.split_whitespace()).collect();
    let output = tunewright(home.path(), &words);
    let code = output.status.code().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let object = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{line}: {error}: {said}"));
    (object, code)
}

fn condition(object: &Value, name: &str) -> Option<bool> {
    let found = object["conditions"].as_array().unwrap().iter().find(|condition| condition["name"] == name)?;
    found["met"].as_bool()
}

#[test]
fn a_verdict_names_what_failed_and_only_an_assertion_makes_it_the_exit_code() {
    let home = home();
    let server = "mnist_cnn.tune --scenario server --target-qps 2000 --duration 400ms";
    let (wide, code) = bench(&home, &format!("{server} --deadline 10s --assert valid --assert p99<10s"));
    assert_eq!((code, &wide["valid"], &wide["short"]), (0, &true.into(), &true.into()), "{wide}");
    assert_eq!((&wide["in_time"], &wide["looks"]), (&wide["requests"], &1.into()));
    // The published seed decides how many arrive.
    let (again, _) = bench(&home, &format!("{server} --deadline 10s"));
    assert_eq!(wide["requests"], again["requests"]);

    let (narrow, code) = bench(&home, &format!("{server} --deadline 1us"));
    assert_eq!((code, &narrow["valid"], &narrow["in_time"]), (0, &false.into(), &0.into()), "{narrow}");
    let failed = ["percentile", "early stopping"].map(|name| condition(&narrow, name));
    assert_eq!((failed, condition(&narrow, "duration")), ([Some(false); 2], Some(true)), "{narrow}");
    let (_, code) = bench(&home, &format!("{server} --deadline 1us --assert valid"));
    assert_eq!(code, 1);
}

#[test]
fn streams_and_offline_report_their_own_figures() {
    let home = home();
    let (single, _) = bench(&home, "mnist_cnn.tune --duration 300ms");
    assert_eq!((&single["scenario"], condition(&single, "percentile")), (&"single_stream".into(), None), "{single}");
    assert!(single["estimate_ns"].as_u64() >= single["p90_ns"].as_u64(), "the estimate is on the safe side: {single}");
    let (multi, _) = bench(&home, "mnist_cnn.tune --duration 300ms --scenario multi-stream");
    assert_eq!(multi["requests"].as_u64(), multi["queries"].as_u64().map(|queries| 8 * queries), "{multi}");
    let (offline, _) = bench(&home, "mnist_cnn.tune --duration 300ms --scenario offline");
    let (requests, expected) = (offline["requests"].as_f64().unwrap(), offline["target_qps"].as_f64().unwrap());
    assert_eq!((offline["queries"].as_u64(), requests), (Some(1), (1.1 * 0.3 * expected).floor()), "{offline}");
}

#[test]
fn the_peak_is_a_rate_that_was_valid() {
    let home = home();
    // Nothing keeps up with a rate at which 10 s of arrivals end early.
    let line = "mnist_cnn.tune --scenario server --find-peak --target-qps 5000 --duration 100ms --deadline 1ms";
    let (found, code) = bench(&home, line);
    let probes = found["peak"]["probes"].as_array().unwrap();
    let peak = found["peak"]["target_qps"].as_f64();
    assert_eq!(code, 0);
    match peak {
        Some(peak) => assert!(probes.iter().any(|probe| probe["target_qps"] == peak && probe["valid"] == true), "{found}"),
        None => assert!(probes.len() == 1 && probes[0]["valid"] == false, "{found}"),
    }
}

#[test]
fn a_mix_runs_both_and_tells_each() {
    let home = home();
    let (mix, code) = bench(&home, "mnist_cnn.tune small.tune --mix mnist_cnn=3,small=1 --duration 300ms");
    assert_eq!(code, 0, "{mix}");
    let of = |at: usize| mix["models"][at]["requests"].as_f64().unwrap();
    assert_eq!(of(0) + of(1), mix["requests"].as_f64().unwrap());
    let part = of(0) / (of(0) + of(1));
    assert!((part - 0.75).abs() < 0.15, "{part} of {mix}");
    let runs = |at: usize| mix["models"][at]["placed"].as_array().unwrap().iter().map(|placed| placed["runs"].as_f64().unwrap());
    assert_eq!(runs(0).sum::<f64>(), of(0), "every run was placed and counted: {mix}");
}

/// Accuracy mode asks for every sample of a file once; the logged bytes are what `run` gives for it.
#[test]
fn accuracy_logs_the_outputs_of_every_sample() {
    let home = home();
    let values: Vec<f32> = (0..5 * 784).map(|at| (at % 97) as f32 / 97.0).collect();
    let save = |name: &str, input: &str, tensor: &Tensor| {
        npz::write(fs::File::create(home.path().join(name)).unwrap(), &[(input, tensor)]).unwrap();
    };
    save("all.npz", "image", &Tensor::new(vec![5, 1, 28, 28], values.clone()));
    let (object, code) = bench(&home, "mnist_cnn.tune --accuracy --input all.npz --loadgen-log log.json");
    assert_eq!((code, &object["mode"], &object["valid"]), (0, &"accuracy".into(), &true.into()), "{object}");
    let log: Value = serde_json::from_slice(&fs::read(home.path().join("log.json")).unwrap()).unwrap();
    assert_eq!((&log["schema"], &log["effective_test_mode"]), (&"bench.log".into(), &"AccuracyOnly".into()));
    assert!(log["notice"].as_str().unwrap().contains("not an MLPerf result"));
    assert_eq!(log["database_generation"], "1");
    let logged = log["accuracy"].as_array().unwrap();
    assert_eq!(logged.len(), 5);
    for output in logged {
        let at = output["qsl_idx"].as_u64().unwrap() as usize;
        save("one.npz", "image", &Tensor::new(vec![1, 1, 28, 28], values[at * 784..(at + 1) * 784].to_vec()));
        let words = ["run", "mnist_cnn.tune", "--input", "one.npz", "--output", "y.npz"];
        assert_eq!(tunewright(home.path(), &words).status.code(), Some(0));
        let wanted = npz::read(&home.path().join("y.npz"), &npz::Limits::default()).unwrap();
        let hex: String = wanted[0].1.bytes().iter().map(|byte| format!("{byte:02X}")).collect();
        assert_eq!(output["data"], hex, "sample {at}");
    }
}
