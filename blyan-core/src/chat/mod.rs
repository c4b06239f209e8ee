//! Owns chat templates: messages to the text that a chat model continues.
//!
//! Renders as transformers' `apply_chat_template` does: Jinja with `trim_blocks` and
//! `lstrip_blocks`, Python's string methods, `raise_exception`, a `tojson` that escapes no HTML,
//! loop controls and `{% generation %}`. A template comes with the checkpoint and is not trusted: it
//! reaches nothing but its arguments, and fuel bounds what it does and makes. (Not bounded is what
//! the engine itself does with one value at a time: to compare a list that holds one twice, 40 levels
//! deep, takes as long as that takes; to concatenate it, or give it to `replace`, `indent` or `pprint`,
//! as much memory, too.)
//!
//! A template that does not compile spoils only itself: reading keeps what is wrong with it, and whoever
//! asks for it is told. An import refuses it ([`ChatTemplates::check`]).
//!
//! The result depends on the arguments alone. `strftime_now` therefore exists only where the caller
//! says what time it is; templates that ask `strftime_now is defined` fall back to a date of theirs.

mod date;
mod generation;
mod json;
mod python;
mod tags;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Serde, ValueKind, ValueOrKwargs};
use minijinja::{Environment, ErrorKind, State, Value};
use serde_json::{Map, Value as Json};

pub use date::{CivilTime, DateError};
use generation::without_generation_tags;
use tags::{filter_attributes, longest_tag};

/// Largest template that is compiled, in bytes; published ones have up to some 20 KiB.
pub const MAX_TEMPLATE_BYTES: usize = 128 << 10;

/// Longest tag in bytes, texts and white space not counted: the time in which the engine folds a chain
/// of constants grows with the cube of its length.
const MAX_TAG_BYTES: usize = 4 << 10;

/// Most instructions and 64-byte units of memory that one rendering may use. A message takes some
/// 100, of some templates 1,500; the limit grows with the chat, see [`fuel`].
const MAX_FUEL: u64 = 8_000_000;

/// Stack of the thread that compiles and renders. The engine recurses over long chains of operators,
/// one level for each byte at worst, at up to 400 bytes a level, and over nested lists: in a stack of usual
/// size that would abort the process. Only what is used of it takes memory.
const STACK_BYTES: usize = 512 << 20;

/// Name of a filter, which no template can give to another as it could a function's.
const FREE_OF_NAMESPACES: &str = "free_of_namespaces";

/// Deepest nesting of a value that is assigned to an attribute.
const MAX_VALUE_DEPTH: usize = 1000;

/// Special tokens that every tokenizer may have, and a template can name, in the order of transformers 5.
pub(crate) const SPECIAL_TOKENS: [&str; 7] =
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
    /// By name; what is wrong with those that cannot be used.
    templates: BTreeMap<String, Result<String, ChatError>>,
    /// What is wrong with a file that may have templates.
    unreadable: Option<ChatError>,
    special_tokens: BTreeMap<String, String>,
}

impl ChatTemplates {
    /// Reads what the checkpoint has of `tokenizer_config.json`, `special_tokens_map.json` and
    /// `chat_template.jinja`, the last of which takes the place of the templates in the first. What
    /// is wrong with a file or template comes out where it is needed, or of [`Self::check`].
    pub fn read(
        tokenizer_config: Option<&[u8]>,
        special_tokens_map: Option<&[u8]>,
        chat_template: Option<&[u8]>,
    ) -> Self {
        let mut unreadable = None;
        let mut or_default = |read: Result<Map<String, Json>, ChatError>| {
            read.unwrap_or_else(|error| {
                unreadable.get_or_insert(error);
                Map::new()
            })
        };
        let config = or_default(object("tokenizer_config.json", tokenizer_config));
        let special = or_default(object("special_tokens_map.json", special_tokens_map));
        // The map is of old checkpoints; newer ones list their added tokens in the config instead.
        let special = if config.contains_key("added_tokens_decoder") { Map::new() } else { special };
        let mut special_tokens = BTreeMap::new();
        for name in SPECIAL_TOKENS {
            let token = special.get(name).and_then(token_text).or_else(|| token_text(config.get(name)?));
            if let Some(token) = token {
                special_tokens.insert(name.to_owned(), token.to_owned());
            }
        }
        // Those of one model alone, such as `image_token`: an object, or a key each.
        let own = |(name, token): (&String, &Json)| Some((name.clone(), token_text(token)?.to_owned()));
        for fields in [&config, &special] {
            let named = fields.get("extra_special_tokens").and_then(Json::as_object);
            special_tokens.extend(named.into_iter().flatten().filter_map(own));
        }
        let keys = special.iter().chain(&config).filter(|(name, _)| name.ends_with("_token"));
        for (name, token) in keys.filter_map(own) {
            special_tokens.entry(name).or_insert(token);
        }
        let templates = match chat_template {
            Some(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(BTreeMap::from([("default".to_owned(), text.to_owned())])),
                Err(_) => Err(config_error("chat_template.jinja", "it is not UTF-8")),
            },
            None => named_templates(config.get("chat_template")),
        };
        let templates = templates.unwrap_or_else(|error| {
            unreadable.get_or_insert(error);
            BTreeMap::new()
        });
        let checked = |(name, text): (String, String)| (name, check_template(&text).map(|()| text));
        Self { templates: templates.into_iter().map(checked).collect(), unreadable, special_tokens }
    }

