//! Agreement: every variant × sampled legal configs × awkward tasks × instruction sets × one and two threads, against the plain
//! computation in f64.
//!
//! An operator's file lists tasks; [`harness`] does the rest. A failure prints one line that can be pasted into a test.

mod dense;
mod harness;
mod memory;

/// Every operator must have tasks here: a new one without agreement tests does not pass.
#[test]
fn every_operator_is_covered() {
    let covered: Vec<&str> = [dense::OPERATORS, memory::OPERATORS].concat();
    for operator in kernels::OPERATORS {
        assert!(covered.contains(&operator.id), "operator '{}' has no agreement test", operator.id);
    }
}
