//! The general transposed convolution: image by image and group by group, x is copied into blocks with the halo its taps need, and y
//! out of blocks. Every task is legal.

use super::Shape;
use super::phase::{Choice, Phases, halo_needed};
use crate::conv2d::geometry::{Blocked, clear_halos};
use crate::conv2d::stage::{Places, Slab, add, load, store};
use crate::epilogue::{Activation, Epilogue};
use crate::gemm::host_packed::{ALONE_FLOPS, TILES, constant, default_tile, padded, tile_fits};
use crate::gemm::product::{Addresses, Tail};
use crate::knob::{Knob, Rule};
use crate::layout::BLOCK;
use crate::partition::{Shared, for_each_part, share};
use crate::simd::{self, math::Activate, tile::Tiles};
use crate::{BuildError, Isa, Kernel, Layout, Limits, Operands, Packed, Request, Task, Variant};
use schema::KnobValue;

/// See the module.
pub static STAGED: Variant = Variant {
    id: "conv_transpose2d.host_staged",
    revision: 1,
    knobs: &[Knob::pairs("tile", TILES), Knob::names("partition", &["one", "rows"])],
    rules: &[
        Rule { reason: "this instruction set has no such tile", holds: |_, c, l| tile_fits(c, l) },
        Rule {
            reason: "one thread is granted, and another partition would do the same",
            holds: |_, c, l| l.units > 1 || c.name("partition") == Some("one"),
        },
    ],
    default,
    build: |request| Ok(Box::new(HostStaged::new(request)?)),
};

fn default(task: &Task, limits: &Limits) -> Vec<KnobValue> {
    let Ok(shape) = Shape::of(task) else { return Vec::new() };
    let tile = default_tile(simd::available(limits.isa), shape.h * shape.w, shape.group_o().div_ceil(BLOCK));
    let split = limits.units > 1 && shape.flops() >= ALONE_FLOPS as u64;
    vec![KnobValue::Pair(tile.0, tile.1), KnobValue::Name(if split { "rows" } else { "one" }.to_owned())]
}

/// A transposed convolution in any layout.
struct HostStaged {
    shape: Shape,
    phases: Phases,
    /// One group of one image.
    x: Blocked,
    y: Blocked,
    weight: Option<Packed>,
    bias: Option<Packed>,
    isa: Isa,
    parts: usize,
}

impl HostStaged {
    fn new(request: &Request<'_>) -> Result<Self, BuildError> {
        let shape = Shape::of(request.task)?;
        let (config, limits) = (request.config, request.limits);
        let x = Blocked::new(1, shape.group_c(), shape.h, shape.w, halo_needed(&shape));
        let y = Blocked::new(1, shape.group_o(), shape.oh, shape.ow, 0);
        // A residual is added when the result leaves its blocks, and the activation follows it.
        let late = if shape.epilogue.residual { Activation::None } else { shape.epilogue.activation };
        let choice = Choice {
            tiles: Tiles::of(limits.isa, false),
            tile: config.pair("tile").map_or((1, 16), |(positions, columns)| (positions as usize, columns as usize)),
            slice_k: 256,
            block_positions: 96,
            epilogue: Epilogue { activation: late, ..shape.epilogue },
            tail: if shape.weight_constant { Tail::Left } else { Tail::Zeroed },
        };
        let phases = Phases::new(&shape, &x, &y, &choice);
        let (mut weight, mut bias) = (None, None);
        if shape.weight_constant {
            let mut packed = Packed::zeroed(shape.groups * phases.group_len);
            phases.pack(&shape, &constant(request, 1, "weight", shape.weight_shape().iter().product())?, &mut packed);
            weight = Some(packed);
            if shape.epilogue.bias {
                bias = Some(padded(&constant(request, 2, "bias", shape.o)?));
            }
        }
        let parts = if config.name("partition") == Some("rows") { limits.units as usize } else { 1 };
        Ok(HostStaged { phases, x, y, weight, bias, isa: limits.isa, parts, shape })
    }

    fn weight_len(&self) -> usize {
        if self.weight.is_some() { 0 } else { self.shape.groups * self.phases.group_len }
    }
}

impl Kernel for HostStaged {
    fn scratch_bytes(&self) -> usize {
        4 * (self.weight_len() + self.x.len() + self.y.len())
    }

