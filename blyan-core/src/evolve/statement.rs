//! Owns statements: what one key says, signed, as canonical JSON.
//!
//! `{"statement_version":1,"body":{…},"key":"<64 hex>","signature":"<128 hex>"}`. The signature stands
//! inside the payload, so that a statement travels, and is refused, as a whole. It covers the kind: what
//! was said as a vote never counts as an audit.

use ed25519_dalek::{Signature, Signer, SigningKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::evidence::{check_version, from_canonical_json, to_canonical_json};
use super::key::{from_hex, to_hex};
use super::{Evidence, InvalidEvidence, PublicKey};
use crate::chain::ParentView;
use crate::format::{BlockKind, ChainId, Parent};

/// What a statement says: a struct of numbers, texts and names of blocks, no maps without order, no
/// floats.
pub trait Body: Serialize + DeserializeOwned {
    /// Kind of the blocks that say it.
    const KIND: BlockKind;
    /// Lane of these blocks.
    const LANE: ChainId;

    /// Name of the block.
    fn name(&self) -> String {
        Self::KIND.to_string()
    }

    /// Every block that the body names: the block's parents, no more and no less.
    fn parents(&self) -> Vec<Parent>;

    /// Checks what the body says by itself: called whenever a statement is made or read.
    ///
    /// # Errors
    ///
    /// [`InvalidEvidence`] naming what is wrong.
    fn check(&self) -> Result<(), InvalidEvidence> {
        Ok(())
    }

    /// Checks what the body says, and whether `key` may say it, against the blocks that it names.
    ///
    /// # Errors
    ///
    /// [`InvalidEvidence`] naming what is wrong.
    fn check_parents(&self, key: &PublicKey, parents: &dyn ParentView) -> Result<(), InvalidEvidence>;
}

/// A body with the key that said it. Any value was verified: there is no other way to get one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement<B> {
    body: B,
    key: PublicKey,
    signature: [u8; 64],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatementJson<B> {
    statement_version: u32,
    body: B,
    key: PublicKey,
    signature: String,
}

/// What is signed: `derive_key("blyan statement 1")` over the kind (u16 LE), the body's canonical
/// bytes, the key.
fn message(kind: BlockKind, body: &impl Serialize, key: &PublicKey) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("blyan statement 1");
    hasher.update(&kind.0.to_le_bytes()).update(&to_canonical_json(body)).update(key.as_bytes());
    *hasher.finalize().as_bytes()
}

/// The key's name, and its signature of a body of a kind.
pub(super) fn sign(kind: BlockKind, key: &SigningKey, body: &impl Serialize) -> (PublicKey, [u8; 64]) {
    let public = PublicKey::of(key);
    (public, key.sign(&message(kind, body, &public)).to_bytes())
}

/// The payload of a body that was signed.
pub(super) fn to_payload(body: &impl Serialize, key: PublicKey, signature: &[u8; 64]) -> Vec<u8> {
    to_canonical_json(&StatementJson { statement_version: 1, body, key, signature: to_hex(signature) })
}

/// Reads and verifies a payload of a kind, by the strict rules that leave every implementation one answer
/// (RFC 8032 without the cofactor, small-order keys refused).
pub(super) fn from_payload<B: Serialize + DeserializeOwned>(
    kind: BlockKind,
    bytes: &[u8],
) -> Result<(B, PublicKey, [u8; 64]), InvalidEvidence> {
    let json: StatementJson<B> = from_canonical_json(kind, bytes)?;
    check_version(kind, json.statement_version)?;
    let signature = from_hex(&json.signature)
        .map_err(|error| InvalidEvidence::Json { kind, reason: format!("signature: {error}") })?;
    let valid = json.key.verifying().is_some_and(|key| {
        let message = message(kind, &json.body, &json.key);
        key.verify_strict(&message, &Signature::from_bytes(&signature)).is_ok()
    });
    if !valid {
        return Err(InvalidEvidence::Signature { kind, key: json.key });
    }
    Ok((json.body, json.key, signature))
}

impl<B: Body> Statement<B> {
    /// Says something. The same key and body always give the same statement.
    ///
    /// # Errors
    ///
    /// [`InvalidEvidence`] if the body contradicts itself.
    pub fn sign(key: &SigningKey, body: B) -> Result<Self, InvalidEvidence> {
        body.check()?;
        let (key, signature) = sign(B::KIND, key, &body);
        Ok(Self { body, key, signature })
    }

    /// What is said.
    pub fn body(&self) -> &B {
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
}

impl<B: Body> Evidence for Statement<B> {
    const KIND: BlockKind = B::KIND;
    const LANE: ChainId = B::LANE;

    fn from_payload(bytes: &[u8]) -> Result<Self, InvalidEvidence> {
        let (body, key, signature) = from_payload::<B>(B::KIND, bytes)?;
        body.check()?;
        Ok(Self { body, key, signature })
    }

    fn to_payload(&self) -> Vec<u8> {
        to_payload(&self.body, self.key, &self.signature)
    }

    fn name(&self) -> String {
        self.body.name()
    }

    fn parents(&self) -> Vec<Parent> {
        self.body.parents()
    }

