//! Owns how the pieces of a stream are made, so that Ctrl-C is heard meanwhile and no piece is lost: by the
//! caller while that is quick, or else on a thread beside it.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use blyan_core::manager::{Generation, ManagerError, Piece, Stream as CoreStream};
use pyo3::prelude::*;

use crate::door::{POLL, caught, lock, spawn};
use crate::failure::Failure;
use crate::{fork, logs};

/// Pieces that take no longer are made without a thread: an interrupt waits for one of them at most.
const QUICK: Duration = Duration::from_millis(10);

/// What ends a stream.
#[derive(Debug, Clone)]
pub(crate) struct Cancel {
    /// The core's flag.
    own: Arc<AtomicBool>,
    /// The caller's. It may be that of several streams: it is only read.
    asked: Option<Arc<AtomicBool>>,
}

impl Cancel {
    pub(crate) fn new(asked: Option<Arc<AtomicBool>>) -> Self {
        Self { own: Arc::new(AtomicBool::new(false)), asked }
    }

    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.own)
    }

    pub(crate) fn set(&self) {
        self.own.store(true, Ordering::Relaxed);
    }

    /// Passes on what the caller's flag says.
    fn hear(&self) {
        if self.asked.as_ref().is_some_and(|asked| asked.load(Ordering::Relaxed)) {
            self.set();
        }
    }
}

pub(crate) enum Request {
    Next,
    Finish,
}

pub(crate) enum Reply {
    Piece(Result<Option<Piece>, Failure>),
    Finished(Box<Result<Generation, Failure>>),
}

/// What the thread sends; `None` if it ended without.
fn receive<T: Send>(py: Python<'_>, cancel: &Cancel, receiver: &mut Receiver<T>) -> PyResult<Option<T>> {
    // The lock is what the type system asks for: one thread uses the receiver, this one.
    let receiver = Mutex::new(receiver);
    let mut looked = Instant::now();
    let process = fork::here();
    loop {
        // A signal's handler forked: what makes the pieces is in the parent.
        if fork::here() != process {
            return Err(Failure::ForkedInCall(process).into_py(py));
        }
        let received = py.detach(|| lock(&receiver).recv_timeout(POLL));
        match received {
            Ok(received) => return Ok(Some(received)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if looked.elapsed() >= POLL {
            looked = Instant::now();
            cancel.hear();
            py.check_signals()?;
        }
    }
}

/// Begins a stream.
type Start = Box<dyn FnOnce() -> Result<CoreStream<'static>, ManagerError> + Send>;

/// Where a stream is.
enum Place {
    /// Not begun.
    Start(Start),
    /// Here; how long its last piece took.
    Here(Box<CoreStream<'static>>, Duration),
    /// On a thread that makes a piece.
    Away(Receiver<Arrival>),
    /// It ended.
    Gone,
}

/// What comes back from a thread.
struct Arrival {
    /// None if it could not begin.
    stream: Option<Box<CoreStream<'static>>>,
    piece: Result<Option<Piece>, Failure>,
    took: Duration,
}

/// A stream under way, which needs no thread while its pieces are quick to make: a small model makes one in
/// less time than two threads take to meet. The first piece, and any after a slow one, is made on a thread.
pub(crate) struct Maker {
    place: Place,
    cancel: Cancel,
    /// The reply of a call that was interrupted as it handed over what was logged.
    kept: Option<Reply>,
}

impl Drop for Maker {
    fn drop(&mut self) {
        self.cancel.set();
    }
}

fn next(stream: &mut CoreStream<'static>) -> Result<Option<Piece>, Failure> {
    caught(|| stream.next().transpose().map_err(Failure::from))
}

impl Maker {
    pub(crate) fn new(start: Start, cancel: Cancel) -> Self {
        Self { place: Place::Start(start), cancel, kept: None }
    }

    /// The reply to a request; an interrupted call leaves it to the next one. `None` if there is no stream
    /// any more.
    pub(crate) fn ask(&mut self, py: Python<'_>, request: Request) -> PyResult<Option<Reply>> {
        self.cancel.hear();
        // A loop that is not Python's, such as that of `list`, looks for no signals.
        py.check_signals()?;
        let reply = match self.kept.take() {
            Some(kept) => Some(kept),
            None => self.reply(py, request)?,
        };
        if let Err(interrupt) = logs::deliver(py) {
            self.kept = reply;
            return Err(interrupt);
        }
        Ok(reply)
    }

    fn reply(&mut self, py: Python<'_>, request: Request) -> PyResult<Option<Reply>> {
        match (request, &mut self.place) {
            (_, Place::Gone) => Ok(None),
            // Also the piece of a call that was interrupted; who asks to finish asks again.
            (_, Place::Away(_)) => self.arrive(py).map(Some),
            (Request::Next, Place::Here(stream, took)) if *took < QUICK => {
                let begun = Instant::now();
                let piece = py.detach(|| next(stream));
                *took = begun.elapsed();
                Ok(Some(Reply::Piece(piece)))
            }
            (Request::Next, _) => {
                self.send_away().map_err(|failure| failure.into_py(py))?;
                self.arrive(py).map(Some)
            }
            (Request::Finish, _) => {
                let place = std::mem::replace(&mut self.place, Place::Gone);
                let generation = py.detach(|| {
                    caught(|| match place {
                        Place::Start(start) => Ok(start()?.finish()?),
                        Place::Here(stream, _) => Ok(stream.finish()?),
                        Place::Away(_) | Place::Gone => Err(ManagerError::StreamFailed.into()),
                    })
                });
                Ok(Some(Reply::Finished(Box::new(generation))))
            }
        }
    }

    /// Ends the stream, and waits for the thread that makes a piece: what the stream borrows is free then.
    pub(crate) fn settle(&mut self, py: Python<'_>) -> PyResult<()> {
        self.cancel.set();
        while matches!(self.place, Place::Away(_)) {
            self.arrive(py)?;
        }
        Ok(())
    }

    /// Lets a thread make the next piece.
    fn send_away(&mut self) -> Result<(), Failure> {
        let (sender, receiver) = channel();
        let place = std::mem::replace(&mut self.place, Place::Away(receiver));
        spawn("blyan stream", move || {
            let begun = Instant::now();
            let stream = caught(|| match place {
                Place::Start(start) => Ok(Box::new(start()?)),
                Place::Here(stream, _) => Ok(stream),
                Place::Away(_) | Place::Gone => Err(ManagerError::StreamFailed.into()),
            });
            let (stream, piece) = match stream {
                Ok(mut stream) => {
                    let piece = next(&mut stream);
                    (Some(stream), piece)
                }
                Err(failure) => (None, Err(failure)),
            };
            // A caller that went away needs neither.
            let _ = sender.send(Arrival { stream, piece, took: begun.elapsed() });
        })
        .map(|_| ())
    }

    /// Waits for the thread; interrupted, it is waited for by the next call.
    fn arrive(&mut self, py: Python<'_>) -> PyResult<Reply> {
        let Place::Away(receiver) = &mut self.place else {
            return Ok(Reply::Piece(Err(ManagerError::StreamFailed.into())));
        };
        let arrival = receive(py, &self.cancel, receiver)?;
        let Some(Arrival { stream, piece, took }) = arrival else {
            self.place = Place::Gone;
            return Ok(Reply::Piece(Err(ManagerError::StreamFailed.into())));
        };
        self.place = stream.map_or(Place::Gone, |stream| Place::Here(stream, took));
        Ok(Reply::Piece(piece))
    }
}
