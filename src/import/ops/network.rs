//! Layers: convolution, pooling, normalisation, products, recurrence, attention.

use super::{Op, op, same, semantics};

pub static OPS: &[Op] = &[
    op(
        "Attention",
        &[
            "23 3-6 1-4 is_causal:i kv_num_heads:i q_num_heads:i qk_matmul_output_mode:i scale:f softcap:f softmax_precision:i",
            "24 3-7 1-4 is_causal:i kv_num_heads:i q_num_heads:i qk_matmul_output_mode:i scale:f softcap:f softmax_precision:i",
            "25 3-7 1-4 is_causal:i kv_num_heads:i left_window_size:i q_num_heads:i qk_matmul_output_mode:i right_window_size:i scale:f softcap:f softmax_precision:i",
        ],
        same,
    ),
    op(
        "AveragePool",
        &[
            "7 1 1 auto_pad:s count_include_pad:i kernel_shape:is! pads:is strides:is",
            "10 1 1 auto_pad:s ceil_mode:i count_include_pad:i kernel_shape:is! pads:is strides:is",
            "19 1 1 auto_pad:s ceil_mode:i count_include_pad:i dilations:is kernel_shape:is! pads:is strides:is",
        ],
        same,
    ),
    op(
        "BatchNormalization",
        &[
            "7 5 1-5 epsilon:f momentum:f spatial:i",
            "9 5 1-5 epsilon:f momentum:f",
            "14 5 1-3 epsilon:f momentum:f training_mode:i",
        ],
        semantics::batch_norm,
    ),
    op("CausalConvWithState", &["27 2-4 2 activation:s"], same),
    op("Conv", &["1 2-3 1 auto_pad:s dilations:is group:i kernel_shape:is pads:is strides:is"], same),
    op("ConvInteger", &["10 2-4 1 auto_pad:s dilations:is group:i kernel_shape:is pads:is strides:is"], same),
    op(
        "ConvTranspose",
        &["1 2-3 1 auto_pad:s dilations:is group:i kernel_shape:is output_padding:is output_shape:is pads:is strides:is"],
        same,
    ),
    op("DeformConv", &["19 3-5 1 dilations:is group:i kernel_shape:is offset_group:i pads:is strides:is"], same),
    op("Det", &["11 1 1"], same),
    op("Einsum", &["12 1+ 1 equation:s!"], same),
    op(
        "GRU",
        &[
            "7 3-6 0-2 activation_alpha:fs activation_beta:fs activations:ss clip:f direction:s hidden_size:i linear_before_reset:i",
            "14 3-6 0-2 activation_alpha:fs activation_beta:fs activations:ss clip:f direction:s hidden_size:i layout:i linear_before_reset:i",
        ],
        same,
    ),
    op("Gemm", &["7 3 1 alpha:f beta:f transA:i transB:i", "11 2-3 1 alpha:f beta:f transA:i transB:i"], same),
    op("GlobalAveragePool", &["1 1 1"], same),
    op("GlobalLpPool", &["2 1 1 p:i"], same),
    op("GlobalMaxPool", &["1 1 1"], same),
    op(
        "GroupNormalization",
        &["18 3 1 epsilon:f num_groups:i!", "21 3 1 epsilon:f num_groups:i! stash_type:i"],
        semantics::group_norm,
    ),
    op("InstanceNormalization", &["6 3 1 epsilon:f"], same),
    op("LRN", &["1 1 1 alpha:f beta:f bias:f size:i!"], same),
    op(
        "LSTM",
        &[
            "7 3-8 0-3 activation_alpha:fs activation_beta:fs activations:ss clip:f direction:s hidden_size:i input_forget:i",
            "14 3-8 0-3 activation_alpha:fs activation_beta:fs activations:ss clip:f direction:s hidden_size:i input_forget:i layout:i",
        ],
        same,
    ),
    op("LayerNormalization", &["17 2-3 1-3 axis:i epsilon:f stash_type:i"], same),
    op("LinearAttention", &["27 3-6 2 chunk_size:i kv_num_heads:i! q_num_heads:i! scale:f update_rule:s"], same),
    op("LpNormalization", &["1 1 1 axis:i p:i"], same),
    op(
        "LpPool",
        &[
            "2 1 1 auto_pad:s kernel_shape:is! p:i pads:is strides:is",
            "18 1 1 auto_pad:s ceil_mode:i dilations:is kernel_shape:is! p:i pads:is strides:is",
        ],
        same,
    ),
    op("MatMul", &["1 2 1"], same),
    op("MatMulInteger", &["10 2-4 1"], same),
    op(
        "MaxPool",
        &[
            "1 1 1 auto_pad:s kernel_shape:is! pads:is strides:is",
            "8 1 1-2 auto_pad:s kernel_shape:is! pads:is storage_order:i strides:is",
            "10 1 1-2 auto_pad:s ceil_mode:i dilations:is kernel_shape:is! pads:is storage_order:i strides:is",
        ],
        same,
    ),
    op("MaxUnpool", &["9 2-3 1 kernel_shape:is! pads:is strides:is"], same),
    op("MeanVarianceNormalization", &["9 1 1 axes:is"], same),
    op("RMSNormalization", &["23 2 1 axis:i epsilon:f stash_type:i"], same),
    op(
        "RNN",
        &[
            "7 3-6 0-2 activation_alpha:fs activation_beta:fs activations:ss clip:f direction:s hidden_size:i",
            "14 3-6 0-2 activation_alpha:fs activation_beta:fs activations:ss clip:f direction:s hidden_size:i layout:i",
        ],
        same,
    ),
    op("RotaryEmbedding", &["23 3-4 1 interleaved:i num_heads:i rotary_embedding_dim:i"], same),
];
