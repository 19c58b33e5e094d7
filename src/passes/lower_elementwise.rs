//! Turns each ONNX operator that works element by element into one `elementwise` node, whose expression says what it computes.
//!
//! Constants of one element become numbers of the expression when they do not decide the shape of the result. Operators stay as they
//! are when a shape is open or a type has no kernel.

use super::lowering::taken;
use super::rewrite::{Step, Sweep, instead_of, sweep_all};
use super::{Options, PassError};
use crate::graph::{Graph, Node, ValueId};
use kernels::elementwise::Expression;
use kernels::elementwise::expression::{Function, INPUTS_MAX};
use kernels::{Attribute, Attributes};
use schema::DType;

/// Greater whole numbers are not written as numbers of an expression: they are f32 there.
const EXACT_MAX: i64 = 1 << 24;

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    Ok(sweep_all(graph, &mut |sweep, index| match lower(sweep, index) {
        Some(node) => Step::Replace(vec![node]),
        None => Step::Keep,
    }))
}

/// An operator of ours in place of the node, if it works element by element.
fn lower(sweep: &Sweep<'_>, index: usize) -> Option<Node> {
    let node = sweep.node(index);
    let output = node.output(0).filter(|_| node.outputs.len() == 1)?;
    let mut operands = Operands::of(sweep, node)?;
    let expression = expression(sweep, node, &mut operands)?;
    let attributes = Attributes::default().with("expr", Attribute::String(expression.to_string()));
    let lowered = instead_of(node, "elementwise", &operands.inputs, &[output], attributes);
    (operands.inputs.len() <= INPUTS_MAX && taken(sweep, &lowered)).then_some(lowered)
}

/// The operands of a node as leaves of an expression.
struct Operands<'a> {
    sweep: &'a Sweep<'a>,
    node: &'a Node,
    /// Rank of the result.
    rank: usize,
    inputs: Vec<ValueId>,
}

impl<'a> Operands<'a> {
    fn of(sweep: &'a Sweep<'a>, node: &'a Node) -> Option<Self> {
        let rank = sweep.ty(node.output(0)?).shape()?.len();
        Some(Operands { sweep, node, rank, inputs: Vec::new() })
    }

    /// The i-th operand: a number, or an input of the expression. At least one input stays, and all that decide the rank.
    fn leaf(&mut self, i: usize) -> Option<Expression> {
        let id = self.node.input(i)?;
        let others = self.node.inputs.iter().flatten().any(|&other| self.sweep.constant(other).is_none_or(|t| t.len() != 1));
        let decides = self.sweep.ty(id).shape()?.len() >= self.rank.max(1);
        if others
            && !decides
            && let Some(number) = self.number(id)
        {
            return Some(Expression::Number(number));
        }
        // `[1, …, 1]` of the result's rank is a number too, when another operand has that rank.
        let carried = self.node.inputs.iter().flatten().any(|&other| {
            other != id
                && self.sweep.constant(other).is_none()
                && self.sweep.ty(other).shape().is_some_and(|s| s.len() == self.rank)
        });
        if carried && let Some(number) = self.number(id) {
            return Some(Expression::Number(number));
        }
        let place = self.inputs.iter().position(|&input| input == id).unwrap_or_else(|| {
            self.inputs.push(id);
            self.inputs.len() - 1
        });
        Some(Expression::Input(place))
    }

    fn number(&self, id: ValueId) -> Option<f32> {
        let tensor = self.sweep.constant(id).filter(|tensor| tensor.len() == 1)?;
        match tensor.dtype() {
            DType::F32 => tensor.values::<f32>().map(|values| values[0]).filter(|value| !value.is_nan()),
            DType::I64 | DType::I32 => tensor
                .to_ints()
                .map(|values| values[0])
                .filter(|value| value.unsigned_abs() <= EXACT_MAX as u64)
                .map(|v| v as f32),
            _ => None,
        }
    }

    fn all(&mut self) -> Option<Vec<Expression>> {
        (0..self.node.inputs.len()).map(|i| self.leaf(i)).collect()
    }

