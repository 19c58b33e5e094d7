//! The one line an error becomes, and the one place that picks an exit code.

use super::quantity::show_bytes;
use serde_json::json;
use std::ffi::OsString;
use std::fmt;

/// How a command ended when it did what it was asked.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done; a spent budget is a success.
    Done,
    /// Done, and the answer is no: an expectation not met, damage found, no row matched.
    No,
    /// Something asked for could not be tuned or measured; the rest is saved, both are listed.
    Partly,
    /// Ended by a signal: 128 and its number.
    Signal(u8),
}

impl Exit {
    /// The code a shell sees.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::No => 1,
            Exit::Partly => 8,
            Exit::Signal(number) => 128 + number,
        }
    }
}

/// What stops a command: `error[class]: what: where: why; what to do`.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Stable, such as `input.not_onnx`; the part before the dot decides the exit code.
    pub class: String,
    /// What it is about: a path, a flag with its value, a device.
    pub what: String,
    /// The place in it: a node, a column; may be empty.
    pub place: String,
    pub why: String,
    /// What the user can do; may be empty.
    pub remedy: String,
    /// The chain of causes, shown with `-v`.
    pub causes: Vec<String>,
}

impl Failure {
    /// A failure of that class.
    pub fn new(class: &str, what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Failure {
            class: class.to_owned(),
            what: what.to_string(),
            place: String::new(),
            why: why.to_string(),
            remedy: String::new(),
            causes: Vec::new(),
        }
    }

    /// With the place in it.
    #[must_use]
    pub fn at(self, place: impl fmt::Display) -> Self {
        Failure { place: place.to_string(), ..self }
    }

    /// With what to do about it.
    #[must_use]
    pub fn remedy(self, remedy: impl fmt::Display) -> Self {
        Failure { remedy: remedy.to_string(), ..self }
    }

    /// With the chain of causes behind it, itself first.
    #[must_use]
    pub fn because(self, error: &dyn std::error::Error) -> Self {
        let chain = std::iter::successors(Some(error), |error| error.source());
        Failure { causes: chain.map(ToString::to_string).collect(), ..self }
    }

    /// An operating-system error on a path: not found, permission, disk full, or whatever it says.
    pub fn io(verb: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind::*;
        let what = format!("cannot {verb} {}", path.display());
        let failure = match error.kind() {
            NotFound if verb == "write" => {
                Failure::new("input.not_found", what, "there is no such folder").remedy("make it first")
            }
            NotFound => Failure::new("input.not_found", what, "no such file").remedy(near_name(path).unwrap_or_default()),
            PermissionDenied | ReadOnlyFilesystem => Failure::new("machine.permission", what, error_text(error)),
            StorageFull | QuotaExceeded => {
                let free = free_bytes(path).map_or_else(String::new, |free| format!(" ({} free)", show_bytes(free)));
                Failure::new("machine.disk", what, format!("disk full{free}")).remedy("free some room and call again")
            }
            NotADirectory => Failure::new("input.not_found", what, "a part of the path is a file, not a folder"),
            IsADirectory => Failure::new("input.not_found", what, "it is a folder, not a file"),
            OutOfMemory => Failure::new("machine.memory", what, "out of memory"),
            _ => Failure::new("machine.io", what, error),
        };
        failure.because(error)
    }

    /// The exit code of the class.
    pub fn code(&self) -> u8 {
        match self.class.split('.').next().unwrap_or_default() {
            "usage" => 2,
            "input" => 3,
            "device" => 4,
            "db" => 5,
            "artifact" => 6,
            "machine" => 7,
            _ => 70,
        }
    }

    /// The object of `--json`.
    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "schema": "error", "version": 1, "class": self.class, "exit": self.code(), "what": self.what, "where": self.place,
            "why": self.why, "do": self.remedy,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [&self.what, &self.place, &self.why].into_iter().filter(|part| !part.is_empty());
        let line = parts.map(|part| escape(part)).collect::<Vec<_>>().join(": ");
        f.write_str(&line)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "; {}", escape(&self.remedy)) }
    }
}

impl std::error::Error for Failure {}

