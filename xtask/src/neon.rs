//! Runs the kernels' unit tests on emulated 64-bit ARM, where that can be had.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Outcome, cargo, run};

const TARGET: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64-static";
/// Debian's compiler: it alone comes with a standard library for another architecture as a package.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

const HOW_TO_INSTALL: &str = "on Debian 12 as root:
  dpkg --add-architecture arm64
  apt-get update
  apt-get install --no-install-recommends rustc-web libstd-rust-web-dev:arm64 \\
      gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static";

/// What builds for aarch64 here, and what runs it.
struct Tools {
    rustc: PathBuf,
    /// `None` on such a CPU, which needs neither a cross compiler nor an emulator.
    cross: Option<[&'static str; 2]>,
}

fn answers(program: impl AsRef<std::ffi::OsStr>) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Whether the linker finds a C library to link.
fn has_libc() -> bool {
    let asked = Command::new(LINKER).arg("-print-file-name=libc.a").output();
    // It answers with the bare name if there is no such file.
    asked.is_ok_and(|asked| asked.stdout.starts_with(b"/"))
}

/// Whether the compiler has a standard library, tests included, for the target.
fn has_target(rustc: &Path) -> bool {
    let asked = Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]).output();
    let Ok(asked) = asked else { return false };
    let dir = PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim());
    let Ok(entries) = dir.read_dir() else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libtest-"))
}

impl Tools {
    /// Finds them, or tells what is missing.
    fn find() -> Result<Self, String> {
        let own = std::env::var_os("RUSTC").map_or_else(|| PathBuf::from("rustc"), PathBuf::from);
        let mut compilers = [own, PathBuf::from(DEBIAN_RUSTC)].into_iter();
        let rustc = compilers.find(|rustc| has_target(rustc));
        let cross = (!cfg!(target_arch = "aarch64")).then_some([LINKER, EMULATOR]);
        let mut missing: Vec<String> =
            cross.iter().flatten().filter(|tool| !answers(tool)).map(|tool| (*tool).to_owned()).collect();
        if cross.is_some() && missing.is_empty() && !has_libc() {
            missing.push("a C library for aarch64".to_owned());
        }
        match rustc {
            Some(rustc) if missing.is_empty() => return Ok(Self { rustc, cross }),
            Some(_) => {}
            None => missing.push(format!("a rustc with a standard library for {TARGET}")),
        }
        Err(format!("missing: {}; {HOW_TO_INSTALL}", missing.join(", ")))
    }

    /// Runs the tests whose names contain one of the words, or all.
    fn test(&self, root: &Path, words: &[&str]) -> Outcome {
        let manifest = root.join("xtask/neon/Cargo.toml");
        let mut command = cargo(&["test", "--locked", "--target", TARGET, "--manifest-path"]);
        command.arg(manifest).arg("--target-dir").arg(root.join("target/neon")).arg("--").args(words);
        // For the test harness of its own, which the stable language does not offer.
        command.env("RUSTC", &self.rustc).env("RUSTC_BOOTSTRAP", "1");
        if let Some([linker, emulator]) = self.cross {
            let variable = |name: &str| format!("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_{name}");
            command.env(variable("LINKER"), linker).env(variable("RUNNER"), emulator);
            // Linked statically, the program needs no folder of aarch64 libraries.
            command.env(variable("RUSTFLAGS"), "-Ctarget-feature=+crt-static").env_remove("RUSTFLAGS");
        }
        run(&mut command)
    }
}

/// Every unit test of the kernels, or those whose names contain one of the words.
pub(crate) fn test(root: &Path, words: &[&str]) -> Outcome {
    Tools::find()?.test(root, words)
}
