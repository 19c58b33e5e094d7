//! The runtime under requests from many threads: dynamic batches, several models, cancellation, faults, shutdown.

use crate::cli::tunewright;
use crate::faults::{noted, noted_program};
use crate::models::bound;
use crate::session::{artifact, image};
use crate::shipped::mnist_cnn;
use crate::stages::machine;
use kernels::{Datum, Tensor};
use rustix::process::{Pid, Signal, kill_process};
use schema::{Batch, Share};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};
use tunewright::artifact::{self as artifacts, Bound, Contents};
use tunewright::device;
use tunewright::execute::{Configs, Plan};
use tunewright::graph::text;
use tunewright::passes::{Options, Pipeline};
use tunewright::runtime::{Builder, Evidence, Request, Runtime, RuntimeError};
use tunewright::schedule::{Engines, Limits};

/// Where a request names the input of the shipped model.
fn input_name() -> String {
    let graph = bound(&mnist_cnn(), 1);
    graph.value(graph.inputs[0]).name.clone()
}

/// What a plan of its own gives for that many rows.
fn expected(rows: usize) -> Vec<f32> {
    let mut graph = bound(&mnist_cnn(), rows as u32);
    Pipeline::untimed().run(&mut graph, &Options::default()).unwrap();
    let mut plan = Plan::compile(&graph, &Configs::new(), &device::open("cpu").unwrap().limits).unwrap();
    let name = plan.inputs().next().unwrap().name.clone();
    values(&plan.run(&[(name.as_str(), image(rows))]).unwrap()[0])
}

fn values(datum: &Datum) -> Vec<f32> {
    datum.tensor().expect("a tensor").values::<f32>().expect("of f32").into_owned()
}

/// An artifact of a graph in text form, by batch.
fn written(folder: &Path, name: &str, graphs: &[(u32, &str)]) -> PathBuf {
    let bound =
        |&(rows, of): &(u32, &str)| Bound { batch: Batch::new(rows).unwrap(), dims: vec![], graph: text::parse(of).unwrap() };
    let graphs = graphs.iter().map(bound).collect();
    let path = folder.join(format!("{name}.tune"));
    artifacts::write(&path, &Contents::untuned(name, graphs)).unwrap();
    path
}

/// Doubles its input, at the batches 1 and 8.
fn double(folder: &Path) -> PathBuf {
    let of = |rows: u32| format!("input %x: f32[{rows},4]\n%y: f32[{rows},4] = Add(%x, %x)\noutput %y as \"y\"");
    written(folder, "double", &[(1, &of(1)), (8, &of(8))])
}

fn builder() -> Builder {
    Runtime::builder().program(env!("CARGO_BIN_EXE_tunewright"))
}

fn row(value: f32) -> Request {
    Request::new("double").input("x", Tensor::new(vec![1, 4], vec![value; 4]))
}

#[test]
fn requests_of_any_number_of_rows_get_what_a_plan_gives() {
    let folder = tempfile::tempdir().unwrap();
    let here = device::open("cpu").unwrap();
    // A record of a time that no other batch has.
    let path = artifact(folder.path(), &[(&here.device, Share::WHOLE, 1e-3)]);
    let runtime = builder().artifact(&path).open().unwrap();
    let name = input_name();
    // The tuned batches are 1 and 4: 3 rows are padded, 11 take the batch several times.
    for rows in [1usize, 3, 4, 11] {
        let answer = runtime.run(Request::new("mnist_cnn").input(&name, image(rows))).unwrap();
        let (have, wanted) = (values(&answer.outputs[0].1), expected(rows));
        assert_eq!(have.len(), wanted.len());
        let worst = have.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{rows} rows: {worst}");
        assert_eq!((answer.decision.rows as usize, answer.decision.requests), (rows, 1));
    }
    let answer = runtime.run(Request::new("mnist_cnn").input(&name, image(1))).unwrap();
    let by = answer.decision.predicted_by;
    assert!(matches!(by, Evidence::Records(_)), "the artifact has a record of it: {by:?}");
}

