//! What a device reports apart from the answers to questions: wgpu tells its errors and its end to callbacks, on threads of its own.

use crate::gpu::GpuError;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread, ThreadId};
use std::time::Duration;

/// How often somebody who waits looks whether the device was lost meanwhile: then nobody else wakes him.
const TICK: Duration = Duration::from_millis(50);

/// Faults that are kept: those that follow the first of a burst say little.
const KEPT: usize = 64;

/// Written by the callbacks, read by every question.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    lost: OnceLock<String>,
    reported: Mutex<Reported>,
}

/// A callback does not know whose launch it speaks of, so every thread is told: one too many rather than one too few.
#[derive(Debug, Default)]
struct Reported {
    count: u64,
    /// The last ones, by number.
    faults: VecDeque<(u64, GpuError)>,
    /// How many a thread has been told of.
    told: HashMap<ThreadId, u64>,
}

impl Faults {
    fn reported(&self) -> MutexGuard<'_, Reported> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device is gone, for good.
    pub fn lose(&self, why: String) {
        // The first reason stands: those that follow come of it.
        let _ = self.lost.set(why);
    }

    /// Something failed that nobody waits for.
    pub fn report(&self, fault: GpuError) {
        let mut reported = self.reported();
        let number = reported.count;
        reported.count += 1;
        reported.faults.push_back((number, fault));
        if reported.faults.len() > KEPT {
            reported.faults.pop_front();
        }
    }

    /// What the device died of.
    pub fn lost(&self) -> Option<GpuError> {
        self.lost.get().map(|why| GpuError::Lost(why.clone()))
    }

    /// From here on this thread is told of faults, if it was not before.
    pub fn listen(&self) {
        let mut reported = self.reported();
        let count = reported.count;
        reported.told.entry(thread::current().id()).or_insert(count);
    }

    /// The loss, every time; else the first fault that this thread has not been told of, and those after it are done with.
    pub fn take(&self) -> Option<GpuError> {
        let mut reported = self.reported();
        let count = reported.count;
        let from = reported.told.insert(thread::current().id(), count).unwrap_or(count);
        let new = reported.faults.iter().find(|(number, _)| *number >= from).map(|(_, fault)| fault.clone());
        self.lost().or(new)
    }

    /// The result of a future, on this thread.
    ///
    /// # Errors
    /// [`GpuError::Lost`] as soon as the device is lost, whether or not the future ends.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> Result<T, GpuError> {
        struct Unpark(Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let (mut future, mut context) = (std::pin::pin!(future), Context::from_waker(&waker));
        loop {
            match (future.as_mut().poll(&mut context), self.lost()) {
                (_, Some(lost)) => return Err(lost),
                (Poll::Ready(result), None) => return Ok(result),
                (Poll::Pending, None) => thread::park_timeout(TICK),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_told_once_to_each_thread_and_a_loss_always() {
        let faults = Faults::default();
        faults.report(GpuError::OutOfMemory("before anybody listened".to_owned()));
        faults.listen();
        assert_eq!(faults.take(), None);
        let fault = |text: &str| GpuError::Launch(text.to_owned());
        faults.report(fault("first"));
        faults.report(fault("second"));
        thread::scope(|scope| {
            let late = scope.spawn(|| (faults.listen(), faults.take()).1);
            assert_eq!(late.join().unwrap(), None);
            let other = scope.spawn(|| {
                faults.listen();
                faults.report(fault("third"));
                (faults.take(), faults.take())
            });
            assert_eq!(other.join().unwrap(), (Some(fault("third")), None));
        });
        assert_eq!((faults.take(), faults.take()), (Some(fault("first")), None));
        faults.lose("unplugged".to_owned());
        faults.lose("again".to_owned());
        faults.report(fault("fourth"));
        let lost = Some(GpuError::Lost("unplugged".to_owned()));
        assert_eq!((faults.take(), faults.take()), (lost.clone(), lost));
    }

    #[test]
    fn of_many_faults_the_last_are_kept() {
        let faults = Faults::default();
        faults.listen();
        (0..=KEPT).for_each(|number| faults.report(GpuError::Launch(number.to_string())));
        assert_eq!(faults.take(), Some(GpuError::Launch("1".to_owned())));
    }

    #[test]
    fn who_waits_for_what_never_ends_is_told_of_the_loss() {
        let faults = Faults::default();
        assert_eq!(faults.wait(std::future::ready(7)), Ok(7));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| faults.wait(std::future::pending::<()>()));
            faults.lose("unplugged".to_owned());
            assert_eq!(waiting.join().unwrap(), Err(GpuError::Lost("unplugged".to_owned())));
        });
    }
}
