//! Names while a model is turned into graphs: which value a name means here, through bodies and inlined functions.
//!
//! A body sees the names of the graphs around it; what it uses of them becomes a capture, through every graph in between. A function
//! sees its own formal inputs and nothing else.

use super::proto::AttributeProto;
use crate::graph::{Capture, Graph, Value, ValueId};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::HashMap;

/// The names of one graph, body or function call.
pub(super) struct Scope<'p> {
    /// `None` for an input of a function that the call leaves out.
    names: HashMap<Cow<'p, str>, Option<ValueId>>,
    /// Which graph its values are in.
    graph: usize,
    /// Nothing outside is visible.
    closed: bool,
    /// Put before names of values, so that two calls of one function differ.
    pub prefix: String,
    /// Versions of the operator sets, by domain.
    pub opsets: BTreeMap<&'p str, i64>,
    /// In a function: the attributes of its call.
    pub attributes: BTreeMap<&'p str, &'p AttributeProto<'p>>,
    /// Whether this is a function's body.
    pub function: bool,
}

/// What a name means.
pub(super) enum Meaning {
    Value(ValueId),
    /// An input of a function that the call leaves out.
    Absent,
    Unknown,
}

/// The graphs under construction, outermost first, and the scopes, innermost last.
#[derive(Default)]
pub(super) struct Scopes<'p> {
    pub graphs: Vec<Graph>,
    scopes: Vec<Scope<'p>>,
}

impl<'p> Scopes<'p> {
    /// Begins a graph: the main one, or a body that sees what is around it.
    pub fn enter_graph(&mut self, name: &str, opsets: Option<BTreeMap<&'p str, i64>>) {
        self.graphs.push(Graph { name: name.to_owned(), ..Graph::default() });
        let (prefix, around, attributes, function) = match self.scopes.last() {
            Some(scope) => (scope.prefix.clone(), scope.opsets.clone(), scope.attributes.clone(), scope.function),
            None => Default::default(),
        };
        let graph = self.graphs.len() - 1;
        let opsets = opsets.unwrap_or(around);
        self.scopes.push(Scope { names: HashMap::new(), graph, closed: false, prefix, opsets, attributes, function });
    }

    /// Ends a graph.
    pub fn leave_graph(&mut self) -> Graph {
        self.scopes.pop();
        self.graphs.pop().expect("each leave_graph has its enter_graph")
    }

    /// Begins a function call: a scope of its own in the same graph.
    pub fn enter_function(
        &mut self,
        prefix: String,
        opsets: BTreeMap<&'p str, i64>,
        attributes: BTreeMap<&'p str, &'p AttributeProto<'p>>,
    ) {
        let graph = self.graphs.len() - 1;
        self.scopes.push(Scope { names: HashMap::new(), graph, closed: true, prefix, opsets, attributes, function: true });
    }

    /// Ends a function call.
    pub fn leave_function(&mut self) {
        self.scopes.pop();
    }

    /// The innermost scope.
    pub fn here(&self) -> &Scope<'p> {
        self.scopes.last().expect("names are asked for within a graph")
    }

    /// The graph under construction.
    pub fn graph(&mut self) -> &mut Graph {
        self.graphs.last_mut().expect("values are added within a graph")
    }

    /// Whether this very scope has the name.
    pub fn has(&self, name: &str) -> bool {
        self.here().names.contains_key(name)
    }

    /// Adds a value under a name of this scope.
    pub fn define(&mut self, name: &'p str, value: Value) -> ValueId {
        let prefix = &self.here().prefix;
        let value = if prefix.is_empty() { value } else { Value { name: format!("{prefix}{}", value.name), ..value } };
        let id = self.graph().add_value(value);
        self.bind(name, Some(id));
        id
    }

    /// Lets a name mean a value of this graph.
    pub fn bind(&mut self, name: &'p str, value: Option<ValueId>) {
        let scope = self.scopes.last_mut().expect("names are bound within a graph");
        scope.names.insert(Cow::Borrowed(name), value);
    }

    /// What a name means here. A value of an outer graph is captured by every graph down to this one.
    pub fn resolve(&mut self, name: &str) -> Meaning {
        let found = self.scopes.iter().rposition(|scope| scope.closed || scope.names.contains_key(name));
        let Some(at) = found else { return Meaning::Unknown };
        let mut value = match self.scopes[at].names.get(name) {
            Some(Some(value)) => *value,
            Some(None) => return Meaning::Absent,
            None => return Meaning::Unknown,
        };
        // Between `at` and here there are only bodies: a function would have been closed.
        for scope in &mut self.scopes[at + 1..] {
            let outer = self.graphs[scope.graph - 1].value(value);
            let inner =
                Value { name: outer.name.clone(), ty: outer.ty.clone(), layout: outer.layout, constant: outer.constant.clone() };
            let graph = &mut self.graphs[scope.graph];
            let captured = graph.add_value(inner);
            graph.captures.push(Capture { outer: value, inner: captured });
            scope.names.insert(Cow::Owned(name.to_owned()), Some(captured));
            value = captured;
        }
        Meaning::Value(value)
    }
}
