//! One step of a program on one tile.

use super::expression::Function;
use super::program::Op;
use super::reference::whole_numbers;
use crate::epilogue::Activation;
use crate::simd::{Routine, Simd, lanewise as lanes, math};

/// A step whose result is f32, from f32: a routine of its own, so that it is compiled once per instruction set.
pub struct FloatStep<'a> {
    pub op: Op,
    pub out: &'a mut [f32],
    pub a: &'a [f32],
    pub b: &'a [f32],
    pub c: &'a [f32],
}

impl Routine for FloatStep<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        float(s, self.op, self.out, self.a, self.b, self.c);
    }
}

#[inline(always)]
fn float<S: Simd>(s: S, op: Op, out: &mut [f32], a: &[f32], b: &[f32], c: &[f32]) {
    let function = match op {
        Op::Float(function) => function,
        _ => return lanes::zip3(s, a, b, c, out, |x, y, z| s.mul_add(x, y, z)),
    };
    let (zero, one) = (s.zero(), s.splat(1.0));
    match function {
        Function::Add => lanes::zip(s, a, b, out, |x, y| s.add(x, y)),
        Function::Sub => lanes::zip(s, a, b, out, |x, y| s.sub(x, y)),
        Function::Mul => lanes::zip(s, a, b, out, |x, y| s.mul(x, y)),
        Function::Div => lanes::zip(s, a, b, out, |x, y| s.div(x, y)),
        Function::Min => lanes::zip(s, a, b, out, |x, y| lesser(s, x, y)),
        Function::Max => lanes::zip(s, a, b, out, |x, y| greater(s, x, y)),
        Function::Neg => lanes::map(s, a, out, |x| s.mul(x, s.splat(-1.0))),
        Function::Abs => lanes::map(s, a, out, |x| s.abs(x)),
        Function::Square => lanes::map(s, a, out, |x| s.mul(x, x)),
        Function::Sqrt => lanes::map(s, a, out, |x| s.sqrt(x)),
        Function::Rsqrt => lanes::map(s, a, out, |x| s.div(one, s.sqrt(x))),
        Function::Reciprocal => lanes::map(s, a, out, |x| s.div(one, x)),
        Function::Exp => lanes::each!(S, s, out, x = a => math::exp(s, x)),
        Function::Erf => lanes::each!(S, s, out, x = a => math::erf(s, x)),
        Function::Elu => {
            lanes::each!(S, s, out, x = a, y = b => s.select_less(x, zero, s.mul(y, s.sub(math::exp(s, x), one)), x));
        }
        Function::LeakyRelu => lanes::zip(s, a, b, out, |x, alpha| s.select_less(x, zero, s.mul(x, alpha), x)),
        Function::Clip => lanes::zip3(s, a, b, c, out, |x, lo, hi| s.min(hi, s.max(lo, x))),
        Function::HardSigmoid => {
            lanes::zip3(s, a, b, c, out, |x, alpha, beta| s.min(one, s.max(zero, s.mul_add(x, alpha, beta))))
        }
        Function::Relu => lanes::map(s, a, out, |x| s.max(zero, x)),
        Function::Sigmoid => lanes::each!(S, s, out, x = a => math::sigmoid(s, x)),
        Function::Tanh => lanes::each!(S, s, out, x = a => math::tanh(s, x)),
        Function::Silu => lanes::each!(S, s, out, x = a => math::activate(s, Activation::Silu, x)),
        Function::HardSwish => lanes::each!(S, s, out, x = a => math::activate(s, Activation::HardSwish, x)),
        Function::Gelu => lanes::each!(S, s, out, x = a => math::activate(s, Activation::Gelu, x)),
        Function::GeluTanh => lanes::each!(S, s, out, x = a => math::activate(s, Activation::GeluTanh, x)),
        _ => scalar(function, out, a, b),
    }
}

/// The lesser, or the NaN of either side.
#[inline(always)]
fn lesser<S: Simd>(s: S, x: S::V, y: S::V) -> S::V {
    // `min` gives its second operand when either is NaN; adding 0 · x − 0 · x would cost more than choosing twice.
    let least = s.min(x, y);
    s.select_less(x, s.splat(f32::INFINITY), least, s.min(y, x))
}

/// The greater, or the NaN of either side.
#[inline(always)]
fn greater<S: Simd>(s: S, x: S::V, y: S::V) -> S::V {
    let most = s.max(x, y);
    s.select_less(s.splat(f32::NEG_INFINITY), x, most, s.max(y, x))
}

