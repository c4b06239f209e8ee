//! Owns `blyan.Session`: conversations.

use std::sync::Arc;

use blyan_core::manager::{Session as CoreSession, SharedSession};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::args::{self, Count, Generate, PromptArg};
use crate::door::{Job, Silent, Watch, run_watched};
use crate::failure::Failure;
use crate::fork::Local;
use crate::stream::Stream;
use crate::values;

/// A conversation that keeps its KV cache: each call goes on where the last one stopped.
///
/// A session is used by one call or stream at a time; another one raises `BusyError`.
///
/// >>> session = model.session()
/// >>> first = session.generate("In the beginning", max_tokens=8)
/// >>> len(session) == first.prompt_tokens + len(first.tokens)
/// True
#[pyclass(frozen, weakref, module = "blyan")]
pub(crate) struct Session {
    session: Local<SharedSession>,
}

impl Session {
    pub(crate) fn new(session: CoreSession) -> Self {
        Self { session: Local::new(SharedSession::new(session)) }
    }

    fn shared(&self, py: Python<'_>) -> PyResult<SharedSession> {
        self.session.get("session").cloned().map_err(|failure| failure.into_py(py))
    }

    fn with<T>(&self, py: Python<'_>, work: impl FnOnce(&mut CoreSession) -> T) -> PyResult<T> {
        self.shared(py)?.with(work).map_err(|error| Failure::from(error).into_py(py))
    }
}

#[pymethods]
impl Session {
    /// Continues with `prompt`, which may be empty if there is something to continue. Takes the options
    /// of `MoEModelManager.generate`.
    #[pyo3(signature = (prompt, max_tokens=None, **options),
           text_signature = "($self, prompt, max_tokens=None, *, temperature=0.0, top_k=None, top_p=None, min_p=None, repetition_penalty=None, seed=0, stop=None, ignore_eos=False, logprobs=None, cancel=None)")]
    fn generate<'py>(
        &self,
        py: Python<'py>,
        prompt: PromptArg,
        max_tokens: Option<Count>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Generate { mut options, cancel } = args::generate(max_tokens, options, "generate")?;
        let session = self.shared(py)?;
        let watch = Watch { cancel, ..Watch::default() };
        let generation = run_watched(py, &watch, move |job: &Job<Silent>| {
            options.cancel = Some(Arc::clone(&job.cancel));
            session.with(|session| session.generate(prompt.0, &options))?.map_err(Failure::from)
        })?;
        values::generation(py, generation)
    }

    /// As `generate`, piece by piece.
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
        let session = self.shared(py)?;
        Ok(Stream::start(generate, true, move |options| session.stream(prompt.0, options)))
    }

    /// Every token said so far, prompts and outputs.
    #[getter]
    fn tokens(&self, py: Python<'_>) -> PyResult<Vec<u32>> {
        self.with(py, |session| session.tokens().to_vec())
    }

    /// Bytes of keys and values held.
    #[getter]
    fn cache_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, |session| session.cache_bytes())
    }

    /// Forgets everything from token `length` on: an edited question, another try.
    fn truncate(&self, py: Python<'_>, length: Count) -> PyResult<()> {
        self.with(py, |session| session.truncate(length.0))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, |session| session.tokens().len())
    }

    fn __bool__(&self) -> bool {
        true
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        match self.__len__(py) {
            Ok(tokens) => format!("<Session of {tokens} tokens>"),
            Err(_) if !self.session.is_here() => "<Session of another process>".to_owned(),
            Err(_) => "<Session in use>".to_owned(),
        }
    }
}
