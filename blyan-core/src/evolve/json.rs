//! Owns what results look like as JSON, for bindings that pass them on and for people. No block holds any
//! of this: what is on the chain has its own, canonical spelling.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use serde_json::json;

use super::dataset::DatasetState;
use super::key::to_hex;
use super::{
    AcceptedSet, AnyStatement, AuditReport, CandidateState, Chosen, Credit, Fault, FaultKind, Judgement, Lie,
    Reason, RecordedUse, RoundState, Share, Verdict,
};
use crate::hash::BlockHash;

macro_rules! json_of {
    ($($type:ty: $value:ident => $json:expr;)*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let $value = self;
                $json.serialize(serializer)
            }
        }
    )*};
}

json_of! {
    // With the payload of its block, which is the text that was signed.
    AnyStatement: statement => json!({
        "kind": statement.kind().to_string(),
        "body": statement.body(),
        "key": statement.key(),
        "signature": to_hex(statement.signature()),
        "payload": statement.to_json(),
    });

    DatasetState: state => json!({
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
    });

    Lie: lie => json!({
        "attestation": lie.attestation,
        "key": lie.key,
        "attested": lie.attested,
        "recomputed": lie.recomputed,
        "accusation": lie.accusation,
    });

    AuditReport: report => json!({
        "checked": report.checked,
        "lies": report.lies,
        "other_numerics": report.other_numerics,
        "collected": report.collected,
    });

    Judgement: state => json!({
        "policy": state.policy,
        "rounds": state.rounds,
        "candidates": state.candidates,
        "faults": state.faults,
        "chosen": state.chosen,
    });

    RoundState: round => json!({
        "owner": round.owner,
        "base": round.base,
        "previous": round.previous,
        "ancestors": round.ancestors,
        "closings": round.closings,
        "reveals": round.reveals,
        "refused": round.refused,
        "accepted": round.accepted,
    });

    // The score is for people: comparing takes its units.
    AcceptedSet: set => json!({
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
    });

    CandidateState: state => {
        let (losses, validators, refused) = match &state.verdict {
            Verdict::Accepted { losses, validators } => (json!(losses), json!(validators), None),
            Verdict::Refused(reason) => (json!([]), json!([]), Some(reason)),
        };
        let blocks: BTreeMap<String, BlockHash> =
            state.blocks.iter().map(|(slot, block)| (slot.to_string(), *block)).collect();
        json!({
            "author": state.author,
            "round": state.round,
            "claim": state.claim,
            "base": state.base,
            "blocks": blocks,
            "accepted": state.verdict.is_accepted(),
            "losses": losses,
            "validators": validators,
            "refused": refused,
        })
    };

    Chosen: chosen => json!({
        "model": chosen.model,
        "root": chosen.root,
        "score": chosen.score.value(),
        "steps": chosen.steps,
    });

    Fault: fault => {
        let (kind, block) = match fault.kind {
            FaultKind::TwoClosings => ("two_closings", None),
            FaultKind::TwoReveals => ("two_reveals", None),
            FaultKind::TwoAttestations { reveal } => ("two_attestations", Some(reveal)),
            FaultKind::Lie { attestation } => ("lie", Some(attestation)),
        };
        json!({ "key": fault.key, "round": fault.round, "kind": kind, "block": block })
    };

    // A word that does not change, and a sentence.
    Reason: reason => json!({ "code": reason.code(), "message": reason.to_string() });

    // The weight as text: it may have more digits than a number of JSON.
    Share: share => json!({
        "author": share.author,
        "units": share.units,
        "weight": share.weight.to_string(),
    });

    Credit: credit => json!({
        "author": credit.author,
        "claim": credit.claim,
        "adopted": credit.adopted,
        "gain": credit.gain,
        "credit": credit.credit,
        "tokens": credit.tokens,
    });

    RecordedUse: recorded => json!({
        "receipt": recorded.receipt,
        "reveal": recorded.reveal,
        "model": recorded.model,
        "run": to_hex(&recorded.run),
        "tokens": recorded.tokens,
    });
}
