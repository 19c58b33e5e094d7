//! Width first, then height: a line of the input is stretched once and kept for all lines of the output it takes part in. So an
//! enlargement mixes columns once per line of the input, and mixes lines with whole vectors, in rows too.

use super::Extents;
use crate::layout::BLOCK;
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::{self, Routine, Simd, lanewise as lanes};
use crate::{BuildError, Isa, Kernel, Operands, Request, Rule, Task, Variant};

/// More lines out than in.
pub static SEPARABLE: Variant = Variant {
    id: "resize.host_separable",
    revision: 1,
    knobs: &[PARTITION],
    rules: &[Rule { reason: "the height does not grow: no line is used twice", holds: |task, _, _| grows(task) }, PARTITION_RULE],
    default: |task, limits| vec![super::partition(task, limits, 32)],
    build,
};

fn grows(task: &Task) -> bool {
    Extents::of(task).is_ok_and(|e| e.to[0] > e.from[0])
}

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    let extents = Extents::of(request.task)?;
    Ok(Box::new(Separable { extents, parts: row_split::parts(request.config, request.limits), isa: request.limits.isa }))
}

struct Separable {
    extents: Extents,
    parts: usize,
    isa: Isa,
}

impl Separable {
    /// f32 of a stretched line.
    fn line_len(&self) -> usize {
        self.extents.to[1] * if self.extents.planes.is_some() { BLOCK } else { 1 }
    }
}

impl Kernel for Separable {
    fn scratch_bytes(&self) -> usize {
        2 * self.line_len() * self.parts * size_of::<f32>()
    }

    fn run(&self, operands: &mut Operands<'_>) {
        let x = operands.input::<f32>(0).unwrap_or_default();
        let [from, to] = match self.extents.planes {
            Some((from, to)) => [from.len(), to.len()],
            None => [self.extents.from, self.extents.to].map(|[height, width]| height * width),
        };
        let (y, scratch) = operands.output_and_scratch::<f32, f32>(0);
        let scratch = &mut scratch[..2 * self.line_len() * self.parts];
        row_split::rows_with(y, to, scratch, self.parts, &|first, y, scratch| {
            for (i, y) in y.chunks_exact_mut(to).enumerate() {
                let x = &x[(first + i) * from..][..from];
                simd::run(self.isa, Image { separable: self, x, y, scratch: &mut *scratch });
            }
        });
    }
}

/// One image in rows, or one plane.
struct Image<'a> {
    separable: &'a Separable,
    x: &'a [f32],
    y: &'a mut [f32],
    scratch: &'a mut [f32],
}

impl Routine for Image<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Image { separable, x, y, scratch } = self;
        let (len, r) = (separable.line_len(), &separable.extents);
        let [height, width] = r.from;
        let (a, b) = scratch.split_at_mut(len);
        let (mut kept, lines) = ([usize::MAX; 2], [a, b]);
        for (index, row) in r.rows.iter().enumerate() {
            for wanted in [row.first, row.second] {
                debug_assert!(wanted < height);
                if kept.contains(&wanted) {
                    continue;
                }
                // The other one may be wanted too.
                let slot = usize::from(kept[0] == row.first || kept[0] == row.second);
                kept[slot] = wanted;
                match r.planes {
                    Some((from, _)) => stretch_plane(s, r, &x[from.row(wanted)..][..width * BLOCK], lines[slot]),
                    None => stretch_row(r, &x[wanted * width..][..width], lines[slot]),
                }
            }
            let at = r.planes.map_or(index * len, |(_, to)| to.row(index));
            let [above, below] = [row.first, row.second].map(|row| &*lines[usize::from(kept[0] != row)]);
            if row.first == row.second || row.weight == 0.0 {
                y[at..at + len].copy_from_slice(above);
            } else {
                let weight = s.splat(row.weight);
                lanes::zip(s, above, below, &mut y[at..at + len], |a, b| s.mul_add(s.sub(b, a), weight, a));
            }
        }
        if let Some((_, to)) = r.planes {
            to.clear_halo(y);
        }
    }
}

/// A line in rows at the width of the output.
fn stretch_row(r: &Extents, x: &[f32], line: &mut [f32]) {
    if r.linear {
        for (column, y) in r.columns.iter().zip(line) {
            *y = x[column.first] + (x[column.second] - x[column.first]) * column.weight;
        }
    } else {
        r.columns.iter().zip(line).for_each(|(column, y)| *y = x[column.first]);
    }
}

/// A line of positions at the width of the output.
#[inline(always)]
fn stretch_plane<S: Simd>(s: S, r: &Extents, x: &[f32], line: &mut [f32]) {
    for (column, y) in r.columns.iter().zip(line.chunks_exact_mut(BLOCK)) {
        let (first, second, weight) = (column.first * BLOCK, column.second * BLOCK, s.splat(column.weight));
        for lane in (0..BLOCK).step_by(S::LANES) {
            let mut value = lanes::load(s, x, first + lane);
            if r.linear {
                value = s.mul_add(s.sub(lanes::load(s, x, second + lane), value), weight, value);
            }
            lanes::store(s, y, lane, value);
        }
    }
}
