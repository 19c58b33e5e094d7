//! Writes the CUDA source of every variant, at its default and at sampled legal configs, on tasks of real models, for
//! `tests/campaigns/sm90.py`.
//!
//!     cargo run --release -p cube-kernels --features sources --example sources -- FOLDER CONFIGS
//!
//! FOLDER gets a `.cu` file for each source and `index.tsv`: file, entry point, units, bytes of shared memory, `default` or `sampled`,
//! config, task.

#[path = "../../tests/agreement/random.rs"]
mod random;

use cube_kernels::sources::{SM_90, take_sources};
use cube_kernels::{Buffer, CubeOperator, CubeVariant, Gpu, OPERATORS};
use kernels::{Isa, Limits, Request, Task, Tensor};
use random::Random;
use schema::{Config, Numerics};
use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// A few of each operator, as ResNet-50, MobileNetV2, BERT, DLRM, a U-Net, a speech model and a GRU have them.
const TASKS: &[&str] = &[
    "gemm b=const epilogue=bias+gelu k=768 m=128 n=3072",
    "gemm b=const epilogue=bias+residual k=2048 m=1 n=1000 trans_b=1",
    "gemm b=dynamic k=64 m=384 n=384 trans_b=1 batch_a=[12] batch_b=[12]",
    "conv2d c=64 epilogue=bias+relu h=56 kh=3 kw=3 n=8 o=64 pads=[1,1,1,1] w=56",
    "conv2d c=256 epilogue=bias+residual+relu h=56 kh=1 kw=1 n=8 o=64 w=56",
    "conv2d c=32 epilogue=bias groups=4 h=28 kh=3 kw=3 n=1 o=32 pads=[1,1,1,1] w=28",
    "depthwise c=144 epilogue=bias+clip(0,6) h=56 kh=3 kw=3 n=8 pads=[1,1,1,1] strides=[2,2] w=56",
    "conv_transpose2d c=128 epilogue=bias h=32 kh=2 kw=2 n=1 o=64 strides=[2,2] w=32",
    "attention q=[8,12,128,64] k=[8,12,128,64] v=[8,12,128,64] scale=0.125 mask=[8,1,1,128]",
    "attention q=[1,8,64,32] k=[1,8,64,32] v=[1,8,64,32] scale=0.125 causal=1",
    "lstm t=50 n=4 i=256 h=256 direction=bidirectional w=const bias=1 outputs=[1,1,1]",
    "gru t=100 n=4 i=40 h=154 direction=forward w=const bias=1 linear_before_reset=1 outputs=[1,1]",
    "embedding table=[100000,64] indices=[16,80] bag=sum indices_type=i64",
    "gather x=[512,768] indices=[128] axis=0 indices_type=i64",
    "resize mode=linear transform=half_pixel x=[1,64,32,32] y=[1,64,64,64]",
    "elementwise expr=mul(a,sigmoid(add(a,b))) a=[8,128,768] b=[768] y=[8,128,768]",
    "pool kind=max kernel_shape=[3,3] strides=[2,2] dilations=[1,1] pads=[1,1,1,1] x=[8,64,112,112] y=[8,64,56,56]",
    "reduce kind=mean x=[8,2048,7,7] y=[8,2048,1,1] axes=[2,3]",
    "reduce kind=sum x=[1000,512] y=[1,1] axes=[0,1]",
    "softmax x=[8,12,128,128] axis=3 scale=0.125 mask=[8,1,1,128]",
    "layer_norm x=[8,128,768] y=[8,128,768] axis=2 epsilon=1e-12 scale=[768] bias=[768]",
    "copy kind=join axis=1 x0=[8,64,28,28] x1=[8,32,28,28] y0=[8,96,28,28]",
    "transpose x=[8,128,12,64] perm=[0,2,1,3]",
    "transpose x=[8,128,12,64] perm=[0,2,3,1]",
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, configs] = &arguments[..] else { return Err("usage: sources FOLDER CONFIGS".into()) };
    let (folder, configs) = (Path::new(folder), configs.parse()?);
    fs::create_dir_all(folder)?;
    let gpu = Gpu::keeping_sources();
    let limits = Limits {
        isa: Isa::Scalar,
        units: 1,
        l1d_bytes: 1 << 15,
        l2_bytes: 1 << 20,
        l3_bytes: 1 << 25,
        gpu: Some(SM_90),
        numerics: Numerics::Relaxed,
    };
    let (mut index, mut files, mut met) = (String::new(), 0, BTreeSet::new());
    for text in TASKS {
        let task = Task::parse(text).ok_or_else(|| format!("'{text}' is no task"))?;
        let operator = cube_kernels::operator(task.operator()).ok_or_else(|| format!("'{text}' has no variants"))?;
        for variant in operator.variants {
            for (kind, config) in sample(variant, &task, &limits, configs) {
                met.insert(variant.id);
                launch(operator, &task, &config, &limits, &gpu).map_err(|why| format!("{config} on '{text}': {why}"))?;
                let mut met_texts = BTreeSet::new();
                for source in take_sources() {
                    let source = source.map_err(|why| format!("{config} on '{text}': {why}"))?;
                    // A kernel may be launched often; its declarations come in another order each time.
                    let mut lines: Vec<String> = source.text.lines().map(str::to_owned).collect();
                    lines.sort();
                    if !met_texts.insert(lines) {
                        continue;
                    }
                    fs::write(folder.join(format!("{files}.cu")), &source.text)?;
                    writeln!(
                        index,
                        "{files}.cu\t{}\t{}\t{}\t{kind}\t{config}\t{text}",
                        source.entry, source.units, source.shared_bytes
                    )?;
                    files += 1;
                }
            }
        }
    }
    let all = OPERATORS.iter().flat_map(|operator| operator.variants).map(|variant| variant.id);
    let missed: Vec<&str> = all.filter(|id| !met.contains(id)).collect();
    if !missed.is_empty() {
        return Err(format!("no task here is legal for {}", missed.join(", ")).into());
    }
    fs::write(folder.join("index.tsv"), index)?;
    println!("{files} sources");
    Ok(())
}

