//! What happens to a device, for real: a worker killed or stopped while it times a kernel there, a device without memory, a device that
//! is gone. What ruins a device for a whole process is done in a process of its own: this binary again, with one ignored test.

use crate::models::bound;
use crate::session::{artifact, image};
use crate::shipped::mnist_cnn;
use crate::stages;
use cube_kernels::GpuError;
use kernels::Task;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use schema::{Config, FailureClass, Outcome, Seed, Share};
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tunewright::device::{self, Grant};
use tunewright::measure::ahead::Compilers;
use tunewright::measure::{Bench, Effort, Phase, Trial, bench::WorkerBench};
use tunewright::passes::{Options, Pipeline};
use tunewright::session::{Request, Session, SessionError};
use tunewright::space::Space;
use tunewright::worker::{self, Answer, Ask, Lane, Worker};

fn grant() -> Option<Grant> {
    Some(stages::machine()?.grant(Share::WHOLE).expect("a device gives all of itself"))
}

fn task() -> Task {
    Task::parse("gemm b=const k=64 m=48 n=64").unwrap()
}

/// Configs that the device itself computes.
fn configs(grant: &Grant, most: usize) -> Vec<Config> {
    let space = Space::new(&task(), kernels::operator("gemm").unwrap(), &grant.limits);
    let sampled = space.sample(200, Seed(1)).into_iter().filter_map(|index| space.nth(index));
    let there: Vec<Config> = sampled.filter(|config| config.variant.contains(".cube_")).take(most).collect();
    assert_eq!(there.len(), most, "configs of the device");
    there
}

/// A program that notes its process in `folder` before it becomes a worker.
pub fn noted_program(folder: &Path) -> PathBuf {
    symlink(worker::program().unwrap(), folder.join("program")).unwrap();
    let noted = folder.join("noted");
    symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/noted.sh"), &noted).unwrap();
    noted
}

/// The workers noted in a folder.
pub fn noted(folder: &Path) -> Vec<i32> {
    let names = std::fs::read_dir(folder).unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| name.strip_suffix(".pid")?.parse().ok()).collect()
}

/// Whether a worker times the kernel of a slot at this moment: its standard output holds the number of the lane, from 1, and the first lane of
/// a lap is the sentinel's.
fn times_a_kernel(pid: i32) -> bool {
    let mut lane = [0; 4];
    let read = File::open(format!("/proc/{pid}/fd/1")).and_then(|file| file.read_exact_at(&mut lane, 0));
    read.is_ok() && u32::from_le_bytes(lane) > 1
}

/// Signals the first worker that is seen timing a kernel; gives up when `over`.
fn strike(folder: &Path, signal: Signal, over: &AtomicBool) {
    while !over.load(Ordering::SeqCst) {
        for pid in noted(folder) {
            if times_a_kernel(pid) {
                // It may have ended since it was looked at.
                let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
                return;
            }
        }
        std::thread::yield_now();
    }
}

fn classes(trials: &[Trial]) -> Vec<FailureClass> {
    let class = |trial: &Trial| match &trial.outcome {
        Outcome::Failed { class, .. } => Some(*class),
        _ => None,
    };
    trials.iter().filter_map(class).collect()
}

/// Races configs on the device while their worker is struck: the one it was timing fails with the class, the others get their times from the
/// next worker, and all do in the next race.
fn a_race_survives(signal: Signal, class: FailureClass) {
    let Some(grant) = grant() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut bench = WorkerBench::new(&noted_program(folder.path()), &grant, Seed(1), 1e-4);
    let configs = configs(&grant, 3);
    let mut race = |signal: Option<Signal>| {
        let (over, folder) = (AtomicBool::new(false), folder.path());
        let over = &over;
        std::thread::scope(|scope| {
            if let Some(signal) = signal {
                scope.spawn(move || strike(folder, signal, over));
            }
            let trials = bench.race(&task(), &configs, &Effort::SEARCH);
            over.store(true, Ordering::SeqCst);
            trials.expect("a death stops no race")
        })
    };
    // The race may end between the look at a worker and the blow: then nobody falls in it, and the next one is struck.
    let struck = std::iter::repeat_with(|| race(Some(signal))).take(10).find(|trials| !classes(trials).is_empty());
    let struck = struck.expect("the worker is struck while it times a kernel");
    assert_eq!(classes(&struck), [class], "{struck:?}");
    let trials = race(None);
    assert!(classes(&trials).is_empty(), "{trials:?}");
    assert!(noted(folder.path()).len() > 1, "another worker took over");
}

