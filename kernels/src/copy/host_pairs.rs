//! Every second element of the innermost axis, by whole vectors: two are read, and one of their even lanes is written.

use super::Kind;
use super::pieces;
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::{self, Routine, Simd, lanewise as lanes};
use crate::strided_copy::Piece;
use crate::strides::offset_of;
use crate::{BuildError, Isa, Kernel, Operands, Request, Rule, Task, Variant};

/// Slices in steps of two.
pub static PAIRS: Variant = Variant {
    id: "copy.host_pairs",
    revision: 1,
    knobs: &[PARTITION],
    rules: &[
        Rule {
            reason: "elements are not 4 bytes wide",
            holds: |task, _, _| super::signature(task).is_ok_and(|s| s.outputs[0].dtype.bytes() == 4),
        },
        Rule { reason: "the innermost axis is not sliced in steps of two", holds: |task, _, _| piece(task).is_some() },
        PARTITION_RULE,
    ],
    default: |task, limits| vec![super::partition(task, limits)],
    build,
};

/// The box of a slice whose innermost joined axis goes in steps of two.
fn piece(task: &Task) -> Option<Piece> {
    let signature = super::signature(task).ok()?;
    let kind = Kind::parse(task.word("kind")).filter(|&kind| kind == Kind::Slice)?;
    let (_, _, piece) = pieces::plan(kind, task, &signature).list.pop()?;
    (piece.from_strides().last() == Some(&2) && !piece.dims().contains(&0)).then_some(piece)
}

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    let piece = piece(request.task).ok_or_else(|| request.task.refused("there are no steps of two"))?;
    let (mut dims, mut strides) = (piece.dims().to_vec(), piece.from_strides().to_vec());
    let line = dims.pop().unwrap_or(1);
    strides.pop();
    Ok(Box::new(Pairs {
        dims,
        strides,
        line,
        start: piece.from(),
        parts: row_split::parts(request.config, request.limits),
        isa: request.limits.isa,
    }))
}

/// Lines of the output: each is every second element from a place of the input on.
struct Pairs {
    /// The axes before the innermost, with the strides of the input.
    dims: Vec<usize>,
    strides: Vec<isize>,
    /// Elements of a line.
    line: usize,
    /// Where the first line begins in the input.
    start: usize,
    parts: usize,
    isa: Isa,
}

impl Kernel for Pairs {
    fn run(&self, operands: &mut Operands<'_>) {
        let x = operands.input::<f32>(0).unwrap_or_default();
        row_split::rows(operands.output::<f32>(0), self.line, self.parts, &|first, y| {
            simd::run(self.isa, Part { pairs: self, first, x, y });
        });
    }
}

struct Part<'a> {
    pairs: &'a Pairs,
    first: usize,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Routine for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Part { pairs, mut first, x, mut y } = self;
        let (extent, step) = (pairs.dims.last().copied().unwrap_or(1), pairs.strides.last().copied().unwrap_or(0));
        // Divisions once per run of lines that one stride leads through: they would cost as much as a short line.
        while !y.is_empty() {
            let count = (extent - first % extent).min(y.len() / pairs.line);
            let (lines, rest) = y.split_at_mut(count * pairs.line);
            let mut at = pairs.start as isize + offset_of(first, &pairs.dims, &pairs.strides);
            for y in lines.chunks_exact_mut(pairs.line) {
                let x = &x[at as usize..];
                evens(s, &x[..x.len().min(2 * y.len())], y);
                at += step;
            }
            (first, y) = (first + count, rest);
        }
    }
}

/// `y[i] = x[2·i]`. The last element of `x` may lack its neighbour.
#[inline(always)]
fn evens<S: Simd>(s: S, x: &[f32], y: &mut [f32]) {
    let paired = (x.len() / 2).min(y.len());
    let two = |at: usize| s.evens(lanes::load(s, x, 2 * at), lanes::load(s, x, 2 * at + S::LANES));
    let mut at = 0;
    while at + S::LANES <= paired {
        lanes::store(s, y, at, two(at));
        at += S::LANES;
    }
    if at < paired && paired >= S::LANES {
        // The last vector again over what is written already.
        lanes::store(s, y, paired - S::LANES, two(paired - S::LANES));
        at = paired;
    }
    for (i, y) in y.iter_mut().enumerate().skip(at) {
        *y = x[2 * i];
    }
}
