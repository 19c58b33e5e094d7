//! Fused expressions over elements; the task is that of [`kernels::elementwise`]. Here they are f32 throughout; truth is 0 and 1.

mod elements;
mod steps;

use crate::CubeVariant;

/// The most general first.
pub static VARIANTS: &[&CubeVariant] = &[&elements::ELEMENTS];
