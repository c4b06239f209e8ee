//! `blyan gc`.

use blyan_core::chain::{CollectOptions, CollectReport};
use serde_json::json;

use super::{Context, bytes};
use crate::arguments::Gc;
use crate::error::CliError;
use crate::names;

pub(super) fn run(context: &mut Context<'_, '_>, arguments: &Gc) -> Result<(), CliError> {
    let chain = match arguments.dry_run {
        true => names::open(context.chain)?,
        false => names::open_to_write(context.chain)?,
    };
    let roots = match arguments.keep.as_slice() {
        [] => None,
        given => Some(names::blocks(&chain, given, None)?),
    };
    let options =
        CollectOptions { roots: roots.as_deref(), dry_run: arguments.dry_run, cancel: Some(context.cancel) };
    let report = chain.collect(&options)?;
    let CollectReport { payloads, payload_bytes, stray_payloads, stray_bytes, .. } = report;
    let (retained, retained_bytes) = (report.retained_payloads, report.retained_bytes);
    if context.json {
        return context.streams.json(&json!({
            "dry_run": arguments.dry_run, "blocks": report.blocks, "payloads": payloads,
            "payload_bytes": payload_bytes, "stray_payloads": stray_payloads, "stray_bytes": stray_bytes,
            "retained_payloads": retained, "retained_bytes": retained_bytes,
        }));
    }
    let verb = if arguments.dry_run { "would delete" } else { "deleted" };
    let streams = &mut *context.streams;
    for block in report.blocks {
        let header = chain.get(&block)?.header().clone();
        streams.line(format!("{verb}  payload of {} {} {}", block.short(), header.name, header.version))?;
    }
    streams.line(format!(
        "{verb} {payloads} payloads with {}, and {stray_payloads} that no block names with {}",
        bytes(payload_bytes),
        bytes(stray_bytes)
    ))?;
    streams.line(format!("{retained} payloads stay, {}", bytes(retained_bytes)))
}
