//! Direct convolution on blocked images: the register tile reads the image through a table of offsets, so nothing is copied and the
//! halo takes the place of borders.
//!
//! Pixels of all images are one flat axis; a tile may span rows and images. Weights lie as `[o/16][c/16][ky][kx][16 c][16 o]`.

use super::Shape;
use super::geometry::{Blocked, clear_halos, steps};
use super::weights::{Order, prepare, prepare_bias};
use crate::gemm::host_packed::{ALONE_FLOPS, Partition, TILES, at_most, at_most_next, default_tile, tile_fits};
use crate::gemm::product::{Addresses, Parts, Product, Tail};
use crate::gemm::refuse;
use crate::knob::{Knob, Rule};
use crate::layout::BLOCK;
use crate::partition::{Shared, for_each_part, share};
use crate::simd::tile::Tiles;
use crate::{BuildError, Kernel, Layout, Limits, Operands, Packed, Request, Task, Variant};
use schema::KnobValue;

/// k in one slice.
const KC: &[i64] = &[144, 288, 576, 1 << 20];
/// Pixels that pass before the next panel.
const MC: &[i64] = &[48, 96, 192, 1 << 20];

/// See the module.
pub static DIRECT: Variant = Variant {
    id: "conv2d.host_direct",
    revision: 1,
    knobs: &[
        Knob::pairs("tile", TILES),
        Knob::ints("kc", KC),
        Knob::ints("mc", MC),
        Knob::names("prefetch", &["none", "near"]),
        Knob::names("partition", &["one", "rows", "columns"]),
    ],
    rules: &[
        Rule { reason: "x and y must both lie in channels16", holds: |t, _, _| shape(t).is_some_and(|s| blocked(&s)) },
        Rule {
            reason: "the halo of x is narrower than the padding",
            holds: |t, _, _| shape(t).is_some_and(|s| s.halo_covers_pads()),
        },
        Rule {
            reason: "groups do not fill blocks of 16 channels",
            holds: |t, _, _| shape(t).is_some_and(|s| s.groups_fill_blocks()),
        },
        Rule { reason: "the weight is not constant", holds: |t, _, _| shape(t).is_some_and(|s| s.weight_constant) },
        Rule { reason: "this instruction set has no such tile", holds: |_, c, l| tile_fits(c, l) },
        Rule {
            reason: "one thread is granted, and another partition would do the same",
            holds: |_, c, l| l.units > 1 || c.name("partition") == Some("one"),
        },
        Rule {
            reason: "a lesser kc already takes all of k at once",
            holds: |t, c, _| shape(t).is_some_and(|s| at_most_next(c.int("kc"), KC, s.group_c() * s.kh * s.kw)),
        },
        Rule {
            reason: "a lesser mc already takes all pixels at once",
            holds: |t, c, _| shape(t).is_some_and(|s| at_most_next(c.int("mc"), MC, s.pixels())),
        },
    ],
    default,
    build: |request| Ok(Box::new(HostDirect::new(request)?)),
};

fn shape(task: &Task) -> Option<Shape> {
    Shape::of(task).ok()
}

fn blocked(shape: &Shape) -> bool {
    matches!((shape.input, shape.output), (Layout::Channels { .. }, Layout::Channels { .. }))
}

fn default(task: &Task, limits: &Limits) -> Vec<KnobValue> {
    let Some(shape) = shape(task) else { return Vec::new() };
    let tile = default_tile(crate::simd::available(limits.isa), shape.pixels(), shape.group_o().div_ceil(BLOCK));
    let weights = shape.o * shape.group_c() * shape.kh * shape.kw;
    let partition = if limits.units == 1 || shape.flops() < ALONE_FLOPS as u64 {
        "one"
    } else if weights > shape.c * shape.n * shape.h * shape.w && shape.o >= 2 * BLOCK * limits.units as usize {
        "columns"
    } else {
        "rows"
    };
    let near = 4 * weights as u64 > limits.l2_bytes / 2;
    vec![
        KnobValue::Pair(tile.0, tile.1),
        KnobValue::Int(at_most(KC, shape.group_c() * shape.kh * shape.kw, 288)),
        KnobValue::Int(at_most(MC, shape.pixels(), 192)),
        KnobValue::Name(if near { "near" } else { "none" }.to_owned()),
        KnobValue::Name(partition.to_owned()),
    ]
}

/// A direct convolution with its tables and packed weights.
struct HostDirect {
    shape: Shape,
    product: Product,
    x: Blocked,
    y: Blocked,
    weight: Packed,
    bias: Option<Packed>,
    partition: Partition,
    parts: usize,
}

