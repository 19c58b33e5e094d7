//! Where the operands of attention lie, as kernels read it.

use cubecl::prelude::*;
use kernels::attention::{Matrices, Shape};

/// Heads, queries, depth, width, heads of Q for each of K; then of Q, K, V and y where the first matrix begins and the strides of
/// image, head and row; then the mask's strides of image, head, query and key.
pub fn numbers(shape: &Shape) -> Vec<u32> {
    let extents = [shape.heads, shape.queries, shape.depth, shape.width, shape.heads / shape.k.heads];
    let matrices = |of: &Matrices| [of.first, of.strides[0], of.strides[1], of.strides[2]];
    let all = [&shape.q, &shape.k, &shape.v, &shape.y].map(matrices);
    let numbers = extents.into_iter().chain(all.into_iter().flatten()).chain(shape.mask.unwrap_or_default());
    numbers.map(|number| number as u32).collect()
}

/// Where the numbers of Q, K, V, y and the mask stand among [`numbers`].
pub const Q: usize = 5;
pub const K: usize = 9;
pub const V: usize = 13;
pub const Y: usize = 17;
const MASK: usize = 21;
/// How many there are.
pub const NUMBERS: usize = MASK + 4;

/// Where the matrix of a head begins.
#[cube]
pub fn first(g: &Array<u32>, image: u32, head: u32, #[comptime] operand: usize) -> u32 {
    g[operand] + image * g[comptime!(operand + 1)] + head * g[comptime!(operand + 2)]
}

/// Where the mask of a query and a key lies.
#[cube]
pub fn of_mask(g: &Array<u32>, image: u32, head: u32, query: u32, key: u32) -> u32 {
    image * g[comptime!(MASK)] + head * g[comptime!(MASK + 1)] + query * g[comptime!(MASK + 2)] + key * g[comptime!(MASK + 3)]
}

/// How many keys a query sees: the last query sees all, and with `causal` each before it one less.
#[cube]
pub fn keys_seen(query: u32, queries: u32, #[comptime] keys: u32, #[comptime] causal: bool) -> u32 {
    let mut seen = u32::new(0) + keys;
    if comptime!(causal) {
        let reach = query + 1 + keys;
        seen = min(select(reach > queries, reach - queries, u32::new(0)), seen);
    }
    seen
}