#[test]
fn workers_have_at_most_what_they_may() {
    let folder = tempfile::tempdir().unwrap();
    let whole = builder().artifact(double(folder.path())).share(Share::percent(50.0).unwrap());
    let slots = whole.clone().open().unwrap().fleet().devices[0].workers.len();
    let runtime = whole.at_most(Share::percent(50.0).unwrap()).open().unwrap();
    let workers = &runtime.fleet().devices[0].workers;
    assert_eq!(workers.as_slice(), &[Share::percent(50.0).unwrap()], "of {slots}");
    let answer = runtime.run(row(3.0)).unwrap();
    assert_eq!(values(&answer.outputs[0].1), vec![6.0; 4]);
    assert_eq!(answer.decision.share, Share::percent(50.0).unwrap());
    let above = builder().artifact(double(folder.path())).share(Share::WHOLE).at_most(Share::percent(50.0).unwrap()).open();
    assert!(matches!(above, Err(RuntimeError::AboveAtMost { .. })), "what is asked for is not left out in silence");
}

#[test]
fn requests_that_come_together_run_together() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = builder().artifact(double(folder.path())).open().unwrap();
    let pending: Vec<_> = (0..200).map(|i| runtime.submit(row(i as f32)).unwrap()).collect();
    let mut together = 0;
    for (i, pending) in pending.into_iter().enumerate() {
        let answer = pending.wait().unwrap();
        assert_eq!(values(&answer.outputs[0].1), [2.0 * i as f32; 4]);
        together = together.max(answer.decision.requests);
    }
    assert!(together > 1 && together <= 8, "{together}");
}

#[test]
fn inputs_may_come_in_any_order() {
    let folder = tempfile::tempdir().unwrap();
    let of = |rows: u32| {
        let inputs = ["x", "y", "z"].map(|name| format!("input %{name}: f32[{rows},2]")).join("\n");
        format!("{inputs}\n%a: f32[{rows},2] = Sub(%x, %y)\n%b: f32[{rows},2] = Mul(%a, %z)\noutput %b as \"b\"")
    };
    let runtime = builder().artifact(written(folder.path(), "mixed", &[(1, &of(1)), (4, &of(4))])).open().unwrap();
    let value = |name: &str| {
        if name == "x" {
            7.0f32
        } else if name == "y" {
            2.0
        } else {
            3.0
        }
    };
    let request = |names: [&str; 3]| {
        let tensor = |name| Tensor::new(vec![1, 2], vec![value(name); 2]);
        names.into_iter().fold(Request::new("mixed"), |request, name| request.input(name, tensor(name)))
    };
    for names in [["x", "y", "z"], ["x", "z", "y"], ["y", "x", "z"], ["y", "z", "x"], ["z", "x", "y"], ["z", "y", "x"]] {
        let answer = runtime.run(request(names)).unwrap();
        assert_eq!(values(&answer.outputs[0].1), [15.0; 2], "{names:?}");
    }
    for names in [["x", "x", "y"], ["x", "y", "w"]] {
        assert!(matches!(runtime.run(request(names)), Err(RuntimeError::Inputs { .. })), "{names:?}");
    }
}

#[test]
fn every_policy_serves() {
    let folder = tempfile::tempdir().unwrap();
    let path = double(folder.path());
    for (name, _) in tunewright::schedule::POLICIES {
        let text = if *name == "fixed" { "fixed:cpu/100/1" } else { name };
        let runtime = builder().artifact(&path).policy(text).open().unwrap();
        let pending: Vec<_> = (0..40).map(|i| runtime.submit(row(i as f32)).unwrap()).collect();
        for (i, pending) in pending.into_iter().enumerate() {
            assert_eq!(values(&pending.wait().unwrap().outputs[0].1), [2.0 * i as f32; 4], "{name}");
        }
    }
}

/// Counts how often it is woken.
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn an_answer_is_a_future() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = builder().artifact(double(folder.path())).open().unwrap();
    let woken = Arc::new(Woken(AtomicUsize::new(0)));
    let waker = Waker::from(woken.clone());
    let mut pending = Box::pin(runtime.submit(row(3.0)).unwrap());
    let began = Instant::now();
    let answer = loop {
        match pending.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(answer) => break answer.unwrap(),
            Poll::Pending => {
                while woken.0.swap(0, Ordering::SeqCst) == 0 {
                    assert!(began.elapsed() < Duration::from_secs(60), "nobody wakes it");
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
        }
    };
    assert_eq!(values(&answer.outputs[0].1), [6.0; 4]);
}

