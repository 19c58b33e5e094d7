//! Losses and optimisers.

use super::call::one;
use super::number::{Real, load};
use super::{Call, Evaluate, EvaluateError};
use crate::{Datum, Tensor};
use schema::DType;

type Result<T> = std::result::Result<T, EvaluateError>;

pub(super) static OPERATORS: &[(&str, Evaluate)] = &[
    ("NegativeLogLikelihoodLoss", |call| {
        let x = call.tensor(0)?;
        loss(call, x, &load::<f64>(call.op, x)?).and_then(one)
    }),
    ("SoftmaxCrossEntropyLoss", softmax_cross_entropy),
    ("ai.onnx.preview.training.Adagrad", |call| update(call, 1, adagrad)),
    ("ai.onnx.preview.training.Adam", |call| update(call, 2, adam)),
    ("ai.onnx.preview.training.Momentum", |call| update(call, 1, momentum)),
];

/// The loss of log probabilities `[n, c, …]` against class numbers `[n, …]`, weighted and reduced.
fn loss(call: &Call<'_>, x: &Tensor, logs: &[f64]) -> Result<Tensor> {
    let (target, weight) = (call.tensor(1)?, call.optional(2)?);
    let &[n, c, ref rest @ ..] = x.shape() else {
        return Err(call.shape_error(format_args!("input {:?}", x.shape())));
    };
    let points: usize = rest.iter().product();
    call.same_shape("target", target.shape(), &[&[n], rest].concat())?;
    call.budget.take(DType::F64, target.shape())?;
    call.budget.work(x.len() as u64)?;
    let classes = call.whole(1)?;
    let weights = weight.map(|weight| load::<f64>(call.op, weight)).transpose()?;
    if let Some(weight) = weight {
        call.same_shape("weight", weight.shape(), &[c])?;
    }
    let ignored = call.attributes.int("ignore_index");
    let (mut losses, mut total) = (Vec::with_capacity(classes.len()), 0.0);
    for (i, &class) in classes.iter().enumerate() {
        if ignored == Some(class) {
            losses.push(0.0);
            continue;
        }
        let at = usize::try_from(class).ok().filter(|&at| at < c);
        let at = at.ok_or_else(|| call.index_error(format_args!("class {class} of {c}")))?;
        let weight = weights.as_ref().map_or(1.0, |weights| weights[at]);
        total += weight;
        losses.push(-weight * logs[(i / points * c + at) * points + i % points]);
    }
    let sum: f64 = losses.iter().sum();
    Ok(match call.text("reduction", "mean") {
        "none" => f64::store(x.dtype(), target.shape().to_vec(), losses),
        "sum" => f64::store(x.dtype(), vec![], vec![sum]),
        "mean" => f64::store(x.dtype(), vec![], vec![sum / total]),
        other => return Err(call.attribute_error(format_args!("reduction '{other}'"))),
    })
}

fn softmax_cross_entropy(call: &Call<'_>) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    call.at_least(x, 2)?;
    call.budget.take(DType::F64, x.shape())?;
    let mut logs = load::<f64>(call.op, x)?.into_owned();
    super::normalize::lines_along(&mut logs, x.shape(), 1, |line| {
        let top = line.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum = line.iter().map(|v| (v - top).exp()).sum::<f64>().ln();
        line.iter_mut().for_each(|v| *v = *v - top - sum);
    });
    let mut results = vec![loss(call, x, &logs)?.into()];
    if call.wants(1) {
        results.push(f64::store(x.dtype(), x.shape().to_vec(), logs).into());
    }
    Ok(results)
}

/// One step of an optimiser on one tensor: rate, count, value, gradient, states; gives the new value and states.
type Step = fn(&Call<'_>, f64, i64, f64, f64, &mut [f64]) -> f64;

/// Inputs: rate, count, then all values, all gradients, all first states, …; outputs: new values, new states in the same order.
fn update(call: &Call<'_>, states: usize, step: Step) -> Result<Vec<Datum>> {
    let kinds = 2 + states;
    let tensors = call.inputs.len().saturating_sub(2) / kinds;
    if call.inputs.len() != 2 + tensors * kinds {
        return Err(call.shape_error(format_args!("{} inputs", call.inputs.len())));
    }
    let rate = load::<f64>(call.op, call.tensor(0)?)?.first().copied().ok_or_else(|| call.shape_error("no rate"))?;
    let count = call.one_whole(1)?;
    let mut results: Vec<Vec<Datum>> = vec![Vec::new(); 1 + states];
    for i in 0..tensors {
        let value = call.tensor(2 + i)?;
        let mut columns = Vec::with_capacity(kinds);
        for kind in 0..kinds {
            let tensor = call.tensor(2 + kind * tensors + i)?;
            call.same_shape("an operand", tensor.shape(), value.shape())?;
            call.budget.take(DType::F64, tensor.shape())?;
            columns.push(load::<f64>(call.op, tensor)?.into_owned());
        }
        call.budget.work(8 * value.len() as u64)?;
        let mut state = vec![0.0; states];
        let gradients = columns.remove(1);
        for (at, &gradient) in gradients.iter().enumerate() {
            state.iter_mut().zip(&columns[1..]).for_each(|(slot, column)| *slot = column[at]);
            columns[0][at] = step(call, rate, count, columns[0][at], gradient, &mut state);
            state.iter().zip(&mut columns[1..]).for_each(|(slot, column)| column[at] = *slot);
        }
        for (kind, values) in columns.into_iter().enumerate() {
            results[kind].push(f64::store(value.dtype(), value.shape().to_vec(), values).into());
        }
    }
    Ok(results.concat())
}

fn number(call: &Call<'_>, name: &str, default: f32) -> f64 {
    f64::from(call.float(name, default))
}

fn adagrad(call: &Call<'_>, rate: f64, count: i64, value: f64, gradient: f64, state: &mut [f64]) -> f64 {
    let rate = rate / (1.0 + count as f64 * number(call, "decay_factor", 0.0));
    let gradient = number(call, "norm_coefficient", 0.0) * value + gradient;
    state[0] += gradient * gradient;
    value - rate * gradient / (state[0].sqrt() + number(call, "epsilon", 1e-6))
}

fn adam(call: &Call<'_>, rate: f64, count: i64, value: f64, gradient: f64, state: &mut [f64]) -> f64 {
    let (alpha, beta) = (number(call, "alpha", 0.9), number(call, "beta", 0.999));
    let gradient = number(call, "norm_coefficient", 0.0) * value + gradient;
    state[0] = alpha * state[0] + (1.0 - alpha) * gradient;
    state[1] = beta * state[1] + (1.0 - beta) * gradient * gradient;
    let root = state[1].sqrt() + number(call, "epsilon", 1e-6);
    let rate = match count > 0 {
        true => rate * (1.0 - beta.powf(count as f64)).sqrt() / (1.0 - alpha.powf(count as f64)),
        false => rate,
    };
    (1.0 - number(call, "norm_coefficient_post", 0.0)) * (value - rate * state[0] / root)
}

fn momentum(call: &Call<'_>, rate: f64, count: i64, value: f64, gradient: f64, state: &mut [f64]) -> f64 {
    let alpha = number(call, "alpha", 0.0);
    let gradient = number(call, "norm_coefficient", 0.0) * value + gradient;
    let beta = if count > 0 { number(call, "beta", 0.0) } else { 1.0 };
    state[0] = alpha * state[0] + beta * gradient;
    match call.text("mode", "standard") {
        "nesterov" => value - rate * (gradient + alpha * state[0]),
        _ => value - rate * state[0],
    }
}
