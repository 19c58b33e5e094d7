//! Whether any operator is slower than Burn's: our kernels beside burn-flex on shapes of the shared models, in one run.
//!
//! ```text
//! cargo run --release -p burn-ops --example rivals             every task, on one thread and on two; ends with 1 if one is slower
//! cargo run --release -p burn-ops --example rivals -- WORDS    only tasks that contain one of the words
//! ```
//! Ours runs with the default config and with the best that a short search finds. Ratios are paired: rounds of ours, Burn's,
//! Burn's, ours; the interval is that of all of five to eleven rounds but one at each end. Ours is slower when it lies above 1 as a whole. Each
//! side has its operands in the layout it works in. Both sides' results are compared first.

mod tasks;

use burn_ops::Rival;
use kernels::layout::{from_layout, to_layout};
use kernels::{Isa, Limits, Operand, OperandMut, OperandSpec, Operands, Operator, Packed, Request, Task, Tensor, ThreadPool};
use schema::Config;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tasks::{Paired, TASKS, compare, legal, operands, paired, repeats, shuffle, slot, time};

/// How long configs of one task are searched.
const SEARCH: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    println!("{}", Isa::detect());
    println!("| task | threads | ours, default (µs) | ours, best | burn-flex | best / burn-flex | | best config |");
    println!("|---|--:|--:|--:|--:|--:|--:|---|");
    let mut slower = Vec::new();
    for &(name, text) in TASKS {
        if !tasks::asked(&words, name, text) {
            continue;
        }
        let task = Task::parse(text).expect("the table holds tasks");
        for units in [1, 2] {
            if !beside(name, &task, units) {
                slower.push(format!("{name} on {units}"));
            }
        }
    }
    if slower.is_empty() {
        println!("\nno operator is slower than burn-flex");
        ExitCode::SUCCESS
    } else {
        println!("\nslower than burn-flex, or another result: {}", slower.join("; "));
        ExitCode::FAILURE
    }
}

/// Prints one line; whether ours is no slower.
fn beside(name: &str, task: &Task, units: u32) -> bool {
    let limits = Limits::of_core(0, units);
    let pool = ThreadPool::new(units as usize, || {}).expect("threads can be made");
    let case = Case::new(task, limits);
    let rival = Rival::of(task, &case.tensors).unwrap_or_else(|| panic!("Burn has a way to '{task}'"));
    pool.enter(|| {
        let default = case.operator.default_config(task, &limits);
        let first = case.ready(&default);
        first.run();
        if let Err(why) = case.compare(&first, &rival.result()) {
            println!("| {name} | {units} | {why} | | | | | |");
            return false;
        }
        let best = case.search();
        let winner = case.ready(&best);
        let ours = || winner.run();
        let theirs = || {
            std::hint::black_box(rival.run());
        };
        let Paired { ours: best_ns, theirs: burn_ns, low, middle, high } = paired(&ours, &theirs);
        let default_ns = time(&|| first.run());
        let mark = if low > 1.0 { "**slower**" } else { "" };
        let [a, b, c] = [default_ns, best_ns, burn_ns].map(|ns| ns / 1e3);
        println!(
            "| {name} | {units} | {a:.1} | {b:.1} | {c:.1} | {middle:.2} ({low:.2}–{high:.2}) | {mark} | `{}` |",
            best.to_string().replace('|', "\\|")
        );
        low <= 1.0
    })
}

/// A task with operands.
struct Case<'a> {
    operator: &'static Operator,
    task: &'a Task,
    limits: Limits,
    inputs: Vec<OperandSpec>,
    outputs: Vec<OperandSpec>,
    /// In rows.
    tensors: Vec<Tensor>,
    /// In their layouts.
    laid: Vec<Packed>,
}

/// A kernel with its buffers.
struct Ready<'a> {
    kernel: Box<dyn kernels::Kernel>,
    inputs: Vec<Operand>,
    outputs: Vec<Packed>,
    scratch: Packed,
    case: &'a Case<'a>,
}

