//! Owns the tokenizer of a GGUF file, as the `tokenizer.json` that a checkpoint folder would have.
//!
//! `gpt2` is byte-level BPE: tokens and merges are in the file, how a text is split first is a name
//! ([`super::pre_tokenizer`]). `llama` is SentencePiece's BPE: pieces have scores instead of merges, from
//! which the merges follow as in transformers' converter.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::error::GgufError;
use super::metadata::Metadata;
use super::pre_tokenizer::{self, PreTokenizer};
use crate::format::TokenSpec;

/// Tokens that end a turn or a text in the published chat models of these architectures. Files of before
/// there was a key for it name them nowhere else.
const ENDS: [&str; 9] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<EOT>",
    "<｜end▁of▁sentence｜>",
];

/// Longest piece that is split in every way to find its merges; SentencePiece makes none over 16 letters
/// unless told to.
const MAX_PIECE_CHARS: usize = 512;

/// Most bytes of merges that scores may stand for, as many as a tokenizer.json may have when it is
/// opened. The 262,144 pieces of the largest published vocabularies make some 100 MB.
const MAX_MERGES_BYTES: usize = 256 << 20;

/// What counts for each merge besides its letters: it takes some memory until it is written.
const MERGE_BYTES: usize = 128;

/// What a token is, under SentencePiece's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// The tokens of a file.
pub(super) struct Vocabulary<'a> {
    tokens: &'a [String],
    kinds: Vec<Kind>,
    model: Model<'a>,
    pub(super) special: Special,
}

enum Model<'a> {
    Gpt2 { merges: Vec<(&'a str, &'a str)>, pre: PreTokenizer },
    SentencePiece { scores: Option<Vec<f64>>, merges: Vec<(&'a str, &'a str)>, add_space_prefix: bool },
}

/// Ids of the tokens that mean something, and which of them a text gets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Special {
    pub(super) bos: Option<u32>,
    /// The one that the file names; [`Self::ends`] has all.
    pub(super) eos: Option<u32>,
    /// Ascending.
    pub(super) ends: Vec<u32>,
    pub(super) unknown: Option<u32>,
    pub(super) pad: Option<u32>,
    pub(super) add_bos: bool,
    pub(super) add_eos: bool,
}

impl Special {
    pub(super) fn spec(&self) -> TokenSpec {
        TokenSpec { bos_token_id: self.bos, eos_token_ids: self.ends.clone(), pad_token_id: self.pad }
    }
}

fn error(reason: impl Into<String>) -> GgufError {
    GgufError::Tokenizer { reason: reason.into() }
}

/// A token cut to a length that fits an error message.
fn shortened(token: &str) -> String {
    format!("{:?}", token.chars().take(40).collect::<String>())
}

/// Keys that concern training, other programs, or tokens that only the caller would use.
const HARMLESS: &[&str] = &[
    "eos_token_id",
    "eot_token_id",
    "eom_token_id",
    "seperator_token_id",
    "mask_token_id",
    "cls_token_id",
    "fim_pre_token_id",
    "fim_suf_token_id",
    "fim_mid_token_id",
    "fim_pad_token_id",
    "fim_rep_token_id",
    "fim_sep_token_id",
    "prefix_token_id",
    "suffix_token_id",
    "middle_token_id",
    "token_type_count",
    "add_sep_token",
    "added_tokens",
];

