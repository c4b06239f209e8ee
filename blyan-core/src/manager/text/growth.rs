//! Owns the bound on what a tokenizer makes of a text: a short file could ask for any amount of memory.

use serde_json::Value;

use super::pattern::Steps;

/// Most that the steps before the model, or those after it, may multiply the length of a text by. Byte-level
/// tokenizers need 4, those of SentencePiece up to some 500.
const MAX_GROWTH: f64 = 2048.0;

/// Most bytes that added tokens may become, which the steps rewrite when a file is read.
const MAX_ADDED_BYTES: f64 = (16 << 20) as f64;

/// Most times that a text may be repeated between special tokens; once is usual.
const MAX_COPIES: usize = 16;

/// Most tokens that are added to a text; one or two are usual.
pub(super) const MAX_ADDED_TOKENS: usize = 1024;

/// Fields of the steps that put spaces between characters or before a text: of BERT's normalizer, and of the decoders
/// for BPE, CTC and WordPiece. They need not name their type.
const SPACING: [&str; 4] = ["handle_chinese_chars", "suffix", "word_delimiter_token", "prefix"];

/// Refuses steps that can make a text longer without bound.
pub(super) fn check(steps: &Steps) -> Result<(), String> {
    let normalizer = growth(&steps.normalizer);
    let longest = f64::max(normalizer * growth(&steps.pre_tokenizer), growth(&steps.decoder));
    if longest > MAX_GROWTH {
        return Err(format!("its steps can make a text over {MAX_GROWTH} times as long"));
    }
    let rewritten = |token: &&Value| token.get("normalized").and_then(Value::as_bool).unwrap_or(true);
    let added = steps.added_tokens.as_array().into_iter().flatten().filter(rewritten);
    let contents = added.filter_map(|token| token.get("content")?.as_str());
    if normalizer > 1.0 && normalizer * contents.map(str::len).sum::<usize>() as f64 > MAX_ADDED_BYTES {
        return Err(format!("its added tokens can become over {MAX_ADDED_BYTES} bytes"));
    }
    if copies(&steps.post_processor) > MAX_COPIES {
        return Err(format!("its post_processor repeats a text over {MAX_COPIES} times"));
    }
    Ok(())
}

/// By how much steps, one after the other, can lengthen a text.
fn growth(step: &Value) -> f64 {
    let fields = match step {
        Value::Array(steps) => return steps.iter().map(growth).product(),
        Value::Object(fields) => fields,
        _ => return 1.0,
    };
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    if let (Some(pattern), Some(content)) = (fields.get("pattern"), text("content")) {
        return match pattern.get("String").and_then(Value::as_str).map(str::len) {
            Some(len) if len > 0 => (content.len() as f64 / len as f64).max(1.0),
            // An expression may match nothing, between any two characters.
            _ => 1.0 + content.len() as f64,
        };
    }
    if let Some(prepended) = text("prepend") {
        return 1.0 + prepended.len() as f64;
    }
    if let Some(charsmap) = text("precompiled_charsmap") {
        return longest_replacement(&base64(charsmap)) as f64;
    }
    match text("type") {
        // A byte becomes a character of two, a space one of four, and another may come before it.
        Some("ByteLevel" | "Metaspace") => 4.0,
        _ if SPACING.iter().any(|name| fields.contains_key(*name)) => 2.0,
        _ => fields.values().map(growth).product(),
    }
}

/// Most bytes that SentencePiece's table can put in the place of a character: the length of a trie, the trie, and
/// texts that end with a NUL. A table that is too short for its trie is refused by any number.
fn longest_replacement(table: &[u8]) -> usize {
    let texts = table.split_first_chunk::<4>().and_then(|(len, rest)| {
        let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
        rest.get(len / 4 * 4..)
    });
    texts
        .map_or(usize::MAX, |texts| texts.split(|&byte| byte == 0).map(<[u8]>::len).max().unwrap_or(0).max(1))
}

/// The bytes that a text in base64 stands for; of another text any.
fn base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0_u32);
    for byte in text.bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = (bits << 6) | u32::from(digit);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}

/// How often a post-processor has a text in its output.
fn copies(step: &Value) -> usize {
    match step {
        Value::Array(steps) => steps.iter().map(copies).fold(1, usize::saturating_mul),
        Value::Object(fields) => {
            let pieces = fields.get("single").and_then(Value::as_array).into_iter().flatten();
            let own = pieces.filter(|piece| piece.get("Sequence").is_some()).count().max(1);
            fields.values().map(copies).fold(own, usize::saturating_mul)
        }
        _ => 1,
    }
}
