//! Images and detection, and the losses.

use super::facts::{Result, Site};
use super::shape;
use super::{Item, Rule, rule};
use crate::graph::{Dim, Type};

pub(super) static RULES: &[Rule] = &[
    rule("AffineGrid", "T i64 -> T; T: float", affine_grid),
    rule("GridSample", "T G -> T; G: float", grid_sample),
    rule("ImageDecoder", "u8 -> u8", image_decoder),
    rule("MaxRoiPool", "T T -> T; T: float", max_roi_pool),
    rule("NegativeLogLikelihoodLoss", "T index T? -> T; T: float", loss),
    rule("NonMaxSuppression", "f32 f32 i64? f32? f32? -> i64", non_max_suppression),
    rule("Resize", "T any? f32? i64? -> T", resize),
    rule("RoiAlign", "T T i64 -> T; T: float", roi_align),
    rule("SoftmaxCrossEntropyLoss", "T index T? -> T T; T: float", cross_entropy),
];

fn affine_grid(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.flag("align_corners", false)?;
    let Some(size) = site.ints(1) else {
        return Ok(vec![site.out(0, site.len_of(1).map(|rank| site.open_shape(0, rank)))]);
    };
    if size.len() != 4 && size.len() != 5 {
        return site.shape_error(format!("a size of {} axes, 4 or 5 are needed", size.len()));
    }
    // [n, c, …] gives a grid [n, …, number of spatial axes].
    let mut out = vec![site.extent(size[0])?];
    for &extent in &size[2..] {
        out.push(site.extent(extent)?);
    }
    out.push(Dim::Fixed(size.len() - 2));
    Ok(vec![site.out(0, Some(out))])
}

fn grid_sample(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.choice("mode", &["linear", "nearest", "cubic"])?;
    site.choice("padding_mode", &["zeros", "border", "reflection"])?;
    site.flag("align_corners", false)?;
    let (Some(input), Some(grid)) = (site.shape(0), site.shape(1)) else { return Ok(vec![site.out(0, None)]) };
    if input.len() < 3 || grid.len() != input.len() {
        return site.mismatch(format!("a grid of {} axes for an input of {}", grid.len(), input.len()));
    }
    let batch = site.same(&input[0], &grid[0], "batch against the grid's")?;
    site.same(&grid[grid.len() - 1], &Dim::Fixed(input.len() - 2), "coordinates")?;
    let out = [batch, input[1].clone()].into_iter().chain(grid[1..grid.len() - 1].iter().cloned()).collect();
    Ok(vec![site.out(0, Some(out))])
}

fn image_decoder(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let channels = if site.choice("pixel_format", &["RGB", "BGR", "Grayscale"])? == "Grayscale" { 1 } else { 3 };
    site.shape_of_rank(0, 1)?;
    Ok(vec![site.out(0, Some(vec![site.open(0, 0), site.open(0, 1), Dim::Fixed(channels)]))])
}

fn max_roi_pool(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let Some([height, width]) = site.ints_attribute("pooled_shape")? else {
        return site.attribute_error("pooled_shape needs 2 extents");
    };
    let (Some(input), Some(rois)) = (site.shape_of_rank(0, 4)?, site.shape_of_rank(1, 2)?) else {
        return Ok(vec![site.out(0, Some(site.open_shape(0, 4)))]);
    };
    let out = vec![rois[0].clone(), input[1].clone(), site.extent(*height)?, site.extent(*width)?];
    Ok(vec![site.out(0, Some(out))])
}

fn roi_align(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.choice("mode", &["avg", "max"])?;
    site.choice("coordinate_transformation_mode", &["half_pixel", "output_half_pixel"])?;
    let (height, width) = (site.positive("output_height", 1)?, site.positive("output_width", 1)?);
    let (Some(input), Some(rois)) = (site.shape_of_rank(0, 4)?, site.shape_of_rank(1, 2)?) else {
        return Ok(vec![site.out(0, Some(site.open_shape(0, 4)))]);
    };
    let out = vec![rois[0].clone(), input[1].clone(), site.extent(height)?, site.extent(width)?];
    Ok(vec![site.out(0, Some(out))])
}

