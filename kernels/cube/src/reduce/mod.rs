//! Axes folded into one element; the task is that of [`kernels::reduce`].

mod team;

use crate::CubeVariant;

/// The most general first.
pub static VARIANTS: &[&CubeVariant] = &[&team::TEAM];
