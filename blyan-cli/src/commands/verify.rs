//! `blyan verify`.

use blyan_core::VerifyOptions;
use blyan_core::chain::{VerifyProgress, VerifyReport};
use serde_json::{Value, json};

use super::{Context, bytes, found};
use crate::arguments::Verify;
use crate::error::CliError;
use crate::names;
use crate::output::Progress;

pub(super) fn run(context: &mut Context<'_, '_>, arguments: &Verify) -> Result<(), CliError> {
    let chain = names::open(context.chain)?;
    let bar = Progress::new(context.streams.terminal);
    let show = |progress: VerifyProgress| {
        bar.set(progress.payload_bytes, progress.total_payload_bytes, || {
            format!("block {} of {}", progress.blocks, progress.total_blocks)
        });
    };
    let full = !arguments.headers;
    let options = VerifyOptions { full, progress: Some(&show), cancel: Some(context.cancel) };
    let report = chain.verify(&options)?;
    drop(bar);
    found(report.is_ok(), print(context, &report, full))
}

fn print(context: &mut Context<'_, '_>, report: &VerifyReport, full: bool) -> Result<(), CliError> {
    if context.json {
        let bad = report
            .bad
            .iter()
            .map(|bad| json!({"block": bad.block, "name": bad.name, "reason": bad.reason.to_string()}));
        return context.streams.json(&json!({
            "ok": report.is_ok(), "full": full, "blocks": report.blocks,
            "payload_bytes": report.payload_bytes, "bad": bad.collect::<Value>(),
            "collected": report.collected,
        }));
    }
    for bad in &report.bad {
        context.streams.line(format!("BAD  {bad}"))?;
    }
    let payloads = match full {
        true => format!("{} of payloads", bytes(report.payload_bytes)),
        false => "payload files left out".to_owned(),
    };
    let found = match report.bad.len() {
        0 => "all intact".to_owned(),
        bad => format!("{bad} findings"),
    };
    let found = match report.collected.len() {
        0 => found,
        collected => format!("{found}, {collected} payloads collected"),
    };
    context.streams.line(format!("{} blocks, {payloads}: {found}", report.blocks))
}
