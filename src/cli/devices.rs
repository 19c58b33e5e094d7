//! `tunewright devices`: what is here and what it can give. Absent devices are listed with the reason and are no error.

use super::{Exit, Failure, Screen};

#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub fn run(_: &Arguments, screen: &mut Screen) -> Result<Exit, Failure> {
    screen.line("");
    Ok(Exit::Done)
}
