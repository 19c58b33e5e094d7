//! Elements moved and never changed; the tasks are those of [`kernels::copy`] and [`kernels::transpose`].

#[allow(unsafe_code)]
mod blocks;
#[allow(unsafe_code)]
mod strided;

use crate::CubeVariant;

/// Those of `copy`.
pub static VARIANTS: &[&CubeVariant] = &[&strided::COPY];

/// Those of `transpose`, in the order in which they are tried as a default.
pub static TRANSPOSE_VARIANTS: &[&CubeVariant] = &[&blocks::BLOCKS, &strided::TRANSPOSE];
