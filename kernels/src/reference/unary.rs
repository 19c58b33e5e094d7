//! Operators on each element alone: arithmetic, activations, rounding, classification.

use super::call::one;
use super::number::{Real, int_type, load, typed};
use super::{Call, Evaluate, EvaluateError};
use crate::{Datum, Element, Tensor};
use schema::DType;

type Result<T> = std::result::Result<T, EvaluateError>;

/// Applies a function of floats: `$x` is `f32` or `f64`, `$call` the call, for attributes.
macro_rules! floats {
    ($x:ident => $body:expr) => {
        |call| map(call, |$x: f32| $body, |$x: f64| $body)
    };
    ($call:ident: $($name:ident = $attribute:literal or $default:literal),*; $x:ident => $body:expr) => {
        |$call| {
            let ($($name,)*) = ($($call.float($attribute, $default),)*);
            let (narrow, wide) = (($($name,)*), ($(widen($name),)*));
            map($call, move |$x: f32| { let ($($name,)*) = narrow; $body }, move |$x: f64| { let ($($name,)*) = wide; $body })
        }
    };
}

/// An attribute as the double nearest to its shortest decimal form: 0.2 is meant, not 0.20000000298.
fn widen(value: f32) -> f64 {
    format!("{value}").parse().unwrap_or(f64::from(value))
}

pub(super) static OPERATORS: &[(&str, Evaluate)] = &[
    ("Abs", abs),
    ("Acos", floats!(x => x.acos())),
    ("Acosh", floats!(x => x.acosh())),
    ("Asin", floats!(x => x.asin())),
    ("Asinh", floats!(x => asinh(x))),
    ("Atan", floats!(x => x.atan())),
    ("Atanh", floats!(x => x.atanh())),
    ("Ceil", floats!(x => x.ceil())),
    ("Celu", floats!(call: alpha = "alpha" or 1.0; x => x.max(0.0) + (alpha * (x / alpha).exp_m1()).min(0.0))),
    ("Cos", floats!(x => x.cos())),
    ("Cosh", floats!(x => x.cosh())),
    ("Elu", floats!(call: alpha = "alpha" or 1.0; x => if x > 0.0 { x } else { alpha * x.exp_m1() })),
    ("Erf", floats!(x => erf(x))),
    ("Exp", floats!(x => x.exp())),
    ("Floor", floats!(x => x.floor())),
    ("Gelu", gelu),
    ("HardSigmoid", floats!(call: alpha = "alpha" or 0.2, beta = "beta" or 0.5; x => (alpha * x + beta).clamp(0.0, 1.0))),
    ("HardSwish", floats!(x => x * (x / 6.0 + 0.5).clamp(0.0, 1.0))),
    ("IsInf", is_inf),
    ("IsNaN", |call| test(call, |x: f32| x.is_nan(), |x: f64| x.is_nan())),
    ("LeakyRelu", floats!(call: alpha = "alpha" or 0.01; x => if x < 0.0 { alpha * x } else { x })),
    ("Log", floats!(x => x.ln())),
    ("Mish", floats!(x => x * softplus(x).tanh())),
    ("Neg", negate),
    ("Not", not),
    ("Reciprocal", floats!(x => x.recip())),
    ("Relu", relu),
    ("Round", floats!(x => x.round_ties_even())),
    (
        "Selu",
        floats!(call: alpha = "alpha" or 1.673_263_2, gamma = "gamma" or 1.050_701;
        x => if x > 0.0 { gamma * x } else { gamma * alpha * x.exp_m1() }),
    ),
    (
        "Shrink",
        floats!(call: lambd = "lambd" or 0.5, bias = "bias" or 0.0;
        x => if x < -lambd { x + bias } else if x > lambd { x - bias } else { 0.0 }),
    ),
    ("Sigmoid", floats!(x => sigmoid(x))),
    ("Sign", sign),
    ("Sin", floats!(x => x.sin())),
    ("Sinh", floats!(x => x.sinh())),
    ("Softplus", floats!(x => softplus(x))),
    ("Softsign", floats!(x => x / (1.0 + x.abs()))),
    ("Sqrt", floats!(x => x.sqrt())),
    ("Swish", floats!(call: alpha = "alpha" or 1.0; x => x * sigmoid(alpha * x))),
    ("Tan", floats!(x => x.tan())),
    ("Tanh", floats!(x => x.tanh())),
    ("ThresholdedRelu", floats!(call: alpha = "alpha" or 1.0; x => if x > alpha { x } else { 0.0 })),
    ("BitwiseNot", bitwise_not),
];

