//! Windows folded; the task is that of [`kernels::pool`].

#[allow(unsafe_code)]
mod windows;

use crate::CubeVariant;

/// In the order in which they are tried as a default.
pub static VARIANTS: &[&CubeVariant] = &[&windows::WINDOWS];
