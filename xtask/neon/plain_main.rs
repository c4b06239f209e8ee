//! Runs the unit tests of the kernels one after the other, from a plain `main`.
//!
//! For `cargo xtask neon`: an emulator of aarch64 may hang when a program starts a thread, and the
//! standard test harness runs each test on one. The crate beside this file is the library's kernels
//! under another manifest, so no case is written twice.

extern crate test;

/// The one test that starts threads itself.
const NEEDS_THREADS: &str = "mat::tests::parts_are_disjoint_and_cover_the_whole";

/// Runs the tests whose names contain one of the words of the command line, or all.
pub(crate) fn run(tests: &[&test::TestDescAndFn]) {
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
