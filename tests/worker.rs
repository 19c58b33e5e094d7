//! Real worker processes: what they measure, how they die, and what their death costs.

use crate::faults::{noted, noted_program};
use crate::stages::machine;
use kernels::{GpuLimits, Limits, Task};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use schema::{Batch, FailureClass, Outcome, Picos, Seed, Share};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tunewright::artifact::{self, Bound, Contents};
use tunewright::device::{self, Grant, Machine};
use tunewright::execute::Leg;
use tunewright::graph::text;
use tunewright::measure::{Bench, Effort, Probe, Runoff, bench::WorkerBench};
use tunewright::space::Space;
use tunewright::worker::segment::{Segment, Sizes};
use tunewright::worker::{self, Answer, Ask, Heard, Lane, Serve, Told, Worker};

fn grant(percent: f64) -> Grant {
    let machine = device::open("cpu").unwrap();
    machine.grant(Share::percent(percent).unwrap()).unwrap()
}

fn task() -> Task {
    Task::parse("gemm b=const k=64 m=48 n=64").unwrap()
}

fn signal(worker: &Worker, signal: Signal) {
    kill_process(Pid::from_raw(worker.pid() as i32).unwrap(), signal).unwrap();
}

#[test]
fn a_worker_races_real_configs_and_judges_a_pair() {
    let grant = grant(100.0);
    let mut bench = WorkerBench::new(&worker::program().unwrap(), &grant, Seed(1), 1e-4);
    let space = Space::new(&task(), kernels::operator("gemm").unwrap(), &grant.limits);
    let configs: Vec<_> = space.sample(4, Seed(1)).into_iter().filter_map(|index| space.nth(index)).collect();
    let trials = bench.race(&task(), &configs, &Effort::SEARCH).unwrap();
    for trial in &trials {
        let Outcome::Ok { timing, .. } = &trial.outcome else { panic!("{trial:?}") };
        assert!(timing.median > Picos(0) && timing.median < Picos::from_secs_f64(0.1), "{trial:?}");
    }
    let default = space.default_config();
    match bench.runoff(&task(), &default, &default, &Effort::RUNOFF).unwrap() {
        Runoff::Ok { ratio, .. } => assert!(ratio.lo_ppm < ratio.hi_ppm, "{ratio:?}"),
        failed => panic!("{failed:?}"),
    }
    // An illegal config is refused and the bench goes on.
    let mut foreign = default.clone();
    foreign.revision += 1;
    let trials = bench.race(&task(), &[foreign, default], &Effort::SEARCH).unwrap();
    assert!(matches!(&trials[0].outcome, Outcome::Failed { class: FailureClass::Compile, .. }));
    assert!(trials[1].time().is_some());
}

#[test]
fn a_worker_that_stops_is_late_and_its_successor_works() {
    let program = worker::program().unwrap();
    let mut worker = Worker::spawn(&grant(100.0), &program).unwrap();
    signal(&worker, Signal::STOP);
    let start = Instant::now();
    let death = worker.ask(&Ask::Close, Duration::from_millis(150)).unwrap_err();
    assert_eq!(death.class, FailureClass::Timeout);
    assert!(start.elapsed() < Duration::from_secs(2));
    assert!(worker.ask(&Ask::Close, Duration::from_secs(1)).is_err(), "a dead worker answers nothing");
    let mut next = Worker::spawn(&grant(100.0), &program).unwrap();
    assert_eq!(next.ask(&Ask::Close, Duration::from_secs(5)), Ok(Answer::Done));
}

#[test]
fn a_worker_that_crashes_says_by_which_signal() {
    let mut worker = Worker::spawn(&grant(100.0), &worker::program().unwrap()).unwrap();
    signal(&worker, Signal::ABORT);
    let death = worker.ask(&Ask::Close, Duration::from_secs(5)).unwrap_err();
    assert_eq!((death.class, death.detail.as_str()), (FailureClass::Crash, "killed by signal 6"));
}

#[test]
fn a_worker_that_holds_too_much_is_ended() {
    let mut worker = Worker::spawn(&grant(100.0), &worker::program().unwrap()).unwrap();
    worker.set_resident_max_bytes(1 << 20);
    signal(&worker, Signal::STOP);
    let death = worker.ask(&Ask::Close, Duration::from_secs(5)).unwrap_err();
    assert_eq!(death.class, FailureClass::OutOfMemory, "{death:?}");
}

