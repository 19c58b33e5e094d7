//! Recurrent layers: RNN, GRU and LSTM in both directions and layouts.

use super::number::{Real, load, real_type};
use super::unary::sigmoid;
use super::{Call, Evaluate, EvaluateError};
use crate::{Datum, Tensor};
use schema::DType;

type Result<T> = std::result::Result<T, EvaluateError>;

pub(super) static OPERATORS: &[(&str, Evaluate)] = &[
    ("RNN", |call| layer(call, &Cell { gates: 1, activations: &["Tanh"], step: rnn_step })),
    ("GRU", |call| layer(call, &Cell { gates: 3, activations: &["Sigmoid", "Tanh"], step: gru_step })),
    ("LSTM", |call| layer(call, &Cell { gates: 4, activations: &["Sigmoid", "Tanh", "Tanh"], step: lstm_step })),
];

/// A kind of recurrent cell.
struct Cell {
    gates: usize,
    /// The default functions.
    activations: &'static [&'static str],
    step: fn(&Weights<'_>, &[f64], &mut State),
}

/// A function between the gates.
type Activation = Box<dyn Fn(f64) -> f64>;

/// Everything one direction uses.
struct Weights<'a> {
    hidden: usize,
    /// `[gates · hidden, input]`.
    w: &'a [f64],
    /// `[gates · hidden, hidden]`.
    r: &'a [f64],
    /// `[gates · hidden]` each; zeros when there is no bias.
    w_bias: &'a [f64],
    r_bias: &'a [f64],
    /// `[3 · hidden]` in the order input, output, forget; zeros without.
    peepholes: &'a [f64],
    activations: Vec<Activation>,
    clip: f64,
    /// GRU: whether the reset gate is applied after the recurrent product.
    reset_after: bool,
    /// LSTM: whether the forget gate is one less the input gate.
    coupled: bool,
}

/// What is carried from step to step, for one line of the batch.
struct State {
    h: Vec<f64>,
    c: Vec<f64>,
}

impl Weights<'_> {
    /// `x · Wᵀ + bias`, and the recurrent part `h · Rᵀ + bias`, of one row of the gates.
    fn input(&self, row: usize, x: &[f64]) -> f64 {
        self.w[row * x.len()..(row + 1) * x.len()].iter().zip(x).map(|(a, b)| a * b).sum::<f64>() + self.w_bias[row]
    }

    fn recurrent(&self, row: usize, h: &[f64]) -> f64 {
        self.r[row * h.len()..(row + 1) * h.len()].iter().zip(h).map(|(a, b)| a * b).sum::<f64>() + self.r_bias[row]
    }

    fn activate(&self, which: usize, value: f64) -> f64 {
        self.activations[which](value.clamp(-self.clip, self.clip))
    }
}

fn rnn_step(w: &Weights<'_>, x: &[f64], state: &mut State) {
    state.h = (0..w.hidden).map(|i| w.activate(0, w.input(i, x) + w.recurrent(i, &state.h))).collect();
}

/// Gates in the order update, reset, hidden.
fn gru_step(w: &Weights<'_>, x: &[f64], state: &mut State) {
    let n = w.hidden;
    let gate = |row: usize| w.activate(0, w.input(row, x) + w.recurrent(row, &state.h));
    let update: Vec<f64> = (0..n).map(gate).collect();
    let reset: Vec<f64> = (n..2 * n).map(gate).collect();
    let gated: Vec<f64> = reset.iter().zip(&state.h).map(|(r, h)| r * h).collect();
    let candidate = |i: usize| {
        let recurrent = if w.reset_after { reset[i] * w.recurrent(2 * n + i, &state.h) } else { w.recurrent(2 * n + i, &gated) };
        w.activate(1, w.input(2 * n + i, x) + recurrent)
    };
    state.h = (0..n).map(|i| (1.0 - update[i]) * candidate(i) + update[i] * state.h[i]).collect();
}

/// Gates in the order input, output, forget, cell.
fn lstm_step(w: &Weights<'_>, x: &[f64], state: &mut State) {
    let n = w.hidden;
    let raw = |gate: usize, i: usize| w.input(gate * n + i, x) + w.recurrent(gate * n + i, &state.h);
    let peep = |gate: usize, i: usize| w.peepholes[gate * n + i];
    let mut next = State { h: Vec::with_capacity(n), c: Vec::with_capacity(n) };
    for i in 0..n {
        let old = state.c[i];
        let input = w.activate(0, raw(0, i) + peep(0, i) * old);
        let forget = if w.coupled { 1.0 - input } else { w.activate(0, raw(2, i) + peep(2, i) * old) };
        let cell = forget * old + input * w.activate(1, raw(3, i));
        let output = w.activate(0, raw(1, i) + peep(1, i) * cell);
        next.c.push(cell);
        next.h.push(output * w.activations[2](cell));
    }
    *state = next;
}