    fn check_parents(&self, parents: &dyn ParentView) -> Result<(), InvalidEvidence> {
        self.body.check_parents(&self.key, parents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    struct Remark {
        text: String,
        count: u64,
    }

    impl Body for Remark {
        const KIND: BlockKind = BlockKind(5000);
        const LANE: ChainId = ChainId::Dataset;

        fn parents(&self) -> Vec<Parent> {
            Vec::new()
        }

        fn check(&self) -> Result<(), InvalidEvidence> {
            check_version(Self::KIND, self.count as u32)
        }

        fn check_parents(&self, _: &PublicKey, _: &dyn ParentView) -> Result<(), InvalidEvidence> {
            Ok(())
        }
    }

    /// The same body under another kind.
    #[derive(Debug, Serialize, Deserialize)]
    #[serde(transparent)]
    struct Other(Remark);

    impl Body for Other {
        const KIND: BlockKind = BlockKind(5001);
        const LANE: ChainId = ChainId::Dataset;

        fn parents(&self) -> Vec<Parent> {
            Vec::new()
        }

        fn check_parents(&self, _: &PublicKey, _: &dyn ParentView) -> Result<(), InvalidEvidence> {
            Ok(())
        }
    }

    fn remark() -> Remark {
        Remark { text: "so it is".to_owned(), count: 1 }
    }

    fn signed() -> Statement<Remark> {
        Statement::sign(&SigningKey::from_bytes(&[1; 32]), remark()).unwrap()
    }

    /// Made by Python's `cryptography` and `blake3`.
    const GOLDEN: &str = concat!(
        r#"{"statement_version":1,"body":{"text":"so it is","count":1},"key""#,
        r#":"8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c","#,
        r#""signature":"2d2f419a4e7c291e844176617783620fb6646817d552139be4c7d77ff7412cb81c6a47e1c017926c282ef5850086a57dd6f210146f1e2b6605b52ee01f4db503"}"#,
    );

    #[test]
    fn bytes_are_the_ones_that_another_implementation_makes() {
        assert_eq!(String::from_utf8(signed().to_payload()).unwrap(), GOLDEN);
        assert_eq!(Statement::from_payload(GOLDEN.as_bytes()).unwrap(), signed());
    }

    #[test]
    fn any_changed_byte_is_refused() {
        let bytes = signed().to_payload();
        for at in 0..bytes.len() {
            for bit in [0x01, 0x20, 0x80] {
                let mut changed = bytes.clone();
                changed[at] ^= bit;
                assert!(Statement::<Remark>::from_payload(&changed).is_err(), "byte {at} bit {bit}");
            }
            assert!(Statement::<Remark>::from_payload(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn other_spellings_are_refused_by_name() {
        let text = String::from_utf8(signed().to_payload()).unwrap();
        let read = |text: &str| Statement::<Remark>::from_payload(text.as_bytes()).unwrap_err();
        let spaced = text.replace(':', ": ");
        assert!(matches!(read(&spaced), InvalidEvidence::NotCanonical { kind: BlockKind(5000) }));
        let more = text.replace("\"count\":1", "\"count\":1,\"more\":2");
        assert!(matches!(read(&more), InvalidEvidence::NotCanonical { .. }));
        let twice = text.replace("\"count\":1", "\"count\":1,\"count\":1");
        assert!(matches!(read(&twice), InvalidEvidence::Json { .. }));
        let version = text.replace("statement_version\":1", "statement_version\":2");
        assert!(matches!(read(&version), InvalidEvidence::FormatVersion { found: 2, .. }));
        let said = text.replace("so it is", "so it was");
        assert!(matches!(read(&said), InvalidEvidence::Signature { .. }));
        let short = text.replace("\"}", "0\"}");
        assert!(matches!(read(&short), InvalidEvidence::Json { .. }));
        let huge = vec![b' '; MAX];
        assert!(matches!(
            Statement::<Remark>::from_payload(&huge).unwrap_err(),
            InvalidEvidence::TooLong { .. }
        ));
        assert!(matches!(read(&"[".repeat(100_000)), InvalidEvidence::Json { .. }));
    }

    const MAX: usize = super::super::MAX_JSON_BYTES + 1;

    #[test]
    fn a_signature_is_of_one_kind_and_one_key() {
        assert!(matches!(
            Statement::<Other>::from_payload(&signed().to_payload()),
            Err(InvalidEvidence::Signature { kind: BlockKind(5001), .. })
        ));
        let stranger = SigningKey::from_bytes(&[2; 32]);
        let text = String::from_utf8(signed().to_payload()).unwrap();
        let moved = text.replace(&signed().key().to_string(), &PublicKey::of(&stranger).to_string());
        assert!(matches!(
            Statement::<Remark>::from_payload(moved.as_bytes()),
            Err(InvalidEvidence::Signature { key, .. }) if key == PublicKey::of(&stranger)
        ));
    }

    #[test]
    fn a_body_that_contradicts_itself_is_neither_signed_nor_read() {
        let wrong = Remark { count: 7, ..remark() };
        let key = SigningKey::from_bytes(&[1; 32]);
        assert!(Statement::sign(&key, wrong.clone()).is_err());
        let (public, signature) = sign(Remark::KIND, &key, &wrong);
        let forged = Statement { body: wrong, key: public, signature };
        assert!(matches!(
            Statement::<Remark>::from_payload(&forged.to_payload()),
            Err(InvalidEvidence::FormatVersion { found: 7, .. })
        ));
    }

    /// Anyone can sign for the neutral element: its signatures verify without the strict rules.
    #[test]
    fn keys_of_small_order_say_nothing() {
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        let forged = Statement { body: remark(), key: PublicKey::from_bytes(neutral), signature };
        assert!(matches!(
            Statement::<Remark>::from_payload(&forged.to_payload()),
            Err(InvalidEvidence::Signature { .. })
        ));
    }
}
