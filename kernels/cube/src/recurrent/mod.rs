//! LSTM and GRU; the tasks are those of [`kernels::lstm`] and [`kernels::gru`].

mod sequence;

use crate::CubeVariant;

/// In the order in which they are tried as a default.
pub static LSTM_VARIANTS: &[&CubeVariant] = &[&sequence::LSTM];

/// In the order in which they are tried as a default.
pub static GRU_VARIANTS: &[&CubeVariant] = &[&sequence::GRU];
