//! Times the memory-bound operators on one thread and prints, per case, the best default among the variants.
//!
//! ```text
//! cargo run --release -p kernels --example memory_bound [FILTER] [--all]
//! ```
//! `GB/s` is what must at least be read and written over the median time; `--all` shows every config.

use kernels::{Limits, Operand, OperandMut, Operands, Operator, Packed, Request, Task, Tensor, ThreadPool, Variant};
use schema::{Config, DType};
use std::time::{Duration, Instant};

static CASES: &[&str] = &[
    "elementwise expr=relu(add(mul(a,b),add(c,d))) a=[200000] b=[200000] c=[200000] d=[200000] y=[200000]",
    "elementwise expr=relu(add(add(mul(a,1.5),0.25),b)) a=[800000] b=[800000] y=[800000]",
    "elementwise expr=relu(add(add(mul(a,1.5),0.25),b)) a=[8000000] b=[8000000] y=[8000000]",
    "elementwise expr=exp(a) a=[100000] y=[100000]",
    "elementwise expr=gelu(a) a=[128,3072] y=[128,3072]",
    "elementwise expr=mul(a,sigmoid(a)) a=[1,96,112,112] a_layout=channels16h0 y=[1,96,112,112] y_layout=channels16h0",
    "elementwise expr=mul(a,b) a=[1,96,56,56] a_layout=channels16h0 b=[1,96,1,1] y=[1,96,56,56] y_layout=channels16h1",
    "elementwise expr=relu(add(mul(a,b),c)) a=[1,256,28,28] a_layout=channels16h0 b=[256,1,1] c=[256,1,1] y=[1,256,28,28] y_layout=channels16h0",
    "elementwise expr=relu(add(a,b)) a=[1,512,7,7] a_layout=channels16h1 b=[1,512,7,7] b_layout=channels16h0 y=[1,512,7,7] y_layout=channels16h1",
    "elementwise expr=add(a,b) a=[128,768] b=[768] y=[128,768]",
    "softmax x=[1536,128] axis=1",
    "softmax x=[1024,1024] axis=1",
    "softmax x=[1,12,128,128] axis=3 mask=[1,1,1,128] scale=0.125",
    "layer_norm x=[128,768] y=[128,768] axis=1 epsilon=1e-5 scale=[768] bias=[768]",
    "layer_norm x=[128,768] x_layout=columns16 y=[128,768] y_layout=columns16 axis=1 epsilon=1e-5 scale=[768] bias=[768]",
    "reduce kind=mean x=[128,768] y=[128,1] axes=[1]",
    "reduce kind=sum x=[1000,512] y=[512] axes=[0]",
    "reduce kind=mean x=[1,512,7,7] x_layout=channels16h0 y=[1,512,1,1] axes=[2,3]",
    "reduce kind=mean x=[1,512,7,7] y=[1,512,1,1] axes=[2,3]",
    "transpose x=[1024,1024] perm=[1,0]",
    "transpose x=[1,128,12,64] perm=[0,2,1,3]",
    "transpose x=[1,128,12,64] perm=[0,2,3,1]",
    "reorder x=[1,64,56,56] y=[1,64,56,56] y_layout=channels16h1",
    "reorder x=[1,64,56,56] x_layout=channels16h0 y=[1,64,56,56]",
    "reorder x=[128,768] y=[128,768] y_layout=columns16",
    "reorder x=[128,768] x_layout=columns16 y=[128,768]",
    "pool kind=max kernel_shape=[3,3] strides=[2,2] dilations=[1,1] pads=[1,1,1,1] x=[1,64,112,112] x_layout=channels16h1 y=[1,64,56,56] y_layout=channels16h1",
    "pool kind=max kernel_shape=[2,2] strides=[2,2] dilations=[1,1] pads=[0,0,0,0] x=[1,64,112,112] x_layout=channels16h0 y=[1,64,56,56] y_layout=channels16h1",
    "pool kind=average kernel_shape=[3,3] strides=[1,1] dilations=[1,1] pads=[1,1,1,1] x=[1,192,35,35] x_layout=channels16h0 y=[1,192,35,35] y_layout=channels16h0",
    "pool kind=max kernel_shape=[2,2] strides=[2,2] dilations=[1,1] pads=[0,0,0,0] x=[1,32,26,26] y=[1,32,13,13]",
    "embedding table=[20000,32] indices=[8,80] indices_type=i64 bag=sum",
    "embedding table=[30522,768] indices=[1,128] indices_type=i64",
    "copy kind=join axis=1 x0=[1,64,56,56] x0_layout=channels16h0 x1=[1,32,56,56] x1_layout=channels16h0 y0=[1,96,56,56] y0_layout=channels16h0",
    "copy kind=join axis=1 groups=2 x0=[1,58,28,28] x0_layout=channels16h0 x1=[1,58,28,28] x1_layout=channels16h0 y0=[1,58,28,28] y0_layout=channels16h0 y1=[1,58,28,28] y1_layout=channels16h0",
    "resize mode=linear transform=half_pixel x=[1,64,64,64] x_layout=channels16h0 y=[1,64,128,128] y_layout=channels16h1",
    "lstm t=25 n=1 i=512 h=512 direction=forward w=const bias=1 outputs=[1,1,1]",
    "lstm t=100 n=1 i=256 h=256 direction=bidirectional w=const bias=1 outputs=[1,1,1]",
    "gru t=98 n=1 i=128 h=128 direction=forward w=const bias=1 linear_before_reset=1 outputs=[1,1]",
    "gru t=98 n=16 i=40 h=128 direction=forward w=const bias=1 linear_before_reset=1 outputs=[1,1]",
    "gru t=98 n=1 i=40 h=128 direction=forward w=const bias=1 linear_before_reset=1 outputs=[1,1]",
];

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let all = arguments.iter().position(|argument| argument == "--all").map(|at| arguments.remove(at)).is_some();
    let filter = arguments.first().map_or("", String::as_str);
    let limits = Limits::of_core(0, 1);
    let pool = ThreadPool::new(1, || {}).expect("a pool of one thread");
    for text in CASES.iter().filter(|text| text.contains(filter)) {
        let task = Task::parse(text).expect("a task");
        println!("{text}");
        pool.enter(|| time_task(&task, &limits, all));
    }
}

