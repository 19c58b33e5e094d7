//! Puts what follows a matrix product or convolution into it: a bias, a residual of the result's shape, an activation.
//!
//! A follower goes in when it is the only reader of the result. The fused node stands where the follower stood, so that a residual made
//! in between is there. Order matters: `act(acc + bias + residual)`; nothing follows the activation.

use super::fuse_elementwise::expression;
use super::lowering::taken;
use super::rewrite::{Step, Sweep, sweep_all};
use super::{Options, PassError};
use crate::graph::{Graph, Node, ValueId};
use kernels::elementwise::Expression;
use kernels::elementwise::expression::Function;
use kernels::epilogue::{Activation, Epilogue};
use kernels::{Attribute, Tensor};

/// Operators with an epilogue, and the axis of the result along which the bias runs, counted from the end. Bias is input 2,
/// residual input 3 of each.
static HOSTS: &[(&str, usize)] = &[("gemm", 1), ("conv2d", 3), ("depthwise", 3), ("conv_transpose2d", 3)];

/// Whether a node has an epilogue.
pub(super) fn is_host(node: &Node) -> bool {
    HOSTS.iter().any(|(op, _)| *op == node.op)
}

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    let mut changes = 0;
    loop {
        let fused = sweep_all(graph, &mut |sweep, index| match fuse(sweep, index) {
            Some(node) => Step::Replace(vec![node]),
            None => Step::Keep,
        });
        changes += fused;
        if fused == 0 {
            return Ok(changes);
        }
    }
}

/// The product or convolution that makes a value which only one node reads, once.
fn host<'s>(sweep: &'s Sweep<'_>, id: ValueId) -> Option<(&'s Node, usize)> {
    let node = sweep.maker(id)?;
    let (_, axis) = HOSTS.iter().find(|(op, _)| *op == node.op)?;
    (sweep.uses(id) == 1).then_some((node, *axis))
}

fn epilogue(node: &Node) -> Option<Epilogue> {
    Epilogue::parse(node.attributes.string("epilogue").unwrap_or("none"))
}

fn fuse(sweep: &mut Sweep<'_>, index: usize) -> Option<Node> {
    let follower = sweep.node(index).clone();
    let expression = expression(&follower)?;
    if let Some(activation) = activation(&expression) {
        return fuse_activation(sweep, &follower, activation);
    }
    let Expression::Call(Function::Add, operands) = &expression else { return None };
    let [left, right] = &operands[..] else { return None };
    match (left, right) {
        (Expression::Input(a), Expression::Input(b)) => {
            let (a, b) = (follower.input(*a)?, follower.input(*b)?);
            // The product made last takes the other as residual: the other exists by then.
            let mut order = [(a, b), (b, a)];
            order.sort_by_key(|(made, _)| std::cmp::Reverse(sweep.maker_index(*made)));
            order.into_iter().find_map(|(made, added)| fuse_sum(sweep, &follower, made, added))
        }
        (Expression::Input(a), Expression::Number(number)) | (Expression::Number(number), Expression::Input(a)) => {
            let made = follower.input(*a)?;
            fuse_number(sweep, &follower, made, *number)
        }
        _ => None,
    }
}

/// The activation that an expression of one input is.
fn activation(expression: &Expression) -> Option<Activation> {
    let Expression::Call(function, arguments) = expression else { return None };
    if arguments.first() != Some(&Expression::Input(0)) {
        return match (function, &arguments[..]) {
            (Function::Min, [Expression::Number(hi), Expression::Input(0)]) => {
                Some(Activation::Clip { lo: f32::NEG_INFINITY, hi: *hi })
            }
            _ => None,
        };
    }
    let numbers: Option<Vec<f32>> = arguments[1..]
        .iter()
        .map(|argument| if let Expression::Number(number) = argument { Some(*number) } else { None })
        .collect();
    Some(match (function, &numbers?[..]) {
        (Function::Clip, &[lo, hi]) => Activation::Clip { lo, hi },
        (Function::LeakyRelu, &[alpha]) => Activation::LeakyRelu { alpha },
        (Function::HardSigmoid, &[alpha, beta]) => Activation::HardSigmoid { alpha, beta },
        (function, []) => function.activation()?,
        _ => return None,
    })
}

