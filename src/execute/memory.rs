//! The bytes of one instance of a plan: its arena, and the operand tables that point into it.
//!
//! All unsafe code of the room is here. What makes it sound is checked once, in [`Memory::new`]: every span lies inside its home, and
//! no step writes what it reads. The caller's buffers are bound for the time of a run and forgotten after it.

use super::program::{Launch, Program};
use crate::graph::Graph;
use bytes::Bytes;
use kernels::{Kernel, Operand, OperandMut, Operands};
use memmap2::MmapMut;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

/// Where bytes live.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Home {
    Arena,
    /// The caller's buffer of that input.
    Input(u32),
    /// The caller's buffer of that output.
    Output(u32),
    /// A constant of the program, read only.
    Constant(u32),
}

/// A run of bytes in a home.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub home: Home,
    pub offset: usize,
    pub bytes: usize,
}

/// Alignment of everything in the arena, in bytes: a cache line, and an AVX-512 vector.
pub(super) const ALIGN: usize = 64;

/// From this size on the arena asks for huge pages. Below it, a huge page would be mostly waste.
const HUGE_BYTES: usize = 8 << 20;

/// The pages all arena spans lie in. Shared only with what [`Memory::lend`] lends, so that a lent slice can never outlive them.
struct Pages {
    base: *mut u8,
    bytes: usize,
    _map: Option<MmapMut>,
}

// SAFETY: the pages are plain memory; who reads and writes them when is decided by `Memory`, which is borrowed mutably to write.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

/// A caller's buffer, while it is bound.
#[derive(Copy, Clone)]
struct Bound {
    at: *mut u8,
    bytes: usize,
}

/// Not bound: no bytes.
const UNBOUND: Bound = Bound { at: std::ptr::without_provenance_mut(ALIGN), bytes: 0 };

/// The memory of one instance.
pub(super) struct Memory {
    program: Arc<Program>,
    pages: Arc<Pages>,
    reads: Vec<Operand>,
    writes: Vec<OperandMut>,
    inputs: Vec<Bound>,
    outputs: Vec<Bound>,
    /// Counts what is lent.
    token: Arc<()>,
}

// SAFETY: the pointers in the operand tables point into `pages` and into constants, which `Memory` keeps alive, or into buffers that
// are borrowed for as long as they are bound; all access goes through `&self` for reading and `&mut self` for writing.
unsafe impl Send for Memory {}
// SAFETY: as above; nothing is written through `&self`.
unsafe impl Sync for Memory {}

impl Memory {
    /// Allocates the arena and points the operand tables into it.
    ///
    /// Panics when the program breaks the invariants above: a bug of the compiler of plans.
    ///
    /// # Errors
    /// When the operating system gives no memory.
    pub fn new(program: Arc<Program>) -> io::Result<Self> {
        check(&program);
        let pages = Arc::new(Pages::new(program.arena_bytes)?);
        let mut memory = Memory {
            inputs: vec![UNBOUND; program.inputs.len()],
            outputs: vec![UNBOUND; program.outputs.len()],
            reads: Vec::with_capacity(program.reads.len()),
            writes: Vec::with_capacity(program.writes.len()),
            token: Arc::new(()),
            pages,
            program,
        };
        for i in 0..memory.program.reads.len() {
            memory.reads.push(memory.operand(i));
        }
        for i in 0..memory.program.writes.len() {
            memory.writes.push(memory.operand_mut(i));
        }
        Ok(memory)
    }

