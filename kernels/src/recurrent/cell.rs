//! The gates of whole blocks of hidden units, on vectors.

use crate::layout::BLOCK;
use crate::simd::{Routine, Simd, lanewise as lanes, math};

/// The products of one gate for some units: of the input, with its bias, and of the state. Whole blocks of 16.
#[derive(Copy, Clone)]
pub struct Gate<'a> {
    pub x: &'a [f32],
    pub h: &'a [f32],
}

/// `c = f·c + i·g`, `h = o·tanh(c)` for whole blocks.
pub struct Lstm<'a> {
    /// i, o, f, c.
    pub gates: [Gate<'a>; 4],
    pub c: &'a mut [f32],
    pub h: &'a mut [f32],
}

impl Routine for Lstm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let sum = |gate: Gate<'_>, at: usize| s.add(lanes::load(s, gate.x, at), lanes::load(s, gate.h, at));
        let [i, o, f, g] = self.gates;
        for at in (0..self.c.len() / BLOCK * BLOCK).step_by(S::LANES) {
            let kept = s.mul(math::sigmoid(s, sum(f, at)), lanes::load(s, self.c, at));
            let c = s.mul_add(math::sigmoid(s, sum(i, at)), math::tanh(s, sum(g, at)), kept);
            lanes::store(s, self.c, at, c);
            lanes::store(s, self.h, at, s.mul(math::sigmoid(s, sum(o, at)), math::tanh(s, c)));
        }
    }
}

/// `h = (1 − z)·tanh(x + r·h') + z·h` for whole blocks, where `h'` already has its bias added here.
pub struct GruAfter<'a> {
    /// z, r, h.
    pub gates: [Gate<'a>; 3],
    /// The bias of the state's product in the last gate.
    pub bias: &'a [f32],
    pub before: &'a [f32],
    pub h: &'a mut [f32],
}

impl Routine for GruAfter<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let sum = |gate: Gate<'_>, at: usize| s.add(lanes::load(s, gate.x, at), lanes::load(s, gate.h, at));
        let [z, r, g] = self.gates;
        for at in (0..self.h.len() / BLOCK * BLOCK).step_by(S::LANES) {
            let inner = s.add(lanes::load(s, g.h, at), lanes::load(s, self.bias, at));
            let x = s.mul_add(math::sigmoid(s, sum(r, at)), inner, lanes::load(s, g.x, at));
            lanes::store(s, self.h, at, mix(s, math::sigmoid(s, sum(z, at)), math::tanh(s, x), lanes::load(s, self.before, at)));
        }
    }
}

/// `(1 − z)·new + z·old`
#[inline(always)]
fn mix<S: Simd>(s: S, z: S::V, new: S::V, old: S::V) -> S::V {
    s.mul_add(z, s.sub(old, new), new)
}

/// `out = sigmoid(r)·h` for whole blocks: what the state's product in a GRU's last gate is taken of.
pub struct Reset<'a> {
    pub r: Gate<'a>,
    pub before: &'a [f32],
    pub out: &'a mut [f32],
}

impl Routine for Reset<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for at in (0..self.out.len() / BLOCK * BLOCK).step_by(S::LANES) {
            let r = math::sigmoid(s, s.add(lanes::load(s, self.r.x, at), lanes::load(s, self.r.h, at)));
            lanes::store(s, self.out, at, s.mul(r, lanes::load(s, self.before, at)));
        }
    }
}

/// `h = (1 − z)·tanh(x + h') + z·h` for whole blocks, `h'` being the product of the reset state.
pub struct Gru<'a> {
    pub z: Gate<'a>,
    pub g: Gate<'a>,
    pub before: &'a [f32],
    pub h: &'a mut [f32],
}

impl Routine for Gru<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let sum = |gate: Gate<'_>, at: usize| s.add(lanes::load(s, gate.x, at), lanes::load(s, gate.h, at));
        for at in (0..self.h.len() / BLOCK * BLOCK).step_by(S::LANES) {
            let new = math::tanh(s, sum(self.g, at));
            lanes::store(s, self.h, at, mix(s, math::sigmoid(s, sum(self.z, at)), new, lanes::load(s, self.before, at)));
        }
    }
}
