//! The command line, by running the binary: help, codes, one-line errors, JSON.

use crate::shipped::mnist_cnn;
use kernels::Tensor;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tunewright::{artifact, npz};
use tuning_db::{OpenOptions, Store};

/// The binary in an empty home, without colours and settings of whoever runs the tests.
pub fn tunewright(home: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tunewright"))
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("LANG", "C.UTF-8")
        .current_dir(home)
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("stdout is UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("stderr is UTF-8")
}

/// Runs, and asserts the exit code and that stderr is one line of that class.
fn refused(arguments: &[&str], code: i32, class: &str) -> String {
    let home = tempfile::tempdir().unwrap();
    let output = tunewright(home.path(), arguments);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error[")).collect();
    assert_eq!(errors.len(), 1, "{arguments:?}: one line, found {text}");
    assert!(errors[0].starts_with(&format!("error[{class}]: ")), "{arguments:?}: {text}");
    errors[0].to_owned()
}

#[test]
fn a_program_of_another_name_is_its_own_worker() {
    let home = tempfile::tempdir().unwrap();
    let renamed = home.path().join("tw");
    fs::copy(env!("CARGO_BIN_EXE_tunewright"), &renamed).unwrap();
    let model = mnist_cnn();
    let arguments = ["--db", "db", "tune", model.to_str().unwrap(), "--budget", "trials=2"];
    let output = Command::new(&renamed).args(arguments).env("HOME", home.path()).current_dir(home.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn nothing_asked_prints_help_with_examples() {
    let home = tempfile::tempdir().unwrap();
    let output = tunewright(home.path(), &[]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stderr(&output).lines().count(), 10, "{}", stderr(&output));
    assert!(stderr(&output).contains("tunewright tune resnet50.onnx"), "{}", stderr(&output));
    let help = tunewright(home.path(), &["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(stdout(&help).starts_with("Examples:"), "the full help begins with examples");
    assert!(stdout(&tunewright(home.path(), &["-h"])).contains("Examples:"));
    let (flag, command) = (tunewright(home.path(), &["tune", "--help"]), tunewright(home.path(), &["help", "tune"]));
    assert_eq!(stdout(&flag), stdout(&command));
    assert!(stdout(&flag).starts_with("Examples:"));
    let version = stdout(&tunewright(home.path(), &["-V"]));
    let kinds: Vec<&str> = tunewright::device::BACKENDS.iter().map(|backend| backend.name).collect();
    let devices = format!("devices: {})", kinds.join(", "));
    assert!(
        version.contains(env!("CARGO_PKG_VERSION")) && version.contains("(commit ") && version.contains(&devices),
        "{version}"
    );
}

#[test]
fn a_typo_is_answered_and_not_run() {
    assert!(refused(&["devies"], 2, "usage.command").contains("did you mean 'devices'?"));
    refused(&["devices", "--bogus"], 2, "usage.flag");
    refused(&["devices", "--json=xml"], 2, "usage.value");
}

#[test]
fn devices_lists_the_cpu_and_why_others_are_absent() {
    let home = tempfile::tempdir().unwrap();
    let output = tunewright(home.path(), &["devices", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["schema"], "devices.result");
    assert_eq!(object["devices"][0]["name"], "cpu");
    let absent = object["devices"].as_array().unwrap().iter().filter(|device| device["present"] == false);
    assert!(absent.clone().count() > 0 && absent.clone().all(|device| device["reason"].as_str().is_some_and(|r| !r.is_empty())));
}

#[test]
fn errors_are_objects_too_when_json_is_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let output = tunewright(home.path(), &["--json", "devies"]);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&object["schema"], &object["exit"], &object["class"]), (&"error".into(), &2.into(), &"usage.command".into()));
}

#[test]
fn doctor_says_a_line_per_check() {
    let home = tempfile::tempdir().unwrap();
    let output = tunewright(home.path(), &["doctor", "--probe", "50ms", "--json"]);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<&str> = object["checks"].as_array().unwrap().iter().filter_map(|check| check["name"].as_str()).collect();
    for name in ["governor", "load", "timer", "noise", "device", "disk", "database"] {
        assert!(names.contains(&name), "{name} is checked");
    }
}

#[test]
fn settings_come_from_the_environment_and_the_nearest_file_and_unknown_keys_warn() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("tunewright.toml"), "db = \"here\"\n[tune]\nbudgte = \"5m\"\n").unwrap();
    let output = tunewright(home.path(), &["doctor", "--settings", "--json"]);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let setting = |name: &str| {
        let all = object["settings"].as_array().unwrap();
        all.iter().find(|setting| setting["key"] == name).unwrap_or_else(|| panic!("{name} in {all:?}")).clone()
    };
    assert_eq!(setting("db")["value"], "here");
    assert_eq!((&setting("run.rtol")["value"], &setting("run.rtol")["origin"]), (&"1e-4".into(), &"default".into()));
    assert_eq!(setting("tune.budget")["value"], "60s");
    assert!(stderr(&output).contains("unknown key tune.budgte; did you mean tune.budget?"), "{}", stderr(&output));
    std::fs::write(home.path().join("tunewright.toml"), "db = \n").unwrap();
    let output = tunewright(home.path(), &["devices"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
}

#[test]
fn completions_begin_with_where_to_put_them() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = tunewright(home.path(), &["completions", shell]);
        assert!(stdout(&output).lines().take(2).any(|line| line.starts_with("# Put this into")), "{shell}");
    }
}

/// A folder with one of everything that can be wrong.
fn fixture() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(home.path().join(name), bytes).unwrap();
    let model = fs::read(mnist_cnn()).unwrap();
    put("m.onnx", &model);
    put("cut.onnx", &model[..model.len() / 2]);
    put("empty.onnx", b"");
    put("text.onnx", b"not a model at all\n");
    put("packed.onnx", b"\x1f\x8b\x08\0\0\0\0\0");
    put("graph.txt", b"graph small\nthis is no graph\n");
    put("bad.npz", b"PK\x03\x04 nothing behind it");
    put("bad.toml", b"[tune\n");
    put("bad.jsonl", b"{\"kind\":\"schema\",\"schema\":\"tunewright.records\",\"version\":1,\"made_by\":\"x\"}\n{bad\n");
    let array = |name: &str, input: &str, tensor: Tensor| {
        npz::write(fs::File::create(home.path().join(name)).unwrap(), &[(input, &tensor)]).unwrap();
    };
    array("x.npz", "image", Tensor::new(vec![1, 1, 28, 28], vec![0f32; 784]));
    array("wide.npz", "image", Tensor::new(vec![1, 3, 28, 28], vec![0f32; 3 * 784]));
    array("double.npz", "image", Tensor::new(vec![1, 1, 28, 28], vec![0f64; 784]));
    array("other.npz", "data", Tensor::new(vec![1, 1, 28, 28], vec![0f32; 784]));
    array("wrong.npz", "probabilities", Tensor::new(vec![1, 10], vec![7f32; 10]));
    let tuned = home.path().join("m.tune");
    artifact::write(&tuned, &crate::artifact::contents()).unwrap();
    artifact::write(&home.path().join("r.tune"), &crate::artifact::recorded()).unwrap();
    put("garbage.jsonl", b"{\"at_ns\":5,\"model\":\"small[seq=40]\"}\ngarbage\n");
    put("stranger.jsonl", b"{\"at_ns\":5,\"model\":\"other\"}\n");
    put("past.jsonl", b"{\"at_ns\":5,\"model\":\"small[seq=40]\",\"deadline_ns\":4}\n");
    put("back.jsonl", b"{\"at_ns\":5,\"model\":\"small[seq=40]\"}\n{\"at_ns\":4,\"model\":\"small[seq=40]\"}\n");
    put("blank.jsonl", b"\n\n");
    let whole = fs::read(&tuned).unwrap();
    put("cut.tune", &whole[..whole.len() / 2]);
    let changed = |at: usize, with: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    };
    put("flipped.tune", &changed(70, &[whole[70] ^ 1]));
    put("newer.tune", &changed(8, &[9, 0, 9, 0]));
    fs::create_dir(home.path().join("folder")).unwrap();
    database(&home.path().join("newer.db"), |manifest| {
        manifest.replace("\"min_reader\": 1", "\"min_reader\": 99").replace("\"format\": 1", "\"format\": 99")
    });
    home
}

