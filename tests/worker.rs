//! Real worker processes: what they measure, how they die, and what their death costs.

use kernels::Task;
use rustix::process::{Pid, Signal, kill_process};
use schema::{FailureClass, Outcome, Picos, Seed, Share};
use std::time::{Duration, Instant};
use tunewright::device::{self, Grant};
use tunewright::measure::{Bench, Effort, Probe, Runoff, bench::WorkerBench};
use tunewright::space::Space;
use tunewright::worker::{self, Answer, Ask, Lane, Worker};

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
fn a_worker_measures_what_its_share_can_do() {
    let start = Instant::now();
    let mut bench = WorkerBench::new(&worker::program().unwrap(), &grant(100.0), Seed(1), 1e-4);
    let probed = bench.probe().unwrap();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let per_s = |probe: Probe| {
        let (_, timing) = probed.iter().find(|(one, _)| *one == probe).unwrap();
        1e9 / timing.median.as_secs_f64()
    };
    let [flops, l2, l3, memory] = Probe::ALL.map(per_s);
    assert!((1e9..1e13).contains(&flops) && (1e8..1e13).contains(&memory), "{flops:.1e} {memory:.1e}");
    assert!(l2 > 0.7 * l3 && l3 > 0.5 * memory, "nearer memory is faster: {l2:.1e} {l3:.1e} {memory:.1e}");
}

#[test]
fn a_worker_dies_when_it_is_dropped() {
    let worker = Worker::spawn(&grant(100.0), &worker::program().unwrap()).unwrap();
    let pid = worker.pid();
    drop(worker);
    assert!(worker::watchdog::resident_bytes(pid).is_none());
}
