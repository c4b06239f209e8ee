//! The `blyan` command. Everything it does is in the library, so that Python's console script is the same.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn main() -> ExitCode {
    let cancel = Arc::new(AtomicBool::new(false));
    let requested = Arc::clone(&cancel);
    // The first Ctrl-C asks to stop, the second insists: a chain is sound at every moment.
    let handler = ctrlc::set_handler(move || {
        if requested.swap(true, Ordering::Relaxed) {
            std::process::exit(blyan_cli::INTERRUPTED.into());
        }
    });
    // Without a handler Ctrl-C ends the process at once, which is as safe.
    drop(handler);
    ExitCode::from(blyan_cli::main(std::env::args_os(), &cancel))
}
