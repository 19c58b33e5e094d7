//! Loops over slices, one vector at a time: the safe border between kernels that stream memory and the tokens' loads and stores.
//!
//! All are `#[inline(always)]` and take the arithmetic as closures, so inside a [`Routine`](super::Routine) they become loops of
//! vector instructions, as long as a closure is small enough to be inlined: one that is not has lost the instruction set, and is a
//! hundred times slower. What calls exp and its kin is therefore written with [`each!`] and [`each_in_place!`], which leave no
//! closure.

use super::Simd;

/// Every element becomes `value`.
#[inline(always)]
pub fn fill<S: Simd>(s: S, out: &mut [f32], value: f32) {
    let v = s.splat(value);
    let count = out.len();
    let to = out.as_mut_ptr();
    let mut i = 0;
    while i + S::LANES <= count {
        // SAFETY: i + LANES ≤ count elements are there.
        unsafe { s.store(to.add(i), v) };
        i += S::LANES;
    }
    if i < count {
        // SAFETY: count − i elements are there.
        unsafe { s.store_first(to.add(i), v, count - i) };
    }
}

/// Copies a slice past the caches, over the shorter; [`drain`](super::drain) must follow.
#[inline(always)]
pub fn stream<S: Simd>(s: S, a: &[f32], out: &mut [f32]) {
    let count = out.len().min(a.len());
    let (from, to) = (a.as_ptr(), out.as_mut_ptr());
    let head = to.align_offset(64).min(count);
    out[..head].copy_from_slice(&a[..head]);
    let mut i = head;
    while i + S::LANES <= count {
        // SAFETY: i + LANES ≤ count elements are in both slices. From the head on places are aligned to 64 bytes, or to as many as
        // a vector has.
        unsafe { s.stream(to.add(i), s.load(from.add(i))) };
        i += S::LANES;
    }
    if i < count {
        // SAFETY: count − i elements are in both slices.
        unsafe { s.store_first(to.add(i), s.load_first(from.add(i), count - i), count - i) };
    }
}

/// `out[i] = f(a[i])` over the shorter of both.
#[inline(always)]
pub fn map<S: Simd>(s: S, a: &[f32], out: &mut [f32], f: impl Fn(S::V) -> S::V) {
    let count = out.len().min(a.len());
    let (pa, to) = (a.as_ptr(), out.as_mut_ptr());
    let mut i = 0;
    while i + S::LANES <= count {
        // SAFETY: i + LANES ≤ count elements are in both slices.
        unsafe { s.store(to.add(i), f(s.load(pa.add(i)))) };
        i += S::LANES;
    }
    if i < count {
        // SAFETY: count − i elements are in both slices.
        unsafe { s.store_first(to.add(i), f(s.load_first(pa.add(i), count - i)), count - i) };
    }
}

/// `out[i] = f(out[i])`
#[inline(always)]
pub fn map_in_place<S: Simd>(s: S, out: &mut [f32], f: impl Fn(S::V) -> S::V) {
    let count = out.len();
    let to = out.as_mut_ptr();
    let mut i = 0;
    while i + S::LANES <= count {
        // SAFETY: i + LANES ≤ count elements are there.
        unsafe { s.store(to.add(i), f(s.load(to.add(i)))) };
        i += S::LANES;
    }
    if i < count {
        // SAFETY: count − i elements are there.
        unsafe { s.store_first(to.add(i), f(s.load_first(to.add(i), count - i)), count - i) };
    }
}

/// `out[i] = f(a[i], b[i])` over the shortest.
#[inline(always)]
pub fn zip<S: Simd>(s: S, a: &[f32], b: &[f32], out: &mut [f32], f: impl Fn(S::V, S::V) -> S::V) {
    let count = out.len().min(a.len()).min(b.len());
    let (pa, pb, to) = (a.as_ptr(), b.as_ptr(), out.as_mut_ptr());
    let mut i = 0;
    while i + S::LANES <= count {
        // SAFETY: i + LANES ≤ count elements are in all slices.
        unsafe { s.store(to.add(i), f(s.load(pa.add(i)), s.load(pb.add(i)))) };
        i += S::LANES;
    }
    if i < count {
        let rest = count - i;
        // SAFETY: `rest` elements are left in all slices.
        unsafe { s.store_first(to.add(i), f(s.load_first(pa.add(i), rest), s.load_first(pb.add(i), rest)), rest) };
    }
}

