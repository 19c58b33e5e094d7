//! Graphs and entries as the sections hold them: postcard, with texts and weights as references.
//!
//! Bodies are not nested but listed: a node names a later graph of its section, so that no depth of input can exhaust the stack.
//! Every reference is checked once, when a section is decoded; after that the types cannot be wrong.

use super::layout::TENSOR_ALIGN;
use crate::graph::{Capture, Dim, Graph, Node, Type, Value, ValueId};
use bytes::Bytes;
use kernels::{Attribute, Attributes, Layout, Tensor};
use schema::DType;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Tensors up to this size stand in the graph's section and not among the weights, in bytes.
const INLINE_MAX: usize = 256;
/// Containers in containers, bodies in bodies: at most.
const DEPTH_MAX: usize = 32;

/// A text, by its place in the strings section.
pub(super) type TextId = u32;

#[derive(Serialize, Deserialize)]
pub(super) struct WireGraph {
    name: TextId,
    values: Vec<WireValue>,
    nodes: Vec<WireNode>,
    inputs: Vec<u32>,
    outputs: Vec<u32>,
    output_names: Vec<TextId>,
    captures: Vec<(u32, u32)>,
}

#[derive(Serialize, Deserialize)]
struct WireValue {
    name: TextId,
    /// Sequence (1) and optional (2) around the base, outermost first.
    containers: Vec<u8>,
    /// Element type, and extents where the rank is known. `None`: the type is unknown.
    base: Option<(DType, Option<Vec<WireDim>>)>,
    layout: WireLayout,
    constant: Option<WireTensor>,
}

#[derive(Serialize, Deserialize)]
enum WireDim {
    Fixed(u64),
    Named(TextId),
}

#[derive(Serialize, Deserialize)]
enum WireLayout {
    Rows,
    Channels { halo: u32 },
    Columns,
}

#[derive(Serialize, Deserialize)]
struct WireNode {
    name: TextId,
    op: TextId,
    inputs: Vec<Option<u32>>,
    outputs: Vec<Option<u32>>,
    attributes: Vec<(TextId, WireAttribute)>,
    /// Attribute name, and the graph's place in the section.
    bodies: Vec<(TextId, u32)>,
}

#[derive(Serialize, Deserialize)]
enum WireAttribute {
    Int(i64),
    Float(f32),
    String(TextId),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Strings(Vec<TextId>),
    Tensor(WireTensor),
}

#[derive(Serialize, Deserialize)]
enum WireTensor {
    Weights { dtype: DType, shape: Vec<u64>, offset: u64 },
    Inline { dtype: DType, shape: Vec<u64>, bytes: Vec<u8> },
    Texts { shape: Vec<u64>, texts: Vec<TextId> },
}

/// An entry, its tasks and configs by their places.
#[derive(Serialize, Deserialize)]
pub(super) struct WireEntry {
    pub device_name: TextId,
    pub device: TextId,
    pub environment: TextId,
    /// Per mille.
    pub share: u16,
    pub mechanism: TextId,
    pub units: u32,
    pub batch: u32,
    pub dims: Vec<(TextId, u64)>,
    /// Which graph section.
    pub graph: u32,
    pub parts: u32,
    pub lanes: u32,
    /// Task's text, place in the configs section.
    pub configs: Vec<(TextId, u32)>,
    pub record: Option<u32>,
}

/// The head of a graph section.
#[derive(Serialize, Deserialize)]
pub(super) struct WireBound {
    pub batch: u32,
    pub dims: Vec<(TextId, u64)>,
    /// The main graph first, bodies behind the graph that holds them.
    pub graphs: Vec<WireGraph>,
}

/// Texts without doubles, in the order of their first use.
#[derive(Default)]
pub(super) struct Texts {
    pub list: Vec<String>,
    known: HashMap<String, TextId>,
}

impl Texts {
    /// The place of a text.
    pub fn id(&mut self, text: &str) -> TextId {
        if let Some(&id) = self.known.get(text) {
            return id;
        }
        let id = self.list.len() as TextId;
        self.list.push(text.to_owned());
        self.known.insert(text.to_owned(), id);
        id
    }
}

/// Where each distinct run of bytes goes in the weights section, in the order of first use.
#[derive(Default)]
pub(super) struct Weights {
    pub tensors: Vec<(u64, Tensor)>,
    pub end: u64,
    by_address: HashMap<(usize, usize), u64>,
    by_content: HashMap<(usize, blake3::Hash), u64>,
}

