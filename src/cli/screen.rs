//! Where things go: data to stdout, progress, hints and errors to stderr, colours only where somebody sees them.

use super::failure::Failure;
use super::reasons::explain_nulls;
use super::{Global, log, settings::Settings};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Instant;

/// The form of `--json`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum JsonForm {
    /// One object at the end.
    Object,
    /// Events, one a line; the last is the result.
    Lines,
}

/// When to colour.
#[derive(Copy, Clone, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum When {
    Auto,
    Always,
    Never,
}

/// A colour with a meaning; never the only carrier of it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Paint {
    /// An error.
    Red,
    /// A warning.
    Yellow,
    /// Better than before.
    Green,
    /// The number asked for.
    Bold,
    /// Secondary text.
    Dim,
}

/// The two streams and how to use them.
#[derive(Debug)]
pub struct Screen {
    pub json: Option<JsonForm>,
    pub quiet: bool,
    pub verbose: u8,
    pub settings: Settings,
    colour_out: bool,
    colour_err: bool,
    unicode: bool,
    status_shown: bool,
    start: Instant,
}

impl Screen {
    /// The screen the global flags and settings ask for.
    ///
    /// # Errors
    /// A settings file that was named and cannot be read, or does not parse; a log that cannot be written.
    pub fn new(global: &Global) -> Result<Self, Failure> {
        let settings = Settings::load(global)?;
        let file = global.log.clone().or_else(|| settings.text("log").map(PathBuf::from));
        log::start(file.as_deref(), global.verbose)?;
        let set = match settings.text("color") {
            Some(text) => Some(<When as clap::ValueEnum>::from_str(text, true).map_err(|_| {
                let failure = Failure::new("usage.value", format!("--color {text}"), "it is one of auto, always, never");
                settings.blame(failure)
            })?),
            None => None,
        };
        let when = global.color.or(set);
        let mut screen = Screen {
            json: global.json,
            quiet: global.quiet,
            verbose: global.verbose,
            settings,
            colour_out: colours(when, io::stdout().is_terminal()),
            colour_err: colours(when, io::stderr().is_terminal()),
            unicode: unicode_locale(),
            status_shown: false,
            start: Instant::now(),
        };
        for warning in std::mem::take(&mut screen.settings.warnings) {
            screen.warn("settings", &warning);
        }
        Ok(screen)
    }

    /// A screen without colour, for errors before there is another.
    pub fn plain() -> Self {
        Screen {
            json: None,
            quiet: false,
            verbose: 0,
            settings: Settings::default(),
            colour_out: false,
            colour_err: false,
            unicode: unicode_locale(),
            status_shown: false,
            start: Instant::now(),
        }
    }

    /// A screen for errors in the arguments themselves, which did not parse: only `--json` is looked for.
    pub fn from_raw(arguments: &[OsString]) -> Self {
        let json = arguments.iter().filter_map(|a| a.to_str()).find_map(|a| match a {
            "--json" | "--json=object" => Some(JsonForm::Object),
            "--json=lines" => Some(JsonForm::Lines),
            _ => None,
        });
        Screen { json, colour_err: colours(None, io::stderr().is_terminal()), ..Screen::plain() }
    }

    /// Prints data, a line. A closed pipe ends the program quietly.
    pub fn line(&mut self, text: &str) {
        self.clear_status();
        let mut out = io::stdout().lock();
        let result = out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n"));
        end_on_closed_pipe(&result);
    }

    /// Prints a line for people: signs that the locale does not have are spelled.
    pub fn text(&mut self, text: &str) {
        if self.unicode { self.line(text) } else { self.line(&spelled(text)) }
    }

    /// Prints data without a line end.
    pub fn raw(&mut self, bytes: &[u8]) {
        end_on_closed_pipe(&io::stdout().lock().write_all(bytes));
    }

    /// Stdout for data of any length. A closed pipe ends the program quietly.
    pub fn writer(&mut self) -> impl Write {
        self.clear_status();
        Data(io::stdout().lock())
    }

    /// Prints one object as a line, each null with its reason.
    pub fn object(&mut self, mut object: Value) {
        let schema = object["schema"].as_str().unwrap_or_default().to_owned();
        explain_nulls(&schema, &mut object);
        self.line(&object.to_string());
    }

    /// Prints an event of `--json=lines`; nothing in other forms. `fields` is an object.
    pub fn event(&mut self, name: &str, fields: Value) {
        if self.json == Some(JsonForm::Lines) {
            let mut event = self.stamped(name, fields);
            explain_nulls("tune.events", &mut event);
            self.line(&event.to_string());
        }
    }