#[test]
fn models_come_and_go_while_others_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = builder().artifact(double(folder.path())).open().unwrap();
    let of = "input %x: f32[1,2]\n%y: f32[1,2] = Mul(%x, %x)\noutput %y as \"y\"";
    let square = written(folder.path(), "square", &[(1, of)]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut answered = 0;
                    while !over.load(Ordering::Relaxed) {
                        assert_eq!(values(&runtime.run(row(1.5)).unwrap().outputs[0].1), [3.0; 4]);
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();
        let ask = || runtime.submit(Request::new("square").input("x", Tensor::new(vec![1, 2], vec![3f32, -4.0])));
        for _ in 0..3 {
            assert!(matches!(ask().map(drop).unwrap_err(), RuntimeError::UnknownModel { .. }));
            runtime.load(&square).unwrap();
            assert!(matches!(runtime.load(&square).unwrap_err(), RuntimeError::TwoOfAName(name) if name == "square"));
            let pending: Vec<_> = (0..20).map(|_| ask().unwrap()).collect();
            // What was accepted is answered first.
            runtime.unload("square").unwrap();
            for pending in pending {
                assert_eq!(values(&pending.wait().unwrap().outputs[0].1), [9.0, 16.0]);
            }
        }
        over.store(true, Ordering::Relaxed);
        assert!(asking.into_iter().all(|thread| thread.join().unwrap() > 0));
    });
    assert_eq!(runtime.models(), ["double"]);
    assert!(matches!(runtime.unload("square").unwrap_err(), RuntimeError::UnknownModel { .. }));
}

#[test]
fn what_waits_can_be_taken_back_and_a_full_queue_says_when_to_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { queue_len_max: 8, ..Limits::default() };
    let runtime = builder().artifact(double(folder.path())).limits(limits).open().unwrap();
    let (mut kept, mut taken_back, mut refused) = (0, 0, 0);
    for round in 0..400 {
        let mut pending = Vec::new();
        for _ in 0..12 {
            match runtime.submit(row(1.0)) {
                Ok(accepted) => pending.push(accepted),
                Err(error) => {
                    assert!(matches!(error, RuntimeError::Refused { .. }), "{error}");
                    assert!(error.retry_after().is_some(), "{error}");
                    refused += 1;
                }
            }
        }
        let last = pending.pop().unwrap();
        if round % 2 == 0 {
            taken_back += usize::from(last.cancel())
        } else {
            drop(last)
        }
        for pending in pending {
            pending.wait().unwrap();
            kept += 1;
        }
        if refused > 0 && taken_back > 0 {
            break;
        }
    }
    assert!(kept > 0 && taken_back > 0 && refused > 0, "{kept} {taken_back} {refused}");
}

#[test]
fn a_shutdown_answers_what_was_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = builder().artifact(double(folder.path())).open().unwrap();
    let pending: Vec<_> = (0..100).map(|_| runtime.submit(row(2.0)).unwrap()).collect();
    runtime.shutdown();
    for mut pending in pending {
        let ready = std::pin::Pin::new(&mut pending).poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Ok(answer)) = ready else { panic!("a shutdown came back before its answers were there") };
        assert_eq!(values(&answer.outputs[0].1), [4.0; 4]);
    }
    let late = runtime.submit(row(1.0)).map(drop).unwrap_err();
    assert!(late.to_string().contains("shutting down"), "{late}");
}

#[test]
fn a_runtime_may_end_with_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = builder().artifact(double(folder.path())).open().unwrap();
    let (ended, end) = std::sync::mpsc::channel();
    let pending = runtime.submit(row(1.0)).unwrap();
    pending.then(move |answer| {
        // On the thread that answers, unless the answer was there already.
        drop(runtime);
        ended.send(answer.unwrap().outputs).unwrap();
    });
    let outputs = end.recv_timeout(Duration::from_secs(60)).expect("dropping the runtime comes back");
    assert_eq!(values(&outputs[0].1), [2.0; 4]);
}

