//! Bundles: blocks that go from chain to chain as bytes, in any order, twice, from anybody.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::checkpoints::{fixture, imported};
use crate::support::{Failure, Rng, SimDisk};
use blyan_core::chain::{
    BundleError, BundleOptions, ChainError, CollectOptions, UnbundleOptions, UnbundleReport, Validators,
};
use blyan_core::manager::{GenerateOptions, ManagerOptions, MoEModelManager, Snapshot, release};
use blyan_core::storage::{Access, MemoryMedium};
use blyan_core::{
    BlockHash, BlockKind, Chain, ChainId, Draft, Parent, ParentRole, SignatureRecord, VerifyOptions,
};
use proptest::prelude::*;

fn bundle(chain: &Chain, options: &BundleOptions<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let report = chain.bundle(&mut bytes, options).unwrap();
    assert_eq!(report.bytes, bytes.len() as u64);
    bytes
}

fn all(chain: &Chain) -> Vec<u8> {
    bundle(chain, &BundleOptions::default())
}

fn unbundle(chain: &Chain, bytes: &[u8]) -> Result<UnbundleReport, ChainError> {
    chain.unbundle(&mut &bytes[..], &UnbundleOptions::default())
}

fn tips(chain: &Chain) -> Vec<BlockHash> {
    ChainId::ALL.into_iter().flat_map(|lane| chain.tips(lane).unwrap()).collect()
}

fn stored(chain: &Chain) -> BTreeSet<BlockHash> {
    chain.topological_order().map(|block| block.unwrap().hash()).collect()
}

fn key(seed: u8) -> ed25519_dalek::SigningKey {
    ed25519_dalek::SigningKey::from_bytes(&[seed; 32])
}

fn note(name: &str, payload: impl Into<Vec<u8>>) -> Draft {
    Draft::new(ChainId::Dataset, BlockKind(0x4001), name, payload)
}

/// A refused bundle: the error, and proof that nothing changed, payload files included.
#[track_caller]
fn refused(disk: &SimDisk, chain: &Chain, bytes: &[u8]) -> ChainError {
    let before = (stored(chain), chain.root().unwrap(), disk.payload_count(), disk.temporary_count());
    let error = unbundle(chain, bytes).unwrap_err();
    assert!(!error.to_string().is_empty());
    let after = (stored(chain), chain.root().unwrap(), disk.payload_count(), disk.temporary_count());
    assert!(before == after, "{error:?}");
    error
}

#[track_caller]
fn refused_as(disk: &SimDisk, chain: &Chain, bytes: &[u8], expected: &str) {
    let error = format!("{:?}", refused(disk, chain, bytes));
    assert!(error.contains(expected), "{error}");
}

/// A chain without validators on a disk that can be looked at.
fn on_disk() -> (SimDisk, Chain) {
    let disk = SimDisk::new();
    let chain = Chain::open_with(Arc::new(disk.clone()), Access::ReadWrite, Validators::new()).unwrap();
    (disk, chain)
}

