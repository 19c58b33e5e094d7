//! Writes ONNX models byte by byte, sound ones and others, for tests and benches of the importer.

/// A protobuf message under construction.
#[derive(Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    fn varint(&mut self, mut value: u64) {
        while value > 127 {
            self.0.push(value as u8 | 128);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    pub fn bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    pub fn text(&mut self, field: u64, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    pub fn message(&mut self, field: u64, fill: impl FnOnce(&mut Writer)) {
        let mut inner = Writer::default();
        fill(&mut inner);
        self.bytes(field, &inner.0);
    }

    /// An attribute of a node.
    pub fn attribute(&mut self, name: &str, value: &Value<'_>) {
        self.message(5, |w| w.attribute_fields(name, value));
    }

    /// The fields of an attribute, wherever it stands.
    pub fn attribute_fields(&mut self, name: &str, value: &Value<'_>) {
        self.text(1, name);
        match value {
            Value::Int(value) => {
                self.number(3, *value as u64);
                self.number(20, 2);
            }
            Value::Float(value) => {
                self.varint(2 << 3 | 5);
                self.0.extend_from_slice(&value.to_le_bytes());
                self.number(20, 1);
            }
            Value::Ints(values) => {
                values.iter().for_each(|&value| self.number(8, value as u64));
                self.number(20, 7);
            }
            Value::Graph(graph) => {
                self.bytes(6, graph);
                self.number(20, 5);
            }
            Value::Refers(to, kind) => {
                self.text(21, to);
                self.number(20, *kind);
            }
        }
    }

    /// A node of a graph (field 1) or a function (field 7).
    pub fn node(&mut self, field: u64, op: &str, inputs: &[&str], outputs: &[&str], attributes: &[(&str, Value<'_>)]) {
        self.message(field, |w| {
            inputs.iter().for_each(|input| w.text(1, input));
            outputs.iter().for_each(|output| w.text(2, output));
            let (domain, op) = op.rsplit_once('.').unwrap_or(("", op));
            w.text(4, op);
            w.text(7, domain);
            attributes.iter().for_each(|(name, value)| w.attribute(name, value));
        });
    }

    /// A tensor of raw data as an initializer.
    pub fn initializer(&mut self, name: &str, code: u64, dims: &[u64], data: &[u8]) {
        self.message(5, |w| {
            dims.iter().for_each(|&dim| w.number(1, dim));
            w.number(2, code);
            w.text(8, name);
            w.bytes(9, data);
        });
    }

    /// An f32 value; an extent of 0 is the symbol N.
    fn value(&mut self, field: u64, name: &str, dims: &[u64]) {
        self.message(field, |w| {
            w.text(1, name);
            w.message(2, |ty| {
                ty.message(1, |tensor| {
                    tensor.number(1, 1);
                    tensor.message(2, |shape| {
                        dims.iter().for_each(|&extent| {
                            shape.message(1, |dim| if extent == 0 { dim.text(2, "N") } else { dim.number(1, extent) });
                        });
                    });
                });
            });
        });
    }

    pub fn input(&mut self, name: &str, dims: &[u64]) {
        self.value(11, name, dims);
    }

    pub fn output(&mut self, name: &str, dims: &[u64]) {
        self.value(12, name, dims);
    }

    /// An output of which nothing but the name is said.
    pub fn bare_output(&mut self, name: &str) {
        self.message(12, |w| w.text(1, name));
    }
}

/// The value of an attribute.
pub enum Value<'a> {
    Int(i64),
    Float(f32),
    Ints(&'a [i64]),
    Graph(&'a [u8]),
    /// The attribute of the call it takes its value from, and ONNX's number of its type.
    Refers(&'a str, u64),
}

/// A graph's fields, without the message around them.
pub fn graph(fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::default();
    fill(&mut writer);
    writer.0
}

/// A model of a graph, for an operator set of the default domain; `more` adds further fields.
pub fn model(opset: u64, graph: &[u8], more: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.number(1, 8);
    writer.bytes(7, graph);
    writer.message(8, |w| w.number(2, opset));
    more(&mut writer);
    writer.0
}
