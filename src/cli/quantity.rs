//! Quantities as people write and read them: shares, batches, times, sizes, budgets.

use crate::schedule::Engines;
use schema::{Batch, Picos, Share};
use std::time::Duration;

/// `25`, `12.5` or `50%`.
///
/// # Errors
/// Says what a share is, and what to try.
pub fn share(text: &str) -> Result<Share, String> {
    let number: f64 =
        text.trim_end_matches('%').parse().map_err(|_| format!("'{text}' is no number; write per cents, such as 50"))?;
    Share::percent(number).map_err(|_| {
        let near = if number > 100.0 { "100".to_owned() } else { "50".to_owned() };
        format!("a share is more than 0 and at most 100, in steps of 0.1; try --share {near}")
    })
}

/// A whole number of rows, at least 1.
///
/// # Errors
/// Says what a batch is.
pub fn batch(text: &str) -> Result<Batch, String> {
    text.parse().ok().and_then(Batch::new).ok_or_else(|| "a batch is a whole number of at least 1; try --batch 1".to_owned())
}

/// `NAME=N`.
///
/// # Errors
/// Says what an axis looks like.
pub fn dim(text: &str) -> Result<(String, u64), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| "an axis is NAME=N; write --dim seq=128".to_owned())?;
    match value.parse::<u64>() {
        Ok(extent) if extent > 0 && extent <= i32::MAX as u64 && !name.is_empty() => Ok((name.to_owned(), extent)),
        _ => Err("an axis is NAME=N with N from 1 to 2147483647; write --dim seq=128".to_owned()),
    }
}

/// `500ms`, `90s`, `5m`, `2h`; a bare number is refused.
///
/// # Errors
/// Says which units there are.
pub fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return Err("a time needs a unit: us, ms, s, m, h or d; write 60s".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| format!("'{number}' is no number; write 60s"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| "a time is not negative and not endless; write 60s".to_owned())
}

/// A time over 0.
///
/// # Errors
/// Says so, or which units there are.
pub fn some_time(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it is a time over 0; write 50ms".to_owned()),
        time => Ok(time),
    }
}

/// So many a second.
///
/// # Errors
/// Says which rates there are.
pub fn rate(text: &str) -> Result<f64, String> {
    match text.trim_end_matches("/s").parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 1e9 => Ok(rate),
        _ => Err("a rate is a number over 0 and at most 1e9 a second; write 100".to_owned()),
    }
}

/// A positive number with a finite value.
///
/// # Errors
/// Says so.
pub fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err("it is a number over 0; try 1e-4".to_owned()),
    }
}

/// A number that is not negative.
///
/// # Errors
/// Says so.
pub fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number >= 0.0 && number.is_finite() => Ok(number),
        _ => Err("it is a number of at least 0; try 0".to_owned()),
    }
}

/// A time in the unit that leaves one to three digits before the point: `12.9 ms`.
pub fn show_time(time: Picos) -> String {
    let seconds = time.as_secs_f64();
    let (scaled, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s if s >= 1e-6 => (s * 1e6, "µs"),
        s => (s * 1e9, "ns"),
    };
    let digits = if scaled >= 10.0 { 1 } else { 2 };
    format!("{scaled:.digits$} {unit}")
}

/// Bytes in kB, MB or GB: `98 MB`.
pub fn show_bytes(bytes: u64) -> String {
    match bytes {
        b if b >= 1_000_000_000 => format!("{:.1} GB", b as f64 * 1e-9),
        b if b >= 10_000_000 => format!("{:.0} MB", b as f64 * 1e-6),
        b if b >= 1_000_000 => format!("{:.1} MB", b as f64 * 1e-6),
        b if b >= 1_000 => format!("{:.0} kB", b as f64 * 1e-3),
        b => format!("{b} B"),
    }
}

/// A count with thin separators: `41,233`.
pub fn show_count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// What copies while a device computes.
#[derive(Copy, Clone, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Copies {
    /// Nothing
    None,
    /// One engine for both directions
    One,
    /// An engine for each direction
    Two,
}

impl From<Copies> for Engines {
    fn from(copies: Copies) -> Engines {
        match copies {
            Copies::None => Engines::None,
            Copies::One => Engines::One,
            Copies::Two => Engines::Two,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_required_and_understood() {
        assert_eq!(duration("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("1.5m").unwrap(), Duration::from_secs(90));
        for bad in ["90", "s", "-1s", "1x", "1e400s", "NaNs"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_and_times_that_must_be_some_refuse_none() {
        assert_eq!((rate("100"), rate("0.5/s"), some_time("1us")), (Ok(100.0), Ok(0.5), Ok(Duration::from_micros(1))));
        for bad in ["0", "-1", "inf", "NaN", "2e9", "x", ""] {
            assert!(rate(bad).is_err(), "{bad}");
        }
        assert!(some_time("0s").is_err() && some_time("-1s").is_err() && some_time("5").is_err());
    }

    #[test]
    fn times_and_counts_read_well() {
        assert_eq!(show_time(Picos(12_900_000_000)), "12.9 ms");
        assert_eq!(show_time(Picos(4_200_000)), "4.20 µs");
        assert_eq!(show_count(41_233), "41,233");
        assert_eq!(show_count(7), "7");
        assert_eq!(show_bytes(98_400_000), "98 MB");
    }

    #[test]
    fn shares_batches_and_axes_refuse_what_makes_no_sense() {
        assert!(share("0").is_err() && share("101").is_err() && share("12.55").is_err() && share("x").is_err());
        assert_eq!(share("12.5").unwrap().as_per_mille(), 125);
        assert!(batch("0").is_err() && batch("-1").is_err() && batch("1.5").is_err());
        assert!(dim("seq").is_err() && dim("seq=0").is_err() && dim("=4").is_err());
        assert_eq!(dim("seq=128").unwrap(), ("seq".to_owned(), 128));
    }
}
