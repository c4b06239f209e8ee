//! Owns datasets in Python: proposing, auditing, voting, counting, ruling, and where each stands.

use blyan_core::BlockHash;
use blyan_core::evolve::EvolveError;
use blyan_core::evolve::dataset::{self as core, DatasetDraft};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::args::{BlockArg, Count, Tokens};
use crate::chain::{Block, Chain};
use crate::door::{Job, Silent, Watch, run, run_watched};
use crate::evidence::{self, KeyArg, tier_of};
use crate::failure::Failure;
use crate::history::appended;
use crate::snapshot::Snapshot;

/// Token ids of a text as a snapshot's own tokenizer gives them, without special tokens: those that
/// `propose_dataset` makes of it.
#[pyfunction]
pub(crate) fn tokenize(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    snapshot: &Bound<'_, Snapshot>,
    text: String,
) -> PyResult<Vec<u32>> {
    let (chain, snapshot) = (chain.get().handle.get(py)?, snapshot.get().snapshot.clone());
    run_watched(py, &Watch::default(), move |_: &Job<Silent>| core::tokenize(&chain, &snapshot, &text))
}

/// Proposes a dataset: appends its tokens and what is said about them, and returns the dataset block. The
/// same proposal is the same block.
///
/// `data` is a text, tokenized as `snapshot`'s model does it, or token ids below `vocab_size` (and the
/// `tokenizer` block that they belong to, if they are text). `license` is an SPDX expression, `tier`
/// "gold", "silver" or "experimental".
///
/// >>> from blyan import evolve
/// >>> with blyan.Chain.in_memory() as another:
/// ...     block = evolve.propose_dataset(another, "count", range(9), vocab_size=9,
/// ...                                    license="CC0-1.0", source="counted by hand")
/// ...     block.kind, block.name
/// ('dataset', 'count')
#[pyfunction]
#[pyo3(signature = (chain, name, data, *, license, source, snapshot=None, vocab_size=None, tokenizer=None,
                    tier="experimental", version="1.0.0", predecessor=None))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
pub(crate) fn propose_dataset(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    name: String,
    data: &Bound<'_, PyAny>,
    license: String,
    source: String,
    snapshot: Option<&Bound<'_, Snapshot>>,
    vocab_size: Option<Count<u32>>,
    tokenizer: Option<BlockArg>,
    tier: &str,
    version: &str,
    predecessor: Option<BlockArg>,
) -> PyResult<Block> {
    let refuse = |message: String| Failure::Argument(message).into_py(py);
    let tier = tier_of(py, tier)?;
    let version = version.parse().map_err(|error| refuse(format!("version {version:?}: {error}")))?;
    let predecessor = predecessor.map(|block| block.0);
    let finish = move |draft: DatasetDraft| DatasetDraft { tier, version, predecessor, ..draft };
    if data.is_instance_of::<PyString>() {
        let text: String = data.extract()?;
        let Some(snapshot) = snapshot else {
            return Err(refuse("a text needs a snapshot, whose tokenizer reads it".to_owned()));
        };
        let snapshot = snapshot.get().snapshot.clone();
        return appended(py, chain, move |chain| {
            let draft = DatasetDraft::of_text(chain, &snapshot, name, &text, license, source)?;
            core::propose(chain, finish(draft))
        });
    }
    let Some(vocab_size) = vocab_size else {
        return Err(refuse("token ids need a vocab_size, which all of them are below".to_owned()));
    };
    let tokens = data.extract::<Tokens>()?.0;
    let tokenizer = tokenizer.map(|block| block.0);
    appended(py, chain, move |chain| {
        let draft = DatasetDraft::of_tokens(name, tokens, vocab_size.0, license, source);
        core::propose(chain, finish(DatasetDraft { tokenizer, ..draft }))
    })
}

/// Audits a dataset as a validator of the policy: counts what is in it and appends that, signed.
#[pyfunction]
pub(crate) fn audit_dataset(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    policy: BlockArg,
    dataset: BlockArg,
    key: KeyArg,
) -> PyResult<Block> {
    appended(py, chain, move |chain| core::audit(chain, &policy.0, &dataset.0, &key.0))
}

/// Computes the audit of a dataset again; raises `StepError` if it does not say what is there.
#[pyfunction]
pub(crate) fn check_dataset_audit(py: Python<'_>, chain: &Bound<'_, Chain>, audit: BlockArg) -> PyResult<()> {
    let chain = chain.get().handle.get(py)?;
    run_watched(py, &Watch::default(), move |_: &Job<Silent>| core::check_audit(&chain, &audit.0))
}

/// What an honest validator finds in a dataset under a policy. Appends nothing.
#[pyfunction]
pub(crate) fn recompute_dataset_audit<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    policy: BlockArg,
    dataset: BlockArg,
) -> PyResult<Bound<'py, PyAny>> {
    let chain = chain.get().handle.get(py)?;
    let found = run_watched(py, &Watch::default(), move |_: &Job<Silent>| {
        core::recompute(&chain, &policy.0, &dataset.0)
    })?;
    evidence::make(py, "DatasetAudit", &found)
}

/// Votes on an audited dataset as a voter of the policy. A vote cannot be taken back; the same vote again
/// is the same block.
#[pyfunction]
#[pyo3(signature = (chain, policy, dataset, key, *, approve))]
pub(crate) fn vote(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    policy: BlockArg,
    dataset: BlockArg,
    key: KeyArg,
    approve: bool,
) -> PyResult<Block> {
    appended(py, chain, move |chain| core::vote(chain, &policy.0, &dataset.0, &key.0, approve))
}

/// Counts every vote on a dataset that may be counted, and appends that. Anyone can.
#[pyfunction]
pub(crate) fn tally(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    policy: BlockArg,
    dataset: BlockArg,
) -> PyResult<Block> {
    of_dataset(py, chain, policy, dataset, core::tally)
}

/// Appends what follows from the best tally: the dataset is accepted, or rejected. Anyone can.
#[pyfunction]
pub(crate) fn rule(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    policy: BlockArg,
    dataset: BlockArg,
) -> PyResult<Block> {
    of_dataset(py, chain, policy, dataset, core::rule)
}

fn of_dataset(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    policy: BlockArg,
    dataset: BlockArg,
    step: fn(&blyan_core::Chain, &BlockHash, &BlockHash) -> Result<BlockHash, EvolveError>,
) -> PyResult<Block> {
    appended(py, chain, move |chain| step(chain, &policy.0, &dataset.0))
}

/// Where a dataset stands under a policy: a function of the set of blocks, whatever their order.
#[pyfunction]
pub(crate) fn dataset_state<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    policy: BlockArg,
    dataset: BlockArg,
) -> PyResult<Bound<'py, PyAny>> {
    let chain = chain.get().handle.get(py)?;
    let state = run(py, move || core::state(&chain, &policy.0, &dataset.0))?;
    evidence::make(py, "DatasetState", &state)
}

/// Every dataset and where it stands under a policy, by height, then hash.
#[pyfunction]
pub(crate) fn datasets<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    policy: BlockArg,
) -> PyResult<Bound<'py, PyAny>> {
    let chain = chain.get().handle.get(py)?;
    let states = run(py, move || core::list(&chain, &policy.0))?;
    evidence::list(py, "DatasetState", states)
}
