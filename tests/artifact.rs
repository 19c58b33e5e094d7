//! Artifacts hold what they were given, and never give anything else.

use crate::execute::LIMITS;
use schema::{
    Batch, Config, Device, DeviceName, Environment, Grant, KnobValue, ModelKey, ModelRecord, NoiseGrade, Observation,
    ObservationId, Outcome, Picos, PlanKey, Share, Split, Subject, Timing,
};
use std::fs;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use tunewright::artifact::{self, Artifact, ArtifactError, Bound, Contents, Entry, Opening, Provenance};
use tunewright::execute::{Configs, Plan};
use tunewright::graph::text;

const GRAPH: &str = "
    graph small
    input %x: f32[2,40]
    input %go: bool[]
    $w: f32[40,48] = fill(1)
    $b: f32[48] = fill(2)
    $names: string[2] = [\"a\",\"b\"]
    %y: f32[2,48] = gemm(%x, $w, $b) epilogue=\"bias+relu\" @/first
    %z: f32[2,48] = If(%go) then_branch={
      capture %v: f32[2,48] = %y
      output %v
    } else_branch={
      capture %v: f32[2,48] = %y
      %u: f32[2,48] = Identity(%v)
      output %u
    }
    output %z as \"scores\"";

pub(crate) fn contents() -> Contents {
    let graph = text::parse(GRAPH).expect("the graph parses");
    let wide = text::parse(&GRAPH.replace("f32[2,", "f32[4,")).expect("the graph parses");
    let config = Config { variant: "gemm.host_packed".into(), revision: 1, knobs: vec![("kc".into(), KnobValue::Int(256))] };
    let task = tunewright::task::tasks(&graph).expect("tasks")[0].task.clone();
    let entry = |share: f64, graph: usize, rows: u32| Entry {
        device: Device { name: DeviceName("cpu".into()), text: "vendor=test cores=2".into() },
        environment: Environment { text: "kernel=6.1".into() },
        share: Share::percent(share).unwrap(),
        grant: Grant { mechanism: "cores".into(), units: 2 },
        batch: Batch::new(rows).unwrap(),
        dims: vec![("seq".into(), 40)],
        graph,
        split: Split::new(2, 2).unwrap(),
        configs: vec![(task.clone(), config.clone())],
        record: None,
    };
    let bound = |graph, rows| Bound { batch: Batch::new(rows).unwrap(), dims: vec![("seq".into(), 40)], graph };
    Contents {
        provenance: Provenance {
            tool_version: "0.1.0".into(),
            tool_commit: None,
            model_name: "small".into(),
            model: ModelKey::of("small"),
            opset: Some(17),
            database: None,
            seed: 7,
            budget: "60s".into(),
            flags: vec!["--share 50,100".into()],
            stamp_s: None,
        },
        graphs: vec![bound(graph, 2), bound(wide, 4)],
        entries: vec![entry(50.0, 0, 2), entry(100.0, 0, 2), entry(100.0, 1, 4)],
        records: vec![],
        notes: vec!["a note".into()],
    }
}

#[test]
fn what_goes_in_comes_out_and_weights_are_stored_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.tune");
    let contents = contents();
    let written = artifact::write(&path, &contents).unwrap();
    assert!(written.changed);
    let open = Artifact::open(&path).unwrap();
    assert_eq!(open.contents().unwrap(), contents);
    assert_eq!((open.id(), open.bytes()), (written.id, fs::metadata(&path).unwrap().len()));
    assert!(written.bytes < 8192 + 40 * 48 * 4 + 4096, "the weights of both graphs are the same bytes: {}", written.bytes);
    open.verify().unwrap();

    let again = artifact::write(&path, &contents).unwrap();
    assert_eq!(again, artifact::Written { changed: false, ..written });
    let other = folder.path().join("other.tune");
    artifact::write(&other, &contents).unwrap();
    assert_eq!(fs::read(&path).unwrap(), fs::read(&other).unwrap(), "the same contents make the same bytes");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "no temporary file stays: {left:?}");
}

