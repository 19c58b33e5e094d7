//! The transforms of Winograd's minimal filtering, a channel to a lane.

#![allow(clippy::needless_range_loop)]

use super::geometry::Blocked;
use crate::epilogue::Activation;
use crate::layout::BLOCK;
use crate::simd::{self, Routine, Simd, math};
use crate::{Isa, Packed};

/// Where an output tile begins.
#[derive(Copy, Clone, Debug)]
pub struct Place {
    pub image: usize,
    pub y: usize,
    pub x: usize,
}

/// U = G g Gᵀ of all weights `[o, c, 3, 3]`, in f64, rounded once: `[e][o/16][c][16]`.
pub fn transform_weights(f: usize, o: usize, c: usize, weight: &[f32]) -> Packed {
    let g: &[[f64; 3]] = match f {
        4 => &[
            [1.0 / 4.0, 0.0, 0.0],
            [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
            [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
            [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
            [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
            [0.0, 0.0, 1.0],
        ],
        _ => &[[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]],
    };
    let side = f + 2;
    let e_len = o.next_multiple_of(BLOCK) * c;
    let mut u = Packed::zeroed(side * side * e_len);
    for (i, taps) in weight.chunks_exact(9).enumerate() {
        let (out, channel) = (i / c, i % c);
        let at = (out / BLOCK * c + channel) * BLOCK + out % BLOCK;
        for (row, gy) in g.iter().enumerate() {
            for (column, gx) in g.iter().enumerate() {
                let sum: f64 = (0..9).map(|tap| gy[tap / 3] * gx[tap % 3] * f64::from(taps[tap])).sum();
                u[(row * side + column) * e_len + at] = sum as f32;
            }
        }
    }
    u
}

/// What the input transform of one tile reads, and where its result goes.
pub struct Input<'a> {
    pub x: &'a [f32],
    pub image: &'a Blocked,
    pub place: Place,
    /// Top and left.
    pub pads: [usize; 2],
    /// Which of its block.
    pub tile: usize,
    /// Tiles of a block.
    pub block: usize,
    /// f32 of V for one e.
    pub v_len: usize,
}

/// V = Bᵀ d B of one tile, all channels: `[e][c/16][tile][16]`.
pub fn input(isa: Isa, f: usize, input: &Input<'_>, v: &mut [f32]) {
    match f {
        4 => simd::run(isa, InputTile::<6> { input, v }),
        _ => simd::run(isa, InputTile::<4> { input, v }),
    }
}

/// See [`input`]; `T` input pixels to a side.
struct InputTile<'a, const T: usize> {
    input: &'a Input<'a>,
    v: &'a mut [f32],
}

/// Bᵀ of one line.
#[inline(always)]
fn input_line<S: Simd, const T: usize>(s: S, d: [S::V; T]) -> [S::V; T] {
    let mut t = d;
    if T == 6 {
        let four = s.splat(-4.0);
        let (a, b) = (s.mul_add(four, d[2], d[4]), s.mul_add(four, d[1], d[3]));
        let (c, half) = (s.sub(d[4], d[2]), s.sub(d[3], d[1]));
        let e = s.add(half, half);
        let five = s.splat(-5.0);
        t[0] = s.mul_add(s.splat(4.0), d[0], s.mul_add(five, d[2], d[4]));
        t[1] = s.add(a, b);
        t[2] = s.sub(a, b);
        t[3] = s.add(c, e);
        t[4] = s.sub(c, e);
        t[5] = s.mul_add(s.splat(4.0), d[1], s.mul_add(five, d[3], d[5]));
    } else {
        t[0] = s.sub(d[0], d[2]);
        t[1] = s.add(d[1], d[2]);
        t[2] = s.sub(d[2], d[1]);
        t[3] = s.sub(d[1], d[3]);
    }
    t
}

impl<const T: usize> Routine for InputTile<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (input, image) = (self.input, self.input.image);
        // The tile's first pixel, counted with the halo.
        let top = input.place.y + image.halo - input.pads[0];
        let left = input.place.x + image.halo - input.pads[1];
        let (height, width) = (image.h + 2 * image.halo, image.w + 2 * image.halo);
        let whole = top + T <= height && left + T <= width;
        let step = input.v_len;
        for block in 0..image.blocks {
            let plane = &input.x[input.place.image * image.image() + block * image.plane()..][..image.plane()];
            let to = &mut self.v[(block * input.block + input.tile) * BLOCK..];
            assert!(to.len() >= (T * T - 1) * step + BLOCK, "V has room for every e");
            for lane in (0..BLOCK).step_by(S::LANES) {
                let mut lines = [[s.zero(); T]; T];
                for y in 0..T {
                    let mut d = [s.zero(); T];
                    for x in 0..T {
                        if whole || (top + y < height && left + x < width) {
                            let at = (top + y) * image.row() + (left + x) * BLOCK + lane;
                            // SAFETY: the pixel is inside the plane, and lane + LANES ≤ 16.
                            d[x] = unsafe { s.load(plane.as_ptr().add(at)) };
                        }
                    }
                    lines[y] = input_line(s, d);
                }
                for x in 0..T {
                    let mut d = [s.zero(); T];
                    for y in 0..T {
                        d[y] = lines[y][x];
                    }
                    let t = input_line(s, d);
                    for y in 0..T {
                        // SAFETY: asserted above for the greatest e.
                        unsafe { s.store(to.as_mut_ptr().add((y * T + x) * step + lane), t[y]) };
                    }
                }
            }
        }
    }
}