#[test]
fn workers_that_are_killed_cost_nobody_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let program = noted_program(folder.path());
    let runtime = builder().program(&program).artifact(double(folder.path())).open().unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..4)
            .map(|thread| {
                let (runtime, over) = (&runtime, &over);
                scope.spawn(move || {
                    let mut answered = 0;
                    while !over.load(Ordering::Relaxed) {
                        let value = (answered * 4 + thread) as f32;
                        match runtime.run(row(value)) {
                            Ok(answer) => assert_eq!(values(&answer.outputs[0].1), [2.0 * value; 4]),
                            // It was there twice when a worker was killed.
                            Err(RuntimeError::Run { detail, .. }) => assert!(detail.contains("workers died"), "{detail}"),
                            Err(error) => panic!("{error}"),
                        }
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();
        for _ in 0..8 {
            std::thread::sleep(Duration::from_millis(120));
            let living = noted(folder.path()).into_iter().find(|pid| Path::new(&format!("/proc/{pid}")).exists());
            // It may end just now.
            living.and_then(Pid::from_raw).map(|pid| kill_process(pid, Signal::KILL));
        }
        std::thread::sleep(Duration::from_millis(200));
        over.store(true, Ordering::Relaxed);
        assert!(asking.into_iter().all(|thread| thread.join().unwrap() > 0));
    });
    assert!(noted(folder.path()).len() > 2, "workers were replaced");
    assert_eq!(values(&runtime.run(row(1.0)).unwrap().outputs[0].1), [2.0; 4]);
}

/// Runs that overlap on a device with engines: each as it would be alone, and whatever becomes of the worker.
#[test]
fn runs_of_a_worker_overlap_where_something_copies_beside_computing() {
    let Some(machine) = machine() else { return };
    let of = |rows: u32| {
        let ty = format!("f32[{rows},65536]");
        let steps = ["%x", "%a", "%b", "%c", "%d"]
            .windows(2)
            .map(|two| format!("{}: {ty} = elementwise({}) expr=\"sqrt(add(mul(a,a),1.0))\"\n", two[1], two[0]));
        format!("input %x: {ty}\n{}output %d as \"y\"", steps.collect::<String>())
    };
    let request = |value: f32| Request::new("norms").input("x", Tensor::new(vec![1, 65536], vec![value; 65536]));
    let right = |value: f32, answer: &tunewright::runtime::Answer| {
        let expected = (value * value + 4.0).sqrt();
        values(&answer.outputs[0].1).iter().all(|have| (have - expected).abs() < 1e-3 * expected)
    };
    for engines in [Engines::One, Engines::Two] {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path(), "norms", &[(1, &of(1)), (4, &of(4))]);
        let builder = builder().program(noted_program(folder.path())).device(&machine.device.name.0).share(Share::WHOLE);
        let runtime = builder.artifact(&path).engines(engines).open().unwrap();
        assert_eq!(runtime.fleet().devices[0].engines, engines);
        let curves = runtime.index();
        assert!(curves.curves()[0].rows.iter().all(|row| row.stages.upload.0 > 0 && row.stages.download.0 > 0), "{curves:?}");
        // Of each request: between which instants its run began, and after which it was over.
        let mut spans: Vec<[Instant; 3]> = Vec::new();
        let began = Instant::now();
        while !spans.iter().any(|a| spans.iter().any(|b| a[1] < b[0] && b[1] < a[2])) {
            assert!(began.elapsed() < Duration::from_secs(60), "no run began before another was over: {spans:?}");
            let submitted = |i| (i as f32, Instant::now(), runtime.submit(request(i as f32)).unwrap(), Instant::now());
            let pending: Vec<_> = (0..40).map(submitted).collect();
            spans.clear();
            for (value, before, pending, after) in pending {
                let answer = pending.wait().unwrap();
                assert!(right(value, &answer), "{value}");
                let (waited, latency) = (answer.decision.waited, answer.decision.latency);
                spans.push([before + waited, after + waited, before + latency]);
            }
        }
        // Whoever is on its way when the worker dies goes again.
        let pending: Vec<_> = (0..60).map(|i| (i as f32, runtime.submit(request(i as f32)).unwrap())).collect();
        kill_process(Pid::from_raw(noted(folder.path())[0]).unwrap(), Signal::KILL).unwrap();
        for (value, pending) in pending {
            assert!(right(value, &pending.wait().unwrap()), "{value}");
        }
    }
}

#[test]
fn a_device_that_is_lost_leaves_its_requests_to_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let program = noted_program(folder.path());
    let builder = builder().program(&program).device("cpu").device("cpu:scalar").share(Share::WHOLE);
    let runtime = builder.artifact(double(folder.path())).open().unwrap();
    // Nothing can take the place of a worker that dies now.
    std::fs::remove_file(&program).unwrap();
    let workers = noted(folder.path());
    assert_eq!(workers.len(), 2, "one for each device");
    let pending: Vec<_> = (0..50).map(|i| (i, runtime.submit(row(i as f32)).unwrap())).collect();
    kill_process(Pid::from_raw(workers[0]).unwrap(), Signal::KILL).unwrap();
    for (i, pending) in pending {
        assert_eq!(values(&pending.wait().unwrap().outputs[0].1), [2.0 * i as f32; 4]);
    }
    let (began, mut lost) = (Instant::now(), false);
    while !lost {
        assert!(began.elapsed() < Duration::from_secs(60), "the device is not given up");
        let answer = runtime.run(row(1.0)).unwrap();
        lost = answer.decision.rivals.iter().any(|rival| rival.why == "the device is lost");
    }
    kill_process(Pid::from_raw(workers[1]).unwrap(), Signal::KILL).unwrap();
    // The last device: what waits for it is refused when it is given up.
    let error = loop {
        match runtime.run(row(1.0)) {
            Ok(_) => assert!(began.elapsed() < Duration::from_secs(60), "the last device is not given up"),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("no device is left") || error.to_string().contains("workers died"), "{error}");
}

#[test]
fn a_database_that_is_damaged_or_gone_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (model, database) = (mnist_cnn(), folder.path().join("db"));
    let tune = ["tune", model.to_str().unwrap(), "--budget", "trials=4", "--db", "db", "-o", "mnist_cnn.tune"];
    let tuned = tunewright(folder.path(), &tune);
    assert_eq!(tuned.status.code(), Some(0), "{}", String::from_utf8_lossy(&tuned.stderr));
    let runtime = builder().artifact(folder.path().join("mnist_cnn.tune")).database(&database).open().unwrap();
    let (name, wanted) = (input_name(), expected(1));
    let ask = || {
        let answer = runtime.run(Request::new("mnist_cnn").input(&name, image(1))).unwrap();
        let worst = values(&answer.outputs[0].1).iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{worst}");
        answer.decision.predicted_by
    };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                ask();
            }
        });
        assert!(!runtime.refresh().unwrap(), "nothing is new");
        let files = |folder: &Path| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
        for file in files(&database).into_iter().filter(|path| path.is_file()) {
            let bytes = std::fs::read(&file).unwrap();
            std::fs::write(&file, vec![0xa5; bytes.len()]).unwrap();
        }
        // Whether the damage is seen is the reader's business; it is an answer, and the records that are held stay.
        let _ = runtime.refresh();
        std::fs::rename(&database, folder.path().join("gone")).unwrap();
        let _ = runtime.refresh();
        let tuned = tunewright(folder.path(), &tune);
        assert_eq!(tuned.status.code(), Some(0), "{}", String::from_utf8_lossy(&tuned.stderr));
        let _ = runtime.refresh();
        over.store(true, Ordering::Relaxed);
        asking.join().unwrap();
    });
    assert!(matches!(ask(), Evidence::Records(_)));
}