    /// Whether every file could be read and every template compiles.
    ///
    /// # Errors
    ///
    /// [`ChatError::Config`] for a file of another form, [`ChatError::Syntax`] for a template that
    /// is no Jinja.
    pub fn check(&self) -> Result<(), ChatError> {
        let bad = self.templates.values().find_map(|template| template.as_ref().err());
        self.unreadable.as_ref().or(bad).map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Names of the templates, of those that cannot be used, too.
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
        if let Some(error) = &self.unreadable {
            return Err(error.clone());
        }
        if self.is_empty() {
            return Err(ChatError::NoTemplate);
        }
        let tool_use = request.tools.and_then(|_| self.templates.get("tool_use"));
        let template = match request.template {
            Some(name) => self.templates.get(name),
            None => tool_use.or_else(|| self.templates.get("default")),
        };
        match template {
            Some(Ok(text)) => Ok(text),
            Some(Err(error)) => Err(error.clone()),
            None => Err(ChatError::UnknownTemplate {
                name: request.template.unwrap_or("default").to_owned(),
                available: self.templates.keys().cloned().collect(),
            }),
        }
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
            context.insert(name.clone(), Value::from(token.as_str()));
        }
        for (name, value) in request.variables.into_iter().flatten() {
            context.insert(name.clone(), Value::from(Serde(value)));
        }
        context.insert("messages".to_owned(), Value::from(Serde(&messages)));
        context.insert("tools".to_owned(), Value::from(Serde(request.tools)));
        context.insert("documents".to_owned(), Value::from(Serde(request.documents)));
        context.insert("add_generation_prompt".to_owned(), Value::from(request.add_generation_prompt));

        let mut environment = environment()?;
        environment.set_fuel(Some(fuel(request)));
        if let Some(now) = request.now {
            environment.add_function("strftime_now", move |format: &str| {
                now.format(format).map_err(|error| minijinja_error(error.to_string()))
            });
        }
        let template = source(template)?;
        on_large_stack(|| {
            // Whatever holds values, errors too, is dropped here.
            let render = || environment.template_from_str(&template)?.render(Value::from(context));
            render().map_err(render_error)
        })
        .unwrap_or_else(|reason| Err(ChatError::Render { line: 0, reason }))
    }
}

/// Runs the engine where it can recurse, and turns its panics into text.
fn on_large_stack<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, run);
        let thread = thread.map_err(|error| format!("there is no thread to render on: {error}"))?;
        thread.join().map_err(|_| "the template engine failed".to_owned())
    })
}

/// What a chat of this size may use, up to [`MAX_FUEL`].
fn fuel(request: &ChatRequest<'_>) -> u64 {
    fn size(value: &Json) -> u64 {
        match value {
            Json::String(text) => 10 + text.len() as u64 / 8,
            Json::Array(items) => 10 + items.iter().map(size).sum::<u64>(),
            Json::Object(fields) => 10 + fields.values().map(size).sum::<u64>(),
            _ => 10,
        }
    }
    let lists = [Some(request.messages), request.tools, request.documents];
    let inputs = lists.into_iter().flatten().flatten();
    (250_000 + inputs.map(|input| 2_000 + size(input)).sum::<u64>()).min(MAX_FUEL)
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
    // Else errors hold the values around them.
    environment.set_debug(false);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(python::method);
    environment.set_formatter(|out, state, value| json::print(out, state, value));
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("string", json::string);
    environment.add_filter("tojson", json::tojson);
    environment.add_filter(FREE_OF_NAMESPACES, free_of_namespaces);
    // As in Jinja: what has a length and an order of its own, and what a loop can go over.
    let is_sequence = |kind| matches!(kind, ValueKind::Seq | ValueKind::String | ValueKind::Map);
    environment.add_test("sequence", move |value: Value| is_sequence(value.kind()));
    environment.add_test("iterable", move |value: Value| {
        is_sequence(value.kind()) || matches!(value.kind(), ValueKind::Iterable | ValueKind::Undefined)
    });
    environment.add_function("raise_exception", |state: &State<'_, '_>, message: &Value| {
        json::pay_for(state, message)?;
        let message = message.to_string();
        Err::<Value, _>(minijinja_error("the template refuses").with_source(Raised(message)))
    });
    // None of Jinja's globals, and it writes out all there is.
    environment.remove_global("debug");
    pay_for_texts(&mut environment);
    Ok(environment)
}

