//! Owns the tests of the C and C++ bindings: header, symbols, examples against the installed tree,
//! misuse, valgrind, sanitizers.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rayon::prelude::*;

use crate::install::{HEADERS, Profile, install, target_dir};
use crate::{Outcome, cargo, header, run};

/// Languages that the headers have to be accepted by, without a warning.
const C_STANDARDS: [&str; 3] = ["c99", "c11", "c17"];
const CPP_STANDARDS: [&str; 3] = ["c++11", "c++17", "c++20"];
const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];
const SANITIZE: [&str; 3] = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"];

/// A compiler.
struct Compiler {
    program: &'static str,
    cpp: bool,
}

const COMPILERS: [Compiler; 4] = [
    Compiler { program: "gcc", cpp: false },
    Compiler { program: "g++", cpp: true },
    Compiler { program: "clang", cpp: false },
    Compiler { program: "clang++", cpp: true },
];

/// Programs (a file, or a folder of files) that are given the quickstart's model and an empty folder, and
/// whether valgrind, which takes its time, runs them too: those that reach most of the library with the
/// least computing.
const PROGRAMS: [(&str, &str, bool); 10] = [
    ("quickstart", "examples/c/quickstart.c", true),
    ("quickstart_cpp", "examples/cpp/quickstart.cpp", true),
    ("session", "examples/c/session.c", false),
    ("session_cpp", "examples/cpp/session.cpp", false),
    ("every_function", EVERY_FUNCTION, true),
    ("misuse", "blyan-capi/tests/c/misuse", true),
    ("evolve", "blyan-capi/tests/c/evolve", false),
    ("api", "blyan-capi/tests/c/api.cpp", false),
    ("evolve_cpp", "blyan-capi/tests/c/evolve.cpp", false),
    ("learn_cpp", "blyan-capi/tests/c/learn.cpp", false),
];

/// Calls every function with everything that is wrong.
const EVERY_FUNCTION: &str = "blyan-capi/tests/c/every_function";

/// What is on this machine.
#[derive(Clone, Copy)]
struct Tools {
    cpp: bool,
    valgrind: bool,
}

/// What is built here, where, and against what.
struct Tests<'a> {
    root: &'a Path,
    /// Built programs and their files.
    work: PathBuf,
    prefix: PathBuf,
    model: PathBuf,
    /// How to compile and link against the installed tree.
    flags: Vec<OsString>,
}

/// Runs all of it; what is not on this machine is named and left out.
pub(crate) fn test(root: &Path) -> Outcome {
    if !cfg!(unix) || !has("gcc") {
        println!("\nskipped: the C and C++ bindings need gcc");
        return Ok(());
    }
    let work = target_dir(root).join("capi");
    let mut tests = Tests {
        root,
        flags: Vec::new(),
        prefix: work.join("prefix"),
        model: root.join("models/tiny-kjv-moe"),
        work: work.join("work"),
    };
    if tests.work.exists() {
        fs::remove_dir_all(&tests.work).map_err(|error| format!("{}: {error}", tests.work.display()))?;
    }
    fs::create_dir_all(&tests.work).map_err(|error| format!("{}: {error}", tests.work.display()))?;
    header::check(root)?;
    install(root, &tests.prefix, Profile::Dev)?;
    tests.flags = tests.flags()?;
    tests.check_symbols()?;
    tests.check_coverage()?;
    tests.compile_headers()?;
    tests.run_readme()?;
    tests.run_programs()?;
    tests.run_cmake()?;
    println!("\nthe C and C++ bindings are sound");
    Ok(())
}

/// Whether a program is there; says so if it is not.
fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        println!("\nskipped: {program} is not installed");
    }
    found
}

/// Texts of files, one after the other.
fn read_all(files: &[PathBuf]) -> Outcome<String> {
    let read =
        |file: &PathBuf| fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()));
    files.iter().map(read).collect()
}