/// `out[i] = f(out[i], a[i])` over the shorter.
#[inline(always)]
pub fn zip_in_place<S: Simd>(s: S, a: &[f32], out: &mut [f32], f: impl Fn(S::V, S::V) -> S::V) {
    let count = out.len().min(a.len());
    let (pa, to) = (a.as_ptr(), out.as_mut_ptr());
    let mut i = 0;
    while i + S::LANES <= count {
        // SAFETY: i + LANES ≤ count elements are in both slices.
        unsafe { s.store(to.add(i), f(s.load(to.add(i)), s.load(pa.add(i)))) };
        i += S::LANES;
    }
    if i < count {
        let rest = count - i;
        // SAFETY: `rest` elements are left in both slices.
        unsafe { s.store_first(to.add(i), f(s.load_first(to.add(i), rest), s.load_first(pa.add(i), rest)), rest) };
    }
}

/// `out[i] = f(a[i], b[i], c[i])` over the shortest.
#[inline(always)]
pub fn zip3<S: Simd>(s: S, a: &[f32], b: &[f32], c: &[f32], out: &mut [f32], f: impl Fn(S::V, S::V, S::V) -> S::V) {
    let count = out.len().min(a.len()).min(b.len()).min(c.len());
    let (pa, pb, pc, to) = (a.as_ptr(), b.as_ptr(), c.as_ptr(), out.as_mut_ptr());
    let mut i = 0;
    while i + S::LANES <= count {
        // SAFETY: i + LANES ≤ count elements are in all slices.
        unsafe { s.store(to.add(i), f(s.load(pa.add(i)), s.load(pb.add(i)), s.load(pc.add(i)))) };
        i += S::LANES;
    }
    if i < count {
        let rest = count - i;
        // SAFETY: `rest` elements are left in all slices.
        unsafe {
            let (x, y, z) = (s.load_first(pa.add(i), rest), s.load_first(pb.add(i), rest), s.load_first(pc.add(i), rest));
            s.store_first(to.add(i), f(x, y, z), rest);
        }
    }
}

/// `out[i] = body(x = a[i], …)` over the shortest, without a closure: `each!(S, s, out, x = a, y = b => body)`.
macro_rules! each {
    ($S:ty, $s:expr, $out:expr, $($x:ident = $a:expr),+ => $body:expr) => {{
        let to: &mut [f32] = $out;
        let mut count = to.len();
        $(count = count.min($a.len());)+
        let mut at = 0;
        while at + <$S>::LANES <= count {
            $(let $x = $crate::simd::lanewise::load($s, $a, at);)+
            $crate::simd::lanewise::store($s, to, at, $body);
            at += <$S>::LANES;
        }
        if at < count {
            $(let $x = $crate::simd::lanewise::load_part($s, &$a[at..count]);)+
            $crate::simd::lanewise::store_part($s, &mut to[at..count], $body);
        }
    }};
}
pub(crate) use each;

/// `out[i] = body(x = out[i])`, without a closure: `each_in_place!(S, s, out, x => body)`.
macro_rules! each_in_place {
    ($S:ty, $s:expr, $out:expr, $x:ident => $body:expr) => {{
        let to: &mut [f32] = $out;
        let mut at = 0;
        while at + <$S>::LANES <= to.len() {
            let $x = $crate::simd::lanewise::load($s, to, at);
            $crate::simd::lanewise::store($s, to, at, $body);
            at += <$S>::LANES;
        }
        if at < to.len() {
            let $x = $crate::simd::lanewise::load_part($s, &to[at..]);
            $crate::simd::lanewise::store_part($s, &mut to[at..], $body);
        }
    }};
}
pub(crate) use each_in_place;

