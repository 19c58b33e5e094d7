//! Conversions between element types.

use super::call::one;
use super::number::{Real, int_type, load, typed};
use super::{Call, Evaluate, EvaluateError, narrow};
use crate::{Datum, Tensor};
use half::{bf16, f16};
use schema::DType;

type Result<T> = std::result::Result<T, EvaluateError>;

pub(super) static OPERATORS: &[(&str, Evaluate)] = &[
    ("Cast", |call| {
        let code = call.int("to", 0);
        let to = DType::of_code(code).ok_or_else(|| call.attribute_error(format_args!("type code {code}")))?;
        convert(call, to)
    }),
    ("CastLike", |call| convert(call, call.tensor(1)?.dtype())),
    ("BitCast", bit_cast),
];

/// How to convert where the types alone do not say.
#[derive(Copy, Clone, Debug)]
pub(super) struct Rounding<'a> {
    /// Whether what overflows an 8-bit float becomes its largest value.
    pub(super) saturate: bool,
    /// `up`, `down` or `nearest`: rounding to powers of two.
    pub(super) power: &'a str,
}

fn convert(call: &Call<'_>, to: DType) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    if x.dtype() == to {
        return one(x.clone());
    }
    let count = call.budget.take(to, x.shape())?;
    call.budget.work(count as u64)?;
    let rounding = Rounding { saturate: call.flag("saturate", true), power: call.text("round_mode", "up") };
    cast(call.op, x, to, rounding).and_then(one)
}

/// The elements in another type, rounded to nearest (floats) or cut off (integers).
pub(super) fn cast(op: &str, x: &Tensor, to: DType, rounding: Rounding<'_>) -> Result<Tensor> {
    let shape = x.shape().to_vec();
    let refuse = || EvaluateError::Unsupported(format!("{op} from {} to {to}", x.dtype()));
    if let Some(texts) = x.texts() {
        return parse(op, texts, shape, to, rounding);
    }
    if matches!(x.dtype(), DType::C64 | DType::C128) || matches!(to, DType::C64 | DType::C128) {
        return Err(refuse());
    }
    if to == DType::String {
        return Ok(Tensor::strings(shape, print(op, x)?));
    }
    if !x.dtype().is_float() && !to.is_float() {
        return Ok(between_integers(x, shape, to));
    }
    match (x.dtype(), to) {
        (_, DType::Bool) => {
            let values = load::<f64>(op, x)?;
            Ok(Tensor::bools(shape, values.iter().map(|&v| v != 0.0).collect()))
        }
        (DType::F32, DType::F64) => Ok(f64::store(to, shape, load::<f64>(op, x)?.into_owned())),
        (DType::F64, DType::F32) => Ok(f32::store(to, shape, load::<f32>(op, x)?.into_owned())),
        (DType::F32, DType::F16) => Ok(Tensor::new(shape, x.reinterpret::<f32>().iter().map(|&v| f16::from_f32(v)).collect())),
        (DType::F32, DType::Bf16) => Ok(Tensor::new(shape, x.reinterpret::<f32>().iter().map(|&v| bf16::from_f32(v)).collect())),
        (_, DType::F64) => Ok(f64::store(to, shape, load::<f64>(op, x)?.into_owned())),
        (_, DType::F32) => Ok(f32::store(to, shape, load::<f32>(op, x)?.into_owned())),
        (_, DType::F8E8M0) => {
            let codes = load::<f32>(op, x)?.iter().map(|&v| narrow::encode_power(v, rounding.saturate, rounding.power)).collect();
            Ok(typed::<u8>(to, shape, codes))
        }
        (_, DType::F8E4M3Fn | DType::F8E4M3FnUz | DType::F8E5M2 | DType::F8E5M2FnUz | DType::F4E2M1) => {
            let codes = narrow::encode(to, &load::<f32>(op, x)?, rounding.saturate);
            Ok(typed::<u8>(to, shape, codes))
        }
        (_, to) if to.is_float() => Ok(f64::store(to, shape, load::<f64>(op, x)?.into_owned())),
        (_, to) => Ok(to_integers(&load::<f64>(op, x)?, shape, to)),
    }
}

/// Floats cut off towards zero. What does not fit wraps like a conversion in C over 64 bits; NaN is 0.
fn to_integers(values: &[f64], shape: Vec<usize>, to: DType) -> Tensor {
    if to == DType::U64 {
        return Tensor::new(shape, values.iter().map(|&v| if v < 0.0 { v as i64 as u64 } else { v as u64 }).collect());
    }
    let whole: Vec<i64> = values.iter().map(|&v| v as i64).collect();
    between_integers(&Tensor::new(vec![whole.len()], whole), shape, to)
}