#[test]
fn a_model_travels_whole() {
    let (chain, model) = imported(&fixture("olmoe"), None);
    release(&chain, &model, "tiny", semver::Version::new(1, 0, 0)).unwrap();
    chain.add_signature(&model, SignatureRecord::sign(&key(1), &model, 42)).unwrap();
    let bytes = all(&chain);
    let copy = Chain::in_memory().unwrap();
    let report = unbundle(&copy, &bytes).unwrap();
    assert_eq!((report.blocks_new, report.blocks_known), (chain.len().unwrap(), 0));
    assert_eq!((report.signatures_new, report.root), (1, chain.root().unwrap()));
    assert_eq!(copy.root().unwrap(), chain.root().unwrap());
    assert_eq!(copy.signatures(&model).unwrap(), chain.signatures(&model).unwrap());
    assert!(copy.verify(&VerifyOptions::full()).unwrap().is_ok());
    let again = unbundle(&copy, &bytes).unwrap();
    assert_eq!((again.blocks_new, again.blocks_known), (0, chain.len().unwrap()));
    assert_eq!((again.signatures_new, again.payload_bytes_new), (0, 0));
    assert_eq!(all(&copy), bytes, "the same blocks are the same bytes");

    let generate = |chain: &Chain| {
        let options = ManagerOptions { name: Some("tiny".to_owned()), ..ManagerOptions::default() };
        let options = ManagerOptions { persist_usage: false, threads: Some(1), ..options };
        let manager = MoEModelManager::open(chain, &options).unwrap();
        let options = GenerateOptions { max_tokens: Some(4), ..GenerateOptions::default() };
        manager.generate([3, 17, 40], &options).unwrap().receipt
    };
    assert_eq!(generate(&copy), generate(&chain));

    // A file does as well, and is there as a whole or not at all.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all.bundle");
    chain.bundle_file(&path, &BundleOptions::default()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode();
        std::fs::write(dir.path().join("new"), "").unwrap();
        assert_eq!(mode(&path), mode(&dir.path().join("new")), "it can be handed on like any new file");
        std::fs::remove_file(dir.path().join("new")).unwrap();
    }
    let chain_dir = Chain::open(dir.path().join("chain")).unwrap();
    let options = UnbundleOptions::default();
    assert_eq!(chain_dir.unbundle_file(&path, &options).unwrap().root, chain.root().unwrap());
    let cancel = AtomicBool::new(true);
    let cancelled = BundleOptions { cancel: Some(&cancel), ..BundleOptions::default() };
    let error = chain.bundle_file(dir.path().join("none"), &cancelled).unwrap_err();
    assert!(matches!(error, ChainError::Cancelled));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    let error = chain_dir.unbundle_file(dir.path().join("none"), &options).unwrap_err();
    assert!(matches!(error, ChainError::Bundle(BundleError::Io { .. })), "{error:?}");
}

