//! Owns sessions: generations that share one KV cache.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use blyan_core::manager::SharedSession;

use crate::edge::{free, new_handle, out, read};
use crate::error::{blyan_status, edge};
use crate::generate::{asked, blyan_generate_options, blyan_generation, blyan_prompt, prompt_of};
use crate::model::blyan_model;
use crate::stream::blyan_stream;
use crate::text::blyan_tokens;

/// A sequence of generations, each of which goes on where the last one stopped; for one thread at a
/// time. While a stream has it, its calls give `BLYAN_STATUS_BUSY`.
pub struct blyan_session(SharedSession);

/// Begins a session of a model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_model_session(
    model: *const blyan_model,
    session: *mut *mut blyan_session,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (session, model) = unsafe { (new_handle(session, "session")?, read(model, "model")?) };
        session.set(blyan_session(SharedSession::new(model.manager.session())));
        Ok(())
    })
}

/// Continues a session with a prompt, which may be empty if there is something to continue; `options`
/// may be NULL. With `BLYAN_STATUS_STOPPED` there is a generation, too. After any other error the
/// session is as it was before the token that failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_session_generate(
    session: *const blyan_session,
    prompt: *const blyan_prompt,
    options: *const blyan_generate_options,
    generation: *mut *mut blyan_generation,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (generation, session, prompt, asked) = unsafe {
            (
                new_handle(generation, "generation")?,
                read(session, "session")?,
                prompt_of(prompt)?,
                asked(options)?,
            )
        };
        asked.run(session.0.stream(prompt, &asked.options)?, generation)
    })
}

/// Begins to continue a session with a prompt, as `blyan_session_generate` does; `options` may be NULL and
/// has no `on_token`. The stream has the session until it is finished or freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_session_stream(
    session: *const blyan_session,
    prompt: *const blyan_prompt,
    options: *const blyan_generate_options,
    stream: *mut *mut blyan_stream,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (stream, session, prompt, asked) = unsafe {
            (new_handle(stream, "stream")?, read(session, "session")?, prompt_of(prompt)?, asked(options)?)
        };
        let options = asked.silent("a stream")?;
        stream.set(blyan_stream::new(session.0.stream(prompt, &options)?));
        Ok(())
    })
}

/// Every token said so far, prompts and outputs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_session_tokens(
    session: *const blyan_session,
    tokens: *mut *mut blyan_tokens,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (tokens, session) = unsafe { (new_handle(tokens, "tokens")?, read(session, "session")?) };
        tokens.set(blyan_tokens(session.0.with(|session| session.tokens().to_vec())?));
        Ok(())
    })
}

/// Bytes of keys and values that the session holds.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_session_cache_bytes(
    session: *const blyan_session,
    bytes: *mut usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (session, bytes) = unsafe { (read(session, "session")?, out(bytes, "bytes")?) };
        bytes.set(session.0.with(|session| session.cache_bytes())?);
        Ok(())
    })
}

/// Forgets everything from a token on: an edited question, another try. A length beyond the end changes
/// nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_session_truncate(session: *const blyan_session, len: usize) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let session = unsafe { read(session, "session") }?;
        session.0.with(|session| session.truncate(len.min(session.tokens().len())))?;
        Ok(())
    })
}

/// Ends a session; nothing for NULL. A stream of it stays usable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_session_free(session: *mut blyan_session) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(session) }
}
