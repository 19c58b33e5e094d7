//! `ModelProto`, `FunctionProto` and the operator sets they import.

use super::{AttributeProto, Decoder, GraphProto, NodeProto, exceed, once};
use crate::import::error::ImportError;
use crate::import::wire::Reader;

/// A model file.
#[derive(Debug, Default)]
pub struct ModelProto<'a> {
    pub ir_version: Option<i64>,
    pub opsets: Vec<OpsetProto<'a>>,
    pub producer: &'a str,
    pub producer_version: &'a str,
    pub graph: Option<GraphProto<'a>>,
    pub functions: Vec<FunctionProto<'a>>,
}

/// One imported operator set.
#[derive(Copy, Clone, Debug, Default)]
pub struct OpsetProto<'a> {
    pub domain: &'a str,
    pub version: i64,
}

/// A function defined by the model itself.
#[derive(Debug, Default)]
pub struct FunctionProto<'a> {
    pub name: &'a str,
    pub domain: &'a str,
    pub overload: &'a str,
    pub inputs: Vec<&'a str>,
    pub outputs: Vec<&'a str>,
    /// Attributes without a default.
    pub attributes: Vec<&'a str>,
    /// Attributes with their defaults.
    pub defaults: Vec<AttributeProto<'a>>,
    pub nodes: Vec<NodeProto<'a>>,
    pub opsets: Vec<OpsetProto<'a>>,
}

impl<'a> ModelProto<'a> {
    /// Reads a whole file.
    ///
    /// # Errors
    /// What the wire format, UTF-8 or a limit does not allow.
    pub fn decode(decoder: &Decoder<'_>, mut reader: Reader<'a>) -> Result<Self, ImportError> {
        let mut model = ModelProto::default();
        while let Some(field) = reader.next()? {
            match field.number {
                1 => model.ir_version = Some(field.int()?),
                2 => model.producer = decoder.name(field)?,
                3 => model.producer_version = decoder.name(field)?,
                7 => {
                    let graph = GraphProto::decode(decoder, field.message()?)?;
                    once(&mut model.graph, graph, "the graph")?;
                }
                8 => model.opsets.push(OpsetProto::decode(decoder, field.message()?)?),
                25 => {
                    let function = FunctionProto::decode(decoder, field.message()?)?;
                    model.functions.push(function);
                }
                _ => {}
            }
        }
        Ok(model)
    }
}

impl<'a> OpsetProto<'a> {
    fn decode(decoder: &Decoder<'_>, mut reader: Reader<'a>) -> Result<Self, ImportError> {
        let mut opset = OpsetProto::default();
        while let Some(field) = reader.next()? {
            match field.number {
                1 => opset.domain = decoder.name(field)?,
                2 => opset.version = field.int()?,
                _ => {}
            }
        }
        Ok(opset)
    }
}

impl<'a> FunctionProto<'a> {
    fn decode(decoder: &Decoder<'_>, mut reader: Reader<'a>) -> Result<Self, ImportError> {
        let mut function = FunctionProto::default();
        while let Some(field) = reader.next()? {
            match field.number {
                1 => function.name = decoder.name(field)?,
                4 => function.inputs.push(decoder.name(field)?),
                5 => function.outputs.push(decoder.name(field)?),
                6 => function.attributes.push(decoder.name(field)?),
                7 => function.nodes.push(NodeProto::decode(decoder, field.message()?)?),
                9 => function.opsets.push(OpsetProto::decode(decoder, field.message()?)?),
                10 => function.domain = decoder.name(field)?,
                11 => function.defaults.push(AttributeProto::decode(decoder, field.message()?)?),
                13 => function.overload = decoder.name(field)?,
                _ => {}
            }
            let widest = function.inputs.len().max(function.outputs.len());
            exceed("inputs", decoder.limits.inputs, widest as u64, "inputs or outputs of a function")?;
        }
        Ok(function)
    }
}
