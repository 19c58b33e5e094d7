//! A cube for each row, whose units share its elements out. Three passes: the greatest, the sum of exponentials, the result.

use crate::gpu::{Buffer, Gpu, with_client};
use crate::index::place;
use crate::operator::{PLAIN, UNITS, cubes_for, units_of, upload_words};
use crate::team::{self, Fold, TEAM_KNOBS, fold_all, team_default, turns_of_passes};
use crate::turns::turns_end;
use crate::{CubeKernel, CubeVariant};
use cubecl::prelude::*;
use kernels::strides::broadcast_strides;
use kernels::{BuildError, Request, Task};
use schema::Config;

pub static TEAM: CubeVariant = CubeVariant {
    id: "softmax.cube_team",
    revision: 2,
    knobs: TEAM_KNOBS,
    rules: &[PLAIN, UNITS, turns_end!(turns)],
    default: team_default,
    build,
};

fn turns(task: &Task, config: &Config) -> Option<usize> {
    Some(turns_of_passes(3, *task.ints("x").get(task.int("axis"))?, config))
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Form {
    units: u32,
    log: bool,
    masked: bool,
    rank: usize,
}

struct Team {
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
    let numbers: Vec<u32> = [shape[axis], inner].iter().chain(shape).chain(&strides).map(|&number| number as u32).collect();
    Ok(Box::new(Team {
        form: Form { units: units_of(request.config), log: task.int("log") == 1, masked, rank: shape.len() },
        geometry: upload_words(task, gpu, &numbers)?,
        rows: (shape.iter().product::<usize>() / shape[axis].max(1)) as u32,
        scale: task.float("scale").unwrap_or(1.0),
    }))
}

impl CubeKernel for Team {
    fn prepared_bytes(&self) -> usize {
        self.geometry.bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let x = inputs[0].as_ref().expect("the task has an x");
        let mask: Vec<Buffer> = inputs.iter().skip(1).flatten().cloned().collect();
        with_client!(gpu, client => rows_of_x::launch::<f32, _>(
            client,
            cubes_for(self.rows, 1, gpu),
            CubeDim::new_1d(self.form.units),
            x.array(),
            Buffer::sequence(&mask),
            outputs[0].array(),
            self.geometry.words(),
            self.rows,
            self.scale,
            self.form,
        ));
    }
}

#[cube(launch)]
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
    let row = CUBE_POS as u32;
    let mut shared = SharedMemory::<F>::new(comptime!(form.units as usize));
    // The same for all units of a cube.
    if row < rows {
        let (len, inner) = (g[0], g[1]);
        let first = row / inner * len * inner + row % inner;
        let mut own = team::start::<F>(Fold::Max);
        for j in range_stepped(UNIT_POS, len, form.units) {
            own = max(own, value::<F>(x, mask, g, first + j * inner, scale, form));
        }
        let greatest = fold_all::<F>(own, &mut shared, form.units, Fold::Max);
        let mut own = F::new(0.0);
        for j in range_stepped(UNIT_POS, len, form.units) {
            own += F::exp(value::<F>(x, mask, g, first + j * inner, scale, form) - greatest);
        }
        let sum = fold_all::<F>(own, &mut shared, form.units, Fold::Sum);
        for j in range_stepped(UNIT_POS, len, form.units) {
            let at = first + j * inner;
            let shifted = value::<F>(x, mask, g, at, scale, form) - greatest;
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
        value += mask.index(0usize)[place(g, at, form.rank, 2usize, comptime!(2 + form.rank)) as usize];
    }
    value
}
