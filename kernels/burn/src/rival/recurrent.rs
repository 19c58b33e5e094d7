//! Recurrent layers. Burn has no fused ones: the input's products of all steps at once, then step by step as its `nn` module does.

use super::{Engine, FloatTensor, Run, extents, reshaped};
use burn::tensor::Slice;
use kernels::Task;

/// The weights of one direction, ready for products.
struct Direction<B: Engine> {
    /// `[i, gates·h]`
    w: FloatTensor<B>,
    /// `[h, gates·h]`
    r: FloatTensor<B>,
    /// `[1, gates·h]` each.
    bias_x: Option<FloatTensor<B>>,
    bias_h: Option<FloatTensor<B>>,
    reversed: bool,
}

/// `[start, start + len)` of an axis of a tensor of two axes.
fn part<B: Engine>(x: &FloatTensor<B>, axis: usize, start: usize, len: usize) -> FloatTensor<B> {
    let mut slices = [Slice::full(), Slice::full()];
    slices[axis] = Slice::new(start as isize, Some((start + len) as isize), 1);
    B::float_slice(x.clone(), &slices)
}

fn directions<B: Engine>(task: &Task, operands: &[FloatTensor<B>], gates: usize) -> Option<Vec<Direction<B>>> {
    let (h, i) = (task.int("h"), task.int("i"));
    let reversed: &[bool] = match task.word("direction") {
        "forward" => &[false],
        "reverse" => &[true],
        _ => &[false, true],
    };
    if ["lens", "h0", "c0"].iter().any(|name| task.int(name) == 1) {
        return None;
    }
    let turned = |x: &FloatTensor<B>, d: usize, columns: usize| {
        let all = reshaped::<B>(x.clone(), &[reversed.len() * gates * h, columns]);
        B::in_rows(B::float_transpose(part::<B>(&all, 0, d * gates * h, gates * h)))
    };
    let bias = |d: usize, at: usize| {
        let all = reshaped::<B>(operands[3].clone(), &[reversed.len(), 2 * gates * h]);
        B::in_rows(part::<B>(&part::<B>(&all, 0, d, 1), 1, at * gates * h, gates * h))
    };
    let biased = task.int("bias") == 1;
    let one = |(d, &reversed): (usize, &bool)| Direction {
        w: turned(&operands[1], d, i),
        r: turned(&operands[2], d, h),
        bias_x: biased.then(|| bias(d, 0)),
        bias_h: biased.then(|| bias(d, 1)),
        reversed,
    };
    Some(reversed.iter().enumerate().map(one).collect())
}

fn plus<B: Engine>(x: FloatTensor<B>, bias: &Option<FloatTensor<B>>) -> FloatTensor<B> {
    match bias {
        Some(bias) => B::float_add(x, bias.clone()),
        None => x,
    }
}

/// Runs all directions: `step` takes the direction, the input's products of the step and the state.
fn sequence<B: Engine>(
    task: &Task,
    x: FloatTensor<B>,
    directions: Vec<Direction<B>>,
    step: impl Fn(&Direction<B>, FloatTensor<B>, [FloatTensor<B>; 2]) -> [FloatTensor<B>; 2] + Send + Sync + 'static,
) -> Run<B> {
    let (t, n, i, h) = (task.int("t"), task.int("n"), task.int("i"), task.int("h"));
    let zero = super::lend::<B>(&vec![0.0; n * h], &[n, h], &B::float_device(&x));
    Box::new(move || {
        let flat = reshaped::<B>(x.clone(), &[t * n, i]);
        let mut outputs = Vec::new();
        for direction in &directions {
            let products = plus::<B>(B::float_matmul(flat.clone(), direction.w.clone()), &direction.bias_x);
            let mut state = [zero.clone(), zero.clone()];
            let mut places: Vec<Option<FloatTensor<B>>> = vec![None; t];
            for index in 0..t {
                let time = if direction.reversed { t - 1 - index } else { index };
                state = step(direction, part::<B>(&products, 0, time * n, n), state);
                places[time] = Some(reshaped::<B>(state[0].clone(), &[1, 1, n, h]));
            }
            outputs.push(B::float_cat(places.into_iter().flatten().collect(), 0));
        }
        if outputs.len() == 1 { outputs.remove(0) } else { B::float_cat(outputs, 1) }
    })
}

/// Long short-term memory; ONNX's order of gates: input, output, forget, cell.
pub fn lstm<B: Engine>(task: &Task, operands: &[FloatTensor<B>]) -> Option<Run<B>> {
    let h = task.int("h");
    let directions = directions::<B>(task, operands, 4)?;
    Some(sequence::<B>(task, operands[0].clone(), directions, move |direction, x, [state, cell]| {
        let sums = B::float_add(x, plus::<B>(B::float_matmul(state, direction.r.clone()), &direction.bias_h));
        let gate = |gate: usize| part::<B>(&sums, 1, gate * h, h);
        let kept = B::float_mul(B::sigmoid(gate(2)), cell);
        let cell = B::float_add(kept, B::float_mul(B::sigmoid(gate(0)), B::float_tanh(gate(3))));
        [B::float_mul(B::sigmoid(gate(1)), B::float_tanh(cell.clone())), cell]
    }))
}

/// Gated recurrent units, the reset applied before or behind the product.
pub fn gru<B: Engine>(task: &Task, operands: &[FloatTensor<B>]) -> Option<Run<B>> {
    let (h, after) = (task.int("h"), task.int("linear_before_reset") == 1);
    let directions = directions::<B>(task, operands, 3)?;
    Some(sequence::<B>(task, operands[0].clone(), directions, move |direction, x, [state, unused]| {
        let sums = plus::<B>(B::float_matmul(state.clone(), direction.r.clone()), &direction.bias_h);
        let gate = |from: &FloatTensor<B>, gate: usize| part::<B>(from, 1, gate * h, h);
        let z = B::sigmoid(B::float_add(gate(&x, 0), gate(&sums, 0)));
        let r = B::sigmoid(B::float_add(gate(&x, 1), gate(&sums, 1)));
        let inner = if after {
            B::float_mul(r, gate(&sums, 2))
        } else {
            let product = B::float_matmul(B::float_mul(r, state.clone()), gate(&direction.r, 2));
            match &direction.bias_h {
                Some(bias) => B::float_add(product, gate(bias, 2)),
                None => product,
            }
        };
        let new = B::float_tanh(B::float_add(gate(&x, 2), inner));
        let next = B::float_add(B::float_mul(z.clone(), B::float_sub(state, new.clone())), new);
        debug_assert_eq!(extents::<B>(&next)[1], h);
        [next, unused]
    }))
}
