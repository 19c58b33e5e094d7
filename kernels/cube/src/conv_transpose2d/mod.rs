//! Transposed convolutions; the task is that of [`kernels::conv_transpose2d`].

#[allow(unsafe_code)]
mod direct;

use crate::CubeVariant;

/// In the order in which they are tried as a default.
pub static VARIANTS: &[&CubeVariant] = &[&direct::DIRECT];
