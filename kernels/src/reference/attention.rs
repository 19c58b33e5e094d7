//! Attention, linear attention and rotary embeddings.

use super::call::one;
use super::normalize::{rounded, softmax_line};
use super::number::{Real, load, real_type};
use super::walk::{broadcast_shape, broadcast_strides, copy_view};
use super::{Call, Evaluate, EvaluateError};
use crate::{Datum, Tensor};
use schema::DType;

type Result<T> = std::result::Result<T, EvaluateError>;

pub(super) static OPERATORS: &[(&str, Evaluate)] = &[
    ("Attention", attention),
    ("ai.onnx.preview.FlexAttention", attention_without_bodies),
    ("LinearAttention", linear_attention),
    ("RotaryEmbedding", rotary_embedding),
];

/// Values `[batch, heads, steps, width]`.
struct Heads<R> {
    values: Vec<R>,
    batch: usize,
    heads: usize,
    steps: usize,
    width: usize,
}

impl<R: Real> Heads<R> {
    /// From `[b, h, s, w]`, or from `[b, s, h · w]` with the number of heads given.
    fn new(call: &Call<'_>, tensor: &Tensor, heads: i64) -> Result<Self> {
        let values = load::<R>(call.op, tensor)?;
        call.budget.take(tensor.dtype(), tensor.shape())?;
        match *tensor.shape() {
            [batch, heads, steps, width] => Ok(Heads { values: values.into_owned(), batch, heads, steps, width }),
            [batch, steps, hidden] => {
                let heads = usize::try_from(heads).ok().filter(|&heads| heads > 0 && hidden % heads == 0);
                let heads =
                    heads.ok_or_else(|| call.shape_error(format_args!("{:?} has no such number of heads", tensor.shape())))?;
                let width = hidden / heads;
                let strides = [(steps * hidden) as isize, width as isize, hidden as isize, 1];
                Ok(Heads { values: copy_view(&values, 0, &[batch, heads, steps, width], &strides), batch, heads, steps, width })
            }
            _ => Err(call.shape_error(format_args!("{:?} is not [b, s, hidden] or [b, h, s, w]", tensor.shape()))),
        }
    }

    /// The matrix of one head.
    fn head(&self, batch: usize, head: usize) -> &[R] {
        let size = self.steps * self.width;
        &self.values[(batch * self.heads + head) * size..][..size]
    }

    fn shape(&self) -> Vec<usize> {
        vec![self.batch, self.heads, self.steps, self.width]
    }

    /// `past` and then these, along the steps.
    fn after(self, call: &Call<'_>, past: Option<&Tensor>) -> Result<Self> {
        let Some(past) = past else { return Ok(self) };
        let &[batch, heads, steps, width] = past.shape() else {
            return Err(call.shape_error(format_args!("a past of shape {:?}", past.shape())));
        };
        if [batch, heads, width] != [self.batch, self.heads, self.width] {
            return Err(call.shape_error(format_args!("a past of shape {:?} before {:?}", past.shape(), self.shape())));
        }
        let before = load::<R>(call.op, past)?;
        let all = Heads { values: Vec::new(), steps: steps + self.steps, batch, heads, width };
        call.budget.take(past.dtype(), &all.shape())?;
        let mut values = Vec::with_capacity(before.len() + self.values.len());
        for head in 0..batch * heads {
            values.extend_from_slice(&before[head * steps * width..(head + 1) * steps * width]);
            values.extend_from_slice(&self.values[head * self.steps * width..(head + 1) * self.steps * width]);
        }
        Ok(Heads { values, ..all })
    }
}

/// Rounds to a narrower type, as an implementation that stores every step in it does.
fn round<R: Real>(dtype: DType, values: &mut [R]) {
    if matches!(dtype, DType::F16 | DType::Bf16) {
        values.iter_mut().for_each(|value| *value = rounded(dtype, *value));
    }
}

/// What is added to the scores: mask, causality, window and padding, as `[batch, heads, queries, keys]`.
struct Bias<R> {
    mask: Option<(Vec<R>, Vec<usize>)>,
    causal: bool,
    window: (i64, i64),
    /// How many keys lie before the first query, per batch (one for all, when there is one).
    offsets: Vec<i64>,
    /// How many keys are not padding, per batch.
    lengths: Option<Vec<i64>>,
}

