//! Transposes of blocks of 4-byte elements.

use crate::Isa;

/// `to[c·to_stride + r] = from[r·from_stride + c]` for `rows × columns` elements.
///
/// Panics when the last element of either side lies outside.
pub fn transpose(isa: Isa, from: &[f32], from_stride: usize, to: &mut [f32], to_stride: usize, rows: usize, columns: usize) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!((rows - 1) * from_stride + columns <= from.len(), "the source holds the block");
    assert!((columns - 1) * to_stride + rows <= to.len(), "the target holds the block");
    #[cfg(target_arch = "x86_64")]
    if isa != Isa::Scalar && super::Avx2::detect().is_some() {
        // SAFETY: the processor has AVX2; both sides hold the block, as was just checked.
        return unsafe { avx2(from.as_ptr(), from_stride, to.as_mut_ptr(), to_stride, rows, columns) };
    }
    let _ = isa;
    // SAFETY: both sides hold the block, as was just checked.
    unsafe { plain(from.as_ptr(), from_stride, to.as_mut_ptr(), to_stride, 0..rows, 0..columns) }
}

/// # Safety
/// As [`transpose`]'s panics, unchecked.
unsafe fn plain(
    from: *const f32,
    from_stride: usize,
    to: *mut f32,
    to_stride: usize,
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
) {
    for c in columns {
        for r in rows.clone() {
            // SAFETY: r and c are inside the block both sides hold.
            unsafe { to.add(c * to_stride + r).write(from.add(r * from_stride + c).read()) };
        }
    }
}

/// Eight by eight at a time, the edges one by one. Blocks of 16 rows first, so that whole lines of the target are written.
///
/// # Safety
/// As [`transpose`]'s panics, unchecked; the processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize, rows: usize, columns: usize) {
    let (whole_rows, whole_columns) = (rows / 8 * 8, columns / 8 * 8);
    let mut r = 0;
    while r < whole_rows {
        let step = if whole_rows - r >= 16 { 16 } else { 8 };
        let mut c = 0;
        while c < whole_columns {
            for r in (r..r + step).step_by(8) {
                // SAFETY: rows r..r + 8 and columns c..c + 8 are inside the block both sides hold.
                unsafe { eight(from.add(r * from_stride + c), from_stride, to.add(c * to_stride + r), to_stride) };
            }
            c += 8;
        }
        r += step;
    }
    // SAFETY: inside the block both sides hold.
    unsafe {
        plain(from, from_stride, to, to_stride, 0..whole_rows, whole_columns..columns);
        plain(from, from_stride, to, to_stride, whole_rows..rows, 0..columns);
    }
}

/// One block of eight by eight.
///
/// # Safety
/// Eight rows of eight f32 are readable at `from` and writable at `to`; the processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn eight(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    use std::arch::x86_64::*;
    // Halves of rows k and k + 4 side by side, so that what remains is two 4 × 4 transposes per register pair.
    // SAFETY: four f32 are readable at both halves of each row by this function's contract.
    let pair = |k: usize, half: usize| unsafe {
        let low = _mm_loadu_ps(from.add(k * from_stride + 4 * half));
        let high = _mm_loadu_ps(from.add((k + 4) * from_stride + 4 * half));
        _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(low), high)
    };
    for half in 0..2 {
        let (a, b, c, d) = (pair(0, half), pair(1, half), pair(2, half), pair(3, half));
        let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        let columns = [
            _mm256_shuffle_ps::<0x44>(ab_low, cd_low),
            _mm256_shuffle_ps::<0xee>(ab_low, cd_low),
            _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
            _mm256_shuffle_ps::<0xee>(ab_high, cd_high),
        ];
        for (i, &column) in columns.iter().enumerate() {
            // SAFETY: eight f32 are writable at each row of the target by this function's contract.
            unsafe { _mm256_storeu_ps(to.add((4 * half + i) * to_stride), column) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_goes_to_its_mirror_place() {
        for isa in [Isa::Scalar, Isa::Avx2] {
            for (rows, columns) in [(1, 1), (8, 8), (16, 24), (17, 9), (7, 33), (40, 16), (23, 23)] {
                let (from_stride, to_stride) = (columns + 3, rows + 2);
                let from: Vec<f32> = (0..rows * from_stride).map(|i| i as f32).collect();
                let mut to = vec![-1.0; columns * to_stride];
                transpose(isa, &from, from_stride, &mut to, to_stride, rows, columns);
                for (i, &x) in to.iter().enumerate() {
                    let (c, r) = (i / to_stride, i % to_stride);
                    let want = if r < rows { (r * from_stride + c) as f32 } else { -1.0 };
                    assert_eq!(x, want, "{isa} {rows}×{columns} at {c}, {r}");
                }
            }
        }
    }
}
