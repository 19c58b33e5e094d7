//! Element types as Rust types: dispatch, and conversion to and from the floats that operators compute in.

use super::{EvaluateError, narrow};
use crate::{Element, Tensor};
use bytemuck::Pod;
use bytes::Bytes;
use half::{bf16, f16};
use num_traits::Float;
use schema::DType;
use std::borrow::Cow;

/// `f32` or `f64`: what operators on floats compute in. Narrower floats compute in `f32` and are rounded at the end.
pub(crate) trait Real:
    Element + Float + Default + std::ops::AddAssign + std::ops::MulAssign + std::iter::Sum + std::fmt::Display
{
    /// The elements of any numeric tensor; borrowed when they are of this type already.
    fn load(tensor: &Tensor) -> Option<Cow<'_, [Self]>>;
    /// A tensor of any numeric type.
    fn store(dtype: DType, shape: Vec<usize>, values: Vec<Self>) -> Tensor;
    /// A constant.
    fn of(value: f64) -> Self;
    /// As `f64`.
    fn wide(self) -> f64;
}

/// The elements of a numeric tensor, each passed through a conversion.
macro_rules! load_as {
    ($tensor:expr, $to:ty) => {
        match $tensor.dtype() {
            DType::F32 => Some(Cow::Owned($tensor.reinterpret::<f32>().iter().map(|&v| v as $to).collect())),
            DType::F64 => Some(Cow::Owned($tensor.reinterpret::<f64>().iter().map(|&v| v as $to).collect())),
            DType::F16 => Some(Cow::Owned($tensor.reinterpret::<f16>().iter().map(|v| v.to_f32() as $to).collect())),
            DType::Bf16 => Some(Cow::Owned($tensor.reinterpret::<bf16>().iter().map(|v| v.to_f32() as $to).collect())),
            DType::I8 | DType::I4 | DType::I2 => {
                Some(Cow::Owned($tensor.reinterpret::<i8>().iter().map(|&v| v as $to).collect()))
            }
            DType::I16 => Some(Cow::Owned($tensor.reinterpret::<i16>().iter().map(|&v| v as $to).collect())),
            DType::I32 => Some(Cow::Owned($tensor.reinterpret::<i32>().iter().map(|&v| v as $to).collect())),
            DType::I64 => Some(Cow::Owned($tensor.reinterpret::<i64>().iter().map(|&v| v as $to).collect())),
            DType::U8 | DType::U4 | DType::U2 | DType::Bool => {
                Some(Cow::Owned($tensor.reinterpret::<u8>().iter().map(|&v| v as $to).collect()))
            }
            DType::U16 => Some(Cow::Owned($tensor.reinterpret::<u16>().iter().map(|&v| v as $to).collect())),
            DType::U32 => Some(Cow::Owned($tensor.reinterpret::<u32>().iter().map(|&v| v as $to).collect())),
            DType::U64 => Some(Cow::Owned($tensor.reinterpret::<u64>().iter().map(|&v| v as $to).collect())),
            DType::F8E4M3Fn | DType::F8E4M3FnUz | DType::F8E5M2 | DType::F8E5M2FnUz | DType::F8E8M0 | DType::F4E2M1 => {
                let codes = narrow::decode($tensor.dtype(), $tensor.bytes());
                Some(Cow::Owned(codes.into_iter().map(|v| v as $to).collect()))
            }
            DType::String | DType::C64 | DType::C128 => None,
        }
    };
}

/// A numeric tensor of values, each passed through a conversion.
macro_rules! store_as {
    ($dtype:expr, $shape:expr, $values:expr, $from:ty) => {{
        let (dtype, shape, values): (DType, Vec<usize>, Vec<$from>) = ($dtype, $shape, $values);
        macro_rules! cast {
            ($to:ty) => {
                Tensor::new(shape, values.into_iter().map(|v| v as $to).collect::<Vec<$to>>())
            };
        }
        match dtype {
            DType::F32 => cast!(f32),
            DType::F64 => cast!(f64),
            DType::F16 => Tensor::new(shape, values.into_iter().map(|v| f16::from_f64(v as f64)).collect::<Vec<f16>>()),
            DType::Bf16 => Tensor::new(shape, values.into_iter().map(|v| bf16::from_f64(v as f64)).collect::<Vec<bf16>>()),
            DType::I8 => cast!(i8),
            DType::I16 => cast!(i16),
            DType::I32 => cast!(i32),
            DType::I64 => cast!(i64),
            DType::U8 => cast!(u8),
            DType::U16 => cast!(u16),
            DType::U32 => cast!(u32),
            DType::U64 => cast!(u64),
            DType::Bool => Tensor::bools(shape, values.into_iter().map(|v| v != 0.0).collect()),
            DType::I4 => typed(DType::I4, shape, values.into_iter().map(|v| (v as i8).clamp(-8, 7)).collect::<Vec<i8>>()),
            DType::I2 => typed(DType::I2, shape, values.into_iter().map(|v| (v as i8).clamp(-2, 1)).collect::<Vec<i8>>()),
            DType::U4 => typed(DType::U4, shape, values.into_iter().map(|v| (v as u8).min(15)).collect::<Vec<u8>>()),
            DType::U2 => typed(DType::U2, shape, values.into_iter().map(|v| (v as u8).min(3)).collect::<Vec<u8>>()),
            dtype => {
                let floats: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
                typed(dtype, shape, narrow::encode(dtype, &floats, true))
            }
        }
    }};
}