/// Folds a slice with `U` accumulators that start at `start`: `acc = f(acc, x)`. Returns the accumulators joined by `join` and the
/// rest of the slice, shorter than one vector.
#[inline(always)]
pub fn fold<S: Simd, const U: usize>(
    s: S,
    a: &[f32],
    start: S::V,
    f: impl Fn(S::V, S::V) -> S::V,
    join: impl Fn(S::V, S::V) -> S::V,
) -> (S::V, &[f32]) {
    let mut acc = [start; U];
    let (count, pa) = (a.len(), a.as_ptr());
    let mut i = 0;
    while i + U * S::LANES <= count {
        for (u, acc) in acc.iter_mut().enumerate() {
            // SAFETY: i + U·LANES ≤ count elements are there.
            *acc = f(*acc, unsafe { s.load(pa.add(i + u * S::LANES)) });
        }
        i += U * S::LANES;
    }
    while i + S::LANES <= count {
        // SAFETY: i + LANES ≤ count elements are there.
        acc[0] = f(acc[0], unsafe { s.load(pa.add(i)) });
        i += S::LANES;
    }
    let mut all = acc[0];
    for &other in &acc[1..] {
        all = join(all, other);
    }
    (all, &a[i..])
}

/// Folds the whole vectors of `R` slices side by side, over the shortest, onto `acc`: with `U` accumulators each that start at `start`
/// and are joined by `join`. Returns where the rest of each slice begins, shorter than one vector.
#[inline(always)]
pub fn fold_rows<S: Simd, const R: usize, const U: usize>(
    s: S,
    rows: [&[f32]; R],
    acc: &mut [S::V; R],
    start: S::V,
    f: impl Fn(S::V, S::V) -> S::V,
    join: impl Fn(S::V, S::V) -> S::V,
) -> usize {
    let count = rows.iter().map(|row| row.len()).min().unwrap_or(0);
    let mut all = [[start; U]; R];
    let mut i = 0;
    // Indices and not iterators: with those the accumulators stayed in memory, which took four times as long.
    while i + U * S::LANES <= count {
        let mut r = 0;
        while r < R {
            let mut u = 0;
            while u < U {
                // SAFETY: i + U·LANES ≤ count elements are in every slice.
                all[r][u] = f(all[r][u], unsafe { s.load(rows[r].as_ptr().add(i + u * S::LANES)) });
                u += 1;
            }
            r += 1;
        }
        i += U * S::LANES;
    }
    while i + S::LANES <= count {
        let mut r = 0;
        while r < R {
            // SAFETY: i + LANES ≤ count elements are in every slice.
            all[r][0] = f(all[r][0], unsafe { s.load(rows[r].as_ptr().add(i)) });
            r += 1;
        }
        i += S::LANES;
    }
    let mut r = 0;
    while r < R {
        let mut u = 0;
        while u < U {
            acc[r] = join(acc[r], all[r][u]);
            u += 1;
        }
        r += 1;
    }
    i
}

/// The sum of a slice.
#[inline(always)]
pub fn sum<S: Simd>(s: S, a: &[f32]) -> f32 {
    let (all, rest) = fold::<S, 4>(s, a, s.zero(), |acc, x| s.add(acc, x), |a, b| s.add(a, b));
    s.sum(all) + rest.iter().sum::<f32>()
}

/// The greatest of a slice; −∞ when it is empty. NaN may be lost.
#[inline(always)]
pub fn greatest<S: Simd>(s: S, a: &[f32]) -> f32 {
    let (all, rest) = fold::<S, 4>(s, a, s.splat(f32::NEG_INFINITY), |acc, x| s.max(acc, x), |a, b| s.max(a, b));
    rest.iter().fold(s.greatest(all), |most, &x| most.max(x))
}