#[test]
fn what_another_chain_lacks_is_all_that_is_sent() {
    let (chain, model) = imported(&fixture("olmoe"), None);
    let copy = Chain::in_memory().unwrap();
    unbundle(&copy, &all(&chain)).unwrap();
    // A block with the payload of another one, and a small one.
    let base = Snapshot::of_model(&chain, &model).unwrap();
    let slot = "layer0.expert1".parse().unwrap();
    let old = base.slots()[&slot];
    let payload = chain.payload(&old.block).unwrap().to_vec();
    let draft = Draft::new(ChainId::Parameter, BlockKind::EXPERT, "layer0.expert1", payload)
        .with_version(semver::Version::new(1, 0, 1))
        .with_parent(*base.spec_block(), ParentRole::Dependency)
        .with_parent(old.block, ParentRole::Predecessor);
    let new = chain.append(draft).unwrap();
    let next = base.with_block(&chain, &new).unwrap().publish(&chain).unwrap();
    let news = bundle(&chain, &BundleOptions { known: tips(&copy), ..BundleOptions::default() });
    assert!((news.len() as u64) < old.len_bytes, "the payload is there");
    assert_eq!(unbundle(&copy, &news).unwrap().blocks_new, 2);
    assert_eq!(copy.root().unwrap(), chain.root().unwrap());
    assert_eq!(tips(&copy), tips(&chain));
    let none = bundle(&chain, &BundleOptions { known: tips(&copy), ..BundleOptions::default() });
    assert_eq!(unbundle(&Chain::in_memory().unwrap(), &none).unwrap().blocks_new, 0);

    // Who lacks that payload says which; nobody takes the block without.
    let (other, _) = imported(&fixture("llama"), None);
    match unbundle(&other, &news).unwrap_err() {
        ChainError::Bundle(BundleError::MissingPayload { block, payload }) => {
            assert_eq!((block, payload), (new, old.payload));
        }
        error => panic!("{error:?}"),
    }
    // And who lacks the parents, which.
    let only = BundleOptions { blocks: Some(vec![next]), ..BundleOptions::default() };
    match unbundle(&other, &bundle(&chain, &only)).unwrap_err() {
        ChainError::Bundle(BundleError::MissingParents { blocks }) => {
            let mut parents: Vec<_> =
                chain.get(&next).unwrap().header().parents.iter().map(|parent| parent.hash).collect();
            parents.retain(|parent| !other.contains(parent).unwrap());
            assert_eq!(blocks, parents);
        }
        error => panic!("{error:?}"),
    }
    let missing = BundleOptions { blocks: Some(vec![BlockHash::from_bytes([1; 32])]), ..only.clone() };
    assert!(matches!(chain.bundle(&mut Vec::new(), &missing), Err(ChainError::NotFound { .. })));
    let strange = BundleOptions { known: vec![BlockHash::from_bytes([1; 32])], ..only };
    chain.bundle(&mut Vec::new(), &strange).unwrap();

    // A payload that was collected comes back by a bundle.
    let roots = [next];
    let before = chain.payload(&old.block).unwrap().to_vec();
    let report = copy.collect(&CollectOptions { roots: Some(&[]), ..CollectOptions::default() }).unwrap();
    assert!(report.payloads > 0);
    assert!(matches!(copy.payload(&old.block), Err(ChainError::PayloadCollected { .. })));
    assert!(matches!(
        copy.bundle(&mut Vec::new(), &BundleOptions::default()),
        Err(ChainError::PayloadCollected { .. })
    ));
    let whole = BundleOptions { blocks: Some(roots.to_vec()), ancestors: true, ..BundleOptions::default() };
    let report = unbundle(&copy, &bundle(&chain, &whole)).unwrap();
    assert!(report.blocks_new == 0 && report.payload_bytes_new > 0);
    assert_eq!(copy.payload(&old.block).unwrap()[..], before);
    let verified = copy.verify(&VerifyOptions::full()).unwrap();
    assert!(verified.is_ok() && verified.collected.is_empty());
}

/// A chain with a small payload, a file, a shared payload, a signature; and its bundle.
fn small() -> (Chain, Vec<u8>) {
    let (_, chain) = on_disk();
    let root = chain.append(note("root", "r")).unwrap();
    let large = note("large", Rng::new(5).bytes(5000)).with_parent(root, ParentRole::Dependency);
    let large = chain.append(large).unwrap();
    let again = note("again", Rng::new(5).bytes(5000)).with_parent(large, ParentRole::Predecessor);
    let again = chain.append(again.with_parent(root, ParentRole::Evidence)).unwrap();
    chain.add_signature(&again, SignatureRecord::sign(&key(2), &again, 7)).unwrap();
    let bytes = all(&chain);
    (chain, bytes)
}

/// Bytes of a bundle with another content and a checksum that fits, as a liar would send them.
fn sealed(records: &[u8], blocks: u64, payloads: u64, signatures: u64) -> Vec<u8> {
    let mut bytes = b"BLYANBND\x01\x00".to_vec();
    bytes.extend_from_slice(records);
    bytes.push(4);
    for count in [blocks, payloads, signatures] {
        bytes.extend_from_slice(&count.to_le_bytes());
    }
    let hash = *blake3::hash(&bytes).as_bytes();
    bytes.extend_from_slice(&hash);
    bytes
}

fn payload_record(payload: &[u8]) -> Vec<u8> {
    [&[1][..], &(payload.len() as u64).to_le_bytes(), payload].concat()
}

fn block_record(draft: &Draft) -> Vec<u8> {
    let header = draft.header().unwrap().to_bytes().unwrap();
    [&[2][..], &(header.len() as u32).to_le_bytes(), &header].concat()
}

