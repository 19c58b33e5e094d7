//! Element by element: the shape of the input, or what the inputs broadcast to.

use super::facts::{Result, Site};
use super::{Fault, Rule, rule};
use crate::graph::{Dim, Type};

pub(super) static RULES: &[Rule] = &[
    rule("Abs", "T -> T; T: num", same),
    rule("Acos", "T -> T; T: float", same),
    rule("Acosh", "T -> T; T: float", same),
    rule("Add", "T T -> T; T: num", broadcast),
    rule("And", "bool bool -> bool", broadcast),
    rule("Asin", "T -> T; T: float", same),
    rule("Asinh", "T -> T; T: float", same),
    rule("Atan", "T -> T; T: float", same),
    rule("Atanh", "T -> T; T: float", same),
    rule("Bernoulli", "T -> any; T: float", random_like),
    rule("BitCast", "any -> any", bit_cast),
    rule("BitShift", "T T -> T; T: int", bit_shift),
    rule("BitwiseAnd", "T T -> T; T: int", broadcast),
    rule("BitwiseNot", "T -> T; T: int", same),
    rule("BitwiseOr", "T T -> T; T: int", broadcast),
    rule("BitwiseXor", "T T -> T; T: int", broadcast),
    rule("Cast", "any -> any", cast),
    rule("CastLike", "any T -> T", same),
    rule("Ceil", "T -> T; T: float", same),
    rule("Celu", "T -> T; T: float", same),
    rule("Clip", "T T? T? -> T; T: num", clip),
    rule("Cos", "T -> T; T: float", same),
    rule("Cosh", "T -> T; T: float", same),
    rule("Div", "T T -> T; T: num", broadcast),
    rule("Dropout", "T float? bool? -> T bool", dropout),
    rule("Elu", "T -> T; T: float", same),
    rule("Equal", "T T -> bool", broadcast),
    rule("Erf", "T -> T; T: num", same),
    rule("Exp", "T -> T; T: float", same),
    rule("Floor", "T -> T; T: float", same),
    rule("Gelu", "T -> T; T: float", gelu),
    rule("Greater", "T T -> bool; T: num", broadcast),
    rule("GreaterOrEqual", "T T -> bool; T: num", broadcast),
    rule("HardSigmoid", "T -> T; T: float", same),
    rule("HardSwish", "T -> T; T: float", same),
    rule("Identity", ". -> any", identity),
    rule("IsInf", "any -> bool", same),
    rule("IsNaN", "any -> bool", same),
    rule("LeakyRelu", "T -> T; T: float", same),
    rule("Less", "T T -> bool; T: num", broadcast),
    rule("LessOrEqual", "T T -> bool; T: num", broadcast),
    rule("Log", "T -> T; T: float", same),
    rule("Max", "T* -> T; T: num", broadcast),
    rule("Mean", "T* -> T; T: float", broadcast),
    rule("Min", "T* -> T; T: num", broadcast),
    rule("Mish", "T -> T; T: float", same),
    rule("Mod", "T T -> T; T: num", modulo),
    rule("Mul", "T T -> T; T: num", broadcast),
    rule("Neg", "T -> T; T: num", same),
    rule("Not", "bool -> bool", same),
    rule("Or", "bool bool -> bool", broadcast),
    rule("PRelu", "T T -> T; T: num", slope),
    rule("Pow", "T num -> T; T: num", broadcast),
    rule("RandomNormalLike", "any -> any", random_like),
    rule("RandomUniformLike", "any -> any", random_like),
    rule("Reciprocal", "T -> T; T: float", same),
    rule("Relu", "T -> T; T: num", same),
    rule("Round", "T -> T; T: float", same),
    rule("Selu", "T -> T; T: float", same),
    rule("Shrink", "T -> T; T: num", same),
    rule("Sigmoid", "T -> T; T: float", same),
    rule("Sign", "T -> T; T: num", same),
    rule("Sin", "T -> T; T: float", same),
    rule("Sinh", "T -> T; T: float", same),
    rule("Softplus", "T -> T; T: float", same),
    rule("Softsign", "T -> T; T: float", same),
    rule("Sqrt", "T -> T; T: float", same),
    rule("StringConcat", "string string -> string", broadcast),
    rule("Sub", "T T -> T; T: num", broadcast),
    rule("Sum", "T* -> T; T: float", broadcast),
    rule("SwiGLU", "T T -> T; T: float", broadcast),
    rule("Swish", "T -> T; T: float", same),
    rule("Tan", "T -> T; T: float", same),
    rule("Tanh", "T -> T; T: float", same),
    rule("ThresholdedRelu", "T -> T; T: float", same),
    rule("Where", "bool T T -> T", broadcast),
    rule("Xor", "bool bool -> bool", broadcast),
];

/// The first input's shape.
pub(super) fn same(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.like(0)
}

/// What all inputs broadcast to.
pub(super) fn broadcast(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let mut shape: Vec<Dim> = Vec::new();
    for index in 0..site.inputs() {
        match site.shape(index) {
            Some(next) => shape = site.broadcast(&shape, next)?,
            None => return Ok(vec![site.out(0, None)]),
        }
    }
    Ok(vec![site.out(0, Some(shape))])
}

fn identity(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    Ok(vec![site.ty(0).cloned().unwrap_or_default()])
}

fn cast(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let Some(to) = site.dtype_attribute("to")? else { return site.attribute_error("without its attribute to") };
    let shape = site.shape(0).map(<[Dim]>::to_vec);
    Ok(vec![site.tensor(Some(to), shape)])
}

fn bit_cast(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    if let (Some(from), Some(to)) = (site.dtype(0), site.dtype_attribute("to")?)
        && from.bits() != to.bits()
    {
        return Err(site.error(Fault::BadDtype, format!("{from} and {to} differ in width")));
    }
    cast(site)
}

/// The type of the attribute `dtype`, else of the input.
fn random_like(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let dtype = site.dtype_attribute("dtype")?.or(site.dtype(0));
    Ok(vec![site.tensor(dtype, site.shape(0).map(<[Dim]>::to_vec))])
}

fn bit_shift(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.choice("direction", &["LEFT", "RIGHT"])?;
    broadcast(site)
}

fn gelu(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.choice("approximate", &["none", "tanh"])?;
    same(site)
}

fn modulo(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.flag("fmod", false)?;
    broadcast(site)
}

/// Bounds are scalars; some exporters write them as one element.
fn clip(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    for index in 1..site.inputs() {
        if site.shape(index).and_then(super::shape::elements).is_some_and(|count| count != 1) {
            return site.shape_error(format!("bound {index} is no scalar"));
        }
    }
    same(site)
}

fn dropout(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let shape = site.shape(0).map(<[Dim]>::to_vec);
    Ok(vec![site.out(0, shape.clone()), site.out(1, shape)])
}

/// The slope broadcasts to the input, not the other way round.
fn slope(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    if let (Some(shape), Some(slope)) = (site.shape(0), site.shape(1)) {
        let wide = site.broadcast(shape, slope)?;
        let grown = |(a, b): (&Dim, &Dim)| matches!((a.fixed(), b.fixed()), (Some(a), Some(b)) if a != b);
        if wide.len() != shape.len() || wide.iter().zip(shape).any(grown) {
            return site.mismatch("the slope has more elements than the input");
        }
    }
    same(site)
}
