//! Owns the way of plain values to Python: each becomes an object of `blyan._values`.

use std::fmt::Display;
use std::sync::OnceLock;

use blyan_core::chain::{
    BadBlock, BundleProgress, BundleReport, CollectReport, UnbundleReport, VerifyProgress, VerifyReport,
};
use blyan_core::dtype::{DType, Shape};
use blyan_core::format::{Parent, ParentRole};
use blyan_core::hash::{BlockHash, LogitsDigest, PayloadHash, ReceiptHash, SnapshotRoot};
use blyan_core::import::export::{ExportProgress, ExportReport};
use blyan_core::import::{ImportProgress, ImportReport};
use blyan_core::manager::sampling::{Logprobs, TokenLogprob};
use blyan_core::manager::{
    FinishReason, Generation, Piece, PinnedBlock, ReleaseEntry, SlotChange, SlotDiff, SnapshotDiff,
    TensorDiff,
};
use blyan_core::model::{KvDType, ResidencyReport};
use blyan_core::usage::{CoUse, ExpertUsage};
use blyan_core::{ChainRoot, SignatureRecord};
use pyo3::call::PyCallArgs;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};

use crate::describe::damage_code;
use crate::door::Report;
use crate::receipt::Receipt;

/// What a cell holds, made now if nobody did before. Python code may run meanwhile and fork, so the cell is not
/// locked: of two that make it the first is kept.
fn known<T>(cell: &'static OnceLock<T>, make: impl FnOnce() -> PyResult<T>) -> PyResult<&'static T> {
    if let Some(known) = cell.get() {
        return Ok(known);
    }
    let made = make()?;
    // With the interpreter's lock from beginning to end.
    Ok(cell.get_or_init(|| made))
}

/// An object of a class of `blyan._values`.
pub(crate) fn make<'py>(
    py: Python<'py>,
    class: &str,
    arguments: impl PyCallArgs<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    // Looking a module up by its name takes longer than making the object.
    static VALUES: OnceLock<Py<PyModule>> = OnceLock::new();
    let values = known(&VALUES, || py.import("blyan._values").map(Bound::unbind))?;
    values.bind(py).getattr(class)?.call1(arguments)
}

fn hash<'py>(py: Python<'py>, class: &str, hash: &impl Display) -> PyResult<Bound<'py, PyAny>> {
    make(py, class, (hash.to_string(),))
}

pub(crate) fn block_hash<'py>(py: Python<'py>, block: &BlockHash) -> PyResult<Bound<'py, PyAny>> {
    hash(py, "BlockHash", block)
}

pub(crate) fn payload_hash<'py>(py: Python<'py>, payload: &PayloadHash) -> PyResult<Bound<'py, PyAny>> {
    hash(py, "PayloadHash", payload)
}

pub(crate) fn snapshot_root<'py>(py: Python<'py>, root: &SnapshotRoot) -> PyResult<Bound<'py, PyAny>> {
    hash(py, "SnapshotRoot", root)
}

pub(crate) fn chain_root<'py>(py: Python<'py>, root: &ChainRoot) -> PyResult<Bound<'py, PyAny>> {
    hash(py, "ChainRoot", root)
}

pub(crate) fn logits_digest<'py>(py: Python<'py>, digest: &LogitsDigest) -> PyResult<Bound<'py, PyAny>> {
    hash(py, "LogitsDigest", digest)
}

pub(crate) fn receipt_hash<'py>(py: Python<'py>, receipt: &ReceiptHash) -> PyResult<Bound<'py, PyAny>> {
    hash(py, "ReceiptHash", receipt)
}

/// Each item made, in a list.
pub(crate) fn list<'py, T>(
    py: Python<'py>,
    items: impl IntoIterator<Item = T>,
    each: impl Fn(Python<'py>, T) -> PyResult<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyList>> {
    let items: PyResult<Vec<_>> = items.into_iter().map(|item| each(py, item)).collect();
    PyList::new(py, items?)
}

/// What JSON text says, in Python's own types.
pub(crate) fn json<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("json")?.call_method1("loads", (text,))
}

/// Python's own types as JSON text.
pub(crate) fn to_json(value: &Bound<'_, PyAny>) -> PyResult<String> {
    let options = PyDict::new(value.py());
    options.set_item("ensure_ascii", false)?;
    options.set_item("allow_nan", false)?;
    value.py().import("json")?.call_method("dumps", (value,), Some(&options))?.extract()
}

/// The name under which a value is stored.
fn stored_name(value: &impl serde::Serialize) -> String {
    let name = serde_json::to_value(value).ok();
    name.and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

pub(crate) fn finish_reason(reason: FinishReason) -> String {
    stored_name(&reason)
}

pub(crate) fn kv_dtype(dtype: KvDType) -> String {
    stored_name(&dtype)
}

pub(crate) fn role(role: ParentRole) -> String {
    stored_name(&role)
}

pub(crate) fn parent<'py>(py: Python<'py>, parent: &Parent) -> PyResult<Bound<'py, PyAny>> {
    make(py, "Parent", (block_hash(py, &parent.hash)?, role(parent.role)))
}

