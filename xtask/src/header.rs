//! Owns include/blyan.h: generated from blyan-capi, committed, compared.

use std::path::{Path, PathBuf};

use crate::Outcome;

/// Where the header is committed.
pub(crate) fn path(root: &Path) -> PathBuf {
    root.join("include/blyan.h")
}

/// The header as blyan-capi's sources make it.
fn generate(root: &Path) -> Outcome<Vec<u8>> {
    let capi = root.join("blyan-capi");
    let config = cbindgen::Config::from_file(capi.join("cbindgen.toml"))?;
    // The source alone, so that nothing is asked of cargo and of the network.
    let bindings = cbindgen::Builder::new().with_config(config).with_crate(&capi).generate();
    let bindings = bindings.map_err(|error| format!("blyan-capi has no header: {error}"))?;
    let mut header = Vec::new();
    bindings.write(&mut header);
    Ok(header)
}

/// Writes the header.
pub(crate) fn write(root: &Path) -> Outcome {
    let path = path(root);
    std::fs::write(&path, generate(root)?).map_err(|error| format!("{}: {error}", path.display()))
}

/// Compares the committed header with the sources.
pub(crate) fn check(root: &Path) -> Outcome {
    let path = path(root);
    let committed = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    if committed == generate(root)? {
        return Ok(());
    }
    Err("include/blyan.h is not what blyan-capi makes: run `cargo xtask header` and commit it".to_owned())
}
