//! Turns `MatMul` and `Gemm` on f32 into `gemm`.
//!
//! Transposes of an operand's last two axes become `trans_a` and `trans_b`. A constant `C` of `Gemm` that is one row becomes the bias; any
//! other is added by an elementwise node. A vector operand gets an axis and its result loses it again.

use super::lowering::taken;
use super::rewrite::{Step, Sweep, instead_of, reshape_to, sweep_all};
use super::{Options, PassError};
use crate::graph::{Graph, Node, Type, ValueId};
use kernels::{Attribute, Attributes, Tensor};
use schema::DType;

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    Ok(sweep_all(graph, &mut |sweep, index| {
        let nodes = match sweep.node(index).op.as_str() {
            "MatMul" => lower_matmul(sweep, index),
            "Gemm" => lower_gemm(sweep, index),
            _ => None,
        };
        nodes.map_or(Step::Keep, Step::Replace)
    }))
}

/// A product being built: operands with transposes taken off.
struct Product {
    a: ValueId,
    b: ValueId,
    trans_a: bool,
    trans_b: bool,
    alpha: f32,
}

impl Product {
    fn attributes(&self) -> Attributes {
        let mut attributes = Attributes::default();
        if self.trans_a {
            attributes.set("trans_a", Attribute::Int(1));
        }
        if self.trans_b {
            attributes.set("trans_b", Attribute::Int(1));
        }
        if self.alpha != 1.0 {
            attributes.set("alpha", Attribute::Float(self.alpha));
        }
        attributes
    }

    /// Reads through transposes of the last two axes. A constant may be read either way; what is computed is better read as it lies,
    /// and then the transpose need not be computed.
    fn through_transposes(mut self, sweep: &Sweep<'_>) -> Self {
        if let Some(a) = transposed(sweep, self.a) {
            (self.a, self.trans_a) = (a, !self.trans_a);
        }
        if let Some(b) = transposed(sweep, self.b) {
            (self.b, self.trans_b) = (b, !self.trans_b);
        }
        self
    }
}

/// What a transpose of the last two axes reads.
fn transposed(sweep: &Sweep<'_>, id: ValueId) -> Option<ValueId> {
    let node = sweep.made_by(id, "Transpose")?;
    let rank = sweep.ty(id).shape()?.len();
    let swapped = |perm: &[i64]| {
        let kept = perm.iter().take(rank.saturating_sub(2)).enumerate().all(|(i, &axis)| i as i64 == axis);
        rank >= 2 && kept && perm[rank - 2..] == [rank as i64 - 1, rank as i64 - 2]
    };
    let matches = node.attributes.ints("perm").map_or(rank == 2, |perm| perm.len() == rank && swapped(perm));
    if matches { node.input(0) } else { None }
}

fn lower_matmul(sweep: &mut Sweep<'_>, index: usize) -> Option<Vec<Node>> {
    let node = sweep.node(index).clone();
    let (a, b, y) = (node.input(0)?, node.input(1)?, node.output(0)?);
    let (a_shape, b_shape) = (sweep.shape(a)?, sweep.shape(b)?);
    if a_shape.len() >= 2 && b_shape.len() >= 2 {
        let product = Product { a, b, trans_a: false, trans_b: false, alpha: 1.0 }.through_transposes(sweep);
        let lowered = instead_of(&node, "gemm", &[product.a, product.b], &[y], product.attributes());
        return taken(sweep, &lowered).then(|| vec![lowered]);
    }
    lower_vector(sweep, &node, a_shape, b_shape)
}

