//! Nearest in rows: a vector of the output is picked out of one vector of the input, by places known beforehand, and is written to all
//! lines of the output that the line of the input becomes.

use super::{Extents, Tap};
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::{self, Routine, Simd, lanewise as lanes};
use crate::{BuildError, Isa, Kernel, Operands, Request, Rule, Variant};

/// Nearest, in rows, no column skipped.
pub static PICKS: Variant = Variant {
    id: "resize.host_picks",
    revision: 1,
    knobs: &[PARTITION],
    rules: &[
        Rule { reason: "the mode is not nearest", holds: |task, _, _| task.word("mode") == "nearest" },
        Rule { reason: "the operands are not in rows", holds: |task, _, _| Extents::of(task).is_ok_and(|e| e.planes.is_none()) },
        Rule {
            reason: "columns of the input are skipped: they do not lie in one vector",
            holds: |task, _, _| Extents::of(task).is_ok_and(|e| none_skipped(&e.columns)),
        },
        PARTITION_RULE,
    ],
    default: |task, limits| vec![super::partition(task, limits, 32)],
    build,
};

/// Whether each column comes from that of its neighbour or from the next.
fn none_skipped(columns: &[Tap]) -> bool {
    columns.windows(2).all(|two| matches!(two[1].first.wrapping_sub(two[0].first), 0 | 1))
}

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    let Extents { from, to, rows, columns, .. } = Extents::of(request.task)?;
    if !none_skipped(&columns) {
        return Err(request.task.refused("columns of the input are skipped"));
    }
    let isa = request.limits.isa;
    Ok(Box::new(Picks {
        vectors: simd::run(isa, Vectors { columns: &columns, width: from[1] }),
        from,
        to,
        rows: rows.into_iter().map(|row| row.first).collect(),
        parts: row_split::parts(request.config, request.limits),
        isa,
    }))
}

struct Picks {
    from: [usize; 2],
    to: [usize; 2],
    /// The line of the input that each line of the output is.
    rows: Vec<usize>,
    vectors: Vec<Vector>,
    parts: usize,
    isa: Isa,
}

/// A vector of each line of the output.
#[repr(align(64))]
struct Vector {
    /// Which lane behind `first` each lane is: the bits of `u32`s.
    places: [f32; LANES_MAX],
    /// Where the vector of the input begins.
    first: usize,
    /// Where that of the output begins. The last one overlaps its neighbour so that it is whole.
    to: usize,
}

/// The most lanes of a vector.
const LANES_MAX: usize = 16;

/// Plans the vectors of a line that comes from one of `width` elements.
struct Vectors<'a> {
    columns: &'a [Tap],
    width: usize,
}

impl Routine for Vectors<'_> {
    type Output = Vec<Vector>;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Vec<Vector> {
        let Vectors { columns, width } = self;
        let vector = |at: usize| {
            let to = at.min(columns.len().saturating_sub(S::LANES));
            let first = columns[to].first.min(width.saturating_sub(S::LANES));
            let mut places = [0.0; LANES_MAX];
            for (place, column) in places.iter_mut().zip(&columns[to..]).take(S::LANES) {
                *place = f32::from_bits((column.first - first) as u32);
            }
            Vector { places, first, to }
        };
        (0..columns.len()).step_by(S::LANES).map(vector).collect()
    }
}

impl Kernel for Picks {
    fn run(&self, operands: &mut Operands<'_>) {
        let x = operands.input::<f32>(0).unwrap_or_default();
        let [from, to] = [self.from, self.to].map(|[height, width]| height * width);
        row_split::rows(operands.output::<f32>(0), to, self.parts, &|first, y| {
            simd::run(self.isa, Part { picks: self, x: &x[first * from..], y });
        });
    }
}

/// Some images.
struct Part<'a> {
    picks: &'a Picks,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Routine for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Part { picks, x, y } = self;
        let ([height, width], [_, to]) = (picks.from, picks.to);
        for (x, mut y) in x.chunks_exact(height * width).zip(y.chunks_exact_mut(picks.rows.len() * to)) {
            for same in picks.rows.chunk_by(|a, b| a == b) {
                let (lines, rest) = y.split_at_mut(same.len() * to);
                stretch(s, &picks.vectors, &x[same[0] * width..][..width], lines, to);
                y = rest;
            }
        }
    }
}

/// Writes `x` at the width of the output to each of the lines `y`.
#[inline(always)]
fn stretch<S: Simd>(s: S, vectors: &[Vector], x: &[f32], y: &mut [f32], to: usize) {
    let whole = x.len() >= S::LANES && to >= S::LANES;
    for vector in vectors {
        let places = lanes::load(s, &vector.places, 0);
        if whole {
            let picked = s.pick(lanes::load(s, x, vector.first), places);
            let mut at = vector.to;
            while at < y.len() {
                lanes::store(s, y, at, picked);
                at += to;
            }
        } else {
            let picked = s.pick(lanes::load_part(s, &x[vector.first..]), places);
            for y in y.chunks_exact_mut(to) {
                let end = to.min(vector.to + S::LANES);
                lanes::store_part(s, &mut y[vector.to..end], picked);
            }
        }
    }
}