impl<R: Real> Bias<R> {
    fn new(call: &Call<'_>, batch: usize, heads: usize, queries: usize, keys: usize, past: Option<usize>) -> Result<Self> {
        let lengths = call.optional_whole(6)?;
        if lengths.as_ref().is_some_and(|lengths| lengths.len() != batch) {
            return Err(call.shape_error("nonpad_kv_seqlen is not one number per batch"));
        }
        let offsets = match (past, &lengths) {
            (Some(past), _) => vec![past as i64],
            (None, Some(lengths)) => lengths.iter().map(|length| length.saturating_sub(queries as i64)).collect(),
            (None, None) => vec![0],
        };
        let mask = match call.optional(3)? {
            None => None,
            Some(mask) => {
                let values = match mask.dtype() {
                    DType::Bool => mask.bytes().iter().map(|&on| if on != 0 { R::zero() } else { R::neg_infinity() }).collect(),
                    _ => load::<R>(call.op, mask)?.into_owned(),
                };
                let (values, shape) = lengthened(call, values, mask.shape(), keys)?;
                let full = [batch, heads, queries, keys];
                if broadcast_shape(call.op, &[&shape, &full])? != full {
                    return Err(call.shape_error(format_args!("a mask of shape {:?} for {full:?}", mask.shape())));
                }
                Some((values, shape))
            }
        };
        let window = (call.int("left_window_size", -1), call.int("right_window_size", -1));
        Ok(Bias { mask, causal: call.flag("is_causal", false), window, offsets, lengths })
    }

    /// Writes the bias of one query row.
    fn row(&self, full: [usize; 4], at: [usize; 3], row: &mut [R]) {
        let [batch, head, query] = at;
        row.fill(R::zero());
        if let Some((values, shape)) = &self.mask {
            let strides = broadcast_strides(shape, &full);
            let start = batch as isize * strides[0] + head as isize * strides[1] + query as isize * strides[2];
            for (key, slot) in row.iter_mut().enumerate() {
                *slot = values[(start + key as isize * strides[3]) as usize];
            }
        }
        let offset = self.offsets[if self.offsets.len() == 1 { 0 } else { batch }];
        let place = offset.saturating_add(query as i64);
        let length = self.lengths.as_ref().map_or(i64::MAX, |lengths| lengths[batch]);
        for (key, slot) in row.iter_mut().enumerate() {
            let key = key as i64;
            let hidden = (self.causal && key > place)
                || (self.window.0 >= 0 && place - key > self.window.0)
                || (self.window.1 >= 0 && key - place > self.window.1)
                || key >= length;
            if hidden {
                *slot = R::neg_infinity();
            }
        }
    }
}

/// A mask whose last axis is padded to the number of keys with what hides them.
fn lengthened<R: Real>(call: &Call<'_>, values: Vec<R>, shape: &[usize], keys: usize) -> Result<(Vec<R>, Vec<usize>)> {
    let Some((&width, outer)) = shape.split_last() else { return Ok((values, shape.to_vec())) };
    if width >= keys || width == 0 || (width == 1 && outer.is_empty()) {
        return Ok((values, shape.to_vec()));
    }
    let full = [outer, &[keys]].concat();
    let count = call.budget.take(DType::F64, &full)?;
    let mut out = Vec::with_capacity(count);
    for row in values.chunks_exact(width) {
        out.extend_from_slice(row);
        out.resize(out.len() + keys - width, R::neg_infinity());
    }
    Ok((out, full))
}

/// `FlexAttention` with no bodies that change scores; with bodies it belongs to who can run graphs.
fn attention_without_bodies(call: &Call<'_>) -> Result<Vec<Datum>> {
    let inputs =
        [call.inputs.first().copied().flatten(), call.inputs.get(1).copied().flatten(), call.inputs.get(2).copied().flatten()];
    attention(&Call { inputs: &inputs, ..*call })
}

/// Inputs: queries, keys, values, mask, past keys, past values, lengths; outputs: result, present keys and values, scores.
fn attention(call: &Call<'_>) -> Result<Vec<Datum>> {
    let queries = call.tensor(0)?;
    real_type!(queries.dtype(), R => attend::<R>(call, queries))
}