    fn float(&self, name: &str, default: f32) -> Expression {
        Expression::Number(self.node.attributes.float(name).unwrap_or(default))
    }
}

fn call(function: Function, arguments: Vec<Expression>) -> Option<Expression> {
    (function.row().1 == arguments.len()).then_some(Expression::Call(function, arguments))
}

fn number(value: f32) -> Expression {
    Expression::Number(value)
}

/// Operators that are a function of their operands.
static FUNCTIONS: &[(&str, Function)] = &[
    ("Add", Function::Add),
    ("Sub", Function::Sub),
    ("Mul", Function::Mul),
    ("Div", Function::Div),
    ("Neg", Function::Neg),
    ("Abs", Function::Abs),
    ("Sign", Function::Sign),
    ("Sqrt", Function::Sqrt),
    ("Reciprocal", Function::Reciprocal),
    ("Exp", Function::Exp),
    ("Log", Function::Log),
    ("Floor", Function::Floor),
    ("Ceil", Function::Ceil),
    ("Round", Function::Round),
    ("Sin", Function::Sin),
    ("Cos", Function::Cos),
    ("Erf", Function::Erf),
    ("Softplus", Function::Softplus),
    ("Relu", Function::Relu),
    ("PRelu", Function::LeakyRelu),
    ("Sigmoid", Function::Sigmoid),
    ("Tanh", Function::Tanh),
    ("HardSwish", Function::HardSwish),
    ("Less", Function::Less),
    ("LessOrEqual", Function::LessEqual),
    ("Greater", Function::Greater),
    ("GreaterOrEqual", Function::GreaterEqual),
    ("Equal", Function::Equal),
    ("And", Function::And),
    ("Or", Function::Or),
    ("Xor", Function::Xor),
    ("Not", Function::Not),
];

fn expression(sweep: &Sweep<'_>, node: &Node, operands: &mut Operands<'_>) -> Option<Expression> {
    let dtype = sweep.value(node.input(0)?).dtype()?;
    if node.op == "Where" {
        return choice(sweep, node, operands);
    }
    if let Some((_, function)) = FUNCTIONS.iter().find(|(op, _)| *op == node.op) {
        return call(*function, operands.all()?);
    }
    match node.op.as_str() {
        "Min" => fold(Function::Min, operands.all()?),
        "Max" => fold(Function::Max, operands.all()?),
        "Sum" => fold(Function::Add, operands.all()?),
        "Mean" => {
            let all = operands.all()?;
            let count = all.len() as f32;
            call(Function::Div, vec![fold(Function::Add, all)?, number(count)])
        }
        "Mod" => {
            let remainder = if node.attributes.int("fmod").unwrap_or(0) == 0 { Function::Mod } else { Function::Fmod };
            call(remainder, operands.all()?)
        }
        "Pow" => power(sweep, node, operands),
        "Clip" => clip(node, operands, dtype),
        "Elu" => call(Function::Elu, vec![operands.leaf(0)?, operands.float("alpha", 1.0)]),
        "LeakyRelu" => call(Function::LeakyRelu, vec![operands.leaf(0)?, operands.float("alpha", 0.01)]),
        "HardSigmoid" => {
            call(Function::HardSigmoid, vec![operands.leaf(0)?, operands.float("alpha", 0.2), operands.float("beta", 0.5)])
        }
        "ThresholdedRelu" => {
            let x = operands.leaf(0)?;
            let above = call(Function::Greater, vec![x.clone(), operands.float("alpha", 1.0)])?;
            call(Function::Where, vec![above, x, number(0.0)])
        }
        "Softsign" => {
            let x = operands.leaf(0)?;
            let below = call(Function::Add, vec![call(Function::Abs, vec![x.clone()])?, number(1.0)])?;
            call(Function::Div, vec![x, below])
        }
        "Mish" => {
            let x = operands.leaf(0)?;
            let gate = call(Function::Tanh, vec![call(Function::Softplus, vec![x.clone()])?])?;
            call(Function::Mul, vec![x, gate])
        }
        "Gelu" => {
            let tanh = node.attributes.string("approximate") == Some("tanh");
            call(if tanh { Function::GeluTanh } else { Function::Gelu }, vec![operands.leaf(0)?])
        }
        "Swish" => swish(node, operands),
        "Cast" | "CastLike" => {
            let to = sweep.value(node.output(0)?).dtype()?;
            Some(Expression::Cast(Box::new(operands.leaf(0)?), to))
        }
        _ => None,
    }
}

