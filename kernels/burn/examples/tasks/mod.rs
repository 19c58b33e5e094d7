//! Shapes of the shared models, and how two ways to compute one are timed beside each other.

use kernels::{Fill, OperandSpec, Task, Tensor};
use schema::DType;
use std::time::{Duration, Instant};

/// Rounds of a paired comparison, and how many there are at least once patience is over.
const ROUNDS: usize = 11;
const ROUNDS_MIN: usize = 5;
const PATIENCE: Duration = Duration::from_secs(4);
/// The shortest slot that is timed.
const SLOT: Duration = Duration::from_micros(600);

/// What it is, and the task.
#[rustfmt::skip]
pub static TASKS: &[(&str, &str)] = &[
    ("gemm square", "gemm b=const k=1024 m=1024 n=1024"),
    ("gemm 512³", "gemm b=const k=512 m=512 n=512"),
    ("gemm transformer", "gemm b=const epilogue=bias k=768 m=128 n=768"),
    ("gemm with gelu", "gemm b=const epilogue=bias+gelu k=768 m=128 n=3072"),
    ("gemm of few rows", "gemm b=const epilogue=bias k=512 m=16 n=512"),
    ("gemm, B at run time", "gemm k=512 m=196 n=512"),
    ("batched gemm, B turned", "gemm alpha=0.125 batch_a=[12] batch_b=[12] k=64 m=128 n=128 trans_b=1"),
    ("batched gemm", "gemm batch_a=[12] batch_b=[12] k=128 m=128 n=64"),
    ("gemv", "gemm b=const epilogue=bias k=1024 m=1 n=1024"),
    ("gemv, B at run time", "gemm k=1024 m=1 n=1024"),
    ("conv 3×3, 56²", "conv2d c=64 epilogue=bias+relu h=56 in=channels16h1 kh=3 kw=3 n=1 o=64 out=channels16h1 pads=[1,1,1,1] w=56"),
    ("conv 3×3, 7²", "conv2d c=512 epilogue=bias+relu h=7 in=channels16h1 kh=3 kw=3 n=1 o=512 out=channels16h1 pads=[1,1,1,1] w=7"),
    ("conv 3×3 in rows", "conv2d c=64 epilogue=bias+relu h=56 kh=3 kw=3 n=1 o=64 pads=[1,1,1,1] w=56"),
    ("conv 1×1", "conv2d c=256 epilogue=bias+relu h=14 in=channels16h0 kh=1 kw=1 n=1 o=1024 out=channels16h0 w=14"),
    ("conv 3×3, stride 2", "conv2d c=128 epilogue=bias+relu h=56 in=channels16h1 kh=3 kw=3 n=1 o=128 out=channels16h1 pads=[1,1,1,1] strides=[2,2] w=56"),
    ("conv 1×1, stride 2", "conv2d c=256 epilogue=bias h=56 in=channels16h0 kh=1 kw=1 n=1 o=512 out=channels16h0 strides=[2,2] w=56"),
    ("first layer", "conv2d c=3 epilogue=bias+relu h=224 kh=7 kw=7 n=1 o=64 out=channels16h1 pads=[3,3,3,3] strides=[2,2] w=224"),
    ("grouped conv", "conv2d c=128 epilogue=bias+relu groups=32 h=28 in=channels16h1 kh=3 kw=3 n=1 o=128 out=channels16h1 pads=[1,1,1,1] w=28"),
    ("dilated conv", "conv2d c=64 dilations=[2,2] epilogue=bias+relu h=32 in=channels16h2 kh=3 kw=3 n=1 o=64 out=channels16h1 pads=[2,2,2,2] w=32"),
    ("depthwise", "depthwise c=144 epilogue=bias+clip(0,6) h=56 in=channels16h1 kh=3 kw=3 n=1 out=channels16h0 pads=[1,1,1,1] w=56"),
    ("depthwise, stride 2", "depthwise c=96 epilogue=bias+clip(0,6) h=112 in=channels16h1 kh=3 kw=3 n=1 out=channels16h0 pads=[1,1,1,1] strides=[2,2] w=112"),
    ("transposed conv", "conv_transpose2d c=64 epilogue=bias+relu h=32 in=channels16h0 kh=2 kw=2 n=1 o=32 out=channels16h1 strides=[2,2] w=32"),
    ("max pool", "pool kind=max kernel_shape=[3,3] strides=[2,2] dilations=[1,1] pads=[1,1,1,1] x=[1,64,112,112] x_layout=channels16h1 y=[1,64,56,56] y_layout=channels16h1"),
    ("max pool in rows", "pool kind=max kernel_shape=[2,2] strides=[2,2] dilations=[1,1] pads=[0,0,0,0] x=[1,32,26,26] y=[1,32,13,13]"),
    ("average pool", "pool kind=average kernel_shape=[3,3] strides=[1,1] dilations=[1,1] pads=[1,1,1,1] x=[1,192,35,35] x_layout=channels16h0 y=[1,192,35,35] y_layout=channels16h0"),
    ("global pool", "reduce kind=mean x=[1,512,7,7] x_layout=channels16h0 y=[1,512,1,1] axes=[2,3]"),
    ("softmax, short rows", "softmax x=[1536,128] axis=1"),
    ("softmax, long rows", "softmax x=[1024,1024] axis=1"),
    ("softmax, middle axis", "softmax x=[4,128,256] axis=1"),
    ("softmax, few columns", "softmax x=[16,400,6] axis=1"),
    ("layer norm", "layer_norm x=[128,768] y=[128,768] axis=1 epsilon=1e-5 scale=[768] bias=[768]"),
    ("softmax, two axes before the last", "softmax x=[1,16,4,400] axis=1"),
    ("elementwise chain", "elementwise expr=relu(add(mul(a,b),add(c,d))) a=[200000] b=[200000] c=[200000] d=[200000] y=[200000]"),
    ("chain beyond L3", "elementwise expr=relu(add(add(mul(a,1.5),0.25),b)) a=[8000000] b=[8000000] y=[8000000]"),
    ("sum of two", "elementwise expr=add(a,b) a=[128,768] b=[128,768] y=[128,768]"),
    ("bias over rows", "elementwise expr=add(a,b) a=[128,768] b=[768] y=[128,768]"),
    ("gelu", "elementwise expr=gelu(a) a=[128,3072] y=[128,3072]"),
    ("silu in planes", "elementwise expr=mul(a,sigmoid(a)) a=[1,96,112,112] a_layout=channels16h0 y=[1,96,112,112] y_layout=channels16h0"),
    ("scale of channels", "elementwise expr=mul(a,b) a=[1,96,56,56] a_layout=channels16h0 b=[1,96,1,1] y=[1,96,56,56] y_layout=channels16h0"),
    ("mean of rows", "reduce kind=mean x=[128,768] y=[128,1] axes=[1]"),
    ("sum of columns", "reduce kind=sum x=[1000,512] y=[512] axes=[0]"),
    ("sum, middle axis", "reduce kind=sum x=[32,80,64] y=[32,64] axes=[1]"),
    ("greatest, last two axes", "reduce kind=max x=[16,64,30,30] y=[16,64] axes=[2,3]"),
    ("sum of all", "reduce kind=sum x=[1000,512] y=[1,1] axes=[0,1]"),
    ("transpose", "transpose x=[1024,1024] perm=[1,0]"),
    ("heads to the front", "transpose x=[1,128,12,64] perm=[0,2,1,3]"),
    ("heads turned", "transpose x=[1,128,12,64] perm=[0,2,3,1]"),
    ("channels last", "transpose x=[1,64,56,56] perm=[0,2,3,1]"),
    ("channels first", "transpose x=[1,56,56,64] perm=[0,3,1,2]"),
    ("windows", "transpose x=[8,7,8,7,96] perm=[0,2,1,3,4]"),
    ("join of channels", "copy kind=join axis=1 x0=[1,64,56,56] x1=[1,32,56,56] y0=[1,96,56,56]"),
    ("join of columns", "copy kind=join axis=1 x0=[512,13] x1=[512,51] y0=[512,64]"),
    ("split of columns", "copy kind=join axis=1 x0=[128,2304] y0=[128,768] y1=[128,768] y2=[128,768]"),
    ("pad", "copy kind=pad x0=[1,64,56,56] pads=[0,0,1,1,0,0,1,1] value=0.0 y0=[1,64,58,58]"),
    ("slice", "copy kind=slice x0=[1,64,56,56] starts=[0,0,4,4] steps=[1,1,1,1] y0=[1,64,48,48]"),
    ("slice with steps", "copy kind=slice x0=[1,96,56,56] starts=[0,0,0,1] steps=[1,1,2,2] y0=[1,96,28,28]"),
    ("resize, linear", "resize mode=linear transform=half_pixel x=[1,64,64,64] x_layout=channels16h0 y=[1,64,128,128] y_layout=channels16h0"),
    ("resize, linear in rows", "resize mode=linear transform=half_pixel x=[1,21,33,33] y=[1,21,257,257]"),
    ("resize, nearest", "resize mode=nearest rounding=floor transform=asymmetric x=[1,128,26,26] x_layout=channels16h0 y=[1,128,52,52] y_layout=channels16h0"),
    ("resize, nearest in rows", "resize mode=nearest rounding=floor transform=asymmetric x=[1,128,26,26] y=[1,128,52,52]"),
    ("gather of rows", "gather x=[20000,64] indices=[2000] axis=0 indices_type=i64"),
    ("gather of columns", "gather x=[128,512] indices=[256] axis=1 indices_type=i64"),
    ("embedding", "embedding table=[30522,768] indices=[1,128] indices_type=i64"),
    ("embedding bags", "embedding table=[20000,32] indices=[8,80] indices_type=i64 bag=sum"),
    ("attention", "attention q=[1,12,128,64] k=[1,12,128,64] v=[1,12,128,64] scale=0.125"),
    ("attention, causal", "attention q=[1,4,256,32] k=[1,4,256,32] v=[1,4,256,32] scale=0.177 causal=1"),
    ("lstm (composed by Burn)", "lstm t=25 n=1 i=512 h=512 direction=forward w=const bias=1 outputs=[1,0,0]"),
    ("lstm, batch 16 (composed)", "lstm t=20 n=16 i=128 h=128 direction=bidirectional w=const bias=1 outputs=[1,0,0]"),
    ("gru (composed by Burn)", "gru t=98 n=1 i=40 h=128 direction=forward w=const bias=1 linear_before_reset=1 outputs=[1,0]"),
];

