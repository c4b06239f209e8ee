//! Names the shared library, so that programs find the major version they were linked with.

/// First number of the file name; grows with every change that breaks linked programs.
const SO_VERSION: u32 = 0;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    match std::env::var("CARGO_CFG_TARGET_OS").as_deref() {
        Ok("macos" | "ios") => {
            println!("cargo:rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libblyan.{SO_VERSION}.dylib");
        }
        Ok("windows") | Err(_) => {}
        Ok(_) => println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libblyan.so.{SO_VERSION}"),
    }
}
