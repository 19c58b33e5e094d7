//! Plans compute what graphs say.

use kernels::{Datum, Isa, Limits, Tensor};
use schema::Split;
use tunewright::execute::{Configs, Plan, PlanError, RunError, pool};
use tunewright::graph::text;
use tunewright::split;

pub const LIMITS: Limits = Limits {
    isa: Isa::Scalar,
    units: 1,
    l1d_bytes: 32 << 10,
    l2_bytes: 1 << 20,
    l3_bytes: 32 << 20,
    gpu: None,
    numerics: schema::Numerics::Strict,
};

fn plan(graph: &str) -> Plan {
    let graph = text::parse(graph).expect("the graph parses");
    Plan::compile(&graph, &Configs::new(), &LIMITS).expect("the graph compiles")
}

fn run(graph: &str, inputs: &[(&str, Tensor)]) -> Vec<Tensor> {
    let outputs = plan(graph).run(inputs).expect("the plan runs");
    outputs.into_iter().map(|datum| datum.tensor().expect("a tensor").clone()).collect()
}

fn row(values: &[f32]) -> Tensor {
    Tensor::new(vec![values.len()], values.to_vec())
}

#[test]
fn views_inputs_and_constants_come_out_as_outputs() {
    let graph = "
        input %x: f32[2,3]
        $c: f32[2] = [1,2]
        $s: i64[1] = [6]
        %y: f32[6] = Reshape(%x, $s)
        output %y as \"y\"
        output %x as \"x\"
        output %y as \"again\"
        output $c as \"c\"";
    let x = Tensor::new(vec![2, 3], vec![1f32, 2., 3., 4., 5., 6.]);
    let outputs = run(graph, &[("x", x.clone())]);
    let y = row(&[1., 2., 3., 4., 5., 6.]);
    assert_eq!(outputs, [y.clone(), x, y, row(&[1., 2.])]);
}

#[test]
fn a_static_plan_runs_between_the_callers_buffers() {
    let mut plan = plan("input %x: f32[3]\n$a: i64[1] = [1]\n%y: f32[3,1] = Unsqueeze(%x, $a)\noutput %y as \"y\"");
    assert!(plan.is_static());
    let (x, mut y) = ([1f32, 2., 3.], [0f32; 3]);
    plan.run_into(&[bytemuck::cast_slice(&x)], &mut [bytemuck::cast_slice_mut(&mut y)]).unwrap();
    assert_eq!(x, y);
    let short = plan.run_into(&[&[0; 8]], &mut [bytemuck::cast_slice_mut(&mut y)]);
    assert!(matches!(short, Err(RunError::Buffer { found: 8, wanted: 12, .. })), "{short:?}");
}

#[test]
fn carried_values_may_change_places() {
    let graph = "
        input %a: f32[2]
        input %b: f32[2]
        input %n: i64[]
        $go: bool[] = [1]
        %p: f32[2], %q: f32[2], %s: f32[3,2] = Loop(%n, $go, %a, %b) body={
          input %i: i64[]
          input %c: bool[]
          input %x: f32[2]
          input %y: f32[2]
          %d: bool[] = Identity(%c)
          output %d
          output %y
          output %x
          output %x
        }
        output %p as \"p\"
        output %q as \"q\"
        output %s as \"s\"";
    let inputs = |n: i64| [("a", row(&[1., 2.])), ("b", row(&[3., 4.])), ("n", Tensor::scalar(n))];
    let outputs = run(graph, &inputs(3));
    let stacked = Tensor::new(vec![3, 2], vec![1f32, 2., 3., 4., 1., 2.]);
    assert_eq!(outputs, [row(&[3., 4.]), row(&[1., 2.]), stacked]);
    let wrong = plan(graph).run(&inputs(2)).unwrap_err();
    assert!(matches!(wrong, RunError::Result { .. }), "a loop that stacks less than the graph says: {wrong}");
}

