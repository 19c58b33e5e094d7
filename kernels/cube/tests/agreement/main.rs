//! Every variant for devices agrees with the plain f64 reference of its operator: at its default and at sampled legal configs, on
//! awkward shapes, on whatever wgpu finds first (Mesa's lavapipe where there is no GPU).

mod faults;
#[path = "../../../tests/agreement/random.rs"]
mod random;

use cube_kernels::{Buffer, CubeVariant, Gpu, OPERATORS, operator, wgpu_adapters};
use kernels::{GpuLimits, Limits, Narrow, NarrowTypes, RELAXED, Request, Task, Tensor, VariantFacts};
use random::Random;
use schema::{Config, KnobValue};
use std::sync::OnceLock;

/// Configs tried of a variant on each task, beside the default: compiling one takes a software driver a second, and one of cubek's several.
fn configs_of(variant: &CubeVariant) -> usize {
    let campaign = std::env::var("NEXTEST_PROFILE").is_ok_and(|profile| profile == "campaign");
    match (campaign, variant.id.contains("cubek")) {
        (true, _) => 24,
        (false, true) => 1,
        (false, false) => 2,
    }
}

/// The error allowed of f32, relative to the greater of the value and the root mean square of all.
const TOLERANCE: f64 = 3e-5;

/// The error allowed of a config. Where it rounds operands by up to r of their size, each term of a sum is off by up to 2r; the terms are
/// as random as their errors, so that a sum is off by about r of the root mean square of all sums, and none of some ten thousand by four
/// times that.
fn tolerance(config: &Config) -> f64 {
    narrow(config).map_or(TOLERANCE, |narrow| 4.0 * narrow.rounding())
}

/// The type that a config rounds operands to.
fn narrow(config: &Config) -> Option<Narrow> {
    config.name("type").and_then(Narrow::parse)
}

/// The task without its activation: errors are those of sums, which a bounded activation makes small without making all errors so. None
/// is much steeper than 1.
fn of_sums(task: &Task) -> Task {
    let word = |word: &str| match word.strip_prefix("epilogue=") {
        Some(epilogue) => {
            let terms: Vec<&str> = epilogue.split('+').filter(|term| ["bias", "residual"].contains(term)).collect();
            if terms.is_empty() { String::new() } else { format!("epilogue={}", terms.join("+")) }
        }
        None => word.to_owned(),
    };
    let words: Vec<String> = task.to_string().split(' ').map(word).filter(|word| !word.is_empty()).collect();
    Task::parse(&words.join(" ")).expect("a task without activation is one")
}

/// The device and its limits, narrower types allowed; `None`, after saying so, where there is none and the test command did not promise one.
fn device() -> Option<&'static (Gpu, Limits)> {
    static DEVICE: OnceLock<Option<(Gpu, Limits)>> = OnceLock::new();
    let open = || match wgpu_adapters() {
        Ok(all) => {
            let gpu = Gpu::open(&all[0]).expect("the first adapter opens");
            let limits = Limits { gpu: Some(*gpu.limits()), ..Limits::of_core(0, 1) }.relaxed();
            Some((gpu, limits))
        }
        Err(why) if std::env::var_os("TUNEWRIGHT_GPU").is_none() => {
            eprintln!("skipped: {why}");
            None
        }
        Err(why) => panic!("{why}"),
    };
    DEVICE.get_or_init(open).as_ref()
}

/// Checks every variant of the tasks' operators that can be legal for them.
fn check(tasks: &[&str]) {
    let Some((gpu, limits)) = device() else { return };
    for text in tasks {
        let task = Task::parse(text).unwrap_or_else(|| panic!("'{text}' is a task"));
        let variants = operator(task.operator()).expect("the operator has variants here").variants;
        let configs: Vec<Config> = variants.iter().flat_map(|variant| sample(variant, &task, limits)).collect();
        assert!(!configs.is_empty(), "nothing here computes '{text}'");
        for config in configs {
            if let Err(why) = run(gpu, limits, &task, &config) {
                panic!("{config} on '{text}': {why}");
            }
        }
    }
}

/// The default, where it is legal, and some other legal configs.
fn sample(variant: &CubeVariant, task: &Task, limits: &Limits) -> Vec<Config> {
    let default = variant.default_config(task, limits);
    let mut configs: Vec<Config> = [default].into_iter().filter(|config| variant.check(task, config, limits).is_ok()).collect();
    let mut random = Random::new(&format!("{task} {}", variant.id));
    for _ in 0..120 * configs_of(variant) {
        let mut value = |knob: &kernels::Knob| knob.values.nth(random.next() as usize % knob.values.len());
        let config = variant.config(variant.knobs.iter().map(&mut value).collect());
        if variant.check(task, &config, limits).is_ok() && !configs.contains(&config) {
            configs.push(config);
        }
        if configs.len() > configs_of(variant) {
            break;
        }
    }
    configs
}

