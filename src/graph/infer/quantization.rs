//! Quantisation.

use super::facts::{Result, Site};
use super::{Fault, Rule, rule};
use crate::graph::{Dim, Type};
use schema::DType;

pub(super) static RULES: &[Rule] = &[
    rule("DequantizeLinear", "T S T? -> any", dequantize),
    rule("DynamicQuantizeLinear", "f32 -> u8 f32 u8", dynamic),
    rule("QLinearConv", "T f32 T W f32 W f32 Y i32? -> Y; T: byte, W: byte, Y: byte", conv),
    rule("QLinearMatMul", "A S A B S B S Y -> Y; A: code, B: code, Y: code, S: float", matmul),
    rule("QuantizeLinear", "any any T? -> T", quantize),
];

/// The scale is one number, or one per slice of `axis`, or one per block of it.
fn scale(site: &Site<'_, '_>) -> Result<()> {
    let block = site.int("block_size", 0)?;
    if block < 0 {
        return site.attribute_error(format!("block_size is {block}"));
    }
    let (Some(shape), Some(scale)) = (site.shape(0), site.shape(1)) else { return Ok(()) };
    if scale.len() == 1 && block == 0 && scale[0] != Dim::Fixed(1) {
        let axis = site.axis(1, shape.len())?;
        site.same(&shape[axis], &scale[0], "scales against the axis")?;
    }
    Ok(())
}

fn dequantize(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    scale(site)?;
    let dtype = given(site)?.or(site.dtype(1));
    Ok(vec![site.tensor(dtype, site.shape(0).map(<[Dim]>::to_vec))])
}

/// `output_dtype`; 0 says nothing.
fn given(site: &Site<'_, '_>) -> Result<Option<DType>> {
    if site.int("output_dtype", 0)? == 0 { Ok(None) } else { site.dtype_attribute("output_dtype") }
}

fn quantize(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    scale(site)?;
    let given = given(site)?;
    if let (Some(given), Some(zero)) = (given, site.dtype(2))
        && given != zero
    {
        return Err(site.error(Fault::BadDtype, format!("output_dtype is {given}, the zero point {zero}")));
    }
    let dtype = site.dtype(2).or(given).unwrap_or(DType::U8);
    Ok(vec![site.tensor(Some(dtype), site.shape(0).map(<[Dim]>::to_vec))])
}

fn dynamic(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let mut types = site.like(0)?;
    types.extend([1, 2].map(|output| site.out(output, Some(vec![]))));
    Ok(types)
}

fn conv(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let (Some(input), Some(weight)) = (site.shape(0), site.shape(3)) else { return Ok(vec![site.out(0, None)]) };
    Ok(vec![site.out(0, Some(super::pooling::conv_shape(site, input, weight)?))])
}

fn matmul(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let (Some(a), Some(b)) = (site.shape(0), site.shape(3)) else { return Ok(vec![site.out(0, None)]) };
    Ok(vec![site.out(0, Some(super::product::product(site, a, b)?))])
}
