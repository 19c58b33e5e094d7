//! What a service can be sized by before anything is served: the rate at which a deadline is kept on each share, from the artifact's records,
//! and into how many pools the width rule would divide a host's cores, from its graph.

use crate::artifact::Artifact;
use crate::cli::failure::{Failure, escape};
use crate::cli::quantity::show_time;
use crate::cli::table::{Align, lay_out};
use crate::device::Machine;
use crate::graph::Graph;
use crate::schedule::width::{Work, average_parallelism, average_width, choose};
use crate::schedule::{Engines, Nanos, Pipeline, from_records};
use crate::task;
use schema::{Batch, Picos, Share};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// How fast rows may arrive at one worker, by the p99 formula (papers §2.2).
pub struct Rate {
    model: String,
    device: String,
    share: Share,
    largest: Batch,
    /// Rows a second with which 99 of 100 keep the deadline.
    within_per_s: f64,
    /// Rows a second in largest batches, back to back.
    most_per_s: f64,
}

/// The rates of each share with records of several batches: of a single one nothing tells what is fixed and what a row takes.
///
/// # Errors
/// [`Failure`] when the records make no sense together.
pub fn rates(path: &Path, artifact: &Artifact, deadline: Duration) -> Result<Vec<Rate>, Failure> {
    let own = artifact.entries().iter().filter_map(|entry| artifact.records().get(entry.record?));
    let (fleet, index) =
        from_records(0, Engines::None, own).map_err(|error| Failure::new("input.malformed", path.display(), error))?;
    let within = Nanos(u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX));
    let of_several = index.curves().iter().filter(|curve| curve.rows.len() > 1);
    let rate = of_several.map(|curve| {
        let pipeline = Pipeline::of(curve, fleet.devices[usize::from(curve.device.0)].engines);
        Rate {
            model: index.models()[usize::from(curve.model.0)].name.clone(),
            device: index.devices()[usize::from(curve.device.0)].0.clone(),
            share: curve.share,
            largest: curve.largest().batch,
            within_per_s: pipeline.rate_within(within),
            most_per_s: pipeline.capacity_per_s(),
        }
    });
    Ok(rate.collect())
}

/// A line for each share.
pub fn rate_lines(rates: &[Rate], deadline: Duration) -> Vec<String> {
    let within = show_time(Picos::from_secs_f64(deadline.as_secs_f64()));
    let row = |rate: &Rate| {
        vec![
            format!("  {}", escape(&rate.model)),
            format!("{} share {}", rate.device, rate.share),
            format!("up to {:.1} rows/s", rate.within_per_s),
            format!("99 of 100 within {within}, in batches of up to {}; at most {:.1} rows/s", rate.largest, rate.most_per_s),
        ]
    };
    lay_out(&rates.iter().map(row).collect::<Vec<_>>(), &[Align::Left, Align::Left, Align::Right, Align::Left])
}

/// For machines.
pub fn rate_objects(rates: &[Rate]) -> Vec<Value> {
    let object = |rate: &Rate| {
        json!({
            "model": rate.model, "device": rate.device, "share_pct": rate.share.as_percent(), "batch_max": rate.largest.rows(),
            "within_per_s": rate.within_per_s, "most_per_s": rate.most_per_s,
        })
    };
    rates.iter().map(object).collect()
}

/// How a host's cores would be divided among the branches of a graph: a prior, to be judged by tuning at the share of a pool.
pub struct Division {
    /// Heavy operators a level.
    width: f64,
    /// All operations over those of the longest path.
    parallelism: f64,
    /// Of each pool.
    threads: Vec<u32>,
}

/// The width rule with operations in the place of times, which nobody has measured for all operators alone; `None` on what is no host.
pub fn division(graph: &Graph, machine: &Machine) -> Option<Division> {
    let cores = u32::try_from(machine.cores.len()).ok().filter(|&cores| cores > 0 && machine.device.name.0.starts_with("cpu"))?;
    let works = works(graph);
    let threads = choose(&works, cores).threads;
    Some(Division { width: average_width(&works), parallelism: average_parallelism(&works), threads })
}

/// The nodes, each with its operations; of what is none of our operators, one for each element of its results.
fn works(graph: &Graph) -> Vec<Work> {
    let elements = |id| graph.value(id).fixed_shape().map_or(0, |shape| shape.iter().map(|&extent| extent as u64).product());
    let mut made = BTreeMap::new();
    let mut works = Vec::with_capacity(graph.nodes.len());
    for (at, node) in graph.nodes.iter().enumerate() {
        let operations = match task::operator(node).zip(task::of(graph, node).and_then(Result::ok)) {
            Some((operator, task)) => (operator.flops)(&task),
            None => node.outputs.iter().flatten().map(|&id| elements(id)).sum::<u64>(),
        };
        let captured = node.bodies.iter().flat_map(|(_, body)| body.captures.iter().map(|capture| capture.outer));
        let follows = node.inputs.iter().flatten().copied().chain(captured).filter_map(|id| made.get(&id).copied()).collect();
        works.push(Work { times: vec![Nanos(operations)], follows });
        made.extend(node.outputs.iter().flatten().map(|&id| (id, at)));
    }
    works
}

impl Division {
    pub fn line(&self) -> String {
        let Division { width, parallelism, threads } = self;
        let pools = match threads.as_slice() {
            [all] => format!("one pool of {all} threads"),
            several => format!(
                "{} pools of {} threads: tune at --share {} as well, and see which serves more",
                several.len(),
                several[several.len() - 1],
                100 / several.len()
            ),
        };
        format!("  width     {width:.2} heavy operators a level, {parallelism:.2} by operations; the width rule says {pools}")
    }

    pub fn object(&self) -> Value {
        json!({"operators_a_level": self.width, "parallelism": self.parallelism, "pool_threads": self.threads})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::text;

    /// Two chains of two equal products: two operators on each level, and twice as much work as on the longest path.
    #[test]
    fn branches_are_counted_by_level_and_by_operations() {
        let graph = text::parse(
            "input %x: f32[4,8]\n$w: f32[8,8] = fill(1)\n$v: f32[8,8] = fill(2)\n%a: f32[4,8] = gemm(%x, $w)\n\
             %b: f32[4,8] = gemm(%x, $v)\n%c: f32[4,8] = gemm(%a, $w)\n%d: f32[4,8] = gemm(%b, $v)\noutput %c as \"c\"\noutput %d as \"d\"",
        );
        let works = works(&graph.unwrap());
        assert_eq!(works.iter().map(|work| work.follows.clone()).collect::<Vec<_>>(), [vec![], vec![], vec![0], vec![1]]);
        assert!(works.iter().all(|work| work.times == works[0].times && work.times[0] > Nanos::ZERO));
        assert_eq!((average_width(&works), average_parallelism(&works)), (2.0, 2.0));
        assert_eq!(choose(&works, 8).threads, [4, 4]);
    }
}
