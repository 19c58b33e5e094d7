//! Which value lives where: constants, slots for what has no fixed size, and roots: runs of bytes that a value and its views share.
//!
//! Time is the index of the node plus one; inputs are born at 0, and outputs die at the end, which is one past the last node.

use super::compile::PlanError;
use super::memory::Home as MemoryHome;
use crate::graph::{Graph, Node, Value, ValueId};
use kernels::{Layout, Tensor};
use schema::DType;

/// Where a value lives.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Home {
    /// Nobody makes it.
    Nowhere,
    Constant,
    Slot(usize),
    /// Bytes of a root, from its beginning.
    Root(usize),
}

/// Bytes that one value, or a value and its views, live in.
#[derive(Copy, Clone, Debug)]
pub(super) struct Root {
    pub bytes: usize,
    pub born: usize,
    pub dies: usize,
    /// In a buffer of the caller, or in the arena.
    pub home: MemoryHome,
}

/// The homes of all values of a graph.
pub(super) struct Homes {
    pub of: Vec<Home>,
    pub roots: Vec<Root>,
    /// The last use of each slot.
    pub slots: Vec<usize>,
    /// The constants, those that follow from views of constants included.
    pub constants: Vec<Option<Tensor>>,
    /// Nodes that are views: nothing is done for them.
    pub views: Vec<bool>,
}

/// Whether the node only renames bytes, once its operand's and result's shapes are fixed.
pub(super) fn renames(node: &Node) -> bool {
    matches!(node.op.as_str(), "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" | "Identity")
}

/// Whether bytes in the layout of `from` mean the same in the layout and shape of `to`.
pub(super) fn same_bytes(from: &Value, to: &Value) -> bool {
    if from.layout != to.layout || from.dtype() != to.dtype() {
        return false;
    }
    let (Some(a), Some(b)) = (from.fixed_shape(), to.fixed_shape()) else { return false };
    match from.layout {
        Layout::Rows => a.iter().product::<usize>() == b.iter().product::<usize>(),
        _ => a == b,
    }
}

/// The bytes of a value in its layout; `None` when it has no fixed size.
///
/// # Errors
/// [`PlanError::LimitExceeded`] when they exceed `limit`.
pub(super) fn fixed_bytes(value: &Value, limit: u64) -> Result<Option<usize>, PlanError> {
    let (Some(dtype), Some(shape)) = (value.dtype(), value.fixed_shape()) else { return Ok(None) };
    if dtype == DType::String {
        return Ok(None);
    }
    // Counted in u128, with every extent as large as a layout's padding can make it, so that `elements` cannot overflow below.
    let most = shape.iter().try_fold(dtype.bytes() as u128, |bytes, &dim| {
        let padded = if value.layout == Layout::Rows { dim as u128 } else { dim as u128 + 64 };
        bytes.checked_mul(padded)
    });
    let need = most.filter(|&bytes| bytes < 1 << 62);
    let Some(_) = need else { return Err(PlanError::too_large(&value.name, u64::MAX, limit)) };
    let bytes = value.layout.elements(&shape) * dtype.bytes();
    if bytes as u64 > limit { Err(PlanError::too_large(&value.name, bytes as u64, limit)) } else { Ok(Some(bytes)) }
}

/// Finds a home for every value. `body` says that the graph is a body: then nothing lives in a caller's buffer, and what comes in
/// lives to the end. `limit` bounds the bytes of one value.
///
/// # Errors
/// [`PlanError::LimitExceeded`] for a value over the limit.
pub(super) fn find(
    graph: &Graph,
    constants: Vec<Option<Tensor>>,
    captured: &[ValueId],
    body: bool,
    limit: u64,
) -> Result<Homes, PlanError> {
    let end = graph.nodes.len() + 1;
    let mut homes = Homes {
        of: constants.iter().map(|c| if c.is_some() { Home::Constant } else { Home::Nowhere }).collect(),
        roots: Vec::new(),
        slots: Vec::new(),
        constants,
        views: vec![false; graph.nodes.len()],
    };
    for (i, id) in graph.inputs.iter().chain(captured).enumerate() {
        let external = (!body).then_some(MemoryHome::Input(i as u32));
        homes.settle(graph, *id, 0, external, limit)?;
        if body {
            homes.keep(*id, end);
        }
    }
    for (at, node) in graph.nodes.iter().enumerate() {
        homes.node(graph, node, at, limit)?;
    }
    homes.outputs(graph, body, end);
    Ok(homes)
}

impl Homes {
    /// Gives a value a slot or a root of its own.
    fn settle(
        &mut self,
        graph: &Graph,
        id: ValueId,
        born: usize,
        external: Option<MemoryHome>,
        limit: u64,
    ) -> Result<(), PlanError> {
        self.of[id.index()] = match fixed_bytes(graph.value(id), limit)? {
            Some(bytes) => {
                self.roots.push(Root { bytes, born, dies: born, home: external.unwrap_or(MemoryHome::Arena) });
                Home::Root(self.roots.len() - 1)
            }
            None => {
                self.slots.push(born);
                Home::Slot(self.slots.len() - 1)
            }
        };
        Ok(())
    }

    /// Lets a value live at least until `time`.
    fn keep(&mut self, id: ValueId, time: usize) {
        match self.of[id.index()] {
            Home::Root(root) => self.roots[root].dies = self.roots[root].dies.max(time),
            Home::Slot(slot) => self.slots[slot] = self.slots[slot].max(time),
            Home::Constant | Home::Nowhere => {}
        }
    }

    fn node(&mut self, graph: &Graph, node: &Node, at: usize, limit: u64) -> Result<(), PlanError> {
        let time = at + 1;
        let captured = node.bodies.iter().flat_map(|(_, body)| &body.captures).map(|capture| capture.outer);
        for id in node.inputs.iter().flatten().copied().chain(captured) {
            self.keep(id, time);
        }
        if let (true, Some(from), Some(to)) = (renames(node), node.input(0), node.output(0)) {
            let known = self.constants[from.index()].as_ref();
            if let (Some(tensor), Some(shape)) = (known, graph.value(to).fixed_shape()) {
                self.constants[to.index()] = tensor.reshaped(shape);
                if self.constants[to.index()].is_some() {
                    self.of[to.index()] = Home::Constant;
                    self.views[at] = true;
                    return Ok(());
                }
            }
            if let Home::Root(root) = self.of[from.index()]
                && same_bytes(graph.value(from), graph.value(to))
            {
                self.of[to.index()] = Home::Root(root);
                self.views[at] = true;
                return Ok(());
            }
        }
        node.outputs.iter().flatten().try_for_each(|&id| self.settle(graph, id, time, None, limit))
    }

    /// Outputs live to the end; of a main graph, each in the caller's buffer where it can.
    fn outputs(&mut self, graph: &Graph, body: bool, end: usize) {
        for (i, &id) in graph.outputs.iter().enumerate() {
            self.keep(id, end);
            if let (Home::Root(root), false, Layout::Rows) = (self.of[id.index()], body, graph.value(id).layout)
                && self.roots[root].home == MemoryHome::Arena
            {
                self.roots[root].home = MemoryHome::Output(i as u32);
            }
        }
    }
}