    /// The address of a span; of an unbound buffer, an address of no bytes.
    fn address(&self, span: Span) -> (*mut u8, usize) {
        let inside = |base: *mut u8, have: usize| {
            if span.bytes == 0 {
                return (UNBOUND.at, 0);
            }
            assert!(span.offset + span.bytes <= have, "{span:?} lies inside its home of {have} bytes");
            // SAFETY: `offset` is inside the allocation that begins at `base` and has `have` bytes, by the assertion.
            (unsafe { base.add(span.offset) }, span.bytes)
        };
        let external = |bound: Bound| if bound.bytes == 0 { (UNBOUND.at, 0) } else { inside(bound.at, bound.bytes) };
        match span.home {
            Home::Arena => inside(self.pages.base, self.pages.bytes),
            Home::Input(i) => external(self.inputs[i as usize]),
            Home::Output(i) => external(self.outputs[i as usize]),
            Home::Constant(i) => {
                let bytes = self.program.constants[i as usize].bytes();
                inside(bytes.as_ptr().cast_mut(), bytes.len())
            }
        }
    }

    fn operand(&self, index: usize) -> Operand {
        match self.program.reads[index] {
            None => Operand::ABSENT,
            Some(span) => {
                let (at, bytes) = self.address(span);
                Operand::new(at, bytes)
            }
        }
    }

    fn operand_mut(&self, index: usize) -> OperandMut {
        let (at, bytes) = self.address(self.program.writes[index]);
        OperandMut::new(at, bytes)
    }

    /// Begins to bind the caller's buffers; they are forgotten when the binding is dropped.
    pub fn bind<'a>(&'a mut self) -> Binding<'a> {
        Binding { memory: self, life: PhantomData }
    }

    /// Points the operands that lie in the caller's buffers to them.
    fn patch(&mut self) {
        for i in 0..self.program.external_reads.len() {
            let read = self.program.external_reads[i] as usize;
            self.reads[read] = self.operand(read);
        }
        for i in 0..self.program.external_writes.len() {
            let write = self.program.external_writes[i] as usize;
            self.writes[write] = self.operand_mut(write);
        }
    }

    /// Runs a kernel on its operands.
    pub fn launch(&mut self, kernel: &dyn Kernel, launch: &Launch) {
        let reads = &self.reads[launch.reads.0 as usize..launch.reads.1 as usize];
        let writes = &self.writes[launch.writes.0 as usize..launch.writes.1 as usize];
        let scratch = self.writes[launch.writes.1 as usize];
        // SAFETY: every operand points into live memory of its length (`address`), the spans of one step are disjoint where one is
        // written (`check`), the caller's buffers are disjoint by being borrowed, and `&mut self` keeps all others away.
        kernel.run(&mut unsafe { Operands::new(reads, writes, scratch) });
    }

    /// The bytes of a span. Panics for a buffer that is not bound.
    pub fn bytes(&self, span: Span) -> &[u8] {
        let (at, bytes) = self.address(span);
        assert_eq!(bytes, span.bytes, "{span:?} is bound");
        // SAFETY: live and of that length by `address`; `&self` keeps writers away.
        unsafe { std::slice::from_raw_parts(at, bytes) }
    }

    /// The bytes of a span, to write. Panics for a constant, an input, or a buffer that is not bound.
    pub fn bytes_mut(&mut self, span: Span) -> &mut [u8] {
        assert!(matches!(span.home, Home::Arena | Home::Output(_)), "{span:?} may be written");
        let (at, bytes) = self.address(span);
        assert_eq!(bytes, span.bytes, "{span:?} is bound");
        // SAFETY: live and of that length by `address`, writable by the assertion; `&mut self` keeps all others away.
        unsafe { std::slice::from_raw_parts_mut(at, bytes) }
    }

    /// Copies one span to another of the same length; they may overlap.
    pub fn copy(&mut self, from: Span, to: Span) {
        assert!(matches!(to.home, Home::Arena | Home::Output(_)), "{to:?} may be written");
        let ((source, len), (target, room)) = (self.address(from), self.address(to));
        assert_eq!((len, room), (from.bytes, from.bytes), "{from:?} fills {to:?}");
        // SAFETY: both live and of that length by `address`; `copy` allows overlap.
        unsafe { std::ptr::copy(source, target, len) };
    }

    /// The bytes of a span as shared bytes: of the arena without copying, of all else as a copy.
    ///
    /// What is lent must be gone before the arena is written again; [`nothing_lent`](Self::nothing_lent) tells.
    pub fn lend(&self, span: Span) -> Bytes {
        match span.home {
            Home::Arena if span.bytes > 0 => {
                let (at, bytes) = self.address(span);
                Bytes::from_owner(Lent { at, bytes, _pages: self.pages.clone(), _token: self.token.clone() })
            }
            Home::Constant(i) => self.program.constants[i as usize].shared_bytes().slice(span.offset..span.offset + span.bytes),
            _ => Bytes::copy_from_slice(self.bytes(span)),
        }
    }

    /// Whether all that was lent has been given back.
    pub fn nothing_lent(&self) -> bool {
        Arc::strong_count(&self.token) == 1
    }
}

