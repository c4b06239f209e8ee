//! The one door out of Python: every call of the core goes through here. It lets go of the interpreter,
//! catches panics, maps errors, hands over what was logged, and hears of signals.
//!
//! Short work runs on the calling thread ([`run`]). Work that may take long runs on a thread of its own
//! ([`run_watched`]) while the calling thread waits, looks for signals, and calls back: so Ctrl-C is
//! heard whatever the core is busy with, and a callback runs on the thread of its caller.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use blyan_core::ChainError;
use pyo3::prelude::*;

use crate::failure::Failure;
use crate::{fork, logs};

/// How often a waiting call looks for signals.
pub(crate) const POLL: Duration = Duration::from_millis(20);
/// How long an interrupted call waits for its work to stop, before it leaves it to end by itself.
const GRACE: Duration = Duration::from_millis(50);
/// As deep as a main thread's stack.
const STACK_BYTES: usize = 8 << 20;

/// Calls `work`; a panic is an error.
pub(crate) fn caught<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    // What a panic left half done is dropped with the values it belongs to; the core's own locks hold
    // nothing half done.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let message = message.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(Failure::Panic(message.unwrap_or_else(|| "no message".to_owned())))
    })
}

/// Work that takes no longer than reading and hashing a block.
pub(crate) fn run<T: Send, E: Into<Failure>>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T, E> + Send,
) -> PyResult<T> {
    let done = py.detach(|| caught(|| fork::with_threads(|| work().map_err(Into::into))?));
    if let Err(interrupt) = logs::deliver(py) {
        py.detach(|| drop(done));
        return Err(interrupt);
    }
    done.map_err(|failure| failure.into_py(py))
}

/// A flag that ends work, for callers of their own.
#[pyclass(frozen, weakref, module = "blyan")]
#[derive(Debug, Default)]
pub(crate) struct CancelToken {
    flag: Arc<AtomicBool>,
}

#[pymethods]
impl CancelToken {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Ends the work that this token was given to: a generation ends with its next token, an import
    /// or a verification raises `Cancelled`. Can be called from any thread.
    fn cancel(&self) {
        self.flag.store(true, Ordering::Relaxed);
    }

    /// Whether `cancel` was called.
    #[getter]
    fn cancelled(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    fn __repr__(&self) -> String {
        format!("CancelToken(cancelled={})", if self.cancelled() { "True" } else { "False" })
    }
}

impl CancelToken {
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }
}

/// What becomes of a report of progress.
pub(crate) trait Report: Send + 'static {
    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>>;
}

/// For work that reports nothing.
pub(crate) enum Silent {}

impl Report for Silent {
    fn to_python<'py>(&self, _: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match *self {}
    }
}

/// What work is handed.
pub(crate) struct Job<P> {
    /// Set when the work should end.
    pub(crate) cancel: Arc<AtomicBool>,
    /// Whether an interrupted call waits for the end of the work.
    patient: Arc<AtomicBool>,
    report: Box<dyn Fn(P) + Send + Sync>,
}

impl<P> Job<P> {
    /// Goes on to what cannot be taken back; ends work that was given up while it waited for its turn. From here on
    /// the call is patient: what it leaves is there when it ends.
    pub(crate) fn begin(&self) -> Result<(), Failure> {
        // In one order with what an interrupted `wait` does: it sees this, or this sees that.
        self.patient.store(true, Ordering::SeqCst);
        if self.cancel.load(Ordering::SeqCst) { Err(ChainError::Cancelled.into()) } else { Ok(()) }
    }

    pub(crate) fn report(&self, report: P) {
        (self.report)(report);
    }
}

/// Who watches work.
#[derive(Default)]
pub(crate) struct Watch<'a, 'py> {
    /// Called with each report.
    pub(crate) callback: Option<&'a Bound<'py, PyAny>>,
    /// Ends the work when it is set.
    pub(crate) cancel: Option<Arc<AtomicBool>>,
    /// Whether an interrupted call waits for the end of its work, however late: a second interrupt
    /// insists. For work whose end leaves something behind, where the process ends with the call.
    pub(crate) patient: bool,
}

enum Message<T, P> {
    /// The work goes on when it is answered, or the answer's channel is gone.
    Report(P, SyncSender<()>),
    Done(Result<T, Failure>),
}