#[test]
fn a_loop_of_unknown_length_stacks_what_it_made() {
    let graph = "
        input %a: f32[2]
        input %n: i64[]
        %p: f32[2], %s: f32[K,2] = Loop(%n, _, %a) body={
          input %i: i64[]
          input %c: bool[]
          input %x: f32[2]
          output %c
          output %x
          output %x
        }
        output %s as \"s\"";
    let mut plan = plan(graph);
    for n in [2usize, 0, 3] {
        let outputs = plan.run(&[("a", row(&[1., 2.])), ("n", Tensor::scalar(n as i64))]).unwrap();
        assert_eq!(outputs, [Datum::Tensor(Tensor::new(vec![n, 2], [1f32, 2.].repeat(n)))]);
    }
}

#[test]
fn a_scan_goes_both_ways_along_any_axis() {
    let graph = "
        input %x: f32[2,3]
        %y: f32[2,3] = Scan(%x) num_scan_inputs=1 scan_input_axes=[1] scan_input_directions=[1] scan_output_axes=[1] body={
          input %e: f32[2]
          output %e
        }
        output %y as \"y\"";
    let outputs = run(graph, &[("x", Tensor::new(vec![2, 3], vec![1f32, 2., 3., 4., 5., 6.]))]);
    assert_eq!(outputs, [Tensor::new(vec![2, 3], vec![3f32, 2., 1., 6., 5., 4.])]);
}

#[test]
fn an_if_takes_the_branch_of_its_condition_with_what_it_captures() {
    let graph = "
        input %c: bool[]
        input %x: f32[2]
        $k: f32[2] = [7,8]
        %y: f32[2] = If(%c) then_branch={
          capture %v: f32[2] = %x
          output %v
        } else_branch={
          capture %v: f32[2] = $k
          output %v
        }
        output %y as \"y\"";
    for (truth, wanted) in [(true, [1., 2.]), (false, [7., 8.])] {
        let outputs = run(graph, &[("c", Tensor::bools(vec![], vec![truth])), ("x", row(&[1., 2.]))]);
        assert_eq!(outputs, [row(&wanted)]);
    }
}

#[test]
fn wrong_inputs_are_told_by_name() {
    let mut plan = plan("input %x: f32[N,3]\noutput %x as \"y\"");
    let of = |plan: &mut Plan, name: &str, tensor| plan.run(&[(name, tensor)]).unwrap_err().to_string();
    let good = Tensor::new(vec![5, 3], vec![0f32; 15]);
    assert!(plan.run(&[("x", good.clone())]).is_ok(), "an open axis takes any size");
    assert_eq!(of(&mut plan, "z", good), "there is no input \"z\"; the model has x");
    assert_eq!(plan.run::<&str>(&[]).unwrap_err().to_string(), "input \"x\" is missing");
    let wide = Tensor::new(vec![1, 4], vec![0f32; 4]);
    assert_eq!(of(&mut plan, "x", wide), "\"x\" is f32[1,4], the model wants f32[N,3]");
}

#[test]
fn a_plan_over_the_limit_is_refused_before_anything_is_allocated() {
    let graph = text::parse(
        "input %x: f32[1]\n%y: f32[1024,1024,1024,1024] = ConstantOfShape(%x)\n%z: f32[1] = Shape(%y)\noutput %z as \"z\"",
    );
    let error = Plan::compile(&graph.unwrap(), &Configs::new(), &LIMITS).err();
    assert!(matches!(error, Some(PlanError::LimitExceeded { need: 0x40000000000, .. })), "{error:?}");
}

