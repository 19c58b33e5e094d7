//! Runs in steps on a device: whatever order flights are driven in, each gives what a run by itself gives.

use crate::stages::{lookup, machine, open, weights};
use kernels::{Datum, Tensor};
use schema::Seed;
use std::sync::mpsc;
use std::time::Duration;
use tunewright::execute::{Configs, Leg, Plan, RunError};
use tunewright::graph::{Graph, text};
use tunewright::space::Stream;

/// Two products with weights that instances share.
fn products() -> Graph {
    let text = "input %x: f32[6,24]\n\
         $v: f32[24,40] = FIRST\n\
         $w: f32[40,16] = SECOND\n\
         %a: f32[6,40] = gemm(%x, $v)\n\
         %b: f32[6,40] = elementwise(%a) expr=\"relu(a)\"\n\
         %y: f32[6,16] = gemm(%b, $w)\n\
         output %y as \"y\"\n\
         output %b as \"b\"\n\
         output %x as \"x\"";
    text::parse(&text.replace("FIRST", &weights(24 * 40)).replace("SECOND", &weights(40 * 16))).unwrap()
}

/// The host computes something between two launches.
fn with_a_host_between() -> Graph {
    text::parse(
        "input %x: f32[3,4]\n\
         $axis: i64[] = [1]\n\
         %a: f32[3,4] = elementwise(%x) expr=\"add(a,1.0)\"\n\
         %c: f32[3,4] = CumSum(%a, $axis) reverse=1\n\
         %d: f32[3,4] = elementwise(%c, %a) expr=\"mul(a,b)\"\n\
         output %d as \"d\"",
    )
    .unwrap()
}

fn compiled(graph: Graph) -> Option<Plan> {
    let machine = machine()?;
    Some(Plan::compile_on(&open(&machine), graph, &Configs::new(), &machine.limits, u64::MAX).unwrap())
}

