//! AVX-512: sixteen lanes, thirty-two registers.

use super::{Routine, Simd};
use std::arch::x86_64::*;

/// Permission to use AVX-512 F, BW, DQ and VL, and what AVX2 has: exists only where the processor has all of it.
#[derive(Copy, Clone, Debug)]
pub struct Avx512(());

impl Avx512 {
    /// The permission, if this processor grants it.
    #[inline]
    pub fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && super::Avx2::detect().is_some();
        has.then_some(Avx512(()))
    }
}

#[inline(always)]
fn mask(count: usize) -> __mmask16 {
    ((1u32 << count.min(16)) - 1) as __mmask16
}

/// Methods that are a few intrinsics on registers.
macro_rules! lanewise {
    ($($name:ident($($arg:ident),*) => $body:expr;)*) => { $(
        #[inline(always)]
        fn $name(self, $($arg: __m512),*) -> __m512 {
            // SAFETY: `self` exists, so the processor has AVX-512; nothing here touches memory.
            unsafe { $body }
        }
    )* };
}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn assume() -> Self {
        Avx512(())
    }

    #[inline(always)]
    fn run<R: Routine>(self, routine: R) -> R::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        fn inside<R: Routine>(simd: Avx512, routine: R) -> R::Output {
            routine.run(simd)
        }
        // SAFETY: `self` exists, so the processor has the features.
        unsafe { inside(self, routine) }
    }

    lanewise! {
        add(a, b) => _mm512_add_ps(a, b);
        sub(a, b) => _mm512_sub_ps(a, b);
        mul(a, b) => _mm512_mul_ps(a, b);
        div(a, b) => _mm512_div_ps(a, b);
        mul_add(a, b, c) => _mm512_fmadd_ps(a, b, c);
        min(a, b) => _mm512_min_ps(a, b);
        max(a, b) => _mm512_max_ps(a, b);
        sqrt(a) => _mm512_sqrt_ps(a);
        round(a) => _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        abs(a) => _mm512_andnot_ps(_mm512_set1_ps(-0.0), a);
        with_sign(magnitude, sign) => _mm512_or_ps(magnitude, _mm512_and_ps(sign, _mm512_set1_ps(-0.0)));
        select_less(a, b, x, y) => _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x);
        scale(a, n) => _mm512_scalef_ps(a, n);
        evens(a, b) => {
            let places = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            _mm512_permutex2var_ps(a, places, b)
        };
        pick(a, places) => _mm512_permutexvar_ps(_mm512_castps_si512(places), a);
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` exists, so the processor has AVX-512.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        // SAFETY: `self` exists, so the processor has AVX-512.
        unsafe { _mm512_reduce_add_ps(a) }
    }

    #[inline(always)]
    fn greatest(self, a: __m512) -> f32 {
        // SAFETY: `self` exists, so the processor has AVX-512.
        unsafe { _mm512_reduce_max_ps(a) }
    }

    #[inline(always)]
    fn first(self, a: __m512, count: usize) -> __m512 {
        // SAFETY: `self` exists, so the processor has AVX-512.
        unsafe { _mm512_maskz_mov_ps(mask(count), a) }
    }

    #[inline(always)]
    unsafe fn load(self, at: *const f32) -> __m512 {
        // SAFETY: sixteen f32 are readable there by this function's contract.
        unsafe { _mm512_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32, a: __m512) {
        // SAFETY: sixteen f32 are writable there by this function's contract.
        unsafe { _mm512_storeu_ps(at, a) }
    }

    #[inline(always)]
    unsafe fn stream(self, at: *mut f32, a: __m512) {
        // SAFETY: writable and aligned by this function's contract.
        unsafe { _mm512_stream_ps(at, a) }
    }

    #[inline(always)]
    unsafe fn load_first(self, at: *const f32, count: usize) -> __m512 {
        // SAFETY: the mask keeps the access to the first `count` f32, readable by this function's contract.
        unsafe { _mm512_maskz_loadu_ps(mask(count), at) }
    }

    #[inline(always)]
    unsafe fn store_first(self, at: *mut f32, a: __m512, count: usize) {
        // SAFETY: the mask keeps the access to the first `count` f32, writable by this function's contract.
        unsafe { _mm512_mask_storeu_ps(at, mask(count), a) }
    }

    #[inline(always)]
    fn prefetch(self, at: *const f32) {
        // SAFETY: a prefetch faults nowhere.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    #[inline(always)]
    fn prefetch_far(self, at: *const f32) {
        // SAFETY: a prefetch faults nowhere.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
}
