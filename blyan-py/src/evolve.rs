//! Owns proof of learning in Python: policies, evaluation, rounds, attestations, audits, judgement.

use blyan_core::BlockHash;
use blyan_core::evolve::{self as core, EvaluateProgress, Evidence, EvolveError, Lie, Policy, PublicKey};
use blyan_core::hash::{CandidateRoot, PayloadHash, Salt};
use blyan_core::manager::Snapshot as CoreSnapshot;
use pyo3::prelude::*;

use crate::args::{BlockArg, Count, Tokens};
use crate::chain::{Block, Chain};
use crate::door::{CancelToken, Job, Watch, run, run_watched};
use crate::evidence::{self, CandidateArg, Evaluating, HashArg, KeyArg, hashes};
use crate::failure::Failure;
use crate::history::appended;
use crate::model::MoEModelManager;
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
    let policy: Policy = evidence::read(policy, "policy")?;
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

/// Evaluates a base and candidates for its place: the evaluation of the base, and those of the candidates.
/// Each has the bits that `evaluate` gives, but what the candidates share with the base, all below the first
/// layer that they change, is computed once. All else is as for `evaluate`.
///
/// >>> from blyan import evolve
/// >>> tokens = model.tokenize("In the beginning God created the heaven and the earth.")
/// >>> base, (same,) = evolve.evaluate_together(chain, model.snapshot, [model.snapshot], tokens)
/// >>> base.loss_bits == same.loss_bits == evolve.evaluate(chain, model.snapshot, tokens).loss_bits
/// True
#[pyfunction]
#[pyo3(signature = (chain, base, candidates, tokens, *, window=None, pass_tokens=None, threads=None, isa=None,
                    progress=None, cancel=None),
       text_signature = "(chain, base, candidates, tokens, *, window=256, pass_tokens=1024, threads=None, isa=None, progress=None, cancel=None)")]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
pub(crate) fn evaluate_together<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    base: &Bound<'py, Snapshot>,
    candidates: Vec<Bound<'py, Snapshot>>,
    tokens: Tokens,
    window: Option<Count>,
    pass_tokens: Option<Count>,
    threads: Option<Count>,
    isa: Option<String>,
    progress: Option<Bound<'py, PyAny>>,
    cancel: Option<Py<CancelToken>>,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let chain = chain.get().handle.get(py)?;
    let base = base.get().snapshot.clone();
    let candidates: Vec<CoreSnapshot> = candidates.iter().map(|one| one.get().snapshot.clone()).collect();
    let how = Evaluating { window, pass_tokens, threads, isa };
    let (base, candidates) = watched(py, "evaluate", progress, cancel, move |job, report| {
        let options = how.options(job, report);
        let candidates: Vec<&CoreSnapshot> = candidates.iter().collect();
        let found = core::evaluate_together(&chain, &base, &candidates, &tokens.0, &options);
        Ok(found.map_err(EvolveError::from)?)
    })?;
    let base = evidence::make(py, "Evaluation", &evidence::evaluation(&base))?;
    Ok((base, evidence::list(py, "Evaluation", candidates.iter().map(evidence::evaluation))?))
}

/// As `evaluate`, of an open model, on its own threads and instruction set: the same bits, whatever its
/// `kv_cache` is.
#[pyfunction]
#[pyo3(signature = (model, tokens, *, window=None, pass_tokens=None, progress=None, cancel=None),
       text_signature = "(model, tokens, *, window=256, pass_tokens=1024, progress=None, cancel=None)")]
pub(crate) fn evaluate_model<'py>(
    py: Python<'py>,
    model: &Bound<'py, MoEModelManager>,
    tokens: Tokens,
    window: Option<Count>,
    pass_tokens: Option<Count>,
    progress: Option<Bound<'py, PyAny>>,
    cancel: Option<Py<CancelToken>>,
) -> PyResult<Bound<'py, PyAny>> {
    let model = model.get().handle.get(py)?;
    let how = Evaluating { window, pass_tokens, ..Evaluating::default() };
    let evaluation = watched(py, "evaluate", progress, cancel, move |job, report| {
        let options = how.options(job, report);
        Ok(core::evaluate_model(&model, &tokens.0, &options).map_err(EvolveError::from)?)
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

/// Names what a candidate changes: the model `base`, and the new blocks by the names of their slots.
#[pyfunction]
pub(crate) fn candidate_root<'py>(
    py: Python<'py>,
    base: BlockArg,
    blocks: CandidateArg,
) -> PyResult<Bound<'py, PyAny>> {
    let slots = blocks.0.iter().map(|(slot, block)| (slot.to_string(), *block)).collect();
    evidence::make(py, "CandidateRoot", &core::candidate_root(&base.0, &slots))
}

/// What a claim commits to a candidate with: `author` is the claim's key, `root` the `candidate_root`; the
/// candidate shows the salt, 32 bytes.
#[pyfunction]
pub(crate) fn claim_commitment<'py>(
    py: Python<'py>,
    salt: HashArg,
    author: HashArg,
    root: HashArg,
) -> PyResult<Bound<'py, PyAny>> {
    let (salt, root) = (Salt::from_bytes(salt.0), CandidateRoot::from_bytes(root.0));
    let commitment = core::claim_commitment(&salt, &PublicKey::from_bytes(author.0), &root);
    evidence::make(py, "Commitment", &commitment)
}

/// What a round commits to its split with: `tokens` is the payload hash of its tokens; the reveal shows the
/// salt, 32 bytes.
#[pyfunction]
pub(crate) fn split_commitment<'py>(
    py: Python<'py>,
    salt: HashArg,
    tokens: HashArg,
) -> PyResult<Bound<'py, PyAny>> {
    let (salt, tokens) = (Salt::from_bytes(salt.0), PayloadHash::from_bytes(tokens.0));
    evidence::make(py, "Commitment", &core::split_commitment(&salt, &tokens))
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

/// Appends an accusation of a lie that an audit found. Only those of validators count.
#[pyfunction]
pub(crate) fn accuse(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    key: KeyArg,
    policy: BlockArg,
    lie: &Bound<'_, PyAny>,
) -> PyResult<Block> {
    let lie: Lie = evidence::read(lie, "lie")?;
    appended(py, chain, move |chain| core::accuse(chain, &key.0, &policy.0, &lie))
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

/// The model that the fork choice would take without a round and those that came after it.
#[pyfunction]
pub(crate) fn chosen_without<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    policy: BlockArg,
    round: BlockArg,
) -> PyResult<Bound<'py, PyAny>> {
    let chain = chain.get().handle.get(py)?;
    let state = run(py, move || core::judge(&chain, &policy.0))?;
    evidence::make(py, "Chosen", &state.chosen_without(&round.0))
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
