//! Unit by unit in f64, from ONNX's equations.

use super::{Cell, Shape};
use crate::{BuildError, Task, Tensor};

/// Computes the sequence; see [`super`] for the operands.
pub fn compute(task: &Task, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, BuildError> {
    let s = Shape::of(task)?;
    let floats = |index: usize| -> Vec<f64> {
        let tensor = inputs.get(index).copied().flatten();
        tensor.map_or_else(Vec::new, |tensor| tensor.reinterpret::<f32>().iter().map(|&x| f64::from(x)).collect())
    };
    let (x, w, r, b) = (floats(0), floats(1), floats(2), floats(3));
    let lens = inputs.get(4).copied().flatten().and_then(Tensor::to_ints);
    let (h0, c0) = (floats(5), floats(6));
    let (rows, state) = (s.cell.gates() * s.hidden, s.directions() * s.batch * s.hidden);
    let mut y = vec![0.0f32; s.steps * state];
    let (mut last_h, mut last_c) = (vec![0.0f32; state], vec![0.0f32; state]);
    for (d, &reversed) in s.reversed.iter().enumerate() {
        for n in 0..s.batch {
            let at = (d * s.batch + n) * s.hidden;
            let given = |values: &[f64]| if values.is_empty() { vec![0.0; s.hidden] } else { values[at..at + s.hidden].to_vec() };
            let (mut h, mut c) = (given(&h0), given(&c0));
            let len = lens.as_ref().map_or(s.steps, |lens| lens[n].clamp(0, s.steps as i64) as usize);
            for step in 0..len {
                let t = if reversed { len - 1 - step } else { step };
                let x = &x[(t * s.batch + n) * s.input..][..s.input];
                let weights = Weights { w: &w[d * rows * s.input..], r: &r[d * rows * s.hidden..], b: b.get(d * 2 * rows..) };
                weights.step(&s, x, &mut h, &mut c);
                for (j, &h) in h.iter().enumerate() {
                    y[((t * s.directions() + d) * s.batch + n) * s.hidden + j] = h as f32;
                }
            }
            for j in 0..s.hidden {
                (last_h[at + j], last_c[at + j]) = (h[j] as f32, c[j] as f32);
            }
        }
    }
    let outputs = s.signature().outputs;
    let results = [y, last_h, last_c].into_iter().zip(outputs);
    Ok(results
        .map(
            |(values, spec)| {
                if spec.shape == [0] { Tensor::new(vec![0], Vec::<f32>::new()) } else { Tensor::new(spec.shape, values) }
            },
        )
        .collect())
}

struct Weights<'a> {
    w: &'a [f64],
    r: &'a [f64],
    b: Option<&'a [f64]>,
}

impl Weights<'_> {
    fn step(&self, s: &Shape, x: &[f64], h: &mut Vec<f64>, c: &mut [f64]) {
        let hidden = s.hidden;
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let bias = |row: usize| self.b.and_then(|b| b.get(row)).copied().unwrap_or(0.0);
        let rows = s.cell.gates() * hidden;
        let of_x = |row: usize| self.w[row * s.input..][..s.input].iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + bias(row);
        let of_h = |row: usize, h: &[f64]| {
            self.r[row * hidden..][..hidden].iter().zip(h).map(|(r, h)| r * h).sum::<f64>() + bias(rows + row)
        };
        let gate = |gate: usize, j: usize| sigmoid(of_x(gate * hidden + j) + of_h(gate * hidden + j, h));
        let mut next = vec![0.0; hidden];
        if s.cell == Cell::Lstm {
            for j in 0..hidden {
                let (i, o, f) = (gate(0, j), gate(1, j), gate(2, j));
                let g = (of_x(3 * hidden + j) + of_h(3 * hidden + j, h)).tanh();
                c[j] = f * c[j] + i * g;
                next[j] = o * c[j].tanh();
            }
        } else {
            let reset: Vec<f64> = (0..hidden).map(|j| gate(1, j) * h[j]).collect();
            for j in 0..hidden {
                let (z, row) = (gate(0, j), 2 * hidden + j);
                let inner = if s.cell == Cell::Gru { of_h(row, &reset) } else { gate(1, j) * of_h(row, h) };
                next[j] = (1.0 - z) * (of_x(row) + inner).tanh() + z * h[j];
            }
        }
        *h = next;
    }
}
