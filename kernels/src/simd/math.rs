//! Transcendental functions on vectors, and the activations made of them. f32 throughout, relative error at most 3e-7.

use super::{Many, Routine, Simd};
use crate::epilogue::Activation;

/// eˣ. Above 88.72 infinity, below −86.98 (where 2ⁿ nears the denormals) zero.
///
/// Source: reduction to |r| ≤ ln 2 / 2 with ln 2 in two parts, Taylor-like polynomial of degree 6 (Cephes `expf`).
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    const LO: f32 = -86.98;
    const HI: f32 = 88.722_83;
    let inside = s.min(s.splat(HI), s.max(s.splat(LO), x));
    let n = s.round(s.mul(inside, s.splat(std::f32::consts::LOG2_E)));
    let r = s.mul_add(n, s.splat(-0.693_359_4), inside);
    let r = s.mul_add(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = s.mul_add(p, r, s.splat(c));
    }
    let p = s.add(s.mul_add(s.mul(r, r), p, r), s.splat(1.0));
    let y = s.scale(p, n);
    let y = s.select_less(x, s.splat(LO), s.zero(), y);
    s.select_less(s.splat(HI), x, s.splat(f32::INFINITY), y)
}

/// 1 / (1 + e⁻ˣ)
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.zero(), x))))
}

/// The hyperbolic tangent.
///
/// Source: Cephes `tanhf`: an odd polynomial below 0.625, 1 − 2 / (e²ˣ + 1) above.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let a = s.abs(x);
    let z = s.mul(x, x);
    let mut p = s.splat(-5.704_989e-3);
    for c in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = s.mul_add(p, z, s.splat(c));
    }
    let small = s.mul_add(s.mul(p, z), x, x);
    let one = s.splat(1.0);
    let e = exp(s, s.add(a, a));
    let large = s.with_sign(s.sub(one, s.div(s.splat(2.0), s.add(e, one))), x);
    s.select_less(a, s.splat(0.625), small, large)
}

/// The error function.
///
/// Source: minimax polynomials by N. Juffa: odd below 0.9277, 1 − e^(−p(|x|)) above.
#[inline(always)]
pub fn erf<S: Simd>(s: S, x: S::V) -> S::V {
    let t = s.abs(x);
    let z = s.mul(x, x);
    let mut p = s.splat(-5.967_617e-4);
    for c in [4.991_194_2e-3, -2.676_813_5e-2, 1.128_199_3e-1, -3.761_253_4e-1, 1.283_791_7e-1] {
        p = s.mul_add(p, z, s.splat(c));
    }
    let small = s.mul_add(p, x, x);
    // Beyond 4 the result is 1; the limit keeps the polynomial from turning back.
    let t = s.min(s.splat(4.0), t);
    let z = s.mul(t, t);
    let high = s.mul_add(s.splat(-1.728_534_7e-5), t, s.splat(3.831_971_3e-4));
    let low = s.mul_add(s.splat(-3.883_964_4e-3), t, s.splat(2.425_462_2e-2));
    let mut q = s.mul_add(high, z, low);
    for c in [-1.067_778_8e-1, -6.348_467e-1, -1.287_175_1e-1] {
        q = s.mul_add(q, t, s.splat(c));
    }
    let q = s.sub(s.mul(q, t), t);
    let large = s.with_sign(s.sub(s.splat(1.0), exp(s, q)), x);
    // Written so that NaN takes the polynomial, which keeps it.
    s.select_less(s.splat(0.927_734_4), s.abs(x), large, small)
}

