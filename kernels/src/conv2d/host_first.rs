//! The first layers of image networks: few channels in rows, blocked output.
//!
//! With three channels blocks of sixteen would be mostly padding. The image is copied to channels last, with its border, which costs
//! little because it is small; then (kx, channel) is one run of consecutive values and a step of the register tile.

use super::Shape;
use super::geometry::{Blocked, clear_halos};
use super::weights::{Order, prepare, prepare_bias};
use crate::gemm::host_packed::{ALONE_FLOPS, TILES, default_tile, tile_fits};
use crate::gemm::product::{Addresses, Parts, Product, Steps, Tail, offset};
use crate::gemm::refuse;
use crate::knob::{Knob, Rule};
use crate::layout::BLOCK;
use crate::partition::{Shared, for_each_part, share};
use crate::simd::tile::Tiles;
use crate::{BuildError, Kernel, Layout, Limits, Operands, Packed, Request, Task, Variant};
use schema::KnobValue;

/// The most channels: beyond it blocks are not mostly padding.
const CHANNELS_MAX: usize = 12;

/// See the module.
pub static FIRST: Variant = Variant {
    id: "conv2d.host_first",
    revision: 1,
    knobs: &[Knob::pairs("tile", TILES), Knob::ints("mc", &[48, 192, 1 << 20]), Knob::names("partition", &["one", "rows"])],
    rules: &[
        Rule { reason: "x does not lie in rows", holds: |t, _, _| shape(t).is_some_and(|s| s.input == Layout::Rows) },
        Rule {
            reason: "y does not lie in channels16",
            holds: |t, _, _| shape(t).is_some_and(|s| matches!(s.output, Layout::Channels { .. })),
        },
        Rule {
            reason: "more than 12 channels, or more than one group",
            holds: |t, _, _| shape(t).is_some_and(|s| s.c <= CHANNELS_MAX && s.groups == 1),
        },
        Rule { reason: "the weight is not constant", holds: |t, _, _| shape(t).is_some_and(|s| s.weight_constant) },
        Rule { reason: "this instruction set has no such tile", holds: |_, c, l| tile_fits(c, l) },
        Rule {
            reason: "one thread is granted, and another partition would do the same",
            holds: |_, c, l| l.units > 1 || c.name("partition") == Some("one"),
        },
    ],
    default,
    build: |request| Ok(Box::new(HostFirst::new(request)?)),
};

fn shape(task: &Task) -> Option<Shape> {
    Shape::of(task).ok()
}

fn default(task: &Task, limits: &Limits) -> Vec<KnobValue> {
    let Some(shape) = shape(task) else { return Vec::new() };
    let tile = default_tile(crate::simd::available(limits.isa), shape.pixels(), shape.o.div_ceil(BLOCK));
    let split = limits.units > 1 && shape.flops() >= ALONE_FLOPS as u64;
    vec![KnobValue::Pair(tile.0, tile.1), KnobValue::Int(192), KnobValue::Name(if split { "rows" } else { "one" }.to_owned())]
}

/// A first layer.
struct HostFirst {
    shape: Shape,
    product: Product,
    /// The height and width of the copied image with its border.
    extent: [usize; 2],
    y: Blocked,
    weight: Packed,
    bias: Option<Packed>,
    parts: usize,
}

impl HostFirst {
    fn new(request: &Request<'_>) -> Result<Self, BuildError> {
        let s = Shape::of(request.task)?;
        let (config, limits) = (request.config, request.limits);
        let Layout::Channels { halo } = s.output else {
            return Err(refuse(request.task, "y does not lie in channels16"));
        };
        let y = Blocked::new(s.n, s.o, s.oh, s.ow, halo);
        let extent = [s.h + s.pads[0] + s.pads[2], s.w + s.pads[1] + s.pads[3]];
        let (row, image) = (extent[1] * s.c, extent[0] * extent[1] * s.c);
        let mut a_at = Vec::with_capacity(s.pixels());
        for index in 0..s.n {
            for oy in 0..s.oh {
                a_at.extend((0..s.ow).map(|ox| offset(index * image + oy * s.strides[0] * row + ox * s.strides[1] * s.c)));
            }
        }
        // Undilated, a row of the kernel is one run; else each tap is.
        let (runs, run_k) = if s.dilations[1] == 1 { (1, s.kw * s.c) } else { (s.kw, s.c) };
        let step = |i: usize| offset(i / runs * s.dilations[0] * row + i % runs * s.dilations[1] * s.c);
        let product = Product::new(Parts {
            tiles: Tiles::of(limits.isa, false),
            tile: config.pair("tile").map_or((1, 16), |(positions, columns)| (positions as usize, columns as usize)),
            positions: s.pixels(),
            a_at,
            c_at: y.pixels(),
            a_packed: false,
            c_packed: false,
            steps: Steps { at: (0..s.kh * runs).map(step).collect(), full: s.kh * runs, full_k: run_k, part_k: 0 },
            slice_k: 1 << 20,
            columns: s.o,
            c_block: y.plane(),
            tail: Tail::of_blocks(&s.epilogue, true),
            block_positions: config.int("mc").unwrap_or(192) as usize,
            alpha: 1.0,
            epilogue: s.epilogue,
        });
        let missing = || refuse(request.task, "the weight is not constant");
        Ok(HostFirst {
            product,
            extent,
            y,
            weight: prepare(request, &s, Order::ChannelsLast)?.ok_or_else(missing)?,
            bias: prepare_bias(request, &s)?,
            parts: if config.name("partition") == Some("rows") { limits.units as usize } else { 1 },
            shape: s,
        })
    }

