//! The general depthwise convolution: planes of sixteen channels, copied into a padded image of their own where they do not lie in
//! one already.
//!
//! Every task is legal. Between blocked layouts whose halo covers the padding nothing is copied.

use super::plane::{Plane, PlaneAt, pack, packed, pixels_max};
use super::shape;
use crate::conv2d::geometry::{Blocked, clear_halos};
use crate::conv2d::stage::{Places, Slab, add, load, store};
use crate::conv2d::{Shape, weights};
use crate::epilogue::Activation;
use crate::gemm::host_packed::{ALONE_FLOPS, constant};
use crate::knob::{Knob, Rule};
use crate::layout::BLOCK;
use crate::partition::{Shared, for_each_part, share};
use crate::simd::{self, math::Activate};
use crate::{BuildError, Kernel, Layout, Limits, Operands, Packed, Request, Task, Variant};
use schema::{Config, KnobValue};

/// Pixels of a tile.
pub const PIXELS: &[i64] = &[1, 2, 4, 6, 7, 8, 12];

/// See the module.
pub static STAGED: Variant = Variant {
    id: "depthwise.host_staged",
    revision: 1,
    knobs: &[Knob::ints("pixels", PIXELS), Knob::names("partition", &["one", "planes"])],
    rules: &[
        Rule { reason: "the tile exceeds the registers", holds: pixels_fit },
        Rule {
            reason: "one thread is granted, and another partition would do the same",
            holds: |_, c, l| l.units > 1 || c.name("partition") == Some("one"),
        },
    ],
    default: |task, limits| default(task, limits, "planes"),
    build: |request| Ok(Box::new(HostStaged::new(request)?)),
};

/// Whether a tile's sums and a weight fit the registers.
pub fn pixels_fit(task: &Task, config: &Config, limits: &Limits) -> bool {
    let most = shape(task).map_or(0, |shape| pixels_max(limits.isa, &shape));
    config.int("pixels").is_some_and(|pixels| pixels as usize <= most)
}

/// The defaults of both variants.
pub fn default(task: &Task, limits: &Limits, split: &str) -> Vec<KnobValue> {
    let most = shape(task).map_or(1, |shape| pixels_max(limits.isa, &shape)) as i64;
    let pixels = PIXELS.iter().copied().rfind(|&pixels| pixels <= most).unwrap_or(1);
    // Depthwise runs at about a quarter of the peak, so the same time is a quarter of the work.
    let flops = shape(task).map_or(0, |shape| shape.flops());
    let partition = if limits.units > 1 && flops >= ALONE_FLOPS as u64 / 4 { split } else { "one" };
    vec![KnobValue::Int(pixels), KnobValue::Name(partition.to_owned())]
}

/// A depthwise convolution in any layout.
struct HostStaged {
    shape: Shape,
    plane: Plane,
    /// How x lies, when it must be copied.
    load: Option<Places>,
    /// How y lies, when it cannot be written in place.
    store: Option<Places>,
    /// x as it lies or is copied.
    x: Blocked,
    y: Blocked,
    weight: Option<Packed>,
    bias: Option<Packed>,
    activation: Activation,
    parts: usize,
}

impl HostStaged {
    fn new(request: &Request<'_>) -> Result<Self, BuildError> {
        let shape = shape(request.task)?;
        let in_place = shape.halo_covers_pads();
        let x = match shape.input {
            Layout::Channels { halo } if in_place => Blocked::new(shape.n, shape.c, shape.h, shape.w, halo),
            _ => {
                let reach = |pixels: usize, axis: usize, kernel: usize| {
                    (pixels - 1) * shape.strides[axis] + (kernel - 1) * shape.dilations[axis] + 1
                };
                // One padded plane; rows and columns that no tap reads are left out.
                let (h, w) = (reach(shape.oh, 0, shape.kh), reach(shape.ow, 1, shape.kw));
                Blocked::new(1, BLOCK, h.max(shape.pads[0] + shape.h), w.max(shape.pads[1] + shape.w), 0)
            }
        };
        let (y, direct) = match shape.output {
            Layout::Channels { halo } => (Blocked::new(shape.n, shape.o, shape.oh, shape.ow, halo), true),
            _ => (Blocked::new(1, BLOCK, shape.oh, shape.ow, 0), false),
        };
        let late = !direct && shape.epilogue.residual;
        let activation = if late { Activation::None } else { shape.epilogue.activation };
        let plane = Plane::new(
            request.limits.isa,
            request.config.int("pixels").unwrap_or(1) as usize,
            &shape,
            x.row(),
            y.row(),
            activation,
        );
        let weight = match shape.weight_constant {
            true => Some(packed(&constant(request, 1, "weight", shape.c * shape.kh * shape.kw)?, shape.c, shape.kh * shape.kw)),
            false => None,
        };
        Ok(HostStaged {
            plane,
            load: (!in_place).then(|| Places::new(shape.input, [shape.n, shape.c, shape.h, shape.w])),
            store: (!direct).then(|| Places::new(shape.output, [shape.n, shape.o, shape.oh, shape.ow])),
            x,
            y,
            weight,
            bias: weights::prepare_bias(request, &shape)?,
            activation: shape.epilogue.activation,
            parts: if request.config.name("partition") == Some("planes") { request.limits.units as usize } else { 1 },
            shape,
        })
    }

