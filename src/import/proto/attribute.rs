//! `AttributeProto`.

use super::{Decoder, GraphProto, SparseProto, TensorProto, TypeProto, exceed, once};
use crate::import::error::{Class, ImportError, quote};
use crate::import::wire::{FixedRun, Reader};

/// The type of an attribute, by ONNX's numbers.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Float,
    Int,
    String,
    Tensor,
    Graph,
    Floats,
    Ints,
    Strings,
    Sparse,
    Type,
    /// Lists of tensors, graphs, types: no standard operator has one.
    Other,
}

/// An attribute of a node.
#[derive(Debug, Default)]
pub struct AttributeProto<'a> {
    pub name: &'a str,
    /// Inside a function: the attribute of the call that this one takes its value from.
    pub refers_to: Option<&'a str>,
    pub kind: Option<Kind>,
    pub float: Option<f32>,
    pub int: Option<i64>,
    pub string: Option<&'a [u8]>,
    pub tensor: Option<Box<TensorProto<'a>>>,
    pub graph: Option<Box<GraphProto<'a>>>,
    pub sparse: Option<Box<SparseProto<'a>>>,
    pub ty: Option<Box<TypeProto<'a>>>,
    pub floats: Vec<f32>,
    pub ints: Vec<i64>,
    pub strings: Vec<&'a [u8]>,
}

impl<'a> AttributeProto<'a> {
    pub(super) fn decode(decoder: &Decoder<'_>, reader: Reader<'a>) -> Result<Self, ImportError> {
        let mut attribute = AttributeProto::default();
        attribute.fill(decoder, reader)?;
        attribute.settle_kind()?;
        Ok(attribute)
    }

    fn fill(&mut self, decoder: &Decoder<'_>, mut reader: Reader<'a>) -> Result<(), ImportError> {
        let allowed = decoder.limits.attribute_bytes;
        while let Some(field) = reader.next()? {
            match field.number {
                1 => self.name = decoder.name(field)?,
                2 => self.float = Some(field.float()?),
                3 => self.int = Some(field.int()?),
                4 => self.string = Some(field.bytes()?),
                5 => once(&mut self.tensor, Box::new(TensorProto::decode(decoder, field.message()?)?), "a tensor")?,
                6 => once(&mut self.graph, Box::new(GraphProto::decode(decoder, field.message()?)?), "a graph")?,
                7 => match field.fixed::<4>()? {
                    FixedRun::One(bytes) => self.floats.push(f32::from_le_bytes(bytes)),
                    FixedRun::Packed(bytes) => {
                        exceed("attribute-bytes", allowed, bytes.len() as u64, "bytes of attributes")?;
                        let floats = bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]));
                        self.floats.extend(floats);
                    }
                },
                8 => field.ints(|value| {
                    self.ints.push(value);
                    exceed("attribute-bytes", allowed, 8 * self.ints.len() as u64, "bytes of attributes")
                })?,
                9 => self.strings.push(field.bytes()?),
                14 => self.ty = Some(Box::new(TypeProto::decode(decoder, field.message()?, 0)?)),
                20 => self.kind = Self::kind_of(field.int()?)?,
                21 => self.refers_to = Some(decoder.name(field)?),
                22 => once(&mut self.sparse, Box::new(SparseProto::decode(decoder, field.message()?)?), "a sparse tensor")?,
                _ => {}
            }
        }
        Ok(())
    }

    fn kind_of(code: i64) -> Result<Option<Kind>, ImportError> {
        let kind = match code {
            0 => return Ok(None),
            1 => Kind::Float,
            2 => Kind::Int,
            3 => Kind::String,
            4 => Kind::Tensor,
            5 => Kind::Graph,
            6 => Kind::Floats,
            7 => Kind::Ints,
            8 => Kind::Strings,
            11 => Kind::Sparse,
            13 => Kind::Type,
            9 | 10 | 12 | 14 => Kind::Other,
            _ => return Err(ImportError::new(Class::BadAttribute, "", format!("attribute type {code}, known are 1 to 14"))),
        };
        Ok(Some(kind))
    }

    /// Compares the type that is written with the field that is there. Files of before IR version 2 write no type.
    fn settle_kind(&mut self) -> Result<(), ImportError> {
        if self.refers_to.is_some_and(|name| !name.is_empty()) {
            return Ok(());
        }
        let there = [
            (self.float.is_some(), Kind::Float),
            (self.int.is_some(), Kind::Int),
            (self.string.is_some(), Kind::String),
            (self.tensor.is_some(), Kind::Tensor),
            (self.graph.is_some(), Kind::Graph),
            (self.sparse.is_some(), Kind::Sparse),
            (self.ty.is_some(), Kind::Type),
            (!self.floats.is_empty(), Kind::Floats),
            (!self.ints.is_empty(), Kind::Ints),
            (!self.strings.is_empty(), Kind::Strings),
        ];
        let mut found = there.iter().filter(|(there, _)| *there).map(|&(_, kind)| kind);
        let first = found.next();
        let fail =
            |found: String| Err(ImportError::new(Class::BadAttribute, "", format!("attribute {}: {found}", quote(self.name))));
        if let (Some(one), Some(two)) = (first, found.next()) {
            return fail(format!("two values, {one:?} and {two:?}"));
        }
        match (self.kind, first) {
            (Some(Kind::Other), _) => {}
            (Some(kind), Some(found)) if kind != found => return fail(format!("the type is {kind:?}, the value {found:?}")),
            (None, found) => self.kind = found,
            // A writer of proto3 leaves out zeros and empty lists.
            (Some(Kind::Int), None) => self.int = Some(0),
            (Some(Kind::Float), None) => self.float = Some(0.0),
            (Some(Kind::String), None) => self.string = Some(&[]),
            (Some(kind @ (Kind::Tensor | Kind::Graph | Kind::Sparse | Kind::Type)), None) => {
                return fail(format!("the type is {kind:?}, there is no value"));
            }
            _ => {}
        }
        Ok(())
    }

    /// Bytes that a copy of it takes, tensors whose data lie in the file not counted.
    pub fn copied_bytes(&self) -> u64 {
        self.bytes() + self.name.len() as u64 + self.tensor.as_ref().map_or(0, |tensor| tensor.payloads.copied_bytes())
    }

    /// Bytes it takes, tensors and graphs not counted.
    pub(super) fn bytes(&self) -> u64 {
        let strings = self.strings.iter().map(|text| text.len() + 16).sum::<usize>() + self.string.map_or(0, <[u8]>::len);
        (self.floats.len() * 4 + self.ints.len() * 8 + strings) as u64
    }
}
