//! `GraphProto` → [`Graph`]: names become values, nodes are sorted, bodies capture what they use, functions are inlined.

use super::error::{Class, Excess, ImportError, quote};
use super::functions::{Functions, Key};
use super::limits::Clock;
use super::ops::{self, Draft};
use super::proto::{AttributeProto, FunctionProto, GraphProto, Kind, NodeProto, ValueInfoProto};
use super::scope::{Meaning, Scopes};
use super::tensor::Tensors;
use super::{order, types};
use crate::graph::{Graph, Node, Type, Value, ValueId};
use kernels::{Attribute, Attributes, Tensor};
use std::collections::{BTreeMap, HashMap};

/// A model on its way into a graph.
pub(super) struct Lowering<'p, 't> {
    pub tensors: Tensors<'t>,
    pub functions: Functions<'p>,
    pub scopes: Scopes<'p>,
    pub warnings: Vec<String>,
    clock: Clock,
    /// How often each name of a node was given.
    names: HashMap<String, u32>,
    /// Bytes of names and attributes that inlining copied: calls multiply what the file says once.
    inlined_bytes: u64,
}

impl<'p, 't> Lowering<'p, 't> {
    pub fn new(tensors: Tensors<'t>, functions: Functions<'p>, clock: Clock) -> Self {
        Lowering {
            tensors,
            functions,
            scopes: Scopes::default(),
            warnings: Vec::new(),
            clock,
            names: HashMap::new(),
            inlined_bytes: 0,
        }
    }

    /// The main graph.
    pub fn main(&mut self, proto: &'p GraphProto<'p>, opsets: BTreeMap<&'p str, i64>) -> Result<Graph, ImportError> {
        if proto.outputs.is_empty() {
            return Err(ImportError::new(Class::Malformed, "", "a model without outputs"));
        }
        self.scopes.enter_graph(proto.name, Some(opsets));
        self.fill(proto, true)?;
        Ok(self.scopes.leave_graph())
    }

    /// Inputs, initializers, nodes and outputs of a graph that was entered.
    fn fill(&mut self, proto: &'p GraphProto<'p>, main: bool) -> Result<(), ImportError> {
        self.initializers(proto)?;
        self.inputs(proto, main)?;
        self.nodes(&proto.nodes)?;
        for output in &proto.outputs {
            let place = || format!("output {}", quote(output.name));
            let Meaning::Value(id) = self.scopes.resolve(output.name) else {
                return Err(ImportError::new(Class::UndefinedValue, place(), "made by nobody"));
            };
            let graph = self.scopes.graph();
            graph.outputs.push(id);
            graph.output_names.push(output.name.to_owned());
        }
        Ok(())
    }

    fn initializers(&mut self, proto: &'p GraphProto<'p>) -> Result<(), ImportError> {
        for initializer in &proto.initializers {
            self.new_name(initializer.name, || initializer.place())?;
            let tensor = self.tensors.tensor(initializer)?;
            self.scopes.define(initializer.name, Value::constant(initializer.name, tensor));
        }
        for sparse in &proto.sparse_initializers {
            let name = sparse.values.name;
            self.new_name(name, || sparse.values.place())?;
            let tensor = self.tensors.sparse(sparse)?;
            self.scopes.define(name, Value::constant(name, tensor));
        }
        Ok(())
    }

    /// Inputs; one that is an initializer too (the way of IR version 3) is that constant and no input.
    fn inputs(&mut self, proto: &'p GraphProto<'p>, main: bool) -> Result<(), ImportError> {
        let mut seen = std::collections::HashSet::new();
        for input in &proto.inputs {
            let place = || format!("input {}", quote(input.name));
            if !seen.insert(input.name) {
                return Err(ImportError::new(Class::DuplicateName, place(), "two inputs of one name"));
            }
            let ty = types::of(input, self.tensors.limits).map_err(|error| error.at(place))?;
            if let Meaning::Value(id) = self.here(input.name) {
                types::agree(&ty, &self.scopes.graph().value(id).ty).map_err(|error| error.at(place))?;
                continue;
            }
            if main && ty == Type::Unknown {
                return Err(ImportError::new(Class::BadDtype, place(), "has no type"));
            }
            let id = self.scopes.define(input.name, Value { ty, ..Value::named(input.name) });
            self.scopes.graph().inputs.push(id);
        }
        Ok(())
    }

    fn here(&mut self, name: &str) -> Meaning {
        if self.scopes.has(name) { self.scopes.resolve(name) } else { Meaning::Unknown }
    }

    fn new_name(&self, name: &str, place: impl Fn() -> String) -> Result<(), ImportError> {
        if self.scopes.has(name) {
            return Err(ImportError::new(Class::DuplicateName, place(), "two values of one name"));
        }
        Ok(())
    }

