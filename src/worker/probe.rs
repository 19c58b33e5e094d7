//! What a share can do at best: multiply-adds that touch no memory, and reading from each level of it. And how it wakes.

use super::child::{Share, picos};
use super::protocol::{Answer, Probe};
use kernels::packed::Packed;
use kernels::simd::{self, Routine, Simd};
use schema::FailureClass;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Samples of each figure.
const SAMPLES: usize = 9;
/// Independent chains of multiply-adds: two units times a latency of five on today's cores, and they fit the registers.
const CHAINS: usize = 12;
/// Steps of each chain in a sample: about 2 ms.
const STEPS: u64 = 1 << 20;
/// Bytes that a thread reads in a sample, at least.
const READ_BYTES: usize = 24 << 20;
/// Steps of each chain in what a host does when it wakes: about 0.2 ms.
const WAKE_STEPS: u64 = 1 << 17;
/// What goes to a device and back when it wakes.
const WAKE_BYTES: usize = 64 << 10;
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

/// So many steps of each chain; the operations that were.
struct Chains(u64);

impl Routine for Chains {
    type Output = u64;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> u64 {
        let Chains(steps) = self;
        let (factor, addend) = (simd.splat(black_box(0.999)), simd.splat(black_box(0.001)));
        let mut sums = [simd.splat(1.0); CHAINS];
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = simd.mul_add(*sum, factor, addend);
            }
        }
        black_box(sums.map(|sum| simd.sum(sum)));
        2 * steps * (CHAINS * S::LANES) as u64
    }
}

fn flops(share: &Share) -> Vec<u64> {
    let isa = share.limits.isa;
    let work = simd::run(isa, Chains(STEPS)) * share.pool.threads() as u64;
    samples(share, work, |_| {
        black_box(simd::run(isa, Chains(STEPS)));
    })
}

/// Times short work on all units after so long without any: on a device the way there and back.
pub(super) fn wake(share: &Share, gap: Duration, samples: u32) -> Answer {
    let bytes = vec![0u8; WAKE_BYTES];
    let work = || match &share.gpu {
        Some(gpu) => gpu.upload(&bytes).and_then(|buffer| gpu.download(&buffer)).map(drop).map_err(|error| error.to_string()),
        None => {
            share.pool.broadcast(|_| {
                black_box(simd::run(share.limits.isa, Chains(WAKE_STEPS)));
            });
            Ok(())
        }
    };
    let sample = |_| {
        std::thread::sleep(gap);
        let start = Instant::now();
        work().map(|()| picos(start))
    };
    // The first of all is no time: what is made once is made then.
    match work().and_then(|()| (0..samples).map(sample).collect()) {
        Ok(picos) => Answer::Times { picos },
        Err(detail) => Answer::Refused { class: FailureClass::DeviceLost, detail },
    }
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
