//! `tunewright completions`: a script for the shell, to stdout; its first line says where to put it.

use super::{Exit, Failure, Screen};
use clap_complete::Shell;
use serde_json::json;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Which shell
    shell: Shell,
}

pub fn run(arguments: &Arguments, screen: &mut Screen) -> Result<Exit, Failure> {
    let place = match arguments.shell {
        Shell::Bash => "# Put this into ~/.local/share/bash-completion/completions/tunewright\n",
        Shell::Zsh => "", // zsh wants `#compdef` first; the hint follows it.
        Shell::Fish => "# Put this into ~/.config/fish/completions/tunewright.fish\n",
        Shell::PowerShell => "# Add this to the file $PROFILE names\n",
        Shell::Elvish => "# Put this into ~/.config/elvish/lib/tunewright.elv and add: use tunewright\n",
        _ => "",
    };
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::command(), "tunewright", &mut script);
    if arguments.shell == Shell::Zsh {
        let text = String::from_utf8_lossy(&script);
        let hint = "#compdef tunewright\n# Put this into a folder of $fpath, as _tunewright\n";
        script = text.replacen("#compdef tunewright\n", hint, 1).into_bytes();
    }
    let script = format!("{place}{}", String::from_utf8_lossy(&script));
    if screen.json.is_some() {
        let shell = arguments.shell.to_string();
        let object = || json!({"schema": "completions.result", "version": 1, "shell": shell, "script": script});
        screen.result(object, |_| Vec::new());
    } else {
        screen.raw(script.as_bytes());
    }
    Ok(Exit::Done)
}