/// Whether the table's task is asked for by these words; all are where there are none.
pub fn asked(words: &[String], name: &str, text: &str) -> bool {
    words.is_empty() || words.iter().any(|word| text.contains(word.as_str()) || name.contains(word.as_str()))
}

/// Operands of a task in rows, that look random and are the same at each run.
pub fn operands(specs: &[OperandSpec]) -> Vec<Tensor> {
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state >> 40
    };
    let mut tensor = |spec: &OperandSpec| {
        let count: usize = spec.shape.iter().product();
        match (spec.fill, spec.dtype) {
            (Fill::Index(below), DType::I64) => {
                Tensor::new(spec.shape.clone(), (0..count).map(|_| (random() as usize % below) as i64).collect())
            }
            (fill, _) => {
                let scale = if let Fill::Scaled(terms) = fill { 1.0 / (terms as f32).sqrt() } else { 1.0 };
                let one = |x: u64| (x as f32 / (1 << 23) as f32 - 1.0) * scale;
                Tensor::new(spec.shape.clone(), (0..count).map(|_| one(random())).collect())
            }
        }
    };
    specs.iter().map(&mut tensor).collect()
}

/// Whether results are the same but for rounding.
pub fn compare(ours: &[f32], theirs: &[f32]) -> Result<(), String> {
    if ours.len() != theirs.len() {
        return Err(format!("ours has {} elements, Burn's {}", ours.len(), theirs.len()));
    }
    let rms = (theirs.iter().map(|x| x * x).sum::<f32>() / theirs.len() as f32).sqrt();
    match ours.iter().zip(theirs).position(|(a, b)| (a - b).abs().is_nan() || (a - b).abs() > 1e-3 * rms.max(b.abs())) {
        Some(at) => Err(format!("at {at} ours is {} and Burn's {}", ours[at], theirs[at])),
        None => Ok(()),
    }
}

