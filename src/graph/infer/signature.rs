//! Signatures: which inputs and outputs share an element type, and which types are allowed.
//!
//! `T T? index* -> T bool; T: float` reads: two inputs of one type, which is a float, the second optional; then any number of i32 or i64;
//! the first output is of that type, the second of truth values. A word in lower case is a fixed class or type, `.` is anything, a sequence
//! included. Capitals are variables; one without a class may be any element type.

use super::{Facts, Fault};
use crate::graph::Type;
use schema::DType;

/// How often an input may come.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Often {
    Once,
    Optional,
    Many,
}

/// Checks the inputs and gives the element types of the outputs, as far as the signature tells them.
pub(super) fn check(signature: &'static str, facts: &Facts<'_>) -> Result<Vec<Option<DType>>, (Fault, String)> {
    let (inputs, outputs, classes) = split(signature);
    let mut bound: Vec<(&str, DType, usize)> = Vec::new();
    let mut words = inputs.split_whitespace().map(often);
    let mut many = None;
    for index in 0.. {
        let Some((word, times)) = many.or_else(|| words.next()) else {
            if index < facts.inputs.len() {
                return Err((Fault::Arity, format!("{} inputs, it has {index}", facts.inputs.len())));
            }
            break;
        };
        if times == Often::Many {
            many = Some((word, times));
            if index >= facts.inputs.len() {
                break;
            }
        }
        let known = facts.inputs.get(index).and_then(Option::as_ref);
        if known.is_none() && times == Often::Once {
            return Err((Fault::Arity, format!("without its input {index}")));
        }
        let Some(known) = known.filter(|_| word != ".") else { continue };
        let dtype = match known.ty {
            Type::Unknown => continue,
            Type::Tensor { dtype, .. } => *dtype,
            other => return Err((Fault::BadDtype, format!("input {index} is {other}, a tensor is needed"))),
        };
        if !is_variable(word) {
            if !allows(word, dtype) {
                return Err((Fault::BadDtype, format!("input {index} is {dtype}, it must be {}", words_of(word))));
            }
            continue;
        }
        if let Some(class) = class_of(classes, word)
            && !allows(class, dtype)
        {
            return Err((Fault::BadDtype, format!("input {index} is {dtype}, it must be {}", words_of(class))));
        }
        match bound.iter().find(|(name, ..)| *name == word) {
            None => bound.push((word, dtype, index)),
            Some(&(_, other, first)) if other != dtype => {
                return Err((Fault::BadDtype, format!("input {index} is {dtype}, input {first} is {other}; they must be alike")));
            }
            Some(_) => {}
        }
    }
    Ok(outputs_of(outputs, &bound, facts.node.outputs.len()))
}

fn outputs_of(outputs: &'static str, bound: &[(&str, DType, usize)], count: usize) -> Vec<Option<DType>> {
    let mut dtypes = Vec::new();
    for (word, times) in outputs.split_whitespace().map(often) {
        let dtype = match bound.iter().find(|(name, ..)| *name == word) {
            Some((_, dtype, _)) => Some(*dtype),
            None => DType::parse(word),
        };
        let repeat = if times == Often::Many { count.saturating_sub(dtypes.len()) } else { 1 };
        dtypes.extend(std::iter::repeat_n(dtype, repeat));
    }
    dtypes
}

fn split(signature: &'static str) -> (&'static str, &'static str, &'static str) {
    let (types, classes) = signature.split_once(';').unwrap_or((signature, ""));
    let (inputs, outputs) = types.split_once("->").expect("a signature has an arrow; a test reads all");
    (inputs, outputs, classes)
}

fn often(word: &'static str) -> (&'static str, Often) {
    if let Some(word) = word.strip_suffix('?') {
        (word, Often::Optional)
    } else if let Some(word) = word.strip_suffix('*') {
        (word, Often::Many)
    } else {
        (word, Often::Once)
    }
}

fn is_variable(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_uppercase())
}

fn class_of(classes: &'static str, variable: &str) -> Option<&'static str> {
    classes
        .split(',')
        .filter_map(|entry| entry.split_once(':'))
        .find(|(name, _)| name.trim() == variable)
        .map(|(_, class)| class.trim())
}

/// Whether a class, or a type by its name, allows an element type.
fn allows(class: &str, dtype: DType) -> bool {
    use DType::*;
    let int = matches!(dtype, I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64);
    let float = matches!(dtype, F16 | Bf16 | F32 | F64);
    match class {
        "any" => true,
        "float" => float,
        "int" => int,
        "num" => float || int,
        "ordered" => float || int || dtype == Bool,
        "index" => matches!(dtype, I32 | I64),
        "byte" => matches!(dtype, I8 | U8),
        "code" => dtype.bits() <= 16 && !float && dtype != Bool && dtype != String,
        "tfidf" => matches!(dtype, String | I32 | I64),
        name => DType::parse(name) == Some(dtype),
    }
}

fn words_of(class: &'static str) -> &'static str {
    match class {
        "float" => "f16, bf16, f32 or f64",
        "int" => "an integer type",
        "num" => "a number",
        "ordered" => "a number or bool",
        "index" => "i32 or i64",
        "byte" => "i8 or u8",
        "code" => "a quantised type",
        "tfidf" => "string, i32 or i64",
        name => name,
    }
}

/// Whether a signature is written as the module says.
#[cfg(test)]
pub(super) fn is_valid(signature: &'static str) -> bool {
    let (inputs, outputs, classes) = split(signature);
    let known = |class: &'static str| class == "any" || words_of(class) != class || DType::parse(class).is_some();
    let word = |word: &'static str| word == "." || is_variable(often(word).0) || known(often(word).0) || often(word).0 == ".";
    inputs.split_whitespace().chain(outputs.split_whitespace()).all(word)
        && classes
            .split(',')
            .filter(|entry| !entry.trim().is_empty())
            .all(|entry| entry.split_once(':').is_some_and(|(name, class)| is_variable(name.trim()) && known(class.trim())))
}
