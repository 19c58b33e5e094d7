//! A task: what is tuned. Operator, static shapes, dtypes, layouts and epilogue, as data with one canonical text.

use crate::Layout;
use schema::TaskKey;
use std::collections::BTreeMap;
use std::fmt;

/// A parameter of a task.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Param {
    Int(i64),
    Ints(Vec<i64>),
    /// Without blanks, quotes or control characters; never empty.
    Word(String),
}

/// An operator with the value of every parameter that decides what is computed and how its operands lie in memory. No model, no
/// device, no share.
///
/// The text is `gemm a=rows b=const epilogue=bias+relu k=768 m=128 n=768`: the operator, then the parameters sorted by name. A list
/// is written `[1,2]`. Equal texts are equal tasks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Task {
    operator: String,
    params: BTreeMap<String, Param>,
}

impl Task {
    /// A task of that operator without parameters.
    pub fn new(operator: &str) -> Self {
        Task { operator: operator.to_owned(), params: BTreeMap::new() }
    }

    /// With a whole number.
    #[must_use]
    pub fn with_int(mut self, name: &str, value: usize) -> Self {
        self.params.insert(name.to_owned(), Param::Int(value as i64));
        self
    }

    /// With whole numbers.
    #[must_use]
    pub fn with_ints(mut self, name: &str, values: &[usize]) -> Self {
        self.params.insert(name.to_owned(), Param::Ints(values.iter().map(|&value| value as i64).collect()));
        self
    }

    /// With a word. Panics when it is empty or has a blank: a bug of the caller.
    #[must_use]
    pub fn with_word(mut self, name: &str, word: impl fmt::Display) -> Self {
        let word = word.to_string();
        assert!(!word.is_empty() && !word.contains(char::is_whitespace), "'{word}' is no word");
        self.params.insert(name.to_owned(), Param::Word(word));
        self
    }

    /// The operator's id.
    pub fn operator(&self) -> &str {
        &self.operator
    }

    /// The parameter of that name.
    pub fn get(&self, name: &str) -> Option<&Param> {
        self.params.get(name)
    }

    /// All parameters, sorted by name.
    pub fn params(&self) -> impl Iterator<Item = (&str, &Param)> {
        self.params.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// A whole number; 0 when absent. Operators check their parameters once, in `signature`.
    pub fn int(&self, name: &str) -> usize {
        match self.get(name) {
            Some(Param::Int(value)) => usize::try_from(*value).unwrap_or(0),
            _ => 0,
        }
    }

    /// Whole numbers; empty when absent.
    pub fn ints(&self, name: &str) -> Vec<usize> {
        match self.get(name) {
            Some(Param::Ints(values)) => values.iter().map(|&value| usize::try_from(value).unwrap_or(0)).collect(),
            _ => Vec::new(),
        }
    }

    /// A word; `""` when absent.
    pub fn word(&self, name: &str) -> &str {
        match self.get(name) {
            Some(Param::Word(word)) => word,
            _ => "",
        }
    }

    /// A layout; rows when absent or unreadable.
    pub fn layout(&self, name: &str) -> Layout {
        Layout::parse(self.word(name)).unwrap_or_default()
    }

    /// The hash of the text.
    pub fn key(&self) -> TaskKey {
        TaskKey::of(&self.to_string())
    }

    /// The task whose text this is.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let mut task = Task::new(words.next().filter(|operator| !operator.is_empty())?);
        for word in words {
            let (name, value) = word.split_once('=')?;
            let param = if let Some(list) = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                let items = list.split(',').filter(|item| !item.is_empty());
                Param::Ints(items.map(|item| item.parse().ok()).collect::<Option<_>>()?)
            } else if let Ok(value) = value.parse() {
                Param::Int(value)
            } else if value.is_empty() {
                return None;
            } else {
                Param::Word(value.to_owned())
            };
            task.params.insert(name.to_owned(), param);
        }
        Some(task)
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.operator)?;
        for (name, param) in &self.params {
            match param {
                Param::Int(value) => write!(f, " {name}={value}")?,
                Param::Word(word) => write!(f, " {name}={word}")?,
                Param::Ints(values) => {
                    write!(f, " {name}=[")?;
                    for (i, value) in values.iter().enumerate() {
                        write!(f, "{}{value}", if i > 0 { "," } else { "" })?;
                    }
                    f.write_str("]")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_parses_back() {
        let task = Task::new("gemm").with_int("m", 128).with_word("epilogue", "bias+relu").with_ints("batch", &[2, 3]);
        assert_eq!(task.to_string(), "gemm batch=[2,3] epilogue=bias+relu m=128");
        assert_eq!(Task::parse(&task.to_string()), Some(task));
        for bad in ["", " m=1", "gemm m", "gemm m=", "gemm m=[1,x]"] {
            assert_eq!(Task::parse(bad), None, "{bad}");
        }
    }
}
