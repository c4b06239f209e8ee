//! Owns proof of learning in Python: policies, evaluation, rounds, attestations, audits, judgement.

use blyan_core::BlockHash;
use blyan_core::evolve::{self as core, EvaluateProgress, Evidence, EvolveError, Policy};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::args::{BlockArg, Count, Tokens};
use crate::chain::{Block, Chain};
use crate::door::{CancelToken, Job, Watch, run, run_watched};
use crate::evidence::{self, CandidateArg, Evaluating, KeyArg, hashes};
use crate::failure::Failure;
use crate::history::appended;
use crate::progress::Progress;
use crate::snapshot::{Snapshot, await_turn};
use crate::values;

/// Appends a policy: whose word counts, and how much improvement is enough.
///
/// >>> from blyan import evolve
/// >>> with blyan.Chain.in_memory() as another:
/// ...     meta = blyan.import_checkpoint(another, folder)
/// ...     policy = evolve.Policy(meta.hash, [evolve.public_key(bytes(32))])
/// ...     block = evolve.append_policy(another, policy)
/// ...     evolve.policy_of(another, block) == policy
/// True
#[pyfunction]
pub(crate) fn append_policy(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    policy: &Bound<'_, PyAny>,
) -> PyResult<Block> {
    let fields = py.import("dataclasses")?.call_method1("asdict", (policy,))?;
    let wrong = |error: serde_json::Error| PyTypeError::new_err(format!("argument 'policy': {error}"));
    let policy: Policy = serde_json::from_str(&values::to_json(&fields)?).map_err(wrong)?;
    appended(py, chain, move |chain| policy.append(chain))
}

/// The policy in a block, all of it checked again.
#[pyfunction]
pub(crate) fn policy_of<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    block: BlockArg,
) -> PyResult<Bound<'py, PyAny>> {
    let chain = chain.get().handle.get(py)?;
    let policy = run(py, move || Policy::of(&chain, &block.0))?;
    evidence::make(py, "Policy", &policy)
}

/// A statement of a round, an audit, a vote and the like as a dict: the payload of a block of evidence.
/// It was checked when it was appended.
#[pyfunction]
pub(crate) fn evidence_of<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    block: BlockArg,
) -> PyResult<Bound<'py, PyAny>> {
    let chain = chain.get().handle.get(py)?;
    let payload = run(py, move || chain.payload(&block.0))?;
    values::json(py, &String::from_utf8_lossy(&payload))
}

/// Mean loss of a model on tokens, the same bits on every machine: over windows that lie one after the
/// other, each of `window` predicted tokens with an empty cache before it.
///
/// `pass_tokens` (how many go through the model at once), `threads` and `isa` never change the result.
/// `progress` is called with an `EvaluateProgress`; True shows a bar, False nothing, None a bar in a
/// terminal or a notebook.
///
/// >>> from blyan import evolve
/// >>> tokens = model.tokenize("In the beginning God created the heaven and the earth.")
/// >>> result = evolve.evaluate(chain, model.snapshot, tokens)
/// >>> result.tokens == len(tokens) - 1, 0 < result.loss < 7
/// (True, True)
#[pyfunction]
#[pyo3(signature = (chain, snapshot, tokens, *, window=None, pass_tokens=None, threads=None, isa=None,
                    progress=None, cancel=None),
       text_signature = "(chain, snapshot, tokens, *, window=256, pass_tokens=1024, threads=None, isa=None, progress=None, cancel=None)")]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
pub(crate) fn evaluate<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    snapshot: &Bound<'py, Snapshot>,
    tokens: Tokens,
    window: Option<Count>,
    pass_tokens: Option<Count>,
    threads: Option<Count>,
    isa: Option<String>,
    progress: Option<Bound<'py, PyAny>>,
    cancel: Option<Py<CancelToken>>,
) -> PyResult<Bound<'py, PyAny>> {
    let chain = chain.get().handle.get(py)?;
    let snapshot = snapshot.get().snapshot.clone();
    let how = Evaluating { window, pass_tokens, threads, isa };
    let evaluation = watched(py, "evaluate", progress, cancel, move |job, report| {
        let options = how.options(job, report);
        Ok(core::evaluate(&chain, &snapshot, &tokens.0, &options).map_err(EvolveError::from)?)
    })?;
    evidence::make(py, "Evaluation", &evidence::evaluation(&evaluation))
}

