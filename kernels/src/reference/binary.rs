//! Operators on two or more broadcast operands: arithmetic, comparison, logic, bits.

use super::call::one;
use super::number::{Int, Real, int_type, load, typed};
use super::unary::sigmoid;
use super::walk::{Walk, broadcast_shape, broadcast_strides};
use super::{Call, Evaluate, EvaluateError};
use crate::{Datum, Element, Tensor};
use bytemuck::Pod;
use num_traits::{AsPrimitive, PrimInt};
use schema::DType;

type Result<T> = std::result::Result<T, EvaluateError>;

pub(super) static OPERATORS: &[(&str, Evaluate)] = &[
    ("Add", |call| arithmetic(call, |a, b| a + b, |a, b| a + b, &Add)),
    ("Sub", |call| arithmetic(call, |a, b| a - b, |a, b| a - b, &Sub)),
    ("Mul", |call| arithmetic(call, |a, b| a * b, |a, b| a * b, &Mul)),
    ("Div", |call| arithmetic(call, |a, b| a / b, |a, b| a / b, &Div)),
    ("Max", |call| variadic(call, |call| arithmetic(call, larger, larger, &Max))),
    ("Min", |call| variadic(call, |call| arithmetic(call, smaller, smaller, &Min))),
    ("Sum", |call| variadic(call, |call| arithmetic(call, |a, b| a + b, |a, b| a + b, &Add))),
    ("Mean", mean),
    ("Mod", modulo),
    ("Pow", pow),
    ("PRelu", |call| arithmetic(call, |x, s| if x < 0.0 { x * s } else { x }, |x, s| if x < 0.0 { x * s } else { x }, &PRelu)),
    ("Equal", equal),
    ("Less", |call| compare(call, |a, b| a < b, &Less)),
    ("LessOrEqual", |call| compare(call, |a, b| a <= b, &LessOrEqual)),
    ("Greater", |call| swapped(call, |call| compare(call, |a, b| a < b, &Less))),
    ("GreaterOrEqual", |call| swapped(call, |call| compare(call, |a, b| a <= b, &LessOrEqual))),
    ("And", |call| logic(call, |a, b| a & b)),
    ("Or", |call| logic(call, |a, b| a | b)),
    ("Xor", |call| logic(call, |a, b| a ^ b)),
    ("BitwiseAnd", |call| integers(call, &BitAnd)),
    ("BitwiseOr", |call| integers(call, &BitOr)),
    ("BitwiseXor", |call| integers(call, &BitXor)),
    ("BitShift", shift),
    ("SwiGLU", swiglu),
    ("Where", choose),
    ("Clip", clip),
];

/// A function of two whole numbers of any type. Overflow wraps.
trait IntFunction {
    fn apply<T: Int + AsPrimitive<i64>>(&self, a: T, b: T) -> T;
}

macro_rules! int_function {
    ($($name:ident($a:ident, $b:ident) $body:expr;)*) => {
        $(struct $name;
        impl IntFunction for $name {
            fn apply<T: Int + AsPrimitive<i64>>(&self, $a: T, $b: T) -> T { $body }
        })*
    };
}
int_function! {
    Add(a, b) a.wrapping_add(&b);
    Sub(a, b) a.wrapping_sub(&b);
    Mul(a, b) a.wrapping_mul(&b);
    // Division by zero, which ONNX leaves open, gives 0; the smallest number over -1 wraps.
    Div(a, b) if b.is_zero() { T::zero() } else { a.checked_div(&b).unwrap_or(a) };
    Max(a, b) a.max(b);
    Min(a, b) a.min(b);
    PRelu(a, b) if a < T::zero() { a.wrapping_mul(&b) } else { a };
    BitAnd(a, b) a & b;
    BitOr(a, b) a | b;
    BitXor(a, b) a ^ b;
    ShiftLeft(a, b) by(b).map_or(T::zero(), |n| a.unsigned_shl(n));
    ShiftRight(a, b) by(b).map_or(if a < T::zero() { !T::zero() } else { T::zero() }, |n| a >> n as usize);
    // The sign of the divisor, as in Python.
    ModFloor(a, b) if b.is_zero() { T::zero() } else {
        let rest = if b == !T::zero() && b < T::zero() { T::zero() } else { a % b };
        if !rest.is_zero() && (rest < T::zero()) != (b < T::zero()) { rest + b } else { rest }
    };
    // The sign of the dividend, as in C.
    ModTruncate(a, b) if b.is_zero() || (b == !T::zero() && b < T::zero()) { T::zero() } else { a % b };
}

