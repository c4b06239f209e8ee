//! `blyan show`.

use blyan_core::{Block, BlockKind, Chain, Manifest, TensorBlock};
use serde_json::{Map, Value, json};

use super::{Context, bytes};
use crate::arguments::Show;
use crate::error::CliError;
use crate::names;
use crate::output::table;

pub(super) fn run(context: &mut Context<'_, '_>, arguments: &Show) -> Result<(), CliError> {
    let of = arguments.model.name.as_deref();
    names::check_of(&[&arguments.name], of)?;
    let chain = names::open(context.chain)?;
    let hash = names::block(&chain, &arguments.name, of)?;
    let block = chain.get(&hash)?;
    let document = document(&chain, &block)?;
    if context.json {
        return context.streams.json(&document);
    }
    let text = text(&chain, &block, &document)?;
    context.streams.print(&text)
}

/// All that is known of a block. Tensors are read, so the payload was verified.
fn document(chain: &Chain, block: &Block) -> Result<Map<String, Value>, CliError> {
    let header = block.header();
    let hash = block.hash();
    let parents = header.parents.iter().map(|parent| json!({"hash": parent.hash, "role": parent.role}));
    let signatures = chain.signatures(&hash)?.into_iter().map(|record| {
        json!({
            "public_key": hex(&record.public_key), "time_ms": record.time_ms,
            "signature": hex(&record.signature), "valid": record.verifies(&hash),
        })
    });
    let mut document = Map::new();
    let mut set = |key: &str, value: Value| document.insert(key.to_owned(), value);
    set("hash", json!(hash));
    set("lane", header.lane.to_string().into());
    set("kind", header.kind.to_string().into());
    set("name", header.name.clone().into());
    set("version", header.version.to_string().into());
    set("height", block.height().into());
    set("parents", parents.collect());
    set("children", json!(chain.children(&hash)?));
    set("signatures", signatures.collect());
    let payload = &header.payload;
    set(
        "payload",
        json!({"hash": payload.hash, "len_bytes": payload.len_bytes, "media_type": payload.media_type}),
    );
    match header.kind {
        kind if kind.is_weights() => {
            let tensors = TensorBlock::open(chain, &hash)?;
            let tensors = tensors.tensors().map(|(name, view)| {
                let (dtype, shape) = (view.dtype().name(), view.shape().dims());
                json!({"name": name, "dtype": dtype, "shape": shape, "bytes": view.data().len()})
            });
            set("tensors", tensors.collect());
        }
        BlockKind::MODEL => {
            let manifest = Manifest::from_canonical_json(&chain.payload(&hash)?);
            let manifest = manifest.map_err(blyan_core::manager::ManagerError::from)?;
            let slots = manifest.slots.iter().map(|(slot, block)| (slot.to_string(), json!(block)));
            set("root", json!(manifest.root()));
            set("spec", json!(manifest.spec));
            set("slots", Value::Object(slots.collect()));
        }
        BlockKind::SPEC | BlockKind::RELEASE => {
            // The chain accepts only JSON there.
            let content = serde_json::from_slice(&chain.payload(&hash)?).unwrap_or_default();
            set("content", content);
        }
        _ => {}
    }
    Ok(document)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The same for people.
fn text(chain: &Chain, block: &Block, document: &Map<String, Value>) -> Result<String, CliError> {
    let header = block.header();
    let mut text = format!("block    {}\n", block.hash());
    let lane = format!("{} in lane {}, height {}", header.kind, header.lane, block.height());
    text.push_str(&format!("{:<8} {} {}\n{:<8} {lane}\n", "name", header.name, header.version, "kind"));
    let payload = &header.payload;
    text.push_str(&format!("payload  {}\n", payload.hash));
    text.push_str(&format!("         {}, {}\n", bytes(payload.len_bytes), payload.media_type));
    let list = |key: &str| document.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let word = |value: &Value, key: &str| match value.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    };
    for signature in list("signatures") {
        let valid = if signature.get("valid") == Some(&Value::Bool(true)) { "valid" } else { "NOT VALID" };
        let (key, time) = (word(&signature, "public_key"), word(&signature, "time_ms"));
        text.push_str(&format!("signed   by {key} at {time} ms, {valid}\n"));
    }
    let tensors = list("tensors");
    if !tensors.is_empty() {
        let row = |tensor: &Value| {
            let size = tensor.get("bytes").and_then(Value::as_u64).unwrap_or_default();
            vec![word(tensor, "name"), word(tensor, "dtype"), word(tensor, "shape"), bytes(size)]
        };
        let rows: Vec<Vec<String>> = tensors.iter().map(row).collect();
        text.push('\n');
        text.push_str(&table(&["tensor", "dtype", "shape", "size"], &rows, &[3]));
    }
    if let Some(slots) = document.get("slots").and_then(Value::as_object) {
        let row =
            |(slot, block): (&String, &Value)| vec![slot.clone(), block.as_str().unwrap_or("").to_owned()];
        let rows: Vec<Vec<String>> = slots.iter().map(row).collect();
        text.push('\n');
        text.push_str(&table(&["slot", "block"], &rows, &[]));
    } else if !header.parents.is_empty() {
        let mut rows = Vec::new();
        for parent in &header.parents {
            let header = chain.get(&parent.hash)?.header().clone();
            let role = format!("{:?}", parent.role).to_lowercase();
            rows.push(vec![role, header.kind.to_string(), header.name, parent.hash.to_string()]);
        }
        text.push('\n');
        text.push_str(&table(&["parent", "kind", "name", "block"], &rows, &[]));
    }
    if let Some(content) = document.get("content") {
        text.push_str(&format!("\n{content:#}\n"));
    }
    Ok(text)
}
