//! The microkernel: a register tile of positions × columns, summed over steps.
//!
//! Every dense product here is this loop: gemm, 1×1 and direct convolution, Winograd's products. A *position* is a row of A or an
//! output pixel; its operand starts at an offset from a table. A *step* is a run of consecutive k at one more offset, the same for
//! all positions: sixteen columns of a row, or one (channel block, ky, kx) of a convolution ("indirect gemm"). B lies in panels of
//! sixteen columns, `[panel][k][16]`, k in the order of the steps.
//!
//! ```text
//! C[position p][column j] (+)= Σ over steps s, i:  A[a_at[p] + steps[s] + i] · B[j / 16][k(s, i)][j % 16]
//! ```

// Loops over registers are written with indices: they must unroll, and iterators over arrays of vectors sometimes do not.
#![allow(clippy::needless_range_loop)]

use super::{Portable, Routine, Simd, math};
use crate::epilogue::Activation;
use crate::layout::BLOCK;
use crate::{Isa, simd};

/// The most positions of a tile of any instruction set.
pub const POSITIONS_MAX: usize = 14;
/// The most blocks of sixteen columns of a tile.
pub const BLOCKS_MAX: usize = 4;
/// How many f32 ahead of its use a line of B is fetched: 4 KiB.
const NEAR_LEN: usize = 1024;

/// What a run of tiles shares: everything but the positions.
#[derive(Copy, Clone)]
pub struct Job {
    pub a: *const f32,
    /// Offset from `a` of each position.
    pub a_at: *const u32,
    /// Offset of each step: first `full` ones of `full_k` values, then `part` ones of `part_k`.
    pub steps: *const u32,
    pub full: usize,
    pub full_k: usize,
    pub part: usize,
    pub part_k: usize,
    pub b: *const f32,
    /// f32 from one panel of B to the next.
    pub b_panel: usize,
    /// What tiles behind these will read of B, in panels as far apart as those of B; null for nothing. Only [`Ahead::Next`] looks.
    pub next: *const f32,
    /// Lines of each panel from `next` on that are fetched for every four k.
    pub next_lines: usize,
    pub c: *mut f32,
    /// Offset from `c` of each position.
    pub c_at: *const u32,
    /// f32 from one block of sixteen columns of C to the next.
    pub c_block: usize,
    /// Columns that exist, at most 16 for each block of the tile.
    pub columns: usize,
    /// Whether the columns of the last block that do not exist are memory of C, to be zero, or are not there.
    pub pads: bool,
    /// Whether to add to what C holds: a later slice of k.
    pub resume: bool,
    /// What to do behind the last slice of k.
    pub finish: Option<Finish>,
}

/// The end of a tile: `act(alpha · sum + bias + residual)`.
#[derive(Copy, Clone)]
pub struct Finish {
    pub alpha: f32,
    /// For the tile's first column; null for none. As many values as columns.
    pub bias: *const f32,
    /// In the order of C; null for none.
    pub residual: *const f32,
    pub activation: Activation,
}

/// Computes one tile: the positions from `at` on.
///
/// # Safety
/// The instruction set is there; every address that the job's tables name for these positions is readable (A, B, bias, residual)
/// or writable by this thread alone (C).
pub type Tile = unsafe fn(job: &Job, at: usize);

/// What a tile fetches before it is needed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Ahead {
    Nothing,
    /// B a few KiB ahead, into L1: hides L2.
    Near,
    /// A share of what the next tiles read of B, into L2: hides memory.
    Next,
}

/// [`Ahead`] as const arguments.
const NOTHING: u8 = 0;
const NEAR: u8 = 1;
const NEXT: u8 = 2;

/// The tiles of one instruction set: by blocks of columns, then by positions; 0 positions are never asked for.
#[derive(Copy, Clone)]
pub struct Tiles {
    table: &'static [[Option<Tile>; POSITIONS_MAX + 1]; BLOCKS_MAX + 1],
}

impl Tiles {
    /// The tiles of an instruction set this processor has; with `near`, such as fetch B ahead.
    pub fn of(isa: Isa, near: bool) -> Self {
        Self::fetching(isa, if near { Ahead::Near } else { Ahead::Nothing })
    }