fn batch(shape: &[usize], stream: &mut Stream) -> [(&'static str, Tensor); 1] {
    let count = shape.iter().product::<usize>();
    [("x", Tensor::new(shape.to_vec(), (0..count).map(|_| stream.unit() as f32 - 0.5).collect()))]
}

fn bits(outputs: &[Datum]) -> Vec<Vec<u8>> {
    outputs.iter().map(|output| output.tensor().unwrap().bytes().to_vec()).collect()
}

/// The next step of an instance whose last was `leg`; outputs where there was none left.
fn step(plan: &mut Plan, leg: Option<Leg>, inputs: &[(&str, Tensor)]) -> (Option<Leg>, Option<Vec<Vec<u8>>>) {
    match leg {
        None => (Some(Leg::Upload), plan.begin_upload(inputs).map(|()| None).unwrap()),
        Some(Leg::Upload) => (Some(Leg::Compute), plan.begin_compute().map(|()| None).unwrap()),
        Some(Leg::Compute) => (Some(Leg::Download), plan.begin_download().map(|()| None).unwrap()),
        Some(Leg::Download) => (None, Some(bits(&plan.await_outputs().unwrap()))),
    }
}

/// Random orders of the steps of two or three instances, some of them observed, against one run after the other.
fn any_order_gives_the_same(graph: Graph, shape: &[usize], seeds: u64) {
    const RUNS: usize = 3;
    let Some(mut alone) = compiled(graph) else { return };
    for seed in 0..seeds {
        let mut stream = Stream::new(Seed(seed));
        let count = 2 + stream.below(2);
        let mut instances: Vec<Plan> = (0..count).map(|_| alone.another().unwrap()).collect();
        let (sender, told) = mpsc::channel();
        for instance in instances.iter_mut().skip(1) {
            let sender = sender.clone();
            instance.observe(move |leg| sender.send(leg).unwrap()).unwrap();
        }
        let batches: Vec<Vec<_>> = (0..count).map(|_| (0..RUNS).map(|_| batch(shape, &mut stream)).collect()).collect();
        let mut at: Vec<(usize, Option<Leg>)> = vec![(0, None); count];
        while at.iter().any(|(run, _)| *run < RUNS) {
            let which = stream.below(count);
            let (run, leg) = at[which];
            if run == RUNS {
                continue;
            }
            let (leg, outputs) = step(&mut instances[which], leg, &batches[which][run]);
            if let Some(found) = &outputs {
                let expected = bits(&alone.run(&batches[which][run]).unwrap());
                assert_eq!(*found, expected, "seed {seed}, instance {which}, run {run}");
            }
            at[which] = (run + usize::from(outputs.is_some()), leg);
        }
        drop((instances, sender));
        let mut legs: Vec<Leg> = told.iter().collect();
        legs.sort();
        let each = (count - 1) * RUNS;
        let wanted: Vec<Leg> = [Leg::Upload, Leg::Compute, Leg::Download].iter().flat_map(|&leg| vec![leg; each]).collect();
        assert_eq!(legs, wanted, "seed {seed}: each leg of each observed run is told once");
    }
}

#[test]
fn flights_in_any_order_give_what_runs_give() {
    any_order_gives_the_same(products(), &[6, 24], 20);
}

#[test]
fn flights_in_any_order_give_what_runs_give_with_a_host_between() {
    any_order_gives_the_same(with_a_host_between(), &[3, 4], 10);
}

#[test]
fn legs_are_told_in_order_without_anybody_asking() {
    let Some(mut plan) = compiled(products()) else { return };
    assert!(!plan.waits_within());
    let (sender, told) = mpsc::channel();
    plan.observe(move |leg| sender.send(leg).unwrap()).unwrap();
    let next = || told.recv_timeout(Duration::from_secs(60)).unwrap();
    let inputs = batch(&[6, 24], &mut Stream::new(Seed(0)));
    for _ in 0..2 {
        plan.begin_upload(&inputs).unwrap();
        assert_eq!(next(), Leg::Upload);
        plan.begin_compute().unwrap();
        assert_eq!(next(), Leg::Compute);
        plan.begin_download().unwrap();
        assert_eq!(next(), Leg::Download);
        plan.await_outputs().unwrap();
        // A run at once is over before anybody could act on it.
        plan.run(&inputs).unwrap();
    }
    assert!(told.try_recv().is_err());
}

#[test]
fn steps_out_of_turn_are_refused_and_change_nothing() {
    let Some(mut plan) = compiled(products()) else { return };
    let inputs = batch(&[6, 24], &mut Stream::new(Seed(0)));
    let expected = bits(&plan.run(&inputs).unwrap());
    fn refused<T: std::fmt::Debug>(result: Result<T, RunError>) {
        assert!(matches!(result, Err(RunError::OutOfTurn { .. })), "{result:?}");
    }
    refused(plan.begin_compute());
    refused(plan.begin_download());
    refused(plan.await_outputs());
    assert!(matches!(plan.begin_upload(&inputs[..0]), Err(RunError::MissingInput { .. })));
    let wrong = [("x", Tensor::new(vec![1], vec![0f32]))];
    assert!(matches!(plan.begin_upload(&wrong), Err(RunError::Input { .. })));
    plan.begin_upload(&inputs).unwrap();
    refused(plan.begin_upload(&inputs));
    refused(plan.run(&inputs));
    refused(plan.begin_download());
    plan.begin_compute().unwrap();
    refused(plan.await_outputs());
    plan.begin_download().unwrap();
    assert_eq!(bits(&plan.await_outputs().unwrap()), expected);
    assert_eq!(bits(&plan.run(&inputs).unwrap()), expected);
    let mut host = Plan::compile(&products(), &Configs::new(), &kernels::Limits::of_core(0, 1)).unwrap();
    refused(host.begin_upload(&inputs));
    refused(host.await_outputs());
    assert!(host.waits_within());
}

#[test]
fn a_run_that_fails_between_its_steps_is_over_and_the_next_is_right() {
    let Some(mut plan) = compiled(lookup()) else { return };
    let inputs = |last: i64| [("i", Tensor::new(vec![3], vec![0i64, 1, last]))];
    plan.begin_upload(&inputs(5)).unwrap();
    assert!(matches!(plan.begin_compute(), Err(RunError::Index { index: 5, .. })));
    assert!(matches!(plan.begin_download(), Err(RunError::OutOfTurn { .. })));
    plan.begin_upload(&inputs(1)).unwrap();
    plan.begin_compute().unwrap();
    plan.begin_download().unwrap();
    let found = plan.await_outputs().unwrap();
    assert_eq!(found[0].tensor().unwrap().values::<f32>().unwrap()[..], [1.0, 2.0, 3.0, 4.0, 3.0, 4.0]);
}
