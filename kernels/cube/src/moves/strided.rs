//! A launch for each box of elements, a unit for each element of it or for a vector of those that lie side by side in the output.

use crate::gpu::{Buffer, Gpu, with_client};
use crate::index::{EXTENT_WORDS, extent_words, place};
use crate::operator::{PLAIN, UNITS, cubes_for, refuse, units_of, upload_words};
use crate::{CubeKernel, CubeVariant, uniform};
use cubecl::prelude::*;
use kernels::strided_copy::Piece;
use kernels::strides::row_major;
use kernels::{BuildError, Knob, Limits, Request, Rule, Task};
use schema::KnobValue;

pub static COPY: CubeVariant = CubeVariant { id: "copy.cube_strided", ..TRANSPOSE };

pub static TRANSPOSE: CubeVariant = CubeVariant {
    id: "transpose.cube_strided",
    revision: 2,
    knobs: &[Knob::ints("units", &[32, 64, 128, 256]), Knob::ints("vector", &[1, 2, 4])],
    rules: &[
        PLAIN,
        UNITS,
        Rule {
            reason: "it falls into more boxes than are worth a launch each",
            holds: |task, _, _| boxes(task).is_ok_and(|(list, _)| list.len() <= BOXES_MAX),
        },
        Rule {
            reason: "what it writes does not lie in vectors of that many",
            holds: |task, config, _| {
                let vector = config.int("vector").unwrap_or(0) as usize;
                boxes(task).is_ok_and(|(list, _)| list.iter().all(|(.., piece)| writes_vectors(piece, vector)))
            },
        },
    ],
    default,
    build,
};

/// Launches of one task at most: beyond them the host is faster.
const BOXES_MAX: usize = 64;

/// The widest vectors that it writes.
fn default(task: &Task, _: &Limits) -> Vec<KnobValue> {
    let list = boxes(task).map(|(list, _)| list).unwrap_or_default();
    let widest = [4, 2].into_iter().find(|&vector| list.iter().all(|(.., piece)| writes_vectors(piece, vector)));
    vec![KnobValue::Int(256), KnobValue::Int(widest.unwrap_or(1) as i64)]
}

/// Boxes of elements, each of an input and an output, and the bits that outputs are filled with first.
type Boxes = (Vec<(usize, usize, Piece)>, Option<u64>);

fn boxes(task: &Task) -> Result<Boxes, BuildError> {
    let (mut list, fill) = if task.operator() == "transpose" {
        (vec![(0, 0, kernels::transpose::piece(task, &(kernels::transpose::TRANSPOSE.signature)(task)?))], None)
    } else {
        let pieces = kernels::copy::pieces(task)?;
        (pieces.list, pieces.fill)
    };
    list.retain(|(.., piece)| !piece.dims().contains(&0));
    Ok((list, fill))
}

/// Whether a box lies in its output in vectors of so many.
fn writes_vectors(piece: &Piece, vector: usize) -> bool {
    vector == 1 || in_vectors(piece, piece.to(), piece.to_strides(), vector)
}

/// Whether rows along the innermost axis of a box lie in vectors, in a tensor where it begins and runs so.
fn in_vectors(piece: &Piece, first: usize, strides: &[isize], vector: usize) -> bool {
    let whole = |&stride: &isize| stride.unsigned_abs().is_multiple_of(vector);
    first.is_multiple_of(vector)
        && piece.dims().last().is_some_and(|dim| dim.is_multiple_of(vector))
        && strides.split_last().is_some_and(|(&innermost, outer)| innermost == 1 && outer.iter().all(whole))
}

struct Strided {
    boxes: Vec<Copied>,
    /// What the outputs are filled with first, and their sizes.
    fill: Option<(f32, Vec<u32>)>,
    units: u32,
}