/// Reads the keys of the tokenizer. A file may have none: then there are only ids.
pub(super) fn read<'a>(metadata: &Metadata<'a>) -> Result<(Option<Vocabulary<'a>>, TokenSpec), GgufError> {
    let key = |key: &str| format!("tokenizer.ggml.{key}");
    let model_key = key("model");
    let model = metadata.text(&model_key)?.filter(|model| !matches!(*model, "no_vocab" | "none"));
    let mut special = Special {
        bos: metadata.token(&key("bos_token_id"))?,
        eos: metadata.token(&key("eos_token_id"))?,
        ends: Vec::new(),
        unknown: metadata.token(&key("unknown_token_id"))?,
        pad: metadata.token(&key("padding_token_id"))?,
        add_bos: false,
        add_eos: metadata.flag(&key("add_eos_token"))?.unwrap_or(false),
    };
    let mut ends = vec![special.eos];
    for name in ["eot_token_id", "eom_token_id"] {
        ends.push(metadata.token(&key(name))?);
    }
    special.ends = ends.into_iter().flatten().collect();
    if let Some(value) = metadata.get(&key("add_sep_token"))
        && metadata.flag(&key("add_sep_token"))? == Some(true)
    {
        return Err(metadata.unsupported(&key("add_sep_token"), value, "expected false"));
    }
    for name in HARMLESS {
        metadata.skip(&key(name));
    }
    // The published file, which not all writers keep; the keys say the same.
    metadata.skip("tokenizer.huggingface.json");
    let vocabulary = match model {
        None => {
            // Tokens of an unknown kind are no reason to import a model that understands no text.
            let absent = metadata.get(&model_key).is_none();
            if absent && metadata.get(&key("tokens")).is_some() {
                return Err(metadata.missing(&model_key));
            }
            for name in metadata.keys("tokenizer.ggml.") {
                metadata.skip(name);
            }
            None
        }
        Some(model) => Some(Vocabulary::read(metadata, model, &mut special)?),
    };
    metadata.refuse_unknown("tokenizer.ggml.")?;
    special.ends.sort_unstable();
    special.ends.dedup();
    let spec = special.spec();
    Ok((vocabulary.map(|vocabulary| Vocabulary { special, ..vocabulary }), spec))
}

/// Refuses tokens that a file without a tokenizer names beyond the rows of its embedding; with a tokenizer
/// they are looked up in it.
pub(super) fn check_ids(metadata: &Metadata<'_>, vocab_size: usize) -> Result<(), GgufError> {
    for name in ["bos_token_id", "eos_token_id", "eot_token_id", "eom_token_id"] {
        let key = format!("tokenizer.ggml.{name}");
        if let Some(id) = metadata.token(&key)?.filter(|&id| id as usize >= vocab_size) {
            let expected = format!("one of the {vocab_size} tokens");
            return Err(GgufError::InvalidValue { key, value: id.to_string(), expected });
        }
    }
    Ok(())
}

