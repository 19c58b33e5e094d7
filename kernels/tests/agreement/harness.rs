//! Runs kernels on made-up operands and compares.

use crate::random::Random;
use kernels::layout::{from_layout, to_layout};
use kernels::{
    Isa, Layout, Limits, Operand, OperandMut, OperandSpec, Operands, Operator, Packed, Request, Task, Tensor, ThreadPool, Variant,
};
use schema::{Config, DType};

/// Configs tried of each variant, beside the default: a sample, or in the campaign profile as good as all.
fn configs_per_variant() -> usize {
    if std::env::var("NEXTEST_PROFILE").is_ok_and(|profile| profile == "campaign") { 200 } else { 6 }
}

/// Bytes before and behind each output and the scratch space that must not change.
const GUARD_BYTES: usize = 256;
/// What the guards hold: a NaN, so that reading them shows too.
const GUARD: u8 = 0xff;

/// Checks all variants of the tasks' operators on the lesser and the best instruction set, with one and two threads.
pub fn check(tasks: &[&str]) {
    for text in tasks {
        let task = Task::parse(text).unwrap_or_else(|| panic!("'{text}' is a task"));
        let case = Case::new(task);
        for isa in sets() {
            for units in [1, 2] {
                let limits = limits(isa, units);
                for variant in case.operator.variants {
                    for config in sample(variant, &case.task, &limits) {
                        if let Err(why) = case.run(&config, &limits) {
                            panic!("{why}\nreproduce: harness::check_one(\"{text}\", \"{config}\", Isa::{isa:?}, {units});");
                        }
                    }
                }
            }
        }
    }
}

/// Checks one config: the pasted line of a failure.
#[allow(dead_code)]
pub fn check_one(task: &str, config: &str, isa: Isa, units: u32) {
    let case = Case::new(Task::parse(task).unwrap());
    let limits = limits(isa, units);
    let (id, _) = config.split_once('@').unwrap();
    let variant = case.operator.variant(id).unwrap();
    let config = every(variant).into_iter().find(|legal| legal.to_string() == config).expect("a config of this variant");
    case.run(&config, &limits).unwrap();
}

/// The instruction sets this processor has, the plain one (SSE2 on x86-64) first.
pub fn sets() -> Vec<Isa> {
    let all = [Isa::Scalar, Isa::Neon, Isa::Avx2, Isa::Avx512];
    all.into_iter().filter(|&isa| kernels::simd::available(isa) == isa).collect()
}

fn limits(isa: Isa, units: u32) -> Limits {
    Limits {
        isa,
        units,
        l1d_bytes: 32 << 10,
        l2_bytes: 1 << 20,
        l3_bytes: 32 << 20,
        gpu: None,
        numerics: schema::Numerics::Strict,
    }
}

/// Every combination of knob values, legal or not.
fn every(variant: &'static Variant) -> Vec<Config> {
    let count: usize = variant.knobs.iter().map(|knob| knob.values.len()).product();
    (0..count).map(|index| nth(variant, index)).collect()
}

fn nth(variant: &'static Variant, mut index: usize) -> Config {
    let mut values = Vec::new();
    for knob in variant.knobs {
        values.push(knob.values.nth(index % knob.values.len()));
        index /= knob.values.len();
    }
    variant.config(values)
}

/// The default, if it is legal, and some other legal configs. The task's own default must be.
fn sample(variant: &'static Variant, task: &Task, limits: &Limits) -> Vec<Config> {
    let mut configs = Vec::new();
    let operator = kernels::operator(task.operator()).unwrap();
    let default = variant.default_config(task, limits);
    match variant.check(task, &default, limits) {
        Ok(()) => configs.push(default),
        Err(why) if operator.default_config(task, limits).variant == variant.id => panic!("a task's default is legal: {why}"),
        Err(_) => {}
    }
    let count: usize = variant.knobs.iter().map(|knob| knob.values.len()).product();
    let mut random = Random::new(&format!("{task} {}", variant.id));
    let most = configs_per_variant();
    for _ in 0..40 * most {
        let config = nth(variant, random.next() as usize % count);
        if variant.check(task, &config, limits).is_ok() && !configs.contains(&config) {
            configs.push(config);
        }
        if configs.len() > most {
            break;
        }
    }
    configs
}

/// A task with operands and the results they should give.
struct Case {
    operator: &'static Operator,
    task: Task,
    inputs: Vec<OperandSpec>,
    outputs: Vec<OperandSpec>,
    tensors: Vec<Option<Tensor>>,
    expected: Vec<Tensor>,
}

impl Case {
    fn new(task: Task) -> Self {
        let operator = kernels::operator(task.operator()).unwrap_or_else(|| panic!("operator '{}' exists", task.operator()));
        let signature = (operator.signature)(&task).unwrap();
        let mut random = Random::new(&task.to_string());
        let tensors: Vec<_> =
            signature.inputs.iter().map(|spec| (!spec.shape.contains(&0)).then(|| random.tensor(spec))).collect();
        let expected = (operator.reference)(&task, &tensors.iter().map(Option::as_ref).collect::<Vec<_>>()).unwrap();
        for (spec, tensor) in signature.outputs.iter().zip(&expected) {
            assert_eq!(spec.shape, tensor.shape(), "the reference of '{task}' gives what the signature says");
        }
        assert!((operator.bytes)(&task) > 0, "'{task}' moves bytes");
        Case { operator, task, inputs: signature.inputs, outputs: signature.outputs, tensors, expected }
    }

