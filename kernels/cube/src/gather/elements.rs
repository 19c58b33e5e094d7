//! A unit for each element of the output.

use crate::gpu::{Buffer, Gpu, with_client};
use crate::operator::{IN_ROWS, UNIT_KNOBS, UNITS, cubes_for, unit_default, units_of};
use crate::picked::{picked, words_of};
use crate::{CubeKernel, CubeVariant, uniform};
use cubecl::prelude::*;
use kernels::{BuildError, Request};

pub static ELEMENTS: CubeVariant = CubeVariant {
    id: "gather.cube_elements",
    revision: 2,
    knobs: UNIT_KNOBS,
    rules: &[IN_ROWS, UNITS],
    default: unit_default,
    build,
};

struct Elements {
    /// Words of an index.
    words: u32,
    /// Of the axis.
    extent: u32,
    /// Elements of a slice, and slices for each place in front of the axis.
    inner: u32,
    count: u32,
    elements: u32,
    units: u32,
}

fn build(request: &Request<'_>, _: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let task = request.task;
    let signature = (kernels::gather::GATHER.signature)(task)?;
    let (x, indices, axis) = (&signature.inputs[0].shape, &signature.inputs[1], task.int("axis"));
    Ok(Box::new(Elements {
        words: words_of(task, indices)?,
        extent: x[axis] as u32,
        inner: x[axis + 1..].iter().product::<usize>() as u32,
        count: indices.shape.iter().product::<usize>() as u32,
        elements: signature.outputs[0].shape.iter().product::<usize>() as u32,
        units: units_of(request.config),
    }))
}

impl CubeKernel for Elements {
    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let x = inputs[0].as_ref().expect("the task has an x");
        let indices = inputs[1].as_ref().expect("the task has indices");
        // SAFETY: only elements of y are written, of which each has an index; `picked` moves every index inside of x.
        with_client!(gpu, client => unsafe {
            elements_of_y::launch_unchecked::<f32, _>(
                client,
                cubes_for(self.elements, self.units, gpu),
                CubeDim::new_1d(self.units),
                x.array(),
                indices.signed(),
                outputs[0].array(),
                self.extent,
                self.inner,
                self.count,
                self.elements,
                self.words,
            )
        });
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is launched with")]
fn elements_of_y<F: Float>(
    x: &Array<F>,
    indices: &Array<i32>,
    y: &mut Array<F>,
    extent: u32,
    inner: u32,
    count: u32,
    elements: u32,
    #[comptime] words: u32,
) {
    let (extent, inner, count, elements) =
        (uniform::number(extent), uniform::number(inner), uniform::number(count), uniform::number(elements));
    let at = ABSOLUTE_POS as u32;
    if at < elements {
        let (slice, within) = (at / inner, at % inner);
        let place = picked(indices, slice % count, extent, words);
        y[at as usize] = x[((slice / count * extent + place) * inner + within) as usize];
    }
}
