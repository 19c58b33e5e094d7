//! The language of questions: every rule, every error.

use crate::sample::{self, Random};
use schema::*;
use std::path::PathBuf;
use tuning_db::query::field::FIELDS;
use tuning_db::query::{Direction, Expr, Field, Mark, Op, Value, eval};
use tuning_db::{Of, OpenOptions, Query, Rows, Store};

fn test_of(text: &str) -> Expr {
    Query::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).test.unwrap()
}

fn number(field: Field, op: Op, value: f64) -> Expr {
    Expr::Compare(field, op, Value::Number(value))
}

fn text(field: Field, op: Op, value: &str) -> Expr {
    Expr::Compare(field, op, Value::Text(value.to_owned()))
}

#[test]
fn the_examples_of_the_manual_parse() {
    assert_eq!(
        test_of("model=resnet50 and share<=50 and p99<5ms"),
        Expr::And(vec![
            text(Field::Model, Op::Equal, "resnet50"),
            number(Field::Share, Op::LessEqual, 50.0),
            number(Field::P99, Op::Less, 5e9),
        ])
    );
    let query = Query::parse("device~cuda* and batch in (1, 16) order by throughput desc limit 5").unwrap();
    assert_eq!(query.order, [(Field::Throughput, Direction::Descending)]);
    assert_eq!(query.limit, Some(5));
    Query::parse("op=conv2d and ratio_lo>1.5 and noise<=B").unwrap();
    Query::parse("class=wrong_result and age<7d").unwrap();
}

#[test]
fn not_binds_before_and_and_before_or() {
    let mark = |mark| Expr::Mark(mark);
    assert_eq!(
        test_of("not stale and winner or refused"),
        Expr::Or(vec![Expr::And(vec![Expr::Not(Box::new(mark(Mark::Stale))), mark(Mark::Winner)]), mark(Mark::Refused)])
    );
    assert_eq!(
        test_of("not (stale or winner) AND refused"),
        Expr::And(vec![Expr::Not(Box::new(Expr::Or(vec![mark(Mark::Stale), mark(Mark::Winner)]))), mark(Mark::Refused)])
    );
}

#[test]
fn every_operator_unit_and_form_is_read() {
    for (sign, op) in [
        ("=", Op::Equal),
        ("!=", Op::NotEqual),
        ("<", Op::Less),
        ("<=", Op::LessEqual),
        (">", Op::Greater),
        (">=", Op::GreaterEqual),
    ] {
        assert_eq!(test_of(&format!("batch {sign} 4")), number(Field::Batch, op, 4.0));
    }
    for (written, field, value) in [
        ("p99=5ns", Field::P99, 5e3),
        ("p50=2.5us", Field::P50, 2.5e6),
        ("mad=1e-3s", Field::Mad, 1e9),
        ("share=12.5%", Field::Share, 12.5),
        ("throughput=100/s", Field::Throughput, 100.0),
        ("throughput=1e2", Field::Throughput, 100.0),
        ("memory=2kB", Field::Memory, 2e3),
        ("memory=2KiB", Field::Memory, 2048.0),
        ("memory=3MB", Field::Memory, 3e6),
        ("memory=1MiB", Field::Memory, 1_048_576.0),
        ("memory=1GB", Field::Memory, 1e9),
        ("memory=1GiB", Field::Memory, 1_073_741_824.0),
        ("energy=3mJ", Field::Energy, 3.0),
        ("energy=3J", Field::Energy, 3000.0),
        ("age=3s", Field::Age, 3.0),
        ("age=2m", Field::Age, 120.0),
        ("age=2h", Field::Age, 7200.0),
        ("age=7d", Field::Age, 604_800.0),
        ("noise=B", Field::Noise, 1.0),
    ] {
        assert_eq!(test_of(written), number(field, Op::Equal, value), "{written}");
    }
    assert_eq!(test_of("p99 is null"), Expr::IsNull(Field::P99));
    assert_eq!(test_of("p99 IS NOT NULL"), Expr::Not(Box::new(Expr::IsNull(Field::P99))));
    let list = vec![Value::Text("a".into()), Value::Text("and".into())];
    assert_eq!(test_of("model not in (a, \"and\")"), Expr::Not(Box::new(Expr::In(Field::Model, list))));
    assert_eq!(test_of("model=\"two words\""), text(Field::Model, Op::Equal, "two words"));
    assert_eq!(test_of("driver=575"), text(Field::Driver, Op::Equal, "575"));
    assert_eq!(test_of("version=0.1.0"), text(Field::Version, Op::Equal, "0.1.0"));
    let query = Query::parse("order by p99, batch desc, model asc").unwrap();
    assert_eq!(
        query.order,
        [(Field::P99, Direction::Ascending), (Field::Batch, Direction::Descending), (Field::Model, Direction::Ascending)]
    );
    assert!(query.test.is_none());
    assert!(Query::parse("  ").unwrap().test.is_none());
    assert_eq!(Query::parse("limit 3").unwrap().limit, Some(3));
}

