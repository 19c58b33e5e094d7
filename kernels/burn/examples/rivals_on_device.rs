//! Whether any operator is slower than Burn's on a device: our kernels beside Burn's operations on the same device of wgpu, on shapes of
//! the shared models, in one run. Products are cubek's there, by the routine that Burn chooses without autotuning.
//!
//! ```text
//! cargo run --release -p burn-ops --example rivals_on_device             every task; ends with 1 if one is slower
//! cargo run --release -p burn-ops --example rivals_on_device -- WORDS    only tasks that contain one of the words
//! ```
//! Ours runs with the default config and with the best of a few others. Ratios are paired: rounds of ours, Burn's, Burn's, ours, each
//! with the wait for its end; the interval is that of all of five to eleven rounds but one at each end. Ours is slower when it lies
//! above 1 as a whole. Everything lies in rows. Both sides' results are compared first.

mod tasks;

use burn_ops::{Engine, Rival};
use burn_wgpu::Wgpu;
use cube_kernels::interop::Opened;
use cube_kernels::{Buffer, CubeKernel, CubeOperator, Gpu};
use kernels::{Limits, Request, Task, Tensor};
use schema::Config;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tasks::{Paired, TASKS, compare, legal, operands, paired, shuffle, time};

/// How long configs of one task are tried, compiling them included.
const SEARCH: Duration = Duration::from_secs(6);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let adapters = cube_kernels::wgpu_adapters();
    let adapter = match adapters.as_deref() {
        Ok([adapter, ..]) => adapter,
        none => {
            eprintln!("there is no device of wgpu: {none:?}");
            return ExitCode::FAILURE;
        }
    };
    let gpu = Gpu::open(adapter).expect("the device opens");
    let Some(Opened::Wgpu(_, device)) = gpu.opened() else { unreachable!("the device is one of wgpu") };
    println!("{}, {}", adapter.name, adapter.version);
    println!("| task | ours, default (ms) | ours, best | Burn | default / Burn | best / Burn | | best config |");
    println!("|---|--:|--:|--:|--:|--:|---|---|");
    let (mut slower, mut seen) = (Vec::new(), BTreeSet::new());
    for &(name, text) in TASKS {
        let text = in_rows(text);
        if !tasks::asked(&words, name, &text) || !seen.insert(text.clone()) {
            continue;
        }
        let task = Task::parse(&text).expect("the table holds tasks");
        match catch_unwind(AssertUnwindSafe(|| beside::<Wgpu>(&gpu, device, &task))) {
            Ok(Ok(line)) => {
                println!("| {name} | {} |", line.text);
                slower.extend(line.slower.then_some(name));
            }
            Ok(Err(why)) => println!("| {name} | {why} | | | | | | |"),
            Err(_) => println!("| {name} | Burn panics | | | | | | |"),
        }
    }
    if slower.is_empty() {
        println!("\nno operator is slower than Burn's");
        ExitCode::SUCCESS
    } else {
        println!("\nslower than Burn's: {}", slower.join("; "));
        ExitCode::FAILURE
    }
}

/// The task with everything in rows.
fn in_rows(text: &str) -> String {
    let laid = |word: &&str| word.starts_with("in=") || word.starts_with("out=") || word.contains("_layout=");
    text.split(' ').filter(|word| !laid(word)).collect::<Vec<_>>().join(" ")
}

/// What came out.
struct Line {
    text: String,
    slower: bool,
}

fn beside<B: Engine>(gpu: &Gpu, device: &B::Device, task: &Task) -> Result<Line, String> {
    let case = Case::new(gpu, task)?;
    let rival = Rival::<B>::on(device, task, &case.tensors).ok_or("Burn has no way")?;
    let default = case.operator.default_config(task, &case.limits).ok_or("ours has no kernel")?;
    let first = case.ready(&default)?;
    compare(&first.result()?, &rival.result())?;
    let best = case.search(&default);
    let winner = case.ready(&best)?;
    let theirs = || {
        std::hint::black_box(rival.run());
    };
    let before = paired(&|| first.run(), &theirs);
    let after = if best == default { None } else { Some(paired(&|| winner.run(), &theirs)) };
    let after = after.as_ref().unwrap_or(&before);
    let slower = after.low > 1.0;
    let ratio = |paired: &Paired| format!("{:.2} ({:.2}–{:.2})", paired.middle, paired.low, paired.high);
    let text = format!(
        "{:.2} | {:.2} | {:.2} | {} | {} | {} | `{}`",
        before.ours / 1e6,
        after.ours / 1e6,
        after.theirs / 1e6,
        ratio(&before),
        ratio(after),
        if slower { "**slower**" } else { "" },
        best.to_string().replace('|', "\\|")
    );
    Ok(Line { text, slower })
}

