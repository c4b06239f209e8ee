//! Owns contributing and earning in Python: extracting weights, contributing them, recorded use, rewards.

use std::path::PathBuf;

use blyan_core::BlockHash;
use blyan_core::evolve::{
    self as core, ContributeOptions, Evidence, ExtractOptions, ExtractSource, Ledger, Piece, credits,
};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::args::{BlockArg, Count, DTypeArg, expected};
use crate::chain::{Block, Chain};
use crate::door::{CancelToken, Job, Silent, Watch, run, run_watched};
use crate::evidence::{self, CandidateArg, KeyArg, hashes, slot_of};
use crate::failure::Failure;
use crate::history::appended;
use crate::receipt::{Receipt, again};
use crate::snapshot::await_turn;
use crate::values;

/// What to take: the name of a slot, or a `blyan.evolve.Piece`.
pub(crate) struct PieceArg(Piece);

impl FromPyObject<'_, '_> for PieceArg {
    type Error = PyErr;

    fn extract(ob: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let py = ob.py();
        if ob.is_instance_of::<PyString>() {
            return Ok(Self(Piece::whole(slot_of(py, &ob.extract::<String>()?)?)));
        }
        let attribute = |name: &str| {
            ob.getattr(name).map_err(|error| expected("a slot's name or a Piece", &ob.to_owned(), error))
        };
        let slot = |name: &str| slot_of(py, &attribute(name)?.extract::<String>()?);
        let rows: Option<Vec<Count>> = attribute("rows")?.extract()?;
        let rows = rows.map(|rows| rows.into_iter().map(|row| row.0).collect());
        let from = slot("source")?;
        let to = if attribute("target")?.is_none() { from } else { slot("target")? };
        Ok(Self(Piece { from, rows, to }))
    }
}

/// Takes weights out of a checkpoint (a folder or a GGUF file) or a model of a chain, as blocks for the
/// model or spec block `target`, which a candidate can name.
///
/// `pieces` are names of slots or `Piece`s, which can divide an expert, or a dense layer, by rows. `source`
/// is a path, or a chain with `model`. With `dry_run=True` nothing is appended.
///
/// >>> from blyan import evolve
/// >>> report = evolve.extract(chain, model.model, folder, ["layer0.expert1"], dry_run=True)
/// >>> report.blocks[0].block == model.snapshot.slots["layer0.expert1"].block
/// True
#[pyfunction]
#[pyo3(signature = (chain, target, source, pieces, *, model=None, dtype=None, dry_run=false,
                    ignore_config_keys=vec![], cancel=None),
       text_signature = "(chain, target, source, pieces, *, model=None, dtype=None, dry_run=False, ignore_config_keys=(), cancel=None)")]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
pub(crate) fn extract<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    target: BlockArg,
    source: &Bound<'py, PyAny>,
    pieces: Vec<PieceArg>,
    model: Option<BlockArg>,
    dtype: Option<DTypeArg>,
    dry_run: bool,
    ignore_config_keys: Vec<String>,
    cancel: Option<Py<CancelToken>>,
) -> PyResult<Bound<'py, PyAny>> {
    let handle = &chain.get().handle;
    let into = if dry_run { handle.get(py)? } else { handle.to_append(py)? };
    let from = source.cast::<Chain>().ok().map(|chain| chain.get().handle.get(py)).transpose()?;
    let path: Option<PathBuf> = if from.is_none() { Some(source.extract()?) } else { None };
    let pieces: Vec<Piece> = pieces.into_iter().map(|piece| piece.0).collect();
    let cancel = cancel.map(|token| token.get().flag());
    let watch = Watch { cancel, ..Watch::default() };
    let report = run_watched(py, &watch, move |job: &Job<Silent>| {
        let source = match (&from, &path, model) {
            (Some(chain), _, Some(model)) => ExtractSource::Model { chain, model: model.0 },
            (None, Some(path), None) => ExtractSource::Checkpoint(path),
            _ => {
                let message = "a chain as the source needs a model of it, a path needs none";
                return Err(Failure::Argument(message.to_owned()));
            }
        };
        let options = ExtractOptions {
            dtype: dtype.map(|dtype| dtype.0),
            dry_run,
            ignore_config_keys,
            cancel: Some(&job.cancel),
        };
        Ok(core::extract(&into, &target.0, &source, &pieces, &options)?)
    })?;
    evidence::make(py, "ExtractReport", &evidence::extract_report(&report))
}

