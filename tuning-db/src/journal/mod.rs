//! The journal: the truth. Append-only segments of checked frames; what the index holds can be made again from here.
//!
//! [`segment`] is the format and its reading; [`read`] puts segments together and says what is missing; [`append`] writes.
//!
//! Invariants:
//! - A frame's number (`seq`) grows by one over the whole journal, whoever wrote it; a segment says with which it begins.
//! - When two segments hold one number, the later segment counts: that is how frames are written again after a failed sync, and how
//!   a compacted segment takes the place of those it was made of.
//! - Nothing is overwritten but the zeros that a segment was grown by.

pub mod append;
pub mod read;
pub mod segment;

pub use append::{Appender, Position};
pub use read::{Gap, JournalReport, read_journal};
pub use segment::{Frame, FrameRef, SegmentHeader};
