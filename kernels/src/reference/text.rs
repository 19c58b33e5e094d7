//! Operators on texts.

use super::binary::zip;
use super::call::one;
use super::walk::broadcast_shape;
use super::{Call, Evaluate, EvaluateError};
use crate::{Datum, Tensor};
use regex::Regex;
use schema::DType;
use std::collections::HashMap;

type Result<T> = std::result::Result<T, EvaluateError>;

pub(super) static OPERATORS: &[(&str, Evaluate)] = &[
    ("StringConcat", concat),
    ("StringSplit", split),
    ("StringNormalizer", normalize),
    ("RegexFullMatch", full_match),
    ("TfIdfVectorizer", vectorize),
];

/// The texts of an input.
fn texts<'a>(call: &Call<'a>, index: usize) -> Result<(&'a [String], &'a [usize])> {
    let tensor = call.tensor(index)?;
    match tensor.texts() {
        Some(texts) => Ok((texts, tensor.shape())),
        None => Err(call.dtype_error(tensor.dtype())),
    }
}

fn concat(call: &Call<'_>) -> Result<Vec<Datum>> {
    let ((a, a_shape), (b, b_shape)) = (texts(call, 0)?, texts(call, 1)?);
    let shape = broadcast_shape(call.op, &[a_shape, b_shape])?;
    let count = call.budget.take(DType::String, &shape)?;
    let longest = |texts: &[String]| texts.iter().map(String::len).max().unwrap_or(0);
    call.budget.take(DType::U8, &[count, longest(a) + longest(b)])?;
    let a: Vec<&str> = a.iter().map(String::as_str).collect();
    let b: Vec<&str> = b.iter().map(String::as_str).collect();
    let joined = zip((&a, a_shape), (&b, b_shape), &shape, |x, y| [x, y].concat());
    one(Tensor::strings(shape, joined))
}

/// Splits as Python does: at runs of blanks when there is no delimiter, otherwise at each delimiter; at most `limit` times.
fn split_text<'a>(text: &'a str, delimiter: &str, limit: Option<usize>) -> Vec<&'a str> {
    if !delimiter.is_empty() {
        return match limit {
            Some(limit) => text.splitn(limit.saturating_add(1), delimiter).collect(),
            None => text.split(delimiter).collect(),
        };
    }
    let mut parts = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if limit == Some(parts.len()) {
            parts.push(rest.trim_end());
            break;
        }
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start();
    }
    parts
}

/// Outputs: the parts, padded with empty texts to the longest row; how many parts each text has.
fn split(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (values, shape) = texts(call, 0)?;
    let limit = call.attributes.int("maxsplit").and_then(|limit| usize::try_from(limit).ok());
    let delimiter = call.text("delimiter", "");
    let rows: Vec<Vec<&str>> = values.iter().map(|text| split_text(text, delimiter, limit)).collect();
    let widest = rows.iter().map(Vec::len).max().unwrap_or(0);
    let full = [shape, &[widest]].concat();
    let count = call.budget.take(DType::String, &full)?;
    call.budget.take(DType::U8, &[values.iter().map(String::len).sum()])?;
    let mut parts = Vec::with_capacity(count);
    for row in &rows {
        parts.extend(row.iter().map(|part| (*part).to_owned()));
        parts.resize(parts.len() + widest - row.len(), String::new());
    }
    let lengths = rows.iter().map(|row| row.len() as i64).collect();
    Ok(vec![Tensor::strings(full, parts).into(), Tensor::new(shape.to_vec(), lengths).into()])
}

/// Drops stop words and changes the case of whole texts.
fn normalize(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (values, shape) = texts(call, 0)?;
    let rows = match shape {
        [_] => None,
        [1, _] => Some(1),
        _ => return Err(call.shape_error(format_args!("{shape:?} is neither [c] nor [1, c]"))),
    };
    let stops = call.texts("stopwords").unwrap_or(&[]);
    let sensitive = call.flag("is_case_sensitive", false);
    let stopped = |text: &String| match sensitive {
        true => stops.contains(text),
        false => stops.iter().any(|stop| stop.to_lowercase() == text.to_lowercase()),
    };
    let change: fn(&String) -> String = match call.text("case_change_action", "NONE") {
        "NONE" => String::clone,
        "LOWER" => |text| text.to_lowercase(),
        "UPPER" => |text| text.to_uppercase(),
        other => return Err(call.attribute_error(format_args!("case_change_action '{other}'"))),
    };
    call.budget.take(DType::String, shape)?;
    call.budget.take(DType::U8, &[values.iter().map(String::len).sum()])?;
    call.budget.work((values.len() as u64).saturating_mul(1 + stops.len() as u64))?;
    let mut kept: Vec<String> = values.iter().filter(|text| !stopped(text)).map(change).collect();
    if kept.is_empty() {
        kept.push(String::new());
    }
    let shape = rows.into_iter().chain([kept.len()]).collect();
    one(Tensor::strings(shape, kept))
}

fn full_match(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (values, shape) = texts(call, 0)?;
    let pattern = format!("^(?:{})$", call.text("pattern", ""));
    let regex = Regex::new(&pattern).map_err(|error| call.attribute_error(format_args!("pattern: {error}")))?;
    call.budget.take(DType::Bool, shape)?;
    // `$` also matches before a last line feed in some engines; here it is the end of the text only.
    one(Tensor::bools(shape.to_vec(), values.iter().map(|text| regex.is_match(text)).collect()))
}

/// An n-gram as places in a table of words.
type Grams = HashMap<Vec<usize>, usize>;

