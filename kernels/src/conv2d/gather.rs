//! Between images and the blocks of pixels that a product reads and writes.

use super::Shape;
use super::stage::Places;
use crate::gemm::product::blocks;
use crate::layout::BLOCK;
use crate::{Isa, simd};
use std::ops::Range;

/// Pixels that are turned between rows of one channel and lines of sixteen at a time: 8 KiB.
const TURNED: usize = 128;

/// Sixteen channels of that many pixels.
type Turned = [f32; BLOCK * TURNED];

/// A run of pixels in one row of y.
struct Run {
    /// Its first pixel's place in the block of pixels.
    at: usize,
    image: usize,
    y: usize,
    xs: Range<usize>,
}

/// Cuts a range of pixels, counted over images, rows and columns, into runs.
fn runs(pixels: Range<usize>, h: usize, w: usize) -> impl Iterator<Item = Run> {
    let mut next = pixels.start;
    std::iter::from_fn(move || {
        if next >= pixels.end {
            return None;
        }
        let x = next % w;
        let count = (w - x).min(pixels.end - next);
        let run = Run { at: next - pixels.start, image: next / (h * w), y: next / w % h, xs: x..x + count };
        next += count;
        Some(run)
    })
}

/// Copies what pixels read into `[step][pixel][16]`.
pub struct Gather {
    shape: Shape,
    places: Places,
    /// By lines of sixteen channels instead of single values.
    lines: bool,
    isa: Isa,
}

impl Gather {
    /// Of the input of a convolution; `lines` when it is blocked and groups fill blocks: then a step is (channel block, ky, kx), else
    /// sixteen consecutive of (channel, ky, kx).
    pub fn new(shape: &Shape, lines: bool, isa: Isa) -> Self {
        Gather { places: Places::new(shape.input, [shape.n, shape.c, shape.h, shape.w]), lines, isa, shape: shape.clone() }
    }

    /// Copies for some steps of a group and some pixels; `stride` pixels are between steps.
    pub fn run(&self, x: &[f32], group: usize, steps: Range<usize>, pixels: Range<usize>, stride: usize, to: &mut [f32]) {
        let s = &self.shape;
        let taps = s.kh * s.kw;
        for (i, step) in steps.enumerate() {
            let to = &mut to[i * stride * BLOCK..][..pixels.len() * BLOCK];
            if self.lines {
                let channel = group * s.group_c() + step / taps * BLOCK;
                self.tap(x, channel, step % taps, pixels.clone(), BLOCK, to, copy_lines);
            } else {
                self.values(x, group, step, pixels.clone(), to);
            }
        }
    }

    /// Copies one step of single values: a row of pixels for each, which are then turned.
    fn values(&self, x: &[f32], group: usize, step: usize, pixels: Range<usize>, to: &mut [f32]) {
        let s = &self.shape;
        let taps = s.kh * s.kw;
        let mut turned: Turned = [0.0; BLOCK * TURNED];
        for part in blocks(&pixels, TURNED, 1) {
            for (lane, row) in turned.chunks_exact_mut(TURNED).enumerate() {
                let k = step * BLOCK + lane;
                if k < s.group_c() * taps {
                    let channel = group * s.group_c() + k / taps;
                    self.tap(x, channel, k % taps, part.clone(), 1, row, copy_values);
                }
            }
            let to = &mut to[(part.start - pixels.start) * BLOCK..];
            simd::transpose::transpose(self.isa, &turned, TURNED, to, BLOCK, BLOCK, part.len());
        }
    }

    /// Copies what one tap reads: `copy(from, stride, count, to)` for pixels inside the image, zeros (`from` empty) for others; `to`
    /// has `width` f32 for a pixel.
    #[allow(clippy::too_many_arguments)] // one place more than the loops of `run` have to hand on
    fn tap(
        &self,
        x: &[f32],
        channel: usize,
        tap: usize,
        pixels: Range<usize>,
        width: usize,
        to: &mut [f32],
        copy: impl Fn(&[f32], usize, usize, &mut [f32]),
    ) {
        let s = &self.shape;
        let (dy, dx) = (tap / s.kw * s.dilations[0], tap % s.kw * s.dilations[1]);
        // Columns of y whose source is inside the image.
        let first = s.pads[1].saturating_sub(dx).div_ceil(s.strides[1]);
        let behind = (s.w + s.pads[1]).saturating_sub(dx).div_ceil(s.strides[1]);
        for run in runs(pixels, s.oh, s.ow) {
            let iy = (run.y * s.strides[0] + dy).wrapping_sub(s.pads[0]);
            let (start, end) = (run.xs.start, run.xs.end);
            let inside = if iy < s.h { first.clamp(start, end)..behind.clamp(start, end) } else { end..end };
            let inside = if inside.start < inside.end { inside } else { end..end };
            let to = &mut to[run.at * width..];
            copy(&[], 0, inside.start - start, to);
            if !inside.is_empty() {
                let ix = inside.start * s.strides[1] + dx - s.pads[1];
                let from = self.places.channel(run.image, channel) + iy * self.places.row + ix * self.places.pixel;
                let count = inside.len();
                copy(&x[from..], s.strides[1] * self.places.pixel, count, &mut to[(inside.start - start) * width..]);
                if inside.end < end {
                    copy(&[], 0, end - inside.end, &mut to[(inside.end - start) * width..]);
                }
            }
        }
    }
}

