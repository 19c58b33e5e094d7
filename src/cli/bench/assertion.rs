//! `--assert`: tests on the figures of a run.

use super::super::quantity;
use crate::loadgen::{Figures, Latencies};
use crate::schedule::Nanos;

/// A test: `p99<5ms`, `throughput>=100`, `valid`.
#[derive(Clone, Debug)]
pub struct Assertion {
    pub text: String,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Valid,
    /// Seconds for times, a number a second for rates.
    Compare {
        figure: &'static Figure,
        less: bool,
        equal: bool,
        value: f64,
    },
}

/// A figure that can be tested.
#[derive(Debug)]
struct Figure {
    name: &'static str,
    is_rate: bool,
    /// Of the run; rates count `rows` for each sample.
    of: fn(&Figures, rows: f64) -> f64,
}

static FIGURES: &[Figure] = &[
    Figure { name: "p50", is_rate: false, of: |figures, _| percentile(figures, 0.50) },
    Figure { name: "p90", is_rate: false, of: |figures, _| percentile(figures, 0.90) },
    Figure { name: "p95", is_rate: false, of: |figures, _| percentile(figures, 0.95) },
    Figure { name: "p97", is_rate: false, of: |figures, _| percentile(figures, 0.97) },
    Figure { name: "p99", is_rate: false, of: |figures, _| percentile(figures, 0.99) },
    Figure { name: "p99.9", is_rate: false, of: |figures, _| percentile(figures, 0.999) },
    Figure { name: "mean", is_rate: false, of: |figures, _| seconds(figures.of_queries().mean()) },
    Figure { name: "max", is_rate: false, of: |figures, _| seconds(latest(figures.of_queries())) },
    Figure { name: "throughput", is_rate: true, of: |figures, rows| figures.answered_per_s() * rows },
    Figure { name: "goodput", is_rate: true, of: |figures, rows| figures.goodput_per_s() * rows },
];

/// What was not answered took for ever.
fn seconds(latency: Option<Nanos>) -> f64 {
    latency.map_or(f64::INFINITY, Nanos::as_secs_f64)
}

fn percentile(figures: &Figures, p: f64) -> f64 {
    seconds(figures.of_queries().percentile(p))
}

fn latest(latencies: &Latencies) -> Option<Nanos> {
    latencies.most().filter(|_| latencies.over(Nanos(u64::MAX - 1)) == 0)
}

/// Reads a test.
///
/// # Errors
/// Says what a test looks like, or which figures there are.
pub fn assertion(text: &str) -> Result<Assertion, String> {
    let test = |what| Ok(Assertion { text: text.to_owned(), what });
    if text.trim() == "valid" {
        return test(What::Valid);
    }
    let at = text.find(['<', '>']).ok_or("a test is FIELD<VALUE or FIELD>VALUE, or valid; write p99<5ms")?;
    let (field, rest) = text.split_at(at);
    let equal = rest[1..].starts_with('=');
    let value = rest[1 + usize::from(equal)..].trim();
    let field = field.trim();
    let figure = FIGURES.iter().find(|figure| figure.name == field).ok_or_else(|| {
        let known: Vec<&str> = FIGURES.iter().map(|figure| figure.name).collect();
        format!("there is no figure {field}; there are {}, valid", known.join(", "))
    })?;
    let value = if figure.is_rate {
        let number = value.trim_end_matches("/s").parse::<f64>().ok().filter(|number| number.is_finite());
        number.ok_or_else(|| format!("{field} is a number a second; write {field}>100"))?
    } else {
        quantity::duration(value)?.as_secs_f64()
    };
    test(What::Compare { figure, less: rest.starts_with('<'), equal, value })
}

impl Assertion {
    /// Whether it holds; a sample has `rows` rows.
    pub fn holds(&self, figures: &Figures, rows: u32) -> bool {
        match &self.what {
            What::Valid => figures.is_valid(),
            What::Compare { figure, less, equal, value } => {
                let found = (figure.of)(figures, f64::from(rows));
                (*equal && found == *value) || if *less { found < *value } else { found > *value }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_read_or_refused_with_a_way_out() {
        for good in ["p99<5ms", "p99.9 <= 1s", "throughput>100/s", "goodput>=1e3", "max<1m", "valid"] {
            assert_eq!(assertion(good).unwrap().text, good);
        }
        for (bad, why) in [
            ("p99", "write p99<5ms"),
            ("p98<1s", "there are p50"),
            ("p99<5", "needs a unit"),
            ("goodput>x", "goodput>100"),
            ("throughput<nan", "throughput>100"),
        ] {
            assert!(assertion(bad).unwrap_err().contains(why), "{bad}");
        }
    }
}
