//! Owns `blyan.Snapshot`: the slot → block map of a model, compared, changed and published.

use std::sync::Arc;

use blyan_core::Chain as CoreChain;
use blyan_core::evolve::{EvaluateOptions, EvaluateProgress, EvolveError, loss_diff};
use blyan_core::manager::{CompareOptions, ManagerError, Snapshot as CoreSnapshot, compare, find_model};
use blyan_core::{BlockHash, BlockKind, Manifest};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::args::{BlockArg, Count, ModelArg, Tokens};
use crate::chain::{Block, Chain, ChainHandle, pickled_path};
use crate::door::{CancelToken, Job, Report, Silent, Watch, run, run_watched};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::values::{self, CompareProgress};

/// One model: a spec, and a block for each slot. Made by `Chain.snapshot`.
///
/// `with_block` makes another one in memory to try; a manager opens it like a model, `publish` appends
/// it. Equal snapshots have equal roots.
///
/// >>> snapshot = chain.snapshot()
/// >>> snapshot == model.snapshot, snapshot.diff(model.snapshot)
/// (True, [])
#[pyclass(frozen, weakref, module = "blyan")]
pub(crate) struct Snapshot {
    pub(crate) snapshot: CoreSnapshot,
    handle: Arc<ChainHandle>,
}

impl Snapshot {
    pub(crate) fn new(handle: &Arc<ChainHandle>, snapshot: CoreSnapshot) -> Self {
        Self { snapshot, handle: Arc::clone(handle) }
    }

    pub(crate) fn load(py: Python<'_>, handle: &Arc<ChainHandle>, model: Option<ModelArg>) -> PyResult<Self> {
        let chain = handle.get(py)?;
        let snapshot = run(py, move || match model {
            Some(ModelArg::Block(model)) => CoreSnapshot::of_model(&chain, &model_of(&chain, model)?),
            Some(ModelArg::Name(name)) => CoreSnapshot::named(&chain, &name),
            None => CoreSnapshot::only_model(&chain),
        })?;
        Ok(Self::new(handle, snapshot))
    }
}

#[pymethods]
impl Snapshot {
    /// The model that a model block pins, or that has a name (see `find_model`).
    #[classmethod]
    fn of_model(
        _class: &Bound<'_, PyType>,
        py: Python<'_>,
        chain: &Bound<'_, Chain>,
        model: ModelArg,
    ) -> PyResult<Self> {
        Self::load(py, &chain.get().handle, Some(model))
    }

    /// The chain's only model; `NoModelError` if there is none or several.
    #[classmethod]
    fn only_model(_class: &Bound<'_, PyType>, py: Python<'_>, chain: &Bound<'_, Chain>) -> PyResult<Self> {
        Self::load(py, &chain.get().handle, None)
    }

    /// This model with another block in the slot that the block's name says, in memory only.
    fn with_block(&self, py: Python<'_>, block: BlockArg) -> PyResult<Self> {
        let (chain, snapshot) = (self.handle.get(py)?, self.snapshot.clone());
        let changed = run(py, move || snapshot.with_block(&chain, &block.0))?;
        Ok(Self::new(&self.handle, changed))
    }

    /// This model with each of some blocks in its slot, at most one a slot, in memory only: to try
    /// candidates.
    fn with_blocks(&self, py: Python<'_>, blocks: Vec<BlockArg>) -> PyResult<Self> {
        let (chain, snapshot) = (self.handle.get(py)?, self.snapshot.clone());
        let blocks: Vec<_> = blocks.into_iter().map(|block| block.0).collect();
        let changed = run(py, move || snapshot.with_blocks(&chain, &blocks))?;
        Ok(Self::new(&self.handle, changed))
    }

