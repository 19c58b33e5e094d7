//! Memory that a runtime and a worker share for one plan: its inputs, its outputs, and room for outputs whose size only a run tells.
//!
//! A segment is a sealed file in memory, made by the runtime, handed over as a descriptor and mapped by both, after which neither holds it
//! open: nobody can make it shorter or longer, so that no access can fault. Tensors are written into it once, where requests are put
//! together to a batch; the worker computes on them where they lie and leaves the outputs beside them. Whose turn it is, the asks that name
//! its slot say: between one and its last answer the worker's, else the runtime's.

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::ops::Range;

/// Each tensor begins at a multiple of this: a cache line, and the alignment of every element.
const ALIGN: usize = 64;

/// What a sealed segment cannot suffer any more.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// The bytes of each input and output, in the plan's order. An output without a fixed size has 0 here and goes into the room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    pub inputs: Vec<u64>,
    pub outputs: Vec<u64>,
    /// For outputs without a fixed size, one after the other.
    pub room: u64,
}

/// Where everything lies.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    inputs: Vec<Range<usize>>,
    outputs: Vec<Range<usize>>,
    room: Range<usize>,
}

impl Layout {
    /// `None` when the sizes make no sense on this machine.
    fn new(sizes: &Sizes) -> Option<Layout> {
        let mut end = 0usize;
        let mut place = |bytes: &u64| {
            let begin = end.checked_next_multiple_of(ALIGN)?;
            end = begin.checked_add(usize::try_from(*bytes).ok()?)?;
            Some(begin..end)
        };
        let inputs = sizes.inputs.iter().map(&mut place).collect::<Option<_>>()?;
        let outputs = sizes.outputs.iter().map(&mut place).collect::<Option<_>>()?;
        let room = place(&sizes.room)?;
        isize::try_from(end.checked_next_multiple_of(ALIGN)?).ok()?;
        Some(Layout { inputs, outputs, room })
    }

    /// At least one byte: nothing cannot be mapped.
    fn bytes(&self) -> usize {
        self.room.end.max(1)
    }
}

/// See the module.
pub struct Segment {
    map: MmapRaw,
    layout: Layout,
}

/// A segment's parts while its holder has the turn.
pub struct Parts<'a> {
    pub inputs: Vec<&'a mut [u8]>,
    pub outputs: Vec<&'a mut [u8]>,
    pub room: &'a mut [u8],
}

impl Segment {
    /// New, of zeros, and the file by which another process maps it.
    ///
    /// # Errors
    /// When the system has no memory for it.
    pub fn create(sizes: &Sizes) -> io::Result<(Segment, File)> {
        let layout = layout(sizes)?;
        let file = File::from(memfd_create("tunewright-segment", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
        file.set_len(layout.bytes() as u64)?;
        fcntl_add_seals(&file, SEALS)?;
        let map = MmapOptions::new().len(layout.bytes()).map_raw(&file)?;
        Ok((Segment { map, layout }, file))
    }

    /// One that another process made.
    ///
    /// # Errors
    /// When it is not sealed, or has another size than these sizes make.
    pub fn open(file: &File, sizes: &Sizes) -> io::Result<Segment> {
        let layout = layout(sizes)?;
        if !fcntl_get_seals(file)?.contains(SEALS) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the segment is not sealed"));
        }
        let (have, wanted) = (file.metadata()?.len(), layout.bytes() as u64);
        if have != wanted {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the segment has {have} bytes, wanted are {wanted}")));
        }
        let map = MmapOptions::new().len(layout.bytes()).map_raw(file)?;
        Ok(Segment { map, layout })
    }

    /// All of it. To be called only while the turn is this process's.
    pub fn parts(&mut self) -> Parts<'_> {
        let base = self.map.as_mut_ptr();
        let part = |range: &Range<usize>| {
            // SAFETY: the range lies within the map (`Layout::bytes` is beyond every range, and the map has so many bytes, which sealing
            // keeps there), ranges do not overlap, bytes have no invalid values, and the borrow of `self` ends with the slices. The other
            // process touches the segment only between an ask that names its slot and the last answer to that, as the module says; a worker's plan reads each byte
            // through kernels that do not index by what they read twice.
            unsafe { std::slice::from_raw_parts_mut(base.add(range.start), range.len()) }
        };
        Parts {
            inputs: self.layout.inputs.iter().map(part).collect(),
            outputs: self.layout.outputs.iter().map(part).collect(),
            room: part(&self.layout.room),
        }
    }
}

fn layout(sizes: &Sizes) -> io::Result<Layout> {
    Layout::new(sizes)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a segment of more bytes than there are addresses"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_writes_the_other_reads() {
        let sizes = Sizes { inputs: vec![3, 65], outputs: vec![0, 8], room: 5 };
        let (mut ours, file) = Segment::create(&sizes).unwrap();
        let mut theirs = Segment::open(&file, &sizes).unwrap();
        drop(file);
        ours.parts().inputs[1].fill(7);
        assert!(theirs.parts().inputs[1].iter().all(|&byte| byte == 7));
        theirs.parts().room.copy_from_slice(b"later");
        let parts = ours.parts();
        assert_eq!((&*parts.room, parts.inputs[0].len(), parts.outputs[0].len()), (&b"later"[..], 3, 0));
        assert!(parts.outputs.iter().chain(&parts.inputs).all(|part| part.as_ptr().addr() % ALIGN == 0));
    }

    #[test]
    fn what_is_no_segment_of_these_sizes_is_refused() {
        let sizes = Sizes { inputs: vec![100], ..Sizes::default() };
        let (_segment, file) = Segment::create(&sizes).unwrap();
        let larger = Sizes { inputs: vec![100, 1], ..Sizes::default() };
        assert!(Segment::open(&file, &larger).is_err());
        assert!(file.set_len(1).is_err(), "it is sealed");
        let plain = tempfile::NamedTempFile::new().unwrap();
        plain.as_file().set_len(100).unwrap();
        assert!(Segment::open(plain.as_file(), &sizes).is_err(), "not sealed");
        assert!(Segment::create(&Sizes { inputs: vec![u64::MAX], ..Sizes::default() }).is_err());
        assert!(Segment::create(&Sizes::default()).is_ok(), "nothing to share is fine");
    }
}
