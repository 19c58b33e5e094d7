//! The general convolution: what each block of pixels reads is copied into rows, and multiplied.
//!
//! Every task is legal: any layouts, padding, dilation and groups, and weights that are only known at run time. Between blocked
//! layouts whole lines of sixteen channels are copied, which costs a few per cent of the product; other layouts go element by
//! element.

use super::Shape;
use super::gather::{Gather, Scatter};
use super::geometry::{Blocked, clear_halos};
use super::weights::{Order, pack, packed_len, prepare, prepare_bias};
use crate::epilogue::{Activation, Epilogue};
use crate::gemm::host_packed::{ALONE_FLOPS, TILES, at_most, at_most_next, default_tile, tile_fits};
use crate::gemm::product::{Addresses, Parts, Product, Steps, Tail, offset};
use crate::knob::{Knob, Rule};
use crate::layout::BLOCK;
use crate::partition::{Shared, for_each_part, share};
use crate::simd::math::Activate;
use crate::simd::{self, tile::Tiles};
use crate::{BuildError, Isa, Kernel, Layout, Limits, Operands, Packed, Request, Task, Variant};
use schema::KnobValue;
use std::ops::Range;

/// k in one slice.
const KC: &[i64] = &[144, 288, 576];
/// Pixels in one block.
const MC: &[i64] = &[24, 48, 96, 192];

