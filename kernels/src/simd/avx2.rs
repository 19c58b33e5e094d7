//! AVX2 with FMA: eight lanes, sixteen registers.

use super::{Routine, Simd};
use std::arch::x86_64::*;

/// Permission to use AVX2, FMA and F16C: exists only where the processor has all three.
#[derive(Copy, Clone, Debug)]
pub struct Avx2(());

impl Avx2 {
    /// The permission, if this processor grants it.
    #[inline]
    pub fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        has.then_some(Avx2(()))
    }
}

/// `MASKS[8 - n..]` has its first `n` lanes set.
static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
fn mask(count: usize) -> __m256i {
    // SAFETY: 8 − min(count, 8) + 8 ≤ 16, so the eight words are inside the table; a token exists wherever this is called from.
    unsafe { _mm256_loadu_si256(MASKS.as_ptr().add(8 - count.min(8)).cast()) }
}

/// Methods that are one intrinsic on registers.
macro_rules! lanewise {
    ($($name:ident($($arg:ident),*) => $body:expr;)*) => { $(
        #[inline(always)]
        fn $name(self, $($arg: __m256),*) -> __m256 {
            // SAFETY: `self` exists, so the processor has AVX2 and FMA; nothing here touches memory.
            unsafe { $body }
        }
    )* };
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn assume() -> Self {
        Avx2(())
    }

    #[inline(always)]
    fn run<R: Routine>(self, routine: R) -> R::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inside<R: Routine>(simd: Avx2, routine: R) -> R::Output {
            routine.run(simd)
        }
        // SAFETY: `self` exists, so the processor has the features.
        unsafe { inside(self, routine) }
    }

    lanewise! {
        add(a, b) => _mm256_add_ps(a, b);
        sub(a, b) => _mm256_sub_ps(a, b);
        mul(a, b) => _mm256_mul_ps(a, b);
        div(a, b) => _mm256_div_ps(a, b);
        mul_add(a, b, c) => _mm256_fmadd_ps(a, b, c);
        min(a, b) => _mm256_min_ps(a, b);
        max(a, b) => _mm256_max_ps(a, b);
        sqrt(a) => _mm256_sqrt_ps(a);
        round(a) => _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        abs(a) => _mm256_andnot_ps(_mm256_set1_ps(-0.0), a);
        with_sign(magnitude, sign) => _mm256_or_ps(magnitude, _mm256_and_ps(sign, _mm256_set1_ps(-0.0)));
        select_less(a, b, x, y) => _mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b));
        scale(a, n) => {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(126));
            let power = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent));
            _mm256_mul_ps(_mm256_mul_ps(a, power), _mm256_set1_ps(2.0))
        };
        evens(a, b) => {
            // Pairs of a, b, a, b.
            let pairs = _mm256_castps_pd(_mm256_shuffle_ps::<0x88>(a, b));
            _mm256_castpd_ps(_mm256_permute4x64_pd::<0xd8>(pairs))
        };
        pick(a, places) => _mm256_permutevar8x32_ps(a, _mm256_castps_si256(places));
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: `self` exists, so the processor has AVX2.
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        // SAFETY: `self` exists, so the processor has AVX2.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn greatest(self, a: __m256) -> f32 {
        // SAFETY: `self` exists, so the processor has AVX2.
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn first(self, a: __m256, count: usize) -> __m256 {
        // SAFETY: `self` exists, so the processor has AVX2.
        unsafe { _mm256_and_ps(a, _mm256_castsi256_ps(mask(count))) }
    }

    #[inline(always)]
    unsafe fn load(self, at: *const f32) -> __m256 {
        // SAFETY: eight f32 are readable there by this function's contract.
        unsafe { _mm256_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32, a: __m256) {
        // SAFETY: eight f32 are writable there by this function's contract.
        unsafe { _mm256_storeu_ps(at, a) }
    }

    #[inline(always)]
    unsafe fn stream(self, at: *mut f32, a: __m256) {
        // SAFETY: writable and aligned by this function's contract.
        unsafe { _mm256_stream_ps(at, a) }
    }

    #[inline(always)]
    unsafe fn load_first(self, at: *const f32, count: usize) -> __m256 {
        // SAFETY: the mask keeps the access to the first `count` f32, readable by this function's contract.
        unsafe { _mm256_maskload_ps(at, mask(count)) }
    }

    #[inline(always)]
    unsafe fn store_first(self, at: *mut f32, a: __m256, count: usize) {
        // SAFETY: the mask keeps the access to the first `count` f32, writable by this function's contract.
        unsafe { _mm256_maskstore_ps(at, mask(count), a) }
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