/// A part of the arena that is lent out.
struct Lent {
    at: *const u8,
    bytes: usize,
    _pages: Arc<Pages>,
    _token: Arc<()>,
}

// SAFETY: plain memory, kept alive by `_pages`; not written while lent (see `Memory::lend`).
unsafe impl Send for Lent {}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: inside `_pages`, by `Memory::address`; not written while lent.
        unsafe { std::slice::from_raw_parts(self.at, self.bytes) }
    }
}

impl Pages {
    fn new(bytes: usize) -> io::Result<Self> {
        if bytes == 0 {
            return Ok(Pages { base: UNBOUND.at, bytes: 0, _map: None });
        }
        let mut map = MmapMut::map_anon(bytes)?;
        #[cfg(target_os = "linux")]
        if bytes >= HUGE_BYTES {
            // Where the kernel does not offer them, small pages serve as well.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(Pages { base: map.as_mut_ptr(), bytes, _map: Some(map) })
    }
}

/// Memory with the caller's buffers bound to it.
pub(super) struct Binding<'a> {
    memory: &'a mut Memory,
    life: PhantomData<&'a mut [u8]>,
}

impl<'a> Binding<'a> {
    /// Binds the buffer of an input.
    pub fn input(&mut self, index: usize, bytes: &'a [u8]) {
        self.memory.inputs[index] = Bound { at: bytes.as_ptr().cast_mut(), bytes: bytes.len() };
    }

    /// Binds the buffer of an output.
    pub fn output(&mut self, index: usize, bytes: &'a mut [u8]) {
        self.memory.outputs[index] = Bound { at: bytes.as_mut_ptr(), bytes: bytes.len() };
    }

    /// The memory, with every operand in its place.
    pub fn memory(&mut self) -> &mut Memory {
        self.memory.patch();
        self.memory
    }
}

impl Drop for Binding<'_> {
    fn drop(&mut self) {
        self.memory.inputs.fill(UNBOUND);
        self.memory.outputs.fill(UNBOUND);
        self.memory.patch();
    }
}

/// Whether two spans share a byte.
fn overlap(a: Span, b: Span) -> bool {
    a.home == b.home && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes
}

/// Panics when a span leaves its home or a step writes what it also reads or writes elsewhere.
fn check(program: &Program) {
    let inside = |span: &Span| match span.home {
        Home::Arena => span.offset.is_multiple_of(ALIGN) && span.offset + span.bytes <= program.arena_bytes,
        Home::Constant(i) => span.offset + span.bytes <= program.constants[i as usize].bytes().len(),
        Home::Input(i) => (i as usize) < program.inputs.len(),
        Home::Output(i) => (i as usize) < program.outputs.len(),
    };
    assert!(program.reads.iter().flatten().all(inside), "reads lie inside their homes");
    assert!(program.writes.iter().all(inside), "writes lie inside their homes");
    for launch in program.launches() {
        let reads = &program.reads[launch.reads.0 as usize..launch.reads.1 as usize];
        // The scratch space stands behind the outputs.
        let writes = &program.writes[launch.writes.0 as usize..launch.writes.1 as usize + 1];
        for (i, write) in writes.iter().enumerate() {
            assert!(matches!(write.home, Home::Arena | Home::Output(_)), "{write:?} may be written");
            let clash = reads.iter().flatten().chain(&writes[..i]).find(|other| overlap(*write, **other));
            assert!(clash.is_none(), "{write:?} is written and {clash:?} used by one step");
        }
    }
}

