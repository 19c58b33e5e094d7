//! The highest rate at which a system is valid.

/// The search as it went.
#[derive(Clone, Debug, PartialEq)]
pub struct Peak {
    /// Queries a second, exact to a tenth; `None` when even the first rate was too high.
    pub per_s: Option<f64>,
    /// Every rate that was tried and whether it was valid, in order.
    pub probes: Vec<(f64, bool)>,
}

/// Rates beyond have no gaps in whole nanoseconds.
const RATE_MAX: f64 = 1e9;

/// Doubles the rate from `start` until a run isn't valid, then halves the interval until both ends agree in the first decimal.
///
/// `valid` runs the system at a rate. Each run is a look of its own: near the peak a lucky one passes.
///
/// Source: `loadgen/loadgen.cc`, `FindBoundaries` and `FindPeakPerformanceBinarySearch`.
///
/// # Errors
/// What `valid` fails with.
pub fn find_peak<E>(start: f64, mut valid: impl FnMut(f64) -> Result<bool, E>) -> Result<Peak, E> {
    let mut probes = Vec::new();
    let mut probe = |per_s: f64| -> Result<bool, E> {
        let held = valid(per_s)?;
        probes.push((per_s, held));
        Ok(held)
    };
    if !probe(start)? {
        return Ok(Peak { per_s: None, probes });
    }
    let (mut low, mut high) = (start, start * 2.0);
    while high <= RATE_MAX && probe(high)? {
        (low, high) = (high, high * 2.0);
    }
    let tenths = |per_s: f64| (per_s * 10.0).floor();
    while high <= RATE_MAX && tenths(low) + 1.0 < tenths(high) {
        let middle = low + (high - low) / 2.0;
        if probe(middle)? { low = middle } else { high = middle }
    }
    Ok(Peak { per_s: Some(low), probes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn peak(start: f64, truth: f64) -> Peak {
        find_peak(start, |per_s| Ok::<_, Infallible>(per_s <= truth)).unwrap()
    }

    #[test]
    fn finds_the_rate_to_a_tenth() {
        for truth in [1.0, 1.04, 7.77, 100.0, 123.456, 9_999.9] {
            let found = peak(1.0, truth);
            let per_s = found.per_s.unwrap();
            assert!(per_s <= truth && truth - per_s < 0.2, "{truth}: {per_s}");
            assert!(found.probes.len() < 40, "{truth}: {}", found.probes.len());
        }
        assert_eq!(peak(5.0, 4.0), Peak { per_s: None, probes: vec![(5.0, false)] });
        assert!(peak(1.0, f64::INFINITY).per_s.unwrap() <= RATE_MAX);
    }
}
