//! Owns the pre-tokenizers that `tokenizer.ggml.pre` names: how a text is split before byte-level merges
//! work on its parts. A name stands for a published tokenizer; what is here is that tokenizer's own
//! `tokenizer.json`, so that token ids equal its.

use serde_json::{Value, json};

/// What a name of `tokenizer.ggml.pre` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PreTokenizer {
    splits: &'static [Split],
    /// Whether composed and decomposed letters are the same.
    nfc: bool,
    /// Whether a part that is a token as a whole is taken without merging.
    pub(super) ignore_merges: bool,
    /// Whether a text starts with BOS where the file does not say.
    pub(super) add_bos: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Split {
    /// Matches of an expression are parts of their own.
    Matches(&'static str),
    /// Each digit is a part of its own.
    Digits,
    /// GPT-2's expression.
    Gpt2,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const GPT2: PreTokenizer =
    PreTokenizer { splits: &[Split::Gpt2], nfc: false, ignore_merges: false, add_bos: false };

/// The pre-tokenizer of this name; `None` is llama.cpp's for files that name none.
pub(super) fn named(name: Option<&str>) -> Option<PreTokenizer> {
    Some(match name.unwrap_or("default") {
        "gpt-2" | "phi-2" | "gigachat" | "a.x-4.0" | "mellum" => GPT2,
        "olmo" => PreTokenizer { nfc: true, ..GPT2 },
        "smollm" | "starcoder" | "refact" | "codeshell" | "exaone" | "minerva-7b" => {
            PreTokenizer { splits: &[Split::Digits, Split::Gpt2], ..GPT2 }
        }
        // Cohere's composes letters first.
        "command-r" => PreTokenizer { splits: &[Split::Digits, Split::Gpt2], nfc: true, ..GPT2 },
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2" => {
            PreTokenizer { splits: &[Split::Matches(LLAMA3)], ignore_merges: true, add_bos: true, ..GPT2 }
        }
        "dbrx" | "smaug-bpe" => PreTokenizer { splits: &[Split::Matches(LLAMA3)], ..GPT2 },
        "qwen2" | "megrez" | "kormo" => PreTokenizer { splits: &[Split::Matches(QWEN2)], nfc: true, ..GPT2 },
        "deepseek-r1-qwen" => PreTokenizer { splits: &[Split::Matches(QWEN2)], ..GPT2 },
        "tekken" => {
            PreTokenizer { splits: &[Split::Matches(TEKKEN)], ignore_merges: true, add_bos: true, ..GPT2 }
        }
        "deepseek-coder" => PreTokenizer {
            splits: &[
                Split::Matches(r"[\r\n]"),
                Split::Matches(r"\s?\p{L}+"),
                Split::Matches(r"\s?\p{P}+"),
                Split::Matches("[一-龥ࠀ-一가-\u{d7ff}]+"),
                Split::Digits,
            ],
            ..GPT2
        },
        "default" => PreTokenizer {
            splits: &[
                Split::Matches(r"[\p{P}\$\+<=>\^~\|]+"),
                Split::Matches(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"),
                Split::Matches(r"\p{N}+"),
                Split::Matches("[0-9][0-9][0-9]"),
            ],
            ..GPT2
        },
        _ => return None,
    })
}

impl PreTokenizer {
    /// `normalizer` of tokenizer.json.
    pub(super) fn normalizer(&self) -> Value {
        if self.nfc { json!({"type": "NFC"}) } else { Value::Null }
    }

    /// `pre_tokenizer` of tokenizer.json. Bytes become letters in its last step.
    pub(super) fn pre_tokenizer(&self) -> Value {
        let gpt2 = self.splits.last() == Some(&Split::Gpt2);
        let byte_level = json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": gpt2,
        });
        let splits = self.splits.iter().filter_map(|split| match split {
            Split::Matches(regex) => Some(json!({
                "type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false,
            })),
            Split::Digits => Some(json!({"type": "Digits", "individual_digits": true})),
            Split::Gpt2 => None,
        });
        json!({"type": "Sequence", "pretokenizers": splits.chain([byte_level]).collect::<Vec<_>>()})
    }
}
