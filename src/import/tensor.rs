//! `TensorProto` → [`Tensor`]: sizes checked before anything is touched, data shared with the file where the layout allows it.

use super::error::{Class, Excess, ImportError};
use super::external::External;
use super::limits::Limits;
use super::proto::{SparseProto, TensorProto};
use bytes::Bytes;
use kernels::Tensor;
use schema::DType;
use std::cell::Cell;

/// What turning tensors needs.
pub(super) struct Tensors<'a> {
    /// The model file, for slices of it.
    pub file: &'a Bytes,
    pub limits: &'a Limits,
    pub external: External,
    /// Bytes of texts so far.
    pub string_bytes: Cell<u64>,
    /// Bytes of sparse tensors made dense so far.
    pub dense_bytes: u64,
}

impl Tensors<'_> {
    /// The tensor.
    ///
    /// # Errors
    /// Any of the classes of tensors and external data, at the tensor's name.
    pub fn tensor(&mut self, proto: &TensorProto<'_>) -> Result<Tensor, ImportError> {
        self.read(proto).map_err(|error| error.at(|| proto.place()))
    }

    fn read(&mut self, proto: &TensorProto<'_>) -> Result<Tensor, ImportError> {
        let shape = shape(&proto.dims, self.limits)?;
        let code = i64::from(proto.code);
        let dtype = DType::of_code(code)
            .ok_or_else(|| ImportError::new(Class::BadDtype, "", format!("element type {code}, known are 1 to 26")))?;
        let elements: usize = shape.iter().product();
        // Cannot overflow: elements are limited to 2^40 by default, and checked here for those who raise the limit.
        let bits = (elements as u64).checked_mul(u64::from(dtype.bits()));
        let need = bits.map(|bits| bits.div_ceil(8)).ok_or_else(|| too_many(self.limits, None))?;
        if proto.has_segment {
            return Err(malformed("a segment of a larger tensor; no writer makes these"));
        }
        if proto.external {
            if dtype == DType::String {
                return Err(ImportError::new(Class::BadDtype, "", "texts cannot be external data"));
            }
            if proto.payloads.count() > 0 {
                return Err(malformed("data both in the model and outside it"));
            }
            let bytes = self.external.data(proto, need)?;
            return unpack(dtype, shape, bytes);
        }
        if proto.payloads.count() > 1 {
            return Err(malformed("data in two fields"));
        }
        if dtype == DType::String {
            return self.strings(proto, shape, elements);
        }
        if let Some(raw) = proto.payloads.raw {
            sized("bytes", raw.len() as u64, need)?;
            return unpack(dtype, shape, self.file.slice_ref(raw));
        }
        self.typed(proto, dtype, shape, need)
    }

    fn strings(&mut self, proto: &TensorProto<'_>, shape: Vec<usize>, elements: usize) -> Result<Tensor, ImportError> {
        if proto.payloads.raw.is_some() {
            return Err(ImportError::new(Class::BadDtype, "", "texts in raw_data, where the format forbids them"));
        }
        let texts = proto.payloads.strings.as_deref().unwrap_or_default();
        sized("texts", texts.len() as u64, elements as u64)?;
        let allowed = self.limits.string_bytes;
        let mut values = Vec::with_capacity(texts.len());
        for text in texts {
            let used = self.string_bytes.get() + text.len() as u64;
            self.string_bytes.set(used);
            if used > allowed {
                return Err(ImportError::limit(
                    "",
                    "bytes of texts",
                    Excess { limit: "string-bytes", allowed, need: Some(used) },
                ));
            }
            let text = std::str::from_utf8(text).map_err(|_| ImportError::new(Class::BadUtf8, "", "a text that is not UTF-8"))?;
            values.push(text.to_owned());
        }
        Ok(Tensor::strings(shape, values))
    }

    /// Data in the field of the type. Several narrow types share `int32_data`.
    fn typed(&self, proto: &TensorProto<'_>, dtype: DType, shape: Vec<usize>, need: u64) -> Result<Tensor, ImportError> {
        use DType::*;
        let data = &proto.payloads;
        let fixed = |bytes: &Option<std::borrow::Cow<'_, [u8]>>| {
            bytes.as_ref().map(|bytes| match bytes {
                std::borrow::Cow::Borrowed(bytes) => self.file.slice_ref(bytes),
                std::borrow::Cow::Owned(bytes) => Bytes::copy_from_slice(bytes),
            })
        };
        let found = match dtype {
            F32 | C64 => fixed(&data.floats),
            F64 | C128 => fixed(&data.doubles),
            I64 => data.int64s.as_ref().map(|values| packed(values, |value| value.to_le_bytes())),
            U64 => data.uint64s.as_ref().map(|values| packed(values, |value| value.to_le_bytes())),
            U32 => data
                .uint64s
                .as_ref()
                .map(|values| narrow(values, |&value| u32::try_from(value).ok().map(u32::to_le_bytes)))
                .transpose()?,
            I32 => data.int32s.as_ref().map(|values| packed(values, |value| value.to_le_bytes())),
            I16 => data
                .int32s
                .as_ref()
                .map(|values| narrow(values, |&value| i16::try_from(value).ok().map(i16::to_le_bytes)))
                .transpose()?,
            U16 | F16 | Bf16 => data
                .int32s
                .as_ref()
                .map(|values| narrow(values, |&value| u16::try_from(value).ok().map(u16::to_le_bytes)))
                .transpose()?,
            I8 => data
                .int32s
                .as_ref()
                .map(|values| narrow(values, |&value| i8::try_from(value).ok().map(i8::to_le_bytes)))
                .transpose()?,
            // One byte of the packed form each: eight-bit types, and two or four elements of narrower ones.
            _ => data.int32s.as_ref().map(|values| narrow(values, |&value| byte(value).map(|byte| [byte]))).transpose()?,
        };
        let bytes = match found {
            Some(bytes) => bytes,
            None if data.count() > 0 => {
                return Err(ImportError::new(Class::TensorSize, "", format!("no data in the field of {dtype}, but in another")));
            }
            None => Bytes::new(),
        };
        sized("bytes", bytes.len() as u64, need)?;
        unpack(dtype, shape, bytes)
    }

    /// A sparse tensor, made dense.
    ///
    /// # Errors
    /// [`Class::LimitExceeded`] when the dense form is larger than `fold-one` allows; [`Class::IndexOutOfRange`].
    pub fn sparse(&mut self, proto: &SparseProto<'_>) -> Result<Tensor, ImportError> {
        self.dense(proto).map_err(|error| error.at(|| proto.values.place()))
    }

    fn dense(&mut self, proto: &SparseProto<'_>) -> Result<Tensor, ImportError> {
        let shape = shape(&proto.dims, self.limits)?;
        let values = self.read(&proto.values)?;
        let indices = self.read(&proto.indices)?;
        let elements: usize = shape.iter().product();
        let width = values.dtype().bytes();
        let need = (elements as u64).saturating_mul(width as u64);
        if need > self.limits.fold_one {
            let excess = Excess { limit: "fold-one", allowed: self.limits.fold_one, need: Some(need) };
            return Err(ImportError::limit("", "bytes of a sparse tensor made dense", excess));
        }
        self.dense_bytes = self.dense_bytes.saturating_add(need);
        if self.dense_bytes > self.limits.fold_bytes {
            let excess = Excess { limit: "fold-bytes", allowed: self.limits.fold_bytes, need: Some(self.dense_bytes) };
            return Err(ImportError::limit("", "bytes of sparse tensors made dense", excess));
        }
        if width == 0 {
            return Err(ImportError::new(Class::BadDtype, "", "a sparse tensor of texts"));
        }
        let flat = flat_indices(&indices, values.len(), &shape)?;
        let mut bytes = vec![0u8; need as usize];
        for (&at, value) in flat.iter().zip(values.bytes().chunks_exact(width)) {
            bytes[at * width..(at + 1) * width].copy_from_slice(value);
        }
        Tensor::from_bytes(values.dtype(), shape, bytes.into()).ok_or_else(|| malformed("values of a sparse tensor"))
    }
}

