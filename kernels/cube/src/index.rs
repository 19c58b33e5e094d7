//! Where elements lie: numbers taken apart into the places along axes.

use cubecl::prelude::*;

/// `Σ place along axis · stride`, for the element of that number among `rank` axes whose extents stand at `dims` of `g`, and whose
/// strides stand at `strides`.
#[cube]
pub fn place(g: &Array<u32>, at: u32, #[comptime] rank: usize, #[comptime] dims: usize, #[comptime] strides: usize) -> u32 {
    let mut rest = at;
    let mut place = u32::new(0);
    #[unroll]
    for i in 0..rank {
        let axis = comptime!(rank - 1 - i);
        place += rest % g[comptime!(dims + axis)] * g[comptime!(strides + axis)];
        rest /= g[comptime!(dims + axis)];
    }
    place
}