/// Products with a residual, and the layout between them that only kernels know: the same as the references, twice.
#[test]
fn kernels_compute_what_their_references_say() {
    let graph = text::parse(
        "
        input %f: f32[6,20]
        input %r: f32[6,33]
        $w: f32[20,33] = fill(1)
        $b: f32[33] = fill(2)
        $v: f32[33,5] = fill(3)
        %h: f32[6,33] columns16 = gemm(%f, $w, $b) epilogue=\"bias+relu\"
        %y: f32[6,5] = gemm(%h, $v)
        %z: f32[6,33] = gemm(%f, $w, $b, %r) epilogue=\"bias+residual+tanh\"
        output %y as \"y\"
        output %z as \"z\"",
    )
    .expect("the graph parses");
    let x = Tensor::new(vec![6, 20], (0..120).map(|i| (i as f32 * 0.37).sin()).collect());
    let r = Tensor::new(vec![6, 33], (0..198).map(|i| (i as f32 * 0.71).cos()).collect());
    let inputs = [Datum::Tensor(x.clone()), Datum::Tensor(r.clone())];
    let wanted = crate::interpret::outputs(&graph, &inputs, &Default::default()).expect("the references compute it");
    let mut plan = Plan::compile(&graph, &Configs::new(), &LIMITS).expect("the graph compiles");
    for _ in 0..2 {
        let found = plan.run(&[("r", r.clone()), ("f", x.clone())]).expect("the plan runs");
        found.iter().zip(&wanted).for_each(|(a, b)| crate::interpret::near(a, b, 1e-5).expect("they agree"));
    }
    let memory = plan.memory();
    assert!(memory.prepared_bytes > 0 && memory.constant_bytes == 0, "weights are prepared and not kept: {memory:?}");
    plan.set_profiling(true);
    plan.run(&[("r", r), ("f", x)]).expect("the plan runs");
    let profile = plan.profile();
    assert_eq!(profile.iter().map(|step| step.facts.op.as_str()).collect::<Vec<_>>(), ["gemm"; 3]);
    assert!(profile[0].facts.task.as_ref().is_some_and(|(task, _)| task.starts_with("gemm ")));
}

#[test]
fn a_second_instance_shares_weights_and_not_activations() {
    let graph = text::parse("input %x: f32[4,8]\n$w: f32[8,8] = fill(1)\n%y: f32[4,8] = gemm(%x, $w)\noutput %y as \"y\"");
    let mut one = Plan::compile(&graph.unwrap(), &Configs::new(), &LIMITS).unwrap();
    let mut two = one.another().unwrap();
    let x = |v: f32| [("x", Tensor::new(vec![4, 8], vec![v; 32]))];
    let (a, b) = std::thread::scope(|scope| {
        let a = scope.spawn(|| one.run(&x(1.0)).unwrap());
        let b = scope.spawn(|| two.run(&x(2.0)).unwrap());
        (a.join().unwrap(), b.join().unwrap())
    });
    let double: Vec<f32> = a[0].tensor().unwrap().values::<f32>().unwrap().iter().map(|v| v * 2.0).collect();
    assert_eq!(b[0].tensor().unwrap().values::<f32>().unwrap()[..], double[..]);
}

/// The limits of this machine's processor, whole.
pub fn host() -> Limits {
    tunewright::device::open("cpu").expect("there is a processor").limits
}

/// A product of rows, seen as twice as many, with a constant and with another input added.
const ROWS: &str = "
    input %x: f32[4,3]
    input %q: f32[4,2]
    $w: f32[3,2] = [1,2,3,4,5,6]
    $s: i64[2] = [8,1]
    $c: f32[1] = [10]
    %h: f32[4,2] = gemm(%x, $w)
    %v: f32[8,1] = Reshape(%h, $s)
    %z: f32[8,1] = Reshape(%q, $s)
    %y: f32[8,1] = elementwise(%v, %z, $c) expr=\"add(add(a,b),c)\"
    output %y as \"y\"
    output %h as \"h\"";

