//! Where a hand gets its jobs: it waits for them and for what its worker says at once, so that there is a bell which can be waited for
//! with a socket (eventfd(2)).

use super::hand::Job;
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, TryRecvError};

/// The end that jobs are put into.
pub(super) struct Sender {
    /// `None` when it is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    bell: Bell,
}

/// The end of the hand.
pub(super) struct Mailbox {
    jobs: Receiver<Job>,
    bell: Bell,
}

/// Both ends.
///
/// # Errors
/// When the system has no descriptor left.
pub(super) fn mailbox() -> io::Result<(Sender, Mailbox)> {
    let bell = Bell(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?));
    let (jobs, receiver) = mpsc::channel();
    Ok((Sender { jobs: Some(jobs), bell: bell.clone() }, Mailbox { jobs: receiver, bell }))
}

impl Sender {
    /// Puts a job in. What is sent to a hand that is gone is dropped, and with it whatever waits for its answer is told.
    pub fn send(&self, job: Job) {
        if let Some(bell) = self.put(job) {
            bell.ring();
        }
    }

    /// The same, but for the bell: a call of the system, which nobody should wait for at a lock.
    #[must_use]
    pub fn put(&self, job: Job) -> Option<Bell> {
        let put = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        put.then(|| self.bell.clone())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.jobs = None;
        self.bell.ring();
    }
}

/// Wakes a hand.
#[derive(Clone)]
pub(super) struct Bell(Arc<OwnedFd>);

impl Bell {
    pub fn ring(&self) {
        // One that cannot be rung any louder rings already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

impl Mailbox {
    /// The next job, if there is one. [`Job::Quit`] when nobody is left to put one in.
    pub fn next(&self) -> Option<Job> {
        match self.jobs.try_recv() {
            Ok(job) => Some(job),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Job::Quit),
        }
    }

    /// Can be read when a job was put in since it was last silenced.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.0.as_fd()
    }

    /// To be called before looking for jobs.
    pub fn silence(&self) {
        let _ = rustix::io::read(&self.bell.0, &mut [0u8; 8]);
    }
}
