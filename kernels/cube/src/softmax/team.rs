//! A team of units for each row, which share its elements out. Three passes: the greatest, the sum of exponentials, the result.

use crate::gpu::{Buffer, Gpu, with_client};
use crate::index::{EXTENT_WORDS, extent_words, place};
use crate::operator::{PLAIN, cubes_for, refuse, upload_words};
use crate::team::{self, Fold, TEAM_FITS, TEAM_KNOBS, Team, fold_all, place_of_unit, row_of_unit, team_default};
use crate::turns::turns_end;
use crate::{CubeKernel, CubeVariant, uniform};
use cubecl::prelude::*;
use kernels::strides::broadcast_strides;
use kernels::{BuildError, Limits, Request, Task};
use schema::{Config, KnobValue};

pub static TEAM: CubeVariant = CubeVariant {
    id: "softmax.cube_team",
    revision: 4,
    knobs: TEAM_KNOBS,
    rules: &[PLAIN, TEAM_FITS, turns_end!(turns)],
    default,
    build,
};

fn default(task: &Task, limits: &Limits) -> Vec<KnobValue> {
    let (shape, axis) = (task.ints("x"), task.int("axis"));
    let of = |extents: Option<&[usize]>| extents.map_or(1, |extents| extents.iter().product());
    let (len, inner): (usize, usize) = (of(shape.get(axis..=axis)), of(shape.get(axis + 1..)));
    team_default(shape.iter().product::<usize>() / len.max(1), len, inner > 1, limits)
}

fn turns(task: &Task, config: &Config) -> Option<usize> {
    Some(Team::of(config)?.turns(3, *task.ints("x").get(task.int("axis"))?))
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Form {
    team: Team,
    log: bool,
    masked: bool,
    rank: usize,
}

struct Rows {
    form: Form,
    /// Length and distance of a row's elements; then x's extents and the mask's strides.
    geometry: Buffer,
    rows: u32,
    scale: f32,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let task = request.task;
    let signature = (kernels::softmax::SOFTMAX.signature)(task)?;
    let (shape, axis) = (&signature.inputs[0].shape, task.int("axis"));
    let inner: usize = shape[axis + 1..].iter().product();
    let mask = signature.inputs.get(1).map(|mask| broadcast_strides(&mask.shape, shape));
    let masked = mask.is_some();
    let strides = mask.flatten().unwrap_or_default();
    let words = |numbers: &[usize]| numbers.iter().map(|&number| number as u32).collect::<Vec<_>>();
    let numbers = [words(&[shape[axis], inner]), extent_words(shape), words(&strides)].concat();
    Ok(Box::new(Rows {
        form: Form {
            team: Team::of(request.config).ok_or_else(|| refuse(task, &"it names no units"))?,
            log: task.int("log") == 1,
            masked,
            rank: shape.len(),
        },
        geometry: upload_words(task, gpu, &numbers)?,
        rows: (shape.iter().product::<usize>() / shape[axis].max(1)) as u32,
        scale: task.float("scale").unwrap_or(1.0),
    }))
}

impl CubeKernel for Rows {
    fn prepared_bytes(&self) -> usize {
        self.geometry.bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let x = inputs[0].as_ref().expect("the task has an x");
        let mask: Vec<Buffer> = inputs.iter().skip(1).flatten().cloned().collect();
        // SAFETY: rows behind the last are computed as it and not stored; a row has `len` elements, `inner` apart, within x and y, and the
        // mask is read where its broadcast has them.
        with_client!(gpu, client => unsafe {
            rows_of_x::launch_unchecked::<f32, _>(
                client,
                cubes_for(self.rows, self.form.team.across, gpu),
                self.form.team.dim(),
                x.array(),
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
fn rows_of_x<F: Float + CubeElement>(
    x: &Array<F>,
    mask: &Sequence<Array<F>>,
    y: &mut Array<F>,
    g: &Array<u32>,
    rows: u32,
    scale: F,
    #[comptime] form: Form,
) {
    let (rows, scale) = (uniform::number(rows), uniform::float::<F>(scale));
    let row = CUBE_POS as u32 * form.team.across + row_of_unit(form.team);
    let mut shared = SharedMemory::<F>::new(comptime!(form.team.shared()));
    let masked_axes = comptime!(if form.masked { form.rank * (EXTENT_WORDS + 1) } else { 0 });
    let g = uniform::words(g, comptime!(2 + masked_axes));
    let (len, inner) = (g[0], g[1]);
    // Rows behind the last are computed as it and not stored: all units of a cube meet.
    let known = min(row, rows - 1);
    let first = known / inner * len * inner + known % inner;
    let mut own = team::start::<F>(Fold::Max);
    for j in range_stepped(place_of_unit(form.team), len, form.team.along) {
        own = max(own, value::<F>(x, mask, &g, first + j * inner, scale, form));
    }
    let greatest = fold_all::<F>(own, &mut shared, form.team, Fold::Max);
    let mut own = F::new(0.0);
    for j in range_stepped(place_of_unit(form.team), len, form.team.along) {
        own += F::exp(value::<F>(x, mask, &g, first + j * inner, scale, form) - greatest);
    }
    let sum = fold_all::<F>(own, &mut shared, form.team, Fold::Sum);
    if row < rows {
        for j in range_stepped(place_of_unit(form.team), len, form.team.along) {
            let at = first + j * inner;
            let shifted = value::<F>(x, mask, &g, at, scale, form) - greatest;
            if comptime!(form.log) {
                y[at as usize] = shifted - F::ln(sum);
            } else {
                y[at as usize] = F::exp(shifted) / sum;
            }
        }
    }
}

/// `scale · x + mask` of an element.
#[cube]
fn value<F: Float>(x: &Array<F>, mask: &Sequence<Array<F>>, g: &Array<u32>, at: u32, scale: F, #[comptime] form: Form) -> F {
    let mut value = x[at as usize] * scale;
    if comptime!(form.masked) {
        value += mask.index(0usize)[place(g, at, form.rank, 2usize, comptime!(2 + form.rank * EXTENT_WORDS)) as usize];
    }
    value
}