    /// `event` and `t_ns`, then the fields.
    fn stamped(&self, name: &str, fields: Value) -> Value {
        let mut event = json!({"event": name, "t_ns": u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)});
        if let (Some(event), Value::Object(fields)) = (event.as_object_mut(), fields) {
            event.extend(fields);
        }
        event
    }

    /// Prints the result: the object with `--json`, the lines of `text` otherwise.
    pub fn result(&mut self, object: impl FnOnce() -> Value, text: impl FnOnce(&Screen) -> Vec<String>) {
        if self.json.is_some() {
            let mut object = object();
            if self.json == Some(JsonForm::Lines) {
                let schema = object["schema"].as_str().unwrap_or_default().to_owned();
                explain_nulls(&schema, &mut object);
                object = self.stamped("result", object);
            }
            self.object(object);
        } else {
            for line in text(self) {
                self.text(&line);
            }
        }
    }

    /// A hint or a note for people, on stderr; silent with `--quiet` and `--json`.
    pub fn note(&mut self, text: &str) {
        if !self.quiet && self.json.is_none() {
            self.clear_status();
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// A warning: `warning[class]: …` on stderr.
    pub fn warn(&mut self, class: &str, text: &str) {
        self.clear_status();
        tracing::warn!(class, "{text}");
        self.event("warn", json!({"class": class, "what": text}));
        if !self.quiet {
            let mark = self.paint_err(Paint::Yellow, &format!("warning[{class}]"));
            let _ = writeln!(io::stderr(), "{mark}: {text}");
        }
    }

    /// Reports what stopped the command and returns its exit code.
    pub fn report(&mut self, failure: &Failure) -> u8 {
        self.clear_status();
        if self.json.is_some() {
            let mut object = failure.to_json();
            if self.json == Some(JsonForm::Lines) {
                object = self.stamped("error", object);
            }
            self.line(&object.to_string());
        }
        let mark = self.paint_err(Paint::Red, &format!("error[{}]", failure.class));
        let _ = writeln!(io::stderr(), "{mark}: {failure}");
        if self.verbose > 0 {
            for cause in &failure.causes {
                let _ = writeln!(io::stderr(), "  because {cause}");
            }
        }
        failure.code()
    }

    /// Replaces the status line (terminals only). An empty text clears it.
    pub fn status(&mut self, text: &str) {
        if !self.shows_status() {
            return;
        }
        let cut: String = text.chars().take(terminal_width().saturating_sub(1)).collect();
        let _ = write!(io::stderr(), "\r\x1b[2K{cut}");
        let _ = io::stderr().flush();
        self.status_shown = !text.is_empty();
    }

    /// Whether there is a terminal for a status line.
    pub fn shows_status(&self) -> bool {
        io::stderr().is_terminal() && !self.quiet && self.json.is_none()
    }

    fn clear_status(&mut self) {
        if std::mem::take(&mut self.status_shown) {
            let _ = write!(io::stderr(), "\r\x1b[2K");
        }
    }

    /// Coloured for stdout.
    pub fn paint(&self, paint: Paint, text: &str) -> String {
        painted(self.colour_out, paint, text)
    }

    fn paint_err(&self, paint: Paint, text: &str) -> String {
        painted(self.colour_err, paint, text)
    }

    /// `good` in a UTF-8 locale, `plain` elsewhere.
    pub fn sign<'a>(&self, good: &'a str, plain: &'a str) -> &'a str {
        if self.unicode { good } else { plain }
    }
}

/// Stdout, without a word when nobody listens any more.
struct Data<W>(W);

impl<W: Write> Write for Data<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(bytes);
        end_on_closed_pipe(&written);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.0.flush();
        end_on_closed_pipe(&flushed);
        flushed
    }
}

/// Our own signs in ASCII; whatever else a text has stays.
fn spelled(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '×' => out.push('x'),
            'µ' => out.push('u'),
            '–' | '−' => out.push('-'),
            '…' => out.push_str("..."),
            '±' => out.push_str("+-"),
            '≤' => out.push_str("<="),
            other => out.push(other),
        }
    }
    out
}

fn painted(on: bool, paint: Paint, text: &str) -> String {
    let code = match paint {
        Paint::Red => "31",
        Paint::Yellow => "33",
        Paint::Green => "32",
        Paint::Bold => "1",
        Paint::Dim => "2",
    };
    if on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Flag, then CLICOLOR_FORCE, NO_COLOR, TERM=dumb, then whether it is a terminal.
fn colours(when: Option<When>, terminal: bool) -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    match when {
        Some(When::Always) => true,
        Some(When::Never) => false,
        _ if std::env::var("CLICOLOR_FORCE").is_ok_and(|value| !value.is_empty() && value != "0") => true,
        _ => terminal && !set("NO_COLOR") && std::env::var("TERM").as_deref() != Ok("dumb"),
    }
}

fn unicode_locale() -> bool {
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    // Nothing set at all is a bare container: its terminals are UTF-8 today.
    locale.is_none_or(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

/// Columns of the terminal on stderr; 80 where there is none.
pub fn terminal_width() -> usize {
    rustix::termios::tcgetwinsize(io::stderr())
        .map(|size| usize::from(size.ws_col))
        .ok()
        .filter(|&columns| columns > 0)
        .unwrap_or(80)
}

/// A closed pipe is where the reader had enough. Another failure of stdout (a full disk behind `>`) loses data, which is told.
fn end_on_closed_pipe<T>(result: &io::Result<T>) {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            let failure = Failure::io("write", std::path::Path::new("stdout"), error);
            let _ = writeln!(io::stderr(), "error[{}]: {failure}", failure.class);
            std::process::exit(failure.code().into());
        }
        Ok(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_are_spelled_where_the_locale_has_none() {
        assert_eq!(spelled("4.20 µs  1.66×  1.61 … 1.70 – ü"), "4.20 us  1.66x  1.61 ... 1.70 - ü");
    }
}
