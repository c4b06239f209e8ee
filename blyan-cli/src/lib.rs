//! The `blyan` command line, as a function: [`main`] on the process's streams, [`run`] on any.
//!
//! Parses arguments, calls blyan-core, prints. What a command prints is text for people, or with
//! `--json` one document whose fields docs/cli.md lists; errors go to the other stream. Nothing here
//! decides anything about chains or models.

mod arguments;
mod commands;
mod error;
mod input;
mod names;
mod output;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;

use crate::arguments::Arguments;
use crate::error::CliError;
pub use crate::output::Streams;

/// Exit code: everything asked for was done and found well.
pub const OK: u8 = 0;
/// Exit code: something failed, or is not as it should be.
pub const FAILURE: u8 = 1;
/// Exit code: the arguments make no sense.
pub const USAGE: u8 = 2;
/// Exit code: stopped by Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// Runs the command on the streams of the process and returns its exit code. `arguments` begin with the
/// name of the program; setting `cancel` stops the command, leaving every chain sound.
pub fn main<I, T>(arguments: I, cancel: &Arc<AtomicBool>) -> u8
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let (mut out, mut err) = (io::stdout().lock(), io::stderr());
    let terminal = err.is_terminal();
    run(arguments, &mut Streams { out: &mut out, err: &mut err, terminal }, cancel)
}

/// As [`main`], on other streams.
pub fn run<I, T>(arguments: I, streams: &mut Streams<'_>, cancel: &Arc<AtomicBool>) -> u8
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    // Also where they cannot be parsed.
    let json = arguments.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    let outcome = match Arguments::try_parse_from(&arguments) {
        Ok(arguments) => commands::run(&arguments, streams, cancel),
        // Help and version are no errors: they were asked for.
        Err(error) if !error.use_stderr() => streams.print(&error.render().to_string()),
        Err(error) => Err(CliError::Usage(error.render().to_string().trim_end().to_owned())),
    };
    let outcome = outcome.and_then(|()| streams.flush());
    match outcome {
        Ok(()) => OK,
        Err(error) => {
            // Nobody is left to hear of it if this fails, too.
            let _ = report(&error, json, streams.err);
            error.exit_code()
        }
    }
}

fn report(error: &CliError, json: bool, err: &mut dyn Write) -> io::Result<()> {
    match error {
        // Who reads the output has read enough; what a finding is was printed.
        CliError::BrokenPipe | CliError::Found => Ok(()),
        _ if json => writeln!(err, "{}", error.to_json()),
        CliError::Usage(message) => writeln!(err, "{message}"),
        _ => {
            writeln!(err, "blyan: {error}")?;
            for cause in error.causes() {
                writeln!(err, "  because: {cause}")?;
            }
            Ok(())
        }
    }
}