/// All legal configs of a variant.
pub fn legal(facts: kernels::VariantFacts, task: &Task, limits: &kernels::Limits) -> Vec<schema::Config> {
    let count: usize = facts.knobs.iter().map(|knob| knob.values.len()).product();
    let nth = |mut index: usize| {
        let values = facts.knobs.iter().map(|knob| {
            let value = knob.values.nth(index % knob.values.len());
            index /= knob.values.len();
            value
        });
        facts.config(values.collect())
    };
    (0..count).map(nth).filter(|config| facts.check(task, config, limits).is_ok()).collect()
}

/// The same list in an order that looks random and is always the same.
pub fn shuffle<T>(list: &mut [T]) {
    let mut state = 1u64;
    for i in (1..list.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        list.swap(i, (state >> 33) as usize % (i + 1));
    }
}

/// Two ways beside each other.
pub struct Paired {
    /// Medians, in nanoseconds.
    pub ours: f64,
    pub theirs: f64,
    /// Of the ratios of all rounds: the second smallest, the median, the second greatest.
    pub low: f64,
    pub middle: f64,
    pub high: f64,
}

/// Times rounds of ours, theirs, theirs, ours.
pub fn paired(ours: &dyn Fn(), theirs: &dyn Fn()) -> Paired {
    let (a_count, b_count) = (repeats(ours), repeats(theirs));
    let (mut a_all, mut b_all, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let start = Instant::now();
    while ratios.len() < ROUNDS_MIN || (ratios.len() < ROUNDS && start.elapsed() < PATIENCE) {
        let a = slot(ours, a_count);
        let b = slot(theirs, b_count) + slot(theirs, b_count);
        let a = a + slot(ours, a_count);
        a_all.push(a / 2.0);
        b_all.push(b / 2.0);
        ratios.push(a / b);
    }
    for all in [&mut a_all, &mut b_all, &mut ratios] {
        all.sort_by(f64::total_cmp);
    }
    let rounds = ratios.len();
    Paired {
        ours: a_all[rounds / 2],
        theirs: b_all[rounds / 2],
        low: ratios[1],
        middle: ratios[rounds / 2],
        high: ratios[rounds - 2],
    }
}

/// How many runs fill a slot.
pub fn repeats(run: &dyn Fn()) -> usize {
    run();
    let start = Instant::now();
    run();
    (SLOT.as_nanos() / start.elapsed().as_nanos().max(50)).max(1) as usize
}

/// Nanoseconds of one run, over a slot.
pub fn slot(run: &dyn Fn(), count: usize) -> f64 {
    let start = Instant::now();
    (0..count).for_each(|_| run());
    start.elapsed().as_nanos() as f64 / count as f64
}

/// Nanoseconds of one run: the median of a few slots.
pub fn time(run: &dyn Fn()) -> f64 {
    let count = repeats(run);
    let mut slots: Vec<f64> = (0..5).map(|_| slot(run, count)).collect();
    slots.sort_by(f64::total_cmp);
    slots[slots.len() / 2]
}
