//! One launch of a reduction: a team for each element that comes out, or for each part of what is folded into it.

use super::{folded, kept};
use crate::gpu::{Buffer, Gpu, with_client};
use crate::index::{EXTENT_WORDS, extent_words, place};
use crate::operator::{cubes_for, refuse, upload_words};
use crate::team::{self, Fold, Team, fold, fold_all, place_of_unit, row_of_unit};
use crate::uniform;
use cubecl::prelude::*;
use kernels::strides::{collapse, row_major};
use kernels::{BuildError, Task};

/// What becomes of each element before it is folded, and of the fold.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Plain(Fold),
    Mean,
    L1,
    L2,
    SumSquare,
    LogSum,
}

impl Kind {
    /// A task's.
    ///
    /// # Errors
    /// [`BuildError::Task`] for a word that names none.
    pub fn of(task: &Task) -> Result<Kind, BuildError> {
        Ok(match task.word("kind") {
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
        })
    }

    fn fold(self) -> Fold {
        if let Kind::Plain(fold) = self { fold } else { Fold::Sum }
    }
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Form {
    team: Team,
    kind: Kind,
    /// Whether elements are as the task has them, or parts already folded.
    first: bool,
    /// Whether the folds are the task's results, or those of parts.
    last: bool,
    /// Axes that are kept and axes that are folded.
    ranks: (usize, usize),
    /// Elements that a unit reads at once.
    vector: u32,
    /// Whether these are folded into as many elements of y, or into one.
    apart: bool,
}

impl Form {
    /// Elements of y that a team has.
    fn results(self) -> u32 {
        if self.apart { self.vector } else { 1 }
    }
}

/// A launch made ready.
pub struct Pass {
    form: Form,
    /// Extents and strides of the axes that are kept, then of those that are folded, in vectors.
    geometry: Buffer,
    /// What teams have of the output, and the parts of what is folded, each of which has teams of its own.
    kept: u32,
    parts: u32,
    /// Vectors that are folded into one here, and elements in the whole task.
    folded: u32,
    count: u32,
}

/// How a pass works.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Manner {
    pub team: Team,
    pub kind: Kind,
    /// See [`in_vectors`].
    pub vector: usize,
}

/// Extents and strides of some axes, joined where they lie behind each other.
struct Axes {
    dims: Vec<usize>,
    strides: Vec<isize>,
}

impl Axes {
    fn words(&self) -> Vec<u32> {
        extent_words(&self.dims).into_iter().chain(self.strides.iter().map(|&stride| stride as u32)).collect()
    }

    fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// Whether x lies along the last of them.
    fn innermost(&self) -> bool {
        self.strides.last() == Some(&1)
    }

    /// In vectors of so many elements.
    fn divide(&mut self, vector: usize) {
        let innermost = self.innermost();
        let last = self.dims.len().saturating_sub(1);
        for (axis, (dim, stride)) in self.dims.iter_mut().zip(&mut self.strides).enumerate() {
            if innermost && axis == last {
                *dim /= vector;
            } else {
                *stride /= vector as isize;
            }
        }
    }
}

impl Pass {
    /// All of the task.
    ///
    /// # Errors
    /// [`BuildError::Task`] when the device takes no more buffers.
    pub fn whole(task: &Task, gpu: &Gpu, manner: Manner) -> Result<Pass, BuildError> {
        Pass::new(task, gpu, axes(task), manner, (true, true), 1)
    }

    /// The folds of so many parts of what is folded, `[parts, elements of the output]`.
    ///
    /// # Errors
    /// As [`whole`](Self::whole).
    pub fn of_parts(task: &Task, gpu: &Gpu, manner: Manner, parts: usize) -> Result<Pass, BuildError> {
        Pass::new(task, gpu, axes(task), manner, (true, false), parts)
    }

    /// The task's results from the folds of so many parts.
    ///
    /// # Errors
    /// As [`whole`](Self::whole).
    pub fn over_parts(task: &Task, gpu: &Gpu, manner: Manner, parts: usize) -> Result<Pass, BuildError> {
        let kept = kept(task);
        let axes = [Axes { dims: vec![kept], strides: vec![1] }, Axes { dims: vec![parts], strides: vec![kept as isize] }];
        Pass::new(task, gpu, axes, Manner { vector: 1, ..manner }, (false, true), 1)
    }

    fn new(
        task: &Task,
        gpu: &Gpu,
        mut axes: [Axes; 2],
        manner: Manner,
        (first, last): (bool, bool),
        parts: usize,
    ) -> Result<Pass, BuildError> {
        let Manner { team, kind, vector } = manner;
        let apart = vector > 1 && axes[0].innermost();
        if vector > 1 {
            axes.iter_mut().for_each(|axes| axes.divide(vector));
        }
        let numbers = [axes[0].words(), axes[1].words(), vec![0]].concat();
        let ranks = (axes[0].dims.len(), axes[1].dims.len());
        Ok(Pass {
            form: Form { team, kind, first, last, ranks, vector: vector as u32, apart },
            geometry: upload_words(task, gpu, &numbers)?,
            kept: axes[0].elements() as u32,
            parts: parts as u32,
            folded: axes[1].elements() as u32,
            count: folded(task) as u32,
        })
    }

    /// Bytes of device memory held.
    pub fn prepared_bytes(&self) -> usize {
        self.geometry.bytes()
    }

