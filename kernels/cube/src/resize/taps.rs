//! A unit for the same place in a few planes of the output: what tables say of its row and its column is read once for all of them.

use crate::gpu::{Buffer, Gpu, with_client};
use crate::index::{EXTENT_WORDS, divided, extent_words};
use crate::operator::{PLAIN, UNITS, cubes_for, refuse, units_of, upload_words};
use crate::{CubeKernel, CubeVariant, uniform};
use cubecl::prelude::*;
use kernels::resize::{Extents, RESIZE, Tap};
use kernels::{BuildError, Knob, Limits, Request, Task};
use schema::KnobValue;

pub static TAPS: CubeVariant = CubeVariant {
    id: "resize.cube_taps",
    revision: 2,
    knobs: &[Knob::ints("units", &[32, 64, 128, 256]), Knob::ints("planes", &[1, 2, 4, 8])],
    rules: &[PLAIN, UNITS],
    default,
    build,
};

/// A card has units enough for every element. Where the driver computes on the processor, what counts is how often tables are read.
fn default(_: &Task, limits: &Limits) -> Vec<KnobValue> {
    let software = limits.gpu.is_some_and(|gpu| gpu.software);
    vec![KnobValue::Int(64), KnobValue::Int(if software { 8 } else { 1 })]
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Form {
    linear: bool,
    /// Planes of a unit.
    planes: u32,
}

struct Taps {
    form: Form,
    /// Height and width of x, planes; then the words of y's columns and rows.
    geometry: Buffer,
    /// For each row of y, then for each column, two places in x.
    places: Buffer,
    /// For each row of y, then for each column, the weight of the second place.
    weights: Buffer,
    /// Units' places: elements of a plane of y for every few planes.
    spots: u32,
    units: u32,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let task = request.task;
    let axes = Extents::of(task)?;
    let all = || axes.rows.iter().chain(&axes.columns);
    let places: Vec<u32> = all().flat_map(|tap: &Tap| [tap.first as u32, tap.second as u32]).collect();
    let weights: Vec<f32> = all().map(|tap| tap.weight).collect();
    let signature = (RESIZE.signature)(task)?;
    let [rows, columns] = axes.to;
    let in_plane = rows * columns;
    let planes = signature.outputs[0].shape.iter().product::<usize>().checked_div(in_plane).unwrap_or(0);
    let of_unit = request.config.int("planes").unwrap_or(1) as usize;
    let x = [axes.from[0], axes.from[1], planes].map(|number| number as u32);
    let numbers = [&x[..], &extent_words(&[columns, rows])].concat();
    Ok(Box::new(Taps {
        form: Form { linear: axes.linear, planes: of_unit as u32 },
        geometry: upload_words(task, gpu, &numbers)?,
        places: upload_words(task, gpu, &places)?,
        weights: gpu.upload(bytemuck::cast_slice(&weights)).map_err(|error| refuse(task, &error))?,
        spots: (in_plane * planes.div_ceil(of_unit)) as u32,
        units: units_of(request.config),
    }))
}

impl CubeKernel for Taps {
    fn prepared_bytes(&self) -> usize {
        self.geometry.bytes() + self.places.bytes() + self.weights.bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let x = inputs[0].as_ref().expect("the task has an x");
        // SAFETY: rows and columns are within y, for each of which the tables have an entry, of places within x; planes behind the last are
        // left out.
        with_client!(gpu, client => unsafe {
            elements_of_y::launch_unchecked::<f32, _>(
                client,
                cubes_for(self.spots, self.units, gpu),
                CubeDim::new_1d(self.units),
                x.array(),
                outputs[0].array(),
                self.geometry.words(),
                self.places.words(),
                self.weights.array(),
                self.spots,
                self.form,
            )
        });
    }
}

const COLUMNS: usize = 3;
const ROWS: usize = COLUMNS + EXTENT_WORDS;

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is launched with")]
fn elements_of_y<F: Float>(
    x: &Array<F>,
    y: &mut Array<F>,
    g: &Array<u32>,
    places: &Array<u32>,
    weights: &Array<F>,
    spots: u32,
    #[comptime] form: Form,
) {
    let at = ABSOLUTE_POS as u32;
    let g = uniform::words(g, comptime!(ROWS + EXTENT_WORDS));
    if at < spots {
        let (height, width, planes) = (g[0], g[1], g[2]);
        let (line, column) = divided(&g, at, COLUMNS);
        let (group, row) = divided(&g, line, ROWS);
        let (rows, columns) = (g[ROWS], g[COLUMNS]);
        let of_column = rows + column;
        let top = places[(row * 2) as usize] * width;
        let left = places[(of_column * 2) as usize];
        let (mut bottom, mut right) = (top, left);
        let (mut down, mut across) = (F::new(0.0), F::new(0.0));
        if comptime!(form.linear) {
            bottom = places[(row * 2 + 1) as usize] * width;
            right = places[(of_column * 2 + 1) as usize];
            down = weights[row as usize];
            across = weights[of_column as usize];
        }
        #[unroll]
        for i in 0..form.planes {
            let plane = group * form.planes + i;
            if plane < planes {
                let of_x = plane * height * width;
                let mut value = x[(of_x + top + left) as usize];
                if comptime!(form.linear) {
                    let upper = value + (x[(of_x + top + right) as usize] - value) * across;
                    let below = x[(of_x + bottom + left) as usize];
                    let lower = below + (x[(of_x + bottom + right) as usize] - below) * across;
                    value = upper + (lower - upper) * down;
                }
                y[((plane * rows + row) * columns + column) as usize] = value;
            }
        }
    }
}
