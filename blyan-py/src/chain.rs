//! Owns `blyan.Chain` and the walk over its blocks: open, append, look up, walk, sign, verify, close.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::thread::ThreadId;

use blyan_core::chain::{self as core, ChainError};
use blyan_core::format::ChainId;
use blyan_core::hash::PayloadHash;
use blyan_core::storage::DirMedium;
use blyan_core::{Chain as CoreChain, VerifyOptions};
use pyo3::exceptions::{PyException, PyKeyError};
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use crate::args::{BlockArg, Count, Kind, Lane, ModelArg};
pub(crate) use crate::block::Block;
use crate::door::{CancelToken, Job, Silent, Watch, lock, run, run_watched};
use crate::failure::Failure;
use crate::fork::{Local, PerProcess};
use crate::progress::Progress;
use crate::signature::{read_signature, sign};
use crate::snapshot::Snapshot;
use crate::writer::{Writer, read_draft};
use crate::{bundle, logs, tensor, values};

/// What a handle's open iterators and writers are, so that closing it closes them.
pub(crate) type Slot<T> = Mutex<Option<T>>;

trait Close: Send + Sync {
    fn close(&self);
}

impl<T: Send> Close for Slot<T> {
    fn close(&self) {
        drop(lock(self).take());
    }
}

/// The thread that used a transaction last: waiting for it, it would wait for itself.
pub(crate) type Owner = Arc<Mutex<ThreadId>>;

/// An open chain, shared by Python's objects. Closing it takes it from all of them.
pub(crate) struct ChainHandle {
    open: Local<RwLock<Option<CoreChain>>>,
    /// Iterators and writers that keep the chain open.
    users: Mutex<Vec<Weak<dyn Close>>>,
    /// The open transaction, and whose it is.
    writer: Mutex<Option<(Owner, Weak<Slot<core::Writer>>)>>,
    /// Threads whose callbacks are told by a call that has a transaction.
    told: Mutex<Vec<ThreadId>>,
    dir: Option<PathBuf>,
    writable: bool,
}

/// A call that tells its thread's callback while it has a transaction.
pub(crate) struct Telling<'a> {
    told: &'a Mutex<Vec<ThreadId>>,
    thread: ThreadId,
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        let mut told = lock(self.told);
        if let Some(at) = told.iter().position(|thread| *thread == self.thread) {
            told.swap_remove(at);
        }
    }
}

impl ChainHandle {
    fn new(chain: CoreChain) -> Arc<Self> {
        let (dir, writable) = (chain.dir().map(Path::to_path_buf), chain.is_writable());
        Self::of(Some(chain), dir, writable)
    }

    /// A chain that is closed.
    pub(crate) fn closed(dir: Option<PathBuf>) -> Arc<Self> {
        Self::of(None, dir, false)
    }

    fn of(chain: Option<CoreChain>, dir: Option<PathBuf>, writable: bool) -> Arc<Self> {
        let open = Local::new(RwLock::new(chain));
        let (users, writer, told) = (Mutex::default(), Mutex::default(), Mutex::default());
        Arc::new(Self { open, users, writer, told, dir, writable })
    }

    pub(crate) fn dir(&self) -> Option<&PathBuf> {
        self.dir.as_ref()
    }

    /// The chain, if it is open and of this process.
    pub(crate) fn chain(&self) -> Result<CoreChain, Failure> {
        let open = self.open.get("chain")?.read().unwrap_or_else(PoisonError::into_inner);
        open.clone().ok_or(Failure::Closed("chain"))
    }

    pub(crate) fn get(&self, py: Python<'_>) -> PyResult<CoreChain> {
        self.chain().map_err(|failure| failure.into_py(py))
    }