fn attend<R: Real>(call: &Call<'_>, queries: &Tensor) -> Result<Vec<Datum>> {
    let dtype = queries.dtype();
    let (k, v) = (call.tensor(1)?, call.tensor(2)?);
    let (past_k, past_v) = (call.optional(4)?, call.optional(5)?);
    let kv_heads = call.int("kv_num_heads", 0);
    let q = Heads::<R>::new(call, queries, call.int("q_num_heads", 0))?;
    let (k_new, v_new) = (Heads::<R>::new(call, k, kv_heads)?, Heads::<R>::new(call, v, kv_heads)?);
    let (k, v) = (k_new.after(call, past_k)?, v_new.after(call, past_v)?);
    let fits = k.batch == q.batch && v.batch == q.batch && k.heads == v.heads && k.steps == v.steps && k.width == q.width;
    if !fits || k.heads == 0 || q.heads % k.heads != 0 {
        return Err(call.shape_error(format_args!("queries {:?}, keys {:?}, values {:?}", q.shape(), k.shape(), v.shape())));
    }
    let full = [q.batch, q.heads, q.steps, k.steps];
    let count = call.budget.take(dtype, &full)?;
    call.budget.take(dtype, &[q.batch, q.heads, q.steps, v.width.max(1)])?;
    call.budget.work((count as u64).saturating_mul((k.width + v.width) as u64).saturating_mul(2))?;
    let bias = Bias::<R>::new(call, q.batch, q.heads, q.steps, k.steps, past_k.map(|past| past.shape()[2]))?;
    let scale = call.attributes.float("scale").map_or_else(|| 1.0 / (q.width as f64).sqrt(), f64::from);
    let mut root = [R::of(scale.sqrt())];
    round(dtype, &mut root);
    let cap = R::of(call.float("softcap", 0.0).into());
    let precision = match call.attributes.int("softmax_precision") {
        None | Some(0) => dtype,
        Some(code) => DType::of_code(code).ok_or_else(|| call.attribute_error(format_args!("softmax_precision {code}")))?,
    };
    let mode = call.int("qk_matmul_output_mode", 0);
    let shared = q.heads / k.heads;
    let mut scores_out: Vec<R> = Vec::new();
    let mut out = vec![R::zero(); q.batch * q.heads * q.steps * v.width];
    let (mut scores, mut added) = (vec![R::zero(); k.steps], vec![R::zero(); k.steps]);
    let scaled = |values: &[R]| {
        let mut values: Vec<R> = values.iter().map(|&value| value * root[0]).collect();
        round(dtype, &mut values);
        values
    };
    for (batch, head) in (0..q.batch).flat_map(|batch| (0..q.heads).map(move |head| (batch, head))) {
        let keys = scaled(k.head(batch, head / shared));
        let values = v.head(batch, head / shared);
        let rows = scaled(q.head(batch, head));
        for query in 0..q.steps {
            let row = &rows[query * q.width..(query + 1) * q.width];
            for (slot, key) in scores.iter_mut().zip(keys.chunks_exact(q.width.max(1))) {
                *slot = row.iter().zip(key).map(|(&a, &b)| a * b).sum();
            }
            round(dtype, &mut scores);
            if mode == 0 {
                scores_out.extend_from_slice(&scores);
            }
            if cap > R::zero() {
                scores.iter_mut().for_each(|slot| *slot = (*slot / cap).tanh() * cap);
                round(dtype, &mut scores);
            }
            if mode == 1 {
                scores_out.extend_from_slice(&scores);
            }
            bias.row(full, [batch, head, query], &mut added);
            scores.iter_mut().zip(&added).for_each(|(slot, &bias)| *slot += bias);
            round(dtype, &mut scores);
            if mode == 2 {
                scores_out.extend_from_slice(&scores);
            }
            probabilities(precision, &mut scores, &added);
            round(dtype, &mut scores);
            if mode == 3 {
                scores_out.extend_from_slice(&scores);
            }
            let target = &mut out[((batch * q.heads + head) * q.steps + query) * v.width..][..v.width];
            for (&share, value) in scores.iter().zip(values.chunks_exact(v.width.max(1))) {
                target.iter_mut().zip(value).for_each(|(slot, &value)| *slot += share * value);
            }
        }
    }
    let result = match queries.shape().len() {
        3 => {
            let (width, heads, steps) = (v.width as isize, q.heads, q.steps);
            let strides = [(heads * steps) as isize * width, width, steps as isize * width, 1];
            let packed = copy_view(&out, 0, &[q.batch, steps, heads, v.width], &strides);
            R::store(dtype, vec![q.batch, steps, heads * v.width], packed)
        }
        _ => R::store(dtype, vec![q.batch, q.heads, q.steps, v.width], out),
    };
    let mut results: Vec<Datum> = vec![result.into()];
    if call.wants(1) {
        let (k_shape, v_shape) = (k.shape(), v.shape());
        results.push(R::store(dtype, k_shape, k.values).into());
        results.push(R::store(dtype, v_shape, v.values).into());
    }
    if call.wants(3) {
        results.push(R::store(dtype, full.to_vec(), scores_out).into());
    }
    Ok(results)
}

