//! Owns `cargo xtask bench-c`: tokens a second through C beside those of Rust, in turns, so that what
//! else the machine does meets both.

use std::path::Path;
use std::process::Command;

use crate::install::{Profile, install, target_dir};
use crate::{Outcome, cargo, run};

const ROUNDS: usize = 7;

pub(crate) fn bench(root: &Path) -> Outcome {
    let work = target_dir(root).join("capi");
    let prefix = work.join("bench");
    install(root, &prefix, Profile::Release)?;
    run(&mut cargo(&["build", "--release", "--package", "blyan-capi", "--example", "bench"]))?;
    let lib = prefix.join("lib");
    let through_c = work.join("bench-c");
    let mut build = Command::new("gcc");
    build.args(["-std=c99", "-D_POSIX_C_SOURCE=200809L", "-O2", "-I"]).arg(prefix.join("include"));
    build.arg(root.join("examples/c/bench.c")).arg("-L").arg(&lib).arg("-lblyan");
    run(build.arg(format!("-Wl,-rpath,{}", lib.display())).arg("-o").arg(&through_c))?;

    let in_rust = target_dir(root).join("release/examples/bench");
    let rate = |program: &Path| {
        // Cargo points it to its own folders, where another build of the library may be.
        let mut command = Command::new(program);
        command.env_remove("LD_LIBRARY_PATH").arg(root.join("models/tiny-kjv-moe"));
        let output = command.output();
        let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let parsed = text.trim().parse::<f64>();
        parsed.map_err(|_| format!("{}: {}", program.display(), String::from_utf8_lossy(&output.stderr)))
    };
    let mut ratios = Vec::new();
    println!("\ntokens/s in Rust, through C, ratio");
    for round in 0..ROUNDS {
        // Each goes first every other time.
        let (rust, c) = if round % 2 == 0 {
            let rust = rate(&in_rust)?;
            (rust, rate(&through_c)?)
        } else {
            let c = rate(&through_c)?;
            (rate(&in_rust)?, c)
        };
        println!("{rust:10.1} {c:10.1} {:6.3}", c / rust);
        ratios.push(c / rust);
    }
    ratios.sort_unstable_by(f64::total_cmp);
    println!("median ratio {:.3}", ratios[ROUNDS / 2]);
    Ok(())
}