/// A box to copy.
struct Copied {
    input: usize,
    output: usize,
    vectors: u32,
    form: Form,
    geometry: Buffer,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Form {
    rank: usize,
    /// Elements of a unit.
    vector: usize,
    /// The source lies in vectors too.
    from_vectors: bool,
    /// What is copied lies in the output as it is counted.
    in_order: bool,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let task = request.task;
    let operator = kernels::operator(task.operator()).ok_or_else(|| refuse(task, &"there is no such operator"))?;
    let signature = (operator.signature)(task)?;
    let vector = request.config.int("vector").unwrap_or(1) as usize;
    let (list, fill) = boxes(task)?;
    let copied = |(input, output, piece): &(usize, usize, Piece)| {
        let (dims, to) = (piece.dims(), piece.to_strides());
        let form = Form {
            rank: dims.len(),
            vector,
            from_vectors: vector == 1 || in_vectors(piece, piece.from(), piece.from_strides(), vector),
            in_order: piece.to() == 0 && row_major(dims).iter().zip(to).all(|(&counted, &stride)| counted as isize == stride),
        };
        Ok(Copied {
            input: *input,
            output: *output,
            vectors: (dims.iter().product::<usize>() / vector) as u32,
            form,
            geometry: upload_words(task, gpu, &numbers(piece, &form))?,
        })
    };
    let sizes = || signature.outputs.iter().map(|spec| spec.shape.iter().product::<usize>() as u32).collect();
    Ok(Box::new(Strided {
        boxes: list.iter().map(copied).collect::<Result<_, BuildError>>()?,
        fill: fill.map(|bits| (f32::from_bits(bits as u32), sizes())),
        units: units_of(request.config),
    }))
}

/// Where the first vector lies in source and target, then extents, strides of the source, strides of the target, the distance of the
/// source's elements along the innermost axis. All are in vectors but those of a source that is read by elements. A stride may be negative:
/// kernels add modulo 2³².
fn numbers(piece: &Piece, form: &Form) -> Vec<u32> {
    let mut dims = piece.dims().to_vec();
    if let Some(innermost) = dims.last_mut() {
        *innermost /= form.vector;
    }
    let along = piece.from_strides().last().copied().unwrap_or(0);
    let in_vectors = |strides: &[isize]| -> Vec<isize> {
        let (innermost, outer) = strides.split_last().map_or((None, &[][..]), |(&innermost, outer)| (Some(innermost), outer));
        outer.iter().map(|stride| stride / form.vector as isize).chain(innermost).collect()
    };
    let (from, from_strides) = if form.from_vectors {
        (piece.from() / form.vector, in_vectors(piece.from_strides()))
    } else {
        let mut strides = piece.from_strides().to_vec();
        if let Some(innermost) = strides.last_mut() {
            *innermost *= form.vector as isize;
        }
        (piece.from(), strides)
    };
    let strides = from_strides.into_iter().chain(in_vectors(piece.to_strides())).chain([along]).map(|stride| stride as u32);
    let first = [from, piece.to() / form.vector].map(|place| place as u32);
    first.into_iter().chain(extent_words(&dims)).chain(strides).collect()
}

impl CubeKernel for Strided {
    fn prepared_bytes(&self) -> usize {
        self.boxes.iter().map(|copied| copied.geometry.bytes()).sum()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        if let Some((value, sizes)) = &self.fill {
            for (output, &elements) in outputs.iter().zip(sizes) {
                // SAFETY: so many elements lie in the output, and no more are written.
                with_client!(gpu, client => unsafe {
                    fill_with::launch_unchecked::<f32, _>(
                        client,
                        cubes_for(elements, self.units, gpu),
                        CubeDim::new_1d(self.units),
                        output.array(),
                        elements,
                        *value,
                    )
                });
            }
        }
        for copied in &self.boxes {
            let x = inputs[copied.input].as_ref().expect("the task has this input");
            let Form { vector, from_vectors, .. } = copied.form;
            // SAFETY: only vectors of the box are moved, and the box lies within its input and its output.
            with_client!(gpu, client => unsafe {
                copy_box::launch_unchecked::<f32, _>(
                    client,
                    cubes_for(copied.vectors, self.units, gpu),
                    CubeDim::new_1d(self.units),
                    if from_vectors { vector } else { 1 },
                    vector,
                    x.vectors(size_of::<f32>() * if from_vectors { vector } else { 1 }),
                    outputs[copied.output].vectors(size_of::<f32>() * vector),
                    copied.geometry.words(),
                    copied.vectors,
                    copied.form,
                )
            });
        }
    }
}

#[cube(launch_unchecked)]
fn fill_with<F: Float + CubeElement>(y: &mut Array<F>, elements: u32, value: F) {
    let at = ABSOLUTE_POS as u32;
    if at < elements {
        y[at as usize] = value;
    }
}

#[cube(launch_unchecked)]
fn copy_box<F: Float, N: Size, M: Size>(
    x: &Array<Vector<F, N>>,
    y: &mut Array<Vector<F, M>>,
    g: &Array<u32>,
    vectors: u32,
    #[comptime] form: Form,
) {
    let at = ABSOLUTE_POS as u32;
    let strides = comptime!(2 + form.rank * EXTENT_WORDS);
    let g = uniform::words(g, comptime!(strides + 2 * form.rank + 1));
    if at < vectors {
        let from = g[0] + place(&g, at, form.rank, 2usize, strides);
        let to =
            if comptime!(form.in_order) { at } else { g[1] + place(&g, at, form.rank, 2usize, comptime!(strides + form.rank)) };
        let mut moved = Vector::<F, M>::empty();
        #[unroll]
        for i in 0..form.vector {
            if comptime!(form.from_vectors) {
                moved[i] = x[from as usize][i];
            } else {
                let along = g[comptime!(strides + 2 * form.rank)];
                moved[i] = x[(from + comptime!(i as u32) * along) as usize][0usize];
            }
        }
        y[to as usize] = moved;
    }
}
