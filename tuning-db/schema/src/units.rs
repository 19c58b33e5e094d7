//! Quantities with their units, each checked where it is made.

use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// The part of a device asked for, in per mille: more than 0, at most 1000.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Share(u16);

/// Why a number is no share.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("a share is more than 0 and at most 100, in steps of 0.1; found {0}")]
pub struct ShareError(pub String);

impl Share {
    /// The whole device.
    pub const WHOLE: Share = Share(1000);

    /// A share from per cents, with one decimal at most.
    ///
    /// # Errors
    /// [`ShareError`] when `percent` is not in `(0, 100]` or finer than 0.1.
    pub fn percent(percent: f64) -> Result<Self, ShareError> {
        let mille = percent * 10.0;
        let near = mille.round();
        if !(mille.is_finite() && (mille - near).abs() < 1e-6 && (1.0..=1000.0).contains(&near)) {
            return Err(ShareError(percent.to_string()));
        }
        Ok(Share(near as u16))
    }

    /// A share from per mille.
    ///
    /// # Errors
    /// [`ShareError`] when `mille` is 0 or over 1000.
    pub fn per_mille(mille: u16) -> Result<Self, ShareError> {
        if (1..=1000).contains(&mille) { Ok(Share(mille)) } else { Err(ShareError(format!("{mille} per mille"))) }
    }

    /// Per mille, 1 to 1000.
    pub fn as_per_mille(self) -> u16 {
        self.0
    }

    /// Per cent.
    pub fn as_percent(self) -> f64 {
        f64::from(self.0) / 10.0
    }

    /// This share of `units`, if that is a whole number of them.
    pub fn of_units(self, units: u32) -> Option<u32> {
        let scaled = u64::from(units) * u64::from(self.0);
        (scaled.is_multiple_of(1000) && scaled > 0).then_some((scaled / 1000) as u32)
    }
}

impl TryFrom<u16> for Share {
    type Error = ShareError;
    fn try_from(mille: u16) -> Result<Self, ShareError> {
        Self::per_mille(mille)
    }
}

impl From<Share> for u16 {
    fn from(share: Share) -> u16 {
        share.0
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(10) { write!(f, "{}", self.0 / 10) } else { write!(f, "{}.{}", self.0 / 10, self.0 % 10) }
    }
}

/// The size of a model's leading axis: at least 1.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Batch(u32);

impl Batch {
    /// One row.
    pub const ONE: Batch = Batch(1);

    /// `None` for 0.
    pub fn new(rows: u32) -> Option<Self> {
        (rows > 0).then_some(Batch(rows))
    }

    /// Rows.
    pub fn rows(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Batch {
    type Error = &'static str;
    fn try_from(rows: u32) -> Result<Self, &'static str> {
        Self::new(rows).ok_or("a batch has at least one row")
    }
}

impl From<Batch> for u32 {
    fn from(batch: Batch) -> u32 {
        batch.0
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A duration in picoseconds: fine enough for a 2 ns kernel's MAD, wide enough for 200 days.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Picos(pub u64);

impl Picos {
    /// From seconds; saturates, and a negative or non-finite time is 0.
    pub fn from_secs_f64(seconds: f64) -> Self {
        Picos((seconds * 1e12).round() as u64)
    }

    /// Seconds.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 * 1e-12
    }

    /// Milliseconds.
    pub fn as_millis_f64(self) -> f64 {
        self.0 as f64 * 1e-9
    }

    /// Whole nanoseconds, rounded down.
    pub fn as_nanos(self) -> u64 {
        self.0 / 1000
    }
}

/// Where a pseudo-random stream starts; the same seed gives the same choices.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seed(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_accepts_tenths_of_per_cents_and_nothing_outside() {
        assert_eq!(Share::percent(12.5).unwrap().as_per_mille(), 125);
        assert_eq!(Share::percent(100.0).unwrap(), Share::WHOLE);
        for bad in [0.0, -1.0, 100.1, 101.0, 0.05, f64::NAN, f64::INFINITY] {
            assert!(Share::percent(bad).is_err(), "{bad}");
        }
        assert_eq!(Share::percent(12.5).unwrap().to_string(), "12.5");
    }

    #[test]
    fn share_of_units_is_whole_or_nothing() {
        assert_eq!(Share::percent(50.0).unwrap().of_units(2), Some(1));
        assert_eq!(Share::percent(33.3).unwrap().of_units(2), None);
    }
}
