//! Recognises attention as exporters spell it out, `softmax(scale · Q·Kᵀ + mask) · V`, and ONNX's own `Attention` where it is plain.
//!
//! The scale may stand behind the product, on Q, on K or on both. What only moves data in front of Q, K and V (transposes of heads,
//! reshapes, the pieces of a product that makes all three) is followed back as a [`View`]: where that ends as heads of an operand in
//! an order the kernel reads, the moves are not needed any more. A transpose behind the product likewise becomes the order of the
//! output. Runs before lowering, so that everything is still in ONNX's few forms.

use super::lower_normalisation::Scores;
use super::lowering::taken;
use super::rewrite::{Step, Sweep, axis, instead_of, ints, reshape_to, sweep_all};
use super::view::{Piece, View};
use super::{Options, PassError};
use crate::graph::{Node, Type, ValueId};
use kernels::{Attribute, Attributes};
use schema::DType;

pub(super) fn run(graph: &mut crate::graph::Graph, _: &Options) -> Result<usize, PassError> {
    let mut changes = 0;
    for rule in [recognise, reorder_output] {
        changes += sweep_all(graph, &mut |sweep, index| rule(sweep, index).map_or(Step::Keep, Step::Replace));
    }
    if changes > 0 {
        super::simplify_shapes::simplify(graph);
    }
    Ok(changes)
}

fn recognise(sweep: &mut Sweep<'_>, index: usize) -> Option<Vec<Node>> {
    match sweep.node(index).op.as_str() {
        "MatMul" => spelled_out(sweep, index),
        "Attention" => plain(sweep, index),
        _ => None,
    }
}

/// Images, heads, rows and columns.
type Extents = [usize; 4];

/// An operand of attention: heads of a value, in an order.
#[derive(Clone, Debug, PartialEq)]
struct Heads {
    value: ValueId,
    order: &'static str,
    /// The shape that the value takes for it.
    shape: Vec<usize>,
    /// The first head, and how many.
    range: [usize; 2],
}

/// The orders the kernel reads, and where images, heads and rows then stand in a shape of four axes.
static ORDERS: &[(&str, [usize; 3])] = &[("bhsd", [0, 1, 2]), ("bshd", [0, 2, 1]), ("sbhd", [1, 2, 0])];

/// The shape of so many images, heads, rows and columns in an order.
fn in_order(places: [usize; 3], [images, heads, rows, columns]: Extents) -> Vec<usize> {
    let mut shape = vec![columns; 4];
    for (place, extent) in places.into_iter().zip([images, heads, rows]) {
        shape[place] = extent;
    }
    shape
}

impl Heads {
    /// The operand that a view of a value of `len` elements is, if it has at most one piece for each axis.
    fn of(value: ValueId, len: usize, view: &View, extents: Extents) -> Option<Heads> {
        let [images, heads, rows, columns] = extents;
        let lines = images * rows * columns;
        let all = Some(len / lines.max(1)).filter(|&all| all >= heads && all * lines == len)?;
        ORDERS.iter().find_map(|&(order, places)| {
            let shape = in_order(places, [images, all, rows, columns]);
            let stride = |place: usize| shape[place + 1..].iter().product::<usize>();
            let strides = [stride(places[0]), stride(places[1]), stride(places[2]), 1];
            let here = view.pieces.iter().all(|piece| piece.extent == extents[piece.axis] && piece.stride == strides[piece.axis]);
            let first = view.offset / strides[1];
            let range = [first, heads];
            (here && first * strides[1] == view.offset && first + heads <= all).then(|| Heads {
                value,
                order,
                shape: shape.clone(),
                range,
            })
        })
    }

    /// The furthest value back in which a value's heads lie as the kernel reads them, and the number they are multiplied by on the
    /// way. `axes` says which of images (0), heads (1), rows (2) and columns (3) the axes of the value are.
    fn behind(sweep: &Sweep<'_>, id: ValueId, axes: &[usize], extents: Extents) -> Option<(Heads, f64)> {
        let mut view = View::of(&sweep.shape(id)?, axes);
        let (mut at, mut factor, mut found) = (id, 1.0, None);
        loop {
            let len = sweep.shape(at)?.iter().product();
            if let Some(heads) = view.merged().and_then(|view| Heads::of(at, len, &view, extents)) {
                found = Some((heads, factor));
            }
            let Some((before, number)) = view.step_back(sweep, at) else { return found };
            (at, factor) = (before, factor * number);
        }
    }
}