/// An empty database whose manifest is edited.
fn database(path: &Path, edit: impl FnOnce(&str) -> String) {
    Store::open(path, OpenOptions::default()).unwrap().close().unwrap();
    let manifest = path.join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let edited = edit(&text);
    assert_ne!(text, edited, "the manifest is as expected: {text}");
    fs::write(manifest, edited).unwrap();
}

/// Every file of a folder with its bytes.
fn listing(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().unwrap().is_dir() {
            found.extend(listing(&entry.path()).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            found.insert(name, fs::read(entry.path()).unwrap());
        }
    }
    found
}

/// What is asked, the exit code, the class, and a part of the line.
const BAD_INPUT: &[(&str, i32, &str, &str)] = &[
    // Files that are not there, or something else.
    ("inspect nothere.onnx", 3, "input.not_found", "no such file"),
    ("inspect n.onnx", 3, "input.not_found", "did you mean m.onnx?"),
    ("inspect folder", 3, "input.not_found", "it is a folder"),
    ("inspect text.onnx", 3, "input.not_onnx", "it is a text"),
    ("inspect empty.onnx", 3, "input.not_onnx", "it is empty"),
    ("inspect packed.onnx", 3, "input.not_onnx", "begins like a gzip file; unpack it first"),
    ("inspect cut.onnx", 3, "input.truncated", "copy the file again"),
    ("inspect cut.onnx --sandbox", 3, "input.truncated", "copy the file again"),
    ("inspect graph.txt", 3, "input.malformed", "graph.txt"),
    ("inspect m.onnx --limit nodes=3", 3, "input.limit_exceeded", "--limit nodes=4"),
    ("inspect m.onnx --limit nodse=3", 2, "usage.value", "did you mean nodes?"),
    ("inspect m.onnx --dim M=3", 3, "input.shape_mismatch", "no input has an axis \"M\""),
    ("inspect m.onnx --stop-after infer", 2, "usage.value", "--stop-after infer"),
    ("tune nothere.onnx --db db", 3, "input.not_found", "no such file"),
    ("tune cut.onnx --db db", 3, "input.truncated", "copy the file again"),
    ("tune m.onnx --dim M=3 --db db", 2, "usage.value", "no model has that axis"),
    ("bench m.onnx", 3, "input.not_artifact", "make one with tunewright tune m.onnx"),
    ("explain m.onnx", 3, "input.not_artifact", "make one with tunewright tune m.onnx"),
    // Inputs of a run.
    ("run m.onnx", 2, "usage.missing", "--input"),
    ("run m.onnx --input nothere.npz", 3, "input.not_found", "no such file"),
    ("run m.onnx --input bad.npz", 3, "input.not_npz", "write it with numpy.savez"),
    ("run m.onnx --input wide.npz", 3, "input.shape_mismatch", "f32[1,3,28,28], the model wants f32[N,1,28,28]"),
    ("run m.onnx --input double.npz", 3, "input.shape_mismatch", "f64[1,1,28,28]"),
    ("run m.onnx --input other.npz", 3, "input.shape_mismatch", "input \"image\" is missing; the file has data"),
    ("run m.onnx --input x.npz --expect other.npz", 3, "input.shape_mismatch", "\"data\" is no output"),
    ("run m.onnx --input x.npz --expect nothere.npz", 3, "input.not_found", "no such file"),
    ("run m.onnx --input x.npz --require-tuned", 6, "artifact.untuned", "run tunewright tune first"),
    ("run m.tune --input x.npz", 3, "input.shape_mismatch", "m.tune"),
    // Numbers.
    ("run m.onnx --input x.npz --share 0", 2, "usage.value", "--share 0: a share is more than 0"),
    ("tune m.onnx --share 101", 2, "usage.value", "try --share 100"),
    ("tune m.onnx --share 12.55", 2, "usage.value", "in steps of 0.1"),
    ("tune m.onnx --batch 0", 2, "usage.value", "try --batch 1"),
    ("tune m.onnx --batch 1.5", 2, "usage.value", "try --batch 1"),
    ("tune m.onnx --budget 5", 2, "usage.value", "--budget 5"),
    ("tune m.onnx --strategy guess", 2, "usage.value", "there is no such strategy"),
    ("tune m.onnx --seed -1", 2, "usage.", "-1"),
    ("tune m.onnx --max-error 0", 2, "usage.value", "it is a number over 0"),
    ("run m.onnx --input x.npz --rtol NaN", 2, "usage.value", "--rtol NaN"),
    ("run m.onnx --input x.npz --repeat 0", 2, "usage.value", "--repeat 0"),
    ("bench m.tune --duration 5", 2, "usage.value", "needs a unit"),
    ("bench m.tune --assert p99<5", 2, "usage.value", "needs a unit"),
    ("bench m.tune --assert p98<5ms", 2, "usage.value", "there is no figure p98"),
    ("bench m.tune --scenario batch", 2, "usage.value", "single-stream, multi-stream, server, offline"),
    ("bench m.tune --duration 0s", 2, "usage.value", "a time over 0"),
    ("bench m.tune --scenario server", 2, "usage.missing", "--target-qps 100, or --find-peak"),
    ("bench m.tune --scenario server --target-qps 0", 2, "usage.value", "a number over 0"),
    ("bench m.tune --scenario server --target-qps=-5", 2, "usage.value", "a number over 0"),
    ("bench m.tune --scenario server --target-qps inf", 2, "usage.value", "a number over 0"),
    ("bench m.tune --scenario server --target-qps nan", 2, "usage.value", "a number over 0"),
    ("bench m.tune --target-qps 5", 2, "usage.flag", "add --scenario server"),
    ("bench m.tune --find-peak", 2, "usage.flag", "add --scenario server"),
    ("bench m.tune --scenario server --target-qps 5 --deadline 0s", 2, "usage.value", "a time over 0"),
    ("bench m.tune --scenario offline --looks 3", 2, "usage.flag", "leave it out"),
    ("bench m.tune --looks 0", 2, "usage.value", "--looks 0"),
    ("bench m.tune --mix n.tune=1", 2, "usage.value", "did you mean m.tune?"),
    ("bench m.tune --mix m.tune=0", 2, "usage.value", "a weight over 0"),
    ("bench m.tune --mix m.tune=1,m=2", 2, "usage.value", "it has a weight already"),
    ("bench m.tune r.tune --mix m=1", 2, "usage.value", "r.tune has no weight"),
    ("bench m.tune r.tune --input x.npz", 2, "usage.flag", "one artifact at a time"),
    ("bench m.tune --accuracy", 2, "usage.missing", "--loadgen-log"),
    ("bench m.tune --log-outputs 5", 2, "usage.missing", "--loadgen-log"),
    ("bench m.tune --input nothere.npz", 3, "input.not_found", "no such file"),
    ("bench m.tune --input wide.npz", 3, "input.shape_mismatch", "wide.npz"),
    ("devices --json-version 7", 2, "usage.value", "this build gives version 1"),
    ("devices --color blue", 2, "usage.value", "auto, always, never"),
    ("devices --config nothere.toml", 3, "input.not_found", "no such file"),
    ("devices --config bad.toml", 3, "input.settings", "line 1"),
    ("devices --config x --no-config", 2, "usage.flag", "cannot be used together"),
    ("devices --log folder/none/log", 3, "input.not_found", "there is no such folder"),
    // Devices.
    ("tune m.onnx --device abacus --db db", 4, "device.unknown", "there are cpu"),
    ("run m.onnx --input x.npz --device cuda:3", 4, "device.absent", "cuda:3"),
    ("run m.onnx --input x.npz --share 0.1", 4, "device.share", "choose one of these"),
    ("tune m.onnx --objective energy --db db", 4, "device.energy", "--objective latency"),
    // Artifacts.
    ("inspect cut.tune", 6, "artifact.damaged", "tune again"),
    ("inspect flipped.tune", 6, "artifact.damaged", "checksum"),
    ("inspect newer.tune", 6, "artifact.newer", "format 9 is newer than 1"),
    ("run cut.tune --input x.npz", 6, "artifact.damaged", "tune again"),
    ("bench newer.tune", 6, "artifact.newer", "update tunewright"),
    ("explain flipped.tune", 6, "artifact.damaged", "checksum"),
    // A simulation.
    ("simulate r.tune", 2, "usage.missing", "--trace"),
    ("simulate r.tune --arrivals poisson:0/s", 2, "usage.value", "the rate is 0"),
    ("simulate r.tune --arrivals poisson:inf/s", 2, "usage.value", "the rate is inf"),
    ("simulate r.tune --arrivals square:5/s", 2, "usage.value", "poisson:200/s"),
    ("simulate r.tune --arrivals burst:5/s,2x,0s", 2, "usage.value", "the time is 0s"),
    ("simulate r.tune --arrivals poisson:5/s --sizes fixed:0", 2, "usage.value", "fixed:1"),
    ("simulate r.tune --arrivals poisson:5/s --deadline 0s", 2, "usage.value", "over when the request arrives"),
    ("simulate r.tune --arrivals poisson:5/s --requests 0", 2, "usage.value", "from 1 to 1e7"),
    ("simulate r.tune --arrivals poisson:1/s --duration 1us", 2, "usage.value", "no request arrives"),
    ("bench m.tune --policy batcher --share 100 --at-most 50 --duration 1s", 2, "usage.flag", "ask for a smaller share"),
    ("bench m.tune --at-most 50", 2, "usage.missing", "--policy"),
    ("simulate r.tune --arrivals poisson:5/s --policy bacher", 2, "usage.value", "did you mean batcher?"),
    ("simulate r.tune --arrivals poisson:5/s --policy fixed:cpu", 2, "usage.value", "DEVICE/SHARE/BATCH"),
    ("simulate r.tune --arrivals poisson:5/s --noise 2", 2, "usage.value", "from 0 to 1"),
    ("simulate r.tune --arrivals poisson:5/s --beside 0.5", 2, "usage.value", "from 1 to 100"),
    ("simulate r.tune --arrivals poisson:5/s --beside inf", 2, "usage.value", "from 1 to 100"),
    ("simulate r.tune --arrivals poisson:5/s --fill", 2, "usage.value", "too few to predict from"),
    ("simulate r.tune --arrivals poisson:5/s --trace past.jsonl", 2, "usage.flag", "cannot be used together"),
    ("simulate r.tune --arrivals poisson:5/s --mix small", 2, "usage.value", "MODEL=WEIGHT"),
    ("simulate r.tune --arrivals poisson:5/s --mix small[seq=40]=0", 2, "usage.value", "it is a number over 0"),
    ("simulate r.tune --arrivals poisson:5/s --mix small[seq=40]=inf", 2, "usage.value", "it is a number over 0"),
    ("simulate r.tune --arrivals poisson:5/s --mix small[seq=40]=1/0s", 2, "usage.value", "over when the request arrives"),
    ("simulate r.tune --arrivals poisson:5/s --mix small[seq=40]=1/1s/fixed:0", 2, "usage.value", "none of fixed:1"),
    ("simulate r.tune --arrivals poisson:5/s --mix other=1", 2, "usage.value", "there are small[seq=40]"),
    ("simulate r.tune --arrivals poisson:5/s --mix a=1,a=1", 2, "usage.value", "named twice"),
    ("simulate r.tune --trace past.jsonl --mix a=1", 2, "usage.flag", "cannot be used"),
    ("simulate r.tune --arrivals poisson:5/s --policy clairvoyant", 2, "usage.value", "--requests 4000"),
    ("simulate r.tune --arrivals poisson:5/s --gap 5", 2, "usage.value", "a time needs a unit"),
    ("simulate r.tune --arrivals poisson:5/s --report-from 1s", 2, "usage.missing", "--report"),
    ("simulate r.tune --arrivals poisson:5/s --requests 5 --report nowhere/t.html", 3, "input.not_found", "write"),
    ("simulate r.tune --arrivals poisson:5/s --requests 5 --report t.html --report-from 9h", 2, "usage.value", "begin earlier"),
    ("simulate r.tune --trace nothere.jsonl", 3, "input.not_found", "no such file"),
    ("simulate r.tune --trace garbage.jsonl", 3, "input.trace", "line 2: no request"),
    ("simulate r.tune --trace stranger.jsonl", 3, "input.trace", "line 1: model: there is no 'other'; there are small[seq=40]"),
    ("simulate r.tune --trace past.jsonl", 3, "input.trace", "line 1: deadline_ns: 4 lies in the past"),
    ("simulate r.tune --trace back.jsonl", 3, "input.trace", "line 2: at_ns: 4 lies before"),
    ("simulate r.tune --trace blank.jsonl", 3, "input.trace", "has no request"),
    ("simulate m.onnx --arrivals poisson:5/s", 3, "input.not_artifact", "make one with tunewright tune m.onnx"),
    ("simulate m.tune --arrivals poisson:5/s", 6, "artifact.untuned", "no record of a model that ran"),
    ("simulate newer.tune --arrivals poisson:5/s", 6, "artifact.newer", "update tunewright"),
    ("simulate --arrivals poisson:5/s", 2, "usage.missing", "name an artifact, or a database with --db"),
    ("simulate --arrivals poisson:5/s --db newer.db", 5, "db.newer", "newer"),
    // The database.
    ("db query p99<5 --db db", 2, "usage.query", "write p99<5ms"),
    ("db query mdoel=x --db db", 2, "usage.query", "did you mean model?"),
    ("db query --columns sahre --db db", 2, "usage.query", "did you mean share?"),
    ("db query --of everything", 2, "usage.value", "models, tasks, trials, devices or failures"),
    ("db query --source D", 2, "usage.value", "A, B or C"),
    ("db query --db newer.db", 5, "db.newer", "newer"),
    ("tune m.onnx --db newer.db", 5, "db.newer", "newer"),
    ("db import bad.jsonl --db new.db", 3, "input.malformed", "line 2"),
    ("db import nothere.jsonl --db new.db", 3, "input.not_found", "no such file"),
    ("db export --json --db db", 2, "usage.flag", "name a file with -o"),
    // What cannot be written. Root may write anywhere but into the kernel's file systems.
    ("run m.onnx --input x.npz --output nowhere/z.npz", 3, "input.not_found", "there is no such folder"),
    ("run m.onnx --input x.npz --output /sys/z.npz", 7, "machine.permission", "cannot write /sys/z.npz"),
    ("run m.onnx --input x.npz --output /dev/full", 7, "machine.disk", "disk full"),
    ("run m.onnx --input x.npz --output - --json", 2, "usage.flag", "stdout is taken by --json"),
    // Words.
    ("tnue m.onnx", 2, "usage.command", "did you mean 'tune'?"),
    ("db qurey", 2, "usage.command", "did you mean 'query'?"),
    ("tune m.onnx --bugdet 5s", 2, "usage.flag", "did you mean '--budget'?"),
    ("tune", 2, "usage.missing", "MODEL.onnx"),
    ("completions tcsh", 2, "usage.value", "bash, elvish, fish"),
];

