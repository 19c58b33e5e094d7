//! A product ready to run: tables of offsets, slices of k, and the loops around the register tile.
//!
//! ```text
//! for slice of k:  for block of positions:  for group of panels:  for tile of positions
//! ```
//! A slice of one panel (kc × 16 f32) stays in L1 while the positions pass; a block of positions × kc stays in L2 while the panels
//! pass.

use crate::epilogue::{Activation, Epilogue};
use crate::layout::BLOCK;
use crate::simd::tile::{Finish, Job, Tiles};
use std::ops::Range;
use std::ptr::null;

/// A product of gathered positions with packed panels, without addresses.
pub struct Product {
    tiles: Tiles,
    /// Positions of a full tile.
    tile_positions: usize,
    /// Blocks of columns of a full tile.
    tile_blocks: usize,
    positions: usize,
    a_at: Vec<u32>,
    c_at: Vec<u32>,
    a_packed: bool,
    c_packed: bool,
    steps: Vec<u32>,
    slices: Vec<Slice>,
    k: usize,
    columns: usize,
    c_block: usize,
    tail: Tail,
    block_positions: usize,
    alpha: f32,
    activation: Activation,
}

/// What a product is made of.
pub struct Parts {
    pub tiles: Tiles,
    /// Positions and columns of a full tile.
    pub tile: (usize, usize),
    pub positions: usize,
    /// Offset of each position in A.
    pub a_at: Vec<u32>,
    /// Offset of each position in C.
    pub c_at: Vec<u32>,
    /// A is packed for one block of positions and slice of k at a time: `a_at` counts from the block, the steps from the slice.
    pub a_packed: bool,
    /// C is taken away after each block of positions: `c_at` counts from the block.
    pub c_packed: bool,
    pub steps: Steps,
    /// The greatest number of k in one slice.
    pub slice_k: usize,
    pub columns: usize,
    /// f32 from one block of sixteen columns of C to the next.
    pub c_block: usize,
    pub tail: Tail,
    /// Positions that pass before the next panel.
    pub block_positions: usize,
    pub alpha: f32,
    pub epilogue: Epilogue,
}

/// What is beyond the last column of C, up to a whole block.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing, or something else.
    Absent,
    /// Memory of C that becomes zero.
    Zeroed,
    /// Memory of C where whatever comes out may be left: zeros, if the bias is padded with zeros and the activation keeps them.
    Left,
}

impl Tail {
    /// The tail of a C in blocks, whose epilogue reads a bias padded to whole blocks, or not.
    pub fn of_blocks(epilogue: &Epilogue, bias_padded: bool) -> Self {
        let zero_stays = epilogue.activation.apply(0.0) == 0.0;
        if zero_stays && (bias_padded || !epilogue.bias) { Tail::Left } else { Tail::Zeroed }
    }
}

/// The steps of k: the first `full` of `full_k` values each, the others of `part_k`.
pub struct Steps {
    pub at: Vec<u32>,
    pub full: usize,
    pub full_k: usize,
    pub part_k: usize,
}

impl Steps {
    /// `k` values in steps of sixteen that lie `stride` apart.
    pub fn even(k: usize, stride: usize) -> Self {
        let at = (0..k.div_ceil(BLOCK)).map(|step| offset(step * stride)).collect();
        Steps { at, full: k / BLOCK, full_k: BLOCK, part_k: k % BLOCK }
    }

    /// The k of all steps together.
    pub fn k(&self) -> usize {
        self.full * self.full_k + (self.at.len() - self.full) * self.part_k
    }
}

/// An offset as the tables hold it. Signatures refuse operands of 2³² elements and more.
pub fn offset(elements: usize) -> u32 {
    u32::try_from(elements).expect("operands have fewer than 2³² elements")
}

/// A run of steps.
#[derive(Copy, Clone, Debug, PartialEq)]
struct Slice {
    step: usize,
    full: usize,
    full_k: usize,
    part: usize,
    part_k: usize,
    /// The k before it.
    from_k: usize,
}

/// Where the operands of one run lie.
#[derive(Copy, Clone)]
pub struct Addresses {
    pub a: *const f32,
    /// Where the first of all packed panels lies, or would lie: only the panels of a run need be there.
    pub b: *const f32,
    pub c: *mut f32,
    /// As many as columns; null for none.
    pub bias: *const f32,
    /// In the order of C; null for none.
    pub residual: *const f32,
}

// SAFETY: addresses only; who runs a product on them answers for their use.
unsafe impl Send for Addresses {}
// SAFETY: as above.
unsafe impl Sync for Addresses {}

