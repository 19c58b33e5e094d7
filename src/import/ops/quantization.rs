//! Quantisation.

use super::{Op, op, same};

pub static OPS: &[Op] = &[
    op(
        "DequantizeLinear",
        &["10 2-3 1", "13 2-3 1 axis:i", "21 2-3 1 axis:i block_size:i", "23 2-3 1 axis:i block_size:i output_dtype:i"],
        same,
    ),
    op("DynamicQuantizeLinear", &["11 1 3"], same),
    op("QLinearConv", &["10 8-9 1 auto_pad:s dilations:is group:i kernel_shape:is pads:is strides:is"], same),
    op("QLinearMatMul", &["10 8 1"], same),
    op(
        "QuantizeLinear",
        &[
            "10 2-3 1",
            "13 2-3 1 axis:i",
            "19 2-3 1 axis:i saturate:i",
            "21 2-3 1 axis:i block_size:i output_dtype:i saturate:i",
            "23 2-3 1 axis:i block_size:i output_dtype:i precision:i saturate:i",
        ],
        same,
    ),
];
