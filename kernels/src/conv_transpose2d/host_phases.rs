//! Transposed convolution where x and y lie in blocks, x with the halo its taps need: nothing is copied.

use super::Shape;
use super::phase::{Choice, Phases, halo_needed};
use crate::conv2d::geometry::{Blocked, clear_halos};
use crate::gemm::host_packed::{ALONE_FLOPS, Partition, TILES, constant, default_tile, padded, tile_fits};
use crate::gemm::product::{Addresses, Tail};
use crate::gemm::refuse;
use crate::knob::{Knob, Rule};
use crate::layout::BLOCK;
use crate::partition::{Shared, for_each_part, share};
use crate::simd::tile::Tiles;
use crate::{BuildError, Kernel, Layout, Limits, Operands, Packed, Request, Task, Variant};
use schema::KnobValue;

/// See the module.
pub static PHASES: Variant = Variant {
    id: "conv_transpose2d.host_phases",
    revision: 1,
    knobs: &[
        Knob::pairs("tile", TILES),
        Knob::ints("kc", &[128, 256, 512, 1 << 20]),
        Knob::names("prefetch", &["none", "near"]),
        Knob::names("partition", &["one", "rows", "columns"]),
    ],
    rules: &[
        Rule { reason: "x and y must both lie in channels16", holds: |t, _, _| shape(t).is_some_and(|s| halos(&s).is_some()) },
        Rule {
            reason: "the halo of x is narrower than its taps reach",
            holds: |t, _, _| shape(t).is_some_and(|s| halos(&s).is_some_and(|(x, _)| x >= halo_needed(&s))),
        },
        Rule { reason: "groups do not fill blocks of 16 channels", holds: |t, _, _| shape(t).is_some_and(|s| fill_blocks(&s)) },
        Rule { reason: "the weight is not constant", holds: |t, _, _| shape(t).is_some_and(|s| s.weight_constant) },
        Rule { reason: "this instruction set has no such tile", holds: |_, c, l| tile_fits(c, l) },
        Rule {
            reason: "one thread is granted, and another partition would do the same",
            holds: |_, c, l| l.units > 1 || c.name("partition") == Some("one"),
        },
    ],
    default,
    build: |request| Ok(Box::new(HostPhases::new(request)?)),
};

fn shape(task: &Task) -> Option<Shape> {
    Shape::of(task).ok()
}

/// The halos of x and y, when both are blocked.
fn halos(shape: &Shape) -> Option<(usize, usize)> {
    match (shape.input, shape.output) {
        (Layout::Channels { halo: x }, Layout::Channels { halo: y }) => Some((x, y)),
        _ => None,
    }
}

fn fill_blocks(shape: &Shape) -> bool {
    shape.groups == 1 || (shape.group_c().is_multiple_of(BLOCK) && shape.group_o().is_multiple_of(BLOCK))
}

fn default(task: &Task, limits: &Limits) -> Vec<KnobValue> {
    let Some(shape) = shape(task) else { return Vec::new() };
    let tile = default_tile(crate::simd::available(limits.isa), shape.h * shape.w, shape.group_o().div_ceil(BLOCK));
    let split = limits.units > 1 && shape.flops() >= ALONE_FLOPS as u64;
    vec![
        KnobValue::Pair(tile.0, tile.1),
        KnobValue::Int(256),
        KnobValue::Name("none".to_owned()),
        KnobValue::Name(if split { "rows" } else { "one" }.to_owned()),
    ]
}

/// A transposed convolution in place.
struct HostPhases {
    shape: Shape,
    phases: Phases,
    x: Blocked,
    y: Blocked,
    weight: Packed,
    bias: Option<Packed>,
    partition: Partition,
    parts: usize,
}

impl HostPhases {
    fn new(request: &Request<'_>) -> Result<Self, BuildError> {
        let shape = Shape::of(request.task)?;
        let (config, limits) = (request.config, request.limits);
        let (x_halo, y_halo) = halos(&shape).ok_or_else(|| refuse(request.task, "x and y must both lie in channels16"))?;
        let x = Blocked::new(shape.n, shape.c, shape.h, shape.w, x_halo);
        let y = Blocked::new(shape.n, shape.o, shape.oh, shape.ow, y_halo);
        let choice = Choice {
            tiles: Tiles::of(limits.isa, config.name("prefetch") == Some("near")),
            tile: config.pair("tile").map_or((1, 16), |(positions, columns)| (positions as usize, columns as usize)),
            slice_k: config.int("kc").unwrap_or(256) as usize,
            block_positions: 96,
            epilogue: shape.epilogue,
            tail: Tail::of_blocks(&shape.epilogue, true),
        };
        let phases = Phases::new(&shape, &x, &y, &choice);
        let mut weight = Packed::zeroed(shape.groups * phases.group_len);
        phases.pack(&shape, &constant(request, 1, "weight", shape.weight_shape().iter().product())?, &mut weight);
        let bias = match shape.epilogue.bias {
            true => Some(padded(&constant(request, 2, "bias", shape.o)?)),
            false => None,
        };
        let partition = Partition::of(config);
        let parts = if partition == Partition::One { 1 } else { limits.units as usize };
        Ok(HostPhases { phases, x, y, weight, bias, partition, parts, shape })
    }
}

impl Kernel for HostPhases {
    fn prepared_bytes(&self) -> usize {
        self.weight.bytes() + self.bias.as_ref().map_or(0, Packed::bytes)
    }

    fn run(&self, operands: &mut Operands<'_>) {
        let s = &self.shape;
        let x = operands.input::<f32>(0).expect("x is not optional");
        let residual = if s.epilogue.residual { operands.input::<f32>(3) } else { None };
        let y = operands.output::<f32>(0);
        assert!(x.len() == self.x.len() && y.len() == self.y.len(), "x and y are as the signature says");
        assert!(residual.is_none_or(|residual| residual.len() == y.len()), "the residual lies as y");
        let y = Shared(y.as_mut_ptr());
        let (c_blocks, o_blocks) = (s.group_c() / BLOCK, s.group_o() / BLOCK);
        for_each_part(self.parts, &|part| {
            // SAFETY: parts clear disjoint planes, and what the products write is never halo.
            unsafe { clear_halos(&self.y, share(self.y.n * self.y.blocks, 1, self.parts, part), y) };
            for group in 0..s.groups {
                let by = group * o_blocks * self.y.plane();
                for phase in &self.phases.phases {
                    let product = &phase.product;
                    let addresses = Addresses {
                        a: x[group * c_blocks * self.x.plane()..].as_ptr(),
                        b: self.weight[group * self.phases.group_len + phase.weight_from..].as_ptr(),
                        // SAFETY: the group's first block is inside y.
                        c: unsafe { y.get().add(by) },
                        bias: self.bias.as_ref().map_or(std::ptr::null(), |bias| bias[group * s.group_o()..].as_ptr()),
                        residual: residual.map_or(std::ptr::null(), |residual| residual[by..].as_ptr()),
                    };
                    let (positions, panels) = (product.positions(), product.panels());
                    let (positions, panels) = match self.partition {
                        Partition::Columns => (0..positions, share(panels, product.tile_blocks(), self.parts, part)),
                        _ => (share(positions, product.tile_positions(), self.parts, part), 0..panels),
                    };
                    // SAFETY: operands have the sizes of the signature and rules hold, so the tables stay inside them; parts write
                    // disjoint pixels or panels.
                    unsafe { product.run(&addresses, positions, panels) };
                }
            }
        });
    }
}
