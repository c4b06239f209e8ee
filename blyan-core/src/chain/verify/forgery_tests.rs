//! Entries written into the index by somebody who knows the format: sums and hashes are right,
//! what they say is wrong. Only the audit can tell.

use redb::WriteTransaction;

use super::*;
use crate::chain::{Draft, SignatureRecord};
use crate::format::{BlockKind, ChainId, Header, Parent, ParentRole, PayloadRef};
use crate::hash::PayloadHash;

struct Forged {
    chain: Chain,
    spec: BlockHash,
    old: BlockHash,
    new: BlockHash,
}

/// spec ← old ← new, where new takes old's place in its slot.
fn chain() -> Forged {
    let chain = Chain::in_memory().unwrap();
    let spec = chain.append(Draft::new(ChainId::Meta, BlockKind::SPEC, "spec", "{}")).unwrap();
    let expert = |payload: &str| {
        Draft::new(ChainId::Parameter, BlockKind::EXPERT, "layer0.expert0", payload)
            .with_parent(spec, ParentRole::Dependency)
    };
    let old = chain.append(expert("old")).unwrap();
    let new = chain.append(expert("new").with_parent(old, ParentRole::Predecessor)).unwrap();
    let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
    chain.add_signature(&old, SignatureRecord::sign(&key, &old, 7)).unwrap();
    assert!(chain.verify(&VerifyOptions::full()).unwrap().is_ok());
    Forged { chain, spec, old, new }
}

impl Forged {
    fn forge(&self, edit: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>) {
        let mut batch = self.chain.0.index.begin_write().unwrap();
        batch.write(edit).unwrap();
        batch.commit().unwrap();
    }

    /// The one bad block and its reason.
    fn found(&self) -> (BlockHash, Damage) {
        let mut report = self.chain.verify(&VerifyOptions::headers()).unwrap();
        assert_eq!(report.bad.len(), 1, "{:?}", report.bad);
        let bad = report.bad.remove(0);
        (bad.block, bad.reason)
    }

    #[track_caller]
    fn assert_entry(&self, block: BlockHash, expected: &str) {
        let (found, reason) = self.found();
        assert_eq!(found, block);
        assert!(matches!(reason, Damage::Entry { table } if table == expected), "{reason:?}");
    }
}

#[test]
fn a_forged_parent_is_named() {
    let Forged { chain, .. } = &chain();
    let parent = BlockHash::from_bytes([0x77; 32]);
    let header = Header {
        lane: ChainId::Meta,
        kind: BlockKind::SPEC,
        name: "forged".into(),
        version: semver::Version::new(1, 0, 0),
        parents: vec![Parent::dependency(parent)],
        payload: PayloadRef {
            hash: PayloadHash::of(b"{}"),
            len_bytes: 2,
            media_type: "application/json".into(),
        },
    };
    let bytes = header.to_bytes().unwrap();
    let block = BlockHash::of_header(&bytes);
    let mut batch = chain.0.index.begin_write().unwrap();
    batch.write(|write| tables::insert_block(write, &block, 1, &header, &bytes, &[])).unwrap();
    batch
        .write(|write| {
            write.open_table(tables::CHILDREN)?.insert(tables::child_key(&parent, &block), 0)?;
            Ok(())
        })
        .unwrap();
    batch.commit().unwrap();
    let report = chain.verify(&VerifyOptions::headers()).unwrap();
    assert_eq!(report.bad.len(), 1, "{:?}", report.bad);
    assert_eq!((report.bad[0].block, report.bad[0].name.as_deref()), (block, Some("forged")));
    assert!(matches!(report.bad[0].reason, Damage::MissingParent { parent: found } if found == parent));
    assert!(matches!(
        chain.ancestors(&block),
        Err(ChainError::Damaged { reason: Damage::MissingParent { .. }, .. })
    ));
}

#[test]
fn a_wrong_height_is_named() {
    let forged = chain();
    forged.forge(|write| {
        let bytes = {
            let blocks = write.open_table(tables::BLOCKS)?;
            tables::block_bytes(&blocks, &forged.new)?.unwrap()
        };
        let (_, header) = tables::split_block_value(&bytes).unwrap();
        let value = tables::block_value(9, header);
        write.open_table(tables::BLOCKS)?.insert(forged.new.as_bytes(), value.as_slice())?;
        for (from, to) in [(2, 9)] {
            let mut lanes = write.open_table(tables::LANES)?;
            lanes.remove(tables::lane_key(ChainId::Parameter, from, &forged.new))?;
            lanes.insert(tables::lane_key(ChainId::Parameter, to, &forged.new), ())?;
            let mut kinds = write.open_table(tables::KINDS)?;
            kinds.remove(tables::kind_key(BlockKind::EXPERT, from, &forged.new))?;
            kinds.insert(tables::kind_key(BlockKind::EXPERT, to, &forged.new), ())?;
        }
        Ok(())
    });
    let (block, reason) = forged.found();
    assert_eq!(block, forged.new);
    assert!(matches!(reason, Damage::Height { stored: 9, expected: 2 }), "{reason:?}");
}

