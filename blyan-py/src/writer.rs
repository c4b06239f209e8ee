//! Owns `blyan.Writer`, a transaction, and how a `blyan.Draft` becomes one of the core's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use blyan_core::chain::{self as core, ChainError};
use blyan_core::{BlockKind, Draft};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::args::{BlockArg, Kind, Lane, ParentArg, expected};
use crate::chain::{Owner, Slot};
use crate::door::{lock, run};
use crate::failure::Failure;
use crate::fork::Local;
use crate::signature::read_signature;
use crate::{buffer, values};

/// A transaction: everything appended becomes durable and visible together, or not at all.
///
/// It is the thread's that used it last: what that thread appends to the chain itself raises `BusyError`
/// until the transaction ends, what another one appends waits for that.
///
/// >>> with blyan.Chain.in_memory() as notes:
/// ...     with notes.writer() as writer:
/// ...         first = writer.append(blyan.Draft("D", 4096, "note", b"1"))
/// ...         second = writer.append(blyan.Draft("D", 4096, "note", b"2", parents=[first.hash]))
/// ...     len(notes)
/// 2
#[pyclass(frozen, weakref, module = "blyan")]
pub(crate) struct Writer {
    slot: Local<Arc<Slot<core::Writer>>>,
    owner: Owner,
    /// Whether `commit` or `rollback` was called.
    ended: AtomicBool,
}

impl Writer {
    pub(crate) fn new(slot: Arc<Slot<core::Writer>>, owner: Owner) -> Self {
        Self { slot: Local::new(slot), owner, ended: AtomicBool::new(false) }
    }

    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut core::Writer) -> Result<T, ChainError> + Send,
    ) -> PyResult<T> {
        let slot = self.slot.get("writer").map_err(|failure| failure.into_py(py))?;
        *lock(&self.owner) = thread::current().id();
        run(py, || match &mut *lock(slot) {
            Some(writer) => work(writer).map_err(Failure::from),
            None => Err(Failure::Closed("writer")),
        })
    }
}

#[pymethods]
impl Writer {
    /// Adds a block; its parents may be of the same transaction. A refused one leaves the transaction
    /// usable.
    fn append<'py>(&self, py: Python<'py>, draft: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let draft = read_draft(draft)?;
        let appended = self.with(py, move |writer| writer.append(draft))?;
        let hash = values::block_hash(py, &appended.hash)?;
        values::make(py, "Appended", (hash, appended.new_block, appended.new_payload))
    }

    /// Puts a signature beside a block, which may be of the same transaction. Of one key at one time the
    /// first that is valid stays, and another is left out without an error.
    fn add_signature(&self, py: Python<'_>, block: BlockArg, signature: &Bound<'_, PyAny>) -> PyResult<()> {
        let record = read_signature(signature)?;
        self.with(py, move |writer| writer.add_signature(&block.0, record))
    }

    fn __contains__(&self, py: Python<'_>, block: BlockArg) -> PyResult<bool> {
        self.with(py, move |writer| writer.contains(&block.0))
    }

    /// Makes everything appended durable and visible, and ends the transaction.
    fn commit(&self, py: Python<'_>) -> PyResult<()> {
        let slot = self.slot.get("writer").map_err(|failure| failure.into_py(py))?;
        self.ended.store(true, Ordering::Relaxed);
        run(py, || match lock(slot).take() {
            Some(writer) => writer.commit().map_err(Failure::from),
            None => Err(Failure::Closed("writer")),
        })
    }

    /// Ends the transaction and leaves the chain as it was. Does nothing after `commit`.
    fn rollback(&self, py: Python<'_>) -> PyResult<()> {
        let slot = self.slot.get("writer").map_err(|failure| failure.into_py(py))?;
        self.ended.store(true, Ordering::Relaxed);
        py.detach(|| drop(lock(slot).take()));
        Ok(())
    }

    fn __repr__(&self) -> String {
        let state = match self.slot.get("writer").map(|slot| slot.try_lock()) {
            Err(_) => "of another process",
            Ok(Ok(writer)) if writer.is_none() => "ended",
            // Also one that another thread uses.
            Ok(_) => "open",
        };
        format!("<Writer {state}>")
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (exception_type=None, *_exception))]
    fn __exit__(
        &self,
        py: Python<'_>,
        exception_type: Option<Bound<'_, PyAny>>,
        _exception: &Bound<'_, PyTuple>,
    ) -> PyResult<()> {
        match exception_type {
            // By hand. One that the closing of its chain ended was not asked for: `commit` says so.
            None if self.ended.load(Ordering::Relaxed) => Ok(()),
            None => self.commit(py),
            Some(_) => self.rollback(py),
        }
    }
}

/// A `blyan.Draft`.
pub(crate) fn read_draft(draft: &Bound<'_, PyAny>) -> PyResult<Draft> {
    let py = draft.py();
    let refuse = |message: String| Failure::Argument(message).into_py(py);
    let attribute = |name: &str| draft.getattr(name).map_err(|error| expected("a Draft", draft, error));
    let lane: Lane = attribute("lane")?.extract()?;
    let kind: BlockKind = attribute("kind")?.extract::<Kind>()?.0;
    let name: String = attribute("name")?.extract()?;
    let payload = buffer::bytes_of(&attribute("payload")?)?;
    let mut made = Draft::new(lane.0, kind, name, payload);
    let version: String = attribute("version")?.extract()?;
    made.version = version.parse().map_err(|error| refuse(format!("version {version:?}: {error}")))?;
    let parents = attribute("parents")?;
    for parent in parents.try_iter()? {
        made.parents.push(parent?.extract::<ParentArg>()?.0);
    }
    if let Some(media_type) = attribute("media_type")?.extract::<Option<String>>()? {
        made.media_type = media_type;
    }
    Ok(made)
}

/// Hash that the block of a draft will have.
#[pyfunction]
pub(crate) fn draft_hash<'py>(py: Python<'py>, draft: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let draft = read_draft(draft)?;
    let hash = run(py, move || draft.hash())?;
    values::block_hash(py, &hash)
}
