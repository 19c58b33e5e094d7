//! The parameters of a convolution, checked.

use crate::convolution::{Node, Parameters, elements, signature};
use crate::epilogue::Epilogue;
use crate::gemm::refuse;
use crate::layout::BLOCK;
use crate::{BuildError, Facts, Layout, OperandSpec, Signature, Task};

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

/// The greatest number of elements of an operand: offsets are 32 bits wide.
const ELEMENTS_MAX: usize = u32::MAX as usize;

impl Shape {
    /// Reads a task of `conv2d`.
    ///
    /// # Errors
    /// [`BuildError::Task`] when a parameter is missing or makes no sense.
    pub fn of(task: &Task) -> Result<Self, BuildError> {
        Self::new(task, Parameters::of(task)?)
    }

    /// The shape of y, and whether all can be counted.
    ///
    /// # Errors
    /// [`BuildError::Task`] when nothing is left of y, or an operand is too large.
    pub fn new(task: &Task, parameters: Parameters) -> Result<Self, BuildError> {
        let Parameters { n, c, h, w, o, kernel: [kh, kw], strides, pads, dilations, .. } = parameters;
        let Parameters { groups, input, output, weight_constant, epilogue, .. } = parameters;
        let steps = |extent: usize, before: usize, behind: usize, kernel: usize, stride: usize, dilation: usize| {
            let span = dilation.checked_mul(kernel - 1)?.checked_add(1)?;
            Some((extent + before + behind).checked_sub(span)? / stride + 1)
        };
        let small = || refuse(task, "the kernel is larger than the padded image");
        let oh = steps(h, pads[0], pads[2], kh, strides[0], dilations[0]).ok_or_else(small)?;
        let ow = steps(w, pads[1], pads[3], kw, strides[1], dilations[1]).ok_or_else(small)?;
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
        let x = OperandSpec::f32("x", vec![self.n, self.c, self.h, self.w]).in_layout(self.input);
        let weight = OperandSpec { constant: self.weight_constant, ..OperandSpec::f32("weight", self.weight_shape()) };
        let y = OperandSpec::f32("y", self.output_shape().to_vec()).in_layout(self.output);
        signature(x, weight, y, &self.epilogue)
    }
}

/// The task of a node: attributes `strides`, `pads`, `dilations`, `groups`, `epilogue`; inputs x and weight of four axes.
pub fn task(facts: &Facts<'_>) -> Result<Task, BuildError> {
    let bare = Task::new("conv2d");
    let node = Node::of(facts, &bare)?;
    let (&[n, c, h, w], &[o, _, kh, kw]) = (&node.x.shape[..], &node.weight.shape[..]) else {
        return Err(refuse(&bare, "x and weight need four axes"));
    };
    let task = node.task(bare, [n, c, h, w], [kh, kw]).with_int("o", o).with_int("groups", node.groups());
    node.check_weight(&task, &Shape::of(&task)?.weight_shape())?;
    Ok(task)
}
