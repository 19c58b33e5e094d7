//! Height and width at another size, nearest or linear.
//!
//! **Input** `x`, **output** `y`: f32; the shapes differ only in the last two axes (or the last, for one axis). **Attributes**, as in
//! ONNX: `mode` `nearest` (default) or `linear`; `coordinate_transformation_mode` `half_pixel` (default), `pytorch_half_pixel`,
//! `align_corners` or `asymmetric`; `nearest_mode` `round_prefer_floor` (default), `round_prefer_ceil`, `floor` or `ceil`; `scales`
//! (floats, one per axis, optional: else the ratio of the extents). No cubic, no antialiasing, no regions.
//!
//! **Layouts**: rows to rows, or with four axes `Channels` to `Channels` with any halos. **Task**: `x`, `y`, the modes, `scale_h`,
//! `scale_w`.

mod host_picks;
mod host_separable;
mod host_taps;
mod reference;

use crate::plane::Plane;
use crate::row_split;
use crate::{Attribute, BuildError, Facts, Layout, Limits, Operator, Signature, Task, Variant};
use schema::{DType, KnobValue};

/// Height and width at another size.
pub static RESIZE: Operator = Operator {
    id: "resize",
    variants: VARIANTS,
    task,
    signature,
    flops: |task| {
        let each = if task.word("mode") == "linear" { 9 } else { 0 };
        each * task.ints("y").iter().product::<usize>() as u64
    },
    bytes: |task| signature(task).map_or(0, |s| (s.inputs[0].bytes() + s.outputs[0].bytes()) as u64),
    reference: reference::compute,
    row_wise: |_, varies| crate::rows::only(varies, 0, &[]),
};

static VARIANTS: &[&Variant] = &[&host_taps::TAPS, &host_separable::SEPARABLE, &host_picks::PICKS];

/// The default of the knob `partition`: bound by memory, then by as many operations a nanosecond.
fn partition(task: &Task, limits: &Limits, flops_per_ns: u64) -> KnobValue {
    row_split::partition_for((RESIZE.bytes)(task) / 10 + (RESIZE.flops)(task) / flops_per_ns, limits)
}

static TRANSFORMS: &[&str] = &["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"];
static ROUNDINGS: &[&str] = &["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"];

fn task(facts: &Facts<'_>) -> Result<Task, BuildError> {
    let (x, y) = (facts.input("resize", 0)?, facts.output("resize", 0)?);
    let attributes = facts.attributes;
    let word = |name: &str, otherwise: &'static str| attributes.string(name).unwrap_or(otherwise).to_owned();
    let mode = word("mode", "nearest");
    let mut task = Task::new("resize").with_operand("x", x).with_operand("y", y);
    for (name, value) in [("mode", mode.clone()), ("transform", word("coordinate_transformation_mode", "half_pixel"))] {
        if value.is_empty() || value.contains(char::is_whitespace) {
            return Err(task.refused(format!("'{name}' is '{value}'")));
        }
        task = task.with_word(name, value);
    }
    if mode == "nearest" {
        let rounding = word("nearest_mode", "round_prefer_floor");
        if !ROUNDINGS.contains(&&rounding[..]) {
            return Err(task.refused(format!("'nearest_mode' is '{rounding}'")));
        }
        task = task.with_word("rounding", rounding);
    }
    if let Some(Attribute::Floats(scales)) = attributes.get("scales") {
        for (name, scale) in ["scale_w", "scale_h"].iter().zip(scales.iter().rev()) {
            task = task.with_float(name, *scale);
        }
    }
    signature(&task)?;
    Ok(task)
}

fn signature(task: &Task) -> Result<Signature, BuildError> {
    let (x, y) = (task.required("x")?, task.required("y")?);
    let rank = x.shape.len();
    let fixed = rank.saturating_sub(2);
    let alike = rank > 0 && y.shape.len() == rank && x.shape[..fixed] == y.shape[..fixed];
    let bounded = x.shape.iter().chain(&y.shape).all(|&extent| (1..1 << 24).contains(&extent));
    if !alike || !bounded || x.dtype != DType::F32 || y.dtype != DType::F32 {
        return Err(task.refused("operands are f32 and differ in the last two axes only"));
    }
    let modes = match task.word("mode") {
        "nearest" => ROUNDINGS.contains(&task.word("rounding")),
        "linear" => true,
        _ => false,
    };
    let scaled = ["scale_h", "scale_w"].iter().all(|name| task.get(name).is_none() || task.float(name).is_some_and(|s| s > 0.0));
    if !modes || !scaled || !TRANSFORMS.contains(&task.word("transform")) {
        return Err(task.refused("a mode is unknown"));
    }
    let planes = Plane::of(&x).is_some() && Plane::of(&y).is_some();
    if !planes && (x.layout, y.layout) != (Layout::Rows, Layout::Rows) {
        return Err(task.refused(format!("there is no way from {} to {}", x.layout, y.layout)));
    }
    Ok(Signature { inputs: vec![x], outputs: vec![y] })
}

/// Where one place of the output comes from: two places of the input and the second one's weight.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Tap {
    pub first: usize,
    pub second: usize,
    pub weight: f32,
}

/// The taps of an axis.
fn taps(task: &Task, from: usize, to: usize, scale: &str) -> Vec<Tap> {
    let scale = task.float(scale).map_or(to as f64 / from as f64, f64::from);
    let original = |place: usize| {
        let place = place as f64;
        match task.word("transform") {
            "asymmetric" => place / scale,
            "align_corners" if to == 1 => 0.0,
            "align_corners" => place * (from - 1) as f64 / (to - 1) as f64,
            "pytorch_half_pixel" if to == 1 => 0.0,
            _ => (place + 0.5) / scale - 0.5,
        }
    };
    let inside = |at: f64| at.clamp(0.0, (from - 1) as f64) as usize;
    let one = |place: usize| {
        let at = original(place);
        if task.word("mode") == "linear" {
            let low = at.floor();
            return Tap { first: inside(low), second: inside(low + 1.0), weight: (at - low) as f32 };
        }
        let nearest = match task.word("rounding") {
            "round_prefer_floor" => (at - 0.5).ceil(),
            "round_prefer_ceil" => (at + 0.5).floor(),
            "floor" => at.floor(),
            _ => at.ceil(),
        };
        Tap { first: inside(nearest), second: inside(nearest), weight: 0.0 }
    };
    (0..to).map(one).collect()
}

/// A task as numbers.
pub struct Extents {
    /// Of the input and the output, when they are in planes.
    planes: Option<(Plane, Plane)>,
    /// Height and width of the input; a missing height is 1.
    pub from: [usize; 2],
    /// Height and width of the output.
    pub to: [usize; 2],
    pub rows: Vec<Tap>,
    pub columns: Vec<Tap>,
    pub linear: bool,
}

impl Extents {
    /// Reads a task.
    ///
    /// # Errors
    /// [`BuildError::Task`] when the operands do not fit.
    pub fn of(task: &Task) -> Result<Self, BuildError> {
        let signature = signature(task)?;
        let (x, y) = (&signature.inputs[0], &signature.outputs[0]);
        let extents = |shape: &[usize]| match *shape {
            [.., h, w] => [h, w],
            [w] => [1, w],
            [] => [1, 1],
        };
        let (from, to) = (extents(&x.shape), extents(&y.shape));
        Ok(Extents {
            planes: Plane::of(x).zip(Plane::of(y)),
            from,
            to,
            rows: taps(task, from[0], to[0], "scale_h"),
            columns: taps(task, from[1], to[1], "scale_w"),
            linear: task.word("mode") == "linear",
        })
    }
}
