//! Owns the way of evidence to Python and back: each value is an object of `blyan._evidence`, by way of
//! JSON; keys are 32 secret bytes, candidates a mapping from slots to blocks.

use std::collections::{BTreeMap, HashMap};

use blyan_core::evolve::dataset::DatasetState;
use blyan_core::evolve::{
    AcceptedSet, AuditReport, CandidateBlocks, CandidateState, Chosen, ContributeReport, ContributeStage,
    Credit, EvaluateOptions, EvaluateProgress, Evaluation, ExtractReport, Fault, FaultKind, Judgement,
    PublicKey, Reason, RecordedUse, RoundState, Share, Tier, Verdict,
};
use blyan_core::manager::ManagerError;
use blyan_core::{BlockHash, Slot};
use ed25519_dalek::SigningKey;
use pyo3::prelude::*;
use serde_json::{Value, json};

use crate::args::{BlockArg, Count};
use crate::door::{Job, Report};
use crate::failure::Failure;
use crate::values;

/// An object of a class of `blyan._evidence`.
pub(crate) fn make<'py>(py: Python<'py>, class: &str, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    let value = values::json(py, &value.to_string())?;
    py.import("blyan._evidence")?.call_method1("_make", (class, value))
}

/// Objects of one class, in a list.
pub(crate) fn list<'py>(
    py: Python<'py>,
    class: &str,
    items: impl IntoIterator<Item = Value>,
) -> PyResult<Bound<'py, PyAny>> {
    Ok(values::list(py, items, |py, item| make(py, class, &item))?.into_any())
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

pub(crate) fn dataset_state(state: &DatasetState) -> Value {
    json!({
        "block": state.block,
        "dataset": state.dataset,
        "stage": state.stage.to_string(),
        "audits": state.audits,
        "votes": state.votes,
        "equivocating": state.equivocating,
        "tally": state.tally,
        "ruling": state.ruling,
        "twins": state.twins,
        "duplicate_of": state.duplicate_of,
    })
}

pub(crate) fn audit_report(report: &AuditReport) -> Value {
    let lies = report.lies.iter().map(|lie| {
        json!({
            "attestation": lie.attestation,
            "key": lie.key,
            "attested": lie.attested,
            "recomputed": lie.recomputed,
            "accusation": lie.accusation,
        })
    });
    json!({
        "checked": report.checked,
        "lies": lies.collect::<Vec<_>>(),
        "other_numerics": report.other_numerics,
    })
}

pub(crate) fn judgement(state: &Judgement) -> Value {
    let rounds = state.rounds.iter().map(|(block, round)| (block.to_string(), round_state(round)));
    let candidates = state.candidates.iter();
    let candidates = candidates.map(|(block, state)| (block.to_string(), candidate_state(state)));
    json!({
        "policy": state.policy,
        "rounds": rounds.collect::<BTreeMap<_, _>>(),
        "candidates": candidates.collect::<BTreeMap<_, _>>(),
        "faults": state.faults.iter().map(fault).collect::<Vec<_>>(),
        "chosen": chosen(&state.chosen),
    })
}

fn round_state(round: &RoundState) -> Value {
    let reveals = round.reveals.iter().map(|(reveal, tokens)| (reveal.to_string(), *tokens));
    json!({
        "owner": round.owner,
        "base": round.base,
        "previous": round.previous,
        "ancestors": round.ancestors,
        "closings": round.closings,
        "reveals": reveals.collect::<BTreeMap<_, _>>(),
        "refused": round.refused.as_ref().map(refusal),
        "accepted": round.accepted.iter().map(accepted_set).collect::<Vec<_>>(),
    })
}

fn accepted_set(set: &AcceptedSet) -> Value {
    json!({
        "round": set.round,
        "reveal": set.reveal,
        "candidates": set.candidates,
        "base": set.base,
        "model": set.model,
        "model_root": set.model_root,
        "losses": set.losses,
        "validators": set.validators,
        "attestations": set.attestations,
        "score": set.score.value(),
    })
}

fn candidate_state(state: &CandidateState) -> Value {
    let (losses, validators, refused) = match &state.verdict {
        Verdict::Accepted { losses, validators } => (json!(losses), json!(validators), None),
        Verdict::Refused(reason) => (json!([]), json!([]), Some(refusal(reason))),
    };
    let blocks = state.blocks.iter().map(|(slot, block)| (slot.to_string(), *block));
    json!({
        "author": state.author,
        "round": state.round,
        "claim": state.claim,
        "base": state.base,
        "blocks": blocks.collect::<BTreeMap<_, _>>(),
        "accepted": state.verdict.is_accepted(),
        "losses": losses,
        "validators": validators,
        "refused": refused,
    })
}

fn chosen(chosen: &Chosen) -> Value {
    json!({
        "model": chosen.model,
        "root": chosen.root,
        "score": chosen.score.value(),
        "steps": chosen.steps.iter().map(accepted_set).collect::<Vec<_>>(),
    })
}

fn fault(fault: &Fault) -> Value {
    let (kind, block) = match fault.kind {
        FaultKind::TwoClosings => ("two_closings", None),
        FaultKind::TwoReveals => ("two_reveals", None),
        FaultKind::TwoAttestations { reveal } => ("two_attestations", Some(reveal)),
        FaultKind::Lie { attestation } => ("lie", Some(attestation)),
        _ => ("fault", None),
    };
    json!({ "key": fault.key, "round": fault.round, "kind": kind, "block": block })
}

/// Why something is not accepted: a word that does not change, and a sentence.
fn refusal(reason: &Reason) -> Value {
    json!({ "code": reason_code(reason), "message": reason.to_string() })
}

pub(crate) fn reason_code(reason: &Reason) -> &'static str {
    match reason {
        Reason::NotRevealed => "not_revealed",
        Reason::RoundVoid { .. } => "round_void",
        Reason::WrongBase { .. } => "wrong_base",
        Reason::SplitKnown { .. } => "split_known",
        Reason::Copy { .. } => "copy",
        Reason::TooFewAttestations { .. } => "too_few_attestations",
        Reason::Disputed { .. } => "disputed",
        Reason::NotFinite { .. } => "not_finite",
        Reason::NotBetter { .. } => "not_better",
        Reason::Worse { .. } => "worse",
        Reason::NoModel => "no_model",
        _ => "refused",
    }
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

/// `weight` as text: it may have more digits than a number of JSON.
pub(crate) fn share(share: &Share) -> Value {
    json!({ "author": share.author, "units": share.units, "weight": share.weight.to_string() })
}

pub(crate) fn credit(credit: &Credit) -> Value {
    json!({
        "author": credit.author,
        "claim": credit.claim,
        "adopted": credit.adopted,
        "gain": credit.gain,
        "credit": credit.credit,
        "tokens": credit.tokens,
    })
}

pub(crate) fn recorded_use(recorded: &RecordedUse) -> Value {
    let tokens = recorded.tokens.iter().map(|(block, tokens)| (block.to_string(), *tokens));
    let run: String = recorded.run.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({
        "receipt": recorded.receipt,
        "reveal": recorded.reveal,
        "model": recorded.model,
        "run": run,
        "tokens": tokens.collect::<BTreeMap<_, _>>(),
    })
}
