//! Shares by core sets: a share of 50 % on two cores is one core, and two such shares are two different cores.

use super::{Grant, Mechanism};
use crate::device::Machine;
use kernels::Limits;
use schema::Share;

/// Whole cores, set by affinity.
pub const MECHANISM: Mechanism = Mechanism { name: "core_sets", possible, grant, by_driver: None };

/// The share that `units` of `of` cores are, to the per mille.
fn share_of(units: usize, of: usize) -> Option<Share> {
    let mille = (units * 2000).checked_div(of)?.div_ceil(2);
    Share::per_mille(u16::try_from(mille).ok()?).ok()
}

/// One share for each number of cores.
fn possible(machine: &Machine) -> Vec<Share> {
    let all = machine.cores.len();
    let mut shares: Vec<Share> = (1..=all).filter_map(|units| share_of(units, all)).collect();
    shares.dedup();
    shares
}

/// The `slot`-th run of as many cores as the share is.
fn grant(machine: &Machine, share: Share, slot: usize) -> Option<Grant> {
    let all = machine.cores.len();
    let units = (1..=all).find(|&units| share_of(units, all) == Some(share))?;
    let from = slot.checked_mul(units)?;
    let cores = machine.cores.get(from..from.checked_add(units)?)?.to_vec();
    let units = u32::try_from(units).ok()?;
    Some(Grant {
        device: machine.device.name.clone(),
        share,
        slot,
        grant: schema::Grant { mechanism: MECHANISM.name.to_owned(), units },
        cores,
        limits: Limits { units, ..machine.limits },
    })
}

#[cfg(test)]
mod tests {
    use crate::device::{Machine, share::GrantError};
    use kernels::{Isa, Limits};
    use schema::{Device, DeviceName, Environment, Share};

    fn machine(cores: &[usize]) -> Machine {
        let limits = Limits {
            isa: Isa::Scalar,
            units: cores.len() as u32,
            l1d_bytes: 1,
            l2_bytes: 1,
            l3_bytes: 1,
            gpu: None,
            numerics: schema::Numerics::Strict,
        };
        Machine {
            device: Device { name: DeviceName("cpu".into()), text: "kind=cpu".into() },
            environment: Environment { text: String::new() },
            summary: String::new(),
            limits,
            cores: cores.to_vec(),
            multiprocessors: None,
            copy_engines: 0,
            software: false,
        }
    }

    #[test]
    fn half_of_two_cores_is_one_and_the_halves_are_disjoint() {
        let machine = machine(&[3, 7]);
        let half = Share::percent(50.0).unwrap();
        let (a, b) = (machine.grant_slot(half, 0).unwrap(), machine.grant_slot(half, 1).unwrap());
        assert_eq!((a.grant.units, &a.cores[..], &b.cores[..]), (1, &[3][..], &[7][..]));
        assert_eq!(a.limits.units, 1);
        assert_eq!(machine.slots(half), 2);
        assert_eq!(machine.grant(Share::WHOLE).unwrap().cores, [3, 7]);
        assert_eq!(machine.slots(Share::WHOLE), 1);
    }

    #[test]
    fn a_share_it_cannot_give_names_those_it_can() {
        let error = machine(&[0, 1]).grant(Share::percent(30.0).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "cpu cannot give 30 %: it gives 50, 100; choose one of these");
        let half = Share::percent(50.0).unwrap();
        assert!(matches!(machine(&[0, 1]).grant_slot(half, 2), Err(GrantError::Slot { slots: 2, .. })));
    }

    #[test]
    fn thirds_are_granted_by_their_rounded_share() {
        let machine = machine(&[0, 1, 2]);
        assert_eq!(machine.shares_pct(), [33.3, 66.7, 100.0]);
        assert_eq!(machine.grant(Share::percent(33.3).unwrap()).unwrap().cores, [0]);
        assert_eq!(machine.grant(Share::percent(66.7).unwrap()).unwrap().cores, [0, 1]);
    }
}
