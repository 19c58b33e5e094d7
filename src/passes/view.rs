//! Views: how the elements of one value lie in another from which they come by nothing but moves of data.

use super::rewrite::{Sweep, axis};
use crate::graph::ValueId;

/// Where each element of a value lies in an earlier one, both in rows: `offset` plus, for each piece, its index times its stride.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    pub offset: usize,
    /// From the outermost; the index of an axis is that of its pieces, mixed. Pieces of one element are left out.
    pub pieces: Vec<Piece>,
}

/// A part of an axis of the later value.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub axis: usize,
    pub extent: usize,
    pub stride: usize,
}

impl View {
    /// Pieces of more than one element from an offset on.
    pub fn new(offset: usize, mut pieces: Vec<Piece>) -> Self {
        pieces.retain(|piece| piece.extent != 1);
        View { offset, pieces }
    }

    /// A value as it lies in itself; `axes` names its axes.
    pub fn of(shape: &[usize], axes: &[usize]) -> Self {
        let strides = strides_of(shape);
        let pieces = axes.iter().zip(shape).zip(strides).map(|((&axis, &extent), stride)| Piece { axis, extent, stride });
        View::new(0, pieces.collect())
    }

    /// All pieces as those of one axis.
    pub fn on_one_axis(mut self) -> Self {
        self.pieces.iter_mut().for_each(|piece| piece.axis = 0);
        self
    }

    /// Neighbouring pieces of one axis as one where they lie like one.
    pub fn joined(&self) -> Self {
        let mut pieces: Vec<Piece> = Vec::new();
        for &piece in &self.pieces {
            match pieces.last_mut() {
                Some(outer) if outer.axis == piece.axis && outer.stride == piece.extent * piece.stride => {
                    outer.extent *= piece.extent;
                    outer.stride = piece.stride;
                }
                _ => pieces.push(piece),
            }
        }
        View { offset: self.offset, pieces }
    }

    /// The view with one piece for each axis, if that is possible.
    pub fn merged(&self) -> Option<Self> {
        let view = self.joined();
        let once = view.pieces.iter().enumerate().all(|(i, piece)| view.pieces[..i].iter().all(|other| other.axis != piece.axis));
        once.then_some(view)
    }

    /// Goes from `at`, in which the elements lie so far, back through the node that makes it: what it reads, and the number it
    /// multiplies by. `None`, and no change, where the node is more than that.
    pub fn step_back(&mut self, sweep: &Sweep<'_>, at: ValueId) -> Option<(ValueId, f64)> {
        let node = sweep.maker(at)?;
        let (input, shape) = (node.input(0)?, sweep.shape(at)?);
        let from = sweep.shape(input)?;
        let moved = match node.op.as_str() {
            "Reshape" => self.clone(),
            "Transpose" => {
                let strides = strides_of(&from);
                let perm: Vec<usize> = match node.attributes.ints("perm") {
                    Some(perm) => perm.iter().map(|&at| axis(at, from.len())).collect::<Option<_>>()?,
                    None => (0..from.len()).rev().collect(),
                };
                self.through(&shape, &perm.iter().map(|&at| strides[at]).collect::<Vec<_>>(), 0)?
            }
            "Split" => {
                let along = axis(node.attributes.int("axis").unwrap_or(0), from.len())?;
                let place = node.outputs.iter().position(|output| *output == Some(at))?;
                let before = node.outputs[..place].iter().map(|output| Some(sweep.shape((*output)?)?[along]));
                let strides = strides_of(&from);
                self.through(&shape, &strides, before.sum::<Option<usize>>()? * strides[along])?
            }
            "Gather" => {
                let along = axis(node.attributes.int("axis").unwrap_or(0), from.len())?;
                let index = sweep.constant(node.input(1)?).filter(|index| index.shape().iter().all(|&dim| dim == 1))?;
                let index = axis(index.to_ints()?[0], from[along])?;
                let strides = strides_of(&from);
                let kept: Vec<usize> = (0..from.len()).filter(|&at| at != along).collect();
                let shape: Vec<usize> = kept.iter().map(|&at| from[at]).collect();
                self.through(&shape, &kept.iter().map(|&at| strides[at]).collect::<Vec<_>>(), index * strides[along])?
            }
            "Mul" | "Div" => {
                let (a, b) = (input, node.input(1)?);
                let (value, number) = match (sweep.scalar(a), sweep.scalar(b)) {
                    (_, Some(number)) if node.op == "Mul" => (a, number),
                    (_, Some(number)) if number != 0.0 => (a, 1.0 / number),
                    (Some(number), None) if node.op == "Mul" => (b, number),
                    _ => return None,
                };
                sweep.shape(value)?;
                return Some((value, number));
            }
            _ => return None,
        };
        *self = moved;
        Some((input, 1.0))
    }