impl<'a> Vocabulary<'a> {
    fn read(metadata: &Metadata<'a>, model: &str, special: &mut Special) -> Result<Self, GgufError> {
        let key = |key: &str| format!("tokenizer.ggml.{key}");
        let sentence_piece = match model {
            "gpt2" => false,
            "llama" => true,
            _ => {
                let value = super::header::Value::Text(model.to_owned());
                return Err(metadata.unsupported(&key("model"), &value, "expected gpt2 or llama"));
            }
        };
        let tokens = metadata.texts(&key("tokens"))?.ok_or_else(|| metadata.missing(&key("tokens")))?;
        let mut ids = BTreeMap::new();
        for (id, token) in (0u32..).zip(tokens) {
            if token.is_empty() {
                return Err(error(format!("token {id} is empty")));
            }
            if let Some(other) = ids.insert(token.as_str(), id) {
                return Err(error(format!("tokens {other} and {id} are both {}", shortened(token))));
            }
        }
        let mut kinds = kinds(metadata, tokens.len())?;
        let merges = match metadata.texts(&key("merges"))? {
            Some(merges) => merges.iter().map(|merge| parts(merge, &ids)).collect::<Result<_, _>>()?,
            None if sentence_piece => Vec::new(),
            None => return Err(metadata.missing(&key("merges"))),
        };
        let pre_key = key("pre");
        let pre = metadata.text(&pre_key)?;
        let prefix_key = key("add_space_prefix");
        let add_space_prefix = metadata.flag(&prefix_key)?;
        for name in ["remove_extra_whitespaces", "precompiled_charsmap", "suppress_tokens"] {
            if let Some(value) = metadata.get(&key(name))
                && *value != super::header::Value::Bool(false)
            {
                return Err(metadata.unsupported(&key(name), value, "tokenizers of these models have none"));
            }
        }
        let model = if sentence_piece {
            special.bos = special.bos.or(Some(1));
            special.eos = special.eos.or(Some(2));
            special.unknown = special.unknown.or(Some(0));
            special.ends.extend(special.eos);
            special.add_bos = metadata.flag(&key("add_bos_token"))?.unwrap_or(true);
            let scores = metadata.numbers(&key("scores"))?;
            if scores.as_ref().is_some_and(|scores| scores.len() != tokens.len()) {
                return Err(error(format!("{} tokens have another number of scores", tokens.len())));
            }
            if scores.is_none() && merges.is_empty() {
                return Err(metadata.missing(&key("scores")));
            }
            Model::SentencePiece { scores, merges, add_space_prefix: add_space_prefix.unwrap_or(true) }
        } else {
            metadata.skip(&key("scores"));
            if let (Some(true), Some(value)) = (add_space_prefix, metadata.get(&prefix_key)) {
                let reason = "readers disagree on what it means for byte-level tokens";
                return Err(metadata.unsupported(&prefix_key, value, reason));
            }
            let Some(pre) = pre_tokenizer::named(pre) else {
                let value = super::header::Value::Text(pre.unwrap_or_default().to_owned());
                let reason = "this pre-tokenizer is not known, so the tokens of a text are not either";
                return Err(metadata.unsupported(&pre_key, &value, reason));
            };
            special.add_bos = metadata.flag(&key("add_bos_token"))?.unwrap_or(pre.add_bos);
            Model::Gpt2 { merges, pre }
        };
        for (name, id) in [("bos", special.bos), ("eos", special.eos), ("unknown", special.unknown)] {
            if let Some(id) = id.filter(|&id| id as usize >= tokens.len()) {
                return Err(error(format!("{name}_token_id {id} is beyond the {} tokens", tokens.len())));
            }
        }
        for id in ENDS.iter().filter_map(|end| ids.get(end)) {
            // Some converters call all added tokens defined by the user. llama.cpp goes by these names, too.
            if let Some(kind @ (Kind::Normal | Kind::UserDefined | Kind::Control)) =
                kinds.get_mut(*id as usize)
            {
                *kind = Kind::Control;
                special.ends.push(*id);
            }
        }
        Ok(Self { tokens, kinds, model, special: Special::default() })
    }

