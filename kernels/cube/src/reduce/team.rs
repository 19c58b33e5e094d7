//! A cube for each element of the output, whose units share out what is folded into it.

use crate::gpu::{Buffer, Gpu, with_client};
use crate::index::place;
use crate::operator::{PLAIN, UNITS, cubes_for, refuse, units_of, upload_words};
use crate::team::{self, Fold, TEAM_KNOBS, fold, fold_all, team_default, turns_of_passes};
use crate::turns::turns_end;
use crate::{CubeKernel, CubeVariant};
use cubecl::prelude::*;
use kernels::strides::{collapse, row_major};
use kernels::{BuildError, Request, Task};
use schema::Config;

pub static TEAM: CubeVariant = CubeVariant {
    id: "reduce.cube_team",
    revision: 2,
    knobs: TEAM_KNOBS,
    rules: &[PLAIN, UNITS, turns_end!(turns)],
    default: team_default,
    build,
};

fn turns(task: &Task, config: &Config) -> Option<usize> {
    let (x, axes) = (task.ints("x"), task.ints("axes"));
    Some(turns_of_passes(1, axes.iter().filter_map(|&axis| x.get(axis)).product(), config))
}

/// What becomes of each element before it is folded, and of the fold.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Plain(Fold),
    Mean,
    L1,
    L2,
    SumSquare,
    LogSum,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Form {
    units: u32,
    kind: Kind,
    /// Axes that are kept and axes that are folded.
    ranks: (usize, usize),
}

struct Team {
    form: Form,
    /// Extents and strides of the axes that are kept, then of those that are folded.
    geometry: Buffer,
    elements: u32,
    folded: u32,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let task = request.task;
    let signature = (kernels::reduce::REDUCE.signature)(task)?;
    let kind = match task.word("kind") {
        "sum" => Kind::Plain(Fold::Sum),
        "max" => Kind::Plain(Fold::Max),
        "min" => Kind::Plain(Fold::Min),
        "prod" => Kind::Plain(Fold::Product),
        "mean" => Kind::Mean,
        "l1" => Kind::L1,
        "l2" => Kind::L2,
        "sum_square" => Kind::SumSquare,
        "log_sum" => Kind::LogSum,
        other => return Err(refuse(task, &format!("there is no kind '{other}'"))),
    };
    let (shape, axes) = (&signature.inputs[0].shape, task.ints("axes"));
    let strides = row_major(shape);
    let part = |folded: bool| {
        let chosen = || (0..shape.len()).filter(|axis| axes.contains(axis) == folded);
        let mut dims: Vec<usize> = chosen().map(|axis| shape[axis]).collect();
        let mut strides = [chosen().map(|axis| strides[axis] as isize).collect::<Vec<_>>()];
        let count = dims.iter().product::<usize>();
        collapse(&mut dims, &mut strides);
        (count, dims, std::mem::take(&mut strides[0]))
    };
    let ((elements, kept, kept_strides), (folded, dims, dims_strides)) = (part(false), part(true));
    let words = |dims: &[usize], strides: &[isize]| -> Vec<u32> {
        dims.iter().map(|&dim| dim as u32).chain(strides.iter().map(|&stride| stride as u32)).collect()
    };
    let numbers = [words(&kept, &kept_strides), words(&dims, &dims_strides), vec![0]].concat();
    Ok(Box::new(Team {
        form: Form { units: units_of(request.config), kind, ranks: (kept.len(), dims.len()) },
        geometry: upload_words(task, gpu, &numbers)?,
        elements: elements as u32,
        folded: folded as u32,
    }))
}

impl CubeKernel for Team {
    fn prepared_bytes(&self) -> usize {
        self.geometry.bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let x = inputs[0].as_ref().expect("the task has an x");
        with_client!(gpu, client => elements_of_y::launch::<f32, _>(
            client,
            cubes_for(self.elements, 1, gpu),
            CubeDim::new_1d(self.form.units),
            x.array(),
            outputs[0].array(),
            self.geometry.words(),
            self.elements,
            self.folded,
            self.form,
        ));
    }
}

#[cube(launch)]
fn elements_of_y<F: Float>(x: &Array<F>, y: &mut Array<F>, g: &Array<u32>, elements: u32, folded: u32, #[comptime] form: Form) {
    let at = CUBE_POS as u32;
    let mut shared = SharedMemory::<F>::new(comptime!(form.units as usize));
    let how = comptime!(if let Kind::Plain(fold) = form.kind { fold } else { Fold::Sum });
    // The same for all units of a cube.
    if at < elements {
        let first = place(g, at, form.ranks.0, 0usize, form.ranks.0);
        let mut own = team::start::<F>(how);
        for j in range_stepped(UNIT_POS, folded, form.units) {
            let from = place(g, j, form.ranks.1, comptime!(2 * form.ranks.0), comptime!(2 * form.ranks.0 + form.ranks.1));
            own = fold::<F>(own, before::<F>(x[(first + from) as usize], form.kind), how);
        }
        let all = fold_all::<F>(own, &mut shared, form.units, how);
        if UNIT_POS == 0 {
            y[at as usize] = behind::<F>(all, folded, form.kind);
        }
    }
}

/// What is folded of an element.
#[cube]
fn before<F: Float>(x: F, #[comptime] kind: Kind) -> F {
    match comptime!(kind) {
        Kind::L1 => F::abs(x),
        Kind::L2 => x * x,
        Kind::SumSquare => x * x,
        _ => x,
    }
}

/// What a fold of `count` elements becomes.
#[cube]
fn behind<F: Float>(folded: F, count: u32, #[comptime] kind: Kind) -> F {
    match comptime!(kind) {
        Kind::Mean => folded / F::cast_from(count),
        Kind::L2 => F::sqrt(folded),
        Kind::LogSum => F::ln(folded),
        _ => folded,
    }
}
