//! Which entry a request gets. Pure: candidates, what is here and what is free in; a decision with reasons out.
//!
//! The ladder, best rung first: tuned on this device for this share; tuned on this device for another share; tuned on this device in
//! another environment; not tuned on this device at all, so that every task runs with its default. Within a rung those go first that
//! keep the deadline, then the fastest, then the greatest share; what has no record comes last.

mod index;
mod site;
#[cfg(test)]
mod testing;

pub use index::{Evidence, Prediction};
pub(crate) use index::{Index, Measured};
pub(crate) use site::{Here, Site};

use crate::artifact::Artifact;
use schema::{Batch, DeviceKey, DeviceName, EnvironmentKey, ModelKey, Outcome, Picos, Share, Subject};
use std::fmt;
use std::time::Duration;

/// How well a placement is known.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// Tuned on this device, in this environment, for this share.
    Exact,
    /// Tuned on this device for another share.
    OtherShare,
    /// Tuned on this device under another driver, kernel or revision.
    Stale,
    /// Nothing was tuned on this device: defaults.
    Default,
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rung::Exact => "exact",
            Rung::OtherShare => "tuned for another share",
            Rung::Stale => "stale",
            Rung::Default => "defaults",
        })
    }
}

/// A placement, and why it was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub model: String,
    pub device: DeviceName,
    pub share: Share,
    pub batch: Batch,
    pub dims: Vec<(String, u64)>,
    pub rung: Rung,
    /// What the records say; `None` without one.
    pub predicted: Option<Prediction>,
    /// What the run took, when it has run.
    pub actual: Option<Picos>,
    /// Whether the prediction keeps the deadline; `None` without either.
    pub keeps_deadline: Option<bool>,
    /// Tasks that run with a chosen config.
    pub tuned: usize,
    /// Of these, those whose config is not legal here and was replaced by the default. Known after a run.
    pub replaced: usize,
    pub rivals: Vec<Rival>,
    /// Devices that were preferred and are lost, with what they died of.
    pub lost: Vec<(DeviceName, String)>,
}

/// A placement that lost.
#[derive(Clone, Debug, PartialEq)]
pub struct Rival {
    pub device: DeviceName,
    pub share: Share,
    pub batch: Batch,
    pub rung: Rung,
    pub predicted: Option<Prediction>,
    pub why: Why,
}

/// Why a placement lost.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Why {
    InUse,
    OtherShare(Share),
    OtherEnvironment,
    OtherDevice,
    Untuned,
    /// Misses the deadline by so much.
    Late(Picos),
    NoRecord,
    /// Slower by so much.
    Slower(Picos),
    NoFaster,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::InUse => f.write_str("its cores are in use"),
            Why::OtherShare(share) => write!(f, "was tuned for {share} %"),
            Why::OtherEnvironment => f.write_str("was tuned in another environment"),
            Why::OtherDevice => f.write_str("was tuned on another device"),
            Why::Untuned => f.write_str("defaults are only taken where nothing was tuned"),
            Why::Late(by) => write!(f, "misses the deadline by {:.3} ms", by.as_millis_f64()),
            Why::NoRecord => f.write_str("has no record"),
            Why::Slower(by) => write!(f, "is slower by {:.3} ms", by.as_millis_f64()),
            Why::NoFaster => f.write_str("is no faster"),
        }
    }
}

/// Something that could run a request: an entry, or a graph with defaults.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub artifact: usize,
    pub graph: usize,
    /// `None`: defaults.
    pub entry: Option<usize>,
    pub model: String,
    pub key: ModelKey,
    pub batch: Batch,
    pub dims: Vec<(String, u64)>,
    /// Of an entry: where it was tuned.
    pub device: Option<(DeviceKey, DeviceName, EnvironmentKey)>,
    pub share: Share,
    /// What the artifact says of an entry.
    pub record: Option<Measured>,
    pub tuned: usize,
}

/// What a request wants.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Wish<'a> {
    /// The candidates that take its inputs.
    pub fits: &'a [usize],
    pub deadline: Option<Duration>,
    pub share: Option<Share>,
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Choice {
    pub candidate: usize,
    pub decision: Decision,
}