#[test]
fn what_makes_no_sense_is_answered_and_not_obeyed() {
    let mut worker = Worker::spawn(&grant(100.0), &worker::program().unwrap()).unwrap();
    let mut ask = |ask: Ask| worker.ask(&ask, Duration::from_secs(5)).unwrap();
    let wrong = |answer: Answer| matches!(answer, Answer::Wrong { .. });
    assert!(wrong(ask(Ask::Lap { lanes: vec![Lane::Slot(0)] })));
    assert!(wrong(ask(Ask::Open { task: "no such".into(), seed: 0, max_error: 1e-4 })));
    assert_eq!(ask(Ask::Open { task: task().to_string(), seed: 0, max_error: 1e-4 }), Answer::Done);
    assert!(wrong(ask(Ask::Lap { lanes: vec![Lane::Sentinel, Lane::Slot(7)] })));
    assert!(matches!(ask(Ask::Lap { lanes: vec![Lane::Sentinel] }), Answer::Times { picos } if picos.len() == 1));
}

#[test]
fn a_worker_that_serves_holds_no_file_open_but_the_artifact() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("double.tune");
    let graph = text::parse("input %x: f32[1,4]\n%y: f32[1,4] = Add(%x, %x)\noutput %y as \"y\"").unwrap();
    artifact::write(&path, &Contents::untuned("double", vec![Bound { batch: Batch::ONE, dims: vec![], graph }])).unwrap();
    let file = File::open(&path).unwrap();
    // What is served needs no name.
    std::fs::remove_file(&path).unwrap();
    let mut worker = Worker::spawn(&grant(100.0), &worker::program().unwrap()).unwrap();
    let open = format!("/proc/{}/fd", worker.pid());
    let open = || std::fs::read_dir(&open).unwrap().count();
    let (before, deadline) = (open(), Duration::from_secs(30));
    let sizes = Sizes { inputs: vec![16], outputs: vec![16], room: 0 };
    let serve = Serve { artifact: "double.tune".into(), graph: 0, entry: None, room: 0 };
    let mut segments = Vec::new();
    for slot in 0..30 {
        let (segment, shared) = Segment::create(&sizes).unwrap();
        let ask = Ask::Serve { slot, serve: serve.clone() };
        let answer = worker.ask_with(&ask, &[file.as_fd(), shared.as_fd()], deadline).unwrap();
        assert!(matches!(answer, Answer::Built { .. }), "{answer:?}");
        segments.push(segment);
    }
    assert!(open() <= before + 1, "{before} files were open, now there are {}", open());
    let value = |value: f32| [value; 4].map(f32::to_le_bytes).concat();
    segments[7].parts().inputs[0].copy_from_slice(&value(1.5));
    let ran = worker.ask(&Ask::Run { slot: 7 }, deadline);
    assert!(matches!(ran, Ok(Answer::Run { slot: 7, told: Told::Ran { .. } })), "{ran:?}");
    assert_eq!(segments[7].parts().outputs[0], value(3.0));
    let (_segment, shared) = Segment::create(&sizes).unwrap();
    let beside = worker.ask_with(&Ask::Another { slot: 98, of: 7 }, &[shared.as_fd()], deadline);
    assert!(matches!(beside, Ok(Answer::Refused { .. })), "the host does one run after the other: {beside:?}");
    let alone = worker.ask(&Ask::Serve { slot: 99, serve }, deadline);
    assert!(matches!(alone, Ok(Answer::Wrong { .. })), "{alone:?}");
}

