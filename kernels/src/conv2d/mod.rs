//! Convolutions over two axes: `y = act(conv(x, weight) + bias + residual)`.
//!
//! Parameters of the task; those with a default may be absent:
//!
//! | parameter | means |
//! |---|---|
//! | `n` `c` `h` `w` | x is `[n, c, h, w]` |
//! | `o` `kh` `kw` | the weight is `[o, c/groups, kh, kw]`, y `[n, o, h', w']` |
//! | `strides` `dilations` | `[vertical,horizontal]`, default `[1,1]` |
//! | `pads` | `[top,left,bottom,right]`, zeros, default `[0,0,0,0]` |
//! | `groups` | default 1 |
//! | `in` `out` | layout: `rows` (default) or `channels16hH`. The residual lies as y |
//! | `weight` | `const` (default; packed when built) or `dynamic`, always in rows |
//! | `epilogue` | default `none`; bias is `[o]`, constant where the weight is |
//!
//! Inputs by position: x, weight, bias, residual; an absent bias before a residual has shape `[0]`.
//!
//! Every variant writes the whole of a blocked y: zeros in the halo and in channels that pad the last block.

mod gather;
pub mod geometry;
mod host_direct;
mod host_first;
mod host_im2col;
mod host_winograd;
mod reference;
pub mod shape;
pub mod stage;
pub mod weights;
mod winograd;

pub use reference::convolve;
pub use shape::Shape;

use crate::{Operator, Task};

/// See the module.
pub static CONV2D: Operator = Operator {
    id: "conv2d",
    variants: &[&host_im2col::IM2COL, &host_direct::DIRECT, &host_winograd::WINOGRAD, &host_first::FIRST],
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
