//! What a share can do at best: multiply-adds that touch no memory, and reading from each level of it.

use super::child::{Share, picos};
use super::protocol::{Answer, Probe};
use kernels::packed::Packed;
use kernels::simd::{self, Routine, Simd};
use std::hint::black_box;
use std::time::Instant;

/// Samples of each figure.
const SAMPLES: usize = 9;
/// Independent chains of multiply-adds: two units times a latency of five on today's cores, and they fit the registers.
const CHAINS: usize = 12;
/// Steps of each chain in a sample: about 2 ms.
const STEPS: u64 = 1 << 20;
/// Bytes that a thread reads in a sample, at least.
const READ_BYTES: usize = 24 << 20;
/// The most that is read as "memory" by all threads together.
const MEMORY_BYTES_MAX: u64 = 256 << 20;

/// Times all probes: what 10⁹ operations, or 10⁹ bytes, take the share.
pub(super) fn probe(share: &Share) -> Answer {
    let limits = &share.limits;
    let units = u64::from(limits.units.max(1));
    let memory = (2 * limits.l3_bytes).clamp(64 << 20, MEMORY_BYTES_MAX);
    // Half of a level, so that it stays there; L2 is each core's own, what lies beyond is shared.
    let sizes = [(Probe::L2, limits.l2_bytes / 2), (Probe::L3, limits.l3_bytes / 2 / units), (Probe::Memory, memory / units)];
    let mut figures = vec![(Probe::Flops, flops(share))];
    for (probe, bytes) in sizes {
        figures.push((probe, bandwidth(share, usize::try_from(bytes).unwrap_or(usize::MAX).max(16 << 10))));
    }
    Answer::Probed { figures }
}

/// The samples of all threads working at once, scaled to 10⁹ pieces of work.
fn samples(share: &Share, work: u64, each: impl Fn(usize) + Sync) -> Vec<u64> {
    let sample = |_| {
        let start = Instant::now();
        share.pool.broadcast(&each);
        (u128::from(picos(start)) * 1_000_000_000 / u128::from(work.max(1))) as u64
    };
    (0..=SAMPLES).map(sample).skip(1).collect()
}

fn flops(share: &Share) -> Vec<u64> {
    struct Chains;
    impl Routine for Chains {
        type Output = u64;
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> u64 {
            let (factor, addend) = (simd.splat(black_box(0.999)), simd.splat(black_box(0.001)));
            let mut sums = [simd.splat(1.0); CHAINS];
            for _ in 0..STEPS {
                for sum in &mut sums {
                    *sum = simd.mul_add(*sum, factor, addend);
                }
            }
            black_box(sums.map(|sum| simd.sum(sum)));
            2 * STEPS * (CHAINS * S::LANES) as u64
        }
    }
    let isa = share.limits.isa;
    let work = simd::run(isa, Chains) * share.pool.threads() as u64;
    samples(share, work, |_| {
        black_box(simd::run(isa, Chains));
    })
}

fn bandwidth(share: &Share, bytes: usize) -> Vec<u64> {
    struct Sum<'a>(&'a [f32]);
    impl Routine for Sum<'_> {
        type Output = f32;
        #[inline(always)]
        fn run<S: Simd>(self, _: S) -> f32 {
            let mut sums = [0.0f32; 64];
            // Arrays of a fixed length: so the sums stay in registers.
            for line in self.0.as_chunks::<64>().0 {
                sums = std::array::from_fn(|i| sums[i] + line[i]);
            }
            sums.iter().sum()
        }
    }
    let threads = share.pool.threads();
    let mut buffers: Vec<Packed> = (0..threads).map(|_| Packed::zeroed(bytes / size_of::<f32>())).collect();
    // Pages that nobody wrote are all the same one.
    buffers.iter_mut().for_each(|buffer| buffer.fill(1.0));
    let passes = READ_BYTES.div_ceil(bytes);
    samples(share, (bytes * passes * threads) as u64, |thread| {
        for _ in 0..passes {
            black_box(simd::run(share.limits.isa, Sum(black_box(&buffers[thread]))));
        }
    })
}