    /// The text of a token.
    pub(super) fn token(&self, id: Option<u32>) -> Option<&'a str> {
        self.tokens.get(usize::try_from(id?).ok()?).map(String::as_str)
    }

    fn kind(&self, id: usize) -> Kind {
        self.kinds.get(id).copied().unwrap_or(Kind::Normal)
    }

    /// The bytes of `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// [`GgufError::Tokenizer`] if scores stand for more merges than any tokenizer has.
    pub(super) fn to_json(&self) -> Result<Vec<u8>, GgufError> {
        let added: Vec<Json> =
            (0..).zip(self.tokens).filter_map(|(id, token)| self.added(id, token)).collect();
        let vocab = (0..).zip(self.tokens).filter(|(id, token)| !self.is_padding(*id, token));
        let vocab: Map<String, Json> = vocab.map(|(id, token)| (token.clone(), id.into())).collect();
        let pairs = |merges: &[(&str, &str)]| merges.iter().map(|(a, b)| json!([a, b])).collect::<Vec<_>>();
        let (merges, ignore_merges) = match &self.model {
            Model::Gpt2 { merges, pre } => (pairs(merges), pre.ignore_merges),
            Model::SentencePiece { scores: Some(scores), merges, .. } if merges.is_empty() => {
                (pairs(&self.merges_of_scores(scores)?), false)
            }
            Model::SentencePiece { merges, .. } => (pairs(merges), false),
        };
        let bytes = matches!(self.model, Model::SentencePiece { .. });
        let byte_level = json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
        });
        let (normalizer, pre_tokenizer, decoder) = match &self.model {
            Model::Gpt2 { pre, .. } => (pre.normalizer(), pre.pre_tokenizer(), byte_level),
            Model::SentencePiece { add_space_prefix, .. } => {
                let (normalizer, decoder) = sentence_piece_steps(*add_space_prefix);
                (normalizer, Json::Null, decoder)
            }
        };
        // The unknown token of a byte-level vocabulary is never needed.
        let unknown = if bytes { self.token(self.special.unknown) } else { None };
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": self.post_processor(),
            "decoder": decoder,
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": unknown,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": bytes,
                "byte_fallback": bytes && self.kinds.contains(&Kind::Byte),
                "ignore_merges": ignore_merges,
                "vocab": vocab,
                "merges": merges,
            },
        });
        Ok(tokenizer.to_string().into_bytes())
    }

    /// Tokens that are found in a text before anything else is done to it.
    fn added(&self, id: usize, token: &str) -> Option<Json> {
        let special = match self.kind(id) {
            Kind::Control | Kind::Unknown => true,
            Kind::UserDefined => false,
            Kind::Normal | Kind::Unused | Kind::Byte => return None,
        };
        Some(json!({
            "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special,
        }))
    }

    /// Names that converters make up for rows that no token has. The published tokenizer lacks them.
    fn is_padding(&self, id: usize, token: &str) -> bool {
        self.kind(id) == Kind::Unused && token == format!("[PAD{id}]")
    }

    /// What a text starts and ends with.
    fn post_processor(&self) -> Json {
        let bos = self.special.bos.filter(|_| self.special.add_bos);
        let eos = self.special.eos.filter(|_| self.special.add_eos);
        let named = |id: Option<u32>| self.token(id).zip(id);
        let mut special_tokens = Map::new();
        for (token, id) in [named(bos), named(eos)].into_iter().flatten() {
            special_tokens.insert(token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]}));
        }
        if special_tokens.is_empty() {
            return Json::Null;
        }
        let sequence = |name: &str, type_id: u32| {
            let special =
                |id| named(id).map(|(token, _)| json!({"SpecialToken": {"id": token, "type_id": type_id}}));
            let text = json!({"Sequence": {"id": name, "type_id": type_id}});
            [special(bos), Some(text), special(eos)].into_iter().flatten().collect::<Vec<_>>()
        };
        let pair = [sequence("A", 0), sequence("B", 1)].concat();
        json!({
            "type": "TemplateProcessing", "single": sequence("A", 0), "pair": pair,
            "special_tokens": special_tokens,
        })
    }

    /// The merges that scores stand for: every way to put a piece together from two others, the best
    /// piece first; of one piece, and of pieces with equal scores, the longest left part first, then the
    /// longest right part. What SentencePiece never makes of text takes no part.
    fn merges_of_scores(&self, scores: &[f64]) -> Result<Vec<(&'a str, &'a str)>, GgufError> {
        let made = |id: &usize| matches!(self.kind(*id), Kind::Normal | Kind::Unused);
        let ids: BTreeMap<&str, usize> = self
            .tokens
            .iter()
            .enumerate()
            .filter(|(id, _)| made(id))
            .map(|(id, t)| (t.as_str(), id))
            .collect();
        let mut merges = Vec::new();
        let mut len_bytes = 0_usize;
        for (id, token) in self.tokens.iter().enumerate().filter(|(id, _)| made(id)) {
            let chars = token.chars().count();
            if chars > MAX_PIECE_CHARS {
                continue;
            }
            let mut ways = Vec::new();
            for (left_chars, (at, _)) in token.char_indices().enumerate().skip(1) {
                let (left, right) = token.split_at(at);
                if let (Some(left_id), Some(right_id)) = (ids.get(left), ids.get(right)) {
                    ways.push((*left_id, *right_id, left_chars, (left, right)));
                }
            }
            // A piece can be as many merges as it has letters: a small file would fill the memory.
            len_bytes = len_bytes.saturating_add(ways.len().saturating_mul(token.len() + MERGE_BYTES));
            if len_bytes > MAX_MERGES_BYTES {
                let reason = format!(
                    "the scores stand for more than {MAX_MERGES_BYTES} bytes of merges: no tokenizer has as many"
                );
                return Err(error(reason));
            }
            ways.sort_by_key(|&(left, right, ..)| (left, right));
            let score = scores.get(id).copied().unwrap_or_default();
            merges.extend(ways.into_iter().map(|(_, _, left, pair)| (score, left, chars - left, pair)));
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(b.2.cmp(&a.2)));
        Ok(merges.into_iter().map(|(.., pair)| pair).collect())
    }
}