impl Real for f32 {
    fn load(tensor: &Tensor) -> Option<Cow<'_, [Self]>> {
        if tensor.dtype() == DType::F32 { tensor.values() } else { load_as!(tensor, f32) }
    }

    fn store(dtype: DType, shape: Vec<usize>, values: Vec<Self>) -> Tensor {
        if dtype == DType::F32 { Tensor::new(shape, values) } else { store_as!(dtype, shape, values, f32) }
    }

    fn of(value: f64) -> Self {
        value as f32
    }

    fn wide(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    fn load(tensor: &Tensor) -> Option<Cow<'_, [Self]>> {
        if tensor.dtype() == DType::F64 { tensor.values() } else { load_as!(tensor, f64) }
    }

    fn store(dtype: DType, shape: Vec<usize>, values: Vec<Self>) -> Tensor {
        if dtype == DType::F64 { Tensor::new(shape, values) } else { store_as!(dtype, shape, values, f64) }
    }

    fn of(value: f64) -> Self {
        value
    }

    fn wide(self) -> f64 {
        self
    }
}

/// A tensor of elements whose type is `dtype`, read as a Rust type of the same width. Panics when the widths or counts differ.
pub(crate) fn typed<T: Pod + Send + Sync>(dtype: DType, shape: Vec<usize>, values: Vec<T>) -> Tensor {
    let bytes = Bytes::from_owner(Lent(values));
    Tensor::from_bytes(dtype, shape, bytes).expect("the values fill the shape")
}

/// Lends the bytes of a vector.
struct Lent<T>(Vec<T>);

impl<T: Pod> AsRef<[u8]> for Lent<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// Runs `$body` with `$real` naming `f64` for types that need it and `f32` for the others. The body must return a `Result`.
macro_rules! real_type {
    ($dtype:expr, $real:ident => $body:expr) => {
        match $dtype {
            schema::DType::F64 | schema::DType::I32 | schema::DType::I64 | schema::DType::U32 | schema::DType::U64 => {
                type $real = f64;
                $body
            }
            _ => {
                type $real = f32;
                $body
            }
        }
    };
}

/// Runs `$body` with `$int` naming the Rust type of an integer type, or `$other`.
macro_rules! int_type {
    ($dtype:expr, $int:ident => $body:expr, else $other:expr) => {
        match $dtype {
            schema::DType::I8 => {
                type $int = i8;
                $body
            }
            schema::DType::I16 => {
                type $int = i16;
                $body
            }
            schema::DType::I32 => {
                type $int = i32;
                $body
            }
            schema::DType::I64 => {
                type $int = i64;
                $body
            }
            schema::DType::U8 => {
                type $int = u8;
                $body
            }
            schema::DType::U16 => {
                type $int = u16;
                $body
            }
            schema::DType::U32 => {
                type $int = u32;
                $body
            }
            schema::DType::U64 => {
                type $int = u64;
                $body
            }
            _ => $other,
        }
    };
}
pub(crate) use {int_type, real_type};

/// An integer type.
pub(crate) trait Int:
    Element + num_traits::PrimInt + num_traits::WrappingAdd + num_traits::WrappingSub + num_traits::WrappingMul
{
}

macro_rules! int {
    ($($rust:ty),*) => { $(impl Int for $rust {})* };
}
int!(i8, i16, i32, i64, u8, u16, u32, u64);

/// The elements as `R`, or an error that names the operator.
pub(crate) fn load<'a, R: Real>(op: &str, tensor: &'a Tensor) -> Result<Cow<'a, [R]>, EvaluateError> {
    R::load(tensor).ok_or_else(|| EvaluateError::Dtype(format!("{op}: {} is no numeric type", tensor.dtype())))
}

/// Moves elements about without looking into them.
pub(crate) trait Rearrange {
    /// From the elements of all sources to those of the result.
    fn run<T: Clone + Default>(&self, sources: &[&[T]]) -> Result<Vec<T>, EvaluateError>;
}

/// Runs a rearrangement over tensors of one type, whatever the type is.
pub(crate) fn rearrange(op: &str, tensors: &[&Tensor], shape: Vec<usize>, how: &impl Rearrange) -> Result<Tensor, EvaluateError> {
    let Some(first) = tensors.first() else {
        return Err(EvaluateError::Shape(format!("{op}: no inputs")));
    };
    let dtype = first.dtype();
    if let Some(other) = tensors.iter().find(|tensor| tensor.dtype() != dtype) {
        return Err(EvaluateError::Dtype(format!("{op}: {dtype} and {} are mixed", other.dtype())));
    }
    macro_rules! width {
        ($type:ty) => {{
            let cows: Vec<Cow<'_, [$type]>> = tensors.iter().map(|tensor| tensor.reinterpret::<$type>()).collect();
            let sources: Vec<&[$type]> = cows.iter().map(|cow| &**cow).collect();
            filled(op, dtype, shape, how.run(&sources)?)
        }};
    }
    match dtype.bytes() {
        1 => width!(u8),
        2 => width!(u16),
        4 => width!(u32),
        8 => width!(u64),
        16 => width!([u64; 2]),
        _ => {
            let sources: Vec<&[String]> = tensors.iter().map(|tensor| tensor.texts().unwrap_or(&[])).collect();
            let values = how.run(&sources)?;
            if shape.iter().product::<usize>() != values.len() {
                return Err(EvaluateError::Shape(format!("{op}: {} elements do not fill {shape:?}", values.len())));
            }
            Ok(Tensor::strings(shape, values))
        }
    }
}

fn filled<T: Pod + Send + Sync>(op: &str, dtype: DType, shape: Vec<usize>, values: Vec<T>) -> Result<Tensor, EvaluateError> {
    if shape.iter().product::<usize>() != values.len() {
        return Err(EvaluateError::Shape(format!("{op}: {} elements do not fill {shape:?}", values.len())));
    }
    Ok(typed(dtype, shape, values))
}