/// The rare functions, one element after the other.
#[inline(never)]
fn scalar(function: Function, out: &mut [f32], a: &[f32], b: &[f32]) {
    fn each(out: &mut [f32], a: &[f32], f: impl Fn(f32) -> f32) {
        out.iter_mut().zip(a).for_each(|(out, &x)| *out = f(x));
    }
    fn pair(out: &mut [f32], a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) {
        out.iter_mut().zip(a).zip(b).for_each(|((out, &x), &y)| *out = f(x, y));
    }
    match function {
        Function::Log => each(out, a, f32::ln),
        Function::Pow => pair(out, a, b, f32::powf),
        Function::Floor => each(out, a, f32::floor),
        Function::Ceil => each(out, a, f32::ceil),
        Function::Round => each(out, a, f32::round_ties_even),
        Function::Sin => each(out, a, f32::sin),
        Function::Cos => each(out, a, f32::cos),
        Function::Sign => each(out, a, |x| if x == 0.0 || x.is_nan() { x } else { x.signum() }),
        Function::Softplus => each(out, a, |x| x.max(0.0) + (-x.abs()).exp().ln_1p()),
        Function::Fmod => pair(out, a, b, |x, y| x % y),
        Function::Mod => pair(out, a, b, |x, y| {
            let rest = x % y;
            if rest != 0.0 && (rest < 0.0) != (y < 0.0) { rest + y } else { rest }
        }),
        _ => each(out, a, |x| x),
    }
}

/// A step whose result is whole, from whole numbers.
pub fn whole(op: Op, out: &mut [i64], a: &[i64], b: &[i64], c: &[i64]) {
    fn each(out: &mut [i64], a: &[i64], f: impl Fn(i64) -> i64) {
        out.iter_mut().zip(a).for_each(|(out, &x)| *out = f(x));
    }
    fn pair(out: &mut [i64], a: &[i64], b: &[i64], f: impl Fn(i64, i64) -> i64) {
        out.iter_mut().zip(a).zip(b).for_each(|((out, &x), &y)| *out = f(x, y));
    }
    match op {
        Op::Whole(Function::Add) => pair(out, a, b, i64::wrapping_add),
        Op::Whole(Function::Sub) => pair(out, a, b, i64::wrapping_sub),
        Op::Whole(Function::Mul) => pair(out, a, b, i64::wrapping_mul),
        Op::Whole(function) => {
            for (i, out) in out.iter_mut().enumerate() {
                *out = whole_numbers(function, &[a[i], b[i], c[i]]);
            }
        }
        Op::CompareWhole(Function::Less) => pair(out, a, b, |x, y| i64::from(x < y)),
        Op::CompareWhole(Function::LessEqual) => pair(out, a, b, |x, y| i64::from(x <= y)),
        Op::CompareWhole(Function::Greater) => pair(out, a, b, |x, y| i64::from(x > y)),
        Op::CompareWhole(Function::GreaterEqual) => pair(out, a, b, |x, y| i64::from(x >= y)),
        Op::CompareWhole(Function::Equal) => pair(out, a, b, |x, y| i64::from(x == y)),
        Op::CompareWhole(_) => pair(out, a, b, |x, y| i64::from(x != y)),
        Op::Logic(Function::And) => pair(out, a, b, |x, y| x & y),
        Op::Logic(Function::Or) => pair(out, a, b, |x, y| x | y),
        Op::Logic(Function::Xor) => pair(out, a, b, |x, y| x ^ y),
        Op::Logic(_) => each(out, a, |x| x ^ 1),
        Op::ChooseWhole => {
            for (i, out) in out.iter_mut().enumerate() {
                *out = if a[i] != 0 { b[i] } else { c[i] };
            }
        }
        Op::WholeToTruth => each(out, a, |x| i64::from(x != 0)),
        _ => each(out, a, |x| i64::from(x as i32)),
    }
}

/// A step whose result is whole, from f32.
pub fn float_to_whole(op: Op, out: &mut [i64], a: &[f32], b: &[f32]) {
    fn pair(out: &mut [i64], a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> bool) {
        out.iter_mut().zip(a).zip(b).for_each(|((out, &x), &y)| *out = i64::from(f(x, y)));
    }
    match op {
        Op::CompareFloat(Function::Less) => pair(out, a, b, |x, y| x < y),
        Op::CompareFloat(Function::LessEqual) => pair(out, a, b, |x, y| x <= y),
        Op::CompareFloat(Function::Greater) => pair(out, a, b, |x, y| x > y),
        Op::CompareFloat(Function::GreaterEqual) => pair(out, a, b, |x, y| x >= y),
        Op::CompareFloat(Function::Equal) => pair(out, a, b, |x, y| x == y),
        Op::CompareFloat(_) => pair(out, a, b, |x, y| x != y),
        Op::FloatToTruth => pair(out, a, a, |x, _| x != 0.0),
        _ => out.iter_mut().zip(a).for_each(|(out, &x)| *out = x as i64),
    }
}

/// f32 chosen by truth.
pub fn choose(out: &mut [f32], condition: &[i64], a: &[f32], b: &[f32]) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = if condition[i] != 0 { a[i] } else { b[i] };
    }
}
