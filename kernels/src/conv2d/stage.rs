//! Planes of sixteen channels taken out of any layout, and put back.

use super::geometry::Blocked;
use crate::Layout;
use crate::layout::BLOCK;

/// How channels, rows and pixels of an image tensor lie.
#[derive(Copy, Clone, Debug)]
pub struct Places {
    image: usize,
    /// From one block of channels to the next, and from one channel of a block to the next.
    block: usize,
    channel: usize,
    channels_per_block: usize,
    /// From one row to the next.
    pub row: usize,
    /// From one pixel to the next.
    pub pixel: usize,
    /// The first pixel.
    origin: usize,
}

impl Places {
    /// Of a tensor `[n, c, h, w]`.
    pub fn new(layout: Layout, [n, c, h, w]: [usize; 4]) -> Self {
        match layout {
            Layout::Channels { halo } => {
                let blocked = Blocked::new(n, c, h, w, halo);
                Places {
                    image: blocked.image(),
                    block: blocked.plane(),
                    channel: 1,
                    channels_per_block: BLOCK,
                    row: blocked.row(),
                    pixel: BLOCK,
                    origin: blocked.pixel(0, 0),
                }
            }
            _ => Places { image: c * h * w, block: h * w, channel: 0, channels_per_block: 1, row: w, pixel: 1, origin: 0 },
        }
    }

    /// Where a channel's first pixel lies.
    pub fn channel(&self, image: usize, channel: usize) -> usize {
        let (block, lane) = (channel / self.channels_per_block, channel % self.channels_per_block);
        image * self.image + block * self.block + lane * self.channel + self.origin
    }

    /// Whether channels from `first` on lie side by side.
    fn side_by_side(&self, first: usize) -> bool {
        self.channels_per_block == BLOCK && first.is_multiple_of(BLOCK)
    }
}

/// At most sixteen channels of one image.
#[derive(Copy, Clone, Debug)]
pub struct Slab {
    pub image: usize,
    pub channel: usize,
    /// 1 to 16.
    pub channels: usize,
    pub h: usize,
    pub w: usize,
}

/// Copies a slab into a plane of lines `row` f32 apart, the first pixel at `origin`. What is beside it stays.
pub fn load(from: &[f32], places: &Places, slab: &Slab, plane: &mut [f32], origin: usize, row: usize) {
    if places.side_by_side(slab.channel) {
        let start = places.channel(slab.image, slab.channel);
        for y in 0..slab.h {
            let line = &from[start + y * places.row..][..slab.w * BLOCK];
            plane[origin + y * row..][..slab.w * BLOCK].copy_from_slice(line);
        }
        return;
    }
    for y in 0..slab.h {
        let line = &mut plane[origin + y * row..][..slab.w * BLOCK];
        for lane in 0..BLOCK {
            let to = line.iter_mut().skip(lane).step_by(BLOCK);
            if lane < slab.channels {
                let from = &from[places.channel(slab.image, slab.channel + lane) + y * places.row..];
                to.zip(from.iter().step_by(places.pixel)).for_each(|(to, from)| *to = *from);
            } else {
                to.for_each(|to| *to = 0.0);
            }
        }
    }
}

/// Calls `f(place, at)` for every value of a slab: where it lies in the tensor, and where in a plane `[h][w][16]`.
#[inline(always)]
fn each(places: &Places, slab: &Slab, mut f: impl FnMut(usize, usize)) {
    for lane in 0..slab.channels {
        let start = places.channel(slab.image, slab.channel + lane);
        for y in 0..slab.h {
            for x in 0..slab.w {
                f(start + y * places.row + x * places.pixel, (y * slab.w + x) * BLOCK + lane);
            }
        }
    }
}

/// Adds a slab of `tensor` to a plane `[h][w][16]`.
pub fn add(tensor: &[f32], places: &Places, slab: &Slab, plane: &mut [f32]) {
    each(places, slab, |place, at| plane[at] += tensor[place]);
}

/// Writes a plane `[h][w][16]` to its slab of a tensor.
///
/// # Safety
/// `tensor` points to the whole tensor, and nobody else writes this slab.
pub unsafe fn store(plane: &[f32], places: &Places, slab: &Slab, tensor: *mut f32) {
    if places.side_by_side(slab.channel) && slab.channels == BLOCK {
        let start = places.channel(slab.image, slab.channel);
        for (y, line) in plane.chunks_exact(slab.w * BLOCK).enumerate().take(slab.h) {
            // SAFETY: the line is inside a tensor of this shape.
            unsafe { line.as_ptr().copy_to_nonoverlapping(tensor.add(start + y * places.row), line.len()) };
        }
        return;
    }
    // SAFETY: places are inside a tensor of this shape.
    each(places, slab, |place, at| unsafe { *tensor.add(place) = plane[at] });
}