/// A shift count inside the width of the type.
fn by<T: PrimInt>(count: T) -> Option<u32> {
    count.to_u32().filter(|&n| n < T::zero().count_zeros())
}

/// A function of two floats where NaN wins, as in numpy.
fn larger<R: Real>(a: R, b: R) -> R {
    if a.is_nan() || a > b { a } else { b }
}

fn smaller<R: Real>(a: R, b: R) -> R {
    if a.is_nan() || a < b { a } else { b }
}

/// Applies `f` over two broadcast operands.
pub(super) fn zip<A: Copy, B: Copy, U>(a: (&[A], &[usize]), b: (&[B], &[usize]), out: &[usize], f: impl Fn(A, B) -> U) -> Vec<U> {
    let mut result = Vec::with_capacity(out.iter().product());
    let strides = (broadcast_strides(a.1, out), broadcast_strides(b.1, out));
    Walk::new(out, [0, 0], [&strides.0, &strides.1]).rows(|[i, j], length, steps| {
        let (i, j) = (i as usize, j as usize);
        match steps {
            [1, 1] => result.extend(a.0[i..i + length].iter().zip(&b.0[j..j + length]).map(|(&x, &y)| f(x, y))),
            [1, 0] => {
                let y = b.0[j];
                result.extend(a.0[i..i + length].iter().map(|&x| f(x, y)));
            }
            [0, 1] => {
                let x = a.0[i];
                result.extend(b.0[j..j + length].iter().map(|&y| f(x, y)));
            }
            [p, q] => result.extend((0..length).map(|n| f(a.0[i + n * p as usize], b.0[j + n * q as usize]))),
        }
    });
    result
}

/// The two operands, their common shape, and the budget taken for a result of `dtype`.
fn pair<'a>(call: &Call<'a>, dtype: Option<DType>) -> Result<(&'a Tensor, &'a Tensor, Vec<usize>)> {
    let (a, b) = (call.tensor(0)?, call.tensor(1)?);
    if a.dtype() != b.dtype() {
        return Err(EvaluateError::Dtype(format!("{}: {} and {} are mixed", call.op, a.dtype(), b.dtype())));
    }
    let shape = broadcast_shape(call.op, &[a.shape(), b.shape()])?;
    let count = call.budget.take(dtype.unwrap_or(a.dtype()), &shape)?;
    call.budget.work(count as u64)?;
    Ok((a, b, shape))
}

fn arithmetic(
    call: &Call<'_>,
    narrow: impl Fn(f32, f32) -> f32,
    wide: impl Fn(f64, f64) -> f64,
    whole: &impl IntFunction,
) -> Result<Vec<Datum>> {
    let dtype = call.tensor(0)?.dtype();
    if !dtype.is_float() {
        return integers(call, whole);
    }
    let (a, b, shape) = pair(call, None)?;
    one(if dtype == DType::F64 {
        let (x, y) = (load::<f64>(call.op, a)?, load::<f64>(call.op, b)?);
        let values = zip((&x, a.shape()), (&y, b.shape()), &shape, wide);
        Tensor::new(shape, values)
    } else {
        let (x, y) = (load::<f32>(call.op, a)?, load::<f32>(call.op, b)?);
        let values = zip((&x, a.shape()), (&y, b.shape()), &shape, narrow);
        f32::store(dtype, shape, values)
    })
}

fn integers(call: &Call<'_>, function: &impl IntFunction) -> Result<Vec<Datum>> {
    let (a, b, shape) = pair(call, None)?;
    int_type!(a.dtype(), T => {
        let values = zip((&a.reinterpret::<T>(), a.shape()), (&b.reinterpret::<T>(), b.shape()), &shape, |x, y| function.apply(x, y));
        one(Tensor::new(shape, values))
    }, else Err(call.dtype_error(a.dtype())))
}

