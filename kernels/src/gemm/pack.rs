//! Copying operands into the order the register tile reads.

use crate::layout::BLOCK;

/// Packs panels `from ..` of a row-major B into `packed`, `[panel][k][16]`, columns beyond `n` as zeros.
///
/// `b` is `[k, n]`, or `[n, k]` when `transposed`. `packed` holds whole panels of `k · 16`.
pub fn pack_b(b: &[f32], k: usize, n: usize, transposed: bool, from: usize, packed: &mut [f32]) {
    if k == 0 {
        return;
    }
    for (i, panel) in packed.chunks_exact_mut(k * BLOCK).enumerate() {
        let column = (from + i) * BLOCK;
        let width = BLOCK.min(n - column);
        if transposed {
            pack_transposed(&b[column * k..(column + width) * k], k, panel);
        } else if width == BLOCK {
            for (line, row) in panel.chunks_exact_mut(BLOCK).zip(b.chunks_exact(n)) {
                line.copy_from_slice(&row[column..column + BLOCK]);
            }
        } else {
            for (line, row) in panel.chunks_exact_mut(BLOCK).zip(b.chunks_exact(n)) {
                line[..width].copy_from_slice(&row[column..]);
                line[width..].fill(0.0);
            }
        }
    }
}

/// One panel from at most sixteen rows of `k`.
fn pack_transposed(rows: &[f32], k: usize, panel: &mut [f32]) {
    if rows.len() == BLOCK * k {
        for (i, line) in panel.chunks_exact_mut(BLOCK).enumerate() {
            for (j, value) in line.iter_mut().enumerate() {
                *value = rows[j * k + i];
            }
        }
    } else {
        panel.fill(0.0);
        for (j, row) in rows.chunks_exact(k).enumerate() {
            for (i, &value) in row.iter().enumerate() {
                panel[i * BLOCK + j] = value;
            }
        }
    }
}

/// Copies rows `from ..` of Aᵀ, given as row-major A `[k, m]`, into `[⌈k/16⌉][m][16]`. `packed` is all of that.
pub fn pack_a_transposed(a: &[f32], m: usize, packed: &mut [f32]) {
    for (i, row) in a.chunks_exact(m).enumerate() {
        let block = &mut packed[i / BLOCK * m * BLOCK..];
        for (p, &value) in row.iter().enumerate() {
            block[p * BLOCK + i % BLOCK] = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_orders_of_b_pack_alike() {
        let (k, n) = (3, 19);
        let b: Vec<f32> = (0..k * n).map(|i| i as f32).collect();
        let transposed: Vec<f32> = (0..n * k).map(|i| b[i % k * n + i / k]).collect();
        let (mut x, mut y) = (vec![f32::NAN; 2 * k * BLOCK], vec![f32::NAN; 2 * k * BLOCK]);
        pack_b(&b, k, n, false, 0, &mut x);
        pack_b(&transposed, k, n, true, 0, &mut y);
        assert_eq!(x, y);
        assert_eq!(x[k * BLOCK + BLOCK + 2], b[n + 18]);
        assert_eq!(x[k * BLOCK + BLOCK + 3], 0.0);
        let mut second = vec![0.0; k * BLOCK];
        pack_b(&b, k, n, false, 1, &mut second);
        assert_eq!(second, x[k * BLOCK..]);
    }
}