#[test]
fn a_graph_of_an_artifact_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.tune");
    artifact::write(&path, &contents()).unwrap();
    let open = Artifact::open(&path).unwrap();
    let inputs = |rows: usize| {
        let x = kernels::Tensor::new(vec![rows, 40], (0..rows * 40).map(|i| (i as f32).sin()).collect());
        [("x", x), ("go", kernels::Tensor::bools(vec![], vec![true]))]
    };
    let mut two = Plan::compile(&open.graph(0).unwrap(), &Configs::new(), &LIMITS).unwrap();
    let mut four = Plan::compile(&open.graph(1).unwrap(), &Configs::new(), &LIMITS).unwrap();
    drop(open);
    let (a, b) = (two.run(&inputs(2)).unwrap(), four.run(&inputs(4)).unwrap());
    let values = |datum: &kernels::Datum| datum.tensor().unwrap().values::<f32>().unwrap().into_owned();
    assert_eq!(values(&a[0])[..], values(&b[0])[..96]);
}

/// Opens a damaged file and uses all of it: an error, or the very same contents.
fn outcome(path: &Path, whole: &Contents) -> Result<bool, String> {
    let read = catch_unwind(AssertUnwindSafe(|| Artifact::open(path).and_then(|open| open.contents())));
    match read {
        Err(_) => Err("panicked".to_owned()),
        Ok(Ok(contents)) if contents == *whole => Ok(false),
        Ok(Ok(_)) => Err("accepted other contents in silence".to_owned()),
        Ok(Err(error)) if matches!(error.class(), "damaged" | "newer") => Ok(true),
        Ok(Err(error)) => Err(format!("told of '{error}', which is no damage")),
    }
}

#[test]
fn no_flipped_byte_and_no_cut_is_taken_in_silence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.tune");
    let contents = contents();
    artifact::write(&path, &contents).unwrap();
    let whole = fs::read(&path).unwrap();
    assert!(whole.len() > 10_000);
    let hurt = folder.path().join("hurt.tune");
    fs::write(&hurt, &whole).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&hurt).unwrap();
    let mut unseen = Vec::new();
    for at in 0..whole.len() {
        file.write_all_at(&[whole[at] ^ 1 << (at % 8)], at as u64).unwrap();
        match outcome(&hurt, &contents) {
            Ok(true) => {}
            Ok(false) => unseen.push(at),
            Err(why) => panic!("byte {at} flipped: {why}"),
        }
        file.write_all_at(&whole[at..=at], at as u64).unwrap();
    }
    assert_eq!(unseen, Vec::<usize>::new(), "flips that were not seen");
    assert_eq!(outcome(&hurt, &contents), Ok(false));
    file.write_all_at(&[0], whole.len() as u64).unwrap();
    assert_eq!(outcome(&hurt, &contents), Ok(true), "a byte more");
    for len in (0..whole.len()).rev() {
        file.set_len(len as u64).unwrap();
        assert_eq!(outcome(&hurt, &contents), Ok(true), "cut to {len} bytes");
    }
}

#[test]
fn a_newer_format_is_told_from_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.tune");
    artifact::write(&path, &contents()).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 9;
    bytes[10] = 9;
    fs::write(&path, bytes).unwrap();
    let error = Artifact::open(&path).unwrap_err();
    assert!(matches!(error.cause(), ArtifactError::Newer { found: 9, known: 1 }), "{error}");
    assert_eq!(error.class(), "newer");
    assert!(error.to_string().starts_with(&path.display().to_string()));
}

#[test]
fn a_file_cut_while_it_is_open_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.tune");
    artifact::write(&path, &contents()).unwrap();
    let open = Artifact::open(&path).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(5000).unwrap();
    assert!(matches!(open.graph(0).unwrap_err().cause(), ArtifactError::ChangedUnderneath));
}

/// Changes a byte among the weights of a file that holds [`contents`].
fn hurt_weights(path: &Path) {
    let contents = contents();
    let constants = contents.graphs[0].graph.values.iter().filter_map(|value| value.constant.as_ref());
    let weights = constants.max_by_key(|tensor| tensor.bytes().len()).expect("the graph has weights").bytes();
    let whole = fs::read(path).unwrap();
    let at = whole.windows(64).position(|window| window == &weights[..64]).expect("the file has them") + 17;
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[!whole[at]], at as u64).unwrap();
}