    fn prepared_bytes(&self) -> usize {
        [&self.weight, &self.bias].into_iter().flatten().map(Packed::bytes).sum()
    }

    fn run(&self, operands: &mut Operands<'_>) {
        let s = &self.shape;
        let x = operands.input::<f32>(0).expect("x is not optional");
        let weight = if self.weight.is_some() { None } else { operands.input::<f32>(1) };
        let bias = match &self.bias {
            Some(bias) => Some(&bias[..]),
            None if s.epilogue.bias => operands.input::<f32>(2),
            None => None,
        };
        let residual = if s.epilogue.residual { operands.input::<f32>(3) } else { None };
        let (y, scratch) = operands.output_and_scratch::<f32, f32>(0);
        assert_eq!(x.len(), s.input.elements(&[s.n, s.c, s.h, s.w]), "x is as the signature says");
        assert_eq!(y.len(), s.output.elements(&s.output_shape()), "y is as the signature says");
        assert!(residual.is_none_or(|residual| residual.len() == y.len()), "the residual lies as y");
        assert!(bias.is_none_or(|bias| bias.len() >= s.o) && scratch.len() * 4 >= self.scratch_bytes(), "operands suffice");
        let (packed, scratch) = scratch.split_at_mut(self.weight_len());
        if let Some(weight) = weight {
            self.phases.pack(s, weight, packed);
        }
        let weight: &[f32] = self.weight.as_deref().unwrap_or(packed);
        let (staged_x, rest) = scratch.split_at_mut(self.x.len());
        let staged_y = &mut rest[..self.y.len()];
        let x_places = Places::new(s.input, [s.n, s.c, s.h, s.w]);
        let y_places = Places::new(s.output, [s.n, s.o, s.oh, s.ow]);
        if let Layout::Channels { halo } = s.output {
            // Lanes that pad the last block are in no slab.
            if !s.o.is_multiple_of(BLOCK) {
                y.fill(0.0);
            }
            let blocked = Blocked::new(s.n, s.o, s.oh, s.ow, halo);
            // SAFETY: y is all of the blocked tensor, and ours alone.
            unsafe { clear_halos(&blocked, 0..blocked.n * blocked.blocks, Shared(y.as_mut_ptr())) };
        }
        let y = y.as_mut_ptr();
        staged_x.fill(0.0);
        for (image, group) in (0..s.n * s.groups).map(|i| (i / s.groups, i % s.groups)) {
            for (block, plane) in staged_x.chunks_exact_mut(self.x.plane()).enumerate() {
                let channels = BLOCK.min(s.group_c() - block * BLOCK);
                let channel = group * s.group_c() + block * BLOCK;
                load(x, &x_places, &Slab { image, channel, channels, h: s.h, w: s.w }, plane, self.x.pixel(0, 0), self.x.row());
            }
            self.multiply(
                staged_x,
                &weight[group * self.phases.group_len..],
                bias.map(|bias| &bias[group * s.group_o()..]),
                staged_y,
            );
            for (block, plane) in staged_y.chunks_exact_mut(self.y.plane()).enumerate() {
                let channels = BLOCK.min(s.group_o() - block * BLOCK);
                let slab = Slab { image, channel: group * s.group_o() + block * BLOCK, channels, h: s.oh, w: s.ow };
                if let Some(residual) = residual {
                    add(residual, &y_places, &slab, plane);
                    simd::run(self.isa, Activate { activation: s.epilogue.activation, values: plane });
                }
                // SAFETY: the slab is inside y, which is ours alone.
                unsafe { store(plane, &y_places, &slab, y) };
            }
        }
    }
}

impl HostStaged {
    /// All phases of one group of one image.
    fn multiply(&self, x: &[f32], weight: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
        let y = Shared(y.as_mut_ptr());
        for_each_part(self.parts, &|part| {
            for phase in &self.phases.phases {
                let addresses = Addresses {
                    a: x.as_ptr(),
                    b: weight[phase.weight_from..].as_ptr(),
                    c: y.get(),
                    bias: bias.map_or(std::ptr::null(), <[f32]>::as_ptr),
                    residual: std::ptr::null(),
                };
                let own = share(phase.product.positions(), phase.product.tile_positions(), self.parts, part);
                // SAFETY: the copies have the sizes the tables were made for; parts write disjoint pixels.
                unsafe { phase.product.run(&addresses, own, 0..phase.product.panels()) };
            }
        });
    }
}
