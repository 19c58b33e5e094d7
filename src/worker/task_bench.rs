//! The worker's bench for kernels, the host's and those of a device with memory of its own: operands of one task, kernels of its configs in slots, each verified before it is timed.
//!
//! A result is compared with the operator's f64 reference where that is affordable. Where it is not, it is compared with the result of
//! the default config on the same operands, after the default itself met the reference on the same task made small: an independent
//! truth at a bounded cost. Outputs and scratch space are fresh for every verification, filled with a pattern no kernel writes.

use super::child::{Share, picos};
use super::protocol::{Answer, Lane};
use crate::execute::Pool;
use crate::space::{Stream, default_config};
use cube_kernels::{Buffer, CubeKernel, Gpu, GpuError};
use kernels::layout::to_layout;
use kernels::packed::Packed;
use kernels::{
    BuildError, Fill, Kernel, Layout, Operand, OperandMut, OperandSpec, Operands, Operator, Param, Request, Signature, Task,
    Tensor,
};
use schema::{Config, DType, FailureClass, Seed};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

/// Operations the plain reference may take: about 10 ms of it.
const REFERENCE_FLOPS_MAX: u64 = 4_000_000;
/// The least length of a sample. Shorter kernels run several times in one.
const SAMPLE_MIN_PICOS: u64 = 20_000_000;
/// A run so long that the first touch of its memory does not matter.
const LONG_PICOS: u64 = 5_000_000_000;
/// Runs in one sample at most: a kernel of nothing must not run a million times.
const RUNS_MAX: u64 = 2000;
/// From this many operand bytes on, the caches nearest to the cores are emptied before every sample: within a network such a
/// task finds its weights and activations in the shared cache or in memory, never in L2.
const COLD_FROM_BYTES: usize = 128 << 10;
/// What outputs and scratch space hold before a run: NaNs in f32, −1 in other types.
const PATTERN: u8 = 0xFF;

/// Operands of one task, its kernels and what they should give.
pub(super) struct TaskBench<'a> {
    share: &'a Share,
    open: Option<Open>,
}

struct Open {
    operator: &'static Operator,
    task: Task,
    signature: Signature,
    max_error: f64,
    /// By input; constant ones in rows, for building. Absent ones are `None`.
    tensors: Vec<Option<Tensor>>,
    /// Run-time inputs in their layouts.
    laid: Vec<Option<Bytes>>,
    outputs: Vec<Bytes>,
    /// Run-time inputs and outputs on the device, once a kernel there was built.
    there: Option<There>,
    expected: Option<Vec<Expected>>,
    slots: BTreeMap<u32, Slot>,
    /// Read between samples to empty the caches; empty for tasks that are timed warm.
    evictor: Packed,
}

/// Operands on a device.
struct There {
    gpu: Gpu,
    inputs: Vec<Option<Buffer>>,
    outputs: Vec<Buffer>,
}

struct Slot {
    kernel: Ready,
    /// Runs in one sample.
    runs: u64,
}

/// A kernel in its slot, and picoseconds: of a run, of making it, of the driver's compiler.
struct Built {
    slot: Slot,
    time: u64,
    generate: u64,
    compile: u64,
}

/// A kernel, made ready.
enum Ready {
    Here { kernel: Box<dyn Kernel>, scratch: Bytes },
    There { kernel: Box<dyn CubeKernel>, scratch: Vec<Buffer> },
}

impl Ready {
    fn prepared_bytes(&self) -> usize {
        match self {
            Ready::Here { kernel, .. } => kernel.prepared_bytes(),
            Ready::There { kernel, .. } => kernel.prepared_bytes(),
        }
    }
}

/// What an output should be, in its layout, padding included.
enum Expected {
    Floats { values: Vec<f32>, rms: f64 },
    Exactly(Vec<u8>),
}

/// Bytes aligned to 64.
struct Bytes {
    words: Packed,
    len: usize,
}

impl Bytes {
    fn filled(len: usize, pattern: u8) -> Self {
        let mut bytes = Bytes { words: Packed::zeroed(len.div_ceil(size_of::<f32>())), len };
        bytes.as_mut().fill(pattern);
        bytes
    }

