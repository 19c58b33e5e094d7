//! The threads that kernels split their work over.
//!
//! A pool of `n` threads is `n − 1` of its own and whoever enters it: a kernel that splits hands one half to a thread that waits and
//! computes the other itself. Entering costs a few nanoseconds, where waking a pool and sleeping until it answers costs 8 µs, more
//! than a small model. A thread of the pool that has nothing to do spins for [`SPIN`], then sleeps; work handed to a sleeping thread
//! that it has not begun when the caller is done with its own half is taken back, so that a late thread never costs more than its
//! waking.
//!
//! A *seat* is what a thread of the pool waits at. Who claims an idle seat holds it until it is released, and no other hands work to
//! it in between; that is why the work can lie in the frame of [`join`].

use crate::simd::FlushDenormals;
use std::any::Any;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::hint::spin_loop;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How long a thread without work looks for some before it sleeps: longer than a kernel that does not split, shorter than anybody
/// else who wants the core would notice.
pub const SPIN: Duration = Duration::from_micros(50);
/// Pauses between two looks at the clock, and between two offers of the core to whoever waits for it: a few microseconds.
const PAUSES: u32 = 128;

/// Threads that kernels split their work over. Dropping it ends them.
pub struct ThreadPool {
    seats: Arc<[Seat]>,
}

thread_local! {
    /// The seats of the pool this thread is in.
    static SEATS: RefCell<Option<Arc<[Seat]>>> = const { RefCell::new(None) };
}

/// Waits for work.
const IDLE: u32 = 0;
/// As `IDLE`, asleep.
const ASLEEP: u32 = 1;
/// Held by a thread that writes work to it.
const CLAIMED: u32 = 2;
/// Work lies here and nobody has begun it.
const READY: u32 = 3;
/// The work runs.
const RUNNING: u32 = 4;
/// The work is done; still held by who claimed the seat.
const DONE: u32 = 5;
/// As `DONE`, asleep.
const DONE_ASLEEP: u32 = 6;

/// Where one thread of a pool gets its work.
struct Seat {
    state: AtomicU32,
    /// Written while `CLAIMED`, read by the seat's thread as it goes from `READY` to `RUNNING`.
    work: Cell<Option<Work>>,
    ended: AtomicBool,
    thread: OnceLock<Thread>,
}

// SAFETY: `work` is touched by one thread at a time: by who claimed the seat before `READY` is stored (released), by the seat's thread
// after it has exchanged `READY` for `RUNNING` (acquired). `Work` is an address whose duties are stated at `Job`.
unsafe impl Sync for Seat {}
// SAFETY: as above.
unsafe impl Send for Seat {}

/// A job, without its type.
#[derive(Copy, Clone)]
struct Work {
    job: *const (),
    run: unsafe fn(*const ()),
}

/// One call, in the frame of who hands it out, who keeps the frame until the seat says that it is done or was taken back.
struct Job<F> {
    call: Cell<Option<F>>,
    panic: UnsafeCell<Option<Box<dyn Any + Send>>>,
}

impl ThreadPool {
    /// A pool of `threads` threads, the one that enters it included; `start` runs first on each of its own.
    ///
    /// # Errors
    /// When the operating system gives no threads.
    pub fn new(threads: usize, start: impl Fn() + Clone + Send + 'static) -> io::Result<Self> {
        let seat = |_| Seat {
            state: AtomicU32::new(IDLE),
            work: Cell::new(None),
            ended: AtomicBool::new(false),
            thread: OnceLock::new(),
        };
        let pool = ThreadPool { seats: (1..threads).map(seat).collect() };
        for index in 0..pool.seats.len() {
            let (seats, start) = (pool.seats.clone(), start.clone());
            let serve = move || {
                start();
                // The thread is the pool's own: what the guard would restore nobody will miss.
                std::mem::forget(FlushDenormals::new());
                SEATS.set(Some(seats.clone()));
                while let Some(work) = seats[index].next() {
                    // SAFETY: the seat is `RUNNING` with that work: who claimed it keeps the job until `finish`.
                    unsafe { (work.run)(work.job) };
                    seats[index].finish();
                }
            };
            let handle = thread::Builder::new().name(format!("kernel-{}", index + 1)).spawn(serve)?;
            let _ = pool.seats[index].thread.set(handle.thread().clone());
        }
        Ok(pool)
    }

