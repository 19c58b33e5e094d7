//! The expression evaluated one element after the other, in f64 or in whole numbers.

use super::expression::{Expression, Function, Kind};
use crate::epilogue::{Activation, erf};
use crate::{BuildError, Task, Tensor, strides};
use schema::DType;

/// One element.
#[derive(Copy, Clone, Debug)]
enum Value {
    Float(f64),
    Whole(i64),
}

impl Value {
    fn float(self) -> f64 {
        match self {
            Value::Float(x) => x,
            Value::Whole(x) => x as f64,
        }
    }

    fn whole(self) -> i64 {
        match self {
            Value::Float(x) => x as i64,
            Value::Whole(x) => x,
        }
    }

    fn truth(self) -> bool {
        match self {
            Value::Float(x) => x != 0.0,
            Value::Whole(x) => x != 0,
        }
    }
}

/// Computes the expression; see [`super`] for the operands.
pub fn compute(task: &Task, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, BuildError> {
    let signature = super::signature(task)?;
    let expression = Expression::parse(task.word("expr")).map_err(|reason| task.refused(reason))?;
    let y = &signature.outputs[0];
    let mut columns = Vec::new();
    for (spec, tensor) in signature.inputs.iter().zip(inputs) {
        let tensor = tensor.ok_or_else(|| task.refused(format!("operand '{}' is absent", spec.name)))?;
        let walk = strides::broadcast_strides(&spec.shape, &y.shape).ok_or_else(|| task.refused("shapes do not broadcast"))?;
        columns.push((values(tensor, spec.dtype), walk.into_iter().map(|s| s as isize).collect::<Vec<_>>()));
    }
    let count: usize = y.shape.iter().product();
    let mut element = vec![Value::Whole(0); columns.len()];
    let mut out = Vec::with_capacity(count);
    for flat in 0..count {
        for (slot, (values, walk)) in element.iter_mut().zip(&columns) {
            *slot = values[strides::offset_of(flat, &y.shape, walk) as usize];
        }
        out.push(evaluate(&expression, &element));
    }
    let shape = y.shape.clone();
    Ok(vec![match y.dtype {
        DType::F32 => Tensor::new(shape, out.iter().map(|x| x.float() as f32).collect()),
        DType::I64 => Tensor::new(shape, out.iter().map(|x| x.whole()).collect()),
        DType::I32 => Tensor::new(shape, out.iter().map(|x| x.whole() as i32).collect()),
        _ => Tensor::bools(shape, out.iter().map(|x| x.truth()).collect()),
    }])
}

fn values(tensor: &Tensor, dtype: DType) -> Vec<Value> {
    match dtype {
        DType::F32 => tensor.reinterpret::<f32>().iter().map(|&x| Value::Float(f64::from(x))).collect(),
        DType::I64 => tensor.reinterpret::<i64>().iter().map(|&x| Value::Whole(x)).collect(),
        DType::I32 => tensor.reinterpret::<i32>().iter().map(|&x| Value::Whole(i64::from(x))).collect(),
        _ => tensor.reinterpret::<u8>().iter().map(|&x| Value::Whole(i64::from(x != 0))).collect(),
    }
}

fn evaluate(expression: &Expression, inputs: &[Value]) -> Value {
    match expression {
        Expression::Input(input) => inputs[*input],
        Expression::Number(number) => Value::Float(f64::from(*number)),
        Expression::Cast(x, to) => {
            let x = evaluate(x, inputs);
            match to {
                DType::F32 => Value::Float(f64::from(x.float() as f32)),
                DType::I64 => Value::Whole(x.whole()),
                DType::I32 => Value::Whole(i64::from(x.whole() as i32)),
                _ => Value::Whole(i64::from(x.truth())),
            }
        }
        Expression::Call(function, arguments) => {
            let x: Vec<Value> = arguments.iter().map(|x| evaluate(x, inputs)).collect();
            let whole = x.iter().any(|x| matches!(x, Value::Whole(_)));
            match function.row().2 {
                Kind::Logic => Value::Whole(i64::from(logic(*function, x[0].truth(), x.get(1).is_some_and(|y| y.truth())))),
                Kind::Choose => {
                    if x[0].truth() {
                        x[1]
                    } else {
                        x[2]
                    }
                }
                Kind::Compare if whole => Value::Whole(i64::from(compare(*function, x[0].whole(), x[1].whole()))),
                Kind::Compare => Value::Whole(i64::from(compare(*function, x[0].float(), x[1].float()))),
                Kind::Arithmetic if whole => {
                    Value::Whole(whole_numbers(*function, &x.iter().map(|x| x.whole()).collect::<Vec<_>>()))
                }
                _ => Value::Float(floats(*function, &x.iter().map(|x| x.float()).collect::<Vec<_>>())),
            }
        }
    }
}

fn logic(function: Function, a: bool, b: bool) -> bool {
    match function {
        Function::And => a && b,
        Function::Or => a || b,
        Function::Xor => a != b,
        _ => !a,
    }
}

fn compare<T: PartialOrd>(function: Function, a: T, b: T) -> bool {
    match function {
        Function::Less => a < b,
        Function::LessEqual => a <= b,
        Function::Greater => a > b,
        Function::GreaterEqual => a >= b,
        Function::Equal => a == b,
        _ => a != b,
    }
}

/// Arithmetic on whole numbers, wrapping.
pub(super) fn whole_numbers(function: Function, x: &[i64]) -> i64 {
    match function {
        Function::Add => x[0].wrapping_add(x[1]),
        Function::Sub => x[0].wrapping_sub(x[1]),
        Function::Mul => x[0].wrapping_mul(x[1]),
        Function::Div if x[1] == 0 => 0,
        Function::Div => x[0].wrapping_div(x[1]),
        Function::Mod | Function::Fmod if x[1] == 0 => 0,
        Function::Fmod => x[0].wrapping_rem(x[1]),
        Function::Mod => {
            let rest = x[0].wrapping_rem(x[1]);
            if rest != 0 && (rest < 0) != (x[1] < 0) { rest + x[1] } else { rest }
        }
        Function::Neg => x[0].wrapping_neg(),
        Function::Abs => x[0].wrapping_abs(),
        Function::Sign => x[0].signum(),
        Function::Square => x[0].wrapping_mul(x[0]),
        Function::Min => x[0].min(x[1]),
        Function::Max => x[0].max(x[1]),
        Function::Clip => x[0].max(x[1]).min(x[2]),
        _ => x[0],
    }
}

/// A maximum that keeps a NaN from either side.
fn max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// A minimum that keeps a NaN from either side.
fn min(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) }
}