/// `softmax(…) · V`.
fn spelled_out(sweep: &mut Sweep<'_>, index: usize) -> Option<Vec<Node>> {
    let node = sweep.node(index).clone();
    let (weights, v, y) = (node.input(0)?, node.input(1)?, node.output(0)?);
    let softmax = sweep.made_by(weights, "Softmax").filter(|_| sweep.uses(weights) == 1)?;
    let input = softmax.input(0)?;
    let shape = sweep.shape(input).filter(|shape| (3..=4).contains(&shape.len()))?;
    let rank = shape.len();
    if axis(softmax.attributes.int("axis").unwrap_or(-1), rank)? != rank - 1 {
        return None;
    }
    let scores = Scores::of(sweep, input);
    let product = sweep.made_by(scores.x, "MatMul").filter(|_| sweep.uses(scores.x) == 1)?;
    let (q, k) = (product.input(0)?, product.input(1)?);
    let (q_shape, k_shape, v_shape) = (sweep.shape(q)?, sweep.shape(k)?, sweep.shape(v)?);
    if [&q_shape, &k_shape, &v_shape].iter().any(|shape| shape.len() != rank) {
        return None;
    }
    // Three axes are images of one head each, or heads of one image: heads are what views take apart.
    let lead = |shape: &[usize]| if rank == 4 { [shape[0], shape[1]] } else { [1, shape[0]] };
    let [images, heads] = lead(&shape);
    let groups = lead(&k_shape)[1];
    let fits = lead(&q_shape) == [images, heads] && lead(&k_shape)[0] == images && lead(&v_shape) == [images, groups];
    if !fits || groups == 0 || !heads.is_multiple_of(groups) {
        return None;
    }
    let (queries, depth, keys, width) = (shape[rank - 2], q_shape[rank - 1], shape[rank - 1], v_shape[rank - 1]);
    let (rows, columns): (&[usize], &[usize]) = if rank == 4 { (&[0, 1, 2, 3], &[0, 1, 3, 2]) } else { (&[1, 2, 3], &[1, 3, 2]) };
    let (q, on_q) = Heads::behind(sweep, q, rows, [images, heads, queries, depth])?;
    let (k, on_k) = Heads::behind(sweep, k, columns, [images, groups, keys, depth])?;
    let (v, on_v) = Heads::behind(sweep, v, rows, [images, groups, keys, width])?;
    let scale = f64::from(scores.scale) * on_q * on_k;
    if on_v != 1.0 {
        return None;
    }
    let mut mask = scores.mask;
    let mut nodes = Vec::new();
    if let Some(id) = mask.filter(|_| rank == 3) {
        let shape = sweep.shape(id).filter(|shape| shape.len() <= 3)?;
        // A mask of three axes has one for each head, or one for all: the same with an axis in front.
        let shape: Vec<usize> = std::iter::repeat_n(1, 4 - shape.len()).chain(shape).collect();
        mask = Some(reshaped(sweep, &node, id, &shape, &mut nodes));
    }
    let call = Call { q, k, v, mask, scale: scale as f32, causal: false, extents: [images, heads, queries, width] };
    call.nodes(sweep, &node, y, nodes)
}

/// ONNX's operator without a past, a soft cap, lengths or further outputs.
fn plain(sweep: &mut Sweep<'_>, index: usize) -> Option<Vec<Node>> {
    let node = sweep.node(index).clone();
    let y = node.output(0).filter(|_| node.outputs.iter().skip(1).all(Option::is_none))?;
    let int = |name| node.attributes.int(name).unwrap_or(0);
    let windowed = ["left_window_size", "right_window_size"].iter().any(|name| node.attributes.int(name).unwrap_or(-1) >= 0);
    let capped = node.attributes.float("softcap").unwrap_or(0.0) != 0.0;
    if windowed || capped || (4..7).any(|index| node.input(index).is_some()) {
        return None;
    }
    let mut operands = Vec::new();
    for (input, heads) in [(0, "q_num_heads"), (1, "kv_num_heads"), (2, "kv_num_heads")] {
        let value = node.input(input)?;
        let (order, shape) = match sweep.shape(value)?[..] {
            [images, heads, rows, columns] => ("bhsd", vec![images, heads, rows, columns]),
            [images, rows, all] => {
                let heads = usize::try_from(int(heads)).ok().filter(|&heads| heads > 0 && all.is_multiple_of(heads))?;
                ("bshd", vec![images, rows, heads, all / heads])
            }
            _ => return None,
        };
        let range = [0, if order == "bhsd" { shape[1] } else { shape[2] }];
        operands.push(Heads { value, order, shape, range });
    }
    let [q, k, v] = <[Heads; 3]>::try_from(operands).ok()?;
    let rows = |heads: &Heads| heads.shape[if heads.order == "bhsd" { 2 } else { 1 }];
    let extents = [q.shape[0], q.range[1], rows(&q), v.shape[3]];
    let causal = int("is_causal") != 0;
    // ONNX counts a causal mask from the first key, we from the last: the same for as many keys as queries.
    if causal && rows(&q) != rows(&k) {
        return None;
    }
    let scale = node.attributes.float("scale").unwrap_or(1.0 / (q.shape[3] as f32).sqrt());
    let flat = sweep.shape(y)?.len() == 3;
    let mask = node.input(3).filter(|&mask| sweep.is_f32(mask));
    if mask.is_none() && node.input(3).is_some() {
        return None;
    }
    let call = Call { q, k, v, mask, scale, causal, extents };
    if flat { call.nodes_in(sweep, &node, y, Vec::new(), "bshd", [0, 2, 1]) } else { call.nodes(sweep, &node, y, Vec::new()) }
}