impl Weights {
    /// The offset of a tensor's bytes; equal bytes have one.
    fn place(&mut self, tensor: &Tensor) -> u64 {
        let bytes = tensor.bytes();
        let address = (bytes.as_ptr() as usize, bytes.len());
        if let Some(&offset) = self.by_address.get(&address) {
            return offset;
        }
        let content = (bytes.len(), blake3::hash(bytes));
        let offset = match self.by_content.get(&content) {
            Some(&offset) => offset,
            None => {
                let offset = self.end.next_multiple_of(TENSOR_ALIGN);
                self.end = offset + bytes.len() as u64;
                self.tensors.push((offset, tensor.clone()));
                self.by_content.insert(content, offset);
                offset
            }
        };
        // The tensor listed at this offset keeps its own bytes alive, not these: remember only addresses that stay.
        if self.tensors.last().is_some_and(|(at, kept)| *at == offset && kept.bytes().as_ptr() == bytes.as_ptr()) {
            self.by_address.insert(address, offset);
        }
        offset
    }
}

/// Turns graphs to their wire form.
pub(super) struct Encoder<'a> {
    pub texts: &'a mut Texts,
    pub weights: &'a mut Weights,
}

impl Encoder<'_> {
    /// A graph and its bodies, each before what it holds.
    pub fn graphs(&mut self, graph: &Graph) -> Vec<WireGraph> {
        let mut list = Vec::new();
        self.graph(graph, &mut list);
        list
    }

    fn graph(&mut self, graph: &Graph, list: &mut Vec<WireGraph>) -> u32 {
        let at = list.len();
        let ids = |ids: &[ValueId]| ids.iter().map(|id| id.0).collect();
        let wire = WireGraph {
            name: self.texts.id(&graph.name),
            values: graph.values.iter().map(|value| self.value(value)).collect(),
            nodes: Vec::new(),
            inputs: ids(&graph.inputs),
            outputs: ids(&graph.outputs),
            output_names: graph.output_names.iter().map(|name| self.texts.id(name)).collect(),
            captures: graph.captures.iter().map(|capture| (capture.outer.0, capture.inner.0)).collect(),
        };
        list.push(wire);
        for node in &graph.nodes {
            let bodies = node.bodies.iter().map(|(name, body)| (self.texts.id(name), self.graph(body, list))).collect();
            let node = self.node(node, bodies);
            list[at].nodes.push(node);
        }
        at as u32
    }

    fn node(&mut self, node: &Node, bodies: Vec<(TextId, u32)>) -> WireNode {
        let ids = |ids: &[Option<ValueId>]| ids.iter().map(|id| id.map(|id| id.0)).collect();
        WireNode {
            name: self.texts.id(&node.name),
            op: self.texts.id(&node.op),
            inputs: ids(&node.inputs),
            outputs: ids(&node.outputs),
            attributes: node.attributes.iter().map(|(name, value)| (self.texts.id(name), self.attribute(value))).collect(),
            bodies,
        }
    }

    fn attribute(&mut self, attribute: &Attribute) -> WireAttribute {
        match attribute {
            Attribute::Int(value) => WireAttribute::Int(*value),
            Attribute::Float(value) => WireAttribute::Float(*value),
            Attribute::String(text) => WireAttribute::String(self.texts.id(text)),
            Attribute::Ints(values) => WireAttribute::Ints(values.clone()),
            Attribute::Floats(values) => WireAttribute::Floats(values.clone()),
            Attribute::Strings(texts) => WireAttribute::Strings(texts.iter().map(|text| self.texts.id(text)).collect()),
            Attribute::Tensor(tensor) => WireAttribute::Tensor(self.tensor(tensor)),
        }
    }

    fn value(&mut self, value: &Value) -> WireValue {
        let (mut containers, mut ty) = (Vec::new(), &value.ty);
        let base = loop {
            match ty {
                Type::Sequence(of) => (containers.push(1), ty = of).1,
                Type::Optional(of) => (containers.push(2), ty = of).1,
                Type::Unknown => break None,
                Type::Tensor { dtype, shape } => {
                    let dims = shape.as_ref().map(|shape| shape.iter().map(|dim| self.dim(dim)).collect());
                    break Some((*dtype, dims));
                }
            }
        };
        let layout = match value.layout {
            Layout::Rows => WireLayout::Rows,
            Layout::Channels { halo } => WireLayout::Channels { halo: halo as u32 },
            Layout::Columns => WireLayout::Columns,
        };
        let constant = value.constant.as_ref().map(|tensor| self.tensor(tensor));
        WireValue { name: self.texts.id(&value.name), containers, base, layout, constant }
    }

    fn dim(&mut self, dim: &Dim) -> WireDim {
        match dim {
            Dim::Fixed(extent) => WireDim::Fixed(*extent as u64),
            Dim::Named(name) => WireDim::Named(self.texts.id(name)),
        }
    }

    fn tensor(&mut self, tensor: &Tensor) -> WireTensor {
        let shape = tensor.shape().iter().map(|&extent| extent as u64).collect();
        if let Some(texts) = tensor.texts() {
            return WireTensor::Texts { shape, texts: texts.iter().map(|text| self.texts.id(text)).collect() };
        }
        let dtype = tensor.dtype();
        if tensor.bytes().len() <= INLINE_MAX {
            return WireTensor::Inline { dtype, shape, bytes: tensor.bytes().to_vec() };
        }
        WireTensor::Weights { dtype, shape, offset: self.weights.place(tensor) }
    }
}

