//! Knobs and rules: what may be chosen, and what makes a choice illegal, as data beside the code that obeys them.

use crate::{Limits, Task};
use schema::{Config, KnobValue};

/// The values a knob can take, before the rules.
#[derive(Copy, Clone, Debug)]
pub enum Values {
    Ints(&'static [i64]),
    Pairs(&'static [(i64, i64)]),
    Names(&'static [&'static str]),
}

/// A named choice of a variant.
#[derive(Copy, Clone, Debug)]
pub struct Knob {
    pub name: &'static str,
    pub values: Values,
}

impl Knob {
    /// A choice among whole numbers.
    pub const fn ints(name: &'static str, values: &'static [i64]) -> Self {
        Knob { name, values: Values::Ints(values) }
    }

    /// A choice among pairs, such as register tiles.
    pub const fn pairs(name: &'static str, values: &'static [(i64, i64)]) -> Self {
        Knob { name, values: Values::Pairs(values) }
    }

    /// A choice among names.
    pub const fn names(name: &'static str, values: &'static [&'static str]) -> Self {
        Knob { name, values: Values::Names(values) }
    }
}

impl Values {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Values::Ints(values) => values.len(),
            Values::Pairs(values) => values.len(),
            Values::Names(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The i-th value. Panics past the end.
    pub fn nth(&self, i: usize) -> KnobValue {
        match self {
            Values::Ints(values) => KnobValue::Int(values[i]),
            Values::Pairs(values) => KnobValue::Pair(values[i].0, values[i].1),
            Values::Names(values) => KnobValue::Name(values[i].to_owned()),
        }
    }
}

/// One legality test with the reason it gives. The first that fails says why a config is illegal.
#[derive(Copy, Clone)]
pub struct Rule {
    pub reason: &'static str,
    pub holds: fn(&Task, &Config, &Limits) -> bool,
}