/// Opens a round as a validator: commits to the tokens of `split`, which nobody may know, and which later
/// judge what is proposed meanwhile. It improves the model that the rounds before come to.
#[pyfunction]
pub(crate) fn open_round(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    key: KeyArg,
    policy: BlockArg,
    split: Tokens,
) -> PyResult<Block> {
    appended(py, chain, move |chain| core::open_round(chain, &key.0, &policy.0, &split.0))
}

/// Claims a candidate in a round without showing it: `blocks` are the new blocks by the names of their
/// slots.
#[pyfunction]
pub(crate) fn claim(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    key: KeyArg,
    round: BlockArg,
    blocks: CandidateArg,
) -> PyResult<Block> {
    appended(py, chain, move |chain| core::claim(chain, &key.0, &round.0, &blocks.0))
}

/// The claims of a round, by block, each with its key.
#[pyfunction]
pub(crate) fn claims_of<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    round: BlockArg,
) -> PyResult<Bound<'py, PyAny>> {
    let chain = chain.get().handle.get(py)?;
    let claims = run(py, move || core::claims_of(&chain, &round.0))?;
    let claims = claims.iter().map(|(block, key)| serde_json::json!({ "block": block, "key": key }));
    evidence::list(py, "ClaimEntry", claims)
}

/// Closes a round as its owner: lists the claims that it has. Nothing is shown before that.
#[pyfunction]
pub(crate) fn close_round(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    key: KeyArg,
    round: BlockArg,
) -> PyResult<Block> {
    appended(py, chain, move |chain| core::close_round(chain, &key.0, &round.0))
}

/// Shows a candidate that was claimed, once its round is closed.
#[pyfunction]
pub(crate) fn propose_candidate(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    key: KeyArg,
    claim: BlockArg,
    blocks: CandidateArg,
) -> PyResult<Block> {
    appended(py, chain, move |chain| core::propose_candidate(chain, &key.0, &claim.0, &blocks.0))
}

/// Shows the split of a round as its owner: it judges the candidates that are there.
#[pyfunction]
pub(crate) fn reveal(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    key: KeyArg,
    round: BlockArg,
    split: Tokens,
) -> PyResult<Block> {
    appended(py, chain, move |chain| core::reveal(chain, &key.0, &round.0, &split.0))
}

/// The model that candidates of one base make of it, in memory only.
#[pyfunction]
pub(crate) fn snapshot_of(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    candidates: Vec<BlockArg>,
) -> PyResult<Snapshot> {
    let handle = &chain.get().handle;
    let (chain, candidates) = (handle.get(py)?, hashes(candidates));
    let snapshot = run(py, move || core::snapshot_of(&chain, &candidates))?;
    Ok(Snapshot::new(handle, snapshot))
}

/// Evaluates candidates of a reveal, together, as a validator, and appends what was measured. Without
/// `candidates` each one, and all that were accepted together: a list of blocks either way.
#[pyfunction]
#[pyo3(signature = (chain, key, reveal, candidates=None, *, threads=None, isa=None, progress=None, cancel=None))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
pub(crate) fn attest<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    key: KeyArg,
    reveal: BlockArg,
    candidates: Option<Vec<BlockArg>>,
    threads: Option<Count>,
    isa: Option<String>,
    progress: Option<Bound<'py, PyAny>>,
    cancel: Option<Py<CancelToken>>,
) -> PyResult<Bound<'py, PyAny>> {
    let handle = &chain.get().handle;
    let (target, candidates) = (handle.to_append(py)?, candidates.map(hashes));
    let how = Evaluating { threads, isa, ..Evaluating::default() };
    let blocks = watched(py, "attest", progress, cancel, move |job, report| {
        await_turn(&target, job)?;
        let options = how.options(job, report);
        let made: Vec<BlockHash> = match candidates {
            Some(candidates) => vec![core::attest(&target, &key.0, &reveal.0, &candidates, &options)?],
            None => core::attest_all(&target, &key.0, &reveal.0, &options)?,
        };
        Ok(target.get_all(&made)?)
    })?;
    let wrap = |py, block| Ok(Bound::new(py, Block::new(handle, block))?.into_any());
    Ok(values::list(py, blocks, wrap)?.into_any())
}