    /// Launches it.
    pub fn launch(&self, gpu: &Gpu, x: &Buffer, y: &Buffer) {
        let (read, written) = (self.form.vector as usize, self.form.results() as usize);
        // SAFETY: teams behind the last compute what it does and write nothing; each reads vectors of x only, by the places of axes
        // within their extents, and writes its own of the folds, of which y has room for all.
        with_client!(gpu, client => unsafe {
            folds_of_x::launch_unchecked::<f32, _>(
                client,
                cubes_for(self.kept * self.parts, self.form.team.across, gpu),
                self.form.team.dim(),
                read,
                written,
                x.vectors(read * size_of::<f32>()),
                y.vectors(written * size_of::<f32>()),
                self.geometry.words(),
                self.kept,
                self.parts,
                self.folded,
                self.count,
                self.form,
            )
        });
    }
}

/// Whether x lies in vectors of so many along the innermost axis.
pub fn in_vectors(task: &Task, vector: usize) -> bool {
    let divides = |axes: &Axes| axes.innermost() && axes.dims.last().is_some_and(|dim| dim.is_multiple_of(vector));
    vector == 1 || axes(task).iter().any(divides)
}

/// The widest vectors that x lies in.
pub fn widest(task: &Task) -> i64 {
    [4, 2].into_iter().find(|&vector| in_vectors(task, vector)).unwrap_or(1) as i64
}

/// The axes of a task's x that are kept, and those that are folded.
fn axes(task: &Task) -> [Axes; 2] {
    let (shape, axes) = (task.ints("x"), task.ints("axes"));
    let strides = row_major(&shape);
    [false, true].map(|folded| {
        let chosen = || (0..shape.len()).filter(|axis| axes.contains(axis) == folded);
        let mut dims: Vec<usize> = chosen().map(|axis| shape[axis]).collect();
        let mut strides = [chosen().map(|axis| strides[axis] as isize).collect::<Vec<_>>()];
        collapse(&mut dims, &mut strides);
        let [strides] = strides;
        Axes { dims, strides }
    })
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is launched with")]
fn folds_of_x<F: Float, N: Size, M: Size>(
    x: &Array<Vector<F, N>>,
    y: &mut Array<Vector<F, M>>,
    g: &Array<u32>,
    kept: u32,
    parts: u32,
    folded: u32,
    count: u32,
    #[comptime] form: Form,
) {
    let at = CUBE_POS as u32 * form.team.across + row_of_unit(form.team);
    let mut shared = SharedMemory::<F>::new(comptime!(form.team.shared()));
    let how = comptime!(form.kind.fold());
    let g = uniform::words(g, comptime!((form.ranks.0 + form.ranks.1) * (EXTENT_WORDS + 1)));
    // Those behind the last are computed as it and not stored: all units of a cube meet.
    let known = min(at, kept * parts - 1);
    let (mut element, mut from, mut to) = (known, u32::new(0), folded);
    if comptime!(!form.last) {
        element = known % kept;
        let of_part = folded.div_ceil(parts);
        from = min(known / kept * of_part, folded);
        to = min(from + of_part, folded);
    }
    let first = place(&g, element, form.ranks.0, 0usize, comptime!(form.ranks.0 * EXTENT_WORDS));
    let folded_axes = comptime!(form.ranks.0 * (EXTENT_WORDS + 1));
    let mut own = Array::<F>::new(comptime!(form.vector as usize));
    #[unroll]
    for i in 0..comptime!(form.vector as usize) {
        own[i] = team::start::<F>(how);
    }
    for j in range_stepped(from + place_of_unit(form.team), to, form.team.along) {
        let place = place(&g, j, form.ranks.1, folded_axes, comptime!(folded_axes + form.ranks.1 * EXTENT_WORDS));
        let read = x[(first + place) as usize];
        #[unroll]
        for i in 0..comptime!(form.vector as usize) {
            own[i] = fold::<F>(own[i], before::<F>(read[i], form), how);
        }
    }
    let mut folds = Vector::<F, M>::empty();
    if comptime!(form.apart) {
        #[unroll]
        for i in 0..comptime!(form.vector as usize) {
            folds[i] = behind::<F>(fold_all::<F>(own[i], &mut shared, form.team, how), count, form);
        }
    } else {
        let mut all = own[0usize];
        #[unroll]
        for i in 1..comptime!(form.vector as usize) {
            all = fold::<F>(all, own[i], how);
        }
        folds[0usize] = behind::<F>(fold_all::<F>(all, &mut shared, form.team, how), count, form);
    }
    if place_of_unit(form.team) == 0 && at < kept * parts {
        y[at as usize] = folds;
    }
}

/// What is folded of an element.
#[cube]
fn before<F: Float>(x: F, #[comptime] form: Form) -> F {
    match comptime!(if form.first { form.kind } else { Kind::Plain(Fold::Sum) }) {
        Kind::L1 => F::abs(x),
        Kind::L2 => x * x,
        Kind::SumSquare => x * x,
        _ => x,
    }
}

/// What a fold of `count` elements becomes.
#[cube]
fn behind<F: Float>(folded: F, count: u32, #[comptime] form: Form) -> F {
    match comptime!(if form.last { form.kind } else { Kind::Plain(Fold::Sum) }) {
        Kind::Mean => folded / F::cast_from(count),
        Kind::L2 => F::sqrt(folded),
        Kind::LogSum => F::ln(folded),
        _ => folded,
    }
}
