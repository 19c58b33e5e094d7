//! Attributes that later versions take as inputs.

use super::{Draft, ImportError};
use kernels::{Attribute, Tensor};

/// `Squeeze`, `Unsqueeze`, reductions: `axes`.
pub(super) fn axes(draft: &mut Draft<'_>) -> Result<(), ImportError> {
    draft.ints_to_input("axes", 1);
    Ok(())
}

/// `Clip` before 11. The bounds must have the type of the input, which is known after inference: see `settle`.
pub(super) fn clip(_: &mut Draft<'_>) -> Result<(), ImportError> {
    Ok(())
}

/// `Dropout` before 12. In inference it passes its input on.
pub(super) fn dropout(draft: &mut Draft<'_>) -> Result<(), ImportError> {
    if let Some(Attribute::Float(ratio)) = draft.attributes.remove("ratio") {
        draft.set_input(1, "ratio", Tensor::scalar(ratio));
    }
    Ok(())
}

/// `Slice` before 10.
pub(super) fn slice(draft: &mut Draft<'_>) -> Result<(), ImportError> {
    for (index, attribute) in [(1, "starts"), (2, "ends"), (3, "axes")] {
        draft.ints_to_input(attribute, index);
    }
    Ok(())
}

/// `Pad` before 11. The fill must have the type of the input: see `settle`.
pub(super) fn pad(draft: &mut Draft<'_>) -> Result<(), ImportError> {
    draft.ints_to_input("pads", 1);
    Ok(())
}

/// `Split` before 13; before 18 the number of outputs said into how many parts.
pub(super) fn split(draft: &mut Draft<'_>) -> Result<(), ImportError> {
    draft.ints_to_input("split", 1);
    if draft.inputs.len() < 2 && draft.attributes.int("num_outputs").is_none() {
        let parts = draft.outputs.len() as i64;
        draft.attributes.set("num_outputs", Attribute::Int(parts));
    }
    Ok(())
}

/// `TopK` before 10.
pub(super) fn top_k(draft: &mut Draft<'_>) -> Result<(), ImportError> {
    if let Some(Attribute::Int(k)) = draft.attributes.remove("k") {
        draft.set_input(1, "k", Tensor::new(vec![1], vec![k]));
    }
    Ok(())
}
