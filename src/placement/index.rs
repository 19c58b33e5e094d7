//! How long candidates take at which share, by the records. Immutable: made from the artifacts' records and one generation of the
//! tuning database, and swapped whole when there is a newer one. Asking it allocates nothing.

use super::{Candidate, Here};
use schema::{Batch, ModelKey, ModelRecord, Observation, Outcome, Picos, PlanKey, Share, Subject};
use std::collections::BTreeMap;
use std::fmt;
use tuning_db::ModelRecords;

/// Which records a prediction comes from.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Those that were put into the artifact when it was tuned.
    Artifact,
    /// Those of the tuning database, of the same plan in the present environment.
    Database,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Evidence::Artifact => "artifact",
            Evidence::Database => "database",
        })
    }
}

/// The median time of a placement, as it was measured.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Prediction {
    pub time: Picos,
    pub evidence: Evidence,
}

/// A record in an artifact.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Measured {
    pub median: Picos,
    /// Which plan it is of; `None` when it doesn't say.
    pub plan: Option<PlanKey>,
    /// How the share was granted, and under which load.
    pub mechanism: String,
}

/// The predictions for each candidate.
#[derive(Debug)]
pub(crate) struct Index {
    /// Of the database; 0 without one.
    generation: u64,
    /// For each candidate what is known, one prediction a share.
    known: Vec<Vec<(Share, Prediction)>>,
}

impl Index {
    /// What the artifacts' own records say.
    pub fn of_artifacts(candidates: &[Candidate]) -> Index {
        let own = |candidate: &Candidate| {
            let prediction = |record: &Measured| Prediction { time: record.median, evidence: Evidence::Artifact };
            candidate.record.iter().map(|record| (candidate.share, prediction(record))).collect()
        };
        Index { generation: 0, known: candidates.iter().map(own).collect() }
    }

    /// What the database says of plans that were measured here as they are now, and where it says nothing, the artifacts.
    pub fn of(candidates: &[Candidate], records: &ModelRecords, here: &Here<'_>) -> Index {
        let mut index = Index { generation: records.generation, ..Index::of_artifacts(candidates) };
        let mut of_model: BTreeMap<(ModelKey, Batch), Vec<usize>> = BTreeMap::new();
        for (at, candidate) in candidates.iter().enumerate() {
            of_model.entry((candidate.key, candidate.batch)).or_default().push(at);
        }
        let defaults = PlanKey::of_defaults();
        let present = |row: &&Observation| row.device == here.device && row.environment == here.environment;
        for row in records.rows.iter().map(|row| &row.observation).filter(present) {
            let Subject::Model(record) = &row.subject else { continue };
            for &at in of_model.get(&(record.model, record.batch)).into_iter().flatten() {
                let Some(time) = time_of(&candidates[at], record, row, here, defaults) else { continue };
                let known = &mut index.known[at];
                known.retain(|(share, _)| *share != row.share);
                known.push((row.share, Prediction { time, evidence: Evidence::Database }));
            }
        }
        index
    }

    /// The time of a candidate at a share; `None` when nobody measured that.
    pub fn prediction(&self, candidate: usize, share: Share) -> Option<Prediction> {
        let known = self.known.get(candidate)?;
        known.iter().find(|(of, _)| *of == share).map(|(_, prediction)| *prediction)
    }