fn signature_record(block: &BlockHash, record: &SignatureRecord) -> Vec<u8> {
    let time = record.time_ms.to_le_bytes();
    [&[3][..], block.as_bytes(), &record.public_key, &time, &record.signature].concat()
}

#[test]
fn the_bytes_are_those_of_the_format() {
    let (chain, bytes) = small();
    let blocks: Vec<_> = chain.topological_order().map(|block| block.unwrap()).collect();
    let mut records = Vec::new();
    for block in &blocks {
        let header = block.header().to_bytes().unwrap();
        if block.header().name != "again" {
            records.extend(payload_record(&chain.payload(&block.hash()).unwrap()));
        }
        records.extend([&[2][..], &(header.len() as u32).to_le_bytes(), &header].concat());
        for record in chain.signatures(&block.hash()).unwrap() {
            records.extend(signature_record(&block.hash(), &record));
        }
    }
    assert_eq!(bytes, sealed(&records, 3, 2, 1));
    // What is in no chain is a bundle, too.
    let empty = sealed(&[], 0, 0, 0);
    assert_eq!(all(&Chain::in_memory().unwrap()), empty);
    assert_eq!(unbundle(&chain, &empty).unwrap().blocks_new, 0);
}

#[test]
fn a_payload_that_is_a_file_elsewhere_is_written_for_a_block_that_keeps_it_in_the_index() {
    let bytes = b"the same bytes";
    let chain = Chain::in_memory().unwrap();
    let file = Draft::new(ChainId::Parameter, BlockKind(24), "weights", bytes);
    let known = chain.append(file.clone()).unwrap();
    let noted = chain.append(note("note", bytes)).unwrap();
    let news = bundle(&chain, &BundleOptions { known: vec![known], ..BundleOptions::default() });
    let copy = Chain::in_memory().unwrap();
    copy.append(file).unwrap();
    assert_eq!(unbundle(&copy, &news).unwrap().blocks_new, 1);
    assert_eq!(&copy.payload(&noted).unwrap()[..], bytes);
}

#[test]
fn a_bundle_cut_anywhere_changes_nothing() {
    let (_, bytes) = small();
    let (disk, chain) = on_disk();
    for len in 0..bytes.len() {
        match refused(&disk, &chain, &bytes[..len]) {
            ChainError::Bundle(BundleError::Truncated { len_bytes }) => assert_eq!(len_bytes, len as u64),
            error => panic!("{len}: {error:?}"),
        }
    }
    refused_as(&disk, &chain, &[&bytes[..], b"x"].concat(), "Trailing");
    refused_as(&disk, &chain, &bytes.repeat(2), "Trailing");
    unbundle(&chain, &bytes).unwrap();
}

#[test]
fn a_bundle_with_a_flipped_byte_changes_nothing() {
    let (_, bytes) = small();
    let (disk, chain) = on_disk();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        let error = refused(&disk, &chain, &damaged);
        assert!(matches!(error, ChainError::Bundle(_)), "{at}: {error:?}");
    }
}