/// An activation of a vector.
#[inline(always)]
pub fn activate<S: Simd>(s: S, activation: Activation, x: S::V) -> S::V {
    let zero = s.zero();
    let one = s.splat(1.0);
    match activation {
        Activation::None => x,
        Activation::Relu => s.max(zero, x),
        Activation::LeakyRelu { alpha } => s.select_less(x, zero, s.mul(x, s.splat(alpha)), x),
        Activation::Clip { lo, hi } => s.min(s.splat(hi), s.max(s.splat(lo), x)),
        Activation::Sigmoid => sigmoid(s, x),
        Activation::Tanh => tanh(s, x),
        Activation::Silu => s.mul(x, sigmoid(s, x)),
        Activation::HardSigmoid { alpha, beta } => s.min(one, s.max(zero, s.mul_add(x, s.splat(alpha), s.splat(beta)))),
        Activation::HardSwish => {
            let gate = s.mul_add(x, s.splat(1.0 / 6.0), s.splat(0.5));
            s.mul(x, s.min(one, s.max(zero, gate)))
        }
        Activation::Gelu => {
            let half = s.mul(x, s.splat(0.5));
            s.mul_add(half, erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2))), half)
        }
        Activation::GeluTanh => {
            let cube = s.mul(s.mul(x, x), s.mul(x, s.splat(0.044_715)));
            let inner = s.mul(s.add(x, cube), s.splat(0.797_884_6));
            let half = s.mul(x, s.splat(0.5));
            s.mul_add(half, tanh(s, inner), half)
        }
    }
}

/// Applies an activation to a slice in place.
pub struct Activate<'a> {
    pub activation: Activation,
    pub values: &'a mut [f32],
}

impl Routine for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // One loop for each, so that constants stay in registers and neighbouring vectors hide each other's latency.
        macro_rules! each {
            ($($activation:pat => $same:expr),*) => {
                match self.activation {
                    $($activation => each_vector!(s, self.values, $same),)*
                }
            };
        }
        use Activation::*;
        each! {
            None => None,
            Relu => Relu,
            LeakyRelu { alpha } => LeakyRelu { alpha },
            Clip { lo, hi } => Clip { lo, hi },
            Sigmoid => Sigmoid,
            Tanh => Tanh,
            Silu => Silu,
            HardSigmoid { alpha, beta } => HardSigmoid { alpha, beta },
            HardSwish => HardSwish,
            Gelu => Gelu,
            GeluTanh => GeluTanh
        }
    }
}

/// Applies an activation to `count` values just written. One copy for each set: for the ends of tiles, whose code is many times over.
///
/// # Safety
/// They are readable and writable.
#[inline(never)]
pub unsafe fn activate_in_place<S: Simd>(s: S, activation: Activation, at: *mut f32, count: usize) {
    // SAFETY: by this function's contract.
    s.run(Activate { activation, values: unsafe { std::slice::from_raw_parts_mut(at, count) } });
}

/// Whether an activation is a few instructions, so that a tile does it in its registers.
#[inline(always)]
pub fn is_short(activation: Activation) -> bool {
    matches!(activation, Activation::None | Activation::Relu | Activation::Clip { .. } | Activation::HardSwish)
}

/// A [short](is_short) activation of a vector; others are left out.
#[inline(always)]
pub fn activate_short<S: Simd>(s: S, activation: Activation, x: S::V) -> S::V {
    match activation {
        Activation::Relu => s.max(s.zero(), x),
        Activation::Clip { lo, hi } => s.min(s.splat(hi), s.max(s.splat(lo), x)),
        Activation::HardSwish => activate(s, Activation::HardSwish, x),
        _ => x,
    }
}