fn floats(function: Function, x: &[f64]) -> f64 {
    let a = x[0];
    if let Some(activation) = function.activation() {
        return activation.apply(a);
    }
    match function {
        Function::Add => a + x[1],
        Function::Sub => a - x[1],
        Function::Mul => a * x[1],
        Function::Div => a / x[1],
        Function::Mod => {
            let rest = a % x[1];
            if rest != 0.0 && (rest < 0.0) != (x[1] < 0.0) { rest + x[1] } else { rest }
        }
        Function::Fmod => a % x[1],
        Function::Neg => -a,
        Function::Abs => a.abs(),
        Function::Sign => {
            if a == 0.0 || a.is_nan() {
                a
            } else {
                a.signum()
            }
        }
        Function::Square => a * a,
        Function::Min => min(a, x[1]),
        Function::Max => max(a, x[1]),
        Function::Sqrt => a.sqrt(),
        Function::Rsqrt => 1.0 / a.sqrt(),
        Function::Reciprocal => 1.0 / a,
        Function::Exp => a.exp(),
        Function::Log => a.ln(),
        Function::Pow => a.powf(x[1]),
        Function::Floor => a.floor(),
        Function::Ceil => a.ceil(),
        Function::Round => a.round_ties_even(),
        Function::Sin => a.sin(),
        Function::Cos => a.cos(),
        Function::Erf => erf(a),
        Function::Softplus => max(a, 0.0) + (-a.abs()).exp().ln_1p(),
        Function::Elu => {
            if a < 0.0 {
                x[1] * a.exp_m1()
            } else {
                a
            }
        }
        Function::LeakyRelu => {
            if a < 0.0 {
                a * x[1]
            } else {
                a
            }
        }
        Function::Clip => min(max(a, x[1]), x[2]),
        Function::HardSigmoid => Activation::HardSigmoid { alpha: x[1] as f32, beta: x[2] as f32 }.apply(a),
        _ => a,
    }
}
