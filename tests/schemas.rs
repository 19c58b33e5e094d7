//! What commands print with `--json` is what `docs/formats/*.schema.json` say, and keeps the rules that hold for all of it.
//!
//! The checker knows the part of JSON Schema that those files use, and is stricter than it: a key that the schema does not name fails,
//! so that no field goes without documentation. The files themselves allow unknown keys, because a later build may add some.

use crate::cli::tunewright;
use crate::shipped::mnist_cnn;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/formats")
}

fn schema(name: &str) -> Value {
    let path = folder().join(format!("{name}.schema.json"));
    let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Asserts that an object is what the schema of that name says.
pub fn check(name: &str, object: &Value) {
    let mut wrong = Vec::new();
    walk(&schema(name), object, name, &mut wrong);
    assert!(wrong.is_empty(), "{name}:\n{}\nin {object}", wrong.join("\n"));
}

/// Collects what is wrong with `value`.
fn walk(schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
    let mut fail = |what: String| wrong.push(format!("{at}: {what}"));
    if let Some(wanted) = schema.get("const")
        && wanted != value
    {
        fail(format!("{value} is not {wanted}"));
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        fail(format!("{value} is none of {allowed:?}"));
    }
    let types: Vec<&str> = match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => panic!("{at}: the schema gives no type"),
    };
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{at}: there is no type {other}"),
    };
    if !types.iter().any(|name| is(name)) {
        fail(format!("{value} is not {}", types.join(" or ")));
    }
    match value {
        Value::Array(items) => {
            let each = schema.get("items").unwrap_or_else(|| panic!("{at}: the schema says nothing of the items"));
            items.iter().enumerate().for_each(|(i, item)| walk(each, item, &format!("{at}[{i}]"), wrong));
        }
        // A free form: documented elsewhere.
        Value::Object(_) if schema.get("additionalProperties") == Some(&Value::Bool(true)) => {}
        Value::Object(fields) => {
            let known = schema.get("properties").and_then(Value::as_object);
            let rest = schema.get("additionalProperties").filter(|rest| rest.is_object());
            let patterns = schema.get("patternProperties").and_then(Value::as_object);
            let matching = |name: &str| {
                let fits = |pattern: &str| name.starts_with(pattern.strip_prefix('^').expect("patterns are prefixes here"));
                patterns?.iter().find(|(pattern, _)| fits(pattern)).map(|(_, schema)| schema)
            };
            for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
                if !fields.contains_key(name) {
                    wrong.push(format!("{at}: {name} is missing"));
                }
            }
            for (name, inner) in fields {
                let place = format!("{at}.{name}");
                match known.and_then(|known| known.get(name)).or_else(|| matching(name)).or(rest) {
                    Some(schema) => walk(schema, inner, &place, wrong),
                    None => wrong.push(format!("{place}: the schema does not name it")),
                }
                if inner.is_null() && !fields.get(&format!("{name}_why")).is_some_and(Value::is_string) {
                    wrong.push(format!("{place}: null without {name}_why"));
                }
            }
        }
        _ => {}
    }
}

/// Names and units of every property of a schema.
fn names_are_well_formed(schema: &Value, at: &str) {
    for (name, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let place = format!("{at}.{name}");
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{place} is not snake case");
        if name.ends_with("_ns") || name.ends_with("_bytes") {
            let text = inner["type"].to_string();
            assert!(text.contains("integer") && !text.contains("number"), "{place} is an integer");
        }
        names_are_well_formed(inner, &place);
    }
    for inner in ["items", "additionalProperties"].iter().filter_map(|name| schema.get(*name)).filter(|inner| inner.is_object()) {
        names_are_well_formed(inner, at);
    }
}

#[test]
fn every_schema_is_well_formed() {
    let mut seen = 0;
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let Some(name) = path.file_name().unwrap().to_str().unwrap().strip_suffix(".schema.json") else { continue };
        let schema = schema(name);
        assert_eq!(schema["$id"], format!("tunewright/{name}/1"));
        assert!(schema["description"].is_string(), "{name} says what it is");
        if name == "tune.events" {
            schema["events"].as_object().unwrap().iter().for_each(|(event, schema)| names_are_well_formed(schema, event));
        } else {
            assert_eq!(
                (&schema["properties"]["schema"]["const"], &schema["properties"]["version"]["const"]),
                (&name.into(), &1.into())
            );
            names_are_well_formed(&schema, name);
        }
        seen += 1;
    }
    assert!(seen > 15, "{seen} schemas");
}

