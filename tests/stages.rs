//! Plans for a device with memory of its own give what the host's plans give, wherever their stages meet.

use crate::models::bound;
use crate::shipped::mnist_cnn;
use cube_kernels::Gpu;
use kernels::Tensor;
use schema::{FailureClass, Outcome, Seed, Share};
use tunewright::agreement::{Tolerance, distance};
use tunewright::device::{self, Found, Machine};
use tunewright::execute::{Configs, Plan};
use tunewright::graph::{Graph, text};
use tunewright::measure::{Bench, Effort, bench::WorkerBench};
use tunewright::passes::{Options, Pipeline};
use tunewright::worker;

/// The first device of wgpu; `None`, after saying so, where there is none and the test command did not promise one.
pub fn machine() -> Option<Machine> {
    let found = device::found().into_iter().find_map(|found| match found {
        Found::Present(machine) if machine.limits.gpu.is_some() => Some(machine),
        _ => None,
    });
    assert!(found.is_some() || std::env::var_os("TUNEWRIGHT_GPU").is_none(), "the test command promises a Vulkan driver");
    if found.is_none() {
        eprintln!("skipped: there is no device of wgpu");
    }
    found
}

pub fn open(machine: &Machine) -> Gpu {
    let grant = machine.grant(schema::Share::WHOLE).expect("a device gives all of itself");
    device::gpu(&grant.device, &grant.cores).expect("it opens").expect("it has memory of its own")
}

/// So many numbers between -1 and 1, in text form.
pub fn weights(count: usize) -> String {
    let weights: Vec<String> = (0..count).map(|i| format!("{:.3}", (i * 7919 % 1000) as f32 / 500.0 - 1.0)).collect();
    format!("[{}]", weights.join(","))
}

/// Takes rows of a table of two, by indices that only a run knows.
pub fn lookup() -> Graph {
    text::parse(
        "input %i: i64[3]\n\
         $table: f32[2,2] = [1.0,2.0,3.0,4.0]\n\
         %y: f32[3,2] = embedding($table, %i)\n\
         output %y as \"y\"",
    )
    .unwrap()
}

fn agree(graph: &Graph, inputs: &[(&str, Tensor)], kernels_there: usize) {
    let Some(machine) = machine() else { return };
    let limits = &machine.limits;
    let host = kernels::Limits { gpu: None, ..*limits };
    let expected = Plan::compile(graph, &Configs::new(), &host).unwrap().run(inputs).unwrap();
    let mut plan = Plan::compile_on(&open(&machine), graph.clone(), &Configs::new(), limits, u64::MAX).unwrap();
    let there = plan.steps().filter(|step| step.task.as_ref().is_some_and(|(_, config)| config.variant.contains(".cube_")));
    assert_eq!(there.count(), kernels_there, "nodes that the device computes");
    let mut another = plan.another().unwrap();
    for plan in [&mut plan, &mut another] {
        // Twice: a run leaves nothing behind.
        for _ in 0..2 {
            let found = plan.run(inputs).unwrap();
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                let distance = distance(found, expected, Tolerance { rtol: 1e-4, atol: 0.0 }).unwrap();
                assert!(distance.agrees(), "{distance:?}");
            }
        }
    }
    plan.set_profiling(true);
    plan.run(inputs).unwrap();
    assert_eq!(plan.profile().len(), plan.steps().len(), "each step has its time");
}

fn wave(shape: Vec<usize>) -> Tensor {
    let count = shape.iter().product::<usize>();
    Tensor::new(shape, (0..count).map(|i| (i as f32 * 0.37).sin()).collect())
}

#[test]
fn the_shipped_model_is_computed_there() {
    let mut graph = bound(&mnist_cnn(), 2);
    Pipeline::untimed().run(&mut graph, &Options::default()).unwrap();
    let name = graph.value(graph.inputs[0]).name.clone();
    agree(&graph, &[(&name, wave(vec![2, 1, 28, 28]))], 7);
}