impl HostDirect {
    fn new(request: &Request<'_>) -> Result<Self, BuildError> {
        let shape = Shape::of(request.task)?;
        let (config, limits) = (request.config, request.limits);
        let (Layout::Channels { halo: x_halo }, Layout::Channels { halo: y_halo }) = (shape.input, shape.output) else {
            return Err(refuse(request.task, "x and y must both lie in channels16"));
        };
        let x = Blocked::new(shape.n, shape.c, shape.h, shape.w, x_halo);
        let y = Blocked::new(shape.n, shape.o, shape.oh, shape.ow, y_halo);
        let tile = config.pair("tile").map_or((1, 16), |(positions, columns)| (positions as usize, columns as usize));
        let product = Product::new(Parts {
            tiles: Tiles::of(limits.isa, config.name("prefetch") == Some("near")),
            tile,
            positions: shape.pixels(),
            a_at: x.strided([shape.oh, shape.ow], shape.strides, [shape.pads[0], shape.pads[1]]),
            c_at: y.pixels(),
            a_packed: false,
            c_packed: false,
            steps: steps(&shape, x.plane(), x.row()),
            slice_k: config.int("kc").unwrap_or(288) as usize,
            columns: shape.group_o(),
            c_block: y.plane(),
            tail: Tail::of_blocks(&shape.epilogue, true),
            block_positions: config.int("mc").unwrap_or(192) as usize,
            alpha: 1.0,
            epilogue: shape.epilogue,
        });
        let weight =
            prepare(request, &shape, Order::Blocks)?.ok_or_else(|| refuse(request.task, "the weight is not constant"))?;
        let bias = prepare_bias(request, &shape)?;
        let partition = Partition::of(config);
        let parts = if partition == Partition::One { 1 } else { limits.units as usize };
        Ok(HostDirect { product, x, y, weight, bias, partition, parts, shape })
    }
}

impl Kernel for HostDirect {
    fn prepared_bytes(&self) -> usize {
        self.weight.bytes() + self.bias.as_ref().map_or(0, Packed::bytes)
    }

    fn run(&self, operands: &mut Operands<'_>) {
        let (shape, product) = (&self.shape, &self.product);
        let x = operands.input::<f32>(0).expect("x is not optional");
        let residual = if shape.epilogue.residual { operands.input::<f32>(3) } else { None };
        let y = operands.output::<f32>(0);
        assert!(x.len() == self.x.len() && y.len() == self.y.len(), "x and y are as the signature says");
        assert!(residual.is_none_or(|residual| residual.len() == y.len()), "the residual lies as y");
        let addresses = Addresses {
            a: x.as_ptr(),
            b: self.weight.as_ptr(),
            c: y.as_mut_ptr(),
            bias: self.bias.as_ref().map_or(std::ptr::null(), |bias| bias.as_ptr()),
            residual: residual.map_or(std::ptr::null(), <[f32]>::as_ptr),
        };
        let (positions, panels) = (product.positions(), product.panels());
        let planes = Shared(addresses.c);
        for_each_part(self.parts, &|part| {
            // SAFETY: parts clear disjoint planes, and what the product writes is never halo.
            unsafe { clear_halos(&self.y, share(self.y.n * self.y.blocks, 1, self.parts, part), planes) };
            let (own, panels) = match self.partition {
                Partition::Columns => (0..positions, share(panels, product.tile_blocks(), self.parts, part)),
                _ => (share(positions, product.tile_positions(), self.parts, part), 0..panels),
            };
            for group in 0..shape.groups {
                // SAFETY: operands have the sizes of the signature and rules hold, so that the tables stay inside them; groups fill
                // whole blocks, and the parts write disjoint pixels or panels.
                unsafe { product.run(&self.group(&addresses, group), own.clone(), panels.clone()) };
            }
        });
    }
}

impl HostDirect {
    /// The addresses of one group.
    ///
    /// # Safety
    /// The addresses are those of whole operands.
    unsafe fn group(&self, all: &Addresses, group: usize) -> Addresses {
        let (c_blocks, o_blocks) = (self.shape.group_c() / BLOCK, self.shape.group_o() / BLOCK);
        if group == 0 {
            return *all;
        }
        let y = group * o_blocks * self.y.plane();
        // SAFETY: the group's channels are whole blocks inside the operands.
        unsafe {
            Addresses {
                a: all.a.add(group * c_blocks * self.x.plane()),
                b: all.b.add(group * self.product.panels() * self.product.panel_len()),
                c: all.c.add(y),
                bias: if all.bias.is_null() { all.bias } else { all.bias.add(group * o_blocks * BLOCK) },
                residual: if all.residual.is_null() { all.residual } else { all.residual.add(y) },
            }
        }
    }
}
