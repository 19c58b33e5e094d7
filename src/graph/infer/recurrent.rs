//! `LSTM`, `GRU`, `RNN`.

use super::facts::{Result, Site};
use super::{Rule, rule};
use crate::graph::{Dim, Type};

pub(super) static RULES: &[Rule] = &[
    rule("GRU", "T T T T? i32? T? -> T T; T: float", gru),
    rule("LSTM", "T T T T? i32? T? T? T? -> T T T; T: float", lstm),
    rule("RNN", "T T T T? i32? T? -> T T; T: float", rnn),
];

fn gru(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.flag("linear_before_reset", false)?;
    recurrent(site, 3, 2)
}

fn lstm(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.flag("input_forget", false)?;
    recurrent(site, 4, 3)
}

fn rnn(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    recurrent(site, 1, 2)
}

/// X `[time, batch, in]`, W `[directions, gates·hidden, in]`, R `[directions, gates·hidden, hidden]`.
fn recurrent(site: &Site<'_, '_>, gates: usize, outputs: usize) -> Result<Vec<Type>> {
    let batch_first = site.flag("layout", false)?;
    let directions = if site.choice("direction", &["forward", "reverse", "bidirectional"])? == "bidirectional" { 2 } else { 1 };
    let input = site.shape_of_rank(0, 3)?;
    let (weight, recurrence) = (site.shape_of_rank(1, 3)?, site.shape_of_rank(2, 3)?);
    if let (Some(input), Some(weight)) = (input, weight) {
        site.same(&input[2], &weight[2], "features against the weight's")?;
    }
    let hidden = match (site.node().attributes.get("hidden_size"), recurrence) {
        (Some(_), _) => Dim::Fixed(site.positive("hidden_size", 0)? as usize),
        (None, Some(recurrence)) => recurrence[2].clone(),
        (None, None) => site.open(0, 3),
    };
    for (index, shape) in [(1, weight), (2, recurrence)] {
        let Some(shape) = shape else { continue };
        site.same(&shape[0], &Dim::Fixed(directions), "directions")?;
        if let (Some(rows), Some(hidden)) = (shape[1].fixed(), hidden.fixed())
            && Some(rows) != hidden.checked_mul(gates)
        {
            return site.mismatch(format!("input {index} has {rows} rows, {gates} gates of {hidden} are needed"));
        }
    }
    if let Some(recurrence) = recurrence {
        site.same(&recurrence[2], &hidden, "hidden size against the recurrence's")?;
    }
    let dim = |axis: usize| input.map_or_else(|| site.open(0, axis), |shape| shape[axis].clone());
    let (time, batch) = if batch_first { (dim(1), dim(0)) } else { (dim(0), dim(1)) };
    let directions = Dim::Fixed(directions);
    let (all, last) = if batch_first {
        (vec![batch.clone(), time, directions.clone(), hidden.clone()], vec![batch, directions, hidden])
    } else {
        (vec![time, directions.clone(), batch.clone(), hidden.clone()], vec![directions, batch, hidden])
    };
    let mut types = vec![site.out(0, Some(all))];
    types.extend((1..outputs).map(|output| site.out(output, Some(last.clone()))));
    Ok(types)
}
