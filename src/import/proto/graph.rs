//! `GraphProto`, `NodeProto`, `ValueInfoProto`.

use super::{AttributeProto, Decoder, SparseProto, TensorProto, TypeProto, exceed};
use crate::import::error::{ImportError, quote};
use crate::import::wire::Reader;

/// A graph: the model's, or one within a node.
#[derive(Debug, Default)]
pub struct GraphProto<'a> {
    pub name: &'a str,
    pub nodes: Vec<NodeProto<'a>>,
    pub initializers: Vec<TensorProto<'a>>,
    pub sparse_initializers: Vec<SparseProto<'a>>,
    pub inputs: Vec<ValueInfoProto<'a>>,
    pub outputs: Vec<ValueInfoProto<'a>>,
}

/// A node.
#[derive(Debug, Default)]
pub struct NodeProto<'a> {
    pub name: &'a str,
    pub op: &'a str,
    pub domain: &'a str,
    pub overload: &'a str,
    pub inputs: Vec<&'a str>,
    pub outputs: Vec<&'a str>,
    pub attributes: Vec<AttributeProto<'a>>,
}

/// What the model says of a value.
#[derive(Debug, Default)]
pub struct ValueInfoProto<'a> {
    pub name: &'a str,
    pub ty: Option<TypeProto<'a>>,
}

impl<'a> GraphProto<'a> {
    pub(super) fn decode(decoder: &Decoder<'_>, mut reader: Reader<'a>) -> Result<Self, ImportError> {
        let depth = decoder.graph_depth.get();
        exceed("subgraph-depth", decoder.limits.subgraph_depth, depth, "graphs nested")?;
        decoder.graph_depth.set(depth + 1);
        let mut graph = GraphProto::default();
        while let Some(field) = reader.next()? {
            match field.number {
                1 => graph.nodes.push(NodeProto::decode(decoder, field.message()?)?),
                2 => graph.name = decoder.name(field)?,
                5 => {
                    decoder.count(&decoder.initializers, "initializers", decoder.limits.initializers, "initializers")?;
                    graph.initializers.push(TensorProto::decode(decoder, field.message()?)?);
                }
                11 => graph.inputs.push(ValueInfoProto::decode(decoder, field.message()?)?),
                12 => graph.outputs.push(ValueInfoProto::decode(decoder, field.message()?)?),
                // 13, value_info: what the exporter believed of values in between. Inference knows better.
                15 => {
                    decoder.count(&decoder.initializers, "initializers", decoder.limits.initializers, "initializers")?;
                    graph.sparse_initializers.push(SparseProto::decode(decoder, field.message()?)?);
                }
                _ => {}
            }
        }
        decoder.graph_depth.set(depth);
        Ok(graph)
    }
}

impl<'a> NodeProto<'a> {
    pub(super) fn decode(decoder: &Decoder<'_>, mut reader: Reader<'a>) -> Result<Self, ImportError> {
        decoder.count(&decoder.nodes, "nodes", decoder.limits.nodes, "nodes")?;
        let mut node = NodeProto::default();
        let mut attribute_bytes = 0;
        while let Some(field) = reader.next()? {
            match field.number {
                1 => node.inputs.push(decoder.name(field)?),
                2 => node.outputs.push(decoder.name(field)?),
                3 => node.name = decoder.name(field)?,
                4 => node.op = decoder.name(field)?,
                5 => {
                    let attribute =
                        AttributeProto::decode(decoder, field.message()?).map_err(|error| error.at(|| node.place()))?;
                    attribute_bytes += attribute.bytes();
                    node.attributes.push(attribute);
                }
                7 => node.domain = decoder.name(field)?,
                8 => node.overload = decoder.name(field)?,
                _ => {}
            }
            let widest = node.inputs.len().max(node.outputs.len()) as u64;
            let within = exceed("inputs", decoder.limits.inputs, widest, "inputs or outputs of one node")
                .and_then(|()| exceed("attribute-bytes", decoder.limits.attribute_bytes, attribute_bytes, "bytes of attributes"));
            within.map_err(|error| error.at(|| node.place()))?;
        }
        Ok(node)
    }

    /// The node in words: its name, or what it is and makes.
    pub fn place(&self) -> String {
        match (self.name, self.outputs.first()) {
            ("", Some(output)) => format!("node {} that makes {}", quote(self.op), quote(output)),
            ("", None) => format!("node {}", quote(self.op)),
            (name, _) => format!("node {}", quote(name)),
        }
    }
}

impl<'a> ValueInfoProto<'a> {
    pub(super) fn decode(decoder: &Decoder<'_>, mut reader: Reader<'a>) -> Result<Self, ImportError> {
        let mut value = ValueInfoProto::default();
        while let Some(field) = reader.next()? {
            match field.number {
                1 => value.name = decoder.name(field)?,
                2 => value.ty = Some(TypeProto::decode(decoder, field.message()?, 0)?),
                _ => {}
            }
        }
        Ok(value)
    }
}