/// An attention about to be written.
struct Call {
    q: Heads,
    k: Heads,
    v: Heads,
    mask: Option<ValueId>,
    scale: f32,
    causal: bool,
    /// Of the output.
    extents: Extents,
}

impl Call {
    fn nodes(self, sweep: &mut Sweep<'_>, node: &Node, y: ValueId, nodes: Vec<Node>) -> Option<Vec<Node>> {
        self.nodes_in(sweep, node, y, nodes, "bhsd", [0, 1, 2])
    }

    /// The nodes that compute `y`, behind those given.
    fn nodes_in(
        self,
        sweep: &mut Sweep<'_>,
        node: &Node,
        y: ValueId,
        mut nodes: Vec<Node>,
        order: &str,
        places: [usize; 3],
    ) -> Option<Vec<Node>> {
        let mut attributes = Attributes::default().with("scale", Attribute::Float(self.scale));
        if self.causal {
            attributes.set("causal", Attribute::Int(1));
        }
        let mut inputs: Vec<ValueId> = Vec::new();
        let operands = [&self.q, &self.k, &self.v];
        for (index, (name, heads)) in ["q", "k", "v"].into_iter().zip(operands).enumerate() {
            // Pieces of one product are read from one value.
            let same = operands[..index].iter().position(|other| (other.value, &other.shape) == (heads.value, &heads.shape));
            inputs.push(match same {
                Some(other) => inputs[other],
                None => reshaped(sweep, node, heads.value, &heads.shape, &mut nodes),
            });
            if heads.order != "bhsd" {
                attributes.set(&format!("{name}_order"), Attribute::String(heads.order.to_owned()));
            }
            let place = ORDERS.iter().find(|(order, _)| *order == heads.order)?.1[1];
            if heads.range != [0, heads.shape[place]] {
                attributes.set(&format!("{name}_heads"), ints(heads.range));
            }
        }
        inputs.extend(self.mask);
        if order != "bhsd" {
            attributes.set("y_order", Attribute::String(order.to_owned()));
        }
        let (shape, wanted) = (in_order(places, self.extents), sweep.shape(y)?);
        let direct = shape == wanted;
        let made = if direct { y } else { sweep.add(y, "heads", Type::tensor(DType::F32, &shape)) };
        let attention = instead_of(node, "attention", &inputs, &[made], attributes);
        if !taken(sweep, &attention) {
            return None;
        }
        nodes.push(attention);
        if !direct {
            nodes.push(reshape_to(sweep, node, made, y, &wanted));
        }
        Some(nodes)
    }
}

/// A value in that shape.
fn reshaped(sweep: &mut Sweep<'_>, node: &Node, id: ValueId, shape: &[usize], nodes: &mut Vec<Node>) -> ValueId {
    if sweep.shape(id).is_some_and(|given| given == shape) {
        return id;
    }
    let to = sweep.add(id, "heads", Type::tensor(DType::F32, shape));
    nodes.push(reshape_to(sweep, node, id, to, shape));
    to
}

/// A transpose of an attention's output that nobody else reads is the attention in another order.
fn reorder_output(sweep: &mut Sweep<'_>, index: usize) -> Option<Vec<Node>> {
    let node = sweep.node(index).clone();
    if node.op != "Transpose" {
        return None;
    }
    let output = node.output(0)?;
    let wanted = sweep.shape(output)?;
    let axes: Vec<usize> = (0..wanted.len()).collect();
    let (mut view, mut at) = (View::of(&wanted, &axes), output);
    let attention = loop {
        let (before, number) = view.step_back(sweep, at)?;
        if number != 1.0 || sweep.uses(before) != 1 {
            return None;
        }
        at = before;
        if let Some(attention) = sweep.made_by(at, "attention") {
            break attention.clone();
        }
    };
    let &[images, heads, rows, columns] = &sweep.shape(at)?[..] else { return None };
    if attention.attributes.get("y_order").is_some() || view.offset != 0 {
        return None;
    }
    let strides = [heads * rows * columns, rows * columns, columns, 1];
    let extents = [images, heads, rows, columns];
    let (order, places) = *ORDERS.iter().find(|(_, places)| {
        // The axes of that order, from the outermost, as pieces of one axis.
        let mut from = [0, 1, 2, 3];
        for (axis, place) in places.iter().enumerate() {
            from[*place] = axis;
        }
        let pieces = from.map(|axis| Piece { axis: 0, extent: extents[axis], stride: strides[axis] });
        View::new(0, pieces.to_vec()).joined() == view.clone().on_one_axis().joined()
    })?;
    let shape = in_order(places, extents);
    let made = sweep.add(output, "heads", Type::tensor(DType::F32, &shape));
    let attributes = attention.attributes.clone().with("y_order", Attribute::String(order.to_owned()));
    let reordered = Node { outputs: vec![Some(made)], attributes, ..attention };
    taken(sweep, &reordered).then(|| vec![reordered, reshape_to(sweep, &node, made, output, &wanted)])
}
