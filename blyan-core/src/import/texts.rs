//! Owns the texts of a checkpoint: tokenizer, templates and generation defaults, kept byte for byte but for a
//! tokenizer that lacks tokens and chat templates that have a folder of their own.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

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

/// Where transformers 5 saves the chat templates that have names, each in a file that is called so.
pub(super) const NAMED_TEMPLATES: &str = "additional_chat_templates";

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

    /// Writes templates with names, and the one that is a file of its own, into `tokenizer_config.json`, in the place of
    /// those that it has: there they are one text.
    fn name_templates(&mut self, named: BTreeMap<String, String>) -> Result<(), ImportError> {
        let place = self.slots.iter().position(|(slot, _)| *slot == Slot::ChatTemplate);
        let default = place.map(|place| String::from_utf8_lossy(&self.slots.remove(place).1).into_owned());
        let mut templates: BTreeMap<String, String> =
            default.map(|template| ("default".to_owned(), template)).into_iter().collect();
        templates.extend(named);
        let list = templates.iter().map(|(name, template)| json!({"name": name, "template": template}));
        let mut config = self.beside_tokenizer.tokenizer_config.clone().unwrap_or_default();
        config.insert("chat_template".to_owned(), list.collect());
        let bytes = format!("{:#}\n", Value::Object(config)).into_bytes();
        let len_bytes = bytes.len() as u64;
        if len_bytes > MAX_TOKENIZER_CONFIG_BYTES {
            let (file, max) = (NAMED_TEMPLATES.to_owned(), MAX_TOKENIZER_CONFIG_BYTES);
            return Err(ImportError::FileTooLarge { file, len_bytes, max });
        }
        match self.slots.iter_mut().find(|(slot, _)| *slot == Slot::TokenizerConfig) {
            Some((_, config)) => *config = bytes,
            None => {
                let place = self.slots.iter().take_while(|(slot, _)| *slot == Slot::Tokenizer).count();
                self.slots.insert(place, (Slot::TokenizerConfig, bytes));
            }
        }
        Ok(())
    }
}

/// Reads the chat templates that are files of a folder, by their names.
fn read_named_templates(folder: &mut Folder) -> Result<BTreeMap<String, String>, ImportError> {
    let mut templates = BTreeMap::new();
    let mut left = MAX_TOKENIZER_CONFIG_BYTES;
    for file in folder.list(NAMED_TEMPLATES)? {
        let name = file.strip_prefix(NAMED_TEMPLATES).and_then(|name| name.strip_suffix(".jinja"));
        let Some(name) = name.and_then(|name| name.strip_prefix('/')) else { continue };
        let Some(bytes) = folder.read(&file, MAX_CONFIG_BYTES.min(left))? else { continue };
        left -= bytes.len() as u64;
        check(Slot::ChatTemplate, &file, &bytes)?;
        ChatTemplates::read(None, None, Some(&bytes))
            .check()
            .map_err(|source| ImportError::ChatTemplate { file: NAMED_TEMPLATES, source })?;
        templates.insert(name.to_owned(), String::from_utf8_lossy(&bytes).into_owned());
    }
    Ok(templates)
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
    let named = read_named_templates(folder)?;
    if !named.is_empty() {
        texts.name_templates(named)?;
    }
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