/// What the output transform of one tile reads.
pub struct Output<'a> {
    pub m: &'a [f32],
    pub image: &'a Blocked,
    pub place: Place,
    /// Channels that exist.
    pub channels: usize,
    pub tile: usize,
    pub block: usize,
    /// f32 of M for one e.
    pub m_len: usize,
    /// Followed by zeros up to a whole block.
    pub bias: Option<&'a [f32]>,
    pub residual: Option<&'a [f32]>,
    pub activation: Activation,
}

/// y = act(Aᵀ M A + bias + residual) of one tile, all channels; pixels outside the image are left out.
///
/// # Safety
/// `y` points to the whole output, and this thread alone writes this tile.
pub unsafe fn output(isa: Isa, f: usize, output: &Output<'_>, y: *mut f32) {
    match f {
        4 => simd::run(isa, OutputTile::<6, 4> { output, y }),
        _ => simd::run(isa, OutputTile::<4, 2> { output, y }),
    }
}

/// See [`output`]; `T` values to a side of M, `F` pixels to a side of y.
struct OutputTile<'a, const T: usize, const F: usize> {
    output: &'a Output<'a>,
    y: *mut f32,
}

/// Aᵀ of one line.
#[inline(always)]
fn output_line<S: Simd, const T: usize, const F: usize>(s: S, m: [S::V; T]) -> [S::V; F] {
    let mut y = [s.zero(); F];
    if T == 6 {
        let (p, q) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
        let (r, u) = (s.add(m[3], m[4]), s.sub(m[3], m[4]));
        y[0] = s.add(m[0], s.add(p, r));
        y[1] = s.mul_add(s.splat(2.0), u, q);
        y[2] = s.mul_add(s.splat(4.0), r, p);
        y[3] = s.add(s.mul_add(s.splat(8.0), u, q), m[5]);
    } else {
        y[0] = s.add(m[0], s.add(m[1], m[2]));
        y[1] = s.sub(s.sub(m[1], m[2]), m[3]);
    }
    y
}

impl<const T: usize, const F: usize> Routine for OutputTile<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (output, image) = (self.output, self.output.image);
        let (rows, columns) = (F.min(image.h - output.place.y), F.min(image.w - output.place.x));
        let short = math::is_short(output.activation);
        let zero_stays = output.activation.apply(0.0) == 0.0;
        let first = image.pixel(output.place.y as isize, output.place.x as isize);
        for block in 0..image.blocks {
            let start = output.place.image * image.image() + block * image.plane() + first;
            let from = &output.m[(block * output.block + output.tile) * BLOCK..];
            assert!(from.len() >= (T * T - 1) * output.m_len + BLOCK, "M has every e");
            let exist = BLOCK.min(output.channels - block * BLOCK);
            for lane in (0..BLOCK).step_by(S::LANES) {
                let mut lines = [[s.zero(); F]; T];
                for y in 0..T {
                    let mut m = [s.zero(); T];
                    for x in 0..T {
                        // SAFETY: asserted above for the greatest e.
                        m[x] = unsafe { s.load(from.as_ptr().add((y * T + x) * output.m_len + lane)) };
                    }
                    lines[y] = output_line::<S, T, F>(s, m);
                }
                let mut pixels = [[s.zero(); F]; F];
                for x in 0..F {
                    let mut m = [s.zero(); T];
                    for y in 0..T {
                        m[y] = lines[y][x];
                    }
                    let column: [S::V; F] = output_line(s, m);
                    for y in 0..F {
                        pixels[y][x] = column[y];
                    }
                }
                let bias = match output.bias {
                    // SAFETY: the bias is followed by zeros up to a whole block.
                    Some(bias) => unsafe { s.load(bias[block * BLOCK..][..BLOCK].as_ptr().add(lane)) },
                    None => s.zero(),
                };
                for (y, line) in pixels.iter().enumerate().take(rows) {
                    for (x, &pixel) in line.iter().enumerate().take(columns) {
                        let at = start + y * image.row() + x * BLOCK + lane;
                        let mut sum = s.add(pixel, bias);
                        if let Some(residual) = output.residual {
                            // SAFETY: the residual lies as y, and the pixel is inside.
                            sum = s.add(sum, unsafe { s.load(residual.as_ptr().add(at)) });
                        }
                        let mut result = math::activate_short(s, output.activation, sum);
                        if short && !zero_stays {
                            result = s.first(result, exist.saturating_sub(lane));
                        }
                        // SAFETY: the pixel is inside y, and this thread's own.
                        unsafe { s.store(self.y.add(at), result) };
                    }
                }
            }
            if !short {
                for y in 0..rows {
                    // SAFETY: this line of the tile was just written.
                    unsafe {
                        let line = self.y.add(start + y * image.row());
                        math::activate_in_place(s, output.activation, line, columns * BLOCK);
                        if !zero_stays {
                            for at in (0..columns * BLOCK).filter(|at| at % BLOCK >= exist) {
                                *line.add(at) = 0.0;
                            }
                        }
                    }
                }
            }
        }
    }
}
