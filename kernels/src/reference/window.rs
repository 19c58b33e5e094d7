//! The geometry of windows that slide over an image: kernels, strides, dilations, pads.

use super::{Call, EvaluateError};

type Result<T> = std::result::Result<T, EvaluateError>;

/// A window over the spatial axes.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) kernel: Vec<usize>,
    pub(super) strides: Vec<usize>,
    pub(super) dilations: Vec<usize>,
    pub(super) before: Vec<i64>,
    pub(super) after: Vec<i64>,
    /// The spatial extents of the input and of the output.
    pub(super) input: Vec<usize>,
    pub(super) output: Vec<usize>,
}

/// Positive whole numbers of an attribute, one per axis.
pub(super) fn counts(call: &Call<'_>, name: &str, axes: usize) -> Result<Vec<usize>> {
    let Some(values) = call.ints(name) else {
        return Ok(vec![1; axes]);
    };
    let values: Option<Vec<usize>> = values.iter().map(|&v| usize::try_from(v).ok().filter(|&v| v > 0 && v < 1 << 31)).collect();
    values
        .filter(|values| values.len() == axes)
        .ok_or_else(|| call.attribute_error(format_args!("{name} is not {axes} positive numbers")))
}

/// The pads at both ends of each axis.
pub(super) fn pads(call: &Call<'_>, axes: usize) -> Result<(Vec<i64>, Vec<i64>)> {
    let values = call.ints("pads").map_or_else(|| vec![0; 2 * axes], <[i64]>::to_vec);
    if values.len() != 2 * axes || values.iter().any(|pad| pad.abs() >= 1 << 31) {
        return Err(call.attribute_error(format_args!("pads {values:?} for {axes} axes")));
    }
    Ok((values[..axes].to_vec(), values[axes..].to_vec()))
}

impl Window {
    /// The window of a node with the usual attributes over an input with these spatial extents.
    pub(super) fn new(call: &Call<'_>, input: &[usize], kernel: Vec<usize>) -> Result<Self> {
        let axes = input.len();
        if kernel.len() != axes || kernel.contains(&0) || input.iter().any(|&extent| extent >= 1 << 40) {
            return Err(call.attribute_error(format_args!("a kernel {kernel:?} over {input:?}")));
        }
        let (strides, dilations) = (counts(call, "strides", axes)?, counts(call, "dilations", axes)?);
        let (mut before, mut after) = pads(call, axes)?;
        let ceil = call.flag("ceil_mode", false);
        let mut output = Vec::with_capacity(axes);
        for axis in 0..axes {
            let (size, stride) = (input[axis] as i64, strides[axis] as i64);
            let span = (kernel[axis] as i64 - 1).saturating_mul(dilations[axis] as i64).saturating_add(1);
            let extent = match call.text("auto_pad", "NOTSET") {
                "SAME_UPPER" | "SAME_LOWER" => {
                    let extent = (size + stride - 1) / stride;
                    let total = ((extent - 1) * stride).saturating_add(span).saturating_sub(size).max(0);
                    before[axis] = if call.text("auto_pad", "") == "SAME_UPPER" { total / 2 } else { total - total / 2 };
                    after[axis] = total - before[axis];
                    extent
                }
                auto => {
                    if auto == "VALID" {
                        (before[axis], after[axis]) = (0, 0);
                    }
                    let room = (size + before[axis] + after[axis]).saturating_sub(span);
                    let steps = if ceil {
                        room.div_euclid(stride) + i64::from(room.rem_euclid(stride) > 0)
                    } else {
                        room.div_euclid(stride)
                    };
                    // A window that would start beyond the input and its leading pad is left out.
                    let beyond = ceil && steps.saturating_mul(stride) >= size + before[axis];
                    steps + 1 - i64::from(beyond)
                }
            };
            output
                .push(usize::try_from(extent).map_err(|_| call.shape_error(format_args!("a kernel {kernel:?} over {input:?}")))?);
        }
        Ok(Window { kernel, strides, dilations, before, after, input: input.to_vec(), output })
    }

    /// How many taps the window has.
    pub(super) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Along one axis: the position in the input that output `at` sees through tap `tap`, if it is inside.
    pub(super) fn place(&self, axis: usize, at: usize, tap: usize) -> Option<usize> {
        let place = (at * self.strides[axis]) as i64 - self.before[axis] + (tap * self.dilations[axis]) as i64;
        usize::try_from(place).ok().filter(|&place| place < self.input[axis])
    }

    /// For each output position and each tap, row-major, the flat place in the input, or [`Window::OUTSIDE`].
    ///
    /// Takes four bytes for each from the budget.
    pub(super) fn table(&self, call: &Call<'_>) -> Result<Vec<u32>> {
        let sizes = [self.output.as_slice(), &self.kernel].concat();
        call.budget.take(schema::DType::U32, &sizes)?;
        if self
            .input
            .iter()
            .try_fold(1u32, |size, &extent| u32::try_from(extent).ok().and_then(|extent| size.checked_mul(extent)))
            .is_none()
        {
            return Err(call.unsupported("an image of over 2^32 points"));
        }
        if self.output.contains(&0) {
            return Ok(Vec::new());
        }
        let axes = self.input.len();
        let mut table = vec![0u32];
        // Grows the table axis by axis: first all output axes, then all taps, would need both at once, so each axis is expanded
        // into (output, tap) pairs and the pairs are put in order afterwards by their strides.
        let mut shape: Vec<usize> = Vec::new();
        for axis in 0..axes {
            let (steps, taps) = (self.output[axis], self.kernel[axis]);
            let mut line = Vec::with_capacity(steps * taps);
            for at in 0..steps {
                line.extend((0..taps).map(|tap| self.place(axis, at, tap).map_or(Self::OUTSIDE, |place| place as u32)));
            }
            let scale = self.input[axis] as u32;
            let mut next = Vec::with_capacity(table.len() * line.len());
            for &outer in &table {
                next.extend(line.iter().map(|&inner| match (outer, inner) {
                    (Self::OUTSIDE, _) | (_, Self::OUTSIDE) => Self::OUTSIDE,
                    (outer, inner) => outer * scale + inner,
                }));
            }
            table = next;
            shape.extend([steps, taps]);
        }
        let dense = super::walk::dense_strides(&shape);
        let order: Vec<usize> = (0..axes).map(|axis| 2 * axis).chain((0..axes).map(|axis| 2 * axis + 1)).collect();
        let extents: Vec<usize> = order.iter().map(|&axis| shape[axis]).collect();
        let strides: Vec<isize> = order.iter().map(|&axis| dense[axis]).collect();
        Ok(super::walk::copy_view(&table, 0, &extents, &strides))
    }

    /// What [`table`](Self::table) holds for a tap outside the input.
    pub(super) const OUTSIDE: u32 = u32::MAX;
}
