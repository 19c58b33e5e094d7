//! Sliding windows: convolution and pooling.

use super::facts::{Result, Site};
use super::shape;
use super::symbol::Expr;
use super::{Rule, rule};
use crate::graph::{Dim, Shape, Type};

pub(super) static RULES: &[Rule] = &[
    rule("AveragePool", "T -> T; T: float", pool),
    rule("CausalConvWithState", "T T T? T? -> T T; T: float", causal_conv),
    rule("Col2Im", "T i64 i64 -> T", col2im),
    rule("Conv", "T T T? -> T; T: float", conv),
    rule("ConvInteger", "byte byte byte? byte? -> i32", conv),
    rule("ConvTranspose", "T T T? -> T; T: float", conv_transpose),
    rule("DeformConv", "T T T T? T? -> T; T: float", deform_conv),
    rule("GlobalAveragePool", "T -> T; T: float", global),
    rule("GlobalLpPool", "T -> T; T: float", global),
    rule("GlobalMaxPool", "T -> T; T: float", global),
    rule("LpPool", "T -> T; T: float", pool),
    rule("MaxPool", "T -> T i64; T: num", max_pool),
    rule("MaxUnpool", "T i64 i64? -> T; T: float", max_unpool),
];

/// How a window moves, per spatial axis; all checked.
struct Window {
    kernel: Vec<i64>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    /// Begins, then ends. `None` under `auto_pad` other than `NOTSET` and `VALID`.
    pads: Option<Vec<i64>>,
    ceil: bool,
}

