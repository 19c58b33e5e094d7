//! Tensors that own or share their bytes: constants, inputs, outputs and what the references compute.

use bytemuck::Pod;
use bytes::Bytes;
use half::{bf16, f16};
use schema::DType;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// A dense row-major tensor. Cloning shares the bytes. Elements narrower than a byte are unpacked, one byte each; `Bool` is a
/// byte of 0 or 1. The bytes may lie anywhere (a mapped file), so they need not be aligned for their type.
#[derive(Clone, PartialEq)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Data,
}

#[derive(Clone, PartialEq)]
enum Data {
    Bytes(Bytes),
    Strings(Arc<Vec<String>>),
}

/// A Rust type that can be an element.
pub trait Element: Pod + Send + Sync {
    /// The element type it stands for.
    const DTYPE: DType;
}

macro_rules! element {
    ($($rust:ty => $dtype:ident),*) => { $(impl Element for $rust { const DTYPE: DType = DType::$dtype; })* };
}
element!(f32 => F32, f64 => F64, f16 => F16, bf16 => Bf16, i8 => I8, i16 => I16, i32 => I32, i64 => I64, u8 => U8, u16 => U16,
    u32 => U32, u64 => U64);

impl Tensor {
    /// A tensor over `bytes`, or `None` when their number is not what dtype and shape need (strings cannot be made so).
    pub fn from_bytes(dtype: DType, shape: Vec<usize>, bytes: Bytes) -> Option<Self> {
        let need = shape.iter().try_fold(dtype.bytes(), |size, &dim| size.checked_mul(dim))?;
        (dtype != DType::String && need == bytes.len()).then_some(Tensor { dtype, shape, data: Data::Bytes(bytes) })
    }

    /// A tensor of `values`. Panics when their number is not the product of `shape`: a bug of the caller.
    pub fn new<T: Element>(shape: Vec<usize>, values: Vec<T>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "values fill the shape {shape:?}");
        Tensor { dtype: T::DTYPE, shape, data: Data::Bytes(Bytes::from_owner(Owned(values))) }
    }

    /// A tensor of truth values. Panics when their number is not the product of `shape`.
    pub fn bools(shape: Vec<usize>, values: Vec<bool>) -> Self {
        let bytes: Vec<u8> = values.into_iter().map(u8::from).collect();
        Tensor { dtype: DType::Bool, ..Tensor::new(shape, bytes) }
    }

    /// A tensor of texts. Panics when their number is not the product of `shape`.
    pub fn strings(shape: Vec<usize>, values: Vec<String>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "values fill the shape {shape:?}");
        Tensor { dtype: DType::String, shape, data: Data::Strings(Arc::new(values)) }
    }

    /// A rank-0 tensor.
    pub fn scalar<T: Element>(value: T) -> Self {
        Tensor::new(vec![], vec![value])
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The extents, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The raw bytes; empty for strings.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Bytes(bytes) => bytes,
            Data::Strings(_) => &[],
        }
    }

    /// The shared bytes; empty for strings.
    pub fn shared_bytes(&self) -> Bytes {
        match &self.data {
            Data::Bytes(bytes) => bytes.clone(),
            Data::Strings(_) => Bytes::new(),
        }
    }

    /// The elements, borrowed when they are aligned and copied otherwise. `None` when the type differs.
    pub fn values<T: Element>(&self) -> Option<Cow<'_, [T]>> {
        (self.dtype == T::DTYPE).then(|| self.reinterpret())
    }

    /// The elements of any type of the same width as `T` (a `Bool` as `u8`, say). Panics when the widths differ.
    pub fn reinterpret<T: Pod>(&self) -> Cow<'_, [T]> {
        assert_eq!(self.dtype.bytes(), size_of::<T>(), "{} read as another width", self.dtype);
        match bytemuck::try_cast_slice(self.bytes()) {
            Ok(values) => Cow::Borrowed(values),
            Err(_) => Cow::Owned(bytemuck::allocation::pod_collect_to_vec(self.bytes())),
        }
    }

    /// The texts of a string tensor.
    pub fn texts(&self) -> Option<&[String]> {
        match &self.data {
            Data::Strings(values) => Some(values),
            Data::Bytes(_) => None,
        }
    }

    /// The same elements under another shape, or `None` when the counts differ.
    pub fn reshaped(&self, shape: Vec<usize>) -> Option<Self> {
        let count = shape.iter().try_fold(1usize, |size, &dim| size.checked_mul(dim))?;
        (count == self.len()).then(|| Tensor { dtype: self.dtype, shape, data: self.data.clone() })
    }

    /// The same bytes under another type of the same width, or `None` when the widths differ.
    pub fn retyped(&self, dtype: DType) -> Option<Self> {
        (dtype.bytes() == self.dtype.bytes() && dtype != DType::String && self.dtype != DType::String)
            .then(|| Tensor { dtype, ..self.clone() })
    }

    /// The elements as whole numbers, when the type is an integer type or `Bool` and each fits.
    pub fn to_ints(&self) -> Option<Vec<i64>> {
        macro_rules! widen {
            ($type:ty) => {
                self.reinterpret::<$type>().iter().map(|&value| i64::try_from(value).ok()).collect()
            };
        }
        match self.dtype {
            DType::I64 => Some(self.reinterpret::<i64>().into_owned()),
            DType::I32 => widen!(i32),
            DType::I16 => widen!(i16),
            DType::I8 | DType::I4 | DType::I2 => widen!(i8),
            DType::U64 => widen!(u64),
            DType::U32 => widen!(u32),
            DType::U16 => widen!(u16),
            DType::U8 | DType::U4 | DType::U2 | DType::Bool => widen!(u8),
            _ => None,
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)?;
        match &self.data {
            Data::Strings(values) if values.len() <= 8 => write!(f, " {values:?}"),
            Data::Bytes(bytes) if bytes.len() <= 64 => write!(f, " {:?}", &bytes[..]),
            _ => Ok(()),
        }
    }
}

/// Lends the bytes of a vector of elements to [`Bytes`].
struct Owned<T>(Vec<T>);

impl<T: Pod> AsRef<[u8]> for Owned<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// What flows along an edge of a graph: a tensor, or one of ONNX's two containers.
#[derive(Clone, Debug, PartialEq)]
pub enum Datum {
    Tensor(Tensor),
    Sequence(Vec<Datum>),
    Optional(Option<Box<Datum>>),
}

impl Datum {
    /// The tensor, if it is one.
    pub fn tensor(&self) -> Option<&Tensor> {
        match self {
            Datum::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }
}

impl From<Tensor> for Datum {
    fn from(tensor: Tensor) -> Self {
        Datum::Tensor(tensor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misaligned_bytes_are_copied_and_equal() {
        let aligned = Tensor::new(vec![3], vec![1.5f32, -2.0, 3.25]);
        let mut shifted = vec![0u8];
        shifted.extend_from_slice(aligned.bytes());
        let view = Bytes::from(shifted).slice(1..);
        let tensor = Tensor::from_bytes(DType::F32, vec![3], view).unwrap();
        assert_eq!(tensor.values::<f32>().unwrap()[..], [1.5, -2.0, 3.25]);
    }

    #[test]
    fn bytes_that_do_not_fill_the_shape_make_no_tensor() {
        assert!(Tensor::from_bytes(DType::F32, vec![2], Bytes::from_static(&[0; 7])).is_none());
        assert!(Tensor::from_bytes(DType::F32, vec![usize::MAX, 2], Bytes::new()).is_none());
    }
}