#[test]
fn stages_hand_over_what_the_other_side_needs() {
    // There: the products and sums. Here: what has no variant there. Views of what lies there cost nothing; outputs come from both.
    let graph = text::parse(
        "input %x: f32[2,6]\n\
         $s: i64[2] = [3,4]\n\
         $axis: i64[] = [1]\n\
         %a: f32[2,6] = elementwise(%x) expr=\"add(a,1.0)\"\n\
         %b: f32[3,4] = Reshape(%a, $s)\n\
         %c: f32[3,4] = CumSum(%b, $axis) reverse=1\n\
         %d: f32[3,4] = elementwise(%c, %b) expr=\"mul(a,b)\"\n\
         output %d as \"d\"\n\
         output %a as \"a\"\n\
         output %c as \"c\"\n\
         output %x as \"x\"\n\
         output $s as \"s\"",
    )
    .unwrap();
    agree(&graph, &[("x", wave(vec![2, 6]))], 2);
}

#[test]
fn what_no_kernel_takes_burn_computes_where_its_operand_lies() {
    let graph = text::parse(
        "input %x: f32[1,2,4,5,6]\n\
         $w: f32[1,2,1,1,2] = [1.0,2.0,3.0,4.0]\n\
         $axis: i64[] = [1]\n\
         %a: f32[1,2,4,5,6] = elementwise(%x) expr=\"add(a,1.0)\"\n\
         %b: f32[1,1,4,5,5] = Conv(%a, $w)\n\
         %c: f32[1,1,4,5,5] = CumSum(%b, $axis)\n\
         %d: f32[1,1,4,5,5] = elementwise(%c) expr=\"mul(a,0.5)\"\n\
         %e: f32[1,2,4,5,6] = CumSum(%x, $axis)\n\
         output %d as \"d\"\n\
         output %b as \"b\"\n\
         output %e as \"e\"",
    )
    .unwrap();
    agree(&graph, &[("x", wave(vec![1, 2, 4, 5, 6]))], 2);
    let Some(machine) = machine() else { return };
    let plan = Plan::compile_on(&open(&machine), graph, &Configs::new(), &machine.limits, u64::MAX).unwrap();
    let here: Vec<&str> = plan.steps().filter(|step| !step.on_device).map(|step| step.op.as_str()).collect();
    // What comes from the host is computed there: nothing would be saved.
    assert_eq!(here, ["CumSum"]);
}

#[test]
fn a_plan_computes_in_the_narrow_type_that_a_config_names_and_by_default_in_f32() {
    let Some(machine) = machine() else { return };
    let graph = "input %x: f32[5,33]\n$w: f32[33,40] = WEIGHTS\n%y: f32[5,40] = gemm(%x, $w)\noutput %y as \"y\"";
    let graph = text::parse(&graph.replace("WEIGHTS", &weights(33 * 40))).unwrap();
    let inputs = [("x", wave(vec![5, 33]))];
    let gpu = open(&machine);
    let compile = |configs: &Configs| Plan::compile_on(&gpu, graph.clone(), configs, &machine.limits, u64::MAX).unwrap();
    let config_of = |plan: &Plan| plan.steps().find_map(|step| step.task.clone()).expect("the product is computed there").1;
    let mut wide = compile(&Configs::new());
    assert_eq!(config_of(&wide).name("type"), None);
    let task = kernels::Task::parse(&wide.steps().find_map(|step| step.task.clone()).unwrap().0).unwrap();
    let variant = cube_kernels::operator("gemm").unwrap().variant("gemm.cube_matrix").unwrap();
    let config = variant.default_config(&task, &machine.limits);
    if !machine.limits.gpu.is_some_and(|gpu| gpu.narrow.f16) {
        return eprintln!("skipped: the device has no f16");
    }
    let mut configs = Configs::new();
    configs.insert(task.key(), config.clone());
    let mut narrow = compile(&configs);
    assert!(narrow.replaced().is_empty(), "{:?}", narrow.replaced());
    assert_eq!(config_of(&narrow), config);
    let (narrow, wide) = (narrow.run(&inputs).unwrap(), wide.run(&inputs).unwrap());
    let error = distance(&narrow[0], &wide[0], Tolerance { rtol: 1e-2, atol: 0.0 }).unwrap().relative;
    assert!((1e-5..1e-2).contains(&error), "it is close to f32 and not f32: {error:.1e}");
}