fn non_max_suppression(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.flag("center_point_box", false)?;
    let (boxes, scores) = (site.shape_of_rank(0, 3)?, site.shape_of_rank(1, 3)?);
    if let (Some(boxes), Some(scores)) = (boxes, scores) {
        site.same(&boxes[1], &scores[2], "boxes against scores")?;
        site.same(&boxes[2], &Dim::Fixed(4), "numbers of a box")?;
    }
    Ok(vec![site.out(0, Some(vec![site.open(0, 0), Dim::Fixed(3)]))])
}

fn resize(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.choice("mode", &["nearest", "linear", "cubic"])?;
    let policy = site.choice("keep_aspect_ratio_policy", &["stretch", "not_larger", "not_smaller"])?;
    let Some(input) = site.shape(0) else { return Ok(vec![site.out(0, None)]) };
    let axes = match site.ints_attribute("axes")? {
        Some(axes) => site.resolve_axes(axes, input.len())?,
        None => (0..input.len()).collect(),
    };
    let (scales, sizes) = (site.input(2).is_some(), site.input(3).is_some());
    if scales == sizes {
        return site.attribute_error("needs scales or sizes, one of them");
    }
    let Some(items) = site.items(if scales { 2 } else { 3 }) else {
        return Ok(vec![site.out(0, Some(site.open_shape(0, input.len())))]);
    };
    if items.len() != axes.len() {
        return site.shape_error(format!("{} scales or sizes for {} axes", items.len(), axes.len()));
    }
    let mut out = input.to_vec();
    if scales {
        for (&axis, item) in axes.iter().zip(&items) {
            out[axis] = scaled(site, &input[axis], item, axis)?;
        }
        return Ok(vec![site.out(0, Some(out))]);
    }
    if policy != "stretch" {
        let fixed: Option<Vec<(f64, f64)>> =
            axes.iter().zip(&items).map(|(&axis, item)| Some((input[axis].fixed()? as f64, item.int()? as f64))).collect();
        let Some(pairs) = fixed else { return Ok(vec![site.out(0, Some(site.open_shape(0, input.len())))]) };
        let ratios = pairs.iter().map(|(have, want)| want / have);
        let ratio = if policy == "not_larger" { ratios.fold(f64::INFINITY, f64::min) } else { ratios.fold(0.0, f64::max) };
        for (&axis, (have, _)) in axes.iter().zip(&pairs) {
            out[axis] = site.extent((have * ratio).round() as i64)?;
        }
        return Ok(vec![site.out(0, Some(out))]);
    }
    for (&axis, item) in axes.iter().zip(items) {
        out[axis] = match item {
            Item::Int(expr) => shape::dim(site, Some(expr), axis)?,
            _ => site.open(0, axis),
        };
    }
    Ok(vec![site.out(0, Some(out))])
}

fn scaled(site: &Site<'_, '_>, dim: &Dim, scale: &Item, axis: usize) -> Result<Dim> {
    let Item::Real(scale) = scale else { return Ok(site.open(0, axis)) };
    // A scale is f32; `floor` of the product is what the standard says.
    if !(scale.is_finite() && *scale > 0.0) {
        return site.attribute_error(format!("a scale of {scale}, it must be more than 0"));
    }
    if *scale == 1.0 {
        return Ok(dim.clone());
    }
    match dim.fixed() {
        Some(extent) => site.extent((extent as f64 * scale).floor() as i64),
        None if scale.fract() == 0.0 && *scale < 1e6 => shape::mul(site, dim, *scale as i64, axis),
        None => Ok(site.open(0, axis)),
    }
}

fn loss(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    Ok(vec![site.out(0, reduced_loss(site)?)])
}

fn cross_entropy(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    Ok(vec![site.out(0, reduced_loss(site)?), site.out(1, site.shape(0).map(<[Dim]>::to_vec))])
}

/// A loss per target, or their mean or sum.
fn reduced_loss(site: &Site<'_, '_>) -> Result<Option<Vec<Dim>>> {
    let reduction = site.choice("reduction", &["mean", "sum", "none"])?;
    if let (Some(input), Some(target)) = (site.shape(0), site.shape(1))
        && (input.len() < 2 || target.len() + 1 != input.len())
    {
        return site.mismatch(format!("targets of {} axes for an input of {}", target.len(), input.len()));
    }
    Ok(if reduction == "none" { site.shape(1).map(<[Dim]>::to_vec) } else { Some(vec![]) })
}
