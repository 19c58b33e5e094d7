//! A block of y for each unit, some channels at some places, in registers and straight from global memory: what is read of the image serves all
//! its channels, what is read of the weight all its places. Nothing is shared, and units never wait for each other.

use super::{Prepared, shape};
use crate::epilogue::{Finish, pick, written_max};
use crate::gemm::{LANES, finished, launchable, least_read};
use crate::geometry;
use crate::gpu::{Buffer, Gpu, with_client};
use crate::operator::{PLAIN, refuse};
use crate::turns::{looped, turns_end};
use crate::{CubeKernel, CubeVariant};
use cubecl::prelude::*;
use kernels::conv2d::Shape;
use kernels::{BuildError, Knob, Limits, Request, Rule, Task};
use schema::{Config, KnobValue};

pub static BLOCKS: CubeVariant = CubeVariant {
    id: "conv2d.cube_blocks",
    revision: 2,
    knobs: &[
        // Channels and places of y for a unit.
        Knob::pairs(
            "block",
            &[(1, 1), (1, 4), (1, 8), (4, 1), (4, 4), (4, 8), (8, 2), (8, 4), (8, 8), (16, 4), (16, 8), (16, 16)],
        ),
        Knob::ints("units", &[8, 16, 32, 64, 128]),
    ],
    rules: &[
        PLAIN,
        turns_end!(turns),
        Rule {
            reason: "so much is written out that drivers compile it for long or keep it outside of registers",
            holds: |_, config, limits| Blocks::of(config).is_some_and(|t| t.channels * t.places <= written_max(limits)),
        },
        Rule {
            reason: "more channels of a block than a group has, more units than a cube of the device, or more cubes than it can launch",
            holds: |task, config, limits| {
                let Some(((t, shape), gpu)) = Blocks::of(config).zip(shape(task)).zip(limits.gpu) else { return false };
                t.channels as usize <= shape.group_o().next_power_of_two()
                    && t.units <= gpu.units_per_cube.min(gpu.cube_dim[0])
                    && launchable((shape.oh * shape.ow).div_ceil((t.places * t.units) as usize), limits)
                    && launchable(t.of_channels(&shape), limits)
                    && launchable(shape.n, limits)
            },
        },
    ],
    default,
    build,
};

/// Blocks that read little, up to a size that compiles in a second; units as a processor has lanes.
fn default(task: &Task, limits: &Limits) -> Vec<KnobValue> {
    let extents = shape(task).map_or([1; 3], |s| [s.n * (s.o / s.group_o().max(1)), s.group_o(), s.oh * s.ow]);
    let (channels, places) = least_read(extents, written_max(limits) / 2);
    vec![KnobValue::Pair(channels as i64, places as i64), KnobValue::Int(LANES as i64)]
}

fn turns(task: &Task, config: &Config) -> Option<usize> {
    let shape = shape(task)?;
    let sums = looped(shape.group_c(), looped(shape.kh, looped(shape.kw, 0)));
    Some(sums + looped(Blocks::of(config)?.channels as usize, 0))
}

/// The sizes of a config, as part of the kernel's identity.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Blocks {
    channels: u32,
    places: u32,
    units: u32,
}

impl Blocks {
    fn of(config: &Config) -> Option<Blocks> {
        let ((channels, places), units) = (config.pair("block")?, config.int("units")?);
        Some(Blocks { channels: channels as u32, places: places as u32, units: units as u32 })
    }

    /// Blocks of channels; none is of two groups.
    fn of_channels(self, shape: &Shape) -> usize {
        shape.o / shape.group_o().max(1) * shape.group_o().div_ceil(self.channels as usize)
    }
}

struct Kernel {
    prepared: Prepared,
    blocks: Blocks,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let blocks = Blocks::of(request.config).ok_or_else(|| refuse(request.task, &"it names no block"))?;
    Ok(Box::new(Kernel { prepared: Prepared::new(request, gpu)?, blocks }))
}

