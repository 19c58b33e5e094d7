//! Softmax along an axis; the task is that of [`kernels::softmax`].

#[allow(unsafe_code)]
mod team;

use crate::CubeVariant;

/// In the order in which they are tried as a default.
pub static VARIANTS: &[&CubeVariant] = &[&team::TEAM];
