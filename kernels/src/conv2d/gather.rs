//! Between images and the blocks of pixels that a product reads and writes.

use super::Shape;
use super::stage::Places;
use crate::layout::BLOCK;
use std::ops::Range;

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
}

impl Gather {
    /// Of the input of a convolution; `lines` when it is blocked and groups fill blocks: then a step is (channel block, ky, kx), else
    /// sixteen consecutive of (channel, ky, kx).
    pub fn new(shape: &Shape, lines: bool) -> Self {
        Gather { places: Places::new(shape.input, [shape.n, shape.c, shape.h, shape.w]), lines, shape: shape.clone() }
    }

    /// Copies for some steps of a group and some pixels; `stride` pixels are between steps.
    pub fn run(&self, x: &[f32], group: usize, steps: Range<usize>, pixels: Range<usize>, stride: usize, to: &mut [f32]) {
        let s = &self.shape;
        let taps = s.kh * s.kw;
        for (i, step) in steps.enumerate() {
            let to = &mut to[i * stride * BLOCK..][..pixels.len() * BLOCK];
            if self.lines {
                let channel = group * s.group_c() + step / taps * BLOCK;
                self.tap(x, channel, step % taps, pixels.clone(), to, copy_lines);
            } else {
                for lane in 0..BLOCK {
                    let k = step * BLOCK + lane;
                    if k < s.group_c() * taps {
                        let channel = group * s.group_c() + k / taps;
                        self.tap(x, channel, k % taps, pixels.clone(), &mut to[lane..], copy_values);
                    }
                }
            }
        }
    }

    /// Copies what one tap reads: `copy(from, stride, count, to)` for pixels inside the image, zeros (`from` empty) for others.
    fn tap(
        &self,
        x: &[f32],
        channel: usize,
        tap: usize,
        pixels: Range<usize>,
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
            let to = &mut to[run.at * BLOCK..];
            copy(&[], 0, inside.start - start, to);
            if !inside.is_empty() {
                let ix = inside.start * s.strides[1] + dx - s.pads[1];
                let from = self.places.channel(run.image, channel) + iy * self.places.row + ix * self.places.pixel;
                let count = inside.len();
                copy(&x[from..], s.strides[1] * self.places.pixel, count, &mut to[(inside.start - start) * BLOCK..]);
                if inside.end < end {
                    copy(&[], 0, end - inside.end, &mut to[(inside.end - start) * BLOCK..]);
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

/// Single values, one to a line.
#[inline]
fn copy_values(from: &[f32], stride: usize, count: usize, to: &mut [f32]) {
    if from.is_empty() {
        to.iter_mut().step_by(BLOCK).take(count).for_each(|to| *to = 0.0);
    } else {
        for (to, from) in to.iter_mut().step_by(BLOCK).zip(from.iter().step_by(stride)).take(count) {
            *to = *from;
        }
    }
}

/// Moves finished blocks `[panel][pixel][16]` into an output that tiles cannot write.
pub struct Scatter {
    places: Places,
    group_o: usize,
    oh: usize,
    ow: usize,
}

impl Scatter {
    /// Into the output of a convolution.
    pub fn new(shape: &Shape) -> Self {
        let places = Places::new(shape.output, [shape.n, shape.o, shape.oh, shape.ow]);
        Scatter { places, group_o: shape.group_o(), oh: shape.oh, ow: shape.ow }
    }

    /// Writes the values of some pixels of a group.
    ///
    /// # Safety
    /// `y` points to the whole output, and nobody else writes these pixels.
    pub unsafe fn run(&self, block: &[f32], group: usize, pixels: Range<usize>, stride: usize, y: *mut f32) {
        self.each(group, pixels, stride, |place, at| {
            // SAFETY: places are inside an output of this shape.
            unsafe { *y.add(place) = block[at] };
        });
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