    fn copy_of(from: &[u8]) -> Self {
        let mut bytes = Bytes { words: Packed::zeroed(from.len().div_ceil(size_of::<f32>())), len: from.len() };
        bytes.as_mut().copy_from_slice(from);
        bytes
    }

    fn get(&self) -> &[u8] {
        &bytemuck::cast_slice::<f32, u8>(&self.words)[..self.len]
    }

    fn as_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut::<f32, u8>(&mut self.words)[..self.len]
    }
}

impl<'a> TaskBench<'a> {
    /// Without a task.
    pub fn new(share: &'a Share) -> Self {
        TaskBench { share, open: None }
    }

    /// Makes operands for the task of that text.
    pub fn open(&mut self, text: &str, seed: u64, max_error: f64) -> Answer {
        self.open = None;
        match opened(text, seed, max_error, self.share).and_then(|open| open.expecting().map_err(|error| error.to_string())) {
            Ok(open) => {
                self.open = Some(open);
                Answer::Done
            }
            Err(reason) => Answer::Wrong { reason },
        }
    }

    /// Compiles a config of the task of that text, unless it is refused.
    pub fn compile(&mut self, text: &str, seed: u64, config: &Config) -> Answer {
        if self.open.as_ref().is_none_or(|open| open.task.to_string() != text) {
            self.open = None;
            match opened(text, seed, f64::INFINITY, self.share) {
                Ok(open) => self.open = Some(open),
                Err(reason) => return Answer::Wrong { reason },
            }
        }
        let Some(open) = &mut self.open else { return Answer::Wrong { reason: "no task is open".to_owned() } };
        match open.run_fresh(config, self.share) {
            Ok(Built { generate, time, .. }) => Answer::Compiled { generate_ps: generate, compile_ps: time },
            Err((class, detail)) => Answer::Refused { class, detail },
        }
    }

    /// Frees the task.
    pub fn close(&mut self) {
        self.open = None;
    }

    /// Frees slots.
    pub fn drop_slots(&mut self, slots: &[u32]) {
        if let Some(open) = &mut self.open {
            slots.iter().for_each(|slot| drop(open.slots.remove(slot)));
        }
    }

    /// Builds and verifies a config.
    pub fn build(&mut self, slot: u32, config: &Config) -> Answer {
        let Some(open) = &mut self.open else { return Answer::Wrong { reason: "no task is open".to_owned() } };
        open.slots.remove(&slot);
        match open.build(config, self.share) {
            Ok(built) => {
                let Built { slot: kernel, time, generate, compile } = built;
                let prepared_bytes = kernel.kernel.prepared_bytes() as u64;
                open.slots.insert(slot, kernel);
                Answer::Built { first_ps: time, prepared_bytes, generate_ps: generate, compile_ps: compile }
            }
            Err((class, detail)) => Answer::Refused { class, detail },
        }
    }

    /// Times slots.
    pub fn lap(&mut self, lanes: &[Lane]) -> Answer {
        let Some(open) = &mut self.open else { return Answer::Wrong { reason: "no task is open".to_owned() } };
        let Open { laid, outputs, there, slots, evictor, .. } = open;
        let pool = &self.share.pool;
        self.share.lap(lanes, |slot| {
            let slot = slots.get_mut(&slot)?;
            if !evictor.is_empty() {
                evict(pool, evictor);
            }
            let time = run(&mut slot.kernel, laid, outputs, there.as_ref(), slot.runs).ok()?;
            Some(time / slot.runs)
        })
    }
}

/// The task of that text with operands, without a result to compare with.
fn opened(text: &str, seed: u64, max_error: f64, share: &Share) -> Result<Open, String> {
    let task = Task::parse(text).ok_or_else(|| format!("'{text}' is no task"))?;
    let operator = kernels::operator(task.operator()).ok_or_else(|| format!("no operator '{}'", task.operator()))?;
    Open::new(operator, &task, Seed(seed), max_error, share).map_err(|error| error.to_string())
}

/// Reads more than the caches nearest to each core of the pool hold.
fn evict(pool: &Pool, evictor: &[f32]) {
    pool.broadcast(|_| {
        black_box(evictor.iter().step_by(16).sum::<f32>());
    });
}