impl CubeKernel for Kernel {
    fn prepared_bytes(&self) -> usize {
        self.prepared.bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let (x, extra) = self.prepared.weights.operands(inputs);
        let weight = self.prepared.weights.weight(0, inputs);
        let (shape, t) = (&self.prepared.shape, self.blocks);
        let places = (shape.oh * shape.ow) as u32;
        let count = CubeCount::Static(places.div_ceil(t.places * t.units), t.of_channels(shape) as u32, shape.n as u32);
        // SAFETY: every index is within its operand. The geometry has sixteen numbers. There are as many cubes along y as blocks of
        // channels and along z as images; channels behind the last of a group and places behind the last of an image are computed as
        // that, so the weight is read inside of a kernel of the group; x is read only where a tap lies inside of the image; y, bias
        // and residual are touched only for channels and places that there are.
        with_client!(gpu, client => unsafe {
            blocks_of_y::launch_unchecked::<f32, _>(
                client,
                count,
                CubeDim::new_1d(t.units),
                x.array(),
                weight.array(),
                Buffer::sequence(&extra),
                outputs[0].array(),
                self.prepared.geometry.words(),
                t,
                shape.epilogue.into(),
            )
        });
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is launched with")]
fn blocks_of_y<F: Float>(
    x: &Array<F>,
    weight: &Array<F>,
    extra: &Sequence<Array<F>>,
    y: &mut Array<F>,
    g: &Array<u32>,
    #[comptime] t: Blocks,
    #[comptime] finish: Finish,
) {
    let g = geometry::read(g);
    let places = g.oh * g.ow;
    let first_place = CUBE_POS_X * comptime!(t.places * t.units) + UNIT_POS_X;
    let of_group = g.group_o.div_ceil(t.channels);
    let group = CUBE_POS_Y / of_group;
    let (first_channel, behind) = (group * g.group_o + CUBE_POS_Y % of_group * t.channels, (group + 1) * g.group_o);
    let taps = g.kh * g.kw;
    // Where the kernels of the channels begin, and the windows of the places; those behind the last are computed as it and not stored.
    let mut kernels = Array::<u32>::new(comptime!(t.channels as usize));
    let mut tops = Array::<u32>::new(comptime!(t.places as usize));
    let mut lefts = Array::<u32>::new(comptime!(t.places as usize));
    #[unroll]
    for i in 0..t.channels {
        kernels[comptime!(i as usize)] = min(first_channel + i, behind - 1) * g.group_c * taps;
    }
    #[unroll]
    for j in 0..t.places {
        let place = min(first_place + j * t.units, places - 1);
        // Shifted by the pad, so that nothing is negative.
        tops[comptime!(j as usize)] = place / g.ow * g.stride_y;
        lefts[comptime!(j as usize)] = place % g.ow * g.stride_x;
    }
    let mut sums = Array::<F>::new(comptime!((t.channels * t.places) as usize));
    #[unroll]
    for i in 0..comptime!((t.channels * t.places) as usize) {
        sums[i] = F::new(0.0);
    }
    let mut values = Array::<F>::new(comptime!(t.places as usize));
    for i in 0..g.group_c {
        let plane = (CUBE_POS_Z * g.channels + group * g.group_c + i) * g.height * g.width;
        for r in 0..g.kh {
            for s in 0..g.kw {
                #[unroll]
                for j in 0..t.places {
                    let row = tops[comptime!(j as usize)] + r * g.dilation_y;
                    let column = lefts[comptime!(j as usize)] + s * g.dilation_x;
                    let mut value = F::new(0.0);
                    if row >= g.pad_y && row - g.pad_y < g.height && column >= g.pad_x && column - g.pad_x < g.width {
                        value = x[(plane + (row - g.pad_y) * g.width + column - g.pad_x) as usize];
                    }
                    values[comptime!(j as usize)] = value;
                }
                let tap = i * taps + r * g.kw + s;
                #[unroll]
                for c in 0..t.channels {
                    let factor = weight[(kernels[comptime!(c as usize)] + tap) as usize];
                    #[unroll]
                    for j in 0..t.places {
                        sums[comptime!((c * t.places + j) as usize)] += factor * values[comptime!(j as usize)];
                    }
                }
            }
        }
    }
    for c in 0..min(t.channels, behind - first_channel) {
        #[unroll]
        for j in 0..t.places {
            let (channel, place) = (first_channel + c, first_place + j * t.units);
            if place < places {
                let at = (CUBE_POS_Z * g.o + channel) * places + place;
                let sum = pick::<F>(&sums, c, j, t.places, t.channels);
                y[at as usize] = finished::<F>(sum, extra, channel, at, finish);
            }
        }
    }
}
