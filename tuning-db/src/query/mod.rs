//! Questions in words: `model=resnet50 and share<=50 and p99<5ms order by throughput desc limit 5`.
//!
//! [`field`] says what can be asked and in which units, [`lex`] and [`parse`] read the text, [`eval`] answers from any index,
//! [`rows`] is the answer as data. The same [`Query`] runs over sled, over a socket and over a snapshot, and gives the same rows.

pub mod eval;
pub mod field;
pub mod lex;
pub mod parse;
pub mod rows;

pub use field::{Field, Kind};
pub use rows::{Cell, Row, Rows};

use thiserror::Error;

/// Longest text, in bytes.
pub const TEXT_BYTES_MAX: usize = 4 << 10;
/// Deepest nesting of parentheses and `not`.
pub const NESTING_MAX: usize = 32;
/// Most tests, and most values in one list.
pub const TERMS_MAX: usize = 256;

/// What rows are about.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Of {
    /// Model records: the rows a scheduler goes by.
    #[default]
    Models,
    /// The best configs of each task.
    Tasks,
    /// Every trial.
    Trials,
    Devices,
    /// Trials and model runs without a time, and why.
    Failures,
}

impl Of {
    /// All of them, by name.
    pub const ALL: [(&'static str, Of); 5] = [
        ("models", Of::Models),
        ("tasks", Of::Tasks),
        ("trials", Of::Trials),
        ("devices", Of::Devices),
        ("failures", Of::Failures),
    ];

    /// The name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, of)| *of == self).map_or("", |(name, _)| name)
    }

    /// That of a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, of)| *of)
    }
}

/// A question.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    pub of: Of,
    /// Which rows; all when `None`.
    pub test: Option<Expr>,
    /// By what they are sorted, the most significant first; a row without that value comes last.
    pub order: Vec<(Field, Direction)>,
    pub limit: Option<u64>,
    /// Seconds since 1970 from which `age` counts.
    pub now_s: u64,
    /// As it was written.
    pub text: String,
}

/// Which way a key sorts.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Direction {
    Ascending,
    Descending,
}

/// A condition on a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    Or(Vec<Expr>),
    And(Vec<Expr>),
    Not(Box<Expr>),
    /// A field against a value. False when the row has none.
    Compare(Field, Op, Value),
    In(Field, Vec<Value>),
    IsNull(Field),
    Mark(Mark),
}

/// How a field is compared.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    /// A glob: `*` is any text, `?` any character.
    Like,
}

/// What a field is compared with, in the field's own unit.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    Number(f64),
}

/// A property of a row.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Measured in another environment than the device's current one.
    Stale,
    /// The best of its group.
    Winner,
    /// Without a time: wrong, crashed, too slow.
    Refused,
}

/// Why a text is no query.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("query, column {column}: \"{near}\": {what}")]
pub struct QueryError {
    /// Counted in characters from 1.
    pub column: usize,
    pub near: String,
    pub what: String,
}

impl Query {
    /// Reads a text; an empty one asks for every valid row.
    ///
    /// # Errors
    /// [`QueryError`] with the column, what stands there and what would be right.
    pub fn parse(text: &str) -> Result<Self, QueryError> {
        parse::query(text)
    }

    /// About something else than model records.
    #[must_use]
    pub fn of(self, of: Of) -> Self {
        Query { of, ..self }
    }

    /// As if asked at another time, in seconds since 1970.
    #[must_use]
    pub fn at(self, now_s: u64) -> Self {
        Query { now_s, ..self }
    }

    /// Whether a mark is named anywhere: rows that have it are hidden otherwise.
    pub fn names(&self, mark: Mark) -> bool {
        fn names(expr: &Expr, mark: Mark) -> bool {
            match expr {
                Expr::Or(all) | Expr::And(all) => all.iter().any(|expr| names(expr, mark)),
                Expr::Not(expr) => names(expr, mark),
                Expr::Mark(found) => *found == mark,
                Expr::Compare(..) | Expr::In(..) | Expr::IsNull(_) => false,
            }
        }
        self.test.as_ref().is_some_and(|expr| names(expr, mark))
    }
}
