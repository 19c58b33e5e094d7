//! What all units read alike.
//!
//! A driver that computes on the processor reads such a value once for all units, but only outside of any branch and loop, where it knows
//! that they all take part; within, it reads for each unit by itself, which costs as much as an operand. CubeCL writes an argument out
//! wherever it is used. So kernels read what they are launched with first.

use cubecl::prelude::*;

/// The first words of a buffer.
#[cube]
pub fn words(buffer: &Array<u32>, #[comptime] count: usize) -> Array<u32> {
    let mut words = Array::<u32>::new(count);
    #[unroll]
    for i in 0..count {
        words[i] = buffer[i];
    }
    words
}

/// A whole number among the arguments.
#[cube]
#[allow(unused_mut, clippy::let_and_return, reason = "a variable of the kernel, and not the argument by another name")]
pub fn number(argument: u32) -> u32 {
    let mut number = argument;
    number
}

/// A float among the arguments.
#[cube]
#[allow(unused_mut, clippy::let_and_return, reason = "a variable of the kernel, and not the argument by another name")]
pub fn float<F: Float>(argument: F) -> F {
    let mut float = argument;
    float
}
