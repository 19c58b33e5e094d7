//! The part of `ai.onnx.ml` that has a meaning on tensors alone.

use super::{Op, op, same};

pub static OPS: &[Op] = &[
    op("ai.onnx.ml.ArrayFeatureExtractor", &["1 2 1"], same),
    op("ai.onnx.ml.Binarizer", &["1 1 1 threshold:f"], same),
    op("ai.onnx.ml.Normalizer", &["1 1 1 norm:s"], same),
    op("ai.onnx.ml.Scaler", &["1 1 1 offset:fs scale:fs"], same),
    op(
        "ai.onnx.ml.Imputer",
        &["1 1 1 imputed_value_floats:fs imputed_value_int64s:is replaced_value_float:f replaced_value_int64:i"],
        same,
    ),
    op("ai.onnx.ml.FeatureVectorizer", &["1 1+ 1 inputdimensions:is"], same),
    op("ai.onnx.ml.LinearRegressor", &["1 1 1 coefficients:fs intercepts:fs post_transform:s targets:i"], same),
];
