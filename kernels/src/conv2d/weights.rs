//! Weights in the order the register tile reads: `[group][o/16][step][k][16]`.

use super::Shape;
use crate::gemm::host_packed::{constant, padded};
use crate::layout::BLOCK;
use crate::{BuildError, Packed, Request};

/// In which order k runs.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// (channel block, ky, kx, channel): blocked input.
    Blocks,
    /// (ky, kx, channel): channels last.
    ChannelsLast,
    /// (channel, ky, kx): as given.
    AsGiven,
}

/// f32 of packed weights.
pub fn packed_len(shape: &Shape) -> usize {
    shape.groups * shape.group_o().next_multiple_of(BLOCK) * shape.group_c() * shape.kh * shape.kw
}

/// The channel, ky and kx of every k, in order.
fn order_of(shape: &Shape, order: Order) -> Vec<(usize, usize, usize)> {
    let channels = shape.group_c();
    let mut all = Vec::with_capacity(channels * shape.kh * shape.kw);
    let blocks: Vec<std::ops::Range<usize>> = match order {
        Order::Blocks => (0..channels.div_ceil(BLOCK)).map(|b| b * BLOCK..channels.min((b + 1) * BLOCK)).collect(),
        Order::ChannelsLast => std::iter::once(0..channels).collect(),
        Order::AsGiven => (0..channels).map(|c| c..c + 1).collect(),
    };
    for block in blocks {
        for ky in 0..shape.kh {
            for kx in 0..shape.kw {
                all.extend(block.clone().map(|c| (c, ky, kx)));
            }
        }
    }
    all
}

/// Packs row-major weights `[o, c/groups, kh, kw]` into `packed`, columns beyond the last of a group as zeros.
pub fn pack(shape: &Shape, order: Order, weight: &[f32], packed: &mut [f32]) {
    let (group_o, taps) = (shape.group_o(), shape.kh * shape.kw);
    let order = order_of(shape, order);
    let k = order.len();
    let panels = group_o.div_ceil(BLOCK);
    for (i, panel) in packed.chunks_exact_mut(k * BLOCK).enumerate() {
        let (group, first) = (i / panels, i % panels * BLOCK);
        let width = BLOCK.min(group_o - first);
        for (line, &(c, ky, kx)) in panel.chunks_exact_mut(BLOCK).zip(&order) {
            for (j, value) in line.iter_mut().enumerate() {
                let o = group * group_o + first + j;
                *value = if j < width { weight[(o * shape.group_c() + c) * taps + ky * shape.kw + kx] } else { 0.0 };
            }
        }
    }
}

/// The constant weights, packed; `None` when they are dynamic.
///
/// # Errors
/// [`BuildError::Task`] when they should be there and are not.
pub fn prepare(request: &Request<'_>, shape: &Shape, order: Order) -> Result<Option<Packed>, BuildError> {
    if !shape.weight_constant {
        return Ok(None);
    }
    let weight = constant(request, 1, "weight", shape.weight_shape().iter().product())?;
    let mut packed = Packed::zeroed(packed_len(shape));
    pack(shape, order, &weight, &mut packed);
    Ok(Some(packed))
}

/// The constant bias, followed by zeros; `None` when there is none or it is dynamic.
///
/// # Errors
/// [`BuildError::Task`] when it should be there and is not.
pub fn prepare_bias(request: &Request<'_>, shape: &Shape) -> Result<Option<Packed>, BuildError> {
    if !shape.weight_constant || !shape.epilogue.bias {
        return Ok(None);
    }
    Ok(Some(padded(&constant(request, 2, "bias", shape.o)?)))
}