/// The function of that name, with its parameters.
fn activation(call: &Call<'_>, name: &str, alpha: Option<f32>, beta: Option<f32>) -> Result<Activation> {
    let a = |default: f64| alpha.map_or(default, f64::from);
    let b = |default: f64| beta.map_or(default, f64::from);
    Ok(match name {
        "Relu" => Box::new(|x| x.max(0.0)),
        "Tanh" => Box::new(f64::tanh),
        "Sigmoid" => Box::new(sigmoid),
        "Affine" => {
            let (a, b) = (a(1.0), b(0.0));
            Box::new(move |x| a * x + b)
        }
        "LeakyRelu" => {
            let a = a(0.01);
            Box::new(move |x| if x < 0.0 { a * x } else { x })
        }
        "ThresholdedRelu" => {
            let a = a(1.0);
            Box::new(move |x| if x >= a { x } else { 0.0 })
        }
        "ScaledTanh" => {
            let (a, b) = (a(1.0), b(1.0));
            Box::new(move |x| a * (b * x).tanh())
        }
        "HardSigmoid" => {
            let (a, b) = (a(0.2), b(0.5));
            Box::new(move |x| (a * x + b).clamp(0.0, 1.0))
        }
        "Elu" => {
            let a = a(1.0);
            Box::new(move |x| if x >= 0.0 { x } else { a * x.exp_m1() })
        }
        "Softsign" => Box::new(|x| x / (1.0 + x.abs())),
        "Softplus" => Box::new(|x| x.exp().ln_1p()),
        other => return Err(call.attribute_error(format_args!("activation '{other}'"))),
    })
}

/// The functions of every direction, one after the other.
fn activations(call: &Call<'_>, cell: &Cell, directions: usize) -> Result<Vec<Vec<Activation>>> {
    let each = cell.activations.len();
    let given: Vec<&str> = match call.texts("activations") {
        Some(names) => names.iter().map(String::as_str).collect(),
        None => cell.activations.repeat(directions),
    };
    if given.len() != each * directions {
        return Err(call.attribute_error(format_args!("{} activations for {directions} directions", given.len())));
    }
    let (alphas, betas) = (call.floats("activation_alpha").unwrap_or(&[]), call.floats("activation_beta").unwrap_or(&[]));
    let mut all = Vec::with_capacity(directions);
    for direction in 0..directions {
        let range = direction * each..(direction + 1) * each;
        all.push(
            range
                .map(|i| activation(call, given[i], alphas.get(i).copied(), betas.get(i).copied()))
                .collect::<Result<Vec<_>>>()?,
        );
    }
    Ok(all)
}

/// The extents of a layer.
struct Extents {
    steps: usize,
    batch: usize,
    input: usize,
    hidden: usize,
    directions: usize,
    batch_first: bool,
}

impl Extents {
    fn new(call: &Call<'_>, cell: &Cell) -> Result<Self> {
        let (x, w, r) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
        let batch_first = call.int("layout", 0) == 1;
        let (&[first, second, input], &[directions, rows, depth], &[.., hidden]) = (x.shape(), w.shape(), r.shape()) else {
            return Err(call.shape_error(format_args!("input {:?}, weights {:?}, {:?}", x.shape(), w.shape(), r.shape())));
        };
        let expected = match call.text("direction", "forward") {
            "forward" | "reverse" => 1,
            "bidirectional" => 2,
            other => return Err(call.attribute_error(format_args!("direction '{other}'"))),
        };
        let gate_rows = cell.gates.checked_mul(hidden).ok_or_else(|| call.shape_error("too many gates"))?;
        if directions != expected
            || depth != input
            || rows != gate_rows
            || call.int("hidden_size", hidden as i64) != hidden as i64
        {
            return Err(call.shape_error(format_args!("input {:?}, weights {:?}, {:?}", x.shape(), w.shape(), r.shape())));
        }
        // Every step of every line is visited, however narrow it is.
        call.budget.take(DType::I64, &[first, second])?;
        call.same_shape("recurrence weights", r.shape(), &[directions, gate_rows, hidden])?;
        let (steps, batch) = if batch_first { (second, first) } else { (first, second) };
        Ok(Extents { steps, batch, input, hidden, directions, batch_first })
    }

    /// Where a state of `[directions, batch, hidden]` (or batch first) keeps a line.
    fn line(&self, direction: usize, batch: usize) -> usize {
        if self.batch_first { batch * self.directions + direction } else { direction * self.batch + batch }
    }

    fn state_shape(&self) -> Vec<usize> {
        if self.batch_first {
            vec![self.batch, self.directions, self.hidden]
        } else {
            vec![self.directions, self.batch, self.hidden]
        }
    }