    /// Nodes of a graph or a function, in an order in which each finds its inputs made.
    fn nodes(&mut self, nodes: &'p [NodeProto<'p>]) -> Result<(), ImportError> {
        for &index in &order::sort(nodes, |name| self.scopes.has(name))? {
            let node = &nodes[index];
            self.node(node).map_err(|error| error.at(|| node.place()))?;
        }
        Ok(())
    }

    fn node(&mut self, proto: &'p NodeProto<'p>) -> Result<(), ImportError> {
        let domain = if proto.domain == "ai.onnx" { "" } else { proto.domain };
        self.clock.check()?;
        self.charge(proto)?;
        let attributes = self.attributes(proto)?;
        if let Some(function) = self.functions.get(&Key { domain, name: proto.op, overload: proto.overload }) {
            return self.call(proto, function, attributes);
        }
        let name = if domain.is_empty() { proto.op.to_owned() } else { format!("{domain}.{}", proto.op) };
        let unknown = |found: String| ImportError::new(Class::UnsupportedOp, proto.place(), found);
        let op = ops::find(&name).ok_or_else(|| unknown(format!("unknown operator {}", quote(&name))))?;
        let opset = self.scopes.here().opsets.get(domain).copied();
        let opset = opset.ok_or_else(|| unknown(format!("operator {}, whose operator set is not imported", quote(&name))))?;
        let version = op
            .version(opset)
            .ok_or_else(|| unknown(format!("operator {}, which operator set {opset} does not have", quote(&name))))?;

        let (mut plain, mut bodies) = (Attributes::default(), Vec::new());
        for spec in &version.attributes {
            if spec.required && !attributes.iter().any(|(attribute, _)| *attribute == spec.name) {
                return Err(bad_attribute(format!("{name} without its attribute {}", spec.name)));
            }
        }
        for (attribute, value) in attributes {
            let Some(spec) = version.attributes.iter().find(|spec| spec.name == attribute) else {
                self.warnings.push(format!("{}: attribute {} is unknown and ignored", proto.place(), quote(attribute)));
                continue;
            };
            if value.kind != Some(spec.kind) {
                let found = value.kind.map_or("nothing".to_owned(), |kind| format!("{kind:?}"));
                return Err(bad_attribute(format!("attribute {attribute} of {name} is {found}, it must be {:?}", spec.kind)));
            }
            match &value.graph {
                Some(graph) => bodies.push((attribute, &**graph)),
                None => plain.set(attribute, self.value(attribute, value)?),
            }
        }
        let inputs = trimmed(&proto.inputs);
        let outputs = trimmed(&proto.outputs);
        let counts = [
            ("inputs", proto.inputs.len(), inputs.len(), version.inputs),
            ("outputs", proto.outputs.len(), outputs.len(), version.outputs),
        ];
        for (what, written, found, allowed) in counts {
            // Absent ones at the end count as written: `Loop(m, "")` has its two.
            if written < allowed.least || found > allowed.most {
                let found = format!("{name} with {written} {what}, it has {allowed}");
                return Err(ImportError::new(Class::Arity, "", found));
            }
        }
        if name == "Constant" {
            return self.constant(outputs[0], plain);
        }
        self.join(name, op, opset, proto, inputs, outputs, plain, &bodies)
    }

    /// Counts what a node inside a function copies.
    fn charge(&mut self, proto: &NodeProto<'_>) -> Result<(), ImportError> {
        let scope = self.scopes.here();
        if !scope.function {
            return Ok(());
        }
        let names: usize = proto.outputs.iter().map(|name| name.len() + scope.prefix.len()).sum();
        let attributes: u64 = proto.attributes.iter().map(AttributeProto::copied_bytes).sum();
        self.inlined_bytes = self.inlined_bytes.saturating_add(names as u64 + proto.name.len() as u64 + attributes);
        let allowed = self.tensors.limits.inline_bytes;
        if self.inlined_bytes > allowed {
            let excess = Excess { limit: "inline-bytes", allowed, need: Some(self.inlined_bytes) };
            return Err(ImportError::limit("", "bytes of names and attributes of inlined functions", excess));
        }
        Ok(())
    }

    /// Resolves, normalises, and adds a node to the graph.
    #[allow(clippy::too_many_arguments)]
    fn join(
        &mut self,
        op: String,
        entry: &ops::Op,
        opset: i64,
        proto: &'p NodeProto<'p>,
        inputs: &[&'p str],
        outputs: &[&'p str],
        attributes: Attributes,
        bodies: &[(&'p str, &'p GraphProto<'p>)],
    ) -> Result<(), ImportError> {
        let inputs = self.resolve(inputs)?;
        let label = self.label(proto);
        let mut graphs = Vec::with_capacity(bodies.len());
        for &(attribute, body) in bodies {
            self.scopes.enter_graph(body.name, None);
            let filled = self.fill(body, false);
            let graph = self.scopes.leave_graph();
            filled?;
            graphs.push((attribute.to_owned(), graph));
        }
        let mut made = Vec::with_capacity(outputs.len());
        for &output in outputs {
            made.push(match output {
                "" => None,
                name => Some(self.scopes.define(name, Value::named(name))),
            });
        }
        let graph = self.scopes.graph();
        let mut draft = Draft { op, opset, inputs, outputs: made, attributes, name: &label, graph };
        (entry.normalise)(&mut draft)?;
        let Draft { op, mut inputs, outputs, attributes, .. } = draft;
        super::bodies::check(&op, inputs.len(), outputs.len(), &attributes, &graphs)?;
        while inputs.last().is_some_and(Option::is_none) {
            inputs.pop();
        }
        graph.nodes.push(Node { name: label, op, inputs, outputs, attributes, bodies: graphs });
        Ok(())
    }

    fn resolve(&mut self, names: &[&'p str]) -> Result<Vec<Option<ValueId>>, ImportError> {
        let mut values = Vec::with_capacity(names.len());
        for &name in names {
            values.push(match name {
                "" => None,
                name => match self.scopes.resolve(name) {
                    Meaning::Value(id) => Some(id),
                    Meaning::Absent => None,
                    Meaning::Unknown => {
                        let found = format!("reads {}, which nobody makes", quote(name));
                        return Err(ImportError::new(Class::UndefinedValue, "", found));
                    }
                },
            });
        }
        Ok(values)
    }

    /// The name of a node in the graph: the model's, made unique, or one from what it is.
    fn label(&mut self, proto: &NodeProto<'_>) -> String {
        let prefix = &self.scopes.here().prefix;
        let base = match proto.name {
            "" => format!("{prefix}{}", proto.op),
            name => format!("{prefix}{name}"),
        };
        let count = self.names.entry(base.clone()).or_insert(0);
        *count += 1;
        match (proto.name, *count) {
            ("", n) => format!("{base}_{}", n - 1),
            (_, 1) => base,
            (_, n) => format!("{base}#{n}"),
        }
    }

    /// The attributes of a node by name; inside a function, what they refer to.
    fn attributes(&self, proto: &'p NodeProto<'p>) -> Result<Vec<(&'p str, &'p AttributeProto<'p>)>, ImportError> {
        let scope = self.scopes.here();
        let mut found: Vec<(&str, &AttributeProto<'_>)> = Vec::with_capacity(proto.attributes.len());
        for attribute in &proto.attributes {
            if found.iter().any(|(name, _)| *name == attribute.name) {
                let twice = format!("attribute {} twice", quote(attribute.name));
                return Err(ImportError::new(Class::DuplicateName, proto.place(), twice));
            }
            match attribute.refers_to.filter(|name| !name.is_empty()) {
                None => found.push((attribute.name, attribute)),
                Some(name) if scope.function => {
                    // The call may leave an attribute out; then the node has its default.
                    if let Some(value) = scope.attributes.get(name) {
                        if value.graph.is_some() {
                            let found = format!("attribute {} passes a graph into a function", quote(attribute.name));
                            return Err(ImportError::new(Class::UnsupportedOp, proto.place(), found));
                        }
                        found.push((attribute.name, value));
                    }
                }
                Some(name) => {
                    let outside = format!("attribute {} refers to {} outside a function", quote(attribute.name), quote(name));
                    return Err(ImportError::new(Class::BadAttribute, proto.place(), outside));
                }
            }
        }
        Ok(found)
    }

    fn value(&mut self, name: &str, proto: &AttributeProto<'_>) -> Result<Attribute, ImportError> {
        let text = |bytes: &[u8]| {
            let text = String::from_utf8(bytes.to_vec());
            text.map_err(|_| ImportError::new(Class::BadUtf8, "", format!("attribute {name} is not UTF-8")))
        };
        Ok(match proto.kind {
            Some(Kind::Int) => Attribute::Int(proto.int.unwrap_or_default()),
            Some(Kind::Float) => Attribute::Float(proto.float.unwrap_or_default()),
            Some(Kind::String) => Attribute::String(text(proto.string.unwrap_or_default())?),
            Some(Kind::Ints) => Attribute::Ints(proto.ints.clone()),
            Some(Kind::Floats) => Attribute::Floats(proto.floats.clone()),
            Some(Kind::Strings) => Attribute::Strings(proto.strings.iter().map(|bytes| text(bytes)).collect::<Result<_, _>>()?),
            Some(Kind::Tensor) if let Some(tensor) = &proto.tensor => Attribute::Tensor(self.tensors.tensor(tensor)?),
            Some(Kind::Sparse) if let Some(sparse) = &proto.sparse => Attribute::Tensor(self.tensors.sparse(sparse)?),
            Some(Kind::Type) if let Some(ty) = &proto.ty => {
                Attribute::String(types::convert(ty, "", self.tensors.limits)?.to_string())
            }
            _ => return Err(bad_attribute(format!("attribute {name} has no value"))),
        })
    }

    /// A `Constant` node becomes a constant.
    fn constant(&mut self, output: &'p str, attributes: Attributes) -> Result<(), ImportError> {
        let mut given = attributes.iter();
        let (Some((name, value)), None) = (given.next(), given.next()) else {
            return Err(bad_attribute("Constant needs one attribute, no more and no less".to_owned()));
        };
        let tensor = match value {
            Attribute::Tensor(tensor) => tensor.clone(),
            Attribute::Int(value) => Tensor::scalar(*value),
            Attribute::Ints(values) => Tensor::new(vec![values.len()], values.clone()),
            Attribute::Float(value) => Tensor::scalar(*value),
            Attribute::Floats(values) => Tensor::new(vec![values.len()], values.clone()),
            Attribute::String(text) => Tensor::strings(vec![], vec![text.clone()]),
            Attribute::Strings(texts) => Tensor::strings(vec![texts.len()], texts.clone()),
        };
        debug_assert!(!name.is_empty());
        self.scopes.define(output, Value::constant(output, tensor));
        Ok(())
    }

    /// Inlines a call of a model-local function.
    fn call(
        &mut self,
        proto: &'p NodeProto<'p>,
        function: &'p FunctionProto<'p>,
        attributes: Vec<(&'p str, &'p AttributeProto<'p>)>,
    ) -> Result<(), ImportError> {
        let (inputs, outputs) = (trimmed(&proto.inputs), trimmed(&proto.outputs));
        if inputs.len() > function.inputs.len() || outputs.len() > function.outputs.len() {
            let found = format!(
                "{} inputs and {} outputs for a function of {} and {}",
                inputs.len(),
                outputs.len(),
                function.inputs.len(),
                function.outputs.len()
            );
            return Err(ImportError::new(Class::Arity, "", found));
        }
        let actual = self.resolve(inputs)?;
        let mut values: BTreeMap<&str, &AttributeProto<'_>> =
            function.defaults.iter().map(|default| (default.name, default)).collect();
        values.extend(attributes);
        let mut prefix = format!("{}/", self.label(proto));
        if prefix.len() > PREFIX_BYTES_MAX {
            prefix = format!("call_{}/", self.names.len());
        }
        let opsets = super::opsets(&function.opsets)?;
        self.scopes.enter_function(prefix, opsets, values);
        let made = self.inline(function, &actual);
        self.scopes.leave_function();
        for (&output, value) in outputs.iter().zip(made?) {
            if !output.is_empty() {
                self.scopes.bind(output, Some(value));
            }
        }
        Ok(())
    }

    fn inline(&mut self, function: &'p FunctionProto<'p>, actual: &[Option<ValueId>]) -> Result<Vec<ValueId>, ImportError> {
        for (i, &formal) in function.inputs.iter().enumerate() {
            self.new_name(formal, || format!("function {}", quote(function.name)))?;
            self.scopes.bind(formal, actual.get(i).copied().flatten());
        }
        self.nodes(&function.nodes)?;
        let mut made = Vec::with_capacity(function.outputs.len());
        for &output in &function.outputs {
            let Meaning::Value(id) = self.scopes.resolve(output) else {
                let place = format!("function {}", quote(function.name));
                return Err(ImportError::new(
                    Class::UndefinedValue,
                    place,
                    format!("its output {} is made by nobody", quote(output)),
                ));
            };
            made.push(id);
        }
        Ok(made)
    }
}

/// A longer path of calls is written as a number. Names within functions would grow with the depth otherwise.
const PREFIX_BYTES_MAX: usize = 200;

fn bad_attribute(found: String) -> ImportError {
    ImportError::new(Class::BadAttribute, "", found)
}

/// Names without the empty ones at the end.
fn trimmed<'s, 'p>(names: &'s [&'p str]) -> &'s [&'p str] {
    let len = names.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1);
    &names[..len]
}

/// Checks a main graph's outputs against what the model says of them.
pub(super) fn check_outputs(graph: &Graph, declared: &[ValueInfoProto<'_>], limits: &super::Limits) -> Result<(), ImportError> {
    for (&id, output) in graph.outputs.iter().zip(declared) {
        let place = || format!("output {}", quote(output.name));
        let ty = types::of(output, limits).map_err(|error| error.at(place))?;
        types::agree(&ty, &graph.value(id).ty).map_err(|error| error.at(place))?;
    }
    Ok(())
}
