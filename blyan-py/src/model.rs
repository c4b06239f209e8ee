//! Owns `blyan.MoEModelManager`: opening a model, generating, chatting, logits, tokens; and rebuilding
//! the model in a process made by `fork`.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};

use blyan_core::kernels::Isa;
use blyan_core::manager::chat::{ChatRequest, CivilTime};
use blyan_core::manager::text::Tokenizer;
use blyan_core::manager::{GenerateOptions, ManagerError, ManagerOptions, MoEModelManager as CoreManager};
use blyan_core::model::KvDType;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::args::{self, BlockArg, Count, Generate, ModelArg, PromptArg, Tokens, expected};
use crate::buffer::float_array;
use crate::chain::{Chain, ChainHandle, pickled_path};
use crate::door::{Job, Silent, Watch, lock, run, run_watched};
use crate::failure::Failure;
use crate::fork::Local;
use crate::session::Session;
use crate::snapshot::{Snapshot, model_of};
use crate::stream::Stream;
use crate::usage::UsageTracker;
use crate::{logs, values};

/// Bytes or tokens that take longer than a thread takes to start, and less than a person notices.
const LONG_TEXT: usize = 1 << 13;

/// An open model, shared by what was made from it.
pub(crate) struct ModelHandle {
    /// `None` once it is closed. Locked by who has the interpreter, and not beyond: so no fork finds it locked.
    current: Mutex<Option<Local<CoreManager>>>,
    /// Where its blocks come from, and what its snapshots ask. A model keeps no chain open.
    chain: Weak<ChainHandle>,
    dir: Option<PathBuf>,
    options: ManagerOptions,
}

impl ModelHandle {
    /// The model; in a process made by `fork`, with threads of that process.
    pub(crate) fn get(&self, py: Python<'_>) -> PyResult<CoreManager> {
        let raise = |failure: Failure| failure.into_py(py);
        match self.find().map_err(raise)? {
            Found::Here(model) => Ok(model),
            Found::Inherited(model) => {
                let reopened = run(py, move || model.reopen())?;
                self.keep(Local::new(reopened)).map_err(raise)
            }
        }
    }

    fn find(&self) -> Result<Found, Failure> {
        match &*lock(&self.current) {
            None => Err(Failure::Closed("model")),
            Some(model) if model.is_here() => model.get("model").cloned().map(Found::Here),
            // One more handle, which frees nothing when it goes: the guard never drops its own.
            Some(model) => model.anywhere().cloned().map(Found::Inherited).ok_or(Failure::Closed("model")),
        }
    }

    /// Keeps this process's model, if another thread was not faster.
    fn keep(&self, reopened: Local<CoreManager>) -> Result<CoreManager, Failure> {
        let mut current = lock(&self.current);
        match &*current {
            None => Err(Failure::Closed("model")),
            Some(model) if model.is_here() => model.get("model").cloned(),
            // The inherited one is forgotten by its guard.
            Some(_) => current.insert(reopened).get("model").cloned(),
        }
    }
}

enum Found {
    Here(CoreManager),
    /// The model of the process that this one was forked from.
    Inherited(CoreManager),
}

/// A model opened from a chain, ready to write text.
///
/// `model` is a model block, a name as `find_model` knows it ("latest", "tiny@1.0.0"), or a `Snapshot`;
/// without one, the chain has to hold exactly one model. `overlay` are blocks to try, each in the slot
/// that its name says; nothing is appended.
/// `threads` (all cores if None), `isa` ("scalar", "avx2", "avx512", "amx", "neon"; else `BLYAN_ISA` or the
/// best) and `prefill_chunk` never change a result; `kv_cache` ("f16" or "f32") does. With
/// `persist_usage` the counts of use are kept in the chain's directory. With `trust_verified` payload files
/// that were verified before and did not change since are not hashed again (SECURITY.md says what that
/// gives up). Where the CPU has AMX, the search for the best `isa`, like "amx", asks Linux for this
/// process's right to use it, which lasts until exec.
///
/// An open model needs the chain no more and does not keep it open, can be used from several threads at
/// once, and after `fork` starts threads of its own. Pickled, it is a path, a model and these options.
///
/// >>> model.generate("In the beginning", max_tokens=8).text
/// ' of the law, and the word of'
#[pyclass(frozen, weakref, module = "blyan")]
pub(crate) struct MoEModelManager {
    pub(crate) handle: Arc<ModelHandle>,
}

