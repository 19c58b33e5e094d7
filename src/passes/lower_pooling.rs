//! Turns `MaxPool` and `AveragePool` on f32 into `pool`.

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

fn lower(sweep: &Sweep<'_>, node: &Node) -> Option<Node> {
    let kind = match node.op.as_str() {
        "MaxPool" => "max",
        "AveragePool" => "average",
        _ => return None,
    };
    if node.outputs.len() != 1 {
        return None;
    }
    let (x, y) = (node.input(0)?, node.output(0)?);
    let kernel = node.attributes.ints("kernel_shape")?.to_vec();
    let mut attributes = Attributes::default()
        .with("kind", Attribute::String(kind.to_owned()))
        .with("kernel_shape", Attribute::Ints(kernel.clone()));
    for name in ["strides", "dilations"] {
        if let Some(values) = node.attributes.get(name) {
            attributes.set(name, values.clone());
        }
    }
    if let Some(pads) = pads(node, &sweep.shape(x)?, &sweep.shape(y)?, &kernel)? {
        attributes.set("pads", Attribute::Ints(pads));
    }
    if node.attributes.int("count_include_pad").unwrap_or(0) != 0 && kind == "average" {
        attributes.set("count_include_pad", Attribute::Int(1));
    }
    let lowered = instead_of(node, "pool", &[x], &[y], attributes);
    taken(sweep, &lowered).then_some(lowered)
}

/// The padding, written out; `Some(None)` for none.
#[allow(clippy::option_option, reason = "no padding and no answer are different things")]
fn pads(node: &Node, x: &[usize], y: &[usize], kernel: &[i64]) -> Option<Option<Vec<i64>>> {
    let upper = match node.attributes.string("auto_pad").unwrap_or("NOTSET") {
        "NOTSET" => return Some(node.attributes.ints("pads").map(<[i64]>::to_vec)),
        "VALID" => return Some(None),
        "SAME_UPPER" => true,
        "SAME_LOWER" => false,
        _ => return None,
    };
    let axes = kernel.len();
    let list = |name: &str, axis: usize| match node.attributes.ints(name) {
        Some(values) => values.get(axis).copied(),
        None => Some(1),
    };
    let mut pads = vec![0; 2 * axes];
    for axis in 0..axes {
        let (extent, places) = (i64::try_from(*x.get(axis + 2)?).ok()?, i64::try_from(*y.get(axis + 2)?).ok()?);
        let span = (kernel[axis] - 1).checked_mul(list("dilations", axis)?)?.checked_add(1)?;
        let need = (places - 1).checked_mul(list("strides", axis)?)?.checked_add(span)?.checked_sub(extent)?.max(0);
        let (less, more) = (need / 2, need - need / 2);
        (pads[axis], pads[axes + axis]) = if upper { (less, more) } else { (more, less) };
    }
    Some(Some(pads))
}
