//! `blyan import`.

use blyan_core::import::{self, ImportError, ImportOptions, ImportProgress};
use blyan_core::storage::StorageError;
use blyan_core::{Chain, ChainError, Error};
use serde_json::json;

use super::{Context, bytes};
use crate::arguments::Import;
use crate::error::CliError;
use crate::names;
use crate::output::Progress;

pub(super) fn run(context: &mut Context<'_, '_>, arguments: &Import) -> Result<(), CliError> {
    // Before a chain is made for nothing.
    let missing = |source| ImportError::Io { path: arguments.path.clone(), source };
    std::fs::metadata(&arguments.path).map_err(missing)?;
    let chain = open(context, arguments.dry_run)?;
    let bar = Progress::new(context.streams.terminal);
    let show = |progress: ImportProgress| {
        bar.set(progress.payload_bytes, progress.total_payload_bytes, || {
            format!("block {} of {}", progress.blocks, progress.total_blocks)
        });
    };
    let options = ImportOptions {
        dtype: arguments.dtype,
        rope_frequencies: arguments.rope_frequencies,
        dry_run: arguments.dry_run,
        ignore_config_keys: arguments.ignore_key.clone(),
        progress: Some(&show),
        cancel: Some(context.cancel),
    };
    let report = import::checkpoint(&chain, &arguments.path, &options)?;
    drop(bar);
    if context.json {
        return context.streams.json(&json!({
            "model": report.model, "spec": report.spec, "root": report.root, "dry_run": arguments.dry_run,
            "blocks_new": report.blocks_new, "blocks_known": report.blocks_known,
            "payload_bytes_new": report.payload_bytes_new, "payload_bytes_known": report.payload_bytes_known,
            "ignored_files": report.ignored_files,
        }));
    }
    let verb = if arguments.dry_run { "would add" } else { "added" };
    let streams = &mut *context.streams;
    streams.line(format!("model    {}", report.model))?;
    streams.line(format!("root     {}", report.root))?;
    streams.line(format!(
        "{verb:<8} {} blocks with {}; {} blocks were there",
        report.blocks_new,
        bytes(report.payload_bytes_new),
        report.blocks_known
    ))?;
    if !report.ignored_files.is_empty() {
        streams.line(format!("ignored  {}", report.ignored_files.join(", ")))?;
    }
    Ok(())
}

/// A dry run writes nothing: it makes no chain either.
fn open(context: &Context<'_, '_>, dry_run: bool) -> Result<Chain, CliError> {
    if !dry_run {
        return Ok(Chain::open(context.chain)?);
    }
    match names::open(context.chain) {
        Err(CliError::Core(error)) if is_missing(&error) => Ok(Chain::in_memory()?),
        opened => opened,
    }
}

fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Chain(ChainError::Storage(StorageError::Missing { .. })))
}
