//! Owns the completing of `tokenizer.json` by tokens that only the files beside it add.
//!
//! transformers reads all of them; here a tokenizer is one file, one block, so what it lacks is
//! written into its `added_tokens`, with the ids that the tokenizers library would give.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::ImportError;
use super::json;
use crate::chat::SPECIAL_TOKENS;

const CONFIG: &str = "tokenizer_config.json";

/// How a token is found in texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Token {
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

impl Token {
    fn new(content: &str, special: bool) -> Self {
        let content = content.to_owned();
        Self { content, single_word: false, lstrip: false, rstrip: false, normalized: !special, special }
    }

    /// A special token as a text or as an object of flags; `None` if it is neither.
    fn read_special(value: &Value) -> Option<Self> {
        match value {
            Value::String(content) => Some(Self::new(content, true)),
            Value::Object(fields) => Self::read(fields, true),
            _ => None,
        }
    }

    fn read(fields: &Map<String, Value>, special: bool) -> Option<Self> {
        let flag = |name: &str, default| fields.get(name).map_or(Some(default), Value::as_bool);
        let special = special || flag("special", false)?;
        Some(Self {
            content: fields.get("content")?.as_str()?.to_owned(),
            single_word: flag("single_word", false)?,
            lstrip: flag("lstrip", false)?,
            rstrip: flag("rstrip", false)?,
            normalized: flag("normalized", !special)?,
            special,
        })
    }
}

/// A token of `added_tokens`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    id: u32,
    #[serde(flatten)]
    token: Token,
}

/// The parts of `tokenizer.json` that say which tokens there are.
#[derive(Deserialize)]
struct Tokenizer {
    #[serde(default)]
    added_tokens: Vec<Entry>,
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    vocab: Vocab,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Vocab {
    Ids(HashMap<String, u32>),
    Scores(Vec<(String, f64)>),
}

impl Vocab {
    fn into_ids(self) -> HashMap<String, u32> {
        match self {
            Self::Ids(ids) => ids,
            Self::Scores(scores) => (0..).zip(scores).map(|(id, (token, _))| (token, id)).collect(),
        }
    }
}

/// The files beside `tokenizer.json`, those that there are.
#[derive(Default)]
pub(super) struct Beside {
    pub(super) tokenizer_config: Option<Map<String, Value>>,
    pub(super) special_tokens_map: Option<Map<String, Value>>,
    pub(super) added_tokens: Option<Map<String, Value>>,
}

impl Beside {
    /// What the configuration lists as added tokens. If it does, the two files of old count for nothing.
    fn decoder(&self) -> Result<Option<BTreeMap<u32, Token>>, ImportError> {
        let Some(listed) =
            self.tokenizer_config.as_ref().and_then(|config| config.get("added_tokens_decoder"))
        else {
            return Ok(None);
        };
        let refuse = |key: &str, value: &Value, expected: &'static str| ImportError::InvalidValue {
            file: CONFIG.to_owned(),
            key: key.to_owned(),
            value: json::shortened(value),
            expected,
        };
        let Some(listed) = listed.as_object() else {
            return Err(refuse("added_tokens_decoder", listed, "an object of tokens by their ids"));
        };
        let read = |(id, token): (&String, &Value)| {
            let read = token.as_object().and_then(|fields| Token::read(fields, false));
            id.parse::<u32>().ok().zip(read).ok_or_else(|| {
                refuse(&format!("added_tokens_decoder.{id}"), token, "a token with its flags, by its id")
            })
        };
        listed.iter().map(read).collect::<Result<_, _>>().map(Some)
    }

    /// Special tokens under names such as `bos_token`, and the others.
    fn special(&self, with_old: bool) -> (Vec<Token>, Vec<Token>) {
        let config = self.tokenizer_config.clone().unwrap_or_default();
        let old = self.special_tokens_map.as_ref().filter(|_| with_old).cloned().unwrap_or_default();
        let field = |name: &str| old.get(name).or_else(|| config.get(name));
        let mut named: Vec<Token> =
            SPECIAL_TOKENS.iter().filter_map(|name| field(name)).filter_map(Token::read_special).collect();
        let own = |name: &str| name.ends_with("_token") && !SPECIAL_TOKENS.contains(&name);
        let own = old.iter().chain(&config).filter(|(name, _)| own(name));
        named.extend(own.filter_map(|(_, value)| Token::read_special(value)));
        // The older name counts where there is no list under the newer one.
        let mut others: Option<Vec<Token>> = None;
        for extra in [&config, &old].into_iter().filter_map(|fields| fields.get("extra_special_tokens")) {
            match extra {
                Value::Object(tokens) => named.extend(tokens.values().filter_map(Token::read_special)),
                Value::Array(tokens) if !tokens.is_empty() => {
                    others.get_or_insert_default().extend(tokens.iter().filter_map(Token::read_special));
                }
                _ => {}
            }
        }
        let older = || {
            let tokens =
                config.get("additional_special_tokens").or_else(|| old.get("additional_special_tokens"));
            tokens.and_then(Value::as_array).into_iter().flatten().filter_map(Token::read_special).collect()
        };
        (named, others.unwrap_or_else(older))
    }
}

