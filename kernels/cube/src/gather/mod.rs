//! Slices along an axis; the task is that of [`kernels::gather`].

#[allow(unsafe_code)]
mod elements;

use crate::CubeVariant;

/// In the order in which they are tried as a default.
pub static VARIANTS: &[&CubeVariant] = &[&elements::ELEMENTS];
