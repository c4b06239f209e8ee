//! `blyan log`.

use blyan_core::manager::{self, Snapshot};
use blyan_core::{Block, BlockKind, Chain, ChainError, ChainId, ParentRole, Slot};
use serde_json::{Value, json};

use super::{Context, bytes};
use crate::arguments::Log;
use crate::error::CliError;
use crate::names;
use crate::output::table;

pub(super) fn run(context: &mut Context<'_, '_>, arguments: &Log) -> Result<(), CliError> {
    let kind = arguments.kind.as_deref().map(kind).transpose()?;
    let slot = arguments.name.as_deref().and_then(|name| name.parse::<Slot>().ok());
    if let (true, Some(name), None) = (arguments.all, &arguments.name, slot) {
        return Err(CliError::Usage(format!("error: --all is for a slot, and {name:?} is none")));
    }
    let chain = names::open(context.chain)?;
    let max = arguments.max.unwrap_or(usize::MAX);
    let wanted = |block: &Block| {
        arguments.lane.is_none_or(|lane| block.header().lane == lane)
            && kind.is_none_or(|kind| block.header().kind == kind)
    };
    let blocks: Vec<Block> = match (arguments.name.as_deref(), slot) {
        (None, _) if arguments.tips => {
            let tips = tips(&chain)?;
            tips.into_iter().filter(wanted).take(max).collect()
        }
        (None, _) => collect(chain.topological_order(), wanted, max)?,
        (Some(name), Some(slot)) if arguments.all => {
            let all = chain.blocks_of_kind(slot.kind());
            collect(all, |block| block.header().name == name && wanted(block), max)?
        }
        (Some(name), _) => {
            let newest = names::block(&chain, name, arguments.model.name.as_deref())?;
            manager::lineage(&chain, &newest)?.into_iter().filter(wanted).take(max).collect()
        }
    };
    if context.json {
        let blocks: Vec<Value> =
            blocks.iter().map(|block| entry(&chain, block)).collect::<Result<_, CliError>>()?;
        return context.streams.json(&json!({ "blocks": blocks }));
    }
    if blocks.is_empty() {
        return context.streams.line("no blocks");
    }
    let models =
        blocks.iter().any(|block| block.header().kind == BlockKind::MODEL) && arguments.name.is_some();
    let mut rows = Vec::new();
    for block in &blocks {
        let header = block.header();
        let mut row = vec![
            block.hash().short(),
            header.lane.to_string(),
            header.kind.to_string(),
            header.name.clone(),
            header.version.to_string(),
            block.height().to_string(),
            bytes(header.payload.len_bytes),
        ];
        if models {
            let changed = changed(&chain, block)?;
            row.push(changed.map_or_else(|| "-".to_owned(), |changed| few(&changed)));
        }
        rows.push(row);
    }
    let head = ["hash", "lane", "kind", "name", "version", "height", "payload", "changed"];
    let head = if models { &head[..] } else { head.split_last().map_or(&[][..], |(_, head)| head) };
    context.streams.print(&table(head, &rows, &[5, 6]))
}

fn kind(name: &str) -> Result<BlockKind, CliError> {
    let kind = BlockKind::from_name(name);
    kind.ok_or_else(|| CliError::Usage(format!("error: there is no kind of block called {name:?}")))
}

fn collect(
    blocks: impl Iterator<Item = Result<Block, ChainError>>,
    wanted: impl Fn(&Block) -> bool,
    max: usize,
) -> Result<Vec<Block>, ChainError> {
    let wanted = |block: &Result<Block, ChainError>| block.as_ref().map_or(true, &wanted);
    blocks.filter(wanted).take(max).collect()
}

fn tips(chain: &Chain) -> Result<Vec<Block>, ChainError> {
    let mut tips = Vec::new();
    for lane in ChainId::ALL {
        for tip in chain.tips(lane)? {
            tips.push(chain.get(&tip)?);
        }
    }
    Ok(tips)
}

/// The slots in which a model differs from the one that it follows, if it follows one.
fn changed(chain: &Chain, block: &Block) -> Result<Option<Vec<String>>, CliError> {
    let mut parents = block.header().parents.iter();
    let before = parents.find(|parent| parent.role == ParentRole::Predecessor);
    let Some(before) = before.filter(|_| block.header().kind == BlockKind::MODEL) else { return Ok(None) };
    let before = Snapshot::of_model(chain, &before.hash)?;
    let changes = before.diff(&Snapshot::of_model(chain, &block.hash())?);
    Ok(Some(changes.iter().map(|change| change.slot.to_string()).collect()))
}

/// A list cut to what a line holds.
fn few(slots: &[String]) -> String {
    match slots {
        [a, b, c, rest @ ..] if !rest.is_empty() => format!("{a}, {b}, {c} and {} more", rest.len()),
        all => all.join(", "),
    }
}

fn entry(chain: &Chain, block: &Block) -> Result<Value, CliError> {
    let mut entry = summary(block);
    if let (Some(changed), Some(entry)) = (changed(chain, block)?, entry.as_object_mut()) {
        entry.insert("changed".to_owned(), json!(changed));
    }
    Ok(entry)
}

/// A block in one object.
fn summary(block: &Block) -> Value {
    let header = block.header();
    json!({
        "hash": block.hash(), "lane": header.lane.to_string(), "kind": header.kind.to_string(),
        "name": header.name, "version": header.version.to_string(), "height": block.height(),
        "parents": header.parents.len(), "payload": header.payload.hash,
        "payload_bytes": header.payload.len_bytes,
    })
}
