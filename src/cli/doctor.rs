//! `tunewright doctor`: can this machine measure, does everything work? A line each: `ok`, `warn` or `fail`, and what to do.

use super::table::{Align, lay_out};
use super::{Exit, Failure, Global, Screen, screen::Paint, settings};
use crate::device::{self, Found, cgroup};
use crate::worker;
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};
use tuning_db::{Reader, Source, StoreError};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tunewright doctor\n  tunewright doctor --settings")]
pub struct Arguments {
    /// Print every setting with its origin
    #[arg(long)]
    settings: bool,
    /// How long to watch the machine's noise
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = super::quantity::duration)]
    probe: Duration,
}

/// How a check came out.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do; empty when it is ok.
    remedy: String,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Check { name, verdict: Verdict::Ok, found: found.into(), remedy: String::new() }
    }

    fn warn(name: &'static str, found: impl Into<String>, remedy: &str) -> Self {
        Check { name, verdict: Verdict::Warn, found: found.into(), remedy: remedy.to_owned() }
    }

    fn fail(name: &'static str, found: impl Into<String>, remedy: &str) -> Self {
        Check { name, verdict: Verdict::Fail, found: found.into(), remedy: remedy.to_owned() }
    }
}

pub fn run(arguments: &Arguments, global: &Global, screen: &mut Screen) -> Result<Exit, Failure> {
    if arguments.settings {
        return show_settings(global, screen);
    }
    let database = settings::database_path(global, &screen.settings);
    screen.note(&format!("watching the machine for {:.0} s", arguments.probe.as_secs_f64()));
    let mut checks = vec![governor(), turbo(), hyperthreads(), cgroup(), load(), timer(), noise(arguments.probe)];
    checks.extend(devices());
    checks.push(sandbox());
    checks.push(disk(&database));
    checks.push(database_check(&database));
    let failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
    screen.result(
        || {
            let checks: Vec<_> = checks
                .iter()
                .map(
                    |check| json!({"name": check.name, "verdict": word(check.verdict), "found": check.found, "do": check.remedy}),
                )
                .collect();
            json!({"schema": "doctor.result", "version": 1, "checks": checks})
        },
        |screen| {
            let row = |check: &Check| {
                let paint = match check.verdict {
                    Verdict::Ok => Paint::Green,
                    Verdict::Warn => Paint::Yellow,
                    Verdict::Fail => Paint::Red,
                };
                let tail = if check.remedy.is_empty() { String::new() } else { format!("; {}", check.remedy) };
                vec![screen.paint(paint, word(check.verdict)), check.name.to_owned(), format!("{}{tail}", check.found)]
            };
            lay_out(&checks.iter().map(row).collect::<Vec<_>>(), &[Align::Left; 3])
        },
    );
    Ok(if failed { Exit::No } else { Exit::Done })
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Warn => "warn",
        Verdict::Fail => "fail",
    }
}

fn show_settings(global: &Global, screen: &mut Screen) -> Result<Exit, Failure> {
    let database = settings::database_path(global, &screen.settings).display().to_string();
    let given = [
        ("db", global.db.as_ref().map(|path| path.display().to_string()), database),
        ("log", global.log.as_ref().map(|path| path.display().to_string()), String::new()),
        ("color", global.color.map(|when| format!("{when:?}").to_lowercase()), "auto".to_owned()),
    ];
    let mut rows: Vec<(String, Option<String>, String)> = Vec::new();
    for (key, value, from) in screen.settings.origins() {
        let row = match given.iter().find(|(name, ..)| *name == key) {
            Some((_, Some(flag), _)) => (key.to_owned(), Some(flag.clone()), "flag".to_owned()),
            Some((_, None, default)) if value.is_none() && !default.is_empty() => {
                (key.to_owned(), Some(default.clone()), from.to_owned())
            }
            _ => (key.to_owned(), value.map(str::to_owned), from.to_owned()),
        };
        rows.push(row);
    }
    screen.result(
        || {
            let settings: Vec<_> =
                rows.iter().map(|(key, value, from)| json!({"key": key, "value": value, "origin": from})).collect();
            json!({"schema": "doctor.settings", "version": 1, "settings": settings})
        },
        |screen| {
            let row = |(key, value, from): &(String, Option<String>, String)| {
                let value = value.clone().unwrap_or_else(|| screen.sign("–", "-").to_owned());
                vec![key.clone(), value, format!("from {from}")]
            };
            lay_out(&rows.iter().map(row).collect::<Vec<_>>(), &[Align::Left; 3])
        },
    );
    Ok(Exit::Done)
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn governor() -> Check {
    match read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") {
        None => Check::ok("governor", "not visible here (a virtual machine sets its clock outside)"),
        Some(name) if name == "performance" => Check::ok("governor", name),
        Some(name) => Check::warn("governor", name, "times wander with the clock: cpupower frequency-set -g performance"),
    }
}

fn turbo() -> Check {
    let boost = read("/sys/devices/system/cpu/cpufreq/boost");
    let no_turbo = read("/sys/devices/system/cpu/intel_pstate/no_turbo");
    match (boost.as_deref(), no_turbo.as_deref()) {
        (Some("1"), _) | (_, Some("0")) => {
            Check::warn("turbo", "on", "the clock falls when all cores work; turn it off for steadier times")
        }
        (None, None) => Check::ok("turbo", "not visible here"),
        _ => Check::ok("turbo", "off"),
    }
}

fn hyperthreads() -> Check {
    match read("/sys/devices/system/cpu/smt/active").as_deref() {
        Some("1") => Check::warn(
            "hyperthreads",
            "on",
            "two threads share a core's vector units; shares are given in whole cores where possible",
        ),
        Some(_) => Check::ok("hyperthreads", "off"),
        None => Check::ok("hyperthreads", "not visible here"),
    }
}

