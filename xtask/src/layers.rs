//! Checks the order of blyan-core's modules: each uses only modules below it, and some names never
//! appear in some of them. The lowest, `dtype` and `kernels`, are of a crate of their own, blyan-kernels.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Outcome;

/// The modules from the lowest to the highest; a module may use those before it. Modules that share
/// an entry do not use each other.
const LAYERS: &[&[&str]] = &[
    &["hash", "dtype"],
    &["kernels"],
    &["format"],
    &["storage"],
    &["chain"],
    &["tensor"],
    &["model"],
    &["usage", "chat"],
    &["import", "manager"],
    &["evolve"],
    &["error", "open"],
    &["lib"],
];

/// Where modules are that blyan-core has from another crate.
const KERNELS: &str = "blyan_kernels";

/// Names that a module must not use: (module, text, why).
const ABSENT: &[(&str, &str, &str)] = &[
    ("chain", "crate::dtype", "the chain knows bytes and hashes, never shapes"),
    ("storage", "crate::dtype", "storage knows bytes and hashes, never shapes"),
    ("chain", "crate::kernels", "the chain knows bytes and hashes, never numbers"),
    ("storage", "crate::kernels", "storage knows bytes and hashes, never numbers"),
    ("dtype", "crate::", "element types need nothing"),
    ("tensor", "Slot::Expert", "tensors know shapes, never experts"),
    ("kernels", "std::fs", "kernels take slices and give slices"),
    ("model", "std::fs", "the model never opens a file"),
    ("model", "crate::chain", "the model gets its blocks through a trait"),
];

pub(crate) fn check(root: &Path) -> Outcome {
    let (core, kernels) = (root.join("blyan-core/src"), root.join("blyan-kernels/src"));
    let (mut files, mut wrong) = (Vec::new(), Vec::new());
    collect(&core, &mut files)?;
    let of_core = files.len();
    collect(&kernels, &mut files)?;
    files[..of_core].sort();
    files[of_core..].sort();
    for (number, file) in files.iter().enumerate() {
        let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        if number < of_core {
            check_file(file.strip_prefix(&core).unwrap_or(file), &text, &mut wrong);
        } else {
            let module = if file.ends_with("dtype.rs") { "dtype" } else { "kernels" };
            check_absent(module, file.strip_prefix(root).unwrap_or(file), &text, &mut wrong);
        }
    }
    if wrong.is_empty() {
        println!("layers: {} files in order", files.len());
        return Ok(());
    }
    Err(format!("layers:\n  {}", wrong.join("\n  ")))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Outcome {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Layer of a module, `None` if nobody listed it.
fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

fn check_file(file: &Path, text: &str, wrong: &mut Vec<String>) {
    let Some(first) = file.components().next() else { return };
    let module = first.as_os_str().to_string_lossy();
    let module = module.strip_suffix(".rs").unwrap_or(&module);
    let Some(own) = layer(module) else {
        wrong.push(format!(
            "{}: module {module} has no layer: list it in xtask/src/layers.rs",
            file.display()
        ));
        return;
    };
    check_absent(module, file, text, wrong);
    for (place, code) in lines(file, text) {
        if code.contains(KERNELS) && module != "lib" {
            wrong.push(format!(
                "{place}: {module} uses {KERNELS} by its name: use crate::kernels or crate::dtype"
            ));
        }
        for used in code.split("crate::").skip(1) {
            let name: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            match layer(&name) {
                Some(other) if other < own || name == module => {}
                Some(_) => wrong.push(format!("{place}: {module} uses {name}, which is not below it")),
                None if module == "lib" => {}
                None => wrong.push(format!("{place}: crate::{name} is no module with a layer")),
            }
        }
    }
}

fn check_absent(module: &str, file: &Path, text: &str, wrong: &mut Vec<String>) {
    for (place, code) in lines(file, text) {
        for (_, text, why) in
            ABSENT.iter().filter(|(absent, text, _)| *absent == module && code.contains(text))
        {
            wrong.push(format!("{place}: {module} uses {text}: {why}"));
        }
    }
}

/// The lines of code with their places.
fn lines<'a>(file: &'a Path, text: &'a str) -> impl Iterator<Item = (String, &'a str)> {
    text.lines()
        .enumerate()
        .map(|(number, line)| (format!("{}:{}", file.display(), number + 1), line.trim_start()))
        .filter(|(_, code)| !code.starts_with("//"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(file: &str, text: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        check_file(Path::new(file), text, &mut wrong);
        wrong
    }

    #[test]
    fn using_what_is_below_is_fine() {
        assert!(wrong("chain/mod.rs", "use crate::hash::BlockHash;\nuse crate::chain::x;").is_empty());
        assert!(wrong("chain/mod.rs", "// crate::model is named in a comment").is_empty());
    }

    #[test]
    fn using_what_is_above_or_beside_is_found() {
        assert_eq!(wrong("chain/mod.rs", "let x = crate::tensor::f();").len(), 1);
        assert_eq!(wrong("import/mod.rs", "use crate::manager::f;").len(), 1);
        assert_eq!(wrong("hash.rs", "use crate::dtype::DType;").len(), 1);
        assert_eq!(wrong("chain/mod.rs", "use blyan_kernels::dtype::DType;").len(), 1);
        assert_eq!(wrong("nobody/mod.rs", "").len(), 1);
        assert_eq!(wrong("model/forward.rs", "use std::fs::File;").len(), 1);
    }
}
