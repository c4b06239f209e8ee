//! The library's kernels with all their unit tests, run one after the other from a plain `main`.
//!
//! For `cargo xtask neon`: an emulator of aarch64 may hang when a program starts a thread, and the
//! standard test harness runs each test on one. The sources are the library's own, named by path, so
//! no case is written twice.

#![feature(custom_test_frameworks, test)]
#![test_runner(run)]

#[path = "../../../blyan-core/src/dtype.rs"]
pub mod dtype;
#[path = "../../../blyan-core/src/kernels/mod.rs"]
pub mod kernels;

#[cfg(test)]
extern crate test;

/// The one test that starts threads itself.
#[cfg(test)]
const NEEDS_THREADS: &str = "kernels::mat::tests::parts_are_disjoint_and_cover_the_whole";

/// Runs the tests whose names contain one of the words of the command line, or all.
#[cfg(test)]
fn run(tests: &[&test::TestDescAndFn]) {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    for test in tests {
        let name = test.desc.name.as_slice();
        let test::TestFn::StaticTestFn(case) = test.testfn else { continue };
        if !words.is_empty() && !words.iter().any(|word| name.contains(word)) {
            continue;
        }
        if test.desc.ignore || name == NEEDS_THREADS {
            println!("test {name} ... ignored");
            ignored += 1;
            continue;
        }
        let begun = std::time::Instant::now();
        let ended = std::panic::catch_unwind(case);
        let outcome = if matches!(ended, Ok(Ok(()))) { "ok" } else { "FAILED" };
        println!("test {name} ... {outcome} ({:.1} s)", begun.elapsed().as_secs_f64());
        if outcome == "ok" { passed += 1 } else { failed += 1 }
    }
    let architecture = std::env::consts::ARCH;
    println!("\n{architecture}: {passed} passed; {failed} failed; {ignored} ignored");
    if failed > 0 || passed == 0 {
        std::process::exit(101);
    }
}