/// What the group of processes that we are in may use at most.
fn cgroup() -> Check {
    let memory = cgroup::memory_bytes().map(|most| format!("memory {}", super::quantity::show_bytes(most)));
    match (cgroup::quota(), memory) {
        (None, None) => Check::ok("cgroup", "no limit on processors or memory"),
        (None, Some(memory)) => Check::ok("cgroup", memory),
        (Some(quota), memory) => {
            let found =
                format!("{quota:.1} processors by quota{}", memory.map_or_else(String::new, |memory| format!(", {memory}")));
            Check::warn(
                "cgroup",
                found,
                "a quota stops threads in the middle of a measurement; give whole processors (cpuset) instead",
            )
        }
    }
}

/// What keeps candidates and unknown models in their place.
fn sandbox() -> Check {
    Check::ok(
        "sandbox",
        "workers and sandboxed imports: own process, limits on memory and time, no new rights; no filter of system calls",
    )
}

fn load() -> Check {
    let text = read("/proc/loadavg").unwrap_or_default();
    match text.split(' ').next().and_then(|first| first.parse::<f64>().ok()) {
        Some(load) if load > 0.5 => Check::warn("load", format!("{load}"), "something else is running; times will wander"),
        Some(load) => Check::ok("load", format!("{load}")),
        None => Check::ok("load", "not visible here"),
    }
}

fn timer() -> Check {
    let start = Instant::now();
    let mut calls = 0u32;
    while start.elapsed() < Duration::from_millis(5) {
        calls += 1;
    }
    let cost = start.elapsed().as_nanos() / u128::from(calls.max(1));
    if cost > 500 {
        Check::warn(
            "timer",
            format!("{cost} ns a call"),
            "the kernel's clock source is slow; kernels under 10 µs cannot be timed well",
        )
    } else {
        Check::ok("timer", format!("{cost} ns a call"))
    }
}

/// Times the same piece of arithmetic over and over: how far single times lie from their median, and how often the machine was taken away.
fn noise(probe: Duration) -> Check {
    let piece = || {
        let start = Instant::now();
        let mut x = 1.0f64;
        for _ in 0..200_000 {
            x = x.mul_add(0.999_999, 1e-6);
        }
        std::hint::black_box(x);
        start.elapsed().as_secs_f64()
    };
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < probe || times.len() < 10 {
        times.push(piece());
    }
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    let mut away: Vec<f64> = times.iter().map(|time| (time - median).abs()).collect();
    away.sort_by(f64::total_cmp);
    let mad = 100.0 * away[away.len() / 2] / median;
    let p99 = 100.0 * (times[times.len() * 99 / 100] / median - 1.0);
    let grade = match mad {
        m if m <= 1.0 => 'A',
        m if m <= 3.0 => 'B',
        m if m <= 10.0 => 'C',
        _ => 'D',
    };
    let found = format!("grade {grade}: MAD {mad:.1} % of the median, one in a hundred {p99:.0} % slower");
    match grade {
        'A' | 'B' => Check::ok("noise", found),
        'C' => Check::warn("noise", found, "small gains cannot be told from chance; stop other work"),
        _ => Check::fail("noise", found, "nothing can be measured here; stop other work, or tune elsewhere and merge"),
    }
}

fn devices() -> Vec<Check> {
    let check = |found: &Found| match found {
        Found::Present(machine) => {
            let broken: Vec<String> =
                machine.shares_pct().iter().filter_map(|&share| probe_share(machine, share).err()).collect();
            let shares = machine.shares_pct().iter().map(f64::to_string).collect::<Vec<_>>().join(" ");
            match broken.first() {
                None => Check::ok("device", format!("{}: {}; shares {shares} granted", machine.device.name, machine.summary)),
                Some(why) => {
                    Check::fail("device", format!("{}: {why}", machine.device.name), "run with more rights, or use --share 100")
                }
            }
        }
        Found::Absent { name, reason } => Check::ok("device", format!("{name} absent: {reason}")),
    };
    device::found().iter().map(check).collect()
}

/// Lets a worker take the share, as tuning and serving would.
fn probe_share(machine: &device::Machine, percent: f64) -> Result<(), String> {
    let share = schema::Share::percent(percent).map_err(|error| error.to_string())?;
    let grant = machine.grant(share).map_err(|error| error.to_string())?;
    let program = worker::program().map_err(|error| error.to_string())?;
    worker::Worker::spawn(&grant, &program).map(drop).map_err(|error| format!("share {share}: {error}"))
}

fn disk(database: &Path) -> Check {
    let Some(folder) = database.ancestors().find(|folder| folder.is_dir()) else {
        return Check::fail("disk", format!("{}: no folder above it exists", database.display()), "name another with --db");
    };
    match rustix::fs::statvfs(folder) {
        Err(error) => Check::warn("disk", format!("{}: {error}", folder.display()), "name another place with --db"),
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let found = format!("{} free at {}", super::quantity::show_bytes(free), folder.display());
            if free < 256 << 20 {
                Check::warn("disk", found, "free some room: a tuning may write 100 MB and more")
            } else {
                Check::ok("disk", found)
            }
        }
    }
}

fn database_check(database: &Path) -> Check {
    match Reader::open(database, Source::default()) {
        Ok(_) => Check::ok("database", format!("{}; `tunewright db check` verifies it", database.display())),
        Err(StoreError::Missing { .. }) => Check::ok("database", format!("none yet at {}", database.display())),
        Err(error) => Check::fail("database", error.to_string(), "run tunewright db check"),
    }
}