fn run(gpu: &Gpu, limits: &Limits, task: &Task, config: &Config) -> Result<(), String> {
    let operator = kernels::operator(task.operator()).expect("the operator exists");
    let signature = (operator.signature)(task).expect("the task is one");
    let mut random = Random::new(&task.to_string());
    let tensors: Vec<Option<Tensor>> =
        signature.inputs.iter().map(|spec| (!spec.shape.contains(&0)).then(|| random.tensor(spec))).collect();
    let expected = (operator.reference)(task, &tensors.iter().map(Option::as_ref).collect::<Vec<_>>()).expect("it computes");
    let size = match narrow(config) {
        Some(_) => {
            let sums = (operator.reference)(&of_sums(task), &tensors.iter().map(Option::as_ref).collect::<Vec<_>>());
            root_mean_square(&sums.expect("it computes")[0].values::<f32>().expect("kernels here compute f32"))
        }
        None => 0.0,
    };
    let constants: Vec<Option<&Tensor>> =
        signature.inputs.iter().zip(&tensors).map(|(spec, tensor)| tensor.as_ref().filter(|_| spec.constant)).collect();
    let request = Request { task, config, limits, constants: &constants };
    let kernel = cube_kernels::operator(task.operator()).unwrap().build(&request, gpu).map_err(|why| why.to_string())?;
    let upload = |(spec, tensor): (&kernels::OperandSpec, &Option<Tensor>)| {
        tensor.as_ref().filter(|_| !spec.constant).map(|tensor| gpu.upload(tensor.bytes()).unwrap())
    };
    let inputs: Vec<Option<Buffer>> = signature.inputs.iter().zip(&tensors).map(upload).collect();
    // NaN everywhere: what is not written shows.
    let outputs: Vec<Buffer> = signature.outputs.iter().map(|spec| gpu.upload(&vec![0xff; spec.bytes()]).unwrap()).collect();
    let scratch: Vec<Buffer> = kernel.scratch_bytes().iter().map(|&bytes| gpu.upload(&vec![0xff; bytes]).unwrap()).collect();
    // Twice: a kernel keeps nothing of a run.
    for _ in 0..2 {
        kernel.launch(gpu, &inputs, &outputs, &scratch);
    }
    gpu.sync().map_err(|why| why.to_string())?;
    for (output, expected) in outputs.iter().zip(&expected) {
        compare(&gpu.download(output).map_err(|why| why.to_string())?, expected, tolerance(config), size)?;
    }
    Ok(())
}

/// `size` is the least that errors are relative to.
fn compare(bytes: &[u8], expected: &Tensor, tolerance: f64, size: f64) -> Result<(), String> {
    let got: Vec<f32> = bytes.chunks_exact(4).map(|x| f32::from_ne_bytes(x.try_into().unwrap())).collect();
    let want = expected.values::<f32>().expect("kernels here compute f32");
    assert_eq!(got.len(), want.len());
    let rms = root_mean_square(&want).max(size);
    for (i, (&x, &y)) in got.iter().zip(want.iter()).enumerate() {
        let error = (f64::from(x) - f64::from(y)).abs() / rms.max(f64::from(y).abs()).max(1e-30);
        if x.to_bits() != y.to_bits() && (error > tolerance || error.is_nan()) {
            return Err(format!("at {i} it is {x} and not {y}: {error:.1e}, the root mean square is {rms:.3}"));
        }
    }
    Ok(())
}

