//! `blyan diff`.

use blyan_core::Chain;
use blyan_core::evolve::dataset::tokenize;
use blyan_core::evolve::{EvaluateOptions, EvaluateProgress, loss_diff};
use blyan_core::manager::{
    CompareOptions, Distance, LossDiff, SlotDiff, Snapshot, SnapshotDiff, TensorDiff, compare,
};
use serde_json::{Value, json};

use super::{Context, bytes, read_input};
use crate::arguments::Diff;
use crate::error::CliError;
use crate::names;
use crate::output::{Progress, table};

pub(super) fn run(context: &mut Context<'_, '_>, arguments: &Diff) -> Result<(), CliError> {
    let chain = names::open(context.chain)?;
    let before = names::snapshot(&chain, Some(&arguments.before))?;
    let after = names::snapshot(&chain, arguments.after.as_deref())?;
    let bar = Progress::new(context.streams.terminal);
    let show = |done, total| bar.set(done, total, String::new);
    let options = CompareOptions {
        distances: !arguments.no_weights,
        progress: Some(&show),
        cancel: Some(context.cancel),
    };
    let mut diff = compare(&chain, &before, &after, &options)?;
    drop(bar);
    diff.loss = measure(context, arguments, (&chain, &before, &after))?;
    let models = [before.model_block(&chain)?, after.model_block(&chain)?];
    if context.json {
        return context.streams.json(&json!({
            "before": {"model": models[0], "root": diff.before, "spec": diff.before_spec},
            "after": {"model": models[1], "root": diff.after, "spec": diff.after_spec},
            "slots": diff.slots.iter().map(slot).collect::<Value>(),
            "new_payload_bytes": diff.new_payload_bytes,
            "loss": diff.loss.map(|loss| json!({
                "before": loss.before(), "after": loss.after(),
                "before_bits": format!("{:016x}", loss.before_bits),
                "after_bits": format!("{:016x}", loss.after_bits),
                "tokens": loss.tokens, "window": arguments.window,
            })),
        }));
    }
    text(context, &chain, &diff)
}

/// What both lose on the text that was given, if one was.
fn measure(
    context: &Context<'_, '_>,
    arguments: &Diff,
    (chain, before, after): (&Chain, &Snapshot, &Snapshot),
) -> Result<Option<LossDiff>, CliError> {
    let Some(path) = &arguments.text else { return Ok(None) };
    let text = String::from_utf8(read_input(path, context.cancel)?)
        .map_err(|error| CliError::Content { path: path.clone(), reason: format!("no UTF-8: {error}") })?;
    let tokens = tokenize(chain, before, &text)?;
    let bar = Progress::new(context.streams.terminal);
    let show = |progress: EvaluateProgress| {
        bar.set(progress.tokens, progress.total_tokens, || {
            format!("{:.0} tokens/s", progress.tokens_per_second)
        });
    };
    let options = EvaluateOptions {
        window: arguments.window,
        cancel: Some(context.cancel),
        progress: Some(&show),
        ..EvaluateOptions::default()
    };
    Ok(Some(loss_diff(chain, before, after, &tokens, &options)?))
}

fn distance(distance: Option<&Distance>) -> Value {
    distance.map_or(
        Value::Null,
        |d| json!({"norm": d.norm, "relative_norm": d.relative_norm, "max_abs": d.max_abs}),
    )
}

fn tensor(tensor: &TensorDiff) -> Value {
    let side = |side: &Option<(blyan_core::DType, blyan_core::Shape)>| match side {
        Some((dtype, shape)) => json!({"dtype": dtype.name(), "shape": shape.dims()}),
        None => Value::Null,
    };
    json!({
        "name": tensor.name, "before": side(&tensor.before), "after": side(&tensor.after),
        "distance": distance(tensor.distance.as_ref()),
    })
}

fn slot(slot: &SlotDiff) -> Value {
    json!({
        "slot": slot.slot.to_string(),
        "before": slot.before.map(|pinned| pinned.block), "after": slot.after.map(|pinned| pinned.block),
        "before_bytes": slot.before.map(|pinned| pinned.len_bytes),
        "after_bytes": slot.after.map(|pinned| pinned.len_bytes),
        "same_payload": slot.same_payload,
        "tensors": slot.tensors.iter().map(tensor).collect::<Value>(),
    })
}

fn text(context: &mut Context<'_, '_>, chain: &Chain, diff: &SnapshotDiff) -> Result<(), CliError> {
    if diff.slots.is_empty() {
        context.streams.line("the same model")?;
    } else {
        slots(context, chain, diff)?;
    }
    let Some(loss) = &diff.loss else { return Ok(()) };
    let (before, after, tokens) = (loss.before(), loss.after(), loss.tokens);
    let change = 100.0 * (after - before) / before;
    context.streams.line(format!("loss on {tokens} tokens: {before:.4} -> {after:.4} ({change:+.2} %)"))
}

fn slots(context: &mut Context<'_, '_>, chain: &Chain, diff: &SnapshotDiff) -> Result<(), CliError> {
    let mut rows = Vec::new();
    for slot in &diff.slots {
        let side = |pinned: Option<blyan_core::manager::PinnedBlock>| match pinned {
            Some(pinned) => {
                let header = chain.get(&pinned.block)?.header().clone();
                Ok::<_, CliError>(format!("{} {}", pinned.block.short(), header.version))
            }
            None => Ok("-".to_owned()),
        };
        let (before, after) = (side(slot.before)?, side(slot.after)?);
        let what = if slot.same_payload { "same payload".to_owned() } else { String::new() };
        rows.push(vec![slot.slot.to_string(), before, after, what]);
        for tensor in &slot.tensors {
            let moved = match &tensor.distance {
                Some(Distance { relative_norm: Some(relative), max_abs, .. }) => {
                    format!("moved by {:.4} %, at most {max_abs:.3e}", 100.0 * relative)
                }
                Some(distance) => format!("moved by {:.3e}", distance.norm),
                None => "other shape".to_owned(),
            };
            rows.push(vec![format!("  {}", tensor.name), String::new(), String::new(), moved]);
        }
    }
    context.streams.print(&table(&["slot", "before", "after", ""], &rows, &[]))?;
    let new = bytes(diff.new_payload_bytes);
    context.streams.line(format!("{} slots differ, {new} of payloads are new", diff.slots.len()))
}