#[test]
fn instances_of_a_plan_run_beside_each_other_and_tell_of_their_legs() {
    let Some(machine) = machine() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("double.tune");
    let graph = text::parse("input %x: f32[1,4]\n%y: f32[1,4] = elementwise(%x) expr=\"add(a,a)\"\noutput %y as \"y\"").unwrap();
    artifact::write(&path, &Contents::untuned("double", vec![Bound { batch: Batch::ONE, dims: vec![], graph }])).unwrap();
    let file = File::open(&path).unwrap();
    let grant = machine.grant(Share::WHOLE).unwrap();
    let mut worker = Worker::spawn(&grant, &worker::program().unwrap()).unwrap();
    let (sizes, deadline) = (Sizes { inputs: vec![16], outputs: vec![16], room: 0 }, Duration::from_secs(60));
    let serve = Serve { artifact: "double.tune".into(), graph: 0, entry: None, room: 0 };
    let (first, shared) = Segment::create(&sizes).unwrap();
    let built = worker.ask_with(&Ask::Serve { slot: 0, serve }, &[file.as_fd(), shared.as_fd()], deadline);
    assert!(matches!(built, Ok(Answer::Built { .. })), "{built:?}");
    let mut segments = vec![first];
    for slot in 1..3 {
        let (segment, shared) = Segment::create(&sizes).unwrap();
        assert_eq!(worker.ask_with(&Ask::Another { slot, of: 0 }, &[shared.as_fd()], deadline), Ok(Answer::Done));
        segments.push(segment);
    }
    let bytes = |value: f32| [value; 4].map(f32::to_le_bytes).concat();
    for round in 0..20 {
        for (slot, segment) in segments.iter_mut().enumerate() {
            segment.parts().inputs[0].copy_from_slice(&bytes((round * 3 + slot) as f32));
            worker.tell(&Ask::Run { slot: slot as u32 }, &[]).unwrap();
        }
        let mut told = [const { Vec::new() }; 3];
        while told.iter().flatten().count() < 9 {
            let Heard::Answer(Answer::Run { slot, told: one }) = worker.hear(Some(Instant::now() + deadline), None).unwrap()
            else {
                panic!("runs were asked for, nothing else");
            };
            told[slot as usize].push(one);
        }
        for (slot, (told, segment)) in told.iter().zip(&mut segments).enumerate() {
            let legs = [Told::Passed(Leg::Upload), Told::Passed(Leg::Compute)];
            assert!(told[..2] == legs && matches!(told[2], Told::Ran { .. }), "slot {slot}: {told:?}");
            assert_eq!(segment.parts().outputs[0], bytes(2.0 * (round * 3 + slot) as f32), "slot {slot}");
        }
    }
    assert_eq!(worker.ask(&Ask::Release { slots: vec![0, 1] }, deadline), Ok(Answer::Done), "their threads end");
    let last = worker.ask(&Ask::Another { slot: 5, of: 0 }, deadline);
    assert!(matches!(last, Ok(Answer::Wrong { .. })), "{last:?}");
}

#[test]
fn a_worker_measures_each_figure_of_its_share_once() {
    let mut bench = WorkerBench::new(&worker::program().unwrap(), &grant(100.0), Seed(1), 1e-4);
    let probed = bench.probe().unwrap();
    assert_eq!(probed.iter().map(|(probe, _)| *probe).collect::<Vec<_>>(), Probe::ALL);
    for (probe, timing) in probed {
        assert!(timing.n > 1 && timing.p99 >= timing.median, "{probe:?} {timing:?}");
        // 10⁹ operations or bytes take a share of any machine longer than a microsecond, and less than a minute.
        assert!((Picos(1_000_000)..Picos::from_secs_f64(60.0)).contains(&timing.median), "{probe:?} {timing:?}");
    }
}

#[test]
fn a_worker_that_aborts_for_want_of_memory_is_not_a_crash() {
    let deadline = Duration::from_secs(30);
    let mut worker = Worker::spawn(&grant(100.0), &worker::program().unwrap()).unwrap();
    let pid = Pid::from_raw(worker.pid() as i32);
    let bound = Rlimit { current: Some(1 << 20), maximum: Some(1 << 20) };
    prlimit(pid, Resource::As, bound).unwrap();
    let open = Ask::Open { task: "gemm b=const k=4096 m=4096 n=4096".into(), seed: 1, max_error: 1e-4 };
    let death = worker.ask(&open, deadline).unwrap_err();
    assert_eq!(death.class, FailureClass::OutOfMemory, "{death:?}");
}

/// Of a parent that was told which cards it may see and where the toolkit is.
const CARDS: [(&str, &str); 3] =
    [("CUDA_VISIBLE_DEVICES", "3"), ("CUDA_DEVICE_ORDER", "PCI_BUS_ID"), ("CUDA_PATH", "/opt/toolkit")];