/// A product with a vector: as a matrix of one row or column.
fn lower_vector(sweep: &mut Sweep<'_>, node: &Node, a_shape: Vec<usize>, b_shape: Vec<usize>) -> Option<Vec<Node>> {
    let (mut a, mut b, y) = (node.input(0)?, node.input(1)?, node.output(0)?);
    if a_shape.is_empty() || b_shape.is_empty() || !sweep.is_f32(a) || !sweep.is_f32(b) {
        return None;
    }
    let mut nodes = Vec::new();
    let mut full = sweep.shape(y)?;
    if b_shape.len() == 1 {
        full.push(1);
        b = reshaped(sweep, node, b, vec![b_shape[0], 1], &mut nodes);
    }
    if a_shape.len() == 1 {
        full.insert(full.len() - 1, 1);
        a = reshaped(sweep, node, a, vec![1, a_shape[0]], &mut nodes);
    }
    let c = sweep.add(y, "matrix", Type::tensor(DType::F32, &full));
    let lowered = instead_of(node, "gemm", &[a, b], &[c], Attributes::default());
    if !taken(sweep, &lowered) {
        return None;
    }
    nodes.push(lowered);
    let shape = sweep.shape(y)?;
    nodes.push(reshape_to(sweep, node, c, y, &shape));
    Some(nodes)
}

fn reshaped(sweep: &mut Sweep<'_>, node: &Node, id: ValueId, shape: Vec<usize>, nodes: &mut Vec<Node>) -> ValueId {
    if let Some(tensor) = sweep.constant(id).and_then(|tensor| tensor.reshaped(shape.clone())) {
        return sweep.add_constant(id, "matrix", tensor);
    }
    let to = sweep.add(id, "matrix", Type::tensor(DType::F32, &shape));
    nodes.push(reshape_to(sweep, node, id, to, &shape));
    to
}

fn lower_gemm(sweep: &mut Sweep<'_>, index: usize) -> Option<Vec<Node>> {
    let node = sweep.node(index).clone();
    let (a, b, y) = (node.input(0)?, node.input(1)?, node.output(0)?);
    let flag = |name| node.attributes.int(name).unwrap_or(0) != 0;
    let alpha = node.attributes.float("alpha").unwrap_or(1.0);
    let product = Product { a, b, trans_a: flag("transA"), trans_b: flag("transB"), alpha }.through_transposes(sweep);
    let bare = instead_of(&node, "gemm", &[product.a, product.b], &[y], product.attributes());
    if !taken(sweep, &bare) {
        return None;
    }
    let beta = node.attributes.float("beta").unwrap_or(1.0);
    let Some(c) = node.input(2).filter(|_| beta != 0.0) else { return Some(vec![bare]) };
    if let Some(bias) = row(sweep, c, beta, *sweep.shape(y)?.last()?) {
        let bias = sweep.add_constant(y, "bias", bias);
        let attributes = product.attributes().with("epilogue", Attribute::String("bias".to_owned()));
        return Some(vec![instead_of(&node, "gemm", &[product.a, product.b, bias], &[y], attributes)]);
    }
    let expression = if beta == 1.0 { "add(a,b)".to_owned() } else { format!("add(a,mul(b,{beta:?}))") };
    let ty = sweep.ty(y).clone();
    let c_product = sweep.add(y, "product", ty);
    let attributes = Attributes::default().with("expr", Attribute::String(expression));
    let added = instead_of(&node, "elementwise", &[c_product, c], &[y], attributes);
    taken(sweep, &added).then(|| vec![Node { outputs: vec![Some(c_product)], ..bare }, added])
}

/// `beta · c` as one row of n numbers, if the constant is one.
fn row(sweep: &Sweep<'_>, c: ValueId, beta: f32, n: usize) -> Option<Tensor> {
    let tensor = sweep.constant(c)?;
    let values = tensor.values::<f32>()?;
    let one_row = match tensor.shape() {
        [] => true,
        [columns] | [1, columns] => *columns == n || *columns == 1,
        _ => false,
    };
    let scaled = |value: f32| if beta == 1.0 { value } else { beta * value };
    one_row.then(|| Tensor::new(vec![n], (0..n).map(|i| scaled(values[if values.len() == 1 { 0 } else { i }])).collect()))
}
