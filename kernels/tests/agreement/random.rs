//! Made-up operands.

use kernels::{Fill, OperandSpec, Tensor};
use schema::DType;

/// A reproducible stream of numbers (SplitMix64), seeded by a text.
pub struct Random(u64);

impl Random {
    pub fn new(seed: &str) -> Self {
        Random(seed.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// A tensor filled as the spec says.
    pub fn tensor(&mut self, spec: &OperandSpec) -> Tensor {
        let count: usize = spec.shape.iter().product();
        let shape = spec.shape.clone();
        match (spec.fill, spec.dtype) {
            (Fill::Signed, DType::F32) => Tensor::new(shape, (0..count).map(|_| self.unit() * 2.0 - 1.0).collect()),
            (Fill::Scaled(terms), DType::F32) => {
                let scale = 1.0 / (terms.max(1) as f32).sqrt();
                Tensor::new(shape, (0..count).map(|_| (self.unit() * 2.0 - 1.0) * scale).collect())
            }
            (Fill::Positive, DType::F32) => Tensor::new(shape, (0..count).map(|_| self.unit() + 0.5).collect()),
            (Fill::Mask, DType::F32) => Tensor::new(shape, (0..count).map(|_| (self.next() % 2) as f32).collect()),
            (Fill::Mask, DType::Bool) => Tensor::bools(shape, (0..count).map(|_| self.next() % 2 == 1).collect()),
            (Fill::Index(below) | Fill::Whole(below), DType::I64) => {
                Tensor::new(shape, (0..count).map(|_| (self.next() % below as u64) as i64).collect())
            }
            (Fill::Index(below) | Fill::Whole(below), DType::I32) => {
                Tensor::new(shape, (0..count).map(|_| (self.next() % below as u64) as i32).collect())
            }
            (fill, dtype) => panic!("'{}' of {dtype} cannot be filled with {fill:?}", spec.name),
        }
    }
}
