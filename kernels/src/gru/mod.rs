//! Gated recurrent units over a sequence: operands, attributes and task as [`recurrent`] says.

use crate::{Operator, recurrent};

/// Gated recurrent units over a sequence.
pub static GRU: Operator = Operator {
    id: "gru",
    variants: &[&recurrent::GRU_PACKED, &recurrent::GRU_DOTS],
    task: |facts| recurrent::task("gru", facts),
    signature: recurrent::signature,
    flops: recurrent::flops,
    bytes: recurrent::bytes,
    reference: recurrent::reference::compute,
    row_wise: |_, _| false,
};
