//! Bodies, sequences and optionals.

use super::{Op, op, same, semantics};

pub static OPS: &[Op] = &[
    op("ConcatFromSequence", &["11 1 1 axis:i! new_axis:i"], same),
    op("If", &["1 1 1+ else_branch:g! then_branch:g!"], same),
    op("Loop", &["1 3+ 1+ body:g!", "11 2+ 1+ body:g!"], same),
    op("Optional", &["15 0-1 1 type:ty"], same),
    op("OptionalGetElement", &["15 1 1"], same),
    op("OptionalHasElement", &["15 1 1", "18 0-1 1"], same),
    op(
        "Scan",
        &[
            "8 2+ 1+ body:g! directions:is num_scan_inputs:i!",
            "9 1+ 1+ body:g! num_scan_inputs:i! scan_input_axes:is scan_input_directions:is scan_output_axes:is scan_output_directions:is",
        ],
        semantics::scan,
    ),
    op("SequenceAt", &["11 2 1"], same),
    op("SequenceConstruct", &["11 1+ 1"], same),
    op("SequenceEmpty", &["11 0 1 dtype:i"], same),
    op("SequenceErase", &["11 1-2 1"], same),
    op("SequenceInsert", &["11 2-3 1"], same),
    op("SequenceLength", &["11 1 1"], same),
    op("SequenceMap", &["17 1+ 1+ body:g!"], same),
    op("SplitToSequence", &["11 1-2 1 axis:i keepdims:i"], same),
];
