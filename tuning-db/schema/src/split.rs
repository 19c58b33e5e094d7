//! How a batch is computed: as a whole, or in equal parts.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The parts of a batch: `parts` equal ones, `lanes` of them at once, each lane on an equal part of the granted units.
///
/// Small parts keep activations in the caches near the cores; lanes of one unit each need no barrier between operators.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Split {
    parts: u32,
    lanes: u32,
}

impl Default for Split {
    fn default() -> Self {
        Split::WHOLE
    }
}

impl Split {
    /// The batch at once, on all units.
    pub const WHOLE: Split = Split { parts: 1, lanes: 1 };

    /// `None` unless both are at least 1 and the lanes divide the parts.
    pub fn new(parts: u32, lanes: u32) -> Option<Self> {
        (parts > 0 && lanes > 0 && parts.is_multiple_of(lanes)).then_some(Split { parts, lanes })
    }

    pub fn parts(self) -> u32 {
        self.parts
    }

    pub fn lanes(self) -> u32 {
        self.lanes
    }

    /// Parts that one lane computes, one after the other.
    pub fn rounds(self) -> u32 {
        self.parts / self.lanes
    }

    /// Whether nothing is split.
    pub fn is_whole(self) -> bool {
        self == Split::WHOLE
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.parts, self.lanes) {
            (1, _) => f.write_str("whole"),
            (parts, 1) => write!(f, "{parts} parts"),
            (parts, lanes) => write!(f, "{parts} parts, {lanes} at once"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_divide_the_parts() {
        assert_eq!(Split::new(16, 2).map(Split::rounds), Some(8));
        assert_eq!(Split::new(1, 1), Some(Split::WHOLE));
        for (parts, lanes) in [(0, 1), (1, 0), (1, 2), (6, 4)] {
            assert_eq!(Split::new(parts, lanes), None);
        }
        assert_eq!(Split::new(16, 2).unwrap().to_string(), "16 parts, 2 at once");
    }
}
