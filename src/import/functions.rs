//! Functions that the model defines itself: found by name, checked for cycles, counted before anything is inlined.

use super::error::{Class, Excess, ImportError, quote};
use super::limits::Limits;
use super::proto::{FunctionProto, GraphProto, NodeProto};
use std::collections::HashMap;

/// What a call names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key<'p> {
    pub domain: &'p str,
    pub name: &'p str,
    pub overload: &'p str,
}

/// The functions of a model.
#[derive(Default)]
pub(super) struct Functions<'p> {
    by_key: HashMap<Key<'p>, &'p FunctionProto<'p>>,
}

/// What calling a function costs.
#[derive(Copy, Clone)]
enum Cost {
    /// On the path that is being walked.
    Open,
    /// Nodes when all is inlined, and how deep the calls go.
    Known { nodes: u64, depth: u64 },
}

impl<'p> Functions<'p> {
    /// All functions, each name once.
    pub fn new(functions: &'p [FunctionProto<'p>]) -> Result<Self, ImportError> {
        let mut by_key = HashMap::new();
        for function in functions {
            let domain = if function.domain == "ai.onnx" { "" } else { function.domain };
            let key = Key { domain, name: function.name, overload: function.overload };
            if by_key.insert(key, function).is_some() {
                let place = format!("function {}", quote(function.name));
                return Err(ImportError::new(Class::DuplicateName, place, "defined twice"));
            }
        }
        Ok(Functions { by_key })
    }

    /// The function a node calls, if it calls one.
    pub fn get(&self, key: &Key<'p>) -> Option<&'p FunctionProto<'p>> {
        self.by_key.get(key).copied()
    }

    /// Refuses a graph whose functions call themselves, call too deep, or would inline to too many nodes.
    pub fn check(&self, graph: &'p GraphProto<'p>, limits: &Limits) -> Result<(), ImportError> {
        if self.by_key.is_empty() {
            return Ok(());
        }
        let mut costs = HashMap::new();
        let (nodes, _) = self.cost(&graph.nodes, limits, 0, &mut costs)?;
        if nodes > limits.nodes {
            // Two to the power of thirty and "more than can be counted" are one to the reader.
            let need = (nodes < u64::MAX).then_some(nodes);
            return Err(ImportError::limit(
                "",
                "nodes with functions inlined",
                Excess { limit: "nodes", allowed: limits.nodes, need },
            ));
        }
        Ok(())
    }

    /// Nodes and depth of calls of a list of nodes. `depth` bounds the recursion: calls by their limit, bodies by theirs.
    fn cost(
        &self,
        nodes: &'p [NodeProto<'p>],
        limits: &Limits,
        depth: u64,
        costs: &mut HashMap<Key<'p>, Cost>,
    ) -> Result<(u64, u64), ImportError> {
        let (mut total, mut deepest) = (0u64, 0u64);
        for node in nodes {
            let (mut count, mut below) = (1, 0);
            if let Some((inlined, calls)) = self.call(node, limits, depth, costs)? {
                (count, below) = (inlined, calls);
            }
            for body in node.attributes.iter().filter_map(|attribute| attribute.graph.as_deref()) {
                let (inner, calls) = self.cost(&body.nodes, limits, depth, costs)?;
                count = count.saturating_add(inner);
                below = below.max(calls);
            }
            total = total.saturating_add(count);
            deepest = deepest.max(below);
        }
        Ok((total, deepest))
    }

    fn call(
        &self,
        node: &'p NodeProto<'p>,
        limits: &Limits,
        depth: u64,
        costs: &mut HashMap<Key<'p>, Cost>,
    ) -> Result<Option<(u64, u64)>, ImportError> {
        let domain = if node.domain == "ai.onnx" { "" } else { node.domain };
        let key = Key { domain, name: node.op, overload: node.overload };
        let Some(function) = self.get(&key) else { return Ok(None) };
        let place = || format!("function {}", quote(function.name));
        match costs.get(&key) {
            Some(Cost::Open) => return Err(ImportError::new(Class::Cycle, place(), "calls itself")),
            Some(&Cost::Known { nodes, depth }) => return Ok(Some((nodes, depth))),
            None => {}
        }
        if depth >= limits.function_depth {
            let excess = Excess { limit: "function-depth", allowed: limits.function_depth, need: Some(depth + 1) };
            return Err(ImportError::limit(place(), "functions nested", excess));
        }
        costs.insert(key.clone(), Cost::Open);
        let (nodes, calls) = self.cost(&function.nodes, limits, depth + 1, costs)?;
        let known = (nodes, calls + 1);
        if known.1 > limits.function_depth {
            let excess = Excess { limit: "function-depth", allowed: limits.function_depth, need: Some(known.1) };
            return Err(ImportError::limit(place(), "functions nested", excess));
        }
        costs.insert(key, Cost::Known { nodes, depth: known.1 });
        Ok(Some(known))
    }
}
