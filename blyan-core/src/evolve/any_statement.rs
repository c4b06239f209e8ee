//! Owns statements whose kind only the running program knows: for languages that have no types of bodies, and
//! for the kinds of applications.

use ed25519_dalek::SigningKey;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::dataset::{Audit, Vote};
use super::statement::{from_payload, sign, to_payload};
use super::{
    Accusation, Attestation, Body, Candidate, Claim, Closing, Evidence, EvolveError, InvalidEvidence,
    PublicKey, Reveal, Round, Statement, UsageRecord,
};
use crate::chain::{Chain, Draft};
use crate::format::BlockKind;
use crate::hash::BlockHash;

/// The first kind that is free for applications.
const FIRST_OF_APPLICATIONS: BlockKind = BlockKind(4096);

/// A statement of any kind, its body as JSON. Any value was verified: there is no other way to get one.
///
/// ```
/// use blyan_core::BlockKind;
/// use blyan_core::evolve::AnyStatement;
/// use ed25519_dalek::SigningKey;
///
/// # fn main() -> Result<(), blyan_core::evolve::InvalidEvidence> {
/// let (key, kind) = (SigningKey::from_bytes(&[1; 32]), BlockKind(5000));
/// let said = AnyStatement::sign(&key, kind, br#"{"text":"so it is"}"#)?;
/// assert_eq!(AnyStatement::from_json(kind, said.to_json().as_bytes())?, said);
/// assert!(AnyStatement::from_json(BlockKind(5001), said.to_json().as_bytes()).is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnyStatement {
    kind: BlockKind,
    body: Value,
    key: PublicKey,
    signature: [u8; 64],
}

impl AnyStatement {
    /// Says something. `body` is JSON: of a kind of this library the fields of its body in any order, of an
    /// application's kind (4096 and up) whatever it agreed on, in the order in which it stands there. Numbers
    /// are integers of 64 bits.
    ///
    /// # Errors
    ///
    /// [`InvalidEvidence::ForeignKind`] for a kind that no statement has; others if the body is not of its kind
    /// or contradicts itself.
    pub fn sign(key: &SigningKey, kind: BlockKind, body: &[u8]) -> Result<Self, InvalidEvidence> {
        let payload = match typed_kind(kind)? {
            Some(typed) => (typed.sign)(key, body)?,
            None => {
                let body: Value = read_body(kind, body)?;
                let (key, signature) = sign(kind, key, &body);
                to_payload(&body, key, &signature)
            }
        };
        Self::from_json(kind, &payload)
    }

    /// Reads and verifies the payload of a statement, without what it names.
    ///
    /// # Errors
    ///
    /// [`InvalidEvidence::Signature`], and others for a payload that is not of this kind.
    pub fn from_json(kind: BlockKind, payload: &[u8]) -> Result<Self, InvalidEvidence> {
        if let Some(typed) = typed_kind(kind)? {
            (typed.draft)(payload)?;
        }
        let (body, key, signature) = from_payload::<Value>(kind, payload)?;
        if has_other_numbers(&body) {
            let reason = "a number of the body is no integer of 64 bits".to_owned();
            return Err(InvalidEvidence::Json { kind, reason });
        }
        Ok(Self { kind, body, key, signature })
    }

    /// The statement in a block. Of a kind of this library all of it is checked again, against the blocks that it
    /// names too.
    ///
    /// # Errors
    ///
    /// [`EvolveError::InvalidBlock`], [`EvolveError::Chain`]; [`InvalidEvidence::ForeignKind`] in
    /// [`EvolveError::Invalid`] for a block that is no statement.
    pub fn of(chain: &Chain, block: &BlockHash) -> Result<Self, EvolveError> {
        let kind = chain.get(block)?.header().kind;
        let payload = match typed_kind(kind)? {
            Some(typed) => (typed.read)(chain, block)?,
            None => chain.payload(block)?.to_vec(),
        };
        let invalid = |source| EvolveError::InvalidBlock { block: *block, source: Box::new(source) };
        Self::from_json(kind, &payload).map_err(invalid)
    }

    /// Kind of the blocks that say it.
    pub fn kind(&self) -> BlockKind {
        self.kind
    }

    /// What is said.
    pub fn body(&self) -> &Value {
        &self.body
    }

    /// Who says it.
    pub fn key(&self) -> PublicKey {
        self.key
    }

    /// The ed25519 signature.
    pub fn signature(&self) -> &[u8; 64] {
        &self.signature
    }

    /// The payload of its block: canonical JSON.
    pub fn to_json(&self) -> String {
        // Only the JSON of texts and numbers comes out of there.
        String::from_utf8(to_payload(&self.body, self.key, &self.signature)).unwrap_or_default()
    }