/// The entries of an artifact, and each of its graphs with defaults.
pub(crate) fn candidates(index: usize, artifact: &Artifact) -> Vec<Candidate> {
    let (model, key) = (&artifact.provenance().model_name, artifact.provenance().model);
    let entry = |(i, entry): (usize, &crate::artifact::Entry)| {
        let record = entry.record.map(|record| &artifact.records()[record]);
        let record = record.and_then(|record| {
            let Outcome::Ok { timing, .. } = &record.outcome else { return None };
            let plan = if let Subject::Model(of) = &record.subject { Some(of.plan) } else { None };
            Some(Measured { median: timing.median, plan, mechanism: record.grant.mechanism.clone() })
        });
        Candidate {
            artifact: index,
            graph: entry.graph,
            entry: Some(i),
            model: model.clone(),
            key,
            batch: entry.batch,
            dims: entry.dims.clone(),
            device: Some((entry.device.key(), entry.device.name.clone(), entry.environment.key())),
            share: entry.share,
            record,
            tuned: entry.configs.len(),
        }
    };
    let defaults = artifact.shapes().enumerate().map(|(graph, (batch, dims))| Candidate {
        artifact: index,
        graph,
        entry: None,
        model: model.clone(),
        key,
        batch,
        dims: dims.to_vec(),
        device: None,
        share: Share::WHOLE,
        record: None,
        tuned: 0,
    });
    artifact.entries().iter().enumerate().map(entry).chain(defaults).collect()
}

/// How one candidate stands for a wish.
struct Standing {
    candidate: usize,
    rung: Rung,
    /// The share it would run at.
    share: Share,
    predicted: Option<Prediction>,
    late: bool,
    free: bool,
}

/// The best candidate whose share is free; `None` when none is. `free` tells whether a share of the device can be had now.
pub(crate) fn choose(
    candidates: &[Candidate],
    index: &Index,
    here: &Here<'_>,
    wish: &Wish<'_>,
    mut free: impl FnMut(Share) -> bool,
) -> Option<Choice> {
    let mut standings: Vec<Standing> = wish
        .fits
        .iter()
        .filter_map(|&i| {
            let candidate = &candidates[i];
            let rung = rung(candidate, here, wish)?;
            let share = wish.share.unwrap_or(candidate.share);
            // A record of another share says nothing about this one.
            let predicted = index.prediction(i, share);
            let late =
                wish.deadline.is_some_and(|deadline| predicted.is_some_and(|p| p.time.as_secs_f64() > deadline.as_secs_f64()));
            Some(Standing { candidate: i, rung, share, predicted, late, free: free(share) })
        })
        .collect();
    standings.sort_by_key(|s| {
        let greatest = std::cmp::Reverse(s.share);
        (s.rung, s.late, s.predicted.is_none(), s.predicted.map(|p| p.time), greatest, s.candidate)
    });
    let chosen = standings.iter().position(|standing| standing.free)?;
    let winner = standings.remove(chosen);
    let foreign = |&i: &usize| rung(&candidates[i], here, wish).is_none();
    let rivals = standings.iter().map(|standing| rival(candidates, here, &winner, standing, wish));
    let elsewhere =
        wish.fits.iter().filter(|i| foreign(i)).map(|&i| other_device(&candidates[i], index.prediction(i, candidates[i].share)));
    let candidate = &candidates[winner.candidate];
    let decision = Decision {
        model: candidate.model.clone(),
        device: here.name.clone(),
        share: winner.share,
        batch: candidate.batch,
        dims: candidate.dims.clone(),
        rung: winner.rung,
        predicted: winner.predicted,
        actual: None,
        keeps_deadline: wish.deadline.and(winner.predicted).map(|_| !winner.late),
        tuned: candidate.tuned,
        replaced: 0,
        rivals: rivals.chain(elsewhere).collect(),
        lost: Vec::new(),
    };
    Some(Choice { candidate: winner.candidate, decision })
}

/// Where a candidate stands on the ladder; `None` for an entry of another device.
fn rung(candidate: &Candidate, here: &Here<'_>, wish: &Wish<'_>) -> Option<Rung> {
    let Some((device, _, environment)) = &candidate.device else { return Some(Rung::Default) };
    if *device != here.device {
        return None;
    }
    Some(match (*environment == here.environment, wish.share.is_none_or(|share| share == candidate.share)) {
        (true, true) => Rung::Exact,
        (true, false) => Rung::OtherShare,
        (false, _) => Rung::Stale,
    })
}

