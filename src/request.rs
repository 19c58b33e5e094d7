//! One inference that is asked for, of a session or of the runtime.

use crate::schedule::Priority;
use kernels::Tensor;
use schema::Share;
use std::time::Duration;

/// A model's name, its inputs, and what is wanted of the answer.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub(crate) model: String,
    pub(crate) inputs: Vec<(String, Tensor)>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) priority: Priority,
    pub(crate) share: Option<Share>,
}

impl Request {
    /// A request without inputs.
    pub fn new(model: &str) -> Self {
        Request { model: model.to_owned(), ..Request::default() }
    }

    /// With an input.
    #[must_use]
    pub fn input(mut self, name: &str, tensor: Tensor) -> Self {
        self.inputs.push((name.to_owned(), tensor));
        self
    }

    /// Wanted within this time. A session prefers placements that are predicted to keep it; the runtime, for which it begins when the
    /// request is submitted, refuses a request that is not predicted to keep it.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        Request { deadline: Some(deadline), ..self }
    }

    /// Before or after others that are due at the same time. A session, which has no queue, goes without.
    #[must_use]
    pub fn priority(self, priority: Priority) -> Self {
        Request { priority, ..self }
    }

    /// On this share of the device, and no other. The runtime, which places requests itself, takes it only where all its workers have
    /// that share.
    #[must_use]
    pub fn share(self, share: Share) -> Self {
        Request { share: Some(share), ..self }
    }

    /// The inputs with their names, for people.
    pub(crate) fn given(&self) -> String {
        let given: Vec<String> = self.inputs.iter().map(|(name, tensor)| format!("{name} {tensor:?}")).collect();
        given.join(", ")
    }

    /// The input of that name, looked for at its place first.
    pub(crate) fn find(&self, at: usize, name: &str) -> Option<usize> {
        let named = |at: &usize| self.inputs.get(*at).is_some_and(|(given, _)| given == name);
        Some(at).filter(named).or_else(|| (0..self.inputs.len()).find(named))
    }
}
