//! Builds the Python package as its users do, `pip install .`, and runs its tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Outcome, cargo, run};

/// Set to test with torch too, which is a large download.
const TORCH_VARIABLE: &str = "BLYAN_TEST_TORCH";

/// A virtual environment with what the tests need.
fn environment(root: &Path) -> Outcome<PathBuf> {
    let venv = root.join("target/python/venv");
    let python = venv.join("bin/python");
    if !python.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]);
    install.arg(root.join("python/tests/requirements.txt"));
    if std::env::var_os(TORCH_VARIABLE).is_some() {
        install.arg("torch");
    }
    run(&mut install)?;
    Ok(python)
}

/// Builds the wheel and installs it. maturin compiles into the workspace's own target folder, so that what
/// other release builds made is used.
fn install(root: &Path, python: &Path) -> Outcome {
    run(Command::new(python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .args(["--force-reinstall", "--no-deps", "."])
        .env("CARGO_TARGET_DIR", root.join("target")))
}

/// What the Rust session prints, for the Python one to be compared with.
fn rust_session(root: &Path) -> Outcome<PathBuf> {
    let work = root.join("target/python");
    let chain = work.join("session-chain");
    if chain.exists() {
        std::fs::remove_dir_all(&chain).map_err(|error| format!("{}: {error}", chain.display()))?;
    }
    let mut session = cargo(&["run", "--release", "--quiet", "--example", "session", "--"]);
    let output = session.arg(root.join("models/tiny-kjv-moe")).arg(&chain).current_dir(root).output();
    let output = output.map_err(|error| format!("session: {error}"))?;
    if !output.status.success() {
        return Err(format!("session: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let printed = work.join("session.json");
    std::fs::write(&printed, output.stdout).map_err(|error| format!("{}: {error}", printed.display()))?;
    Ok(printed)
}

/// Installs the package into the environment of the tests and returns its interpreter.
pub(crate) fn make(root: &Path) -> Outcome<PathBuf> {
    let python = environment(root)?;
    install(root, &python)?;
    Ok(python)
}

/// Tests the package. A machine that cannot get what the tests need says so; CI must.
pub(crate) fn test(root: &Path) -> Outcome {
    let python = match environment(root) {
        Ok(python) => python,
        Err(message) if std::env::var_os("CI").is_none() => {
            println!("\nPython: NOT TESTED, what the tests need could not be installed ({message})");
            return Ok(());
        }
        Err(message) => return Err(message),
    };
    install(root, &python)?;
    let session = rust_session(root)?;
    let tests = root.join("python/tests");
    run(Command::new(&python).args(["-m", "pytest", "-q"]).arg(tests).env("BLYAN_SESSION", session))
}
