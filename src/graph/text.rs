//! The text form of a graph: what `inspect` prints, what file tests are written in, what a bug report can hold.
//!
//! ```text
//! graph resnet                                      # a comment runs to the end of its line
//! input %x: f32[N,3,224,224]
//! $w: f32[64,3,7,7] = #5f0c…                        # a large constant: the blake3 of its bytes
//! $axes: i64[2] = [2,3]                             # a small one: its elements
//! %a: f32[N,64,112,112] channels16h1 = conv2d(%x, $w) strides=[2,2] epilogue="relu" @/conv1
//! %b: f32[N,64], _ = If(%c) then_branch={
//!   capture %a: f32[N,64,112,112] = %a
//!   output %a
//! }
//! output %b as "logits"
//! ```
//!
//! `_` is an absent operand, `@` leads the node's name. Tests may also write `= fill(7)` or `= fill(7,0.5,1.5)`: pseudo-random
//! numbers in [−1, 1] or in the range given. A type left out is unknown, a layout left out is rows. Names with other than letters,
//! digits and `_.-+/'~` stand in quotes. Blanks and line ends mean nothing.
//!
//! Values that nothing uses are not written. Two values of one name get `~` and a number.

mod parse;

pub use parse::{TextError, parse, parse_with};

use super::{Dim, Graph, Node, Type, Value, ValueId};
use kernels::{Attribute, Layout, Tensor};
use schema::DType;
use std::collections::HashSet;
use std::fmt::{self, Write};

/// Constants of at most so many elements are written out.
const INLINE_MAX: usize = 16;

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        if !self.name.is_empty() {
            writeln!(out, "graph {}", word(&self.name))?;
        }
        Printer::new(self).graph(&mut out, 0, None)?;
        f.write_str(&out)
    }
}

/// The blake3 of a constant's bytes: the name under which the text form mentions it.
pub fn digest(tensor: &Tensor) -> String {
    let mut hasher = blake3::Hasher::new();
    match tensor.texts() {
        Some(texts) => texts.iter().for_each(|text| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }),
        None => {
            hasher.update(tensor.bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}

/// A word of the text form: bare where its characters allow, quoted and escaped otherwise.
fn word(text: &str) -> String {
    if !text.is_empty() && text != "_" && text.chars().all(parse::in_word) { text.to_owned() } else { quoted(text) }
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => out.push(c),
        }
    }
    out + "\""
}

/// Writes one graph: knows which values have appeared and the word for each.
struct Printer<'g> {
    graph: &'g Graph,
    names: Vec<String>,
    declared: Vec<bool>,
}

impl<'g> Printer<'g> {
    fn new(graph: &'g Graph) -> Self {
        let mut taken = HashSet::new();
        let mut used = vec![false; graph.values.len()];
        let operands = graph.nodes.iter().flat_map(|node| node.inputs.iter().chain(&node.outputs).flatten());
        let inner = graph.captures.iter().map(|capture| &capture.inner);
        let captured = graph.nodes.iter().flat_map(|node| &node.bodies).flat_map(|(_, body)| &body.captures);
        for id in graph.inputs.iter().chain(inner).chain(operands).chain(&graph.outputs).chain(captured.map(|c| &c.outer)) {
            if let Some(slot) = used.get_mut(id.index()) {
                *slot = true;
            }
        }
        let mut names = Vec::with_capacity(graph.values.len());
        for (index, value) in graph.values.iter().enumerate() {
            let mut name = value.name.clone();
            while used[index] && !taken.insert(name.clone()) {
                name = format!("{name}~{index}");
            }
            names.push(word(&name));
        }
        Printer { graph, names, declared: vec![false; graph.values.len()] }
    }

    /// The word for a value, with its sigil. A value outside the table (of a broken graph) is shown by number.
    fn operand(&self, id: ValueId) -> String {
        match self.graph.values.get(id.index()) {
            None => format!("%?{}", id.0),
            Some(value) if value.constant.is_some() => format!("${}", self.names[id.index()]),
            Some(_) => format!("%{}", self.names[id.index()]),
        }
    }

    fn typed(&self, id: ValueId) -> String {
        let mut text = self.operand(id);
        let value = &self.graph.values[id.index()];
        if value.ty != Type::Unknown {
            text.push_str(": ");
            text.push_str(&type_text(&value.ty));
        }
        if value.layout != Layout::Rows {
            text.push_str(&format!(" {}", value.layout));
        }
        text
    }

    fn graph(&mut self, out: &mut String, depth: usize, outer: Option<&Printer<'_>>) -> fmt::Result {
        let graph = self.graph;
        let pad = "  ".repeat(depth);
        for &id in &graph.inputs {
            writeln!(out, "{pad}input {}", self.typed(id))?;
        }
        for capture in &graph.captures {
            let from = outer.map_or_else(|| "_".to_owned(), |outer| outer.operand(capture.outer));
            writeln!(out, "{pad}capture {} = {from}", self.typed(capture.inner))?;
        }
        for node in &graph.nodes {
            self.node(out, node, depth)?;
        }
        for (i, &id) in graph.outputs.iter().enumerate() {
            self.constant(out, id, &pad)?;
            write!(out, "{pad}output {}", self.operand(id))?;
            match graph.output_names.get(i) {
                Some(name) if graph.values.get(id.index()).is_none_or(|value| value.name != *name) => {
                    writeln!(out, " as {}", quoted(name))?;
                }
                _ => out.push('\n'),
            }
        }
        Ok(())
    }

