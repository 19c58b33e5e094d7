//! The gates of whole blocks of hidden units, on vectors.

use crate::layout::BLOCK;
use crate::simd::{Many, Routine, Simd, lanewise as lanes, math};

/// The products of one gate for some units: of the input, with its bias, and of the state. Whole blocks of 16.
#[derive(Copy, Clone)]
pub struct Gate<'a> {
    pub x: &'a [f32],
    pub h: &'a [f32],
}

/// Calls `$units($set, at)` for all vectors of `$len` units, `$wide` at a time while there are so many: a gate is one long chain of
/// dependent instructions, and neighbours hide each other's latency. A macro and not a function, because a closure would not
/// inherit the instruction set.
macro_rules! each_units {
    ($S:ty, $s:expr, $wide:literal, $len:expr, $set:ident, $at:ident => $units:expr) => {{
        let len = $len / BLOCK * BLOCK;
        let mut $at = 0;
        // Plain Rust has no registers for several.
        if <$S>::LANES > 4 {
            let $set = Many::<$S, $wide>($s);
            while $at + $wide * <$S>::LANES <= len {
                $units;
                $at += $wide * <$S>::LANES;
            }
        }
        let $set = $s;
        while $at < len {
            $units;
            $at += <$S>::LANES;
        }
    }};
}

/// The products of a gate together.
#[inline(always)]
fn sum<S: Simd>(s: S, gate: Gate<'_>, at: usize) -> S::V {
    s.add(lanes::load(s, gate.x, at), lanes::load(s, gate.h, at))
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
    fn run<S: Simd>(mut self, s: S) {
        // Its four gates are neighbours enough; two vectors of each fill the registers.
        each_units!(S, s, 2, self.h.len(), set, at => self.units(set, at));
    }
}

impl Lstm<'_> {
    #[inline(always)]
    fn units<S: Simd>(&mut self, s: S, at: usize) {
        let [i, o, f, g] = self.gates;
        let kept = s.mul(math::sigmoid(s, sum(s, f, at)), lanes::load(s, self.c, at));
        let c = s.mul_add(math::sigmoid(s, sum(s, i, at)), math::tanh(s, sum(s, g, at)), kept);
        lanes::store(s, self.c, at, c);
        lanes::store(s, self.h, at, s.mul(math::sigmoid(s, sum(s, o, at)), math::tanh(s, c)));
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
    fn run<S: Simd>(mut self, s: S) {
        each_units!(S, s, 4, self.h.len(), set, at => self.units(set, at));
    }
}

impl GruAfter<'_> {
    #[inline(always)]
    fn units<S: Simd>(&mut self, s: S, at: usize) {
        let [z, r, g] = self.gates;
        let inner = s.add(lanes::load(s, g.h, at), lanes::load(s, self.bias, at));
        let x = s.mul_add(math::sigmoid(s, sum(s, r, at)), inner, lanes::load(s, g.x, at));
        let old = lanes::load(s, self.before, at);
        lanes::store(s, self.h, at, mix(s, math::sigmoid(s, sum(s, z, at)), math::tanh(s, x), old));
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
    fn run<S: Simd>(mut self, s: S) {
        each_units!(S, s, 4, self.out.len(), set, at => self.units(set, at));
    }
}

impl Reset<'_> {
    #[inline(always)]
    fn units<S: Simd>(&mut self, s: S, at: usize) {
        let r = math::sigmoid(s, sum(s, self.r, at));
        lanes::store(s, self.out, at, s.mul(r, lanes::load(s, self.before, at)));
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
    fn run<S: Simd>(mut self, s: S) {
        each_units!(S, s, 4, self.h.len(), set, at => self.units(set, at));
    }
}

impl Gru<'_> {
    #[inline(always)]
    fn units<S: Simd>(&mut self, s: S, at: usize) {
        let new = math::tanh(s, sum(s, self.g, at));
        let old = lanes::load(s, self.before, at);
        lanes::store(s, self.h, at, mix(s, math::sigmoid(s, sum(s, self.z, at)), new, old));
    }
}
