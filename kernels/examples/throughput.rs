//! How fast the dense kernels are here, against the peak of this machine's multiply-adds measured in the same run.
//!
//! ```text
//! cargo run --release -p kernels --example throughput             every shape, every variant's default, 1 and 2 threads
//! cargo run --release -p kernels --example throughput -- WORDS    only tasks that contain one of the words
//! cargo run --release -p kernels --example throughput -- --sweep WORDS    all legal configs, the best five
//! cargo run --release -p kernels --example throughput -- --sweep --config=tile=6x16 WORDS    such as hold that text only
//! ```
//! Least times of repeated slots, in a sweep their median over rounds: for choosing defaults, not for publishing.

use kernels::layout::to_layout;
use kernels::simd::{self, Routine, Simd};
use kernels::{Isa, Layout, Limits, Operand, OperandMut, Operands, Packed, Request, Task, Tensor, ThreadPool, Variant};
use schema::Config;
use std::time::{Duration, Instant};

/// The shapes of the design's tables, and layers of ResNet, MobileNet and BERT.
const TASKS: &[&str] = &[
    "gemm k=512 m=196 n=512",
    "gemm k=1024 m=1024 n=1024",
    "gemm k=768 m=128 n=3072",
    "gemm k=64 m=128 n=128 trans_b=1",
    "gemm b=const k=1024 m=1024 n=1024",
    "gemm b=const c=columns16 a=columns16 k=1024 m=1024 n=1024",
    "gemm b=const k=512 m=196 n=512",
    "gemm b=const epilogue=bias k=768 m=128 n=768",
    "gemm b=const epilogue=bias+gelu k=768 m=128 n=3072",
    "gemm b=const epilogue=bias k=3072 m=128 n=768",
    "gemm b=const epilogue=bias k=512 m=16 n=512",
    "gemm b=const epilogue=bias k=512 m=1 n=512",
    "gemm b=const epilogue=bias k=1024 m=1 n=1024",
    "gemm b=const epilogue=bias k=4096 m=1 n=4096",
    "gemm b=const epilogue=bias+relu k=256 m=4 n=256",
    "gemm alpha=0.125 batch_a=[12] batch_b=[12] k=64 m=128 n=128 trans_b=1",
    "gemm batch_a=[12] batch_b=[12] k=128 m=128 n=64",
    "gemm alpha=0.125 batch_a=[6] batch_b=[6] k=64 m=197 n=197 trans_b=1",
    "conv2d c=64 epilogue=bias+relu h=56 in=channels16h1 kh=3 kw=3 n=1 o=64 out=channels16h1 pads=[1,1,1,1] w=56",
    "conv2d c=128 epilogue=bias+relu h=28 in=channels16h1 kh=3 kw=3 n=1 o=128 out=channels16h1 pads=[1,1,1,1] w=28",
    "conv2d c=256 epilogue=bias+relu h=14 in=channels16h1 kh=3 kw=3 n=1 o=256 out=channels16h1 pads=[1,1,1,1] w=14",
    "conv2d c=512 epilogue=bias+relu h=7 in=channels16h1 kh=3 kw=3 n=1 o=512 out=channels16h1 pads=[1,1,1,1] w=7",
    "conv2d c=64 epilogue=bias+relu h=56 in=channels16h0 kh=1 kw=1 n=1 o=256 out=channels16h0 w=56",
    "conv2d c=256 epilogue=bias+relu h=56 in=channels16h0 kh=1 kw=1 n=1 o=64 out=channels16h1 w=56",
    "conv2d c=512 epilogue=bias+relu h=28 in=channels16h0 kh=1 kw=1 n=1 o=128 out=channels16h1 w=28",
    "conv2d c=256 epilogue=bias+residual+relu h=14 in=channels16h0 kh=1 kw=1 n=1 o=1024 out=channels16h0 w=14",
    "conv2d c=512 epilogue=bias+residual+relu h=7 in=channels16h0 kh=1 kw=1 n=1 o=2048 out=channels16h0 w=7",
    "conv2d c=256 epilogue=bias h=56 in=channels16h0 kh=1 kw=1 n=1 o=512 out=channels16h0 strides=[2,2] w=56",
    "conv2d c=128 epilogue=bias+relu h=56 in=channels16h1 kh=3 kw=3 n=1 o=128 out=channels16h1 pads=[1,1,1,1] strides=[2,2] w=56",
    "conv2d c=3 epilogue=bias+relu h=224 kh=7 kw=7 n=1 o=64 out=channels16h1 pads=[3,3,3,3] strides=[2,2] w=224",
    "conv2d c=3 epilogue=bias+relu h=224 kh=3 kw=3 n=1 o=32 out=channels16h1 pads=[1,1,1,1] strides=[2,2] w=224",
    "conv2d c=24 epilogue=bias+clip(0,6) h=56 in=channels16h0 kh=1 kw=1 n=1 o=144 out=channels16h1 w=56",
    "conv2d c=96 epilogue=bias+hard_swish h=14 in=channels16h0 kh=1 kw=1 n=1 o=576 out=channels16h2 w=14",
    "conv2d c=576 epilogue=bias h=7 in=channels16h0 kh=1 kw=1 n=1 o=96 out=channels16h0 w=7",
    "depthwise c=32 epilogue=bias+clip(0,6) h=112 in=channels16h1 kh=3 kw=3 n=1 out=channels16h0 pads=[1,1,1,1] w=112",
    "depthwise c=144 epilogue=bias+clip(0,6) h=56 in=channels16h1 kh=3 kw=3 n=1 out=channels16h0 pads=[1,1,1,1] w=56",
    "depthwise c=576 epilogue=bias+clip(0,6) h=14 in=channels16h1 kh=3 kw=3 n=1 out=channels16h0 pads=[1,1,1,1] w=14",
    "depthwise c=960 epilogue=bias+clip(0,6) h=7 in=channels16h1 kh=3 kw=3 n=1 out=channels16h0 pads=[1,1,1,1] w=7",
    "depthwise c=96 epilogue=bias+clip(0,6) h=112 in=channels16h1 kh=3 kw=3 n=1 out=channels16h0 pads=[1,1,1,1] strides=[2,2] w=112",
    "depthwise c=240 epilogue=bias+hard_swish h=14 in=channels16h2 kh=5 kw=5 n=1 out=channels16h0 pads=[2,2,2,2] w=14",
    "lstm bias=1 direction=forward h=256 i=256 n=1 outputs=[1,0,0] t=25 w=const",
    "lstm bias=1 direction=forward h=256 i=256 n=16 outputs=[1,0,0] t=25 w=const",
    "conv_transpose2d c=64 epilogue=bias+relu h=32 in=channels16h0 kh=2 kw=2 n=1 o=32 out=channels16h1 strides=[2,2] w=32",
];

