//! The general variant: every gate of every unit is a dot product with a row of the weights as they are.

use super::cell::{self, Gate};
use super::weights::{Weights, biases};
use super::{Cell, Shape};
use crate::simd::{self, FlushDenormals, Routine, Simd, lanewise as lanes};
use crate::{BuildError, Inputs, Isa, Kernel, Limits, Operands, Request, Task, Variant};
use schema::KnobValue;

/// LSTM, any weights.
pub static LSTM_DOTS: Variant = Variant { id: "lstm.host_dots", revision: 1, knobs: &[], rules: &[], default, build };

/// GRU, any weights.
pub static GRU_DOTS: Variant = Variant { id: "gru.host_dots", revision: 1, knobs: &[], rules: &[], default, build };

fn default(_: &Task, _: &Limits) -> Vec<KnobValue> {
    Vec::new()
}

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    let shape = Shape::of(request.task)?;
    let weights = if shape.constant {
        let weights = Weights::of(request, &shape)?;
        Some([weights.w.into_owned(), weights.r.into_owned(), weights.b.into_owned()])
    } else {
        None
    };
    Ok(Box::new(Dots { shape, weights, isa: request.limits.isa }))
}

struct Dots {
    shape: Shape,
    weights: Option<[Vec<f32>; 3]>,
    isa: Isa,
}

/// The scratch space of one direction.
struct Space<'a> {
    x: &'a mut [f32],
    h: &'a mut [f32],
    bias_x: &'a mut [f32],
    bias_h: &'a mut [f32],
    before: &'a mut [f32],
    state: &'a mut [f32],
    cell: &'a mut [f32],
}

impl Dots {
    fn space_len(&self) -> usize {
        (3 * self.shape.cell.gates() + 4) * self.shape.padded()
    }

    fn space<'a>(&self, scratch: &'a mut [f32]) -> Space<'a> {
        let (gates, padded) = (self.shape.cell.gates() * self.shape.padded(), self.shape.padded());
        let mut rest = scratch;
        let mut take = |len: usize| {
            let (part, behind) = std::mem::take(&mut rest).split_at_mut(len);
            part.fill(0.0);
            rest = behind;
            part
        };
        Space {
            x: take(gates),
            h: take(gates),
            bias_x: take(gates),
            bias_h: take(padded),
            before: take(padded),
            state: take(padded),
            cell: take(padded),
        }
    }

    fn weights<'a>(&'a self, inputs: &Inputs<'a>) -> [&'a [f32]; 3] {
        match &self.weights {
            Some(weights) => [&weights[0], &weights[1], &weights[2]],
            None => [1, 2, 3].map(|index| inputs.get(index).unwrap_or_default()),
        }
    }

    /// One sequence of one direction.
    fn sequence(&self, inputs: &Inputs<'_>, (d, n): (usize, usize), space: &mut Space<'_>, mut write: impl FnMut(usize, &[f32])) {
        let s = &self.shape;
        let at = (d * s.batch + n) * s.hidden;
        for (index, state) in [(5, &mut *space.state), (6, &mut *space.cell)] {
            state.fill(0.0);
            if let Some(given) = inputs.get::<f32>(index).filter(|given| !given.is_empty()) {
                state[..s.hidden].copy_from_slice(&given[at..at + s.hidden]);
            }
        }
        let len = inputs.get::<i32>(4).and_then(|lens| lens.get(n)).map_or(s.steps, |&len| (len.max(0) as usize).min(s.steps));
        let x = inputs.get::<f32>(0).unwrap_or_default();
        for step in 0..len {
            let t = if s.reversed[d] { len - 1 - step } else { step };
            let x = &x[(t * s.batch + n) * s.input..][..s.input];
            simd::run(self.isa, Step { dots: self, weights: self.weights(inputs), d, x, space: &mut *space });
            write(t, &space.state[..s.hidden]);
        }
    }
}

impl Kernel for Dots {
    fn scratch_bytes(&self) -> usize {
        self.space_len() * size_of::<f32>()
    }

