//! Owns `cargo xtask install-c`: libraries, headers, and what pkg-config and CMake need to find them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Outcome, cargo, run};

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// As in blyan-capi/build.rs.
const SO_VERSION: &str = "0";

/// Which build of the library is installed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Release,
    Dev,
}

impl Profile {
    pub(crate) fn named(name: &str) -> Outcome<Self> {
        match name {
            "release" => Ok(Self::Release),
            "dev" => Ok(Self::Dev),
            _ => Err(format!("unknown profile {name:?}: expected release or dev")),
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Dev => "debug",
        }
    }
}

/// What the shared library is called on this system.
struct Names {
    /// What cargo makes.
    built: &'static str,
    /// The file.
    file: String,
    /// What programs are linked with: a link to the file.
    soname: String,
    /// What the linker looks for: a link to that.
    link: &'static str,
    /// What a program that links the static library needs besides.
    libs_private: &'static str,
    libs_cmake: &'static str,
}

fn names() -> Outcome<Names> {
    if cfg!(target_os = "linux") {
        Ok(Names {
            built: "libblyan.so",
            file: format!("libblyan.so.{VERSION}"),
            soname: format!("libblyan.so.{SO_VERSION}"),
            link: "libblyan.so",
            libs_private: "-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc",
            libs_cmake: "gcc_s;util;rt;m;dl",
        })
    } else if cfg!(target_os = "macos") {
        Ok(Names {
            built: "libblyan.dylib",
            file: format!("libblyan.{VERSION}.dylib"),
            soname: format!("libblyan.{SO_VERSION}.dylib"),
            link: "libblyan.dylib",
            libs_private: "-lSystem -lc -lm",
            libs_cmake: "c;m",
        })
    } else {
        Err("install-c knows Linux and macOS".to_owned())
    }
}

/// What programs include; the first is generated, the others are written on top of it.
pub(crate) const HEADERS: [&str; 5] =
    ["blyan.h", "blyan.hpp", "blyan_evolve.hpp", "blyan_rounds.hpp", "blyan_learn.hpp"];

/// Where cargo puts what it builds.
pub(crate) fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

/// Builds and installs.
pub(crate) fn install(root: &Path, prefix: &Path, profile: Profile) -> Outcome {
    let words: &[&str] = match profile {
        Profile::Release => &["build", "--release", "--package", "blyan-capi", "--lib"],
        // For tests. Of one package alone cargo makes other builds of what it depends on than of all.
        Profile::Dev => &["build", "--workspace", "--lib", "--examples"],
    };
    run(&mut cargo(words))?;

    let names = names()?;
    let built = target_dir(root).join(profile.folder());
    let [lib, include] = ["lib", "include"].map(|name| prefix.join(name));
    let [pkgconfig, cmake] = ["pkgconfig", "cmake/blyan"].map(|name| lib.join(name));
    for folder in [&include, &pkgconfig, &cmake] {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    copy(&built.join(names.built), &lib.join(&names.file))?;
    link(&names.file, &lib.join(&names.soname))?;
    link(&names.soname, &lib.join(names.link))?;
    copy(&built.join("libblyan.a"), &lib.join("libblyan.a"))?;
    for header in HEADERS {
        copy(&root.join("include").join(header), &include.join(header))?;
    }

    let mut version = VERSION.split('.');
    let (major, minor) = (version.next().unwrap_or("0"), version.next().unwrap_or("0"));
    let words = [
        ("@VERSION@", VERSION),
        ("@MAJOR@", major),
        ("@MINOR@", minor),
        ("@POINTER_BYTES@", if cfg!(target_pointer_width = "64") { "8" } else { "4" }),
        ("@LIBS_PRIVATE@", names.libs_private),
        ("@LIBS_CMAKE@", names.libs_cmake),
        ("@SHARED_FILE@", &names.file),
        ("@SHARED_NAME@", &names.soname),
    ];
    for (template, place) in [
        ("blyan.pc.in", pkgconfig.join("blyan.pc")),
        ("blyanConfig.cmake.in", cmake.join("blyanConfig.cmake")),
        ("blyanConfigVersion.cmake.in", cmake.join("blyanConfigVersion.cmake")),
    ] {
        let template = root.join("blyan-capi/install").join(template);
        let text =
            fs::read_to_string(&template).map_err(|error| format!("{}: {error}", template.display()))?;
        let text = words.iter().fold(text, |text, (word, value)| text.replace(word, value));
        fs::write(&place, text).map_err(|error| format!("{}: {error}", place.display()))?;
    }
    println!("installed libblyan {VERSION} in {}", prefix.display());
    Ok(())
}

/// Puts a file in place of an older one that running programs may have mapped.
fn copy(from: &Path, to: &Path) -> Outcome {
    remove(to)?;
    fs::copy(from, to).map(|_| ()).map_err(|error| format!("{} to {}: {error}", from.display(), to.display()))
}

fn link(target: &str, place: &Path) -> Outcome {
    remove(place)?;
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(target, place).map_err(|error| format!("{}: {error}", place.display()))
    }
    #[cfg(not(unix))]
    {
        Err(format!("{} cannot link to {target}", place.display()))
    }
}

fn remove(place: &Path) -> Outcome {
    match fs::remove_file(place) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", place.display()))
        }
        _ => Ok(()),
    }
}
