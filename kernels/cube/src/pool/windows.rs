//! A unit for a few windows beside each other, which share what they read. Pools over one or two axes are pools over three whose first axes
//! have one place.

use crate::gpu::{Buffer, Gpu, with_client};
use crate::index::{EXTENT_WORDS, divided, extent_words};
use crate::operator::{PLAIN, UNITS, cubes_for, units_of, upload_words};
use crate::team::{Fold, start};
use crate::turns::{looped, turns_end};
use crate::{CubeKernel, CubeVariant, uniform};
use cubecl::prelude::*;
use kernels::{BuildError, Knob, Limits, Request, Rule, Task};
use schema::{Config, KnobValue};

pub static WINDOWS: CubeVariant = CubeVariant {
    id: "pool.cube_windows",
    revision: 2,
    knobs: &[Knob::ints("units", &[32, 64, 128, 256]), Knob::ints("columns", &[1, 2, 4, 8])],
    rules: &[
        PLAIN,
        UNITS,
        turns_end!(turns),
        Rule {
            reason: "windows beside each other span more than is written out",
            holds: |task, config, _| columns_of(config) == 1 || Row::of(task, columns_of(config)).span() <= WRITTEN_MAX,
        },
    ],
    default,
    build,
};

/// Places of a row that are written out, each with the windows that it is in.
const WRITTEN_MAX: u32 = 24;

/// A card has units enough for a window each. Where the driver computes on the processor, what counts is how often a place is read.
fn default(task: &Task, limits: &Limits) -> Vec<KnobValue> {
    let software = limits.gpu.is_some_and(|gpu| gpu.software);
    let shared = software && Row::of(task, 4).span() <= WRITTEN_MAX;
    vec![KnobValue::Int(64), KnobValue::Int(if shared { 4 } else { 1 })]
}

fn columns_of(config: &Config) -> u32 {
    config.int("columns").unwrap_or(1) as u32
}

fn turns(task: &Task, _: &Config) -> Option<usize> {
    let within = |turns, &extent: &usize| looped(extent, turns);
    // Axes that the windows lack have a loop of one turn.
    let axes = task.ints("kernel_shape");
    Some((axes.len()..3).fold(axes.iter().rev().fold(0, within), |turns, _| looped(1, turns)))
}

/// Windows beside each other, along the innermost axis.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Row {
    windows: u32,
    kernel: u32,
    stride: u32,
    dilation: u32,
}

impl Row {
    fn of(task: &Task, windows: u32) -> Row {
        let last = |name: &str| task.ints(name).last().copied().unwrap_or(1) as u32;
        Row { windows, kernel: last("kernel_shape"), stride: last("strides"), dilation: last("dilations") }
    }

    /// Places from the first that any of them reads to the last.
    fn span(self) -> u32 {
        (self.windows - 1)
            .saturating_mul(self.stride)
            .saturating_add((self.kernel - 1).saturating_mul(self.dilation))
            .saturating_add(1)
    }

    /// Whether a window reads that place of the span.
    fn reads(self, window: u32, place: u32) -> bool {
        let within = place.checked_sub(window * self.stride);
        within.is_some_and(|within| within % self.dilation == 0 && within / self.dilation < self.kernel)
    }

