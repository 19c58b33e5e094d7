//! Attention and what goes with it.

use super::facts::{Result, Site};
use super::shape;
use super::symbol::Expr;
use super::{Rule, rule};
use crate::graph::{Dim, Type};

pub(super) static RULES: &[Rule] = &[
    rule("Attention", "T T V any? T? V? i64? -> T T V T; T: float, V: float", attention),
    rule("LinearAttention", "T T T S? T? T? -> T S; T: float, S: float", linear_attention),
    rule("RotaryEmbedding", "T T T i64? -> T; T: float", rotary),
];

/// Heads and head size of Q, K or V: `[batch, heads, length, size]`, or `[batch, length, heads·size]` with the heads in an attribute.
fn heads(site: &Site<'_, '_>, index: usize, attribute: &str) -> Result<Option<[Dim; 4]>> {
    let Some(given) = site.shape(index) else { return Ok(None) };
    match given {
        [batch, heads, length, size] => Ok(Some([batch.clone(), heads.clone(), length.clone(), size.clone()])),
        [batch, length, all] => {
            let heads = site.positive(attribute, 0)?;
            let size = match all.fixed() {
                Some(all) if !(all as u64).is_multiple_of(heads as u64) => {
                    return site.mismatch(format!("{all} features for {heads} heads"));
                }
                Some(all) => Dim::Fixed(all / heads as usize),
                None => shape::dim(site, Expr::of(all).div_exact(&Expr::number(heads)), 3)?,
            };
            Ok(Some([batch.clone(), Dim::Fixed(heads as usize), length.clone(), size]))
        }
        _ => site.shape_error(format!("input {index} has {} axes, 3 or 4 are needed", given.len())),
    }
}

fn attention(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.flag("is_causal", false)?;
    let q = heads(site, 0, "q_num_heads")?;
    let k = heads(site, 1, "kv_num_heads")?;
    let v = heads(site, 2, "kv_num_heads")?;
    let (Some(q), Some(k), Some(v)) = (q, k, v) else { return Ok((0..4).map(|output| site.out(output, None)).collect()) };
    site.same(&q[3], &k[3], "head sizes of Q and K")?;
    site.same(&k[2], &v[2], "lengths of K and V")?;
    let flat = site.shape(0).is_some_and(|shape| shape.len() == 3);
    let out = if flat {
        vec![q[0].clone(), q[2].clone(), shape::dim(site, Expr::of(&q[1]).mul(&Expr::of(&v[3])), 2)?]
    } else {
        vec![q[0].clone(), q[1].clone(), q[2].clone(), v[3].clone()]
    };
    let past = |index: usize| -> Result<Option<Dim>> { Ok(site.shape_of_rank(index, 4)?.map(|shape| shape[2].clone())) };
    let total = match (site.input(4).is_some(), past(4)?) {
        (true, Some(past)) => shape::dim(site, Expr::of(&past).add(&Expr::of(&k[2])), 2)?,
        (true, None) => site.open(1, 2),
        (false, _) => k[2].clone(),
    };
    let present = |of: &[Dim; 4]| vec![of[0].clone(), of[1].clone(), total.clone(), of[3].clone()];
    let scores = vec![q[0].clone(), q[1].clone(), q[2].clone(), total.clone()];
    Ok(vec![site.out(0, Some(out)), site.out(1, Some(present(&k))), site.out(2, Some(present(&v))), site.out(3, Some(scores))])
}

/// Q, K, V `[batch, length, heads·size]`; the state `[batch, kv heads, size of K, size of V]`.
fn linear_attention(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let q = heads(site, 0, "q_num_heads")?;
    let (k, v) = (heads(site, 1, "kv_num_heads")?, heads(site, 2, "kv_num_heads")?);
    let (Some(q), Some(k), Some(v)) = (q, k, v) else { return Ok(vec![site.out(0, None), site.out(1, None)]) };
    let wide = shape::dim(site, Expr::of(&q[1]).mul(&Expr::of(&v[3])), 2)?;
    let out = vec![q[0].clone(), q[2].clone(), wide];
    let state = vec![k[0].clone(), k[1].clone(), k[3].clone(), v[3].clone()];
    // Without a past state, the state has the type of the values.
    let dtype = site.dtype(3).or(site.dtype(2));
    Ok(vec![site.out(0, Some(out)), site.tensor(dtype, Some(state))])
}

fn rotary(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.flag("interleaved", false)?;
    if let Some(shape) = site.shape(0)
        && !(3..=4).contains(&shape.len())
    {
        return site.shape_error(format!("an input of {} axes, 3 or 4 are needed", shape.len()));
    }
    if site.shape(0).is_some_and(|shape| shape.len() == 3) {
        site.positive("num_heads", 0)?;
    }
    site.like(0)
}
