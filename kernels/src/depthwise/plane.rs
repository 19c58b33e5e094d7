//! The depthwise convolution of sixteen channels of one image.
//!
//! A lane is a channel, so inputs are whole vectors and nothing is broadcast. Each tap's weight is loaded once for a tile of pixels;
//! their sums stay in registers.

use crate::epilogue::Activation;
use crate::layout::BLOCK;
use crate::simd::{self, Routine, Simd, math};
use crate::{Isa, Packed};
use std::ops::Range;

/// The most pixels of a tile of any instruction set.
pub const PIXELS_MAX: usize = 12;

/// What all planes of a convolution share.
pub struct Plane {
    /// Output pixels of a row.
    pub ow: usize,
    /// f32 from one input row to that of the next output row, and from one output pixel's input to the next's.
    pub x_row: usize,
    pub x_pixel: usize,
    /// f32 from one output row to the next.
    pub y_row: usize,
    /// Where each tap reads, from a pixel's first.
    pub taps: Vec<u32>,
    pub activation: Activation,
    /// Pixels of a full tile.
    pub tile: usize,
    pub isa: Isa,
    run: [Option<RowFn>; PIXELS_MAX + 1],
}

/// Where the operands of one plane lie.
#[derive(Copy, Clone)]
pub struct PlaneAt {
    /// What the first output pixel's first tap reads.
    pub x: *const f32,
    /// `[tap][16]`
    pub weight: *const f32,
    /// Sixteen f32; null for none.
    pub bias: *const f32,
    /// The first output pixel.
    pub y: *mut f32,
    /// The first output pixel's; null for none.
    pub residual: *const f32,
    /// Channels that exist; the others become zero.
    pub channels: usize,
}

/// Computes consecutive pixels of a row.
type RowFn = unsafe fn(&Plane, &PlaneAt, x: usize, y: usize);

impl Plane {
    /// A plane whose tiles have at most `tile` pixels.
    pub fn new(
        isa: Isa,
        tile: usize,
        ow: usize,
        x: (usize, usize),
        y_row: usize,
        taps: Vec<u32>,
        activation: Activation,
    ) -> Self {
        let isa = simd::available(isa);
        let run = rows(isa);
        let tile = (1..=tile.clamp(1, PIXELS_MAX)).rev().find(|&pixels| run[pixels].is_some()).unwrap_or(1);
        Plane { ow, x_row: x.0, x_pixel: x.1, y_row, taps, activation, tile, isa, run }
    }

    /// Computes some rows.
    ///
    /// # Safety
    /// Every address that these rows read or write is inside its operand, and this thread alone writes them.
    pub unsafe fn run(&self, at: &PlaneAt, rows: Range<usize>) {
        let tiles = self.ow.div_ceil(self.tile);
        let (size, larger) = (self.ow / tiles, self.ow % tiles);
        for row in rows {
            let mut pixel = 0;
            for i in 0..tiles {
                let count = size + usize::from(i < larger);
                let tile = self.run[count].expect("smaller tiles exist wherever a larger one does");
                // SAFETY: by this function's contract.
                unsafe { tile(self, at, row * self.x_row + pixel * self.x_pixel, row * self.y_row + pixel * BLOCK) };
                pixel += count;
            }
        }
    }
}

/// One tile of `R` pixels and `V` vectors to a block, input pixels `X` f32 apart (0: as the plane says).
struct Tile<'a, const R: usize, const V: usize, const X: usize> {
    plane: &'a Plane,
    at: &'a PlaneAt,
    x: usize,
    y: usize,
}

