//! Turns `Resize` of images at nearest or linear into `resize`.

use super::lowering::taken;
use super::rewrite::{Step, Sweep, instead_of, sweep_all};
use super::{Options, PassError};
use crate::graph::{Graph, Node};
use kernels::{Attribute, Attributes};

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    Ok(sweep_all(graph, &mut |sweep, index| match lower(sweep, sweep.node(index)) {
        Some(node) => Step::Replace(vec![node]),
        None => Step::Keep,
    }))
}

/// ONNX's inputs are data, region, scales, sizes. Sizes with a policy, axes of their own and antialiasing are another matter.
fn lower(sweep: &Sweep<'_>, node: &Node) -> Option<Node> {
    let word = |name: &str| node.attributes.string(name);
    let plain = node.op == "Resize"
        && node.attributes.get("axes").is_none()
        && node.attributes.int("antialias").unwrap_or(0) == 0
        && matches!(word("keep_aspect_ratio_policy"), None | Some("stretch"));
    if !plain {
        return None;
    }
    let mut attributes = Attributes::default();
    for name in ["mode", "coordinate_transformation_mode", "nearest_mode"] {
        if let Some(value) = word(name) {
            attributes.set(name, Attribute::String(value.to_owned()));
        }
    }
    if let Some(scales) = node.input(2).filter(|_| node.input(3).is_none()) {
        let scales = sweep.constant(scales)?.values::<f32>()?.into_owned();
        if !scales.is_empty() {
            attributes.set("scales", Attribute::Floats(scales));
        }
    }
    let lowered = instead_of(node, "resize", &[node.input(0)?], &[node.output(0)?], attributes);
    taken(sweep, &lowered).then_some(lowered)
}