/// Whole lines of sixteen.
#[inline]
fn copy_lines(from: &[f32], stride: usize, count: usize, to: &mut [f32]) {
    if count == 0 {
        return;
    }
    if from.is_empty() {
        to[..count * BLOCK].fill(0.0);
    } else if stride == BLOCK {
        to[..count * BLOCK].copy_from_slice(&from[..count * BLOCK]);
    } else {
        let from = &from[..(count - 1) * stride + BLOCK];
        for (line, to) in from.chunks(stride).zip(to.chunks_exact_mut(BLOCK)) {
            to.copy_from_slice(&line[..BLOCK]);
        }
    }
}

/// Single values.
#[inline]
fn copy_values(from: &[f32], stride: usize, count: usize, to: &mut [f32]) {
    if from.is_empty() {
        to[..count].fill(0.0);
    } else if stride == 1 {
        to[..count].copy_from_slice(&from[..count]);
    } else {
        to[..count].iter_mut().zip(from.iter().step_by(stride)).for_each(|(to, from)| *to = *from);
    }
}

/// Moves finished blocks `[panel][pixel][16]` into an output that tiles cannot write.
pub struct Scatter {
    places: Places,
    group_o: usize,
    oh: usize,
    ow: usize,
    isa: Isa,
}

impl Scatter {
    /// Into the output of a convolution.
    pub fn new(shape: &Shape, isa: Isa) -> Self {
        let places = Places::new(shape.output, [shape.n, shape.o, shape.oh, shape.ow]);
        Scatter { places, group_o: shape.group_o(), oh: shape.oh, ow: shape.ow, isa }
    }

    /// Writes the values of some pixels of a group.
    ///
    /// # Safety
    /// `y` points to the whole output, and nobody else writes these pixels.
    pub unsafe fn run(&self, block: &[f32], group: usize, pixels: Range<usize>, stride: usize, y: *mut f32) {
        if self.places.pixel == 1 {
            // SAFETY: by this function's contract.
            return unsafe { self.rows(block, group, pixels, stride, y) };
        }
        self.each(group, pixels, stride, |place, at| {
            // SAFETY: places are inside an output of this shape.
            unsafe { *y.add(place) = block[at] };
        });
    }

    /// The same into rows: sixteen channels of some pixels are turned, then a row is copied for each.
    ///
    /// # Safety
    /// As for [`run`](Self::run).
    unsafe fn rows(&self, block: &[f32], group: usize, pixels: Range<usize>, stride: usize, y: *mut f32) {
        let mut turned: Turned = [0.0; BLOCK * TURNED];
        for panel in 0..self.group_o.div_ceil(BLOCK) {
            let channel = group * self.group_o + panel * BLOCK;
            let channels = BLOCK.min(self.group_o - panel * BLOCK);
            for part in blocks(&pixels, TURNED, 1) {
                let lines = &block[(panel * stride + part.start - pixels.start) * BLOCK..][..part.len() * BLOCK];
                simd::transpose::transpose(self.isa, lines, BLOCK, &mut turned, TURNED, part.len(), BLOCK);
                for run in runs(part, self.oh, self.ow) {
                    for (j, row) in turned.chunks_exact(TURNED).enumerate().take(channels) {
                        let place = self.places.channel(run.image, channel + j) + run.y * self.places.row + run.xs.start;
                        let values = &row[run.at..][..run.xs.len()];
                        // SAFETY: the run is inside an output of this shape, and its pixels are this caller's.
                        unsafe { values.as_ptr().copy_to_nonoverlapping(y.add(place), values.len()) };
                    }
                }
            }
        }
    }

    /// Adds what an operand in the order of the output holds for some pixels of a group.
    pub fn add(&self, residual: &[f32], group: usize, pixels: Range<usize>, stride: usize, block: &mut [f32]) {
        self.each(group, pixels, stride, |place, at| block[at] += residual[place]);
    }

    /// Calls `f` with the places of each value in the output and in the block.
    #[inline(always)]
    fn each(&self, group: usize, pixels: Range<usize>, stride: usize, mut f: impl FnMut(usize, usize)) {
        for run in runs(pixels, self.oh, self.ow) {
            for j in 0..self.group_o {
                let from = self.places.channel(run.image, group * self.group_o + j)
                    + run.y * self.places.row
                    + run.xs.start * self.places.pixel;
                let at = (j / BLOCK * stride + run.at) * BLOCK + j % BLOCK;
                for i in 0..run.xs.len() {
                    f(from + i * self.places.pixel, at + i * BLOCK);
                }
            }
        }
    }
}
