//! A unit for each window. Pools over one or two axes are pools over three whose first axes have one place.

use crate::gpu::{Buffer, Gpu, with_client};
use crate::operator::{PLAIN, UNIT_KNOBS, UNITS, cubes_for, unit_default, units_of, upload_words};
use crate::turns::{looped, turns_end};
use crate::{CubeKernel, CubeVariant};
use cubecl::prelude::*;
use kernels::{BuildError, Request, Task};
use schema::Config;

pub static WINDOWS: CubeVariant = CubeVariant {
    id: "pool.cube_windows",
    revision: 1,
    knobs: UNIT_KNOBS,
    rules: &[PLAIN, UNITS, turns_end!(turns)],
    default: unit_default,
    build,
};

fn turns(task: &Task, _: &Config) -> Option<usize> {
    let within = |turns, &extent: &usize| looped(extent, turns);
    // Axes that the windows lack have a loop of one turn.
    let axes = task.ints("kernel_shape");
    Some((axes.len()..3).fold(axes.iter().rev().fold(0, within), |turns, _| looped(1, turns)))
}

struct Windows {
    geometry: Buffer,
    elements: u32,
    units: u32,
    average: bool,
    include_pad: bool,
}

/// Three numbers, `filler` before those that are there.
fn three(values: &[usize], filler: usize) -> [u32; 3] {
    let mut three = [filler as u32; 3];
    let skip = 3 - values.len();
    values.iter().enumerate().for_each(|(i, &value)| three[skip + i] = value as u32);
    three
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let task: &Task = request.task;
    let signature = (kernels::pool::POOL.signature)(task)?;
    let (x, y) = (&signature.inputs[0].shape, &signature.outputs[0].shape);
    let axes = x.len() - 2;
    let pads = task.ints("pads");
    let numbers = [
        three(&x[2..], 1),
        three(&y[2..], 1),
        three(&task.ints("kernel_shape"), 1),
        three(&task.ints("strides"), 1),
        three(&task.ints("dilations"), 1),
        three(&pads[..axes], 0),
        three(&pads[axes..], 0),
    ];
    let geometry = upload_words(task, gpu, numbers.as_flattened())?;
    Ok(Box::new(Windows {
        geometry,
        elements: y.iter().product::<usize>() as u32,
        units: units_of(request.config),
        average: task.word("kind") == "average",
        include_pad: task.int("count_include_pad") == 1,
    }))
}

impl CubeKernel for Windows {
    fn prepared_bytes(&self) -> usize {
        self.geometry.bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let x = inputs[0].as_ref().expect("the task has an x");
        with_client!(gpu, client => windows::launch::<f32, _>(
            client,
            cubes_for(self.elements, self.units, gpu),
            CubeDim::new_1d(self.units),
            x.array(),
            outputs[0].array(),
            self.geometry.words(),
            self.elements,
            self.average,
            self.include_pad,
        ));
    }
}

/// `g` holds, three each: extents of x, of y, kernel, strides, dilations, pads before, pads after.
#[cube(launch)]
fn windows<F: Float>(
    x: &Array<F>,
    y: &mut Array<F>,
    g: &Array<u32>,
    elements: u32,
    #[comptime] average: bool,
    #[comptime] include_pad: bool,
) {
    let at = ABSOLUTE_POS as u32;
    if at < elements {
        let (depth, height, width) = (g[0], g[1], g[2]);
        let column = at % g[5];
        let row = at / g[5] % g[4];
        let slice = at / (g[5] * g[4]) % g[3];
        let plane = at / (g[5] * g[4] * g[3]) * depth * height * width;
        let mut best = F::new(-3.4e38);
        let mut sum = F::new(0.0);
        let mut counted = u32::new(0);
        for i in 0..g[6] {
            // Shifted by the pad, so that nothing is negative.
            let z_padded = slice * g[9] + i * g[12];
            for j in 0..g[7] {
                let y_padded = row * g[10] + j * g[13];
                for k in 0..g[8] {
                    let x_padded = column * g[11] + k * g[14];
                    let in_z = z_padded >= g[15] && z_padded - g[15] < depth;
                    let in_y = y_padded >= g[16] && y_padded - g[16] < height;
                    let in_x = x_padded >= g[17] && x_padded - g[17] < width;
                    if in_z && in_y && in_x {
                        let z = z_padded - g[15];
                        let value = x[(plane + (z * height + y_padded - g[16]) * width + x_padded - g[17]) as usize];
                        best = max(best, value);
                        sum += value;
                        if comptime!(!include_pad) {
                            counted += 1;
                        }
                    }
                    if comptime!(include_pad) {
                        let in_z = z_padded < depth + g[15] + g[18];
                        let in_y = y_padded < height + g[16] + g[19];
                        let in_x = x_padded < width + g[17] + g[20];
                        if in_z && in_y && in_x {
                            counted += 1;
                        }
                    }
                }
            }
        }
        if comptime!(average) {
            y[at as usize] = sum / F::cast_from(counted);
        } else {
            y[at as usize] = best;
        }
    }
}
