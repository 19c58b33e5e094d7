//! Lanes: disjoint core sets of a device, each with a pool of threads bound to them.
//!
//! A lane belongs to one request at a time. Requests that find their cores in use wait until some are given back. Of several free
//! lanes of one size a request gets the one its thread runs on: then the thread need not move, for it is one of the lane's.

use super::SessionError;
use crate::device::{Grant, GrantError, Machine};
use crate::execute::{self, Pool};
use schema::Share;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// The lanes of one device.
pub(super) struct Lanes {
    device: String,
    /// The disjoint parts of each size.
    parts: BTreeMap<Share, Vec<Part>>,
    /// Cores in use.
    busy: Mutex<Vec<usize>>,
    given_back: Condvar,
}

struct Part {
    grant: Grant,
    /// Made when it is first used.
    pool: Mutex<Option<Arc<Pool>>>,
}

/// Cores in use by one request; given back when dropped.
pub(super) struct Lane<'a> {
    lanes: &'a Lanes,
    pub grant: &'a Grant,
    pub pool: Arc<Pool>,
}

impl Lanes {
    pub fn new(machine: &Machine) -> Self {
        let part = |grant| Part { grant, pool: Mutex::default() };
        let parts = machine.shares_pct().into_iter().filter_map(|percent| {
            let share = Share::percent(percent).ok()?;
            machine.grant_here(share).ok()?;
            let grants = (0..machine.slots(share)).filter_map(|slot| machine.grant_slot(share, slot).ok());
            Some((share, grants.map(part).collect()))
        });
        let device = machine.device.name.0.clone();
        Lanes { device, parts: parts.collect(), busy: Mutex::default(), given_back: Condvar::new() }
    }

    /// Whether the device, idle, can give a share.
    pub fn can_give(&self, share: Share) -> bool {
        self.parts.contains_key(&share)
    }

    /// The error of a share it cannot give.
    pub fn cannot_give(&self, share: Share) -> SessionError {
        let can = self.parts.keys().map(|share| share.as_percent().to_string()).collect();
        SessionError::Share(GrantError::Share { device: self.device.clone(), share, can, why: None })
    }

    /// Asks `choose` which share to take, telling it what is free, until it names one; takes that.
    ///
    /// # Errors
    /// [`SessionError::Share`] when nothing can be chosen on an idle device, [`SessionError::Threads`].
    pub fn wait<T>(
        &self,
        mut choose: impl FnMut(&mut dyn FnMut(Share) -> bool) -> Option<(Share, T)>,
    ) -> Result<(Lane<'_>, T), SessionError> {
        let here = rustix::thread::sched_getcpu();
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some((share, chosen)) = choose(&mut |share| self.free(&busy, share, here).is_some())
                && let Some(part) = self.free(&busy, share, here)
            {
                let lane = Lane { lanes: self, grant: &part.grant, pool: part.pool()? };
                busy.extend(&part.grant.cores);
                return Ok((lane, chosen));
            }
            if busy.is_empty() {
                // All is free and still nothing fits: waiting would never end.
                return Err(self.cannot_give(Share::WHOLE));
            }
            busy = self.given_back.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A part of that size none of whose cores is in use: the one with the core `here`, else the first.
    fn free(&self, busy: &[usize], share: Share, here: usize) -> Option<&Part> {
        let free = |part: &&Part| part.grant.cores.iter().all(|core| !busy.contains(core));
        let parts = self.parts.get(&share)?;
        parts.iter().filter(|part| part.grant.cores.contains(&here)).find(free).or_else(|| parts.iter().find(free))
    }
}

impl Part {
    fn pool(&self) -> Result<Arc<Pool>, SessionError> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = &*pool {
            return Ok(pool.clone());
        }
        Ok(pool.insert(execute::pool_on(&self.grant.cores)?).clone())
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        let mut busy = self.lanes.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.retain(|core| !self.grant.cores.contains(core));
        self.lanes.given_back.notify_all();
    }
}
