//! Keys: the order of bytes is the order of values, a prefix is exactly a question.

use crate::campaign;
use proptest::prelude::*;
use schema::*;
use tuning_db::key::{self, BestKey, RowKey, TrialKey, table};

fn config() -> ProptestConfig {
    ProptestConfig { cases: campaign(20_000, 100_000) as u32, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn integers_sort_as_values(a: i64, b: i64, c: u64, d: u64, e: u32, f: u32, g: u16, h: u16) {
        prop_assert_eq!(key::i64_order(a).cmp(&key::i64_order(b)), a.cmp(&b));
        prop_assert_eq!(key::i64_value(key::i64_order(a)), a);
        prop_assert_eq!(key::u64_order(c).cmp(&key::u64_order(d)), c.cmp(&d));
        prop_assert_eq!(key::u32_order(e).cmp(&key::u32_order(f)), e.cmp(&f));
        prop_assert_eq!(key::u16_order(g).cmp(&key::u16_order(h)), g.cmp(&h));
    }

    #[test]
    fn floats_sort_as_values(a in prop::num::f64::ANY, b in prop::num::f64::ANY) {
        match (key::f64_order(a), key::f64_order(b)) {
            (Some(x), Some(y)) => {
                prop_assert_eq!(x.cmp(&y), a.partial_cmp(&b).unwrap());
                prop_assert_eq!(key::f64_value(x), a);
            }
            (x, y) => prop_assert!(x.is_none() == a.is_nan() && y.is_none() == b.is_nan()),
        }
    }

    #[test]
    fn keys_parse_back_and_sort_by_their_parts(
        task: [u8; 16], device: [u8; 16], config: [u8; 16], writer: [u8; 16], seq: u64,
        shares in (1u16..=1000, 1u16..=1000), batches in (1u32.., 1u32..), times: (u64, u64), tail: [u8; 8],
    ) {
        let (device, config) = (DeviceKey(device), ConfigKey(config));
        let share = |mille| Share::per_mille(mille).unwrap();
        let id = ObservationId { writer, seq };
        let trial = key::trial(task, device, share(shares.0), config, id).0;
        prop_assert_eq!(trial.len(), 68);
        prop_assert_eq!(TrialKey::parse(&trial).unwrap(),
            TrialKey { subject: task, device, share: share(shares.0), config, id_hash: key::id_hash(id) });
        prop_assert!(trial.starts_with(key::trial_config(task, device, share(shares.0), config).as_ref()));
        prop_assert!(trial.starts_with(key::trial_group(task, device, share(shares.0)).as_ref()));
        let row = |mille, rows| key::model(ModelKey(task), device, share(mille), Batch::new(rows).unwrap(), tail).0;
        prop_assert_eq!(row(shares.0, batches.0).len(), 48);
        prop_assert_eq!(row(shares.0, batches.0).cmp(&row(shares.1, batches.1)),
            (shares.0, batches.0).cmp(&(shares.1, batches.1)));
        prop_assert_eq!(RowKey::parse(&row(shares.0, batches.0)).unwrap().batch.rows(), batches.0);
        let best = |ps| key::best(TaskKey(task), device, share(shares.0), Numerics::Relaxed, Picos(ps), tail).0;
        prop_assert_eq!(best(times.0).len(), 53);
        prop_assert_eq!(best(times.0).cmp(&best(times.1)), times.0.cmp(&times.1));
        prop_assert_eq!(BestKey::parse(&best(times.0)).unwrap().time, Picos(times.0));
    }

    #[test]
    fn the_end_of_a_prefix_is_behind_everything_below_it(prefix in prop::collection::vec(any::<u8>(), 1..8), more: Vec<u8>) {
        let end = key::prefix_end(&prefix);
        let mut longer = prefix.clone();
        longer.extend(more);
        prop_assert!(end.is_empty() || longer < end);
        prop_assert!(end.is_empty() || !end.starts_with(&prefix));
    }
}

#[test]
fn no_key_is_a_prefix_of_another_tables() {
    let mut prefixes: Vec<Vec<u8>> = table::ALL.iter().map(|table| key::whole(*table).0).collect();
    prefixes.dedup();
    assert_eq!(prefixes.len(), table::ALL.len());
    assert!(prefixes.is_sorted());
}
