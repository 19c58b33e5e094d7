//! Turns `Softmax`, `LogSoftmax`, `LayerNormalization` and `RMSNormalization` on f32 into `softmax` and `layer_norm`.
//!
//! A factor and a mask that lead into a softmax go into it.

use super::lowering::taken;
use super::rewrite::{Step, Sweep, axis, sweep_all};
use super::{Options, PassError};
use crate::graph::{Graph, Node, ValueId};
use kernels::{Attribute, Attributes};

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    Ok(sweep_all(graph, &mut |sweep, index| {
        let node = sweep.node(index);
        let lowered = match node.op.as_str() {
            "Softmax" | "LogSoftmax" => softmax(sweep, node),
            "LayerNormalization" | "RMSNormalization" => layer_norm(sweep, node),
            _ => None,
        };
        lowered.map_or(Step::Keep, |node| Step::Replace(vec![node]))
    }))
}

/// What a softmax reads: `scale · x + mask`.
pub(super) struct Scores {
    pub x: ValueId,
    pub mask: Option<ValueId>,
    pub scale: f32,
}

impl Scores {
    /// What makes the scores, where nobody else reads the parts.
    pub fn of(sweep: &Sweep<'_>, id: ValueId) -> Scores {
        let shape = sweep.shape(id);
        let alone = |id: ValueId| sweep.uses(id) == 1 && shape.is_some();
        let mut scores = Scores { x: id, mask: None, scale: 1.0 };
        if let Some(add) = sweep.made_by(id, "Add").filter(|_| alone(id)) {
            let (Some(a), Some(b)) = (add.input(0), add.input(1)) else { return scores };
            let whole = |id| sweep.shape(id) == shape && sweep.is_f32(id);
            // The scores are what is computed for this softmax alone; the mask usually serves several.
            let (x, mask) = if whole(a) && (!whole(b) || sweep.uses(a) <= sweep.uses(b)) { (a, b) } else { (b, a) };
            if !whole(x) {
                return scores;
            }
            (scores.x, scores.mask) = (x, Some(mask));
        }
        let product = sweep.maker(scores.x).filter(|_| alone(scores.x));
        let Some((a, b)) =
            product.and_then(|node| node.input(0).zip(node.input(1)).filter(|_| node.op == "Mul" || node.op == "Div"))
        else {
            return scores;
        };
        let divides = product.is_some_and(|node| node.op == "Div");
        let (x, number) = match (sweep.scalar(a), sweep.scalar(b)) {
            (_, Some(number)) => (a, number),
            (Some(number), _) if !divides => (b, number),
            _ => return scores,
        };
        if sweep.shape(x) == shape && number != 0.0 {
            scores.scale = if divides { 1.0 / number } else { number } as f32;
            scores.x = x;
        }
        scores
    }
}

fn softmax(sweep: &Sweep<'_>, node: &Node) -> Option<Node> {
    let (input, output) = (node.input(0)?, node.output(0)?);
    let along = axis(node.attributes.int("axis").unwrap_or(-1), sweep.ty(input).shape()?.len())?;
    let scores = Scores::of(sweep, input);
    [scores, Scores { x: input, mask: None, scale: 1.0 }].into_iter().find_map(|Scores { x, mask, scale }| {
        let mut attributes = Attributes::default().with("axis", Attribute::Int(along as i64));
        if node.op == "LogSoftmax" {
            attributes.set("log", Attribute::Int(1));
        }
        if scale != 1.0 {
            attributes.set("scale", Attribute::Float(scale));
        }
        let inputs = [Some(x), mask].into_iter().take(1 + usize::from(mask.is_some())).collect();
        let lowered = Node { name: node.name.clone(), attributes, ..Node::new("softmax", inputs, vec![Some(output)]) };
        taken(sweep, &lowered).then_some(lowered)
    })
}

fn layer_norm(sweep: &Sweep<'_>, node: &Node) -> Option<Node> {
    if node.outputs.len() != 1 {
        return None;
    }
    let rank = sweep.ty(node.input(0)?).shape()?.len();
    let mut attributes = Attributes::default()
        .with("axis", Attribute::Int(axis(node.attributes.int("axis").unwrap_or(-1), rank)? as i64))
        .with("epsilon", Attribute::Float(node.attributes.float("epsilon").unwrap_or(1e-5)));
    if node.op == "RMSNormalization" {
        attributes.set("rms", Attribute::Int(1));
    }
    let mut inputs = node.inputs.clone();
    // A scale of ones is the same as none.
    if inputs.get(1).copied().flatten().and_then(|scale| sweep.uniform(scale)) == Some(1.0) {
        inputs[1] = None;
    }
    while matches!(inputs.last(), Some(None)) {
        inputs.pop();
    }
    let lowered = Node { name: node.name.clone(), attributes, ..Node::new("layer_norm", inputs, node.outputs.clone()) };
    taken(sweep, &lowered).then_some(lowered)
}