/// `where(c,x,y)`. Two numbers have no type of their own: the first is given the result's.
fn choice(sweep: &Sweep<'_>, node: &Node, operands: &mut Operands<'_>) -> Option<Expression> {
    let mut all = operands.all()?;
    if let [_, x @ Expression::Number(_), Expression::Number(_)] = &mut all[..] {
        *x = Expression::Cast(Box::new(x.clone()), sweep.value(node.output(0)?).dtype()?);
    }
    call(Function::Where, all)
}

fn fold(function: Function, all: Vec<Expression>) -> Option<Expression> {
    all.into_iter().reduce(|a, b| Expression::Call(function, vec![a, b]))
}

/// Powers of 2, 3, ½, −1 and so on are products and roots: cheaper than the logarithm, and right for negative bases.
fn power(sweep: &Sweep<'_>, node: &Node, operands: &mut Operands<'_>) -> Option<Expression> {
    let exponent = node.input(1)?;
    let whole = sweep.ints(exponent).filter(|values| values.len() == 1).map(|values| values[0] as f64);
    let known = sweep.scalar(exponent).or(whole).filter(|_| {
        let rank = |id| sweep.ty(id).shape().map_or(0, <[_]>::len);
        rank(exponent) <= node.input(0).map_or(0, rank)
    });
    let Some(exponent) = known else { return call(Function::Pow, operands.all()?) };
    let x = operands.leaf(0)?;
    let square = |x: &Expression| call(Function::Square, vec![x.clone()]);
    if exponent == 1.0 {
        call(Function::Mul, vec![x, number(1.0)])
    } else if exponent == 2.0 {
        square(&x)
    } else if exponent == 3.0 {
        call(Function::Mul, vec![square(&x)?, x])
    } else if exponent == 4.0 {
        square(&square(&x)?)
    } else if exponent == 0.5 {
        call(Function::Sqrt, vec![x])
    } else if exponent == -0.5 {
        call(Function::Rsqrt, vec![x])
    } else if exponent == -1.0 {
        call(Function::Reciprocal, vec![x])
    } else {
        call(Function::Pow, vec![x, number(exponent as f32)])
    }
}

fn clip(node: &Node, operands: &mut Operands<'_>, dtype: DType) -> Option<Expression> {
    let x = operands.leaf(0)?;
    let (lo, hi) = (node.input(1), node.input(2));
    match (lo, hi) {
        (Some(_), Some(_)) => {
            let (lo, hi) = (operands.leaf(1)?, operands.leaf(2)?);
            call(Function::Clip, vec![x, lo, hi])
        }
        (Some(_), None) => {
            let lo = operands.leaf(1)?;
            let relu = dtype == DType::F32 && lo == Expression::Number(0.0);
            if relu { call(Function::Relu, vec![x]) } else { call(Function::Max, vec![x, lo]) }
        }
        (None, Some(_)) => {
            let hi = operands.leaf(2)?;
            call(Function::Min, vec![x, hi])
        }
        (None, None) => None,
    }
}

fn swish(node: &Node, operands: &mut Operands<'_>) -> Option<Expression> {
    let x = operands.leaf(0)?;
    let alpha = node.attributes.float("alpha").unwrap_or(1.0);
    if alpha == 1.0 {
        return call(Function::Silu, vec![x]);
    }
    let scaled = call(Function::Mul, vec![x.clone(), number(alpha)])?;
    call(Function::Mul, vec![x, call(Function::Sigmoid, vec![scaled])?])
}
