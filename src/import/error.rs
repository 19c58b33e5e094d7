//! What an import says when it refuses a model: a stable class, the thing, what was found, what is allowed, what to do.

use crate::graph::infer::{Fault, InferError};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

macro_rules! classes {
    ($($(#[$doc:meta])* $class:ident $code:literal,)*) => {
        /// The kinds of refusal. Names are stable: they are printed with `--json`, and scripts compare them.
        #[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
        pub enum Class { $($(#[$doc])* $class,)* }

        impl Class {
            /// The class as written in documents and in the test set: `LimitExceeded`.
            pub fn name(self) -> &'static str {
                match self { $(Class::$class => stringify!($class),)* }
            }

            /// The class as the command line prints it after `input.`: `limit_exceeded`.
            pub fn code(self) -> &'static str {
                match self { $(Class::$class => $code,)* }
            }

            /// The class of that code.
            pub fn parse(code: &str) -> Option<Self> {
                match code { $($code => Some(Class::$class),)* _ => None }
            }
        }
    };
}

classes! {
    /// There is no such file.
    NotFound "not_found",
    /// The system refuses to read it.
    Unreadable "unreadable",
    /// Something else than an ONNX model.
    NotOnnx "not_onnx",
    /// The file ends too early.
    Truncated "truncated",
    /// The bytes contradict the format.
    Malformed "malformed",
    /// A format or operator set older or newer than we know.
    UnsupportedVersion "unsupported_version",
    /// A name that is no UTF-8.
    BadUtf8 "bad_utf8",
    /// An operator, or a use of one, that we do not know.
    UnsupportedOp "unsupported_op",
    /// A value depends on itself.
    Cycle "cycle",
    /// A value is used and made by nobody.
    UndefinedValue "undefined_value",
    /// Two things of one name.
    DuplicateName "duplicate_name",
    /// Too many or too few inputs or outputs.
    Arity "arity",
    /// A tensor's data do not fill its shape.
    TensorSize "tensor_size",
    /// A shape that cannot be.
    BadShape "bad_shape",
    /// An element type that cannot be here.
    BadDtype "bad_dtype",
    /// Two shapes that do not fit.
    ShapeMismatch "shape_mismatch",
    /// An attribute is missing, of a wrong type or of a wrong value.
    BadAttribute "bad_attribute",
    /// A constant index outside its axis.
    IndexOutOfRange "index_out_of_range",
    /// External data outside the model's folder, or reached in a way that could leave it.
    PathEscape "path_escape",
    /// External data that are not there.
    ExternalMissing "external_missing",
    /// External data outside their file.
    ExternalRange "external_range",
    /// More than a limit allows.
    LimitExceeded "limit_exceeded",
}

/// Which limit was met, and what would pass it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    /// The limit's name, as in `--limit NAME=VALUE`.
    pub limit: &'static str,
    pub allowed: u64,
    /// What was asked for; `None` when even counting it overflows.
    pub need: Option<u64>,
}

/// A refused model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportError {
    class: Class,
    file: Option<PathBuf>,
    place: String,
    found: String,
    remedy: String,
    excess: Option<Excess>,
}

impl ImportError {
    /// A refusal of `place` (`node "conv 1"`, may be empty) because of `found`.
    pub(crate) fn new(class: Class, place: impl Into<String>, found: impl Into<String>) -> Self {
        ImportError {
            class,
            file: None,
            place: place.into(),
            found: found.into(),
            remedy: remedy(class).to_owned(),
            excess: None,
        }
    }

    /// A refusal because `what` exceeds a limit.
    pub(crate) fn limit(place: impl Into<String>, what: &str, excess: Excess) -> Self {
        let Excess { limit, allowed, need } = excess;
        let found = match need {
            Some(need) => format!("{what}: {need}, the limit is {allowed}"),
            None => format!("{what}: more than can be counted, the limit is {allowed}"),
        };
        let remedy = match need {
            Some(need) => format!("simplify the model, or --limit {limit}={need}"),
            None => "simplify the model".to_owned(),
        };
        ImportError { remedy, excess: Some(excess), ..ImportError::new(Class::LimitExceeded, place, found) }
    }

    /// The same with other advice.
    pub(crate) fn advise(self, remedy: &str) -> Self {
        ImportError { remedy: remedy.to_owned(), ..self }
    }

    /// The same, in that file.
    pub(crate) fn within(self, file: &Path) -> Self {
        ImportError { file: Some(file.to_owned()), ..self }
    }

    /// The same, at that place when it names none yet.
    pub(crate) fn at(self, place: impl FnOnce() -> String) -> Self {
        if self.place.is_empty() { ImportError { place: place(), ..self } } else { self }
    }

    /// The kind of refusal.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The node, tensor or value it is about, escaped; empty when it is the file as a whole.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// What was found there, and what is allowed.
    pub fn found(&self) -> &str {
        &self.found
    }

    /// What to do about it.
    pub fn remedy(&self) -> &str {
        &self.remedy
    }

    /// The limit that was met, for [`Class::LimitExceeded`].
    pub fn excess(&self) -> Option<&Excess> {
        self.excess.as_ref()
    }

    /// The file, once it is known.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", escape(&file.to_string_lossy()))?;
        }
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        write!(f, "{}; {}", self.found, self.remedy)
    }
}

