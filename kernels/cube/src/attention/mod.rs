//! Attention of all heads; the task is that of [`kernels::attention`].

mod blocks;
mod operands;
mod team;

use crate::CubeVariant;

/// In the order in which they are tried as a default.
pub static VARIANTS: &[&CubeVariant] = &[&team::TEAM, &blocks::BLOCKS];
