//! C in tiles whose sums along k are cut into parts, each computed by a cube of its own; a second launch adds the parts up, always in the
//! same order. For products with few tiles and a long k, which else leave most of a device idle.

use super::tiled::{Target, launch, tiles_launchable};
use super::tiling::{BUFFERS, DEPTH, DIVIDES, FITS, SHARES_OUT, TILE, Tiling, UNIT, finished, tiling_default};
use super::{FITS_BUFFERS, Form, Prepared, folded};
use crate::epilogue::Finish;
use crate::gpu::{Buffer, Gpu, with_client};
use crate::operator::{countable, cubes_for, refuse};
use crate::turns::{looped, turns_end};
use crate::{CubeKernel, CubeVariant, uniform};
use cubecl::prelude::*;
use kernels::epilogue::Epilogue;
use kernels::gemm::Shape;
use kernels::{BuildError, Knob, Request, Rule, Task};
use schema::{Config, KnobValue};

pub static SPLIT_K: CubeVariant = CubeVariant {
    id: "gemm.cube_split_k",
    revision: 2,
    knobs: &[TILE, UNIT, DEPTH, BUFFERS, Knob::ints("parts", &[2, 4, 8, 16, 32])],
    rules: &[
        FITS_BUFFERS,
        turns_end!(turns),
        DIVIDES,
        SHARES_OUT,
        FITS,
        Rule {
            reason: "a part of k is empty",
            holds: |task, config, _| {
                let last_begins = |slabs: usize, parts: usize| (parts - 1) * slabs.div_ceil(parts);
                let all = Tiling::of(config).zip(folded(task)).zip(parts_of(config));
                all.is_some_and(|((t, shape), parts)| {
                    let slabs = shape.k.div_ceil(t.k as usize);
                    last_begins(slabs, parts) < slabs
                })
            },
        },
        Rule {
            reason: "the sums of all parts are larger than a buffer of the device or than its kernels count",
            holds: |task, config, limits| {
                let partial = folded(task).zip(parts_of(config)).map(|(shape, parts)| partial_sums(&shape, parts));
                partial
                    .zip(limits.gpu)
                    .is_some_and(|(sums, gpu)| countable(sums) && (sums * size_of::<f32>()) as u64 <= gpu.buffer_bytes)
            },
        },
        Rule {
            reason: "more cubes than the device can launch",
            holds: |task, config, limits| tiles_launchable(task, config, parts_of(config).unwrap_or(0), limits),
        },
    ],
    default: |task, limits| [tiling_default(task, limits), vec![KnobValue::Int(4)]].concat(),
    build,
};

fn turns(task: &Task, config: &Config) -> Option<usize> {
    let (t, shape, parts) = (Tiling::of(config)?, folded(task)?, parts_of(config)?);
    let slabs = shape.k.div_ceil(t.k as usize).div_ceil(parts);
    Some(t.turns(slabs * t.k as usize).max(looped(parts, 0)))
}

fn parts_of(config: &Config) -> Option<usize> {
    config.int("parts").map(|parts| parts as usize)
}

/// Sums of all parts: an element of C in each.
fn partial_sums(shape: &Shape, parts: usize) -> usize {
    shape.batch() * shape.m * shape.n * parts
}

struct SplitK {
    prepared: Prepared,
    tiling: Tiling,
    parts: u32,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let knobs = Tiling::of(request.config).zip(parts_of(request.config));
    let (tiling, parts) = knobs.ok_or_else(|| refuse(request.task, &"the tiles do not divide"))?;
    Ok(Box::new(SplitK { prepared: Prepared::new(request, gpu)?, tiling, parts: parts as u32 }))
}

impl CubeKernel for SplitK {
    fn prepared_bytes(&self) -> usize {
        self.prepared.bytes()
    }

    fn scratch_bytes(&self) -> Vec<usize> {
        vec![partial_sums(&self.prepared.shape, self.parts as usize) * size_of::<f32>()]
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], scratch: &[Buffer]) {
        let (_, extra) = self.prepared.weights.operands(inputs);
        let (shape, form) = (&self.prepared.shape, self.prepared.form());
        let bare = Form { finish: Epilogue::default().into(), ..form };
        let target = Target { c: &scratch[0], extra: &[], alpha: 1.0, form: bare, parts: self.parts };
        launch(gpu, &self.prepared, self.tiling, inputs, &target);
        let elements = (shape.batch() * shape.m * shape.n) as u32;
        with_client!(gpu, client => sums_of_parts::launch::<f32, _>(
            client,
            cubes_for(elements, self.tiling.units(), gpu),
            CubeDim::new_1d(self.tiling.units()),
            scratch[0].array(),
            Buffer::sequence(&extra),
            outputs[0].array(),
            elements,
            shape.n as u32,
            self.parts,
            shape.alpha,
            form.finish,
        ));
    }
}

/// A unit for each element of C.
#[cube(launch)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is launched with")]
fn sums_of_parts<F: Float + CubeElement>(
    partial: &Array<F>,
    extra: &Sequence<Array<F>>,
    c: &mut Array<F>,
    elements: u32,
    width: u32,
    parts: u32,
    alpha: F,
    #[comptime] finish: Finish,
) {
    let (elements, width, parts, alpha) =
        (uniform::number(elements), uniform::number(width), uniform::number(parts), uniform::float::<F>(alpha));
    let at = ABSOLUTE_POS as u32;
    if at < elements {
        let mut sum = F::new(0.0);
        for part in 0..parts {
            sum += partial[(part * elements + at) as usize];
        }
        c[at as usize] = finished::<F>(sum * alpha, extra, at % width, at, finish);
    }
}
