//! Owns chats: conversations written by the model's own template.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::c_char;
use std::ptr;

use blyan_core::manager::chat::{ChatRequest, CivilTime};
use serde_json::{Map, Value};

use crate::edge::{Options, init_options, new_handle, optional_text, options, read, text};
use crate::error::{Failure, Outcome, blyan_status, edge};
use crate::generate::{asked, blyan_generate_options, blyan_generation};
use crate::model::blyan_model;
use crate::stream::blyan_stream;
use crate::text::{BLYAN_NUL, blyan_str, blyan_text};

/// A date and time of day, in whatever time zone the user lives in.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_time {
    /// 1 to 9999; 0: no time at all.
    pub year: u32,
    /// From 1.
    pub month: u32,
    /// From 1.
    pub day: u32,
    /// 0 to 23.
    pub hour: u32,
    /// 0 to 59.
    pub minute: u32,
    /// 0 to 59.
    pub second: u32,
}

/// What a chat template is given beside messages. Fill it with `blyan_chat_options_init` first.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_chat_options {
    /// `sizeof(blyan_chat_options)`.
    pub size: usize,
    /// JSON array of the schemas of functions that the model may call; by default NULL.
    pub tools: blyan_str,
    /// JSON array of documents with "title" and "text"; by default NULL.
    pub documents: blyan_str,
    /// JSON object of further variables, such as {"enable_thinking": false}; by default NULL.
    pub variables: blyan_str,
    /// Name of the template; by default NULL: "tool_use" if there are tools and it exists, or else
    /// "default".
    pub template_name: blyan_str,
    /// What the template takes for now; by default year 0: none.
    pub now: blyan_time,
}

const NO_TEXT: blyan_str = blyan_str { data: ptr::null(), len: BLYAN_NUL };

// SAFETY: numbers and pointers alone, the size first.
unsafe impl Options for blyan_chat_options {
    fn defaults(size: usize) -> Self {
        Self {
            size,
            tools: NO_TEXT,
            documents: NO_TEXT,
            variables: NO_TEXT,
            template_name: NO_TEXT,
            now: blyan_time { year: 0, month: 0, day: 0, hour: 0, minute: 0, second: 0 },
        }
    }
}

/// Fills options with their defaults; `size` is `sizeof *options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chat_options_init(
    options: *mut blyan_chat_options,
    size: usize,
) -> blyan_status {
    // SAFETY: the caller's pointer, as the header asks.
    edge(|| unsafe { init_options(options, size) })
}

/// A conversation, parsed.
struct Chat {
    messages: Vec<Value>,
    tools: Option<Vec<Value>>,
    documents: Option<Vec<Value>>,
    variables: Option<Map<String, Value>>,
    template: Option<String>,
    now: Option<CivilTime>,
}

fn parse<T: serde::de::DeserializeOwned>(json: &str, name: &str, expected: &str) -> Outcome<T> {
    serde_json::from_str(json)
        .map_err(|error| Failure::argument(format!("{name} is no JSON {expected}: {error}")))
}

/// # Safety
///
/// The pointers are NULL or valid.
unsafe fn chat_of(
    messages: *const c_char,
    messages_len: usize,
    options: *const blyan_chat_options,
) -> Outcome<Chat> {
    // SAFETY: the caller's promise.
    let (messages, given) =
        unsafe { (text(messages, messages_len, "messages")?, self::options(options, "chat options")?) };
    // SAFETY: as above.
    let text_of = |text: blyan_str, name| unsafe { optional_text(text.data, text.len, name) };
    let list = |text: blyan_str, name| {
        text_of(text, name)?.map(|json| parse::<Vec<Value>>(json, name, "array")).transpose()
    };
    let time = given.now;
    let now = (time.year != 0).then(|| {
        CivilTime::new((time.year, time.month, time.day), (time.hour, time.minute, time.second))
            .map_err(|error| Failure::argument(format!("now: {error}")))
    });
    let variables = text_of(given.variables, "variables")?;
    Ok(Chat {
        messages: parse(messages, "messages", "array")?,
        tools: list(given.tools, "tools")?,
        documents: list(given.documents, "documents")?,
        variables: variables.map(|json| parse(json, "variables", "object")).transpose()?,
        template: text_of(given.template_name, "template_name")?.map(str::to_owned),
        now: now.transpose()?,
    })
}

