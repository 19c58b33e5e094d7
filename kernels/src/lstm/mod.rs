//! Long short-term memory over a sequence: operands, attributes and task as [`recurrent`] says.

pub use crate::recurrent::{Cell, Shape};

use crate::{Operator, recurrent};

/// Long short-term memory over a sequence.
pub static LSTM: Operator = Operator {
    id: "lstm",
    variants: &[&recurrent::LSTM_PACKED, &recurrent::LSTM_DOTS],
    task: |facts| recurrent::task("lstm", facts),
    signature: recurrent::signature,
    flops: recurrent::flops,
    bytes: recurrent::bytes,
    reference: recurrent::reference::compute,
    row_wise: |_, _| false,
};
