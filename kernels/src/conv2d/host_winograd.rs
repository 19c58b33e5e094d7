//! Convolution of 3×3 kernels by Winograd's minimal filtering, F(2×2, 3×3) and F(4×4, 3×3): 16 multiplications where the direct form
//! takes 36, or 36 where it takes 144.
//!
//! ```text
//! for block of tiles: { V[e][c/16][tile][16] = Bᵀ d B;   M[e][o/16][tile][16] = V[e] · U[e] for e in 0..(f+2)²;   y = Aᵀ M A + … }
//! ```
//! A lane is a channel, so the transforms need no shuffles, and the products are those of the register tile. A block's V and M stay
//! in L2. U takes 16/9 or 36/9 of the weights' bytes and is made once, in f64. F(2) is as exact as the direct form; F(4) is 3 to 9
//! times less exact (1.6e-5 of the greatest output at 512 channels).
//!
//! Source: Lavin and Gray 2015, §4.1, points 0, ±1, (±2,) ∞. Tiles over the edge read zeros and their surplus is not stored.

use super::geometry::{Blocked, clear_halos};
use super::weights::prepare_bias;
use super::{Shape, winograd};
use crate::epilogue::Epilogue;
use crate::gemm::host_packed::{constant, tile_fits};
use crate::gemm::product::{Addresses, Parts, Product, Steps, Tail, offset};
use crate::gemm::refuse;
use crate::knob::{Knob, Rule};
use crate::layout::BLOCK;
use crate::partition::{Shared, for_each_part, share};
use crate::simd::tile::Tiles;
use crate::simd::{self};
use crate::{BuildError, Isa, Kernel, Layout, Limits, Operands, Packed, Request, Task, Variant};
use schema::KnobValue;
use std::ops::Range;

/// Tiles of a block.
const TILES_PER_BLOCK: &[i64] = &[12, 24, 48];

/// See the module.
pub static WINOGRAD: Variant = Variant {
    id: "conv2d.host_winograd",
    revision: 2,
    knobs: &[
        Knob::ints("f", &[2, 4]),
        Knob::ints("tb", TILES_PER_BLOCK),
        Knob::pairs("tile", &[(6, 16), (4, 16), (3, 32), (14, 32), (12, 32), (8, 32), (7, 64)]),
        Knob::names("prefetch", &["none", "near"]),
        Knob::names("partition", &["one", "tiles"]),
    ],
    rules: &[
        Rule {
            reason: "only 3x3 kernels of stride 1, undilated, in one group",
            holds: |t, _, _| {
                shape(t).is_some_and(|s| [s.kh, s.kw] == [3, 3] && s.strides == [1, 1] && s.dilations == [1, 1] && s.groups == 1)
            },
        },
        Rule { reason: "x and y must both lie in channels16", holds: |t, _, _| shape(t).is_some_and(|s| halos(&s).is_some()) },
        Rule {
            reason: "the halo of x is narrower than the padding",
            holds: |t, _, _| shape(t).is_some_and(|s| s.halo_covers_pads()),
        },
        Rule { reason: "the weight is not constant", holds: |t, _, _| shape(t).is_some_and(|s| s.weight_constant) },
        Rule { reason: "this instruction set has no such tile", holds: |_, c, l| tile_fits(c, l) },
        Rule {
            reason: "one thread is granted, and another partition would do the same",
            holds: |_, c, l| l.units > 1 || c.name("partition") == Some("one"),
        },
        Rule {
            reason: "a lesser tb already takes all tiles at once",
            holds: |t, c, _| {
                let Some(shape) = shape(t) else { return false };
                crate::gemm::host_packed::at_most_next(c.int("tb"), TILES_PER_BLOCK, tiles(&shape, f(c)))
            },
        },
        Rule {
            reason: "the transformed blocks of one thread exceed 4 MiB",
            holds: |t, c, _| {
                let (Some(shape), f) = (shape(t), f(c)) else { return false };
                let lines = shape.c.div_ceil(BLOCK) + shape.o.div_ceil(BLOCK);
                4 * (f + 2) * (f + 2) * c.int("tb").unwrap_or(0) as usize * lines * BLOCK <= 4 << 20
            },
        },
    ],
    default,
    build: |request| Ok(Box::new(HostWinograd::new(request)?)),
};