    fn output_shape(&self) -> Vec<usize> {
        match self.batch_first {
            true => vec![self.batch, self.steps, self.directions, self.hidden],
            false => vec![self.steps, self.directions, self.batch, self.hidden],
        }
    }
}

/// An optional operand of that shape, or zeros.
fn operand(call: &Call<'_>, index: usize, shape: &[usize]) -> Result<Vec<f64>> {
    match call.optional(index)? {
        Some(tensor) => {
            call.same_shape(&format!("input {index}"), tensor.shape(), shape)?;
            Ok(load::<f64>(call.op, tensor)?.into_owned())
        }
        None => Ok(vec![0.0; call.budget.take(DType::F64, shape)?]),
    }
}

/// Runs a layer: inputs x, W, R, B, lengths, initial h, initial c, peepholes; outputs Y, Y_h, Y_c.
fn layer(call: &Call<'_>, cell: &Cell) -> Result<Vec<Datum>> {
    let e = Extents::new(call, cell)?;
    let (x, dtype) = (load::<f64>(call.op, call.tensor(0)?)?, call.tensor(0)?.dtype());
    let (w, r) = (load::<f64>(call.op, call.tensor(1)?)?, load::<f64>(call.op, call.tensor(2)?)?);
    let rows = cell.gates * e.hidden;
    let bias = operand(call, 3, &[e.directions, 2 * rows])?;
    let lengths = match call.optional_whole(4)? {
        Some(lengths) => call.extents(&lengths)?,
        None => vec![e.steps; e.batch],
    };
    if lengths.len() != e.batch || lengths.iter().any(|&length| length > e.steps) {
        return Err(call.shape_error(format_args!("lengths {lengths:?} for {} steps of {} lines", e.steps, e.batch)));
    }
    let mut h = operand(call, 5, &e.state_shape())?;
    let lstm = cell.gates == 4;
    let (mut c, peepholes) = match lstm {
        true => (operand(call, 6, &e.state_shape())?, operand(call, 7, &[e.directions, 3 * e.hidden])?),
        false => (vec![0.0; h.len()], Vec::new()),
    };
    let count = call.budget.take(DType::F64, &e.output_shape())?;
    call.budget
        .work((count as u64).saturating_mul(cell.gates as u64).saturating_mul((e.input + e.hidden) as u64).saturating_mul(2))?;
    let mut y = vec![0.0; count];
    for (direction, activations) in activations(call, cell, e.directions)?.into_iter().enumerate() {
        let bias = &bias[direction * 2 * rows..][..2 * rows];
        let weights = Weights {
            hidden: e.hidden,
            w: &w[direction * rows * e.input..][..rows * e.input],
            r: &r[direction * rows * e.hidden..][..rows * e.hidden],
            w_bias: &bias[..rows],
            r_bias: &bias[rows..],
            peepholes: if lstm { &peepholes[direction * 3 * e.hidden..][..3 * e.hidden] } else { &[] },
            activations,
            clip: call.attributes.float("clip").filter(|clip| *clip > 0.0).map_or(f64::INFINITY, f64::from),
            reset_after: call.flag("linear_before_reset", false),
            coupled: call.flag("input_forget", false),
        };
        let backward = direction == 1 || call.text("direction", "forward") == "reverse";
        for (batch, &length) in lengths.iter().enumerate() {
            let line = e.line(direction, batch) * e.hidden;
            let mut state = State { h: h[line..line + e.hidden].to_vec(), c: c[line..line + e.hidden].to_vec() };
            for step in 0..length {
                let at = if backward { length - 1 - step } else { step };
                let from = if e.batch_first { batch * e.steps + at } else { at * e.batch + batch } * e.input;
                (cell.step)(&weights, &x[from..from + e.input], &mut state);
                let to = match e.batch_first {
                    true => (batch * e.steps + at) * e.directions + direction,
                    false => (at * e.directions + direction) * e.batch + batch,
                };
                y[to * e.hidden..(to + 1) * e.hidden].copy_from_slice(&state.h);
            }
            h[line..line + e.hidden].copy_from_slice(&state.h);
            c[line..line + e.hidden].copy_from_slice(&state.c);
        }
    }
    let mut results: Vec<Datum> = Vec::with_capacity(3);
    real_type!(dtype, R => {
        let store = |shape: Vec<usize>, values: Vec<f64>| -> Tensor { R::store(dtype, shape, values.into_iter().map(R::of).collect()) };
        results.push(store(e.output_shape(), y).into());
        results.push(store(e.state_shape(), h).into());
        if lstm {
            results.push(store(e.state_shape(), c).into());
        }
    });
    Ok(results)
}