impl std::error::Error for ImportError {}

impl From<InferError> for ImportError {
    fn from(error: InferError) -> Self {
        let class = match error.fault {
            Fault::Arity => Class::Arity,
            Fault::BadAttribute => Class::BadAttribute,
            Fault::BadDtype => Class::BadDtype,
            Fault::BadShape => Class::BadShape,
            Fault::ShapeMismatch => Class::ShapeMismatch,
            Fault::IndexOutOfRange => Class::IndexOutOfRange,
            Fault::UnsupportedOp => Class::UnsupportedOp,
            Fault::Limit { limit, allowed, need } => {
                return ImportError::limit(place(&error.node), &error.what, Excess { limit, allowed, need });
            }
        };
        ImportError::new(class, place(&error.node), error.what)
    }
}

fn place(node: &Arc<str>) -> String {
    if node.is_empty() { String::new() } else { format!("node {}", quote(node)) }
}

/// What to do about a class when the place that refuses knows nothing better.
fn remedy(class: Class) -> &'static str {
    match class {
        Class::NotFound => "check the path",
        Class::Unreadable => "check the permissions",
        Class::NotOnnx => "give an ONNX file",
        Class::Truncated => "copy the file again",
        Class::UnsupportedVersion => "export again with operator set 7 to 28",
        Class::UnsupportedOp => "export with standard operators",
        Class::PathEscape => "put the data beside the model and name them by a plain relative path",
        Class::ExternalMissing => "copy the data file beside the model",
        Class::ExternalRange => "copy the data file again, it belongs to another model or is cut",
        Class::LimitExceeded => "simplify the model",
        _ => "export the model again",
    }
}

/// A name out of a file, fit to print: in quotes, control characters and text direction marks escaped, cut at 80 characters.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", escape(name))
}

/// Text out of a file, made as harmless, without the quotes.
pub fn escape(text: &str) -> String {
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == 80 {
            out.push('…');
            break;
        }
        let hidden =
            matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{61c}');
        if c.is_control() || hidden || c == '"' { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_steer_the_terminal() {
        assert_eq!(quote("a\u{1b}[31m\u{202e}b"), "\"a\\u{1b}[31m\\u{202e}b\"");
        assert_eq!(quote(&"x".repeat(100)).chars().count(), 83);
    }

    #[test]
    fn a_limit_names_what_was_found_what_is_allowed_and_the_flag() {
        let excess = Excess { limit: "subgraph-depth", allowed: 16, need: Some(17) };
        let error = ImportError::limit("node \"Loop_7\"", "graphs nested", excess).within(Path::new("deep.onnx"));
        let text =
            "deep.onnx: node \"Loop_7\": graphs nested: 17, the limit is 16; simplify the model, or --limit subgraph-depth=17";
        assert_eq!(error.to_string(), text);
    }
}
