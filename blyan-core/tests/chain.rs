//! The chain through its public API: append, look up, walk, sign, share between handles.

use blyan_core::chain::{ChainError, Draft, SignatureRecord};
use blyan_core::storage::StorageError;
use blyan_core::{BlockHash, BlockKind, Chain, ChainId, Parent, ParentRole, PayloadHash};

fn spec(text: &str) -> Draft {
    Draft::new(ChainId::Meta, BlockKind::SPEC, "spec", text.as_bytes())
}

fn expert(parent: BlockHash, name: &str, payload: &[u8]) -> Draft {
    Draft::new(ChainId::Parameter, BlockKind::EXPERT, name, payload)
        .with_parent(parent, ParentRole::Dependency)
}

#[test]
fn what_is_appended_is_found_again_and_survives_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (root, child);
    {
        let chain = Chain::open(dir.path()).unwrap();
        root = chain.append(spec("{}")).unwrap();
        child = chain.append(expert(root, "layer0.expert0", &[7; 10_000])).unwrap();
        assert_eq!(chain.len().unwrap(), 2);
    }
    for chain in [Chain::open(dir.path()), Chain::open_read_only(dir.path())] {
        let chain = chain.unwrap();
        assert_eq!(chain.len().unwrap(), 2);
        let block = chain.get(&child).unwrap();
        assert_eq!(block.hash(), child);
        assert_eq!(block.height(), 1);
        assert_eq!(block.header().name, "layer0.expert0");
        assert_eq!(block.header().parents, [Parent::dependency(root)]);
        assert_eq!(&*chain.payload(&child).unwrap(), &[7; 10_000]);
        assert!(chain.payload(&child).unwrap().is_mapped());
        assert_eq!(&*chain.payload(&root).unwrap(), b"{}");
        assert!(chain.verify(&blyan_core::VerifyOptions::default()).unwrap().is_ok());
    }
}

#[test]
fn a_missing_chain_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    for place in [dir.path().to_path_buf(), dir.path().join("absent")] {
        let error = Chain::open_read_only(&place).unwrap_err();
        assert!(matches!(error, ChainError::Storage(StorageError::Missing { .. })), "{error:?}");
        assert!(!place.join("index.redb").exists());
    }
}

#[test]
fn payload_files_carry_their_plain_blake3_and_are_read_only() {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::open(dir.path()).unwrap();
    let root = chain.append(spec("{}")).unwrap();
    chain.append(expert(root, "layer0.expert0", b"weights")).unwrap();
    let name = blake3::hash(b"weights").to_hex().to_string();
    let path = dir.path().join("payloads").join(&name[..2]).join(&name);
    assert_eq!(std::fs::read(&path).unwrap(), b"weights");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o444);
    }
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    let payload = PayloadHash::of(b"weights");
    assert_eq!(&*chain.payloads().get(&payload, 7).unwrap(), b"weights");
}

#[test]
fn signatures_lie_beside_blocks_and_forged_ones_are_refused() {
    let chain = Chain::in_memory().unwrap();
    let block = chain.append(spec("{}")).unwrap();
    let key = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
    let record = SignatureRecord::sign(&key, &block, 1_700_000_000_000);
    chain.add_signature(&block, record).unwrap();
    chain.add_signature(&block, record).unwrap();
    assert_eq!(chain.signatures(&block).unwrap(), [record]);
    let other_time = SignatureRecord { time_ms: 1, ..record };
    let error = chain.add_signature(&block, other_time).unwrap_err();
    assert!(matches!(error, ChainError::Signature { .. }));
    assert_eq!(chain.signatures(&block).unwrap(), [record]);
}
