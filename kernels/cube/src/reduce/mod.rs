//! Axes folded into one element; the task is that of [`kernels::reduce`].

mod team;

use crate::CubeVariant;

/// In the order in which they are tried as a default.
pub static VARIANTS: &[&CubeVariant] = &[&team::TEAM];
