//! Plain Rust in place of vectors: for every processor, and what the others are compared with.

use super::{Routine, Simd};

/// Permission that everyone has: four lanes of plain Rust, which the compiler may or may not turn into vector instructions.
#[derive(Copy, Clone, Debug)]
pub struct Portable;

/// Four f32.
type F32x4 = [f32; 4];

#[inline(always)]
fn map(a: F32x4, f: impl Fn(f32) -> f32) -> F32x4 {
    [f(a[0]), f(a[1]), f(a[2]), f(a[3])]
}

#[inline(always)]
fn zip(a: F32x4, b: F32x4, f: impl Fn(f32, f32) -> f32) -> F32x4 {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

impl Simd for Portable {
    type V = F32x4;
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn assume() -> Self {
        Portable
    }

    #[inline(always)]
    fn run<R: Routine>(self, routine: R) -> R::Output {
        // As for the other sets, one copy of a routine, not one for every place that runs it.
        #[inline(never)]
        fn inside<R: Routine>(simd: Portable, routine: R) -> R::Output {
            routine.run(simd)
        }
        inside(self, routine)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> F32x4 {
        [x; 4]
    }

    #[inline(always)]
    fn add(self, a: F32x4, b: F32x4) -> F32x4 {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: F32x4, b: F32x4) -> F32x4 {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: F32x4, b: F32x4) -> F32x4 {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: F32x4, b: F32x4) -> F32x4 {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, a: F32x4, b: F32x4, c: F32x4) -> F32x4 {
        // A fused multiply-add is a library call where the processor's baseline lacks it.
        if cfg!(target_arch = "aarch64") {
            [a[0].mul_add(b[0], c[0]), a[1].mul_add(b[1], c[1]), a[2].mul_add(b[2], c[2]), a[3].mul_add(b[3], c[3])]
        } else {
            self.add(self.mul(a, b), c)
        }
    }

    #[inline(always)]
    fn min(self, a: F32x4, b: F32x4) -> F32x4 {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn max(self, a: F32x4, b: F32x4) -> F32x4 {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn sqrt(self, a: F32x4) -> F32x4 {
        map(a, f32::sqrt)
    }

    #[inline(always)]
    fn round(self, a: F32x4) -> F32x4 {
        // 1.5·2²³: adding it leaves no bits for a fraction, and the hardware rounds to even.
        const SHIFT: f32 = 12_582_912.0;
        map(a, |a| (a + SHIFT) - SHIFT)
    }

    #[inline(always)]
    fn abs(self, a: F32x4) -> F32x4 {
        map(a, f32::abs)
    }

    #[inline(always)]
    fn with_sign(self, magnitude: F32x4, sign: F32x4) -> F32x4 {
        zip(magnitude, sign, f32::copysign)
    }

    #[inline(always)]
    fn select_less(self, a: F32x4, b: F32x4, x: F32x4, y: F32x4) -> F32x4 {
        let pick = |i: usize| if a[i] < b[i] { x[i] } else { y[i] };
        [pick(0), pick(1), pick(2), pick(3)]
    }

    #[inline(always)]
    fn scale(self, a: F32x4, n: F32x4) -> F32x4 {
        zip(a, n, |a, n| a * f32::from_bits(((n as i32 + 126).max(0) as u32) << 23) * 2.0)
    }

    #[inline(always)]
    fn sum(self, a: F32x4) -> f32 {
        (a[0] + a[2]) + (a[1] + a[3])
    }

    #[inline(always)]
    fn greatest(self, a: F32x4) -> f32 {
        a[0].max(a[2]).max(a[1].max(a[3]))
    }

    #[inline(always)]
    fn first(self, a: F32x4, count: usize) -> F32x4 {
        let pick = |i: usize| if i < count { a[i] } else { 0.0 };
        [pick(0), pick(1), pick(2), pick(3)]
    }

    #[inline(always)]
    fn evens(self, a: F32x4, b: F32x4) -> F32x4 {
        [a[0], a[2], b[0], b[2]]
    }

    #[inline(always)]
    fn pick(self, a: F32x4, places: F32x4) -> F32x4 {
        map(places, |place| a[place.to_bits() as usize & 3])
    }

    #[inline(always)]
    unsafe fn load(self, at: *const f32) -> F32x4 {
        // SAFETY: four f32 are readable there by this function's contract.
        unsafe { at.cast::<F32x4>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32, a: F32x4) {
        // SAFETY: four f32 are writable there by this function's contract.
        unsafe { at.cast::<F32x4>().write_unaligned(a) }
    }

    #[inline(always)]
    unsafe fn load_first(self, at: *const f32, count: usize) -> F32x4 {
        let mut a = [0.0; 4];
        for (i, lane) in a.iter_mut().enumerate().take(count) {
            // SAFETY: i < min(count, 4), readable by this function's contract.
            *lane = unsafe { at.add(i).read() };
        }
        a
    }

    #[inline(always)]
    unsafe fn store_first(self, at: *mut f32, a: F32x4, count: usize) {
        for (i, lane) in a.into_iter().enumerate().take(count) {
            // SAFETY: i < min(count, 4), writable by this function's contract.
            unsafe { at.add(i).write(lane) };
        }
    }

    #[inline(always)]
    fn prefetch(self, _at: *const f32) {}

    #[inline(always)]
    fn prefetch_far(self, _at: *const f32) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epilogue::Activation;
    use crate::simd::math::Activate;

    #[test]
    fn plain_lanes_compute_what_vectors_do() {
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::LeakyRelu { alpha: 0.1 }] {
            let xs: Vec<f32> = (0..203).map(|i| (i as f32 - 100.0) / 11.0).collect();
            let mut ys = xs.clone();
            Portable.run(Activate { activation, values: &mut ys });
            for (&x, &y) in xs.iter().zip(&ys) {
                let want = activation.apply(f64::from(x));
                assert!((f64::from(y) - want).abs() <= 1e-6 * want.abs().max(1.0), "{activation}: {x} gives {y}, not {want}");
            }
        }
    }
}
