//! Windows folded; the task is that of [`kernels::pool`].

mod windows;

use crate::CubeVariant;

/// The most general first.
pub static VARIANTS: &[&CubeVariant] = &[&windows::WINDOWS];
