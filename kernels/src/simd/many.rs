//! Several vectors as one: long dependent chains of several vectors run interleaved, which hides their latency.

use super::{Routine, Simd};

/// `N` vectors of a set in place of one. Exponentials take half the time with four.
#[derive(Copy, Clone, Debug)]
pub struct Many<S, const N: usize>(pub S);

/// Methods that do the same to each vector.
macro_rules! lanewise {
    ($($name:ident($($arg:ident),*);)*) => { $(
        #[inline(always)]
        fn $name(self, $($arg: Self::V),*) -> Self::V {
            let mut all = [self.0.zero(); N];
            let mut i = 0;
            while i < N {
                all[i] = self.0.$name($($arg[i]),*);
                i += 1;
            }
            all
        }
    )* };
}

impl<S: Simd, const N: usize> Simd for Many<S, N> {
    type V = [S::V; N];
    const LANES: usize = N * S::LANES;

    #[inline(always)]
    unsafe fn assume() -> Self {
        // SAFETY: by this function's contract.
        Many(unsafe { S::assume() })
    }

    #[inline(always)]
    fn run<R: Routine>(self, routine: R) -> R::Output {
        self.0.run(routine)
    }

    lanewise! {
        add(a, b);
        sub(a, b);
        mul(a, b);
        div(a, b);
        mul_add(a, b, c);
        min(a, b);
        max(a, b);
        sqrt(a);
        round(a);
        abs(a);
        with_sign(magnitude, sign);
        select_less(a, b, x, y);
        scale(a, n);
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [self.0.splat(x); N]
    }

    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        a.iter().map(|&a| self.0.sum(a)).sum()
    }

    #[inline(always)]
    fn greatest(self, a: Self::V) -> f32 {
        a.iter().map(|&a| self.0.greatest(a)).fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    fn first(self, mut a: Self::V, count: usize) -> Self::V {
        for (i, a) in a.iter_mut().enumerate() {
            *a = self.0.first(*a, count.saturating_sub(i * S::LANES));
        }
        a
    }

    #[inline(always)]
    fn evens(self, a: Self::V, b: Self::V) -> Self::V {
        let vector = |i: usize| if i < N { a[i] } else { b[i - N] };
        let mut all = [self.0.zero(); N];
        for (i, to) in all.iter_mut().enumerate() {
            *to = self.0.evens(vector(2 * i), vector(2 * i + 1));
        }
        all
    }

    #[inline(always)]
    fn pick(self, a: Self::V, places: Self::V) -> Self::V {
        const LANES_MAX: usize = 64;
        const { assert!(N * S::LANES <= LANES_MAX) };
        let (mut from, mut to) = ([0f32; LANES_MAX], [0f32; LANES_MAX]);
        // SAFETY: N · LANES f32 fit into the arrays.
        unsafe {
            self.store(from.as_mut_ptr(), a);
            self.store(to.as_mut_ptr(), places);
            for lane in &mut to[..Self::LANES] {
                *lane = from[lane.to_bits() as usize % Self::LANES];
            }
            self.load(to.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn load(self, at: *const f32) -> Self::V {
        let mut all = [self.0.zero(); N];
        for (i, a) in all.iter_mut().enumerate() {
            // SAFETY: N · LANES f32 are readable by this function's contract.
            *a = unsafe { self.0.load(at.add(i * S::LANES)) };
        }
        all
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32, a: Self::V) {
        for (i, &a) in a.iter().enumerate() {
            // SAFETY: N · LANES f32 are writable by this function's contract.
            unsafe { self.0.store(at.add(i * S::LANES), a) };
        }
    }

    #[inline(always)]
    unsafe fn load_first(self, at: *const f32, count: usize) -> Self::V {
        let mut all = [self.0.zero(); N];
        for (i, a) in all.iter_mut().enumerate() {
            // SAFETY: each vector reads only what is left of `count`.
            *a = unsafe { self.0.load_first(at.wrapping_add(i * S::LANES), count.saturating_sub(i * S::LANES)) };
        }
        all
    }

    #[inline(always)]
    unsafe fn store_first(self, at: *mut f32, a: Self::V, count: usize) {
        for (i, &a) in a.iter().enumerate() {
            // SAFETY: each vector writes only what is left of `count`.
            unsafe { self.0.store_first(at.wrapping_add(i * S::LANES), a, count.saturating_sub(i * S::LANES)) };
        }
    }

    #[inline(always)]
    fn prefetch(self, at: *const f32) {
        self.0.prefetch(at);
    }

    #[inline(always)]
    fn prefetch_far(self, at: *const f32) {
        self.0.prefetch_far(at);
    }
}
