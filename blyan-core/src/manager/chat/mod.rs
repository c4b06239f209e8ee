//! Owns chat templates: messages to the text that a chat model continues.
//!
//! Renders as transformers' `apply_chat_template` does: Jinja with `trim_blocks` and
//! `lstrip_blocks`, Python's string methods, `raise_exception`, a `tojson` that escapes no HTML,
//! loop controls and `{% generation %}`. A template comes with the checkpoint and is not trusted: it
//! reaches nothing but its arguments, and its work and memory are bounded by fuel.
//!
//! The result depends on the arguments alone. `strftime_now` therefore exists only where the caller
//! says what time it is; templates that ask `strftime_now is defined` fall back to a date of theirs.

mod date;
mod json;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value};
use serde_json::{Map, Value as Json};

pub use date::{CivilTime, DateError};

/// Largest template that is compiled, in bytes.
pub const MAX_TEMPLATE_BYTES: usize = 1 << 20;

/// Instructions and 64-byte units of memory that one rendering may use: about a second, and a
/// thousand times what a long chat needs.
const FUEL: u64 = 10_000_000;

/// Special tokens that a template can name, as transformers 5 passes them.
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Older names of `reasoning_content`.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A chat that cannot be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// A file of the checkpoint cannot be read.
    #[error("{file} cannot be used: {reason}")]
    Config {
        /// The file.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The model came without a chat template.
    #[error("the model has no chat template: generate from a text prompt instead")]
    NoTemplate,
    /// There is no template of this name.
    #[error("the model has no chat template {name:?}, only {available:?}")]
    UnknownTemplate {
        /// The name asked for.
        name: String,
        /// The names there are.
        available: Vec<String>,
    },
    /// The template is not valid Jinja.
    #[error("line {line} of the chat template: {reason}")]
    Syntax {
        /// Line of the template, from 1; 0 if unknown.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A chat has no messages.
    #[error("the chat has no messages: give at least one")]
    NoMessages,
    /// A message is no object with a role.
    #[error("message {index} is not an object with a text \"role\"")]
    Message {
        /// Its place in the chat.
        index: usize,
    },
    /// The template refuses these messages.
    #[error("the chat template refuses these messages: {reason}")]
    Refused {
        /// What it says, in its own words.
        reason: String,
    },
    /// The template wants to know the date.
    #[error("the chat template needs the date: pass the time of the chat")]
    NeedsTime,
    /// The template does not end.
    #[error("the chat template does too much work: it may be endless")]
    OutOfFuel,
    /// The template fails on these messages.
    #[error("line {line} of the chat template fails on these messages: {reason}")]
    Render {
        /// Line of the template, from 1; 0 if unknown.
        line: usize,
        /// What went wrong.
        reason: String,
    },
}

/// What to render.
#[derive(Debug, Clone, Default)]
pub struct ChatRequest<'a> {
    /// The messages, oldest first: objects with `role`, `content` and whatever else the template
    /// reads. Fields that are null count as missing.
    pub messages: &'a [Json],
    /// JSON schemas of functions that the model may call.
    pub tools: Option<&'a [Json]>,
    /// Documents with `title` and `text`.
    pub documents: Option<&'a [Json]>,
    /// Whether to end with the header of a new answer.
    pub add_generation_prompt: bool,
    /// Name of the template; without one, `tool_use` if there are tools and it exists, else
    /// `default`.
    pub template: Option<&'a str>,
    /// What `strftime_now` takes for now.
    pub now: Option<CivilTime>,
    /// Further variables, such as `enable_thinking`; they come before special tokens of that name.
    pub variables: Option<&'a Map<String, Json>>,
}

/// What a template says when it calls `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// The chat templates of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplates {
    templates: BTreeMap<String, String>,
    special_tokens: BTreeMap<&'static str, String>,
}

