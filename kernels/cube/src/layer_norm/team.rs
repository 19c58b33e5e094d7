//! A team of units for each row, which share its elements out. Mean, then variance about it, then the result.

use crate::gpu::{Buffer, Gpu, with_client};
use crate::operator::{PLAIN, cubes_for, refuse};
use crate::team::{Fold, TEAM_FITS, TEAM_KNOBS, Team, fold_all, place_of_unit, row_of_unit, team_default};
use crate::turns::turns_end;
use crate::{CubeKernel, CubeVariant, uniform};
use cubecl::prelude::*;
use kernels::{BuildError, Limits, Request, Task};
use schema::{Config, KnobValue};

pub static TEAM: CubeVariant = CubeVariant {
    id: "layer_norm.cube_team",
    revision: 4,
    knobs: TEAM_KNOBS,
    rules: &[PLAIN, TEAM_FITS, turns_end!(turns)],
    default,
    build,
};

/// Rows, and the elements of each.
fn extents(task: &Task) -> (usize, usize) {
    let (shape, axis) = (task.ints("x"), task.int("axis"));
    (shape.iter().take(axis).product(), shape.iter().skip(axis).product())
}

fn default(task: &Task, limits: &Limits) -> Vec<KnobValue> {
    let (rows, len) = extents(task);
    team_default(rows, len, false, limits)
}

fn turns(task: &Task, config: &Config) -> Option<usize> {
    Some(Team::of(config)?.turns(3, extents(task).1))
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Form {
    team: Team,
    rms: bool,
    scale: bool,
    bias: bool,
}

struct Rows {
    form: Form,
    rows: u32,
    len: u32,
    epsilon: f32,
}

fn build(request: &Request<'_>, _: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let task = request.task;
    let signature = (kernels::layer_norm::LAYER_NORM.signature)(task)?;
    let (rows, len) = extents(task);
    let team = Team::of(request.config).ok_or_else(|| refuse(task, &"it names no units"))?;
    let given = |i: usize| signature.inputs.get(i).is_some_and(|spec| !spec.shape.contains(&0));
    Ok(Box::new(Rows {
        form: Form { team, rms: task.int("rms") == 1, scale: given(1), bias: given(2) },
        rows: rows as u32,
        len: len as u32,
        epsilon: task.float("epsilon").unwrap_or(1e-5),
    }))
}

impl CubeKernel for Rows {
    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let x = inputs[0].as_ref().expect("the task has an x");
        let extra: Vec<Buffer> = inputs.iter().skip(1).flatten().cloned().collect();
        // SAFETY: rows behind the last are computed as it and not stored; a row has `len` elements within x and y, and scale and bias have as
        // many.
        with_client!(gpu, client => unsafe {
            rows_of_x::launch_unchecked::<f32, _>(
                client,
                cubes_for(self.rows, self.form.team.across, gpu),
                self.form.team.dim(),
                x.array(),
                Buffer::sequence(&extra),
                outputs[0].array(),
                self.rows,
                self.len,
                self.epsilon,
                self.form,
            )
        });
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is launched with")]
fn rows_of_x<F: Float + CubeElement>(
    x: &Array<F>,
    extra: &Sequence<Array<F>>,
    y: &mut Array<F>,
    rows: u32,
    len: u32,
    epsilon: F,
    #[comptime] form: Form,
) {
    let (rows, len, epsilon) = (uniform::number(rows), uniform::number(len), uniform::float::<F>(epsilon));
    let row = CUBE_POS as u32 * form.team.across + row_of_unit(form.team);
    let mut shared = SharedMemory::<F>::new(comptime!(form.team.shared()));
    // Rows behind the last are computed as it and not stored: all units of a cube meet.
    let first = min(row, rows - 1) * len;
    let mut mean = F::new(0.0);
    if comptime!(!form.rms) {
        let mut own = F::new(0.0);
        for j in range_stepped(place_of_unit(form.team), len, form.team.along) {
            own += x[(first + j) as usize];
        }
        mean = fold_all::<F>(own, &mut shared, form.team, Fold::Sum) / F::cast_from(len);
    }
    let mut own = F::new(0.0);
    for j in range_stepped(place_of_unit(form.team), len, form.team.along) {
        let distance = x[(first + j) as usize] - mean;
        own += distance * distance;
    }
    let variance = fold_all::<F>(own, &mut shared, form.team, Fold::Sum) / F::cast_from(len);
    let factor = F::new(1.0) / F::sqrt(variance + epsilon);
    if row < rows {
        for j in range_stepped(place_of_unit(form.team), len, form.team.along) {
            let mut value = (x[(first + j) as usize] - mean) * factor;
            if comptime!(form.scale) {
                value *= extra.index(0usize)[j as usize];
            }
            if comptime!(form.bias) {
                value += extra.index(comptime!(usize::from(form.scale)))[j as usize];
            }
            y[(first + j) as usize] = value;
        }
    }
}
