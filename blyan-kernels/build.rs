//! Sets `poisoned` in builds for tests: memory whose numbers nobody may rely on is then filled with such as no test takes
//! for right. Not `debug_assertions`, see the workspace's Cargo.toml. `plain_main` is set by `xtask/neon` alone.

fn main() {
    // Else it would run again after a change of any file, and the library be built again.
    println!("cargo::rerun-if-env-changed=PROFILE");
    println!("cargo::rustc-check-cfg=cfg(poisoned, plain_main)");
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "debug") {
        println!("cargo::rustc-cfg=poisoned");
    }
}