/// Indices of a sparse tensor as flat positions: given flat (`[n]`) or by axis (`[n, rank]`).
fn flat_indices(indices: &Tensor, count: usize, shape: &[usize]) -> Result<Vec<usize>, ImportError> {
    let ints =
        indices.values::<i64>().ok_or_else(|| ImportError::new(Class::BadDtype, "", "indices of a sparse tensor are not i64"))?;
    let outside =
        |index: i64| ImportError::new(Class::IndexOutOfRange, "", format!("index {index} of a sparse tensor of shape {shape:?}"));
    let within = |index: i64, extent: usize| usize::try_from(index).ok().filter(|&i| i < extent).ok_or_else(|| outside(index));
    let elements: usize = shape.iter().product();
    if indices.shape() == [count] {
        return ints.iter().map(|&index| within(index, elements)).collect();
    }
    if indices.shape() != [count, shape.len()] {
        return Err(ImportError::new(Class::ShapeMismatch, "", "indices and values of a sparse tensor differ in number"));
    }
    let mut flat = Vec::with_capacity(count);
    for row in ints.chunks_exact(shape.len().max(1)) {
        let mut at = 0;
        for (&index, &extent) in row.iter().zip(shape) {
            at = at * extent + within(index, extent)?;
        }
        flat.push(at);
    }
    Ok(flat)
}

