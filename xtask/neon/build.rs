//! Sets what `blyan-kernels/build.rs` sets of a build for tests, and `plain_main`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(poisoned, plain_main)");
    println!("cargo::rustc-cfg=poisoned");
    println!("cargo::rustc-cfg=plain_main");
}
