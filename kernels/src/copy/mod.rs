//! Elements moved, repeated or left out, never changed. Any type of 1, 2, 4 or 8 bytes; the attribute `kind` says how.
//!
//! | kind | inputs | outputs | attributes |
//! |---|---|---|---|
//! | `join` | `x0` … | `y0` … | `axis`; `groups` (default 1). The inputs are laid behind each other along the axis; with `groups` > 1 the places along it are then shuffled (channel shuffle: place `j` takes `(j mod groups)·(C/groups) + j/groups`); the outputs share out the axis in order. So this is concat, split, and concat + shuffle + split |
//! | `slice` | `x0` | `y0` | `starts`, `steps`: one per axis, starts inside, steps not 0 (default all 1); the lengths are the output's |
//! | `pad` | `x0` | `y0` | `pads` (2 per rank, befores then afters, may be negative), `mode` constant, edge, reflect or wrap, `value` (float; other types by cast) |
//! | `expand` | `x0` | `y0` | none: broadcasts |
//! | `tile` | `x0` | `y0` | none: every axis of the output is a multiple of the input's |
//!
//! **Layouts**: rows; `join` along axis 1 also with every operand f32 in `Channels`, with any halos. **Task**: `kind`, the operands and
//! the attributes above.

mod host_pairs;
mod host_runs;
mod pieces;
mod planes;
mod reference;

pub use pieces::Pieces;

use crate::plane::Plane;
use crate::row_split;
use crate::rows;
use crate::strided_copy::is_copied;
use crate::transpose::copied_fill;
use crate::{BuildError, Facts, Layout, Limits, OperandSpec, Operator, Signature, Task, Variant, strides};
use schema::{DType, KnobValue};

/// Elements moved, repeated or left out.
pub static COPY: Operator = Operator {
    id: "copy",
    variants: VARIANTS,
    task,
    signature,
    flops: |_| 0,
    bytes: |task| signature(task).map_or(0, |s| 2 * s.outputs.iter().map(|spec| spec.bytes() as u64).sum::<u64>()),
    reference: reference::compute,
    row_wise,
};

static VARIANTS: &[&Variant] = &[&host_runs::RUNS, &host_pairs::PAIRS];

/// The default of the knob `partition`: the operator is bound by memory.
fn partition(task: &Task, limits: &Limits) -> KnobValue {
    row_split::partition_for_bytes((COPY.bytes)(task), limits)
}

/// The boxes of elements that a task in rows moves.
///
/// # Errors
/// [`BuildError::Task`] for a task that makes no sense.
pub fn pieces(task: &Task) -> Result<Pieces, BuildError> {
    let signature = signature(task)?;
    let kind = Kind::parse(task.word("kind")).ok_or_else(|| task.refused("there is no such kind"))?;
    Ok(pieces::plan(kind, task, &signature))
}

/// The names of the inputs; also the most there can be.
static INPUTS: [&str; 64] = [
    "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17", "x18",
    "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x29", "x30", "x31", "x32", "x33", "x34", "x35", "x36",
    "x37", "x38", "x39", "x40", "x41", "x42", "x43", "x44", "x45", "x46", "x47", "x48", "x49", "x50", "x51", "x52", "x53", "x54",
    "x55", "x56", "x57", "x58", "x59", "x60", "x61", "x62", "x63",
];
/// The names of the outputs; also the most there can be.
static OUTPUTS: [&str; 64] = [
    "y0", "y1", "y2", "y3", "y4", "y5", "y6", "y7", "y8", "y9", "y10", "y11", "y12", "y13", "y14", "y15", "y16", "y17", "y18",
    "y19", "y20", "y21", "y22", "y23", "y24", "y25", "y26", "y27", "y28", "y29", "y30", "y31", "y32", "y33", "y34", "y35", "y36",
    "y37", "y38", "y39", "y40", "y41", "y42", "y43", "y44", "y45", "y46", "y47", "y48", "y49", "y50", "y51", "y52", "y53", "y54",
    "y55", "y56", "y57", "y58", "y59", "y60", "y61", "y62", "y63",
];

