//! Agreement: every variant × sampled legal configs × awkward tasks × instruction sets × one and two threads, against the plain
//! computation in f64.
//!
//! An operator's file lists tasks; [`harness`] does the rest. A failure prints one line that can be pasted into a test.

mod dense;
mod harness;
mod memory;
mod random;

/// Every operator must have tasks here: a new one without agreement tests does not pass.
#[test]
fn every_operator_is_covered() {
    let covered: Vec<&str> = [dense::OPERATORS, memory::OPERATORS].concat();
    for operator in kernels::OPERATORS {
        assert!(covered.contains(&operator.id), "operator '{}' has no agreement test", operator.id);
    }
}

/// What the processor has is tried: a set that the harness left out would be tested nowhere.
#[test]
fn every_instruction_set_of_this_processor_is_tried() {
    let sets = harness::sets();
    assert!(sets.contains(&kernels::Isa::Scalar), "{sets:?}");
    assert!(sets.contains(&kernels::simd::available(kernels::Isa::detect())), "{sets:?}");
    #[cfg(target_arch = "x86_64")]
    assert_eq!(sets.contains(&kernels::Isa::Avx512), kernels::simd::Avx512::detect().is_some(), "{sets:?}");
}
