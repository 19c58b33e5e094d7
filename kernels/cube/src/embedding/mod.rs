//! Rows of a table, or sums of them; the task is that of [`kernels::embedding`].

#[allow(unsafe_code)]
mod elements;

use crate::CubeVariant;

/// In the order in which they are tried as a default.
pub static VARIANTS: &[&CubeVariant] = &[&elements::ELEMENTS];
