//! A schedule by one that knows all arrivals: what can be done at least, where `oracle` says what cannot be surpassed.
//!
//! Finding the best schedule is NP-hard, so this one is searched for: hill climbing over plans, each of which is carried out in the simulator. A
//! plan is a policy, the requests it turns away, the tuned batches it may use and the weight of each model. It begins with what each policy
//! does by its own admission and never gets worse than the best of them. Turning away needs the future: requests that a plan would
//! answer late are left out of the next one, and some of those left out are let in again.

use super::{Arrival, Figures, Scenario, Seen, SimulateError, simulate};
use crate::schedule::{Admission, CurveId, Index, POLICIES, RowId, policy};
use crate::space::Stream;
use schema::Seed;
use std::sync::Arc;

/// A plan and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Searched {
    /// The policy that carries it out.
    pub policy: &'static str,
    /// Requests answered in time.
    pub in_time: u64,
    /// Of the requests that it lets in.
    pub figures: Figures,
    /// By request: whether it is let in.
    pub admitted: Vec<bool>,
    /// By request: whether it was answered late.
    late: Vec<bool>,
    /// By row of the index: whether it may be used.
    rows: Vec<bool>,
    weights: Vec<f64>,
}

/// The best plan found with `steps` simulations more than one per policy, which are faultless and go as recorded whatever the scenario says.
///
/// # Errors
/// [`SimulateError`].
pub fn search(scenario: &Scenario, trace: &[Arrival], steps: usize) -> Result<Searched, SimulateError> {
    let mut scenario = Scenario { reality: Default::default(), faults: Vec::new(), ..scenario.clone() };
    let index = scenario.index.clone();
    let whole = Searched {
        policy: "",
        in_time: 0,
        figures: Figures::default(),
        admitted: vec![true; trace.len()],
        late: vec![false; trace.len()],
        rows: vec![true; index.row_count()],
        weights: index.models().iter().map(|model| model.weight).collect(),
    };
    scenario.limits.admission = Admission::Predicted;
    let mut best = whole.clone();
    for (name, _) in POLICIES {
        let mut plan = Searched { policy: name, ..whole.clone() };
        plan.carry_out(&scenario, trace)?;
        best = if plan.in_time > best.in_time || best.policy.is_empty() { plan } else { best };
    }
    let mut draw = Stream::named(Seed(0), "clairvoyant");
    for step in 0..steps {
        let mut plan = best.clone();
        // First how to serve, under the policies' own admission, then whom.
        if step < steps / 2 {
            plan.admitted.fill(true);
            plan.serve_otherwise(&index, &mut draw);
        } else {
            scenario.limits.admission = Admission::All;
            scenario.limits.queue_len_max = trace.len();
            plan.admit_otherwise(&mut draw);
        }
        scenario.index = Arc::new(index.restricted(&plan.weights, |row| plan.rows[index.row_number(row)]));
        plan.carry_out(&scenario, trace)?;
        if plan.in_time >= best.in_time {
            best = plan;
        }
    }
    Ok(best)
}

impl Searched {
    /// Simulates the plan; what is refused or never answered is not admitted.
    fn carry_out(&mut self, scenario: &Scenario, trace: &[Arrival]) -> Result<(), SimulateError> {
        let places: Vec<usize> = (0..trace.len()).filter(|&at| self.admitted[at]).collect();
        self.late.fill(false);
        // The core numbers what it accepts; those that it refuses are found by the instants of the others.
        // The core numbers the requests that it accepts; `next` is the place of the one that arrives.
        let (mut next, mut accepted, mut answered) = (0, Vec::with_capacity(places.len()), Vec::with_capacity(places.len()));
        let arrivals = places.iter().map(|&at| trace[at]);
        let policy = policy(self.policy).expect("a name of the list");
        self.figures = simulate(scenario, arrivals, policy, &mut |seen| match seen {
            Seen::Accepted { .. } => {
                accepted.push(places[next]);
                next += 1;
            }
            Seen::Refused { request: None, .. } => next += 1,
            Seen::Answered { at, requests, .. } => {
                answered.extend(requests.iter().map(|request| (request.id, at <= request.deadline)));
            }
            _ => {}
        })?;
        self.admitted.fill(false);
        for &(request, timely) in &answered {
            let at = accepted[request.0 as usize];
            (self.admitted[at], self.late[at]) = (true, !timely);
        }
        self.in_time = self.figures.in_time;
        Ok(())
    }

    /// Another policy, other batches or other weights.
    fn serve_otherwise(&mut self, index: &Index, draw: &mut Stream) {
        match draw.below(4) {
            0 => {
                let row = draw.below(self.rows.len());
                self.rows[row] = !self.rows[row];
            }
            1 => {
                let curve = CurveId(draw.below(index.curves().len()) as u32);
                let first = index.row_number(RowId { curve, row: 0 });
                let on = !self.rows[first];
                self.rows[first..first + index.curve(curve).rows.len()].fill(on);
            }
            2 => {
                let model = draw.below(self.weights.len());
                self.weights[model] *= [0.25, 0.5, 2.0, 4.0][draw.below(4)];
            }
            _ => self.policy = POLICIES[draw.below(POLICIES.len())].0,
        }
    }

    /// Leaves out some of those that were answered late, and lets in some that were left out.
    fn admit_otherwise(&mut self, draw: &mut Stream) {
        // Few are let in again at a time: where there is more to do than can be done, one too many makes many late.
        let (dropped, again) = (draw.unit(), 0.1 * draw.unit().powi(8));
        for (admitted, late) in self.admitted.iter_mut().zip(&self.late) {
            let kept = if *late { draw.unit() >= dropped } else { *admitted || draw.unit() < again };
            *admitted = kept;
        }
    }
}
