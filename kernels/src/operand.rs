//! The operands of one run of a kernel: addresses fixed when the plan was made.
//!
//! A plan computes every address once; running a kernel hands it a slice of these. The only unsafe step, from address to slice,
//! is here, and its duties are stated at the constructors.

use crate::Element;
use std::marker::PhantomData;

/// The bytes a kernel reads. An absent optional operand has length 0 and is marked so.
#[derive(Copy, Clone, Debug)]
pub struct Operand {
    at: *const u8,
    bytes: usize,
    present: bool,
}

/// The bytes a kernel writes.
#[derive(Copy, Clone, Debug)]
pub struct OperandMut {
    at: *mut u8,
    bytes: usize,
}

// SAFETY: an operand is an address and a length; the duty to keep it valid and unaliased lies with who makes `Operands` from it.
unsafe impl Send for Operand {}
// SAFETY: as above.
unsafe impl Sync for Operand {}
// SAFETY: as above.
unsafe impl Send for OperandMut {}
// SAFETY: as above.
unsafe impl Sync for OperandMut {}

impl Operand {
    /// An operand that is not there (an optional input).
    pub const ABSENT: Operand =
        Operand { at: std::ptr::NonNull::<u64>::dangling().as_ptr() as *const u8, bytes: 0, present: false };

    /// The bytes at an address.
    pub fn new(at: *const u8, bytes: usize) -> Self {
        Operand { at, bytes, present: true }
    }

    /// The bytes of a slice. It must outlive the runs that use the operand.
    pub fn of<T: bytemuck::Pod>(values: &[T]) -> Self {
        Operand::new(values.as_ptr().cast(), size_of_val(values))
    }

    /// Whether it is there.
    pub fn is_present(&self) -> bool {
        self.present
    }
}

impl OperandMut {
    /// The bytes at an address.
    pub fn new(at: *mut u8, bytes: usize) -> Self {
        OperandMut { at, bytes }
    }

    /// The bytes of a slice. It must outlive the runs that use the operand.
    pub fn of<T: bytemuck::Pod>(values: &mut [T]) -> Self {
        OperandMut::new(values.as_mut_ptr().cast(), size_of_val(values))
    }
}

/// What one run of a kernel reads and writes.
pub struct Operands<'a> {
    inputs: &'a [Operand],
    outputs: &'a [OperandMut],
    scratch: OperandMut,
    life: PhantomData<&'a mut [u8]>,
}

/// What one run of a kernel reads.
#[derive(Copy, Clone)]
pub struct Inputs<'a>(&'a [Operand]);

impl<'a> Inputs<'a> {
    /// The elements of an input; `None` when it is absent. Panics when it is not aligned for `T`.
    pub fn get<T: Element>(&self, index: usize) -> Option<&'a [T]> {
        let operand = self.0.get(index)?;
        operand.present.then(|| {
            assert!(operand.at.cast::<T>().is_aligned(), "input {index} is aligned");
            // SAFETY: `Operands::new` promised that it is readable, unaliased by writers and alive for 'a; alignment was just checked.
            unsafe { std::slice::from_raw_parts(operand.at.cast(), operand.bytes / size_of::<T>()) }
        })
    }
}

impl<'a> Operands<'a> {
    /// Operands for one run.
    ///
    /// # Safety
    /// For `'a`: every input is readable over its length, every output and `scratch` writable, all are aligned to 64 bytes (to the
    /// element is enough for inputs and outputs a caller owns), no output or scratch overlaps another operand, and nobody else
    /// touches them.
    pub unsafe fn new(inputs: &'a [Operand], outputs: &'a [OperandMut], scratch: OperandMut) -> Self {
        Operands { inputs, outputs, scratch, life: PhantomData }
    }

    /// The elements of an input; `None` when it is absent. Panics when there is no such input or it is not aligned for `T`.
    pub fn input<T: Element>(&self, index: usize) -> Option<&'a [T]> {
        self.inputs().get(index)
    }

    /// The inputs alone, for threads that write an output between them.
    pub fn inputs(&self) -> Inputs<'a> {
        Inputs(self.inputs)
    }

    /// The raw bytes of an input; `None` when it is absent.
    pub fn input_bytes(&self, index: usize) -> Option<&'a [u8]> {
        self.input::<u8>(index)
    }

    /// The number of inputs, absent ones included.
    pub fn inputs_len(&self) -> usize {
        self.inputs.len()
    }

    /// The elements of an output. Panics when there is no such output or it is not aligned for `T`.
    pub fn output<T: Element>(&mut self, index: usize) -> &mut [T] {
        let operand = self.outputs[index];
        assert!(operand.at.cast::<T>().is_aligned(), "output {index} is aligned");
        // SAFETY: writable and alive for 'a by `new`, disjoint from all else; `&mut self` keeps a second borrow away.
        unsafe { std::slice::from_raw_parts_mut(operand.at.cast(), operand.bytes / size_of::<T>()) }
    }

    /// The elements of an output and of the scratch space, together.
    pub fn output_and_scratch<T: Element, S: Element>(&mut self, index: usize) -> (&mut [T], &mut [S]) {
        let (operand, scratch) = (self.outputs[index], self.scratch);
        assert!(operand.at.cast::<T>().is_aligned() && scratch.at.cast::<S>().is_aligned(), "operands are aligned");
        // SAFETY: as in `output`; scratch and outputs are disjoint by `new`.
        unsafe {
            (
                std::slice::from_raw_parts_mut(operand.at.cast(), operand.bytes / size_of::<T>()),
                std::slice::from_raw_parts_mut(scratch.at.cast(), scratch.bytes / size_of::<S>()),
            )
        }
    }

    /// Two outputs together. Panics when they are the same.
    pub fn output_pair<T: Element>(&mut self, first: usize, second: usize) -> (&mut [T], &mut [T]) {
        assert_ne!(first, second, "two different outputs");
        let (a, b) = (self.outputs[first], self.outputs[second]);
        assert!(a.at.cast::<T>().is_aligned() && b.at.cast::<T>().is_aligned(), "outputs are aligned");
        // SAFETY: as in `output`; two outputs are disjoint by `new`.
        unsafe {
            (
                std::slice::from_raw_parts_mut(a.at.cast(), a.bytes / size_of::<T>()),
                std::slice::from_raw_parts_mut(b.at.cast(), b.bytes / size_of::<T>()),
            )
        }
    }

    /// The number of outputs.
    pub fn outputs_len(&self) -> usize {
        self.outputs.len()
    }
}
