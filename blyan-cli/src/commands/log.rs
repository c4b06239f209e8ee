//! `blyan log`.

use blyan_core::{Block, BlockHash, BlockKind, Chain, ChainError, ParentRole, Slot};
use serde_json::{Value, json};

use super::{Context, bytes};
use crate::arguments::Log;
use crate::error::CliError;
use crate::names;
use crate::output::table;

pub(super) fn run(context: &mut Context<'_, '_>, arguments: &Log) -> Result<(), CliError> {
    let chain = names::open(context.chain)?;
    let kind = arguments.kind.as_deref().map(kind).transpose()?;
    let max = arguments.max.unwrap_or(usize::MAX);
    let wanted = |block: &Block| {
        arguments.lane.is_none_or(|lane| block.header().lane == lane)
            && kind.is_none_or(|kind| block.header().kind == kind)
    };
    let blocks: Vec<Block> = match arguments.name.as_deref() {
        None => collect(chain.topological_order(), wanted, max)?,
        Some(name) => match name.parse::<Slot>() {
            Ok(slot) => {
                let all = chain.blocks_of_kind(slot.kind());
                collect(all, |block| block.header().name == name && wanted(block), max)?
            }
            Err(_) => {
                let blocks = history(&chain, names::block(&chain, name, None)?)?;
                blocks.into_iter().filter(wanted).take(max).collect()
            }
        },
    };
    if context.json {
        let blocks: Vec<Value> = blocks.iter().map(summary).collect();
        return context.streams.json(&json!({ "blocks": blocks }));
    }
    if blocks.is_empty() {
        return context.streams.line("no blocks");
    }
    let row = |block: &Block| {
        let header = block.header();
        vec![
            block.hash().short(),
            header.lane.to_string(),
            header.kind.to_string(),
            header.name.clone(),
            header.version.to_string(),
            block.height().to_string(),
            bytes(header.payload.len_bytes),
        ]
    };
    let rows: Vec<Vec<String>> = blocks.iter().map(row).collect();
    let head = ["hash", "lane", "kind", "name", "version", "height", "payload"];
    context.streams.print(&table(&head, &rows, &[5, 6]))
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

/// A block and those that it followed, the newest first.
fn history(chain: &Chain, newest: BlockHash) -> Result<Vec<Block>, ChainError> {
    let mut blocks = Vec::new();
    let mut next = Some(newest);
    while let Some(hash) = next {
        let block = chain.get(&hash)?;
        let parents = block.header().parents.iter();
        next = parents.clone().find(|p| p.role == ParentRole::Predecessor).map(|parent| parent.hash);
        blocks.push(block);
    }
    Ok(blocks)
}

/// A block in one object.
pub(super) fn summary(block: &Block) -> Value {
    let header = block.header();
    json!({
        "hash": block.hash(), "lane": header.lane.to_string(), "kind": header.kind.to_string(),
        "name": header.name, "version": header.version.to_string(), "height": block.height(),
        "parents": header.parents.len(), "payload": header.payload.hash,
        "payload_bytes": header.payload.len_bytes,
    })
}
