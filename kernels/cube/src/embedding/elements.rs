//! A unit for each element of the output, which adds up its bag: units that stand side by side read side by side.

use crate::gpu::{Buffer, Gpu, with_client};
use crate::operator::{IN_ROWS, UNIT_KNOBS, UNITS, cubes_for, unit_default, units_of};
use crate::picked::{picked, words_of};
use crate::turns::{looped, turns_end};
use crate::{CubeKernel, CubeVariant, uniform};
use cubecl::prelude::*;
use kernels::{BuildError, Request, Task};
use schema::Config;

pub static ELEMENTS: CubeVariant = CubeVariant {
    id: "embedding.cube_elements",
    revision: 2,
    knobs: UNIT_KNOBS,
    rules: &[IN_ROWS, UNITS, turns_end!(turns)],
    default: unit_default,
    build,
};

fn turns(task: &Task, _: &Config) -> Option<usize> {
    let bag = if task.word("bag").is_empty() { 1 } else { *task.ints("indices").last().unwrap_or(&1) };
    Some(looped(bag, 0))
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Form {
    /// Words of an index.
    words: u32,
    mean: bool,
}

struct Elements {
    form: Form,
    rows: u32,
    width: u32,
    bag: u32,
    elements: u32,
    units: u32,
}

fn build(request: &Request<'_>, _: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let task = request.task;
    let signature = (kernels::embedding::EMBEDDING.signature)(task)?;
    let (table, indices) = (&signature.inputs[0], &signature.inputs[1]);
    let bagged = matches!(task.word("bag"), "sum" | "mean");
    Ok(Box::new(Elements {
        form: Form { words: words_of(task, indices)?, mean: task.word("bag") == "mean" },
        rows: table.shape[0] as u32,
        width: table.shape[1..].iter().product::<usize>() as u32,
        bag: if bagged { indices.shape.last().copied().unwrap_or(1) as u32 } else { 1 },
        elements: signature.outputs[0].shape.iter().product::<usize>() as u32,
        units: units_of(request.config),
    }))
}

impl CubeKernel for Elements {
    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let table = inputs[0].as_ref().expect("the task has a table");
        let indices = inputs[1].as_ref().expect("the task has indices");
        // SAFETY: only elements of y are written, of which each has a bag of indices; `picked` moves every index inside of the table.
        with_client!(gpu, client => unsafe {
            elements_of_y::launch_unchecked::<f32, _>(
                client,
                cubes_for(self.elements, self.units, gpu),
                CubeDim::new_1d(self.units),
                table.array(),
                indices.signed(),
                outputs[0].array(),
                self.rows,
                self.width,
                self.bag,
                self.elements,
                self.form,
            )
        });
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is launched with")]
fn elements_of_y<F: Float>(
    table: &Array<F>,
    indices: &Array<i32>,
    y: &mut Array<F>,
    rows: u32,
    width: u32,
    bag: u32,
    elements: u32,
    #[comptime] form: Form,
) {
    let (rows, width, bag, elements) =
        (uniform::number(rows), uniform::number(width), uniform::number(bag), uniform::number(elements));
    let at = ABSOLUTE_POS as u32;
    if at < elements {
        let first = at / width * bag;
        let mut sum = F::new(0.0);
        for i in 0..bag {
            sum += table[(picked(indices, first + i, rows, form.words) * width + at % width) as usize];
        }
        if comptime!(form.mean) {
            sum /= F::cast_from(bag);
        }
        y[at as usize] = sum;
    }
}