    /// The view when an element at index i of a value of that shape lies at `offset + Σ iₐ · strides[a]` of another.
    fn through(&self, shape: &[usize], strides: &[usize], offset: usize) -> Option<Self> {
        let own = strides_of(shape);
        // What of each axis is already used: the start, and the furthest the pieces so far go.
        let mut used: Vec<usize> = shape.iter().zip(&own).map(|(&dim, &stride)| self.offset / stride % dim.max(1)).collect();
        let start: usize = used.iter().zip(strides).map(|(index, stride)| index * stride).sum();
        let mut pieces = Vec::new();
        for &Piece { axis, extent, stride } in &self.pieces {
            // From the innermost axis outwards, what of the piece goes along each.
            let (mut left, mut stride, mut parts) = (extent, stride, Vec::new());
            for at in (0..shape.len()).rev().filter(|&at| shape[at] > 1) {
                if left == 1 || stride >= own[at] * shape[at] {
                    continue;
                }
                if stride < own[at] || !stride.is_multiple_of(own[at]) {
                    return None;
                }
                let step = stride / own[at];
                let count = if left * step <= shape[at] { left } else { shape[at] / step };
                if count * step < shape[at] && count < left || !left.is_multiple_of(count) {
                    return None;
                }
                used[at] += (count - 1) * step;
                parts.push(Piece { axis, extent: count, stride: step * strides[at] });
                left /= count;
                stride = own[at] * shape[at];
            }
            if left != 1 {
                return None;
            }
            pieces.extend(parts.into_iter().rev());
        }
        let stays = used.iter().zip(shape).all(|(&used, &dim)| used < dim.max(1));
        stays.then(|| View::new(offset + start, pieces))
    }
}

/// The strides of a shape in rows.
fn strides_of(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for at in (1..shape.len()).rev() {
        strides[at - 1] = strides[at] * shape[at].max(1);
    }
    strides
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(axis: usize, extent: usize, stride: usize) -> Piece {
        Piece { axis, extent, stride }
    }

    #[test]
    fn a_transpose_of_split_heads_strides_over_them() {
        // [1, 3, 5, 4] made by a transpose of [1, 5, 3, 4], made by a reshape of [5, 12].
        let view = View::of(&[1, 3, 5, 4], &[0, 1, 2, 3]);
        let back = view.through(&[1, 3, 5, 4], &[60, 4, 12, 1], 0).expect("axes stay whole");
        assert_eq!(back.pieces, [piece(1, 3, 4), piece(2, 5, 12), piece(3, 4, 1)]);
    }

    #[test]
    fn an_axis_that_is_cut_gives_two_pieces() {
        // Six rows that are two by three, transposed.
        let view = View::of(&[6, 4], &[0, 1]);
        let back = view.through(&[2, 3, 4], &[4, 8, 1], 0).expect("two by three is six");
        assert_eq!(back.pieces, [piece(0, 2, 4), piece(0, 3, 8), piece(1, 4, 1)]);
        assert_eq!(back.merged(), None);
        assert_eq!(View::of(&[6, 4], &[0, 1]).through(&[4, 6], &[1, 4], 0), None);
    }

    #[test]
    fn a_window_moves_the_start_and_may_not_run_over_an_axis() {
        let view = View::new(8, vec![piece(0, 4, 1)]);
        let moved = view.through(&[3, 12], &[36, 1], 24).expect("8 … 11 lie in one row of 12");
        assert_eq!((moved.offset, moved.pieces), (32, vec![piece(0, 4, 1)]));
        assert_eq!(View::new(10, vec![piece(0, 4, 1)]).through(&[3, 12], &[36, 1], 0), None);
    }
}