#[test]
fn a_batch_in_parts_gives_what_the_whole_gives() {
    let graph = text::parse(ROWS).expect("the graph parses");
    let x = Tensor::new(vec![4, 3], (0..12u8).map(f32::from).collect());
    let q = Tensor::new(vec![4, 2], (0..8u8).map(|i| f32::from(i) * 0.5).collect());
    let inputs = [("x", x), ("q", q)];
    let limits = Limits { units: 2, ..LIMITS };
    let expected = Plan::compile(&graph, &Configs::new(), &limits).expect("it compiles").run(&inputs).expect("it runs");
    for (parts, lanes) in [(2, 1), (4, 1), (2, 2), (4, 2)] {
        let split = Split::new(parts, lanes).expect("lanes share the parts");
        let plan = Plan::compile_split(graph.clone(), split, &Configs::new(), &limits, u64::MAX).expect("it compiles");
        let other = plan.another().expect("a second instance").in_pool(pool(2).expect("threads"));
        for mut plan in [plan, other] {
            plan.set_profiling(true);
            assert_eq!(plan.run(&inputs).expect("it runs"), expected, "{split}");
            assert!(plan.profile().iter().any(|step| step.facts.op == "gemm" && step.nanos > 0));
        }
    }
    let three = Plan::compile_split(graph, Split::new(3, 1).unwrap(), &Configs::new(), &limits, u64::MAX);
    assert!(matches!(three, Err(PlanError::Split { .. })), "four rows have no three parts");
}

#[test]
fn rows_that_meet_are_not_taken_apart() {
    let graph =
        |node: &str| format!("input %x: f32[4,4]\n$w: f32[4,4] = {:?}\n%y: f32[4,4] = {node}\noutput %y as \"y\"", [1; 16]);
    let met = |node: &str| match split::part(&text::parse(&graph(node)).expect(node), 2) {
        Ok(_) => panic!("{node} is taken apart"),
        Err(mixed) => mixed.to_string(),
    };
    for node in [
        "softmax(%x) axis=0",
        "transpose(%x) perm=[1,0]",
        "gemm(%x, %x)",
        "gemm($w, %x)",
        "gemm(%x, $w) trans_a=1",
        "copy(%x) kind=\"slice\" starts=[0,0] steps=[-1,1]",
        "layer_norm(%x) axis=0",
        "Softmax(%x) axis=1",
    ] {
        assert!(met(node).contains("rows of the batch meet"), "{node}: {}", met(node));
    }
    let each = |values: &str| {
        let graph = graph("elementwise(%x, $w) expr=\"add(a,b)\"").replace(&format!("{:?}", [1; 16]), values);
        split::part(&text::parse(&graph).expect("it parses"), 2).is_ok()
    };
    assert!(each("[1,2,3,4,1,2,3,4,1,2,3,4,1,2,3,4]"), "a constant that says the same for every row goes along");
    assert!(!each("[1,2,3,4,1,2,3,4,1,2,3,4,1,2,3,5]"), "one that does not belongs to the batch");
}

/// ONNX: "it is an error if any of the index values are out of bounds". Negative ones count from the end.
#[test]
fn an_index_outside_its_axis_is_refused_with_its_node() {
    for (op, dtype) in [("embedding", "i64"), ("gather", "i64"), ("embedding", "i32"), ("gather", "i32")] {
        let graph =
            format!("input %t: f32[3,2]\ninput %i: {dtype}[2]\n%y: f32[2,2] = {op}(%t, %i) @\"pick\"\noutput %y as \"y\"");
        let mut plan = plan(&graph);
        let table = Tensor::new(vec![3, 2], vec![0f32, 1., 2., 3., 4., 5.]);
        let mut run = |a: i32, b: i32| {
            let indices = match dtype {
                "i32" => Tensor::new(vec![2], vec![a, b]),
                _ => Tensor::new(vec![2], vec![i64::from(a), i64::from(b)]),
            };
            plan.run(&[("t", table.clone()), ("i", indices)])
        };
        let found = run(-3, 2).unwrap();
        assert_eq!(found[0].tensor().unwrap().values::<f32>().unwrap()[..], [0., 1., 4., 5.]);
        for (a, b, wrong) in [(0, 3, 3), (-4, 0, -4), (i32::MIN, i32::MAX, i32::MIN)] {
            let error = run(a, b).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("node 'pick' ({op}): index {wrong} is none of an axis of 3: allowed is -3 to 2")
            );
        }
        assert!(run(1, 1).is_ok(), "a refused run leaves the plan as it was");
    }
}