    fn prepared_bytes(&self) -> usize {
        self.weights.iter().flatten().map(|weights| size_of_val(&weights[..])).sum()
    }

    fn run(&self, operands: &mut Operands<'_>) {
        let _flush = FlushDenormals::new();
        let (s, inputs) = (&self.shape, operands.inputs());
        operands.output::<f32>(0).fill(0.0);
        for (d, n) in (0..s.directions()).flat_map(|d| (0..s.batch).map(move |n| (d, n))) {
            let at = (d * s.batch + n) * s.hidden;
            let (y, scratch) = operands.output_and_scratch::<f32, f32>(0);
            let mut space = self.space(&mut scratch[..self.space_len()]);
            biases(s, self.weights(&inputs)[2], d, space.bias_x, space.bias_h);
            self.sequence(&inputs, (d, n), &mut space, |t, state| {
                if s.outputs[0] {
                    y[((t * s.directions() + d) * s.batch + n) * s.hidden..][..s.hidden].copy_from_slice(state);
                }
            });
            for (output, skip) in [(1, 2), (2, 1)] {
                if s.outputs[output] {
                    let (last, scratch) = operands.output_and_scratch::<f32, f32>(output);
                    let from = self.space_len() - skip * s.padded();
                    last[at..at + s.hidden].copy_from_slice(&scratch[from..][..s.hidden]);
                }
            }
        }
    }
}

struct Step<'a, 'b> {
    dots: &'a Dots,
    weights: [&'a [f32]; 3],
    d: usize,
    x: &'a [f32],
    space: &'a mut Space<'b>,
}

/// The dot products of `of` with the rows of some gates, each gate's into a stretch of `padded`. A function and not a closure: that
/// would lose the instruction set.
#[inline(always)]
fn products<S: Simd>(
    s: S,
    (hidden, padded): (usize, usize),
    (weights, k): (&[f32], usize),
    of: &[f32],
    gates: std::ops::Range<usize>,
    out: &mut [f32],
) {
    for gate in gates {
        for (unit, out) in out[gate * padded..][..hidden].iter_mut().enumerate() {
            *out = lanes::dot(s, &weights[(gate * hidden + unit) * k..][..k], of);
        }
    }
}

impl Routine for Step<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let shape = &self.dots.shape;
        let (hidden, padded, gates) = (shape.hidden, shape.padded(), shape.cell.gates());
        let w = &self.weights[0][self.d * gates * hidden * shape.input..];
        let r = &self.weights[1][self.d * gates * hidden * hidden..];
        let Space { x, h, bias_x, bias_h, before, state, cell } = self.space;
        products(s, (hidden, padded), (w, shape.input), self.x, 0..gates, x);
        lanes::zip_in_place(s, bias_x, x, |x, bias| s.add(x, bias));
        before.copy_from_slice(state);
        let separate = shape.cell == Cell::Gru;
        products(s, (hidden, padded), (r, hidden), &before[..hidden], 0..if separate { 2 } else { gates }, h);
        let gate = |index: usize| index * padded..(index + 1) * padded;
        match shape.cell {
            Cell::Lstm => {
                let gates = [0, 1, 2, 3].map(|index| Gate { x: &x[gate(index)], h: &h[gate(index)] });
                cell::Lstm { gates, c: cell, h: state }.run(s);
            }
            Cell::GruAfter => {
                let gates = [0, 1, 2].map(|index| Gate { x: &x[gate(index)], h: &h[gate(index)] });
                cell::GruAfter { gates, bias: bias_h, before, h: state }.run(s);
            }
            Cell::Gru => {
                // A GRU has no cell state: its space holds the reset state.
                cell::Reset { r: Gate { x: &x[gate(1)], h: &h[gate(1)] }, before, out: cell }.run(s);
                products(s, (hidden, padded), (r, hidden), &cell[..hidden], 2..3, h);
                let (z, g) = (Gate { x: &x[gate(0)], h: &h[gate(0)] }, Gate { x: &x[gate(2)], h: &h[gate(2)] });
                cell::Gru { z, g, before, h: state }.run(s);
            }
        }
    }
}