/// See the module.
pub static IM2COL: Variant = Variant {
    id: "conv2d.host_im2col",
    revision: 2,
    knobs: &[
        Knob::pairs("tile", TILES),
        Knob::ints("kc", KC),
        Knob::ints("mc", MC),
        Knob::names("prefetch", &["none", "near"]),
        Knob::names("partition", &["one", "rows"]),
    ],
    rules: &[
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
    build: |request| Ok(Box::new(HostIm2col::new(request)?)),
};

fn shape(task: &Task) -> Option<Shape> {
    Shape::of(task).ok()
}

fn default(task: &Task, limits: &Limits) -> Vec<KnobValue> {
    let Some(shape) = shape(task) else { return Vec::new() };
    let tile = default_tile(simd::available(limits.isa), shape.pixels(), shape.group_o().div_ceil(BLOCK));
    let split = limits.units > 1 && shape.flops() >= ALONE_FLOPS as u64;
    let near = 4 * packed_len(&shape) as u64 > limits.l2_bytes / 2;
    vec![
        KnobValue::Pair(tile.0, tile.1),
        KnobValue::Int(at_most(KC, shape.group_c() * shape.kh * shape.kw, 288)),
        KnobValue::Int(at_most(MC, shape.pixels(), 96)),
        KnobValue::Name(if near { "near" } else { "none" }.to_owned()),
        KnobValue::Name(if split { "rows" } else { "one" }.to_owned()),
    ]
}

/// A convolution by copied rows.
struct HostIm2col {
    shape: Shape,
    product: Product,
    gather: Gather,
    /// How a finished block leaves; `None` when tiles write y themselves.
    scatter: Option<Scatter>,
    y: Option<Blocked>,
    order: Order,
    weight: Option<Packed>,
    bias: Option<Packed>,
    isa: Isa,
    parts: usize,
}

impl HostIm2col {
    fn new(request: &Request<'_>) -> Result<Self, BuildError> {
        let shape = Shape::of(request.task)?;
        let (config, limits) = (request.config, request.limits);
        let lines = matches!(shape.input, Layout::Channels { .. }) && shape.groups_fill_blocks();
        let y = match shape.output {
            Layout::Channels { halo } => Some(Blocked::new(shape.n, shape.o, shape.oh, shape.ow, halo)),
            _ => None,
        };
        let place = y.filter(|_| shape.groups_fill_blocks());
        let mc = (config.int("mc").unwrap_or(96) as usize).min(shape.pixels());
        let k = shape.group_c() * shape.kh * shape.kw;
        let taps = shape.kh * shape.kw;
        let mut steps = Steps::even(k, mc * BLOCK);
        if lines {
            let count = shape.group_c().div_ceil(BLOCK) * taps;
            steps = Steps {
                at: (0..count).map(|step| offset(step * mc * BLOCK)).collect(),
                full: shape.group_c() / BLOCK * taps,
                full_k: BLOCK,
                part_k: shape.group_c() % BLOCK,
            };
        }
        // A residual that lies elsewhere than C is added when the block leaves, and the activation follows it.
        let late = place.is_none() && shape.epilogue.residual;
        let in_tile = if late { Epilogue { activation: Activation::None, ..shape.epilogue } } else { shape.epilogue };
        let product = Product::new(Parts {
            tiles: Tiles::of(limits.isa, config.name("prefetch") == Some("near")),
            tile: config.pair("tile").map_or((1, 16), |(positions, columns)| (positions as usize, columns as usize)),
            positions: shape.pixels(),
            a_at: (0..mc).map(|i| offset(i * BLOCK)).collect(),
            c_at: place.map_or_else(|| (0..mc).map(|i| offset(i * BLOCK)).collect(), |y| y.pixels()),
            a_packed: true,
            c_packed: place.is_none(),
            steps,
            slice_k: config.int("kc").unwrap_or(288) as usize,
            columns: shape.group_o(),
            c_block: place.map_or(mc * BLOCK, |y| y.plane()),
            tail: match place {
                None if shape.weight_constant => Tail::Left,
                None => Tail::Zeroed,
                Some(_) => Tail::of_blocks(&shape.epilogue, shape.weight_constant),
            },
            block_positions: mc,
            alpha: 1.0,
            epilogue: in_tile,
        });
        let order = if lines { Order::Blocks } else { Order::AsGiven };
        Ok(HostIm2col {
            gather: Gather::new(&shape, lines, limits.isa),
            scatter: place.is_none().then(|| Scatter::new(&shape, limits.isa)),
            y,
            order,
            weight: prepare(request, &shape, order)?,
            bias: prepare_bias(request, &shape)?,
            isa: limits.isa,
            parts: if config.name("partition") == Some("rows") { limits.units as usize } else { 1 },
            product,
            shape,
        })
    }

    /// f32 of scratch space for dynamic weights.
    fn weight_len(&self) -> usize {
        if self.weight.is_some() { 0 } else { packed_len(&self.shape) }
    }

    /// f32 of scratch space of one thread for A.
    fn a_len(&self) -> usize {
        self.product.slice_steps_max() * self.product.block_positions() * BLOCK
    }

    /// f32 of scratch space of one thread for C.
    fn c_len(&self) -> usize {
        if self.scatter.is_some() { self.product.panels() * self.product.block_positions() * BLOCK } else { 0 }
    }

    /// The pixels of one thread. `whole` has the addresses of whole operands and the weights.
    ///
    /// # Safety
    /// The addresses are those of operands as the signature says; this thread alone writes y at `pixels`.
    unsafe fn pixels(&self, whole: &Addresses, x: &[f32], residual: Option<&[f32]>, pixels: Range<usize>, scratch: &mut [f32]) {
        let (shape, product) = (&self.shape, &self.product);
        let (a, c) = scratch.split_at_mut(self.a_len());
        let a_shared = Shared(a.as_mut_ptr());
        let c_shared = Shared(c.as_mut_ptr());
        let (a_len, c_len) = (self.a_len(), self.c_len());
        for group in 0..shape.groups {
            let mut addresses = Addresses { a: a_shared.get(), ..*whole };
            // SAFETY: the group's weights, bias and, where tiles write y, whole blocks of channels lie inside the operands.
            unsafe {
                addresses.b = whole.b.add(group * product.panels() * product.panel_len());
                if !whole.bias.is_null() {
                    addresses.bias = whole.bias.add(group * shape.group_o());
                }
                match (&self.scatter, &self.y) {
                    (None, Some(y)) => {
                        let by = group * (shape.group_o() / BLOCK) * y.plane();
                        addresses.c = whole.c.add(by);
                        if !whole.residual.is_null() {
                            addresses.residual = whole.residual.add(by);
                        }
                    }
                    _ => {
                        addresses.c = c_shared.get();
                        addresses.residual = std::ptr::null();
                    }
                }
                product.run_packed(
                    &addresses,
                    pixels.clone(),
                    0..product.panels(),
                    |steps, pixels| {
                        let a = std::slice::from_raw_parts_mut(a_shared.get(), a_len);
                        self.gather.run(x, group, steps, pixels, product.block_positions(), a);
                    },
                    |pixels| {
                        let Some(scatter) = &self.scatter else { return };
                        let c = std::slice::from_raw_parts_mut(c_shared.get(), c_len);
                        if let Some(residual) = residual {
                            scatter.add(residual, group, pixels.clone(), product.block_positions(), c);
                            simd::run(self.isa, Activate { activation: shape.epilogue.activation, values: c });
                        }
                        scatter.run(c, group, pixels, product.block_positions(), whole.c);
                    },
                );
            }
        }
    }
}

impl Kernel for HostIm2col {
    fn scratch_bytes(&self) -> usize {
        4 * (self.weight_len() + self.parts * (self.a_len() + self.c_len()))
    }

    fn prepared_bytes(&self) -> usize {
        [&self.weight, &self.bias].into_iter().flatten().map(Packed::bytes).sum()
    }

    fn run(&self, operands: &mut Operands<'_>) {
        let shape = &self.shape;
        let x = operands.input::<f32>(0).expect("x is not optional");
        let dynamic = if self.weight.is_some() { None } else { operands.input::<f32>(1) };
        let bias = match &self.bias {
            Some(bias) => Some(&bias[..]),
            None if shape.epilogue.bias => operands.input::<f32>(2),
            None => None,
        };
        let residual = if shape.epilogue.residual { operands.input::<f32>(3) } else { None };
        let (y, scratch) = operands.output_and_scratch::<f32, f32>(0);
        assert_eq!(x.len(), shape.input.elements(&[shape.n, shape.c, shape.h, shape.w]), "x is as the signature says");
        assert_eq!(y.len(), shape.output.elements(&shape.output_shape()), "y is as the signature says");
        assert!(residual.is_none_or(|residual| residual.len() == y.len()), "the residual lies as y");
        assert!(bias.is_none_or(|bias| bias.len() >= shape.o) && scratch.len() * 4 >= self.scratch_bytes(), "operands suffice");
        let (packed, scratch) = scratch.split_at_mut(self.weight_len());
        if let Some(weight) = dynamic {
            pack(shape, self.order, weight, packed);
        }
        if self.scatter.is_some() && self.y.is_some() {
            // Lanes that pad the last block are nobody's: clear everything first.
            y.fill(0.0);
        }
        let whole = Addresses {
            a: std::ptr::null(),
            b: self.weight.as_ref().map_or(packed.as_ptr(), |weight| weight.as_ptr()),
            c: y.as_mut_ptr(),
            bias: bias.map_or(std::ptr::null(), <[f32]>::as_ptr),
            residual: residual.map_or(std::ptr::null(), <[f32]>::as_ptr),
        };
        let planes = Shared(whole.c);
        let scratch = Shared(scratch.as_mut_ptr());
        let own_len = self.a_len() + self.c_len();
        for_each_part(self.parts, &|part| {
            if let Some(y) = &self.y {
                // SAFETY: parts clear disjoint planes, and what pixels are written is never halo.
                unsafe { clear_halos(y, share(y.n * y.blocks, 1, self.parts, part), planes) };
            }
            let own = share(shape.pixels(), self.product.tile_positions(), self.parts, part);
            // SAFETY: each part has scratch space and pixels of its own; operands were checked above.
            unsafe {
                let scratch = std::slice::from_raw_parts_mut(scratch.get().add(part * own_len), own_len);
                self.pixels(&whole, x, residual, own, scratch);
            }
        });
    }
}
