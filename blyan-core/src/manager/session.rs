//! Owns sessions and streams: a conversation that keeps its KV cache, and text as it is made.

use std::sync::{Arc, Mutex, PoisonError};

use super::job::{Job, Piece};
use super::options::{GenerateOptions, Prompt};
use super::receipt::{FinishReason, Receipt};
use super::run::{self, Context, Running};
use super::sampling::Logprobs;
use super::{ManagerError, Model};

/// A finished generation.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Generation {
    /// The new text; empty for a model without a tokenizer.
    pub text: String,
    /// The new tokens, a token that ended the text included.
    pub tokens: Vec<u32>,
    /// Tokens that the model had read or was given to read before the first new one.
    pub prompt_tokens: usize,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// One entry a new token, if they were asked for.
    pub logprobs: Vec<Logprobs>,
    /// What ran, complete enough to run it again.
    pub receipt: Receipt,
}

/// A sequence of generations that share one KV cache: each goes on where the last one stopped.
#[derive(Debug)]
pub struct Session {
    pub(super) model: Arc<Model>,
    context: Context,
    /// Everything said so far, whether the model has read it yet or not.
    history: Vec<u32>,
}

/// Text as it is made. An iterator: each item is the piece that one token makes certain.
///
/// After the last piece, or at any moment, [`Stream::finish`] gives the generation so far.
#[derive(Debug)]
pub struct Stream<'s> {
    session: SessionRef<'s>,
    job: Job,
    options: GenerateOptions,
    failed: bool,
}

#[derive(Debug)]
enum SessionRef<'s> {
    Borrowed(&'s mut Session),
    Owned(Lent),
}

impl SessionRef<'_> {
    fn get(&mut self) -> &mut Session {
        match self {
            Self::Borrowed(session) => session,
            Self::Owned(lent) => &mut lent.session,
        }
    }
}

/// A session that is given back when it is dropped, if it belongs to a place.
#[derive(Debug)]
struct Lent {
    session: Box<Session>,
    place: Option<SharedSession>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            let model = Arc::clone(&self.session.model);
            place.put(std::mem::replace(&mut *self.session, Session::new(model)));
        }
    }
}

/// A session for owners that nothing can borrow from, such as those of another language: one call or
/// stream at a time has it, and another one is an error instead of a wait. Cloning shares it.
#[derive(Debug, Clone)]
pub struct SharedSession(Arc<Mutex<Option<Session>>>);

impl SharedSession {
    /// Shares a session.
    pub fn new(session: Session) -> Self {
        Self(Arc::new(Mutex::new(Some(session))))
    }

    /// Works with the session.
    ///
    /// # Errors
    ///
    /// [`ManagerError::SessionBusy`] while another call or a stream has it.
    pub fn with<T>(&self, work: impl FnOnce(&mut Session) -> T) -> Result<T, ManagerError> {
        let mut lent = self.take()?;
        Ok(work(&mut lent.session))
    }

    /// As [`Session::stream`]; the stream has the session until it is finished or dropped.
    ///
    /// # Errors
    ///
    /// [`ManagerError::SessionBusy`], and those of [`Session::generate`].
    pub fn stream(
        &self,
        prompt: impl Into<Prompt>,
        options: &GenerateOptions,
    ) -> Result<Stream<'static>, ManagerError> {
        self.take()?.into_stream(prompt.into(), options)
    }

    fn take(&self) -> Result<Lent, ManagerError> {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let session = Box::new(taken.ok_or(ManagerError::SessionBusy)?);
        Ok(Lent { session, place: Some(self.clone()) })
    }

    fn put(&self, session: Session) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
    }
}

impl Lent {
    fn into_stream(
        mut self,
        prompt: Prompt,
        options: &GenerateOptions,
    ) -> Result<Stream<'static>, ManagerError> {
        let job = self.session.job(prompt, options)?;
        Ok(Stream { session: SessionRef::Owned(self), job, options: options.clone(), failed: false })
    }
}

impl Session {
    pub(super) fn new(model: Arc<Model>) -> Self {
        let context = Context::new(&model);
        Self { model, context, history: Vec::new() }
    }

    /// Every token said so far, prompts and outputs.
    pub fn tokens(&self) -> &[u32] {
        &self.history
    }

    /// Bytes of keys and values held.
    pub fn cache_bytes(&self) -> usize {
        self.context.cache.size_bytes()
    }

    /// Forgets everything from token `len` on: an edited question, another try.
    pub fn truncate(&mut self, len: usize) {
        self.history.truncate(len);
        self.context.truncate(len);
    }

