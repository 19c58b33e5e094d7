//! The depthwise convolution of sixteen channels of one image.
//!
//! A lane is a channel, so inputs are whole vectors and nothing is broadcast. Each tap's weight is loaded once for a tile of pixels;
//! their sums stay in registers.

// Loops over registers are written with indices: they must unroll, and iterators over arrays of vectors sometimes do not.
#![allow(clippy::needless_range_loop)]

use crate::conv2d::Shape;
use crate::epilogue::Activation;
use crate::gemm::product::offset;
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
    /// A plane of a convolution between images whose rows are that far apart, with tiles of at most `tile` pixels.
    pub fn new(isa: Isa, tile: usize, shape: &Shape, x_row: usize, y_row: usize, activation: Activation) -> Self {
        let isa = simd::available(isa);
        let place = |tap: usize| tap / shape.kw * shape.dilations[0] * x_row + tap % shape.kw * shape.dilations[1] * BLOCK;
        Plane {
            ow: shape.ow,
            x_row: shape.strides[0] * x_row,
            x_pixel: shape.strides[1] * BLOCK,
            y_row,
            taps: (0..shape.kh * shape.kw).map(|tap| offset(place(tap))).collect(),
            activation,
            tile: tile.clamp(1, pixels_max(isa, shape)),
            isa,
            run: rows(isa, Kind::of(shape)),
        }
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
            if plane.activation != Activation::None {
                for r in 0..R {
                    for v in 0..V {
                        acc[r][v] = math::activate_short(s, plane.activation, acc[r][v]);
                    }
                }
            }
            for r in 0..R {
                for v in 0..V {
                    s.store(y.add(r * BLOCK + v * S::LANES), acc[r][v]);
                }
            }
            end(s, plane, at, y, R);
        }
    }
}

/// One tile of `R` pixels whose kernel is `KW` wide and whose input pixels are `X` f32 apart: neighbours share what they read, so that
/// each input vector is loaded once a row. One vector of the block at a time.
struct Slide<'a, const R: usize, const KW: usize, const X: usize> {
    plane: &'a Plane,
    at: &'a PlaneAt,
    x: usize,
    y: usize,
}

impl<const R: usize, const KW: usize, const X: usize> Routine for Slide<'_, R, KW, X> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (plane, at) = (self.plane, self.at);
        let y = at.y.wrapping_add(self.y);
        for lane in (0..BLOCK).step_by(S::LANES) {
            // SAFETY: the contract of `Plane::run`; lane + LANES ≤ 16.
            unsafe {
                let bias = if at.bias.is_null() { s.zero() } else { s.load(at.bias.add(lane)) };
                let mut acc = [bias; R];
                let mut weight = at.weight.add(lane);
                let x = at.x.add(self.x + lane);
                for row in plane.taps.chunks_exact(KW) {
                    let x = x.add(row[0] as usize);
                    let mut w = [s.zero(); KW];
                    for kx in 0..KW {
                        w[kx] = s.load(weight.add(kx * BLOCK));
                    }
                    for r in 0..R {
                        for kx in 0..KW {
                            acc[r] = s.mul_add(w[kx], s.load(x.add(r * X + kx * BLOCK)), acc[r]);
                        }
                    }
                    weight = weight.add(KW * BLOCK);
                }
                if !at.residual.is_null() {
                    let residual = at.residual.add(self.y + lane);
                    for r in 0..R {
                        acc[r] = s.add(acc[r], s.load(residual.add(r * BLOCK)));
                    }
                }
                if plane.activation != Activation::None {
                    for r in 0..R {
                        acc[r] = math::activate_short(s, plane.activation, acc[r]);
                    }
                }
                for r in 0..R {
                    s.store(y.add(r * BLOCK + lane), acc[r]);
                }
            }
        }
        // SAFETY: the pixels were just written.
        unsafe { end(s, plane, at, y, R) };
    }
}

/// What is left to do for pixels already written: long activations, and zeros in channels that do not exist.
///
/// # Safety
/// The pixels are readable and writable.
#[inline(always)]
unsafe fn end<S: Simd>(s: S, plane: &Plane, at: &PlaneAt, y: *mut f32, pixels: usize) {
    let short = matches!(plane.activation, Activation::None | Activation::Relu | Activation::Clip { .. } | Activation::HardSwish);
    if !short {
        // SAFETY: by this function's contract.
        unsafe { math::activate_in_place(s, plane.activation, y, pixels * BLOCK) };
    }
    if at.channels < BLOCK && plane.activation.apply(0.0) != 0.0 {
        for pixel in 0..pixels {
            for lane in at.channels..BLOCK {
                // SAFETY: by this function's contract.
                unsafe { *y.add(pixel * BLOCK + lane) = 0.0 };
            }
        }
    }
}

/// The entry of one sliding tile.
///
/// # Safety
/// As for [`Plane::run`]; the instruction set is there.
unsafe fn slide<S: Simd, const R: usize, const KW: usize, const X: usize>(plane: &Plane, at: &PlaneAt, x: usize, y: usize) {
    // SAFETY: the plane keeps the tiles of an available instruction set only.
    let s = unsafe { S::assume() };
    s.run(Slide::<R, KW, X> { plane, at, x, y });
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

/// Which tiles serve a convolution.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Kind {
    Any,
    /// Kernel width and horizontal stride; undilated.
    Slide(usize, usize),
}

impl Kind {
    fn of(shape: &Shape) -> Self {
        match (shape.dilations[1], shape.kw, shape.strides[1]) {
            (1, kw @ (3 | 5), stride @ (1 | 2)) => Kind::Slide(kw, stride),
            _ => Kind::Any,
        }
    }
}

/// The most pixels of a tile for a convolution on an instruction set.
pub fn pixels_max(isa: Isa, shape: &Shape) -> usize {
    rows(simd::available(isa), Kind::of(shape)).iter().rposition(Option::is_some).unwrap_or(1)
}

/// The tiles of an instruction set, by pixels.
fn rows(isa: Isa, kind: Kind) -> [Option<RowFn>; PIXELS_MAX + 1] {
    macro_rules! table {
        (enter, $set:ty, [$($pixels:literal)*], $vectors:literal) => {{
            let mut table: [Option<RowFn>; PIXELS_MAX + 1] = [None; PIXELS_MAX + 1];
            $( table[$pixels] = Some(enter::<$set, $pixels, $vectors>); )*
            table
        }};
        (slide, $set:ty, [$($pixels:literal)*], $kernel:literal, $x:literal) => {{
            let mut table: [Option<RowFn>; PIXELS_MAX + 1] = [None; PIXELS_MAX + 1];
            $( table[$pixels] = Some(slide::<$set, $pixels, $kernel, $x>); )*
            table
        }};
    }
    macro_rules! set {
        ($set:ty, $vectors:literal, $any:tt, $sliding:tt) => {
            match kind {
                Kind::Slide(3, 1) => table!(slide, $set, $sliding, 3, 16),
                Kind::Slide(3, 2) => table!(slide, $set, $sliding, 3, 32),
                Kind::Slide(5, 1) => table!(slide, $set, $sliding, 5, 16),
                Kind::Slide(5, 2) => table!(slide, $set, $sliding, 5, 32),
                _ => table!(enter, $set, $any, $vectors),
            }
        };
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => set!(simd::Avx512, 1, [1 2 3 4 5 6 7 8 9 10 11 12], [1 2 3 4 5 6 7 8 9 10 11 12]),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => set!(simd::Avx2, 2, [1 2 3 4 5 6], [1 2 3 4 5 6 7 8]),
        _ => set!(simd::Portable, 4, [1 2], [1 2 3 4]),
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