#[test]
fn damaged_weights_are_found_at_once_when_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.tune");
    artifact::write(&path, &contents()).unwrap();
    hurt_weights(&path);
    let lazy = Artifact::open(&path).expect("weights are not read at open");
    assert_eq!(lazy.graph(0).unwrap_err().class(), "damaged");
    for opening in
        [Opening { eager: true, copy: false }, Opening { eager: false, copy: true }, Opening { eager: true, copy: true }]
    {
        let error = Artifact::open_as(&path, opening).unwrap_err();
        assert!(error.to_string().contains("the checksum of \"weights\" is wrong"), "{opening:?}: {error}");
    }
}

#[test]
fn a_copy_in_memory_outlives_whatever_happens_to_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.tune");
    let contents = contents();
    artifact::write(&path, &contents).unwrap();
    let open = Artifact::open_as(&path, Opening { eager: false, copy: true }).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    assert_eq!(open.contents().unwrap(), contents);
}

/// The test's own binary plays the process that is hurt: it maps an artifact, checks it, and touches the weights after they were cut.
#[test]
fn a_map_that_is_cut_ends_the_program_with_file_and_offset() {
    const ROLE: &str = "TUNEWRIGHT_TEST_CUT";
    if let Some(path) = std::env::var_os(ROLE) {
        let path = Path::new(&path);
        let graph = Artifact::open(path).unwrap().graph(0).unwrap();
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(4096).unwrap();
        let constants = graph.values.iter().filter_map(|value| value.constant.as_ref());
        let sum: u64 = constants.flat_map(|tensor| tensor.bytes()).map(|&byte| u64::from(byte)).sum();
        panic!("pages that are gone were read: {sum}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.tune");
    artifact::write(&path, &contents()).unwrap();
    let mut hurt = std::process::Command::new(std::env::current_exe().unwrap());
    hurt.args(["--exact", "artifact::a_map_that_is_cut_ends_the_program_with_file_and_offset", "--nocapture"]).env(ROLE, &path);
    let output = hurt.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{text}");
    let said = format!("error[artifact.damaged]: {}: was cut while it was in use, at byte ", path.display());
    let rest = text.split_once(said.as_str()).unwrap_or_else(|| panic!("{text}")).1;
    let at: u64 = rest.split(';').next().unwrap().parse().unwrap();
    assert!(at >= 4096 && at.is_multiple_of(4096), "the first page of the weights: {at}");
}

#[test]
fn records_come_along() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.tune");
    let mut contents = contents();
    contents.records.push(record());
    contents.entries[0].record = Some(0);
    artifact::write(&path, &contents).unwrap();
    assert_eq!(Artifact::open(&path).unwrap().contents().unwrap(), contents);
    contents.entries[1].record = Some(1);
    let error = artifact::write(&path, &contents).unwrap_err();
    assert!(matches!(error.cause(), ArtifactError::Contents(_)), "{error}");
}

/// The artifact with a record of a whole model behind its first entry.
pub(crate) fn recorded() -> Contents {
    let mut contents = contents();
    let Entry { batch, dims, split, .. } = contents.entries[0].clone();
    let timing = Timing { median: Picos(5_000_000_000), mad: Picos(0), p99: Picos(5_000_000_000), n: 9, grade: NoiseGrade::A };
    let subject = Subject::Model(Box::new(ModelRecord {
        model: contents.provenance.model,
        model_name: contents.provenance.model_name.clone(),
        batch,
        dims,
        plan: PlanKey::of("tuned"),
        split,
        default: timing,
        upload: None,
        compute: None,
        download: None,
        throughput_milli_per_s: 1,
        memory_bytes: 1,
        energy_mj: None,
        energy_why: None,
    }));
    contents.records.push(Observation { subject, outcome: Outcome::Ok { timing, ratio: None }, ..record() });
    contents.entries[0].record = Some(0);
    contents
}

fn record() -> Observation {
    let entry = &contents().entries[0];
    Observation {
        id: ObservationId { writer: [3; 16], seq: 1 },
        subject: schema::Subject::Trial { task: entry.configs[0].0.key(), config: entry.configs[0].1.clone() },
        device: entry.device.key(),
        device_name: entry.device.name.clone(),
        share: entry.share,
        grant: entry.grant.clone(),
        numerics: schema::Numerics::Strict,
        outcome: schema::Outcome::Failed { class: schema::FailureClass::Timeout, detail: "slow".into() },
        environment: entry.environment.key(),
        tool_version: "0.1.0".into(),
        seed: schema::Seed(1),
        wall_clock_s: 0,
    }
}