pub(crate) fn signature<'py>(py: Python<'py>, record: &SignatureRecord) -> PyResult<Bound<'py, PyAny>> {
    let (key, signature) = (PyBytes::new(py, &record.public_key), PyBytes::new(py, &record.signature));
    make(py, "SignatureRecord", (key, record.time_ms, signature))
}

pub(crate) fn verify_report<'py>(py: Python<'py>, report: &VerifyReport) -> PyResult<Bound<'py, PyAny>> {
    let bad = list(py, &report.bad, bad_block)?;
    let collected = list(py, &report.collected, block_hash)?;
    make(py, "VerifyReport", (report.blocks, report.payload_bytes, bad, collected))
}

fn bad_block<'py>(py: Python<'py>, bad: &BadBlock) -> PyResult<Bound<'py, PyAny>> {
    let block = block_hash(py, &bad.block)?;
    make(py, "BadBlock", (block, bad.reason.to_string(), bad.name.clone(), damage_code(&bad.reason)))
}

pub(crate) fn import_report<'py>(py: Python<'py>, report: &ImportReport) -> PyResult<Bound<'py, PyAny>> {
    let (model, spec) = (block_hash(py, &report.model)?, block_hash(py, &report.spec)?);
    let counts = (
        model,
        spec,
        snapshot_root(py, &report.root)?,
        report.blocks_new,
        report.blocks_known,
        report.payload_bytes_new,
        report.payload_bytes_known,
        report.ignored_files.clone(),
    );
    make(py, "ImportReport", counts)
}

pub(crate) fn export_report<'py>(py: Python<'py>, report: &ExportReport) -> PyResult<Bound<'py, PyAny>> {
    make(py, "ExportReport", (report.files.clone(), report.tensors, report.tensor_bytes))
}

impl Report for ImportProgress {
    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let counts = (self.blocks, self.total_blocks, self.payload_bytes, self.total_payload_bytes);
        make(py, "ImportProgress", counts)
    }
}

impl Report for VerifyProgress {
    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let counts = (self.blocks, self.total_blocks, self.payload_bytes, self.total_payload_bytes);
        make(py, "VerifyProgress", counts)
    }
}

impl Report for ExportProgress {
    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        make(py, "ExportProgress", (self.tensor_bytes, self.total_tensor_bytes))
    }
}

fn token_logprob<'py>(py: Python<'py>, logprob: &TokenLogprob) -> PyResult<Bound<'py, PyAny>> {
    make(py, "TokenLogprob", (logprob.token, logprob.logprob))
}

pub(crate) fn logprobs<'py>(py: Python<'py>, logprobs: &Logprobs) -> PyResult<Bound<'py, PyAny>> {
    let top = list(py, &logprobs.top, token_logprob)?;
    make(py, "Logprobs", (token_logprob(py, &logprobs.chosen)?, top))
}

/// A piece, a tuple with names. Made without the Python code of its class: a small model needs some hundred
/// microseconds for a token, and each token pushes the interpreter out of the CPU's caches.
pub(crate) fn piece<'py>(py: Python<'py>, piece: &Piece) -> PyResult<Bound<'py, PyAny>> {
    static MAKER: OnceLock<(Py<PyAny>, Py<PyAny>)> = OnceLock::new();
    let (new, class) = known(&MAKER, || {
        let new = py.get_type::<PyTuple>().getattr("__new__")?;
        Ok::<_, PyErr>((new.unbind(), py.import("blyan._values")?.getattr("Piece")?.unbind()))
    })?;
    let logprobs = piece.logprobs.as_ref().map(|found| logprobs(py, found)).transpose()?;
    let reason = piece.finish_reason.map(finish_reason);
    new.bind(py).call1((class, (piece.token, piece.text.as_str(), logprobs, reason)))
}

pub(crate) fn generation<'py>(py: Python<'py>, generation: Generation) -> PyResult<Bound<'py, PyAny>> {
    let found = list(py, &generation.logprobs, logprobs)?;
    let reason = finish_reason(generation.finish_reason);
    let receipt = Bound::new(py, Receipt::new(generation.receipt))?;
    let text = PyString::new(py, &generation.text);
    make(py, "Generation", (text, generation.tokens, generation.prompt_tokens, reason, found, receipt))
}

pub(crate) fn pinned<'py>(py: Python<'py>, pinned: &PinnedBlock) -> PyResult<Bound<'py, PyAny>> {
    let (block, payload) = (block_hash(py, &pinned.block)?, payload_hash(py, &pinned.payload)?);
    make(py, "PinnedBlock", (block, payload, pinned.len_bytes))
}

pub(crate) fn slot_change<'py>(py: Python<'py>, change: &SlotChange) -> PyResult<Bound<'py, PyAny>> {
    let side = |block: &Option<BlockHash>| block.as_ref().map(|block| block_hash(py, block)).transpose();
    make(py, "SlotChange", (change.slot.to_string(), side(&change.before)?, side(&change.after)?))
}

