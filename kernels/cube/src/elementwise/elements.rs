//! A unit for every few elements of the output, or for every few vectors of elements that lie side by side.

use super::steps::{self, Step, call, truth};
use crate::gpu::{Buffer, Gpu, with_client};
use crate::index::{EXTENT_WORDS, extent_words, place};
use crate::operator::{PLAIN, UNITS, cubes_for, refuse, upload_words};
use crate::{CubeKernel, CubeVariant, uniform};
use cubecl::prelude::*;
use kernels::elementwise::{ELEMENTWISE, Expression};
use kernels::strides::{broadcast_strides, collapse};
use kernels::{BuildError, Knob, Limits, Request, Rule, Signature, Task};
use schema::KnobValue;

pub static ELEMENTS: CubeVariant = CubeVariant {
    id: "elementwise.cube_elements",
    revision: 2,
    knobs: &[Knob::ints("units", &[32, 64, 128, 256]), Knob::ints("items", &[1, 2, 4, 8]), Knob::ints("vector", &[1, 2, 4])],
    rules: &[
        PLAIN,
        Rule {
            reason: "it has whole numbers within, or a function that devices compute loosely",
            holds: |task, _, _| parts(task).is_some(),
        },
        Rule {
            reason: "more operands than a kernel of the device binds",
            // One is the kernel's own.
            holds: |task, _, limits| {
                parts(task).zip(limits.gpu).is_some_and(|((_, s), gpu)| s.inputs.len() + 3 <= gpu.bindings as usize)
            },
        },
        Rule {
            reason: "its elements do not lie in vectors of that many",
            holds: |task, config, _| {
                let vector = config.int("vector").unwrap_or(0);
                parts(task).and_then(|(_, signature)| Walk::of(&signature)).is_some_and(|walk| walk.vectors(vector as usize))
            },
        },
        UNITS,
    ],
    default,
    build,
};

/// The widest vectors that its elements lie in.
fn default(task: &Task, _: &Limits) -> Vec<KnobValue> {
    let walk = parts(task).and_then(|(_, signature)| Walk::of(&signature));
    let widest = walk.and_then(|walk| [4, 2].into_iter().find(|&vector| walk.vectors(vector)));
    vec![KnobValue::Int(64), KnobValue::Int(1), KnobValue::Int(widest.unwrap_or(1) as i64)]
}

/// Steps and operands of a task that this variant can compute.
fn parts(task: &Task) -> Option<(Vec<Step>, Signature)> {
    let signature = (ELEMENTWISE.signature)(task).ok()?;
    Some((steps::of(&Expression::parse(task.word("expr")).ok()?)?, signature))
}

/// The output's axes, joined where all operands walk them as one, and each input's strides along them.
struct Walk {
    dims: Vec<usize>,
    strides: Vec<Vec<isize>>,
}

impl Walk {
    /// `None` where an input does not broadcast.
    fn of(signature: &Signature) -> Option<Walk> {
        let mut dims = signature.outputs[0].shape.clone();
        let strides = signature.inputs.iter().map(|spec| broadcast_strides(&spec.shape, &dims));
        let mut strides: Vec<Vec<isize>> =
            strides.map(|strides| Some(strides?.into_iter().map(|stride| stride as isize).collect())).collect::<Option<_>>()?;
        collapse(&mut dims, &mut strides);
        Some(Walk { dims, strides })
    }

    /// Whether the output and each input that is not repeated along the innermost axis lie in vectors of so many elements.
    fn vectors(&self, vector: usize) -> bool {
        vector == 1
            || self.dims.last().is_some_and(|&dim| dim.is_multiple_of(vector))
                && self.strides.iter().all(|strides| {
                    let (&innermost, outer) = strides.split_last().expect("there is an axis");
                    innermost == 0 || innermost == 1 && outer.iter().all(|&stride| (stride as usize).is_multiple_of(vector))
                })
    }
}

/// How an input is read.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Source {
    /// In vectors, or an element for each vector of the output.
    vectors: bool,
    /// Which it is of those read so.
    number: usize,
    /// Whether it lies otherwise than the output.
    repeated: bool,
}

/// What is computed, as part of the kernel's identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Form {
    steps: Vec<Step>,
    sources: Vec<Source>,
    rank: usize,
    items: u32,
    vector: u32,
}

