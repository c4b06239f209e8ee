//! Owns `blyan.Stream`: text as it is made.

use std::sync::{Mutex, MutexGuard, TryLockError};

use blyan_core::manager::{GenerateOptions, Generation, ManagerError, Piece, Stream as CoreStream};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::args::Generate;
use crate::door::lock;
use crate::failure::Failure;
use crate::fork::Local;
use crate::pieces::{Cancel, Maker, Reply, Request};
use crate::values;

const STREAM_BUSY: &str = "the stream is in use by another thread";

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
#[pyclass(frozen, weakref, module = "blyan")]
pub(crate) struct Stream {
    slot: Local<Mutex<Slot>>,
    end: Mutex<End>,
    cancel: Cancel,
    /// Whether a session is free once the stream is let go of.
    borrows: bool,
}

/// Who makes the pieces, and what it made that the caller does not have yet: turning it into a value of
/// Python's runs Python code, which an interrupt can end.
struct Slot {
    /// `None` once the stream ended.
    maker: Option<Maker>,
    piece: Option<Piece>,
}

/// How a stream ended.
enum End {
    /// Not yet; or it was closed, if nobody makes pieces.
    Open,
    /// Read to its end or finished: the generation, on its way to the caller.
    Made(Box<Generation>),
    /// The same, as the caller has it.
    Finished(Py<PyAny>),
    /// It gave an error.
    Failed,
}

impl Stream {
    /// A stream that `start` begins; whether it borrows a session.
    pub(crate) fn start(
        generate: Generate,
        borrows: bool,
        start: impl FnOnce(&GenerateOptions) -> Result<CoreStream<'static>, ManagerError> + Send + 'static,
    ) -> Self {
        let Generate { mut options, cancel } = generate;
        let cancel = Cancel::new(cancel);
        options.cancel = Some(cancel.flag());
        let maker = Maker::new(Box::new(move || start(&options)), cancel.clone());
        let slot = Slot { maker: Some(maker), piece: None };
        Self { slot: Local::new(Mutex::new(slot)), end: Mutex::new(End::Open), cancel, borrows }
    }

    /// What makes the pieces, if no other call uses it.
    fn slot(&self, py: Python<'_>) -> PyResult<MutexGuard<'_, Slot>> {
        let slot = self.slot.get("stream").map_err(|failure| failure.into_py(py))?;
        match slot.try_lock() {
            Ok(slot) => Ok(slot),
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
        let mut slot = self.slot(py)?;
        if slot.piece.is_none() {
            let Some(maker) = slot.maker.as_mut() else { return Ok(None) };
            match maker.ask(py, Request::Next)? {
                Some(Reply::Piece(Ok(Some(piece)))) => slot.piece = Some(piece),
                // Read to its end: finished at once, so that it holds no session any more.
                Some(Reply::Piece(Ok(None))) => return self.end(py, &mut slot).map(|()| None),
                Some(Reply::Piece(Err(failure))) => return Err(self.fail(py, &mut slot, failure)),
                // A `finish` that was interrupted.
                Some(Reply::Finished(made)) => return self.keep(py, &mut slot, *made).map(|()| None),
                None => return Err(self.fail(py, &mut slot, ManagerError::StreamFailed.into())),
            }
        }
        let piece = slot.piece.as_ref().map(|piece| values::piece(py, piece)).transpose()?;
        slot.piece = None;
        Ok(piece)
    }

    /// The generation so far. A stream that was not read to its end counts as cancelled.
    fn finish(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let mut slot = self.slot(py)?;
        let open = matches!(&*lock(&self.end), End::Open);
        if open && slot.maker.is_none() {
            return Err(Failure::Closed("stream").into_py(py));
        }
        if open {
            self.end(py, &mut slot)?;
        }
        let made = match &*lock(&self.end) {
            End::Made(generation) => generation.clone(),
            End::Finished(generation) => return Ok(generation.clone_ref(py)),
            End::Open | End::Failed => return Err(Failure::from(ManagerError::StreamFailed).into_py(py)),
        };
        // No lock is held here: this runs Python code.
        let generation = values::generation(py, *made)?.unbind();
        *lock(&self.end) = End::Finished(generation.clone_ref(py));
        Ok(generation)
    }

    /// Ends the stream at the next token, from any thread. What was made so far stays.
    fn cancel(&self) {
        self.cancel.set();
    }

    /// Ends the stream and lets go of its memory, or of the session that it borrows.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let mut slot = self.slot(py)?;
        if let Some(maker) = slot.maker.as_mut().filter(|_| self.borrows) {
            // A call that was interrupted left it with a thread.
            maker.settle(py)?;
        }
        let_go(py, &mut slot);
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
    fn end(&self, py: Python<'_>, slot: &mut Slot) -> PyResult<()> {
        while let Some(maker) = slot.maker.as_mut() {
            match maker.ask(py, Request::Finish)? {
                Some(Reply::Finished(made)) => return self.keep(py, slot, *made),
                // The piece of an interrupted call.
                Some(Reply::Piece(Ok(_))) => {}
                Some(Reply::Piece(Err(failure))) => return Err(self.fail(py, slot, failure)),
                None => break,
            }
        }
        Err(self.fail(py, slot, ManagerError::StreamFailed.into()))
    }

    /// Keeps the generation, and lets go of what made it.
    fn keep(&self, py: Python<'_>, slot: &mut Slot, made: Result<Generation, Failure>) -> PyResult<()> {
        match made {
            Ok(generation) => *lock(&self.end) = End::Made(Box::new(generation)),
            Err(failure) => return Err(self.fail(py, slot, failure)),
        }
        let_go(py, slot);
        Ok(())
    }

    /// Notes that the stream failed, and lets go of it.
    fn fail(&self, py: Python<'_>, slot: &mut Slot, failure: Failure) -> PyErr {
        *lock(&self.end) = End::Failed;
        let_go(py, slot);
        failure.into_py(py)
    }
}

/// Ends the thread of a stream, and gives back the session that it borrows.
fn let_go(py: Python<'_>, slot: &mut Slot) {
    slot.piece = None;
    let maker = slot.maker.take();
    py.detach(|| drop(maker));
}