impl<'a> Case<'a> {
    fn new(task: &'a Task, limits: Limits) -> Self {
        let operator = kernels::operator(task.operator()).expect("the table holds our operators");
        let signature = (operator.signature)(task).expect("the table's tasks make sense");
        let tensors = operands(&signature.inputs);
        let mut laid = Vec::new();
        for (spec, tensor) in signature.inputs.iter().zip(&tensors) {
            let mut buffer = Packed::zeroed(spec.bytes().div_ceil(4));
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut buffer);
            match tensor.values::<f32>() {
                Some(values) => {
                    let values = to_layout(&values, &spec.shape, spec.layout);
                    bytes[..4 * values.len()].copy_from_slice(bytemuck::cast_slice(&values));
                }
                None => bytes[..tensor.bytes().len()].copy_from_slice(tensor.bytes()),
            }
            laid.push(buffer);
        }
        Case { operator, task, limits, inputs: signature.inputs, outputs: signature.outputs, tensors, laid }
    }

    fn ready(&'a self, config: &Config) -> Ready<'a> {
        let constants: Vec<Option<&Tensor>> =
            self.inputs.iter().zip(&self.tensors).map(|(spec, tensor)| spec.constant.then_some(tensor)).collect();
        let request = Request { task: self.task, config, limits: &self.limits, constants: &constants };
        let kernel = self.operator.build(&request).expect("only legal configs are asked for");
        let operand = |(spec, laid): (&OperandSpec, &Packed)| {
            if spec.shape == [0] { Operand::ABSENT } else { Operand::new(laid.as_ptr().cast(), spec.bytes()) }
        };
        Ready {
            inputs: self.inputs.iter().zip(&self.laid).map(operand).collect(),
            outputs: self.outputs.iter().map(|spec| Packed::zeroed(spec.bytes().div_ceil(4).max(1))).collect(),
            scratch: Packed::zeroed(kernel.scratch_bytes().div_ceil(4)),
            kernel,
            case: self,
        }
    }

    /// Whether the first output is Burn's result.
    fn compare(&self, ready: &Ready<'_>, theirs: &[f32]) -> Result<(), String> {
        let spec = &self.outputs[0];
        compare(&from_layout(&ready.outputs[0][..spec.bytes() / 4], &spec.shape, spec.layout), theirs)
    }

    /// The best config that a short search finds: the variants' defaults first, then all in a fixed shuffled order, the best three
    /// and the operator's default again.
    fn search(&self) -> Config {
        let mut configs: Vec<Config> =
            self.operator.variants.iter().flat_map(|variant| legal(variant.facts(), self.task, &self.limits)).collect();
        shuffle(&mut configs);
        // Where one variant has hundreds of configs and another six, time would run out before the latter's turn.
        let defaults = self.operator.variants.iter().map(|variant| variant.default_config(self.task, &self.limits));
        let first: Vec<Config> = defaults.filter(|default| configs.contains(default)).collect();
        configs.retain(|config| !first.contains(config));
        let end = Instant::now() + SEARCH;
        let mut timed = Vec::new();
        for config in first.into_iter().chain(configs) {
            if Instant::now() > end {
                break;
            }
            let ready = self.ready(&config);
            let run = || ready.run();
            run();
            let count = repeats(&run).div_ceil(4);
            timed.push((slot(&run, count).min(slot(&run, count)), config));
        }
        timed.sort_by(|a, b| a.0.total_cmp(&b.0));
        let default = self.operator.default_config(self.task, &self.limits);
        let better = timed.into_iter().map(|(_, config)| config).filter(|config| *config != default).take(3);
        let again = better.chain([default.clone()]).map(|config| {
            let ready = self.ready(&config);
            (time(&|| ready.run()), config)
        });
        again.min_by(|a, b| a.0.total_cmp(&b.0)).expect("the default is there").1
    }
}

impl Ready<'_> {
    fn run(&self) {
        let outputs: Vec<OperandMut> = self
            .outputs
            .iter()
            .zip(&self.case.outputs)
            .map(|(output, spec)| OperandMut::new(output.as_ptr().cast_mut().cast(), spec.bytes()))
            .collect();
        let scratch = OperandMut::new(self.scratch.as_ptr().cast_mut().cast(), self.scratch.bytes());
        // SAFETY: the buffers live as long as `self`, are aligned to 64 bytes and distinct, and one thread at a time runs it.
        self.kernel.run(&mut unsafe { Operands::new(&self.inputs, &outputs, scratch) });
    }
}