#[test]
fn the_checker_finds_what_is_wrong() {
    let good = serde_json::json!({"schema": "error", "version": 1, "class": "x.y", "exit": 3, "what": "", "where": "", "why": "", "do": ""});
    check("error", &good);
    let wrong = |edit: &dyn Fn(&mut Value)| {
        let (mut object, mut found) = (good.clone(), Vec::new());
        edit(&mut object);
        walk(&schema("error"), &object, "error", &mut found);
        found.len()
    };
    assert_eq!(wrong(&|object| object["exit"] = "3".into()), 1);
    assert_eq!(wrong(&|object| object["extra"] = 3.into()), 1);
    assert_eq!(wrong(&|object| object["version"] = 2.into()), 1);
    assert_eq!(wrong(&|object| object["why"] = Value::Null), 2, "another type, and no reason");
    assert_eq!(wrong(&|object| drop(object.as_object_mut().unwrap().remove("do"))), 1);
}

/// A home with a database and an artifact of the shipped model.
struct Home(tempfile::TempDir);

impl Home {
    /// Runs with `--json`, asserts that the code is one of those, and checks the one object on stdout against the schema it names.
    fn ask(&self, arguments: &[&str], codes: &[i32]) -> Value {
        let output = tunewright(self.0.path(), &[&["--json", "--db", "db"], arguments].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_some_and(|code| codes.contains(&code)), "{arguments:?}: {said}");
        assert_eq!(text.lines().count(), 1, "{arguments:?}: one object and nothing else: {text}");
        let object: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object.as_object().unwrap().keys().take(2).collect::<Vec<_>>(), ["schema", "version"], "{arguments:?}");
        check(object["schema"].as_str().unwrap(), &object);
        object
    }
}