#[test]
fn missing_and_wrong_entries_of_every_table_are_named() {
    let lane = ChainId::Parameter;
    let f = chain();
    f.forge(|write| {
        write.open_table(tables::LANES)?.remove(tables::lane_key(lane, 1, &f.old))?;
        Ok(())
    });
    f.assert_entry(f.old, "lanes");
    let f = chain();
    f.forge(|write| {
        write.open_table(tables::KINDS)?.insert(tables::kind_key(BlockKind::HEAD, 1, &f.old), ())?;
        Ok(())
    });
    f.assert_entry(f.old, "kinds");
    let f = chain();
    f.forge(|write| {
        let key = tables::name_key("layer0.expert0", &f.old);
        write.open_table(tables::NAMES)?.insert(key.as_slice(), 1)?;
        Ok(())
    });
    f.assert_entry(f.old, "names");
    let f = chain();
    f.forge(|write| {
        write.open_table(tables::CHILDREN)?.remove(tables::child_key(&f.spec, &f.new))?;
        Ok(())
    });
    f.assert_entry(f.new, "children");
    let f = chain();
    f.forge(|write| {
        write.open_table(tables::CHILDREN)?.insert(tables::child_key(&f.new, &f.old), 0)?;
        Ok(())
    });
    f.assert_entry(f.old, "children");
    assert!(f.chain.children(&f.new).is_err());
    let f = chain();
    f.forge(|write| {
        write.open_table(tables::TIPS)?.insert(tables::tip_key(lane, &f.old), ())?;
        Ok(())
    });
    f.assert_entry(f.old, "tips");
    let f = chain();
    f.forge(|write| {
        write.open_table(tables::TIPS)?.remove(tables::tip_key(lane, &f.new))?;
        Ok(())
    });
    f.assert_entry(f.new, "tips");
}

#[test]
fn entries_of_a_block_that_is_gone_are_named_once() {
    let f = chain();
    f.forge(|write| {
        write.open_table(tables::BLOCKS)?.remove(f.new.as_bytes())?;
        Ok(())
    });
    let (block, reason) = f.found();
    assert_eq!(block, f.new);
    assert!(matches!(reason, Damage::HeaderMissing), "{reason:?}");
    assert!(f.chain.blocks(ChainId::Parameter).any(|block| block.is_err()));
    assert!(f.chain.heads("layer0.expert0").is_err());
    assert!(f.chain.tips(ChainId::Parameter).is_err());
}

#[test]
fn a_signature_moved_to_another_block_is_named() {
    let f = chain();
    let record = f.chain.signatures(&f.old).unwrap()[0];
    f.forge(|write| tables::insert_signature(write, &f.new, &record));
    let (block, reason) = f.found();
    assert_eq!(block, f.new);
    assert!(matches!(reason, Damage::Signature { time_ms: 7, .. }), "{reason:?}");
    assert!(f.chain.signatures(&f.new).is_err());
}

#[test]
fn a_missing_or_exchanged_small_payload_is_named() {
    let f = chain();
    f.forge(|write| {
        write.open_table(tables::PAYLOADS)?.remove(PayloadHash::of(b"{}").as_bytes())?;
        Ok(())
    });
    let (block, reason) = f.found();
    assert_eq!(block, f.spec);
    assert!(matches!(reason, Damage::InlinePayloadMissing { .. }), "{reason:?}");
    let f = chain();
    f.forge(|write| tables::insert_payload(write, &PayloadHash::of(b"{}"), b"[]"));
    let (block, reason) = f.found();
    assert_eq!(block, f.spec);
    assert!(matches!(reason, Damage::Payload(_)), "{reason:?}");
    assert!(f.chain.payload(&f.spec).is_err());
    // Appending the block again repairs it.
    f.chain.append(Draft::new(ChainId::Meta, BlockKind::SPEC, "spec", "{}")).unwrap();
    assert!(f.chain.verify(&VerifyOptions::full()).unwrap().is_ok());
}

#[test]
fn another_version_of_the_tables_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    {
        let chain = Chain::open(dir.path()).unwrap();
        let mut batch = chain.0.index.begin_write().unwrap();
        batch
            .write(|write| {
                write.open_table(tables::META)?.insert(tables::INDEX_VERSION_KEY, 2)?;
                Ok(())
            })
            .unwrap();
        batch.commit().unwrap();
    }
    for chain in [Chain::open(dir.path()), Chain::open_read_only(dir.path())] {
        assert!(matches!(chain, Err(ChainError::IndexVersion { found: 2 })));
    }
}

#[test]
fn verification_reports_progress_and_can_be_cancelled() {
    let f = chain();
    let last = std::sync::Mutex::new(VerifyProgress::default());
    let progress = |now: VerifyProgress| *last.lock().unwrap() = now;
    let options = VerifyOptions { progress: Some(&progress), ..VerifyOptions::full() };
    assert!(f.chain.verify(&options).unwrap().is_ok());
    let expected = VerifyProgress { blocks: 3, total_blocks: 3, payload_bytes: 6, total_payload_bytes: 6 };
    assert_eq!(*last.lock().unwrap(), expected);
    let cancel = AtomicBool::new(true);
    let options = VerifyOptions { cancel: Some(&cancel), ..VerifyOptions::full() };
    assert!(matches!(f.chain.verify(&options), Err(ChainError::Cancelled)));
}
