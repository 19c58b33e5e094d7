//! A cube for each query: its units share the keys out, keep the scores in shared memory, then share the columns of V out.

use super::operands::{K, NUMBERS, Q, V, Y, first, keys_seen, numbers, of_mask};
use crate::gpu::{Buffer, Gpu, with_client};
use crate::operator::{PLAIN, UNITS, cubes_for, units_of, upload_words};
use crate::team::{Fold, Team, fold_all, start};
use crate::turns::{looped, turns_end};
use crate::{CubeKernel, CubeVariant, uniform};
use cubecl::prelude::*;
use kernels::attention::Shape;
use kernels::{BuildError, Knob, Request, Rule, Task};
use schema::{Config, KnobValue};

pub static TEAM: CubeVariant = CubeVariant {
    id: "attention.cube_team",
    revision: 4,
    // Powers of two, so that halves can be folded onto each other.
    knobs: &[Knob::ints("units", &[16, 32, 64, 128, 256])],
    rules: &[
        PLAIN,
        UNITS,
        turns_end!(turns),
        Rule {
            reason: "the scores of a query do not fit into the memory of a cube",
            holds: |task, config, limits| {
                let words = |shape: Shape| shape.keys + units_of(config) as usize;
                let fits =
                    |(shape, gpu): (Shape, kernels::GpuLimits)| words(shape) * size_of::<f32>() <= gpu.shared_bytes as usize;
                Shape::of(task).ok().zip(limits.gpu).is_some_and(fits)
            },
        },
    ],
    default: |_, _| vec![KnobValue::Int(32)],
    build,
};

fn turns(task: &Task, config: &Config) -> Option<usize> {
    let shape = Shape::of(task).ok()?;
    let rounds = |length: usize| length.div_ceil(units_of(config).max(1) as usize);
    let scores = looped(rounds(shape.keys), looped(shape.depth, 0)) + looped(rounds(shape.keys), 0);
    Some(scores + looped(rounds(shape.width), looped(shape.keys, 0)))
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Form {
    units: u32,
    keys: u32,
    masked: bool,
    causal: bool,
}

struct Queries {
    form: Form,
    /// See [`numbers`].
    geometry: Buffer,
    rows: u32,
    scale: f32,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let shape = Shape::of(request.task)?;
    Ok(Box::new(Queries {
        form: Form {
            units: units_of(request.config),
            keys: shape.keys as u32,
            masked: shape.mask.is_some(),
            causal: shape.causal,
        },
        geometry: upload_words(request.task, gpu, &numbers(&shape))?,
        rows: (shape.images * shape.heads * shape.queries) as u32,
        scale: shape.scale,
    }))
}

impl CubeKernel for Queries {
    fn prepared_bytes(&self) -> usize {
        self.geometry.bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let [q, k, v] = [0, 1, 2].map(|i: usize| inputs[i].as_ref().expect("the task has Q, K and V"));
        let mask: Vec<Buffer> = inputs.iter().skip(3).flatten().cloned().collect();
        // SAFETY: queries behind the last are left out; keys, values, mask and y are walked by the strides and within the extents that the
        // signature of the task has; scores have room for every key.
        with_client!(gpu, client => unsafe {
            queries::launch_unchecked::<f32, _>(
                client,
                cubes_for(self.rows, 1, gpu),
                Team::of_row(self.form.units).dim(),
                q.array(),
                k.array(),
                v.array(),
                Buffer::sequence(&mask),
                outputs[0].array(),
                self.geometry.words(),
                self.rows,
                self.scale,
                self.form,
            )
        });
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is launched with")]
fn queries<F: Float + CubeElement>(
    q: &Array<F>,
    k: &Array<F>,
    v: &Array<F>,
    mask: &Sequence<Array<F>>,
    y: &mut Array<F>,
    g: &Array<u32>,
    rows: u32,
    scale: F,
    #[comptime] form: Form,
) {
    let (rows, scale) = (uniform::number(rows), uniform::float::<F>(scale));
    let g = uniform::words(g, NUMBERS);
    let at = CUBE_POS as u32;
    let mut shared = SharedMemory::<F>::new(comptime!(form.units as usize));
    let mut scores = SharedMemory::<F>::new(comptime!(form.keys as usize));
    // The same for all units of a cube.
    if at < rows {
        let (heads, queries, depth, width) = (g[0], g[1], g[2], g[3]);
        let query = at % queries;
        let head = at / queries % heads;
        let image = at / (queries * heads);
        let group = head / g[4];
        let of_q = first(&g, image, head, Q) + query * g[comptime!(Q + 3)];
        let of_k = first(&g, image, group, K);
        let of_v = first(&g, image, group, V);
        let of_y = first(&g, image, head, Y) + query * g[comptime!(Y + 3)];
        let seen = keys_seen(query, queries, form.keys, form.causal);

        let mut own = start::<F>(Fold::Max);
        for key in range_stepped(UNIT_POS, seen, form.units) {
            let row = of_k + key * g[comptime!(K + 3)];
            let mut score = F::new(0.0);
            for i in 0..depth {
                score += q[(of_q + i) as usize] * k[(row + i) as usize];
            }
            score *= scale;
            if comptime!(form.masked) {
                score += mask.index(0usize)[of_mask(&g, image, head, query, key) as usize];
            }
            scores[key as usize] = score;
            own = max(own, score);
        }
        let greatest = fold_all::<F>(own, &mut shared, comptime!(Team::of_row(form.units)), Fold::Max);
        let mut own = F::new(0.0);
        for key in range_stepped(UNIT_POS, seen, form.units) {
            let weight = F::exp(scores[key as usize] - greatest);
            scores[key as usize] = weight;
            own += weight;
        }
        // It is at least 1 where any key is seen, and every unit has written its weights when all have it.
        let sum = max(fold_all::<F>(own, &mut shared, comptime!(Team::of_row(form.units)), Fold::Sum), F::new(1e-30));
        for column in range_stepped(UNIT_POS, width, form.units) {
            let mut value = F::new(0.0);
            for key in 0..seen {
                value += scores[key as usize] * v[(of_v + key * g[comptime!(V + 3)] + column) as usize];
            }
            y[(of_y + column) as usize] = value / sum;
        }
    }
}
