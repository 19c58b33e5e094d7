//! A cube for each row, whose units share its elements out. Mean, then variance about it, then the result.

use crate::gpu::{Buffer, Gpu, with_client};
use crate::operator::{PLAIN, UNITS, cubes_for, units_of};
use crate::team::{Fold, TEAM_KNOBS, fold_all, team_default, turns_of_passes};
use crate::turns::turns_end;
use crate::{CubeKernel, CubeVariant};
use cubecl::prelude::*;
use kernels::{BuildError, Request, Task};
use schema::Config;

pub static TEAM: CubeVariant = CubeVariant {
    id: "layer_norm.cube_team",
    revision: 2,
    knobs: TEAM_KNOBS,
    rules: &[PLAIN, UNITS, turns_end!(turns)],
    default: team_default,
    build,
};

fn turns(task: &Task, config: &Config) -> Option<usize> {
    Some(turns_of_passes(3, task.ints("x").iter().skip(task.int("axis")).product(), config))
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Form {
    units: u32,
    rms: bool,
    scale: bool,
    bias: bool,
}

struct Team {
    form: Form,
    rows: u32,
    len: u32,
    epsilon: f32,
}

fn build(request: &Request<'_>, _: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let task = request.task;
    let signature = (kernels::layer_norm::LAYER_NORM.signature)(task)?;
    let shape = &signature.inputs[0].shape;
    let len: usize = shape[task.int("axis")..].iter().product();
    let given = |i: usize| signature.inputs.get(i).is_some_and(|spec| !spec.shape.contains(&0));
    Ok(Box::new(Team {
        form: Form { units: units_of(request.config), rms: task.int("rms") == 1, scale: given(1), bias: given(2) },
        rows: (shape.iter().product::<usize>() / len.max(1)) as u32,
        len: len as u32,
        epsilon: task.float("epsilon").unwrap_or(1e-5),
    }))
}

impl CubeKernel for Team {
    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let x = inputs[0].as_ref().expect("the task has an x");
        let extra: Vec<Buffer> = inputs.iter().skip(1).flatten().cloned().collect();
        with_client!(gpu, client => rows_of_x::launch::<f32, _>(
            client,
            cubes_for(self.rows, 1, gpu),
            CubeDim::new_1d(self.form.units),
            x.array(),
            Buffer::sequence(&extra),
            outputs[0].array(),
            self.rows,
            self.len,
            self.epsilon,
            self.form,
        ));
    }
}

#[cube(launch)]
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
    let row = CUBE_POS as u32;
    let mut shared = SharedMemory::<F>::new(comptime!(form.units as usize));
    // The same for all units of a cube.
    if row < rows {
        let first = row * len;
        let mut mean = F::new(0.0);
        if comptime!(!form.rms) {
            let mut own = F::new(0.0);
            for j in range_stepped(UNIT_POS, len, form.units) {
                own += x[(first + j) as usize];
            }
            mean = fold_all::<F>(own, &mut shared, form.units, Fold::Sum) / F::cast_from(len);
        }
        let mut own = F::new(0.0);
        for j in range_stepped(UNIT_POS, len, form.units) {
            let distance = x[(first + j) as usize] - mean;
            own += distance * distance;
        }
        let variance = fold_all::<F>(own, &mut shared, form.units, Fold::Sum) / F::cast_from(len);
        let factor = F::new(1.0) / F::sqrt(variance + epsilon);
        for j in range_stepped(UNIT_POS, len, form.units) {
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
