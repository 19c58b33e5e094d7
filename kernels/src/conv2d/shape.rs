//! The parameters of a convolution, checked.

use crate::epilogue::Epilogue;
use crate::gemm::{push_epilogue, refuse};
use crate::layout::BLOCK;
use crate::{BuildError, Facts, Layout, OperandFacts, OperandSpec, Signature, Task};
use schema::DType;

/// A convolution as numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    pub n: usize,
    pub c: usize,
    pub h: usize,
    pub w: usize,
    pub o: usize,
    pub kh: usize,
    pub kw: usize,
    pub strides: [usize; 2],
    /// Top, left, bottom, right.
    pub pads: [usize; 4],
    pub dilations: [usize; 2],
    pub groups: usize,
    pub input: Layout,
    pub output: Layout,
    pub weight_constant: bool,
    pub epilogue: Epilogue,
    /// The height of y.
    pub oh: usize,
    /// The width of y.
    pub ow: usize,
}

/// The greatest extent of anything: far above use, low enough for products of two to fit.
pub const EXTENT_MAX: usize = 1 << 30;
/// The greatest number of elements of an operand: offsets are 32 bits wide.
const ELEMENTS_MAX: usize = u32::MAX as usize;

impl Shape {
    /// Reads a task of `conv2d`.
    ///
    /// # Errors
    /// [`BuildError::Task`] when a parameter is missing or makes no sense.
    pub fn of(task: &Task) -> Result<Self, BuildError> {
        let groups = if task.get("groups").is_some() { task.int("groups") } else { 1 };
        Self::read(task, task.int("o"), groups)
    }

    /// Reads a task whose groups and output channels are known otherwise.
    ///
    /// # Errors
    /// [`BuildError::Task`] when a parameter is missing or makes no sense.
    pub fn read(task: &Task, o: usize, groups: usize) -> Result<Self, BuildError> {
        let extents = [("n", task.int("n")), ("c", task.int("c")), ("h", task.int("h")), ("w", task.int("w")), ("o", o)];
        for (name, extent) in extents.into_iter().chain([("kh", task.int("kh")), ("kw", task.int("kw")), ("groups", groups)]) {
            if !(1..=EXTENT_MAX).contains(&extent) {
                return Err(refuse(task, format!("parameter '{name}' is {extent}, and not from 1 to 2³⁰")));
            }
        }
        let (n, c, h, w, kh, kw) = (task.int("n"), task.int("c"), task.int("h"), task.int("w"), task.int("kh"), task.int("kw"));
        let strides = list(task, "strides", [1; 2])?;
        let dilations = list(task, "dilations", [1; 2])?;
        let pads = list(task, "pads", [0; 4])?;
        if strides.contains(&0) || dilations.contains(&0) {
            return Err(refuse(task, "strides and dilations must be at least 1"));
        }
        if !c.is_multiple_of(groups) || !o.is_multiple_of(groups) {
            return Err(refuse(task, format!("{groups} groups do not divide {c} and {o} channels")));
        }
        let steps = |extent: usize, before: usize, behind: usize, kernel: usize, stride: usize, dilation: usize| {
            let span = dilation.checked_mul(kernel - 1)?.checked_add(1)?;
            Some((extent + before + behind).checked_sub(span)? / stride + 1)
        };
        let small = || refuse(task, "the kernel is larger than the padded image");
        let oh = steps(h, pads[0], pads[2], kh, strides[0], dilations[0]).ok_or_else(small)?;
        let ow = steps(w, pads[1], pads[3], kw, strides[1], dilations[1]).ok_or_else(small)?;
        let weight_constant = match task.word("weight") {
            "" | "const" => true,
            "dynamic" => false,
            other => return Err(refuse(task, format!("'weight' is const or dynamic and not '{other}'"))),
        };
        let epilogue = match task.word("epilogue") {
            "" => Epilogue::default(),
            text => Epilogue::parse(text).ok_or_else(|| refuse(task, "'epilogue' is not one"))?,
        };
        let (input, output) = (layout(task, "in")?, layout(task, "out")?);
        let shape =
            Shape { n, c, h, w, o, kh, kw, strides, pads, dilations, groups, input, output, weight_constant, epilogue, oh, ow };
        let counts =
            [elements([n, c, h, w], input), elements([n, o, oh, ow], output), elements([o, c / groups, kh, kw], Layout::Rows)];
        if counts.iter().any(|count| count.is_none_or(|count| count > ELEMENTS_MAX)) {
            return Err(refuse(task, "an operand has 2³² elements or more"));
        }
        Ok(shape)
    }

    /// Input channels of one group.
    pub fn group_c(&self) -> usize {
        self.c / self.groups
    }

    /// Output channels of one group.
    pub fn group_o(&self) -> usize {
        self.o / self.groups
    }

    /// Pixels of y, over all images.
    pub fn pixels(&self) -> usize {
        self.n * self.oh * self.ow
    }

    /// Two per multiply-add of the direct algorithm.
    pub fn flops(&self) -> u64 {
        2 * (self.pixels() * self.o) as u64 * (self.group_c() * self.kh * self.kw) as u64
    }

    /// The shape of y.
    pub fn output_shape(&self) -> [usize; 4] {
        [self.n, self.o, self.oh, self.ow]
    }

    /// The shape of the weight.
    pub fn weight_shape(&self) -> Vec<usize> {
        vec![self.o, self.group_c(), self.kh, self.kw]
    }