fn shape(task: &Task) -> Option<Shape> {
    Shape::of(task).ok()
}

/// The knob `f`: output pixels along one side of a tile.
fn f(config: &schema::Config) -> usize {
    config.int("f").unwrap_or(2) as usize
}

/// The halos of x and y, when both are blocked.
fn halos(shape: &Shape) -> Option<(usize, usize)> {
    match (shape.input, shape.output) {
        (Layout::Channels { halo: x }, Layout::Channels { halo: y }) => Some((x, y)),
        _ => None,
    }
}

/// Tiles of all images.
fn tiles(shape: &Shape, f: usize) -> usize {
    shape.n * shape.oh.div_ceil(f) * shape.ow.div_ceil(f)
}

fn default(task: &Task, limits: &Limits) -> Vec<KnobValue> {
    let Some(shape) = shape(task) else { return Vec::new() };
    let f = if shape.oh.min(shape.ow) >= 12 && shape.c * shape.o <= 256 * 256 { 4 } else { 2 };
    let lines = shape.c.div_ceil(BLOCK) + shape.o.div_ceil(BLOCK);
    let wide = 4 * (f + 2) * (f + 2) * 24 * lines * BLOCK <= limits.l2_bytes as usize;
    let count = tiles(&shape, f);
    let tile = match simd::available(limits.isa) {
        Isa::Avx512 => (14, 32),
        Isa::Avx2 => (6, 16),
        _ => (4, 16),
    };
    let u_bytes = 4 * (f + 2) * (f + 2) * shape.c * shape.o;
    vec![
        KnobValue::Int(f as i64),
        KnobValue::Int(if wide && count > 12 { 24 } else { 12 }),
        KnobValue::Pair(tile.0, tile.1),
        KnobValue::Name(if u_bytes as u64 > limits.l2_bytes / 2 { "near" } else { "none" }.to_owned()),
        KnobValue::Name(if limits.units > 1 && count > 1 { "tiles" } else { "one" }.to_owned()),
    ]
}

/// A convolution by minimal filtering.
struct HostWinograd {
    shape: Shape,
    f: usize,
    /// Tiles of a block.
    block: usize,
    product: Product,
    x: Blocked,
    y: Blocked,
    /// `[e][o/16][c][16]`
    u: Packed,
    bias: Option<Packed>,
    isa: Isa,
    parts: usize,
}

impl HostWinograd {
    fn new(request: &Request<'_>) -> Result<Self, BuildError> {
        let shape = Shape::of(request.task)?;
        let (config, limits) = (request.config, request.limits);
        let (x_halo, y_halo) = halos(&shape).ok_or_else(|| refuse(request.task, "x and y must both lie in channels16"))?;
        let f = f(config);
        let block = (config.int("tb").unwrap_or(12) as usize).min(tiles(&shape, f));
        let places: Vec<u32> = (0..block).map(|tile| offset(tile * BLOCK)).collect();
        let product = Product::new(Parts {
            tiles: Tiles::of(limits.isa, config.name("prefetch") == Some("near")),
            tile: config.pair("tile").map_or((1, 16), |(positions, columns)| (positions as usize, columns as usize)),
            positions: block,
            a_at: places.clone(),
            c_at: places,
            a_packed: false,
            c_packed: false,
            steps: Steps::even(shape.c, block * BLOCK),
            slice_k: 1 << 20,
            columns: shape.o,
            c_block: block * BLOCK,
            tail: Tail::Left,
            block_positions: block,
            alpha: 1.0,
            epilogue: Epilogue::default(),
        });
        let weight = constant(request, 1, "weight", shape.weight_shape().iter().product())?;
        let u = winograd::transform_weights(f, shape.o, shape.c, &weight);
        Ok(HostWinograd {
            f,
            block,
            x: Blocked::new(shape.n, shape.c, shape.h, shape.w, x_halo),
            y: Blocked::new(shape.n, shape.o, shape.oh, shape.ow, y_halo),
            u,
            bias: prepare_bias(request, &shape)?,
            isa: limits.isa,
            parts: if config.name("partition") == Some("tiles") { limits.units as usize } else { 1 },
            product,
            shape,
        })
    }

    fn squares(&self) -> usize {
        (self.f + 2) * (self.f + 2)
    }

