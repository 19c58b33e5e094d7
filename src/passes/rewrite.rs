//! Sweeps: how passes change a graph.
//!
//! A sweep walks the nodes of a graph once, bodies first, and asks a rule about each. The rule may replace the node by other nodes
//! that make the same values from values that are known by then, or say that an output equals another value. The facts a rule
//! sees ([`Sweep::maker`], [`Sweep::uses`]) are those from the start of the sweep; since every replacement makes the same values they
//! stay true. What has become useless in the middle is removed when the sweep is over.

use crate::graph::{Graph, Node, Type, Value, ValueId};
use kernels::{Attribute, Attributes, Tensor};
use schema::DType;

/// What a rule wants done with a node.
pub enum Step {
    Keep,
    /// These nodes stand in its place. Together they make every output of it that is used.
    Replace(Vec<Node>),
    /// Its outputs (first) equal values known before it (second).
    Same(Vec<(ValueId, ValueId)>),
}

/// A graph during a sweep.
pub struct Sweep<'g> {
    graph: &'g mut Graph,
    makers: Vec<Option<usize>>,
    uses: Vec<u32>,
}

/// Applies a rule to every node of the graph and of its bodies, and removes what is dead then; gives the number of nodes changed.
pub fn sweep<E>(graph: &mut Graph, rule: &mut Rule<'_, E>) -> Result<usize, E> {
    let changes = sweep_within(graph, rule)?;
    // What a pattern has left behind would count as a reader of its inputs.
    if changes > 0 {
        super::eliminate_dead_code::eliminate(graph);
    }
    Ok(changes)
}

/// What a sweep asks about each node.
type Rule<'r, E> = dyn FnMut(&mut Sweep<'_>, usize) -> Result<Step, E> + 'r;

fn sweep_within<E>(graph: &mut Graph, rule: &mut Rule<'_, E>) -> Result<usize, E> {
    let mut changes = 0;
    for node in &mut graph.nodes {
        for (_, body) in &mut node.bodies {
            changes += sweep_within(body, rule)?;
        }
    }
    let (makers, uses) = (graph.producers(), graph.uses());
    let mut sweep = Sweep { graph, makers, uses };
    let steps: Vec<Step> = (0..sweep.graph.nodes.len()).map(|i| rule(&mut sweep, i)).collect::<Result<_, E>>()?;
    let mut same: Vec<ValueId> = (0..graph.values.len()).map(|i| ValueId(i as u32)).collect();
    let mut nodes = Vec::with_capacity(graph.nodes.len());
    for (node, step) in std::mem::take(&mut graph.nodes).into_iter().zip(steps) {
        match step {
            Step::Keep => nodes.push(node),
            Step::Replace(new) => {
                changes += 1;
                nodes.extend(new);
            }
            Step::Same(pairs) => {
                changes += 1;
                for (gone, kept) in pairs {
                    same[gone.index()] = same[kept.index()];
                }
            }
        }
    }
    graph.nodes = nodes;
    redirect(graph, &same);
    Ok(changes)
}