/// A task with operands on the device.
struct Case<'a> {
    gpu: &'a Gpu,
    task: &'a Task,
    operator: &'static CubeOperator,
    limits: Limits,
    tensors: Vec<Tensor>,
    constant: Vec<bool>,
    buffers: Vec<Option<Buffer>>,
    outputs: Vec<usize>,
}

/// A kernel with its buffers.
struct Ready<'a> {
    kernel: Box<dyn CubeKernel>,
    outputs: Vec<Buffer>,
    scratch: Vec<Buffer>,
    case: &'a Case<'a>,
}

impl<'a> Case<'a> {
    fn new(gpu: &'a Gpu, task: &'a Task) -> Result<Self, String> {
        let operator = cube_kernels::operator(task.operator()).ok_or("ours has no kernel")?;
        let signature = (kernels::operator(task.operator()).expect("the table holds our operators").signature)(task);
        let signature = signature.map_err(|error| error.to_string())?;
        let tensors = operands(&signature.inputs);
        let upload = |tensor: &Tensor| match tensor.shape() {
            [0] => Ok(None),
            _ => gpu.upload(tensor.bytes()).map(Some).map_err(|error| error.to_string()),
        };
        Ok(Case {
            gpu,
            task,
            operator,
            limits: Limits { gpu: Some(*gpu.limits()), ..Limits::of_core(0, 1) },
            constant: signature.inputs.iter().map(|spec| spec.constant).collect(),
            buffers: tensors.iter().map(upload).collect::<Result<_, _>>()?,
            tensors,
            outputs: signature.outputs.iter().map(|spec| spec.bytes()).collect(),
        })
    }

    fn ready(&'a self, config: &Config) -> Result<Ready<'a>, String> {
        let constants: Vec<Option<&Tensor>> =
            self.constant.iter().zip(&self.tensors).map(|(constant, tensor)| constant.then_some(tensor)).collect();
        let request = Request { task: self.task, config, limits: &self.limits, constants: &constants };
        let kernel = self.operator.build(&request, self.gpu).map_err(|error| error.to_string())?;
        let room = |bytes: &usize| self.gpu.room(*bytes).map_err(|error| error.to_string());
        let ready = Ready {
            outputs: self.outputs.iter().map(room).collect::<Result<_, _>>()?,
            scratch: kernel.scratch_bytes().iter().map(room).collect::<Result<_, _>>()?,
            kernel,
            case: self,
        };
        ready.launch();
        self.gpu.sync().map_err(|error| error.to_string())?;
        Ok(ready)
    }

    /// The best of the default, the other variants' defaults and what else there is time for.
    fn search(&self, default: &Config) -> Config {
        let variants = || self.operator.variants.iter();
        let mut configs: Vec<Config> = variants().flat_map(|variant| legal(variant.facts(), self.task, &self.limits)).collect();
        shuffle(&mut configs);
        let defaults = variants().map(|variant| variant.default_config(self.task, &self.limits));
        let first: Vec<Config> =
            std::iter::once(default.clone()).chain(defaults.filter(|config| configs.contains(config))).collect();
        let end = Instant::now() + SEARCH;
        let mut best = (f64::INFINITY, default.clone());
        for config in first.into_iter().chain(configs) {
            if Instant::now() > end {
                break;
            }
            let Ok(ready) = self.ready(&config) else { continue };
            let start = Instant::now();
            ready.run();
            // Only what is near the best is timed in full.
            if (start.elapsed().as_nanos() as f64) < 1.5 * best.0 {
                let nanos = time(&|| ready.run());
                if nanos < best.0 {
                    best = (nanos, config);
                }
            }
        }
        best.1
    }
}

impl Ready<'_> {
    fn launch(&self) {
        let given = |(buffer, constant): (&Option<Buffer>, &bool)| buffer.clone().filter(|_| !constant);
        let inputs: Vec<Option<Buffer>> = self.case.buffers.iter().zip(&self.case.constant).map(given).collect();
        self.kernel.launch(self.case.gpu, &inputs, &self.outputs, &self.scratch);
    }

    fn run(&self) {
        self.launch();
        self.case.gpu.sync().expect("a launch that succeeded succeeds again");
    }

    fn result(&self) -> Result<Vec<f32>, String> {
        let bytes = self.case.gpu.download(&self.outputs[0]).map_err(|error| error.to_string())?;
        Ok(bytemuck::cast_slice(&bytes).to_vec())
    }
}
