//! Depthwise convolutions: every channel has a kernel of its own.
//!
//! Parameters are those of [`conv2d`](crate::conv2d) without `o` and `groups`, which both are `c`. The weight is `[c, 1, kh, kw]`.
//! Inputs by position: x, weight, bias, residual; an absent bias before a residual has shape `[0]`.

mod host_blocked;
mod host_staged;
pub mod plane;

use crate::conv2d::{Shape, convolve};
use crate::convolution::{Node, Parameters};
use crate::gemm::refuse;
use crate::{BuildError, Facts, Operator, Task};

/// See the module.
pub static DEPTHWISE: Operator = Operator {
    id: "depthwise",
    variants: &[&host_staged::STAGED, &host_blocked::BLOCKED],
    task,
    signature: |task| shape(task).map(|shape| shape.signature()),
    flops: |task| shape(task).map_or(0, |shape| shape.flops()),
    bytes: |task| shape(task).map_or(0, |shape| shape.signature().bytes() as u64),
    reference: |task, inputs| convolve(&shape(task)?, task, inputs),
    row_wise: |_, varies| crate::rows::only(varies, 0, &[3]),
};

/// The convolution a task stands for.
pub fn shape(task: &Task) -> Result<Shape, BuildError> {
    Shape::new(task, Parameters::read(task, task.int("c"), task.int("c"))?)
}

fn task(facts: &Facts<'_>) -> Result<Task, BuildError> {
    let bare = Task::new("depthwise");
    let node = Node::of(facts, &bare)?;
    let (&[n, c, h, w], &[o, 1, kh, kw]) = (&node.x.shape[..], &node.weight.shape[..]) else {
        return Err(refuse(&bare, "x needs four axes and the weight is [c, 1, kh, kw]"));
    };
    if o != c {
        return Err(refuse(&bare, format!("{o} kernels for {c} channels")));
    }
    let task = node.task(bare, [n, c, h, w], [kh, kw]);
    shape(&task)?;
    Ok(task)
}
