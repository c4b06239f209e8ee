//! `blyan bundle` and `blyan unbundle`.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use blyan_core::chain::{
    BundleError, BundleOptions, BundleProgress, BundleReport, ChainError, UnbundleOptions, UnbundleReport,
};
use blyan_core::{BlockHash, Chain};
use serde_json::json;

use super::{Context, bytes};
use crate::arguments::{Bundle, Unbundle};
use crate::error::CliError;
use crate::input::Input;
use crate::names;
use crate::output::{Progress, output_error};

pub(super) fn bundle(context: &mut Context<'_, '_>, arguments: &Bundle) -> Result<(), CliError> {
    let of = arguments.model.name.as_deref();
    names::check_of(&arguments.names, of)?;
    let chain = names::open(context.chain)?;
    let blocks = match arguments.names.as_slice() {
        [] => None,
        given => Some(names::blocks(&chain, given, of)?),
    };
    let mut known = arguments.known.clone();
    if let Some(other) = &arguments.lacking {
        known.extend(shared(&chain, &names::open(other)?, context.cancel)?);
    }
    let bar = Progress::new(context.streams.terminal);
    let show = |progress: BundleProgress| {
        bar.set(progress.blocks, progress.total_blocks, || bytes(progress.payload_bytes));
    };
    let options = BundleOptions {
        blocks,
        ancestors: !arguments.no_ancestors,
        known,
        progress: Some(&show),
        cancel: Some(context.cancel),
    };
    if arguments.file == Path::new("-") {
        // The bundle is the output, so nothing else is.
        let written = chain.bundle(&mut *context.streams.out, &options);
        return match written {
            Err(ChainError::Bundle(BundleError::Io { source, .. })) => Err(output_error(source)),
            written => Ok(written.map(|_| ())?),
        };
    }
    let BundleReport { blocks, payloads, signatures, bytes: len } =
        chain.bundle_file(&arguments.file, &options)?;
    drop(bar);
    if context.json {
        return context.streams.json(&json!({
            // Serde refuses a name that is no UTF-8.
            "file": arguments.file.to_string_lossy(), "blocks": blocks, "payloads": payloads,
            "signatures": signatures, "bytes": len,
        }));
    }
    let file = arguments.file.display();
    context.streams.line(format!(
        "{blocks} blocks, {payloads} payloads, {signatures} signatures, {} in {file}",
        bytes(len)
    ))
}

/// The blocks that both chains have. Where both went on, the tips of one say little to the other.
fn shared(ours: &Chain, theirs: &Chain, cancel: &AtomicBool) -> Result<Vec<BlockHash>, CliError> {
    let mut shared = Vec::new();
    for block in theirs.topological_order() {
        if cancel.load(Ordering::Relaxed) {
            return Err(CliError::Interrupted);
        }
        let block = match block {
            // It is no news: what they cannot read of the index no bundle brings back.
            Err(ChainError::Damaged { .. }) => continue,
            block => block?.hash(),
        };
        if ours.contains(&block)? {
            shared.push(block);
        }
    }
    Ok(shared)
}

fn unbundle_input(
    chain: &Chain,
    options: &UnbundleOptions<'_>,
    cancel: &AtomicBool,
) -> Result<UnbundleReport, CliError> {
    let file = |source| CliError::File { action: "read", path: "-".into(), source };
    match chain.unbundle(&mut Input::new(cancel).map_err(file)?, options) {
        Err(ChainError::Bundle(BundleError::Io { .. })) if cancel.load(Ordering::Relaxed) => {
            Err(CliError::Interrupted)
        }
        done => Ok(done?),
    }
}

pub(super) fn unbundle(context: &mut Context<'_, '_>, arguments: &Unbundle) -> Result<(), CliError> {
    let from_input = arguments.file == Path::new("-");
    if !from_input {
        // Before a chain is made for nothing.
        let missing = |source| BundleError::Io { action: "open", path: arguments.file.clone(), source };
        std::fs::metadata(&arguments.file).map_err(missing).map_err(ChainError::from)?;
    }
    let chain = Chain::open(context.chain)?;
    let bar = Progress::new(context.streams.terminal);
    let show = |progress: BundleProgress| {
        bar.set(progress.blocks, progress.total_blocks, || bytes(progress.payload_bytes));
    };
    let options =
        UnbundleOptions { progress: Some(&show), cancel: Some(context.cancel), ..UnbundleOptions::default() };
    let report = match from_input {
        true => unbundle_input(&chain, &options, context.cancel)?,
        false => chain.unbundle_file(&arguments.file, &options)?,
    };
    drop(bar);
    if context.json {
        return context.streams.json(&json!({
            "blocks_new": report.blocks_new, "blocks_known": report.blocks_known,
            "signatures_new": report.signatures_new, "payload_bytes_new": report.payload_bytes_new,
            "root": report.root,
        }));
    }
    context.streams.line(format!(
        "added {} blocks with {} and {} signatures; {} blocks were there",
        report.blocks_new,
        bytes(report.payload_bytes_new),
        report.signatures_new,
        report.blocks_known
    ))
}