/// Turns scores into probabilities; a row that may see no key becomes zero.
fn probabilities<R: Real>(precision: DType, scores: &mut [R], bias: &[R]) {
    if bias.iter().all(|bias| *bias == R::neg_infinity()) {
        return scores.fill(R::zero());
    }
    softmax_line(precision, scores);
}

/// One step of a recurrence per position: the state decays, is corrected, is written to and read.
///
/// Inputs: queries, keys, values `[b, t, heads · width]`, past state `[b, h, d, m]`, decay, beta. The state is kept in `f32`.
fn linear_attention(call: &Call<'_>) -> Result<Vec<Datum>> {
    let query = call.tensor(0)?;
    let (q_heads, kv_heads) = (call.int("q_num_heads", 0), call.int("kv_num_heads", 0));
    if [0, 1, 2].iter().any(|&i| call.tensor(i).map_or(true, |tensor| tensor.shape().len() != 3)) {
        return Err(call.shape_error("query, key and value have three axes"));
    }
    let (q, k) = (Heads::<f32>::new(call, query, q_heads)?, Heads::<f32>::new(call, call.tensor(1)?, kv_heads)?);
    let v = Heads::<f32>::new(call, call.tensor(2)?, kv_heads)?;
    let fits = k.batch == q.batch && v.batch == q.batch && k.steps == q.steps && v.steps == q.steps && k.width == q.width;
    if !fits || k.heads == 0 || q.heads % k.heads != 0 {
        return Err(call.shape_error(format_args!("queries {:?}, keys {:?}, values {:?}", q.shape(), k.shape(), v.shape())));
    }
    let (gated, corrected) = match call.text("update_rule", "gated_delta") {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => return Err(call.attribute_error(format_args!("update_rule '{other}'"))),
    };
    let (decay, beta) = (call.optional(4)?, call.optional(5)?);
    if decay.is_some() != gated || beta.is_some() != corrected {
        return Err(call.shape_error("decay or beta do not go with the update rule"));
    }
    let gate = decay.map(|decay| Gate::new(call, decay, &k)).transpose()?;
    let share = beta.map(|beta| Gate::new(call, beta, &k)).transpose()?;
    let (depth, width, group) = (k.width, v.width, q.heads / k.heads);
    let state_shape = vec![q.batch, k.heads, depth, width];
    let state_count = call.budget.take(DType::F32, &state_shape)?;
    let past = call.optional(3)?;
    let mut states = match past {
        Some(past) => {
            call.same_shape("past_state", past.shape(), &state_shape)?;
            load::<f32>(call.op, past)?.into_owned()
        }
        None => vec![0.0; state_count],
    };
    let scale = call.attributes.float("scale").filter(|scale| *scale != 0.0).unwrap_or(1.0 / (depth as f32).sqrt());
    let shape = [q.batch, q.steps, q.heads * width];
    let count = call.budget.take(query.dtype(), &shape)?;
    call.budget.work((state_count as u64).saturating_mul(q.steps as u64).saturating_mul(4 + 2 * group as u64))?;
    let mut out = vec![0f32; count];
    for (batch, head) in (0..q.batch).flat_map(|batch| (0..k.heads).map(move |head| (batch, head))) {
        let state = &mut states[(batch * k.heads + head) * depth * width..][..depth * width];
        for step in 0..q.steps {
            let key = &k.head(batch, head)[step * depth..][..depth];
            let mut value = v.head(batch, head)[step * width..][..width].to_vec();
            if let Some(gate) = &gate {
                for (d, row) in state.chunks_exact_mut(width.max(1)).enumerate() {
                    let factor = gate.at(batch, step, head, d).exp();
                    row.iter_mut().for_each(|slot| *slot *= factor);
                }
            }
            if let Some(share) = &share {
                for (m, value) in value.iter_mut().enumerate() {
                    let seen: f32 = (0..depth).map(|d| state[d * width + m] * key[d]).sum();
                    *value = share.at(batch, step, head, 0) * (*value - seen);
                }
            }
            for (row, &key) in state.chunks_exact_mut(width.max(1)).zip(key) {
                row.iter_mut().zip(&value).for_each(|(slot, &value)| *slot += key * value);
            }
            for reader in head * group..(head + 1) * group {
                let query = &q.head(batch, reader)[step * depth..][..depth];
                let target = &mut out[((batch * q.steps + step) * q.heads + reader) * width..][..width];
                for (m, slot) in target.iter_mut().enumerate() {
                    *slot = scale * (0..depth).map(|d| query[d] * state[d * width + m]).sum::<f32>();
                }
            }
        }
    }
    let state_dtype = past.map_or(query.dtype(), Tensor::dtype);
    Ok(vec![f32::store(query.dtype(), shape.to_vec(), out).into(), f32::store(state_dtype, state_shape, states).into()])
}

