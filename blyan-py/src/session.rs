//! Owns `blyan.Session` and `blyan.Stream`: conversations, and text as it is made.
//!
//! A stream lives on a thread of its own, which makes a piece whenever one is asked for. So a session's
//! stream can borrow the session, and Ctrl-C is heard while a piece is made; the piece is not lost, the
//! next call gives it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::thread::JoinHandle;
use std::time::Instant;

use blyan_core::manager::{
    GenerateOptions, Generation, ManagerError, Piece, Session as CoreSession, Stream as CoreStream,
};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::args::{self, Count, Generate, PromptArg};
use crate::door::{Job, POLL, Silent, Watch, caught, lock, run_watched, spawn};
use crate::failure::Failure;
use crate::fork::Local;
use crate::{logs, values};

const SESSION_BUSY: &str = "the session is in use: finish its stream, or wait for the other call";
const STREAM_BUSY: &str = "the stream is in use by another thread";

/// A conversation that keeps its KV cache: each call goes on where the last one stopped.
///
/// A session is used by one call or stream at a time; another one raises `BusyError`.
///
/// >>> session = model.session()
/// >>> first = session.generate("In the beginning", max_tokens=8)
/// >>> len(session) == first.prompt_tokens + len(first.tokens)
/// True
#[pyclass(frozen, module = "blyan")]
pub(crate) struct Session {
    session: Local<Arc<Mutex<CoreSession>>>,
}

/// The session, if nobody uses it.
fn borrow(session: &Mutex<CoreSession>) -> Result<MutexGuard<'_, CoreSession>, Failure> {
    match session.try_lock() {
        Ok(session) => Ok(session),
        // A panic was an error already; the session is as the core left it.
        Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => Err(Failure::Busy(SESSION_BUSY)),
    }
}

impl Session {
    pub(crate) fn new(session: CoreSession) -> Self {
        Self { session: Local::new(Arc::new(Mutex::new(session))) }
    }

    fn shared(&self, py: Python<'_>) -> PyResult<Arc<Mutex<CoreSession>>> {
        self.session.get("session").cloned().map_err(|failure| failure.into_py(py))
    }

    fn with<T>(&self, py: Python<'_>, work: impl FnOnce(&mut CoreSession) -> T) -> PyResult<T> {
        let session = self.shared(py)?;
        let mut session = borrow(&session).map_err(|failure| failure.into_py(py))?;
        Ok(work(&mut session))
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
        let watch = Watch { callback: None, cancel };
        let generation = run_watched(py, &watch, move |job: &Job<Silent>| {
            options.cancel = Some(Arc::clone(&job.cancel));
            borrow(&session)?.generate(prompt.0, &options).map_err(Failure::from)
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
        Stream::spawn(py, generate, move |options, serve| {
            let mut session = match borrow(&session) {
                Ok(session) => session,
                Err(failure) => return serve.refuse(failure),
            };
            serve.run(|| session.stream(prompt.0, options));
        })
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
            Err(_) => "<Session in use>".to_owned(),
        }
    }
}

enum Request {
    Next,
    Finish,
}

enum Reply {
    Piece(Result<Option<Piece>, Failure>),
    Finished(Box<Result<Generation, Failure>>),
}

/// The thread of a stream, seen from inside.
struct Serve {
    requests: Receiver<Request>,
    replies: Sender<Reply>,
}

impl Serve {
    /// Answers the first request with why there is no stream.
    fn refuse(self, failure: Failure) {
        if self.requests.recv().is_ok() {
            let _ = self.replies.send(Reply::Piece(Err(failure)));
        }
    }

    /// Makes pieces as they are asked for, until the stream is finished or nobody can ask any more.
    fn run<'s>(self, start: impl FnOnce() -> Result<CoreStream<'s>, ManagerError>) {
        // Starting is part of the first request, so that its errors have somebody to go to.
        let mut stream = match caught(|| start().map_err(Failure::from)) {
            Ok(stream) => stream,
            Err(failure) => return self.refuse(failure),
        };
        while let Ok(request) = self.requests.recv() {
            match request {
                Request::Next => {
                    let piece = caught(|| stream.next().transpose().map_err(Failure::from));
                    if self.replies.send(Reply::Piece(piece)).is_err() {
                        return;
                    }
                }
                Request::Finish => {
                    let generation = caught(|| stream.finish().map_err(Failure::from));
                    let _ = self.replies.send(Reply::Finished(Box::new(generation)));
                    return;
                }
            }
        }
    }
}

