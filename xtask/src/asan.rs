//! Runs the tests of everything that holds pointers under AddressSanitizer.

use std::path::Path;

use crate::{Outcome, cargo, run};

/// Named, so that build scripts and macros, which run while compiling, are not instrumented.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Modules of blyan-core with `unsafe` code, and what calls into it: maps, views into them, the team of threads. Of
/// blyan-kernels all unit tests are run, on every instruction set that the CPU has.
const MODULES: [&str; 3] = ["storage::", "tensor::", "model::"];

/// Leaks are not looked for: tests of a damaged index make redb panic half way, which may lose memory.
const OPTIONS: &str = "detect_leaks=0:detect_stack_use_after_return=1:strict_string_checks=1";

/// Builds the unit tests with the sanitizer and runs those of the kernels and of [`MODULES`], or those whose names
/// contain one of the words.
pub(crate) fn test(root: &Path, words: &[&str]) -> Outcome {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        println!("AddressSanitizer: NOT RUN, this step is written for {TARGET}");
        return Ok(());
    }
    for (package, modules) in [("blyan-kernels", &[][..]), ("blyan-core", &MODULES)] {
        let mut command = cargo(&["test", "--locked", "--package", package, "--lib", "--target", TARGET]);
        // The standard library's checks of unsafe code, which are off where tests are to be built fast.
        command.args(["--config", "profile.dev.package.blyan-kernels.debug-assertions=true"]);
        command.arg("--target-dir").arg(root.join("target/asan"));
        command.arg("--").args(if words.is_empty() { modules } else { words });
        // The stable compiler ships the sanitizer's runtime, only the flag is not stable.
        command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Zsanitizer=address");
        run(command.env("ASAN_OPTIONS", OPTIONS))?;
    }
    Ok(())
}
