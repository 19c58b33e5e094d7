//! Vectors of f32 on whatever instruction set the processor has: the building blocks of the host's kernels.
//!
//! An instruction set is a *token* ([`Avx2`], [`Avx512`], [`Portable`]): a value that can only be made where the processor has the
//! set, so holding one is the permission to use it. The arithmetic of a token is therefore safe; only memory access is not. An
//! algorithm is written once as a [`Routine`], generic over the token, and [`run`] executes it compiled for the set asked for.
//!
//! Everything generic here and in routines must be `#[inline(always)]`: it becomes vector code by being inlined into the one
//! function of each token that carries `#[target_feature]`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod flush;
pub mod lanewise;
mod many;
pub mod math;
#[cfg(any(not(target_arch = "x86_64"), test))]
mod scalar;
#[cfg(target_arch = "x86_64")]
mod sse2;
pub mod tile;
pub mod transpose;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub use flush::FlushDenormals;
pub use many::Many;
#[cfg(not(target_arch = "x86_64"))]
pub use scalar::Portable;
#[cfg(target_arch = "x86_64")]
pub use sse2::Portable;

use crate::Isa;

/// Permission to use an instruction set, and its operations on vectors of [`LANES`](Self::LANES) f32.
///
/// Minimum and maximum give the *second* operand when either is NaN, as x86 does: `max(lo, x)` keeps a NaN in `x`.
pub trait Simd: Copy + Send + Sync + 'static {
    /// A vector.
    type V: Copy;
    /// The f32 in one vector.
    const LANES: usize;

    /// The token, unchecked.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn assume() -> Self;

    /// Executes a routine compiled for this set.
    fn run<R: Routine>(self, routine: R) -> R::Output;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    /// `a + b`
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a − b`
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b`
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`, rounded once where the set can.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The lesser; `b` when either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The greater; `b` when either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The square root.
    fn sqrt(self, a: Self::V) -> Self::V;
    /// The nearest whole number, ties to even. |a| must be below 2²².
    fn round(self, a: Self::V) -> Self::V;
    /// The absolute value.
    fn abs(self, a: Self::V) -> Self::V;
    /// `magnitude` with the sign of `sign`; `magnitude` must not be negative.
    fn with_sign(self, magnitude: Self::V, sign: Self::V) -> Self::V;
    /// `x` where `a < b`, else `y` (also where either is NaN).
    fn select_less(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// `a · 2ⁿ` for whole `n` in −126 ..= 128; below −125 the result may be 0.
    fn scale(self, a: Self::V, n: Self::V) -> Self::V;
    /// The sum of the lanes.
    fn sum(self, a: Self::V) -> f32;
    /// The greatest lane.
    fn greatest(self, a: Self::V) -> f32;
    /// The first `count` lanes of `a` and zeros behind.
    fn first(self, a: Self::V, count: usize) -> Self::V;
    /// Every second lane of `a` and then of `b`, from the first on. The bits may be those of any type.
    fn evens(self, a: Self::V, b: Self::V) -> Self::V;
    /// Lane `i` is lane `places[i]` of `a`, where the bits of `places[i]` are a `u32` below [`LANES`](Self::LANES).
    fn pick(self, a: Self::V, places: Self::V) -> Self::V;

    /// Reads a vector; any alignment.
    ///
    /// # Safety
    /// `LANES` f32 are readable at `at`.
    unsafe fn load(self, at: *const f32) -> Self::V;

    /// Writes a vector; any alignment.
    ///
    /// # Safety
    /// `LANES` f32 are writable at `at`.
    unsafe fn store(self, at: *mut f32, a: Self::V);

    /// Reads `count` f32; the other lanes are 0.
    ///
    /// # Safety
    /// `min(count, LANES)` f32 are readable at `at`.
    unsafe fn load_first(self, at: *const f32, count: usize) -> Self::V;

    /// Writes the first `count` lanes.
    ///
    /// # Safety
    /// `min(count, LANES)` f32 are writable at `at`.
    unsafe fn store_first(self, at: *mut f32, a: Self::V, count: usize);

    /// Writes a vector past the caches where the set can. [`drain`] must follow before another thread may see it.
    ///
    /// # Safety
    /// `LANES` f32 are writable at `at`, which is aligned to a vector.
    #[inline(always)]
    unsafe fn stream(self, at: *mut f32, a: Self::V) {
        // SAFETY: by this function's contract.
        unsafe { self.store(at, a) };
    }

    /// Fetches the line at an address into L1. Any address will do.
    fn prefetch(self, at: *const f32);

    /// Fetches the line at an address into L2. Any address will do.
    fn prefetch_far(self, at: *const f32);

    /// All lanes 0.
    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }
}

/// An algorithm over vectors, written once for every instruction set.
pub trait Routine {
    /// What it gives.
    type Output;
    /// Computes it. Mark the implementation `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Makes what was [streamed](Simd::stream) on this thread visible to others, before anything that is written behind it.
#[inline]
pub fn drain() {
    // SAFETY: every x86-64 has SSE, and a fence touches no memory.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// The best set that is both asked for and there. An `isa` this processor lacks is answered by the next lesser one.
pub fn available(isa: Isa) -> Isa {
    match isa {
        Isa::Avx512 | Isa::Avx2 => isa.min(Isa::detect()),
        _ => Isa::Scalar,
    }
}

/// Executes a routine on the instruction set asked for, or on the best lesser one that is there.
///
/// The check costs a few nanoseconds; kernels that are called for less work keep a function pointer from when they were built.
#[inline]
pub fn run<R: Routine>(isa: Isa, routine: R) -> R::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if isa == Isa::Avx512
            && let Some(simd) = Avx512::detect()
        {
            return simd.run(routine);
        }
        if matches!(isa, Isa::Avx512 | Isa::Avx2)
            && let Some(simd) = Avx2::detect()
        {
            return simd.run(routine);
        }
    }
    let _ = isa;
    Portable.run(routine)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lanes moved, of one vector and of several as one.
    struct Moves;

    impl Routine for Moves {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            moves(s);
            moves(Many::<S, 3>(s));
        }
    }

    #[inline(always)]
    fn moves<S: Simd>(s: S) {
        // Bits that are no number must pass unchanged too.
        let from: Vec<f32> = (0..2 * S::LANES as u32).map(|i| f32::from_bits(0x7f80_0001 + i)).collect();
        let mut to = vec![0.0; S::LANES];
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let (a, b) = (lanewise::load(s, &from, 0), lanewise::load(s, &from, S::LANES));
        lanewise::store(s, &mut to, 0, s.evens(a, b));
        assert_eq!(bits(&to), bits(&from.iter().copied().step_by(2).collect::<Vec<_>>()));
        let places: Vec<usize> = (0..S::LANES).map(|i| i * 5 / 3 % S::LANES).collect();
        let picked: Vec<f32> = places.iter().map(|&place| from[place]).collect();
        let places: Vec<f32> = places.iter().map(|&place| f32::from_bits(place as u32)).collect();
        lanewise::store(s, &mut to, 0, s.pick(a, lanewise::load(s, &places, 0)));
        assert_eq!(bits(&to), bits(&picked));
    }

    #[test]
    fn lanes_move_unchanged_on_every_set() {
        for isa in [Isa::Scalar, Isa::Avx2, Isa::Avx512] {
            run(isa, Moves);
        }
    }
}