impl Chat {
    fn request(&self, add_generation_prompt: bool) -> ChatRequest<'_> {
        ChatRequest {
            messages: &self.messages,
            tools: self.tools.as_deref(),
            documents: self.documents.as_deref(),
            add_generation_prompt,
            template: self.template.as_deref(),
            now: self.now,
            variables: self.variables.as_ref(),
        }
    }
}

/// Names of a model's chat templates, as a JSON array.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_model_chat_templates_json(
    model: *const blyan_model,
    json: *mut *mut blyan_text,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (json, model) = unsafe { (new_handle(json, "json")?, read(model, "model")?) };
        let names: Value = model.manager.chat_templates().names().collect();
        json.set(blyan_text::new(names.to_string()));
        Ok(())
    })
}

/// A special token's text, such as that of "bos_token"; `BLYAN_STATUS_NOT_FOUND` if the model has none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_model_special_token(
    model: *const blyan_model,
    name: *const c_char,
    name_len: usize,
    token: *mut *mut blyan_text,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (token, model, name) =
            unsafe { (new_handle(token, "token")?, read(model, "model")?, text(name, name_len, "name")?) };
        let found = model.manager.chat_templates().special_token(name);
        let unknown = || Failure::new(blyan_status::NotFound, format!("the model has no {name:?}"));
        token.set(blyan_text::new(found.ok_or_else(unknown)?));
        Ok(())
    })
}

/// What the model's chat template makes of a conversation: `messages` is a JSON array of objects with
/// "role", "content" and whatever else the template reads. `options` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_model_chat_prompt(
    model: *const blyan_model,
    messages: *const c_char,
    messages_len: usize,
    options: *const blyan_chat_options,
    add_generation_prompt: bool,
    prompt: *mut *mut blyan_text,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (prompt, model, chat) = unsafe {
            (new_handle(prompt, "prompt")?, read(model, "model")?, chat_of(messages, messages_len, options)?)
        };
        prompt.set(blyan_text::new(model.manager.chat_prompt(&chat.request(add_generation_prompt))?));
        Ok(())
    })
}

/// Answers a conversation, a JSON array as for `blyan_model_chat_prompt`; both options may be NULL. With
/// `BLYAN_STATUS_STOPPED` there is a generation, too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_model_chat(
    model: *const blyan_model,
    messages: *const c_char,
    messages_len: usize,
    chat_options: *const blyan_chat_options,
    options: *const blyan_generate_options,
    generation: *mut *mut blyan_generation,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (generation, model, chat, asked) = unsafe {
            (
                new_handle(generation, "generation")?,
                read(model, "model")?,
                chat_of(messages, messages_len, chat_options)?,
                asked(options)?,
            )
        };
        asked.run(model.manager.chat_stream(&chat.request(true), &asked.options)?, generation)
    })
}

/// Begins to answer a conversation, a JSON array as for `blyan_model_chat_prompt`; both options may be
/// NULL and have no `on_token`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_model_chat_stream(
    model: *const blyan_model,
    messages: *const c_char,
    messages_len: usize,
    chat_options: *const blyan_chat_options,
    options: *const blyan_generate_options,
    stream: *mut *mut blyan_stream,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (stream, model, chat, asked) = unsafe {
            (
                new_handle(stream, "stream")?,
                read(model, "model")?,
                chat_of(messages, messages_len, chat_options)?,
                asked(options)?,
            )
        };
        let options = asked.silent("a stream")?;
        stream.set(blyan_stream::new(model.manager.chat_stream(&chat.request(true), &options)?));
        Ok(())
    })
}
