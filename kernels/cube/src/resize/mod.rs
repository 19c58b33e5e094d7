//! Height and width at another size; the task is that of [`kernels::resize`].

#[allow(unsafe_code)]
mod taps;

use crate::CubeVariant;

/// In the order in which they are tried as a default.
pub static VARIANTS: &[&CubeVariant] = &[&taps::TAPS];