#[test]
fn every_refusal_names_column_and_remedy() {
    for (written, column, near, what) in [
        ("p99<5", 1, "p99<5", "p99 is a time and needs a unit; write p99<5ms"),
        ("batch=1 and p99<5", 13, "p99<5", "p99 is a time and needs a unit; write p99<5ms"),
        ("memory>1", 1, "memory>1", "memory is an amount of memory and needs a unit; write memory>1MB"),
        ("age<7", 1, "age<7", "age is an age and needs a unit; write age<7d"),
        ("modle=x", 1, "modle", "there is no field of this name; did you mean model?"),
        ("stael", 1, "stael", "there is no field of this name; did you mean stale?"),
        ("p99<5mz", 1, "p99<5mz", "p99 has no unit \"mz\"; units are ns, us, ms, s; did you mean ms?"),
        ("batch<5ms", 1, "batch<5ms", "batch is a number without a unit; \"ms\" is too much"),
        ("model<x", 1, "model<", "model is a text: use = != ~ or in"),
        ("batch~1", 1, "batch~", "batch is a number: ~ compares texts only"),
        ("batch=x", 1, "batch=x", "batch is a number, \"x\" is none"),
        ("noise<=E", 1, "noise<=E", "noise is a grade: A, B, C or D"),
        ("batch", 6, "end", "expected = != < <= > >= ~, in or is"),
        ("batch=", 7, "end", "expected a value"),
        ("batch=-1", 7, "-", "numbers have no sign"),
        ("model=and", 7, "and", "expected a value; the word itself is written \"and\""),
        ("model='x'", 7, "'", "texts stand in double quotes"),
        ("model=\"x", 7, "\"x", "a quote is not closed"),
        ("batch in 1", 10, "1", "expected a parenthesis, as in batch in (1, 16)"),
        ("batch in (1 2)", 13, "2", "expected a comma or a closing parenthesis"),
        ("batch not 1", 11, "1", "expected in"),
        ("p99 is 3", 8, "3", "expected null"),
        ("(batch=1", 9, "end", "expected and, or or a closing parenthesis"),
        ("batch=1)", 8, ")", "no parenthesis is open here"),
        ("batch=1 batch=2", 9, "batch", "expected and, or, order by, limit or the end"),
        ("batch=1 and", 12, "end", "expected a test, like p99<5ms"),
        ("not not stale", 5, "not", "not stands once"),
        ("batch=1 && batch=2", 9, "&", "write and"),
        ("order p99", 7, "p99", "expected by"),
        ("order by", 9, "end", "expected a field"),
        ("order by stale", 10, "stale", ""),
        ("limit x", 7, "x", "expected a whole number, as in limit 5"),
        ("limit 1.5", 7, "1.5", "expected a whole number, as in limit 5"),
        ("limit 5 stale", 9, "stale", "nothing may follow the limit"),
        ("batch=1 order by p99 stale", 22, "stale", "expected a comma, limit or the end"),
        ("batch=1..2", 1, "batch=1..2", "batch is a number without a unit; \"..2\" is too much"),
    ] {
        let error = Query::parse(written).err().unwrap_or_else(|| panic!("{written} was read"));
        assert_eq!((error.column, error.near.as_str()), (column, near), "{written}: {error}");
        assert!(error.what.contains(what), "{written}: {error}");
    }
    let message = Query::parse("p99<5").unwrap_err().to_string();
    assert_eq!(message, "query, column 1: \"p99<5\": p99 is a time and needs a unit; write p99<5ms");
}

