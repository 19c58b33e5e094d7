//! A square block for each unit, read in vectors along one axis and written in vectors along another: what lies side by side in the output
//! does not in the input.

use crate::gpu::{Buffer, Gpu, with_client};
use crate::index::{EXTENT_WORDS, extent_words, place};
use crate::operator::{PLAIN, UNITS, cubes_for, refuse, units_of, upload_words};
use crate::{CubeKernel, CubeVariant, uniform};
use cubecl::prelude::*;
use kernels::transpose::TRANSPOSE;
use kernels::{BuildError, Knob, Request, Rule, Task};
use schema::KnobValue;

pub static BLOCKS: CubeVariant = CubeVariant {
    id: "transpose.cube_blocks",
    revision: 1,
    knobs: &[Knob::ints("units", &[32, 64, 128, 256]), Knob::ints("block", &[2, 4])],
    rules: &[
        PLAIN,
        UNITS,
        Rule {
            reason: "blocks of that many do not divide the axes that input and output lie along, or these are one",
            holds: |task, config, _| Turn::of(task, config.int("block").unwrap_or(0) as usize).is_some(),
        },
    ],
    default: |task, _| {
        let widest = [4, 2].into_iter().find(|&block| Turn::of(task, block).is_some());
        vec![KnobValue::Int(256), KnobValue::Int(widest.unwrap_or(4) as i64)]
    },
    build,
};

/// A transpose in blocks; all strides are in vectors of as many elements as a block is long.
struct Turn {
    /// Blocks along each axis of the output, joined, and how far apart these begin in input and output.
    dims: Vec<usize>,
    from: Vec<usize>,
    to: Vec<usize>,
    /// From a vector of a block to its next, in input and output.
    steps: [usize; 2],
}

impl Turn {
    /// `None` where the task does not fall into blocks of that length.
    fn of(task: &Task, block: usize) -> Option<Turn> {
        let piece = kernels::transpose::piece(task, &(TRANSPOSE.signature)(task).ok()?);
        let mut dims = piece.dims().to_vec();
        // A transpose walks nothing backwards.
        let in_elements = |strides: &[isize]| -> Vec<usize> { strides.iter().map(|stride| stride.unsigned_abs()).collect() };
        let (mut from, mut to) = (in_elements(piece.from_strides()), in_elements(piece.to_strides()));
        let along_to = dims.len().checked_sub(1)?;
        let along_from = from.iter().position(|&stride| stride == 1).filter(|&axis| axis != along_to)?;
        let steps = [from[along_to], to[along_from]];
        for axis in 0..dims.len() {
            let turned = axis == along_from || axis == along_to;
            let whole = |stride: usize, along: usize| axis == along || stride.is_multiple_of(block);
            let divides = !turned || dims[axis].is_multiple_of(block);
            if !divides || !whole(from[axis], along_from) || !whole(to[axis], along_to) {
                return None;
            }
            if turned {
                dims[axis] /= block;
            } else {
                from[axis] /= block;
                to[axis] /= block;
            }
        }
        Some(Turn { dims, from, to, steps: steps.map(|step| step / block) })
    }
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Form {
    rank: usize,
    block: u32,
}

struct Blocks {
    form: Form,
    /// The steps; then extents in blocks, strides of the input, strides of the output.
    geometry: Buffer,
    blocks: u32,
    units: u32,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let task = request.task;
    let block = request.config.int("block").unwrap_or(1) as u32;
    let turn = Turn::of(task, block as usize).ok_or_else(|| refuse(task, &"it does not fall into blocks"))?;
    let words = |numbers: &[usize]| numbers.iter().map(|&number| number as u32).collect::<Vec<_>>();
    let numbers = [words(&turn.steps), extent_words(&turn.dims), words(&turn.from), words(&turn.to)].concat();
    Ok(Box::new(Blocks {
        form: Form { rank: turn.dims.len(), block },
        geometry: upload_words(task, gpu, &numbers)?,
        blocks: turn.dims.iter().product::<usize>() as u32,
        units: units_of(request.config),
    }))
}

impl CubeKernel for Blocks {
    fn prepared_bytes(&self) -> usize {
        self.geometry.bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let x = inputs[0].as_ref().expect("the task has an x");
        let block = self.form.block as usize;
        // SAFETY: only whole blocks are moved, and they tile the axes that input and output lie along.
        with_client!(gpu, client => unsafe {
            blocks_of_y::launch_unchecked::<f32, _>(
                client,
                cubes_for(self.blocks, self.units, gpu),
                CubeDim::new_1d(self.units),
                block,
                x.vectors(block * size_of::<f32>()),
                outputs[0].vectors(block * size_of::<f32>()),
                self.geometry.words(),
                self.blocks,
                self.form,
            )
        });
    }
}

#[cube(launch_unchecked)]
fn blocks_of_y<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    y: &mut Array<Vector<F, N>>,
    g: &Array<u32>,
    blocks: u32,
    #[comptime] form: Form,
) {
    let at = ABSOLUTE_POS as u32;
    let strides = comptime!(2 + form.rank * EXTENT_WORDS);
    let g = uniform::words(g, comptime!(strides + 2 * form.rank));
    if at < blocks {
        let from = place(&g, at, form.rank, 2usize, strides);
        let to = place(&g, at, form.rank, 2usize, comptime!(strides + form.rank));
        let mut lines = Array::<Vector<F, N>>::new(comptime!(form.block as usize));
        #[unroll]
        for i in 0..form.block {
            lines[comptime!(i as usize)] = x[(from + i * g[0]) as usize];
        }
        #[unroll]
        for j in 0..form.block {
            let mut turned = Vector::<F, N>::empty();
            #[unroll]
            for i in 0..comptime!(form.block as usize) {
                turned[i] = lines[i][comptime!(j as usize)];
            }
            let place = to + j * g[1];
            y[place as usize] = turned;
        }
    }
}
