//! Signals, random numbers and texts.

use super::facts::{Result, Site};
use super::shape;
use super::symbol::Expr;
use super::{Item, Rule, elementwise, rule};
use crate::graph::{Dim, Type};
use schema::DType;

pub(super) static RULES: &[Rule] = &[
    rule("BlackmanWindow", "index -> any", window),
    rule("DFT", "T index? i64? -> T; T: float", dft),
    rule("HammingWindow", "index -> any", window),
    rule("HannWindow", "index -> any", window),
    rule("MelWeightMatrix", "index index index float float -> any", mel_weights),
    rule("Multinomial", "float -> any", multinomial),
    rule("RandomNormal", "-> any", random),
    rule("RandomUniform", "-> any", random),
    rule("RegexFullMatch", "string -> bool", elementwise::same),
    rule("STFT", "T index T? index? -> T; T: float", stft),
    rule("StringNormalizer", "string -> string", normalise_texts),
    rule("StringSplit", "string -> string i64", split_texts),
    rule("TfIdfVectorizer", "T -> f32; T: tfidf", tfidf),
];

/// The one element of an input as an extent.
fn extent_input(site: &Site<'_, '_>, index: usize, axis: usize) -> Result<Dim> {
    match site.items(index).as_deref() {
        Some([Item::Int(expr)]) => shape::dim(site, Some(expr.clone()), axis),
        _ => Ok(site.open(0, axis)),
    }
}

fn window(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.flag("periodic", true)?;
    let dtype = site.dtype_attribute("output_datatype")?.unwrap_or(DType::F32);
    Ok(vec![site.tensor(Some(dtype), Some(vec![extent_input(site, 0, 0)?]))])
}

fn mel_weights(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let dtype = site.dtype_attribute("output_datatype")?.unwrap_or(DType::F32);
    let bins = match site.int_input(1) {
        Some(length) if length >= 0 => site.extent(length / 2 + 1)?,
        Some(length) => return site.shape_error(format!("a DFT of {length} points")),
        None => site.open(0, 0),
    };
    Ok(vec![site.tensor(Some(dtype), Some(vec![bins, extent_input(site, 0, 1)?]))])
}

fn dft(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let (one_sided, inverse) = (site.flag("onesided", false)?, site.flag("inverse", false)?);
    let Some(input) = site.shape(0) else { return Ok(vec![site.out(0, None)]) };
    let Some(last) = input.len().checked_sub(1).filter(|&last| last > 0) else {
        return site.shape_error("fewer than 2 axes");
    };
    if input[last].fixed().is_some_and(|parts| parts != 1 && parts != 2) {
        return site.shape_error(format!("the last axis has {} elements, real numbers have 1 and complex ones 2", input[last]));
    }
    let axis = match (site.input(2).is_some(), site.int_input(2)) {
        (false, _) => site.resolve_axis("axis", -2, input.len())?,
        (true, Some(axis)) => site.resolve_axis("axis", axis, input.len())?,
        (true, None) => return Ok(vec![site.out(0, Some(site.open_shape(0, input.len())))]),
    };
    if axis == last {
        return site.attribute_error("the axis of real and imaginary parts cannot be transformed");
    }
    let mut out = input.to_vec();
    if site.input(1).is_some() {
        out[axis] = extent_input(site, 1, axis)?;
    }
    out[last] = Dim::Fixed(2);
    if one_sided && inverse {
        // The other half is its mirror image; the result is real.
        out[last] = Dim::Fixed(1);
        if site.input(1).is_none() {
            let whole = Expr::of(&out[axis]).sub(&Expr::number(1)).and_then(|half| half.mul(&Expr::number(2)));
            out[axis] = shape::dim(site, whole, axis)?;
        }
    } else if one_sided {
        let half = Expr::of(&out[axis]).div_floor(&Expr::number(2)).and_then(|half| half.add(&Expr::number(1)));
        out[axis] = shape::dim(site, half, axis)?;
    }
    Ok(vec![site.out(0, Some(out))])
}