#[test]
fn limits_are_kept() {
    let deep = |n: usize| format!("{}stale{}", "(".repeat(n), ")".repeat(n));
    assert!(Query::parse(&deep(31)).is_ok());
    assert!(Query::parse(&deep(33)).unwrap_err().what.contains("32"));
    assert!(Query::parse(&deep(1500)).unwrap_err().what.contains("32"));
    let wide = |n: usize| vec!["stale"; n].join(" or ");
    assert!(Query::parse(&wide(256)).is_ok());
    assert!(Query::parse(&wide(257)).unwrap_err().what.contains("256"));
    assert!(Query::parse(&" ".repeat(4097)).unwrap_err().what.contains("4096"));
}

#[test]
fn no_text_panics() {
    let mut random = Random(1);
    let pieces = [
        "model", "p99", "<", "<=", "~", "(", ")", ",", "5ms", "1e", "1e-", "\"", "é", "not", "in", "is", "null", "limit",
        "order by", " ", "%", "*", "\u{7}", "0.", ".5", "and", "or",
    ];
    for _ in 0..crate::campaign(20_000, 1_000_000) {
        let text: String = (0..random.below(12)).map(|_| pieces[random.below(pieces.len() as u64) as usize]).collect();
        drop(Query::parse(&text));
    }
}

#[test]
fn globs_match_as_shells_do() {
    for (pattern, found, expected) in [
        ("*", "", true),
        ("a*c", "abbc", true),
        ("a*c", "abb", false),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("cuda*", "cuda:0", true),
        ("*a*b*", "xxaxxbxx", true),
        ("abc", "abcd", false),
    ] {
        assert_eq!(eval::glob(pattern, found), expected, "{pattern} {found}");
    }
    assert_eq!(eval::driver_of("kernel=6.1 driver=575.54 x"), Some("575.54".into()));
    assert_eq!(eval::driver_of("mydriver=1, driver: 560.28;"), Some("560.28".into()));
    assert_eq!(eval::driver_of("kernel=6.1"), None);
}

/// A store with known rows.
fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("db");
    let options = OpenOptions { snapshot_every: None, serve: false, ..OpenOptions::default() };
    let store = Store::open(&path, options).unwrap();
    let mut random = Random(11);
    let tickets: Vec<_> = (0..400).map(|_| store.append(sample::any(&mut random)).unwrap()).collect();
    tickets.into_iter().for_each(|ticket| _ = ticket.wait().unwrap());
    for n in 0..4 {
        let text = sample::task_text(n);
        store.put_task(TaskKey::of(&text), &text).unwrap();
    }
    for n in 0..2 {
        let (device, environment) = sample::device(n);
        store.put_device(&device, &environment).unwrap();
    }
    (dir, store)
}

fn ask(store: &Store, of: Of, text: &str) -> Rows {
    store.query(&Query::parse(text).unwrap().of(of).at(1_770_000_000)).unwrap()
}

