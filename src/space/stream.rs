//! The stream of pseudo-random numbers that all seeded choices draw from.

use schema::Seed;

/// A stream of pseudo-random numbers: SplitMix64 (Steele, Lea and Flood 2014). The same seed gives the same stream on every
/// machine.
#[derive(Clone, Debug)]
pub struct Stream(u64);

impl Stream {
    /// The stream of a seed.
    pub fn new(seed: Seed) -> Self {
        Stream(seed.0)
    }

    /// The stream of a seed for one of several purposes, told apart by a text.
    pub fn named(seed: Seed, purpose: &str) -> Self {
        let hash = blake3::hash(purpose.as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        Stream(seed.0.rotate_left(17) ^ u64::from_le_bytes(first))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // The bias of the multiplication is below bound / 2^64.
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normal with mean 0 and deviation 1 (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.unit(), self.unit());
        (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_follows_its_seed_and_purpose() {
        let draw = |mut stream: Stream| (0..8).map(|_| stream.bits()).collect::<Vec<_>>();
        assert_eq!(draw(Stream::new(Seed(1))), draw(Stream::new(Seed(1))));
        assert_ne!(draw(Stream::new(Seed(1))), draw(Stream::new(Seed(2))));
        assert_ne!(draw(Stream::named(Seed(1), "a")), draw(Stream::named(Seed(1), "b")));
        let mut stream = Stream::new(Seed(3));
        assert!((0..1000).all(|_| stream.below(7) < 7 && (0.0..1.0).contains(&stream.unit())));
    }
}