    /// The chain, to append to. A thread that would wait for a transaction of its own is refused.
    pub(crate) fn to_append(&self, py: Python<'_>) -> PyResult<CoreChain> {
        let chain = self.get(py)?;
        let writer = lock(&self.writer);
        let thread = std::thread::current().id();
        let own = writer.as_ref().filter(|(owner, _)| *lock(owner) == thread);
        let slot = own.and_then(|(_, slot)| slot.upgrade());
        if slot.is_some_and(|slot| lock(&slot).is_some()) {
            let message = "this thread has an open writer on the chain: commit it first, or append to it";
            return Err(Failure::Busy(message).into_py(py));
        }
        if lock(&self.told).contains(&thread) {
            let message =
                "the call that this callback is told by appends to the chain: append when it has returned";
            return Err(Failure::Busy(message).into_py(py));
        }
        Ok(chain)
    }

    /// As [`Self::to_append`], for a call that tells a callback while it appends: until what is returned beside the chain
    /// is dropped, the callback cannot append, too.
    pub(crate) fn to_append_and_tell(&self, py: Python<'_>) -> PyResult<(CoreChain, Telling<'_>)> {
        let chain = self.to_append(py)?;
        let thread = std::thread::current().id();
        lock(&self.told).push(thread);
        Ok((chain, Telling { told: &self.told, thread }))
    }

    /// Keeps something that holds the chain open, until it is closed: which it may be already, if that took time to make.
    fn keep<T: Send + 'static>(&self, value: T) -> Result<Arc<Slot<T>>, Failure> {
        let slot = Arc::new(Mutex::new(Some(value)));
        let user: Arc<dyn Close> = slot.clone();
        {
            let mut users = lock(&self.users);
            users.retain(|user| user.strong_count() > 0);
            users.push(Arc::downgrade(&user));
        }
        self.chain()?;
        Ok(slot)
    }

    fn close(&self) {
        let Ok(open) = self.open.get("chain") else { return };
        // First: what is kept from now on sees it.
        let chain = open.write().unwrap_or_else(PoisonError::into_inner).take();
        let users = std::mem::take(&mut *lock(&self.users));
        users.iter().filter_map(Weak::upgrade).for_each(|user| user.close());
        drop(chain);
    }

    fn is_closed(&self) -> bool {
        matches!(self.chain(), Err(Failure::Closed(_)))
    }
}

/// A DAG of content-addressed blocks in a directory, or in memory.
///
/// `Chain(path)` opens the chain for reading and writing and creates it if there is none; there can be one
/// such `Chain` of a path at a time, in all processes together. `Chain(path, read_only=True)` works beside
/// it. A chain is a context manager, can be iterated (every block, parents first), and knows `len` and `in`.
/// All methods may be called from several threads.
///
/// A chain is open until it is closed, or until nothing uses it any more: it, its blocks and its snapshots.
///
/// Ctrl-C ends a call that waits for another transaction. Once a call appends and has no way to stop, the
/// first Ctrl-C waits for its end, and a second one leaves it to end by itself.
///
/// Pickled, a chain is its path; unpickled, it is open for reading.
///
/// >>> with blyan.Chain.in_memory() as empty:
/// ...     len(empty)
/// 0
#[pyclass(frozen, weakref, module = "blyan")]
pub(crate) struct Chain {
    pub(crate) handle: Arc<ChainHandle>,
}

impl Chain {
    pub(crate) fn new(chain: CoreChain) -> Self {
        Self { handle: ChainHandle::new(chain) }
    }

    fn wrap<'py>(&self, py: Python<'py>, block: core::Block) -> PyResult<Bound<'py, PyAny>> {
        Ok(Bound::new(py, Block::new(&self.handle, block))?.into_any())
    }

    fn walk(&self, walk: impl FnOnce(&CoreChain) -> core::Blocks, py: Python<'_>) -> PyResult<Blocks> {
        let chain = self.handle.get(py)?;
        let slot = self.handle.keep(walk(&chain)).map_err(|failure| failure.into_py(py))?;
        Ok(Blocks { slot: Local::new(slot), handle: Arc::clone(&self.handle) })
    }
}

