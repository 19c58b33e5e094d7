//! A team of units for each element of the output, which share out what is folded into it.

use crate::gpu::{Buffer, Gpu, with_client};
use crate::index::place;
use crate::operator::{PLAIN, cubes_for, refuse, upload_words};
use crate::team::{self, Fold, TEAM_FITS, TEAM_KNOBS, Team, fold, fold_all, place_of_unit, row_of_unit, team_default};
use crate::turns::turns_end;
use crate::{CubeKernel, CubeVariant};
use cubecl::prelude::*;
use kernels::strides::{collapse, row_major};
use kernels::{BuildError, Limits, Request, Task};
use schema::{Config, KnobValue};

pub static TEAM: CubeVariant = CubeVariant {
    id: "reduce.cube_team",
    revision: 3,
    knobs: TEAM_KNOBS,
    rules: &[PLAIN, TEAM_FITS, turns_end!(turns)],
    default,
    build,
};

/// Elements that are folded into one.
fn folded(task: &Task) -> usize {
    let (x, axes) = (task.ints("x"), task.ints("axes"));
    axes.iter().filter_map(|&axis| x.get(axis)).product()
}

fn default(task: &Task, limits: &Limits) -> Vec<KnobValue> {
    let (x, folded) = (task.ints("x"), folded(task));
    let neighbours = !task.ints("axes").contains(&x.len().saturating_sub(1));
    team_default(x.iter().product::<usize>() / folded.max(1), folded, neighbours, limits)
}

fn turns(task: &Task, config: &Config) -> Option<usize> {
    Some(Team::of(config)?.turns(1, folded(task)))
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
    team: Team,
    kind: Kind,
    /// Axes that are kept and axes that are folded.
    ranks: (usize, usize),
}

struct Elements {
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
    let team = Team::of(request.config).ok_or_else(|| refuse(task, &"it names no units"))?;
    let numbers = [words(&kept, &kept_strides), words(&dims, &dims_strides), vec![0]].concat();
    Ok(Box::new(Elements {
        form: Form { team, kind, ranks: (kept.len(), dims.len()) },
        geometry: upload_words(task, gpu, &numbers)?,
        elements: elements as u32,
        folded: folded as u32,
    }))
}

impl CubeKernel for Elements {
    fn prepared_bytes(&self) -> usize {
        self.geometry.bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let x = inputs[0].as_ref().expect("the task has an x");
        with_client!(gpu, client => elements_of_y::launch::<f32, _>(
            client,
            cubes_for(self.elements, self.form.team.across, gpu),
            self.form.team.dim(),
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
    let at = CUBE_POS as u32 * form.team.across + row_of_unit(form.team);
    let mut shared = SharedMemory::<F>::new(comptime!(form.team.shared()));
    let how = comptime!(if let Kind::Plain(fold) = form.kind { fold } else { Fold::Sum });
    // Elements behind the last are computed as it and not stored: all units of a cube meet.
    let first = place(g, min(at, elements - 1), form.ranks.0, 0usize, form.ranks.0);
    let mut own = team::start::<F>(how);
    for j in range_stepped(place_of_unit(form.team), folded, form.team.along) {
        let from = place(g, j, form.ranks.1, comptime!(2 * form.ranks.0), comptime!(2 * form.ranks.0 + form.ranks.1));
        own = fold::<F>(own, before::<F>(x[(first + from) as usize], form.kind), how);
    }
    let all = fold_all::<F>(own, &mut shared, form.team, how);
    if place_of_unit(form.team) == 0 && at < elements {
        y[at as usize] = behind::<F>(all, folded, form.kind);
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