/// One tuning, then every command that prints an object: each object is of the schema it names, and every schema was met.
#[test]
fn every_command_keeps_its_schema() {
    let home = Home(tempfile::tempdir().unwrap());
    let model = mnist_cnn();
    let file = model.to_str().unwrap();
    let input = kernels::Tensor::new(vec![1, 1, 28, 28], vec![0f32; 784]);
    tunewright::npz::write(fs::File::create(home.0.path().join("x.npz")).unwrap(), &[("image", &input)]).unwrap();
    let mut met = BTreeSet::new();
    let mut ask = |arguments: &[&str], codes: &[i32]| {
        let object = home.ask(arguments, codes);
        met.insert(object["schema"].as_str().unwrap().to_owned());
        object
    };

    // Nothing there yet.
    for command in
        [&["db", "query"][..], &["db", "stat"], &["db", "check"], &["db", "repair"], &["db", "gc"], &["db", "show", "x"]]
    {
        assert_eq!(ask(command, &[1])["schema"], "db.none", "{command:?}");
    }
    let tuned = ask(&["tune", file, "--budget", "trials=12"], &[0]);
    assert_eq!(tuned["entries"].as_array().unwrap().len(), 1);

    ask(&["devices"], &[0]);
    ask(&["doctor", "--settings"], &[0]);
    ask(&["doctor", "--probe", "20ms"], &[0, 1]); // its verdict on this machine is not ours to say
    ask(&["inspect", file], &[0]);
    ask(&["inspect", file, "--batch", "1", "--tasks", "--graph"], &[0]);
    ask(&["inspect", "mnist_cnn.tune", "--verify"], &[0]);
    ask(&["run", "mnist_cnn.tune", "--input", "x.npz", "--profile", "--output", "y.npz"], &[0]);
    ask(&["run", file, "--input", "x.npz", "--expect", "y.npz"], &[0]);
    ask(&["bench", "mnist_cnn.tune", "--duration", "20ms", "--assert", "p99<1h", "--copy"], &[0]);
    for scenario in ["multi-stream", "offline"] {
        ask(&["bench", "mnist_cnn.tune", "--duration", "20ms", "--scenario", scenario, "--deadline", "1h"], &[0]);
    }
    let load = ["--scenario", "server", "--duration", "50ms", "--find-peak", "--target-qps", "100", "--deadline", "1us"];
    let peak = ask(&[&["bench", "mnist_cnn.tune"], &load[..]].concat(), &[0]);
    assert_eq!((&peak["peak"]["target_qps"], &peak["valid"]), (&Value::Null, &false.into()), "{peak}");
    ask(&["explain", "mnist_cnn.tune"], &[0]);
    let load =
        ["--arrivals", "poisson:100/s", "--requests", "500", "--policy", "batcher,greedy,knee,fastest,fixed,oracle,clairvoyant"];
    let of_artifact = ask(&[&["simulate", "mnist_cnn.tune", "--deadline", "1h"], &load[..]].concat(), &[0]);
    assert_eq!(of_artifact["policies"][0]["in_time"], 500, "{of_artifact}");
    let more = ["--mix", "mnist_cnn=2/1h/fixed:1", "--gap", "20us", "--beside", "1.5", "--report", "t.html"];
    ask(&[&["simulate"], &load[..], &more].concat(), &[0]);
    ask(&["explain", "mnist_cnn.tune", "--deadline", "1h", "--task", "conv2d", "--verify", "eager"], &[0]);
    for of in ["models", "tasks", "trials", "devices"] {
        ask(&["db", "query", "--of", of], &[0]);
    }
    let trials = ask(&["db", "query", "--of", "trials", "limit 1"], &[0]);
    let shown = ask(&["db", "show", trials["rows"][0]["id"].as_str().unwrap()], &[0]);
    let record = &schema("db.show.result")["properties"]["records"]["items"]["properties"];
    // Records are free forms; what is put beside them is not.
    for name in ["history", "used_by"] {
        let mut wrong = Vec::new();
        walk(&record[name], &shown["records"][0][name], name, &mut wrong);
        assert!(wrong.is_empty(), "{wrong:?} in {shown}");
    }
    assert_eq!(shown["records"][0]["used_by"][0]["as"], "best", "{shown}");
    let models = ask(&["db", "query"], &[0]);
    let shown = ask(&["db", "show", models["rows"][0]["id"].as_str().unwrap()], &[0]);
    assert_eq!(shown["records"][0]["used_by"][0]["as"], "model_record", "{shown}");
    let stat = ask(&["db", "stat"], &[0]);
    let environments = stat["environments"].as_array().unwrap();
    assert!(environments.len() == 1 && environments[0]["stale"] == false, "{stat}");
    assert_eq!((&environments[0]["newest"], &environments[0]["observations"]), (&stat["newest"], &stat["observations"]));
    ask(&["db", "check"], &[0]);
    ask(&["db", "repair", "--dry-run"], &[0]);
    ask(&["db", "gc", "--dry-run"], &[0]);
    ask(&["db", "export", "-o", "all.jsonl"], &[0]);
    ask(&["db", "import", "all.jsonl"], &[0]);
    ask(&["db", "merge", "db"], &[0]);
    ask(&["db", "diff", "db", "db"], &[0]);
    ask(&["completions", "bash"], &[0]);
    met.insert(home.ask(&["inspect", "nothere"], &[3])["schema"].as_str().unwrap().to_owned());

    let documented = fs::read_dir(folder())
        .unwrap()
        .filter_map(|entry| Some(entry.unwrap().file_name().to_str().unwrap().strip_suffix(".schema.json")?.to_owned()));
    let missing: Vec<String> = documented.filter(|name| name != "tune.events" && !met.contains(name)).collect();
    assert_eq!(missing, Vec::<String>::new(), "schemas that no command here has printed");
}

/// `--json=lines`: an object a line, each an event with its time, the result or the error last.
#[test]
fn events_are_lines_and_the_result_is_the_last() {
    let home = tempfile::tempdir().unwrap();
    let model = mnist_cnn();
    let output = tunewright(home.path(), &["tune", model.to_str().unwrap(), "--budget", "trials=6", "--json=lines"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let schemas = schema("tune.events");
    let mut at = 0;
    for event in &events {
        assert_eq!(event.as_object().unwrap().keys().take(2).collect::<Vec<_>>(), ["event", "t_ns"]);
        let now = event["t_ns"].as_u64().unwrap();
        assert!(now >= at, "time goes on");
        at = now;
        let name = event["event"].as_str().unwrap();
        let mut wrong = Vec::new();
        if name == "result" {
            let mut object = event.clone();
            object.as_object_mut().unwrap().retain(|key, _| key != "event" && key != "t_ns");
            check("tune.result", &object);
        } else {
            let schema = schemas["events"].get(name).unwrap_or_else(|| panic!("event {name} is not documented"));
            walk(schema, event, name, &mut wrong);
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
    let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!((names[0], names[names.len() - 1]), ("start", "result"));
    assert_eq!(names.iter().filter(|name| **name == "result").count(), 1);
    assert!(names.contains(&"trial") && names.contains(&"saved"), "{names:?}");

    let output = tunewright(home.path(), &["tune", "nothere.onnx", "--json=lines"]);
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&error["event"], &error["class"]), (&"error".into(), &"input.not_found".into()));
}