/// The default, where it is legal, and some other legal configs.
fn sample(variant: &CubeVariant, task: &Task, limits: &Limits, count: usize) -> Vec<(&'static str, Config)> {
    let default = variant.default_config(task, limits);
    let mut configs = Vec::new();
    if variant.check(task, &default, limits).is_ok() {
        configs.push(("default", default));
    }
    let mut random = Random::new(&format!("{task} {}", variant.id));
    for _ in 0..100 * count {
        let mut value = |knob: &kernels::Knob| knob.values.nth(random.next() as usize % knob.values.len());
        let config = variant.config(variant.knobs.iter().map(&mut value).collect());
        let new = configs.iter().all(|(_, known)| *known != config);
        if new && variant.check(task, &config, limits).is_ok() {
            configs.push(("sampled", config));
        }
        if configs.len() > count {
            break;
        }
    }
    configs
}

/// Launches a kernel on a device that only keeps its source.
fn launch(operator: &CubeOperator, task: &Task, config: &Config, limits: &Limits, gpu: &Gpu) -> Result<(), Box<dyn Error>> {
    let host = kernels::operator(operator.id).ok_or("the host has no such operator")?;
    let signature = (host.signature)(task)?;
    let mut random = Random::new(&task.to_string());
    let tensors: Vec<Option<Tensor>> =
        signature.inputs.iter().map(|spec| (spec.constant && !spec.shape.contains(&0)).then(|| random.tensor(spec))).collect();
    let constants: Vec<Option<&Tensor>> = tensors.iter().map(Option::as_ref).collect();
    let kernel = operator.build(&Request { task, config, limits, constants: &constants }, gpu)?;
    let room = |bytes: usize| gpu.room(bytes);
    let given = |spec: &&kernels::OperandSpec| !spec.constant && !spec.shape.contains(&0);
    let inputs: Vec<Option<Buffer>> = signature
        .inputs
        .iter()
        .map(|spec| Some(spec).filter(given).map(|spec| room(spec.bytes())).transpose())
        .collect::<Result<_, _>>()?;
    let outputs: Vec<Buffer> = signature.outputs.iter().map(|spec| room(spec.bytes())).collect::<Result<_, _>>()?;
    let scratch: Vec<Buffer> = kernel.scratch_bytes().into_iter().map(room).collect::<Result<_, _>>()?;
    kernel.launch(gpu, &inputs, &outputs, &scratch);
    Ok(gpu.sync()?)
}