/// The thread of a stream, seen from Python.
struct Actor {
    requests: Option<Sender<Request>>,
    replies: Receiver<Reply>,
    thread: Option<JoinHandle<()>>,
    /// Ends the generation.
    cancel: Arc<AtomicBool>,
    /// The caller's flag, which ends it too. It may be that of several streams: it is only read.
    asked: Option<Arc<AtomicBool>>,
    /// A request was made whose reply was not read: the call was interrupted.
    pending: bool,
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
        drop(self.requests.take());
        // A thread that waits for requests ends at once, and gives back a session that it borrowed. One
        // that makes a piece ends after it.
        if let Some(thread) = self.thread.take().filter(|_| !self.pending) {
            let _ = thread.join();
        }
    }
}

impl Actor {
    /// Passes on what the caller's flag says.
    fn hear(&self) {
        if self.asked.as_ref().is_some_and(|asked| asked.load(Ordering::Relaxed)) {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }

    /// The reply to a request; an interrupted call leaves it to the next one.
    fn ask(&mut self, py: Python<'_>, request: Request) -> PyResult<Option<Reply>> {
        self.hear();
        if !self.pending {
            let sent = self.requests.as_ref().map(|requests| requests.send(request));
            if !matches!(sent, Some(Ok(()))) {
                return Ok(None);
            }
            self.pending = true;
        }
        let mut looked = Instant::now();
        loop {
            // The lock is what the type system asks for: one thread uses the receiver, this one.
            let replies = Mutex::new(&mut self.replies);
            let reply = py.detach(|| lock(&replies).recv_timeout(POLL));
            match reply {
                Ok(reply) => {
                    self.pending = false;
                    logs::deliver(py);
                    return Ok(Some(reply));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.pending = false;
                    return Ok(None);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if looked.elapsed() >= POLL {
                looked = Instant::now();
                self.hear();
                py.check_signals()?;
            }
        }
    }
}

/// Text as it is made: an iterator of `Piece`, each what one token makes certain.
///
/// `finish` gives the generation so far, after the last piece or at any moment. A stream is a context
/// manager, which ends it. Ctrl-C interrupts it; the stream can go on after that.
///
/// >>> with model.stream("In the beginning", max_tokens=100) as stream:
/// ...     piece = next(stream)
/// ...     generation = stream.finish()
/// >>> generation.finish_reason, generation.tokens == [piece.token]
/// ('cancelled', True)
#[pyclass(frozen, module = "blyan")]
pub(crate) struct Stream {
    /// `None` once it ended.
    actor: Local<Mutex<Option<Actor>>>,
    end: Mutex<End>,
    cancel: Arc<AtomicBool>,
}

/// How a stream ended.
enum End {
    /// Not yet; or it was closed, if it has no thread.
    Open,
    /// Read to its end or finished: the generation.
    Finished(Py<PyAny>),
    /// It gave an error.
    Failed,
}

impl Stream {
    /// A stream of its own session.
    pub(crate) fn start(
        py: Python<'_>,
        generate: Generate,
        start: impl FnOnce(&GenerateOptions) -> Result<CoreStream<'static>, ManagerError> + Send + 'static,
    ) -> PyResult<Self> {
        Self::spawn(py, generate, move |options, serve| serve.run(|| start(options)))
    }

    fn spawn(
        py: Python<'_>,
        generate: Generate,
        work: impl FnOnce(&GenerateOptions, Serve) + Send + 'static,
    ) -> PyResult<Self> {
        let Generate { mut options, cancel: asked } = generate;
        let (requests, inbox) = channel();
        let (outbox, replies) = channel();
        let cancel = Arc::new(AtomicBool::new(false));
        options.cancel = Some(Arc::clone(&cancel));
        let serve = Serve { requests: inbox, replies: outbox };
        let thread = spawn("blyan stream", move || work(&options, serve));
        let thread = thread.map_err(|failure| failure.into_py(py))?;
        let requests = Some(requests);
        let stop = Arc::clone(&cancel);
        let actor = Actor { requests, replies, thread: Some(thread), cancel: stop, asked, pending: false };
        let actor = Local::new(Mutex::new(Some(actor)));
        Ok(Self { actor, end: Mutex::new(End::Open), cancel })
    }

    /// The stream's thread, if no other call uses it.
    fn actor(&self, py: Python<'_>) -> PyResult<MutexGuard<'_, Option<Actor>>> {
        let actor = self.actor.get("stream").map_err(|failure| failure.into_py(py))?;
        match actor.try_lock() {
            Ok(actor) => Ok(actor),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(Failure::Busy(STREAM_BUSY).into_py(py)),
        }
    }
}

#[pymethods]
impl Stream {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let mut slot = self.actor(py)?;
        let Some(actor) = slot.as_mut() else { return Ok(None) };
        match actor.ask(py, Request::Next)? {
            Some(Reply::Piece(Ok(Some(piece)))) => values::piece(py, &piece).map(Some),
            // Read to its end: finished at once, so that it holds no session any more.
            Some(Reply::Piece(Ok(None))) => self.end(py, &mut slot).map(|_| None),
            Some(Reply::Piece(Err(failure))) => Err(self.fail(py, &mut slot, failure)),
            // A `finish` that was interrupted.
            Some(Reply::Finished(generation)) => self.keep(py, &mut slot, *generation).map(|_| None),
            None => Err(self.fail(py, &mut slot, ManagerError::StreamFailed.into())),
        }
    }

    /// The generation so far. A stream that was not read to its end counts as cancelled.
    fn finish(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let mut slot = self.actor(py)?;
        match &*lock(&self.end) {
            End::Finished(generation) => return Ok(generation.clone_ref(py)),
            End::Failed => return Err(Failure::from(ManagerError::StreamFailed).into_py(py)),
            End::Open if slot.is_none() => return Err(Failure::Closed("stream").into_py(py)),
            End::Open => {}
        }
        self.end(py, &mut slot)
    }

    /// Ends the stream at the next token, from any thread. What was made so far stays.
    fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }

    /// Ends the stream and lets go of its memory, or of the session that it borrows.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let_go(py, &mut *self.actor(py)?);
        Ok(())
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.close(py)
    }

    fn __repr__(&self) -> String {
        "<Stream: iterate over it>".to_owned()
    }
}

impl Stream {
    /// Finishes the stream.
    fn end(&self, py: Python<'_>, slot: &mut Option<Actor>) -> PyResult<Py<PyAny>> {
        while let Some(actor) = slot.as_mut() {
            match actor.ask(py, Request::Finish)? {
                Some(Reply::Finished(generation)) => return self.keep(py, slot, *generation),
                // The piece of an interrupted call.
                Some(Reply::Piece(Ok(_))) => {}
                Some(Reply::Piece(Err(failure))) => return Err(self.fail(py, slot, failure)),
                None => break,
            }
        }
        Err(self.fail(py, slot, ManagerError::StreamFailed.into()))
    }

    /// Keeps the generation, and lets go of the stream.
    fn keep(
        &self,
        py: Python<'_>,
        slot: &mut Option<Actor>,
        generation: Result<Generation, Failure>,
    ) -> PyResult<Py<PyAny>> {
        let generation = match generation {
            Ok(generation) => values::generation(py, generation)?.unbind(),
            Err(failure) => return Err(self.fail(py, slot, failure)),
        };
        *lock(&self.end) = End::Finished(generation.clone_ref(py));
        let_go(py, slot);
        Ok(generation)
    }

    /// Notes that the stream failed, and lets go of it.
    fn fail(&self, py: Python<'_>, slot: &mut Option<Actor>, failure: Failure) -> PyErr {
        *lock(&self.end) = End::Failed;
        let_go(py, slot);
        failure.into_py(py)
    }
}

/// Ends the thread of a stream, and gives back the session that it borrows.
fn let_go(py: Python<'_>, slot: &mut Option<Actor>) {
    let actor = slot.take();
    py.detach(|| drop(actor));
}