    /// Its block, not appended yet.
    ///
    /// # Errors
    ///
    /// [`InvalidEvidence::ForeignKind`] for an application's kind: only that knows the lane, the name and the
    /// parents of its blocks.
    pub fn draft(&self) -> Result<Draft, InvalidEvidence> {
        let typed = typed_kind(self.kind)?.ok_or(InvalidEvidence::ForeignKind { kind: self.kind })?;
        (typed.draft)(self.to_json().as_bytes())
    }

    /// Appends the block and returns its hash. A block that the chain holds already stays as it is.
    ///
    /// # Errors
    ///
    /// As [`Self::draft`]; [`EvolveError::Chain`], and [`EvolveError::reason`] says what the chain refused.
    pub fn append(&self, chain: &Chain) -> Result<BlockHash, EvolveError> {
        Ok(chain.append(self.draft()?)?)
    }
}

/// What is done with the statements of a kind whose bodies have a type.
struct TypedKind {
    kind: BlockKind,
    /// The payload of a body that is given as JSON.
    sign: fn(&SigningKey, &[u8]) -> Result<Vec<u8>, InvalidEvidence>,
    /// The block of a payload.
    draft: fn(&[u8]) -> Result<Draft, InvalidEvidence>,
    /// The payload of a stored block that is valid.
    read: fn(&Chain, &BlockHash) -> Result<Vec<u8>, EvolveError>,
}

static TYPED_KINDS: [TypedKind; 10] = [
    typed::<Claim>(),
    typed::<Candidate>(),
    typed::<Attestation>(),
    typed::<Accusation>(),
    typed::<Audit>(),
    typed::<Vote>(),
    typed::<Round>(),
    typed::<Closing>(),
    typed::<Reveal>(),
    typed::<UsageRecord>(),
];

const fn typed<B: Body>() -> TypedKind {
    TypedKind { kind: B::KIND, sign: signed::<B>, draft: drafted::<B>, read: stored::<B> }
}

/// None for an application's kind.
fn typed_kind(kind: BlockKind) -> Result<Option<&'static TypedKind>, InvalidEvidence> {
    let found = TYPED_KINDS.iter().find(|typed| typed.kind == kind);
    if found.is_none() && kind < FIRST_OF_APPLICATIONS {
        return Err(InvalidEvidence::ForeignKind { kind });
    }
    Ok(found)
}

fn signed<B: Body>(key: &SigningKey, body: &[u8]) -> Result<Vec<u8>, InvalidEvidence> {
    Ok(Statement::<B>::sign(key, read_body(B::KIND, body)?)?.to_payload())
}

fn drafted<B: Body>(payload: &[u8]) -> Result<Draft, InvalidEvidence> {
    Ok(Statement::<B>::from_payload(payload)?.draft())
}

fn stored<B: Body>(chain: &Chain, block: &BlockHash) -> Result<Vec<u8>, EvolveError> {
    Ok(Statement::<B>::read(chain, block)?.to_payload())
}

/// A body in any spelling.
fn read_body<T: DeserializeOwned>(kind: BlockKind, body: &[u8]) -> Result<T, InvalidEvidence> {
    serde_json::from_slice(body).map_err(|error| {
        // What the parser said quotes what it found.
        let reason = error.to_string().chars().take(300).collect();
        InvalidEvidence::Json { kind, reason }
    })
}