    /// How many threads it has, the one that enters it included.
    pub fn threads(&self) -> usize {
        self.seats.len() + 1
    }

    /// Whether the calling thread is in it.
    pub fn is_current(&self) -> bool {
        SEATS.with_borrow(|seats| seats.as_ref().is_some_and(|seats| Arc::ptr_eq(seats, &self.seats)))
    }

    /// Runs `work` on the calling thread, with the pool's threads to [`join`] and with denormals flushed to zero.
    pub fn enter<R>(&self, work: impl FnOnce() -> R) -> R {
        struct Leave(Option<Arc<[Seat]>>);
        impl Drop for Leave {
            fn drop(&mut self) {
                SEATS.set(self.0.take());
            }
        }
        let _leave = Leave(SEATS.replace(Some(self.seats.clone())));
        let _flushed = FlushDenormals::new();
        work()
    }

    /// Calls `work(i)` once on every thread, the calling one as 0, and waits for all. Not to be called from inside a [`join`].
    pub fn broadcast(&self, work: impl Fn(usize) + Sync) {
        let work = &work;
        let jobs: Vec<_> = (1..self.threads()).map(|i| Job::new(move || work(i))).collect();
        for (seat, job) in self.seats.iter().zip(&jobs) {
            // In order, so that two broadcasts cannot wait for each other.
            wait(|| {
                seat.claim().is_some_and(|asleep| {
                    seat.hand(job, asleep);
                    true
                })
            });
        }
        let own = catch_unwind(AssertUnwindSafe(|| self.enter(|| work(0))));
        for seat in self.seats.iter() {
            seat.await_done();
        }
        own.unwrap_or_else(|panic| resume_unwind(panic));
        jobs.into_iter().for_each(Job::rethrow);
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        for seat in self.seats.iter() {
            seat.ended.store(true, Ordering::Release);
            if let Some(thread) = seat.thread.get() {
                thread.unpark();
            }
        }
    }
}

/// Calls both, at the same time where a thread of the pool the caller is in has nothing to do, one after the other elsewhere. A panic
/// of either is the caller's once both have ended.
pub fn join(first: impl FnOnce(), second: impl FnOnce() + Send) {
    let seats = SEATS.with_borrow(Clone::clone);
    let claimed = seats.iter().flat_map(|seats| seats.iter()).find_map(|seat| Some((seat, seat.claim()?)));
    let Some((seat, asleep)) = claimed else {
        first();
        return second();
    };
    let job = Job::new(second);
    seat.hand(&job, asleep);
    let first = catch_unwind(AssertUnwindSafe(first));
    if seat.take_back() {
        first.unwrap_or_else(|panic| resume_unwind(panic));
        if let Some(second) = job.call.take() {
            second();
        }
        return;
    }
    seat.await_done();
    first.unwrap_or_else(|panic| resume_unwind(panic));
    job.rethrow();
}

impl Seat {
    fn swap(&self, from: u32, to: u32) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Takes an idle seat; whether its thread sleeps.
    fn claim(&self) -> Option<bool> {
        match self.state.load(Ordering::Relaxed) {
            IDLE if self.swap(IDLE, CLAIMED) => Some(false),
            ASLEEP if self.swap(ASLEEP, CLAIMED) => Some(true),
            _ => None,
        }
    }

    /// Gives a claimed seat its work. The job must stay until [`take_back`](Self::take_back) or [`await_done`](Self::await_done).
    fn hand<F: FnOnce() + Send>(&self, job: &Job<F>, asleep: bool) {
        self.work.set(Some(Work { job: (&raw const *job).cast(), run: Job::<F>::run }));
        self.state.store(READY, Ordering::Release);
        if asleep && let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Releases the seat with its work not begun; false when it has been.
    fn take_back(&self) -> bool {
        self.swap(READY, IDLE)
    }

    /// Waits until the work is done and releases the seat.
    fn await_done(&self) {
        wait(|| self.state.load(Ordering::Acquire) >= DONE);
        if !self.swap(DONE, IDLE) {
            self.state.store(ASLEEP, Ordering::Release);
        }
    }

    /// The next work, for the seat's thread; `None` when the pool has ended.
    fn next(&self) -> Option<Work> {
        let (mut since, mut pauses) = (Instant::now(), 0u32);
        loop {
            match self.state.load(Ordering::Acquire) {
                READY if self.swap(READY, RUNNING) => return self.work.get(),
                IDLE | ASLEEP if self.ended.load(Ordering::Acquire) => return None,
                ASLEEP | DONE_ASLEEP => {
                    thread::park();
                    since = Instant::now();
                    continue;
                }
                _ => {}
            }
            spin_loop();
            pauses = pauses.wrapping_add(1);
            if pauses.is_multiple_of(PAUSES) {
                if since.elapsed() > SPIN {
                    let _ = self.swap(IDLE, ASLEEP) || self.swap(DONE, DONE_ASLEEP);
                }
                thread::yield_now();
            }
        }
    }

    fn finish(&self) {
        self.state.store(DONE, Ordering::Release);
    }
}

impl<F: FnOnce()> Job<F> {
    fn new(call: F) -> Self {
        Job { call: Cell::new(Some(call)), panic: UnsafeCell::new(None) }
    }