/// Applies a function of floats to a tensor of any float type.
fn map(call: &Call<'_>, narrow: impl Fn(f32) -> f32, wide: impl Fn(f64) -> f64) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    if !x.dtype().is_float() {
        return Err(call.dtype_error(x.dtype()));
    }
    let count = call.budget.take(x.dtype(), x.shape())?;
    call.budget.work(count as u64)?;
    let shape = x.shape().to_vec();
    one(match x.dtype() {
        DType::F64 => Tensor::new(shape, load::<f64>(call.op, x)?.iter().map(|&v| wide(v)).collect()),
        dtype => f32::store(dtype, shape, load::<f32>(call.op, x)?.iter().map(|&v| narrow(v)).collect()),
    })
}

/// Applies a test to a tensor of any float type.
fn test(call: &Call<'_>, narrow: impl Fn(f32) -> bool, wide: impl Fn(f64) -> bool) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    if !x.dtype().is_float() {
        return Err(call.dtype_error(x.dtype()));
    }
    call.budget.take(DType::Bool, x.shape())?;
    let truths = match x.dtype() {
        DType::F64 => load::<f64>(call.op, x)?.iter().map(|&v| wide(v)).collect(),
        _ => load::<f32>(call.op, x)?.iter().map(|&v| narrow(v)).collect(),
    };
    one(Tensor::bools(x.shape().to_vec(), truths))
}

/// `log(1 + e^x)` without overflow.
fn softplus<R: Real>(x: R) -> R {
    x.max(R::zero()) + (-x.abs()).exp().ln_1p()
}

/// The logistic function.
pub(super) fn sigmoid<R: Real>(x: R) -> R {
    if x >= R::zero() {
        R::one() / (R::one() + (-x).exp())
    } else {
        let e = x.exp();
        e / (R::one() + e)
    }
}

/// Inverse hyperbolic sine, exact near zero and odd everywhere.
fn asinh<R: Real>(x: R) -> R {
    R::of(x.wide().asinh())
}

/// The error function.
///
/// Source: W. J. Cody, "Rational Chebyshev approximations for the error function" (1969), as in the public-domain CALERF; relative error
/// below 1e-15 in `f64`.
pub(super) fn erf<R: Real>(x: R) -> R {
    let x = x.wide();
    let y = x.abs();
    let result = if y <= 0.468_75 {
        let z = y * y;
        let top = ((((0.185_777_706_184_603_15 * z + 3.161_123_743_870_565_6) * z + 113.864_154_151_050_16) * z
            + 377.485_237_685_302)
            * z)
            + 3_209.377_589_138_469_5;
        let bottom = (((z + 23.601_290_952_344_122) * z + 244.024_637_934_444_17) * z + 1_282.616_526_077_372_3) * z
            + 2_844.236_833_439_171;
        return R::of(x * top / bottom);
    } else if y <= 4.0 {
        let top = [
            2.153_115_354_744_038_3e-8,
            0.564_188_496_988_670_1,
            8.883_149_794_388_377,
            66.119_190_637_141_63,
            298.635_138_197_400_1,
            881.952_221_241_769,
            1_712.047_612_634_070_7,
            2_051.078_377_826_071_6,
            1_230.339_354_797_997_2,
        ];
        let bottom = [
            1.0,
            15.744_926_110_709_835,
            117.693_950_891_312_5,
            537.181_101_862_009_9,
            1_621.389_574_566_690_3,
            3_290.799_235_733_459_7,
            4_362.619_090_143_247,
            3_439.367_674_143_721_6,
            1_230.339_354_803_749_5,
        ];
        1.0 - (-y * y).exp() * polynomial(&top, y) / polynomial(&bottom, y)
    } else if y.is_nan() {
        f64::NAN
    } else if y < 6.0 {
        let z = 1.0 / (y * y);
        let top = [
            0.016_315_387_137_302_097,
            0.305_326_634_961_232_36,
            0.360_344_899_949_804_45,
            0.125_781_726_111_229_26,
            0.016_083_785_148_742_275,
            6.587_491_615_298_378e-4,
        ];
        let bottom = [
            1.0,
            2.568_520_192_289_822,
            1.872_952_849_923_460_4,
            0.527_905_102_951_428_4,
            0.060_518_341_312_441_32,
            0.002_335_204_976_268_691_8,
        ];
        let inner = z * polynomial(&top, z) / polynomial(&bottom, z);
        1.0 - (-y * y).exp() / y * (1.0 / std::f64::consts::PI.sqrt() - inner)
    } else {
        1.0
    };
    R::of(if x < 0.0 { -result } else { result })
}