fn fuse_activation(sweep: &Sweep<'_>, follower: &Node, activation: Activation) -> Option<Node> {
    let (node, _) = host(sweep, follower.input(0)?)?;
    let epilogue = epilogue(node).filter(|epilogue| epilogue.activation == Activation::None)?;
    fused(sweep, node, follower, &node.inputs, Epilogue { activation, ..epilogue })
}

/// The host with other inputs and epilogue, making what the follower made, if its operator takes that.
fn fused(sweep: &Sweep<'_>, node: &Node, follower: &Node, inputs: &[Option<ValueId>], epilogue: Epilogue) -> Option<Node> {
    let mut fused = Node { inputs: inputs.to_vec(), outputs: follower.outputs.clone(), ..node.clone() };
    fused.attributes.set("epilogue", Attribute::String(epilogue.to_string()));
    taken(sweep, &fused).then_some(fused)
}

fn fuse_sum(sweep: &mut Sweep<'_>, follower: &Node, made: ValueId, added: ValueId) -> Option<Node> {
    let (node, axis) = host(sweep, made)?;
    let node = node.clone();
    let epilogue = epilogue(&node).filter(|epilogue| epilogue.activation == Activation::None)?;
    let shape = sweep.shape(made)?;
    if sweep.shape(follower.output(0)?)? != shape || made == added {
        return None;
    }
    if let Some(bias) = bias(sweep, &node, added, &shape, axis) {
        return fuse_bias(sweep, &node, follower, bias, epilogue);
    }
    let same = sweep.shape(added)? == shape && sweep.is_f32(added) && sweep.constant(added).is_none();
    if epilogue.residual || !same {
        return None;
    }
    let inputs = [node.input(0), node.input(1), node.input(2), Some(added)];
    fused(sweep, &node, follower, &inputs, Epilogue { residual: true, ..epilogue })
}

/// The numbers of a constant that runs along the channels only, or is one number.
fn bias(sweep: &Sweep<'_>, node: &Node, added: ValueId, shape: &[usize], axis: usize) -> Option<Vec<f32>> {
    sweep.constant(node.input(1)?)?;
    let tensor = sweep.constant(added)?;
    let channels = *shape.get(shape.len().checked_sub(axis)?)?;
    let rank = tensor.shape().len();
    let along = |(i, &dim): (usize, &usize)| dim == 1 || rank - i == axis;
    if rank > shape.len() || !tensor.shape().iter().enumerate().all(along) {
        return None;
    }
    let values = tensor.values::<f32>()?;
    match values.len() {
        1 => Some(vec![values[0]; channels]),
        len if len == channels => Some(values.into_owned()),
        _ => None,
    }
}

fn fuse_number(sweep: &mut Sweep<'_>, follower: &Node, made: ValueId, number: f32) -> Option<Node> {
    let (node, axis) = host(sweep, made)?;
    let node = node.clone();
    let epilogue = epilogue(&node).filter(|epilogue| epilogue.activation == Activation::None)?;
    sweep.constant(node.input(1)?)?;
    let shape = sweep.shape(made)?;
    let channels = *shape.get(shape.len().checked_sub(axis)?)?;
    fuse_bias(sweep, &node, follower, vec![number; channels], epilogue)
}

/// Adds numbers along the channels to the bias there is, or makes them the bias.
fn fuse_bias(sweep: &mut Sweep<'_>, node: &Node, follower: &Node, mut bias: Vec<f32>, epilogue: Epilogue) -> Option<Node> {
    if epilogue.bias {
        let known = sweep.constant(node.input(2)?)?.values::<f32>()?.into_owned();
        bias.iter_mut().zip(known).for_each(|(sum, value)| *sum += value);
    }
    let bias = sweep.add_constant(follower.output(0)?, "bias", Tensor::new(vec![bias.len()], bias));
    let mut inputs = node.inputs.clone();
    inputs.resize(inputs.len().max(3), None);
    inputs[2] = Some(bias);
    fused(sweep, node, follower, &inputs, Epilogue { bias: true, ..epilogue })
}