    /// # Safety
    /// `job` is a `Job<F>` that lives, and that no other thread touches until the seat it was handed to is done.
    unsafe fn run(job: *const ()) {
        // SAFETY: by the caller's duty.
        let job = unsafe { &*job.cast::<Job<F>>() };
        if let Some(call) = job.call.take()
            && let Err(panic) = catch_unwind(AssertUnwindSafe(call))
        {
            // SAFETY: nobody else touches the job by the caller's duty.
            unsafe { *job.panic.get() = Some(panic) };
        }
    }

    /// Passes on the panic of a job that is done.
    fn rethrow(self) {
        if let Some(panic) = self.panic.into_inner() {
            resume_unwind(panic);
        }
    }
}

/// Spins until it holds, offering the core now and then.
fn wait(mut holds: impl FnMut() -> bool) {
    let mut pauses = 0u32;
    while !holds() {
        spin_loop();
        pauses = pauses.wrapping_add(1);
        if pauses.is_multiple_of(PAUSES) {
            thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn pool(threads: usize) -> ThreadPool {
        ThreadPool::new(threads, || {}).unwrap()
    }

    fn sum(range: std::ops::Range<usize>, total: &AtomicUsize) {
        if range.len() < 4 {
            total.fetch_add(range.sum(), Ordering::Relaxed);
        } else {
            let middle = range.start + range.len() / 2;
            join(|| sum(range.start..middle, total), || sum(middle..range.end, total));
        }
    }

    #[test]
    fn nested_halves_all_run_from_several_entrants_at_once() {
        let pool = pool(4);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let total = AtomicUsize::new(0);
                        pool.enter(|| sum(0..100, &total));
                        assert_eq!(total.into_inner(), 4950);
                    }
                });
            }
        });
    }

    #[test]
    fn outside_a_pool_both_run_on_the_caller() {
        let here = thread::current().id();
        join(|| assert_eq!(thread::current().id(), here), || assert_eq!(thread::current().id(), here));
    }

    #[test]
    fn a_broadcast_reaches_every_thread_even_asleep() {
        let pool = pool(3);
        // Long enough that its threads sleep, and at once after that, when they do not.
        thread::sleep(10 * SPIN);
        for _ in 0..2 {
            let ids = std::sync::Mutex::new(std::collections::BTreeMap::new());
            pool.broadcast(|i| assert!(ids.lock().unwrap().insert(i, thread::current().id()).is_none()));
            let ids = ids.into_inner().unwrap();
            assert_eq!(ids.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
            assert!(ids[&0] == thread::current().id() && ids[&1] != ids[&2]);
        }
    }

    #[test]
    fn a_panic_on_either_side_reaches_the_caller_and_the_pool_lives_on() {
        let pool = pool(2);
        for side in 0..2 {
            let fail = |at: usize| {
                if at == side {
                    panic!("side {side}")
                }
            };
            let caught = catch_unwind(AssertUnwindSafe(|| pool.enter(|| join(|| fail(0), || fail(1)))));
            assert_eq!(*caught.unwrap_err().downcast::<String>().unwrap(), format!("side {side}"));
            assert!(!pool.is_current());
        }
        let total = AtomicUsize::new(0);
        pool.enter(|| sum(0..100, &total));
        assert_eq!(total.into_inner(), 4950);
    }

    #[test]
    fn its_threads_end_with_it() {
        let pool = pool(3);
        let seats = pool.seats.clone();
        drop(pool);
        wait(|| Arc::strong_count(&seats) == 1);
    }
}