impl ChatTemplates {
    /// Reads what the checkpoint has of `tokenizer_config.json`, `special_tokens_map.json` and
    /// `chat_template.jinja`, the last of which takes the place of the templates in the first.
    ///
    /// # Errors
    ///
    /// [`ChatError::Config`] for a file of another form, [`ChatError::Syntax`] for a template that
    /// is no Jinja.
    pub fn from_files(
        tokenizer_config: Option<&[u8]>,
        special_tokens_map: Option<&[u8]>,
        chat_template: Option<&[u8]>,
    ) -> Result<Self, ChatError> {
        let config = object("tokenizer_config.json", tokenizer_config)?;
        let special = object("special_tokens_map.json", special_tokens_map)?;
        // The map is of old checkpoints; newer ones list their added tokens in the config instead.
        let special = if config.contains_key("added_tokens_decoder") { Map::new() } else { special };
        let mut special_tokens = BTreeMap::new();
        for name in SPECIAL_TOKENS {
            let token = special.get(name).and_then(token_text).or_else(|| token_text(config.get(name)?));
            if let Some(token) = token {
                special_tokens.insert(name, token.to_owned());
            }
        }
        let templates = match chat_template {
            Some(bytes) => {
                let error = |reason: &str| config_error("chat_template.jinja", reason);
                let text = std::str::from_utf8(bytes).map_err(|_| error("it is not UTF-8"))?;
                BTreeMap::from([("default".to_owned(), text.to_owned())])
            }
            None => named_templates(config.get("chat_template"))?,
        };
        for template in templates.values() {
            check_template(template)?;
        }
        Ok(Self { templates, special_tokens })
    }

    /// Names of the templates.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.templates.keys().map(String::as_str)
    }

    /// Whether there is no template.
    pub fn is_empty(&self) -> bool {
        self.templates.is_empty()
    }

    /// A special token's text, such as `bos_token`'s.
    pub fn special_token(&self, name: &str) -> Option<&str> {
        self.special_tokens.get(name).map(String::as_str)
    }

    fn select(&self, request: &ChatRequest<'_>) -> Result<&str, ChatError> {
        if self.is_empty() {
            return Err(ChatError::NoTemplate);
        }
        let tool_use = request.tools.and_then(|_| self.templates.get("tool_use"));
        let template = match request.template {
            Some(name) => self.templates.get(name),
            None => tool_use.or_else(|| self.templates.get("default")),
        };
        template.map(String::as_str).ok_or_else(|| ChatError::UnknownTemplate {
            name: request.template.unwrap_or("default").to_owned(),
            available: self.templates.keys().cloned().collect(),
        })
    }

    /// The text of a chat. Its special tokens are part of it: encode it without adding any.
    ///
    /// # Errors
    ///
    /// [`ChatError`] naming what is wrong with the messages or the template.
    pub fn render(&self, request: &ChatRequest<'_>) -> Result<String, ChatError> {
        let template = self.select(request)?;
        if request.messages.is_empty() {
            return Err(ChatError::NoMessages);
        }
        let messages = (0..).zip(request.messages).map(|(index, message)| plain_message(index, message));
        let messages = Json::Array(messages.collect::<Result<_, _>>()?);
        let mut context: BTreeMap<String, Value> = BTreeMap::new();
        for (name, token) in &self.special_tokens {
            context.insert((*name).to_owned(), Value::from(token.as_str()));
        }
        for (name, value) in request.variables.into_iter().flatten() {
            context.insert(name.clone(), Value::from(Serde(value)));
        }
        context.insert("messages".to_owned(), Value::from(Serde(&messages)));
        context.insert("tools".to_owned(), Value::from(Serde(request.tools)));
        context.insert("documents".to_owned(), Value::from(Serde(request.documents)));
        context.insert("add_generation_prompt".to_owned(), Value::from(request.add_generation_prompt));

        let mut environment = environment()?;
        if let Some(now) = request.now {
            environment.add_function("strftime_now", move |format: &str| {
                now.format(format).map_err(|error| minijinja_error(error.to_string()))
            });
        }
        let template = without_generation_tags(template);
        let rendered = catch_unwind(AssertUnwindSafe(|| {
            environment.template_from_str(&template)?.render(Value::from(context))
        }));
        match rendered {
            Ok(rendered) => rendered.map_err(render_error),
            Err(_) => Err(ChatError::Render { line: 0, reason: "the template engine failed".to_owned() }),
        }
    }
}

fn config_error(file: &'static str, reason: impl ToString) -> ChatError {
    ChatError::Config { file, reason: reason.to_string() }
}

fn object(file: &'static str, bytes: Option<&[u8]>) -> Result<Map<String, Json>, ChatError> {
    match bytes {
        None => Ok(Map::new()),
        Some(bytes) => serde_json::from_slice(bytes).map_err(|error| config_error(file, error)),
    }
}