    fn row(&self) -> usize {
        self.extent[1] * self.shape.c
    }

    /// Copies one line of x, counted over all images, to channels last.
    fn copy_line(&self, x: &[f32], line: usize, to: &mut [f32]) {
        let s = &self.shape;
        let (image, y) = (line / s.h, line % s.h);
        let from = |c: usize| &x[((image * s.c + c) * s.h + y) * s.w..][..s.w];
        let inside = &mut to[s.pads[1] * s.c..][..s.w * s.c];
        if s.c == 3 {
            let (r, g, b) = (from(0), from(1), from(2));
            // Value by value: a copy of three at once goes through the stack and stalls there.
            for (((pixel, &r), &g), &b) in inside.chunks_exact_mut(3).zip(r).zip(g).zip(b) {
                pixel[0] = r;
                pixel[1] = g;
                pixel[2] = b;
            }
        } else {
            for c in 0..s.c {
                for (pixel, &value) in inside.chunks_exact_mut(s.c).zip(from(c)) {
                    pixel[c] = value;
                }
            }
        }
    }

    /// Copies lines of the bordered images `lines`, counted over all images.
    fn copy_lines(&self, x: &[f32], lines: std::ops::Range<usize>, to: &mut [f32]) {
        let s = &self.shape;
        for (at, to) in lines.zip(to.chunks_exact_mut(self.row())) {
            to.fill(0.0);
            let (image, y) = (at / self.extent[0], (at % self.extent[0]).wrapping_sub(s.pads[0]));
            if y < s.h {
                self.copy_line(x, image * s.h + y, to);
            }
        }
    }
}

impl Kernel for HostFirst {
    fn scratch_bytes(&self) -> usize {
        4 * self.shape.n * self.extent[0] * self.row()
    }

    fn prepared_bytes(&self) -> usize {
        self.weight.bytes() + self.bias.as_ref().map_or(0, Packed::bytes)
    }

    fn run(&self, operands: &mut Operands<'_>) {
        let s = &self.shape;
        let x = operands.input::<f32>(0).expect("x is not optional");
        let residual = if s.epilogue.residual { operands.input::<f32>(3) } else { None };
        let (y, scratch) = operands.output_and_scratch::<f32, f32>(0);
        assert!(x.len() == s.n * s.c * s.h * s.w && y.len() == self.y.len(), "x and y are as the signature says");
        assert!(residual.is_none_or(|residual| residual.len() == y.len()), "the residual lies as y");
        assert!(scratch.len() * 4 >= self.scratch_bytes(), "scratch suffices");
        let image = Shared(scratch.as_mut_ptr());
        for_each_part(self.parts, &|part| {
            let lines = share(s.n * self.extent[0], 1, self.parts, part);
            // SAFETY: parts copy disjoint lines, and scratch holds them all.
            let to =
                unsafe { std::slice::from_raw_parts_mut(image.get().add(lines.start * self.row()), lines.len() * self.row()) };
            self.copy_lines(x, lines, to);
        });
        let addresses = Addresses {
            a: image.get(),
            b: self.weight.as_ptr(),
            c: y.as_mut_ptr(),
            bias: self.bias.as_ref().map_or(std::ptr::null(), |bias| bias.as_ptr()),
            residual: residual.map_or(std::ptr::null(), <[f32]>::as_ptr),
        };
        let planes = Shared(addresses.c);
        for_each_part(self.parts, &|part| {
            let own = share(self.product.positions(), self.product.tile_positions(), self.parts, part);
            // SAFETY: all lines are copied; parts clear disjoint planes and write disjoint pixels, none of them halo.
            unsafe {
                clear_halos(&self.y, share(self.y.n * self.y.blocks, 1, self.parts, part), planes);
                self.product.run(&addresses, own, 0..self.product.panels());
            }
        });
    }
}
