//! Owns the texts of a model from a GGUF file: what a checkpoint folder has as files of its own.

use serde_json::{Map, Value as Json, json};

use super::error::GgufError;
use super::header::Value;
use super::metadata::Metadata;
use super::tokenizer::Vocabulary;
use crate::format::Slot;

const TEMPLATE: &str = "tokenizer.chat_template";

/// Keys of a sampler that generation_config.json has too, under both names.
const SAMPLING: [(&str, &str); 5] = [
    ("general.sampling.temp", "temperature"),
    ("general.sampling.top_k", "top_k"),
    ("general.sampling.top_p", "top_p"),
    ("general.sampling.min_p", "min_p"),
    ("general.sampling.penalty_repeat", "repetition_penalty"),
];

/// The texts, in the order in which a folder's are appended.
pub(super) fn read(
    metadata: &Metadata<'_>,
    vocabulary: Option<&Vocabulary<'_>>,
    context: usize,
) -> Result<Vec<(Slot, Vec<u8>)>, GgufError> {
    let mut texts = Vec::new();
    let templates = templates(metadata)?;
    if vocabulary.is_none()
        && let Some((name, text)) = templates.first()
    {
        let key = match *name {
            "default" => TEMPLATE.to_owned(),
            name => format!("{TEMPLATE}.{name}"),
        };
        let reason =
            "there is no tokenizer to write a chat with: name the key in ignore_config_keys to do without";
        return Err(metadata.unsupported(&key, &Value::Text((*text).to_owned()), reason));
    }
    if let Some(vocabulary) = vocabulary {
        texts.push((Slot::Tokenizer, vocabulary.to_json()?));
        let config = tokenizer_config(vocabulary, &templates, context);
        texts.push((Slot::TokenizerConfig, pretty(config)));
        if let [(name, template)] = templates.as_slice()
            && *name == "default"
        {
            texts.push((Slot::ChatTemplate, template.as_bytes().to_vec()));
        }
    }
    if let Some(config) = generation_config(metadata, vocabulary) {
        texts.push((Slot::GenerationConfig, pretty(config)));
    }
    Ok(texts)
}

fn pretty(map: Map<String, Json>) -> Vec<u8> {
    let mut text = format!("{:#}", Json::Object(map));
    text.push('\n');
    text.into_bytes()
}

/// Names and texts of the chat templates; the one without a name is the default.
fn templates<'a>(metadata: &Metadata<'a>) -> Result<Vec<(&'a str, &'a str)>, GgufError> {
    let mut templates = Vec::new();
    // Only lists the names of the others.
    metadata.skip("tokenizer.chat_templates");
    for key in metadata.keys(TEMPLATE) {
        let name = match key.strip_prefix(TEMPLATE).unwrap_or_default() {
            "" => "default",
            rest => match rest.strip_prefix('.') {
                Some(name) => name,
                None => continue,
            },
        };
        if let Some(text) = metadata.text(key)? {
            templates.push((name, text));
        }
    }
    Ok(templates)
}

fn tokenizer_config(
    vocabulary: &Vocabulary<'_>,
    templates: &[(&str, &str)],
    context: usize,
) -> Map<String, Json> {
    let special = &vocabulary.special;
    let mut config = Map::new();
    config.insert("add_bos_token".to_owned(), special.add_bos.into());
    config.insert("add_eos_token".to_owned(), special.add_eos.into());
    let tokens = [
        ("bos_token", special.bos),
        ("eos_token", special.eos),
        ("pad_token", special.pad),
        ("unk_token", special.unknown),
    ];
    for (name, id) in tokens {
        if let Some(token) = vocabulary.token(id) {
            config.insert(name.to_owned(), token.into());
        }
    }
    // One template is a file of its own.
    if !matches!(templates, [] | [("default", _)]) {
        let named = templates.iter().map(|(name, template)| json!({"name": name, "template": template}));
        config.insert("chat_template".to_owned(), named.collect());
    }
    config.insert("clean_up_tokenization_spaces".to_owned(), false.into());
    config.insert("model_max_length".to_owned(), context.into());
    config.insert("tokenizer_class".to_owned(), "PreTrainedTokenizerFast".into());
    config
}

/// Where the file has a tokenizer or says how to sample.
fn generation_config(
    metadata: &Metadata<'_>,
    vocabulary: Option<&Vocabulary<'_>>,
) -> Option<Map<String, Json>> {
    let mut config = Map::new();
    if let Some(vocabulary) = vocabulary {
        let special = &vocabulary.special;
        if let Some(bos) = special.bos {
            config.insert("bos_token_id".to_owned(), bos.into());
        }
        if !special.ends.is_empty() {
            config.insert("eos_token_id".to_owned(), special.ends.clone().into());
        }
        if let Some(pad) = special.pad {
            config.insert("pad_token_id".to_owned(), pad.into());
        }
    }
    for (key, name) in SAMPLING {
        let value = match metadata.get(key) {
            Some(Value::Float(value)) => Json::from(*value),
            Some(Value::Unsigned(value)) => Json::from(*value),
            Some(Value::Signed(value)) => Json::from(*value),
            _ => continue,
        };
        config.insert(name.to_owned(), value);
    }
    (!config.is_empty()).then_some(config)
}
