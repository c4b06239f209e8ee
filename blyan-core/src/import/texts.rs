//! Owns the texts of a checkpoint: tokenizer, templates and generation defaults, kept byte for byte but for a
//! tokenizer that lacks tokens.

use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::added_tokens::{self, Beside};
use super::error::ImportError;
use super::folder::Folder;
use super::json;
use crate::chat::ChatTemplates;
use crate::format::Slot;

/// Longest config.json, and longest text of those that are small.
pub(super) const MAX_CONFIG_BYTES: u64 = 4 << 20;
const MAX_TOKENIZER_CONFIG_BYTES: u64 = 64 << 20;
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// Slot, file name and longest length of each text, in the order in which they are appended.
pub(super) const FILES: [(Slot, &str, u64); 5] = [
    (Slot::Tokenizer, "tokenizer.json", MAX_TOKENIZER_BYTES),
    (Slot::TokenizerConfig, "tokenizer_config.json", MAX_TOKENIZER_CONFIG_BYTES),
    (Slot::SpecialTokensMap, "special_tokens_map.json", MAX_CONFIG_BYTES),
    (Slot::ChatTemplate, "chat_template.jinja", MAX_CONFIG_BYTES),
    (Slot::GenerationConfig, "generation_config.json", MAX_CONFIG_BYTES),
];

/// The texts of a checkpoint.
pub(super) struct Texts {
    pub(super) slots: Vec<(Slot, Vec<u8>)>,
    pub(super) generation_config: Option<Map<String, Value>>,
    beside_tokenizer: Beside,
}

impl Texts {
    /// Writes into `tokenizer.json` the tokens that other files add to it.
    pub(super) fn complete_tokenizer(&mut self, vocab_size: usize) -> Result<(), ImportError> {
        let tokenizer = self.slots.iter_mut().find(|(slot, _)| *slot == Slot::Tokenizer);
        if let Some((_, bytes)) = tokenizer
            && let Some(completed) = added_tokens::complete(bytes, &self.beside_tokenizer, vocab_size as u64)?
        {
            *bytes = completed;
        }
        Ok(())
    }
}

/// Reads the texts that are there.
pub(super) fn read(folder: &mut Folder) -> Result<Texts, ImportError> {
    let mut texts = Texts { slots: Vec::new(), generation_config: None, beside_tokenizer: Beside::default() };
    for (slot, file, max) in FILES {
        let Some(bytes) = folder.read(file, max)? else { continue };
        let object = check(slot, file, &bytes)?;
        match slot {
            Slot::GenerationConfig => texts.generation_config = object,
            Slot::TokenizerConfig => texts.beside_tokenizer.tokenizer_config = object,
            Slot::SpecialTokensMap => texts.beside_tokenizer.special_tokens_map = object,
            _ => {}
        }
        texts.slots.push((slot, bytes));
    }
    texts.beside_tokenizer.added_tokens =
        folder.read_json("added_tokens.json", MAX_TOKENIZER_CONFIG_BYTES)?;
    Ok(texts)
}

/// Refuses chat templates that nothing could be rendered by. A matter of the import alone: whether a block
/// is valid must not depend on a template engine, so a chain may hold them, and opening their model does well.
pub(super) fn check_templates(texts: &[(Slot, Vec<u8>)]) -> Result<(), ImportError> {
    let text = |wanted: Slot| texts.iter().find(|(slot, _)| *slot == wanted).map(|(_, bytes)| &bytes[..]);
    let template = text(Slot::ChatTemplate);
    let read = ChatTemplates::read(text(Slot::TokenizerConfig), text(Slot::SpecialTokensMap), template);
    let file = if template.is_some() { "chat_template.jinja" } else { "tokenizer_config.json" };
    read.check().map_err(|source| ImportError::ChatTemplate { file, source })
}

/// Checks that a text is what its slot needs.
pub(super) fn check(slot: Slot, file: &str, bytes: &[u8]) -> Result<Option<Map<String, Value>>, ImportError> {
    match slot {
        Slot::ChatTemplate => match std::str::from_utf8(bytes) {
            Ok(_) => Ok(None),
            Err(_) => Err(ImportError::NotUtf8 { file: file.to_owned() }),
        },
        // Large, and read again by the tokenizer, which judges its content.
        Slot::Tokenizer => match serde_json::from_slice::<IgnoredAny>(bytes) {
            Ok(_) => Ok(None),
            Err(error) => Err(ImportError::Json { file: file.to_owned(), reason: error.to_string() }),
        },
        _ => json::object(file, bytes).map(Some),
    }
}
