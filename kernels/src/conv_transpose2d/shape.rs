//! The parameters of a transposed convolution, checked.

use crate::convolution::{Node, Parameters, elements, list, signature};
use crate::epilogue::Epilogue;
use crate::gemm::refuse;
use crate::{BuildError, Facts, Layout, OperandSpec, Signature, Task};

/// A transposed convolution as numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    pub n: usize,
    pub c: usize,
    pub h: usize,
    pub w: usize,
    pub o: usize,
    pub kernel: [usize; 2],
    pub strides: [usize; 2],
    /// Top, left, bottom, right.
    pub pads: [usize; 4],
    pub output_pads: [usize; 2],
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

impl Shape {
    /// Reads a task.
    ///
    /// # Errors
    /// [`BuildError::Task`] when a parameter is missing or makes no sense.
    pub fn of(task: &Task) -> Result<Self, BuildError> {
        let parameters = Parameters::of(task)?;
        let Parameters { n, c, h, w, o, kernel, strides, pads, dilations, .. } = parameters;
        let Parameters { groups, input, output, weight_constant, epilogue, .. } = parameters;
        let output_pads = list(task, "output_pads", [0; 2])?;
        if (0..2).any(|axis| output_pads[axis] >= strides[axis].max(dilations[axis])) {
            return Err(refuse(task, "'output_pads' must be less than strides or dilations"));
        }
        let extent = |axis: usize, extent: usize, kernel: usize| {
            let whole = (extent - 1).checked_mul(strides[axis])?.checked_add((kernel - 1).checked_mul(dilations[axis])?)?;
            (whole + 1 + output_pads[axis]).checked_sub(pads[axis] + pads[axis + 2]).filter(|&extent| extent > 0)
        };
        let none = || refuse(task, "nothing is left of the result");
        let oh = extent(0, h, kernel[0]).ok_or_else(none)?;
        let ow = extent(1, w, kernel[1]).ok_or_else(none)?;
        let counts = [
            elements([n, c, h, w], input),
            elements([n, o, oh, ow], output),
            elements([c, o / groups, kernel[0], kernel[1]], Layout::Rows),
        ];
        // A copy of x may need a border on each side: leave room for it.
        if counts.iter().any(|count| count.is_none_or(|count| count > u32::MAX as usize / 4)) {
            return Err(refuse(task, "an operand has 2³⁰ elements or more"));
        }
        Ok(Shape {
            n,
            c,
            h,
            w,
            o,
            kernel,
            strides,
            pads,
            output_pads,
            dilations,
            groups,
            input,
            output,
            weight_constant,
            epilogue,
            oh,
            ow,
        })
    }

    /// Input channels of one group.
    pub fn group_c(&self) -> usize {
        self.c / self.groups
    }

    /// Output channels of one group.
    pub fn group_o(&self) -> usize {
        self.o / self.groups
    }

    /// Two per multiply-add of the direct algorithm: every input pixel meets every tap.
    pub fn flops(&self) -> u64 {
        2 * (self.n * self.h * self.w * self.c) as u64 * (self.group_o() * self.kernel[0] * self.kernel[1]) as u64
    }

    /// The shape of y.
    pub fn output_shape(&self) -> [usize; 4] {
        [self.n, self.o, self.oh, self.ow]
    }

    /// The shape of the weight.
    pub fn weight_shape(&self) -> Vec<usize> {
        vec![self.c, self.group_o(), self.kernel[0], self.kernel[1]]
    }

    /// What goes in and out.
    pub fn signature(&self) -> Signature {
        let x = OperandSpec::f32("x", vec![self.n, self.c, self.h, self.w]).in_layout(self.input);
        let weight = OperandSpec { constant: self.weight_constant, ..OperandSpec::f32("weight", self.weight_shape()) };
        let y = OperandSpec::f32("y", self.output_shape().to_vec()).in_layout(self.output);
        signature(x, weight, y, &self.epilogue)
    }
}

/// The task of a node: attributes as the task's parameters; inputs x and weight of four axes.
pub fn task(facts: &Facts<'_>) -> Result<Task, BuildError> {
    let bare = Task::new("conv_transpose2d");
    let node = Node::of(facts, &bare)?;
    let (&[n, c, h, w], &[_, group_o, kh, kw]) = (&node.x.shape[..], &node.weight.shape[..]) else {
        return Err(refuse(&bare, "x and weight need four axes"));
    };
    let groups = node.groups();
    let output_pads: Vec<usize> = facts.attributes.ints("output_pads").unwrap_or(&[0, 0]).iter().map(|&x| x as usize).collect();
    let task = node
        .task(bare, [n, c, h, w], [kh, kw])
        .with_int("o", group_o.saturating_mul(groups))
        .with_int("groups", groups)
        .with_ints("output_pads", &output_pads);
    node.check_weight(&task, &Shape::of(&task)?.weight_shape())?;
    Ok(task)
}
