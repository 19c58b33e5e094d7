//! The requests of one model that wait, in the order in which they are to be taken.
//!
//! The order is a fixed number per request, its due time: `min(deadline, arrival + patience)`, and one patience later for each
//! step of priority below the highest. Nothing ages and nothing is sorted again, and yet nothing starves: a request is overtaken only
//! by those that arrive within `PRIORITIES` patiences after it.

use super::Nanos;
use schema::Batch;
use std::collections::VecDeque;

/// A request that was accepted, by the order of acceptance.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// How urgent a request is beside others: 0 is the least, [`Priority::HIGHEST`] the most.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(u8);

/// The number of priorities.
pub const PRIORITIES: u32 = 4;

impl Priority {
    pub const LOWEST: Priority = Priority(0);
    pub const HIGHEST: Priority = Priority(PRIORITIES as u8 - 1);

    /// `None` beyond the highest.
    pub fn new(level: u8) -> Option<Self> {
        (level <= Self::HIGHEST.0).then_some(Priority(level))
    }
}

impl Default for Priority {
    /// The one below the highest, so that there is something above what nobody thought about.
    fn default() -> Self {
        Priority(Self::HIGHEST.0 - 1)
    }
}

/// An accepted request.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub id: RequestId,
    pub rows: Batch,
    pub arrived: Nanos,
    /// [`Nanos::NEVER`] when it has none.
    pub deadline: Nanos,
    /// What the queue is ordered by.
    pub due: Nanos,
    /// When it was admitted for; [`Nanos::NEVER`] when nothing was predicted.
    pub predicted: Nanos,
    /// It was admitted though others of its model were late lately, to see whether they still are.
    pub probe: bool,
}

impl Waiting {
    /// When a request is due: see the module.
    pub(super) fn due(arrived: Nanos, deadline: Nanos, priority: Priority, patience: Nanos) -> Nanos {
        deadline.min(arrived + patience) + patience * (u32::from(Priority::HIGHEST.0) - u32::from(priority.0))
    }
}

/// The waiting requests of one model. Its room is made in advance.
#[derive(Debug)]
pub struct Queue {
    waiting: VecDeque<Waiting>,
    rows: u64,
}

impl Queue {
    pub(super) fn new(room: usize) -> Queue {
        Queue { waiting: VecDeque::with_capacity(room), rows: 0 }
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Rows of all of them; what is more than `u32::MAX` counts as that.
    pub fn rows(&self) -> u32 {
        u32::try_from(self.rows).unwrap_or(u32::MAX)
    }

    /// The most urgent.
    pub fn front(&self) -> Option<&Waiting> {
        self.waiting.front()
    }

    /// From the most urgent on.
    pub fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.iter()
    }

    /// How many from the front fit into `batch`, and their rows. A first request larger than the batch goes alone.
    pub fn prefix(&self, batch: Batch) -> Prefix {
        let mut prefix = Prefix { requests: 0, rows: 0 };
        for request in &self.waiting {
            let rows = prefix.rows.saturating_add(request.rows.rows());
            if rows > batch.rows() && prefix.requests > 0 {
                break;
            }
            prefix = Prefix { requests: prefix.requests + 1, rows };
            if rows >= batch.rows() {
                break;
            }
        }
        prefix
    }

    pub(super) fn insert(&mut self, request: Waiting) {
        let key = |request: &Waiting| (request.due, request.id);
        // Nearly all arrive in order.
        let at = match self.waiting.back() {
            Some(last) if key(last) > key(&request) => self.waiting.partition_point(|other| key(other) < key(&request)),
            _ => self.waiting.len(),
        };
        self.waiting.insert(at, request);
        self.rows += u64::from(request.rows.rows());
    }

    pub(super) fn take(&mut self, requests: usize, into: &mut Vec<Waiting>) {
        for request in self.waiting.drain(..requests) {
            self.rows -= u64::from(request.rows.rows());
            into.push(request);
        }
    }

    pub(super) fn remove(&mut self, id: RequestId) -> Option<Waiting> {
        let at = self.waiting.iter().position(|request| request.id == id)?;
        let request = self.waiting.remove(at)?;
        self.rows -= u64::from(request.rows.rows());
        Some(request)
    }
}

/// Requests from the front of a queue.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Prefix {
    pub requests: usize,
    pub rows: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Nanos = Nanos(100);

    fn request(id: u64, arrived: u64, deadline: Option<u64>, priority: Priority) -> Waiting {
        let (arrived, deadline) = (Nanos(arrived), deadline.map_or(Nanos::NEVER, Nanos));
        let due = Waiting::due(arrived, deadline, priority, PATIENCE);
        Waiting {
            id: RequestId(id),
            rows: Batch::new(id as u32 % 3 + 1).unwrap(),
            arrived,
            deadline,
            due,
            predicted: Nanos::NEVER,
            probe: false,
        }
    }

    fn order(queue: &Queue) -> Vec<u64> {
        queue.iter().map(|request| request.id.0).collect()
    }

    #[test]
    fn the_earliest_deadline_goes_first_and_a_priority_before_it() {
        let mut queue = Queue::new(8);
        let usual = Priority::default();
        queue.insert(request(0, 0, None, usual));
        queue.insert(request(1, 1, Some(50), usual));
        queue.insert(request(2, 2, Some(30), usual));
        queue.insert(request(3, 3, None, Priority::HIGHEST));
        queue.insert(request(4, 4, Some(9), Priority::LOWEST));
        assert_eq!(order(&queue), [3, 2, 1, 0, 4]);
        assert_eq!(queue.rows(), 1 + 2 + 3 + 1 + 2);
        assert_eq!(queue.remove(RequestId(1)).map(|request| request.rows.rows()), Some(2));
        assert_eq!((queue.rows(), queue.remove(RequestId(1))), (7, None));
    }

    #[test]
    fn whatever_arrives_late_enough_waits_behind() {
        let first = request(0, 0, None, Priority::LOWEST);
        let late = PATIENCE.0 * u64::from(PRIORITIES) + 1;
        let mut queue = Queue::new(2);
        queue.insert(request(1, late, Some(late), Priority::HIGHEST));
        queue.insert(first);
        assert_eq!(order(&queue), [0, 1]);
    }

    #[test]
    fn a_prefix_fits_unless_it_is_one_large_request() {
        let mut queue = Queue::new(8);
        (0..5).for_each(|id| queue.insert(request(id, id, None, Priority::default()))); // rows 1 2 3 1 2
        let prefix = |batch| queue.prefix(Batch::new(batch).unwrap());
        assert_eq!(prefix(4), Prefix { requests: 2, rows: 3 });
        assert_eq!(prefix(6), Prefix { requests: 3, rows: 6 });
        assert_eq!(prefix(100), Prefix { requests: 5, rows: 9 });
        let mut taken = Vec::new();
        queue.take(1, &mut taken);
        assert_eq!(queue.prefix(Batch::ONE), Prefix { requests: 1, rows: 2 });
    }
}