/// The n-grams of a vectorizer, and the words they are made of.
struct Vocabulary {
    words: HashMap<String, usize>,
    /// From an n-gram to its column.
    grams: Grams,
    columns: usize,
    weights: Option<Vec<f64>>,
    shortest: usize,
    longest: usize,
}

impl Vocabulary {
    fn new(call: &Call<'_>) -> Result<Self> {
        let pool: Vec<String> = match (call.texts("pool_strings"), call.ints("pool_int64s")) {
            (Some(texts), None) => texts.to_vec(),
            (None, Some(numbers)) => numbers.iter().map(i64::to_string).collect(),
            _ => return Err(call.attribute_error("needs one of pool_strings and pool_int64s")),
        };
        let size = |name: &str| usize::try_from(call.int(name, 0)).ok().filter(|&size| (1..=64).contains(&size));
        let (Some(shortest), Some(longest)) = (size("min_gram_length"), size("max_gram_length")) else {
            return Err(call.attribute_error("gram lengths are not in 1 … 64"));
        };
        let counts = call.extents(call.ints("ngram_counts").unwrap_or(&[]))?;
        let columns_of = call.extents(call.ints("ngram_indexes").unwrap_or(&[]))?;
        let columns = columns_of.iter().max().map_or(0, |&last| last.saturating_add(1));
        let (mut words, mut grams) = (HashMap::new(), HashMap::new());
        let mut gram = 0;
        for (i, &from) in counts.iter().enumerate() {
            let to = counts.get(i + 1).copied().unwrap_or(pool.len());
            let items = pool.get(from..to).ok_or_else(|| call.attribute_error("ngram_counts exceed the pool"))?;
            for words_of in items.chunks_exact(i + 1) {
                let column = *columns_of.get(gram).ok_or_else(|| call.attribute_error("ngram_indexes are too few"))?;
                gram += 1;
                if !(shortest..=longest).contains(&(i + 1)) {
                    continue;
                }
                let known = words_of.iter().map(|word| {
                    let next = words.len();
                    *words.entry(word.clone()).or_insert(next)
                });
                grams.insert(known.collect(), column);
            }
        }
        let weights = call.floats("weights").map(|weights| weights.iter().map(|&weight| f64::from(weight)).collect::<Vec<f64>>());
        let per_column = |weights: Vec<f64>| {
            // Weights go with n-grams in the order of the pool; here they are wanted by column.
            let mut by_column = vec![1.0; columns];
            columns_of.iter().zip(&weights).for_each(|(&column, &weight)| by_column[column] = weight);
            by_column
        };
        Ok(Vocabulary { words, grams, columns, weights: weights.map(per_column), shortest, longest })
    }

    /// Counts the n-grams of a row, with up to `skips` words left out between two.
    fn count(&self, row: &[Option<usize>], skips: usize, counts: &mut [f64]) {
        for distance in 1..=skips.saturating_add(1).min(row.len().max(1)) {
            for first in 0..row.len() {
                let mut gram = Vec::new();
                for word in row[first..].iter().step_by(distance).take(self.longest) {
                    let Some(word) = word else { break };
                    gram.push(*word);
                    // Single words have nothing between them: they count once.
                    let counted = gram.len() >= self.shortest && (gram.len() > 1 || distance == 1);
                    if let (true, Some(&column)) = (counted, self.grams.get(&gram)) {
                        counts[column] += 1.0;
                    }
                }
            }
        }
    }
}

fn vectorize(call: &Call<'_>) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    let vocabulary = Vocabulary::new(call)?;
    let (rows, width, batched) = match *x.shape() {
        [] => (1, 1, false),
        [width] => (1, width, false),
        [rows, width] => (rows, width, true),
        _ => return Err(call.shape_error(format_args!("input {:?}", x.shape()))),
    };
    let skips = usize::try_from(call.int("max_skip_count", 0)).map_err(|_| call.attribute_error("max_skip_count is negative"))?;
    let count = call.budget.take(DType::F32, &[rows, vocabulary.columns])?;
    let steps = (skips as u64 + 1).min(width as u64).saturating_mul(vocabulary.longest as u64);
    call.budget.work((x.len() as u64).saturating_mul(steps).saturating_mul(8))?;
    let words: Vec<Option<usize>> = match (x.texts(), x.to_ints()) {
        (Some(texts), _) => texts.iter().map(|text| vocabulary.words.get(text).copied()).collect(),
        (None, Some(numbers)) => numbers.iter().map(|number| vocabulary.words.get(&number.to_string()).copied()).collect(),
        _ => return Err(call.dtype_error(x.dtype())),
    };
    let mut out = vec![0.0; count];
    if vocabulary.columns > 0 {
        for (row, counts) in out.chunks_exact_mut(vocabulary.columns).enumerate() {
            vocabulary.count(&words[row * width..(row + 1) * width], skips, counts);
        }
    }
    let weight = |at: usize| vocabulary.weights.as_ref().map_or(1.0, |weights| weights[at % vocabulary.columns]);
    let mode = call.text("mode", "TF");
    let value = |(at, count): (usize, f64)| match mode {
        "IDF" => {
            if count > 0.0 {
                weight(at)
            } else {
                0.0
            }
        }
        "TFIDF" => count * weight(at),
        _ => count,
    };
    if !matches!(mode, "TF" | "IDF" | "TFIDF") {
        return Err(call.attribute_error(format_args!("mode '{mode}'")));
    }
    let values: Vec<f32> = out.into_iter().enumerate().map(|pair| value(pair) as f32).collect();
    let shape = if batched { vec![rows, vocabulary.columns] } else { vec![vocabulary.columns] };
    one(Tensor::new(shape, values))
}
