//! Normalisation over the last axes; the task is that of [`kernels::layer_norm`].

mod team;

use crate::CubeVariant;

/// The most general first.
pub static VARIANTS: &[&CubeVariant] = &[&team::TEAM];