impl MoEModelManager {
    /// Another handle of an open model.
    pub(crate) fn of(handle: &Arc<ModelHandle>) -> Self {
        Self { handle: Arc::clone(handle) }
    }

    fn generate_watched(
        &self,
        py: Python<'_>,
        generate: Generate,
        work: impl FnOnce(&CoreManager, &GenerateOptions) -> Result<blyan_core::manager::Generation, ManagerError>
        + Send
        + 'static,
    ) -> PyResult<Py<PyAny>> {
        let model = self.handle.get(py)?;
        let Generate { mut options, cancel } = generate;
        let watch = Watch { cancel, ..Watch::default() };
        let generation = run_watched(py, &watch, move |job: &Job<Silent>| {
            options.cancel = Some(Arc::clone(&job.cancel));
            work(&model, &options)
        })?;
        values::generation(py, generation).map(Bound::unbind)
    }
}

#[pymethods]
impl MoEModelManager {
    #[new]
    #[pyo3(signature = (chain, model=None, threads=None, kv_cache="f16", *, overlay=vec![], isa=None,
                        prefill_chunk=None, persist_usage=true, trust_verified=false),
           text_signature = "(chain, model=None, threads=None, kv_cache='f16', *, overlay=(), isa=None, prefill_chunk=512, persist_usage=True, trust_verified=False)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn open(
        py: Python<'_>,
        chain: &Bound<'_, Chain>,
        model: Option<Bound<'_, PyAny>>,
        threads: Option<Count>,
        kv_cache: &str,
        overlay: Vec<BlockArg>,
        isa: Option<String>,
        prefill_chunk: Option<Count>,
        persist_usage: bool,
        trust_verified: bool,
    ) -> PyResult<Self> {
        let argument = |message: String| Failure::Argument(message).into_py(py);
        let snapshot = model.as_ref().and_then(|model| model.cast::<Snapshot>().ok());
        let snapshot = snapshot.map(|snapshot| snapshot.get().snapshot.clone());
        let (block, name) = match (&snapshot, model) {
            (None, Some(model)) => match model.extract()? {
                ModelArg::Block(block) => {
                    let core = chain.get().handle.get(py)?;
                    (Some(run(py, move || model_of(&core, block))?), None)
                }
                ModelArg::Name(name) => (None, Some(name)),
            },
            _ => (None, None),
        };
        let default = ManagerOptions::default();
        let options = ManagerOptions {
            model: block,
            name,
            overlay: overlay.into_iter().map(|block| block.0).collect(),
            threads: threads.map(|threads| threads.0),
            kv_cache: kv_cache.parse::<KvDType>().map_err(|error| argument(error.to_string()))?,
            isa,
            prefill_chunk: prefill_chunk.map_or(default.prefill_chunk, |chunk| chunk.0),
            persist_usage,
            trust_verified,
        };
        let handle = &chain.get().handle;
        let (core, opening) = (handle.get(py)?, options.clone());
        let manager = run_watched(py, &Watch::default(), move |_: &Job<Silent>| match snapshot {
            Some(snapshot) => CoreManager::open_snapshot(&core, snapshot, &opening),
            None => CoreManager::open(&core, &opening),
        })?;
        let current = Mutex::new(Some(Local::new(manager)));
        let (chain, dir) = (Arc::downgrade(handle), handle.dir().cloned());
        let handle = ModelHandle { current, chain, dir, options };
        Ok(Self { handle: Arc::new(handle) })
    }

    /// Continues a prompt: a text, or token ids.
    ///
    /// Greedy by default and until the model ends the text or its context is full. `stop` is a text or
    /// several that end the generation, as special tokens among them do when they are chosen; `logprobs` asks
    /// for log probabilities of that many best tokens; `cancel` is a `CancelToken`. Ctrl-C interrupts it.
    ///
    /// >>> model.generate([3, 17], max_tokens=2, temperature=0.8, seed=7).finish_reason
    /// 'max_tokens'
    #[pyo3(signature = (prompt, max_tokens=None, **options),
           text_signature = "($self, prompt, max_tokens=None, *, temperature=0.0, top_k=None, top_p=None, min_p=None, repetition_penalty=None, seed=0, stop=None, ignore_eos=False, logprobs=None, cancel=None)")]
    fn generate(
        &self,
        py: Python<'_>,
        prompt: PromptArg,
        max_tokens: Option<Count>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        let generate = args::generate(max_tokens, options, "generate")?;
        self.generate_watched(py, generate, move |model, options| model.generate(prompt.0, options))
    }

    /// As `generate`, piece by piece: an iterator of `Piece`, whose `finish` gives the generation.
    ///
    /// >>> stream = model.stream("And God said", max_tokens=4)
    /// >>> text = "".join(piece.text for piece in stream)
    /// >>> stream.finish().text == text
    /// True
    #[pyo3(signature = (prompt, max_tokens=None, **options),
           text_signature = "($self, prompt, max_tokens=None, *, temperature=0.0, top_k=None, top_p=None, min_p=None, repetition_penalty=None, seed=0, stop=None, ignore_eos=False, logprobs=None, cancel=None)")]
    fn stream(
        &self,
        py: Python<'_>,
        prompt: PromptArg,
        max_tokens: Option<Count>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Stream> {
        let generate = args::generate(max_tokens, options, "stream")?;
        let model = self.handle.get(py)?;
        Ok(Stream::start(generate, false, move |options| model.stream(prompt.0, options)))
    }

    /// Continues several prompts beside each other; each result is what the prompt alone would give.
    ///
    /// >>> [g.text for g in model.generate_batch(["And", "In"], max_tokens=1)]
    /// [' the', ' the']
    #[pyo3(signature = (prompts, max_tokens=None, **options),
           text_signature = "($self, prompts, max_tokens=None, *, temperature=0.0, top_k=None, top_p=None, min_p=None, repetition_penalty=None, seed=0, stop=None, ignore_eos=False, logprobs=None, cancel=None)")]
    fn generate_batch<'py>(
        &self,
        py: Python<'py>,
        prompts: Vec<PromptArg>,
        max_tokens: Option<Count>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Generate { mut options, cancel } = args::generate(max_tokens, options, "generate_batch")?;
        let model = self.handle.get(py)?;
        let watch = Watch { cancel, ..Watch::default() };
        let generations = run_watched(py, &watch, move |job: &Job<Silent>| {
            options.cancel = Some(Arc::clone(&job.cancel));
            model.generate_batch(prompts.into_iter().map(|prompt| prompt.0), &options)
        })?;
        Ok(values::list(py, generations, values::generation)?.into_any())
    }

    /// Answers a conversation: dicts with "role" and "content", written by the model's chat template.
    ///
    /// `tools` and `documents` go to the template, as do `variables`; `template` names one of several;
    /// `now` is a `datetime` for templates that print the date. The rest are `generate`'s options.
    #[pyo3(signature = (messages, max_tokens=None, **options),
           text_signature = "($self, messages, max_tokens=None, *, tools=None, documents=None, template=None, now=None, variables=None, temperature=0.0, top_k=None, top_p=None, min_p=None, repetition_penalty=None, seed=0, stop=None, ignore_eos=False, logprobs=None, cancel=None)")]
    fn chat(
        &self,
        py: Python<'_>,
        messages: &Bound<'_, PyAny>,
        max_tokens: Option<Count>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        let (chat, options) = Chat::split(messages, options)?;
        let generate = args::generate(max_tokens, Some(&options), "chat")?;
        self.generate_watched(py, generate, move |model, options| model.chat(&chat.request(true), options))
    }

    /// As `chat`, piece by piece.
    #[pyo3(signature = (messages, max_tokens=None, **options),
           text_signature = "($self, messages, max_tokens=None, *, tools=None, documents=None, template=None, now=None, variables=None, temperature=0.0, top_k=None, top_p=None, min_p=None, repetition_penalty=None, seed=0, stop=None, ignore_eos=False, logprobs=None, cancel=None)")]
    fn chat_stream(
        &self,
        py: Python<'_>,
        messages: &Bound<'_, PyAny>,
        max_tokens: Option<Count>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Stream> {
        let (chat, options) = Chat::split(messages, options)?;
        let generate = args::generate(max_tokens, Some(&options), "chat_stream")?;
        let model = self.handle.get(py)?;
        Ok(Stream::start(generate, false, move |options| model.chat_stream(&chat.request(true), options)))
    }

    /// What the model's chat template makes of a conversation.
    #[pyo3(signature = (messages, *, add_generation_prompt=true, **options),
           text_signature = "($self, messages, *, add_generation_prompt=True, tools=None, documents=None, template=None, now=None, variables=None)")]
    fn chat_prompt(
        &self,
        py: Python<'_>,
        messages: &Bound<'_, PyAny>,
        add_generation_prompt: bool,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<String> {
        let (chat, rest) = Chat::split(messages, options)?;
        if let Some(name) = rest.keys().iter().next() {
            let message = format!("chat_prompt() got an unexpected keyword argument '{name}'");
            return Err(PyTypeError::new_err(message));
        }
        let model = self.handle.get(py)?;
        run_watched(py, &Watch::default(), move |_: &Job<Silent>| {
            model.chat_prompt(&chat.request(add_generation_prompt))
        })
    }

    /// A conversation that keeps its KV cache.
    ///
    /// >>> session = model.session()
    /// >>> text = session.generate("And God", max_tokens=4).text + session.generate("", max_tokens=4).text
    /// >>> text == model.generate("And God", max_tokens=8).text
    /// True
    fn session(&self, py: Python<'_>) -> PyResult<Session> {
        Ok(Session::new(self.handle.get(py)?.session()))
    }

    /// Logits of every position: float32, (tokens, vocabulary). An array of numpy's, or a `memoryview`
    /// where numpy is missing.
    ///
    /// >>> model.logits([3, 17, 99]).shape
    /// (3, 2048)
    fn logits<'py>(&self, py: Python<'py>, tokens: Tokens) -> PyResult<Bound<'py, PyAny>> {
        let model = self.handle.get(py)?;
        let rows = tokens.0.len();
        let values = run_watched(py, &Watch::default(), move |_: &Job<Silent>| model.logits(&tokens.0))?;
        let columns = values.len().checked_div(rows).unwrap_or(0);
        float_array(py, &values, &[rows, columns])
    }

    /// Tokens of a text, with those that every text of the model starts with unless asked not to.
    #[pyo3(signature = (text, *, add_special_tokens=true))]
    fn tokenize(&self, py: Python<'_>, text: String, add_special_tokens: bool) -> PyResult<Vec<u32>> {
        let model = self.handle.get(py)?;
        of_text(py, text.len(), move || Ok(tokenizer(&model)?.encode(&text, add_special_tokens)?))
    }

    /// Text of tokens, without special tokens unless asked for them.
    ///
    /// >>> model.detokenize(model.tokenize("Let there be light"))
    /// 'Let there be light'
    #[pyo3(signature = (tokens, *, skip_special_tokens=true))]
    fn detokenize(&self, py: Python<'_>, tokens: Tokens, skip_special_tokens: bool) -> PyResult<String> {
        let model = self.handle.get(py)?;
        of_text(py, tokens.0.len(), move || Ok(tokenizer(&model)?.decode(&tokens.0, skip_special_tokens)?))
    }

    /// How many tokens a text is.
    #[pyo3(signature = (text, *, add_special_tokens=true))]
    fn count_tokens(&self, py: Python<'_>, text: String, add_special_tokens: bool) -> PyResult<usize> {
        let model = self.handle.get(py)?;
        of_text(py, text.len(), move || Ok(tokenizer(&model)?.count(&text, add_special_tokens)?))
    }

    /// Number of token ids that the model knows.
    #[getter]
    fn vocab_size(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.handle.get(py)?.snapshot().spec().vocab_size)
    }

    /// The id of a token by its text in the vocabulary; `None` if there is no such token.
    fn token_id(&self, py: Python<'_>, token: &str) -> PyResult<Option<u32>> {
        let model = self.handle.get(py)?;
        tokenizer(&model).map(|t| t.token_id(token)).map_err(|error| Failure::from(error).into_py(py))
    }

    /// The text of a token in the vocabulary; `None` if there is no such token.
    fn token_text(&self, py: Python<'_>, token: Count<u32>) -> PyResult<Option<String>> {
        let model = self.handle.get(py)?;
        tokenizer(&model).map(|t| t.token(token.0)).map_err(|error| Failure::from(error).into_py(py))
    }

    /// Names of the model's chat templates.
    #[getter]
    fn chat_templates(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        Ok(self.handle.get(py)?.chat_templates().names().map(str::to_owned).collect())
    }

    /// A special token's text, such as that of "bos_token"; `None` if the model has none.
    fn special_token(&self, py: Python<'_>, name: &str) -> PyResult<Option<String>> {
        Ok(self.handle.get(py)?.chat_templates().special_token(name).map(str::to_owned))
    }

    /// The model block; of a snapshot in memory the one it would be published as.
    #[getter]
    fn model<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        values::block_hash(py, self.handle.get(py)?.model())
    }

    /// Spec and slots. What asks the chain raises `ClosedError` if that is closed.
    #[getter]
    fn snapshot(&self, py: Python<'_>) -> PyResult<Snapshot> {
        let snapshot = self.handle.get(py)?.snapshot().clone();
        let ModelHandle { chain, dir, .. } = &*self.handle;
        let chain = chain.upgrade().unwrap_or_else(|| ChainHandle::closed(dir.clone()));
        Ok(Snapshot::new(&chain, snapshot))
    }

    /// The decoder, described by its parts, as a dict.
    #[getter]
    fn spec<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let bytes = self.handle.get(py)?.snapshot().spec().to_canonical_json();
        values::json(py, &String::from_utf8_lossy(&bytes))
    }

    /// Which experts work, how long they take and which work together.
    ///
    /// >>> first = model.usage.top(1)[0]
    /// >>> model.usage[first.slot].tokens == first.tokens
    /// True
    #[getter]
    fn usage(&self, py: Python<'_>) -> PyResult<UsageTracker> {
        self.handle.get(py)?;
        Ok(UsageTracker::new(Arc::clone(&self.handle)))
    }

    /// What was verified, mapped and touched so far.
    fn residency<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        values::residency(py, &self.handle.get(py)?.residency())
    }

    /// Name of the instruction set that computes.
    #[getter]
    fn isa(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(self.handle.get(py)?.isa())
    }

    /// Threads that compute.
    #[getter]
    fn threads(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.handle.get(py)?.threads())
    }

    /// Element type of KV caches: "f16" or "f32".
    #[getter]
    fn kv_cache(&self, py: Python<'_>) -> PyResult<String> {
        Ok(values::kv_dtype(self.handle.get(py)?.kv_cache()))
    }

    /// Stores the counts of use and lets go of the model's threads and maps, once nothing uses them.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let closed = lock(&self.handle.current).take();
        // Not locked any more: this lets go of the interpreter.
        drop(closed);
        logs::deliver(py)
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().handle.get(slf.py())?;
        Ok(slf)
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.close(py)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let (py, handle) = (slf.py(), &slf.get().handle);
        let path = pickled_path(py, handle.dir.as_ref(), "model")?;
        let snapshot = slf.get().snapshot(py)?;
        let published = *slf.get().handle.get(py)?.model();
        let options = PyDict::new(py);
        options.set_item("threads", handle.options.threads)?;
        options.set_item("kv_cache", values::kv_dtype(handle.options.kv_cache))?;
        options.set_item("isa", handle.options.isa.as_deref())?;
        options.set_item("prefill_chunk", handle.options.prefill_chunk)?;
        options.set_item("persist_usage", handle.options.persist_usage)?;
        options.set_item("trust_verified", handle.options.trust_verified)?;
        // A snapshot that was changed in memory is pickled as one; it asks the chain what was changed.
        let changed = snapshot.snapshot.base() != Some(&published);
        let model = if changed {
            Bound::new(py, snapshot)?.into_any()
        } else {
            published.to_string().into_pyobject(py)?.into_any()
        };
        let arguments = (path, model, options).into_pyobject(py)?.into_any();
        Ok((py.import("blyan._pickle")?.getattr("model")?, arguments))
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        match self.handle.get(py) {
            Ok(model) => {
                let architecture = model.snapshot().spec().architecture.model_type();
                let (hash, isa, threads) = (model.model().short(), model.isa(), model.threads());
                format!("<MoEModelManager {hash} {architecture}, {isa}, {threads} threads>")
            }
            Err(_) => "<MoEModelManager closed>".to_owned(),
        }
    }
}

