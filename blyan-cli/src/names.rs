//! Owns the opening of the chain, and what its blocks are called on the command line: the library decides.

use std::path::Path;

use blyan_core::chain::ChainError;
use blyan_core::manager::{Release, Snapshot, find_block, find_model};
use blyan_core::storage::StorageError;
use blyan_core::{BlockHash, Chain, Slot};

use crate::error::CliError;

/// Opens a chain to read it. One whose last writer was killed is repaired first.
pub(crate) fn open(dir: &Path) -> Result<Chain, CliError> {
    match Chain::open_read_only(dir) {
        Err(ChainError::Storage(StorageError::NeedsRecovery)) => {
            drop(Chain::open(dir)?);
            Ok(Chain::open_read_only(dir)?)
        }
        other => Ok(other?),
    }
}

/// Opens a chain that is there to write to it.
pub(crate) fn open_to_write(dir: &Path) -> Result<Chain, CliError> {
    drop(open(dir)?);
    Ok(Chain::open(dir)?)
}

/// The model that was named, or the chain's only one.
pub(crate) fn snapshot(chain: &Chain, name: Option<&str>) -> Result<Snapshot, CliError> {
    Ok(Snapshot::named(chain, name.unwrap_or(Release::LATEST))?)
}

/// The model block of a name.
pub(crate) fn model(chain: &Chain, name: Option<&str>) -> Result<Option<BlockHash>, CliError> {
    Ok(name.map(|name| find_model(chain, name)).transpose()?)
}

/// Refuses a model whose slots nobody asked for.
pub(crate) fn check_of<S: AsRef<str>>(names: &[S], of: Option<&str>) -> Result<(), CliError> {
    if of.is_none() || names.iter().any(|name| name.as_ref().parse::<Slot>().is_ok()) {
        return Ok(());
    }
    Err(CliError::Usage("error: --model is for slots, and none is named".to_owned()))
}

/// The block of a name: as [`model`], or the one in a slot of `of`, or of the only model.
pub(crate) fn block(chain: &Chain, name: &str, of: Option<&str>) -> Result<BlockHash, CliError> {
    Ok(find_block(chain, name, of)?)
}

/// The blocks of several names.
pub(crate) fn blocks(chain: &Chain, names: &[String], of: Option<&str>) -> Result<Vec<BlockHash>, CliError> {
    names.iter().map(|name| block(chain, name, of)).collect()
}