impl Product {
    /// A product. Panics when its tile is not one of its instruction set's.
    pub fn new(parts: Parts) -> Self {
        assert!(parts.tiles.has(parts.tile.0, parts.tile.1), "rules keep the tile to those of the instruction set");
        let block = parts.block_positions.clamp(1, parts.positions);
        assert!(parts.a_at.len() == if parts.a_packed { block } else { parts.positions }, "every position is read");
        assert!(parts.c_at.len() == if parts.c_packed { block } else { parts.positions }, "every position is written");
        let slices = slices(&parts.steps, parts.slice_k);
        Product {
            tiles: parts.tiles,
            tile_positions: parts.tile.0,
            tile_blocks: parts.tile.1 / BLOCK,
            positions: parts.positions,
            a_at: parts.a_at,
            c_at: parts.c_at,
            a_packed: parts.a_packed,
            c_packed: parts.c_packed,
            k: parts.steps.k(),
            steps: parts.steps.at,
            slices,
            columns: parts.columns,
            c_block: parts.c_block,
            tail: parts.tail,
            block_positions: block,
            alpha: parts.alpha,
            activation: parts.epilogue.activation,
        }
    }

    /// The number of positions.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Positions that pass together.
    pub fn block_positions(&self) -> usize {
        self.block_positions
    }

    /// Steps of the longest slice.
    pub fn slice_steps_max(&self) -> usize {
        self.slices.iter().map(|slice| slice.full + slice.part).max().unwrap_or(0)
    }

    /// The number of panels of sixteen columns.
    pub fn panels(&self) -> usize {
        self.columns.div_ceil(BLOCK)
    }

    /// Positions of a full tile: the granule for splitting positions.
    pub fn tile_positions(&self) -> usize {
        self.tile_positions
    }

    /// Panels of a full tile: the granule for splitting panels.
    pub fn tile_blocks(&self) -> usize {
        self.tile_blocks
    }

    /// f32 of one packed panel.
    pub fn panel_len(&self) -> usize {
        self.k * BLOCK
    }

    /// Computes C for some positions and panels.
    ///
    /// # Safety
    /// The instruction set of the tiles is there. A is readable wherever the tables point for these positions, B holds the panels,
    /// bias and residual are null or readable likewise, and this thread alone writes C at these positions and panels. Nothing is
    /// packed.
    pub unsafe fn run(&self, addresses: &Addresses, positions: Range<usize>, panels: Range<usize>) {
        for slice in 0..self.slices.len() {
            for block in blocks(&positions, self.block_positions, self.tile_positions) {
                // SAFETY: by this function's contract.
                unsafe { self.pass(addresses, block, panels.clone(), slice) };
            }
        }
    }

    /// The same, with `pack` called before A is needed, for a range of steps and one of positions, and `take` when C is complete for
    /// a range of positions.
    ///
    /// # Safety
    /// As for [`run`](Self::run), with a packed A or C having room for a block and a slice.
    pub unsafe fn run_packed(
        &self,
        addresses: &Addresses,
        positions: Range<usize>,
        panels: Range<usize>,
        mut pack: impl FnMut(Range<usize>, Range<usize>),
        mut take: impl FnMut(Range<usize>),
    ) {
        for block in blocks(&positions, self.block_positions, self.tile_positions) {
            for (i, slice) in self.slices.iter().enumerate() {
                pack(slice.step..slice.step + slice.full + slice.part, block.clone());
                // SAFETY: by this function's contract.
                unsafe { self.pass(addresses, block.clone(), panels.clone(), i) };
            }
            take(block);
        }
    }

    /// One slice of k for one block of positions.
    ///
    /// # Safety
    /// As for [`run`](Self::run).
    unsafe fn pass(&self, addresses: &Addresses, positions: Range<usize>, panels: Range<usize>, index: usize) {
        let slice = &self.slices[index];
        let from_block = |at: &[u32], packed: bool| at.as_ptr().wrapping_sub(if packed { positions.start } else { 0 });
        let mut job = Job {
            a: addresses.a,
            a_at: from_block(&self.a_at, self.a_packed),
            steps: self.steps[if self.a_packed { 0 } else { slice.step }..].as_ptr(),
            full: slice.full,
            full_k: slice.full_k,
            part: slice.part,
            part_k: slice.part_k,
            b: addresses.b,
            b_panel: self.panel_len(),
            next: null(),
            next_lines: 0,
            c: addresses.c,
            c_at: from_block(&self.c_at, self.c_packed),
            c_block: self.c_block,
            columns: 0,
            pads: self.tail != Tail::Absent,
            resume: index > 0,
            finish: None,
        };
        let last = index + 1 == self.slices.len();
        let mut panel = panels.start;
        while panel < panels.end {
            let blocks = self.tile_blocks.min(panels.end - panel);
            job.columns = blocks * BLOCK;
            if self.tail != Tail::Left {
                job.columns = job.columns.min(self.columns - panel * BLOCK);
            }
            // SAFETY: panel < panels(), so the places are inside the operands; an absent bias or residual stays null.
            unsafe {
                job.b = addresses.b.wrapping_add(panel * self.panel_len() + slice.from_k * BLOCK);
                job.c = addresses.c.add(panel * self.c_block);
                if last {
                    let further = |at: *const f32, by: usize| if at.is_null() { at } else { at.add(by) };
                    job.finish = Some(Finish {
                        alpha: self.alpha,
                        bias: further(addresses.bias, panel * BLOCK),
                        residual: further(addresses.residual, panel * self.c_block),
                        activation: self.activation,
                    });
                }
                job.next = self.after(panel + blocks, &panels, index).map_or(null(), |place| addresses.b.wrapping_add(place));
                self.tiles.run(&job, blocks, positions.start, positions.len(), self.tile_positions);
            }
            panel += blocks;
        }
    }