#[test]
fn a_policy_that_foresees_learns_from_the_models_of_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let model = mnist_cnn();
    let tune = [
        "tune",
        model.to_str().unwrap(),
        "--budget",
        "trials=0",
        "--batch",
        "1,2,3,4,5,6,7,8",
        "--share",
        "50,100",
        "--db",
        "db",
    ];
    let tuned = tunewright(folder.path(), &tune);
    assert_eq!(tuned.status.code(), Some(0), "{}", String::from_utf8_lossy(&tuned.stderr));
    let alone = builder().artifact(double(folder.path())).policy("forest");
    let taught = alone.clone().database(folder.path().join("db")).open().unwrap().index();
    assert!(alone.open().unwrap().index().foresight().is_none(), "two rows of one model are too little");
    let table = &taught.foresight().expect("16 rows of another model are enough").table;
    assert_eq!((taught.facts().elsewhere.len(), table.len()), (16, taught.row_count()));
    assert!(table.iter().all(|row| row.ln_time.is_some()));
    // What was timed as it was loaded is not trusted as a record is.
    assert!(taught.facts().samples.values().all(|&runs| (1..100).contains(&runs)));
    assert_eq!(taught.facts().samples.len(), taught.row_count());
}

#[test]
fn a_request_that_the_model_refuses_harms_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let of = |rows: u32| {
        let table = "$t: f32[3,2] = [1, 2, 3, 4, 5, 6]";
        format!("{table}\ninput %i: i64[{rows}]\n%y: f32[{rows},2] = Gather($t, %i) axis=0\noutput %y as \"y\"")
    };
    let path = written(folder.path(), "rows", &[(1, &of(1)), (8, &of(8))]);
    let runtime = builder().artifact(path).open().unwrap();
    let ask = |index: i64| runtime.submit(Request::new("rows").input("i", Tensor::new(vec![1], vec![index]))).unwrap();
    let pending: Vec<_> = (0..60).map(|i| (i, ask(if i % 7 == 3 { 99 } else { i % 3 }))).collect();
    for (i, pending) in pending {
        match pending.wait() {
            Ok(answer) => assert_eq!(values(&answer.outputs[0].1)[0], (2 * (i % 3) + 1) as f32),
            Err(error) => {
                assert_eq!(i % 7, 3, "{error}");
                assert!(error.to_string().contains("99"), "{error}");
            }
        }
    }
}