#[test]
fn a_liars_bundle_changes_nothing() {
    let (disk, chain) = on_disk();
    let (a, b) = (note("a", "first"), note("b", Rng::new(6).bytes(6000)));
    let child = note("c", "child").with_parent(a.hash().unwrap(), ParentRole::Dependency);
    let (pa, pb, pc) = (payload_record(b"first"), payload_record(&b.payload), payload_record(b"child"));
    let (ra, rb, rc) = (block_record(&a), block_record(&b), block_record(&child));
    let signature = SignatureRecord::sign(&key(3), &a.hash().unwrap(), 1);
    let sa = signature_record(&a.hash().unwrap(), &signature);
    let case = |records: &[&[u8]], counts: (u64, u64, u64), expected: &str| {
        let bytes = sealed(&records.concat(), counts.0, counts.1, counts.2);
        refused_as(&disk, &chain, &bytes, expected);
    };
    case(&[&pa, &ra, &pa], (1, 2, 0), "Repeated { what: \"payload\"");
    case(&[&pa, &ra, &ra], (2, 1, 0), "Repeated { what: \"block\"");
    case(&[&ra], (1, 0, 0), "MissingPayload");
    case(&[&pa, &pb, &ra], (1, 2, 0), "StrayPayload");
    case(&[&pc, &rc], (1, 1, 0), "MissingParents");
    case(&[&pa, &ra, &sa], (1, 1, 2), "Counts");
    case(&[&pa, &ra], (2, 1, 0), "Counts");
    case(&[&pb, &rb, &sa], (1, 1, 1), "Signature");
    let mut forged = sa.clone();
    *forged.last_mut().unwrap() ^= 1;
    case(&[&pa, &ra, &forged], (1, 1, 1), "Signature");
    case(&[&pa, &ra, &[9]], (1, 1, 0), "Record { tag: 9");
    case(&[&pa, &[2, 0, 0, 0, 0]], (1, 1, 0), "Header");
    // Lengths that are not there.
    case(&[&[1], &u64::MAX.to_le_bytes(), b"x"], (1, 1, 0), "PayloadTooLong");
    case(&[&[1], &(1u64 << 33).to_le_bytes(), b"x"], (1, 1, 0), "Truncated");
    case(&[&[2], &u32::MAX.to_le_bytes(), b"x"], (1, 1, 0), "TooLong");
    case(&[&[2], &(8u32 << 20).to_le_bytes(), b"x"], (1, 1, 0), "Truncated");
    // A header that lies about its payload, in each field.
    let mut header = a.header().unwrap();
    header.payload.len_bytes += 1;
    let raw = header.to_bytes().unwrap();
    let record = [&[2][..], &(raw.len() as u32).to_le_bytes(), &raw].concat();
    case(&[&pa, &record], (1, 1, 0), "PayloadLength");
    let mut padded = ra.clone();
    padded.push(0);
    let len = (padded.len() - 5) as u32;
    padded[1..5].copy_from_slice(&len.to_le_bytes());
    case(&[&pa, &padded], (1, 1, 0), "Header");
    refused_as(&disk, &chain, b"PK\x03\x04 something else entirely", "NotABundle");
    refused_as(&disk, &chain, b"BLYANBND\x02\x00", "Version { found: 2 }");

    let limited = UnbundleOptions { max_payload_bytes: 5999, ..UnbundleOptions::default() };
    let bytes = sealed(&[&pb[..], &rb].concat(), 1, 1, 0);
    let error = chain.unbundle(&mut &bytes[..], &limited).unwrap_err();
    assert!(matches!(error, ChainError::Bundle(BundleError::PayloadTooLong { limit_bytes: 5999, .. })));

    // Records in any order are one bundle.
    let records = [&rc[..], &sa, &pb, &ra, &pc, &rb, &pa].concat();
    let report = unbundle(&chain, &sealed(&records, 3, 3, 1)).unwrap();
    assert_eq!((report.blocks_new, report.signatures_new), (3, 1));
    assert!(chain.verify(&VerifyOptions::full()).unwrap().is_ok());
}

