//! Versions that mean something else by the same attributes.

use super::{Draft, ImportError};
use kernels::{Attribute, Tensor};

/// `Softmax` and its kin before 13 flatten to a matrix at `axis` and work on its rows. What that is in today's terms depends on the rank:
/// the axis is left in the attribute [`COERCED`] for `settle`.
pub(super) fn coerced(draft: &mut Draft<'_>) -> Result<(), ImportError> {
    if draft.opset < 13 {
        let axis = draft.attributes.int("axis").unwrap_or(1);
        draft.attributes.remove("axis");
        draft.attributes.set(COERCED, Attribute::Int(axis));
    }
    Ok(())
}

/// The attribute by which a node says that it flattens at an axis.
pub const COERCED: &str = "coerced_axis";

/// The attribute by which a `GroupNormalization` says that scale and bias are per group.
pub const PER_GROUP: &str = "per_group";

/// `Upsample` is `Resize` with corners at zero and rounding down.
pub(super) fn upsample(draft: &mut Draft<'_>) -> Result<(), ImportError> {
    if let Some(Attribute::Floats(scales)) = draft.attributes.remove("scales") {
        draft.set_input(2, "scales", Tensor::new(vec![scales.len()], scales));
    } else {
        scales_third(draft);
    }
    draft.op = "Resize".to_owned();
    asymmetric(draft);
    Ok(())
}

/// `Resize` 10 has two inputs and one way of looking at coordinates; 11 may give empty tensors for absent inputs.
pub(super) fn resize(draft: &mut Draft<'_>) -> Result<(), ImportError> {
    if draft.opset < 11 {
        scales_third(draft);
        asymmetric(draft);
    }
    for index in 1..draft.inputs.len() {
        if draft.known(index).is_some_and(|tensor| tensor.is_empty()) {
            draft.inputs[index] = None;
        }
    }
    while draft.inputs.last().is_some_and(Option::is_none) {
        draft.inputs.pop();
    }
    Ok(())
}

/// Scales move from the second input to the third, where the newer form has them.
fn scales_third(draft: &mut Draft<'_>) {
    let scales = draft.inputs.get(1).copied().flatten();
    draft.inputs.resize(1, None);
    draft.inputs.extend([None, scales]);
}

fn asymmetric(draft: &mut Draft<'_>) {
    draft.attributes.set("coordinate_transformation_mode", Attribute::String("asymmetric".to_owned()));
    draft.attributes.set("nearest_mode", Attribute::String("floor".to_owned()));
    if draft.attributes.string("mode") == Some("bilinear") {
        draft.attributes.set("mode", Attribute::String("linear".to_owned()));
    }
}

/// `BatchNormalization` before 14 gives training's statistics as further outputs.
pub(super) fn batch_norm(draft: &mut Draft<'_>) -> Result<(), ImportError> {
    if draft.attributes.remove("spatial") == Some(Attribute::Int(0)) {
        return Err(draft.refuse("statistics per element (spatial=0) went out of the standard with operator set 9"));
    }
    if draft.opset < 14 {
        if draft.outputs.iter().skip(1).any(Option::is_some) {
            return Err(draft.refuse("outputs of training mode").advise("export the model for inference"));
        }
        draft.outputs.truncate(1);
    }
    Ok(())
}

/// `Scatter` is `ScatterElements` under its old name.
pub(super) fn scatter(draft: &mut Draft<'_>) -> Result<(), ImportError> {
    draft.op = "ScatterElements".to_owned();
    Ok(())
}

/// `GridSample` 16 called its modes by their two-dimensional names.
pub(super) fn grid_sample(draft: &mut Draft<'_>) -> Result<(), ImportError> {
    let mode = match draft.attributes.string("mode") {
        Some("bilinear") => "linear",
        Some("bicubic") => "cubic",
        _ => return Ok(()),
    };
    draft.attributes.set("mode", Attribute::String(mode.to_owned()));
    Ok(())
}

/// `DFT` 17 had its axis, 1 by default, as an attribute.
pub(super) fn dft(draft: &mut Draft<'_>) -> Result<(), ImportError> {
    if draft.opset < 20 {
        let axis = draft.attributes.int("axis").unwrap_or(1);
        draft.attributes.remove("axis");
        draft.set_input(2, "axis", Tensor::scalar(axis));
    }
    Ok(())
}

/// `GroupNormalization` 18 had scale and bias per group, 21 has them per channel: see `settle`.
pub(super) fn group_norm(draft: &mut Draft<'_>) -> Result<(), ImportError> {
    if draft.opset < 21 {
        draft.attributes.set(PER_GROUP, Attribute::Int(1));
    }
    Ok(())
}

/// `RoiAlign` 10 put pixels at their corners.
pub(super) fn roi_align(draft: &mut Draft<'_>) -> Result<(), ImportError> {
    if draft.opset < 16 {
        draft.attributes.set("coordinate_transformation_mode", Attribute::String("output_half_pixel".to_owned()));
    }
    Ok(())
}

/// `Scan` 8 had a batch axis of its own.
pub(super) fn scan(draft: &mut Draft<'_>) -> Result<(), ImportError> {
    if draft.opset < 9 {
        return Err(draft.refuse("operator set 8 scanned a batch at a time").advise("export again with operator set 9 or newer"));
    }
    Ok(())
}