fn rival(candidates: &[Candidate], here: &Here<'_>, winner: &Standing, loser: &Standing, wish: &Wish<'_>) -> Rival {
    let candidate = &candidates[loser.candidate];
    let why = match (loser.predicted.map(|p| p.time), winner.predicted.map(|p| p.time), wish.deadline) {
        _ if !loser.free => Why::InUse,
        _ if loser.rung > winner.rung => match loser.rung {
            Rung::OtherShare => Why::OtherShare(candidate.share),
            Rung::Stale => Why::OtherEnvironment,
            _ => Why::Untuned,
        },
        (Some(p), _, Some(deadline)) if loser.late && !winner.late => {
            Why::Late(Picos::from_secs_f64(p.as_secs_f64() - deadline.as_secs_f64()))
        }
        (None, Some(_), _) => Why::NoRecord,
        (Some(loser), Some(winner), _) if loser > winner => Why::Slower(Picos(loser.0 - winner.0)),
        _ => Why::NoFaster,
    };
    let (device, rung) = (here.name.clone(), loser.rung);
    Rival { device, share: loser.share, batch: candidate.batch, rung, predicted: loser.predicted, why }
}

fn other_device(candidate: &Candidate, predicted: Option<Prediction>) -> Rival {
    let device = candidate.device.as_ref().map_or_else(|| DeviceName(String::new()), |(_, name, _)| name.clone());
    Rival { device, share: candidate.share, batch: candidate.batch, rung: Rung::Default, predicted, why: Why::OtherDevice }
}

#[cfg(test)]
mod tests {
    use super::testing::{defaults, entry, here, share};
    use super::*;

    fn decide(candidates: &[Candidate], deadline: Option<f64>, percent: Option<f64>, busy: &[f64]) -> Option<Decision> {
        let fits: Vec<usize> = (0..candidates.len()).collect();
        let deadline = deadline.map(|ms| Duration::from_secs_f64(ms * 1e-3));
        let wish = Wish { fits: &fits, deadline, share: percent.map(share) };
        let index = Index::of_artifacts(candidates);
        choose(candidates, &index, &here(), &wish, |share| !busy.contains(&share.as_percent())).map(|choice| choice.decision)
    }

    #[test]
    fn the_fastest_wins_and_each_rival_has_its_reason() {
        let all = [entry(50.0, Some(22.7)), entry(100.0, Some(12.9)), entry(25.0, None), defaults()];
        let decision = decide(&all, Some(15.0), None, &[]).unwrap();
        assert_eq!((decision.share.as_percent(), decision.rung, decision.keeps_deadline), (100.0, Rung::Exact, Some(true)));
        let why: Vec<String> = decision.rivals.iter().map(|rival| rival.why.to_string()).collect();
        let defaults = "defaults are only taken where nothing was tuned";
        assert_eq!(why, ["has no record", "misses the deadline by 7.700 ms", defaults]);
    }

    #[test]
    fn what_is_in_use_is_passed_over_and_nothing_free_is_no_choice() {
        let all = [entry(50.0, Some(22.7)), entry(100.0, Some(12.9))];
        let decision = decide(&all, None, None, &[100.0]).unwrap();
        assert_eq!((decision.share.as_percent(), decision.rivals[0].why), (50.0, Why::InUse));
        assert_eq!(decide(&all, None, None, &[50.0, 100.0]), None);
    }

    #[test]
    fn the_ladder_goes_down_rung_by_rung() {
        let of = |device, name: &str, environment| Some((device, DeviceName(name.into()), environment));
        let stale = Candidate { device: of(here().device, "cpu", EnvironmentKey([9; 8])), ..entry(50.0, Some(1.0)) };
        let foreign = Candidate { device: of(DeviceKey([7; 16]), "cuda:0", here().environment), ..entry(50.0, Some(0.1)) };
        let all = [entry(50.0, Some(20.0)), entry(100.0, Some(10.0)), stale, foreign, defaults()];
        let rung = |all: &[Candidate], share| decide(all, None, Some(share), &[]).unwrap().rung;
        assert_eq!(rung(&all, 50.0), Rung::Exact);
        assert_eq!(rung(&all[1..], 50.0), Rung::OtherShare);
        assert_eq!(rung(&all[2..], 50.0), Rung::Stale);
        let last = decide(&all[3..], None, Some(50.0), &[]).unwrap();
        assert_eq!((last.rung, last.share.as_percent(), last.predicted), (Rung::Default, 50.0, None));
        assert_eq!(last.rivals[0].why, Why::OtherDevice);
    }

    #[test]
    fn a_record_of_another_share_predicts_nothing() {
        let decision = decide(&[entry(100.0, Some(10.0))], Some(1.0), Some(50.0), &[]).unwrap();
        assert_eq!((decision.rung, decision.predicted, decision.keeps_deadline), (Rung::OtherShare, None, None));
    }
}