#[pymethods]
impl Chain {
    #[new]
    #[pyo3(signature = (path, *, read_only=false))]
    fn open(py: Python<'_>, path: PathBuf, read_only: bool) -> PyResult<Self> {
        let opened = run(py, move || match read_only {
            false => CoreChain::open(path),
            true => CoreChain::open_read_only(path),
        });
        opened.map(Self::new)
    }

    /// A chain in memory, gone when nothing uses it any more.
    #[classmethod]
    fn in_memory(_class: &Bound<'_, PyType>, py: Python<'_>) -> PyResult<Self> {
        run(py, CoreChain::in_memory).map(Self::new)
    }

    /// The chain's directory; `None` in memory.
    #[getter]
    fn path<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let pathlib = py.import("pathlib")?;
        self.handle.dir.as_ref().map(|dir| pathlib.call_method1("Path", (dir,))).transpose()
    }

    /// Whether blocks can be appended.
    #[getter]
    fn writable(&self) -> bool {
        self.handle.writable
    }

    /// Whether the chain was closed.
    #[getter]
    fn closed(&self) -> bool {
        self.handle.is_closed()
    }

    /// Closes the chain, its iterators and its writers; another process can open it for writing then.
    /// Models that were opened from it go on working, and so do views of tensors. Closing twice is fine.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.handle.close());
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

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        let chain = self.handle.get(py)?;
        let len = run(py, move || chain.len())?;
        Ok(usize::try_from(len).unwrap_or(usize::MAX))
    }

    fn __bool__(&self) -> bool {
        // An empty chain is a chain.
        true
    }

    fn __contains__(&self, py: Python<'_>, block: BlockArg) -> PyResult<bool> {
        let chain = self.handle.get(py)?;
        run(py, move || chain.contains(&block.0))
    }

    fn __iter__(&self, py: Python<'_>) -> PyResult<Blocks> {
        self.topological_order(py)
    }

    fn __getitem__<'py>(&self, py: Python<'py>, block: BlockArg) -> PyResult<Bound<'py, PyAny>> {
        self.block(py, block)
    }

    /// The block of that hash (text, 32 bytes, or a block).
    ///
    /// Raises `BlockNotFoundError` (a `KeyError`) or `DamagedBlockError`. Its header is hashed again.
    ///
    /// >>> chain.block(model.model).kind
    /// 'model'
    fn block<'py>(&self, py: Python<'py>, block: BlockArg) -> PyResult<Bound<'py, PyAny>> {
        let chain = self.handle.get(py)?;
        let found = run(py, move || chain.get(&block.0))?;
        self.wrap(py, found)
    }

    /// The block of that hash, or `default` if there is none.
    #[pyo3(signature = (block, default=None))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        block: BlockArg,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self.block(py, block) {
            Ok(block) => Ok(Some(block)),
            Err(error) if error.is_instance_of::<PyKeyError>(py) => Ok(default),
            Err(error) => Err(error),
        }
    }

    /// The verified payload of a block: bytes that are mapped, not copied.
    fn payload(&self, py: Python<'_>, block: BlockArg) -> PyResult<tensor::Payload> {
        let chain = self.handle.get(py)?;
        run(py, move || chain.payload(&block.0)).map(tensor::Payload::new)
    }

    /// The file of a payload, whether it exists or not: `b3sum` of it prints its name. `None` in memory.
    fn payload_path<'py>(&self, py: Python<'py>, payload: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        let refused = |error| Failure::Hash(error).into_py(py);
        let payload: PayloadHash = payload.parse().map_err(refused)?;
        let file = self.handle.dir.as_ref().map(|dir| DirMedium::new(dir).payload_path(&payload));
        let pathlib = py.import("pathlib")?;
        file.map(|file| pathlib.call_method1("Path", (file,))).transpose()
    }

    /// The blocks of a lane, of a kind, or all, by height, then hash; parents come before children.
    ///
    /// `lane` is "A" (meta), "B" (parameters) or "D" (data sets), `kind` a name such as "expert" or a
    /// number.
    ///
    /// >>> [block.name for block in chain.blocks(lane="B", kind="expert")][0][:5]
    /// 'layer'
    #[pyo3(signature = (*, lane=None, kind=None))]
    fn blocks(&self, py: Python<'_>, lane: Option<Lane>, kind: Option<Kind>) -> PyResult<Blocks> {
        self.walk(
            move |chain| match (lane, kind) {
                (None, None) => chain.topological_order(),
                (Some(lane), None) => chain.blocks(lane.0),
                (None, Some(kind)) => chain.blocks_of_kind(kind.0),
                (Some(lane), Some(kind)) => chain.blocks_of_kind_in(lane.0, kind.0),
            },
            py,
        )
    }

    /// Every block, parents before children.
    fn topological_order(&self, py: Python<'_>) -> PyResult<Blocks> {
        self.walk(CoreChain::topological_order, py)
    }

    /// The blocks of a name that no block of the same name has as its predecessor.
    fn heads<'py>(&self, py: Python<'py>, name: String) -> PyResult<Bound<'py, PyAny>> {
        let chain = self.handle.get(py)?;
        let heads = run(py, move || chain.heads(&name))?;
        Ok(values::list(py, heads, |py, block| self.wrap(py, block))?.into_any())
    }

    /// Hashes of the blocks that have this one as a parent.
    fn children<'py>(&self, py: Python<'py>, block: BlockArg) -> PyResult<Bound<'py, PyAny>> {
        let chain = self.handle.get(py)?;
        let children = run(py, move || chain.children(&block.0))?;
        Ok(values::list(py, &children, values::block_hash)?.into_any())
    }

    /// Every block that this one depends on, directly or not, parents first.
    fn ancestors<'py>(&self, py: Python<'py>, block: BlockArg) -> PyResult<Bound<'py, PyAny>> {
        let chain = self.handle.get(py)?;
        let ancestors = run(py, move || chain.ancestors(&block.0))?;
        Ok(values::list(py, ancestors, |py, block| self.wrap(py, block))?.into_any())
    }

    /// Hashes of the blocks of a lane without a child in the same lane; of all lanes without one.
    #[pyo3(signature = (lane=None))]
    fn tips<'py>(&self, py: Python<'py>, lane: Option<Lane>) -> PyResult<Bound<'py, PyAny>> {
        let chain = self.handle.get(py)?;
        let lanes = lane.map_or_else(|| ChainId::ALL.to_vec(), |lane| vec![lane.0]);
        let tips = run(py, move || {
            let tips: Result<Vec<_>, ChainError> = lanes.iter().map(|lane| chain.tips(*lane)).collect();
            tips.map(|tips| tips.concat())
        })?;
        Ok(values::list(py, &tips, values::block_hash)?.into_any())
    }

    /// Names the whole DAG: a hash over the tips of all lanes.
    fn root<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let chain = self.handle.get(py)?;
        let root = run(py, move || chain.root())?;
        values::chain_root(py, &root)
    }

    /// The model that a model block pins or that has a name (see `find_model`), or the chain's only one.
    ///
    /// >>> chain.snapshot("latest") == chain.snapshot(model.model)
    /// True
    #[pyo3(signature = (model=None))]
    fn snapshot(&self, py: Python<'_>, model: Option<ModelArg>) -> PyResult<Snapshot> {
        Snapshot::load(py, &self.handle, model)
    }

    /// Refuses what would wait for a transaction of this thread on another one.
    fn _refuse_own_writer(&self, py: Python<'_>) -> PyResult<()> {
        self.handle.to_append(py).map(drop)
    }

    /// Appends a block, durably, and returns it. One that the chain holds already stays as it is, its
    /// payload repaired if it is damaged.
    ///
    /// >>> with blyan.Chain.in_memory() as notes:
    /// ...     note = notes.append(blyan.Draft("D", 4096, "note", b"hello"))
    /// ...     bytes(note.payload), note in notes
    /// (b'hello', True)
    fn append<'py>(&self, py: Python<'py>, draft: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let chain = self.handle.to_append(py)?;
        let draft = read_draft(draft)?;
        let block = run_watched(py, &Watch::default(), move |job: &Job<Silent>| {
            let mut writer = chain.writer()?;
            // An interrupted append that waited for its turn must not happen after all.
            job.begin()?;
            let hash = writer.append(draft)?.hash;
            writer.commit()?;
            Ok::<_, Failure>(chain.get(&hash)?)
        })?;
        self.wrap(py, block)
    }

    /// Begins a transaction: a context manager that commits at its end, and rolls back if an exception
    /// leaves it. Waits for another transaction of this process.
    fn writer(&self, py: Python<'_>) -> PyResult<Writer> {
        let chain = self.handle.to_append(py)?;
        let writer = run_watched(py, &Watch::default(), move |_: &Job<Silent>| chain.writer())?;
        let slot = self.handle.keep(writer).map_err(|failure| failure.into_py(py))?;
        let owner = Arc::new(Mutex::new(std::thread::current().id()));
        *lock(&self.handle.writer) = Some((Arc::clone(&owner), Arc::downgrade(&slot)));
        Ok(Writer::new(slot, owner))
    }

    /// Signs a block with an ed25519 key (32 secret bytes) and puts the signature beside it; `time_ms`
    /// is now if it is not given.
    #[pyo3(signature = (block, key, *, time_ms=None))]
    fn sign<'py>(
        &self,
        py: Python<'py>,
        block: BlockArg,
        key: [u8; 32],
        time_ms: Option<Count<u64>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let record = sign(&block.0, &key, time_ms);
        let signature = values::signature(py, &record)?;
        self.add_signature(py, block, &signature)?;
        Ok(signature)
    }

    /// Puts a signature beside a block, durably. Raises `RefusedBlockError` if it is not valid. Of one key at
    /// one time the first that is valid stays, and another is left out without an error.
    fn add_signature(&self, py: Python<'_>, block: BlockArg, signature: &Bound<'_, PyAny>) -> PyResult<()> {
        let chain = self.handle.to_append(py)?;
        let record = read_signature(signature)?;
        run_watched(py, &Watch::default(), move |job: &Job<Silent>| {
            let mut writer = chain.writer()?;
            job.begin()?;
            writer.add_signature(&block.0, record)?;
            Ok::<_, Failure>(writer.commit()?)
        })
    }

    /// The signatures beside a block, each verified again, by key and time.
    fn signatures<'py>(&self, py: Python<'py>, block: BlockArg) -> PyResult<Bound<'py, PyAny>> {
        let chain = self.handle.get(py)?;
        let records = run(py, move || chain.signatures(&block.0))?;
        Ok(values::list(py, &records, values::signature)?.into_any())
    }

    /// Verifies every block and every entry of the index; `full` also reads every payload file, on all
    /// cores. Damage is in the report, not an exception.
    ///
    /// `progress` is called with a `VerifyProgress`; `True` shows a bar, `False` nothing, `None` a bar
    /// in a terminal or a notebook.
    ///
    /// >>> report = chain.verify(full=True)
    /// >>> report.ok, report.bad
    /// (True, [])
    #[pyo3(signature = (full=false, *, progress=None, cancel=None))]
    fn verify<'py>(
        &self,
        py: Python<'py>,
        full: bool,
        progress: Option<Bound<'py, PyAny>>,
        cancel: Option<Py<CancelToken>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let chain = self.handle.get(py)?;
        let progress = Progress::open(py, progress, "verify")?;
        let cancel = cancel.map(|token| token.get().flag());
        let watch = Watch { callback: progress.callback(), cancel, ..Watch::default() };
        let watched = watch.callback.is_some();
        let report = run_watched(py, &watch, move |job: &Job<_>| {
            let report = |progress| job.report(progress);
            let progress: Option<&(dyn Fn(_) + Sync)> = if watched { Some(&report) } else { None };
            chain.verify(&VerifyOptions { full, progress, cancel: Some(&job.cancel) })
        });
        progress.close(py)?;
        values::verify_report(py, &report?)
    }

    /// Writes blocks, their payloads and their signatures as one bundle: into a file, which is there as a
    /// whole or not at all, or a binary stream with `write`, which returns how many bytes it took, or None
    /// for all of them. None of an `io.RawIOBase` means that it took none, as it would have to wait: that
    /// raises `BlockingIOError`.
    ///
    /// `blocks` are all of the chain if None; `ancestors` says whether their ancestors belong to it. To
    /// send what another chain lacks, give its tips as `known`: they, their ancestors and the payloads of
    /// these are left out. `progress` is called with a `BundleProgress` after each block; True shows a
    /// bar, False nothing, None a bar in a terminal or a notebook.
    ///
    /// >>> import io
    /// >>> stream = io.BytesIO()
    /// >>> chain.bundle(stream).blocks == len(chain)
    /// True
    /// >>> with blyan.Chain.in_memory() as another:
    /// ...     report = another.unbundle(io.BytesIO(stream.getvalue()))
    /// ...     report.root == chain.root()
    /// True
    #[pyo3(signature = (to, *, blocks=None, ancestors=true, known=vec![], progress=None, cancel=None),
           text_signature = "($self, to, *, blocks=None, ancestors=True, known=(), progress=None, cancel=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn bundle<'py>(
        &self,
        py: Python<'py>,
        to: &Bound<'py, PyAny>,
        blocks: Option<Vec<BlockArg>>,
        ancestors: bool,
        known: Vec<BlockArg>,
        progress: Option<Bound<'py, PyAny>>,
        cancel: Option<Py<CancelToken>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        bundle::bundle(py, &self.handle, to, blocks, ancestors, known, progress, cancel)
    }

    /// Takes in a bundle from a file, or a binary stream with `read`: all of its blocks that the chain
    /// does not hold, or nothing. Every check of an append is made; taking one in again changes nothing.
    /// A stream that gives None, as it would have to wait, raises `BlockingIOError`.
    ///
    /// A payload longer than `max_payload_bytes` (16 GiB if None) is refused. `progress` and `cancel` are
    /// as for `bundle`. Raises `InvalidBundleError` (a `ValueError`) for bytes that are no whole bundle,
    /// `RefusedBlockError` for a block that is not valid.
    #[pyo3(signature = (source, *, max_payload_bytes=None, progress=None, cancel=None))]
    fn unbundle<'py>(
        &self,
        py: Python<'py>,
        source: &Bound<'py, PyAny>,
        max_payload_bytes: Option<Count<u64>>,
        progress: Option<Bound<'py, PyAny>>,
        cancel: Option<Py<CancelToken>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        bundle::unbundle(py, &self.handle, source, max_payload_bytes, progress, cancel)
    }

    /// Deletes payload files that no block names, and those of weights that nothing retained needs; with
    /// `dry_run=True` only says what would go. Blocks stay: history is never lost.
    ///
    /// Retained are the payloads of `roots`, or, if None, of every release and every model but those that
    /// one with all of its weights follows, directly or over others; with those of all blocks that they
    /// depend on or are based on. Candidates that are in no model yet go unless `roots` names them.
    ///
    /// >>> chain.collect(dry_run=True).payloads
    /// 0
    #[pyo3(signature = (*, roots=None, dry_run=false, cancel=None))]
    fn collect<'py>(
        &self,
        py: Python<'py>,
        roots: Option<Vec<BlockArg>>,
        dry_run: bool,
        cancel: Option<Py<CancelToken>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        bundle::collect(py, &self.handle, roots, dry_run, cancel)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (PathBuf,))> {
        let py = slf.py();
        let path = pickled_path(py, slf.get().handle.dir.as_ref(), "chain")?;
        Ok((py.import("blyan._pickle")?.getattr("chain")?, (path,)))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let place = match &self.handle.dir {
            Some(dir) => format!("Chain({:?}", dir.display().to_string()),
            None => "Chain.in_memory(".to_owned(),
        };
        let mode = if self.handle.writable || self.handle.dir.is_none() { "" } else { ", read_only=True" };
        let state = match self.handle.chain() {
            Ok(chain) => match run(py, move || chain.len()) {
                Ok(len) => format!(" {len} blocks"),
                Err(error) if error.is_instance_of::<PyException>(py) => String::new(),
                // An interrupt says nothing of the chain.
                Err(interrupt) => return Err(interrupt),
            },
            Err(Failure::Closed(_)) => " closed".to_owned(),
            Err(_) => " of another process".to_owned(),
        };
        Ok(format!("<{place}{mode}){state}>"))
    }

    fn _repr_html_<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("blyan._html")?.call_method1("chain", (slf,))
    }
}