/// Each with plain text and with `--json`: the code, one line of the class, the same in the object, and no file changed.
#[test]
fn bad_input_costs_one_clear_line_and_nothing_else() {
    let home = fixture();
    let before = listing(home.path());
    for (line, code, class, part) in BAD_INPUT {
        let words: Vec<&str> = line.split(' ').collect();
        let output = tunewright(home.path(), &words);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(*code), "{line}: {text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("error[")).count(), 1, "{line}: {text}");
        assert!(text.starts_with(&format!("error[{class}")), "{line}: {text}");
        assert!(text.contains(part), "{line}: not '{part}': {text}");
        assert!(!text.contains("panicked") && !text.contains("\u{1b}"), "{line}: {text}");
        assert!(output.stdout.is_empty() || words.contains(&"--json"), "{line}: {}", stdout(&output));

        let output = tunewright(home.path(), &[&["--json"], &words[..]].concat());
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{line}: {error}"));
        crate::schemas::check("error", &object);
        assert_eq!((&object["schema"], &object["exit"]), (&"error".into(), &(*code).into()), "{line}");
        assert!(object["class"].as_str().unwrap().starts_with(class), "{line}: {object}");
    }
    let mut after = listing(home.path());
    // `--db db` and `new.db` may have been made, empty; nothing is noted as unfinished.
    assert!(!after.keys().any(|name| name.contains("unfinished/")), "{:?}", after.keys());
    after.retain(|name, _| !["db/", "new.db/", "newer.db/"].iter().any(|made| name.starts_with(made)));
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    let kept: BTreeMap<_, _> = before.into_iter().filter(|(name, _)| !name.contains(".db/")).collect();
    assert_eq!(names(&kept), names(&after));
    assert!(kept == after, "a file was changed");
}

#[test]
fn an_expectation_that_is_not_met_is_an_answer() {
    let home = fixture();
    let output = tunewright(home.path(), &["run", "m.onnx", "--input", "x.npz", "--expect", "wrong.npz"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stdout(&output).contains("DIFFERS") && stderr(&output).is_empty());
}

#[test]
fn an_output_that_cannot_be_written_leaves_what_was_there() {
    let home = fixture();
    let run =
        |extra: &[&str]| tunewright(home.path(), &[&["run", "m.onnx", "--input", "x.npz", "--output", "z.npz"], extra].concat());
    assert_eq!(run(&[]).status.code(), Some(0));
    let first = fs::read(home.path().join("z.npz")).unwrap();
    assert_eq!(run(&["--sandbox"]).status.code(), Some(0));
    assert_eq!(fs::read(home.path().join("z.npz")).unwrap(), first, "the sandbox changes nothing");
    let names: Vec<_> = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().contains(".tmp-")), "{names:?}");
}

