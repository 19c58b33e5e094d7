//! How a task spells its operands and its numbers, and how a node's facts become such a task.
//!
//! An operand `x` is the shape `x=[2,64,56,56]` and, where they differ from the usual, `x_type=i64` and `x_layout=channels16h1`. A
//! float is a word that no whole number reads as: `epsilon=1e-5`, `alpha=1.0`.

use crate::layout::Layout;
use crate::{BuildError, Facts, Fill, OperandFacts, OperandSpec, Param, Task};
use schema::DType;

/// The most elements an operand may have: addresses of 16-byte elements stay far below `isize::MAX`.
const ELEMENTS_MAX: usize = 1 << 48;

impl Task {
    /// With an operand's shape, type and layout.
    #[must_use]
    pub fn with_operand(self, name: &str, operand: &OperandFacts) -> Self {
        let mut task = self.with_ints(name, &operand.shape);
        if operand.dtype != DType::F32 {
            task = task.with_word(&format!("{name}_type"), operand.dtype);
        }
        if operand.layout != Layout::Rows {
            task = task.with_word(&format!("{name}_layout"), operand.layout);
        }
        task
    }

    /// The operand of that name; `None` when the task has none.
    ///
    /// # Errors
    /// [`BuildError::Task`] when a dimension is negative, the operand is absurdly large, the type or layout is unknown or the layout
    /// does not fit the rank.
    pub fn operand(&self, name: &'static str) -> Result<Option<OperandSpec>, BuildError> {
        let Some(Param::Ints(dims)) = self.get(name) else { return Ok(None) };
        let shape: Option<Vec<usize>> = dims.iter().map(|&dim| usize::try_from(dim).ok()).collect();
        let shape = shape.ok_or_else(|| self.refused(format!("operand '{name}' has a negative dimension")))?;
        let padded = shape.iter().try_fold(16usize, |size, &dim| size.checked_mul(dim.max(1)));
        if padded.is_none_or(|size| size > ELEMENTS_MAX) {
            return Err(self.refused(format!("operand '{name}' has too many elements")));
        }
        let dtype = match self.get(&format!("{name}_type")) {
            None => DType::F32,
            Some(Param::Word(word)) => {
                DType::parse(word).ok_or_else(|| self.refused(format!("operand '{name}' has the unknown type '{word}'")))?
            }
            Some(_) => return Err(self.refused(format!("operand '{name}' has a type that is no word"))),
        };
        let layout = match self.get(&format!("{name}_layout")) {
            None => Layout::Rows,
            Some(Param::Word(word)) => {
                Layout::parse(word).ok_or_else(|| self.refused(format!("operand '{name}' has the unknown layout '{word}'")))?
            }
            Some(_) => return Err(self.refused(format!("operand '{name}' has a layout that is no word"))),
        };
        let fits = match layout {
            Layout::Rows => true,
            Layout::Channels { halo } => shape.len() == 4 && halo <= 64,
            Layout::Columns => shape.len() >= 2,
        };
        if !fits {
            return Err(self.refused(format!("operand '{name}': layout {layout} does not fit the shape {shape:?}")));
        }
        Ok(Some(OperandSpec { name, dtype, shape, layout, constant: false, fill: Fill::Signed }))
    }

    /// The operand of that name, which must be there.
    ///
    /// # Errors
    /// [`BuildError::Task`] when it is not, or as [`operand`](Self::operand).
    pub fn required(&self, name: &'static str) -> Result<OperandSpec, BuildError> {
        self.operand(name)?.ok_or_else(|| self.refused(format!("operand '{name}' is missing")))
    }

    /// With a float, written so that it reads as no whole number.
    #[must_use]
    pub fn with_float(self, name: &str, value: f32) -> Self {
        self.with_word(name, format_args!("{value:?}"))
    }

    /// A float; `None` when absent or unreadable.
    pub fn float(&self, name: &str) -> Option<f32> {
        match self.get(name)? {
            Param::Word(word) => word.parse().ok(),
            _ => None,
        }
    }