impl Open {
    fn new(operator: &'static Operator, task: &Task, seed: Seed, max_error: f64, share: &Share) -> Result<Open, BuildError> {
        let signature = (operator.signature)(task)?;
        let mut stream = Stream::named(seed, &task.to_string());
        let tensors: Vec<Option<Tensor>> =
            signature.inputs.iter().map(|spec| (!spec.shape.contains(&0)).then(|| random(spec, &mut stream))).collect();
        let at_run_time = |(spec, tensor): (&OperandSpec, &Option<Tensor>)| match tensor {
            Some(tensor) if !spec.constant => Some(lay(tensor, spec)),
            _ => None,
        };
        let laid = signature.inputs.iter().zip(&tensors).map(at_run_time).collect();
        let outputs: Vec<Bytes> = signature.outputs.iter().map(|spec| Bytes::filled(spec.bytes(), PATTERN)).collect();
        let all = signature.inputs.iter().chain(&signature.outputs).map(OperandSpec::bytes).sum::<usize>();
        let evict_bytes = usize::try_from(2 * share.limits.l2_bytes).unwrap_or(0);
        let evictor = Packed::zeroed(if all >= COLD_FROM_BYTES { evict_bytes / size_of::<f32>() } else { 0 });
        let slots = BTreeMap::new();
        let (task, there, expected) = (task.clone(), None, None);
        Ok(Open { operator, task, signature, max_error, tensors, laid, outputs, there, expected, slots, evictor })
    }

    /// With what the plain computation gives, where that is affordable.
    fn expecting(mut self) -> Result<Open, BuildError> {
        if (self.operator.flops)(&self.task) <= REFERENCE_FLOPS_MAX {
            self.expected = Some(reference(self.operator, &self.task, &self.signature, &self.tensors)?);
        }
        Ok(self)
    }

    /// A kernel whose result is right.
    fn build(&mut self, config: &Config, share: &Share) -> Result<Built, Fallen> {
        if self.expected.is_none() {
            self.expect_the_defaults_result(share)?;
        }
        let Built { mut slot, time: first, generate, .. } = self.run_fresh(config, share)?;
        let expected = self.expected.as_deref().unwrap_or(&[]);
        for ((spec, output), expected) in self.signature.outputs.iter().zip(&self.outputs).zip(expected) {
            let error = expected.worst(output.get());
            if error.is_nan() || error > self.max_error {
                let detail = format!("'{}' is off by {error:.1e} of its size, allowed is {:.0e}", spec.name, self.max_error);
                return Err((FailureClass::WrongResult, detail));
            }
        }
        let (mut time, mut compile) = (first, 0);
        // On a device the first run waits for the driver's compiler, however short the kernel is.
        let is_there = matches!(slot.kernel, Ready::There { .. });
        if first < LONG_PICOS || is_there {
            let (laid, outputs, there) = (&self.laid, &mut self.outputs, self.there.as_ref());
            time = share.pool.install(|| run(&mut slot.kernel, laid, outputs, there, 1))?;
        }
        if is_there {
            compile = first.saturating_sub(time);
        }
        if self.evictor.is_empty() {
            slot.runs = SAMPLE_MIN_PICOS.div_ceil(time.max(1)).clamp(1, RUNS_MAX);
        }
        Ok(Built { slot, time, generate, compile })
    }