/// Gives the pages of file-backed read-only memory back to the page cache: they are read again when touched. Memory of any other
/// kind is left alone.
pub(super) struct Releaser {
    /// Address ranges that are mapped from a file, read only.
    mapped: Vec<(usize, usize)>,
}

impl Releaser {
    /// Looks up what is mapped now.
    pub fn new() -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        Releaser { mapped: maps.lines().filter_map(read_only_file).collect() }
    }

    /// Releases the whole pages inside `bytes`, when they are mapped from a file.
    pub fn release(&self, bytes: &[u8]) {
        self.advise(bytes, libc::MADV_DONTNEED);
    }

    /// Says that a mapped table is looked up here and there: the system reads the page that is asked for and no others around it. 200
    /// first lookups in a file of 130 MB took 14 ms so instead of 236, and left 0.8 MB resident instead of 12.
    pub fn look_up(&self, bytes: &[u8]) {
        self.advise(bytes, libc::MADV_RANDOM);
    }

    fn advise(&self, bytes: &[u8], advice: libc::c_int) {
        /// Bytes; a multiple of every page size in use here is not needed, for `madvise` rounds the end up itself.
        const PAGE: usize = 4096;
        let start = (bytes.as_ptr() as usize).next_multiple_of(PAGE);
        let end = (bytes.as_ptr() as usize + bytes.len()) / PAGE * PAGE;
        if start < end && self.mapped.iter().any(|&(from, to)| from <= start && end <= to) {
            let at = bytes.as_ptr().wrapping_add(start - bytes.as_ptr() as usize).cast_mut();
            // SAFETY: the range is mapped from a file and read only, so that neither advice changes a byte that can be read. A failure
            // leaves everything as it was.
            let _ = unsafe { libc::madvise(at.cast(), end - start, advice) };
        }
    }
}

/// Releases the pages of a graph's constants that are mapped from a file: who has read all of them, to hash or to write them, does not
/// read them again soon.
pub fn release_constants(graph: &Graph) {
    let releaser = Releaser::new();
    for constant in graph.values.iter().filter_map(|value| value.constant.as_ref()) {
        if constant.texts().is_none() {
            releaser.release(constant.bytes());
        }
    }
}

/// The range of a line of `/proc/self/maps` that is mapped from a file and cannot be written.
fn read_only_file(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let inode = fields.nth(2)?;
    if permissions.as_bytes().get(1) == Some(&b'w') || inode == "0" {
        return None;
    }
    Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
}

/// Bytes that are aligned for every element type, to be lent to a tensor.
pub(super) struct Words(pub Vec<u64>);

impl AsRef<[u8]> for Words {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// Whether the mapping that begins at `start` has the flag `rr`: it is read here and there.
    fn read_at_random(start: usize) -> bool {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let own = maps.lines().skip_while(|line| !line.starts_with(&format!("{start:x}-")));
        let flags = own.into_iter().find_map(|line| line.strip_prefix("VmFlags:")).expect("the mapping is listed");
        flags.split_ascii_whitespace().any(|flag| flag == "rr")
    }

    #[test]
    fn tables_of_a_mapped_file_are_looked_up_and_nothing_else() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(16 << 12).unwrap();
        // SAFETY: nobody else knows of the file.
        let map = unsafe { memmap2::Mmap::map(file.as_file()) }.unwrap();
        let (base, table) = (map.as_ptr() as usize, &map[(4 << 12) - 100..(8 << 12) + 100]);
        let releaser = Releaser::new();
        releaser.look_up(&vec![0; 16 << 12]);
        assert!(!read_at_random(base));
        releaser.look_up(table);
        assert!(read_at_random(base + (4 << 12)) && !read_at_random(base) && !read_at_random(base + (8 << 12)));
    }
}