    fn run(&self, config: &Config, limits: &Limits) -> Result<(), String> {
        let task = &self.task;
        let constants: Vec<_> =
            self.inputs.iter().zip(&self.tensors).map(|(spec, tensor)| tensor.as_ref().filter(|_| spec.constant)).collect();
        let request = Request { task, config, limits, constants: &constants };
        let kernel = self.operator.build(&request).map_err(|why| why.to_string())?;

        let laid: Vec<Option<Guarded>> = self
            .inputs
            .iter()
            .zip(&self.tensors)
            .map(|(spec, tensor)| tensor.as_ref().filter(|_| !spec.constant).map(|tensor| Guarded::of(&lay(tensor, spec.layout))))
            .collect();
        let mut outputs: Vec<Guarded> = self.outputs.iter().map(|spec| Guarded::of(&vec![GUARD; spec.bytes()])).collect();
        let mut scratch = Guarded::of(&vec![GUARD; kernel.scratch_bytes()]);
        let operands_in: Vec<Operand> =
            laid.iter().map(|laid| laid.as_ref().map_or(Operand::ABSENT, |laid| Operand::of(laid.bytes()))).collect();
        let operands_out: Vec<OperandMut> = outputs.iter_mut().map(|output| OperandMut::of(output.bytes_mut())).collect();
        let scratch_operand = OperandMut::of(scratch.bytes_mut());
        let pool = ThreadPool::new(limits.units as usize, || {}).unwrap();
        // Twice: a kernel keeps nothing of a run.
        for _ in 0..2 {
            // SAFETY: all buffers live until the end of this function, are aligned to 64 bytes and disjoint.
            let mut operands = unsafe { Operands::new(&operands_in, &operands_out, scratch_operand) };
            pool.enter(|| kernel.run(&mut operands));
        }

        for (i, input) in laid.iter().enumerate() {
            if input.as_ref().is_some_and(|input| !input.is_whole()) {
                return Err(format!("{config} on '{task}' wrote outside, near input {i}"));
            }
        }
        if !scratch.is_whole() {
            return Err(format!("{config} on '{task}' wrote outside its scratch space"));
        }
        for ((spec, output), expected) in self.outputs.iter().zip(&outputs).zip(&self.expected) {
            if !output.is_whole() {
                return Err(format!("{config} on '{task}' wrote outside '{}'", spec.name));
            }
            compare(spec, output.bytes(), expected, tolerance(config)).map_err(|why| format!("{config} on '{task}': {why}"))?;
        }
        Ok(())
    }
}

/// The error allowed, relative to the greater of the value and the root mean square of all.
fn tolerance(config: &Config) -> f64 {
    if config.variant.contains("winograd") { 1e-4 } else { 3e-5 }
}

/// The bytes of a tensor in a layout.
fn lay(tensor: &Tensor, layout: Layout) -> Vec<u8> {
    match layout {
        Layout::Rows => tensor.bytes().to_vec(),
        _ => {
            let values = tensor.values::<f32>().expect("only f32 has blocked layouts");
            to_layout(&values, tensor.shape(), layout).iter().flat_map(|x| x.to_ne_bytes()).collect()
        }
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|x| f32::from_ne_bytes(x.try_into().unwrap())).collect()
}

fn compare(spec: &OperandSpec, bytes: &[u8], expected: &Tensor, tolerance: f64) -> Result<(), String> {
    if spec.dtype != DType::F32 {
        return if bytes == lay(expected, spec.layout) { Ok(()) } else { Err(format!("'{}' differs", spec.name)) };
    }
    let laid = floats(bytes);
    if spec.layout != Layout::Rows {
        let inside = to_layout(&vec![1.0f32; expected.len()], &spec.shape, spec.layout);
        if let Some(at) = (0..laid.len()).find(|&i| inside[i] == 0.0 && laid[i] != 0.0) {
            return Err(format!("padding of '{}' at {at} is {} and not 0", spec.name, laid[at]));
        }
    }
    let got = from_layout(&laid, &spec.shape, spec.layout);
    let want = expected.values::<f32>().unwrap();
    let rms = (want.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / want.len() as f64).sqrt();
    for (i, (&x, &y)) in got.iter().zip(want.iter()).enumerate() {
        let error = (f64::from(x) - f64::from(y)).abs() / rms.max(f64::from(y).abs()).max(1e-30);
        if x.to_bits() != y.to_bits() && (error > tolerance || error.is_nan()) {
            return Err(format!("'{}' at {i} is {x} and not {y}: {error:.1e} of the root mean square {rms:.3}", spec.name));
        }
    }
    Ok(())
}

/// Bytes aligned to 64, between guards.
struct Guarded {
    all: Packed,
    bytes: usize,
}

impl Guarded {
    fn of(bytes: &[u8]) -> Self {
        let len = (bytes.len() + 2 * GUARD_BYTES).div_ceil(4);
        let mut all = Packed::zeroed(len);
        let raw: &mut [u8] = bytemuck::cast_slice_mut(&mut all);
        raw.fill(GUARD);
        raw[GUARD_BYTES..][..bytes.len()].copy_from_slice(bytes);
        Guarded { all, bytes: bytes.len() }
    }

    fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.all)[GUARD_BYTES..][..self.bytes]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.all)[GUARD_BYTES..][..self.bytes]
    }

    fn is_whole(&self) -> bool {
        let raw: &[u8] = bytemuck::cast_slice(&self.all);
        raw[..GUARD_BYTES].iter().chain(&raw[GUARD_BYTES + self.bytes..]).all(|&byte| byte == GUARD)
    }
}
