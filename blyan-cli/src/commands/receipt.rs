//! `blyan receipt verify`.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use blyan_core::hash::ReceiptHash;
use blyan_core::manager::{ManagerError, ManagerOptions, Replay};
use blyan_core::{Chain, Receipt};
use serde_json::json;

use super::{Context, found, generate, read_input};
use crate::arguments::ReceiptVerify;
use crate::error::CliError;
use crate::names;

/// How often to look whether to stop.
const POLL: Duration = Duration::from_millis(50);

pub(super) fn run(context: &mut Context<'_, '_>, arguments: &ReceiptVerify) -> Result<(), CliError> {
    let receipt =
        Receipt::from_json(&read_input(&arguments.file, context.cancel)?).map_err(ManagerError::from)?;
    let chain = names::open(context.chain)?;
    let hash = receipt.hash();
    let replay = replay(context, receipt, chain, arguments)?;
    found(replay.is_ok(), print(context, hash, &replay))
}

fn print(context: &mut Context<'_, '_>, hash: ReceiptHash, replay: &Replay) -> Result<(), CliError> {
    if context.json {
        let differences = &replay.differences;
        let document = json!({ "ok": replay.is_ok(), "receipt": hash, "differences": differences });
        return context.streams.json(&document);
    }
    if replay.is_ok() {
        return context.streams.line(format!("true: run again, receipt {hash} is the same bit for bit"));
    }
    for difference in &replay.differences {
        context.streams.line(format!("DIFFERS  {difference}"))?;
    }
    context.streams.line(format!("not true: {} differences", replay.differences.len()))
}

/// Replays on a thread of its own, which can be left: nothing is written.
fn replay(
    context: &Context<'_, '_>,
    receipt: Receipt,
    chain: Chain,
    arguments: &ReceiptVerify,
) -> Result<Replay, CliError> {
    let options = ManagerOptions {
        model: names::model(&chain, arguments.model.name.as_deref())?,
        overlay: names::blocks(&chain, &arguments.overlay, None)?,
        ..generate::manager_options(&arguments.machine)
    };
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        // Nobody hears of it any more if the command was stopped.
        let _ = send.send(receipt.replay(&chain, &options));
    });
    loop {
        match receive.recv_timeout(POLL) {
            Ok(replay) => return Ok(replay?),
            Err(RecvTimeoutError::Timeout) if context.cancel.load(Ordering::Relaxed) => {
                return Err(CliError::Interrupted);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(CliError::NotFound("the replay ended without a result".to_owned()));
            }
        }
    }
}
