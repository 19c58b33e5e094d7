//! The phases of a transposed convolution: products over the taps that meet, with their weights.

use super::Shape;
use crate::conv2d::geometry::Blocked;
use crate::epilogue::Epilogue;
use crate::gemm::product::{Parts, Product, Steps, Tail, offset};
use crate::layout::BLOCK;
use crate::simd::tile::Tiles;

/// One phase, for one group of channels.
pub struct Phase {
    pub product: Product,
    /// Where its weights begin among those of a group.
    pub weight_from: usize,
    /// Its taps, in order.
    taps: Vec<(usize, usize)>,
}

/// All phases.
pub struct Phases {
    pub phases: Vec<Phase>,
    /// f32 of the packed weights of one group.
    pub group_len: usize,
}

/// What is chosen.
pub struct Choice {
    pub tiles: Tiles,
    pub tile: (usize, usize),
    pub slice_k: usize,
    pub block_positions: usize,
    pub epilogue: Epilogue,
    pub tail: Tail,
}

/// How far taps reach beyond the image on any side: the halo that x needs.
pub fn halo_needed(shape: &Shape) -> usize {
    let mut need = 0;
    for axis in 0..2 {
        let (input, output) = if axis == 0 { (shape.h, shape.oh) } else { (shape.w, shape.ow) };
        for at in 0..output {
            for (_, source) in meeting(shape, axis, at) {
                need = need.max((-source).max(source - (input as isize - 1)));
            }
        }
    }
    need.max(0) as usize
}

/// The taps of an axis that meet output place `at`, and the input place each reads.
fn meeting(shape: &Shape, axis: usize, at: usize) -> impl Iterator<Item = (usize, isize)> {
    let (stride, dilation) = (shape.strides[axis] as isize, shape.dilations[axis] as isize);
    let from = (at + shape.pads[axis]) as isize;
    (0..shape.kernel[axis]).filter_map(move |tap| {
        let source = from - tap as isize * dilation;
        (source.rem_euclid(stride) == 0).then(|| (tap, source.div_euclid(stride)))
    })
}

impl Phases {
    /// The phases between blocked images of one group's channels each; `x` has the halo needed.
    pub fn new(shape: &Shape, x: &Blocked, y: &Blocked, choice: &Choice) -> Self {
        let mut phases = Vec::new();
        let mut weight_from = 0;
        let channels = shape.group_c();
        for py in 0..shape.strides[0].min(shape.oh) {
            for px in 0..shape.strides[1].min(shape.ow) {
                let rows: Vec<_> = meeting(shape, 0, py).collect();
                let columns: Vec<_> = meeting(shape, 1, px).collect();
                let taps: Vec<_> = rows.iter().flat_map(|&(ky, _)| columns.iter().map(move |&(kx, _)| (ky, kx))).collect();
                // Offsets count from the least place that any tap reads.
                let least = |places: &[(usize, isize)]| places.iter().map(|&(_, source)| source).min().unwrap_or(0);
                let (y0, x0) = (least(&rows), least(&columns));
                let tap_at: Vec<_> = rows
                    .iter()
                    .flat_map(|&(_, sy)| {
                        columns.iter().map(move |&(_, sx)| (sy - y0) as usize * x.row() + (sx - x0) as usize * BLOCK)
                    })
                    .collect();
                let blocks = channels.div_ceil(BLOCK);
                let steps = Steps {
                    at: (0..blocks).flat_map(|block| tap_at.iter().map(move |&at| offset(block * x.plane() + at))).collect(),
                    full: channels / BLOCK * taps.len(),
                    full_k: BLOCK,
                    part_k: channels % BLOCK,
                };
                let (mut a_at, mut c_at) = (Vec::new(), Vec::new());
                for image in 0..x.n {
                    for (i, oy) in (py..shape.oh).step_by(shape.strides[0]).enumerate() {
                        for (j, ox) in (px..shape.ow).step_by(shape.strides[1]).enumerate() {
                            a_at.push(offset(image * x.image() + x.pixel(y0 + i as isize, x0 + j as isize)));
                            c_at.push(offset(image * y.image() + y.pixel(oy as isize, ox as isize)));
                        }
                    }
                }
                let product = Product::new(Parts {
                    tiles: choice.tiles,
                    tile: choice.tile,
                    positions: a_at.len(),
                    a_at,
                    c_at,
                    a_packed: false,
                    c_packed: false,
                    steps,
                    slice_k: choice.slice_k,
                    columns: shape.group_o(),
                    c_block: y.plane(),
                    tail: choice.tail,
                    block_positions: choice.block_positions,
                    alpha: 1.0,
                    epilogue: choice.epilogue,
                });
                let len = product.panels() * product.panel_len();
                phases.push(Phase { product, weight_from, taps });
                weight_from += len;
            }
        }
        Phases { phases, group_len: weight_from }
    }

    /// Packs weights `[c, o/groups, kh, kw]` for all groups: `[group][phase][o/16][k][16]`.
    pub fn pack(&self, shape: &Shape, weight: &[f32], packed: &mut [f32]) {
        let (group_c, group_o, [kh, kw]) = (shape.group_c(), shape.group_o(), shape.kernel);
        packed.fill(0.0);
        for (group, packed) in packed.chunks_exact_mut(self.group_len.max(1)).enumerate() {
            for phase in &self.phases {
                let mut line = 0;
                let packed = &mut packed[phase.weight_from..];
                for block in (0..group_c).step_by(BLOCK) {
                    for &(ky, kx) in &phase.taps {
                        for c in block..group_c.min(block + BLOCK) {
                            for o in 0..group_o {
                                let value = weight[(((group * group_c + c) * group_o + o) * kh + ky) * kw + kx];
                                packed[o / BLOCK * phase.product.panel_len() + line * BLOCK + o % BLOCK] = value;
                            }
                            line += 1;
                        }
                    }
                }
            }
        }
    }
}
