//! Depthwise convolution where x and y lie in blocks and the halo covers the padding: nothing is copied, and rows can be split too.

use super::host_staged::{PIXELS, default, pixels_fit};
use super::plane::{Plane, PlaneAt, packed};
use super::shape;
use crate::conv2d::geometry::{Blocked, clear_halos};
use crate::conv2d::{Shape, weights};
use crate::gemm::host_packed::constant;
use crate::gemm::refuse;
use crate::knob::{Knob, Rule};
use crate::layout::BLOCK;
use crate::partition::{Shared, for_each_part, share};
use crate::{BuildError, Kernel, Layout, Operands, Packed, Request, Variant};

/// See the module.
pub static BLOCKED: Variant = Variant {
    id: "depthwise.host_blocked",
    revision: 1,
    knobs: &[Knob::ints("pixels", PIXELS), Knob::names("partition", &["one", "planes", "rows"])],
    rules: &[
        Rule {
            reason: "y does not lie in channels16",
            holds: |t, _, _| shape(t).is_ok_and(|s| matches!(s.output, Layout::Channels { .. })),
        },
        Rule {
            reason: "x does not lie in channels16 with a halo as wide as the padding",
            holds: |t, _, _| shape(t).is_ok_and(|s| s.halo_covers_pads()),
        },
        Rule { reason: "the weight is not constant", holds: |t, _, _| shape(t).is_ok_and(|s| s.weight_constant) },
        Rule { reason: "the tile exceeds the registers", holds: pixels_fit },
        Rule {
            reason: "one thread is granted, and another partition would do the same",
            holds: |_, c, l| l.units > 1 || c.name("partition") == Some("one"),
        },
    ],
    default: |task, limits| {
        let planes = shape(task).map_or(0, |s| s.n * s.c.div_ceil(BLOCK));
        default(task, limits, if planes >= 2 * limits.units as usize { "planes" } else { "rows" })
    },
    build: |request| Ok(Box::new(HostBlocked::new(request)?)),
};

/// A depthwise convolution in place.
struct HostBlocked {
    shape: Shape,
    plane: Plane,
    x: Blocked,
    y: Blocked,
    weight: Packed,
    bias: Option<Packed>,
    parts: usize,
    /// Whether parts take rows of every plane instead of whole planes.
    by_rows: bool,
}

impl HostBlocked {
    fn new(request: &Request<'_>) -> Result<Self, BuildError> {
        let shape = shape(request.task)?;
        let (Layout::Channels { halo: x_halo }, Layout::Channels { halo: y_halo }) = (shape.input, shape.output) else {
            return Err(refuse(request.task, "x and y must both lie in channels16"));
        };
        let x = Blocked::new(shape.n, shape.c, shape.h, shape.w, x_halo);
        let y = Blocked::new(shape.n, shape.o, shape.oh, shape.ow, y_halo);
        let plane = Plane::new(
            request.limits.isa,
            request.config.int("pixels").unwrap_or(1) as usize,
            &shape,
            x.row(),
            y.row(),
            shape.epilogue.activation,
        );
        let weight = packed(&constant(request, 1, "weight", shape.c * shape.kh * shape.kw)?, shape.c, shape.kh * shape.kw);
        let partition = request.config.name("partition");
        Ok(HostBlocked {
            plane,
            x,
            y,
            weight,
            bias: weights::prepare_bias(request, &shape)?,
            parts: if partition == Some("one") { 1 } else { request.limits.units as usize },
            by_rows: partition == Some("rows"),
            shape,
        })
    }
}

impl Kernel for HostBlocked {
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
        let planes = s.n * self.y.blocks;
        for_each_part(self.parts, &|part| {
            let (own, rows) = if self.by_rows {
                (0..planes, share(s.oh, 1, self.parts, part))
            } else {
                (share(planes, 1, self.parts, part), 0..s.oh)
            };
            // SAFETY: parts clear disjoint planes, and what they compute is never halo.
            unsafe { clear_halos(&self.y, share(planes, 1, self.parts, part), y) };
            for index in own {
                let block = index % self.y.blocks;
                let start = index * self.y.plane() + self.y.pixel(0, 0);
                let at = PlaneAt {
                    x: x[self.x.strided_start(index, [s.pads[0], s.pads[1]])..].as_ptr(),
                    weight: self.weight[block * self.plane.taps.len() * BLOCK..].as_ptr(),
                    bias: self.bias.as_ref().map_or(std::ptr::null(), |bias| bias[block * BLOCK..].as_ptr()),
                    // SAFETY: the plane is inside y.
                    y: unsafe { y.get().add(start) },
                    residual: residual.map_or(std::ptr::null(), |residual| residual[start..].as_ptr()),
                    channels: BLOCK.min(s.c - block * BLOCK),
                };
                // SAFETY: the halo covers the padding, so x holds all that the taps read; parts write disjoint rows.
                unsafe { self.plane.run(&at, rows.clone()) };
            }
        });
    }
}