impl Window {
    /// Reads the attributes for `spatial` axes. `kernel` is what the weight says, for convolutions.
    fn read(site: &Site<'_, '_>, spatial: usize, kernel: Option<Vec<i64>>) -> Result<Window> {
        let list = |name: &str, len: usize| -> Result<Option<Vec<i64>>> {
            match site.ints_attribute(name)? {
                Some(values) if values.len() != len => {
                    site.attribute_error(format!("{name} has {} entries, {len} are needed", values.len()))
                }
                values => Ok(values.map(<[i64]>::to_vec)),
            }
        };
        let positive = |name: &str, values: Vec<i64>| match values.iter().find(|&&value| value < 1) {
            Some(value) => site.attribute_error(format!("{name} has {value}, it must be more than 0")),
            None => Ok(values),
        };
        let given = list("kernel_shape", spatial)?;
        let kernel = match (given, kernel) {
            (Some(given), Some(weight)) if given != weight => {
                return site.attribute_error(format!("kernel_shape {given:?}, the weight is {weight:?}"));
            }
            (Some(given), _) => given,
            (None, Some(weight)) => weight,
            (None, None) => return site.attribute_error("without its attribute kernel_shape"),
        };
        let kernel = positive("kernel_shape", kernel)?;
        let strides = positive("strides", list("strides", spatial)?.unwrap_or_else(|| vec![1; spatial]))?;
        let dilations = positive("dilations", list("dilations", spatial)?.unwrap_or_else(|| vec![1; spatial]))?;
        let pads = match site.choice("auto_pad", &["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])? {
            "NOTSET" => Some(list("pads", 2 * spatial)?.unwrap_or_else(|| vec![0; 2 * spatial])),
            "VALID" => Some(vec![0; 2 * spatial]),
            _ => None,
        };
        if let Some(pad) = pads.as_ref().and_then(|pads| pads.iter().find(|&&pad| pad < 0)) {
            return site.attribute_error(format!("pads has {pad}"));
        }
        let ceil = site.flag("ceil_mode", false)?;
        Ok(Window { kernel, strides, dilations, pads, ceil })
    }

    /// The extent after sliding along a spatial axis.
    fn slide(&self, site: &Site<'_, '_>, input: &Dim, axis: usize) -> Result<Dim> {
        let (stride, spatial) = (self.strides[axis], self.kernel.len());
        let Some(pads) = &self.pads else {
            // SAME: as many as there are steps.
            let steps = Expr::of(input).add(&Expr::number(stride - 1)).and_then(|sum| sum.div_floor(&Expr::number(stride)));
            return shape::dim(site, steps, axis + 2);
        };
        let covered = (self.kernel[axis] - 1).checked_mul(self.dilations[axis]).and_then(|extent| extent.checked_add(1));
        let Some(covered) = covered else { return site.shape_error("the dilated kernel is larger than any input") };
        let Some(padding) = pads[axis].checked_add(pads[axis + spatial]) else {
            return Err(site.limit("dim", site.bounds.dim, None, "elements on a padded axis"));
        };
        let Some(extent) = input.fixed() else {
            let room = Expr::of(input).add(&Expr::number(padding)).and_then(|sum| sum.sub(&Expr::number(covered)));
            let room = if self.ceil { room.and_then(|room| room.add(&Expr::number(stride - 1))) } else { room };
            let steps = room.and_then(|room| room.div_floor(&Expr::number(stride))).and_then(|steps| steps.add(&Expr::number(1)));
            return shape::dim(site, steps, axis + 2);
        };
        let padded = i64::try_from(extent).ok().and_then(|extent| extent.checked_add(padding));
        let Some(padded) = padded.filter(|&padded| padded as u64 <= site.bounds.dim) else {
            let need = padded.map(|padded| padded as u64);
            return Err(site.limit("dim", site.bounds.dim, need, "elements on a padded axis"));
        };
        let room = padded - covered;
        if room < 0 {
            return site.shape_error(format!("a window of {covered} on {padded} elements, padding included"));
        }
        let mut steps = room / stride + 1;
        // A window may begin late, but inside the input or the padding before it.
        if self.ceil && room % stride != 0 && steps * stride < extent as i64 + pads[axis] {
            steps += 1;
        }
        site.extent(steps)
    }
}

/// The channels and the kernel of a weight `[out, in / group, …]`, checked against the input's channels.
fn weight(site: &Site<'_, '_>, channels: &Dim, weight: &[Dim], spatial: usize) -> Result<(i64, Option<Vec<i64>>)> {
    if weight.len() != spatial + 2 {
        return site.mismatch(format!("a weight of {} axes for an input of {}", weight.len(), spatial + 2));
    }
    let group = site.positive("group", 1)?;
    if let Some(channels) = channels.fixed()
        && !(channels as u64).is_multiple_of(group as u64)
    {
        return site.attribute_error(format!("group {group} of {channels} channels"));
    }
    let kernel = weight[2..].iter().map(|dim| i64::try_from(dim.fixed()?).ok()).collect();
    Ok((group, kernel))
}

fn conv(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let (Some(input), Some(filter)) = (site.shape(0), site.shape(1)) else {
        return Ok(vec![site.out(0, site.shape(0).or(site.shape(1)).map(|shape| site.open_shape(0, shape.len())))]);
    };
    let Some(spatial) = input.len().checked_sub(2).filter(|&spatial| spatial > 0) else {
        return site.shape_error(format!("an input of {} axes, 3 are the least", input.len()));
    };
    let (group, kernel) = weight(site, &input[1], filter, spatial)?;
    if let (Some(channels), Some(each)) = (input[1].fixed(), filter[1].fixed())
        && (each as u64).checked_mul(group as u64) != Some(channels as u64)
    {
        return site.mismatch(format!("{channels} channels, the weight is for {group} groups of {each}"));
    }
    if filter[0].fixed().is_some_and(|out| !(out as u64).is_multiple_of(group as u64)) {
        return site.attribute_error(format!("group {group} of {} filters", filter[0]));
    }
    if kernel.is_none() && site.node().attributes.get("kernel_shape").is_none() {
        let mut out = site.open_shape(0, input.len());
        out[..2].clone_from_slice(&[input[0].clone(), filter[0].clone()]);
        return Ok(vec![site.out(0, Some(out))]);
    }
    let window = Window::read(site, spatial, kernel)?;
    bias(site, 2, &filter[0])?;
    Ok(vec![site.out(0, Some(slid(site, input, filter[0].clone(), &window)?))])
}

/// The bias of a convolution has one element per filter. `ConvInteger` has zero points in these places.
fn bias(site: &Site<'_, '_>, index: usize, filters: &Dim) -> Result<()> {
    if site.node().op == "ConvInteger" {
        return Ok(());
    }
    if let Some(bias) = site.shape_of_rank(index, 1)? {
        site.same(&bias[0], filters, "bias against filters")?;
    }
    Ok(())
}

/// An output of a window over the spatial axes of `input`.
fn slid(site: &Site<'_, '_>, input: &[Dim], channels: Dim, window: &Window) -> Result<Shape> {
    let mut out = vec![input[0].clone(), channels];
    for (axis, dim) in input[2..].iter().enumerate() {
        out.push(window.slide(site, dim, axis)?);
    }
    Ok(out)
}

/// The same for operators of quantisation, whose weight is not the second input.
pub(super) fn conv_shape(site: &Site<'_, '_>, input: &[Dim], filter: &[Dim]) -> Result<Shape> {
    let Some(spatial) = input.len().checked_sub(2).filter(|&spatial| spatial > 0) else {
        return site.shape_error(format!("an input of {} axes, 3 are the least", input.len()));
    };
    let (_, kernel) = weight(site, &input[1], filter, spatial)?;
    let window = Window::read(site, spatial, kernel)?;
    slid(site, input, filter[0].clone(), &window)
}

fn conv_transpose(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let (Some(input), Some(filter)) = (site.shape(0), site.shape(1)) else {
        return Ok(vec![site.out(0, site.shape(0).or(site.shape(1)).map(|shape| site.open_shape(0, shape.len())))]);
    };
    let Some(spatial) = input.len().checked_sub(2).filter(|&spatial| spatial > 0) else {
        return site.shape_error(format!("an input of {} axes, 3 are the least", input.len()));
    };
    let (group, kernel) = weight(site, &input[1], filter, spatial)?;
    site.same(&input[1], &filter[0], "channels against the weight's")?;
    let filters = shape::mul(site, &filter[1], group, 1)?;
    bias(site, 2, &filters)?;
    let window = Window::read(site, spatial, kernel)?;
    let list = |name: &str| -> Result<Option<&[i64]>> {
        match site.ints_attribute(name)? {
            // Some exporters give batch and channels as well.
            Some(values) if name == "output_shape" && values.len() == spatial + 2 => Ok(Some(&values[2..])),
            Some(values) if values.len() != spatial => {
                site.attribute_error(format!("{name} has {} entries, {spatial} are needed", values.len()))
            }
            values => Ok(values),
        }
    };
    let (fixed, extra) = (list("output_shape")?, list("output_padding")?);
    let mut out = vec![input[0].clone(), filters];
    for axis in 0..spatial {
        if let Some(fixed) = fixed {
            out.push(site.extent(fixed[axis])?);
            continue;
        }
        let stride = window.strides[axis];
        let Some(pads) = &window.pads else {
            out.push(shape::mul(site, &input[axis + 2], stride, axis + 2)?);
            continue;
        };
        let covered = (window.kernel[axis] - 1).checked_mul(window.dilations[axis]).and_then(|extent| extent.checked_add(1));
        let padding = pads[axis].checked_add(pads[axis + spatial]);
        let more = extra.map_or(0, |extra| extra[axis]);
        let rest = covered
            .zip(padding)
            .and_then(|(covered, padding)| covered.checked_sub(stride)?.checked_sub(padding)?.checked_add(more));
        let Some(rest) = rest else { return Err(site.limit("dim", site.bounds.dim, None, "elements on an axis")) };
        let wide = shape::mul(site, &input[axis + 2], stride, axis + 2)?;
        out.push(shape::add(site, &wide, rest, axis + 2)?);
    }
    Ok(vec![site.out(0, Some(out))])
}

fn deform_conv(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.positive("offset_group", 1)?;
    let (Some(input), Some(filter)) = (site.shape(0), site.shape(1)) else { return Ok(vec![site.out(0, None)]) };
    Ok(vec![site.out(0, Some(conv_shape(site, input, filter)?))])
}

/// Depthwise over the last axis; the state is what the next call needs of this one.
fn causal_conv(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let (Some(input), Some(filter)) = (site.shape_of_rank(0, 3)?, site.shape_of_rank(1, 3)?) else {
        return Ok(vec![site.out(0, Some(site.open_shape(0, 3))), site.out(1, Some(site.open_shape(1, 3)))]);
    };
    let kept = shape::add(site, &filter[2], -1, 2)?;
    let state = vec![input[0].clone(), input[1].clone(), kept];
    Ok(vec![site.out(0, Some(input.to_vec())), site.out(1, Some(state))])
}

fn pool(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    Ok(vec![site.out(0, pooled(site)?)])
}

fn max_pool(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.flag("storage_order", false)?;
    let shape = pooled(site)?;
    Ok(vec![site.out(0, shape.clone()), site.out(1, shape)])
}

fn pooled(site: &Site<'_, '_>) -> Result<Option<Shape>> {
    let Some(input) = site.shape(0) else { return Ok(None) };
    let Some(spatial) = input.len().checked_sub(2).filter(|&spatial| spatial > 0) else {
        return site.shape_error(format!("an input of {} axes, 3 are the least", input.len()));
    };
    let window = Window::read(site, spatial, None)?;
    Ok(Some(slid(site, input, input[1].clone(), &window)?))
}

fn global(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let Some(input) = site.shape(0) else { return Ok(vec![site.out(0, None)]) };
    if input.len() < 2 {
        return site.shape_error(format!("an input of {} axes, 2 are the least", input.len()));
    }
    let axis = |(axis, dim): (usize, &Dim)| if axis < 2 { dim.clone() } else { Dim::Fixed(1) };
    Ok(vec![site.out(0, Some(input.iter().enumerate().map(axis).collect()))])
}

fn max_unpool(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let Some(input) = site.shape(0) else { return Ok(vec![site.out(0, None)]) };
    if site.input(2).is_some() {
        let shape = site
            .ints(2)
            .map(|extents| extents.iter().map(|&extent| site.extent(extent)).collect::<Result<Shape>>())
            .transpose()?;
        return Ok(vec![site.out(0, Some(shape.unwrap_or_else(|| site.open_shape(0, input.len()))))]);
    }
    let Some(spatial) = input.len().checked_sub(2).filter(|&spatial| spatial > 0) else {
        return site.shape_error(format!("an input of {} axes, 3 are the least", input.len()));
    };
    let window = Window::read(site, spatial, None)?;
    let pads = window.pads.unwrap_or_else(|| vec![0; 2 * spatial]);
    let mut out = input[..2].to_vec();
    for axis in 0..spatial {
        let rest = pads[axis]
            .checked_add(pads[axis + spatial])
            .and_then(|padding| (window.kernel[axis] - window.strides[axis]).checked_sub(padding));
        let Some(rest) = rest else { return Err(site.limit("dim", site.bounds.dim, None, "elements on an axis")) };
        let wide = shape::mul(site, &input[axis + 2], window.strides[axis], axis + 2)?;
        out.push(shape::add(site, &wide, rest, axis + 2)?);
    }
    Ok(vec![site.out(0, Some(out))])
}

fn col2im(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let Some(input) = site.shape_of_rank(0, 3)? else { return Ok(vec![site.out(0, None)]) };
    let (Some(image), Some(block)) = (site.ints(1), site.ints(2)) else {
        return Ok(vec![site.out(0, site.len_of(1).map(|spatial| site.open_shape(0, spatial + 2)))]);
    };
    let Some(size) = block.iter().try_fold(1i64, |size, &extent| size.checked_mul(extent)).filter(|&size| size > 0) else {
        return site.shape_error(format!("blocks of {block:?}"));
    };
    let channels = match input[1].fixed() {
        Some(columns) if !(columns as u64).is_multiple_of(size as u64) => {
            return site.shape_error(format!("{columns} columns in blocks of {size}"));
        }
        Some(columns) => Dim::Fixed(columns / size as usize),
        None => shape::dim(site, Expr::of(&input[1]).div_exact(&Expr::number(size)), 1)?,
    };
    let mut out = vec![input[0].clone(), channels];
    for &extent in &image {
        out.push(site.extent(extent)?);
    }
    Ok(vec![site.out(0, Some(out))])
}
