//! An expression as straight-line steps, as part of a kernel's identity, and what a step does.

use crate::epilogue::{Bits, activate, erf, hard_sigmoid};
use cubecl::prelude::*;
use kernels::elementwise::Expression;
use kernels::elementwise::expression::Function;
use schema::DType;

/// One step; it makes the value of its number. Arguments are numbers of earlier steps.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Input(usize),
    Number(Bits),
    /// Unused arguments are 0.
    Call(Function, [usize; 3]),
    /// 1 where a value is not 0.
    Truth(usize),
}

/// The steps of an expression, the last of which makes the result; `None` where it needs more than f32 and truth, or a function that
/// devices compute too loosely.
pub fn of(expression: &Expression) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    add(expression, &mut steps)?;
    Some(steps)
}

fn add(expression: &Expression, steps: &mut Vec<Step>) -> Option<usize> {
    let step = match expression {
        Expression::Input(input) => Step::Input(*input),
        Expression::Number(number) if number.is_finite() => Step::Number(Bits::of(*number)),
        Expression::Number(_) => return None,
        Expression::Cast(x, DType::Bool) => Step::Truth(add(x, steps)?),
        // Truth is 0 and 1 already.
        Expression::Cast(x, DType::F32) => return add(x, steps),
        Expression::Cast(..) => return None,
        Expression::Call(function, arguments) => {
            // Remainders cancel, powers of negative numbers and sines of large ones are undefined or loose on devices.
            if matches!(function, Function::Mod | Function::Fmod | Function::Pow | Function::Sin | Function::Cos) {
                return None;
            }
            let mut numbers = [0; 3];
            for (number, argument) in numbers.iter_mut().zip(arguments) {
                *number = add(argument, steps)?;
            }
            Step::Call(*function, numbers)
        }
    };
    // What is computed twice is computed once.
    if let Some(known) = steps.iter().position(|known| *known == step) {
        return Some(known);
    }
    steps.push(step);
    Some(steps.len() - 1)
}

/// What a function gives for values that earlier steps made.
#[cube]
pub fn call<F: Float>(x: F, y: F, z: F, #[comptime] function: Function) -> F {
    match comptime!(function) {
        Function::Add => x + y,
        Function::Sub => x - y,
        Function::Mul => x * y,
        Function::Div => x / y,
        Function::Neg => F::new(0.0) - x,
        Function::Abs => F::abs(x),
        Function::Sign => select(x > F::new(0.0), F::new(1.0), select(x < F::new(0.0), F::new(-1.0), F::new(0.0))),
        Function::Square => x * x,
        Function::Min => min(x, y),
        Function::Max => max(x, y),
        Function::Sqrt => F::sqrt(x),
        Function::Rsqrt => F::new(1.0) / F::sqrt(x),
        Function::Reciprocal => F::new(1.0) / x,
        Function::Exp => F::exp(x),
        Function::Log => F::ln(x),
        Function::Floor => F::floor(x),
        Function::Ceil => F::ceil(x),
        Function::Round => F::round(x),
        Function::Erf => erf::<F>(x),
        Function::Softplus => max(x, F::new(0.0)) + F::ln(F::new(1.0) + F::exp(F::new(0.0) - F::abs(x))),
        Function::Elu => select(x < F::new(0.0), y * (F::exp(min(x, F::new(0.0))) - F::new(1.0)), x),
        Function::Relu => activate::<F>(x, comptime!(crate::epilogue::Act::Relu)),
        Function::LeakyRelu => select(x < F::new(0.0), x * y, x),
        Function::Clip => min(max(x, y), z),
        Function::Sigmoid => activate::<F>(x, comptime!(crate::epilogue::Act::Sigmoid)),
        Function::Tanh => activate::<F>(x, comptime!(crate::epilogue::Act::Tanh)),
        Function::Silu => activate::<F>(x, comptime!(crate::epilogue::Act::Silu)),
        Function::HardSigmoid => hard_sigmoid::<F>(x, y, z),
        Function::HardSwish => activate::<F>(x, comptime!(crate::epilogue::Act::HardSwish)),
        Function::Gelu => activate::<F>(x, comptime!(crate::epilogue::Act::Gelu)),
        Function::GeluTanh => activate::<F>(x, comptime!(crate::epilogue::Act::GeluTanh)),
        Function::Less => truth::<F>(x < y),
        Function::LessEqual => truth::<F>(x <= y),
        Function::Greater => truth::<F>(x > y),
        Function::GreaterEqual => truth::<F>(x >= y),
        Function::Equal => truth::<F>(x == y),
        Function::NotEqual => truth::<F>(x != y),
        Function::And => x * y,
        Function::Or => max(x, y),
        Function::Xor => truth::<F>(x != y),
        Function::Not => F::new(1.0) - x,
        Function::Where => select(x != F::new(0.0), y, z),
        // `of` makes no step of these.
        _ => x,
    }
}

/// Truth as a number.
#[cube]
pub fn truth<F: Float>(holds: bool) -> F {
    select(holds, F::new(1.0), F::new(0.0))
}
