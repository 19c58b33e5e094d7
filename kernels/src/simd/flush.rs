//! Denormal numbers as zeros, for the time a guard lives.

use std::marker::PhantomData;

/// While it lives, this thread treats denormal f32 as zero in SSE and AVX arithmetic; dropping it restores what was.
///
/// Denormals cost over a hundred cycles an operation, and exp tails and decaying recurrent states make them. Elsewhere than on
/// x86-64 this does nothing.
#[derive(Debug)]
#[must_use = "denormals are flushed only while the guard lives"]
pub struct FlushDenormals {
    saved: u32,
    /// The state belongs to the thread.
    here: PhantomData<*const ()>,
}

impl FlushDenormals {
    /// Starts flushing on this thread.
    #[inline]
    pub fn new() -> Self {
        let saved = control();
        set_control(saved | FLUSH_TO_ZERO | DENORMALS_ARE_ZERO);
        FlushDenormals { saved, here: PhantomData }
    }
}

impl Default for FlushDenormals {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for FlushDenormals {
    #[inline]
    fn drop(&mut self) {
        set_control(self.saved);
    }
}

/// Bit 15 of MXCSR: results.
const FLUSH_TO_ZERO: u32 = 1 << 15;
/// Bit 6 of MXCSR: operands.
const DENORMALS_ARE_ZERO: u32 = 1 << 6;

#[cfg(target_arch = "x86_64")]
fn control() -> u32 {
    let mut value = 0u32;
    // SAFETY: stores the control register into four bytes that are ours; every x86-64 has it.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &mut value, options(nostack, preserves_flags)) };
    value
}

#[cfg(target_arch = "x86_64")]
fn set_control(value: u32) {
    // SAFETY: only the two flush bits differ from what the register held, so rounding and exceptions stay as they were.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &value, options(nostack, preserves_flags, readonly)) };
}

#[cfg(not(target_arch = "x86_64"))]
fn control() -> u32 {
    0
}

#[cfg(not(target_arch = "x86_64"))]
fn set_control(_value: u32) {}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use std::hint::black_box;

    #[test]
    fn denormals_are_zero_only_under_the_guard() {
        let tiny = black_box(1e-40f32);
        {
            let _guard = FlushDenormals::new();
            assert_eq!(black_box(tiny) * black_box(1.0), 0.0);
        }
        assert!(black_box(tiny) * black_box(1.0) > 0.0);
    }
}