/// What is moved along axis 0 stays where it is.
fn row_wise(facts: &Facts<'_>, varies: &[bool]) -> bool {
    let (Some(x), Some(Some(y))) = (facts.optional(0), facts.outputs.first()) else { return false };
    let first = |name: &str, at: usize, default: i64| match facts.attributes.ints(name) {
        Some(values) => values.get(at).copied(),
        None => Some(default),
    };
    let kept = x.shape.len() == y.shape.len() && x.shape.first() == y.shape.first();
    match facts.attributes.string("kind").and_then(Kind::parse) {
        Some(Kind::Join) => varies.iter().all(|varies| *varies) && rows::axis(facts, 0).is_some_and(|axis| axis > 0),
        Some(Kind::Slice) => kept && first("starts", 0, 0) == Some(0) && first("steps", 0, 1) == Some(1),
        Some(Kind::Pad) => first("pads", 0, 0) == Some(0) && first("pads", x.shape.len(), 0) == Some(0),
        Some(Kind::Expand | Kind::Tile) => kept,
        None => false,
    }
}

/// How elements are moved.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Kind {
    Join,
    Slice,
    Pad,
    Expand,
    Tile,
}

/// What stands outside a padded tensor.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Mode {
    Constant,
    Edge,
    Reflect,
    Wrap,
}

impl Kind {
    fn parse(text: &str) -> Option<Kind> {
        Some(match text {
            "join" => Kind::Join,
            "slice" => Kind::Slice,
            "pad" => Kind::Pad,
            "expand" => Kind::Expand,
            "tile" => Kind::Tile,
            _ => return None,
        })
    }
}

impl Mode {
    fn parse(text: &str) -> Option<Mode> {
        Some(match text {
            "" | "constant" => Mode::Constant,
            "edge" => Mode::Edge,
            "reflect" => Mode::Reflect,
            "wrap" => Mode::Wrap,
            _ => return None,
        })
    }
}

fn task(facts: &Facts<'_>) -> Result<Task, BuildError> {
    let bare = Task::new("copy");
    let attributes = facts.attributes;
    let word = attributes.string("kind").unwrap_or_default();
    let kind = Kind::parse(word).ok_or_else(|| bare.refused(format!("attribute 'kind' is '{word}'")))?;
    let mut task = bare.with_word("kind", word);
    if facts.inputs.len() > INPUTS.len() || facts.outputs.len() > OUTPUTS.len() {
        return Err(task.refused("more than 64 inputs or outputs"));
    }
    for (index, name) in INPUTS.iter().enumerate().take(facts.inputs.len()) {
        task = task.with_operand(name, facts.input("copy", index)?);
    }
    for (index, name) in OUTPUTS.iter().enumerate().take(facts.outputs.len()) {
        task = task.with_operand(name, facts.output("copy", index)?);
    }
    let rank = facts.input("copy", 0)?.shape.len();
    match kind {
        Kind::Join => {
            task = task.with_int("axis", facts.axis("copy", 0, rank)?);
            if let Some(groups) = attributes.int("groups").filter(|&groups| groups != 1) {
                task = task.with_signed("groups", &[groups]);
            }
        }
        Kind::Slice => {
            let ones = vec![1; rank];
            task = task
                .with_signed("starts", attributes.ints("starts").unwrap_or_default())
                .with_signed("steps", attributes.ints("steps").unwrap_or(&ones));
        }
        Kind::Pad => {
            task = task.with_signed("pads", attributes.ints("pads").unwrap_or_default());
            let mode = attributes.string("mode").unwrap_or_default();
            Mode::parse(mode).ok_or_else(|| task.refused(format!("attribute 'mode' is '{mode}'")))?;
            if !mode.is_empty() {
                task = task.with_word("mode", mode);
            }
            task = task.with_float("value", attributes.float("value").unwrap_or(0.0));
        }
        Kind::Expand | Kind::Tile => {}
    }
    signature(&task)?;
    Ok(task)
}

