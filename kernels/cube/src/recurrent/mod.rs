//! LSTM and GRU; the tasks are those of [`kernels::lstm`] and [`kernels::gru`].

mod cell;
mod sequence;
#[allow(unsafe_code)]
mod steps;

pub use steps::steps_are_long;

use crate::CubeVariant;

/// In the order in which they are tried as a default.
pub static LSTM_VARIANTS: &[&CubeVariant] = &[&sequence::LSTM, &steps::LSTM];

/// See [`crate::CubeOperator`].
pub static LSTM_OF_LONG_STEPS: &[&CubeVariant] = &[&steps::LSTM];

/// In the order in which they are tried as a default.
pub static GRU_VARIANTS: &[&CubeVariant] = &[&sequence::GRU, &steps::GRU];

/// See [`crate::CubeOperator`].
pub static GRU_OF_LONG_STEPS: &[&CubeVariant] = &[&steps::GRU];
