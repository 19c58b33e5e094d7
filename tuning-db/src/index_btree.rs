//! An index in memory: for the simulator, for tests, and for readers without a snapshot.

use crate::index::{Changes, Flow, Index, IndexError};
use std::collections::BTreeMap;
use std::ops::Bound;

/// A sorted map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BTreeIndex(pub BTreeMap<Vec<u8>, Vec<u8>>);

impl Index for BTreeIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], f: &mut dyn FnMut(&[u8], &[u8]) -> Flow) -> Result<(), IndexError> {
        if !to.is_empty() && from >= to {
            return Ok(());
        }
        let upper = if to.is_empty() { Bound::Unbounded } else { Bound::Excluded(to) };
        for (key, value) in self.0.range::<[u8], _>((Bound::Included(from), upper)) {
            if f(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn apply(&mut self, changes: &Changes) -> Result<(), IndexError> {
        for (key, value) in &changes.0 {
            match value {
                Some(value) => self.0.insert(key.clone(), value.clone()),
                None => self.0.remove(key),
            };
        }
        Ok(())
    }

    fn hint_flush(&mut self) -> Result<(), IndexError> {
        Ok(())
    }
}
