//! Offsets in the arena: values that never live at the same time share bytes.
//!
//! Pure: lifetimes and sizes in, offsets out. Blocks are placed in the order of their birth, each into the smallest hole that takes
//! it (best fit), or at the end of the arena; a hole is what all blocks above it that have died leave, merged with its neighbours.

use std::collections::BTreeMap;

/// Something that needs bytes for a while.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub bytes: usize,
    /// The step that first writes it.
    pub born: usize,
    /// The last step that uses it.
    pub dies: usize,
}

/// The offset of each block, all multiples of `align`, and the bytes of the arena; `None` when they do not fit a `usize`.
///
/// Cost: n log n, and a search of the holes for each block.
pub(super) fn place(blocks: &[Block], align: usize) -> Option<(Vec<usize>, usize)> {
    let mut order: Vec<usize> = (0..blocks.len()).filter(|&i| blocks[i].bytes > 0).collect();
    // Of the blocks born together the greatest first: it leaves the rest the small holes.
    order.sort_by_key(|&i| (blocks[i].born, std::cmp::Reverse(blocks[i].bytes), i));
    let mut offsets = vec![0; blocks.len()];
    let mut holes = Holes::default();
    let mut living: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for i in order {
        let block = blocks[i];
        while let Some(entry) = living.first_entry().filter(|entry| *entry.key() < block.born) {
            for dead in entry.remove() {
                holes.free(offsets[dead], blocks[dead].bytes.next_multiple_of(align));
            }
        }
        offsets[i] = holes.take(block.bytes.checked_next_multiple_of(align)?)?;
        living.entry(block.dies.max(block.born)).or_default().push(i);
    }
    Some((offsets, holes.end))
}

/// The bytes alive at the busiest step: no placement needs less.
#[cfg(test)]
fn least(blocks: &[Block], align: usize) -> usize {
    let alive = |step: usize| blocks.iter().filter(move |b| b.born <= step && step <= b.dies.max(b.born));
    let steps = blocks.iter().map(|block| block.born);
    steps.map(|step| alive(step).map(|b| b.bytes.next_multiple_of(align)).sum()).max().unwrap_or(0)
}

/// The free ranges of the arena.
#[derive(Default)]
struct Holes {
    /// Length by offset; neighbours are merged.
    free: BTreeMap<usize, usize>,
    /// The bytes of the arena so far.
    end: usize,
}

impl Holes {
    /// Takes `bytes` from the smallest hole that has them, or from the end; the last hole grows when it reaches the end.
    fn take(&mut self, bytes: usize) -> Option<usize> {
        let best = self.free.iter().filter(|&(_, &len)| len >= bytes).min_by_key(|&(&at, &len)| (len, at)).map(|(&at, _)| at);
        let at = match best {
            Some(at) => at,
            None => {
                let last = self.free.last_key_value().map(|(&at, &len)| (at, len));
                let at = last.filter(|(at, len)| at + len == self.end).map_or(self.end, |(at, _)| at);
                let end = at.checked_add(bytes)?;
                self.free.insert(at, bytes);
                self.end = end;
                at
            }
        };
        let len = self.free.remove(&at).unwrap_or(bytes);
        if len > bytes {
            self.free.insert(at + bytes, len - bytes);
        }
        Some(at)
    }

    /// Gives bytes back.
    fn free(&mut self, mut at: usize, mut bytes: usize) {
        if let Some((&before, &len)) = self.free.range(..at).next_back()
            && before + len == at
        {
            self.free.remove(&before);
            (at, bytes) = (before, len + bytes);
        }
        if let Some(len) = self.free.remove(&(at + bytes)) {
            bytes += len;
        }
        self.free.insert(at, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_chain_needs_two_neighbours() {
        let chain: Vec<Block> = (0..50).map(|i| Block { bytes: 1000, born: i, dies: i + 1 }).collect();
        assert_eq!(place(&chain, 64).unwrap().1, 2048);
    }

    #[test]
    fn too_much_is_told_and_not_wrapped() {
        let blocks = [Block { bytes: usize::MAX - 10, born: 0, dies: 1 }, Block { bytes: 100, born: 0, dies: 1 }];
        assert_eq!(place(&blocks, 64), None);
    }

    proptest! {
        #[test]
        fn what_lives_together_lies_apart(raw in proptest::collection::vec((0usize..5000, 0usize..40, 0usize..12), 0..60)) {
            let blocks: Vec<Block> = raw.iter().map(|&(bytes, born, life)| Block { bytes, born, dies: born + life }).collect();
            let (offsets, end) = place(&blocks, 64).unwrap();
            for (i, a) in blocks.iter().enumerate() {
                prop_assert!(offsets[i] % 64 == 0 && offsets[i] + a.bytes <= end);
                for (j, b) in blocks.iter().enumerate().skip(i + 1) {
                    let together = a.born <= b.dies && b.born <= a.dies;
                    let apart = offsets[i] + a.bytes <= offsets[j] || offsets[j] + b.bytes <= offsets[i];
                    prop_assert!(!together || apart || a.bytes == 0 || b.bytes == 0, "{i} and {j}");
                }
            }
            prop_assert!(end >= least(&blocks, 64) || blocks.is_empty());
        }
    }
}
