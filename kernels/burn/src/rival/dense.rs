//! Products and convolutions.

use super::{Engine, FloatTensor, Run, finish, reshaped};
use burn::tensor::ops::{AttentionModuleOptions, ConvOptions, ConvTransposeOptions};
use kernels::Task;

/// `[2]` numbers of a task, or their default.
fn pair(task: &Task, name: &str, default: usize) -> Option<[usize; 2]> {
    if task.get(name).is_none() {
        return Some([default; 2]);
    }
    task.ints(name).try_into().ok()
}

/// Pads that are alike at both ends of each axis.
fn pads(task: &Task) -> Option<[usize; 2]> {
    match task.ints("pads")[..] {
        [] => Some([0, 0]),
        [top, left, bottom, right] if top == bottom && left == right => Some([top, left]),
        _ => None,
    }
}

/// The product of matrices, or of batches of equal extents.
pub fn gemm<B: Engine>(task: &Task, operands: &[FloatTensor<B>]) -> Option<Run<B>> {
    if task.ints("batch_a") != task.ints("batch_b") {
        return None;
    }
    let turned = |index: usize, flag: &str| {
        let operand = operands.get(index)?.clone();
        Some(if task.int(flag) == 1 { B::float_transpose(operand) } else { operand })
    };
    let (a, b) = (turned(0, "trans_a")?, turned(1, "trans_b")?);
    let alpha = task.float("alpha").unwrap_or(1.0);
    let finish = finish::<B>(task, operands, task.ints("batch_a").len() + 1)?;
    Some(Box::new(move || {
        let product = B::float_matmul(a.clone(), b.clone());
        finish(if alpha == 1.0 { product } else { B::float_mul_scalar(product, alpha.into()) })
    }))
}

/// A convolution whose pads are alike at both ends.
pub fn convolution<B: Engine>(task: &Task, operands: &[FloatTensor<B>]) -> Option<Run<B>> {
    let groups = task.int("groups").max(1);
    convolve::<B>(task, operands, groups, operands.get(1)?.clone())
}

/// A convolution of each channel by itself.
pub fn depthwise<B: Engine>(task: &Task, operands: &[FloatTensor<B>]) -> Option<Run<B>> {
    let kernel = [task.int("c"), 1, task.int("kh"), task.int("kw")];
    convolve::<B>(task, operands, task.int("c"), reshaped::<B>(operands.get(1)?.clone(), &kernel))
}

fn convolve<B: Engine>(task: &Task, operands: &[FloatTensor<B>], groups: usize, weight: FloatTensor<B>) -> Option<Run<B>> {
    let options = ConvOptions::new(pair(task, "strides", 1)?, pads(task)?, pair(task, "dilations", 1)?, groups);
    let x = operands.first()?.clone();
    let finish = finish::<B>(task, operands, 1)?;
    Some(Box::new(move || finish(B::conv2d(x.clone(), weight.clone(), None, options.clone()))))
}

/// A transposed convolution.
pub fn transposed<B: Engine>(task: &Task, operands: &[FloatTensor<B>]) -> Option<Run<B>> {
    let extra = pair(task, "output_pads", 0)?;
    let options = ConvTransposeOptions::new(
        pair(task, "strides", 1)?,
        pads(task)?,
        extra,
        pair(task, "dilations", 1)?,
        task.int("groups").max(1),
    );
    let (x, weight) = (operands.first()?.clone(), operands.get(1)?.clone());
    let finish = finish::<B>(task, operands, 1)?;
    Some(Box::new(move || finish(B::conv_transpose2d(x.clone(), weight.clone(), None, options.clone()))))
}

/// Attention without a mask, heads in front of rows.
pub fn attention<B: Engine>(task: &Task, operands: &[FloatTensor<B>]) -> Option<Run<B>> {
    let plain = ["q_order", "k_order", "v_order", "y_order"].iter().all(|order| task.get(order).is_none());
    let [q, k, v] = operands else { return None };
    if !plain || task.ints("q")[1] != task.ints("k")[1] {
        return None;
    }
    let scale = f64::from(task.float("scale").unwrap_or(1.0));
    let options = AttentionModuleOptions { scale: Some(scale), softcap: None, is_causal: task.int("causal") == 1 };
    let (q, k, v) = (q.clone(), k.clone(), v.clone());
    Some(Box::new(move || B::attention(q.clone(), k.clone(), v.clone(), None, None, options)))
}