    /// Whether a blocked x with its halo holds everything a kernel position touches, so that no border needs care.
    pub fn halo_covers_pads(&self) -> bool {
        let Layout::Channels { halo } = self.input else { return false };
        let reaches = |pixels: usize, stride: usize, kernel: usize, dilation: usize, before: usize, extent: usize| {
            before <= halo && (pixels - 1) * stride + (kernel - 1) * dilation <= extent - 1 + halo + before
        };
        reaches(self.oh, self.strides[0], self.kh, self.dilations[0], self.pads[0], self.h)
            && reaches(self.ow, self.strides[1], self.kw, self.dilations[1], self.pads[1], self.w)
    }

    /// Whether the channels of each group fill whole blocks, or there is but one group.
    pub fn groups_fill_blocks(&self) -> bool {
        self.groups == 1 || (self.group_c().is_multiple_of(BLOCK) && self.group_o().is_multiple_of(BLOCK))
    }

    /// What goes in and out.
    pub fn signature(&self) -> Signature {
        let y = OperandSpec::f32("y", self.output_shape().to_vec()).in_layout(self.output);
        let weight = OperandSpec { constant: self.weight_constant, ..OperandSpec::f32("weight", self.weight_shape()) };
        let mut inputs = vec![OperandSpec::f32("x", vec![self.n, self.c, self.h, self.w]).in_layout(self.input), weight];
        push_epilogue(&mut inputs, &self.epilogue, self.o, self.weight_constant, &y);
        Signature { inputs, outputs: vec![y] }
    }
}

/// The elements of an image tensor in a layout, if they can be counted.
pub fn elements(shape: [usize; 4], layout: Layout) -> Option<usize> {
    let [n, c, h, w] = shape;
    let (c, border) = match layout {
        Layout::Channels { halo } => (c.checked_next_multiple_of(BLOCK)?, halo.checked_mul(2)?),
        _ => (c, 0),
    };
    n.checked_mul(c)?.checked_mul(h.checked_add(border)?)?.checked_mul(w.checked_add(border)?)
}

/// A list of whole numbers, or its default when absent.
pub fn list<const N: usize>(task: &Task, name: &str, default: [usize; N]) -> Result<[usize; N], BuildError> {
    if task.get(name).is_none() {
        return Ok(default);
    }
    let values: [usize; N] =
        task.ints(name).try_into().map_err(|_| refuse(task, format!("parameter '{name}' needs {N} numbers")))?;
    match values.iter().find(|&&value| value > EXTENT_MAX) {
        Some(value) => Err(refuse(task, format!("parameter '{name}' has {value}, which is beyond 2³⁰"))),
        None => Ok(values),
    }
}

/// A layout of images, rows when absent.
pub fn layout(task: &Task, name: &str) -> Result<Layout, BuildError> {
    match task.word(name) {
        "" => Ok(Layout::Rows),
        word => match Layout::parse(word) {
            Some(layout @ (Layout::Rows | Layout::Channels { .. })) => Ok(layout),
            _ => Err(refuse(task, format!("layout '{word}' of '{name}' is neither rows nor channels16hH"))),
        },
    }
}

/// The task of a node: attributes `strides`, `pads`, `dilations`, `groups`, `epilogue`; inputs x and weight of four axes.
pub fn task(facts: &Facts<'_>) -> Result<Task, BuildError> {
    let bare = Task::new("conv2d");
    let (x, weight, y) = operands(facts, &bare)?;
    let (&[n, c, h, w], &[o, _, kh, kw]) = (&x.shape[..], &weight.shape[..]) else {
        return Err(refuse(&bare, "x and weight need four axes"));
    };
    let groups = facts.attributes.int("groups").unwrap_or(1);
    let task = image_task(bare, facts, [n, c, h, w], [kh, kw])
        .with_int("o", o)
        .with_int("groups", usize::try_from(groups).unwrap_or(0))
        .with_word("in", x.layout)
        .with_word("out", y.layout)
        .with_word("weight", if weight.constant { "const" } else { "dynamic" });
    let shape = Shape::of(&task)?;
    if weight.shape != shape.weight_shape() {
        return Err(refuse(&task, format!("the weight is {:?} and not {:?}", weight.shape, shape.weight_shape())));
    }
    Ok(task)
}

/// The facts of x, weight and y, all f32.
pub fn operands<'a>(
    facts: &'a Facts<'_>,
    task: &Task,
) -> Result<(&'a OperandFacts, &'a OperandFacts, &'a OperandFacts), BuildError> {
    let input = |i: usize| facts.inputs.get(i).and_then(Option::as_ref);
    let (Some(x), Some(weight), Some(y)) = (input(0), input(1), facts.outputs.first().and_then(Option::as_ref)) else {
        return Err(refuse(task, "x, weight or y is missing"));
    };
    match [x, weight, y].into_iter().find(|operand| operand.dtype != DType::F32) {
        Some(operand) => Err(refuse(task, format!("operands of type {} have no kernel", operand.dtype))),
        None => Ok((x, weight, y)),
    }
}

/// Adds what every operator on images has: extents, and the attributes.
pub fn image_task(task: Task, facts: &Facts<'_>, [n, c, h, w]: [usize; 4], [kh, kw]: [usize; 2]) -> Task {
    let mut task = task.with_int("n", n).with_int("c", c).with_int("h", h).with_int("w", w).with_int("kh", kh).with_int("kw", kw);
    for (name, default) in [("strides", &[1, 1][..]), ("dilations", &[1, 1]), ("pads", &[0, 0, 0, 0])] {
        // A negative value becomes one that no check accepts.
        let values = facts.attributes.ints(name).unwrap_or(default);
        let values: Vec<usize> = values.iter().map(|&value| usize::try_from(value).unwrap_or(EXTENT_MAX + 1)).collect();
        task = task.with_ints(name, &values);
    }
    task.with_word("epilogue", facts.attributes.string("epilogue").unwrap_or("none"))
}