/// The sum of the products of two slices, over the shorter.
#[inline(always)]
pub fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let count = a.len().min(b.len());
    let (pa, pb) = (a.as_ptr(), b.as_ptr());
    let mut acc = [s.zero(); 4];
    let mut i = 0;
    while i + 4 * S::LANES <= count {
        for (u, acc) in acc.iter_mut().enumerate() {
            let at = i + u * S::LANES;
            // SAFETY: i + 4·LANES ≤ count elements are in both slices.
            *acc = unsafe { s.mul_add(s.load(pa.add(at)), s.load(pb.add(at)), *acc) };
        }
        i += 4 * S::LANES;
    }
    while i + S::LANES <= count {
        // SAFETY: i + LANES ≤ count elements are in both slices.
        acc[0] = unsafe { s.mul_add(s.load(pa.add(i)), s.load(pb.add(i)), acc[0]) };
        i += S::LANES;
    }
    if i < count {
        // SAFETY: count − i elements are left in both slices.
        acc[1] = unsafe { s.mul_add(s.load_first(pa.add(i), count - i), s.load_first(pb.add(i), count - i), acc[1]) };
    }
    s.sum(s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3])))
}

/// One vector out of a slice.
///
/// Panics when fewer than `LANES` elements lie at `at`.
#[inline(always)]
pub fn load<S: Simd>(s: S, a: &[f32], at: usize) -> S::V {
    let part = &a[at..at + S::LANES];
    // SAFETY: `part` has `LANES` elements.
    unsafe { s.load(part.as_ptr()) }
}

/// One vector into a slice.
///
/// Panics when fewer than `LANES` elements lie at `at`.
#[inline(always)]
pub fn store<S: Simd>(s: S, out: &mut [f32], at: usize, v: S::V) {
    let part = &mut out[at..at + S::LANES];
    // SAFETY: `part` has `LANES` elements.
    unsafe { s.store(part.as_mut_ptr(), v) }
}

/// The first `LANES` elements of a slice, zeros where it is shorter.
#[inline(always)]
pub fn load_part<S: Simd>(s: S, a: &[f32]) -> S::V {
    // SAFETY: at most as many elements are read as the slice has.
    unsafe { s.load_first(a.as_ptr(), a.len()) }
}

/// The first lanes of a vector into a slice of at most `LANES` elements.
#[inline(always)]
pub fn store_part<S: Simd>(s: S, out: &mut [f32], v: S::V) {
    // SAFETY: at most as many elements are written as the slice has.
    unsafe { s.store_first(out.as_mut_ptr(), v, out.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::simd::{self, Routine};

    struct Everything<'a>(&'a [f32]);

    impl Routine for Everything<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let a = self.0;
            let mut out = vec![9.0; a.len()];
            map(s, a, &mut out, |x| s.add(x, x));
            zip_in_place(s, a, &mut out, |o, x| s.sub(o, x));
            assert_eq!(out, a);
            zip(s, a, a, &mut out, |x, y| s.mul(x, y));
            zip3(s, a, a, &a.iter().map(|x| -x * x).collect::<Vec<_>>(), &mut out, |x, y, z| s.mul_add(x, y, z));
            assert!(out.iter().all(|&x| x == 0.0));
            fill(s, &mut out, 3.0);
            map_in_place(s, &mut out, |x| s.add(x, x));
            assert!(out.iter().all(|&x| x == 6.0));
            let shift = 3.min(a.len());
            stream(s, a, &mut out[shift..]);
            crate::simd::drain();
            assert_eq!(out[shift..], a[..a.len() - shift]);
            assert_eq!(sum(s, a), a.iter().sum::<f32>());
            let halves = [&a[..a.len() / 2], &a[a.len().div_ceil(2)..]];
            let mut sums = [s.splat(0.0); 2];
            let end = fold_rows::<S, 2, 3>(s, halves, &mut sums, s.zero(), |acc, x| s.add(acc, x), |a, b| s.add(a, b));
            for (half, all) in halves.into_iter().zip(sums) {
                assert!(half.len() - end < S::LANES);
                assert_eq!(s.sum(all), half[..end].iter().sum::<f32>());
            }
            assert_eq!(dot(s, a, a), a.iter().map(|x| x * x).sum::<f32>());
            assert_eq!(greatest(s, a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }

    #[test]
    fn slices_of_any_length_are_covered_exactly() {
        for isa in [Isa::Scalar, Isa::Avx2, Isa::Avx512] {
            for len in (0..70).chain([127, 128, 129]) {
                let a: Vec<f32> = (0..len).map(|i| ((i * 7) % 13) as f32 - 6.0).collect();
                simd::run(isa, Everything(&a));
            }
        }
    }
}