/// Text from files, made harmless for a terminal: control and bidirectional characters are written as escapes.
pub fn escape(text: &str) -> String {
    let harmless =
        |c: char| !c.is_control() && !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
    if text.chars().all(harmless) {
        return text.to_owned();
    }
    text.chars().map(|c| if harmless(c) { c.to_string() } else { c.escape_default().to_string() }).collect()
}

/// What the system says, in small letters and without its number.
fn error_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// The room left where a file should be.
fn free_bytes(path: &std::path::Path) -> Option<u64> {
    let folder = path.ancestors().skip(1).find(|folder| folder.is_dir()).unwrap_or(std::path::Path::new("."));
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// "did you mean …?" for a file in the same folder whose name is near.
fn near_name(path: &std::path::Path) -> Option<String> {
    let wanted = path.file_name()?.to_str()?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
    let names = std::fs::read_dir(folder).ok()?.take(2000).filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let (distance, name) = names.map(|name| (distance(wanted, &name), name)).min()?;
    (distance > 0 && distance <= 3.max(wanted.len() / 3))
        .then(|| format!("did you mean {}?", path.with_file_name(name).display()))
}

/// The nearest of `names` to `word`, if one is near enough to be meant.
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (distance(word, name), name))
        .min()
        .filter(|(d, _)| *d <= 2.max(word.len() / 3))
        .map(|(_, name)| name)
}

/// How many letters must be added, removed or replaced (Levenshtein 1966).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Prints what clap says of the arguments in our form; help and version go to stdout and are no error.
pub fn report_usage(error: clap::Error, arguments: &[OsString]) -> u8 {
    use clap::error::ErrorKind;
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed pipe is no error.
            let _ = error.print();
            0
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            2
        }
        _ => super::Screen::from_raw(arguments).report(&usage(&error)),
    }
}

/// What clap refuses, in our form.
pub fn usage(error: &clap::Error) -> Failure {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    let (argument, value) = (context(ContextKind::InvalidArg), context(ContextKind::InvalidValue));
    let suggestion = [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue]
        .into_iter()
        .map(context)
        .find(|text| !text.is_empty())
        .map(|name| format!("did you mean '{name}'?"))
        .unwrap_or_else(|| "see 'tunewright --help'".to_owned());
    let failure = match error.kind() {
        ErrorKind::InvalidSubcommand => Failure::new("usage.command", context(ContextKind::InvalidSubcommand), "no such command"),
        ErrorKind::UnknownArgument => Failure::new("usage.flag", argument, "unknown flag"),
        ErrorKind::MissingRequiredArgument => Failure::new("usage.missing", argument, "is required"),
        ErrorKind::ArgumentConflict => {
            let other = context(ContextKind::PriorArg);
            Failure::new("usage.flag", argument, format!("cannot be used together with {other}"))
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            use std::error::Error as _;
            let flag = argument.split(' ').next().unwrap_or_default();
            let flag = flag.split("[=").next().unwrap_or_default();
            let valid = context(ContextKind::ValidValue);
            let why = match error.source() {
                Some(source) => source.to_string(),
                None if valid.is_empty() => "a value is missing".to_owned(),
                None => format!("it is one of {valid}"),
            };
            let (why, remedy) = why.split_once("; ").map_or((why.as_str(), None), |(why, remedy)| (why, Some(remedy)));
            let failure = Failure::new("usage.value", format!("{flag} {value}").trim(), why);
            return failure.remedy(remedy.unwrap_or(&suggestion));
        }
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Failure::new("usage.arguments", first, "")
        }
    };
    failure.remedy(suggestion)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_and_its_class_decides_the_code() {
        let failure = Failure::new("input.open_axis", "bert.onnx", "is open").at("axis \"seq\"").remedy("add --dim seq=128");
        assert_eq!(failure.to_string(), "bert.onnx: axis \"seq\": is open; add --dim seq=128");
        assert_eq!(failure.code(), 3);
        assert_eq!(Failure::new("bug.x", "", "").code(), 70);
    }

    #[test]
    fn text_from_files_cannot_drive_the_terminal() {
        assert_eq!(escape("a\u{1b}[31mb\u{202e}"), "a\\u{1b}[31mb\\u{202e}");
    }

    #[test]
    fn the_nearest_name_is_offered_only_when_near() {
        assert_eq!(nearest("modle", ["model", "device"]), Some("model"));
        assert_eq!(nearest("zzzzzz", ["model", "device"]), None);
    }
}
