//! Replaces sequences that only carry pieces of a tensor: an element at a known place of what `SplitToSequence` cut with known lengths
//! is a slice, and so needs no sequence at run time.

use super::rewrite::{Step, Sweep, axis, sweep_all};
use super::{Options, PassError};
use crate::graph::infer::infer;
use crate::graph::{Graph, Node, Type};
use kernels::Tensor;

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    let changes =
        sweep_all(graph, &mut |sweep, index| element(sweep, index).map_or(Step::Keep, |node| Step::Replace(vec![node])));
    // What reads the pieces now has a type.
    if changes > 0 {
        infer(graph)?;
    }
    Ok(changes)
}

fn element(sweep: &mut Sweep<'_>, index: usize) -> Option<Node> {
    let node = sweep.node(index).clone();
    if node.op != "SequenceAt" {
        return None;
    }
    let split = sweep.made_by(node.input(0)?, "SplitToSequence")?.clone();
    let (x, y) = (split.input(0)?, node.output(0)?);
    let shape = sweep.shape(x)?;
    let along = axis(split.attributes.int("axis").unwrap_or(0), shape.len())?;
    let lengths = lengths(sweep, &split, shape[along])?;
    let place = sweep.ints(node.input(1)?).filter(|places| places.len() == 1)?[0];
    let place = axis(place, lengths.len())?;
    let start: usize = lengths[..place].iter().sum();
    let mut part = shape;
    part[along] = lengths[place];
    // Pieces of length one that lose their axis are another operator's business.
    if split.input(1).is_none() && split.attributes.int("keepdims").unwrap_or(1) == 0 {
        return None;
    }
    let dtype = sweep.value(x).dtype()?;
    let bounds = [start, start + lengths[place], along];
    let bounds = bounds.map(|bound| sweep.add_constant(y, "bound", Tensor::new(vec![1], vec![bound as i64])));
    sweep.set_type(y, Type::tensor(dtype, &part));
    let inputs = std::iter::once(x).chain(bounds).map(Some).collect();
    Some(Node { name: node.name.clone(), ..Node::new("Slice", inputs, vec![Some(y)]) })
}

/// How long each piece is.
fn lengths(sweep: &Sweep<'_>, split: &Node, extent: usize) -> Option<Vec<usize>> {
    let Some(given) = split.input(1) else { return Some(vec![1; extent]) };
    let rank = sweep.constant(given)?.shape().len();
    let given: Vec<usize> = sweep.ints(given)?.into_iter().map(|length| usize::try_from(length).ok()).collect::<Option<_>>()?;
    let lengths = if rank == 0 {
        let length = *given.first().filter(|&&length| length > 0)?;
        (0..extent.div_ceil(length)).map(|i| length.min(extent - i * length)).collect()
    } else {
        given
    };
    (lengths.iter().try_fold(0usize, |sum, &length| sum.checked_add(length))? == extent).then_some(lengths)
}