    /// The slots in which two snapshots differ.
    fn diff<'py>(&self, py: Python<'py>, after: &Self) -> PyResult<Bound<'py, PyAny>> {
        let changes = self.snapshot.diff(&after.snapshot);
        Ok(values::list(py, &changes, values::slot_change)?.into_any())
    }

    /// How another model differs from this one: slots, bytes that would have to be sent, with `distances` how
    /// far the weights of changed slots moved, with `tokens` what both lose on them, in windows as
    /// `evolve.evaluate` has them. The same on every machine.
    ///
    /// `progress` is called with a `CompareProgress` after each changed slot, then with an
    /// `evolve.EvaluateProgress` while losses are measured; True shows a bar, False nothing, None a bar in a
    /// terminal or a notebook.
    ///
    /// >>> tokens = model.tokenize("In the beginning God created the heaven and the earth.")
    /// >>> difference = chain.snapshot().compare(model.snapshot, distances=True, tokens=tokens)
    /// >>> difference.slots, difference.new_payload_bytes, difference.loss.before == difference.loss.after
    /// ([], 0, True)
    #[pyo3(signature = (after, *, distances=false, tokens=None, window=None, progress=None, cancel=None),
           text_signature = "($self, after, *, distances=False, tokens=None, window=256, progress=None, cancel=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn compare<'py>(
        &self,
        py: Python<'py>,
        after: &Self,
        distances: bool,
        tokens: Option<Tokens>,
        window: Option<Count>,
        progress: Option<Bound<'py, PyAny>>,
        cancel: Option<Py<CancelToken>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let chain = self.handle.get(py)?;
        let (before, after) = (self.snapshot.clone(), after.snapshot.clone());
        let progress = Progress::open(py, progress, "compare")?;
        let cancel = cancel.map(|token| token.get().flag());
        let watch = Watch { callback: progress.callback(), cancel, ..Watch::default() };
        let watched = watch.callback.is_some();
        let difference = run_watched(py, &watch, move |job: &Job<Comparing>| {
            let report =
                |slots, total| job.report(Comparing::Slots(CompareProgress { slots, total_slots: total }));
            let progress: Option<&(dyn Fn(u64, u64) + Sync)> = if watched { Some(&report) } else { None };
            let options = CompareOptions { distances, progress, cancel: Some(&job.cancel) };
            let mut difference = compare(&chain, &before, &after, &options)?;
            if let Some(tokens) = tokens {
                let report = |progress| job.report(Comparing::Tokens(progress));
                let progress: Option<&(dyn Fn(EvaluateProgress) + Sync)> =
                    if watched { Some(&report) } else { None };
                let default = EvaluateOptions::default();
                let window = window.map_or(default.window, |window| window.0);
                let options = EvaluateOptions { window, cancel: Some(&job.cancel), progress, ..default };
                let loss = loss_diff(&chain, &before, &after, &tokens.0, &options);
                difference.loss = Some(loss.map_err(EvolveError::from)?);
            }
            Ok::<_, Failure>(difference)
        });
        progress.close(py)?;
        values::snapshot_diff(py, &difference?)
    }

    /// Appends the snapshot as a model block that follows the one it came from, and returns the block. Its
    /// version is the next patch for other weights, minor for more slots, major for fewer or another
    /// architecture.
    fn publish(&self, py: Python<'_>) -> PyResult<Block> {
        let (chain, snapshot) = (self.handle.to_append(py)?, self.snapshot.clone());
        let block = run_watched(py, &Watch::default(), move |job: &Job<Silent>| {
            await_turn(&chain, job)?;
            let hash = snapshot.publish(&chain)?;
            Ok::<_, Failure>(chain.get(&hash)?)
        })?;
        Ok(Block::new(&self.handle, block))
    }

    /// The model block that `publish` would give.
    fn model_block<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (chain, snapshot) = (self.handle.get(py)?, self.snapshot.clone());
        let block = run(py, move || snapshot.model_block(&chain))?;
        values::block_hash(py, &block)
    }

    /// Names the snapshot.
    #[getter]
    fn root<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        values::snapshot_root(py, &self.snapshot.root())
    }

    /// The decoder, described by its parts, as a dict.
    #[getter]
    fn spec<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let bytes = self.snapshot.spec().to_canonical_json();
        values::json(py, &String::from_utf8_lossy(&bytes))
    }

    /// The spec's block.
    #[getter]
    fn spec_block<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        values::block_hash(py, self.snapshot.spec_block())
    }

    /// The model block that the snapshot came from.
    #[getter]
    fn base<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.snapshot.base().map(|base| values::block_hash(py, base)).transpose()
    }

    /// The block of each slot, by the slot's name, in slot order.
    #[getter]
    fn slots<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let slots = PyDict::new(py);
        for (slot, pinned) in self.snapshot.slots() {
            slots.set_item(slot.to_string(), values::pinned(py, pinned)?)?;
        }
        Ok(slots)
    }

    /// The model block's content, as a dict.
    #[getter]
    fn manifest<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let bytes = self.snapshot.manifest().to_canonical_json();
        values::json(py, &String::from_utf8_lossy(&bytes))
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Self>().is_ok_and(|other| other.get().snapshot.root() == self.snapshot.root())
    }

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        self.root(py)?.hash()
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let (py, this) = (slf.py(), slf.get());
        let path = pickled_path(py, this.handle.dir(), "snapshot")?;
        let base = this.snapshot.base().copied();
        let manifest = this.snapshot.manifest().to_canonical_json();
        let manifest = String::from_utf8_lossy(&manifest);
        let arguments = (path, base.map(|base| base.to_string()), manifest).into_pyobject(py)?;
        Ok((py.import("blyan._pickle")?.getattr("snapshot")?, arguments))
    }

    fn __repr__(&self) -> String {
        let (root, slots) = (self.snapshot.root().short(), self.snapshot.slots().len());
        let architecture = self.snapshot.spec().architecture.model_type();
        format!("<Snapshot {root} {architecture}, {slots} slots>")
    }
}

/// For unpickling: a snapshot of these blocks, which comes from `base`.
#[pyfunction]
pub(crate) fn snapshot_of_manifest(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    manifest: String,
    base: Option<BlockArg>,
) -> PyResult<Snapshot> {
    let handle = &chain.get().handle;
    let chain = handle.get(py)?;
    let snapshot = run(py, move || {
        let manifest = Manifest::from_canonical_json(manifest.as_bytes()).map_err(ManagerError::from)?;
        CoreSnapshot::of_manifest(&chain, manifest, base.map(|base| base.0))
    })?;
    Ok(Snapshot::new(handle, snapshot))
}

/// The model of a block: what a release releases.
pub(crate) fn model_of(chain: &CoreChain, block: BlockHash) -> Result<BlockHash, ManagerError> {
    match chain.get(&block)?.header().kind {
        BlockKind::RELEASE => find_model(chain, &block.to_string()),
        _ => Ok(block),
    }
}

/// How far a comparison is.
enum Comparing {
    Slots(CompareProgress),
    Tokens(EvaluateProgress),
}

impl Report for Comparing {
    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Slots(progress) => progress.to_python(py),
            Self::Tokens(progress) => progress.to_python(py),
        }
    }
}

/// Waits for the transaction that is open, if there is one: what is interrupted meanwhile must not
/// happen when that ends. What is interrupted later is waited for.
pub(crate) fn await_turn<P>(chain: &CoreChain, job: &Job<P>) -> Result<(), Failure> {
    drop(chain.writer()?);
    job.begin()
}
