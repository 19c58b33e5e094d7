//! Windows folded into their greatest or their mean.
//!
//! **Input** `x` `[n, c, spatial…]` f32 with one to three spatial axes, **output** `y` of the shape the graph gives it (so `ceil_mode`
//! and `auto_pad` are already in it). **Attributes**, as in ONNX: `kind` `max` or `average`; `kernel_shape`; `strides` and `dilations`
//! (default all 1); `pads` (befores then afters, default all 0; pads after may also be less than the windows need, what lies behind
//! is not part of a window); `count_include_pad` (average only, default 0).
//!
//! **Layouts**: rows to rows; with two spatial axes also `Channels` to `Channels` with any halos. The halo is never read: a window that
//! reaches outside is cut. **Task**: `x`, `y`, `kind` and the attributes, all given.

mod host_rows;
mod host_separable;
mod host_windows;
mod reference;

use crate::plane::Plane;
use crate::{BuildError, Facts, Layout, OperandSpec, Operator, Signature, Task, Variant};
use schema::DType;

/// Windows folded.
pub static POOL: Operator = Operator {
    id: "pool",
    variants: VARIANTS,
    task,
    signature,
    flops: |task| {
        let window: usize = task.ints("kernel_shape").iter().product();
        (task.ints("y").iter().product::<usize>() * window) as u64
    },
    bytes: |task| signature(task).map_or(0, |s| (s.inputs[0].bytes() + s.outputs[0].bytes()) as u64),
    reference: reference::compute,
    row_wise: |_, _| true,
};

static VARIANTS: &[&Variant] = &[&host_windows::WINDOWS, &host_separable::SEPARABLE];

fn task(facts: &Facts<'_>) -> Result<Task, BuildError> {
    let bare = Task::new("pool");
    let attributes = facts.attributes;
    let kind = attributes.string("kind").unwrap_or_default();
    if !matches!(kind, "max" | "average") {
        return Err(bare.refused(format!("attribute 'kind' is '{kind}'")));
    }
    let kernel = attributes.ints("kernel_shape").ok_or_else(|| bare.refused("attribute 'kernel_shape' is missing"))?;
    let (ones, zeros) = (vec![1; kernel.len()], vec![0; 2 * kernel.len()]);
    let mut task = bare
        .with_word("kind", kind)
        .with_operand("x", facts.input("pool", 0)?)
        .with_operand("y", facts.output("pool", 0)?)
        .with_signed("kernel_shape", kernel)
        .with_signed("strides", attributes.ints("strides").unwrap_or(&ones))
        .with_signed("dilations", attributes.ints("dilations").unwrap_or(&ones))
        .with_signed("pads", attributes.ints("pads").unwrap_or(&zeros));
    if kind == "average" && attributes.int("count_include_pad").unwrap_or(0) != 0 {
        task = task.with_int("count_include_pad", 1);
    }
    signature(&task)?;
    Ok(task)
}

fn signature(task: &Task) -> Result<Signature, BuildError> {
    let (x, y) = (task.required("x")?, task.required("y")?);
    let axes = task.ints("kernel_shape").len();
    let lists = ["kernel_shape", "strides", "dilations"];
    let in_range = |name: &str, low: i64| task.signed(name).iter().all(|value| (low..1 << 24).contains(value));
    let fits = (1..=3).contains(&axes)
        && lists.iter().all(|name| task.signed(name).len() == axes && in_range(name, 1))
        && task.signed("pads").len() == 2 * axes
        && in_range("pads", 0)
        && x.shape.len() == axes + 2
        && y.shape.len() == axes + 2
        && x.shape[..2] == y.shape[..2]
        && x.shape[2..].iter().chain(&y.shape[2..]).all(|&extent| extent < 1 << 24);
    if !fits || x.dtype != DType::F32 || y.dtype != DType::F32 || !matches!(task.word("kind"), "max" | "average") {
        return Err(task.refused("the parameters do not fit the operands"));
    }
    // Every window must have an element; then it has a greatest and a mean.
    let windows = windows(task, &x, &y);
    if windows.iter().flatten().any(|window| window.first >= window.end) {
        return Err(task.refused("a window lies wholly outside"));
    }
    let layouts = match (x.layout, y.layout) {
        (Layout::Rows, Layout::Rows) => true,
        _ => axes == 2 && Plane::of(&x).is_some() && Plane::of(&y).is_some(),
    };
    if !layouts {
        return Err(task.refused(format!("there is no way from {} to {}", x.layout, y.layout)));
    }
    Ok(Signature { inputs: vec![x], outputs: vec![OperandSpec { name: "y", ..y }] })
}

/// One window along one axis: taps from place `first` in steps of the dilation to before `end`.
#[derive(Copy, Clone, Debug)]
struct Window {
    first: usize,
    end: usize,
    /// Taps that count for a mean.
    counted: usize,
}

/// The windows of every output place along each spatial axis, cut to the input.
fn windows(task: &Task, x: &OperandSpec, y: &OperandSpec) -> Vec<Vec<Window>> {
    let (kernel, strides, dilations, pads) =
        (task.ints("kernel_shape"), task.ints("strides"), task.ints("dilations"), task.ints("pads"));
    let include = task.int("count_include_pad") == 1;
    (0..kernel.len())
        .map(|axis| {
            let (extent, before, after) = (x.shape[axis + 2], pads[axis], pads[axis + kernel.len()]);
            let (kernel, dilation) = (kernel[axis], dilations[axis]);
            let one = |place: usize| {
                // Everything is shifted by the pad before, so that nothing is negative.
                let start = place * strides[axis];
                let end = start + (kernel - 1) * dilation + 1;
                let skipped = before.saturating_sub(start).div_ceil(dilation);
                let first = start + skipped * dilation;
                let cut = end.min(before + extent);
                let taps = if cut > first { (cut - first).div_ceil(dilation) } else { 0 };
                let padded = end.min(before + extent + after).saturating_sub(start).div_ceil(dilation);
                let first = first.saturating_sub(before);
                Window { first, end: if taps > 0 { cut - before } else { first }, counted: if include { padded } else { taps } }
            };
            (0..y.shape[axis + 2]).map(one).collect()
        })
        .collect()
}