/// Folds a function of two operands over any number of them.
fn variadic(call: &Call<'_>, function: Evaluate) -> Result<Vec<Datum>> {
    let mut result = call.datum(0)?.clone();
    if call.inputs.len() == 1 {
        call.tensor(0)?;
    }
    for index in 1..call.inputs.len() {
        let inputs = [Some(&result), Some(call.datum(index)?)];
        let next = function(&Call { inputs: &inputs, ..*call })?;
        result = next.into_iter().next().ok_or_else(|| call.shape_error("no result"))?;
    }
    Ok(vec![result])
}

fn mean(call: &Call<'_>) -> Result<Vec<Datum>> {
    let sum = variadic(call, |call| arithmetic(call, |a, b| a + b, |a, b| a + b, &Add))?;
    let Some(Datum::Tensor(sum)) = sum.into_iter().next() else {
        return Err(call.shape_error("no result"));
    };
    let count = call.inputs.len() as f64;
    let values = load::<f64>(call.op, &sum)?.iter().map(|v| v / count).collect();
    one(f64::store(sum.dtype(), sum.shape().to_vec(), values))
}

fn modulo(call: &Call<'_>) -> Result<Vec<Datum>> {
    fn floored<R: Real>(a: R, b: R) -> R {
        let rest = a % b;
        if rest != R::zero() && (rest < R::zero()) != (b < R::zero()) { rest + b } else { rest }
    }
    if call.flag("fmod", false) {
        arithmetic(call, |a, b| a % b, |a, b| a % b, &ModTruncate)
    } else {
        arithmetic(call, floored, floored, &ModFloor)
    }
}

/// The exponent may be of another type than the base; the result has the type of the base.
fn pow(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (base, exponent) = (call.tensor(0)?, call.tensor(1)?);
    let shape = broadcast_shape(call.op, &[base.shape(), exponent.shape()])?;
    let count = call.budget.take(base.dtype(), &shape)?;
    call.budget.work(count as u64)?;
    if base.dtype() == DType::F32 && exponent.dtype() == DType::F32 {
        let (x, y) = (load::<f32>(call.op, base)?, load::<f32>(call.op, exponent)?);
        let power = |x: f32, y: f32| match y {
            2.0 => x * x,
            3.0 => x * x * x,
            _ => x.powf(y),
        };
        let values = zip((&x, base.shape()), (&y, exponent.shape()), &shape, power);
        return one(Tensor::new(shape, values));
    }
    if let (false, Some(x), Some(y)) = (base.dtype().is_float(), base.to_ints(), exponent.to_ints()) {
        let power = |x: i64, y: i64| match u32::try_from(y) {
            Ok(y) => x.wrapping_pow(y),
            // 1/x rounds to nothing but for 1 and -1.
            Err(_) if y > 0 => 0,
            Err(_) => match x {
                1 => 1,
                -1 if y % 2 == 0 => 1,
                -1 => -1,
                _ => 0,
            },
        };
        let values = zip((&x, base.shape()), (&y, exponent.shape()), &shape, power);
        return int_type!(base.dtype(), T => one(Tensor::new(shape, values.into_iter().map(|v| v as T).collect::<Vec<T>>())),
            else Err(call.dtype_error(base.dtype())));
    }
    let (x, y) = (load::<f64>(call.op, base)?, load::<f64>(call.op, exponent)?);
    let values = zip((&x, base.shape()), (&y, exponent.shape()), &shape, f64::powf);
    one(f64::store(base.dtype(), shape, values))
}

/// `a · sigmoid(alpha · a) · b`, without broadcasting.
fn swiglu(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (a, b) = (call.tensor(0)?, call.tensor(1)?);
    call.same_shape("input 1", b.shape(), a.shape())?;
    if !a.dtype().is_float() {
        return Err(call.dtype_error(a.dtype()));
    }
    let alpha = call.float("alpha", 1.0);
    let wide = f64::from(alpha);
    arithmetic(call, |a, b| a * sigmoid(alpha * a) * b, |a, b| a * sigmoid(wide * a) * b, &Mul)
}