/// Normalizer and decoder of a SentencePiece tokenizer: spaces are written as U+2581, also before
/// each text unless the file says otherwise.
fn sentence_piece_steps(add_space_prefix: bool) -> (Json, Json) {
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let mut normalizers = vec![replace];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if add_space_prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "\u{2581}"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    (
        json!({"type": "Sequence", "normalizers": normalizers}),
        json!({"type": "Sequence", "decoders": decoders}),
    )
}

fn kinds(metadata: &Metadata<'_>, tokens: usize) -> Result<Vec<Kind>, GgufError> {
    let key = "tokenizer.ggml.token_type";
    let Some(numbers) = metadata.integers(key)? else { return Ok(vec![Kind::Normal; tokens]) };
    if numbers.len() != tokens {
        return Err(error(format!("{tokens} tokens have {} types", numbers.len())));
    }
    let kind = |number: &i64| match number {
        2 => Kind::Unknown,
        3 => Kind::Control,
        4 => Kind::UserDefined,
        5 => Kind::Unused,
        6 => Kind::Byte,
        // 0 stands for undefined.
        _ => Kind::Normal,
    };
    Ok(numbers.iter().map(kind).collect())
}

/// The two tokens of a merge. The first may start with a space but has none else.
fn parts<'a>(merge: &'a str, ids: &BTreeMap<&str, u32>) -> Result<(&'a str, &'a str), GgufError> {
    let first = merge.chars().next().map_or(0, char::len_utf8);
    let space = merge.get(first..).and_then(|rest| rest.find(' ')).map(|at| at + first);
    let parts = space.and_then(|at| Some((merge.get(..at)?, merge.get(at + 1..)?)));
    let known = parts.filter(|(a, b)| {
        [a, b].iter().all(|part| ids.contains_key(**part)) && ids.contains_key(format!("{a}{b}").as_str())
    });
    known.ok_or_else(|| error(format!("merge {} does not make a token of two", shortened(merge))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every a…ab…b with up to `side` of each letter.
    fn tokens(side: usize) -> Vec<String> {
        let row = |a: usize| (0..=side).map(move |b| "a".repeat(a) + &"b".repeat(b));
        (0..=side).flat_map(row).filter(|token| !token.is_empty()).collect()
    }

    fn to_json(tokens: &[String]) -> Result<Vec<u8>, GgufError> {
        let scores = Some(vec![0.0; tokens.len()]);
        let vocabulary = Vocabulary {
            tokens,
            kinds: vec![Kind::Normal; tokens.len()],
            model: Model::SentencePiece { scores, merges: Vec::new(), add_space_prefix: true },
            special: Special::default(),
        };
        vocabulary.to_json()
    }

    /// A file of tens of megabytes made tens of gigabytes of merges.
    #[test]
    fn scores_that_stand_for_too_many_merges_are_refused() {
        let small: Json = serde_json::from_slice(&to_json(&tokens(1)).unwrap()).unwrap();
        assert_eq!(small["model"]["merges"], json!([["a", "b"]]));
        assert!(matches!(to_json(&tokens(128)), Err(GgufError::Tokenizer { .. })));
    }
}
