//! The generator of LoadGen's random choices: C++'s `std::mt19937`, and what libstdc++ makes of its words.

const N: usize = 624;
const M: usize = 397;

/// The 32-bit Mersenne Twister of Matsumoto and Nishimura (1998), as C++ specifies it ([rand.predef]).
#[derive(Clone)]
pub struct Mersenne {
    state: [u32; N],
    at: usize,
}

impl Mersenne {
    /// Seeded with the lower 32 bits, as C++ does with a wider seed.
    pub fn new(seed: u64) -> Self {
        let mut state = [seed as u32; N];
        for i in 1..N {
            let before = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(i as u32);
        }
        Mersenne { state, at: N }
    }

    /// The next 32 bits.
    pub fn word(&mut self) -> u32 {
        if self.at == N {
            self.twist();
        }
        let mut word = self.state[self.at];
        self.at += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn twist(&mut self) {
        for i in 0..N {
            let joined = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (joined >> 1) ^ odd;
        }
        self.at = 0;
    }

    /// A number from 0 to below 1, bit-equal to libstdc++'s `generate_canonical<double, 53>`: two words, the lower one first.
    pub fn unit(&mut self) -> f64 {
        let low = f64::from(self.word());
        let sum = low + f64::from(self.word()) * 4_294_967_296.0;
        (sum / 18_446_744_073_709_551_616.0).min(1.0f64.next_down())
    }

    /// A whole number below `end`, which is more than 0, each equally probable (Lemire 2019, with rejection).
    pub fn below(&mut self, end: u32) -> u32 {
        let threshold = end.wrapping_neg() % end;
        loop {
            let product = u64::from(self.word()) * u64::from(end);
            if product as u32 >= threshold {
                return (product >> 32) as u32;
            }
        }
    }

    /// Puts the items in random order (Fisher and Yates). Not in the order of `std::shuffle`, which differs between libraries.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let end = u32::try_from(last + 1).expect("sets of samples have fewer than 2³² members");
            items.swap(last, self.below(end) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The C++ standard fixes the 10,000th word of the default seed.
    #[test]
    fn is_the_generator_that_cpp_specifies() {
        let mut generator = Mersenne::new(5489);
        assert_eq!((0..10_000).map(|_| generator.word()).last(), Some(4_123_659_995));
        assert_eq!(Mersenne::new(5489 + (7 << 32)).word(), Mersenne::new(5489).word(), "a seed counts modulo 2³²");
    }

    #[test]
    fn shuffles_are_permutations_and_numbers_stay_below_their_end() {
        let mut generator = Mersenne::new(1);
        let mut items: Vec<u32> = (0..100).collect();
        generator.shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
        let mut counts = [0u32; 3];
        (0..30_000).for_each(|_| counts[generator.below(3) as usize] += 1);
        // Six standard deviations of a binomial of 30,000 and 1/3 are 490.
        assert!(counts.iter().all(|&count| count.abs_diff(10_000) < 490), "{counts:?}");
    }
}
