//! `blyan bundle` and `blyan unbundle`.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use blyan_core::chain::{
    BUNDLE_MAGIC, BundleError, BundleOptions, BundleProgress, BundleReport, ChainError, UnbundleOptions,
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

/// A read that Ctrl-C ended is no failure.
fn stopped<T>(cancel: &AtomicBool, done: Result<T, ChainError>) -> Result<T, CliError> {
    match done {
        Err(ChainError::Bundle(BundleError::Io { .. })) if cancel.load(Ordering::Relaxed) => {
            Err(CliError::Interrupted)
        }
        done => Ok(done?),
    }
}

/// Refuses what does not begin as a bundle, before a chain is made for nothing; gives what it has read.
fn begin(input: &mut dyn Read, path: &Path) -> Result<Vec<u8>, ChainError> {
    let mut head = Vec::new();
    let read = |source| BundleError::Io { action: "read", path: path.to_owned(), source };
    input.take(BUNDLE_MAGIC.len() as u64).read_to_end(&mut head).map_err(read)?;
    if head == BUNDLE_MAGIC {
        Ok(head)
    } else if BUNDLE_MAGIC.starts_with(&head) {
        Err(BundleError::Truncated { len_bytes: head.len() as u64 }.into())
    } else {
        Err(BundleError::NotABundle.into())
    }
}

pub(super) fn unbundle(context: &mut Context<'_, '_>, arguments: &Unbundle) -> Result<(), CliError> {
    let path = arguments.file.as_path();
    let mut input = match path == Path::new("-") {
        true => {
            let file = |source| CliError::File { action: "read", path: path.into(), source };
            let mut input = Input::new(context.cancel).map_err(file)?;
            let head = stopped(context.cancel, begin(&mut input, path))?;
            Some(Cursor::new(head).chain(input))
        }
        false => {
            let missing = |source| BundleError::Io { action: "open", path: path.into(), source };
            begin(&mut File::open(path).map_err(missing).map_err(ChainError::from)?, path)?;
            None
        }
    };
    let chain = Chain::open(context.chain)?;
    let bar = Progress::new(context.streams.terminal);
    let show = |progress: BundleProgress| {
        bar.set(progress.blocks, progress.total_blocks, || bytes(progress.payload_bytes));
    };
    let options =
        UnbundleOptions { progress: Some(&show), cancel: Some(context.cancel), ..UnbundleOptions::default() };
    let report = match &mut input {
        Some(input) => stopped(context.cancel, chain.unbundle(input, &options))?,
        None => chain.unbundle_file(path, &options)?,
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