fn time_task(task: &Task, limits: &Limits, all: bool) {
    let operator = kernels::operator(task.operator()).expect("a known operator");
    let bytes = (operator.bytes)(task) as f64;
    for variant in operator.variants {
        for config in configs(variant, task, limits, all) {
            let ns = time(operator, task, &config, limits);
            let elements = (operator.signature)(task).map_or(1, |s| s.outputs[0].shape.iter().product::<usize>());
            println!("  {:>9.2} µs {:>7.1} GB/s {:>7.3} ns/element  {config}", ns / 1e3, bytes / ns, ns / elements as f64);
        }
    }
}

/// The default of a variant, or all legal configs.
fn configs(variant: &Variant, task: &Task, limits: &Limits, all: bool) -> Vec<Config> {
    let total: usize = variant.knobs.iter().map(|knob| knob.values.len()).product();
    let nth = |mut index: usize| {
        let values = variant.knobs.iter().map(|knob| {
            let value = knob.values.nth(index % knob.values.len());
            index /= knob.values.len();
            value
        });
        variant.config(values.collect())
    };
    let every = if all { (0..total).map(nth).collect() } else { vec![variant.default_config(task, limits)] };
    every.into_iter().filter(|config| variant.check(task, config, limits).is_ok()).collect()
}

/// Nanoseconds of one run: the median of many.
fn time(operator: &Operator, task: &Task, config: &Config, limits: &Limits) -> f64 {
    let signature = (operator.signature)(task).expect("a task that makes sense");
    let tensors: Vec<Tensor> = signature.inputs.iter().map(|spec| tensor(spec.dtype, &spec.shape)).collect();
    let constants: Vec<Option<&Tensor>> =
        signature.inputs.iter().zip(&tensors).map(|(spec, tensor)| spec.constant.then_some(tensor)).collect();
    let request = Request { task, config, limits, constants: &constants };
    let kernel = operator.build(&request).expect("a legal config");
    let buffer = |bytes: usize| Packed::zeroed(bytes.div_ceil(4));
    let inputs: Vec<Packed> = signature
        .inputs
        .iter()
        .zip(&tensors)
        .map(|(spec, tensor)| {
            let mut packed = buffer(spec.bytes());
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut packed);
            let count = tensor.bytes().len().min(bytes.len());
            bytes[..count].copy_from_slice(&tensor.bytes()[..count]);
            packed
        })
        .collect();
    let mut outputs: Vec<Packed> = signature.outputs.iter().map(|spec| buffer(spec.bytes())).collect();
    let mut scratch = buffer(kernel.scratch_bytes());
    let inputs: Vec<Operand> = inputs
        .iter()
        .zip(&signature.inputs)
        .map(
            |(packed, spec)| if spec.shape == [0] { Operand::ABSENT } else { Operand::new(packed.as_ptr().cast(), spec.bytes()) },
        )
        .collect();
    let outputs: Vec<OperandMut> = outputs
        .iter_mut()
        .zip(&signature.outputs)
        .map(|(packed, spec)| OperandMut::new(packed.as_mut_ptr().cast(), spec.bytes()))
        .collect();
    let scratch = OperandMut::of(&mut scratch[..]);
    // SAFETY: all buffers live until the end of this function, are aligned to 64 bytes and distinct.
    let mut run = || kernel.run(&mut unsafe { Operands::new(&inputs, &outputs, scratch) });
    median(&mut run)
}

fn tensor(dtype: DType, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    match dtype {
        DType::I64 => Tensor::new(shape.to_vec(), (0..count as i64).map(|i| i * 7919 % 19_997).collect()),
        _ => Tensor::new(shape.to_vec(), (0..count).map(|i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0).collect()),
    }
}

fn median(run: &mut dyn FnMut()) -> f64 {
    run();
    let start = Instant::now();
    run();
    let once = start.elapsed().max(Duration::from_nanos(50));
    let batch = (Duration::from_micros(200).as_nanos() / once.as_nanos()).max(1) as u32;
    let mut samples: Vec<f64> = (0..25)
        .map(|_| {
            let start = Instant::now();
            (0..batch).for_each(|_| run());
            start.elapsed().as_nanos() as f64 / f64::from(batch)
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}