/// A block that its validator refuses is refused here, too, and takes all others of the bundle with it.
#[test]
fn every_block_is_judged_by_its_validator() {
    let (lawful, model) = imported(&fixture("olmoe"), None);
    let medium = Arc::new(MemoryMedium::new());
    let lawless = Chain::open_with(medium, Access::ReadWrite, Validators::new()).unwrap();
    unbundle(&lawless, &all(&lawful)).unwrap();
    let base = Snapshot::of_model(&lawless, &model).unwrap();
    let old = base.slots()[&"layer0.expert1".parse().unwrap()].block;
    let payload = lawless.payload(&old).unwrap().to_vec();
    let mut broken = payload.clone();
    let end = broken.len();
    broken[end - 2..].copy_from_slice(&0x7fc0u16.to_le_bytes());
    let draft = |version: &str, payload: &[u8]| {
        Draft::new(ChainId::Parameter, BlockKind::EXPERT, "layer0.expert1", payload)
            .with_version(version.parse().unwrap())
            .with_parent(*base.spec_block(), ParentRole::Dependency)
            .with_parent(old, ParentRole::Predecessor)
    };
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::open(dir.path()).unwrap();
    unbundle(&chain, &all(&lawful)).unwrap();
    let files = || -> usize {
        let folders = std::fs::read_dir(dir.path().join("payloads")).unwrap();
        folders.map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count()).sum()
    };
    let before = (chain.root().unwrap(), chain.len().unwrap(), files());
    for (version, payload, expected) in [
        ("1.0.1", &broken[..], "NotFinite"),
        ("1.0.1", &payload[..64], "Tensor"),
        ("1.0.0", &payload, "VersionStep"),
        ("1.7.0", &payload, "VersionStep"),
        ("2.0.0", &payload, "VersionStep"),
    ] {
        let forged = lawless.append(draft(version, payload)).unwrap();
        // Beside a block that is good, and comes first.
        let good = lawless.append(note("good", Rng::new(8).bytes(9000))).unwrap();
        let options = BundleOptions { blocks: Some(vec![forged, good]), ..BundleOptions::default() };
        match unbundle(&chain, &bundle(&lawless, &options)).unwrap_err() {
            ChainError::Refused { name, source, .. } => {
                assert_eq!(name, "layer0.expert1");
                assert!(format!("{source:?}").contains(expected), "{source:?}");
            }
            error => panic!("{error:?}"),
        }
        assert_eq!((chain.root().unwrap(), chain.len().unwrap(), files()), before, "{expected}");
    }
    assert!(chain.verify(&VerifyOptions::full()).unwrap().is_ok());
}