/// [`sweep`] with a rule that cannot fail.
pub fn sweep_all(graph: &mut Graph, rule: &mut dyn FnMut(&mut Sweep<'_>, usize) -> Step) -> usize {
    let changed = sweep::<std::convert::Infallible>(graph, &mut |sweep, i| Ok(rule(sweep, i)));
    match changed {
        Ok(changes) => changes,
        Err(never) => match never {},
    }
}

/// Lets every reader of value `i` read `same[i]`.
pub fn redirect(graph: &mut Graph, same: &[ValueId]) {
    let change = |id: &mut ValueId| *id = same[id.index()];
    for node in &mut graph.nodes {
        node.inputs.iter_mut().flatten().for_each(change);
        for (_, body) in &mut node.bodies {
            body.captures.iter_mut().for_each(|capture| change(&mut capture.outer));
        }
    }
    graph.outputs.iter_mut().for_each(change);
}

impl Sweep<'_> {
    /// The graph as it was at the start of the sweep, with the values added since.
    pub fn graph(&self) -> &Graph {
        self.graph
    }

    /// The i-th node.
    pub fn node(&self, index: usize) -> &Node {
        &self.graph.nodes[index]
    }

    /// The node that makes a value; `None` for inputs, captures, constants and values of this sweep.
    pub fn maker(&self, id: ValueId) -> Option<&Node> {
        self.makers.get(id.index()).copied().flatten().map(|i| &self.graph.nodes[i])
    }

    /// The place of the node that makes a value.
    pub fn maker_index(&self, id: ValueId) -> Option<usize> {
        self.makers.get(id.index()).copied().flatten()
    }

    /// The node that makes a value, if its operator is `op` and the value is its first output.
    pub fn made_by(&self, id: ValueId, op: &str) -> Option<&Node> {
        self.maker(id).filter(|node| node.op == op && node.output(0) == Some(id))
    }

    /// How often a value is used.
    pub fn uses(&self, id: ValueId) -> u32 {
        self.uses.get(id.index()).copied().unwrap_or(0)
    }

    /// What is known of a value.
    pub fn value(&self, id: ValueId) -> &Value {
        self.graph.value(id)
    }

    /// The type of a value.
    pub fn ty(&self, id: ValueId) -> &Type {
        &self.graph.value(id).ty
    }

    /// The extents of a value, when all are known.
    pub fn shape(&self, id: ValueId) -> Option<Vec<usize>> {
        self.value(id).fixed_shape()
    }

    /// Whether a value is an f32 tensor.
    pub fn is_f32(&self, id: ValueId) -> bool {
        self.value(id).dtype() == Some(DType::F32)
    }

    /// The data of a constant.
    pub fn constant(&self, id: ValueId) -> Option<&Tensor> {
        self.value(id).constant.as_ref()
    }

    /// The whole numbers of a constant.
    pub fn ints(&self, id: ValueId) -> Option<Vec<i64>> {
        self.constant(id)?.to_ints()
    }

    /// The number that every element of a float constant equals; `None` for an empty one.
    pub fn uniform(&self, id: ValueId) -> Option<f64> {
        let tensor = self.constant(id)?;
        let (first, same) = match tensor.dtype() {
            DType::F32 => {
                let values = tensor.values::<f32>()?;
                let first = *values.first()?;
                (f64::from(first), values.iter().all(|value| *value == first))
            }
            DType::F64 => {
                let values = tensor.values::<f64>()?;
                let first = *values.first()?;
                (first, values.iter().all(|value| *value == first))
            }
            _ => return None,
        };
        same.then_some(first)
    }

    /// The number in a constant of one float element.
    pub fn scalar(&self, id: ValueId) -> Option<f64> {
        self.uniform(id).filter(|_| self.constant(id).is_some_and(|tensor| tensor.len() == 1))
    }

    /// Says more precisely what type a value has.
    pub fn set_type(&mut self, id: ValueId, ty: Type) {
        self.graph.value_mut(id).ty = ty;
    }

    /// Adds a value of that type, named after another.
    pub fn add(&mut self, like: ValueId, suffix: &str, ty: Type) -> ValueId {
        let name = format!("{}.{suffix}", self.value(like).name);
        self.graph.add_value(Value { ty, ..Value::named(&name) })
    }

    /// Adds a constant, named after a value.
    pub fn add_constant(&mut self, like: ValueId, suffix: &str, tensor: Tensor) -> ValueId {
        let name = format!("{}.{suffix}", self.value(like).name);
        self.graph.add_value(Value::constant(&name, tensor))
    }
}

/// A node in place of another: keeps its name.
pub fn instead_of(node: &Node, op: &str, inputs: &[ValueId], outputs: &[ValueId], attributes: Attributes) -> Node {
    let inputs = inputs.iter().copied().map(Some).collect();
    let outputs = outputs.iter().copied().map(Some).collect();
    Node { name: node.name.clone(), attributes, ..Node::new(op, inputs, outputs) }
}

/// A `Reshape` of one value into another of that shape.
pub fn reshape_to(sweep: &mut Sweep<'_>, node: &Node, from: ValueId, to: ValueId, shape: &[usize]) -> Node {
    let dims: Vec<i64> = shape.iter().map(|&dim| dim as i64).collect();
    let shape = sweep.add_constant(to, "shape", Tensor::new(vec![dims.len()], dims));
    instead_of(node, "Reshape", &[from, shape], &[to], Attributes::default().with("allowzero", Attribute::Int(1)))
}

/// An attribute of whole numbers.
pub fn ints(values: impl IntoIterator<Item = usize>) -> Attribute {
    Attribute::Ints(values.into_iter().map(|value| value as i64).collect())
}

/// A non-negative place on an axis list of length `rank`, from ONNX's signed one.
pub fn axis(value: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    let axis = if value < 0 { value.checked_add(rank)? } else { value };
    (0..rank).contains(&axis).then_some(axis as usize)
}
