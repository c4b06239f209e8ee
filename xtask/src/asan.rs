//! Runs the tests of everything that holds pointers under AddressSanitizer.

use std::path::Path;

use crate::{Outcome, cargo, run};

/// Named, so that build scripts and macros, which run while compiling, are not instrumented.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Unit tests of the modules with `unsafe` code, and of what calls into it: the kernels on every
/// instruction set that the CPU has, maps, views into them, the team of threads.
const MODULES: [&str; 5] = ["kernels::", "dtype::", "storage::", "tensor::", "model::"];

/// Leaks are not looked for: tests of a damaged index make redb panic half way, which may lose memory.
const OPTIONS: &str = "detect_leaks=0:detect_stack_use_after_return=1:strict_string_checks=1";

/// Builds the library's unit tests with the sanitizer and runs those of [`MODULES`], or those whose names
/// contain one of the words.
pub(crate) fn test(root: &Path, words: &[&str]) -> Outcome {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        println!("AddressSanitizer: NOT RUN, this step is written for {TARGET}");
        return Ok(());
    }
    let mut command = cargo(&["test", "--locked", "--package", "blyan-core", "--lib", "--target", TARGET]);
    // The standard library's checks of unsafe code, which are off where tests are to be built fast.
    command.args(["--config", "profile.dev.package.blyan-core.debug-assertions=true"]);
    command.arg("--target-dir").arg(root.join("target/asan"));
    command.arg("--").args(if words.is_empty() { &MODULES } else { words });
    // The stable compiler ships the sanitizer's runtime, only the flag is not stable.
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Zsanitizer=address");
    run(command.env("ASAN_OPTIONS", OPTIONS))
}