    /// The tiles of an instruction set this processor has that fetch so far ahead.
    pub fn fetching(isa: Isa, ahead: Ahead) -> Self {
        let table = match (simd::available(isa), ahead) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, Ahead::Nothing) => &AVX512,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, Ahead::Near) => &AVX512_NEAR,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, Ahead::Next) => &AVX512_NEXT,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, Ahead::Nothing) => &AVX2,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, Ahead::Near) => &AVX2_NEAR,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, Ahead::Next) => &AVX2_NEXT,
            _ => &PORTABLE,
        };
        Tiles { table }
    }

    /// Whether there is a tile of that many positions and columns.
    pub fn has(&self, positions: usize, columns: usize) -> bool {
        columns.is_multiple_of(BLOCK)
            && (1..=BLOCKS_MAX).contains(&(columns / BLOCK))
            && (1..=POSITIONS_MAX).contains(&positions)
            && self.table[columns / BLOCK][positions].is_some()
    }

    /// Computes `blocks` blocks of columns for `count` positions from `from` on, in tiles of at most `most` positions and of as
    /// equal size as possible.
    ///
    /// # Safety
    /// As for [`Tile`], for all these positions. There is a tile of `most` positions and `blocks` blocks.
    #[inline]
    pub unsafe fn run(&self, job: &Job, blocks: usize, from: usize, count: usize, most: usize) {
        let tiles = count.div_ceil(most);
        if tiles == 0 {
            return;
        }
        let (size, larger) = (count / tiles, count % tiles);
        // Each tile fetches its share of what comes next.
        let mut job = *job;
        let share = (job.full * job.full_k + job.part * job.part_k).div_ceil(tiles);
        job.next_lines = if job.next.is_null() { 0 } else { 4usize.div_ceil(tiles) };
        let mut at = from;
        for i in 0..tiles {
            let positions = size + usize::from(i < larger);
            let tile = self.table[blocks][positions].expect("smaller tiles exist wherever a larger one does");
            // SAFETY: by this function's contract.
            unsafe { tile(&job, at) };
            job.next = job.next.wrapping_add(share * BLOCK);
            at += positions;
        }
    }
}

/// One call of a tile of `R` positions, `N` blocks of columns and `V` vectors to a block.
struct Call<'a, const R: usize, const N: usize, const V: usize, const AHEAD: u8> {
    job: &'a Job,
    at: usize,
}

/// Adds the products of `count` consecutive k to the accumulators.
///
/// Holds whichever operand takes fewer registers and streams the other.
///
/// # Safety
/// `count` f32 are readable at each `a`, `16 · count` at each `b`.
#[inline(always)]
unsafe fn accumulate<S: Simd, const R: usize, const N: usize, const V: usize, const AHEAD: u8, const K: usize>(
    s: S,
    acc: &mut [[[S::V; V]; N]; R],
    a: &[*const f32; R],
    offset: usize,
    b: &[*const f32; N],
    b_offset: usize,
) {
    // SAFETY: by this function's contract.
    unsafe {
        for i in 0..K {
            if AHEAD == NEAR {
                for b in b {
                    s.prefetch(b.wrapping_add(b_offset + i * BLOCK + NEAR_LEN));
                }
            }
            if R < N * V {
                let mut x = [s.zero(); R];
                for r in 0..R {
                    x[r] = s.splat(*a[r].add(offset + i));
                }
                for n in 0..N {
                    for v in 0..V {
                        let y = s.load(b[n].add(b_offset + i * BLOCK + v * S::LANES));
                        for r in 0..R {
                            acc[r][n][v] = s.mul_add(x[r], y, acc[r][n][v]);
                        }
                    }
                }
            } else {
                let mut y = [[s.zero(); V]; N];
                for n in 0..N {
                    for v in 0..V {
                        y[n][v] = s.load(b[n].add(b_offset + i * BLOCK + v * S::LANES));
                    }
                }
                for r in 0..R {
                    let x = s.splat(*a[r].add(offset + i));
                    for n in 0..N {
                        for v in 0..V {
                            acc[r][n][v] = s.mul_add(x, y[n][v], acc[r][n][v]);
                        }
                    }
                }
            }
        }
    }
}

impl<const R: usize, const N: usize, const V: usize, const AHEAD: u8> Routine for Call<'_, R, N, V, AHEAD> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (job, at) = (self.job, self.at);
        // SAFETY: the contract of `Tile`, which is how this is called.
        unsafe {
            let mut a = [job.a; R];
            for (r, a) in a.iter_mut().enumerate() {
                *a = job.a.add(*job.a_at.add(at + r) as usize);
            }
            let mut b = [job.b; N];
            for (n, b) in b.iter_mut().enumerate() {
                *b = job.b.add(n * job.b_panel);
            }
            let mut acc = [[[s.zero(); V]; N]; R];
            let mut b_offset = 0;
            let mut step = job.steps;
            let mut next = job.next;
            for (count, k) in [(job.full, job.full_k), (job.part, job.part_k)] {
                for _ in 0..count {
                    let mut offset = *step as usize;
                    step = step.add(1);
                    for _ in 0..k / 4 {
                        if AHEAD == NEXT {
                            for _ in 0..job.next_lines {
                                for n in 0..N {
                                    s.prefetch_far(next.wrapping_add(n * job.b_panel));
                                }
                                next = next.wrapping_add(BLOCK);
                            }
                        }
                        accumulate::<S, R, N, V, AHEAD, 4>(s, &mut acc, &a, offset, &b, b_offset);
                        offset += 4;
                        b_offset += 4 * BLOCK;
                    }
                    for _ in 0..k % 4 {
                        accumulate::<S, R, N, V, NOTHING, 1>(s, &mut acc, &a, offset, &b, b_offset);
                        offset += 1;
                        b_offset += BLOCK;
                    }
                }
            }
            if job.columns == N * BLOCK {
                finish::<S, R, N, V>(s, job, at, acc);
            } else {
                finish_in_part::<S, R, N, V>(s, job, at, &acc);
            }
        }
    }
}