/// Extents as `usize`, each and their product within the limits. The product is taken over *all* of them, so that a zero hides nothing.
pub(super) fn shape(dims: &[i64], limits: &Limits) -> Result<Vec<usize>, ImportError> {
    let mut product = 1u64;
    let mut extents = Vec::with_capacity(dims.len());
    for (axis, &dim) in dims.iter().enumerate() {
        let extent = u64::try_from(dim)
            .map_err(|_| ImportError::new(Class::BadShape, "", format!("axis {axis} has {dim} elements; none is the least")))?;
        if extent > limits.dim {
            let excess = Excess { limit: "dim", allowed: limits.dim, need: Some(extent) };
            return Err(ImportError::limit("", &format!("elements on axis {axis}"), excess));
        }
        product = product.checked_mul(extent.max(1)).ok_or_else(|| too_many(limits, None))?;
        extents.push(extent as usize);
    }
    if product > limits.elements {
        return Err(too_many(limits, Some(product)));
    }
    Ok(extents)
}

fn too_many(limits: &Limits, need: Option<u64>) -> ImportError {
    ImportError::limit("", "elements of one tensor", Excess { limit: "elements", allowed: limits.elements, need })
}

fn malformed(found: &str) -> ImportError {
    ImportError::new(Class::Malformed, "", found)
}

fn sized(what: &str, found: u64, need: u64) -> Result<(), ImportError> {
    if found == need {
        return Ok(());
    }
    Err(ImportError::new(Class::TensorSize, "", format!("{found} {what}, type and shape need {need}")))
}

fn packed<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Bytes {
    values.iter().flat_map(|&value| bytes(value)).collect::<Vec<u8>>().into()
}

fn narrow<T, const N: usize>(values: &[T], bytes: impl Fn(&T) -> Option<[u8; N]>) -> Result<Bytes, ImportError> {
    let mut out = Vec::with_capacity(values.len() * N);
    for value in values {
        out.extend(bytes(value).ok_or_else(|| malformed("a value outside its element type"))?);
    }
    Ok(out.into())
}

/// A byte as `int32_data` carries it: 0 to 255, or signed.
fn byte(value: i32) -> Option<u8> {
    u8::try_from(value).ok().or_else(|| i8::try_from(value).ok().map(|value| value as u8))
}

/// Data as stored → a tensor: types narrower than a byte get one byte each, truth values are checked.
fn unpack(dtype: DType, shape: Vec<usize>, bytes: Bytes) -> Result<Tensor, ImportError> {
    let elements: usize = shape.iter().product();
    let signed = matches!(dtype, DType::I4 | DType::I2);
    let bytes = match dtype.bits() {
        bits @ (2 | 4) => {
            let (per_byte, mask) = (8 / bits as usize, (1u8 << bits) - 1);
            let element = |i: usize| {
                let value = (bytes[i / per_byte] >> (bits as usize * (i % per_byte))) & mask;
                let negative = signed && value >> (bits - 1) == 1;
                if negative { value | !mask } else { value }
            };
            (0..elements).map(element).collect::<Vec<u8>>().into()
        }
        _ => bytes,
    };
    if dtype == DType::Bool && bytes.iter().any(|&byte| byte > 1) {
        return Err(malformed("a truth value other than 0 and 1"));
    }
    Tensor::from_bytes(dtype, shape, bytes).ok_or_else(|| malformed("data that do not fill the shape"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_elements_are_unpacked_and_their_sign_is_kept() {
        let tensor = unpack(DType::I4, vec![3], Bytes::from_static(&[0x2f, 0x08])).unwrap();
        assert_eq!(tensor.to_ints().unwrap(), [-1, 2, -8]);
        let tensor = unpack(DType::U2, vec![4], Bytes::from_static(&[0b11_10_01_00])).unwrap();
        assert_eq!(tensor.to_ints().unwrap(), [0, 1, 2, 3]);
    }

    #[test]
    fn a_zero_hides_no_overflow() {
        let limits = Limits { dim: u64::MAX, ..Limits::default() };
        let error = shape(&[1 << 40, 1 << 40, 0], &limits).unwrap_err();
        assert_eq!(error.class(), Class::LimitExceeded);
    }
}
