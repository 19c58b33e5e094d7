//! Lanes: disjoint core sets of a device, each with a pool of threads bound to them.
//!
//! A lane belongs to one request at a time. Requests that find their cores in use wait until some are given back.

use super::RuntimeError;
use crate::device::{Grant, Machine};
use crate::execute;
use rayon::ThreadPool;
use schema::Share;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// The lanes of one device.
pub(super) struct Lanes {
    machine: Machine,
    state: Mutex<State>,
    given_back: Condvar,
}

#[derive(Default)]
struct State {
    /// Cores in use.
    busy: BTreeSet<usize>,
    /// Pools that were made, by their cores.
    pools: BTreeMap<Vec<usize>, Arc<ThreadPool>>,
}

/// Cores in use by one request; given back when dropped.
pub(super) struct Lane<'a> {
    lanes: &'a Lanes,
    pub grant: Grant,
    pub pool: Arc<ThreadPool>,
}

impl Lanes {
    pub fn new(machine: Machine) -> Self {
        Lanes { machine, state: Mutex::default(), given_back: Condvar::new() }
    }

    /// Whether the device, idle, can give a share.
    pub fn can_give(&self, share: Share) -> bool {
        self.machine.slots(share) > 0
    }

    /// Asks `choose` which share to take, telling it what is free, until it names one; takes that.
    ///
    /// # Errors
    /// [`RuntimeError::Share`] when nothing can be chosen on an idle device, [`RuntimeError::Threads`].
    pub fn wait<T>(
        &self,
        mut choose: impl FnMut(&mut dyn FnMut(Share) -> bool) -> Option<(Share, T)>,
    ) -> Result<(Lane<'_>, T), RuntimeError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let busy = &state.busy;
            if let Some((share, chosen)) = choose(&mut |share| self.free(busy, share).is_some()) {
                let grant = match self.free(busy, share) {
                    Some(grant) => grant,
                    None => self.machine.grant(share)?,
                };
                let pool = match state.pools.get(&grant.cores) {
                    Some(pool) => pool.clone(),
                    None => {
                        let pool = execute::pool_on(&grant.cores)?;
                        state.pools.insert(grant.cores.clone(), pool.clone());
                        pool
                    }
                };
                state.busy.extend(&grant.cores);
                return Ok((Lane { lanes: self, grant, pool }, chosen));
            }
            if state.busy.is_empty() {
                // All is free and still nothing fits: waiting would never end.
                return Err(RuntimeError::Share(crate::device::GrantError::Share {
                    device: self.machine.device.name.0.clone(),
                    share: Share::WHOLE,
                    can: self.machine.shares_pct().iter().map(f64::to_string).collect(),
                }));
            }
            state = self.given_back.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The first part of that size none of whose cores is in use.
    fn free(&self, busy: &BTreeSet<usize>, share: Share) -> Option<Grant> {
        let slots = (0..self.machine.slots(share)).filter_map(|slot| self.machine.grant_slot(share, slot).ok());
        slots.into_iter().find(|grant| grant.cores.iter().all(|core| !busy.contains(core)))
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        let mut state = self.lanes.state.lock().unwrap_or_else(PoisonError::into_inner);
        for core in &self.grant.cores {
            state.busy.remove(core);
        }
        self.lanes.given_back.notify_all();
    }
}
