//! Elementwise chains: one operation of Burn's after the other.

use super::{Engine, FloatTensor, Run, extents, reshaped};
use kernels::Task;
use kernels::elementwise::Expression;
use kernels::elementwise::expression::Function;

/// A chain of arithmetic, roots and activations.
pub fn chain<B: Engine>(task: &Task, operands: &[FloatTensor<B>]) -> Option<Run<B>> {
    let expression = Expression::parse(task.word("expr")).ok()?;
    let rank = task.ints("y").len();
    // Burn broadcasts between equal ranks.
    let operands: Vec<FloatTensor<B>> = operands
        .iter()
        .map(|operand| {
            let own = extents::<B>(operand);
            reshaped::<B>(operand.clone(), &[vec![1; rank - own.len()], own].concat())
        })
        .collect();
    known(&expression).then(|| Box::new(move || evaluate::<B>(&expression, &operands)) as Run<B>)
}

/// Whether all of it can be computed.
fn known(expression: &Expression) -> bool {
    use Function::*;
    match expression {
        Expression::Input(_) => true,
        Expression::Number(_) | Expression::Cast(..) => false,
        Expression::Call(function, arguments) => {
            let numbers = arguments.iter().filter(|argument| matches!(argument, Expression::Number(_))).count();
            let fits = match function {
                Add | Sub | Mul => numbers < 2,
                Div => numbers == 0,
                Relu | Sigmoid | Tanh | Exp | Erf | Sqrt | Gelu | Silu => numbers == 0,
                _ => false,
            };
            fits && arguments.iter().all(|argument| matches!(argument, Expression::Number(_)) || known(argument))
        }
    }
}

/// Computes a [known](known) expression.
fn evaluate<B: Engine>(expression: &Expression, operands: &[FloatTensor<B>]) -> FloatTensor<B> {
    use Function::*;
    let of = |argument: &Expression| evaluate::<B>(argument, operands);
    match expression {
        Expression::Input(input) => operands[*input].clone(),
        Expression::Call(function, arguments) => match (function, &arguments[..]) {
            (Add, [x, Expression::Number(c)] | [Expression::Number(c), x]) => B::float_add_scalar(of(x), (*c).into()),
            (Mul, [x, Expression::Number(c)] | [Expression::Number(c), x]) => B::float_mul_scalar(of(x), (*c).into()),
            (Sub, [x, Expression::Number(c)]) => B::float_sub_scalar(of(x), (*c).into()),
            (Sub, [Expression::Number(c), x]) => B::float_add_scalar(B::float_neg(of(x)), (*c).into()),
            (Add, [x, y]) => B::float_add(of(x), of(y)),
            (Sub, [x, y]) => B::float_sub(of(x), of(y)),
            (Mul, [x, y]) => B::float_mul(of(x), of(y)),
            (Div, [x, y]) => B::float_div(of(x), of(y)),
            (Relu, [x]) => B::relu(of(x)),
            (Sigmoid, [x]) => B::sigmoid(of(x)),
            (Tanh, [x]) => B::float_tanh(of(x)),
            (Exp, [x]) => B::float_exp(of(x)),
            (Erf, [x]) => B::float_erf(of(x)),
            (Sqrt, [x]) => B::float_sqrt(of(x)),
            (Gelu, [x]) => B::gelu(of(x)),
            (Silu, [x]) => {
                let x = of(x);
                B::float_mul(x.clone(), B::sigmoid(x))
            }
            _ => unreachable!("`known` left out '{expression}'"),
        },
        _ => unreachable!("`known` left out '{expression}'"),
    }
}
