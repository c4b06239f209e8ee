//! `blyan generate`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use blyan_core::MoEModelManager;
use blyan_core::manager::chat::{ChatRequest, CivilTime};
use blyan_core::manager::{
    FinishReason, GenerateOptions, Generation, ManagerOptions, Prompt, SamplingOptions, Stream,
};
use serde_json::{Value, json};

use super::{Context, read_input};
use crate::arguments::{Generate, Machine};
use crate::error::CliError;
use crate::names;

pub(super) fn run(context: &mut Context<'_, '_>, arguments: &Generate) -> Result<(), CliError> {
    // Before anything takes time.
    let input = Input::read(arguments, context.cancel)?;
    let chain = names::open(context.chain)?;
    let model = names::model(&chain, arguments.model.name.as_deref())?;
    let overlay = names::blocks(&chain, &arguments.overlay, None)?;
    let options = ManagerOptions {
        model,
        overlay,
        kv_cache: arguments.kv_cache,
        ..manager_options(&arguments.machine)
    };
    let place = arguments.receipt.as_deref().map(Place::open).transpose()?;
    let manager = MoEModelManager::open(&chain, &options)?;
    let mut stream = input.stream(&manager, &options_of(context, arguments))?;
    // One document at the end, or text as it is made.
    let (mut ends_line, mut printed) = (true, Ok(()));
    for piece in &mut stream {
        let text = piece?.text;
        if !context.json && !text.is_empty() {
            ends_line = text.ends_with('\n');
            printed = context.streams.print(&text).and_then(|()| context.streams.flush());
            if printed.is_err() {
                break;
            }
        }
    }
    let generation = stream.finish()?;
    // Of what was made, also if nobody reads the text to its end.
    if let Some(place) = place {
        place.write(&generation)?;
    }
    printed?;
    if context.json {
        context.streams.json(&document(&manager, &generation))?;
    } else if !ends_line {
        context.streams.print("\n")?;
    }
    match generation.finish_reason {
        FinishReason::Cancelled => Err(CliError::Interrupted),
        _ => Ok(()),
    }
}

/// How to run, whatever is run.
pub(super) fn manager_options(machine: &Machine) -> ManagerOptions {
    ManagerOptions { threads: machine.threads, isa: machine.isa.clone(), ..ManagerOptions::default() }
}

fn options_of(context: &Context<'_, '_>, arguments: &Generate) -> GenerateOptions {
    GenerateOptions {
        max_tokens: arguments.max_tokens,
        sampling: SamplingOptions {
            temperature: arguments.temperature,
            top_k: arguments.top_k,
            top_p: arguments.top_p,
            min_p: arguments.min_p,
            repetition_penalty: arguments.repetition_penalty,
            seed: arguments.seed,
        },
        stop: arguments.stop.clone(),
        ignore_eos: arguments.ignore_eos,
        logprobs: None,
        cancel: Some(Arc::clone(context.cancel)),
    }
}

/// What the model is given.
enum Input {
    Text(String),
    Messages(Vec<Value>, Option<CivilTime>),
}

impl Input {
    fn read(arguments: &Generate, cancel: &AtomicBool) -> Result<Self, CliError> {
        if let Some(path) = &arguments.messages {
            let messages = serde_json::from_slice(&read_input(path, cancel)?);
            let content = |error: serde_json::Error| CliError::Content {
                path: path.clone(),
                reason: format!("expected a JSON list of messages: {error}"),
            };
            return messages.map(|messages| Self::Messages(messages, arguments.now)).map_err(content);
        }
        let prompt = match (&arguments.prompt, &arguments.file) {
            (Some(prompt), _) => prompt.clone(),
            (None, Some(path)) => String::from_utf8(read_input(path, cancel)?).map_err(|_| {
                CliError::Content { path: path.clone(), reason: "it is not UTF-8".to_owned() }
            })?,
            (None, None) => String::new(),
        };
        if !arguments.chat {
            return Ok(Self::Text(prompt));
        }
        let system = arguments.system.iter().map(|system| json!({"role": "system", "content": system}));
        let messages = system.chain([json!({"role": "user", "content": prompt})]).collect();
        Ok(Self::Messages(messages, arguments.now))
    }

    fn stream(
        &self,
        manager: &MoEModelManager,
        options: &GenerateOptions,
    ) -> Result<Stream<'static>, CliError> {
        Ok(match self {
            Self::Text(text) => manager.stream(Prompt::from(text.as_str()), options)?,
            Self::Messages(messages, now) => {
                let request = ChatRequest { messages, now: *now, ..ChatRequest::default() };
                manager.chat_stream(&request, options)?
            }
        })
    }
}

/// Where a receipt goes, opened before there is one: a place that cannot be written is no reason to lose a
/// text that took long.
struct Place {
    path: PathBuf,
    file: File,
    /// Whether it is this command's, and empty.
    made: bool,
}

impl Place {
    fn open(path: &Path) -> Result<Self, CliError> {
        let made = OpenOptions::new().write(true).create_new(true).open(path);
        let opened = match made {
            Ok(file) => Ok((file, true)),
            // What is in it stays until there is a receipt.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                OpenOptions::new().write(true).open(path).map(|file| (file, false))
            }
            Err(error) => Err(error),
        };
        let (file, made) = opened.map_err(|source| write_error(path, source))?;
        Ok(Self { path: path.to_owned(), file, made })
    }

    fn write(mut self, generation: &Generation) -> Result<(), CliError> {
        let json = generation.receipt.to_json();
        let written = self.truncate().and_then(|()| self.file.write_all(json.as_bytes()));
        written.map_err(|source| write_error(&self.path, source))?;
        self.made = false;
        Ok(())
    }

    fn truncate(&self) -> io::Result<()> {
        // A pipe or a terminal has no length.
        if self.file.metadata()?.is_file() { self.file.set_len(0) } else { Ok(()) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.made {
            // Nothing more can be done about one that stays.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn write_error(path: &Path, source: io::Error) -> CliError {
    CliError::File { action: "write", path: path.to_owned(), source }
}

fn document(manager: &MoEModelManager, generation: &Generation) -> Value {
    // As the receipt writes itself: its numbers are f32, which a Value would widen digit by digit.
    let receipt = serde_json::from_str(&generation.receipt.to_json()).unwrap_or(Value::Null);
    json!({
        "model": manager.model(), "text": generation.text, "tokens": generation.tokens,
        "prompt_tokens": generation.prompt_tokens, "finish_reason": generation.finish_reason,
        "receipt": receipt,
    })
}