/// `tokenizer.json` with what it lacks, or `None` if that is nothing. A model of `vocab_size` rows has no
/// use for tokens beyond them: they are left out. A file that makes no sense is left as it is, for who reads it.
pub(super) fn complete(
    tokenizer: &[u8],
    beside: &Beside,
    vocab_size: u64,
) -> Result<Option<Vec<u8>>, ImportError> {
    let split = beside.tokenizer_config.as_ref().and_then(|config| config.get("split_special_tokens"));
    if let Some(value @ Value::Bool(true)) = split {
        return Err(ImportError::InvalidValue {
            file: CONFIG.to_owned(),
            key: "split_special_tokens".to_owned(),
            value: value.to_string(),
            expected: "false: special tokens in a text are always taken as such",
        });
    }
    let Ok(Tokenizer { added_tokens: mut entries, model }) = serde_json::from_slice(tokenizer) else {
        return Ok(None);
    };
    let listed = beside.decoder()?;
    let (named, others) = beside.special(listed.is_none());
    let contents =
        |tokens: &[Token]| tokens.iter().map(|token| token.content.clone()).collect::<HashSet<_>>();
    let is_named = contents(&named);
    let source = if listed.is_some() { CONFIG } else { "added_tokens.json" };
    let mut wanted = match listed {
        Some(listed) => listed,
        None => {
            let is_other = contents(&others);
            let is_special = |content: &str| is_named.contains(content) || is_other.contains(content);
            let added = beside.added_tokens.iter().flatten();
            added
                .filter_map(|(content, id)| {
                    let id = id.as_u64().and_then(|id| u32::try_from(id).ok())?;
                    Some((id, Token::new(content, is_special(content))))
                })
                .chain(entries.iter().map(|entry| (entry.id, entry.token.clone())))
                .collect()
        }
    };
    for token in wanted.values_mut().filter(|token| is_named.contains(&token.content)) {
        token.special = true;
    }
    let known: HashSet<String> = entries
        .iter()
        .map(|entry| &entry.token)
        .chain(wanted.values())
        .map(|token| token.content.clone())
        .collect();
    let unknown = named.into_iter().chain(others).filter(|token| !known.contains(&token.content));
    let wanted: Vec<(Option<u32>, Token)> = wanted
        .into_iter()
        .map(|(id, token)| (Some(id), token))
        .chain(unknown.map(|token| (None, token)))
        .collect();

    let ids = model.vocab.into_ids();
    let model_len = ids.len() as u64;
    let highest = entries.iter().map(|entry| u64::from(entry.id)).max();
    let mut next = highest.map_or(model_len, |highest| model_len.max(highest + 1));
    let mut places: HashMap<String, usize> =
        entries.iter().enumerate().map(|(place, entry)| (entry.token.content.clone(), place)).collect();
    let mut changed = false;
    for (stated, token) in wanted {
        if let Some(entry) = places.get(&token.content).and_then(|place| entries.get_mut(*place)) {
            // What was special once stays so in the library.
            let token = Token { special: token.special || entry.token.special, ..token };
            changed |= entry.token != token;
            entry.token = token;
            continue;
        }
        let in_model = ids.get(&token.content).map(|id| u64::from(*id));
        let id = in_model.unwrap_or(next);
        let beyond = stated.is_some_and(|stated| u64::from(stated) >= vocab_size) || id >= vocab_size;
        let Some(id) = u32::try_from(id).ok().filter(|_| !beyond && !token.content.is_empty()) else {
            continue;
        };
        if let Some(stated) = stated.filter(|stated| *stated != id) {
            return Err(ImportError::InvalidValue {
                file: source.to_owned(),
                key: format!("the id of {}", json::shortened(&token.content.into())),
                value: format!("{stated}, in tokenizer.json {id}"),
                expected: "the id that tokenizer.json has for it, or the next after all of its tokens",
            });
        }
        next += u64::from(in_model.is_none());
        places.insert(token.content.clone(), entries.len());
        entries.push(Entry { id, token });
        changed = true;
    }
    if !changed {
        return Ok(None);
    }
    entries.sort_by_key(|entry| entry.id);
    let file = "tokenizer.json";
    let failed =
        |error: serde_json::Error| ImportError::Json { file: file.to_owned(), reason: error.to_string() };
    let mut whole: Map<String, Value> = serde_json::from_slice(tokenizer).map_err(failed)?;
    whole.insert("added_tokens".to_owned(), serde_json::to_value(entries).map_err(failed)?);
    serde_json::to_vec_pretty(&whole).map(Some).map_err(failed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(id: u32, content: &str, flags: &[&str]) -> Value {
        let mut entry = json!({"id": id, "content": content});
        for flag in ["single_word", "lstrip", "rstrip", "normalized", "special"] {
            entry[flag] = flags.contains(&flag).into();
        }
        entry
    }

    fn token(content: &str, flags: &[&str]) -> Value {
        let mut token = entry(0, content, flags);
        token.as_object_mut().unwrap().remove("id");
        token
    }

    fn object(value: Value) -> Option<Map<String, Value>> {
        value.as_object().cloned()
    }

    /// A vocabulary of `a` to `h`, `<s>` as 8 and `</s>` as 9.
    fn completed(added: &[Value], beside: &Beside, vocab_size: u64) -> Result<Option<Value>, ImportError> {
        let tokens = ["a", "b", "c", "d", "e", "f", "g", "h", "<s>", "</s>"];
        let vocab: Map<String, Value> =
            (0u32..).zip(tokens).map(|(id, token)| (token.to_owned(), id.into())).collect();
        let file = json!({"version": "1.0", "added_tokens": added, "model": {"type": "BPE", "vocab": vocab}});
        let completed = complete(file.to_string().as_bytes(), beside, vocab_size)?;
        Ok(completed.map(|completed| {
            let mut completed: Map<String, Value> = serde_json::from_slice(&completed).unwrap();
            assert_eq!(completed["model"], file["model"]);
            // What was completed is complete.
            let again = complete(&serde_json::to_vec(&completed).unwrap(), beside, vocab_size).unwrap();
            assert!(again.is_none(), "{again:?}");
            completed.remove("added_tokens").unwrap()
        }))
    }

    /// The expected tokens are those of transformers 5.23 for the same files.
    #[test]
    fn tokens_of_the_files_beside_are_written_into_the_tokenizer() {
        let start = entry(8, "<s>", &["special"]);
        let named = Beside {
            tokenizer_config: object(json!({"bos_token": "<s>", "eos_token": "</s>", "pad_token": null})),
            ..Beside::default()
        };
        assert_eq!(
            completed(&[], &named, 100).unwrap(),
            Some(json!([start, entry(9, "</s>", &["special"])]))
        );

        let listed = Beside {
            tokenizer_config: object(json!({
                "added_tokens_decoder": {
                    "11": token("<y>", &["normalized"]),
                    "8": token("<s>", &["normalized", "special"]),
                    "10": token("<x>", &["lstrip", "special"]),
                },
                "eos_token": "</s>",
                "pad_token": "<y>",
            })),
            // Of old, and not read beside the list.
            special_tokens_map: object(json!({"unk_token": "<unk>"})),
            added_tokens: object(json!({"<t>": 10})),
        };
        let expected = json!([
            entry(8, "<s>", &["normalized", "special"]),
            entry(9, "</s>", &["special"]),
            entry(10, "<x>", &["lstrip", "special"]),
            entry(11, "<y>", &["normalized", "special"]),
        ]);
        assert_eq!(completed(std::slice::from_ref(&start), &listed, 100).unwrap(), Some(expected));

        let old = Beside {
            tokenizer_config: object(json!({"unk_token": "<unk>"})),
            special_tokens_map: object(json!({
                "bos_token": "<s>",
                "eos_token": {"content": "</s>", "lstrip": false, "normalized": true, "rstrip": true, "single_word": false},
                "additional_special_tokens": ["<a2>"],
            })),
            added_tokens: object(json!({"<t>": 10})),
        };
        let expected = json!([
            start,
            entry(9, "</s>", &["rstrip", "normalized", "special"]),
            entry(10, "<t>", &["normalized"]),
            entry(11, "<unk>", &["special"]),
            entry(12, "<a2>", &["special"]),
        ]);
        assert_eq!(completed(std::slice::from_ref(&start), &old, 100).unwrap(), Some(expected));

        let own = Beside {
            tokenizer_config: object(json!({
                "bos_token": "<s>",
                "image_token": "<img>",
                "mask_token": {"__type": "AddedToken", "content": "<m>", "lstrip": true, "normalized": false},
                "extra_special_tokens": {"audio_token": "<audio>"},
                "additional_special_tokens": ["<e1>"],
            })),
            ..Beside::default()
        };
        let expected = json!([
            start,
            entry(10, "<m>", &["lstrip", "special"]),
            entry(11, "<img>", &["special"]),
            entry(12, "<audio>", &["special"]),
            entry(13, "<e1>", &["special"]),
        ]);
        assert_eq!(completed(&[entry(8, "<s>", &[])], &own, 100).unwrap(), Some(expected));
    }

    #[test]
    fn what_is_complete_or_of_no_use_is_left_as_it_is() {
        let start = [entry(8, "<s>", &["special"])];
        assert_eq!(completed(&start, &Beside::default(), 100).unwrap(), None);
        // The embedding has no row for it.
        let padded = Beside {
            tokenizer_config: object(json!({
                "bos_token": "<s>",
                "pad_token": "[PAD]",
                "added_tokens_decoder": {"8": token("<s>", &["special"]), "4000": token("<z>", &[])},
            })),
            ..Beside::default()
        };
        assert_eq!(completed(&start, &padded, 10).unwrap(), None);
        for file in [&b"{"[..], b"[]", br#"{"added_tokens": 1, "model": {"vocab": {}}}"#] {
            assert!(complete(file, &padded, 10).unwrap().is_none());
        }
    }

    /// As transformers 5.23 has them, too.
    #[test]
    fn what_contradicts_is_settled_as_transformers_does() {
        let sticky = Beside {
            tokenizer_config: object(json!({"added_tokens_decoder": {"8": token("<s>", &[])}})),
            ..Beside::default()
        };
        assert_eq!(completed(&[entry(8, "<s>", &["special"])], &sticky, 100).unwrap(), None);
        let lists = Beside {
            tokenizer_config: object(json!({"additional_special_tokens": ["<a>"]})),
            special_tokens_map: object(json!({"additional_special_tokens": ["<b>"]})),
            ..Beside::default()
        };
        assert_eq!(completed(&[], &lists, 100).unwrap(), Some(json!([entry(10, "<a>", &["special"])])));
        let newer = Beside {
            tokenizer_config: object(json!({
                "extra_special_tokens": ["<e>"], "additional_special_tokens": ["<a>"],
            })),
            ..Beside::default()
        };
        assert_eq!(completed(&[], &newer, 100).unwrap(), Some(json!([entry(10, "<e>", &["special"])])));
    }

    #[test]
    fn what_cannot_be_written_into_the_tokenizer_is_refused_by_name() {
        let refused = |config: Value| {
            let beside = Beside { tokenizer_config: object(config), ..Beside::default() };
            completed(&[], &beside, 100).unwrap_err().to_string()
        };
        assert!(refused(json!({"split_special_tokens": true})).contains("split_special_tokens = true"));
        let gap = refused(json!({"added_tokens_decoder": {"12": token("<z>", &[])}}));
        assert!(gap.contains("<z>") && gap.contains("12, in tokenizer.json 10"), "{gap}");
        // The file that says so is named, whatever else lies there.
        let listed = Beside {
            tokenizer_config: object(json!({"added_tokens_decoder": {"12": token("<z>", &[])}})),
            added_tokens: object(json!({"<t>": 10})),
            ..Beside::default()
        };
        let listed = completed(&[], &listed, 100).unwrap_err().to_string();
        assert!(listed.starts_with("tokenizer_config.json"), "{listed}");
        let old = Beside { added_tokens: object(json!({"<t>": 12})), ..Beside::default() };
        let old = completed(&[], &old, 100).unwrap_err().to_string();
        assert!(old.starts_with("added_tokens.json"), "{old}");
        assert!(
            refused(json!({"added_tokens_decoder": {"x": token("<z>", &[])}}))
                .contains("added_tokens_decoder.x")
        );
        assert!(refused(json!({"added_tokens_decoder": {"10": "<z>"}})).contains("added_tokens_decoder.10"));
        assert!(refused(json!({"added_tokens_decoder": []})).contains("added_tokens_decoder = []"));
    }
}