/// Takes the next step with a candidate: claims it, shows it once the round is closed, or says that there
/// is nothing to do but wait. What can earn nothing, such as a copy, is refused before it is appended.
/// With `dry_run=True` nothing is appended.
#[pyfunction]
#[pyo3(signature = (chain, key, round, blocks, *, dry_run=false))]
pub(crate) fn contribute<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    key: KeyArg,
    round: BlockArg,
    blocks: CandidateArg,
    dry_run: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let handle = &chain.get().handle;
    let target = if dry_run { handle.get(py)? } else { handle.to_append(py)? };
    let report = run_watched(py, &Watch::default(), move |job: &Job<Silent>| {
        if !dry_run {
            await_turn(&target, job)?;
        }
        let options = ContributeOptions { dry_run };
        Ok::<_, Failure>(core::contribute(&target, &key.0, &round.0, &blocks.0, &options)?)
    })?;
    evidence::make(py, "ContributeReport", &evidence::contribute_report(&report))
}

/// Appends a receipt as a block that depends on its model, and returns it. Whoever has the chain can run it
/// again: this publishes the prompt and the text.
#[pyfunction]
pub(crate) fn append_receipt(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    receipt: &Bound<'_, Receipt>,
) -> PyResult<Block> {
    let receipt = receipt.get().receipt.clone();
    appended(py, chain, move |chain| receipt.append(chain))
}

/// Names what a receipt's run read, as 64 digits: receipts that differ in anything else are of one run, which
/// counts once.
#[pyfunction]
pub(crate) fn run_of(receipt: &Bound<'_, Receipt>) -> String {
    BlockHash::from_bytes(core::run_of(receipt.get().receipt.claim())).to_string()
}

/// Runs receipt blocks again and says, as a validator, what they used; it counts in the period that
/// `reveal` ends. Receipts that do not recompute are refused. The options say how to run, as those of
/// `Receipt.replay`.
#[pyfunction]
#[pyo3(signature = (chain, policy, reveal, receipts, key, *, threads=None, isa=None, prefill_chunk=None))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
pub(crate) fn record_usage(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    policy: BlockArg,
    reveal: BlockArg,
    receipts: Vec<BlockArg>,
    key: KeyArg,
    threads: Option<Count>,
    isa: Option<String>,
    prefill_chunk: Option<Count>,
) -> PyResult<Block> {
    let (receipts, options) = (hashes(receipts), again(threads, isa, prefill_chunk));
    appended(py, chain, move |chain| {
        core::record_usage(chain, &policy.0, &reveal.0, &receipts, &key.0, &options)
    })
}

/// Runs the receipts of a record of use again: those that it is wrong about. The options say how to run, as
/// those of `Receipt.replay`; so is what Ctrl-C does.
#[pyfunction]
#[pyo3(signature = (chain, record, *, threads=None, isa=None, prefill_chunk=None))]
pub(crate) fn audit_usage<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    record: BlockArg,
    threads: Option<Count>,
    isa: Option<String>,
    prefill_chunk: Option<Count>,
) -> PyResult<Bound<'py, PyAny>> {
    let (chain, options) = (chain.get().handle.get(py)?, again(threads, isa, prefill_chunk));
    let wrong = run_watched(py, &Watch::default(), move |_: &Job<Silent>| {
        core::audit_usage(&chain, &record.0, &options)
    })?;
    Ok(values::list(py, &wrong, values::block_hash)?.into_any())
}

/// Runs that count under a policy: enough validators recorded the same.
#[pyfunction]
pub(crate) fn recorded_uses<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    policy: BlockArg,
) -> PyResult<Bound<'py, PyAny>> {
    let chain = chain.get().handle.get(py)?;
    let uses = run(py, move || core::uses(&chain, &policy.0))?;
    evidence::list(py, "RecordedUse", uses)
}

/// How a pool is divided among the keys whose contributions were used in a period: a pure function of the
/// blocks, in whole units. The periods so far are those below `periods`.
#[pyfunction]
pub(crate) fn rewards<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    policy: BlockArg,
    period: Count<u64>,
    pool: Count<u64>,
) -> PyResult<Bound<'py, PyAny>> {
    let chain = chain.get().handle.get(py)?;
    let shares = run(py, move || core::rewards_of(&chain, &policy.0, period.0, pool.0))?;
    evidence::list(py, "Share", shares)
}

/// What each contribution counts in a period, by the period it was adopted in and its claim.
#[pyfunction]
pub(crate) fn reward_credits<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    policy: BlockArg,
    period: Count<u64>,
) -> PyResult<Bound<'py, PyAny>> {
    let chain = chain.get().handle.get(py)?;
    let ledger = run(py, move || Ledger::of(&chain, &policy.0))?;
    let credits = credits(period.0, &ledger.adoptions, &ledger.uses);
    evidence::list(py, "Credit", credits)
}

/// Periods so far under a policy: one more than the highest that a round has.
#[pyfunction]
pub(crate) fn periods(py: Python<'_>, chain: &Bound<'_, Chain>, policy: BlockArg) -> PyResult<u64> {
    let chain = chain.get().handle.get(py)?;
    run(py, move || Ledger::of(&chain, &policy.0)).map(|ledger| ledger.periods)
}