/// A special token is written as text or as an object with its `content`.
fn token_text(token: &Json) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// A template is one text, or a list of names and texts.
fn named_templates(value: Option<&Json>) -> Result<BTreeMap<String, String>, ChatError> {
    let error = || {
        config_error(
            "tokenizer_config.json",
            "chat_template must be a text or a list of objects with the texts name and template",
        )
    };
    match value {
        None | Some(Json::Null) => Ok(BTreeMap::new()),
        Some(Json::String(text)) => Ok(BTreeMap::from([("default".to_owned(), text.clone())])),
        Some(Json::Array(list)) => list
            .iter()
            .map(|entry| {
                let field = |key: &str| entry.get(key)?.as_str().map(str::to_owned);
                Ok((field("name").ok_or_else(error)?, field("template").ok_or_else(error)?))
            })
            .collect(),
        Some(_) => Err(error()),
    }
}

/// A message without its null fields, and with its reasoning under the names that templates read.
fn plain_message(index: usize, message: &Json) -> Result<Json, ChatError> {
    let fields = message.as_object().ok_or(ChatError::Message { index })?;
    if !fields.get("role").is_some_and(Json::is_string) {
        return Err(ChatError::Message { index });
    }
    let mut plain: Map<String, Json> =
        fields.iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
    if let Some(reasoning) = REASONING.iter().find_map(|&name| plain.get(name)).cloned() {
        plain.entry("thinking").or_insert_with(|| reasoning.clone());
        plain.insert("reasoning_content".to_owned(), reasoning);
    }
    Ok(Json::Object(plain))
}

fn environment() -> Result<Environment<'static>, ChatError> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(render_error)?);
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", json::tojson);
    environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
        Err(minijinja_error("the template refuses").with_source(Raised(message)))
    });
    Ok(environment)
}

fn minijinja_error(reason: impl Into<std::borrow::Cow<'static, str>>) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, reason)
}

fn check_template(template: &str) -> Result<(), ChatError> {
    if template.len() > MAX_TEMPLATE_BYTES {
        let reason = format!("{} bytes are more than {MAX_TEMPLATE_BYTES}", template.len());
        return Err(ChatError::Syntax { line: 0, reason });
    }
    let template = without_generation_tags(template);
    let checked = catch_unwind(AssertUnwindSafe(|| {
        let environment = environment()?;
        match environment.template_from_str(&template) {
            Ok(_) => Ok(()),
            Err(error) => {
                Err(ChatError::Syntax { line: error.line().unwrap_or(0), reason: describe(&error) })
            }
        }
    }));
    let failed = || ChatError::Syntax { line: 0, reason: "the template engine failed".to_owned() };
    checked.unwrap_or_else(|_| Err(failed()))
}

fn describe(error: &minijinja::Error) -> String {
    let reason = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    reason.chars().take(300).collect()
}

fn render_error(error: minijinja::Error) -> ChatError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(Raised(reason)) = current.downcast_ref::<Raised>() {
            return ChatError::Refused { reason: reason.clone() };
        }
        if let Some(inner) = current.downcast_ref::<minijinja::Error>() {
            let about_time = inner.detail().is_some_and(|detail| detail.contains("strftime_now"));
            match inner.kind() {
                ErrorKind::OutOfFuel => return ChatError::OutOfFuel,
                ErrorKind::UnknownFunction if about_time => return ChatError::NeedsTime,
                _ => {}
            }
        }
        cause = current.source();
    }
    ChatError::Render { line: error.line().unwrap_or(0), reason: describe(&error) }
}

/// `{% generation %}` marks what the model wrote, for training. Here it becomes an `if` that is
/// always true, which treats white space alike.
fn without_generation_tags(template: &str) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        text.push_str(before);
        let Some(end) = tag.find("%}") else { break };
        let (open, inner) = match tag.as_bytes().get(2) {
            Some(b'-' | b'+') => tag[..end].split_at(3),
            _ => tag[..end].split_at(2),
        };
        let word = inner.trim_end_matches(['-', '+']);
        let close = &inner[word.len()..];
        match word.trim() {
            "generation" => text.extend([open, " if true ", close, "%}"]),
            "endgeneration" => text.extend([open, " endif ", close, "%}"]),
            _ => {
                // Only the opening: a text inside the tag may hold a closing of its own.
                text.push_str(open);
                rest = &tag[open.len()..];
                continue;
            }
        }
        rest = &tag[end + 2..];
    }
    text.push_str(rest);
    text
}
