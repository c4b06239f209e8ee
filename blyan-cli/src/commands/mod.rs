//! Owns the commands: each calls the library and prints what it found.

mod bundle;
mod diff;
mod export;
mod gc;
mod generate;
mod import;
mod log;
mod receipt;
mod release;
mod show;
mod usage;
mod verify;

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::arguments::{Arguments, Command, Receipt};
use crate::error::CliError;
use crate::input::Input;
use crate::output::Streams;

/// What every command is given.
struct Context<'a, 'b> {
    /// Directory of the chain.
    chain: &'a Path,
    json: bool,
    streams: &'a mut Streams<'b>,
    cancel: &'a Arc<AtomicBool>,
}

pub(crate) fn run(
    arguments: &Arguments,
    streams: &mut Streams<'_>,
    cancel: &Arc<AtomicBool>,
) -> Result<(), CliError> {
    let chain = arguments.chain();
    let mut context = Context { chain: &chain, json: arguments.json, streams, cancel };
    match &arguments.command {
        Command::Import(import) => import::run(&mut context, import),
        Command::Export(export) => export::run(&mut context, export),
        Command::Log(log) => log::run(&mut context, log),
        Command::Show(show) => show::run(&mut context, show),
        Command::Verify(verify) => verify::run(&mut context, verify),
        Command::Generate(generate) => generate::run(&mut context, generate),
        Command::Usage(usage) => usage::run(&mut context, usage),
        Command::Receipt(Receipt::Verify(verify)) => receipt::run(&mut context, verify),
        Command::Diff(diff) => diff::run(&mut context, diff),
        Command::Release(release) => release::release(&mut context, release),
        Command::Releases(releases) => release::releases(&mut context, releases),
        Command::Rollback(rollback) => release::rollback(&mut context, rollback),
        Command::Bundle(bundle) => bundle::bundle(&mut context, bundle),
        Command::Unbundle(unbundle) => bundle::unbundle(&mut context, unbundle),
        Command::Gc(gc) => gc::run(&mut context, gc),
    }
}

/// How a check ends that printed what it found: what is bad is told by the exit code also where the reader
/// of the output has left.
fn found(well: bool, printed: Result<(), CliError>) -> Result<(), CliError> {
    match printed {
        Ok(()) | Err(CliError::BrokenPipe) if !well => Err(CliError::Found),
        printed => printed,
    }
}

/// Bytes of a file that the user named; `-` is the standard input, whose reading Ctrl-C ends.
fn read_input(path: &Path, cancel: &AtomicBool) -> Result<Vec<u8>, CliError> {
    let file = |source| CliError::File { action: "read", path: path.to_owned(), source };
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        let read = Input::new(cancel).and_then(|mut input| input.read_to_end(&mut bytes));
        return match read {
            Ok(_) => Ok(bytes),
            Err(_) if cancel.load(Ordering::Relaxed) => Err(CliError::Interrupted),
            Err(error) => Err(file(error)),
        };
    }
    std::fs::read(path).map_err(file)
}

/// Bytes as people count them.
fn bytes(count: u64) -> String {
    indicatif::HumanBytes(count).to_string()
}