/// The functions that a header declares.
fn functions(header: &str) -> BTreeSet<String> {
    let code: String = header.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let mut found = BTreeSet::new();
    for (place, _) in code.match_indices("blyan_") {
        let word: String =
            code[place..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        let before = code[..place].chars().next_back();
        let is_call = code[place + word.len()..].starts_with('(');
        // `(*blyan_token_fn)(` is a type.
        if is_call && !before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') {
            found.insert(word);
        }
    }
    found
}

impl Tests<'_> {
    fn read(&self, path: &str) -> Outcome<String> {
        let path = self.root.join(path);
        fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// The shared library gives the functions of the header and nothing else.
    fn check_symbols(&self) -> Outcome {
        if !cfg!(target_os = "linux") || !has("nm") {
            return Ok(());
        }
        let library = self.prefix.join("lib/libblyan.so");
        let listed = output(Command::new("nm").args(["-D", "--defined-only", "-P"]).arg(&library))?;
        let exported: BTreeSet<String> =
            listed.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
        let declared = functions(&self.read("include/blyan.h")?);
        let differing: Vec<_> = exported.symmetric_difference(&declared).collect();
        if declared.is_empty() || !differing.is_empty() {
            return Err(format!("header and library differ in {differing:?}"));
        }
        println!("{} functions are declared and exported", declared.len());
        Ok(())
    }

    /// Every function is called with everything that is wrong, and is there in C++, too.
    fn check_coverage(&self) -> Outcome {
        let declared = functions(&self.read("include/blyan.h")?);
        let cpp = HEADERS[1..].iter().map(|header| self.root.join("include").join(header)).collect();
        for (what, files) in [(EVERY_FUNCTION, self.sources(EVERY_FUNCTION)?), ("C++", cpp)] {
            let text = read_all(&files)?;
            let used: BTreeSet<&str> = text.split(|c: char| c != '_' && !c.is_ascii_alphanumeric()).collect();
            let missing: Vec<_> = declared.iter().filter(|name| !used.contains(name.as_str())).collect();
            if !missing.is_empty() {
                return Err(format!("{what} does not use {missing:?}"));
            }
        }
        Ok(())
    }

    /// The headers alone, twice, in every language that they promise.
    fn compile_headers(&self) -> Outcome {
        let compile = |compiler: &Compiler, standard: &str, header: &str| {
            let source = self.work.join(if compiler.cpp { "header.cpp" } else { "header.c" });
            let text = format!("#include <{header}>\n#include <{header}>\nint main(void) {{ return 0; }}\n");
            fs::write(&source, text).map_err(|error| format!("{}: {error}", source.display()))?;
            let mut command = Command::new(compiler.program);
            command.arg(format!("-std={standard}")).args(WARNINGS).arg("-fsyntax-only");
            run(command.arg("-I").arg(self.prefix.join("include")).arg(source))
        };
        for compiler in &COMPILERS {
            if !has(compiler.program) {
                continue;
            }
            for standard in if compiler.cpp { CPP_STANDARDS } else { C_STANDARDS } {
                compile(compiler, standard, "blyan.h")?;
                if compiler.cpp && standard != "c++11" {
                    compile(compiler, standard, "blyan.hpp")?;
                }
            }
        }
        Ok(())
    }

    /// How pkg-config, or else we, say to find the library.
    fn flags(&self) -> Outcome<Vec<OsString>> {
        let lib = self.prefix.join("lib");
        let mut rpath = OsString::from("-Wl,-rpath,");
        rpath.push(&lib);
        let mut flags: Vec<OsString> = if has("pkg-config") {
            let mut ask = Command::new("pkg-config");
            ask.env("PKG_CONFIG_PATH", lib.join("pkgconfig")).args(["--cflags", "--libs", "blyan >= 0.1"]);
            output(&mut ask)?.split_whitespace().map(OsString::from).collect()
        } else {
            let include = self.prefix.join("include");
            vec!["-I".into(), include.into(), "-L".into(), lib.into(), "-lblyan".into()]
        };
        flags.extend(["-lm".into(), "-pthread".into(), rpath]);
        Ok(flags)
    }

    /// The files of a program.
    fn sources(&self, source: &str) -> Outcome<Vec<PathBuf>> {
        let path = self.root.join(source);
        if !path.is_dir() {
            return Ok(vec![path]);
        }
        let refuse = |error: std::io::Error| format!("{}: {error}", path.display());
        let mut files = Vec::new();
        for entry in fs::read_dir(&path).map_err(refuse)? {
            files.push(entry.map_err(refuse)?.path());
        }
        files.retain(|file| file.extension().is_some_and(|extension| extension == "c"));
        files.sort();
        Ok(files)
    }

    /// Builds a program against the installed tree.
    fn build(&self, source: &str, name: &str, extra: &[&str]) -> Outcome<PathBuf> {
        let cpp = source.ends_with(".cpp");
        let program = self.work.join(name);
        let mut command = Command::new(if cpp { "g++" } else { "gcc" });
        command.arg(if cpp { "-std=c++17" } else { "-std=c99" }).args(WARNINGS).args(extra);
        // Threads and file names longer than the C standard has.
        command.arg("-D_POSIX_C_SOURCE=200809L").arg("-O1").args(self.sources(source)?);
        run(command.args(&self.flags).arg("-o").arg(&program))?;
        Ok(program)
    }

    /// An empty folder for the chains of whoever has this name.
    fn empty(&self, name: &str) -> Outcome<PathBuf> {
        let empty = self.work.join(format!("{name}.chains"));
        if empty.exists() {
            fs::remove_dir_all(&empty).map_err(|error| format!("{}: {error}", empty.display()))?;
        }
        fs::create_dir(&empty).map_err(|error| format!("{}: {error}", empty.display()))?;
        Ok(empty)
    }

    /// Runs a program on the quickstart's model, with an empty folder.
    fn start(&self, name: &str, mut command: Command) -> Outcome<String> {
        // Cargo points it to its own folders, where another build of the library may be.
        command.env_remove("LD_LIBRARY_PATH").arg(&self.model).arg(self.empty(name)?);
        output(&mut command)
    }

    /// Every program, as many at once as there are cores.
    fn run_programs(&self) -> Outcome {
        let mut session = cargo(&["run", "--quiet", "--example", "session", "--"]);
        session.current_dir(self.root);
        let session = self.start("session_rust", session)?;
        let tools = Tools { cpp: has("g++"), valgrind: has("valgrind") };
        let programs = PROGRAMS.par_iter().with_max_len(1);
        let quickstarts = programs.map(|program| self.run_program(program, &session, tools));
        let quickstarts: Vec<Option<String>> = quickstarts.collect::<Outcome<_>>()?;
        check_quickstarts(&quickstarts.into_iter().flatten().collect::<Vec<_>>())
    }

    /// A program as it is, under the sanitizers, under valgrind. What a quickstart prints is the result.
    fn run_program(
        &self,
        &(name, source, with_valgrind): &(&str, &str, bool),
        session: &str,
        tools: Tools,
    ) -> Outcome<Option<String>> {
        if source.ends_with(".cpp") && !tools.cpp {
            return Ok(None);
        }
        let program = self.build(source, name, &[])?;
        let printed = self.start(name, Command::new(&program))?;
        if name.starts_with("session") && printed != session {
            for (by, text) in [("rust", session), (name, &printed)] {
                let file = self.work.join(format!("session_by_{by}.json"));
                fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
            }
            return Err(format!("{source} prints other JSON than Rust, see {}", self.work.display()));
        }
        self.run_sanitized(name, source, &printed)?;
        if tools.valgrind && with_valgrind {
            self.start(name, under_valgrind(&program))?;
        }
        Ok(name.starts_with("quickstart").then_some(printed))
    }

    /// The README's program in C, as it is written there.
    fn run_readme(&self) -> Outcome {
        let readme = self.read("README.md")?;
        let code = readme.split_once("```c\n").and_then(|(_, rest)| rest.split_once("```\n"));
        let (code, _) = code.ok_or("README.md has no program in C")?;
        let source = self.work.join("readme.c");
        fs::write(&source, code).map_err(|error| format!("{}: {error}", source.display()))?;
        let program = self.build(&source.to_string_lossy(), "readme", &[])?;
        output(Command::new(program).current_dir(self.root)).map(|printed| println!("{printed}"))
    }

    fn run_sanitized(&self, name: &str, source: &str, printed: &str) -> Outcome {
        let program = self.build(source, &format!("{name}_sanitized"), &SANITIZE)?;
        let mut command = Command::new(program);
        command.env("ASAN_OPTIONS", "detect_leaks=1:strict_string_checks=1");
        if self.start(name, command)? == printed {
            return Ok(());
        }
        Err(format!("{source} prints something else under the sanitizers"))
    }

    /// The examples as a CMake project of their own, with the shared and the static library.
    fn run_cmake(&self) -> Outcome {
        if !has("cmake") {
            return Ok(());
        }
        let languages: &[&str] = if has("g++") { &["c", "cpp"] } else { &["c"] };
        let builds: Vec<_> =
            languages.iter().flat_map(|language| ["OFF", "ON"].map(|linking| (language, linking))).collect();
        builds.par_iter().with_max_len(1).try_for_each(|(language, linking)| {
            let name = format!("cmake-{language}-{linking}");
            let build = self.work.join(&name);
            let mut configure = Command::new("cmake");
            configure.arg("-S").arg(self.root.join("examples").join(language)).arg("-B").arg(&build);
            configure.arg(format!("-DBLYAN_STATIC={linking}"));
            configure.arg(format!("-DCMAKE_PREFIX_PATH={}", self.prefix.display()));
            run(configure.arg("-DCMAKE_BUILD_TYPE=RelWithDebInfo"))?;
            run(Command::new("cmake").arg("--build").arg(&build))?;
            self.start(&name, Command::new(build.join("quickstart"))).map(drop)
        })
    }
}

