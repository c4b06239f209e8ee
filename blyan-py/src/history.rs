//! Owns the history of models: names, releases, lineage, going back, moving to another architecture, and
//! growing.

use blyan_core::manager::{self as core, LayerGrowth};
use pyo3::prelude::*;

use crate::args::{BlockArg, Count, expected};
use crate::buffer::bytes_of;
use crate::chain::{Block, Chain};
use crate::door::{Job, Silent, Watch, run, run_watched};
use crate::failure::Failure;
use crate::snapshot::{Snapshot, await_turn};
use crate::values;

/// Names a model: appends a release block with a name and a SemVer version, and returns it. It follows
/// the release of the same name with the next lower version. A model that has this name and version
/// already keeps its block.
///
/// >>> with blyan.Chain.in_memory() as another:
/// ...     meta = blyan.import_checkpoint(another, folder)
/// ...     first = blyan.release(another, meta, "tiny", "1.0.0")
/// ...     blyan.find_model(another, "tiny@1.0.0") == meta.hash
/// True
#[pyfunction]
pub(crate) fn release(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    model: BlockArg,
    name: String,
    version: String,
) -> PyResult<Block> {
    let refuse = |error| Failure::Argument(format!("version {version:?}: {error}")).into_py(py);
    let version: semver::Version = version.parse().map_err(refuse)?;
    appended(py, chain, move |chain| core::release(chain, &model.0, &name, version))
}

/// Every release, by name, the highest version first.
///
/// >>> blyan.releases(chain)
/// []
#[pyfunction]
pub(crate) fn releases<'py>(py: Python<'py>, chain: &Bound<'py, Chain>) -> PyResult<Bound<'py, PyAny>> {
    let chain = chain.get().handle.get(py)?;
    let releases = run(py, move || core::releases(&chain))?;
    Ok(values::list(py, &releases, values::release_entry)?.into_any())
}

/// The model block of a name: "latest" for the one model that no other follows, a release ("tiny" is its
/// highest version, "tiny@1.2.3" one), or a hash of a model or release block, or its first 4 digits or
/// more.
///
/// >>> blyan.find_model(chain, "latest") == model.model
/// True
#[pyfunction]
pub(crate) fn find_model<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    name: String,
) -> PyResult<Bound<'py, PyAny>> {
    let chain = chain.get().handle.get(py)?;
    let found = run(py, move || core::find_model(&chain, &name))?;
    values::block_hash(py, &found)
}

/// The block of a name: as for `find_model`, where a release is its own block and a hash may be of any
/// block; or a slot such as "layer0.expert1", of the model named `of`, or of the latest.
///
/// >>> blyan.find_block(chain, "layer0.expert1") == model.snapshot.slots["layer0.expert1"].block
/// True
#[pyfunction]
#[pyo3(signature = (chain, name, *, of=None))]
pub(crate) fn find_block<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    name: String,
    of: Option<String>,
) -> PyResult<Bound<'py, PyAny>> {
    let chain = chain.get().handle.get(py)?;
    let found = run(py, move || core::find_block(&chain, &name, of.as_deref()))?;
    values::block_hash(py, &found)
}

/// A block and those whose place it took, the newest first.
///
/// >>> [block.kind for block in blyan.lineage(chain, model.model)]
/// ['model']
#[pyfunction]
pub(crate) fn lineage<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    block: BlockArg,
) -> PyResult<Bound<'py, PyAny>> {
    let handle = &chain.get().handle;
    let chain = handle.get(py)?;
    let blocks = run(py, move || core::lineage(&chain, &block.0))?;
    let wrap = |py, block| Ok(Bound::new(py, Block::new(handle, block))?.into_any());
    Ok(values::list(py, blocks, wrap)?.into_any())
}

/// Appends a model block that follows `current` and has the slots of `to`, an older one that it comes
/// from, and returns it: nothing is taken out of a chain. Where the two have other specs, a migration
/// block with the reason is appended, too.
#[pyfunction]
pub(crate) fn rollback(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    current: BlockArg,
    to: BlockArg,
    reason: String,
) -> PyResult<Block> {
    appended(py, chain, move |chain| core::rollback(chain, &current.0, &to.0, &reason))
}

/// Appends a model block that follows `before` and has the slots of `model`, which has another
/// architecture, and a migration block with the reason; returns the model block.
#[pyfunction]
pub(crate) fn migrate(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    before: BlockArg,
    model: BlockArg,
    reason: String,
) -> PyResult<Block> {
    appended(py, chain, move |chain| core::migrate(chain, &before.0, &model.0, &reason))
}

/// Appends a spec with more experts, the new experts and routers, and all other blocks of the model under
/// that spec (payloads are shared); returns the grown model, which can be tried and published.
///
/// `growth` says what layers get: `LayerGrowth`s, with payloads as `write_tensors` makes them.
#[pyfunction]
pub(crate) fn grow(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    base: &Bound<'_, Snapshot>,
    growth: Vec<GrowthArg>,
) -> PyResult<Snapshot> {
    let handle = &chain.get().handle;
    let (target, base) = (handle.to_append(py)?, base.get().snapshot.clone());
    let growth: Vec<LayerGrowth> = growth.into_iter().map(|growth| growth.0).collect();
    let grown = run_watched(py, &Watch::default(), move |job: &Job<Silent>| {
        await_turn(&target, job)?;
        Ok::<_, Failure>(core::grow(&target, &base, &growth)?)
    })?;
    Ok(Snapshot::new(handle, grown))
}

/// A `blyan.LayerGrowth`.
pub(crate) struct GrowthArg(LayerGrowth);

impl FromPyObject<'_, '_> for GrowthArg {
    type Error = PyErr;

    fn extract(ob: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let attribute =
            |name: &str| ob.getattr(name).map_err(|error| expected("a LayerGrowth", &ob.to_owned(), error));
        let experts: Vec<Bound<'_, PyAny>> = attribute("experts")?.extract()?;
        let experts: PyResult<Vec<Vec<u8>>> = experts.iter().map(bytes_of).collect();
        Ok(Self(LayerGrowth {
            layer: attribute("layer")?.extract::<Count<u32>>()?.0,
            experts: experts?,
            router: bytes_of(&attribute("router")?)?,
        }))
    }
}

/// Work that appends, after the transaction that is open, and gives a block.
pub(crate) fn appended<E: Into<Failure>>(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    work: impl FnOnce(&blyan_core::Chain) -> Result<blyan_core::BlockHash, E> + Send + 'static,
) -> PyResult<Block> {
    let handle = &chain.get().handle;
    let target = handle.to_append(py)?;
    let block = run_watched(py, &Watch::default(), move |job: &Job<Silent>| {
        await_turn(&target, job)?;
        let hash = work(&target).map_err(Into::into)?;
        Ok::<_, Failure>(target.get(&hash)?)
    })?;
    Ok(Block::new(handle, block))
}