struct Elements {
    form: Form,
    /// The output's extents, then each input's strides, in vectors where it is read so.
    geometry: Buffer,
    /// Vectors of the output.
    vectors: u32,
    units: u32,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let task = request.task;
    let (steps, signature) = parts(task).ok_or_else(|| refuse(task, &"it is no f32 expression in rows"))?;
    let Walk { mut dims, mut strides } = Walk::of(&signature).ok_or_else(|| refuse(task, &"an input does not broadcast"))?;
    let knob = |name: &str| request.config.int(name).unwrap_or(1) as u32;
    let (rank, vector) = (dims.len(), knob("vector") as usize);
    let vectors = dims.iter().product::<usize>() / vector;
    if let Some(innermost) = dims.last_mut() {
        *innermost /= vector;
    }
    let mut sources: Vec<Source> = Vec::with_capacity(strides.len());
    for (strides, spec) in strides.iter_mut().zip(&signature.inputs) {
        let of_vectors = vector == 1 || strides.last() == Some(&1);
        if of_vectors {
            strides.iter_mut().take(rank.saturating_sub(1)).for_each(|stride| *stride /= vector as isize);
        }
        sources.push(Source {
            vectors: of_vectors,
            number: sources.iter().filter(|source| source.vectors == of_vectors).count(),
            repeated: spec.shape.iter().product::<usize>() != vectors * vector,
        });
    }
    let strides = strides.iter().flatten().map(|&stride| stride as u32);
    let numbers: Vec<u32> = extent_words(&dims).into_iter().chain(strides).chain([0]).collect();
    Ok(Box::new(Elements {
        form: Form { steps, sources, rank, items: knob("items"), vector: vector as u32 },
        geometry: upload_words(task, gpu, &numbers)?,
        vectors: vectors as u32,
        units: knob("units"),
    }))
}

impl CubeKernel for Elements {
    fn prepared_bytes(&self) -> usize {
        self.geometry.bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let vector = self.form.vector as usize;
        let read = |vectors: bool| {
            let inputs = inputs.iter().flatten().zip(&self.form.sources);
            inputs.filter(|(_, source)| source.vectors == vectors).map(|(input, _)| input.clone()).collect::<Vec<_>>()
        };
        // SAFETY: units compute vectors of the output only, and what they read of an input is where the strides of its broadcast have
        // these.
        with_client!(gpu, client => unsafe {
            elements_of_y::launch_unchecked::<f32, _>(
                client,
                cubes_for(self.vectors.div_ceil(self.form.items), self.units, gpu),
                CubeDim::new_1d(self.units),
                vector,
                Buffer::vector_sequence(&read(true), vector),
                Buffer::sequence(&read(false)),
                outputs[0].vectors(vector * size_of::<f32>()),
                self.geometry.words(),
                self.vectors,
                self.form.clone(),
            )
        });
    }
}

#[cube(launch_unchecked)]
fn elements_of_y<F: Float, N: Size>(
    inputs: &Sequence<Array<Vector<F, N>>>,
    repeated: &Sequence<Array<F>>,
    y: &mut Array<Vector<F, N>>,
    g: &Array<u32>,
    vectors: u32,
    #[comptime] form: Form,
) {
    let units = CUBE_COUNT as u32 * CUBE_DIM;
    let g = uniform::words(g, comptime!(form.rank * (EXTENT_WORDS + form.sources.len())));
    #[unroll]
    for item in 0..comptime!(form.items) {
        // Units that stand side by side take vectors that lie side by side.
        let at = item * units + ABSOLUTE_POS as u32;
        if at < vectors {
            let mut read = Sequence::<Vector<F, N>>::new();
            #[unroll]
            for input in 0..comptime!(form.sources.len()) {
                let source = comptime!(form.sources[input]);
                let place = if comptime!(source.repeated) {
                    place(&g, at, form.rank, 0usize, comptime!(form.rank * (EXTENT_WORDS + input)))
                } else {
                    at
                };
                if comptime!(source.vectors) {
                    read.push(inputs.index(comptime!(source.number))[place as usize]);
                } else {
                    read.push(Vector::<F, N>::new(repeated.index(comptime!(source.number))[place as usize]));
                }
            }
            let mut made = Vector::<F, N>::empty();
            #[unroll]
            for i in 0..comptime!(form.vector as usize) {
                made[i] = element::<F, N>(&read, i, comptime!(form.clone()));
            }
            y[at as usize] = made;
        }
    }
}

/// What the steps make of the inputs' elements of that place in their vectors.
#[cube]
fn element<F: Float, N: Size>(read: &Sequence<Vector<F, N>>, #[comptime] place: usize, #[comptime] form: Form) -> F {
    let mut values = Sequence::<F>::new();
    #[unroll]
    for i in 0..comptime!(form.steps.len()) {
        let value = match comptime!(form.steps[i]) {
            Step::Input(input) => read.index(input)[place],
            Step::Number(number) => F::new(comptime!(number.number())),
            Step::Call(function, from) => {
                call::<F>(values[comptime!(from[0])], values[comptime!(from[1])], values[comptime!(from[2])], function)
            }
            Step::Truth(from) => truth::<F>(values[from] != F::new(0.0)),
        };
        values.push(value);
    }
    values[comptime!(form.steps.len() - 1)]
}
