//! What a database knows about one observation: what else was seen of the same thing, and what the observation is part of.

use crate::envelope::Kind;
use crate::index::{Flow, IndexError};
use crate::key;
use crate::record::{DeviceTextV1, shape_key, subject_bytes};
use crate::tables::{Best, Tables, decode_as, generation_of, parse_best};
use schema::{EnvironmentKey, Observation, Outcome, Subject};

/// An observation and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub observation: Observation,
    /// Made in another environment than the device's current one.
    pub stale: bool,
    /// In which it was first published; `None` before that.
    pub generation: Option<u64>,
    /// The text of its environment; its key when the database has no text.
    pub environment: String,
}

/// What an observation is part of. Plans are kept as hashes: which configs one has, the artifact tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// The pooled time of its config, the `rank`th of `of` known ones of its task in this place and environment.
    Best { rank: u64, of: u64, best: Box<Best> },
    /// It is the record of its model that questions get.
    ModelRow,
}

/// Everything about one observation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub seen: Seen,
    /// Others of the same config of a task, or of the same model, batch and axes, on that share of that device; the newest first.
    pub history: Vec<Seen>,
    pub uses: Vec<Use>,
}

/// Everything about an observation.
///
/// # Errors
/// [`IndexError`] as the index reports it.
pub fn account(tables: Tables<'_>, observation: Observation) -> Result<Account, IndexError> {
    let config = match &observation.subject {
        Subject::Trial { config, .. } | Subject::Final { config, .. } => config.key(),
        Subject::Model(record) => shape_key(record.batch, &record.dims),
    };
    let prefix = key::trial_config(subject_bytes(&observation.subject), observation.device, observation.share, config);
    let mut others = tables.observations(prefix.as_ref())?;
    others.retain(|other| other.id != observation.id);
    others.sort_by_key(|other| std::cmp::Reverse(other.id.order()));
    let current = tables.current(observation.device)?;
    let generations = tables.history()?;
    let see = |observation: Observation| {
        let stale = current.is_some_and(|current| current != observation.environment);
        let generation = generation_of(&generations, observation.id);
        let environment = environment(tables, &observation)?;
        Ok::<_, IndexError>(Seen { observation, stale, generation, environment })
    };
    let uses = uses(tables, &observation, current)?;
    let history = others.into_iter().map(see).collect::<Result<_, _>>()?;
    Ok(Account { seen: see(observation)?, history, uses })
}

fn environment(tables: Tables<'_>, observation: &Observation) -> Result<String, IndexError> {
    let key = key::device(observation.device, observation.environment);
    match tables.0.get(key.as_ref())? {
        Some(value) => Ok(decode_as::<DeviceTextV1>(key.as_ref(), &value, Kind::Device)?.environment.text),
        None => Ok(observation.environment.to_string()),
    }
}

fn uses(tables: Tables<'_>, observation: &Observation, current: Option<EnvironmentKey>) -> Result<Vec<Use>, IndexError> {
    let (Subject::Trial { task, config } | Subject::Final { task, config }) = &observation.subject else {
        let Subject::Model(record) = &observation.subject else { return Ok(Vec::new()) };
        let rows = tables.models(Some(record.model))?;
        let is_row = rows.iter().any(|row| row.observation.id == observation.id);
        return Ok(if is_row { vec![Use::ModelRow] } else { Vec::new() });
    };
    if matches!(observation.outcome, Outcome::Failed { .. }) {
        return Ok(Vec::new());
    }
    let (mut of, mut found) = (0, None);
    let group = key::best_group(*task, observation.device, observation.share, observation.numerics);
    tables.each(group.as_ref(), &mut |key, value| {
        let best = parse_best(key, value, |_| current)?;
        if best.found.environment == observation.environment {
            of += 1;
            if best.found.config == *config {
                found = Some((of, best));
            }
        }
        Ok(Flow::Continue(()))
    })?;
    Ok(found.map(|(rank, best)| Use::Best { rank, of, best: Box::new(best) }).into_iter().collect())
}
