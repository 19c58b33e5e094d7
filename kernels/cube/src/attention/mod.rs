//! Attention of all heads; the task is that of [`kernels::attention`].

mod blocks;
mod operands;
#[allow(unsafe_code)]
mod products;
#[allow(unsafe_code)]
mod team;

use crate::CubeVariant;

/// In the order in which they are tried as a default.
pub static VARIANTS: &[&CubeVariant] = &[&team::TEAM, &blocks::BLOCKS, &products::PRODUCTS];

/// See [`crate::CubeOperator`].
pub static FIRST_ON_PROCESSORS: &[&CubeVariant] = &[&products::PRODUCTS];