/// Work on a text, or on tokens. A long one may take minutes: it can be interrupted.
fn of_text<T: Send + 'static>(
    py: Python<'_>,
    len: usize,
    work: impl FnOnce() -> Result<T, ManagerError> + Send + 'static,
) -> PyResult<T> {
    match len {
        0..LONG_TEXT => run(py, work),
        _ => run_watched(py, &Watch::default(), move |_: &Job<Silent>| work()),
    }
}

fn tokenizer(model: &CoreManager) -> Result<&Tokenizer, ManagerError> {
    model.tokenizer().ok_or(ManagerError::NoTokenizer)
}

/// A conversation, taken over from Python.
struct Chat {
    messages: Vec<serde_json::Value>,
    tools: Option<Vec<serde_json::Value>>,
    documents: Option<Vec<serde_json::Value>>,
    template: Option<String>,
    now: Option<CivilTime>,
    variables: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Chat {
    /// Takes the template's part out of the options.
    fn split<'py>(
        messages: &Bound<'py, PyAny>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<(Self, Bound<'py, PyDict>)> {
        let py = messages.py();
        let rest = options.map_or_else(|| Ok(PyDict::new(py)), PyDictMethods::copy)?;
        let take = |name: &str| -> PyResult<Option<Bound<'py, PyAny>>> {
            let value = rest.get_item(name)?;
            if value.is_some() {
                rest.del_item(name)?;
            }
            Ok(value.filter(|value| !value.is_none()))
        };
        let list = |name: &str| take(name)?.map(|value| from_json(name, &value)).transpose();
        let chat = Self {
            messages: from_json("messages", messages)?,
            tools: list("tools")?,
            documents: list("documents")?,
            template: take("template")?.map(|name| name.extract()).transpose()?,
            now: take("now")?.map(|now| civil_time(&now)).transpose()?,
            variables: take("variables")?.map(|value| from_json("variables", &value)).transpose()?,
        };
        Ok((chat, rest))
    }

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

/// A value of Python's own types, by way of JSON.
fn from_json<T: serde::de::DeserializeOwned>(name: &str, value: &Bound<'_, PyAny>) -> PyResult<T> {
    let wrong = |error: serde_json::Error| PyTypeError::new_err(format!("argument '{name}': {error}"));
    serde_json::from_str(&values::to_json(value)?).map_err(wrong)
}

/// A `datetime`.
fn civil_time(now: &Bound<'_, PyAny>) -> PyResult<CivilTime> {
    let attribute = |name: &str| now.getattr(name).map_err(|error| expected("a datetime as now", now, error));
    let field = |name: &str| attribute(name)?.extract::<u32>();
    let date = (field("year")?, field("month")?, field("day")?);
    let made = CivilTime::new(date, (field("hour")?, field("minute")?, field("second")?));
    made.map_err(|error| Failure::Argument(error.to_string()).into_py(now.py()))
}

/// The instruction sets that this CPU has, the fastest last. Linux is asked for this process's right to `amx`.
#[pyfunction]
pub(crate) fn available_isas() -> Vec<&'static str> {
    Isa::available().into_iter().map(Isa::name).collect()
}
