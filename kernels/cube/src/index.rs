//! Where elements lie: numbers taken apart into the places along axes, by products in place of divisions.

use cubecl::prelude::*;

/// What kernels are told of an extent: itself, then what [`divided`] multiplies with and shifts by.
pub const EXTENT_WORDS: usize = 3;

/// The words of extents up to 2³¹, of which none is 0 where anything lies: Granlund and Montgomery 1994, "Division by Invariant Integers using Multiplication", figure 4.1.
pub fn extent_words(extents: &[usize]) -> Vec<u32> {
    let words = |&extent: &usize| {
        let extent = extent.max(1) as u64;
        let shift = extent.next_power_of_two().trailing_zeros();
        let multiplier = (((1 << shift) - extent) << 32) / extent + 1;
        [extent as u32, multiplier as u32, shift]
    };
    extents.iter().flat_map(words).collect()
}

/// Quotient and remainder of a number below 2³¹ by the extent whose words stand at `extent` of `g`.
#[cube]
pub fn divided(g: &Array<u32>, number: u32, #[comptime] extent: usize) -> (u32, u32) {
    let high = u32::mul_hi(number, g[comptime!(extent + 1)]);
    let quotient = (high + number) >> g[comptime!(extent + 2)];
    (quotient, number - quotient * g[extent])
}

/// `Σ place along axis · stride`, for the element of that number among `rank` axes whose extents' words stand at `extents` of `g`, and
/// whose strides stand at `strides`.
#[cube]
pub fn place(g: &Array<u32>, at: u32, #[comptime] rank: usize, #[comptime] extents: usize, #[comptime] strides: usize) -> u32 {
    let mut rest = at;
    let mut place = u32::new(0);
    #[unroll]
    for i in 0..rank {
        let axis = comptime!(rank - 1 - i);
        if comptime!(axis == 0) {
            place += rest * g[strides];
        } else {
            let (outer, along) = divided(g, rest, comptime!(extents + axis * EXTENT_WORDS));
            place += along * g[comptime!(strides + axis)];
            rest = outer;
        }
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_divide_as_divisions_do() {
        let extents = [1, 2, 3, 5, 7, 64, 641, 65_535, 65_536, 6_700_417, (1 << 31) - 1, 1 << 31];
        let numbers = extents.iter().flat_map(|&extent| [extent - 1, extent, extent + 1, 2 * extent - 1, 1_000_003 * extent + 1]);
        let numbers: Vec<usize> = numbers.filter(|&number| number < 1 << 31).chain([0, (1 << 31) - 1]).collect();
        for extent in extents {
            let [itself, multiplier, shift] = extent_words(&[extent])[..] else { unreachable!("an extent has three words") };
            assert_eq!(itself as usize, extent);
            for &number in &numbers {
                let high = (number as u64 * u64::from(multiplier)) >> 32;
                assert_eq!(((high + number as u64) >> shift) as usize, number / extent, "{number} / {extent}");
            }
        }
    }
}