    /// With whole numbers that may be negative.
    #[must_use]
    pub fn with_signed(self, name: &str, values: &[i64]) -> Self {
        let bits: Vec<usize> = values.iter().map(|&value| value as usize).collect();
        self.with_ints(name, &bits)
    }

    /// Whole numbers that may be negative; empty when absent.
    pub fn signed(&self, name: &str) -> Vec<i64> {
        match self.get(name) {
            Some(Param::Ints(values)) => values.clone(),
            _ => Vec::new(),
        }
    }

    /// Why this task makes no sense.
    pub fn refused(&self, reason: impl Into<String>) -> BuildError {
        BuildError::Task { task: self.to_string(), reason: reason.into() }
    }
}

impl<'a> Facts<'a> {
    /// An input that must be there.
    ///
    /// # Errors
    /// [`BuildError::Task`] when it is absent.
    pub fn input(&self, operator: &str, index: usize) -> Result<&'a OperandFacts, BuildError> {
        self.optional(index).ok_or_else(|| absent(operator, "input", index))
    }

    /// An input that may be absent.
    pub fn optional(&self, index: usize) -> Option<&'a OperandFacts> {
        self.inputs.get(index)?.as_ref()
    }

    /// An output that must be there.
    ///
    /// # Errors
    /// [`BuildError::Task`] when it is absent.
    pub fn output(&self, operator: &str, index: usize) -> Result<&'a OperandFacts, BuildError> {
        self.outputs.get(index).and_then(Option::as_ref).ok_or_else(|| absent(operator, "output", index))
    }

    /// The attribute `axis` counted from the front, for a tensor of that rank.
    ///
    /// # Errors
    /// [`BuildError::Task`] when it lies outside.
    pub fn axis(&self, operator: &str, default: i64, rank: usize) -> Result<usize, BuildError> {
        let axis = self.attributes.int("axis").unwrap_or(default);
        from_front(axis, rank).ok_or_else(|| BuildError::Task {
            task: operator.to_owned(),
            reason: format!("axis {axis} lies outside a tensor of rank {rank}"),
        })
    }
}

/// An axis counted from the front; `None` when it lies outside.
pub fn from_front(axis: i64, rank: usize) -> Option<usize> {
    let rank = rank as i64;
    usize::try_from(if axis < 0 { axis + rank } else { axis }).ok().filter(|&axis| (axis as i64) < rank)
}

fn absent(operator: &str, what: &str, index: usize) -> BuildError {
    BuildError::Task { task: operator.to_owned(), reason: format!("{what} {index} is absent") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_and_floats_read_back() {
        let facts =
            OperandFacts { dtype: DType::I64, shape: vec![2, 3, 4, 5], layout: Layout::Channels { halo: 2 }, constant: false };
        let task = Task::new("copy").with_operand("x", &facts).with_float("value", 1.0).with_signed("steps", &[-1, 2]);
        let task = Task::parse(&task.to_string()).unwrap();
        let spec = task.required("x").unwrap();
        assert_eq!((spec.dtype, spec.shape, spec.layout), (facts.dtype, facts.shape, facts.layout));
        assert_eq!((task.float("value"), task.signed("steps")), (Some(1.0), vec![-1, 2]));
        assert_eq!(task.operand("y"), Ok(None));
        for value in [0.0, -1.0, 1e-5, 3e20, f32::INFINITY, f32::NEG_INFINITY, 0.1] {
            let text = Task::new("t").with_float("v", value).to_string();
            assert_eq!(Task::parse(&text).unwrap().float("v"), Some(value), "{text}");
        }
    }

    #[test]
    fn damaged_operands_are_refused() {
        for text in
            ["t x=[-1]", "t x=[281474976710656,2]", "t x=[1] x_type=f99", "t x=[1] x_layout=channels16h1", "t x=[1] x_type=[1]"]
        {
            assert!(Task::parse(text).unwrap().required("x").is_err(), "{text}");
        }
    }
}