/// Computes the attestations under a policy again and says which do not recompute; with `key`, a
/// validator's, each lie is accused on the chain.
#[pyfunction]
#[pyo3(signature = (chain, policy, key=None, *, threads=None, isa=None, progress=None, cancel=None))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
pub(crate) fn audit<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    policy: BlockArg,
    key: Option<KeyArg>,
    threads: Option<Count>,
    isa: Option<String>,
    progress: Option<Bound<'py, PyAny>>,
    cancel: Option<Py<CancelToken>>,
) -> PyResult<Bound<'py, PyAny>> {
    let handle = &chain.get().handle;
    let target = if key.is_some() { handle.to_append(py)? } else { handle.get(py)? };
    let how = Evaluating { threads, isa, ..Evaluating::default() };
    let report = watched(py, "audit", progress, cancel, move |job, report| {
        let key = key.as_ref().map(|key| &key.0);
        Ok(core::audit(&target, &policy.0, key, &how.options(job, report))?)
    })?;
    evidence::make(py, "AuditReport", &report)
}

/// What follows from the blocks under a policy: which candidates are accepted and why others are not, who
/// did what nobody may do, and the model that the fork choice takes. A function of the set of blocks,
/// whatever their order.
#[pyfunction]
pub(crate) fn judge<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    policy: BlockArg,
) -> PyResult<Bound<'py, PyAny>> {
    let chain = chain.get().handle.get(py)?;
    let state = run(py, move || core::judge(&chain, &policy.0))?;
    evidence::make(py, "Judgement", &state)
}

/// Appends the model that the fork choice takes, and those on the way to it; returns its block.
#[pyfunction]
pub(crate) fn publish(py: Python<'_>, chain: &Bound<'_, Chain>, policy: BlockArg) -> PyResult<Block> {
    appended(py, chain, move |chain| core::publish(chain, &core::judge(chain, &policy.0)?))
}

/// As `publish`, and gives the model a name and a version: returns the release block.
#[pyfunction]
pub(crate) fn publish_release(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    policy: BlockArg,
    name: String,
    version: String,
) -> PyResult<Block> {
    let refuse = |error| Failure::Argument(format!("version {version:?}: {error}")).into_py(py);
    let version: semver::Version = version.parse().map_err(refuse)?;
    appended(py, chain, move |chain| {
        let state = core::judge(chain, &policy.0)?;
        Ok::<_, EvolveError>(core::publish_release(chain, &state, &name, version)?.1)
    })
}

/// Work that evaluates, with its progress.
pub(crate) fn watched<'py, T: Send + 'static>(
    py: Python<'py>,
    what: &str,
    progress: Option<Bound<'py, PyAny>>,
    cancel: Option<Py<CancelToken>>,
    work: impl FnOnce(&Job<EvaluateProgress>, Option<&(dyn Fn(EvaluateProgress) + Sync)>) -> Result<T, Failure>
    + Send
    + 'static,
) -> PyResult<T> {
    let progress = Progress::open(py, progress, what)?;
    let cancel = cancel.map(|token| token.get().flag());
    let watch = Watch { callback: progress.callback(), cancel, ..Watch::default() };
    let watched = watch.callback.is_some();
    let done = run_watched(py, &watch, move |job: &Job<EvaluateProgress>| {
        let report = |progress| job.report(progress);
        let report: Option<&(dyn Fn(EvaluateProgress) + Sync)> = if watched { Some(&report) } else { None };
        work(job, report)
    });
    progress.close(py)?;
    done
}
