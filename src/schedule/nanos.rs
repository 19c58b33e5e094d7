//! Instants and durations of the scheduler.

use schema::Picos;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{Add, Mul, Sub};

/// Whole nanoseconds: a duration, or an instant counted from whenever the driver began. Arithmetic saturates, so that
/// [`NEVER`](Nanos::NEVER) stays never.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Nanos(pub u64);

impl Nanos {
    pub const ZERO: Nanos = Nanos(0);
    /// Later than every instant.
    pub const NEVER: Nanos = Nanos(u64::MAX);

    /// From seconds; saturates, and a negative or undefined time is 0.
    pub fn from_secs_f64(seconds: f64) -> Self {
        Nanos((seconds * 1e9).round() as u64)
    }

    /// From nanoseconds; saturates, and a negative or undefined time is 0.
    pub fn from_f64(nanos: f64) -> Self {
        Nanos(nanos.round() as u64)
    }

    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 * 1e-9
    }

    pub fn as_f64(self) -> f64 {
        self.0 as f64
    }

    /// This many times as long.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Nanos {
        if factor == 1.0 { self } else { Nanos::from_f64(self.as_f64() * factor) }
    }
}

impl Add for Nanos {
    type Output = Nanos;
    fn add(self, other: Nanos) -> Nanos {
        Nanos(self.0.saturating_add(other.0))
    }
}

impl Sub for Nanos {
    type Output = Nanos;
    fn sub(self, other: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(other.0))
    }
}

impl Mul<u32> for Nanos {
    type Output = Nanos;
    fn mul(self, times: u32) -> Nanos {
        Nanos(self.0.saturating_mul(u64::from(times)))
    }
}

impl From<Picos> for Nanos {
    /// Rounded up: what takes time never takes none.
    fn from(time: Picos) -> Nanos {
        Nanos(time.0.div_ceil(1000))
    }
}

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ns", self.0)
    }
}
