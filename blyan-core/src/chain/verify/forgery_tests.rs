//! Entries written into the index by somebody who knows the format: sums and hashes are right,
//! what they say is wrong. Only the audit can tell.

use std::collections::HashSet;

use redb::{ReadableTable, WriteTransaction};

use super::*;
use crate::chain::block::Block;
use crate::chain::pending::Pending;
use crate::chain::tables::{BlockValue, Settled};
use crate::chain::{Draft, SignatureRecord, Validators};
use crate::format::{BlockKind, ChainId, Header, Parent, ParentRole, PayloadRef};
use crate::hash::PayloadHash;
use crate::storage::{Access, StorageError};

// The numbers of the blocks below.
const SPEC: u64 = 0;
const OLD: u64 = 1;
const NEW: u64 = 2;

struct Forged {
    chain: Chain,
    spec: BlockHash,
    old: BlockHash,
    new: BlockHash,
}

/// spec ← old ← new, where new takes old's place in its slot.
fn chain() -> Forged {
    let medium = std::sync::Arc::new(crate::storage::MemoryMedium::new());
    let chain = Chain::open_with(medium, Access::ReadWrite, Validators::new()).unwrap();
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

/// The same, where no block is recent.
fn settled_chain() -> Forged {
    let f = chain();
    f.forge(|write| tables::settle(write, 3));
    assert!(f.chain.verify(&VerifyOptions::full()).unwrap().is_ok());
    f
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
    let forged = chain();
    let chain = &forged.chain;
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
    let mut pending = Pending::default();
    pending.push(&Block::new(block, header, 1, 3), &bytes, b"{}", [].into_iter());
    forged.forge(|write| pending.enter(write));
    let report = chain.verify(&VerifyOptions::headers()).unwrap();
    assert_eq!(report.bad.len(), 1, "{:?}", report.bad);
    assert_eq!((report.bad[0].block, report.bad[0].name.as_deref()), (block, Some("forged")));
    assert!(matches!(report.bad[0].reason, Damage::MissingParent { parent: found } if found == parent));
    assert!(matches!(
        chain.ancestors(&block),
        Err(ChainError::Damaged { reason: Damage::MissingParent { .. }, .. })
    ));
}

/// The place of an expert in its lane.
fn recent_expert(height: u64, number: u64) -> [u8; 19] {
    tables::recent_lane_key(&tables::lane_key(ChainId::Parameter, BlockKind::EXPERT, height, number))
}

#[test]
fn a_wrong_height_is_named() {
    let forged = chain();
    forged.forge(|write| {
        let value = write.open_table(tables::BLOCKS)?.get(NEW)?.unwrap().value().to_vec();
        let value = BlockValue { height: 9, ..BlockValue::from_bytes(&value) };
        tables::replace_value(write, NEW, &value.to_bytes())?;
        let mut lanes = write.open_table(tables::RECENT_LANES)?;
        lanes.remove(&recent_expert(2, NEW))?;
        lanes.insert(&recent_expert(9, NEW), forged.new.as_bytes())?;
        Ok(())
    });
    let (block, reason) = forged.found();
    assert_eq!(block, forged.new);
    assert!(matches!(reason, Damage::Height { stored: 9, expected: 2 }), "{reason:?}");
}

#[test]
fn missing_and_wrong_entries_of_every_table_are_named() {
    let lane = ChainId::Parameter;
    let head = tables::lane_key(lane, BlockKind::HEAD, 1, OLD);
    let f = chain();
    f.forge(|write| {
        write.open_table(tables::RECENT_LANES)?.remove(&recent_expert(1, OLD))?;
        Ok(())
    });
    f.assert_entry(f.old, "recent_lanes");
    let f = chain();
    f.forge(|write| {
        write.open_table(tables::RECENT_LANES)?.insert(&tables::recent_lane_key(&head), f.old.as_bytes())?;
        Ok(())
    });
    f.assert_entry(f.old, "recent_lanes");
    let misplaced = |f: &Forged, expected: &str| {
        let is_named = |error| match error {
            ChainError::Damaged { block, reason: Damage::Entry { table } } => {
                block == f.old && table == expected
            }
            _ => false,
        };
        f.chain.blocks_of_kind(BlockKind::HEAD).any(|block| block.is_err_and(is_named))
    };
    assert!(misplaced(&f, "recent_lanes"));
    let f = settled_chain();
    f.forge(|write| {
        write.open_table(tables::LANES)?.remove(&tables::settled_lane_key(&recent_expert(1, OLD)))?;
        Ok(())
    });
    f.assert_entry(f.old, "lanes");
    let f = settled_chain();
    f.forge(|write| {
        write.open_table(tables::LANES)?.insert(&head, f.old.as_bytes())?;
        Ok(())
    });
    f.assert_entry(f.old, "lanes");
    assert!(misplaced(&f, "lanes"));
    // One that is not recent among those that are.
    let f = settled_chain();
    f.forge(|write| {
        write.open_table(tables::RECENT_LANES)?.insert(&recent_expert(1, OLD), f.old.as_bytes())?;
        Ok(())
    });
    f.assert_entry(f.old, "recent_lanes");
    let f = chain();
    f.forge(|write| {
        write.open_table(tables::RECENT)?.remove(&tables::number_key(&f.old, OLD))?;
        Ok(())
    });
    f.assert_entry(f.old, "recent");
    let f = chain();
    f.forge(|write| {
        write.open_table(tables::NUMBERS)?.insert(&tables::number_key(&f.old, OLD), ())?;
        Ok(())
    });
    f.assert_entry(f.old, "numbers");
    let f = chain();
    f.forge(|write| {
        write.open_table(tables::NAMES)?.insert(tables::name_key("layer0.expert0", OLD).as_slice(), 1)?;
        Ok(())
    });
    f.assert_entry(f.old, "names");
    let f = chain();
    f.forge(|write| {
        write.open_table(tables::CHILDREN)?.remove(&tables::child_key(SPEC, NEW))?;
        Ok(())
    });
    f.assert_entry(f.new, "children");
    let f = chain();
    f.forge(|write| {
        write.open_table(tables::CHILDREN)?.insert(&tables::child_key(NEW, OLD), 0)?;
        Ok(())
    });
    f.assert_entry(f.old, "children");
    assert!(f.chain.children(&f.new).is_err());
    let f = chain();
    f.forge(|write| {
        write.open_table(tables::TIPS)?.insert(&tables::tip_key(lane, OLD), ())?;
        Ok(())
    });
    f.assert_entry(f.old, "tips");
    let f = chain();
    f.forge(|write| {
        write.open_table(tables::TIPS)?.remove(&tables::tip_key(lane, NEW))?;
        Ok(())
    });
    f.assert_entry(f.new, "tips");
    let f = chain();
    f.forge(|write| {
        write.open_table(tables::TIPS)?.insert(&tables::tip_key(lane, 77), ())?;
        Ok(())
    });
    let (_, reason) = f.found();
    assert!(matches!(reason, Damage::StrayEntry { table: "tips", number: 77 }), "{reason:?}");
    assert!(f.chain.tips(lane).is_err());
}

#[test]
fn blocks_whose_hashes_begin_alike_are_told_apart() {
    let f = chain();
    // As if the spec's hash began like the one of `old`.
    f.forge(|write| {
        write.open_table(tables::RECENT)?.insert(&tables::number_key(&f.old, SPEC), ())?;
        Ok(())
    });
    assert_eq!(f.chain.get(&f.old).unwrap().hash(), f.old);
    f.assert_entry(f.spec, "recent");
}

#[test]
fn two_blocks_that_change_places_are_both_named() {
    let f = chain();
    f.forge(|write| {
        let mut blocks = write.open_table(tables::BLOCKS)?;
        let old = blocks.get(OLD)?.unwrap().value().to_vec();
        let new = blocks.get(NEW)?.unwrap().value().to_vec();
        blocks.insert(OLD, new.as_slice())?;
        blocks.insert(NEW, old.as_slice())?;
        Ok(())
    });
    let report = f.chain.verify(&VerifyOptions::headers()).unwrap();
    let mut bad: Vec<BlockHash> = report.bad.iter().map(|bad| bad.block).collect();
    bad.sort();
    let mut expected = [f.old, f.new];
    expected.sort();
    assert_eq!(bad, expected);
    assert!(f.chain.get(&f.old).is_err());
    assert!(f.chain.tips(ChainId::Parameter).is_err());
    assert!(f.chain.heads("layer0.expert0").is_err());
    assert_eq!(f.chain.blocks(ChainId::Parameter).filter(Result::is_err).count(), 2);
}

#[test]
fn entries_of_a_block_that_is_gone_are_named_once() {
    let f = chain();
    f.forge(|write| {
        write.open_table(tables::BLOCKS)?.remove(NEW)?;
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
    let exchange = |payload: &[u8]| {
        f.forge(|write| {
            let value = write.open_table(tables::BLOCKS)?.get(SPEC)?.unwrap().value().to_vec();
            let value = BlockValue { payload, ..BlockValue::from_bytes(&value) };
            tables::replace_value(write, SPEC, &value.to_bytes())
        });
        let (block, reason) = f.found();
        assert_eq!(block, f.spec);
        assert!(matches!(reason, Damage::Payload(_)), "{reason:?}");
    };
    exchange(b"");
    exchange(b"[]");
    assert!(f.chain.payload(&f.spec).is_err());
    // Appending the block again repairs it, once.
    let spec = || Draft::new(ChainId::Meta, BlockKind::SPEC, "spec", "{}");
    let mut writer = f.chain.writer().unwrap();
    assert!(writer.append(spec()).unwrap().new_payload);
    assert!(!writer.append(spec()).unwrap().new_payload);
    writer.commit().unwrap();
    assert!(f.chain.verify(&VerifyOptions::full()).unwrap().is_ok());
}

/// More blocks than `recent` takes, in two transactions, are found in the table they moved to.
#[test]
fn recent_blocks_settle_and_are_found() {
    let medium = std::sync::Arc::new(crate::storage::MemoryMedium::new());
    let chain = Chain::open_with(medium, Access::ReadWrite, Validators::new()).unwrap();
    let total = tables::SETTLE_BLOCKS + 3;
    let mut hashes = Vec::new();
    for numbers in [0..100, 100..total] {
        let mut writer = chain.writer().unwrap();
        for number in numbers {
            hashes.push(writer.append(item(number)).unwrap().hash);
            // One that is there is found before the commit as well, wherever it is.
            assert!(writer.contains(&hashes[number as usize / 2]).unwrap());
        }
        writer.commit().unwrap();
    }
    let reader = chain.reader().unwrap();
    let numbered = |table| reader.scan(table, [0; 16], [0xff; 16], |()| ()).unwrap().len() as u64;
    assert_eq!((numbered(tables::NUMBERS), numbered(tables::RECENT)), (tables::SETTLE_BLOCKS, 3));
    let placed = |table| reader.scan(table, [0; 19], [0xff; 19], |_| ()).unwrap().len() as u64;
    assert_eq!((placed(tables::LANES), placed(tables::RECENT_LANES)), (tables::SETTLE_BLOCKS, 3));
    let walked: Vec<BlockHash> =
        chain.topological_order().map(|block| block.map(|block| block.hash()).unwrap()).collect();
    let mut sorted = hashes.clone();
    // All have the height 0.
    sorted.sort_unstable();
    assert_eq!(walked, sorted);
    let blocks = reader.get_all(&hashes).unwrap();
    assert!(blocks.iter().map(|block| block.number()).eq(0..total));
    for hash in [hashes[0], hashes[total as usize - 1]] {
        assert_eq!(chain.with_prefix(&hash.to_string()).unwrap(), [hash]);
    }
    assert_eq!(chain.with_prefix("").unwrap().len() as u64, total);
    assert!(chain.verify(&VerifyOptions::headers()).unwrap().is_ok());
}

/// A chain in a directory as an earlier version made it.
fn of_version(version: u64, dir: &tempfile::TempDir, blocks: u64) -> Vec<BlockHash> {
    let chain = Chain::open_with(medium(dir), Access::ReadWrite, Validators::new()).unwrap();
    let hashes = append_items(&chain, 0..blocks);
    let mut batch = chain.0.index.begin_write().unwrap();
    batch
        .write(|write| {
            if version == tables::WITHOUT_RECENT {
                tables::settle(write, blocks)?;
                write.delete_table(tables::RECENT)?;
                write.open_table(tables::META)?.remove(tables::SETTLED_KEY)?;
            } else {
                let recent = write.open_table(tables::RECENT_LANES)?;
                let mut lanes = write.open_table(tables::LANES)?;
                for entry in recent.iter()? {
                    let (key, hash) = entry?;
                    lanes.insert(&tables::settled_lane_key(key.value()), hash.value())?;
                }
            }
            write.delete_table(tables::RECENT_LANES)?;
            let mut meta = write.open_table(tables::META)?;
            meta.remove(tables::SETTLED_LANES_KEY)?;
            meta.insert(tables::INDEX_VERSION_KEY, version)?;
            Ok(())
        })
        .unwrap();
    batch.commit().unwrap();
    hashes
}

fn append_items(chain: &Chain, numbers: std::ops::Range<u64>) -> Vec<BlockHash> {
    let mut writer = chain.writer().unwrap();
    let hashes = numbers.map(|number| writer.append(item(number)).unwrap().hash).collect();
    writer.commit().unwrap();
    hashes
}

fn item(number: u64) -> Draft {
    Draft::new(ChainId::Dataset, BlockKind(5000), "item", number.to_string())
}

/// A chain of an earlier version is read as it is, and gets what it lacks from the first append.
#[test]
fn a_chain_of_an_earlier_version_is_read_and_continued() {
    for version in tables::WITHOUT_RECENT..tables::INDEX_VERSION {
        let dir = tempfile::tempdir().unwrap();
        let hashes = of_version(version, &dir, 2);
        let before = match version {
            tables::WITHOUT_RECENT => Settled { hashes: None, lanes: None },
            _ => Settled { hashes: Some(0), lanes: None },
        };
        for access in [Access::ReadOnly, Access::ReadWrite, Access::ReadOnly] {
            let chain = Chain::open_with(medium(&dir), access, Validators::new()).unwrap();
            for hash in &hashes {
                assert_eq!(chain.get(hash).unwrap().hash(), *hash);
                assert_eq!(chain.with_prefix(&hash.to_string()).unwrap(), [*hash]);
            }
            assert!(chain.verify(&VerifyOptions::full()).unwrap().is_ok());
            assert_eq!(chain.blocks(ChainId::Dataset).count() as u64, chain.len().unwrap());
            if access == Access::ReadWrite {
                assert!(!chain.writer().unwrap().append(item(0)).unwrap().new_block);
                assert_eq!(chain.reader().unwrap().read(tables::settled).unwrap(), before);
                let new = chain.append(item(2)).unwrap();
                assert_eq!(chain.get(&new).unwrap().number(), 2);
            }
        }
        let chain = Chain::open_with(medium(&dir), Access::ReadWrite, Validators::new()).unwrap();
        let settled = chain.reader().unwrap().read(tables::settled).unwrap();
        let hashes = before.hashes.or(Some(2));
        assert_eq!((settled, chain.len().unwrap()), (Settled { hashes, lanes: Some(2) }, 3));
        // What of it is recent settles like any other.
        append_items(&chain, 3..tables::SETTLE_BLOCKS + 1);
        let all = Some(tables::SETTLE_BLOCKS);
        let settled = chain.reader().unwrap().read(tables::settled).unwrap();
        assert_eq!(settled, Settled { hashes: all, lanes: all });
        assert!(chain.verify(&VerifyOptions::headers()).unwrap().is_ok());
        assert_eq!(chain.topological_order().count() as u64, tables::SETTLE_BLOCKS + 1);
    }
}

/// Blocks whose hashes are in an undamaged page are found, whatever is damaged in the other table; all others are named.
#[test]
fn damage_in_one_table_of_hashes_is_none_of_the_other() {
    let dir = tempfile::tempdir().unwrap();
    // Enough for several pages.
    let old = of_version(tables::WITHOUT_RECENT, &dir, 500);
    let chain = Chain::open_with(medium(&dir), Access::ReadWrite, Validators::new()).unwrap();
    let new = append_items(&chain, 500..1000);
    drop(chain);
    let path = dir.path().join("index.redb");
    let index = std::fs::read(&path).unwrap();
    for (damaged, intact, number) in [(&old, &new, 0), (&new, &old, 500)] {
        let key = tables::number_key(&damaged[0], number);
        let mut found = 0;
        for place in (0..index.len()).filter(|&at| index[at..].starts_with(&key)) {
            let mut bytes = index.clone();
            bytes[place] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            let chain = Chain::open_with(medium(&dir), Access::ReadOnly, Validators::new()).unwrap();
            let report = chain.verify(&VerifyOptions::headers()).unwrap();
            if report.is_ok() {
                // A page of an earlier commit.
                continue;
            }
            found += 1;
            let named: HashSet<BlockHash> = report.bad.iter().map(|bad| bad.block).collect();
            assert!(named.contains(&damaged[0]) && named.len() < damaged.len());
            for hash in damaged.iter().chain(intact) {
                let block = chain.get(hash);
                assert_eq!(matches!(block, Err(ChainError::Damaged { .. })), named.contains(hash));
            }
            assert!(!intact.iter().any(|hash| named.contains(hash)));
        }
        assert_eq!(found, 1);
    }
}

#[test]
fn recent_blocks_stay_where_they_are_if_the_other_table_cannot_be_read() {
    for (table, expected) in [
        ("numbers", Settled { hashes: Some(0), lanes: Some(3) }),
        ("lanes", Settled { hashes: Some(3), lanes: Some(0) }),
    ] {
        let f = chain();
        f.forge(|write| {
            if table == "numbers" {
                write.delete_table(tables::NUMBERS)?
            } else {
                write.delete_table(tables::LANES)?
            };
            write.open_table(redb::TableDefinition::<u64, u64>::new(table))?;
            Ok(())
        });
        f.forge(|write| tables::settle(write, 3));
        let reader = f.chain.reader().unwrap();
        assert_eq!(reader.read(tables::settled).unwrap(), expected);
        let hashes = reader.scan(tables::RECENT, [0; 16], [0xff; 16], |()| ()).unwrap().len();
        let lanes = reader.scan(tables::RECENT_LANES, [0; 19], [0xff; 19], |_| ()).unwrap().len();
        assert_eq!((hashes, lanes), if table == "numbers" { (3, 0) } else { (0, 3) });
    }
}

/// What says where blocks are is checked like any table.
#[test]
fn a_forged_border_between_the_tables_is_found() {
    for settled in [1, 3, 4, u64::MAX] {
        for key in [tables::SETTLED_KEY, tables::SETTLED_LANES_KEY] {
            let f = chain();
            f.forge(|write| {
                write.open_table(tables::META)?.insert(key, settled)?;
                Ok(())
            });
            assert!(!f.chain.verify(&VerifyOptions::headers()).unwrap().is_ok(), "{key} {settled}");
        }
    }
    let f = chain();
    f.forge(|write| {
        let mut numbers = write.open_table(tables::NUMBERS)?;
        for (hash, number) in [(f.spec, SPEC), (f.old, OLD), (f.new, NEW)] {
            numbers.insert(&tables::number_key(&hash, number), ())?;
        }
        write.delete_table(tables::RECENT)?;
        write.open_table(tables::RECENT)?;
        write.open_table(tables::META)?.insert(tables::SETTLED_KEY, 1000)?;
        Ok(())
    });
    let (_, reason) = f.found();
    assert!(matches!(reason, Damage::StrayEntry { table: "meta", number: 1000 }), "{reason:?}");
    let is_damaged = |f: &Forged| {
        let damaged = |error| matches!(error, ChainError::Storage(StorageError::IndexDamaged { .. }));
        f.chain.verify(&VerifyOptions::headers()).is_err_and(damaged)
    };
    for key in [tables::SETTLED_KEY, tables::SETTLED_LANES_KEY] {
        let f = chain();
        f.forge(|write| {
            write.open_table(tables::META)?.remove(key)?;
            Ok(())
        });
        assert!(is_damaged(&f));
    }
    let f = chain();
    f.forge(|write| {
        write.delete_table(tables::RECENT)?;
        Ok(())
    });
    assert!(is_damaged(&f));
    assert!(matches!(f.chain.get(&f.old), Err(ChainError::Damaged { .. })));
}

fn medium(dir: &tempfile::TempDir) -> std::sync::Arc<crate::storage::DirMedium> {
    std::sync::Arc::new(crate::storage::DirMedium::new(dir.path()))
}

#[test]
fn another_version_of_the_tables_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    {
        let chain = Chain::open(dir.path()).unwrap();
        let mut batch = chain.0.index.begin_write().unwrap();
        batch
            .write(|write| {
                write.open_table(tables::META)?.insert(tables::INDEX_VERSION_KEY, 4)?;
                Ok(())
            })
            .unwrap();
        batch.commit().unwrap();
    }
    for chain in [Chain::open(dir.path()), Chain::open_read_only(dir.path())] {
        assert!(matches!(chain, Err(ChainError::IndexVersion { found: 4 })));
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