/// Work of any length. Interrupted, it is told to end, and this returns soon after even if it has not, unless it is
/// patient.
pub(crate) fn run_watched<T, E, P>(
    py: Python<'_>,
    watch: &Watch<'_, '_>,
    work: impl FnOnce(&Job<P>) -> Result<T, E> + Send + 'static,
) -> PyResult<T>
where
    T: Send + 'static,
    E: Into<Failure>,
    P: Report,
{
    let process = fork::here();
    let (sender, receiver) = sync_channel::<Message<T, P>>(1);
    let given_up = watch.cancel.as_ref().is_some_and(|cancel| cancel.load(Ordering::Relaxed));
    let cancel = Arc::new(AtomicBool::new(given_up));
    let patient = Arc::new(AtomicBool::new(watch.patient));
    let is_told = watch.callback.is_some();
    let report = reporter(&sender, is_told);
    let job = Job { cancel: Arc::clone(&cancel), patient: Arc::clone(&patient), report };
    spawn("blyan call", move || {
        let work = || work(&job).map_err(Into::into);
        let done = caught(|| if is_told { fork::with_own_threads(work)? } else { fork::with_threads(work)? });
        // A caller that went away needs no result.
        let _ = sender.send(Message::Done(done));
    })
    .map_err(|failure| failure.into_py(py))?;
    // One thread uses the receiver, this one; the lock is what the type system asks for.
    let receiver = Mutex::new(receiver);
    let done = wait(py, watch, (&cancel, &patient), &receiver, process);
    let heard = logs::deliver(py);
    if fork::here() != process {
        std::mem::forget(receiver);
        // Nor is a result that came in time this process's.
        return match done {
            Ok(done) => {
                std::mem::forget(done);
                Err(heard.err().unwrap_or_else(|| Failure::ForkedInCall(process).into_py(py)))
            }
            Err(error) => Err(error),
        };
    }
    // What the work sends after this is lost, and never waited for.
    py.detach(|| drop(receiver));
    let done = done?;
    if let Err(interrupt) = heard {
        py.detach(|| drop(done));
        return Err(interrupt);
    }
    done.map_err(|failure| failure.into_py(py))
}

/// Waits for the callback: what it says to the work, by a cancellation or an exception, is heard before the next step.
fn reporter<T: Send + 'static, P: Send + 'static>(
    sender: &SyncSender<Message<T, P>>,
    is_told: bool,
) -> Box<dyn Fn(P) + Send + Sync> {
    if !is_told {
        return Box::new(|_| {});
    }
    let sender = sender.clone();
    Box::new(move |report| {
        let (answer, answered) = sync_channel(1);
        if sender.send(Message::Report(report, answer)).is_ok() {
            // A caller that went away answers nothing.
            let _ = answered.recv();
        }
    })
}

/// Starts a thread.
pub(crate) fn spawn(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> Result<thread::JoinHandle<()>, Failure> {
    let builder = thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
    builder.spawn(work).map_err(|error| Failure::Threads(error.to_string()))
}

/// Waits for the result; `Err` is an exception that came up meanwhile.
fn wait<T: Send, P: Report>(
    py: Python<'_>,
    watch: &Watch<'_, '_>,
    (cancel, patient): (&AtomicBool, &AtomicBool),
    messages: &Mutex<Receiver<Message<T, P>>>,
    process: u32,
) -> PyResult<Result<T, Failure>> {
    let mut raised: Option<(PyErr, Option<Instant>)> = None;
    let mut looked = Instant::now();
    let hear_token = || {
        if watch.cancel.as_ref().is_some_and(|asked| asked.load(Ordering::Relaxed)) {
            cancel.store(true, Ordering::Relaxed);
        }
    };
    loop {
        let message = py.detach(|| lock(messages).recv_timeout(POLL));
        if looked.elapsed() >= POLL {
            looked = Instant::now();
            let heard = logs::deliver(py);
            hear_token();
            // Python code runs in both, and a signal may be heard in either.
            if let Err(interrupt) = heard.and_then(|()| py.check_signals()) {
                cancel.store(true, Ordering::SeqCst);
                let waits = patient.load(Ordering::SeqCst) && raised.is_none();
                raised = Some((interrupt, (!waits).then(|| Instant::now() + GRACE)));
            }
            // A handler forked, and this is its child: a result is its parent's.
            if fork::here() != process {
                std::mem::forget(message);
                return forked(process, raised);
            }
        }
        match message {
            Ok(Message::Report(report, answer)) if raised.is_none() => {
                let called = watch.callback.map_or(Ok(()), |callback| {
                    let report = report.to_python(py)?;
                    callback.call1((report,)).map(|_| ())
                });
                if let Err(error) = called {
                    cancel.store(true, Ordering::Relaxed);
                    // The work was asked to end and is waited for, so that its caller finds it ended.
                    raised = Some((error, None));
                }
                if fork::here() != process {
                    std::mem::forget(answer);
                    return forked(process, raised);
                }
                hear_token();
                let _ = answer.send(());
            }
            // Without its answer the work goes on as well.
            Ok(Message::Report(..)) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Message::Done(done)) => {
                return match raised {
                    Some((error, _)) => {
                        py.detach(|| drop(done));
                        Err(error)
                    }
                    None => Ok(done),
                };
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Ok(Err(Failure::Panic("the thread of the call ended early".to_owned())));
            }
        }
        match raised {
            Some((error, Some(deadline))) if Instant::now() >= deadline => return Err(error),
            other => raised = other,
        }
    }
}

/// How a call ends in a process that Python code made by `fork` while it waited here: the work is in the parent alone.
fn forked<T>(process: u32, raised: Option<(PyErr, Option<Instant>)>) -> PyResult<Result<T, Failure>> {
    raised.map_or(Ok(Err(Failure::ForkedInCall(process))), |(error, _)| Err(error))
}

/// Locks; a panic under one of this crate's locks leaves nothing half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
