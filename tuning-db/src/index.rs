//! The index: sorted keys with values, rebuildable, nothing durable.
//!
//! [`Index`] is what the store needs of one; [`Overlay`] lays changes over an index without touching it: that is how a batch of
//! frames sees its own effects, how a reader adds the journal's tail to a snapshot, and how a snapshot is taken while writing goes on.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use thiserror::Error;

/// Why an index gave no answer.
#[derive(Clone, Debug, Error)]
pub enum IndexError {
    /// What is stored is not what was written; nothing of this index is to be believed.
    #[error("{0}")]
    Corrupt(String),
    /// Written by a newer version.
    #[error("schema {found}, known is up to {known}")]
    Newer { found: u16, known: u16 },
    /// No room.
    #[error("disk full")]
    Full,
    /// Another fault of the system.
    #[error("{0}")]
    Io(String),
}

/// Whether a scan goes on.
pub type Flow = ControlFlow<()>;

/// Puts (`Some`) and deletions (`None`), one per key, applied together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(pub BTreeMap<Vec<u8>, Option<Vec<u8>>>);

/// Sorted keys with values.
pub trait Index: Send + Sync {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError>;
    /// Keys from `from` on and below `to` (empty: to the end), ascending, until `f` breaks.
    fn scan(&self, from: &[u8], to: &[u8], f: &mut dyn FnMut(&[u8], &[u8]) -> Flow) -> Result<(), IndexError>;
    /// All changes at once.
    fn apply(&mut self, changes: &Changes) -> Result<(), IndexError>;
    /// Asks for what was applied to reach the disk some time; promises nothing.
    fn hint_flush(&mut self) -> Result<(), IndexError>;
}

/// In the place of an index that could not be made again: no question has an answer.
pub(crate) struct Absent;

impl Absent {
    fn error() -> IndexError {
        IndexError::Io("the index could not be made again".into())
    }
}

impl Index for Absent {
    fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        Err(Absent::error())
    }

    fn scan(&self, _: &[u8], _: &[u8], _: &mut dyn FnMut(&[u8], &[u8]) -> Flow) -> Result<(), IndexError> {
        Err(Absent::error())
    }

    fn apply(&mut self, _: &Changes) -> Result<(), IndexError> {
        Err(Absent::error())
    }

    fn hint_flush(&mut self) -> Result<(), IndexError> {
        Err(Absent::error())
    }
}

/// An index with changes laid over it.
pub struct Overlay<'a> {
    base: &'a dyn Index,
    pub changes: Changes,
}

impl<'a> Overlay<'a> {
    /// Nothing changed yet.
    pub fn new(base: &'a dyn Index) -> Self {
        Overlay { base, changes: Changes::default() }
    }

    /// With these changes.
    pub fn with(base: &'a dyn Index, changes: Changes) -> Self {
        Overlay { base, changes }
    }

    /// Puts a value.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: Vec<u8>) {
        self.changes.0.insert(key.as_ref().to_vec(), Some(value));
    }

    /// Takes a key away.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) {
        self.changes.0.insert(key.as_ref().to_vec(), None);
    }
}

impl Index for Overlay<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        get_over(self.base, &self.changes, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], f: &mut dyn FnMut(&[u8], &[u8]) -> Flow) -> Result<(), IndexError> {
        scan_over(self.base, &self.changes, from, to, f)
    }

    fn apply(&mut self, changes: &Changes) -> Result<(), IndexError> {
        self.changes.0.extend(changes.0.iter().map(|(key, value)| (key.clone(), value.clone())));
        Ok(())
    }

    fn hint_flush(&mut self) -> Result<(), IndexError> {
        Ok(())
    }
}

/// [`Index::get`] of an index with changes laid over it.
pub fn get_over(base: &dyn Index, changes: &Changes, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
    match changes.0.get(key) {
        Some(changed) => Ok(changed.clone()),
        None => base.get(key),
    }
}

/// [`Index::scan`] of an index with changes laid over it.
pub fn scan_over(
    base: &dyn Index,
    changes: &Changes,
    from: &[u8],
    to: &[u8],
    f: &mut dyn FnMut(&[u8], &[u8]) -> Flow,
) -> Result<(), IndexError> {
    if !to.is_empty() && from >= to {
        return Ok(());
    }
    let upper = if to.is_empty() { Bound::Unbounded } else { Bound::Excluded(to) };
    let mut over = changes.0.range::<[u8], _>((Bound::Included(from), upper)).peekable();
    let mut stopped = false;
    base.scan(from, to, &mut |key, value| {
        while let Some((changed, new)) = over.next_if(|(changed, _)| changed.as_slice() <= key) {
            if let Some(new) = new
                && f(changed, new).is_break()
            {
                stopped = true;
                return Flow::Break(());
            }
            if changed.as_slice() == key {
                return Flow::Continue(());
            }
        }
        let flow = f(key, value);
        stopped = flow.is_break();
        flow
    })?;
    if !stopped {
        for (changed, new) in over {
            if let Some(new) = new
                && f(changed, new).is_break()
            {
                break;
            }
        }
    }
    Ok(())
}