fn root_mean_square(values: &[f32]) -> f64 {
    (values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
}

#[test]
fn every_operator_here_is_one_of_the_hosts() {
    for cube in OPERATORS {
        assert!(kernels::operator(cube.id).is_some(), "{}", cube.id);
        for variant in cube.variants {
            assert!(variant.id.starts_with(&format!("{}.cube", cube.id)), "{}", variant.id);
        }
    }
}

#[test]
fn gemm() {
    check(&[
        "gemm b=const k=1 m=1 n=1",
        "gemm b=const epilogue=bias+relu k=13 m=7 n=11",
        "gemm alpha=0.5 b=dynamic epilogue=residual+gelu k=67 m=33 n=129 trans_b=1",
        "gemm b=dynamic k=31 m=65 n=17 trans_a=1",
        "gemm b=const epilogue=bias+residual+silu k=128 m=1 n=257",
        "gemm batch_a=[2,3] batch_b=[2,3] b=dynamic k=9 m=5 n=10 trans_b=1",
        "gemm batch_a=[3,1] batch_b=[1,2] b=dynamic k=16 m=4 n=6",
        "gemm batch_a=[5] batch_b=[1] b=const epilogue=bias+clip(0,6) k=20 m=3 n=18",
        "gemm b=const epilogue=bias+relu k=300 m=9 n=33 trans_b=1",
        "gemm b=dynamic epilogue=bias k=36 m=18 n=68",
        "gemm b=const k=20 m=36 n=44 trans_a=1",
        "gemm alpha=2.0 b=dynamic epilogue=residual+tanh k=257 m=5 n=35 trans_a=1 batch_a=[3] batch_b=[3]",
    ]);
}

#[test]
fn the_largest_blocks_end_compiling_and_agree() {
    let Some((gpu, limits)) = device() else { return };
    let card = Limits { gpu: Some(GpuLimits { software: false, ..limits.gpu.unwrap() }), ..*limits };
    let processor = Limits { gpu: Some(GpuLimits { software: true, ..limits.gpu.unwrap() }), ..*limits };
    for (text, block) in [
        ("gemm alpha=0.5 b=dynamic epilogue=bias+residual+gelu k=67 m=97 n=389 trans_a=1 trans_b=1", (32, 16)),
        ("gemm b=const k=64 m=64 n=256 epilogue=residual+silu", (32, 16)),
        ("conv2d c=3 epilogue=bias+residual+gelu groups=1 h=17 kh=3 kw=2 n=2 o=37 pads=[1,0,1,1] w=23", (16, 16)),
        ("conv2d c=8 epilogue=bias+silu groups=2 h=20 kh=3 kw=3 n=1 o=64 strides=[2,1] w=40", (16, 16)),
    ] {
        let task = Task::parse(text).unwrap_or_else(|| panic!("'{text}' is a task"));
        let variant = operator(task.operator()).unwrap().variant(&format!("{}.cube_blocks", task.operator())).unwrap();
        let mut config = variant.default_config(&task, limits);
        config.knobs[0].1 = KnobValue::Pair(block.0, block.1);
        if let Some(k) = config.knobs.get_mut(2) {
            k.1 = KnobValue::Int(1);
        }
        assert!(variant.check(&task, &config, &card).unwrap_err().to_string().contains("registers"), "{config}");
        run(gpu, &processor, &task, &config).unwrap_or_else(|why| panic!("{config} on '{text}': {why}"));
    }
}

#[test]
fn a_constant_that_no_buffer_holds_is_taken_apart() {
    let Some((gpu, limits)) = device() else { return };
    let small = GpuLimits { buffer_bytes: 8192, ..*gpu.limits() };
    let limits = Limits { gpu: Some(small), ..*limits };
    for text in [
        "gemm b=const epilogue=bias+relu k=67 m=7 n=101",
        "gemm b=const epilogue=bias+residual k=67 m=3 n=101 trans_b=1",
        "gemm b=const k=1000 m=1 n=3 batch_a=[2] batch_b=[1]",
    ] {
        let task = Task::parse(text).unwrap();
        for variant in operator("gemm").unwrap().variants {
            let configs = sample(variant, &task, &limits);
            let wide = variant.rules.iter().all(|rule| rule.reason != RELAXED.reason);
            assert!(!configs.is_empty() || !wide, "{} on '{text}'", variant.id);
            for config in configs {
                run(gpu, &limits, &task, &config).unwrap_or_else(|why| panic!("{config} on '{text}': {why}"));
            }
        }
    }
    for text in ["gemm b=dynamic k=67 m=7 n=101", "gemm b=const k=2049 m=1 n=3", "gemm b=const k=67 m=70 n=101"] {
        let task = Task::parse(text).unwrap();
        assert!(operator("gemm").unwrap().default_config(&task, &limits).is_none(), "{text}");
    }
}

#[test]
fn what_two_slabs_and_the_sums_of_parts_need_is_counted() {
    let Some((_, limits)) = device() else { return };
    let task = Task::parse("gemm b=dynamic k=64 m=128 n=128").unwrap();
    let check = |variant: &str, last: &[i64], shared_bytes: u32, buffer_bytes: u64| {
        let gpu = GpuLimits { shared_bytes, buffer_bytes, ..limits.gpu.unwrap() };
        let operator = operator("gemm").unwrap();
        let tiles = [KnobValue::Pair(64, 64), KnobValue::Pair(8, 8), KnobValue::Int(16)];
        let values = tiles.into_iter().chain(last.iter().map(|&value| KnobValue::Int(value))).collect();
        let config = operator.variant(variant).unwrap().config(values);
        operator.check(&task, &config, &Limits { gpu: Some(gpu), ..*limits }).map_err(|why| why.to_string())
    };
    let tiled = |buffers, shared| check("gemm.cube_tiled", &[buffers], shared, 1 << 20);
    let split = |parts, buffer| check("gemm.cube_split_k", &[1, parts], 8 << 10, buffer);
    // Two slabs of 64 × 16 floats are 8 KiB, four parts of C, each of 128 × 128, 256 KiB.
    assert!(tiled(1, 8 << 10).is_ok());
    assert!(tiled(2, 16 << 10).is_ok());
    assert!(tiled(2, 8 << 10).unwrap_err().contains("shared memory"));
    assert!(split(4, 256 << 10).is_ok());
    assert!(split(4, (256 << 10) - 1).unwrap_err().contains("sums of all parts"));
    assert!(split(8, 1 << 20).unwrap_err().contains("part of k is empty"));
}

#[test]
fn narrow_types_are_legal_where_they_are_allowed_and_the_device_has_them() {
    let Some((_, limits)) = device() else { return };
    let check = |limits: &Limits, (narrow, multiply): (Narrow, &str)| {
        for text in ["gemm b=const k=64 m=64 n=64", "conv2d c=8 h=8 kh=3 kw=3 n=1 o=64 w=8"] {
            let task = Task::parse(text).unwrap();
            let operator = operator(task.operator()).unwrap();
            let variant = operator.variant(&format!("{}.cube_matrix", operator.id)).unwrap();
            let mut config = variant.default_config(&task, limits);
            config.knobs[0].1 = KnobValue::Name(narrow.name().to_owned());
            config.knobs[1].1 = KnobValue::Name(multiply.to_owned());
            operator.check(&task, &config, limits).map_err(|why| why.to_string())?;
        }
        Ok::<(), String>(())
    };
    let card = GpuLimits {
        plane_units: Some(32),
        narrow: NarrowTypes { f16: true, bf16: true, tf32: false },
        matrix: NarrowTypes { f16: true, bf16: false, tf32: true },
        ..limits.gpu.unwrap()
    };
    let on = |gpu: GpuLimits| Limits { gpu: Some(gpu), ..*limits };
    for legal in [(Narrow::F16, "matrix"), (Narrow::F16, "units"), (Narrow::Bf16, "units"), (Narrow::Tf32, "matrix")] {
        assert_eq!(check(&on(card), legal), Ok(()), "{legal:?}");
        assert!(check(&on(card).strict(), legal).unwrap_err().contains("--numerics relaxed"));
        let wide = GpuLimits { narrow: NarrowTypes::NONE, matrix: NarrowTypes::NONE, ..card };
        assert!(check(&on(wide), legal).unwrap_err().contains("lacks the type"));
    }
    for illegal in [(Narrow::Bf16, "matrix"), (Narrow::Tf32, "units")] {
        assert!(check(&on(card), illegal).unwrap_err().contains("lacks the type"), "{illegal:?}");
    }
    for plane_units in [None, Some(64)] {
        let other = on(GpuLimits { plane_units, ..card });
        assert!(check(&other, (Narrow::F16, "matrix")).unwrap_err().contains("matrix instructions"));
    }
}

#[test]
fn no_default_is_narrow() {
    let Some((_, limits)) = device() else { return };
    for text in ["gemm b=const k=64 m=64 n=64", "gemm b=dynamic k=1 m=1 n=1", "conv2d c=8 h=8 kh=3 kw=3 n=1 o=64 w=8"] {
        let task = Task::parse(text).unwrap();
        let operator = operator(task.operator()).unwrap();
        let default = operator.default_config(&task, limits).unwrap();
        assert_eq!(narrow(&default), None, "{default}");
        let all = VariantFacts::default_of(
            operator.variant(&format!("{}.cube_matrix", operator.id)).map(|it| it.facts()),
            &task,
            limits,
        );
        assert_eq!(all, None, "not even where nothing else is legal");
    }
}

#[test]
fn what_32_bits_do_not_count_is_illegal() {
    let Some((_, limits)) = device() else { return };
    let gpu = GpuLimits { buffer_bytes: u64::MAX, ..limits.gpu.unwrap() };
    let limits = Limits { gpu: Some(gpu), ..*limits };
    let legal = |text: &str| {
        let task = Task::parse(text).unwrap_or_else(|| panic!("'{text}' is a task"));
        operator(task.operator()).unwrap().default_config(&task, &limits).is_some()
    };
    assert!(legal("elementwise expr=relu(a) a=[2147483648] y=[2147483648]"));
    assert!(!legal("elementwise expr=relu(a) a=[2147483649] y=[2147483649]"));
    assert!(!legal("embedding table=[2147483649,1] indices=[2] indices_type=i64"));
    assert!(!legal("gemm b=dynamic k=32768 m=65537 n=1"));
}

#[test]
fn conv2d() {
    check(&[
        "conv2d c=1 h=1 kh=1 kw=1 n=1 o=1 w=1",
        "conv2d c=3 epilogue=bias+relu h=9 kh=3 kw=3 n=2 o=5 pads=[1,1,1,1] w=7",
        "conv2d c=3 epilogue=bias+residual+tanh h=11 kh=5 kw=3 n=1 o=17 pads=[2,0,1,3] strides=[2,1] w=13",
        "conv2d c=4 dilations=[2,3] h=15 kh=3 kw=3 n=1 o=6 pads=[2,3,2,3] strides=[1,2] w=17",
        "conv2d c=6 epilogue=bias groups=3 h=5 kh=3 kw=2 n=2 o=9 w=6 weight=dynamic",
        "conv2d c=5 epilogue=residual groups=5 h=4 kh=3 kw=3 n=1 o=10 pads=[1,1,1,1] w=4",
        "conv2d c=17 h=1 kh=1 kw=3 n=1 o=33 pads=[0,2,0,0] w=23",
        "conv2d c=2 h=2 kh=5 kw=5 n=1 o=3 pads=[4,4,4,4] w=2",
    ]);
}

#[test]
fn depthwise() {
    check(&[
        "depthwise c=1 h=3 kh=3 kw=3 n=1 w=3",
        "depthwise c=7 epilogue=bias+hard_swish h=9 kh=3 kw=5 n=2 pads=[1,2,1,2] strides=[2,1] w=11",
    ]);
}

#[test]
fn conv_transpose2d() {
    check(&[
        "conv_transpose2d c=1 h=1 kh=1 kw=1 n=1 o=1 w=1",
        "conv_transpose2d c=3 epilogue=bias h=4 kh=4 kw=3 n=2 o=5 output_pads=[1,0] pads=[1,0,0,1] strides=[3,2] w=5",
        "conv_transpose2d c=4 dilations=[2,1] h=5 kh=3 kw=2 n=1 o=6 output_pads=[1,0] w=4",
        "conv_transpose2d c=6 epilogue=residual groups=3 h=3 kh=2 kw=2 n=1 o=9 strides=[3,3] w=3",
        "conv_transpose2d c=18 epilogue=bias+relu h=4 kh=2 kw=2 n=1 o=18 strides=[2,2] w=3 weight=dynamic",
    ]);
}

#[test]
fn attention() {
    check(&[
        "attention q=[1,1,1,1] k=[1,1,1,1] v=[1,1,1,1] scale=1.0",
        "attention q=[2,3,7,9] k=[2,3,11,9] v=[2,3,11,5] scale=0.5",
        "attention q=[2,3,50,16] k=[2,3,50,16] v=[2,3,50,16] scale=0.25 causal=1",
        "attention q=[2,29,4,20] k=[2,33,4,20] v=[2,33,4,32] q_order=bshd k_order=bshd v_order=bshd y_order=bshd scale=0.25 mask=[2,1,1,33]",
        "attention q=[1,4,13,8] k=[1,2,13,8] v=[1,2,13,8] scale=0.3 mask=[13,13] causal=1",
        "attention q=[19,2,9,16] k=[19,2,9,16] v=[19,2,9,16] q_order=sbhd k_order=sbhd v_order=sbhd y_order=sbhd q_heads=[0,3] k_heads=[3,3] v_heads=[6,3] scale=0.25",
        "attention q=[2,23,7,16] k=[2,9,40,16] v=[2,7,40,24] q_order=bshd q_heads=[2,4] k_heads=[5,2] v_heads=[0,2] y_order=bshd scale=-0.5 mask=[4,1,40]",
        "attention q=[1,2,9,16] k=[1,2,5,16] v=[1,2,5,16] scale=0.25 causal=1",
        "attention q=[1,2,70,64] k=[1,2,131,64] v=[1,2,131,48] scale=0.125 mask=[1,1,70,131]",
    ]);
}

#[test]
fn lstm_and_gru() {
    check(&[
        "lstm t=1 n=1 i=3 h=5 direction=forward outputs=[1,1,1]",
        "lstm t=7 n=1 i=20 h=33 direction=forward w=const bias=1 outputs=[1,0,0]",
        "lstm t=9 n=3 i=20 h=33 direction=bidirectional w=const bias=1 h0=1 c0=1 outputs=[1,1,1]",
        "lstm t=9 n=5 i=17 h=32 direction=reverse w=const bias=1 lens=1 c0=1 outputs=[1,1,1]",
        "lstm t=6 n=2 i=40 h=300 direction=bidirectional w=const lens=1 outputs=[0,1,1]",
        "lstm t=30 n=1 i=128 h=256 direction=bidirectional w=const bias=1 outputs=[1,0,0]",
        "lstm t=5 n=1 i=512 h=256 direction=bidirectional w=const bias=1 outputs=[1,0,0]",
        "gru t=7 n=1 i=20 h=33 direction=forward w=const bias=1 outputs=[1,1]",
        "gru t=11 n=3 i=20 h=48 direction=bidirectional w=const bias=1 linear_before_reset=1 h0=1 outputs=[1,1]",
        "gru t=5 n=3 i=20 h=17 direction=reverse bias=1 lens=1 linear_before_reset=1 outputs=[1,0]",
        "gru t=9 n=3 i=20 h=270 direction=bidirectional w=const bias=1 lens=1 h0=1 outputs=[1,1]",
        "lstm t=6 n=9 i=12 h=70 direction=bidirectional bias=1 lens=1 h0=1 c0=1 outputs=[1,1,1]",
        "lstm t=1 n=4 i=5 h=64 direction=reverse w=const bias=1 lens=1 h0=1 outputs=[1,1,1]",
        "lstm t=4 n=17 i=30 h=64 direction=reverse w=const h0=1 c0=1 outputs=[0,0,1]",
        "gru t=6 n=9 i=12 h=70 direction=bidirectional bias=1 lens=1 h0=1 outputs=[1,1]",
        "gru t=4 n=17 i=30 h=64 direction=reverse w=const bias=1 linear_before_reset=1 lens=1 h0=1 outputs=[0,1]",
        "gru t=8 n=5 i=30 h=64 direction=bidirectional w=const linear_before_reset=1 outputs=[1,0]",
    ]);
}

#[test]
fn a_step_has_a_launch_where_it_is_worth_one() {
    let Some((_, limits)) = device() else { return };
    let card =
        GpuLimits { software: false, turns: None, units_per_cube: 1024, cube_dim: [1024, 1024, 64], ..limits.gpu.unwrap() };
    let processor = GpuLimits { software: true, ..limits.gpu.unwrap() };
    let default = |text: &str, gpu: GpuLimits| {
        let task = Task::parse(text).unwrap_or_else(|| panic!("'{text}' is a task"));
        let limits = Limits { gpu: Some(gpu), ..*limits };
        operator(task.operator()).unwrap().default_config(&task, &limits).map(|config| config.variant)
    };
    for (operator, outputs) in [("lstm", "[1,0,0]"), ("gru", "[1,0]")] {
        let rest = format!("direction=forward w=const outputs={outputs}");
        for (hidden, on_card, on_processor) in [(8, "sequence", "sequence"), (64, "sequence", "steps"), (512, "steps", "steps")] {
            let text = format!("{operator} t=5 n=2 i=16 h={hidden} {rest}");
            assert_eq!(default(&text, card), Some(format!("{operator}.cube_{on_card}")), "{text}");
            assert_eq!(default(&text, processor), Some(format!("{operator}.cube_{on_processor}")), "{text}");
        }
    }
}

#[test]
fn a_sequence_that_a_driver_would_cut_short_is_computed_step_by_step() {
    let Some((_, limits)) = device() else { return };
    let bounded = Limits { gpu: Some(GpuLimits { turns: Some(60_000), ..limits.gpu.unwrap() }), ..*limits };
    for text in [
        "lstm t=200 n=1 i=128 h=256 direction=bidirectional w=const bias=1 outputs=[1,0,0]",
        "gru t=100 n=1 i=128 h=256 direction=bidirectional w=const bias=1 outputs=[1,0]",
        "gru t=20000 n=1 i=1 h=1 direction=forward outputs=[1,0]",
    ] {
        let task = Task::parse(text).unwrap_or_else(|| panic!("'{text}' is a task"));
        let operator = operator(task.operator()).unwrap();
        let sequence = operator.variant(&format!("{}.cube_sequence", operator.id)).unwrap();
        let refused = sequence.check(&task, &sequence.default_config(&task, &bounded), &bounded).unwrap_err();
        assert!(refused.to_string().contains("turns"), "{text}: {refused}");
        let default = operator.default_config(&task, &bounded).expect("a variant takes it");
        assert_eq!(default.variant, format!("{}.cube_steps", operator.id), "{text}");
    }
}

#[test]
fn loops_that_a_driver_would_cut_short_are_illegal_and_on_other_devices_legal() {
    let Some((_, limits)) = device() else { return };
    let gpu = GpuLimits { turns: Some(60_000), ..limits.gpu.unwrap() };
    let (bounded, free) =
        (Limits { gpu: Some(gpu), ..*limits }, Limits { gpu: Some(GpuLimits { turns: None, ..gpu }), ..*limits });
    for text in [
        "lstm t=2 n=1 i=70000 h=3 direction=forward w=const outputs=[1,0,0]",
        "gru t=2 n=1 i=70000 h=3 direction=reverse outputs=[1,0]",
        "gemm b=dynamic k=4000000 m=1 n=1",
        "conv2d c=8000 h=3 kh=3 kw=3 n=1 o=1 w=3",
        "conv_transpose2d c=20000 h=3 kh=2 kw=2 n=1 o=1 w=3",
        "pool kind=max kernel_shape=[250,250] strides=[1,1] dilations=[1,1] pads=[0,0,0,0] x=[1,1,250,250] y=[1,1,1,1]",
        "embedding table=[11,32] indices=[2,60001] bag=sum indices_type=i64",
        "softmax x=[1,2000000] axis=1",
        "layer_norm x=[1,2000000] y=[1,2000000] axis=1 epsilon=1e-5",
        "attention q=[1,1,1,70000] k=[1,1,100,70000] v=[1,1,100,64] scale=0.1",
    ] {
        let task = Task::parse(text).unwrap_or_else(|| panic!("'{text}' is a task"));
        let variants = operator(task.operator()).unwrap().variants;
        for variant in variants {
            let refused = variant.check(&task, &variant.default_config(&task, &bounded), &bounded).unwrap_err();
            assert!(refused.to_string().contains("turns"), "{text}: {refused}");
        }
        assert!(operator(task.operator()).unwrap().default_config(&task, &free).is_some(), "{text}");
    }
}

#[test]
fn a_fold_that_a_driver_would_cut_short_is_cut_into_parts() {
    let Some((_, limits)) = device() else { return };
    let bounded = Limits { gpu: Some(GpuLimits { turns: Some(60_000), ..limits.gpu.unwrap() }), ..*limits };
    let task = Task::parse("reduce kind=sum x=[4000000] y=[] axes=[0]").unwrap();
    let reduce = operator("reduce").unwrap();
    let team = reduce.variant("reduce.cube_team").unwrap();
    let refused = team.check(&task, &team.default_config(&task, &bounded), &bounded).unwrap_err();
    assert!(refused.to_string().contains("turns"), "{refused}");
    assert_eq!(reduce.default_config(&task, &bounded).unwrap().variant, "reduce.cube_split");
}

#[test]
fn loops_close_to_the_end_that_a_driver_sets_are_whole() {
    check(&[
        "lstm t=150 n=1 i=128 h=256 direction=forward w=const bias=1 outputs=[0,1,1]",
        "gru t=75 n=1 i=128 h=256 direction=forward w=const bias=1 outputs=[0,1]",
        "gru t=150 n=1 i=128 h=256 direction=forward w=const bias=1 linear_before_reset=1 outputs=[0,1]",
        "gemm b=dynamic k=50000 m=1 n=1",
        "pool kind=average kernel_shape=[240,240] strides=[1,1] dilations=[1,1] pads=[0,0,0,0] x=[1,1,240,240] y=[1,1,1,1]",
        "reduce kind=mean x=[900000] y=[] axes=[0]",
    ]);
}

#[test]
fn embedding_and_gather() {
    check(&[
        "embedding table=[11,7] indices=[2,3] indices_type=i64",
        "embedding table=[11,32] indices=[2,9] bag=sum indices_type=i64",
        "embedding table=[11,75] indices=[2,3,9] bag=mean indices_type=i32",
        "embedding table=[1,64] indices=[] indices_type=i64",
        "gather x=[5,7,3] indices=[2,4] axis=1 indices_type=i64",
        "gather x=[5,7] indices=[] axis=1 indices_type=i32",
        "gather x=[3000,13] indices=[50] axis=0 indices_type=i64",
    ]);
}

#[test]
fn resize() {
    check(&[
        "resize mode=nearest rounding=floor transform=asymmetric x=[1,3,5,7] y=[1,3,10,14] scale_h=2.0 scale_w=2.0",
        "resize mode=nearest rounding=round_prefer_floor transform=half_pixel x=[2,3,8,9] y=[2,3,5,4]",
        "resize mode=nearest rounding=ceil transform=align_corners x=[2,1,5,3] y=[2,1,5,50]",
        "resize mode=nearest rounding=floor transform=half_pixel x=[19] y=[23]",
        "resize mode=linear transform=half_pixel x=[1,3,5,7] y=[1,3,8,20]",
        "resize mode=linear transform=align_corners x=[3,7] y=[5,1]",
        "resize mode=linear transform=pytorch_half_pixel x=[7] y=[4]",
    ]);
}

#[test]
fn elementwise() {
    check(&[
        "elementwise expr=relu(add(a,b)) a=[2,37] b=[2,37] y=[2,37]",
        "elementwise expr=mul(a,sigmoid(add(a,b))) a=[3,5,257] b=[257] y=[3,5,257]",
        "elementwise expr=add(mul(a,b),c) a=[4,7,9] b=[7,1] c=[4,1,9] y=[4,7,9]",
        "elementwise expr=where(less(a,0.0),mul(a,b),a) a=[2,3,5,7] b=[3,1,1] y=[2,3,5,7]",
        "elementwise expr=exp(a) a=[1] y=[1]",
        "elementwise expr=mul(a,add(b,c)) a=[4,7,12] b=[7,1] c=[4,1,12] y=[4,7,12]",
        "elementwise expr=sub(a,b) a=[3,5,6] b=[6] y=[3,5,6]",
        "elementwise expr=add(a,1.5) a=[] y=[]",
        "elementwise expr=gelu(sub(a,b)) a=[1025] b=[1] y=[1025]",
        "elementwise expr=tanh(erf(min(a,max(b,neg(a))))) a=[2049] b=[2049] y=[2049]",
        "elementwise expr=div(sqrt(abs(a)),add(softplus(b),square(a))) a=[3,77] b=[77] y=[3,77]",
        "elementwise expr=elu(a,0.5) a=[99] y=[99]",
        "elementwise expr=clip(hard_sigmoid(a,0.2,0.5),0.1,leaky_relu(b,0.1)) a=[5,33] b=[5,33] y=[5,33]",
        "elementwise expr=cast(greater(a,0.25),f32) a=[700] y=[700]",
        "elementwise expr=add(gelu_tanh(a),silu(log(add(abs(a),0.5)))) a=[300] y=[300]",
        "elementwise expr=add(round(mul(a,9.0)),add(floor(mul(a,4.0)),ceil(a))) a=[300] y=[300]",
    ]);
}

#[test]
fn pool() {
    check(&[
        "pool kind=max kernel_shape=[3] strides=[2] dilations=[1] pads=[1,1] x=[2,3,9] y=[2,3,5]",
        "pool kind=average kernel_shape=[2,2] strides=[2,2] dilations=[1,1] pads=[0,0,0,0] x=[1,3,7,8] y=[1,3,3,4]",
        "pool kind=average kernel_shape=[3,3] strides=[2,2] dilations=[1,1] pads=[1,1,1,1] count_include_pad=1 x=[1,3,7,8] y=[1,3,4,4]",
        "pool kind=average kernel_shape=[3,3] strides=[2,2] dilations=[1,1] pads=[0,0,0,0] count_include_pad=1 x=[1,3,8,8] y=[1,3,4,4]",
        "pool kind=max kernel_shape=[2,3] strides=[1,1] dilations=[2,3] pads=[1,2,0,3] x=[1,2,7,9] y=[1,2,6,8]",
        "pool kind=average kernel_shape=[2,3] strides=[1,2] dilations=[2,3] pads=[1,2,0,3] x=[1,2,7,17] y=[1,2,6,8]",
        "pool kind=average kernel_shape=[2,3] strides=[1,2] dilations=[2,3] pads=[1,2,0,3] count_include_pad=1 x=[1,2,7,17] y=[1,2,6,8]",
        "pool kind=max kernel_shape=[1,40] strides=[1,3] dilations=[1,1] pads=[0,5,0,5] x=[1,2,2,61] y=[1,2,2,11]",
        "pool kind=average kernel_shape=[2,2,2] strides=[1,2,1] dilations=[1,1,1] pads=[1,0,1,0,0,0] x=[1,2,3,4,9] y=[1,2,3,2,9]",
    ]);
}

#[test]
fn transpose() {
    check(&[
        "transpose x=[7] perm=[0]",
        "transpose x=[] perm=[]",
        "transpose x=[130,67] perm=[1,0]",
        "transpose x=[2,9,3,8] perm=[0,2,3,1]",
        "transpose x=[3,4,5,6,2] perm=[4,2,0,3,1]",
        "transpose x=[64,36] perm=[1,0]",
        "transpose x=[6,10] perm=[1,0]",
        "transpose x=[2,8,3,12] perm=[0,2,3,1]",
        "transpose x=[2,12,8,3] perm=[0,3,1,2]",
        "transpose x=[2,6,4,8] perm=[0,2,1,3]",
        "transpose x=[4,3,8] perm=[2,1,0]",
    ]);
}

#[test]
fn copy() {
    check(&[
        "copy kind=join axis=1 x0=[2,3,4] x1=[2,5,4] x2=[2,1,4] y0=[2,9,4]",
        "copy kind=join axis=2 x0=[2,3,9] y0=[2,3,4] y1=[2,3,5]",
        "copy kind=join axis=1 groups=3 x0=[1,5,3] x1=[1,7,3] y0=[1,4,3] y1=[1,8,3]",
        "copy kind=slice x0=[9,10] starts=[2,9] steps=[3,-2] y0=[3,5]",
        "copy kind=slice x0=[3,5,59] starts=[0,1,2] steps=[2,2,2] y0=[2,2,29]",
        "copy kind=slice x0=[9,16] starts=[2,15] steps=[3,-1] y0=[3,16]",
        "copy kind=slice x0=[9,16] starts=[8,4] steps=[-2,1] y0=[4,8]",
        "copy kind=pad x0=[5,4] pads=[-1,2,-2,0] value=0.5 y0=[2,6]",
        "copy kind=pad x0=[3,4] pads=[1,2,0,3] mode=edge value=0.0 y0=[4,9]",
        "copy kind=pad x0=[3,4] pads=[2,1,1,3] mode=reflect value=0.0 y0=[6,8]",
        "copy kind=expand x0=[3,1] y0=[2,3,5]",
        "copy kind=tile x0=[2,3] y0=[4,9]",
    ]);
}

#[test]
fn softmax() {
    check(&[
        "softmax x=[5,1] axis=1",
        "softmax x=[2,3,129] axis=2 scale=0.125",
        "softmax x=[3,37] axis=1 log=1",
        "softmax x=[3,37,5] axis=1",
        "softmax x=[2,3,5,33] axis=3 mask=[2,1,1,33] scale=0.5",
        "softmax x=[2,3,5,33] axis=3 mask=[3,5,1] log=1",
        "softmax x=[2,3,5,7] axis=1 mask=[3,1,7]",
    ]);
}

#[test]
fn layer_norm() {
    check(&[
        "layer_norm x=[3,1] y=[3,1] axis=1 epsilon=1e-5",
        "layer_norm x=[2,5,64] y=[2,5,64] axis=2 epsilon=0.001 scale=[64] bias=[64]",
        "layer_norm x=[2,5,9] y=[2,5,9] axis=1 epsilon=1e-5 scale=[5,9]",
        "layer_norm x=[4,300] y=[4,300] axis=1 epsilon=1e-5 rms=1 scale=[300]",
    ]);
}

#[test]
fn reduce() {
    check(&[
        "reduce kind=sum x=[7] y=[] axes=[0]",
        "reduce kind=mean x=[3,37] y=[3,1] axes=[1]",
        "reduce kind=max x=[3,37] y=[37] axes=[0]",
        "reduce kind=min x=[3,5,129] y=[3,5] axes=[2]",
        "reduce kind=sum x=[3,5,7,9] y=[3,7] axes=[1,3]",
        "reduce kind=mean x=[3,5,7,300] y=[1,5,1,300] axes=[0,2]",
        "reduce kind=prod x=[3,20] y=[3] axes=[1]",
        "reduce kind=l1 x=[3,20] y=[3] axes=[1]",
        "reduce kind=l2 x=[3,20] y=[3] axes=[1]",
        "reduce kind=sum_square x=[3,20] y=[3] axes=[1]",
        "reduce kind=log_sum x=[3,20] y=[3] axes=[1]",
        "reduce kind=mean x=[5,40] y=[5] axes=[1]",
        "reduce kind=l2 x=[37,8] y=[8] axes=[0]",
        "reduce kind=max x=[2,37,6] y=[6] axes=[0,1]",
        "reduce kind=l1 x=[4100] y=[] axes=[0]",
        "reduce kind=mean x=[3,1001] y=[3] axes=[1]",
        "reduce kind=l2 x=[700,4] y=[4] axes=[0]",
        "reduce kind=min x=[2,520,7] y=[2,7] axes=[1]",
    ]);
}
