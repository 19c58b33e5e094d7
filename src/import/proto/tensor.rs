//! `TensorProto` and `SparseTensorProto`: headers decoded, data left where they lie.

use super::{Decoder, exceed};
use crate::import::error::{Class, ImportError, quote};
use crate::import::wire::{FixedRun, Reader};
use std::borrow::Cow;

/// A tensor.
#[derive(Debug, Default)]
pub struct TensorProto<'a> {
    pub name: &'a str,
    pub dims: Vec<i64>,
    pub code: i32,
    pub payloads: Payloads<'a>,
    /// `data_location` says: in another file.
    pub external: bool,
    /// Key and value of `external_data`, in order.
    pub external_data: Vec<(&'a str, &'a str)>,
    pub has_segment: bool,
}

/// The data fields; a sound tensor has at most one.
#[derive(Debug, Default)]
pub struct Payloads<'a> {
    pub raw: Option<&'a [u8]>,
    /// Little-endian bytes of `float_data` and `double_data`: slices of the file when packed, as they mostly are.
    pub floats: Option<Cow<'a, [u8]>>,
    pub doubles: Option<Cow<'a, [u8]>>,
    pub int32s: Option<Vec<i32>>,
    pub int64s: Option<Vec<i64>>,
    pub uint64s: Option<Vec<u64>>,
    pub strings: Option<Vec<&'a [u8]>>,
}

/// A sparse tensor: values at indices, zero elsewhere.
#[derive(Debug, Default)]
pub struct SparseProto<'a> {
    pub values: TensorProto<'a>,
    pub indices: TensorProto<'a>,
    pub dims: Vec<i64>,
}

impl<'a> TensorProto<'a> {
    pub(super) fn decode(decoder: &Decoder<'_>, reader: Reader<'a>) -> Result<Self, ImportError> {
        let mut tensor = TensorProto::default();
        match tensor.fill(decoder, reader) {
            Ok(()) => Ok(tensor),
            Err(error) => Err(error.at(|| tensor.place())),
        }
    }

    fn fill(&mut self, decoder: &Decoder<'_>, mut reader: Reader<'a>) -> Result<(), ImportError> {
        let data = &mut self.payloads;
        while let Some(field) = reader.next()? {
            match field.number {
                1 => field.ints(|dim| {
                    self.dims.push(dim);
                    exceed("rank", decoder.limits.rank, self.dims.len() as u64, "axes")
                })?,
                2 => self.code = field.int32()?,
                3 => self.has_segment = true,
                4 => append(&mut data.floats, field.fixed::<4>()?),
                5 => {
                    let values = data.int32s.get_or_insert_default();
                    field.ints(|value| {
                        values.push(value as i32);
                        Ok(())
                    })?;
                }
                6 => data.strings.get_or_insert_default().push(field.bytes()?),
                7 => {
                    let values = data.int64s.get_or_insert_default();
                    field.ints(|value| {
                        values.push(value);
                        Ok(())
                    })?;
                }
                8 => self.name = decoder.name(field)?,
                9 => data.raw = Some(field.bytes()?),
                10 => append(&mut data.doubles, field.fixed::<8>()?),
                11 => {
                    let values = data.uint64s.get_or_insert_default();
                    field.ints(|value| {
                        values.push(value as u64);
                        Ok(())
                    })?;
                }
                13 => self.external_data.push(pair(decoder, field.message()?)?),
                14 => self.external = external(field.int()?)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The tensor in words.
    pub fn place(&self) -> String {
        if self.name.is_empty() { "an unnamed tensor".to_owned() } else { format!("tensor {}", quote(self.name)) }
    }
}

impl Payloads<'_> {
    /// Bytes of the fields that a tensor copies; the others it shares with the file.
    pub fn copied_bytes(&self) -> u64 {
        let counts = [
            4 * self.int32s.as_ref().map_or(0, Vec::len),
            8 * self.int64s.as_ref().map_or(0, Vec::len),
            8 * self.uint64s.as_ref().map_or(0, Vec::len),
            self.strings.iter().flatten().map(|text| text.len() + 24).sum(),
        ];
        counts.iter().sum::<usize>() as u64
    }

    /// How many data fields are there.
    pub fn count(&self) -> usize {
        let typed = [self.int32s.is_some(), self.int64s.is_some(), self.uint64s.is_some(), self.strings.is_some()];
        let fixed = [self.raw.is_some(), self.floats.is_some(), self.doubles.is_some()];
        typed.iter().chain(&fixed).filter(|&&there| there).count()
    }
}

fn external(location: i64) -> Result<bool, ImportError> {
    match location {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(ImportError::new(Class::Malformed, "", format!("data location {location}, known are 0 and 1"))),
    }
}

fn append<'a, const N: usize>(to: &mut Option<Cow<'a, [u8]>>, run: FixedRun<'a, N>) {
    match (to, run) {
        (to @ None, FixedRun::Packed(bytes)) => *to = Some(Cow::Borrowed(bytes)),
        (to @ None, FixedRun::One(bytes)) => *to = Some(Cow::Owned(bytes.to_vec())),
        (Some(to), FixedRun::Packed(bytes)) => to.to_mut().extend_from_slice(bytes),
        (Some(to), FixedRun::One(bytes)) => to.to_mut().extend_from_slice(&bytes),
    }
}

/// A `StringStringEntryProto`.
fn pair<'a>(decoder: &Decoder<'_>, mut reader: Reader<'a>) -> Result<(&'a str, &'a str), ImportError> {
    let (mut key, mut value) = ("", "");
    while let Some(field) = reader.next()? {
        match field.number {
            1 => key = decoder.name(field)?,
            2 => value = decoder.name(field)?,
            _ => {}
        }
    }
    Ok((key, value))
}

impl<'a> SparseProto<'a> {
    pub(super) fn decode(decoder: &Decoder<'_>, mut reader: Reader<'a>) -> Result<Self, ImportError> {
        let mut sparse = SparseProto::default();
        while let Some(field) = reader.next()? {
            match field.number {
                1 => sparse.values = TensorProto::decode(decoder, field.message()?)?,
                2 => sparse.indices = TensorProto::decode(decoder, field.message()?)?,
                3 => field.ints(|dim| {
                    sparse.dims.push(dim);
                    exceed("rank", decoder.limits.rank, sparse.dims.len() as u64, "axes")
                })?,
                _ => {}
            }
        }
        Ok(sparse)
    }
}