#[test]
fn progress_is_told_and_a_cancelled_bundle_changes_nothing() {
    let (_, bytes) = small();
    let (disk, chain) = on_disk();
    let cancel = AtomicBool::new(false);
    let last = std::sync::Mutex::new(None);
    let progress = |progress: blyan_core::chain::BundleProgress| {
        *last.lock().unwrap() = Some(progress);
        if progress.blocks == 2 {
            cancel.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    };
    let options =
        UnbundleOptions { progress: Some(&progress), cancel: Some(&cancel), ..UnbundleOptions::default() };
    let error = chain.unbundle(&mut &bytes[..], &options).unwrap_err();
    assert!(matches!(error, ChainError::Cancelled));
    let told = last.lock().unwrap().unwrap();
    assert_eq!((told.blocks, told.total_blocks), (2, 3));
    assert!(chain.is_empty().unwrap() && disk.payload_count() == 0);
}

/// A disk that fails at the n-th write, and one that loses power there.
#[test]
fn an_interrupted_unbundle_is_there_as_a_whole_or_not_at_all() {
    let (whole, bytes) = small();
    let operations = {
        let (disk, chain) = on_disk();
        disk.fail_at(u64::MAX, Failure::Once);
        unbundle(&chain, &bytes).unwrap();
        disk.operations()
    };
    for at in 0..operations {
        for failure in [Failure::Once, Failure::PowerLoss] {
            let (disk, chain) = on_disk();
            disk.fail_at(at, failure);
            let acknowledged = unbundle(&chain, &bytes).is_ok();
            drop(chain);
            let disk = match failure {
                Failure::Once => disk.after_kill(),
                Failure::PowerLoss => disk.after_power_loss(at),
            };
            let chain =
                Chain::open_with(Arc::new(disk.clone()), Access::ReadWrite, Validators::new()).unwrap();
            let len = chain.len().unwrap();
            assert!(len == 3 || (len == 0 && !acknowledged), "{at} {failure:?}: {len}");
            assert!(chain.verify(&VerifyOptions::full()).unwrap().is_ok(), "{at} {failure:?}");
            unbundle(&chain, &bytes).unwrap();
            assert_eq!(chain.root().unwrap(), whole.root().unwrap());
        }
    }
}

/// Blocks of all lanes with random parents among those that are there.
fn grow(chain: &Chain, rng: &mut Rng, blocks: usize) {
    for _ in 0..blocks {
        let there: Vec<BlockHash> = stored(chain).into_iter().collect();
        let lane = ChainId::ALL[rng.below(3)];
        let len = [3, 500, 5000][rng.below(3)];
        let payload = if rng.chance() { vec![7; len] } else { rng.bytes(len) };
        let name = format!("block{}", rng.below(5));
        let mut draft = Draft::new(lane, BlockKind(0x4000 + rng.below(2) as u16), name, payload);
        let mut parents = BTreeSet::new();
        for _ in 0..rng.below(4).min(there.len()) {
            parents.insert(there[rng.below(there.len())]);
        }
        let roles = [ParentRole::Dependency, ParentRole::Predecessor, ParentRole::Base, ParentRole::Evidence];
        draft.parents = parents.into_iter().map(|hash| Parent { hash, role: roles[rng.below(4)] }).collect();
        let block = chain.append(draft).unwrap();
        if rng.below(3) == 0 {
            let signer = key(rng.below(3) as u8);
            chain.add_signature(&block, SignatureRecord::sign(&signer, &block, rng.next())).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Chains that exchange any bundles in any order, cut, repeated or whole, end on one root once every
    /// block has been everywhere.
    #[test]
    fn chains_that_exchange_bundles_converge(seed in any::<u64>()) {
        let mut rng = Rng::new(seed);
        let chains: Vec<Chain> = (0..3).map(|_| Chain::in_memory().unwrap()).collect();
        for _ in 0..12 {
            let from = rng.below(3);
            let to = rng.below(3);
            grow(&chains[from], &mut rng, 2);
            let there: Vec<BlockHash> = stored(&chains[from]).into_iter().collect();
            let blocks: Vec<BlockHash> = there.into_iter().filter(|_| rng.chance()).collect();
            let known = if rng.chance() { tips(&chains[to]) } else { Vec::new() };
            let options = BundleOptions {
                blocks: rng.chance().then_some(blocks),
                ancestors: rng.chance(),
                known,
                ..BundleOptions::default()
            };
            let mut bytes = bundle(&chains[from], &options);
            if rng.below(4) == 0 {
                bytes.truncate(rng.below(bytes.len()));
            }
            let before = chains[to].root().unwrap();
            match unbundle(&chains[to], &bytes) {
                Ok(report) => prop_assert_eq!(report.root, chains[to].root().unwrap()),
                Err(ChainError::Bundle(_)) => prop_assert_eq!(before, chains[to].root().unwrap()),
                Err(error) => panic!("{error:?}"),
            }
        }
        let union: BTreeSet<BlockHash> = chains.iter().flat_map(stored).collect();
        // Each sends what the others lack, in an order of chance, twice.
        for _ in 0..2 {
            let mut pairs: Vec<(usize, usize)> = (0..9).map(|pair| (pair / 3, pair % 3)).collect();
            while !pairs.is_empty() {
                let (from, to) = pairs.swap_remove(rng.below(pairs.len()));
                let known = tips(&chains[to]);
                let bytes = bundle(&chains[from], &BundleOptions { known, ..BundleOptions::default() });
                unbundle(&chains[to], &bytes).unwrap();
            }
        }
        for chain in &chains {
            prop_assert_eq!(&stored(chain), &union);
            prop_assert_eq!(chain.root().unwrap(), chains[0].root().unwrap());
            prop_assert!(chain.verify(&VerifyOptions::full()).unwrap().is_ok());
        }
    }
}