/// How often the best configs of a sweep meet.
const ROUNDS: usize = 7;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let sweep = words.iter().any(|word| word == "--sweep");
    let held: Vec<&str> = words.iter().filter_map(|word| word.strip_prefix("--config=")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).filter(|word| !word.starts_with("--")).collect();
    let isa = Isa::detect();
    println!("{isa}: {:.1} GFLOP/s on one core", peak(isa));
    for text in TASKS.iter().filter(|text| words.is_empty() || words.iter().any(|word| text.contains(word))) {
        println!("{text}");
        let task = Task::parse(text).expect("the table holds tasks");
        for units in [1, 2] {
            let limits = Limits::of_core(0, units);
            let bench = Bench::new(&task, limits);
            if sweep { bench.sweep(&held) } else { bench.defaults() }
        }
    }
}

/// The greatest rate of multiply-adds on registers.
fn peak(isa: Isa) -> f64 {
    struct Chains;
    impl Routine for Chains {
        type Output = f64;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> f64 {
            let (x, y) = (s.splat(0.999), s.splat(0.001));
            let mut acc = [s.splat(1.0); 12];
            let rounds = 20_000;
            let start = Instant::now();
            for _ in 0..rounds {
                let (x, y) = (std::hint::black_box(x), std::hint::black_box(y));
                for _ in 0..16 {
                    for acc in &mut acc {
                        *acc = s.mul_add(x, *acc, y);
                    }
                }
            }
            let seconds = start.elapsed().as_secs_f64();
            std::hint::black_box(acc.iter().map(|&acc| s.sum(acc)).sum::<f32>());
            (rounds * 16 * 12 * S::LANES * 2) as f64 / seconds * 1e-9
        }
    }
    (0..20).map(|_| simd::run(isa, Chains)).fold(0.0, f64::max)
}

/// A task with operands.
struct Bench<'a> {
    task: &'a Task,
    limits: Limits,
    tensors: Vec<Option<Tensor>>,
    constant: Vec<bool>,
    inputs: Vec<Packed>,
    outputs: Vec<usize>,
    pool: ThreadPool,
}

impl<'a> Bench<'a> {
    fn new(task: &'a Task, limits: Limits) -> Self {
        let operator = kernels::operator(task.operator()).expect("the table holds our operators");
        let signature = (operator.signature)(task).expect("the table's tasks make sense");
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let mut bench = Bench {
            task,
            limits,
            tensors: Vec::new(),
            constant: Vec::new(),
            inputs: Vec::new(),
            outputs: signature.outputs.iter().map(|spec| spec.bytes() / 4).collect(),
            pool: ThreadPool::new(limits.units as usize, || {}).expect("threads can be made"),
        };
        for spec in &signature.inputs {
            let values: Vec<f32> = (0..spec.shape.iter().product()).map(|_| random()).collect();
            let laid = if spec.layout == Layout::Rows { values.clone() } else { to_layout(&values, &spec.shape, spec.layout) };
            bench.inputs.push(Packed::copy_of(&laid));
            bench.tensors.push((!values.is_empty()).then(|| Tensor::new(spec.shape.clone(), values)));
            bench.constant.push(spec.constant);
        }
        bench
    }