/// Does something for every vector of a tile. A macro and not a function, because a closure would not inherit the instruction set.
macro_rules! each {
    ($r:ident $n:ident $v:ident => $body:expr) => {
        for $r in 0..R {
            for $n in 0..N {
                for $v in 0..V {
                    $body;
                }
            }
        }
    };
}

/// The end of a tile all of whose columns exist.
///
/// # Safety
/// As for [`Tile`].
#[inline(always)]
unsafe fn finish<S: Simd, const R: usize, const N: usize, const V: usize>(
    s: S,
    job: &Job,
    at: usize,
    mut acc: [[[S::V; V]; N]; R],
) {
    // SAFETY: by this function's contract; all columns of every block exist.
    unsafe {
        let mut c = [job.c; R];
        for (r, c) in c.iter_mut().enumerate() {
            *c = job.c.add(*job.c_at.add(at + r) as usize);
        }
        if job.resume {
            each!(r n v => acc[r][n][v] = s.add(acc[r][n][v], s.load(c[r].add(n * job.c_block + v * S::LANES))));
        }
        if let Some(finish) = &job.finish {
            if finish.alpha != 1.0 {
                let alpha = s.splat(finish.alpha);
                each!(r n v => acc[r][n][v] = s.mul(acc[r][n][v], alpha));
            }
            if !finish.bias.is_null() {
                each!(r n v => acc[r][n][v] = s.add(acc[r][n][v], s.load(finish.bias.add(n * BLOCK + v * S::LANES))));
            }
            if !finish.residual.is_null() {
                for r in 0..R {
                    let residual = finish.residual.add(*job.c_at.add(at + r) as usize);
                    for n in 0..N {
                        for v in 0..V {
                            acc[r][n][v] = s.add(acc[r][n][v], s.load(residual.add(n * job.c_block + v * S::LANES)));
                        }
                    }
                }
            }
            match finish.activation {
                Activation::None => {}
                Activation::Relu => each!(r n v => acc[r][n][v] = s.max(s.zero(), acc[r][n][v])),
                Activation::Clip { lo, hi } => {
                    let (lo, hi) = (s.splat(lo), s.splat(hi));
                    each!(r n v => acc[r][n][v] = s.min(hi, s.max(lo, acc[r][n][v])));
                }
                Activation::HardSwish => each!(r n v => acc[r][n][v] = math::activate(s, Activation::HardSwish, acc[r][n][v])),
                other => math::activate_in_place(s, other, acc.as_mut_ptr().cast(), R * N * V * S::LANES),
            }
        }
        each!(r n v => s.store(c[r].add(n * job.c_block + v * S::LANES), acc[r][n][v]));
    }
}