#[test]
fn sizes_that_only_a_run_tells_come_back_whole() {
    let folder = tempfile::tempdir().unwrap();
    let of = "input %x: f32[1,4096]\n%y: i64[2,n] = NonZero(%x)\noutput %y as \"y\"";
    let runtime = builder().artifact(written(folder.path(), "nonzero", &[(1, of)])).open().unwrap();
    for count in [0usize, 3, 4096, 17] {
        let input = Tensor::new(vec![1, 4096], (0..4096).map(|i| f32::from(u8::from(i < count))).collect());
        let answer = runtime.run(Request::new("nonzero").input("x", input)).unwrap();
        let tensor = answer.outputs[0].1.tensor().unwrap();
        assert_eq!(tensor.shape(), [2, count]);
        assert!(tensor.values::<i64>().unwrap()[count..].iter().enumerate().all(|(at, &found)| found == at as i64));
    }
}

#[test]
fn bad_requests_and_bad_runtimes_say_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = double(folder.path());
    let runtime = builder().artifact(&path).open().unwrap();
    let error = |request: Request| runtime.submit(request).map(drop).unwrap_err().to_string();
    assert_eq!(error(Request::new("triple")), "there is no model 'triple'; there are double");
    let wrong = Request::new("double").input("x", Tensor::new(vec![1, 5], vec![0f32; 5]));
    assert!(error(wrong).contains("it takes x: f32[n,4]"));
    let half = error(row(0.0).share(Share::percent(50.0).unwrap()));
    assert!(half.contains("at 50 %") && half.contains("workers of 100 %; open it"), "{half}");
    assert!(runtime.run(row(0.0).share(Share::WHOLE)).is_ok(), "that is the share it has");
    let late = error(row(0.0).deadline(Duration::ZERO));
    assert!(late.contains("deadline"), "{late}");
    let open = |builder: Builder| builder.artifact(&path).open().map(drop).unwrap_err();
    assert!(matches!(open(builder().artifact(&path)), RuntimeError::TwoOfAName(_)));
    assert!(matches!(open(builder().device("npu:0")), RuntimeError::Device(_)));
    assert!(matches!(open(builder().share(Share::percent(0.3).unwrap())), RuntimeError::Share(_)));
    assert!(matches!(open(builder().policy("guess")), RuntimeError::Policy(_)));
    assert!(matches!(open(builder().program("/nowhere/tunewright")), RuntimeError::Worker(_)));
    assert!(matches!(open(builder().database(folder.path().join("none.db"))), RuntimeError::Database { .. }));
}