impl<const R: usize, const V: usize, const X: usize> Routine for Tile<'_, R, V, X> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (plane, at) = (self.plane, self.at);
        let pixel = if X > 0 { X } else { plane.x_pixel };
        // SAFETY: the contract of `Plane::run`.
        unsafe {
            let x = at.x.add(self.x);
            let mut acc = [[s.zero(); V]; R];
            if !at.bias.is_null() {
                for v in 0..V {
                    let bias = s.load(at.bias.add(v * S::LANES));
                    for acc in acc.iter_mut() {
                        acc[v] = bias;
                    }
                }
            }
            let mut weight = at.weight;
            for &tap in &plane.taps {
                let x = x.add(tap as usize);
                for v in 0..V {
                    let w = s.load(weight.add(v * S::LANES));
                    for r in 0..R {
                        acc[r][v] = s.mul_add(w, s.load(x.add(r * pixel + v * S::LANES)), acc[r][v]);
                    }
                }
                weight = weight.add(BLOCK);
            }
            let y = at.y.add(self.y);
            if !at.residual.is_null() {
                let residual = at.residual.add(self.y);
                for r in 0..R {
                    for v in 0..V {
                        acc[r][v] = s.add(acc[r][v], s.load(residual.add(r * BLOCK + v * S::LANES)));
                    }
                }
            }
            match plane.activation {
                Activation::None => {}
                Activation::Relu => {
                    for r in 0..R {
                        for v in 0..V {
                            acc[r][v] = s.max(s.zero(), acc[r][v]);
                        }
                    }
                }
                Activation::Clip { lo, hi } => {
                    for r in 0..R {
                        for v in 0..V {
                            acc[r][v] = s.min(s.splat(hi), s.max(s.splat(lo), acc[r][v]));
                        }
                    }
                }
                Activation::HardSwish => {
                    for r in 0..R {
                        for v in 0..V {
                            acc[r][v] = math::activate(s, Activation::HardSwish, acc[r][v]);
                        }
                    }
                }
                _ => {}
            }
            for r in 0..R {
                for v in 0..V {
                    s.store(y.add(r * BLOCK + v * S::LANES), acc[r][v]);
                }
            }
            let late = !matches!(
                plane.activation,
                Activation::None | Activation::Relu | Activation::Clip { .. } | Activation::HardSwish
            );
            if late {
                activate_in_place(s, plane.activation, y, R * BLOCK);
            }
            if at.channels < BLOCK && plane.activation.apply(0.0) != 0.0 {
                for r in 0..R {
                    for lane in at.channels..BLOCK {
                        *y.add(r * BLOCK + lane) = 0.0;
                    }
                }
            }
        }
    }
}

/// Applies an activation that is too long for the registers of a tile to `count` values just written.
///
/// # Safety
/// They are readable and writable.
#[inline(never)]
unsafe fn activate_in_place<S: Simd>(s: S, activation: Activation, at: *mut f32, count: usize) {
    // SAFETY: by this function's contract.
    s.run(math::Activate { activation, values: unsafe { std::slice::from_raw_parts_mut(at, count) } });
}

/// The entry of one tile: chooses the distance of input pixels.
///
/// # Safety
/// As for [`Plane::run`]; the instruction set is there.
unsafe fn enter<S: Simd, const R: usize, const V: usize>(plane: &Plane, at: &PlaneAt, x: usize, y: usize) {
    // SAFETY: the plane keeps the tiles of an available instruction set only.
    let s = unsafe { S::assume() };
    match plane.x_pixel {
        16 => s.run(Tile::<R, V, 16> { plane, at, x, y }),
        32 => s.run(Tile::<R, V, 32> { plane, at, x, y }),
        _ => s.run(Tile::<R, V, 0> { plane, at, x, y }),
    }
}

/// The tiles of an instruction set, by pixels.
fn rows(isa: Isa) -> [Option<RowFn>; PIXELS_MAX + 1] {
    macro_rules! table {
        ($set:ty, $vectors:literal, [$($pixels:literal)*]) => {{
            let mut table: [Option<RowFn>; PIXELS_MAX + 1] = [None; PIXELS_MAX + 1];
            $( table[$pixels] = Some(enter::<$set, $pixels, $vectors>); )*
            table
        }};
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => table!(simd::Avx512, 1, [1 2 3 4 5 6 7 8 9 10 11 12]),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => table!(simd::Avx2, 2, [1 2 3 4 5 6]),
        _ => table!(simd::Portable, 4, [1 2]),
    }
}

/// Weights `[c, 1, kh, kw]` as `[c/16][tap][16]`, channels beyond the last as zeros.
pub fn pack(weight: &[f32], channels: usize, taps: usize, packed: &mut [f32]) {
    packed.fill(0.0);
    for channel in 0..channels {
        for tap in 0..taps {
            packed[(channel / BLOCK * taps + tap) * BLOCK + channel % BLOCK] = weight[channel * taps + tap];
        }
    }
}

/// Packed constant weights.
pub fn packed(weight: &[f32], channels: usize, taps: usize) -> Packed {
    let mut all = Packed::zeroed(channels.next_multiple_of(BLOCK) * taps);
    pack(weight, channels, taps, &mut all);
    all
}
