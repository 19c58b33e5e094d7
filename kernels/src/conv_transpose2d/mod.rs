//! Transposed convolutions: every input pixel adds its kernel to the output, `strides` apart.
//!
//! Parameters of the task; those with a default may be absent:
//!
//! | parameter | means |
//! |---|---|
//! | `n` `c` `h` `w` | x is `[n, c, h, w]` |
//! | `o` `kh` `kw` | the weight is `[c, o/groups, kh, kw]`, y `[n, o, h', w']` |
//! | `strides` `dilations` | `[vertical,horizontal]`, default `[1,1]` |
//! | `pads` | `[top,left,bottom,right]` cut from the result, default `[0,0,0,0]` |
//! | `output_pads` | `[bottom,right]` added to the result, less than strides or dilations, default `[0,0]` |
//! | `groups` `in` `out` `epilogue` | as in [`conv2d`](crate::conv2d) |
//! | `weight` | `const` (default) or `dynamic` |
//!
//! Inputs by position: x, weight, bias, residual; an absent bias before a residual has shape `[0]`.
//!
//! Output pixels whose places are equal modulo the strides form a *phase*: each phase is an ordinary convolution of stride 1 with those
//! taps that meet it, and is computed as such by the register tile.

mod host_phases;
mod host_staged;
mod phase;
mod reference;
mod shape;

pub use shape::Shape;

use crate::{Operator, Task};

/// See the module.
pub static CONV_TRANSPOSE2D: Operator = Operator {
    id: "conv_transpose2d",
    variants: &[&host_staged::STAGED, &host_phases::PHASES],
    task: shape::task,
    signature: |task| Shape::of(task).map(|shape| shape.signature()),
    flops: |task| or_zero(task, Shape::flops),
    bytes: |task| or_zero(task, |shape| shape.signature().bytes() as u64),
    reference: reference::reference,
    row_wise: |_, varies| crate::rows::only(varies, 0, &[3]),
};

fn or_zero(task: &Task, count: impl Fn(&Shape) -> u64) -> u64 {
    Shape::of(task).map_or(0, |shape| count(&shape))
}
