//! What the variants have in common: which cell, its weights, and what becomes of the sums of its gates.

use crate::epilogue::{sigmoid, tanh};
use crate::gpu::{Buffer, Gpu};
use crate::operator::{refuse, upload_constant};
use cubecl::prelude::*;
use kernels::lstm::{Cell, Shape};
use kernels::{BuildError, Request, Task, Tensor};

/// Which cell, as part of a kernel's identity.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Lstm,
    Gru,
    GruAfter,
}

impl From<Cell> for Kind {
    fn from(cell: Cell) -> Self {
        match cell {
            Cell::Lstm => Kind::Lstm,
            Cell::Gru => Kind::Gru,
            Cell::GruAfter => Kind::GruAfter,
        }
    }
}

impl Kind {
    pub fn gates(self) -> u32 {
        if self == Kind::Lstm { 4 } else { 3 }
    }
}

/// W, R and the bias.
pub struct Weights {
    /// Where they are constant; the matrices as `[d, columns, rows]` then, so that neighbours read neighbours.
    prepared: [Option<Buffer>; 3],
}

impl Weights {
    pub fn new(request: &Request<'_>, gpu: &Gpu, shape: &Shape) -> Result<Self, BuildError> {
        if !shape.constant {
            return Ok(Weights { prepared: [None, None, None] });
        }
        let matrix = |input: usize, columns: usize| {
            let Some(tensor) = request.constants.get(input).copied().flatten() else { return Ok(None) };
            let values = transposed(request.task, tensor, shape.directions(), columns)?;
            gpu.upload(bytemuck::cast_slice(&values)).map(Some).map_err(|error| refuse(request.task, &error))
        };
        Ok(Weights { prepared: [matrix(1, shape.input)?, matrix(2, shape.hidden)?, upload_constant(request, gpu, 3)?] })
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.prepared.iter().flatten().map(Buffer::bytes).sum()
    }

    /// W, R, and the bias where there is one.
    pub fn operands(&self, inputs: &[Option<Buffer>]) -> (Buffer, Buffer, Vec<Buffer>) {
        let weight = |i: usize| self.prepared[i].clone().or_else(|| inputs.get(i + 1).cloned().flatten());
        let (w, r) = (weight(0).expect("the task has a W"), weight(1).expect("the task has an R"));
        (w, r, weight(2).into_iter().collect())
    }
}

/// `[d, rows, columns]` as `[d, columns, rows]`.
fn transposed(task: &Task, tensor: &Tensor, directions: usize, columns: usize) -> Result<Vec<f32>, BuildError> {
    let values = tensor.values::<f32>().ok_or_else(|| refuse(task, &"the weights are not f32"))?;
    let rows = values.len() / (directions * columns).max(1);
    let mut turned = vec![0.0; values.len()];
    for (from, to) in values.chunks_exact(rows * columns).zip(turned.chunks_exact_mut(rows * columns)) {
        for (i, &value) in from.iter().enumerate() {
            to[i % columns * rows + i / columns] = value;
        }
    }
    Ok(turned)
}

/// An LSTM's cell after a step, of the sums of its gates and the cell before.
#[cube]
pub fn cell_of_lstm<F: Float>(input: F, forget: F, new: F, before: F) -> F {
    sigmoid::<F>(forget) * before + sigmoid::<F>(input) * tanh::<F>(new)
}

/// An LSTM's state, of the sum of its output gate and the cell.
#[cube]
pub fn state_of_lstm<F: Float>(output: F, cell: F) -> F {
    sigmoid::<F>(output) * tanh::<F>(cell)
}

/// A GRU's state after a step, of its update gate, the sum of its last gate and the state before.
#[cube]
pub fn state_of_gru<F: Float>(update: F, sum: F, before: F) -> F {
    let new = tanh::<F>(sum);
    new + update * (before - new)
}

/// How many steps a sequence has.
#[cube]
pub fn steps_of(lens: &Sequence<Array<i32>>, sequence: u32, steps: u32, #[comptime] given: bool) -> u32 {
    let mut len = steps;
    if comptime!(given) {
        len = u32::cast_from(min(max(lens.index(0usize)[sequence as usize], 0), steps as i32));
    }
    len
}
