//! Fused expressions over elements; the task is that of [`kernels::elementwise`]. Here they are f32 throughout; truth is 0 and 1.

#[allow(unsafe_code)]
mod elements;
mod steps;

use crate::CubeVariant;

/// In the order in which they are tried as a default.
pub static VARIANTS: &[&CubeVariant] = &[&elements::ELEMENTS];