/// A polynomial by Horner's rule, highest power first.
fn polynomial(coefficients: &[f64], x: f64) -> f64 {
    coefficients.iter().fold(0.0, |sum, &c| sum * x + c)
}

fn gelu(call: &Call<'_>) -> Result<Vec<Datum>> {
    fn by_erf<R: Real>(x: R) -> R {
        R::of(0.5) * x * (R::one() + erf(x * R::of(std::f64::consts::FRAC_1_SQRT_2)))
    }
    fn by_tanh<R: Real>(x: R) -> R {
        let inner = R::of((2.0 / std::f64::consts::PI).sqrt()) * (x + R::of(0.044715) * x * x * x);
        R::of(0.5) * x * (R::one() + inner.tanh())
    }
    match call.text("approximate", "none") {
        "none" => map(call, by_erf::<f32>, by_erf::<f64>),
        "tanh" => map(call, by_tanh::<f32>, by_tanh::<f64>),
        other => Err(call.attribute_error(format_args!("approximate is '{other}'"))),
    }
}

fn is_inf(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (positive, negative) = (call.flag("detect_positive", true), call.flag("detect_negative", true));
    test(
        call,
        |x: f32| x.is_infinite() && if x > 0.0 { positive } else { negative },
        |x: f64| x.is_infinite() && if x > 0.0 { positive } else { negative },
    )
}

/// Integers by one function, floats by others.
macro_rules! signed {
    ($call:expr, $x:ident: $int:expr, $y:ident: $float:expr) => {{
        let call = $call;
        let tensor = call.tensor(0)?;
        int_type!(tensor.dtype(), T => {
            call.budget.take(tensor.dtype(), tensor.shape())?;
            let values = tensor.reinterpret::<T>().iter().map(|&$x| $int).collect::<Vec<T>>();
            one(Tensor::new(tensor.shape().to_vec(), values))
        }, else map(call, |$y: f32| $float, |$y: f64| $float))
    }};
}

fn abs(call: &Call<'_>) -> Result<Vec<Datum>> {
    signed!(call, x: if x < T::default() { T::default().wrapping_sub(x) } else { x }, y: y.abs())
}

fn negate(call: &Call<'_>) -> Result<Vec<Datum>> {
    signed!(call, x: T::default().wrapping_sub(x), y: -y)
}

fn relu(call: &Call<'_>) -> Result<Vec<Datum>> {
    // NaN passes through, as it does through numpy's maximum.
    signed!(call, x: x.max(T::default()), y: if y < 0.0 { 0.0 } else { y })
}

fn sign(call: &Call<'_>) -> Result<Vec<Datum>> {
    signed!(call, x: (x > T::default()) as T - if x < T::default() { 1 as T } else { 0 as T },
        y: if y > 0.0 { 1.0 } else if y < 0.0 { -1.0 } else { y })
}

fn not(call: &Call<'_>) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    if x.dtype() != DType::Bool {
        return Err(call.dtype_error(x.dtype()));
    }
    call.budget.take(DType::Bool, x.shape())?;
    one(typed(DType::Bool, x.shape().to_vec(), x.bytes().iter().map(|&v| u8::from(v == 0)).collect::<Vec<u8>>()))
}

fn bitwise_not(call: &Call<'_>) -> Result<Vec<Datum>> {
    fn flip<T: Element + std::ops::Not<Output = T>>(x: &Tensor) -> Tensor {
        Tensor::new(x.shape().to_vec(), x.reinterpret::<T>().iter().map(|&v| !v).collect::<Vec<T>>())
    }
    let x = call.tensor(0)?;
    call.budget.take(x.dtype(), x.shape())?;
    int_type!(x.dtype(), T => one(flip::<T>(x)), else Err(call.dtype_error(x.dtype())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_agrees_with_tables() {
        for (x, y) in [
            (0.1f64, 0.112_462_916_018_284_9f64),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (3.0, 0.999_977_909_503_001_4),
        ] {
            assert!((erf(x) - y).abs() < 1e-14f64, "{x}");
            assert!((erf(-x) + y).abs() < 1e-14);
        }
        assert_eq!(erf(9.0f32), 1.0);
        assert!(erf(f32::NAN).is_nan());
    }
}