#[test]
fn a_worker_judges_a_narrow_config_by_the_error_allowed() {
    let Some(machine) = machine().filter(|machine| machine.limits.gpu.is_some_and(|gpu| gpu.narrow.f16)) else { return };
    let grant = machine.grant(Share::WHOLE).unwrap();
    let task = kernels::Task::parse("gemm b=const k=64 m=48 n=64").unwrap();
    let variant = cube_kernels::operator("gemm").unwrap().variant("gemm.cube_matrix").unwrap();
    let config = variant.default_config(&task, &grant.limits);
    let judged = |max_error: f64| {
        let mut bench = WorkerBench::new(&worker::program().unwrap(), &grant, Seed(1), max_error);
        bench.race(&task, std::slice::from_ref(&config), &Effort::SEARCH).unwrap().remove(0).outcome
    };
    assert!(matches!(judged(1e-2), Outcome::Ok { .. }));
    // Rounding alone is off by more, f32 by less.
    assert!(matches!(judged(3e-5), Outcome::Failed { class: FailureClass::WrongResult, .. }));
}

#[test]
fn what_lies_in_blocks_comes_to_lie_in_rows() {
    let graph = text::parse(
        "input %x: f32[1,20,4,4]\n\
         %a: f32[1,20,4,4] channels16h0 = reorder(%x)\n\
         %b: f32[1,20,4,4] channels16h0 = elementwise(%a) expr=\"relu(a)\"\n\
         %y: f32[1,20,4,4] = reorder(%b)\n\
         output %y as \"y\"",
    )
    .unwrap();
    agree(&graph, &[("x", wave(vec![1, 20, 4, 4]))], 1);
}

#[test]
fn indices_are_checked_before_the_device_reads_by_them() {
    agree(&lookup(), &[("i", Tensor::new(vec![3], vec![1i64, -2, 0]))], 1);
    let Some(machine) = machine() else { return };
    let mut plan = Plan::compile_on(&open(&machine), lookup(), &Configs::new(), &machine.limits, u64::MAX).unwrap();
    let error = plan.run(&[("i", Tensor::new(vec![3], vec![0i64, 2, 0]))]).unwrap_err().to_string();
    assert!(error.contains("index 2 is none of an axis of 2"), "{error}");
}

#[test]
fn what_nobody_asks_for_is_left_out() {
    let graph = text::parse(
        "input %x: f32[3,1,4]\n\
         input %w: f32[1,8,4]\n\
         input %r: f32[1,8,2]\n\
         _, %h: f32[1,1,2] = lstm(%x, %w, %r)\n\
         output %h as \"h\"",
    )
    .unwrap();
    agree(&graph, &[("x", wave(vec![3, 1, 4])), ("w", wave(vec![1, 8, 4])), ("r", wave(vec![1, 8, 2]))], 1);
}

#[test]
fn of_nothing_there_is_nothing_to_compute() {
    let graph = text::parse(
        "input %x: f32[0,3]\n\
         %y: f32[0,3] = elementwise(%x) expr=\"add(a,1.0)\"\n\
         %z: f32[3] = reduce(%y) kind=\"sum\" axes=[0] keepdims=0\n\
         output %y as \"y\"\n\
         output %z as \"z\"",
    )
    .unwrap();
    agree(&graph, &[("x", wave(vec![0, 3]))], 2);
}

#[test]
fn a_device_that_is_held_on_other_cores_is_not_opened_again() {
    let Some(machine) = machine().filter(|machine| machine.shares_pct().len() > 1) else { return };
    open(&machine);
    let least = schema::Share::percent(machine.shares_pct()[0]).unwrap();
    let grant = machine.grant(least).unwrap();
    let error = device::gpu(&grant.device, &grant.cores).unwrap_err().to_string();
    assert!(error.contains("one process has one share of it"), "{error}");
}