/// A test on two numbers of any type.
trait Comparison {
    fn test<T: PartialOrd>(&self, a: &T, b: &T) -> bool;
}

struct Less;
struct LessOrEqual;

impl Comparison for Less {
    fn test<T: PartialOrd>(&self, a: &T, b: &T) -> bool {
        a < b
    }
}

impl Comparison for LessOrEqual {
    fn test<T: PartialOrd>(&self, a: &T, b: &T) -> bool {
        a <= b
    }
}

/// `a op b` for any type that is ordered.
fn compare(call: &Call<'_>, floats: impl Fn(f32, f32) -> bool, other: &impl Comparison) -> Result<Vec<Datum>> {
    let (a, b, shape) = pair(call, Some(DType::Bool))?;
    let truths = int_type!(a.dtype(), T => {
        zip((&a.reinterpret::<T>(), a.shape()), (&b.reinterpret::<T>(), b.shape()), &shape, |x, y| other.test(&x, &y))
    }, else if a.dtype() == DType::F64 {
        zip((&load::<f64>(call.op, a)?, a.shape()), (&load::<f64>(call.op, b)?, b.shape()), &shape, |x, y| other.test(&x, &y))
    } else {
        zip((&load::<f32>(call.op, a)?, a.shape()), (&load::<f32>(call.op, b)?, b.shape()), &shape, floats)
    });
    one(Tensor::bools(shape, truths))
}

/// The same operator with its operands exchanged.
fn swapped(call: &Call<'_>, function: Evaluate) -> Result<Vec<Datum>> {
    let inputs = [Some(call.datum(1)?), Some(call.datum(0)?)];
    function(&Call { inputs: &inputs, ..*call })
}

fn equal(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (a, b, shape) = pair(call, Some(DType::Bool))?;
    if let (Some(x), Some(y)) = (a.texts(), b.texts()) {
        let x: Vec<&str> = x.iter().map(String::as_str).collect();
        let y: Vec<&str> = y.iter().map(String::as_str).collect();
        let truths = zip((&x, a.shape()), (&y, b.shape()), &shape, |x, y| x == y);
        return one(Tensor::bools(shape, truths));
    }
    if a.dtype() == DType::F32 || a.dtype() == DType::F64 || (a.dtype().is_float()) {
        let truths = zip((&load::<f64>(call.op, a)?, a.shape()), (&load::<f64>(call.op, b)?, b.shape()), &shape, |x, y| x == y);
        return one(Tensor::bools(shape, truths));
    }
    macro_rules! width {
        ($type:ty) => {
            zip((&a.reinterpret::<$type>(), a.shape()), (&b.reinterpret::<$type>(), b.shape()), &shape, |x, y| x == y)
        };
    }
    let truths = match a.dtype().bytes() {
        1 => width!(u8),
        2 => width!(u16),
        4 => width!(u32),
        8 => width!(u64),
        _ => return Err(call.dtype_error(a.dtype())),
    };
    one(Tensor::bools(shape, truths))
}

fn logic(call: &Call<'_>, function: impl Fn(u8, u8) -> u8) -> Result<Vec<Datum>> {
    let (a, b, shape) = pair(call, Some(DType::Bool))?;
    if a.dtype() != DType::Bool {
        return Err(call.dtype_error(a.dtype()));
    }
    let values = zip((a.bytes(), a.shape()), (b.bytes(), b.shape()), &shape, |x, y| function(u8::from(x != 0), u8::from(y != 0)));
    one(typed(DType::Bool, shape, values))
}

fn shift(call: &Call<'_>) -> Result<Vec<Datum>> {
    match call.text("direction", "") {
        "LEFT" => integers(call, &ShiftLeft),
        "RIGHT" => integers(call, &ShiftRight),
        other => Err(call.attribute_error(format_args!("direction is '{other}'"))),
    }
}