    /// Where in B the tiles read on when those before `panel` are through with a slice: its next panels, or the first of the next slice.
    fn after(&self, panel: usize, panels: &Range<usize>, index: usize) -> Option<usize> {
        let (panel, slice) =
            if panel < panels.end { (panel, &self.slices[index]) } else { (panels.start, self.slices.get(index + 1)?) };
        Some(panel * self.panel_len() + slice.from_k * BLOCK)
    }
}

/// A range in consecutive blocks of at most `size`, as even as whole multiples of `granule` allow: what little a last block would
/// hold costs as much of B as a full one.
pub fn blocks(range: &Range<usize>, size: usize, granule: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    let count = range.len().div_ceil(size).max(1);
    let even = range.len().div_ceil(count).next_multiple_of(granule).clamp(1, size);
    let end = range.end;
    range.clone().step_by(even).map(move |from| from..end.min(from + even))
}

/// Cuts steps into slices of at most `most_k` values, but at least one step each. No step makes one empty slice, so that a product
/// over nothing still writes its zeros.
fn slices(steps: &Steps, most_k: usize) -> Vec<Slice> {
    let empty = |step, from_k| Slice { step, full: 0, full_k: steps.full_k, part: 0, part_k: steps.part_k, from_k };
    let mut all = vec![empty(0, 0)];
    let mut from_k = 0;
    for step in 0..steps.at.len() {
        let k = if step < steps.full { steps.full_k } else { steps.part_k };
        let so_far = from_k - all.last().map_or(0, |slice| slice.from_k);
        if so_far > 0 && so_far + k > most_k {
            all.push(empty(step, from_k));
        }
        let slice = all.last_mut().expect("it starts with one");
        if step < steps.full {
            slice.full += 1;
        } else {
            slice.part += 1;
        }
        from_k += k;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cover_all_steps() {
        let steps = Steps { at: vec![0; 7], full: 5, full_k: 16, part_k: 3 };
        let cut = slices(&steps, 32);
        assert_eq!(cut.iter().map(|slice| (slice.full, slice.part)).collect::<Vec<_>>(), [(2, 0), (2, 0), (1, 2)]);
        assert_eq!(cut[2].from_k, 64);
        assert_eq!(slices(&steps, 1).len(), 7);
        assert_eq!(slices(&Steps::even(0, 16), 32).len(), 1);
    }

    #[test]
    fn blocks_are_even() {
        let cut = |len: usize, size, granule| blocks(&(3..3 + len), size, granule).map(|block| block.len()).collect::<Vec<_>>();
        assert_eq!(cut(196, 192, 6), [102, 94]);
        assert_eq!(cut(96, 48, 5), [48, 48]);
        assert_eq!(cut(7, 1 << 20, 6), [7]);
        assert_eq!(cut(5, 2, 1), [2, 2, 1]);
        assert!(cut(0, 48, 6).is_empty());
        assert_eq!(blocks(&(3..10), 4, 4).collect::<Vec<_>>(), [3..7, 7..10]);
    }

    #[test]
    fn what_comes_next_is_the_next_panels_and_then_the_next_slice() {
        let product = Product::new(Parts {
            tiles: Tiles::of(crate::Isa::Scalar, false),
            tile: (4, 16),
            positions: 4,
            a_at: vec![0; 4],
            c_at: vec![0; 4],
            a_packed: false,
            c_packed: false,
            steps: Steps::even(64, BLOCK),
            slice_k: 32,
            columns: 48,
            c_block: BLOCK,
            tail: Tail::Absent,
            block_positions: 4,
            alpha: 1.0,
            epilogue: Epilogue::default(),
        });
        assert_eq!(product.after(1, &(0..3), 0), Some(64 * 16));
        assert_eq!(product.after(3, &(0..3), 0), Some(32 * 16));
        assert_eq!(product.after(3, &(0..3), 1), None);
    }
}