/// Filters that make a text of whatever they are given, paid for before they do: those that are in the engine as they
/// can be called. `replace`, `indent` and `pprint` are not: the ones that can be have no fuel.
fn pay_for_texts(environment: &mut Environment<'static>) {
    macro_rules! paid {
        ($($name:literal: $filter:path),* $(,)?) => {$(
            let filter = Value::from_function($filter);
            environment.add_filter($name, move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
                let args = args.into_values();
                for value in &args {
                    json::pay_for(state, value)?;
                }
                filter.call(state, &args)
            });
        )*};
    }
    use minijinja::filters;
    paid! {
        "upper": filters::upper, "lower": filters::lower, "title": filters::title,
        "capitalize": filters::capitalize, "trim": filters::trim, "join": filters::join,
        "escape": filters::escape, "e": filters::escape, "format": filters::format, "split": filters::split,
        "lines": filters::lines, "safe": filters::safe,
    }
}

/// `value | default(default_value='', boolean=False)`
fn default(
    state: &State<'_, '_>,
    value: &Value,
    args: Rest<Value>,
    kwargs: Kwargs,
) -> Result<Value, minijinja::Error> {
    let args = python::places(&args, &kwargs, ["default_value", "boolean"])?;
    minijinja::filters::default(state, value, Rest(args))
}

fn minijinja_error(reason: impl Into<std::borrow::Cow<'static, str>>) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, reason)
}

fn check_template(template: &str) -> Result<(), ChatError> {
    if template.len() > MAX_TEMPLATE_BYTES {
        let reason = format!("{} bytes are more than {MAX_TEMPLATE_BYTES}", template.len());
        return Err(ChatError::Syntax { line: 0, reason });
    }
    let plain = plain_source(template);
    let template = source(template)?;
    if longest_tag(&template) > MAX_TAG_BYTES {
        let reason = format!("a tag has more than {MAX_TAG_BYTES} bytes besides its texts");
        return Err(ChatError::Syntax { line: 0, reason });
    }
    let environment = environment()?;
    // As it is, too: brackets that do not match could close those that are put around a value.
    let compile =
        || [&plain, &template].into_iter().try_for_each(|text| environment.template_from_str(text).map(drop));
    on_large_stack(|| match compile() {
        Ok(()) => Ok(()),
        Err(error) => Err(ChatError::Syntax { line: error.line().unwrap_or(0), reason: describe(&error) }),
    })
    .unwrap_or_else(|reason| Err(ChatError::Syntax { line: 0, reason }))
}

/// A template as Jinja reads it.
fn plain_source(template: &str) -> String {
    without_generation_tags(&template.replace("\r\n", "\n").replace('\r', "\n"))
}

/// A template as the engine is given it.
fn source(template: &str) -> Result<String, ChatError> {
    filter_attributes(&plain_source(template), FREE_OF_NAMESPACES)
        .map_err(|reason| ChatError::Syntax { line: 0, reason: reason.to_owned() })
}

/// Lets a value be assigned to an attribute unless a namespace is in it: one that held itself would be written out,
/// or compared, until the stack is gone. Nothing else can be changed after it was made.
fn free_of_namespaces(state: &State<'_, '_>, value: &Value) -> Result<Value, minijinja::Error> {
    fn look(
        state: &State<'_, '_>,
        value: &Value,
        depth: usize,
        seen: &mut u64,
    ) -> Result<(), minijinja::Error> {
        // A list that grows by a message at a time is looked through for each.
        *seen += 1;
        state.consume_fuel(u64::from(seen.is_multiple_of(8)))?;
        if value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace")) {
            return Err(minijinja_error("a namespace is assigned to an attribute of one"));
        }
        if depth > MAX_VALUE_DEPTH {
            return Err(minijinja_error("a value that is nested too deeply is assigned to an attribute"));
        }
        let is_map = value.kind() == ValueKind::Map;
        if is_map || matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
            for item in value.try_iter()? {
                look(state, &item, depth + 1, seen)?;
                if is_map {
                    look(state, &value.get_item(&item)?, depth + 1, seen)?;
                }
            }
        }
        Ok(())
    }
    look(state, value, 0, &mut 0)?;
    Ok(value.clone())
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
