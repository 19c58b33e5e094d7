//! A launch for each box of elements, a unit for each element of it.

use crate::gpu::{Buffer, Gpu, with_client};
use crate::operator::{PLAIN, UNIT_KNOBS, UNITS, cubes_for, refuse, unit_default, units_of};
use crate::{CubeKernel, CubeVariant};
use cubecl::prelude::*;
use kernels::strided_copy::Piece;
use kernels::{BuildError, Request, Rule};

pub static COPY: CubeVariant = CubeVariant { id: "copy.cube_strided", ..TRANSPOSE };

pub static TRANSPOSE: CubeVariant = CubeVariant {
    id: "transpose.cube_strided",
    revision: 1,
    knobs: UNIT_KNOBS,
    rules: &[PLAIN, UNITS, FEW],
    default: unit_default,
    build,
};

/// Launches of one task at most: beyond them the host is faster.
const PIECES_MAX: usize = 64;

const FEW: Rule = Rule {
    reason: "it falls into more boxes than are worth a launch each",
    holds: |task, _, _| task.operator() == "transpose" || kernels::copy::pieces(task).is_ok_and(|p| p.list.len() <= PIECES_MAX),
};

struct Strided {
    /// Input, output, elements, rank and geometry of each box.
    boxes: Vec<(usize, usize, u32, usize, Buffer)>,
    /// What the outputs are filled with first, and their sizes.
    fill: Option<(f32, Vec<u32>)>,
    units: u32,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let task = request.task;
    let operator = kernels::operator(task.operator()).ok_or_else(|| refuse(task, &"there is no such operator"))?;
    let signature = (operator.signature)(task)?;
    let (list, fill) = if task.operator() == "transpose" {
        (vec![(0, 0, kernels::transpose::piece(task, &signature))], None)
    } else {
        let pieces = kernels::copy::pieces(task)?;
        (pieces.list, pieces.fill)
    };
    let mut boxes = Vec::with_capacity(list.len());
    for (input, output, piece) in list.iter().filter(|(.., piece)| !piece.dims().contains(&0)) {
        let geometry = gpu.upload(bytemuck::cast_slice(&numbers(piece))).map_err(|error| refuse(task, &error))?;
        boxes.push((*input, *output, piece.dims().iter().product::<usize>() as u32, piece.dims().len(), geometry));
    }
    let sizes = || signature.outputs.iter().map(|spec| spec.shape.iter().product::<usize>() as u32).collect();
    Ok(Box::new(Strided {
        boxes,
        fill: fill.map(|bits| (f32::from_bits(bits as u32), sizes())),
        units: units_of(request.config),
    }))
}

/// Offsets of the first element, then extents, strides of the source, strides of the target.
fn numbers(piece: &Piece) -> Vec<i32> {
    let first = [piece.from() as i32, piece.to() as i32];
    let dims = piece.dims().iter().map(|&dim| dim as i32);
    let strides = piece.from_strides().iter().chain(piece.to_strides()).map(|&stride| stride as i32);
    first.into_iter().chain(dims).chain(strides).collect()
}

impl CubeKernel for Strided {
    fn prepared_bytes(&self) -> usize {
        self.boxes.iter().map(|(.., geometry)| geometry.bytes()).sum()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        if let Some((value, sizes)) = &self.fill {
            for (output, &elements) in outputs.iter().zip(sizes) {
                with_client!(gpu, client => fill_with::launch::<f32, _>(
                    client,
                    cubes_for(elements, self.units, gpu),
                    CubeDim::new_1d(self.units),
                    output.array(),
                    elements,
                    *value,
                ));
            }
        }
        for (input, output, elements, rank, geometry) in &self.boxes {
            let x = inputs[*input].as_ref().expect("the task has this input");
            with_client!(gpu, client => copy_box::launch::<f32, _>(
                client,
                cubes_for(*elements, self.units, gpu),
                CubeDim::new_1d(self.units),
                x.array(),
                outputs[*output].array(),
                geometry.signed(),
                *elements,
                *rank,
            ));
        }
    }
}

#[cube(launch)]
fn fill_with<F: Float + CubeElement>(y: &mut Array<F>, elements: u32, value: F) {
    let at = ABSOLUTE_POS as u32;
    if at < elements {
        y[at as usize] = value;
    }
}

#[cube(launch)]
fn copy_box<F: Float>(x: &Array<F>, y: &mut Array<F>, g: &Array<i32>, elements: u32, #[comptime] rank: usize) {
    let at = ABSOLUTE_POS as u32;
    if at < elements {
        let mut rest = at as i32;
        let mut from = g[0];
        let mut to = g[1];
        #[unroll]
        for i in 0..rank {
            let axis = comptime!(rank - 1 - i);
            let extent = g[comptime!(2 + axis)];
            let place = rest % extent;
            rest /= extent;
            from += place * g[comptime!(2 + rank + axis)];
            to += place * g[comptime!(2 + 2 * rank + axis)];
        }
        y[to as usize] = x[from as usize];
    }
}