fn stft(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let one_sided = site.flag("onesided", true)?;
    let Some(signal) = site.shape_of_rank(0, 3)? else { return Ok(vec![site.out(0, Some(site.open_shape(0, 4)))]) };
    let frame = match site.input(3) {
        Some(_) => site.int_input(3),
        None => site.shape(2).and_then(|window| window.first()?.fixed()).and_then(|length| i64::try_from(length).ok()),
    };
    let (Some(frame), Some(step)) = (frame, site.int_input(1)) else {
        let mut out = site.open_shape(0, 4);
        (out[0], out[3]) = (signal[0].clone(), Dim::Fixed(2));
        return Ok(vec![site.out(0, Some(out))]);
    };
    if step < 1 || frame < 1 {
        return site.attribute_error(format!("frames of {frame} every {step}"));
    }
    let frames = match signal[1].fixed() {
        Some(length) if (length as u64) < frame as u64 => {
            return site.shape_error(format!("frames of {frame} of {length} samples"));
        }
        Some(length) => site.extent((length as i64 - frame) / step + 1)?,
        None => {
            let room = Expr::of(&signal[1]).sub(&Expr::number(frame)).and_then(|room| room.div_floor(&Expr::number(step)));
            shape::dim(site, room.and_then(|room| room.add(&Expr::number(1))), 1)?
        }
    };
    let bins = site.extent(if one_sided { frame / 2 + 1 } else { frame })?;
    Ok(vec![site.out(0, Some(vec![signal[0].clone(), frames, bins, Dim::Fixed(2)]))])
}

fn multinomial(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let dtype = site.dtype_attribute("dtype")?.unwrap_or(DType::I32);
    let count = site.extent(site.positive("sample_size", 1)?)?;
    let batch = site.shape_of_rank(0, 2)?.map_or_else(|| site.open(0, 0), |shape| shape[0].clone());
    Ok(vec![site.tensor(Some(dtype), Some(vec![batch, count]))])
}

fn random(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let dtype = site.dtype_attribute("dtype")?.unwrap_or(DType::F32);
    let Some(shape) = site.ints_attribute("shape")? else { return site.attribute_error("without its attribute shape") };
    let shape = shape.iter().map(|&extent| site.extent(extent)).collect::<Result<_>>()?;
    Ok(vec![site.tensor(Some(dtype), Some(shape))])
}

/// Stop words are removed, so the number of texts is open.
fn normalise_texts(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.choice("case_change_action", &["NONE", "LOWER", "UPPER"])?;
    let Some(shape) = site.shape(0) else { return Ok(vec![site.out(0, None)]) };
    let mut out = shape.to_vec();
    if site.node().attributes.get("stopwords").is_some()
        && let Some(last) = out.len().checked_sub(1)
    {
        out[last] = site.open(0, last);
    }
    Ok(vec![site.out(0, Some(out))])
}

fn split_texts(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let Some(shape) = site.shape(0) else { return Ok(vec![site.out(0, None), site.out(1, None)]) };
    let mut parts = shape.to_vec();
    parts.push(site.open(0, shape.len()));
    Ok(vec![site.out(0, Some(parts)), site.out(1, Some(shape.to_vec()))])
}

fn tfidf(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.choice("mode", &["TF", "IDF", "TFIDF"])?;
    let indexes = site.ints_attribute("ngram_indexes")?.unwrap_or_default();
    let Some(length) = indexes.iter().copied().max().unwrap_or(-1).checked_add(1) else {
        return site.attribute_error("ngram_indexes overflow");
    };
    let length = site.extent(length)?;
    let Some(shape) = site.shape(0) else { return Ok(vec![site.out(0, None)]) };
    let out = match shape {
        [] | [_] => vec![length],
        [batch, _] => vec![batch.clone(), length],
        _ => return site.shape_error(format!("an input of {} axes, 2 are the most", shape.len())),
    };
    Ok(vec![site.out(0, Some(out))])
}