/// Numbers per position: one for all heads, one per head, or one per head and row of the state.
struct Gate {
    values: Vec<f32>,
    steps: usize,
    heads: usize,
    depth: usize,
}

impl Gate {
    fn new(call: &Call<'_>, tensor: &Tensor, k: &Heads<f32>) -> Result<Self> {
        let &[batch, steps, last] = tensor.shape() else {
            return Err(call.shape_error(format_args!("a gate of shape {:?}", tensor.shape())));
        };
        let (heads, depth) = match last {
            last if last == k.heads => (k.heads, 1),
            1 => (1, 1),
            last if last == k.heads * k.width => (k.heads, k.width),
            _ => return Err(call.shape_error(format_args!("a gate of shape {:?}", tensor.shape()))),
        };
        call.same_shape("gate", &[batch, steps], &[k.batch, k.steps])?;
        Ok(Gate { values: load::<f32>(call.op, tensor)?.into_owned(), steps, heads, depth })
    }

    fn at(&self, batch: usize, step: usize, head: usize, d: usize) -> f32 {
        let (head, d) = (if self.heads == 1 { 0 } else { head }, if self.depth == 1 { 0 } else { d });
        self.values[((batch * self.steps + step) * self.heads + head) * self.depth + d]
    }
}

/// Rotates pairs of a head's values by angles that depend on the position.
///
/// Inputs: x, cosines, sines (`[positions, half]`, or `[b, s, half]` without position ids), position ids `[b, s]`.
fn rotary_embedding(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (x, cosines, sines) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
    let heads = Heads::<f32>::new(call, x, call.int("num_heads", 0))?;
    let turned = match usize::try_from(call.int("rotary_embedding_dim", 0)).ok() {
        Some(0) => heads.width,
        Some(width) if width <= heads.width => width,
        _ => return Err(call.attribute_error("rotary_embedding_dim exceeds the head")),
    };
    let half = turned / 2;
    call.same_shape("sines", sines.shape(), cosines.shape())?;
    let positions: Vec<usize> = match call.optional_whole(3)? {
        Some(ids) => {
            let table = match cosines.shape() {
                [rows, width] if *width == half => *rows,
                shape => return Err(call.shape_error(format_args!("angles {shape:?} for {half} pairs"))),
            };
            let row = |id: i64| usize::try_from(id).ok().filter(|&id| id < table);
            let rows: Option<Vec<usize>> = ids.iter().map(|&id| row(id)).collect();
            rows.ok_or_else(|| call.index_error("a position outside the table"))?
        }
        None => {
            call.same_shape("angles", cosines.shape(), &[heads.batch, heads.steps, half])?;
            (0..heads.batch * heads.steps).collect()
        }
    };
    if positions.len() != heads.batch * heads.steps || turned % 2 != 0 {
        return Err(call.shape_error(format_args!("{} positions for {:?}", positions.len(), heads.shape())));
    }
    call.budget.work(4 * x.len() as u64)?;
    let (cosines, sines) = (load::<f32>(call.op, cosines)?, load::<f32>(call.op, sines)?);
    let interleaved = call.flag("interleaved", false);
    let mut values = heads.values;
    for (i, line) in values.chunks_exact_mut(heads.width.max(1)).enumerate() {
        let (batch, step) = (i / heads.steps / heads.heads, i % heads.steps);
        let row = positions[batch * heads.steps + step] * half;
        for pair in 0..half {
            let (a, b) = if interleaved { (2 * pair, 2 * pair + 1) } else { (pair, pair + half) };
            let (cosine, sine) = (cosines[row + pair], sines[row + pair]);
            (line[a], line[b]) = (cosine * line[a] - sine * line[b], sine * line[a] + cosine * line[b]);
        }
    }
    if x.shape().len() == 3 {
        let (steps, width) = (heads.steps, heads.width);
        let strides = [(heads.heads * steps * width) as isize, width as isize, (steps * width) as isize, 1];
        values = copy_view(&values, 0, &[heads.batch, steps, heads.heads, width], &strides);
    }
    one(f32::store(x.dtype(), x.shape().to_vec(), values))
}
