//! What a kernel does to its result before it is stored, as part of the kernel's identity.

use cubecl::prelude::*;
use kernels::Limits;
use kernels::epilogue::{Activation, Epilogue};

/// An activation whose numbers are constants of the kernel.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    None,
    Relu,
    LeakyRelu { alpha: Bits },
    Clip { lo: Bits, hi: Bits },
    Sigmoid,
    Tanh,
    Silu,
    HardSigmoid { alpha: Bits, beta: Bits },
    HardSwish,
    Gelu,
    GeluTanh,
}

/// An f32 that can be part of a key.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bits(u32);

impl Bits {
    /// Of a number.
    pub fn of(number: f32) -> Bits {
        Bits(number.to_bits())
    }

    /// The number.
    pub fn number(self) -> f32 {
        f32::from_bits(self.0)
    }
}

/// Which terms an epilogue has.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Finish {
    pub bias: bool,
    pub residual: bool,
    pub act: Act,
}

impl From<Activation> for Act {
    fn from(activation: Activation) -> Self {
        match activation {
            Activation::None => Act::None,
            Activation::Relu => Act::Relu,
            Activation::LeakyRelu { alpha } => Act::LeakyRelu { alpha: Bits::of(alpha) },
            Activation::Clip { lo, hi } => Act::Clip { lo: Bits::of(lo), hi: Bits::of(hi) },
            Activation::Sigmoid => Act::Sigmoid,
            Activation::Tanh => Act::Tanh,
            Activation::Silu => Act::Silu,
            Activation::HardSigmoid { alpha, beta } => Act::HardSigmoid { alpha: Bits::of(alpha), beta: Bits::of(beta) },
            Activation::HardSwish => Act::HardSwish,
            Activation::Gelu => Act::Gelu,
            Activation::GeluTanh => Act::GeluTanh,
        }
    }
}

impl From<Epilogue> for Finish {
    fn from(epilogue: Epilogue) -> Self {
        Finish { bias: epilogue.bias, residual: epilogue.residual, act: epilogue.activation.into() }
    }
}

/// Results of a unit, and products that a turn of its loop adds, that may be written out. A card has registers for no more than 128. On a
/// processor it is a matter of compiling: Mesa's driver, whose source comes in another order each time, takes 1 s for 256, 2 s for 512 and
/// 6 s for 1,024.
pub fn written_max(limits: &Limits) -> u32 {
    if limits.gpu.is_some_and(|gpu| gpu.software) { 512 } else { 128 }
}

/// One of `count` values, each `pitch` behind the one before it from `first`, by a number that is known at run time. Values in registers cannot
/// be asked for by such a number; where all were finished one by one instead, 64 with an error function or 256 without, Mesa's driver did
/// not end compiling in some runs.
#[cube]
pub fn pick<F: Float>(values: &Array<F>, at: u32, #[comptime] first: u32, #[comptime] pitch: u32, #[comptime] count: u32) -> F {
    let mut value = values[comptime!(first as usize)];
    #[unroll]
    for i in 1..count {
        value = select(at == i, values[comptime!((first + i * pitch) as usize)], value);
    }
    value
}

/// `act(x)`.
#[cube]
pub fn activate<F: Float>(x: F, #[comptime] act: Act) -> F {
    match comptime!(act) {
        Act::None => x,
        Act::Relu => max(x, F::new(0.0)),
        Act::LeakyRelu { alpha } => select(x < F::new(0.0), x * F::new(comptime!(alpha.number())), x),
        Act::Clip { lo, hi } => min(max(x, F::new(comptime!(lo.number()))), F::new(comptime!(hi.number()))),
        Act::Sigmoid => sigmoid::<F>(x),
        Act::Tanh => tanh::<F>(x),
        Act::Silu => x * sigmoid::<F>(x),
        Act::HardSigmoid { alpha, beta } => {
            hard_sigmoid::<F>(x, F::new(comptime!(alpha.number())), F::new(comptime!(beta.number())))
        }
        Act::HardSwish => x * hard_sigmoid::<F>(x, F::new(1.0 / 6.0), F::new(0.5)),
        Act::Gelu => gelu::<F>(x),
        Act::GeluTanh => gelu_tanh::<F>(x),
    }
}

/// 1 / (1 + e⁻ˣ). Where e⁻ˣ overflows it is held at e⁸⁸, so that nothing depends on how a device divides by infinity.
#[cube]
pub fn sigmoid<F: Float>(x: F) -> F {
    F::new(1.0) / (F::new(1.0) + F::exp(min(F::new(0.0) - x, F::new(88.0))))
}

/// Beyond ±10 it is ±1 in f32, and a device's own may be undefined there.
#[cube]
pub fn tanh<F: Float>(x: F) -> F {
    F::tanh(min(max(x, F::new(-10.0)), F::new(10.0)))
}

/// min(max(alpha · x + beta, 0), 1)
#[cube]
pub fn hard_sigmoid<F: Float>(x: F, alpha: F, beta: F) -> F {
    min(max(alpha * x + beta, F::new(0.0)), F::new(1.0))
}

/// x/2 · (1 + erf(x/√2))
#[cube]
pub fn gelu<F: Float>(x: F) -> F {
    F::new(0.5) * x * (F::new(1.0) + erf::<F>(x * F::new(comptime!(std::f32::consts::FRAC_1_SQRT_2))))
}

/// x/2 · (1 + tanh(√(2/π) · (x + 0.044715 · x³)))
#[cube]
pub fn gelu_tanh<F: Float>(x: F) -> F {
    F::new(0.5) * x * (F::new(1.0) + tanh::<F>(F::new(0.7978846) * (x + F::new(0.044715) * x * x * x)))
}

/// The error function to 1.5e-7: the rational approximation of Abramowitz and Stegun 1964, 7.1.26.
#[cube]
pub fn erf<F: Float>(x: F) -> F {
    let a = F::abs(x);
    let t = F::new(1.0) / (F::new(1.0) + F::new(0.3275911) * a);
    let p = ((((F::new(1.0614054) * t - F::new(1.4531521)) * t + F::new(1.4214138)) * t - F::new(0.28449672)) * t
        + F::new(0.2548296))
        * t;
    let y = F::new(1.0) - p * F::exp(F::new(0.0) - a * a);
    select(x < F::new(0.0), F::new(0.0) - y, y)
}
