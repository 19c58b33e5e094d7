//! Height and width of planes folded, 16 channels at a time: global pooling. What the general variant does where `x` is in planes.

use super::Kind;
use crate::layout::BLOCK;
use crate::plane::{self, Plane};
use crate::row_split;
use crate::simd::{self, Routine, Simd, lanewise as lanes};
use crate::{BuildError, Isa, Kernel, Operands, Signature, Task};

/// Planes folded.
pub struct Planes {
    plane: Plane,
    channels: usize,
    /// The halo of an output in planes.
    target: Option<Plane>,
    images: usize,
    kind: Kind,
    parts: usize,
    isa: Isa,
}

impl Planes {
    /// For a checked task in planes.
    pub fn new(task: &Task, signature: &Signature, kind: Kind, parts: usize, isa: Isa) -> Result<Self, BuildError> {
        let (x, y) = (&signature.inputs[0], &signature.outputs[0]);
        let plane = Plane::of(x).ok_or_else(|| task.refused("the input is not in planes"))?;
        Ok(Planes { plane, channels: x.shape[1], target: Plane::of(y), images: x.shape[0], kind, parts, isa })
    }
}

impl Kernel for Planes {
    fn run(&self, operands: &mut Operands<'_>) {
        let x = operands.input::<f32>(0).unwrap_or_default();
        let y = operands.output::<f32>(0);
        let blocks = plane::blocks(self.channels);
        if let Some(target) = self.target {
            return row_split::rows(y, target.len(), self.parts, &|first, y| {
                for (i, y) in y.chunks_exact_mut(target.len()).enumerate() {
                    y.fill(0.0);
                    let folded = simd::run(self.isa, OnePlane { planes: self, x: &x[(first + i) * self.plane.len()..] });
                    let lanes = plane::lanes(self.channels, (first + i) % blocks);
                    y[target.row(0)..][..lanes].copy_from_slice(&folded[..lanes]);
                }
            });
        }
        // In rows a last block of fewer channels ends an image, so only whole images can be cut apart.
        let whole = self.channels.is_multiple_of(BLOCK) || self.images == 1;
        let unit = if whole { BLOCK } else { self.channels };
        row_split::rows(y, unit, self.parts, &|first, y| {
            for (i, y) in y.chunks_mut(unit).enumerate() {
                let index = if whole { first + i } else { (first + i) * blocks };
                for (block, y) in y.chunks_mut(BLOCK).enumerate() {
                    let x = &x[(index + block) * self.plane.len()..];
                    let folded = simd::run(self.isa, OnePlane { planes: self, x });
                    y.copy_from_slice(&folded[..y.len()]);
                }
            }
        });
    }
}

/// The plane at the front of `x`.
struct OnePlane<'a> {
    planes: &'a Planes,
    x: &'a [f32],
}

impl Routine for OnePlane<'_> {
    type Output = [f32; BLOCK];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [f32; BLOCK] {
        match self.planes.kind {
            Kind::Sum | Kind::Mean | Kind::LogSum => self.go(s, |a, x| s.add(a, x), |a, b| s.add(a, b)),
            Kind::L1 => self.go(s, |a, x| s.add(a, s.abs(x)), |a, b| s.add(a, b)),
            Kind::L2 | Kind::SumSquare => self.go(s, |a, x| s.mul_add(x, x, a), |a, b| s.add(a, b)),
            Kind::Max => self.go(s, |a, x| s.max(a, x), |a, b| s.max(a, b)),
            Kind::Min => self.go(s, |a, x| s.min(a, x), |a, b| s.min(a, b)),
            Kind::Prod => self.go(s, |a, x| s.mul(a, x), |a, b| s.mul(a, b)),
        }
    }
}

impl OnePlane<'_> {
    #[inline(always)]
    fn go<S: Simd>(self, s: S, step: impl Fn(S::V, S::V) -> S::V, join: impl Fn(S::V, S::V) -> S::V) -> [f32; BLOCK] {
        const POSITIONS: usize = 2;
        let (kind, plane) = (self.planes.kind, self.planes.plane);
        let start = s.splat(kind.start());
        // At most four vectors make 16 lanes; two positions in turn hide the latency of the additions.
        let vectors = BLOCK / S::LANES;
        let mut acc = [[start; 4]; POSITIONS];
        for y in 0..plane.height {
            for (x, position) in self.x[plane.row(y)..][..plane.width * BLOCK].chunks_exact(BLOCK).enumerate() {
                let acc = &mut acc[x % POSITIONS];
                for (v, acc) in acc.iter_mut().enumerate().take(vectors) {
                    *acc = step(*acc, lanes::load(s, position, v * S::LANES));
                }
            }
        }
        let mut out = [0.0; BLOCK];
        let [even, odd] = acc;
        for (v, (even, odd)) in even.into_iter().zip(odd).enumerate().take(vectors) {
            lanes::store(s, &mut out, v * S::LANES, join(even, odd));
        }
        out.map(|folded| kind.finish(folded, plane.height * plane.width))
    }
}