fn under_valgrind(program: &Path) -> Command {
    let mut command = Command::new("valgrind");
    // Valgrind knows no AVX-512; the result is the same with every instruction set.
    command.env("BLYAN_ISA", if cfg!(target_arch = "x86_64") { "avx2" } else { "scalar" });
    command.args(["--quiet", "--error-exitcode=9", "--leak-check=full"]);
    command.args(["--show-leak-kinds=definite,indirect", "--errors-for-leak-kinds=definite,indirect"]);
    command.arg(program);
    command
}

/// The quickstarts show what they are there to show, the same in both languages.
fn check_quickstarts(printed: &[String]) -> Outcome {
    let expected = [
        "... 32 experts",
        "256 x 192",
        "replayed: 0 differences",
        "stopped after 4 tokens",
        "not_found: block",
    ];
    for text in printed {
        if let Some(missing) = expected.iter().find(|line| !text.contains(*line)) {
            return Err(format!("a quickstart does not print {missing:?}:\n{text}"));
        }
    }
    if printed.windows(2).any(|pair| pair[0] != pair[1]) {
        return Err(format!("the quickstarts in C and C++ differ:\n{}", printed.join("\n")));
    }
    Ok(())
}

/// What a command prints; an error with everything if it fails.
fn output(command: &mut Command) -> Outcome<String> {
    println!("\n$ {command:?}");
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let [printed, errors] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if output.status.success() {
        Ok(printed)
    } else {
        Err(format!("{command:?}: {}\n{printed}{errors}", output.status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_told_from_types_and_comments() {
        let header = "// blyan_not(x)\nint blyan_one(void);\nblyan_two *blyan_three(int (*blyan_fn)(int));";
        let found: Vec<_> = functions(header).into_iter().collect();
        assert_eq!(found, ["blyan_one", "blyan_three"]);
    }
}