    /// Whether any does.
    fn is_read(self, place: u32) -> bool {
        (0..self.windows).any(|window| self.reads(window, place))
    }
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Form {
    row: Row,
    /// Whether the places of a row are written out.
    written: bool,
    average: bool,
    include_pad: bool,
    dilations: [u32; 3],
}

struct Windows {
    form: Form,
    geometry: Buffer,
    /// Groups of windows that a unit has.
    groups: u32,
    units: u32,
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
    let row = Row::of(task, columns_of(request.config));
    let dilations = three(&task.ints("dilations"), 1);
    let of_y = three(&y[2..], 1);
    let in_row = of_y[2].div_ceil(row.windows);
    let numbers = [
        three(&x[2..], 1),
        of_y,
        three(&task.ints("kernel_shape"), 1),
        three(&task.ints("strides"), 1),
        dilations,
        three(&pads[..axes], 0),
        three(&pads[axes..], 0),
    ];
    let groups = [in_row, of_y[1], of_y[0]].map(|extent| extent as usize);
    let numbers = [numbers.as_flattened(), &extent_words(&groups)].concat();
    Ok(Box::new(Windows {
        form: Form {
            row,
            written: row.span() <= WRITTEN_MAX,
            average: task.word("kind") == "average",
            include_pad: task.int("count_include_pad") == 1,
            dilations,
        },
        geometry: upload_words(task, gpu, &numbers)?,
        groups: y.iter().product::<usize>().checked_div(of_y[2] as usize).unwrap_or(0) as u32 * in_row,
        units: units_of(request.config),
    }))
}

impl CubeKernel for Windows {
    fn prepared_bytes(&self) -> usize {
        self.geometry.bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let x = inputs[0].as_ref().expect("the task has an x");
        // SAFETY: places in pads are read as the nearest of x and left out, and windows behind the end of a row are not stored.
        with_client!(gpu, client => unsafe {
            windows::launch_unchecked::<f32, _>(
                client,
                cubes_for(self.groups, self.units, gpu),
                CubeDim::new_1d(self.units),
                x.array(),
                outputs[0].array(),
                self.geometry.words(),
                self.groups,
                self.form,
            )
        });
    }
}

/// Extents of x and y, windows, strides, dilations, pads before and behind, three numbers each; then the words of the groups in a row of
/// y, of its rows and of its slices.
const X: usize = 0;
const Y: usize = 3;
const KERNEL: usize = 6;
const STRIDES: usize = 9;
const DILATIONS: usize = 12;
const BEFORE: usize = 15;
const BEHIND: usize = 18;
const GROUPS: usize = 21;
const WORDS: usize = GROUPS + 3 * EXTENT_WORDS;

#[cube(launch_unchecked)]
fn windows<F: Float>(x: &Array<F>, y: &mut Array<F>, g: &Array<u32>, groups: u32, #[comptime] form: Form) {
    let at = ABSOLUTE_POS as u32;
    let g = uniform::words(g, WORDS);
    if at < groups {
        let (rows, group) = divided(&g, at, GROUPS);
        let (slices, row) = divided(&g, rows, comptime!(GROUPS + EXTENT_WORDS));
        let (plane, slice) = divided(&g, slices, comptime!(GROUPS + 2 * EXTENT_WORDS));
        let column = group * form.row.windows;
        let mut folds = Array::<F>::new(comptime!(form.row.windows as usize));
        #[unroll]
        for window in 0..comptime!(form.row.windows as usize) {
            folds[window] = neutral::<F>(form);
        }
        for i in 0..g[KERNEL] {
            // Shifted by the pad, so that nothing is negative.
            let z = slice * g[STRIDES] + i * g[DILATIONS];
            if z >= g[BEFORE] && z - g[BEFORE] < g[X] {
                for j in 0..g[comptime!(KERNEL + 1)] {
                    let line = row * g[comptime!(STRIDES + 1)] + j * g[comptime!(DILATIONS + 1)];
                    let before = g[comptime!(BEFORE + 1)];
                    if line >= before && line - before < g[comptime!(X + 1)] {
                        let of_line =
                            ((plane * g[X] + z - g[BEFORE]) * g[comptime!(X + 1)] + line - before) * g[comptime!(X + 2)];
                        fold_line::<F>(x, &g, of_line, column * form.row.stride, &mut folds, form);
                    }
                }
            }
        }
        let of_row = rows * g[comptime!(Y + 2)] + column;
        let mut in_plane = u32::new(1);
        if comptime!(form.average) {
            in_plane = counted(&g, slice, 0usize, form) * counted(&g, row, 1usize, form);
        }
        #[unroll]
        for window in 0..comptime!(form.row.windows) {
            if column + window < g[comptime!(Y + 2)] {
                let mut fold = folds[comptime!(window as usize)];
                if comptime!(form.average) {
                    fold /= F::cast_from(in_plane * counted(&g, column + window, 2usize, form));
                }
                y[(of_row + window) as usize] = fold;
            }
        }
    }
}

/// Folds a line of x, which begins at `of_line`, into the windows whose first begins at `first`, pad included.
#[cube]
fn fold_line<F: Float>(x: &Array<F>, g: &Array<u32>, of_line: u32, first: u32, folds: &mut Array<F>, #[comptime] form: Form) {
    if comptime!(form.written) {
        #[unroll]
        for place in 0..comptime!(form.row.span()) {
            if comptime!(form.row.is_read(place)) {
                let value = padded::<F>(x, g, of_line, first + place, form);
                #[unroll]
                for window in 0..comptime!(form.row.windows) {
                    if comptime!(form.row.reads(window, place)) {
                        folds[comptime!(window as usize)] = folded::<F>(folds[comptime!(window as usize)], value, form);
                    }
                }
            }
        }
    } else {
        for k in 0..form.row.kernel {
            let value = padded::<F>(x, g, of_line, first + k * form.row.dilation, form);
            folds[0usize] = folded::<F>(folds[0usize], value, form);
        }
    }
}

/// The value at a place of a line, pad included: one that changes no fold where the place is in a pad.
#[cube]
fn padded<F: Float>(x: &Array<F>, g: &Array<u32>, of_line: u32, place: u32, #[comptime] form: Form) -> F {
    let (before, width) = (g[comptime!(BEFORE + 2)], g[comptime!(X + 2)]);
    let nearest = min(max(place, before) - before, width - 1);
    let value = x[(of_line + nearest) as usize];
    select(nearest + before == place, value, neutral::<F>(form))
}

/// Where a fold starts, and what changes none.
#[cube]
fn neutral<F: Float>(#[comptime] form: Form) -> F {
    if comptime!(form.average) { F::new(0.0) } else { start::<F>(Fold::Max) }
}

#[cube]
fn folded<F: Float>(fold: F, value: F, #[comptime] form: Form) -> F {
    if comptime!(form.average) { fold + value } else { max(fold, value) }
}

/// Places that a window counts along an axis: those of x, or those of the pads too.
#[cube]
fn counted(g: &Array<u32>, window: u32, #[comptime] axis: usize, #[comptime] form: Form) -> u32 {
    let (before, extent) = (g[comptime!(BEFORE + axis)], g[comptime!(X + axis)]);
    let (mut from, mut to) = (before, before + extent);
    if comptime!(form.include_pad) {
        from = u32::new(0);
        to += g[comptime!(BEHIND + axis)];
    }
    let first = window * g[comptime!(STRIDES + axis)];
    let taps = g[comptime!(KERNEL + axis)];
    taps_below(first, to, taps, comptime!(form.dilations[axis])) - taps_below(first, from, taps, comptime!(form.dilations[axis]))
}

/// How many of so many taps, from `first` on and a dilation apart, lie below a place.
#[cube]
fn taps_below(first: u32, place: u32, taps: u32, #[comptime] dilation: u32) -> u32 {
    let mut below = max(place, first) - first;
    if comptime!(dilation > 1) {
        below = below.div_ceil(dilation);
    }
    min(below, taps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_beside_each_other_read_their_own_places() {
        let row = Row { windows: 2, kernel: 2, stride: 1, dilation: 3 };
        assert_eq!(row.span(), 5);
        let readers: Vec<Vec<u32>> =
            (0..row.span()).map(|place| (0..row.windows).filter(|&window| row.reads(window, place)).collect()).collect();
        assert_eq!(readers, [vec![0], vec![1], vec![], vec![0], vec![1]]);
        assert!(!row.is_read(2));
    }
}
