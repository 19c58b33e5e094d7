//! Whether the bodies of `If`, `Loop`, `Scan` and `SequenceMap` fit the node that holds them.

use super::error::{Class, ImportError};
use crate::graph::Graph;
use kernels::Attributes;

/// Checks inputs and outputs of the bodies against the node's.
///
/// # Errors
/// [`Class::Arity`].
pub(super) fn check(
    op: &str,
    inputs: usize,
    outputs: usize,
    attributes: &Attributes,
    bodies: &[(String, Graph)],
) -> Result<(), ImportError> {
    for (name, body) in bodies {
        let (takes, gives) = (body.inputs.len(), body.outputs.len());
        let expected = match op {
            "If" => Some((0, outputs, false)),
            // Round and condition, then the carried values; condition first, then carried values, then what is stacked.
            "Loop" => Some((inputs.max(2), outputs.saturating_add(1), gives > outputs && gives > inputs.saturating_sub(2))),
            "Scan" => {
                let scanned = attributes.int("num_scan_inputs").unwrap_or_default();
                if scanned < 1 || scanned as u64 > inputs as u64 {
                    let found = format!("num_scan_inputs is {scanned} of {inputs} inputs");
                    return Err(ImportError::new(Class::BadAttribute, "", found));
                }
                Some((inputs, outputs, gives >= outputs && gives >= inputs - scanned as usize))
            }
            "SequenceMap" => Some((inputs, outputs, false)),
            _ => None,
        };
        let Some((wants_inputs, wants_outputs, more_is_fine)) = expected else { continue };
        if takes != wants_inputs || (gives != wants_outputs && !more_is_fine) {
            let found = format!(
                "{op}: its {name} has {takes} inputs and {gives} outputs, the node needs {wants_inputs} and {wants_outputs}"
            );
            return Err(ImportError::new(Class::Arity, "", found));
        }
    }
    Ok(())
}