/// Turns wire forms back, checking every reference.
pub(super) struct Decoder<'a> {
    pub texts: &'a [String],
    /// The weights section.
    pub weights: &'a Bytes,
    /// Ranges of the weights section that the decoded graphs use.
    pub used: Vec<(u64, u64)>,
}

/// What is wrong with a reference.
pub(super) type Wrong = String;

impl Decoder<'_> {
    /// The text at a place.
    pub fn text(&self, id: TextId) -> Result<&str, Wrong> {
        self.texts.get(id as usize).map(String::as_str).ok_or_else(|| format!("there is no text {id}"))
    }

    /// The main graph of a section, its bodies inside.
    pub fn graph(&mut self, list: Vec<WireGraph>) -> Result<Graph, Wrong> {
        let mut list: Vec<Option<WireGraph>> = list.into_iter().map(Some).collect();
        let graph = self.take(&mut list, 0, 0)?;
        if list.iter().any(Option::is_some) {
            return Err("a body belongs to no node".to_owned());
        }
        Ok(graph)
    }

    fn take(&mut self, list: &mut [Option<WireGraph>], at: usize, depth: usize) -> Result<Graph, Wrong> {
        let wire = list.get_mut(at).and_then(Option::take).ok_or("a graph is missing or used twice")?;
        if depth > DEPTH_MAX {
            return Err(format!("bodies are nested more than {DEPTH_MAX} deep"));
        }
        let values = wire.values.into_iter().map(|value| self.value(value)).collect::<Result<Vec<_>, _>>()?;
        let count = values.len();
        let id = move |id: u32| ((id as usize) < count).then_some(ValueId(id)).ok_or_else(|| format!("there is no value {id}"));
        let ids = |ids: Vec<u32>| ids.into_iter().map(id).collect::<Result<Vec<_>, _>>();
        let mut graph = Graph {
            name: self.text(wire.name)?.to_owned(),
            values,
            nodes: Vec::with_capacity(wire.nodes.len()),
            inputs: ids(wire.inputs)?,
            outputs: ids(wire.outputs)?,
            output_names: wire.output_names.into_iter().map(|t| Ok(self.text(t)?.to_owned())).collect::<Result<_, Wrong>>()?,
            // The outer end is checked by the graph that holds this one.
            captures: wire
                .captures
                .into_iter()
                .map(|(outer, inner)| Ok(Capture { outer: ValueId(outer), inner: id(inner)? }))
                .collect::<Result<_, Wrong>>()?,
        };
        let optional =
            |ids: Vec<Option<u32>>| ids.into_iter().map(|found| found.map(id).transpose()).collect::<Result<Vec<_>, _>>();
        for node in wire.nodes {
            let mut bodies = Vec::with_capacity(node.bodies.len());
            for (name, body) in node.bodies {
                let body = self.take(list, body as usize, depth + 1)?;
                body.captures.iter().try_for_each(|capture| id(capture.outer.0).map(drop))?;
                bodies.push((self.text(name)?.to_owned(), body));
            }
            let mut attributes = Attributes::default();
            for (name, attribute) in node.attributes {
                let attribute = self.attribute(attribute)?;
                attributes.set(self.text(name)?, attribute);
            }
            graph.nodes.push(Node {
                name: self.text(node.name)?.to_owned(),
                op: self.text(node.op)?.to_owned(),
                inputs: optional(node.inputs)?,
                outputs: optional(node.outputs)?,
                attributes,
                bodies,
            });
        }
        Ok(graph)
    }

    fn attribute(&mut self, attribute: WireAttribute) -> Result<Attribute, Wrong> {
        Ok(match attribute {
            WireAttribute::Int(value) => Attribute::Int(value),
            WireAttribute::Float(value) => Attribute::Float(value),
            WireAttribute::String(text) => Attribute::String(self.text(text)?.to_owned()),
            WireAttribute::Ints(values) => Attribute::Ints(values),
            WireAttribute::Floats(values) => Attribute::Floats(values),
            WireAttribute::Strings(texts) => Attribute::Strings(self.copies(texts)?),
            WireAttribute::Tensor(tensor) => Attribute::Tensor(self.tensor(tensor)?),
        })
    }

    fn copies(&self, texts: Vec<TextId>) -> Result<Vec<String>, Wrong> {
        texts.into_iter().map(|text| Ok(self.text(text)?.to_owned())).collect()
    }

    fn value(&mut self, value: WireValue) -> Result<Value, Wrong> {
        let mut ty = match value.base {
            None => Type::Unknown,
            Some((dtype, shape)) => {
                let dim = |dim| match dim {
                    WireDim::Fixed(extent) => {
                        usize::try_from(extent).map(Dim::Fixed).map_err(|_| "an extent is too large".into())
                    }
                    WireDim::Named(name) => Ok::<_, Wrong>(Dim::named(self.text(name)?)),
                };
                let shape = shape.map(|shape| shape.into_iter().map(dim).collect::<Result<_, _>>()).transpose()?;
                Type::Tensor { dtype, shape }
            }
        };
        if value.containers.len() > DEPTH_MAX {
            return Err(format!("containers are nested more than {DEPTH_MAX} deep"));
        }
        for container in value.containers.iter().rev() {
            ty = match container {
                1 => Type::Sequence(Box::new(ty)),
                2 => Type::Optional(Box::new(ty)),
                other => return Err(format!("there is no container {other}")),
            };
        }
        let layout = match value.layout {
            WireLayout::Rows => Layout::Rows,
            WireLayout::Channels { halo } => Layout::Channels { halo: halo as usize },
            WireLayout::Columns => Layout::Columns,
        };
        let constant = value.constant.map(|tensor| self.tensor(tensor)).transpose()?;
        Ok(Value { name: self.text(value.name)?.to_owned(), ty, layout, constant })
    }

    fn tensor(&mut self, tensor: WireTensor) -> Result<Tensor, Wrong> {
        let extents = |shape: Vec<u64>| {
            let shape: Option<Vec<usize>> = shape.into_iter().map(|extent| usize::try_from(extent).ok()).collect();
            shape.ok_or_else(|| "an extent is too large".to_owned())
        };
        match tensor {
            WireTensor::Inline { dtype, shape, bytes } => Tensor::from_bytes(dtype, extents(shape)?, Bytes::from(bytes)),
            WireTensor::Texts { shape, texts } => {
                let (shape, texts) = (extents(shape)?, self.copies(texts)?);
                let count = shape.iter().try_fold(1usize, |count, &extent| count.checked_mul(extent));
                (count == Some(texts.len())).then(|| Tensor::strings(shape, texts))
            }
            WireTensor::Weights { dtype, shape, offset } => {
                let shape = extents(shape)?;
                let len = shape.iter().try_fold(dtype.bytes(), |bytes, &extent| bytes.checked_mul(extent));
                let len = len.ok_or("a tensor is too large")? as u64;
                let end = offset.checked_add(len).filter(|&end| end <= self.weights.len() as u64);
                let end = end.ok_or("a tensor goes past the end of the weights")?;
                self.used.push((offset, end));
                Tensor::from_bytes(dtype, shape, self.weights.slice(offset as usize..end as usize))
            }
        }
        .ok_or_else(|| "a tensor's bytes do not fill its shape".to_owned())
    }
}