    /// Which state of the database it was made from.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

/// What a record of the candidate's model and batch says of it: the time of its plan, or of the default plan, which every plan was
/// measured beside. A plan names its configs, so strict and relaxed records of one plan are of the same kernels.
fn time_of(candidate: &Candidate, record: &ModelRecord, row: &Observation, here: &Here<'_>, defaults: PlanKey) -> Option<Picos> {
    let (plan, mechanism) = match &candidate.record {
        Some(own) => (own.plan?, own.mechanism.as_str()),
        None if candidate.entry.is_none() => (defaults, here.mechanism),
        None => return None,
    };
    // Records of another objective were measured under another load.
    if candidate.dims != record.dims || row.grant.mechanism != mechanism {
        return None;
    }
    match &row.outcome {
        Outcome::Ok { timing, .. } if record.plan == plan => Some(timing.median),
        Outcome::Ok { .. } if plan == defaults => Some(record.default.median),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{defaults, entry, here, millis, share};
    use super::*;
    use crate::made_up;
    use schema::{DeviceKey, EnvironmentKey, Grant};
    use tuning_db::{ModelRow, Source};

    /// A row of the database.
    fn row(plan: PlanKey, percent: f64, ms: f64, default_ms: f64) -> ModelRow {
        let record = ModelRecord { plan, ..made_up::model_record("m", made_up::timing(millis(default_ms))) };
        let observation = Observation {
            device: here().device,
            device_name: here().name.clone(),
            share: share(percent),
            grant: Grant { mechanism: here().mechanism.into(), units: 1 },
            environment: here().environment,
            ..made_up::observation(Subject::Model(Box::new(record)), made_up::timing(millis(ms)))
        };
        ModelRow { observation, stale: false }
    }

    fn by_database(candidates: &[Candidate], rows: Vec<ModelRow>) -> Index {
        let records = ModelRecords { rows, generation: 3, watermark: 9, source: Source::C, stale_by_ms: 0 };
        Index::of(candidates, &records, &here())
    }

    fn found(index: &Index, candidate: usize, percent: f64) -> Option<(Picos, Evidence)> {
        index.prediction(candidate, share(percent)).map(|p| (p.time, p.evidence))
    }

    #[test]
    fn the_database_overrules_the_artifact_for_the_same_plan_only() {
        let all = [entry(50.0, Some(20.0)), entry(100.0, Some(10.0)), defaults()];
        let rows = vec![row(PlanKey::of("tuned"), 100.0, 30.0, 40.0), row(PlanKey::of("another"), 50.0, 5.0, 25.0)];
        let index = by_database(&all, rows);
        assert_eq!(found(&index, 0, 50.0), Some((millis(20.0), Evidence::Artifact)));
        assert_eq!(found(&index, 1, 100.0), Some((millis(30.0), Evidence::Database)));
        // Whatever plan a record is of, it was measured beside the default.
        assert_eq!(found(&index, 2, 100.0), Some((millis(40.0), Evidence::Database)));
        assert_eq!(found(&index, 2, 50.0), Some((millis(25.0), Evidence::Database)));
        assert_eq!(found(&index, 2, 25.0), None);
    }

    #[test]
    fn a_plan_that_was_measured_at_another_share_is_known_there_too() {
        let index = by_database(&[entry(100.0, Some(10.0))], vec![row(PlanKey::of("tuned"), 50.0, 19.0, 25.0)]);
        assert_eq!(found(&index, 0, 100.0), Some((millis(10.0), Evidence::Artifact)));
        assert_eq!(found(&index, 0, 50.0), Some((millis(19.0), Evidence::Database)));
    }

    #[test]
    fn records_of_another_load_environment_batch_or_model_say_nothing() {
        let all = [entry(100.0, Some(10.0))];
        let own = || row(PlanKey::of("tuned"), 100.0, 1.0, 2.0);
        let changed = |change: fn(&mut Observation, &mut ModelRecord)| {
            let mut row = own();
            let Subject::Model(mut record) = row.observation.subject.clone() else { unreachable!() };
            change(&mut row.observation, &mut record);
            row.observation.subject = Subject::Model(record);
            by_database(&all, vec![row]).prediction(0, Share::WHOLE).unwrap().evidence
        };
        assert_eq!(changed(|_, _| {}), Evidence::Database);
        let foreign: [fn(&mut Observation, &mut ModelRecord); 6] = [
            |row, _| row.grant.mechanism = "core_sets, all loaded".into(),
            |row, _| row.environment = EnvironmentKey([9; 8]),
            |row, _| row.device = DeviceKey([9; 16]),
            |_, record| record.batch = Batch::new(4).unwrap(),
            |_, record| record.dims = vec![("length".into(), 7)],
            |_, record| record.model = ModelKey::of("another"),
        ];
        for (i, change) in foreign.into_iter().enumerate() {
            assert_eq!(changed(change), Evidence::Artifact, "{i}");
        }
        let mut loaded = row(PlanKey::of("tuned"), 100.0, 1.0, 2.0);
        loaded.observation.grant.mechanism = "core_sets, all loaded".into();
        assert_eq!(found(&by_database(&[defaults()], vec![loaded]), 0, 100.0), None);
    }
}
