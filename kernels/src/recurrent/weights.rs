//! Weights in ONNX's order, and their biases in the order of the gates' sums.

use super::{Cell, Shape};
use crate::layout::BLOCK;
use crate::{BuildError, Packed, Request};
use std::borrow::Cow;
use std::ops::Range;

/// The weights of all directions in ONNX's order.
pub struct Weights<'a> {
    pub w: Cow<'a, [f32]>,
    pub r: Cow<'a, [f32]>,
    /// Empty without a bias.
    pub b: Cow<'a, [f32]>,
}

impl<'a> Weights<'a> {
    /// The constants of a request.
    pub fn of(request: &Request<'a>, shape: &Shape) -> Result<Self, BuildError> {
        let signature = shape.signature();
        let take = |index: usize| {
            let spec = &signature.inputs[index];
            let tensor = request.constants.get(index).copied().flatten();
            let values = tensor.and_then(|tensor| tensor.values::<f32>());
            let values = values.filter(|values| values.len() == spec.shape.iter().product::<usize>());
            values.ok_or_else(|| request.task.refused(format!("constant '{}' is missing", spec.name)))
        };
        Ok(Weights { w: take(1)?, r: take(2)?, b: if shape.bias { take(3)? } else { Cow::Borrowed(&[]) } })
    }
}

/// What is added to the products of one direction, `[gate][padded]`: to the input's, and to the state's in a GRU's last gate.
pub fn biases(shape: &Shape, b: &[f32], direction: usize, x: &mut [f32], h: &mut [f32]) {
    let (gates, hidden, padded) = (shape.cell.gates(), shape.hidden, shape.padded());
    x.fill(0.0);
    h.fill(0.0);
    if b.is_empty() {
        return;
    }
    let b = &b[direction * 2 * gates * hidden..][..2 * gates * hidden];
    for gate in 0..gates {
        for unit in 0..hidden {
            let (of_x, of_h) = (b[gate * hidden + unit], b[(gates + gate) * hidden + unit]);
            if shape.cell == Cell::GruAfter && gate == 2 {
                x[gate * padded + unit] = of_x;
                h[unit] = of_h;
            } else {
                x[gate * padded + unit] = of_x + of_h;
            }
        }
    }
}

/// Rows `[gate·h + unit]` of `k` each as panels of 16 units: `[gate][block][k][16]`. Units beyond the last are zeros.
pub fn panels(shape: &Shape, rows: &[f32], k: usize, gates: Range<usize>) -> Packed {
    let (blocks, count) = (shape.padded() / BLOCK, gates.len());
    let mut packed = Packed::zeroed(count * blocks * k * BLOCK);
    for (index, panel) in packed.chunks_exact_mut((k * BLOCK).max(1)).enumerate() {
        let (gate, block) = (gates.start + index / blocks, index % blocks);
        each_weight(shape, rows, k, gate, block, |i, lane, value| panel[i * BLOCK + lane] = value);
    }
    packed
}

/// The same rows with the gates of a block woven together, one stream to read: `[block][k][gate][16]`.
pub fn woven(shape: &Shape, rows: &[f32], k: usize, gates: Range<usize>) -> Packed {
    let count = gates.len();
    let mut packed = Packed::zeroed(count * shape.padded() * k);
    for (block, panel) in packed.chunks_exact_mut((count * k * BLOCK).max(1)).enumerate() {
        for (place, gate) in gates.clone().enumerate() {
            each_weight(shape, rows, k, gate, block, |i, lane, value| panel[(i * count + place) * BLOCK + lane] = value);
        }
    }
    packed
}

/// Calls `put(k, lane, weight)` for the units of one block of one gate.
fn each_weight(shape: &Shape, rows: &[f32], k: usize, gate: usize, block: usize, mut put: impl FnMut(usize, usize, f32)) {
    for lane in 0..(shape.hidden - block * BLOCK).min(BLOCK) {
        let row = &rows[(gate * shape.hidden + block * BLOCK + lane) * k..][..k];
        for (i, &value) in row.iter().enumerate() {
            put(i, lane, value);
        }
    }
}
