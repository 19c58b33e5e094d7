//! Where pixels lie in blocked images, and the writing of their zeros.

use super::Shape;
use crate::gemm::product::{Steps, offset};
use crate::layout::BLOCK;
use crate::partition::Shared;
use std::ops::Range;

/// An image tensor in `[n][⌈c/16⌉][h + 2·halo][w + 2·halo][16]`.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Blocked {
    pub n: usize,
    pub blocks: usize,
    pub h: usize,
    pub w: usize,
    pub halo: usize,
}

impl Blocked {
    /// Images of `c` channels.
    pub fn new(n: usize, c: usize, h: usize, w: usize, halo: usize) -> Self {
        Blocked { n, blocks: c.div_ceil(BLOCK), h, w, halo }
    }

    /// f32 from one row to the next.
    pub fn row(&self) -> usize {
        (self.w + 2 * self.halo) * BLOCK
    }

    /// f32 of one channel block of an image.
    pub fn plane(&self) -> usize {
        (self.h + 2 * self.halo) * self.row()
    }

    /// f32 of one image.
    pub fn image(&self) -> usize {
        self.blocks * self.plane()
    }

    /// f32 of all.
    #[expect(clippy::len_without_is_empty, reason = "no image is empty")]
    pub fn len(&self) -> usize {
        self.n * self.image()
    }

    /// Where pixel `(y, x)` lies in a plane; both may reach into the halo.
    pub fn pixel(&self, y: isize, x: isize) -> usize {
        let halo = self.halo as isize;
        (y + halo) as usize * self.row() + (x + halo) as usize * BLOCK
    }

    /// Where every pixel of every image lies in its first block, in the order image, row, column.
    pub fn pixels(&self) -> Vec<u32> {
        self.strided([self.h, self.w], [1, 1], [0, 0])
    }

    /// Where the first value lies that the first output pixel of a plane reads, over all images.
    pub fn strided_start(&self, plane: usize, pads: [usize; 2]) -> usize {
        plane * self.plane() + self.pixel(-(pads[0] as isize), -(pads[1] as isize))
    }

    /// Where the first value lies that each of `extent` output pixels reads, in the order image, row, column.
    pub fn strided(&self, extent: [usize; 2], strides: [usize; 2], pads: [usize; 2]) -> Vec<u32> {
        let mut all = Vec::with_capacity(self.n * extent[0] * extent[1]);
        for image in 0..self.n {
            for y in 0..extent[0] {
                for x in 0..extent[1] {
                    let (y, x) = ((y * strides[0]) as isize - pads[0] as isize, (x * strides[1]) as isize - pads[1] as isize);
                    all.push(offset(image * self.image() + self.pixel(y, x)));
                }
            }
        }
        all
    }
}

/// Writes zeros into the halos of some planes, counted over all images.
///
/// # Safety
/// `all` points to the whole of `blocked`, and nobody else writes these planes' halos.
pub unsafe fn clear_halos(blocked: &Blocked, planes: Range<usize>, all: Shared<f32>) {
    if blocked.halo == 0 {
        return;
    }
    for plane in planes {
        // Halo by halo, because others may be writing the pixels between.
        let (row, edge) = (blocked.row(), blocked.halo * BLOCK);
        for y in 0..blocked.h + 2 * blocked.halo {
            let whole = y < blocked.halo || y >= blocked.h + blocked.halo;
            // SAFETY: plane and row are inside `all`; only the halo is touched.
            unsafe {
                let line = all.get().add(plane * blocked.plane() + y * row);
                if whole {
                    line.write_bytes(0, row);
                } else {
                    line.write_bytes(0, edge);
                    line.add(row - edge).write_bytes(0, edge);
                }
            }
        }
    }
}

/// The steps over k of a convolution with blocked input: (channel block, ky, kx), whole blocks first. `plane` and `row` are those of
/// the input, dilation is counted in.
pub fn steps(shape: &Shape, plane: usize, row: usize) -> Steps {
    let channels = shape.group_c();
    let mut at = Vec::with_capacity(channels.div_ceil(BLOCK) * shape.kh * shape.kw);
    for block in 0..channels.div_ceil(BLOCK) {
        for ky in 0..shape.kh {
            for kx in 0..shape.kw {
                at.push(offset(block * plane + ky * shape.dilations[0] * row + kx * shape.dilations[1] * BLOCK));
            }
        }
    }
    Steps { at, full: channels / BLOCK * shape.kh * shape.kw, full_k: BLOCK, part_k: channels % BLOCK }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halo_is_cleared_and_nothing_else() {
        let blocked = Blocked::new(1, 17, 3, 2, 2);
        let mut all = vec![1.0; blocked.len()];
        // SAFETY: the vector is all of `blocked`.
        unsafe { clear_halos(&blocked, 1..2, Shared(all.as_mut_ptr())) };
        assert!(all[..blocked.plane()].iter().all(|&x| x == 1.0));
        let ones = all[blocked.plane()..].iter().filter(|&&x| x == 1.0).count();
        assert_eq!(ones, 3 * 2 * BLOCK);
        for at in blocked.pixels() {
            assert_eq!(all[blocked.plane() + at as usize..][..BLOCK], [1.0; BLOCK]);
        }
    }
}