    /// f32 from one e of V to the next, and of M: an odd number of lines. A transform touches one line of every e, and at a power of
    /// two apart all of them would fall into a few sets of L1.
    fn lens(&self) -> (usize, usize) {
        let len = |blocks: usize| ((blocks * self.block) | 1) * BLOCK;
        (len(self.x.blocks), len(self.y.blocks))
    }

    /// Some tiles, in blocks.
    fn tiles(&self, x: &[f32], y: Shared<f32>, residual: Option<&[f32]>, tiles: Range<usize>, scratch: &mut [f32]) {
        let (v_len, m_len) = self.lens();
        let (v, m) = scratch.split_at_mut(self.squares() * v_len);
        let columns = self.shape.ow.div_ceil(self.f);
        let rows = self.shape.oh.div_ceil(self.f);
        let place = |tile: usize| winograd::Place {
            image: tile / (rows * columns),
            y: tile / columns % rows * self.f,
            x: tile % columns * self.f,
        };
        let mut from = tiles.start;
        while from < tiles.end {
            let count = self.block.min(tiles.end - from);
            for tile in 0..count {
                winograd::input(
                    self.isa,
                    self.f,
                    &winograd::Input {
                        x,
                        image: &self.x,
                        place: place(from + tile),
                        pads: [self.shape.pads[0], self.shape.pads[1]],
                        tile,
                        block: self.block,
                        v_len,
                    },
                    v,
                );
            }
            for e in 0..self.squares() {
                let addresses = Addresses {
                    a: v[e * v_len..].as_ptr(),
                    b: self.u[e * self.product.panels() * self.product.panel_len()..].as_ptr(),
                    c: m[e * m_len..].as_mut_ptr(),
                    bias: std::ptr::null(),
                    residual: std::ptr::null(),
                };
                // SAFETY: V holds the tiles, M has room for them, U all panels of this e.
                unsafe { self.product.run(&addresses, 0..count, 0..self.product.panels()) };
            }
            for tile in 0..count {
                let output = winograd::Output {
                    m,
                    image: &self.y,
                    place: place(from + tile),
                    channels: self.shape.o,
                    tile,
                    block: self.block,
                    m_len,
                    bias: self.bias.as_deref(),
                    residual,
                    activation: self.shape.epilogue.activation,
                };
                // SAFETY: y is as the signature says, and this thread alone writes these tiles.
                unsafe { winograd::output(self.isa, self.f, &output, y.get()) };
            }
            from += count;
        }
    }
}

impl Kernel for HostWinograd {
    fn scratch_bytes(&self) -> usize {
        let (v_len, m_len) = self.lens();
        4 * self.parts * self.squares() * (v_len + m_len)
    }

    fn prepared_bytes(&self) -> usize {
        self.u.bytes() + self.bias.as_ref().map_or(0, Packed::bytes)
    }

    fn run(&self, operands: &mut Operands<'_>) {
        let s = &self.shape;
        let x = operands.input::<f32>(0).expect("x is not optional");
        let residual = if s.epilogue.residual { operands.input::<f32>(3) } else { None };
        let (y, scratch) = operands.output_and_scratch::<f32, f32>(0);
        assert!(x.len() == self.x.len() && y.len() == self.y.len(), "x and y are as the signature says");
        assert!(residual.is_none_or(|residual| residual.len() == y.len()), "the residual lies as y");
        assert!(scratch.len() * 4 >= self.scratch_bytes(), "scratch suffices");
        let (v_len, m_len) = self.lens();
        let own_len = self.squares() * (v_len + m_len);
        let (y, scratch) = (Shared(y.as_mut_ptr()), Shared(scratch.as_mut_ptr()));
        for_each_part(self.parts, &|part| {
            // SAFETY: parts clear disjoint planes, and what tiles write is never halo; each part has scratch space of its own.
            let own = unsafe {
                clear_halos(&self.y, share(self.y.n * self.y.blocks, 1, self.parts, part), y);
                std::slice::from_raw_parts_mut(scratch.get().add(part * own_len), own_len)
            };
            let count = tiles(s, self.f);
            self.tiles(x, y, residual, share(count, self.product.tile_positions().min(6), self.parts, part), own);
        });
    }
}
