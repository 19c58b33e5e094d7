//! One element after the other, in f64 or whole numbers.

use super::Kind;
use crate::{BuildError, Task, Tensor, strides};
use schema::DType;

/// Computes the reduction; see [`super`] for the operands.
pub fn compute(task: &Task, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, BuildError> {
    let signature = super::signature(task)?;
    let x = inputs.first().copied().flatten().ok_or_else(|| task.refused("operand 'x' is absent"))?;
    let kind = Kind::parse(task.word("kind")).ok_or_else(|| task.refused("there is no such kind"))?;
    let (axes, shape) = (task.ints("axes"), x.shape());
    let ones: Vec<usize> = (0..shape.len()).map(|axis| if axes.contains(&axis) { 1 } else { shape[axis] }).collect();
    let walk = strides::broadcast_strides(&ones, shape).ok_or_else(|| task.refused("the axes make no sense"))?;
    let walk: Vec<isize> = walk.into_iter().map(|stride| stride as isize).collect();
    let y = signature.outputs[0].shape.clone();
    let target = |flat: usize| strides::offset_of(flat, shape, &walk) as usize;
    let count: usize = y.iter().product();
    if x.dtype() != DType::F32 {
        let start = match kind {
            Kind::Max => i64::MIN,
            Kind::Min => i64::MAX,
            kind => i64::from(kind == Kind::Prod),
        };
        let mut out = vec![start; count];
        for (flat, x) in x.to_ints().unwrap_or_default().into_iter().enumerate() {
            let out = &mut out[target(flat)];
            *out = match kind {
                Kind::Max => x.max(*out),
                Kind::Min => x.min(*out),
                Kind::Prod => out.wrapping_mul(x),
                _ => out.wrapping_add(x),
            };
        }
        return Ok(vec![match x.dtype() {
            DType::I64 => Tensor::new(y, out),
            _ => Tensor::new(y, out.into_iter().map(|x| x as i32).collect()),
        }]);
    }
    let mut out = vec![f64::from(kind.start()); count];
    for (flat, &x) in x.reinterpret::<f32>().iter().enumerate() {
        let (out, x) = (&mut out[target(flat)], f64::from(x));
        *out = match kind {
            Kind::Max => x.max(*out),
            Kind::Min => x.min(*out),
            Kind::Prod => *out * x,
            Kind::L1 => *out + x.abs(),
            Kind::L2 | Kind::SumSquare => *out + x * x,
            Kind::Sum | Kind::Mean | Kind::LogSum => *out + x,
        };
    }
    let folded: usize = axes.iter().map(|&axis| shape[axis]).product();
    let finish = |x: f64| match kind {
        Kind::Mean => x / folded as f64,
        Kind::L2 => x.sqrt(),
        Kind::LogSum => x.ln(),
        _ => x,
    };
    Ok(vec![Tensor::new(y, out.into_iter().map(|x| finish(x) as f32).collect())])
}
