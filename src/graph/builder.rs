//! Building graphs in code: for passes' replacements, tests and benches.

use super::{Graph, Node, Type, Value, ValueId};
use kernels::{Attributes, Tensor};

/// Adds values and nodes to a graph, in topological order.
#[derive(Debug, Default)]
pub struct Builder {
    graph: Graph,
}

impl Builder {
    /// An empty graph of that name.
    pub fn new(name: &str) -> Self {
        Builder { graph: Graph { name: name.to_owned(), ..Graph::default() } }
    }

    /// Adds an input.
    pub fn input(&mut self, name: &str, ty: Type) -> ValueId {
        let id = self.graph.add_value(Value { ty, ..Value::named(name) });
        self.graph.inputs.push(id);
        id
    }

    /// Adds a constant.
    pub fn constant(&mut self, name: &str, tensor: Tensor) -> ValueId {
        self.graph.add_value(Value::constant(name, tensor))
    }

    /// Adds a node with one output.
    pub fn node(&mut self, op: &str, inputs: &[ValueId], attributes: Attributes) -> ValueId {
        let name = format!("{op}_{}", self.graph.nodes.len());
        let output = self.graph.add_value(Value::named(&name));
        let inputs = inputs.iter().copied().map(Some).collect();
        self.graph.nodes.push(Node { name, attributes, ..Node::new(op, inputs, vec![Some(output)]) });
        output
    }

    /// Lists a value as an output.
    pub fn output(&mut self, name: &str, value: ValueId) {
        self.graph.outputs.push(value);
        self.graph.output_names.push(name.to_owned());
    }

    /// The graph.
    pub fn finish(self) -> Graph {
        self.graph
    }
}