fn signature(task: &Task) -> Result<Signature, BuildError> {
    let kind = Kind::parse(task.word("kind")).ok_or_else(|| task.refused("there is no such kind"))?;
    let operands = |names: &[&'static str]| -> Result<Vec<OperandSpec>, BuildError> {
        let mut specs = Vec::new();
        for name in names {
            match task.operand(name)? {
                Some(spec) => specs.push(OperandSpec { fill: copied_fill(spec.dtype), ..spec }),
                None => break,
            }
        }
        Ok(specs)
    };
    let signature = Signature { inputs: operands(&INPUTS)?, outputs: operands(&OUTPUTS)? };
    let Some(dtype) = signature.inputs.first().map(|spec| spec.dtype) else { return Err(task.refused("there is no input")) };
    let mut all = signature.inputs.iter().chain(&signature.outputs);
    if signature.outputs.is_empty() || !is_copied(dtype) || all.any(|spec| spec.dtype != dtype) {
        return Err(task.refused("operands are of one type of 1, 2, 4 or 8 bytes"));
    }
    let single = signature.inputs.len() == 1 && signature.outputs.len() == 1;
    if kind == Kind::Join {
        check_join(task, &signature).map(|()| signature)
    } else if !single || signature.inputs[0].layout != Layout::Rows || signature.outputs[0].layout != Layout::Rows {
        Err(task.refused("there is one input and one output, both in rows"))
    } else if fits(kind, task, &signature.inputs[0].shape, &signature.outputs[0].shape) {
        Ok(signature)
    } else {
        Err(task.refused("the shapes do not fit the kind"))
    }
}

fn check_join(task: &Task, signature: &Signature) -> Result<(), BuildError> {
    let (axis, first) = (task.int("axis"), &signature.inputs[0].shape);
    let all = || signature.inputs.iter().chain(&signature.outputs);
    let alike = |spec: &OperandSpec| {
        spec.shape.len() == first.len() && (0..first.len()).all(|other| other == axis || spec.shape[other] == first[other])
    };
    if axis >= first.len() || !all().all(alike) {
        return Err(task.refused("the operands differ along another axis"));
    }
    let extent = |specs: &[OperandSpec]| specs.iter().map(|spec| spec.shape[axis]).sum::<usize>();
    let total = extent(&signature.inputs);
    if total != extent(&signature.outputs) || groups(task) == 0 || !total.is_multiple_of(groups(task)) {
        return Err(task.refused("the extents along the axis do not add up"));
    }
    let rows = all().all(|spec| spec.layout == Layout::Rows);
    let planes = axis == 1 && all().all(|spec| Plane::of(spec).is_some() && spec.dtype == DType::F32);
    if rows || planes { Ok(()) } else { Err(task.refused("the layouts do not fit")) }
}

/// The groups of a shuffle; 1 for none.
fn groups(task: &Task) -> usize {
    match task.signed("groups")[..] {
        [] => 1,
        [groups] => usize::try_from(groups).unwrap_or(0),
        _ => 0,
    }
}

fn fits(kind: Kind, task: &Task, x: &[usize], y: &[usize]) -> bool {
    match kind {
        Kind::Join => true,
        Kind::Expand => strides::broadcast_strides(x, y).is_some(),
        Kind::Tile => x.len() == y.len() && x.iter().zip(y).all(|(&x, &y)| if x == 0 { y == 0 } else { y % x == 0 }),
        Kind::Slice => {
            let (starts, steps) = (task.signed("starts"), task.signed("steps"));
            let inside = |axis: usize| {
                let last = (y[axis] as i64 - 1).checked_mul(steps[axis]).and_then(|far| far.checked_add(starts[axis]));
                let (range, empty) = (0..x[axis] as i64, y[axis] == 0);
                steps[axis] != 0 && (empty || (range.contains(&starts[axis]) && last.is_some_and(|last| range.contains(&last))))
            };
            y.len() == x.len() && starts.len() == x.len() && steps.len() == x.len() && (0..x.len()).all(inside)
        }
        Kind::Pad => {
            let pads = task.signed("pads");
            let mode = Mode::parse(task.word("mode"));
            let axis_fits = |axis: usize| {
                let (before, after) = (pads[axis], pads[axis + x.len()]);
                let bounded = [before, after].iter().all(|pad| pad.unsigned_abs() < 1 << 40);
                let limit = match mode {
                    Some(Mode::Constant) => i64::MAX,
                    // A reflection does not repeat the edge, so it reaches one less far than the tensor.
                    Some(Mode::Reflect) => x[axis] as i64 - 1,
                    Some(Mode::Edge) if x[axis] == 0 => 0,
                    Some(Mode::Edge) => i64::MAX,
                    Some(Mode::Wrap) => x[axis] as i64,
                    None => -1,
                };
                bounded && before <= limit.max(0) && after <= limit.max(0) && x[axis] as i64 + before + after == y[axis] as i64
            };
            mode.is_some() && y.len() == x.len() && pads.len() == 2 * x.len() && (0..x.len()).all(axis_fits)
        }
    }
}