/// Races configs with a compiler beside the slot, whose worker is this program: none falls. What became of the compiler.
fn races_beside_a_compiler(program: &Path) -> Option<(Arc<Compilers>, usize)> {
    let grant = grant()?;
    let compilers = Arc::new(Compilers::start(program, vec![grant.clone()], Seed(1)));
    let bench = WorkerBench::new(&worker::program().unwrap(), &grant, Seed(1), 1e-4);
    let mut bench = bench.helped_by(compilers.clone(), 0);
    let configs = configs(&grant, 4);
    let trials = bench.race(&task(), &configs, &Effort::SEARCH).expect("nothing stops the race");
    assert!(trials.iter().map(|trial| &trial.config).eq(&configs), "one trial each, in order");
    assert!(classes(&trials).is_empty(), "{trials:?}");
    bench.rest();
    Some((compilers, configs.len()))
}

#[test]
fn a_compiler_beside_a_slot_compiles_what_the_slot_then_builds() {
    let Some((compilers, configs)) = races_beside_a_compiler(&worker::program().unwrap()) else { return };
    let tally = compilers.tally();
    assert!((1..=configs).contains(&(tally.compiled as usize)) && tally.used <= tally.compiled, "{tally:?}");
    assert!(compilers.phases().of(Phase::Compile) > Duration::ZERO);
}

/// A program of a shell's.
fn script(folder: &Path, text: &str) -> PathBuf {
    let program = folder.join("program");
    std::fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

#[test]
fn compilers_that_die_cost_no_candidate_and_are_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let Some((compilers, _)) = races_beside_a_compiler(&script(folder.path(), "exit 1")) else { return };
    let (start, configs) = (Instant::now(), configs(&grant().unwrap(), 12));
    compilers.foresee(&[(task(), configs)]);
    while compilers.tally().off.is_none() {
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", compilers.tally());
        std::thread::yield_now();
    }
    let tally = compilers.tally();
    assert!(tally.off.as_ref().unwrap().contains("died") && (tally.compiled, tally.used) == (0, 0), "{tally:?}");
}

#[test]
fn a_compiler_that_hangs_costs_no_candidate() {
    let folder = tempfile::tempdir().unwrap();
    let Some((compilers, _)) = races_beside_a_compiler(&script(folder.path(), "exec sleep 60")) else { return };
    assert_eq!((compilers.tally().compiled, compilers.tally().used), (0, 0));
}

#[test]
fn a_worker_that_is_killed_while_a_device_computes_costs_one_candidate() {
    a_race_survives(Signal::KILL, FailureClass::OutOfMemory);
}

#[test]
fn a_worker_that_hangs_while_a_device_computes_costs_one_candidate() {
    a_race_survives(Signal::STOP, FailureClass::Timeout);
}

#[test]
fn a_worker_whose_device_is_lost_says_so_and_its_successor_works() {
    let Some(grant) = grant() else { return };
    let deadline = Duration::from_secs(60);
    let config = configs(&grant, 1).remove(0);
    let open = Ask::Open { task: task().to_string(), seed: 1, max_error: 1e-4 };
    let build = Ask::Build { slot: 0, config };
    let lap = Ask::Lap { lanes: vec![Lane::Sentinel, Lane::Slot(0)] };
    // While it times a kernel, and while it builds one.
    for (last, lane) in [(&lap, Some(1)), (&build, None)] {
        let mut worker = Worker::spawn(&grant, &worker::program().unwrap()).unwrap();
        assert_eq!(worker.ask(&open, deadline), Ok(Answer::Done));
        assert!(matches!(worker.ask(&build, deadline), Ok(Answer::Built { .. })));
        assert!(matches!(worker.ask(&lap, deadline), Ok(Answer::Times { .. })));
        assert_eq!(worker.ask(&Ask::Destroy, deadline), Ok(Answer::Done));
        let death = worker.ask(last, deadline).unwrap_err();
        assert_eq!((death.class, death.lane), (FailureClass::DeviceLost, lane), "{death:?}");
        assert!(death.detail.contains("the device is lost"), "{death:?}");
    }
}

#[test]
fn a_host_has_no_device_to_destroy() {
    let grant = device::open("cpu").unwrap().grant(Share::WHOLE).unwrap();
    let mut worker = Worker::spawn(&grant, &worker::program().unwrap()).unwrap();
    assert!(matches!(worker.ask(&Ask::Destroy, Duration::from_secs(30)), Ok(Answer::Wrong { .. })));
    assert_eq!(worker.ask(&Ask::Close, Duration::from_secs(30)), Ok(Answer::Done));
}