    fn constant(&mut self, out: &mut String, id: ValueId, pad: &str) -> fmt::Result {
        let Some(Value { constant: Some(tensor), .. }) = self.graph.values.get(id.index()) else { return Ok(()) };
        if std::mem::replace(&mut self.declared[id.index()], true) {
            return Ok(());
        }
        let ty = Type::tensor(tensor.dtype(), tensor.shape());
        writeln!(out, "{pad}{}: {} = {}", self.operand(id), type_text(&ty), tensor_text(tensor))
    }

    fn node(&mut self, out: &mut String, node: &Node, depth: usize) -> fmt::Result {
        let pad = "  ".repeat(depth);
        let captured = node.bodies.iter().flat_map(|(_, body)| &body.captures).map(|capture| capture.outer);
        for id in node.inputs.iter().flatten().copied().chain(captured) {
            self.constant(out, id, &pad)?;
        }
        let absent = || "_".to_owned();
        let outputs: Vec<_> = node.outputs.iter().map(|id| id.map_or_else(absent, |id| self.typed(id))).collect();
        let inputs: Vec<_> = node.inputs.iter().map(|id| id.map_or_else(absent, |id| self.operand(id))).collect();
        let outputs = if outputs.is_empty() { absent() } else { outputs.join(", ") };
        write!(out, "{pad}{outputs} = {}({})", word(&node.op), inputs.join(", "))?;
        for (name, value) in node.attributes.iter() {
            write!(out, " {}={}", word(name), attribute_text(value))?;
        }
        if !node.name.is_empty() {
            write!(out, " @{}", word(&node.name))?;
        }
        for (name, body) in &node.bodies {
            writeln!(out, " {}={{", word(name))?;
            if !body.name.is_empty() {
                writeln!(out, "{pad}  graph {}", word(&body.name))?;
            }
            Printer::new(body).graph(out, depth + 1, Some(self))?;
            write!(out, "{pad}}}")?;
        }
        writeln!(out)
    }
}

fn type_text(ty: &Type) -> String {
    match ty {
        Type::Unknown => "?".to_owned(),
        Type::Tensor { dtype, shape: None } => format!("{dtype}[?]"),
        Type::Tensor { dtype, shape: Some(shape) } => {
            let dims: Vec<_> = shape.iter().map(dim_text).collect();
            format!("{dtype}[{}]", dims.join(","))
        }
        Type::Sequence(of) => format!("seq({})", type_text(of)),
        Type::Optional(of) => format!("opt({})", type_text(of)),
    }
}

/// An open extent's name is quoted when it could be read as a number.
fn dim_text(dim: &Dim) -> String {
    match dim {
        Dim::Fixed(extent) => extent.to_string(),
        Dim::Named(name) if name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') => word(name),
        Dim::Named(name) => quoted(name),
    }
}

fn list<T>(items: &[T], text: impl Fn(&T) -> String) -> String {
    format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(","))
}

/// Empty lists name their kind, for `[]` alone is a list of whole numbers.
pub(crate) fn attribute_text(value: &Attribute) -> String {
    match value {
        Attribute::Int(value) => value.to_string(),
        Attribute::Float(value) => format!("{value:?}"),
        Attribute::String(value) => quoted(value),
        Attribute::Ints(values) => list(values, i64::to_string),
        Attribute::Floats(values) if values.is_empty() => "floats[]".to_owned(),
        Attribute::Floats(values) => list(values, |value| format!("{value:?}")),
        Attribute::Strings(values) if values.is_empty() => "strings[]".to_owned(),
        Attribute::Strings(values) => list(values, |value| quoted(value)),
        Attribute::Tensor(tensor) => {
            format!("{}:{}", type_text(&Type::tensor(tensor.dtype(), tensor.shape())), tensor_text(tensor))
        }
    }
}

fn tensor_text(tensor: &Tensor) -> String {
    if tensor.len() > INLINE_MAX {
        return format!("#{}", digest(tensor));
    }
    if let Some(texts) = tensor.texts() {
        return list(texts, |text| quoted(text));
    }
    if let Some(ints) = tensor.to_ints() {
        return list(&ints, i64::to_string);
    }
    // A NaN's payload does not survive being printed as a number.
    match tensor.dtype() {
        DType::F32 => {
            let values = tensor.reinterpret::<f32>();
            if values.iter().all(|value| !value.is_nan()) {
                return list(&values, |value| format!("{value:?}"));
            }
        }
        DType::F64 => {
            let values = tensor.reinterpret::<f64>();
            if values.iter().all(|value| !value.is_nan()) {
                return list(&values, |value| format!("{value:?}"));
            }
        }
        _ => {}
    }
    let hex: String = tensor.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("hex \"{hex}\"")
}

#[cfg(test)]
mod tests;
