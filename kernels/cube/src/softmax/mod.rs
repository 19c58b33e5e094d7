//! Softmax along an axis; the task is that of [`kernels::softmax`].

mod team;

use crate::CubeVariant;

/// The most general first.
pub static VARIANTS: &[&CubeVariant] = &[&team::TEAM];
