//! A unit for every few elements of the output.

use super::steps::{self, Step, call, truth};
use crate::gpu::{Buffer, Gpu, with_client};
use crate::index::place;
use crate::operator::{PLAIN, UNITS, cubes_for, refuse, upload_words};
use crate::{CubeKernel, CubeVariant};
use cubecl::prelude::*;
use kernels::elementwise::{ELEMENTWISE, Expression};
use kernels::strides::{broadcast_strides, collapse};
use kernels::{BuildError, Knob, Request, Rule, Signature, Task};
use schema::KnobValue;

pub static ELEMENTS: CubeVariant = CubeVariant {
    id: "elementwise.cube_elements",
    revision: 1,
    knobs: &[Knob::ints("units", &[32, 64, 128, 256]), Knob::ints("items", &[1, 2, 4, 8])],
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
        UNITS,
    ],
    default: |_, _| vec![KnobValue::Int(64), KnobValue::Int(1)],
    build,
};

/// Steps and operands of a task that this variant can compute.
fn parts(task: &Task) -> Option<(Vec<Step>, Signature)> {
    let signature = (ELEMENTWISE.signature)(task).ok()?;
    Some((steps::of(&Expression::parse(task.word("expr")).ok()?)?, signature))
}

/// What is computed, as part of the kernel's identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Form {
    steps: Vec<Step>,
    /// For each input, whether it is repeated over some axis.
    repeated: Vec<bool>,
    rank: usize,
    items: u32,
}

struct Elements {
    form: Form,
    /// The output's extents, then each input's strides.
    geometry: Buffer,
    elements: u32,
    units: u32,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let task = request.task;
    let (steps, signature) = parts(task).ok_or_else(|| refuse(task, &"it is no f32 expression in rows"))?;
    let mut dims = signature.outputs[0].shape.clone();
    let elements = dims.iter().product::<usize>();
    let strides = signature.inputs.iter().map(|spec| broadcast_strides(&spec.shape, &dims));
    let mut strides: Vec<Vec<isize>> = strides
        .map(|strides| Some(strides?.into_iter().map(|stride| stride as isize).collect()))
        .collect::<Option<_>>()
        .ok_or_else(|| refuse(task, &"an input does not broadcast"))?;
    let repeated = signature.inputs.iter().map(|spec| spec.shape.iter().product::<usize>() != elements).collect();
    collapse(&mut dims, &mut strides);
    let numbers: Vec<u32> =
        dims.iter().map(|&dim| dim as u32).chain(strides.iter().flatten().map(|&stride| stride as u32)).chain([0]).collect();
    let knob = |name: &str| request.config.int(name).unwrap_or(1) as u32;
    Ok(Box::new(Elements {
        form: Form { steps, repeated, rank: dims.len(), items: knob("items") },
        geometry: upload_words(task, gpu, &numbers)?,
        elements: elements as u32,
        units: knob("units"),
    }))
}

impl CubeKernel for Elements {
    fn prepared_bytes(&self) -> usize {
        self.geometry.bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let inputs: Vec<Buffer> = inputs.iter().flatten().cloned().collect();
        with_client!(gpu, client => elements_of_y::launch::<f32, _>(
            client,
            cubes_for(self.elements.div_ceil(self.form.items), self.units, gpu),
            CubeDim::new_1d(self.units),
            Buffer::sequence(&inputs),
            outputs[0].array(),
            self.geometry.words(),
            self.elements,
            self.form.clone(),
        ));
    }
}

#[cube(launch)]
fn elements_of_y<F: Float>(inputs: &Sequence<Array<F>>, y: &mut Array<F>, g: &Array<u32>, elements: u32, #[comptime] form: Form) {
    let units = CUBE_COUNT as u32 * CUBE_DIM;
    #[unroll]
    for item in 0..comptime!(form.items) {
        // Units that stand side by side take elements that lie side by side.
        let at = item * units + ABSOLUTE_POS as u32;
        if at < elements {
            let mut values = Sequence::<F>::new();
            #[unroll]
            for i in 0..comptime!(form.steps.len()) {
                let value = step::<F>(inputs, &values, g, at, comptime!(form.clone()), comptime!(form.steps[i]));
                values.push(value);
            }
            y[at as usize] = values[comptime!(form.steps.len() - 1)];
        }
    }
}

/// The value a step makes.
#[cube]
fn step<F: Float>(
    inputs: &Sequence<Array<F>>,
    values: &Sequence<F>,
    g: &Array<u32>,
    at: u32,
    #[comptime] form: Form,
    #[comptime] step: Step,
) -> F {
    match comptime!(step) {
        Step::Input(input) => {
            let place = if comptime!(form.repeated[input]) {
                place(g, at, form.rank, 0usize, comptime!(form.rank * (input + 1)))
            } else {
                at
            };
            inputs.index(input)[place as usize]
        }
        Step::Number(number) => F::new(comptime!(number.number())),
        Step::Call(function, from) => {
            call::<F>(values[comptime!(from[0])], values[comptime!(from[1])], values[comptime!(from[2])], function)
        }
        Step::Truth(from) => truth::<F>(values[from] != F::new(0.0)),
    }
}
