//! A unit for each element of the output, with the places and weights of both axes in tables.

use crate::gpu::{Buffer, Gpu, with_client};
use crate::operator::{PLAIN, UNIT_KNOBS, UNITS, cubes_for, refuse, unit_default, units_of, upload_words};
use crate::{CubeKernel, CubeVariant};
use cubecl::prelude::*;
use kernels::resize::{Extents, RESIZE, Tap};
use kernels::{BuildError, Request};

pub static TAPS: CubeVariant =
    CubeVariant { id: "resize.cube_taps", revision: 1, knobs: UNIT_KNOBS, rules: &[PLAIN, UNITS], default: unit_default, build };

struct Taps {
    /// For each row of y, then for each column, two places in x.
    places: Buffer,
    /// For each row of y, then for each column, the weight of the second place.
    weights: Buffer,
    /// Height and width of x and of y.
    from: [u32; 2],
    to: [u32; 2],
    elements: u32,
    linear: bool,
    units: u32,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let task = request.task;
    let axes = Extents::of(task)?;
    let all = || axes.rows.iter().chain(&axes.columns);
    let places: Vec<u32> = all().flat_map(|tap: &Tap| [tap.first as u32, tap.second as u32]).collect();
    let weights: Vec<f32> = all().map(|tap| tap.weight).collect();
    let signature = (RESIZE.signature)(task)?;
    Ok(Box::new(Taps {
        places: upload_words(task, gpu, &places)?,
        weights: gpu.upload(bytemuck::cast_slice(&weights)).map_err(|error| refuse(task, &error))?,
        from: axes.from.map(|extent| extent as u32),
        to: axes.to.map(|extent| extent as u32),
        elements: signature.outputs[0].shape.iter().product::<usize>() as u32,
        linear: axes.linear,
        units: units_of(request.config),
    }))
}

impl CubeKernel for Taps {
    fn prepared_bytes(&self) -> usize {
        self.places.bytes() + self.weights.bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let x = inputs[0].as_ref().expect("the task has an x");
        let ([height, width], [rows, columns]) = (self.from, self.to);
        with_client!(gpu, client => elements_of_y::launch::<f32, _>(
            client,
            cubes_for(self.elements, self.units, gpu),
            CubeDim::new_1d(self.units),
            x.array(),
            outputs[0].array(),
            self.places.words(),
            self.weights.array(),
            height,
            width,
            rows,
            columns,
            self.elements,
            self.linear,
        ));
    }
}

#[cube(launch)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is launched with")]
fn elements_of_y<F: Float>(
    x: &Array<F>,
    y: &mut Array<F>,
    places: &Array<u32>,
    weights: &Array<F>,
    height: u32,
    width: u32,
    rows: u32,
    columns: u32,
    elements: u32,
    #[comptime] linear: bool,
) {
    let at = ABSOLUTE_POS as u32;
    if at < elements {
        let (row, column) = (at / columns % rows, rows + at % columns);
        let plane = at / (columns * rows) * height * width;
        let top = plane + places[(row * 2) as usize] * width;
        let left = places[(column * 2) as usize];
        let mut value = x[(top + left) as usize];
        if comptime!(linear) {
            let bottom = plane + places[(row * 2 + 1) as usize] * width;
            let right = places[(column * 2 + 1) as usize];
            let (down, across) = (weights[row as usize], weights[column as usize]);
            let upper = value + (x[(top + right) as usize] - value) * across;
            let below = x[(bottom + left) as usize];
            let lower = below + (x[(bottom + right) as usize] - below) * across;
            value = upper + (lower - upper) * down;
        }
        y[at as usize] = value;
    }
}