    /// Continues with `prompt`, which may be empty if there is something to continue.
    ///
    /// A text gets the tokens that every text of the model starts with only at the session's start.
    ///
    /// # Errors
    ///
    /// [`ManagerError`]: options out of range, a prompt that the context has no room for, a damaged
    /// block. The session is as it was before, then.
    pub fn generate(
        &mut self,
        prompt: impl Into<Prompt>,
        options: &GenerateOptions,
    ) -> Result<Generation, ManagerError> {
        let len = self.history.len();
        let made = self.stream(prompt, options)?.complete();
        if made.is_err() {
            // The tokens before the one that failed went in.
            self.truncate(len);
        }
        made
    }

    /// As [`Session::generate`], piece by piece.
    ///
    /// # Errors
    ///
    /// As [`Session::generate`]; what fails later comes out of the stream, and what it gave before stays in the session.
    pub fn stream(
        &mut self,
        prompt: impl Into<Prompt>,
        options: &GenerateOptions,
    ) -> Result<Stream<'_>, ManagerError> {
        let job = self.job(prompt.into(), options)?;
        Ok(Stream { session: SessionRef::Borrowed(self), job, options: options.clone(), failed: false })
    }

    pub(super) fn into_stream(
        self,
        prompt: Prompt,
        options: &GenerateOptions,
    ) -> Result<Stream<'static>, ManagerError> {
        Lent { session: Box::new(self), place: None }.into_stream(prompt, options)
    }

    /// The generation that continues this session with `prompt`.
    fn job(&mut self, prompt: Prompt, options: &GenerateOptions) -> Result<Job, ManagerError> {
        let mut tokens = self.history.clone();
        match prompt {
            Prompt::Tokens(prompt) => {
                self.model.check_tokens(&prompt)?;
                tokens.extend(prompt);
            }
            Prompt::Text(text) => {
                let start = tokens.is_empty();
                tokens.extend(self.model.tokenizer()?.encode(&text, start)?);
            }
        }
        // A stream that was dropped before its first token leaves what it had read; and the last token
        // is always read anew, for its logits.
        self.context.truncate(self.history.len().min(tokens.len().saturating_sub(1)));
        let model = &*self.model;
        let (isa, spec) = (model.decoder.isa(), model.snapshot.spec());
        let job = Job::new(tokens, options, isa, spec, model.tokenizer.as_ref())?;
        let expected = if options.max_tokens.is_some() { job.max_tokens } else { 0 };
        self.context.cache.expect(job.prompt_len, job.prompt_len + expected);
        Ok(job)
    }
}

impl Iterator for Stream<'_> {
    type Item = Result<Piece, ManagerError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let session = self.session.get();
        let model = Arc::clone(&session.model);
        // A cancelled or finished job gives no more pieces.
        while !self.job.is_over() {
            let mut running = [Running { job: &mut self.job, context: &mut session.context }];
            match run::step(&model, &mut running, model.prefill_chunk) {
                Ok(mut pieces) => {
                    if let Some((_, piece)) = pieces.pop() {
                        session.history.clone_from(&self.job.tokens);
                        return Some(Ok(piece));
                    }
                }
                Err(error) => {
                    self.failed = true;
                    session.context.truncate(session.history.len());
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

impl Stream<'_> {
    /// The generation so far. A stream that was not read to its end counts as cancelled.
    ///
    /// # Errors
    ///
    /// [`ManagerError::StreamFailed`] if the stream gave an error.
    pub fn finish(mut self) -> Result<Generation, ManagerError> {
        if self.failed {
            return Err(ManagerError::StreamFailed);
        }
        if !self.job.is_over() {
            self.job.finish_reason = Some(FinishReason::Cancelled);
        }
        let session = self.session.get();
        Ok(session.model.generation(self.job, &session.context, &self.options))
    }

    /// Reads the stream to its end.
    pub(super) fn complete(mut self) -> Result<Generation, ManagerError> {
        self.by_ref().try_for_each(|piece| piece.map(|_| ()))?;
        self.finish()
    }
}

/// Runs several prompts beside each other; results come in the order of the prompts.
pub(super) fn generate_batch(
    model: &Arc<Model>,
    prompts: Vec<Prompt>,
    options: &GenerateOptions,
) -> Result<Vec<Generation>, ManagerError> {
    let mut pairs = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let mut session = Session::new(Arc::clone(model));
        pairs.push((session.job(prompt, options)?, session.context));
    }
    let mut running: Vec<Running<'_>> =
        pairs.iter_mut().map(|(job, context)| Running { job, context }).collect();
    while running.iter_mut().any(|running| !running.job.is_over()) {
        run::step(model, &mut running, model.prefill_chunk)?;
    }
    drop(running);
    Ok(pairs.into_iter().map(|(job, context)| model.generation(job, &context, options)).collect())
}
