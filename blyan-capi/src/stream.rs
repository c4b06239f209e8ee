//! Owns streams: pieces of text that the program asks for one by one.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::sync::Mutex;

use blyan_core::manager::Stream;

use crate::edge::{check_room, describe, free, lock, new_handle, read};
use crate::error::{Failure, Outcome, blyan_status, edge, edge_status};
use crate::generate::{
    OwnedPiece, asked, blyan_generate_options, blyan_generation, blyan_piece, blyan_prompt, prompt_of,
};
use crate::model::blyan_model;

/// A generation under way, for one thread at a time. Nothing is computed but in `blyan_stream_next`.
pub struct blyan_stream(Mutex<Open>);

struct Open {
    /// None once it is finished.
    stream: Option<Stream<'static>>,
    piece: OwnedPiece,
}

impl blyan_stream {
    pub(crate) fn new(stream: Stream<'static>) -> Self {
        Self(Mutex::new(Open { stream: Some(stream), piece: OwnedPiece::default() }))
    }
}

fn finished() -> Failure {
    Failure::argument("the stream was finished: begin another one")
}

/// Begins to continue a prompt; `options` may be NULL and has no `on_token`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_model_stream(
    model: *const blyan_model,
    prompt: *const blyan_prompt,
    options: *const blyan_generate_options,
    stream: *mut *mut blyan_stream,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (stream, model, prompt, asked) = unsafe {
            (new_handle(stream, "stream")?, read(model, "model")?, prompt_of(prompt)?, asked(options)?)
        };
        let options = asked.silent("a stream")?;
        stream.set(blyan_stream::new(model.manager.stream(prompt, &options)?));
        Ok(())
    })
}

/// Computes the next piece; `BLYAN_STATUS_END` after the last. Its text lives until the next call with
/// this stream; `size` is `sizeof *piece`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_stream_next(
    stream: *const blyan_stream,
    piece: *mut blyan_piece,
    size: usize,
) -> blyan_status {
    edge_status(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let stream = unsafe { read(stream, "stream") }?;
        // Before a piece is computed that could not be handed out.
        check_room(piece, size, "piece")?;
        let mut open = lock(&stream.0, "stream")?;
        let Some(next) = open.stream.as_mut().ok_or_else(finished)?.next().transpose()? else {
            return Ok(blyan_status::End);
        };
        let view = open.piece.set(&next)?;
        // SAFETY: as above.
        unsafe { describe(piece, size, "piece", view) }?;
        Ok(blyan_status::Ok)
    })
}

/// The generation so far: cancelled, if the stream was not read to its end. The handle can only be freed
/// after that.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_stream_finish(
    stream: *const blyan_stream,
    generation: *mut *mut blyan_generation,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (generation, stream) =
            unsafe { (new_handle(generation, "generation")?, read(stream, "stream")?) };
        let stream: Outcome<_> = lock(&stream.0, "stream")?.stream.take().ok_or_else(finished);
        generation.set(blyan_generation::new(stream?.finish()?));
        Ok(())
    })
}

/// Frees a stream, ending it; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_stream_free(stream: *mut blyan_stream) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(stream) }
}