/// The end of a tile whose last block is not full: through memory, vector by vector.
///
/// # Safety
/// As for [`Tile`].
#[inline(always)]
unsafe fn finish_in_part<S: Simd, const R: usize, const N: usize, const V: usize>(
    s: S,
    job: &Job,
    at: usize,
    acc: &[[[S::V; V]; N]; R],
) {
    let mut sums = [[0.0; BLOCK * BLOCKS_MAX]; R];
    for r in 0..R {
        for n in 0..N {
            for v in 0..V {
                // SAFETY: n < BLOCKS_MAX and v · LANES < 16.
                unsafe { s.store(sums[r].as_mut_ptr().add(n * BLOCK + v * S::LANES), acc[r][n][v]) };
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        // SAFETY: by this function's contract.
        unsafe { finish_row(s, job, at + r, N, sums) };
    }
}

/// The end of one position whose last block is not full.
///
/// # Safety
/// As for [`Tile`].
#[inline(never)]
unsafe fn finish_row<S: Simd>(s: S, job: &Job, at: usize, blocks: usize, sums: &[f32; BLOCK * BLOCKS_MAX]) {
    s.run(FinishRow { job, at, blocks, sums });
}

/// See [`finish_row`].
struct FinishRow<'a> {
    job: &'a Job,
    at: usize,
    blocks: usize,
    sums: &'a [f32; BLOCK * BLOCKS_MAX],
}

impl Routine for FinishRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let job = self.job;
        // SAFETY: the contract of `Tile`; every access is cut to the columns that exist, but for the zeros where they are padded.
        unsafe {
            let at = *job.c_at.add(self.at) as usize;
            for n in 0..self.blocks {
                for v in 0..BLOCK / S::LANES {
                    let column = n * BLOCK + v * S::LANES;
                    let here = job.columns.saturating_sub(column).min(S::LANES);
                    let place = n * job.c_block + v * S::LANES;
                    let c = job.c.add(at).wrapping_add(place);
                    let mut x = s.load(self.sums.as_ptr().add(column));
                    if job.resume {
                        x = s.add(x, s.load_first(c, here));
                    }
                    if let Some(finish) = &job.finish {
                        x = s.mul(x, s.splat(finish.alpha));
                        if !finish.bias.is_null() {
                            x = s.add(x, s.load_first(finish.bias.wrapping_add(column), here));
                        }
                        if !finish.residual.is_null() {
                            x = s.add(x, s.load_first(finish.residual.wrapping_add(at + place), here));
                        }
                        if math::is_short(finish.activation) {
                            x = math::activate_short(s, finish.activation, x);
                        } else {
                            math::activate_in_place(s, finish.activation, (&raw mut x).cast(), S::LANES);
                        }
                    }
                    if job.pads {
                        s.store(c, s.first(x, here));
                    } else {
                        s.store_first(c, x, here);
                    }
                }
            }
        }
    }
}

/// The entry of one tile in a table.
///
/// # Safety
/// As for [`Tile`].
unsafe fn enter<S: Simd, const R: usize, const N: usize, const V: usize, const AHEAD: u8>(job: &Job, at: usize) {
    // SAFETY: the instruction set is there by the contract of `Tile`.
    let s = unsafe { S::assume() };
    s.run(Call::<R, N, V, AHEAD> { job, at });
}

/// A table of tiles: for every number of blocks, the numbers of positions that fit the registers.
macro_rules! table {
    ($name:ident, $set:ty, $ahead:ident, $vectors:literal, $( $blocks:literal: [$($positions:literal)*] ),*) => {
        static $name: [[Option<Tile>; POSITIONS_MAX + 1]; BLOCKS_MAX + 1] = {
            let mut table: [[Option<Tile>; POSITIONS_MAX + 1]; BLOCKS_MAX + 1] = [[None; POSITIONS_MAX + 1]; BLOCKS_MAX + 1];
            $( $( table[$blocks][$positions] = Some(enter::<$set, $positions, $blocks, $vectors, $ahead>); )* )*
            table
        };
    };
}

table!(PORTABLE, Portable, NOTHING, 4, 1: [1 2 3 4], 2: [1 2], 3: [1], 4: [1]);
#[cfg(target_arch = "x86_64")]
table!(AVX2, simd::Avx2, NOTHING, 2, 1: [1 2 3 4 5 6], 2: [1 2 3], 3: [1 2], 4: [1]);
#[cfg(target_arch = "x86_64")]
table!(AVX2_NEAR, simd::Avx2, NEAR, 2, 1: [1 2 3 4 5 6], 2: [1 2 3], 3: [1 2], 4: [1]);
#[cfg(target_arch = "x86_64")]
table!(AVX2_NEXT, simd::Avx2, NEXT, 2, 1: [1 2 3 4 5 6], 2: [1 2 3], 3: [1 2], 4: [1]);
#[cfg(target_arch = "x86_64")]
table!(AVX512, simd::Avx512, NOTHING, 1,
    1: [1 2 3 4 5 6 7 8 9 10 11 12 13 14], 2: [1 2 3 4 5 6 7 8 9 10 11 12 13 14], 3: [1 2 3 4 5 6 7 8 9], 4: [1 2 3 4 5 6 7]);
#[cfg(target_arch = "x86_64")]
table!(AVX512_NEAR, simd::Avx512, NEAR, 1,
    1: [1 2 3 4 5 6 7 8 9 10 11 12 13 14], 2: [1 2 3 4 5 6 7 8 9 10 11 12 13 14], 3: [1 2 3 4 5 6 7 8 9], 4: [1 2 3 4 5 6 7]);
#[cfg(target_arch = "x86_64")]
table!(AVX512_NEXT, simd::Avx512, NEXT, 1,
    1: [1 2 3 4 5 6 7 8 9 10 11 12 13 14], 2: [1 2 3 4 5 6 7 8 9 10 11 12 13 14], 3: [1 2 3 4 5 6 7 8 9], 4: [1 2 3 4 5 6 7]);
