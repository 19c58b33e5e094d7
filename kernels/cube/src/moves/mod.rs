//! Elements moved and never changed; the tasks are those of [`kernels::copy`] and [`kernels::transpose`].

mod strided;

use crate::CubeVariant;

/// Those of `copy`.
pub static VARIANTS: &[&CubeVariant] = &[&strided::COPY];

/// Those of `transpose`.
pub static TRANSPOSE_VARIANTS: &[&CubeVariant] = &[&strided::TRANSPOSE];
