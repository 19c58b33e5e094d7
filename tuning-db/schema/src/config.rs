//! A config: a variant with a value for every knob, as data.

use crate::ConfigKey;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The value of a knob.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum KnobValue {
    Int(i64),
    Pair(i64, i64),
    Name(String),
}

impl fmt::Display for KnobValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KnobValue::Int(value) => write!(f, "{value}"),
            KnobValue::Pair(a, b) => write!(f, "{a}x{b}"),
            KnobValue::Name(name) => f.write_str(name),
        }
    }
}

/// A variant, its revision and a value for every knob, in the order the variant declares them.
///
/// Its text is `gemm.host_packed@3 tile=6x16 kc=256 split=rows`; equal texts are equal configs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Config {
    pub variant: String,
    pub revision: u32,
    pub knobs: Vec<(String, KnobValue)>,
}

impl Config {
    /// The value of a knob, if the config has it.
    pub fn knob(&self, name: &str) -> Option<&KnobValue> {
        self.knobs.iter().find(|(knob, _)| knob == name).map(|(_, value)| value)
    }

    /// The value of a whole-number knob, if the config has one of that name and kind.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.knob(name)? {
            KnobValue::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The value of a pair knob, if the config has one of that name and kind.
    pub fn pair(&self, name: &str) -> Option<(i64, i64)> {
        match self.knob(name)? {
            KnobValue::Pair(a, b) => Some((*a, *b)),
            _ => None,
        }
    }

    /// The value of a named-choice knob, if the config has one of that name and kind.
    pub fn name(&self, name: &str) -> Option<&str> {
        match self.knob(name)? {
            KnobValue::Name(value) => Some(value),
            _ => None,
        }
    }

    /// The hash of the text.
    pub fn key(&self) -> ConfigKey {
        ConfigKey::of(&self.to_string())
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.variant, self.revision)?;
        self.knobs.iter().try_for_each(|(knob, value)| write!(f, " {knob}={value}"))
    }
}
