//! Images and detection, and the losses.

use super::{Op, op, same, semantics};

pub static OPS: &[Op] = &[
    op("AffineGrid", &["20 2 1 align_corners:i"], same),
    op("GridSample", &["16 2 1 align_corners:i mode:s padding_mode:s"], semantics::grid_sample),
    op("ImageDecoder", &["20 1 1 pixel_format:s"], same),
    op("MaxRoiPool", &["1 2 1 pooled_shape:is! spatial_scale:f"], same),
    op("NegativeLogLikelihoodLoss", &["12 2-3 1 ignore_index:i reduction:s"], same),
    op("NonMaxSuppression", &["10 2-5 1 center_point_box:i"], same),
    op(
        "Resize",
        &[
            "10 2 1 mode:s",
            "11 3-4 1 coordinate_transformation_mode:s cubic_coeff_a:f exclude_outside:i extrapolation_value:f mode:s nearest_mode:s",
            "13 1-4 1 coordinate_transformation_mode:s cubic_coeff_a:f exclude_outside:i extrapolation_value:f mode:s nearest_mode:s",
            "18 1-4 1 antialias:i axes:is coordinate_transformation_mode:s cubic_coeff_a:f exclude_outside:i extrapolation_value:f keep_aspect_ratio_policy:s mode:s nearest_mode:s",
        ],
        semantics::resize,
    ),
    op(
        "RoiAlign",
        &[
            "10 3 1 mode:s output_height:i output_width:i sampling_ratio:i spatial_scale:f",
            "16 3 1 coordinate_transformation_mode:s mode:s output_height:i output_width:i sampling_ratio:i spatial_scale:f",
        ],
        semantics::roi_align,
    ),
    op("SoftmaxCrossEntropyLoss", &["12 2-3 1-2 ignore_index:i reduction:s"], same),
    op("Upsample", &["7 1 1 mode:s scales:fs!", "9 2 1 mode:s"], semantics::upsample),
];
