//! Owns the way of evidence to Python and back: each value is an object of `blyan._evidence`, by way of
//! JSON; keys are 32 secret bytes, candidates a mapping from slots to blocks.

use std::collections::HashMap;

use blyan_core::evolve::{
    CandidateBlocks, ContributeReport, ContributeStage, EvaluateOptions, EvaluateProgress, Evaluation,
    ExtractReport, PublicKey, Tier,
};
use blyan_core::hash::PayloadHash;
use blyan_core::manager::ManagerError;
use blyan_core::{BlockHash, Slot};
use ed25519_dalek::SigningKey;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyString;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::args::{BlockArg, Count};
use crate::door::{Job, Report};
use crate::failure::Failure;
use crate::values;

/// An object of a class of `blyan._evidence`.
pub(crate) fn make<'py>(py: Python<'py>, class: &str, value: &impl Serialize) -> PyResult<Bound<'py, PyAny>> {
    let value = values::json(py, &json!(value).to_string())?;
    py.import("blyan._evidence")?.call_method1("_make", (class, value))
}

/// Objects of one class, in a list.
pub(crate) fn list<'py>(
    py: Python<'py>,
    class: &str,
    items: impl IntoIterator<Item = impl Serialize>,
) -> PyResult<Bound<'py, PyAny>> {
    Ok(values::list(py, items, |py, item| make(py, class, &item))?.into_any())
}

/// What an object of `blyan._evidence` says, as a value of the core.
pub(crate) fn read<T: DeserializeOwned>(given: &Bound<'_, PyAny>, name: &str) -> PyResult<T> {
    let fields = given.py().import("dataclasses")?.call_method1("asdict", (given,))?;
    let wrong = |error: serde_json::Error| PyTypeError::new_err(format!("argument '{name}': {error}"));
    serde_json::from_str(&values::to_json(&fields)?).map_err(wrong)
}

/// 32 bytes that are not the name of a block, as text or bytes: a salt, a key, a root.
pub(crate) struct HashArg(pub(crate) [u8; 32]);

impl FromPyObject<'_, '_> for HashArg {
    type Error = PyErr;

    fn extract(ob: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let Ok(text) = ob.cast::<PyString>() else { return Ok(Self(ob.extract::<[u8; 32]>()?)) };
        // All of them are spelled alike.
        let parsed = text.to_string_lossy().parse::<PayloadHash>();
        parsed.map(|hash| Self(*hash.as_bytes())).map_err(|error| Failure::from(error).into_py(ob.py()))
    }
}

/// A key of 32 secret bytes.
pub(crate) struct KeyArg(pub(crate) SigningKey);

impl FromPyObject<'_, '_> for KeyArg {
    type Error = PyErr;

    fn extract(ob: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        Ok(Self(SigningKey::from_bytes(&ob.extract::<[u8; 32]>()?)))
    }
}

/// The public key of 32 secret bytes.
///
/// >>> from blyan import evolve
/// >>> evolve.public_key(bytes(32)).short
/// '3b6a27bcceb6'
#[pyfunction]
pub(crate) fn public_key(py: Python<'_>, key: KeyArg) -> PyResult<Bound<'_, PyAny>> {
    let key = PublicKey::of(&key.0).to_string();
    py.import("blyan._evidence")?.getattr("PublicKey")?.call1((key,))
}

/// New blocks by the names of their slots.
pub(crate) struct CandidateArg(pub(crate) CandidateBlocks);

impl FromPyObject<'_, '_> for CandidateArg {
    type Error = PyErr;

    fn extract(ob: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let given: HashMap<String, BlockArg> = ob.extract()?;
        let blocks = given.into_iter().map(|(slot, block)| Ok((slot_of(ob.py(), &slot)?, block.0)));
        blocks.collect::<PyResult<_>>().map(Self)
    }
}

pub(crate) fn slot_of(py: Python<'_>, name: &str) -> PyResult<Slot> {
    let parsed = name.parse::<Slot>().map_err(ManagerError::from);
    parsed.map_err(|error| Failure::from(error).into_py(py))
}

pub(crate) fn tier_of(py: Python<'_>, name: &str) -> PyResult<Tier> {
    let unknown = || format!("there is no tier {name:?}: gold, silver or experimental");
    Tier::from_name(name).ok_or_else(|| Failure::Argument(unknown()).into_py(py))
}

pub(crate) fn hashes(blocks: Vec<BlockArg>) -> Vec<BlockHash> {
    blocks.into_iter().map(|block| block.0).collect()
}

/// How to evaluate, as keyword arguments give it.
#[derive(Default)]
pub(crate) struct Evaluating {
    pub(crate) window: Option<Count>,
    pub(crate) pass_tokens: Option<Count>,
    pub(crate) threads: Option<Count>,
    pub(crate) isa: Option<String>,
}

impl Evaluating {
    pub(crate) fn options<'a>(
        self,
        job: &'a Job<EvaluateProgress>,
        progress: Option<&'a (dyn Fn(EvaluateProgress) + Sync)>,
    ) -> EvaluateOptions<'a> {
        let default = EvaluateOptions::default();
        EvaluateOptions {
            window: self.window.map_or(default.window, |window| window.0),
            pass_tokens: self.pass_tokens.map_or(default.pass_tokens, |tokens| tokens.0),
            threads: self.threads.map(|threads| threads.0),
            isa: self.isa,
            cancel: Some(&job.cancel),
            progress,
        }
    }
}

impl Report for EvaluateProgress {
    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let class = py.import("blyan._evidence")?.getattr("EvaluateProgress")?;
        class.call1((self.tokens, self.total_tokens, self.loss, self.tokens_per_second))
    }
}

pub(crate) fn evaluation(evaluation: &Evaluation) -> Value {
    json!({
        "loss_bits": format!("{:016x}", evaluation.loss_bits),
        "tokens": evaluation.tokens,
        "windows": evaluation.windows,
        "model_root": evaluation.model_root,
        "numerics_version": evaluation.numerics_version,
        "elapsed_s": evaluation.elapsed.as_secs_f64(),
    })
}

pub(crate) fn extract_report(report: &ExtractReport) -> Value {
    let blocks = report.blocks.iter().map(|block| {
        json!({
            "slot": block.slot.to_string(),
            "block": block.block,
            "payload": block.payload,
            "payload_bytes": block.len_bytes,
            "new_block": block.new_block,
            "new_payload": block.new_payload,
        })
    });
    json!({
        "blocks": blocks.collect::<Vec<_>>(),
        "blocks_new": report.blocks_new,
        "blocks_known": report.blocks_known,
        "payload_bytes_new": report.payload_bytes_new,
        "payload_bytes_known": report.payload_bytes_known,
    })
}

pub(crate) fn contribute_report(report: &ContributeReport) -> Value {
    let stage = match report.stage {
        ContributeStage::Claimed => "claimed",
        ContributeStage::Proposed => "proposed",
        ContributeStage::Revealed => "revealed",
        _ => "",
    };
    json!({
        "stage": stage,
        "claim": report.claim,
        "candidate": report.candidate,
        "appended": report.appended,
        "appended_bytes": report.appended_bytes,
    })
}