/// Picks from two operands by a third, all broadcast.
fn choose(call: &Call<'_>) -> Result<Vec<Datum>> {
    fn pick<T: Clone>(truths: &[u8], sources: [&[T]; 2], walk: &Walk<3>, count: usize) -> Vec<T> {
        let mut out = Vec::with_capacity(count);
        walk.rows(|[c, a, b], length, steps| match steps {
            [0, 1, _] if truths[c as usize] != 0 => out.extend_from_slice(&sources[0][a as usize..a as usize + length]),
            [0, _, 1] if truths[c as usize] == 0 => out.extend_from_slice(&sources[1][b as usize..b as usize + length]),
            [p, q, r] => out.extend((0..length as isize).map(|n| {
                let truth = truths[(c + n * p) as usize] != 0;
                let (source, at) = if truth { (sources[0], a + n * q) } else { (sources[1], b + n * r) };
                source[at as usize].clone()
            })),
        });
        out
    }
    fn plain<T: Pod + Send + Sync>(
        dtype: DType,
        shape: Vec<usize>,
        c: &Tensor,
        a: &Tensor,
        b: &Tensor,
        walk: &Walk<3>,
    ) -> Tensor {
        let values = pick::<T>(c.bytes(), [&a.reinterpret(), &b.reinterpret()], walk, shape.iter().product());
        typed(dtype, shape, values)
    }
    let (c, a, b) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
    if c.dtype() != DType::Bool || a.dtype() != b.dtype() {
        return Err(EvaluateError::Dtype(format!("Where: {}, {} and {}", c.dtype(), a.dtype(), b.dtype())));
    }
    let shape = broadcast_shape(call.op, &[c.shape(), a.shape(), b.shape()])?;
    let count = call.budget.take(a.dtype(), &shape)?;
    call.budget.work(count as u64)?;
    let strides = [c, a, b].map(|tensor| broadcast_strides(tensor.shape(), &shape));
    let walk = Walk::new(&shape, [0; 3], [&strides[0], &strides[1], &strides[2]]);
    if let (Some(x), Some(y)) = (a.texts(), b.texts()) {
        let values = pick(c.bytes(), [x, y], &walk, count);
        return one(Tensor::strings(shape, values));
    }
    one(match a.dtype().bytes() {
        1 => plain::<u8>(a.dtype(), shape, c, a, b, &walk),
        2 => plain::<u16>(a.dtype(), shape, c, a, b, &walk),
        4 => plain::<u32>(a.dtype(), shape, c, a, b, &walk),
        8 => plain::<u64>(a.dtype(), shape, c, a, b, &walk),
        _ => plain::<[u64; 2]>(a.dtype(), shape, c, a, b, &walk),
    })
}

fn clip(call: &Call<'_>) -> Result<Vec<Datum>> {
    fn bounded<T: Element + PartialOrd>(x: &[T], low: Option<T>, high: Option<T>) -> Vec<T> {
        let clamp = |&v: &T| {
            let v = match low {
                Some(low) if v < low => low,
                _ => v,
            };
            match high {
                Some(high) if v > high => high,
                _ => v,
            }
        };
        x.iter().map(clamp).collect()
    }
    let (x, low, high) = (call.tensor(0)?, call.optional(1)?, call.optional(2)?);
    let bounds = [low, high];
    for bound in bounds.iter().flatten() {
        if bound.dtype() != x.dtype() || bound.len() != 1 {
            return Err(call.shape_error("min and max are scalars of the input's type"));
        }
    }
    let count = call.budget.take(x.dtype(), x.shape())?;
    call.budget.work(count as u64)?;
    let shape = x.shape().to_vec();
    int_type!(x.dtype(), T => {
        let [low, high] = bounds.map(|bound| bound.map(|bound| bound.reinterpret::<T>()[0]));
        one(Tensor::new(shape, bounded(&x.reinterpret::<T>(), low, high)))
    }, else if x.dtype() == DType::F64 {
        let [low, high] = bounds.map(|bound| bound.map(|bound| bound.reinterpret::<f64>()[0]));
        one(Tensor::new(shape, bounded(&x.reinterpret::<f64>(), low, high)))
    } else {
        let scalar = |bound: Option<&Tensor>| bound.map(|bound| load::<f32>(call.op, bound).map(|values| values[0])).transpose();
        let (low, high) = (scalar(low)?, scalar(high)?);
        one(f32::store(x.dtype(), shape, bounded(&load::<f32>(call.op, x)?, low, high)))
    })
}
