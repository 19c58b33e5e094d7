//! The clocks a run can go by.

use crate::schedule::Nanos;
use std::time::{Duration, Instant};

/// Time as the run sees it.
pub trait Clock: Send + Sync {
    /// Now, counted from whenever the clock began.
    fn now(&self) -> Nanos;

    /// Returns at `at`, or at once if that is over.
    fn wait_until(&self, at: Nanos);
}

/// The last stretch of a wait, which is spun: a sleep ends tens of microseconds late.
const SPIN: Nanos = Nanos(50_000);

/// Real time. It sleeps, and spins the last 50 µs.
pub struct WallClock(Instant);

impl WallClock {
    /// Begins now.
    pub fn begin() -> Self {
        WallClock(Instant::now())
    }
}

impl Clock for WallClock {
    fn now(&self) -> Nanos {
        Nanos(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn wait_until(&self, at: Nanos) {
        loop {
            let left = at - self.now();
            if left == Nanos::ZERO {
                return;
            }
            if left > SPIN {
                std::thread::sleep(Duration::from_nanos((left - SPIN).0));
            } else {
                std::hint::spin_loop();
            }
        }
    }
}