    /// Builds a config and runs it once on fresh buffers; `time` is that of the first run, with what the driver compiles.
    fn run_fresh(&mut self, config: &Config, share: &Share) -> Result<Built, Fallen> {
        let constants: Vec<Option<&Tensor>> = self
            .signature
            .inputs
            .iter()
            .zip(&self.tensors)
            .map(|(spec, tensor)| tensor.as_ref().filter(|_| spec.constant))
            .collect();
        // Who names it was allowed to.
        let limits = &share.limits.relaxed();
        let request = Request { task: &self.task, config, limits, constants: &constants };
        let refused = |error: BuildError| (FailureClass::Compile, error.to_string());
        self.outputs.iter_mut().for_each(|output| output.as_mut().fill(PATTERN));
        let there = cube_kernels::operator(self.operator.id).filter(|there| there.variant(&config.variant).is_some());
        let start = Instant::now();
        let generate;
        let mut kernel = match there.zip(share.gpu.as_ref()) {
            Some((there, gpu)) => {
                let kernel = there.build(&request, gpu).map_err(refused)?;
                generate = picos(start);
                self.there = Some(match self.there.take() {
                    Some(there) => there.with_outputs(&self.outputs)?,
                    None => There::new(gpu, &self.laid, &self.outputs)?,
                });
                let room = |bytes| gpu.room(bytes).map_err(fell);
                let scratch = kernel.scratch_bytes().into_iter().map(room).collect::<Result<_, _>>()?;
                Ready::There { kernel, scratch }
            }
            None => {
                let kernel = share.pool.install(|| self.operator.build(&request)).map_err(refused)?;
                generate = picos(start);
                let scratch = Bytes::filled(kernel.scratch_bytes(), PATTERN);
                Ready::Here { kernel, scratch }
            }
        };
        let (laid, outputs, there) = (&self.laid, &mut self.outputs, self.there.as_ref());
        let time = share.pool.install(|| run(&mut kernel, laid, outputs, there, 1))?;
        if let (Ready::There { .. }, Some(there)) = (&kernel, &self.there) {
            for (output, buffer) in self.outputs.iter_mut().zip(&there.outputs) {
                output.as_mut().copy_from_slice(&there.gpu.download(buffer).map_err(fell)?);
            }
        }
        Ok(Built { slot: Slot { kernel, runs: 1 }, time, generate, compile: 0 })
    }

    /// For a task whose reference would take too long: what the default gives, once the default is right on the task made small.
    fn expect_the_defaults_result(&mut self, share: &Share) -> Result<(), Fallen> {
        if let Some(small) = smaller(self.operator, &self.task) {
            let failed = |error: BuildError| (FailureClass::Compile, error.to_string());
            let open = Open::new(self.operator, &small, Seed(1), self.max_error, share).and_then(Open::expecting);
            let mut open = open.map_err(failed)?;
            let default = default_config(&small, self.operator, &share.limits);
            if open.expected.is_some() {
                open.build(&default, share).map_err(|(class, detail)| (class, format!("the default on '{small}': {detail}")))?;
            }
        }
        let default = default_config(&self.task, self.operator, &share.limits);
        drop(self.run_fresh(&default, share)?);
        let outputs = self.signature.outputs.iter().zip(&self.outputs);
        self.expected = Some(outputs.map(|(spec, output)| Expected::of(spec, output.get().to_vec())).collect());
        Ok(())
    }
}

impl There {
    /// Uploads what the host holds.
    fn new(gpu: &Gpu, laid: &[Option<Bytes>], outputs: &[Bytes]) -> Result<Self, Fallen> {
        let upload = |laid: &Option<Bytes>| laid.as_ref().map(|bytes| gpu.upload(bytes.get()).map_err(fell)).transpose();
        let inputs = laid.iter().map(upload).collect::<Result<_, _>>()?;
        There { gpu: gpu.clone(), inputs, outputs: Vec::new() }.with_outputs(outputs)
    }

    /// With outputs that hold what the host's hold.
    fn with_outputs(self, outputs: &[Bytes]) -> Result<Self, Fallen> {
        let outputs = outputs.iter().map(|output| self.gpu.upload(output.get()).map_err(fell)).collect::<Result<_, _>>()?;
        Ok(There { outputs, ..self })
    }
}

/// A candidate that is refused, and why.
type Fallen = (FailureClass, String);

fn fell(error: GpuError) -> Fallen {
    let class = match error {
        GpuError::Launch(_) => FailureClass::Compile,
        GpuError::OutOfMemory(_) => FailureClass::OutOfMemory,
        GpuError::Lost(_) => FailureClass::DeviceLost,
    };
    (class, error.to_string())
}