    /// The least seconds of one run, over slots that fill `time`.
    fn seconds(&self, config: &Config, time: Duration) -> f64 {
        let operator = kernels::operator(self.task.operator()).expect("seen before");
        let constants: Vec<_> =
            self.tensors.iter().zip(&self.constant).map(|(tensor, &constant)| tensor.as_ref().filter(|_| constant)).collect();
        let request = Request { task: self.task, config, limits: &self.limits, constants: &constants };
        let kernel = operator.build(&request).expect("only legal configs are asked for");
        let inputs: Vec<Operand> = self.inputs.iter().map(|input| Operand::of(input)).collect();
        let mut outputs: Vec<Packed> = self.outputs.iter().map(|&len| Packed::zeroed(len)).collect();
        let outputs: Vec<OperandMut> = outputs.iter_mut().map(|output| OperandMut::of(&mut output[..])).collect();
        let mut scratch = Packed::zeroed(kernel.scratch_bytes().div_ceil(4));
        let scratch = OperandMut::of(&mut scratch[..]);
        self.pool.enter(|| {
            // SAFETY: the buffers live until the end of this function and are disjoint.
            let mut operands = unsafe { Operands::new(&inputs, &outputs, scratch) };
            kernel.run(&mut operands);
            let start = Instant::now();
            kernel.run(&mut operands);
            let once = start.elapsed().as_secs_f64().max(1e-8);
            let repeats = (2e-3 / once).clamp(1.0, 1e5) as usize;
            let (mut least, end) = (f64::INFINITY, Instant::now() + time);
            while Instant::now() < end {
                let start = Instant::now();
                for _ in 0..repeats {
                    kernel.run(&mut operands);
                }
                least = least.min(start.elapsed().as_secs_f64() / repeats as f64);
            }
            least
        })
    }

    fn print(&self, config: &Config, seconds: f64, peak: f64) {
        let operator = kernels::operator(self.task.operator()).expect("seen before");
        let rate = (operator.flops)(self.task) as f64 / seconds * 1e-9;
        let bytes = (operator.bytes)(self.task) as f64 / seconds * 1e-9;
        let of_peak = rate / (peak * f64::from(self.limits.units));
        println!(
            "  {}t {:>9.1} us {rate:>7.1} GFLOP/s {of_peak:>5.2} of peak {bytes:>6.1} GB/s  {config}",
            self.limits.units,
            seconds * 1e6
        );
    }

    fn defaults(&self) {
        for variant in kernels::operator(self.task.operator()).expect("seen before").variants {
            let config = variant.default_config(self.task, &self.limits);
            if variant.check(self.task, &config, &self.limits).is_ok() {
                let peak = peak(self.limits.isa);
                self.print(&config, self.seconds(&config, Duration::from_millis(60)), peak);
            }
        }
    }

    fn sweep(&self, held: &[&str]) {
        let variants = kernels::operator(self.task.operator()).expect("seen before").variants;
        for variant in variants {
            let mut timed: Vec<(f64, Config)> = legal(variant, self.task, &self.limits)
                .filter(|config| held.iter().all(|text| config.to_string().contains(text)))
                .map(|config| (self.seconds(&config, Duration::from_millis(6)), config))
                .collect();
            timed.sort_by(|a, b| a.0.total_cmp(&b.0));
            timed.truncate(10);
            // The best meet again in rounds, so that a bad moment of the machine meets all of them.
            let rounds: Vec<Vec<f64>> = (0..ROUNDS)
                .map(|_| timed.iter().map(|(_, config)| self.seconds(config, Duration::from_millis(15))).collect())
                .collect();
            for (i, (seconds, _)) in timed.iter_mut().enumerate() {
                let mut of_one: Vec<f64> = rounds.iter().map(|round| round[i]).collect();
                of_one.sort_by(f64::total_cmp);
                *seconds = of_one[ROUNDS / 2];
            }
            timed.sort_by(|a, b| a.0.total_cmp(&b.0));
            let peak = peak(self.limits.isa);
            for (seconds, config) in timed.iter().take(5) {
                self.print(config, *seconds, peak);
            }
        }
    }
}

/// Every legal config of a variant.
fn legal<'a>(variant: &'static Variant, task: &'a Task, limits: &'a Limits) -> impl Iterator<Item = Config> + 'a {
    let count: usize = variant.knobs.iter().map(|knob| knob.values.len()).product();
    (0..count)
        .map(|mut index| {
            let values = variant.knobs.iter().map(|knob| {
                let value = knob.values.nth(index % knob.values.len());
                index /= knob.values.len();
                value
            });
            variant.config(values.collect())
        })
        .filter(|config| variant.check(task, config, limits).is_ok())
}
