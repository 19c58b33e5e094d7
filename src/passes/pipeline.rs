//! Running the passes in their order.

use super::{Options, PASSES, Pass, PassError};
use crate::graph::{Graph, verify};
use std::time::Duration;

/// The passes with a clock and, for bisecting a bad rewrite, a place to stop.
#[derive(Copy, Clone, Debug)]
pub struct Pipeline {
    /// The last pass to run; all when `None` (or when there is no pass of that name: the command line checks).
    pub stop_after: Option<&'static str>,
    /// Time since any fixed instant. Passes do not see it.
    pub clock: fn() -> Duration,
}

/// What one pass did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassRun {
    pub pass: &'static str,
    pub changes: usize,
    /// Nodes afterwards, bodies included.
    pub nodes: usize,
    pub elapsed: Duration,
}

/// What the pipeline did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub runs: Vec<PassRun>,
}

impl Pipeline {
    /// All passes, untimed.
    pub fn untimed() -> Self {
        Pipeline { stop_after: None, clock: || Duration::ZERO }
    }

    /// Runs the passes and verifies the graph before the first and after each.
    ///
    /// # Errors
    /// [`PassError::Broken`] when the graph breaks an invariant; otherwise what a pass found wrong with the model.
    pub fn run(&self, graph: &mut Graph, options: &Options) -> Result<Report, PassError> {
        check("import", graph)?;
        let mut report = Report::default();
        for pass in PASSES {
            report.runs.push(self.run_one(pass, graph, options)?);
            if self.stop_after == Some(pass.name) {
                break;
            }
        }
        Ok(report)
    }

    fn run_one(&self, pass: &'static Pass, graph: &mut Graph, options: &Options) -> Result<PassRun, PassError> {
        let start = (self.clock)();
        let changes = (pass.run)(graph, options)?;
        check(pass.name, graph)?;
        let elapsed = (self.clock)().saturating_sub(start);
        tracing::debug!(pass = pass.name, changes, nodes = graph.nodes.len(), ?elapsed);
        Ok(PassRun { pass: pass.name, changes, nodes: graph.node_count(), elapsed })
    }
}

fn check(pass: &'static str, graph: &Graph) -> Result<(), PassError> {
    verify(graph).map_err(|source| PassError::Broken { pass, source })
}