/// The path that a pickle holds.
pub(crate) fn pickled_path(py: Python<'_>, dir: Option<&PathBuf>, what: &str) -> PyResult<PathBuf> {
    let error = || -> PyResult<PyErr> {
        let class = py.import("pickle")?.getattr("PicklingError")?;
        let message = format!("a {what} of a chain in memory cannot be pickled: it has no path");
        Ok(PyErr::from_value(class.call1((message,))?))
    };
    dir.cloned().map_or_else(|| Err(error().unwrap_or_else(|error| error)), Ok)
}

/// Where a chain is, and the device and inode of its index: another file at the path is another chain.
type Place = (PathBuf, Option<(u64, u64)>);

#[cfg(unix)]
fn index_file(chain: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let index = std::fs::metadata(chain.join("index.redb")).ok()?;
    Some((index.dev(), index.ino()))
}

#[cfg(not(unix))]
fn index_file(_: &Path) -> Option<(u64, u64)> {
    None
}

/// Chains that unpickling opened, while something uses them.
static UNPICKLED: PerProcess<Mutex<BTreeMap<Place, Weak<ChainHandle>>>> = PerProcess::new();

/// For unpickling: the chain at a path, open for reading, the same one for all that is made of it.
#[pyfunction]
pub(crate) fn unpickled_chain(py: Python<'_>, path: PathBuf) -> PyResult<Chain> {
    // Before it is opened: of one that is replaced meanwhile the next call sees that.
    let index = py.detach(|| index_file(&path));
    let place: Place = (path, index);
    let known = lock(UNPICKLED.get()).get(&place).and_then(Weak::upgrade);
    if let Some(handle) = known {
        return Ok(Chain { handle });
    }
    let opened = Chain::open(py, place.0.clone(), true)?;
    let mut open = lock(UNPICKLED.get());
    open.retain(|_, handle| handle.strong_count() > 0);
    open.insert(place, Arc::downgrade(&opened.handle));
    drop(open);
    Ok(opened)
}

/// A walk over blocks, parents before children; made by `Chain.blocks`.
///
/// After a block that is damaged it goes on with the next one. It sees the chain as it was when its
/// first block was asked for.
#[pyclass(frozen, weakref, module = "blyan")]
pub(crate) struct Blocks {
    slot: Local<Arc<Slot<core::Blocks>>>,
    handle: Arc<ChainHandle>,
}

#[pymethods]
impl Blocks {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Block>> {
        // Says that the chain is closed, or another process's.
        self.handle.get(py)?;
        let slot = self.slot.get("walk").map_err(|failure| failure.into_py(py))?;
        let next = run(py, || match &mut *lock(slot) {
            Some(blocks) => blocks.next().transpose().map_err(Failure::from),
            None => Err(Failure::Closed("walk")),
        })?;
        Ok(next.map(|block| Block::new(&self.handle, block)))
    }

    fn __repr__(&self) -> String {
        "<Blocks: iterate over it>".to_owned()
    }
}