/// Integers of another width: the low bits are kept.
fn between_integers(x: &Tensor, shape: Vec<usize>, to: DType) -> Tensor {
    let wide: Vec<i64> = match x.dtype() {
        DType::U64 => x.reinterpret::<u64>().iter().map(|&v| v as i64).collect(),
        _ => x.to_ints().unwrap_or_default(),
    };
    int_type!(to, T => Tensor::new(shape, wide.iter().map(|&v| v as T).collect::<Vec<T>>()), else match to {
        DType::I4 => typed(to, shape, wide.iter().map(|&v| ((v << 4) as i8) >> 4).collect::<Vec<i8>>()),
        DType::I2 => typed(to, shape, wide.iter().map(|&v| ((v << 6) as i8) >> 6).collect::<Vec<i8>>()),
        DType::U4 => typed(to, shape, wide.iter().map(|&v| v as u8 & 15).collect::<Vec<u8>>()),
        DType::U2 => typed(to, shape, wide.iter().map(|&v| v as u8 & 3).collect::<Vec<u8>>()),
        _ => Tensor::bools(shape, wide.iter().map(|&v| v != 0).collect()),
    })
}

/// Numbers as Python prints them.
fn print(op: &str, x: &Tensor) -> Result<Vec<String>> {
    Ok(match x.dtype() {
        DType::F32 => x.reinterpret::<f32>().iter().map(|&v| decimal(v.into(), format!("{v:e}"))).collect(),
        DType::Bool => x.bytes().iter().map(|&v| if v != 0 { "True".to_owned() } else { "False".to_owned() }).collect(),
        DType::U64 => x.reinterpret::<u64>().iter().map(u64::to_string).collect(),
        dtype if dtype.is_float() => load::<f64>(op, x)?.iter().map(|&v| decimal(v, format!("{v:e}"))).collect(),
        _ => x.to_ints().unwrap_or_default().iter().map(i64::to_string).collect(),
    })
}

/// From the shortest scientific form to numpy's: plain between 1e-4 and 1e16.
fn decimal(value: f64, scientific: String) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "INF".to_owned() } else { "-INF".to_owned() };
    }
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..16).contains(&exponent) {
        return format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    let negative = digits.starts_with('-');
    let figures: String = digits.chars().filter(char::is_ascii_digit).collect();
    let sign = if negative { "-" } else { "" };
    if exponent < 0 {
        return format!("{sign}0.{}{figures}", "0".repeat((-exponent - 1) as usize));
    }
    let whole = exponent as usize + 1;
    match figures.len() {
        n if n <= whole => format!("{sign}{figures}{}.0", "0".repeat(whole - n)),
        _ => format!("{sign}{}.{}", &figures[..whole], &figures[whole..]),
    }
}

/// Texts as numbers: integers, decimals, scientific notation, `inf` and `nan` in any case.
fn parse(op: &str, texts: &[String], shape: Vec<usize>, to: DType, rounding: Rounding<'_>) -> Result<Tensor> {
    if !to.is_float() {
        let whole: Option<Vec<i64>> = texts.iter().map(|text| text.trim().parse().ok()).collect();
        if let Some(whole) = whole {
            let count = whole.len();
            return Ok(between_integers(&Tensor::new(vec![count], whole), shape, to));
        }
    }
    let number = |text: &String| {
        let text = text.trim();
        text.parse::<f64>()
            .map_err(|_| EvaluateError::Dtype(format!("{op}: '{}' is no number", text.chars().take(40).collect::<String>())))
    };
    let values = texts.iter().map(number).collect::<Result<Vec<f64>>>()?;
    cast(op, &Tensor::new(shape, values), to, rounding)
}

/// The same bits under another type of the same width.
fn bit_cast(call: &Call<'_>) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    let code = call.int("to", 0);
    let to = DType::of_code(code).ok_or_else(|| call.attribute_error(format_args!("type code {code}")))?;
    if x.dtype().bits() != to.bits() {
        return Err(EvaluateError::Dtype(format!("BitCast: {} and {to} differ in width", x.dtype())));
    }
    // Types narrower than a byte lie unpacked; the bits above theirs follow the signedness.
    let mask = |sign: bool, bits: u32| {
        let bytes = x.bytes().iter().map(|&v| {
            let low = v & ((1 << bits) - 1);
            if sign && low >> (bits - 1) == 1 { low | !((1 << bits) - 1) } else { low }
        });
        typed(to, x.shape().to_vec(), bytes.collect::<Vec<u8>>())
    };
    match to {
        DType::I4 | DType::I2 => one(mask(true, to.bits())),
        DType::U4 | DType::U2 | DType::F4E2M1 => one(mask(false, to.bits())),
        _ => x.retyped(to).ok_or_else(|| call.dtype_error(to)).and_then(one),
    }
}
