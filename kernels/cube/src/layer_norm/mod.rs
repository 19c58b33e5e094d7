//! Normalisation over the last axes; the task is that of [`kernels::layer_norm`].

#[allow(unsafe_code)]
mod team;

use crate::CubeVariant;

/// In the order in which they are tried as a default.
pub static VARIANTS: &[&CubeVariant] = &[&team::TEAM];