/// Runs a kernel so often, to the end; what it took in all.
fn run(
    kernel: &mut Ready,
    laid: &[Option<Bytes>],
    outputs: &mut [Bytes],
    there: Option<&There>,
    runs: u64,
) -> Result<u64, Fallen> {
    let mut time = 0;
    match (kernel, there) {
        (Ready::Here { kernel, scratch }, _) => with_operands(laid, outputs, scratch, |operands| {
            let start = Instant::now();
            for _ in 0..runs {
                kernel.run(operands);
            }
            time = picos(start);
        }),
        (Ready::There { kernel, scratch }, Some(there)) => {
            let start = Instant::now();
            for _ in 0..runs {
                kernel.launch(&there.gpu, &there.inputs, &there.outputs, scratch);
            }
            there.gpu.sync().map_err(fell)?;
            time = picos(start);
        }
        (Ready::There { .. }, None) => return Err((FailureClass::Crash, "the operands are not on the device".to_owned())),
    }
    Ok(time)
}

/// Lends the buffers to one use of a kernel.
fn with_operands(laid: &[Option<Bytes>], outputs: &mut [Bytes], scratch: &mut Bytes, mut work: impl FnMut(&mut Operands<'_>)) {
    let inputs: Vec<Operand> =
        laid.iter().map(|laid| laid.as_ref().map_or(Operand::ABSENT, |bytes| Operand::of(bytes.get()))).collect();
    let outputs: Vec<OperandMut> = outputs.iter_mut().map(|output| OperandMut::of(output.as_mut())).collect();
    let scratch = OperandMut::of(scratch.as_mut());
    // SAFETY: every operand is a buffer of its own, aligned to 64 bytes, borrowed for the whole of this function: inputs are only read,
    // outputs and scratch are borrowed mutably and nobody else can name them meanwhile.
    let mut operands = unsafe { Operands::new(&inputs, &outputs, scratch) };
    work(&mut operands);
}

/// What the plain computation gives.
fn reference(
    operator: &Operator,
    task: &Task,
    signature: &Signature,
    tensors: &[Option<Tensor>],
) -> Result<Vec<Expected>, BuildError> {
    let inputs: Vec<Option<&Tensor>> = tensors.iter().map(Option::as_ref).collect();
    let results = (operator.reference)(task, &inputs)?;
    Ok(signature
        .outputs
        .iter()
        .zip(&results)
        .map(|(spec, tensor)| Expected::of(spec, lay(tensor, spec).get().to_vec()))
        .collect())
}

impl Expected {
    fn of(spec: &OperandSpec, bytes: Vec<u8>) -> Self {
        if spec.dtype != DType::F32 {
            return Expected::Exactly(bytes);
        }
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
        let squares: f64 = values.iter().map(|&value| f64::from(value).powi(2)).sum();
        // Padding is zeros: the size of the values is that of those inside.
        let inside = spec.shape.iter().product::<usize>().max(1);
        Expected::Floats { values, rms: (squares / inside as f64).sqrt() }
    }

    /// The greatest error, relative to the greater of the value and the root mean square; infinite where bytes must be equal and
    /// are not, or where a result is not a number.
    fn worst(&self, found: &[u8]) -> f64 {
        match self {
            Expected::Exactly(bytes) => {
                if bytes == found {
                    0.0
                } else {
                    f64::INFINITY
                }
            }
            Expected::Floats { values, rms } => {
                let found: &[f32] = bytemuck::cast_slice(found);
                let mut worst = 0.0f64;
                for (&want, &found) in values.iter().zip(found) {
                    if want.to_bits() == found.to_bits() {
                        continue;
                    }
                    let size = f64::from(want).abs().max(*rms).max(f64::MIN_POSITIVE);
                    let error = (f64::from(found) - f64::from(want)).abs() / size;
                    if error.is_nan() {
                        return f64::INFINITY;
                    }
                    worst = worst.max(error);
                }
                worst
            }
        }
    }
}

/// A tensor's bytes in an operand's layout.
fn lay(tensor: &Tensor, spec: &OperandSpec) -> Bytes {
    match (spec.layout, tensor.values::<f32>()) {
        (Layout::Rows, _) | (_, None) => Bytes::copy_of(tensor.bytes()),
        (layout, Some(values)) => Bytes::copy_of(bytemuck::cast_slice(&to_layout(&values, &spec.shape, layout))),
    }
}

/// A tensor as the operand's fill says, in rows.
fn random(spec: &OperandSpec, stream: &mut Stream) -> Tensor {
    let count: usize = spec.shape.iter().product();
    let mut unit = || stream.unit();
    let mut value = || match spec.fill {
        Fill::Signed => 2.0 * unit() - 1.0,
        Fill::Scaled(terms) => (2.0 * unit() - 1.0) / (terms.max(1) as f64).sqrt(),
        Fill::Positive => 0.5 + unit(),
        Fill::Index(bound) | Fill::Whole(bound) => (unit() * bound as f64).floor(),
        Fill::Mask => f64::from(u8::from(unit() < 0.5)),
    };
    macro_rules! filled {
        ($type:ty) => {
            Tensor::new(spec.shape.clone(), (0..count).map(|_| value() as $type).collect())
        };
    }
    match spec.dtype {
        DType::F64 => filled!(f64),
        DType::I64 => filled!(i64),
        DType::I32 => filled!(i32),
        DType::U8 => filled!(u8),
        DType::I8 => filled!(i8),
        DType::Bool => Tensor::bools(spec.shape.clone(), (0..count).map(|_| value() >= 0.5).collect()),
        _ => filled!(f32),
    }
}

/// The same task with its great extents halved until its reference is affordable; `None` when halving does not get there.
fn smaller(operator: &Operator, task: &Task) -> Option<Task> {
    /// Extents below this are kernels, strides and the like: halving them would make another kind of task.
    const GREAT: i64 = 12;
    let mut task = task.clone();
    while (operator.flops)(&task) > REFERENCE_FLOPS_MAX {
        let mut extents: Vec<(i64, String)> = task
            .params()
            .filter_map(|(name, param)| match param {
                Param::Int(value) if *value >= GREAT => Some((*value, name.to_owned())),
                _ => None,
            })
            .collect();
        extents.sort_by(|a, b| b.cmp(a));
        let halved = extents.into_iter().find_map(|(value, name)| {
            let halved = task.clone().with_int(&name, usize::try_from(value / 2).ok()?);
            let shrinks = (operator.flops)(&halved) < (operator.flops)(&task);
            (shrinks && (operator.signature)(&halved).is_ok()).then_some(halved)
        });
        task = halved?;
    }
    Some(task)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_great_task_is_made_small_without_becoming_another_kind() {
        let operator = kernels::operator("gemm").unwrap();
        let task = Task::parse("gemm b=const k=4608 m=3136 n=512").unwrap();
        let small = smaller(operator, &task).unwrap();
        assert!((operator.flops)(&small) <= REFERENCE_FLOPS_MAX);
        assert_eq!(small.word("b"), "const");
        assert_eq!(smaller(operator, &small), Some(small.clone()));
    }

    #[test]
    fn what_a_device_says_has_its_class() {
        let class = |error: GpuError| fell(error).0;
        assert_eq!(class(GpuError::Launch("a source does not compile".into())), FailureClass::Compile);
        assert_eq!(class(GpuError::OutOfMemory("a buffer of 1 GB".into())), FailureClass::OutOfMemory);
        assert_eq!(class(GpuError::Lost("unplugged".into())), FailureClass::DeviceLost);
    }

    #[test]
    fn a_wrong_or_unwritten_result_is_far_off() {
        let spec = OperandSpec::f32("c", vec![4]);
        let bytes = |values: &[f32]| bytemuck::cast_slice::<f32, u8>(values).to_vec();
        let expected = Expected::of(&spec, bytes(&[1.0, -2.0, 0.0, 3.0]));
        assert_eq!(expected.worst(&bytes(&[1.0, -2.0, 0.0, 3.0])), 0.0);
        assert!(expected.worst(&bytes(&[1.00001, -2.0, 0.0, 3.0])) < 1e-5);
        assert!(expected.worst(&bytes(&[1.0, -2.0, 0.1, 3.0])) > 1e-2);
        assert_eq!(expected.worst(&bytes(&[f32::NAN, -2.0, 0.0, 3.0])), f64::INFINITY);
        let untouched = Bytes::filled(16, PATTERN);
        assert!(expected.worst(untouched.get()) > 0.1, "what was never written is not right");
    }
}
