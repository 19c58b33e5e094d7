//! SSE2: four lanes, on every x86-64. What stands for plain Rust there: the compiler takes minutes to make the same of arrays.

use super::{Routine, Simd};
use std::arch::x86_64::*;

/// Permission that everyone has: four lanes of SSE2, which is part of x86-64.
#[derive(Copy, Clone, Debug)]
pub struct Portable;

/// Methods that are a few intrinsics on registers.
macro_rules! lanewise {
    ($($name:ident($($arg:ident),*) => $body:expr;)*) => { $(
        #[inline(always)]
        fn $name(self, $($arg: __m128),*) -> __m128 {
            // SAFETY: SSE2 is part of x86-64; nothing here touches memory.
            #[allow(unused_unsafe)]
            unsafe { $body }
        }
    )* };
}

impl Simd for Portable {
    type V = __m128;
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

    lanewise! {
        add(a, b) => _mm_add_ps(a, b);
        sub(a, b) => _mm_sub_ps(a, b);
        mul(a, b) => _mm_mul_ps(a, b);
        div(a, b) => _mm_div_ps(a, b);
        mul_add(a, b, c) => _mm_add_ps(_mm_mul_ps(a, b), c);
        min(a, b) => _mm_min_ps(a, b);
        max(a, b) => _mm_max_ps(a, b);
        sqrt(a) => _mm_sqrt_ps(a);
        // 1.5·2²³: adding it leaves no bits for a fraction, and the hardware rounds to even.
        round(a) => _mm_sub_ps(_mm_add_ps(a, _mm_set1_ps(12_582_912.0)), _mm_set1_ps(12_582_912.0));
        abs(a) => _mm_andnot_ps(_mm_set1_ps(-0.0), a);
        with_sign(magnitude, sign) => _mm_or_ps(magnitude, _mm_and_ps(sign, _mm_set1_ps(-0.0)));
        select_less(a, b, x, y) => {
            let less = _mm_cmplt_ps(a, b);
            _mm_or_ps(_mm_and_ps(less, x), _mm_andnot_ps(less, y))
        };
        scale(a, n) => {
            let exponent = _mm_add_epi32(_mm_cvtps_epi32(n), _mm_set1_epi32(126));
            let power = _mm_castsi128_ps(_mm_slli_epi32::<23>(exponent));
            _mm_mul_ps(_mm_mul_ps(a, power), _mm_set1_ps(2.0))
        };
        evens(a, b) => _mm_shuffle_ps::<0x88>(a, b);
    }

    #[inline(always)]
    fn pick(self, a: __m128, places: __m128) -> __m128 {
        // SSE2 moves no lanes by what is in a register.
        let (mut from, mut at) = ([0f32; 4], [0u32; 4]);
        // SAFETY: four lanes are written to and read from arrays of four.
        unsafe {
            _mm_storeu_ps(from.as_mut_ptr(), a);
            _mm_storeu_ps(at.as_mut_ptr().cast(), places);
            let to = at.map(|place| from[place as usize & 3]);
            _mm_loadu_ps(to.as_ptr())
        }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m128 {
        // SAFETY: SSE2 is part of x86-64.
        #[allow(unused_unsafe)]
        unsafe {
            _mm_set1_ps(x)
        }
    }

    #[inline(always)]
    fn sum(self, a: __m128) -> f32 {
        // SAFETY: SSE2 is part of x86-64.
        #[allow(unused_unsafe)]
        unsafe {
            let two = _mm_add_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn greatest(self, a: __m128) -> f32 {
        // SAFETY: SSE2 is part of x86-64.
        #[allow(unused_unsafe)]
        unsafe {
            let two = _mm_max_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn first(self, a: __m128, count: usize) -> __m128 {
        // SAFETY: SSE2 is part of x86-64.
        #[allow(unused_unsafe)]
        unsafe {
            let lanes = _mm_set_epi32(3, 2, 1, 0);
            let keep = _mm_cmplt_epi32(lanes, _mm_set1_epi32(count.min(4) as i32));
            _mm_and_ps(a, _mm_castsi128_ps(keep))
        }
    }

    #[inline(always)]
    unsafe fn load(self, at: *const f32) -> __m128 {
        // SAFETY: four f32 are readable there by this function's contract.
        unsafe { _mm_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32, a: __m128) {
        // SAFETY: four f32 are writable there by this function's contract.
        unsafe { _mm_storeu_ps(at, a) }
    }

    #[inline(always)]
    unsafe fn load_first(self, at: *const f32, count: usize) -> __m128 {
        let mut lanes = [0f32; 4];
        // SAFETY: min(count, 4) f32 are readable there by this function's contract.
        unsafe {
            at.copy_to_nonoverlapping(lanes.as_mut_ptr(), count.min(4));
            _mm_loadu_ps(lanes.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn store_first(self, at: *mut f32, a: __m128, count: usize) {
        let mut lanes = [0f32; 4];
        // SAFETY: min(count, 4) f32 are writable there by this function's contract.
        unsafe {
            _mm_storeu_ps(lanes.as_mut_ptr(), a);
            lanes.as_ptr().copy_to_nonoverlapping(at, count.min(4));
        }
    }

    #[inline(always)]
    fn prefetch(self, _at: *const f32) {}

    #[inline(always)]
    fn prefetch_far(self, _at: *const f32) {}
}