pub(crate) fn expert_usage<'py>(py: Python<'py>, expert: &ExpertUsage) -> PyResult<Bound<'py, PyAny>> {
    let counts = (
        expert.slot.as_str(),
        expert.layer,
        expert.expert,
        block_hash(py, &expert.block)?,
        expert.calls,
        expert.tokens,
        expert.latency_mean_ns,
        expert.latency_p95_ns,
        expert.weight_sum,
        expert.weight_share,
        expert.last_used_ms,
    );
    make(py, "ExpertUsage", counts)
}

pub(crate) fn co_use<'py>(py: Python<'py>, pair: &CoUse) -> PyResult<Bound<'py, PyAny>> {
    make(py, "CoUse", (pair.layer, pair.experts, pair.tokens))
}

pub(crate) fn residency<'py>(py: Python<'py>, report: &ResidencyReport) -> PyResult<Bound<'py, PyAny>> {
    make(py, "ResidencyReport", (report.blocks_verified, report.bytes_mapped, report.experts_touched))
}

impl Report for BundleProgress {
    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        make(py, "BundleProgress", (self.blocks, self.total_blocks, self.payload_bytes))
    }
}

pub(crate) fn bundle_report<'py>(py: Python<'py>, report: &BundleReport) -> PyResult<Bound<'py, PyAny>> {
    make(py, "BundleReport", (report.blocks, report.payloads, report.signatures, report.bytes))
}

pub(crate) fn unbundle_report<'py>(py: Python<'py>, report: &UnbundleReport) -> PyResult<Bound<'py, PyAny>> {
    let root = chain_root(py, &report.root)?;
    let blocks = (report.blocks_new, report.blocks_known);
    let (signatures, bytes) = (report.signatures_new, report.payload_bytes_new);
    make(py, "UnbundleReport", (blocks.0, blocks.1, signatures, bytes, root))
}

pub(crate) fn collect_report<'py>(py: Python<'py>, report: &CollectReport) -> PyResult<Bound<'py, PyAny>> {
    let counts = (
        list(py, &report.blocks, block_hash)?,
        report.payloads,
        report.payload_bytes,
        report.stray_payloads,
        report.stray_bytes,
        report.retained_payloads,
        report.retained_bytes,
    );
    make(py, "CollectReport", counts)
}

pub(crate) fn release_entry<'py>(py: Python<'py>, entry: &ReleaseEntry) -> PyResult<Bound<'py, PyAny>> {
    let (block, model) = (block_hash(py, &entry.block)?, block_hash(py, &entry.model)?);
    let predecessor = optional(py, &entry.predecessor, block_hash)?;
    make(py, "ReleaseEntry", (block, entry.name.as_str(), entry.version.to_string(), model, predecessor))
}

/// An object, or None.
pub(crate) fn optional<'py, T>(
    py: Python<'py>,
    value: &Option<T>,
    each: impl Fn(Python<'py>, &T) -> PyResult<Bound<'py, PyAny>>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    value.as_ref().map(|value| each(py, value)).transpose()
}

/// How far a comparison is.
pub(crate) struct CompareProgress {
    pub(crate) slots: u64,
    pub(crate) total_slots: u64,
}

impl Report for CompareProgress {
    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        make(py, "CompareProgress", (self.slots, self.total_slots))
    }
}

pub(crate) fn snapshot_diff<'py>(py: Python<'py>, diff: &SnapshotDiff) -> PyResult<Bound<'py, PyAny>> {
    let roots = (snapshot_root(py, &diff.before)?, snapshot_root(py, &diff.after)?);
    let specs = (block_hash(py, &diff.before_spec)?, block_hash(py, &diff.after_spec)?);
    let slots = list(py, &diff.slots, slot_diff)?;
    let loss =
        diff.loss.map(|loss| make(py, "LossDiff", (loss.before(), loss.after(), loss.tokens))).transpose()?;
    make(py, "SnapshotDiff", (roots.0, roots.1, specs.0, specs.1, slots, diff.new_payload_bytes, loss))
}

fn slot_diff<'py>(py: Python<'py>, diff: &SlotDiff) -> PyResult<Bound<'py, PyAny>> {
    let (before, after) = (optional(py, &diff.before, pinned)?, optional(py, &diff.after, pinned)?);
    let tensors = list(py, &diff.tensors, tensor_diff)?;
    make(py, "SlotDiff", (diff.slot.to_string(), before, after, diff.same_payload, tensors))
}

fn tensor_diff<'py>(py: Python<'py>, diff: &TensorDiff) -> PyResult<Bound<'py, PyAny>> {
    let side = |side: &Option<(DType, Shape)>| -> PyResult<_> {
        let side = side.as_ref().map(|(dtype, shape)| (dtype.name(), PyTuple::new(py, shape.dims())));
        side.map(|(dtype, shape)| Ok::<_, PyErr>((dtype, shape?))).transpose()
    };
    let distance =
        diff.distance.map(|moved| make(py, "Distance", (moved.norm, moved.relative_norm, moved.max_abs)));
    make(
        py,
        "TensorDiff",
        (diff.name.as_str(), side(&diff.before)?, side(&diff.after)?, distance.transpose()?),
    )
}
