//! `TypeProto`.

use super::{Decoder, exceed};
use crate::import::error::{Class, ImportError};
use crate::import::wire::Reader;

/// The type of a value.
#[derive(Debug)]
pub enum TypeProto<'a> {
    Tensor {
        code: i64,
        shape: Option<Vec<DimProto<'a>>>,
    },
    Sequence(Box<TypeProto<'a>>),
    Optional(Box<TypeProto<'a>>),
    /// Maps, sparse tensors and opaque types: no value of ours.
    Other(&'static str),
    /// The message is there and says nothing.
    Unknown,
}

/// One extent.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum DimProto<'a> {
    Value(i64),
    Param(&'a str),
    Unknown,
}

impl<'a> TypeProto<'a> {
    pub(super) fn decode(decoder: &Decoder<'_>, mut reader: Reader<'a>, depth: u64) -> Result<Self, ImportError> {
        exceed("nesting", decoder.limits.nesting, depth, "types nested")?;
        let mut ty = TypeProto::Unknown;
        while let Some(field) = reader.next()? {
            ty = match field.number {
                1 => Self::tensor(decoder, field.message()?)?,
                4 => TypeProto::Sequence(Box::new(Self::element(decoder, field.message()?, depth)?)),
                5 => TypeProto::Other("a map"),
                7 => TypeProto::Other("an opaque type"),
                8 => TypeProto::Other("a sparse tensor"),
                9 => TypeProto::Optional(Box::new(Self::element(decoder, field.message()?, depth)?)),
                _ => continue,
            };
        }
        Ok(ty)
    }

    /// `TypeProto.Sequence` and `TypeProto.Optional`: one field, the type within.
    fn element(decoder: &Decoder<'_>, mut reader: Reader<'a>, depth: u64) -> Result<Self, ImportError> {
        let mut element = TypeProto::Unknown;
        while let Some(field) = reader.next()? {
            if field.number == 1 {
                element = Self::decode(decoder, field.message()?, depth + 1)?;
            }
        }
        Ok(element)
    }

    fn tensor(decoder: &Decoder<'_>, mut reader: Reader<'a>) -> Result<Self, ImportError> {
        let (mut code, mut shape) = (0, None);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => code = i64::from(field.int32()?),
                2 => shape = Some(Self::shape(decoder, field.message()?)?),
                _ => {}
            }
        }
        Ok(TypeProto::Tensor { code, shape })
    }

    fn shape(decoder: &Decoder<'_>, mut reader: Reader<'a>) -> Result<Vec<DimProto<'a>>, ImportError> {
        let mut shape = Vec::new();
        while let Some(field) = reader.next()? {
            if field.number == 1 {
                shape.push(DimProto::decode(decoder, field.message()?)?);
                exceed("rank", decoder.limits.rank, shape.len() as u64, "axes")?;
            }
        }
        Ok(shape)
    }
}

impl<'a> DimProto<'a> {
    fn decode(decoder: &Decoder<'_>, mut reader: Reader<'a>) -> Result<Self, ImportError> {
        let mut dim = DimProto::Unknown;
        while let Some(field) = reader.next()? {
            let found = match field.number {
                1 => DimProto::Value(field.int()?),
                2 => DimProto::Param(decoder.name(field)?),
                _ => continue,
            };
            if dim != DimProto::Unknown {
                return Err(ImportError::new(Class::Malformed, "", "an extent given twice"));
            }
            dim = found;
        }
        // An empty name says as much as none.
        Ok(if dim == DimProto::Param("") { DimProto::Unknown } else { dim })
    }
}