#[test]
fn stale_and_refused_rows_are_hidden_unless_named() {
    let (_dir, store) = store();
    let plain = ask(&store, Of::Trials, "");
    assert!(!plain.rows.is_empty() && plain.rows.iter().all(|row| !row.stale && !row.refused));
    let stale = ask(&store, Of::Trials, "stale");
    assert!(!stale.rows.is_empty() && stale.rows.iter().all(|row| row.stale && !row.refused));
    let all = ask(&store, Of::Trials, "(stale or not stale) and (refused or not refused)");
    assert!(all.rows.len() > plain.rows.len() + stale.rows.len());
    let failures = ask(&store, Of::Failures, "");
    assert!(!failures.rows.is_empty() && failures.rows.iter().all(|row| row.refused && !row.stale));
    let winners = ask(&store, Of::Tasks, "winner");
    let places: std::collections::BTreeSet<String> = winners
        .rows
        .iter()
        .map(|row| {
            let cell = |field| row.cells[winners.column(field).unwrap()].plain();
            format!("{} {} {} {:?}", cell(Field::Task), cell(Field::Share), cell(Field::Numerics), row.notes)
        })
        .collect();
    assert!(!winners.rows.is_empty() && places.len() == winners.rows.len());
}

#[test]
fn answers_agree_with_a_plain_filter() {
    let (_dir, store) = store();
    let all = ask(&store, Of::Models, "");
    let p99 = all.column(Field::P99).unwrap();
    let share = all.column(Field::Share).unwrap();
    let fast = ask(&store, Of::Models, "p99<500us and share<=50 order by p99 desc");
    let ns = |rows: &Rows, at: usize| rows.rows[at].cells[p99].json().as_u64().unwrap();
    let expected = (0..all.rows.len())
        .filter(|at| ns(&all, *at) < 500_000 && all.rows[*at].cells[share].json().as_f64().unwrap() <= 50.0)
        .count();
    assert!(expected > 0 && expected == fast.rows.len());
    let order: Vec<u64> = (0..fast.rows.len()).map(|at| ns(&fast, at)).collect();
    assert!(order.iter().rev().is_sorted());
    let limited = ask(&store, Of::Models, "p99<500us and share<=50 order by p99 desc limit 3");
    assert_eq!(limited.rows[..], fast.rows[..3]);
    assert_eq!(
        ask(&store, Of::Models, "compute is null").rows.len() + ask(&store, Of::Models, "compute is not null").rows.len(),
        all.rows.len()
    );
    // A comparison with null is false either way.
    let compared = ask(&store, Of::Models, "compute<1s").rows.len() + ask(&store, Of::Models, "compute>=1s").rows.len();
    assert_eq!(compared, ask(&store, Of::Models, "compute is not null").rows.len());
    let by_key = format!("model={}", sample::model_key(1));
    assert_eq!(ask(&store, Of::Models, &by_key).rows, ask(&store, Of::Models, "model=model1").rows);
    let of_task = ask(&store, Of::Trials, &format!("task={}", TaskKey::of(&sample::task_text(2))));
    assert_eq!(of_task.rows, ask(&store, Of::Trials, &format!("task=\"{}\"", sample::task_text(2))).rows);
    assert_eq!(ask(&store, Of::Trials, "op=gemm").rows.len(), ask(&store, Of::Trials, "").rows.len());
    assert_eq!(ask(&store, Of::Devices, "driver~575*").rows.len(), 2);
}

#[test]
fn json_has_fixed_keys_units_and_reasons() {
    let (_dir, store) = store();
    let rows = ask(&store, Of::Models, "limit 1").to_json();
    let row = rows["rows"][0].as_object().unwrap();
    for key in ["model", "share_pct", "p99_ns", "throughput_per_s", "memory_bytes", "measured_at", "stale"] {
        assert!(row.contains_key(key), "{key}");
    }
    assert!(row["energy_mj"].is_null());
    assert_eq!(row["energy_mj_why"], "no counter on this device");
    assert!(row["p99_ns"].is_u64());
    assert_eq!(rows["generation"], "0");
    for (name, field, _) in FIELDS {
        assert_eq!((Field::parse(name), field.name()), (Some(*field), *name));
    }
}
