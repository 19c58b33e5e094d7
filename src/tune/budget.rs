//! What may be spent, and why it ended.

use std::fmt;
use std::time::Duration;

/// A bound on a tuning: wall seconds of search and run-offs, a number of trials, or both, whichever ends first.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    pub time: Option<Duration>,
    pub trials: Option<u64>,
}

impl Budget {
    /// Whether nothing is to be searched: default plans are measured as they are.
    pub fn measures_only(&self) -> bool {
        self.trials == Some(0)
    }
}

impl Default for Budget {
    fn default() -> Self {
        Budget { time: Some(Duration::from_secs(60)), trials: None }
    }
}

/// Why a text is no budget.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a budget is a time such as 90s, 5m or 2h, or trials=2000, or both with a comma between; found \"{0}\"")]
pub struct BudgetError(pub String);

impl Budget {
    /// The budget of a text: `90s`, `5m`, `2h`, `trials=2000`, `5m,trials=2000`.
    ///
    /// # Errors
    /// [`BudgetError`] for anything else, for nothing and for a time of zero. `trials=0` searches nothing: plans of defaults are measured.
    pub fn parse(text: &str) -> Result<Self, BudgetError> {
        let wrong = || BudgetError(text.to_owned());
        let mut budget = Budget { time: None, trials: None };
        for part in text.split(',').map(str::trim) {
            let (time, trials) = match part.strip_prefix("trials=") {
                Some(count) => (None, Some(count.parse::<u64>().ok().ok_or_else(wrong)?)),
                None => (Some(duration(part).ok_or_else(wrong)?), None),
            };
            if (time.is_some() && budget.time.is_some()) || (trials.is_some() && budget.trials.is_some()) {
                return Err(wrong());
            }
            budget = Budget { time: time.or(budget.time), trials: trials.or(budget.trials) };
        }
        Ok(budget)
    }
}

/// A positive time with its unit.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    let seconds = number.parse::<f64>().ok()? * scale;
    (seconds > 0.0 && seconds <= 1e9).then(|| Duration::from_secs_f64(seconds))
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.time.map(|time| format!("{}s", time.as_secs_f64()));
        let trials = self.trials.map(|trials| format!("trials={trials}"));
        f.write_str(&time.into_iter().chain(trials).collect::<Vec<_>>().join(","))
    }
}

/// Why a tuning stopped.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Everything was known from the database.
    NothingToDo,
    /// Nothing left promised a gain beyond the noise.
    NothingLeft,
    Time(Duration),
    Trials(u64),
    Interrupted,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::NothingToDo => f.write_str("everything was known"),
            Stop::NothingLeft => f.write_str("nothing left promised a gain beyond the noise"),
            Stop::Time(time) => write!(f, "budget of {} s spent", time.as_secs_f64()),
            Stop::Trials(trials) => write!(f, "budget of {trials} trials spent"),
            Stop::Interrupted => f.write_str("interrupted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_read_and_written() {
        for (text, time, trials) in [
            ("60s", Some(60.0), None),
            ("1.5m", Some(90.0), None),
            ("2h", Some(7200.0), None),
            ("trials=20", None, Some(20)),
            ("trials=0", None, Some(0)),
            ("5m,trials=2000", Some(300.0), Some(2000)),
        ] {
            let budget = Budget::parse(text).unwrap();
            assert_eq!((budget.time.map(|time| time.as_secs_f64()), budget.trials), (time, trials), "{text}");
            assert_eq!(Budget::parse(&budget.to_string()), Ok(budget));
        }
        for bad in ["", "60", "0s", "trials=-1", "trials=x", "5m,6m", "-3s", "1e400s", "trials=1,trials=2", "s"] {
            assert!(Budget::parse(bad).is_err(), "{bad}");
        }
    }
}