/// Runs an ignored test of this module in a process of its own.
fn apart(name: &str) {
    if stages::machine().is_none() {
        return;
    }
    let name = format!("faults::{name}");
    let run = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--ignored", "--nocapture", "--test-threads", "1"])
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn a_runtime_goes_on_elsewhere_when_its_device_is_lost() {
    apart("its_device_is_lost");
}

#[test]
fn a_device_without_memory_says_so_and_still_works() {
    apart("without_memory");
}

#[test]
#[ignore = "it loses the device of its process; the test above runs it in one of its own"]
fn its_device_is_lost() {
    let machine = stages::machine().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = artifact(folder.path(), &[]);
    let name = machine.device.name.0.as_str();
    let [alone, careful] = [&[][..], &["cpu"]].map(|failover: &[&str]| {
        let builder = Session::builder().artifact(&path).device(name);
        failover.iter().fold(builder, |builder, name| builder.failover(name)).open().unwrap()
    });
    let mut graph = bound(&mnist_cnn(), 1);
    Pipeline::untimed().run(&mut graph, &Options::default()).unwrap();
    let request = Request::new("mnist_cnn").input(&graph.value(graph.inputs[0]).name, image(1));
    let before = careful.run(&request).unwrap();
    assert_eq!((before.decision.device.0.as_str(), before.decision.lost.clone()), (name, vec![]));
    alone.run(&request).unwrap();

    let grant = machine.grant(Share::WHOLE).unwrap();
    let gpu = device::gpu(&grant.device, &grant.cores).unwrap().unwrap();
    let (held, small) = (gpu.upload(&[1, 2, 3, 4]).unwrap(), gpu.room(4).unwrap());
    assert!(gpu.destroy());
    for said in [
        gpu.sync().unwrap_err(),
        gpu.download(&held).unwrap_err(),
        gpu.download(&small).unwrap_err(),
        gpu.upload(&[0]).unwrap_err(),
        gpu.room(8).unwrap_err(),
    ] {
        assert!(matches!(said, GpuError::Lost(_)), "{said:?}");
    }
    for _ in 0..2 {
        let after = careful.run(&request).unwrap();
        assert_eq!(after.decision.device.0, "cpu");
        let [(lost, why)] = &after.decision.lost[..] else { panic!("{:?}", after.decision.lost) };
        assert!(lost.0 == name && why.contains("the device is lost"), "{lost:?} {why}");
        let values =
            |answer: &tunewright::session::Answer| answer.outputs[0].1.tensor().unwrap().values::<f32>().unwrap().to_vec();
        let worst = values(&before).iter().zip(values(&after)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{worst}");
    }
    // Also where a plan for it is only being made: another batch.
    let four = Request::new("mnist_cnn").input(&graph.value(graph.inputs[0]).name, image(4));
    assert_eq!(careful.run(&four).unwrap().decision.device.0, "cpu");
    for request in [&request, &four] {
        let error = alone.run(request).unwrap_err();
        assert!(matches!(error, SessionError::Run { .. } | SessionError::Plan { .. }), "{error:?}");
        assert!(error.to_string().contains("the device is lost"), "{error}");
    }
}

/// What a process has of address space.
fn address_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').next().unwrap().parse::<u64>().unwrap() * rustix::param::page_size() as u64
}

#[test]
#[ignore = "it bounds the memory of its process; the test above runs it in one of its own"]
fn without_memory() {
    const ROOM: usize = 64 << 20;
    let grant = grant().unwrap();
    let gpu = device::gpu(&grant.device, &grant.cores).unwrap().unwrap();
    let beyond = usize::try_from(gpu.limits().buffer_bytes).unwrap() + 1;
    for said in [gpu.room(beyond).unwrap_err(), gpu.upload(&vec![0; beyond]).unwrap_err()] {
        assert!(matches!(said, GpuError::OutOfMemory(_)), "{said:?}");
    }
    gpu.sync().expect("nothing was asked of the device");

    // A software driver takes its memory from this process.
    let free = getrlimit(Resource::As);
    setrlimit(Resource::As, Rlimit { current: Some(address_bytes() + 4 * ROOM as u64), ..free }).unwrap();
    let mut rooms = Vec::new();
    let said = (0..8).find_map(|_| match gpu.room(ROOM).and_then(|room| gpu.sync().map(|()| room)) {
        Ok(room) => {
            rooms.push(room);
            None
        }
        Err(said) => Some(said),
    });
    assert!(matches!(said, Some(GpuError::OutOfMemory(_))), "{said:?}");
    drop(rooms);
    setrlimit(Resource::As, free).unwrap();
    let held = gpu.upload(&[1, 2, 3, 4]).unwrap();
    assert_eq!(gpu.download(&held), Ok(vec![1, 2, 3, 4]));
    gpu.room(ROOM).and_then(|_| gpu.sync()).expect("there is memory again");
}