/// Applies one activation to a slice, four vectors at a time.
macro_rules! each_vector {
    ($s:ident, $values:expr, $activation:expr) => {{
        let (s, values): (S, &mut [f32]) = ($s, $values);
        let mut rest = values;
        // Plain Rust has no registers for it, and takes the compiler minutes.
        if S::LANES > 4 {
            let four = Many::<S, 4>(s);
            let mut wide = rest.chunks_exact_mut(4 * S::LANES);
            for chunk in &mut wide {
                let at = chunk.as_mut_ptr();
                // SAFETY: the chunk has exactly four vectors.
                unsafe { four.store(at, activate(four, $activation, four.load(at))) };
            }
            rest = wide.into_remainder();
        }
        let mut from = 0;
        while from < rest.len() {
            let count = rest.len() - from;
            // SAFETY: `count` elements are left.
            unsafe {
                let at = rest.as_mut_ptr().add(from);
                s.store_first(at, activate(s, $activation, s.load_first(at, count)), count);
            }
            from += S::LANES;
        }
    }};
}
use each_vector;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, epilogue, simd};

    /// Applies one function to a slice.
    struct Apply<'a> {
        which: &'static str,
        values: &'a mut [f32],
    }

    impl Routine for Apply<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for chunk in self.values.chunks_exact_mut(S::LANES) {
                // SAFETY: the chunk has exactly `LANES` elements.
                unsafe {
                    let x = s.load(chunk.as_ptr());
                    let y = match self.which {
                        "exp" => exp(s, x),
                        "sigmoid" => sigmoid(s, x),
                        "tanh" => tanh(s, x),
                        _ => erf(s, x),
                    };
                    s.store(chunk.as_mut_ptr(), y);
                }
            }
        }
    }

    fn worst(isa: Isa, which: &'static str, lo: f64, hi: f64, exact: fn(f64) -> f64) -> f64 {
        let count = 1 << 16;
        let xs: Vec<f32> = (0..count).map(|i| (lo + (hi - lo) * f64::from(i) / f64::from(count)) as f32).collect();
        let mut ys = xs.clone();
        simd::run(isa, Apply { which, values: &mut ys });
        let error = |(&x, &y): (&f32, &f32)| {
            let want = exact(f64::from(x));
            if want == 0.0 { f64::from(y.abs()) } else { ((f64::from(y) - want) / want).abs() }
        };
        xs.iter().zip(&ys).map(error).fold(0.0, f64::max)
    }

    #[test]
    fn functions_are_exact_to_three_in_ten_million() {
        for isa in [Isa::Scalar, Isa::Avx2, Isa::Avx512] {
            for (which, lo, hi, exact) in [
                ("exp", -86.9, 88.7, f64::exp as fn(f64) -> f64),
                ("sigmoid", -80.0, 80.0, |x| 1.0 / (1.0 + (-x).exp())),
                ("tanh", -20.0, 20.0, f64::tanh),
                ("tanh", -1.0, 1.0, f64::tanh),
                ("erf", -6.0, 6.0, epilogue::erf),
                ("erf", -1.0, 1.0, epilogue::erf),
            ] {
                let error = worst(isa, which, lo, hi, exact);
                assert!(error <= 3e-7, "{which} on {isa} in [{lo}, {hi}] is {error:e} off");
            }
        }
    }

    #[test]
    fn extremes_are_kept() {
        for isa in [Isa::Scalar, Isa::Avx2, Isa::Avx512] {
            let mut values = [
                f32::NEG_INFINITY,
                -200.0,
                0.0,
                200.0,
                f32::INFINITY,
                f32::NAN,
                88.5,
                -88.0,
                0.0,
                0.0,
                0.0,
                0.0,
                0.0,
                0.0,
                0.0,
                0.0,
            ];
            simd::run(isa, Apply { which: "exp", values: &mut values });
            assert_eq!(values[..5], [0.0, 0.0, 1.0, f32::INFINITY, f32::INFINITY], "{isa}");
            assert!(values[5].is_nan() && values[6].is_finite() && values[7] == 0.0, "{isa} {values:?}");
            for which in ["sigmoid", "tanh", "erf"] {
                let mut values =
                    [f32::NEG_INFINITY, f32::INFINITY, f32::NAN, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
                simd::run(isa, Apply { which, values: &mut values });
                assert_eq!(values[0], if which == "sigmoid" { 0.0 } else { -1.0 }, "{which} on {isa}");
                assert_eq!(values[1], 1.0, "{which} on {isa}");
                assert!(values[2].is_nan(), "{which} on {isa}");
            }
        }
    }

    #[test]
    fn activations_agree_with_their_exact_forms() {
        use Activation::*;
        let all = [
            None,
            Relu,
            LeakyRelu { alpha: 0.1 },
            Clip { lo: -0.5, hi: 6.0 },
            Sigmoid,
            Tanh,
            Silu,
            HardSigmoid { alpha: 0.2, beta: 0.5 },
            HardSwish,
            Gelu,
            GeluTanh,
        ];
        for isa in [Isa::Scalar, Isa::Avx2, Isa::Avx512] {
            for activation in all {
                let xs: Vec<f32> = (0..997).map(|i| (i as f32 - 500.0) / 60.0).collect();
                let mut ys = xs.clone();
                simd::run(isa, Activate { activation, values: &mut ys });
                for (&x, &y) in xs.iter().zip(&ys) {
                    let want = activation.apply(f64::from(x));
                    assert!(
                        (f64::from(y) - want).abs() <= 1e-6 * want.abs().max(1.0),
                        "{activation} on {isa}: {x} gives {y}, not {want}"
                    );
                }
            }
        }
    }
}