#[test]
fn a_worker_finds_the_cards_and_the_toolkit_that_its_parent_finds() {
    let test = "worker::what_a_worker_is_told_of_cards";
    let run =
        Command::new(std::env::current_exe().unwrap()).args(["--exact", test, "--ignored", "--nocapture"]).envs(CARDS).output();
    let run = run.unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
#[ignore = "it needs variables of its own; the test above runs it in a process that has them"]
fn what_a_worker_is_told_of_cards() {
    let folder = tempfile::tempdir().unwrap();
    let (program, found) = (folder.path().join("program"), folder.path().join("found"));
    std::fs::write(&program, format!("#!/bin/sh\nenv > {}\n", found.display())).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert!(Worker::spawn(&grant(100.0), &program).is_err(), "it is no worker");
    let of_worker = std::fs::read_to_string(&found).unwrap();
    for (name, value) in CARDS {
        assert!(of_worker.lines().any(|line| line == format!("{name}={value}")), "{name} of {of_worker}");
    }
}

#[test]
fn a_worker_dies_when_it_is_dropped() {
    let worker = Worker::spawn(&grant(100.0), &worker::program().unwrap()).unwrap();
    let pid = worker.pid();
    drop(worker);
    assert!(worker::watchdog::resident_bytes(pid).is_none());
}

/// A card of 132 multiprocessors by its limits; its workers get the processor, and so no multiprocessors.
fn card() -> Machine {
    let cpu = device::open("cpu").unwrap();
    let gpu = GpuLimits {
        shared_bytes: 227 << 10,
        units_per_cube: 1024,
        cube_dim: [1024, 1024, 64],
        cubes_per_axis: 65_535,
        bindings: 256,
        buffer_bytes: 1 << 30,
        turns: None,
        software: false,
        plane_units: Some(32),
        narrow: kernels::NarrowTypes::NONE,
        matrix: kernels::NarrowTypes::NONE,
    };
    Machine { limits: Limits { gpu: Some(gpu), ..cpu.limits }, multiprocessors: Some(132), ..cpu }
}

/// Runs an ignored test of this module in a process of its own that finds its programs there, and its temporary folder in `folder`.
fn apart(name: &str, path: &OsStr, folder: &Path) {
    let run = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("worker::{name}"), "--ignored", "--nocapture", "--test-threads", "1"])
        .env("PATH", path)
        .env("TMPDIR", folder)
        .env_remove("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE")
        .env_remove("CUDA_MPS_PIPE_DIRECTORY")
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn a_part_of_a_card_is_refused_unless_its_worker_counts_fewer_multiprocessors() {
    let folder = tempfile::tempdir().unwrap();
    let control = "nvidia-cuda-mps-control";
    let stand_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults").join(control);
    symlink(stand_in, folder.path().join(control)).unwrap();
    let paths = std::env::var_os("PATH").unwrap();
    let paths = std::env::join_paths(std::iter::once(folder.path().to_owned()).chain(std::env::split_paths(&paths))).unwrap();
    apart("a_worker_without_multiprocessors_is_refused", &paths, folder.path());
    let told = || std::fs::read_to_string(folder.path().join("told")).unwrap();
    // The process is gone, and the daemon follows it; nobody is left whose end could be waited for.
    let start = Instant::now();
    while !told().contains("quit") && start.elapsed() < Duration::from_secs(60) {
        std::thread::yield_now();
    }
    assert_eq!(told(), "start all\nquit\n", "one daemon for all workers, and none left");
}

#[test]
#[ignore = "the test above runs it"]
fn a_worker_without_multiprocessors_is_refused() {
    let card = card();
    assert_eq!(card.shares_pct(), [12.5, 25.0, 50.0, 75.0, 100.0]);
    assert_eq!((card.mechanisms(), card.lacks()), (vec!["mps".to_owned(), "whole".to_owned()], None));
    let quarter = Share::percent(25.0).unwrap();
    assert_eq!((card.slots(quarter), card.grant(quarter).unwrap().grant.units), (card.cores.len().min(4), 33));
    let here = card.grant_here(quarter).unwrap_err().to_string();
    assert_eq!(here, "cpu did not give 25 %: mps gives parts to workers only; it gives 12.5, 50, 75, 100");

    let folder = tempfile::tempdir().unwrap();
    let program = noted_program(folder.path());
    for _ in 0..2 {
        let refused = worker::proved(&card, quarter, &program).unwrap_err().to_string();
        assert!(refused.contains("the driver does not count the worker's multiprocessors; it gives 12.5, 50"), "{refused}");
    }
    let workers = noted(folder.path());
    assert_eq!(workers.len(), 2);
    for pid in workers {
        let environment = std::fs::read_to_string(folder.path().join(format!("{pid}.pid"))).unwrap();
        let pipes = std::env::temp_dir().join(format!("tunewright-mps-{}", std::process::id()));
        let has = |line: &str| environment.lines().any(|one| one == line);
        assert!(has("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=25"), "{environment}");
        assert!(has(&format!("CUDA_MPS_PIPE_DIRECTORY={}", pipes.display())), "{environment}");
    }
    // All of it needs nobody.
    let whole = worker::proved(&card, Share::WHOLE, &program).unwrap();
    assert_eq!(whole.grant.mechanism, "whole");
}

#[test]
fn without_the_control_program_a_card_gives_all_of_itself_and_says_why_no_less() {
    let folder = tempfile::tempdir().unwrap();
    apart("a_card_without_the_control_program", folder.path().as_os_str(), folder.path());
}

#[test]
#[ignore = "the test above runs it"]
fn a_card_without_the_control_program() {
    let error = card().grant(Share::percent(25.0).unwrap()).unwrap_err().to_string();
    let why = "parts want NVIDIA's nvidia-cuda-mps-control, which is not on PATH";
    assert_eq!(error, format!("cpu cannot give 25 %: it gives 100 ({why}); choose one of these"));
}