/// Whether there is a number that has many spellings, or that not every language reads exactly.
fn has_other_numbers(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(items) => items.iter().any(has_other_numbers),
        Value::Object(fields) => fields.values().any(has_other_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const REMARK: BlockKind = BlockKind(5000);

    /// Made by Python's `cryptography` and `blake3`.
    const GOLDEN: &str = concat!(
        r#"{"statement_version":1,"body":{"text":"so it is","count":1},"key""#,
        r#":"8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c","#,
        r#""signature":"2d2f419a4e7c291e844176617783620fb6646817d552139be4c7d77ff7412cb81c6a47e1c017926c282ef5850086a57dd6f210146f1e2b6605b52ee01f4db503"}"#,
    );

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[1; 32])
    }

    fn vote() -> Vote {
        let [policy, dataset, audit] = [1, 2, 3].map(|byte| BlockHash::from_bytes([byte; 32]));
        Vote { policy, dataset, audit, approve: true }
    }

    #[test]
    fn kinds_of_applications_are_signed_as_another_implementation_does() {
        let said = AnyStatement::sign(&key(), REMARK, br#"{ "text": "so it is", "count": 1 }"#).unwrap();
        assert_eq!(said.to_json(), GOLDEN);
        assert_eq!(AnyStatement::from_json(REMARK, GOLDEN.as_bytes()).unwrap(), said);
        assert_eq!((said.kind(), said.key()), (REMARK, PublicKey::of(&key())));
        assert_eq!(said.body(), &json!({ "text": "so it is", "count": 1 }));
        assert!(matches!(said.draft(), Err(InvalidEvidence::ForeignKind { kind: REMARK })));
        // Other fields, another order, another kind.
        for other in [GOLDEN.replace("so it", "it so"), GOLDEN.replace(r#""count":1"#, r#""count":2"#)] {
            let error = AnyStatement::from_json(REMARK, other.as_bytes()).unwrap_err();
            assert!(matches!(error, InvalidEvidence::Signature { kind: REMARK, .. }), "{error}");
        }
        let turned = AnyStatement::sign(&key(), REMARK, br#"{"count":1,"text":"so it is"}"#).unwrap();
        assert_ne!(turned.signature(), said.signature());
        assert!(AnyStatement::from_json(BlockKind(5001), GOLDEN.as_bytes()).is_err());
    }

    #[test]
    fn kinds_of_this_library_are_what_their_types_make_of_them() {
        let typed = Statement::sign(&key(), vote()).unwrap();
        let Vote { policy, dataset, audit, approve } = vote();
        let body = json!({ "approve": approve, "audit": audit, "dataset": dataset, "policy": policy });
        let said = AnyStatement::sign(&key(), BlockKind::VOTE, body.to_string().as_bytes()).unwrap();
        assert_eq!(said.to_json().into_bytes(), typed.to_payload());
        assert_eq!(said.draft().unwrap(), typed.draft());
        assert_eq!(said.signature(), typed.signature());
        for wrong in [r#"{}"#, r#"{"approve":true}"#, "[]", "", "{\"more\":1}"] {
            let error = AnyStatement::sign(&key(), BlockKind::VOTE, wrong.as_bytes()).unwrap_err();
            assert!(matches!(error, InvalidEvidence::Json { kind: BlockKind::VOTE, .. }), "{error}");
        }
        // The same words as another kind are not said.
        assert!(AnyStatement::from_json(BlockKind::AUDIT, said.to_json().as_bytes()).is_err());
    }

    #[test]
    fn each_typed_kind_is_there_once() {
        let mut kinds: Vec<BlockKind> = TYPED_KINDS.iter().map(|typed| typed.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), TYPED_KINDS.len());
        for kind in [BlockKind::SPEC, BlockKind::EXPERT, BlockKind::POLICY, BlockKind(0), BlockKind(4095)] {
            let error = AnyStatement::sign(&key(), kind, b"{}").unwrap_err();
            assert!(matches!(error, InvalidEvidence::ForeignKind { kind: found } if found == kind));
        }
    }

    #[test]
    fn a_contradiction_and_numbers_without_one_spelling_are_neither_signed_nor_read() {
        // A round of a single token.
        let body = json!({
            "policy": vote().policy, "previous": null, "attestations": [], "seen": [], "base": vote().audit,
            "split": vote().dataset, "tokens": 1,
        });
        let error = AnyStatement::sign(&key(), BlockKind::ROUND, body.to_string().as_bytes()).unwrap_err();
        assert!(matches!(error, InvalidEvidence::Round(_)), "{error}");
        for number in ["0.5", "1.0", "1e3", "18446744073709551616", "[{\"a\":-0.0}]"] {
            let error = AnyStatement::sign(&key(), REMARK, number.as_bytes()).unwrap_err();
            assert!(matches!(error, InvalidEvidence::Json { kind: REMARK, .. }), "{number}: {error}");
        }
        for number in ["-9223372036854775808", "18446744073709551615", "null", "[\"0.5\"]"] {
            assert!(AnyStatement::sign(&key(), REMARK, number.as_bytes()).is_ok(), "{number}");
        }
    }

    #[test]
    fn a_chain_takes_and_gives_what_was_said() {
        let chain = Chain::in_memory().unwrap();
        let said = AnyStatement::sign(&key(), REMARK, b"[1]").unwrap();
        let block = chain
            .append(Draft::new(crate::format::ChainId::Dataset, REMARK, "remark", said.to_json()))
            .unwrap();
        assert_eq!(AnyStatement::of(&chain, &block).unwrap(), said);
        let forged = said.to_json().replace("[1]", "[2]");
        let forged = Draft::new(crate::format::ChainId::Dataset, REMARK, "remark", forged);
        let forged = chain.append(forged).unwrap();
        let error = AnyStatement::of(&chain, &forged).unwrap_err();
        assert!(matches!(error.reason(), Some(InvalidEvidence::Signature { .. })), "{error}");
        // It names blocks that are not there.
        let vote = serde_json::to_vec(&vote()).unwrap();
        let said = AnyStatement::sign(&key(), BlockKind::VOTE, &vote).unwrap();
        assert!(matches!(said.append(&chain), Err(EvolveError::Chain(_))));
    }
}