/// `tunewright db export | head -1`: the reader goes away, which is no error and no noise.
#[test]
fn a_closed_pipe_ends_quietly() {
    let home = tempfile::tempdir().unwrap();
    for arguments in [&["completions", "bash"][..], &["--help"], &["devices", "--json"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tunewright"))
            .args(arguments)
            .env("HOME", home.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((child.wait().unwrap().code(), text.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn the_log_has_everything_whatever_the_screen_shows() {
    let home = fixture();
    let output = tunewright(home.path(), &["--log", "log.txt", "-q", "inspect", "m.onnx", "--batch", "1"]);
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    let log = fs::read_to_string(home.path().join("log.txt")).unwrap();
    assert!(log.contains("version=") && log.contains("pass=\"fold_batch_norm\"") && log.contains("code=0"), "{log}");
    let output = tunewright(home.path(), &["--log", "log.txt", "inspect", "text.onnx"]);
    assert_eq!(output.status.code(), Some(3));
    let longer = fs::read_to_string(home.path().join("log.txt")).unwrap();
    assert!(longer.starts_with(&log) && longer.contains("input.not_onnx"), "a log is appended to");
    let seen = stderr(&tunewright(home.path(), &["-v", "inspect", "m.onnx", "--batch", "1"]));
    assert!(seen.contains("fold_batch_norm"), "{seen}");
}

#[test]
fn settings_are_checked_as_flags_are_and_flags_overrule_them() {
    let home = fixture();
    fs::write(home.path().join("tunewright.toml"), "color = \"never\"\n[run]\nrtol = \"much\"\n").unwrap();
    let run = |extra: &[&str]| tunewright(home.path(), &[&["run", "m.onnx", "--input", "x.npz"], extra].concat());
    let text = stderr(&run(&[]));
    assert!(text.starts_with("error[usage.value]: setting run.rtol = much: ") && text.contains("tunewright.toml"), "{text}");
    assert_eq!(run(&["--no-config"]).status.code(), Some(0));
    fs::write(home.path().join("tunewright.toml"), "[run]\nrtol = 1e9\n").unwrap();
    let expect = |extra: &[&str]| run(&[&["--expect", "wrong.npz"], extra].concat()).status.code();
    assert_eq!((expect(&[]), expect(&["--rtol", "1e-4"]), expect(&["--no-config"])), (Some(0), Some(1), Some(1)));
}

/// Colours by the rules of no-color.org and clicolors: the streams here are pipes.
#[test]
fn colours_are_where_somebody_asked_for_them() {
    let home = tempfile::tempdir().unwrap();
    let coloured = |arguments: &[&str], variables: &[(&str, &str)]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tunewright"))
            .args(arguments)
            .env_clear()
            .env("HOME", home.path())
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        output.stdout.contains(&0x1b)
    };
    assert!(!coloured(&["devices"], &[]), "a pipe");
    assert!(coloured(&["devices"], &[("CLICOLOR_FORCE", "1")]));
    assert!(!coloured(&["devices"], &[("CLICOLOR_FORCE", "0")]));
    assert!(coloured(&["devices", "--color", "always"], &[("NO_COLOR", "1")]), "the flag beats all");
    assert!(!coloured(&["devices", "--color", "never"], &[("CLICOLOR_FORCE", "1")]), "the flag beats all");
}

/// Outside UTF-8 locales our own signs are spelled.
#[test]
fn a_plain_locale_gets_plain_signs() {
    let home = fixture();
    let output = Command::new(env!("CARGO_BIN_EXE_tunewright"))
        .args(["run", "m.onnx", "--input", "x.npz", "--profile"])
        .env_clear()
        .env("HOME", home.path())
        .env("LC_ALL", "C")
        .current_dir(home.path())
        .output()
        .unwrap();
    assert!(output.stdout.is_ascii() && !output.stdout.is_empty(), "{}", stdout(&output));
}

#[test]
fn more_words_show_the_chain_of_causes() {
    let home = tempfile::tempdir().unwrap();
    let text = stderr(&tunewright(home.path(), &["inspect", "nothere", "-v"]));
    assert!(text.contains("because No such file or directory (os error 2)"), "{text}");
    let text = stderr(&tunewright(home.path(), &["inspect", "nothere"]));
    assert!(!text.contains("because"), "{text}");
}

/// The artifact's disk is full when everything is measured: an error, and the trials are in the database, which lies elsewhere.
#[test]
fn a_full_disk_keeps_every_trial() {
    let home = fixture();
    fs::create_dir(home.path().join("small")).unwrap();
    let script =
        "mount -t tmpfs -o size=64k none small || exit 99; exec \"$0\" --db db tune m.onnx --budget trials=4 -o small/m.tune";
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-c", script, env!("CARGO_BIN_EXE_tunewright")])
        .env("HOME", home.path())
        .current_dir(home.path())
        .output();
    let output = match output {
        Ok(output) if !matches!(output.status.code(), Some(1 | 99)) => output,
        other => {
            eprintln!("skipped: no file system can be mounted here: {other:?}");
            return;
        }
    };
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(7), "{text}");
    assert!(text.contains("error[machine.disk]: cannot write small/m.tune: disk full ("), "{text}");
    assert!(text.contains("all trials are safe in the database"), "{text}");
    let trials = tunewright(home.path(), &["--db", "db", "db", "query", "--of", "trials", "--format", "csv", "--no-header"]);
    assert!(stdout(&trials).lines().count() >= 4, "{}", stdout(&trials));
}

/// Ctrl-C in the middle: said at once, saved, 130, and `--continue` goes on in the words of the first call.
#[test]
fn an_interrupted_tuning_says_how_to_go_on() {
    let home = fixture();
    let mut child = Command::new(env!("CARGO_BIN_EXE_tunewright"))
        .args([
            "--db",
            "db",
            "--json=lines",
            "tune",
            "m.onnx",
            "--budget",
            "60s",
            "--batch",
            "2,3,5,7,11,13,17,19",
            "-o",
            "there.tune",
        ])
        .env("HOME", home.path())
        .current_dir(home.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("\"event\":\"trial\"")), "something is measured");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    let last = lines.last().unwrap().unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{text}");
    assert!(text.contains("finishing this trial, then saving; Ctrl-C again stops now"), "{text}");
    assert!(last.contains("\"event\":\"result\""), "{last}");
    let output = tunewright(home.path(), &["--db", "db", "tune", "m.onnx", "--continue", "--budget", "trials=4"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(home.path().join("there.tune").is_file() && stdout(&output).contains("batch 19"), "{}", stdout(&output));
    let again = tunewright(home.path(), &["--db", "db", "tune", "m.onnx", "--continue"]);
    assert!(stderr(&again).contains("there is no unfinished tuning"), "{}", stderr(&again));
}
#[test]
fn energy_is_an_objective_only_where_it_is_counted() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/mnist_cnn.onnx");
    let arguments = ["tune", model.to_str().unwrap(), "--objective", "energy", "--budget", "1s"];
    match ::tunewright::device::energy_uj() {
        Ok(_) => {
            let home = tempfile::tempdir().unwrap();
            let output = self::tunewright(home.path(), &arguments);
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        }
        Err(why) => assert!(refused(&arguments, 4, "device.energy").contains(why)),
    }
}

/// Two shares tuned in one call: records are asked for by share, and `explain` shows what a task's portfolio costs at each.
#[test]
fn shares_are_asked_for_and_explained() {
    let home = fixture();
    let ask = |arguments: &[&str]| {
        let output = tunewright(home.path(), &[&["--db", "db"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        stdout(&output)
    };
    let told = ask(&["tune", "m.onnx", "--share", "50,100", "--budget", "trials=60", "-o", "shares.tune"]);
    assert!(told.lines().any(|line| line.trim_start().starts_with("seconds   propose ")), "{told}");
    let shares = |query: &str, of: &str| -> Vec<f64> {
        let rows = ask(&["db", "query", query, "--of", of, "--columns", "share", "--format", "csv", "--no-header"]);
        rows.lines().map(|line| line.trim_end_matches(['%', ' ']).parse().unwrap()).collect()
    };
    for of in ["models", "trials"] {
        let (low, high) = (shares("share<=50", of), shares("share>50", of));
        assert!(!low.is_empty() && low.iter().all(|share| *share == 50.0), "{of}: {low:?}");
        assert!(!high.is_empty() && high.iter().all(|share| *share == 100.0), "{of}: {high:?}");
    }
    let text = ask(&["explain", "shares.tune", "--task", "conv2d"]);
    assert!(text.contains("over shares, worst regret 1.") && text.contains("config 1"), "{text}");
    let object: serde_json::Value =
        serde_json::from_str(&ask(&["--json", "explain", "shares.tune", "--task", "conv2d"])).unwrap();
    crate::schemas::check("explain.result", &object);
    let ladders = object["ladders"].as_array().unwrap();
    assert!(!ladders.is_empty(), "{object}");
    for ladder in ladders {
        let configs = ladder["portfolio"].as_array().unwrap().len();
        let steps = ladder["shares"].as_array().unwrap();
        assert!((1..=3).contains(&configs) && (1..=2).contains(&steps.len()), "{ladder}");
        let worst = steps.iter().filter_map(|step| {
            let regrets = step["portfolio"].as_array().unwrap().iter().filter_map(|cost| cost["regret"].as_f64());
            regrets.min_by(f64::total_cmp)
        });
        let worst = worst.fold(1.0, f64::max);
        assert!((ladder["regret"].as_f64().unwrap() - worst).abs() < 1e-6, "{ladder}");
    }
    let without: serde_json::Value =
        serde_json::from_slice(&tunewright(home.path(), &["--json", "explain", "shares.tune", "--task", "conv2d"]).stdout)
            .unwrap();
    assert_eq!(without["ladders"], serde_json::json!([]), "there is no database here");
}