    fn weight_len(&self) -> usize {
        if self.weight.is_some() { 0 } else { self.shape.c.next_multiple_of(BLOCK) * self.plane.taps.len() }
    }

    /// f32 of scratch space for a dynamic bias, padded.
    fn bias_len(&self) -> usize {
        if self.shape.epilogue.bias && self.bias.is_none() { self.shape.c.next_multiple_of(BLOCK) } else { 0 }
    }

    fn x_len(&self) -> usize {
        if self.load.is_some() { self.x.plane() } else { 0 }
    }

    fn y_len(&self) -> usize {
        if self.store.is_some() { self.y.plane() } else { 0 }
    }
}

impl Kernel for HostStaged {
    fn scratch_bytes(&self) -> usize {
        4 * (self.weight_len() + self.bias_len() + self.parts * (self.x_len() + self.y_len()))
    }

    fn prepared_bytes(&self) -> usize {
        [&self.weight, &self.bias].into_iter().flatten().map(Packed::bytes).sum()
    }

    fn run(&self, operands: &mut Operands<'_>) {
        let s = &self.shape;
        let x = operands.input::<f32>(0).expect("x is not optional");
        let weight = if self.weight.is_some() { None } else { operands.input::<f32>(1) };
        let bias = if self.bias_len() > 0 { operands.input::<f32>(2) } else { None };
        let residual = if s.epilogue.residual { operands.input::<f32>(3) } else { None };
        let (y, scratch) = operands.output_and_scratch::<f32, f32>(0);
        assert_eq!(x.len(), s.input.elements(&[s.n, s.c, s.h, s.w]), "x is as the signature says");
        assert_eq!(y.len(), s.output.elements(&s.output_shape()), "y is as the signature says");
        assert!(residual.is_none_or(|residual| residual.len() == y.len()), "the residual lies as y");
        assert!(scratch.len() * 4 >= self.scratch_bytes(), "scratch suffices");
        let (packed, scratch) = scratch.split_at_mut(self.weight_len());
        let (padded, scratch) = scratch.split_at_mut(self.bias_len());
        if let Some(weight) = weight {
            pack(weight, s.c, s.kh * s.kw, packed);
        }
        if let Some(bias) = bias {
            padded[..s.c].copy_from_slice(&bias[..s.c]);
            padded[s.c..].fill(0.0);
        }
        let weight: &[f32] = self.weight.as_deref().unwrap_or(packed);
        let bias: Option<&[f32]> = match &self.bias {
            Some(bias) => Some(bias),
            None => s.epilogue.bias.then_some(&*padded),
        };
        let y = Shared(y.as_mut_ptr());
        let own_len = self.x_len() + self.y_len();
        let scratch = Shared(scratch.as_mut_ptr());
        let blocks = s.c.div_ceil(BLOCK);
        for_each_part(self.parts, &|part| {
            // SAFETY: each part has scratch space of its own.
            let own = unsafe { std::slice::from_raw_parts_mut(scratch.get().add(part * own_len), own_len) };
            let (padded_x, plane_y) = own.split_at_mut(self.x_len());
            // The border of the copy stays zero from plane to plane.
            padded_x.fill(0.0);
            for index in share(s.n * blocks, 1, self.parts, part) {
                let (image, block) = (index / blocks, index % blocks);
                let channel = block * BLOCK;
                let channels = BLOCK.min(s.c - channel);
                let slab = Slab { image, channel, channels, h: s.h, w: s.w };
                let at = PlaneAt {
                    x: match &self.load {
                        Some(places) => {
                            load(x, places, &slab, padded_x, s.pads[0] * self.x.row() + s.pads[1] * BLOCK, self.x.row());
                            padded_x.as_ptr()
                        }
                        None => x[self.x.strided_start(index, [s.pads[0], s.pads[1]])..].as_ptr(),
                    },
                    weight: weight[block * self.plane.taps.len() * BLOCK..].as_ptr(),
                    bias: bias.map_or(std::ptr::null(), |bias| bias[channel..].as_ptr()),
                    y: match self.store {
                        Some(_) => plane_y.as_mut_ptr(),
                        // SAFETY: the plane is inside y.
                        None => unsafe { y.get().add(index * self.y.plane() + self.y.pixel(0, 0)) },
                    },
                    residual: match (self.store, residual) {
                        (None, Some(residual)) => residual[index * self.y.plane() + self.y.pixel(0, 0)..].as_ptr(),
                        _ => std::ptr::null(),
                    },
                    channels,
                };
                // SAFETY: x, or its padded copy, holds all that the taps read; parts write disjoint planes.
                unsafe {
                    if self.store.is_none() {
                        clear_halos(&self.y, index..index + 1, y);
                    }
                    self.plane.run(&at, 0..s.oh);
                }
                if let Some(places) = &self.store {
                    let slab = Slab { h: s.oh, w: s.ow, ..slab };
                    if let Some(residual) = residual {
                        add(residual, places, &slab, plane_y);
                        simd::run(self.plane.isa, Activate { activation: self.activation, values: plane_y });
                    }
                    // SAFETY: the slab is inside y, and parts write disjoint ones.
                    unsafe { store(plane_y, places, &slab, y.get()) };
                }
            }
        });
    }
}
