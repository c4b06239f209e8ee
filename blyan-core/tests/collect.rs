//! Collection of payloads: what nothing retained needs goes, nothing else, and not by accident.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::checkpoints::{fixture, import_into};
use crate::support::{Failure, Rng, SimDisk};
use blyan_core::chain::{
    BundleOptions, ChainError, CollectOptions, CollectReport, UnbundleOptions, Validators,
};
use blyan_core::format::Change;
use blyan_core::manager::{ManagerError, ManagerOptions, MoEModelManager, Snapshot, release, rollback};
use blyan_core::storage::Access;
use blyan_core::{
    BlockHash, BlockKind, Chain, ChainId, Draft, Parent, ParentRole, PayloadHash, VerifyOptions,
};

fn collect(chain: &Chain) -> CollectReport {
    chain.collect(&CollectOptions::default()).unwrap()
}

fn file(dir: &Path, payload: &PayloadHash) -> std::path::PathBuf {
    let name = payload.to_string();
    dir.join("payloads").join(&name[..2]).join(&name)
}

fn files(dir: &Path) -> usize {
    let folders = std::fs::read_dir(dir.join("payloads")).unwrap();
    folders.map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count()).sum()
}

/// The expert negated, as the next in its slot.
fn next_expert(chain: &Chain, before: BlockHash) -> BlockHash {
    let old = chain.get(&before).unwrap();
    let mut payload = chain.payload(&before).unwrap().to_vec();
    let end = payload.len();
    payload[end - 1] ^= 0x80;
    let mut draft = Draft::new(ChainId::Parameter, BlockKind::EXPERT, old.header().name.as_str(), payload)
        .with_version(Change::Patch.next(&old.header().version))
        .with_parent(before, ParentRole::Predecessor);
    draft.parents.extend(old.header().parents.iter().filter(|parent| parent.role == ParentRole::Dependency));
    chain.append(draft).unwrap()
}

#[test]
fn what_releases_and_the_newest_model_need_stays() {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::open(dir.path()).unwrap();
    let first = import_into(&chain, &fixture("olmoe"), None);
    let slot = "layer0.expert1".parse().unwrap();
    let base = Snapshot::of_model(&chain, &first).unwrap();
    let old = base.slots()[&slot];
    let middle = next_expert(&chain, old.block);
    let second = base.with_block(&chain, &middle).unwrap().publish(&chain).unwrap();
    let mut bytes = chain.payload(&middle).unwrap().to_vec();
    let end = bytes.len();
    bytes[end - 3] ^= 0x80;
    let mut draft = Draft::new(ChainId::Parameter, BlockKind::EXPERT, "layer0.expert1", bytes.clone())
        .with_version("1.0.2".parse().unwrap());
    draft.parents = vec![Parent::dependency(*base.spec_block()), Parent::predecessor(middle)];
    let newest = chain.append(draft).unwrap();
    let snapshot = Snapshot::of_model(&chain, &second).unwrap().with_block(&chain, &newest).unwrap();
    let third = snapshot.publish(&chain).unwrap();
    release(&chain, &first, "tiny", "1.0.0".parse().unwrap()).unwrap();
    let before = files(dir.path());
    let len = chain.get(&middle).unwrap().header().payload.len_bytes;

    let dry = CollectOptions { dry_run: true, ..CollectOptions::default() };
    let planned = chain.collect(&dry).unwrap();
    assert_eq!((&planned.blocks, planned.payloads, planned.payload_bytes), (&vec![middle], 1, len));
    assert_eq!((planned.stray_payloads, planned.retained_payloads), (0, before as u64 - 1));
    assert_eq!(files(dir.path()), before, "nothing was deleted");
    let cancel = AtomicBool::new(true);
    let cancelled = CollectOptions { cancel: Some(&cancel), ..CollectOptions::default() };
    assert!(matches!(chain.collect(&cancelled), Err(ChainError::Cancelled)));
    assert!(chain.payload(&middle).is_ok());

    // A model that is open keeps what it mapped.
    let options = ManagerOptions { persist_usage: false, threads: Some(1), ..ManagerOptions::default() };
    let open =
        |model| MoEModelManager::open(&chain, &ManagerOptions { model: Some(model), ..options.clone() });
    let opened = open(second).unwrap();
    let expected = opened.logits(&[3, 17, 40, 200]).unwrap();
    let held = chain.payload(&middle).unwrap();
    assert_eq!(collect(&chain), planned);
    assert_eq!(files(dir.path()), before - 1);
    assert_eq!(opened.logits(&[3, 17, 40, 200]).unwrap(), expected);
    assert_eq!(held.len() as u64, len);

    match chain.payload(&middle).unwrap_err() {
        ChainError::PayloadCollected { block, payload } => {
            assert_eq!((block, payload), (middle, chain.get(&middle).unwrap().header().payload.hash));
        }
        error => panic!("{error:?}"),
    }
    // A read-only chain of another process knows it, too.
    assert_eq!(chain.get(&middle).unwrap().header().version.to_string(), "1.0.1");
    let report = chain.verify(&VerifyOptions::full()).unwrap();
    assert!(report.is_ok(), "{:?}", report.bad);
    assert_eq!(report.collected, [middle]);
    for model in [first, third] {
        open(model).unwrap().logits(&[3, 17, 40, 200]).unwrap();
    }
    assert_eq!(collect(&chain).payloads, 0, "once is enough");

    // It comes back with its content, and is damage if it is lost without a collection.
    let payload = chain.get(&middle).unwrap().header().payload.hash;
    drop((chain, opened));
    let chain = Chain::open(dir.path()).unwrap();
    assert!(matches!(chain.payload(&middle), Err(ChainError::PayloadCollected { .. })));
    assert_eq!(next_expert(&chain, old.block), middle);
    assert!(chain.verify(&VerifyOptions::full()).unwrap().collected.is_empty());
    std::fs::remove_file(file(dir.path(), &payload)).unwrap();
    let report = chain.verify(&VerifyOptions::full()).unwrap();
    assert_eq!(report.bad.iter().map(|bad| bad.block).collect::<Vec<_>>(), [middle]);
}

#[test]
fn roots_are_what_the_caller_says() {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::open(dir.path()).unwrap();
    let kept = import_into(&chain, &fixture("olmoe"), None);
    let gone = import_into(&chain, &fixture("mixtral"), None);
    let text = chain.append(Draft::new(ChainId::Dataset, BlockKind(0x4001), "text", vec![1; 9000])).unwrap();
    let candidate = next_expert(
        &chain,
        Snapshot::of_model(&chain, &kept).unwrap().slots()[&"layer0.expert1".parse().unwrap()].block,
    );
    assert_eq!(collect(&chain).blocks, [candidate], "it is in no model");
    let roots = [kept];
    let options = CollectOptions { roots: Some(&roots), ..CollectOptions::default() };
    let report = chain.collect(&options).unwrap();
    assert!(report.payloads > 0);
    assert!(chain.payload(&text).is_ok(), "only weights go");
    for (model, there) in [(kept, true), (gone, false)] {
        for (slot, pinned) in Snapshot::of_model(&chain, &model).unwrap().slots() {
            let payload = chain.payload(&pinned.block);
            assert_eq!(payload.is_ok(), there || !slot.kind().is_weights(), "{slot}");
        }
    }
    let strange = [BlockHash::from_bytes([1; 32])];
    let options = CollectOptions { roots: Some(&strange), ..CollectOptions::default() };
    assert!(matches!(chain.collect(&options), Err(ChainError::NotFound { .. })));
    // An import brings back what it has.
    assert_eq!(import_into(&chain, &fixture("mixtral"), None), gone);
    let report = chain.verify(&VerifyOptions::full()).unwrap();
    assert!(report.is_ok());
    assert_eq!(report.collected, [candidate]);
    drop(chain);
    let chain = Chain::open_read_only(dir.path()).unwrap();
    assert!(matches!(chain.payload(&candidate), Err(ChainError::PayloadCollected { .. })));
    let dry = CollectOptions { dry_run: true, ..CollectOptions::default() };
    assert_eq!(chain.collect(&dry).unwrap().payloads, 0);
    assert!(chain.collect(&CollectOptions::default()).is_err(), "it is open to be read");
}

#[test]
fn what_no_block_names_goes_and_what_is_no_payload_stays() {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::open(dir.path()).unwrap();
    import_into(&chain, &fixture("olmoe"), None);
    let before = files(dir.path());
    let payload = PayloadHash::of(b"left by a crash");
    std::fs::create_dir_all(file(dir.path(), &payload).parent().unwrap()).unwrap();
    std::fs::write(file(dir.path(), &payload), b"left by a crash").unwrap();
    std::fs::write(dir.path().join("payloads/README"), b"?").unwrap();
    let report = collect(&chain);
    assert_eq!((report.stray_payloads, report.stray_bytes, report.payloads), (1, 15, 0));
    std::fs::remove_file(dir.path().join("payloads/README")).unwrap();
    assert_eq!(files(dir.path()), before);
    assert!(chain.verify(&VerifyOptions::full()).unwrap().is_ok());
    assert_eq!(collect(&Chain::in_memory().unwrap()), CollectReport::default());
}

/// A delta is nothing without its base; a block that was merged from one is whole.
#[test]
fn the_base_of_a_delta_stays_and_that_of_a_whole_block_goes() {
    let disk = SimDisk::new();
    let chain = open(&disk);
    let weights = |kind, name: &str, byte: u8, base: Option<BlockHash>| {
        let mut draft = Draft::new(ChainId::Parameter, kind, name, vec![byte; 700]);
        draft.parents.extend(base.map(|hash| Parent { hash, role: ParentRole::Base }));
        chain.append(draft).unwrap()
    };
    let base = weights(BlockKind::EXPERT, "expert", 1, None);
    let delta = weights(BlockKind::DELTA, "expert", 2, Some(base));
    let merged = weights(BlockKind::EXPERT, "expert", 3, Some(delta));
    let dropped = |root: BlockHash| {
        let roots = [root];
        let options = CollectOptions { roots: Some(&roots), dry_run: true, ..CollectOptions::default() };
        chain.collect(&options).unwrap().blocks
    };
    assert_eq!(dropped(delta), [merged]);
    let mut both = [base, delta];
    both.sort_unstable();
    assert_eq!(dropped(merged), both);
}

// --- A disk that fails.

fn open(disk: &SimDisk) -> Chain {
    Chain::open_with(Arc::new(disk.clone()), Access::ReadWrite, Validators::new()).unwrap()
}

/// Two models that share a block; the second follows the first.
fn two_models() -> (SimDisk, [BlockHash; 3], BlockHash) {
    let disk = SimDisk::new();
    let chain = open(&disk);
    let mut rng = Rng::new(9);
    let mut weights = |name: &str| {
        chain.append(Draft::new(ChainId::Parameter, BlockKind::EXPERT, name, rng.bytes(700))).unwrap()
    };
    let blocks = [weights("a"), weights("b"), weights("c")];
    let model = |name: &str, needs: &[BlockHash], before: Option<BlockHash>| {
        let mut draft = Draft::new(ChainId::Meta, BlockKind::MODEL, "model", name);
        draft.parents.extend(needs.iter().map(|block| Parent::dependency(*block)));
        draft.parents.extend(before.map(Parent::predecessor));
        chain.append(draft).unwrap()
    };
    let first = model("first", &blocks[..2], None);
    let second = model("second", &blocks[1..], Some(first));
    drop(chain);
    (disk.after_kill(), blocks, second)
}

#[test]
fn a_collection_cut_off_anywhere_loses_nothing_that_is_needed() {
    let (disk, blocks, _) = two_models();
    let operations = {
        let disk = disk.after_kill();
        let chain = open(&disk);
        disk.fail_at(u64::MAX, Failure::Once);
        assert_eq!(collect(&chain).blocks, [blocks[0]]);
        disk.operations()
    };
    assert!(operations > 3);
    for at in 0..operations {
        for failure in [Failure::Once, Failure::PowerLoss] {
            let failing = disk.after_kill();
            let chain = open(&failing);
            failing.fail_at(at, failure);
            let result = chain.collect(&CollectOptions::default());
            drop(chain);
            let failing = match failure {
                Failure::Once => failing.after_kill(),
                Failure::PowerLoss => failing.after_power_loss(at),
            };
            let chain = open(&failing);
            let context = format!("{at} {failure:?} {result:?}");
            let report = chain.verify(&VerifyOptions::full()).unwrap();
            assert!(report.is_ok(), "{context}: {:?}", report.bad);
            assert!(report.collected.iter().all(|block| *block == blocks[0]), "{context}");
            for needed in &blocks[1..] {
                chain.payload(needed).unwrap();
            }
            // It can be done again, and is done then.
            collect(&chain);
            assert!(
                matches!(chain.payload(&blocks[0]), Err(ChainError::PayloadCollected { .. })),
                "{context}"
            );
            assert_eq!(failing.payload_count(), 2, "{context}");
            assert_eq!(chain.verify(&VerifyOptions::full()).unwrap().collected, [blocks[0]]);
        }
    }
}

#[test]
fn a_block_that_is_needed_again_is_not_deleted() {
    // Interrupted between the note and the deletion, then a release needs it.
    let (disk, blocks, _) = two_models();
    for at in 0.. {
        let failing = disk.after_kill();
        let chain = open(&failing);
        failing.fail_at(at, Failure::Once);
        let done = chain.collect(&CollectOptions::default()).is_ok() && !failing.has_failed();
        drop(chain);
        if done {
            break;
        }
        let disk = failing.after_kill();
        let chain = open(&disk);
        let there = chain.payload(&blocks[0]).is_ok();
        let draft = Draft::new(ChainId::Meta, BlockKind::RELEASE, "tiny", "x")
            .with_parent(blocks[0], ParentRole::Dependency);
        chain.append(draft).unwrap();
        assert_eq!(collect(&chain).payloads, 0);
        assert_eq!(chain.payload(&blocks[0]).is_ok(), there);
        let report = chain.verify(&VerifyOptions::full()).unwrap();
        assert!(report.is_ok() && report.collected.is_empty() == there);
    }
}

#[test]
fn a_model_whose_weights_were_collected_takes_no_place() {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::open(dir.path()).unwrap();
    let first = import_into(&chain, &fixture("olmoe"), None);
    let base = Snapshot::of_model(&chain, &first).unwrap();
    let old = base.slots()[&"layer0.expert1".parse().unwrap()];
    let bytes = chain.payload(&old.block).unwrap().to_vec();
    let next = next_expert(&chain, old.block);
    let second = base.with_block(&chain, &next).unwrap().publish(&chain).unwrap();
    assert_eq!(collect(&chain).blocks, [old.block]);

    let len = chain.len().unwrap();
    match rollback(&chain, &second, &first, "it was worse").unwrap_err() {
        ManagerError::Chain(ChainError::PayloadCollected { block, payload }) => {
            assert_eq!((block, payload), (old.block, old.payload));
        }
        error => panic!("{error:?}"),
    }
    assert_eq!(chain.len().unwrap(), len, "nothing was appended");
    assert_eq!(collect(&chain).blocks, [], "what runs is still the newest");

    // Its content brings it back.
    let header = chain.get(&old.block).unwrap().header().clone();
    let draft = Draft {
        lane: header.lane,
        kind: header.kind,
        name: header.name,
        version: header.version,
        parents: header.parents,
        payload: bytes,
        media_type: header.payload.media_type,
    };
    assert_eq!(chain.append(draft).unwrap(), old.block);
    rollback(&chain, &second, &first, "it was worse").unwrap();
}

#[test]
fn what_follows_a_model_without_having_its_weights_does_not_take_them() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [here, there] = [0, 1].map(|at| Chain::open(dirs[at].path()).unwrap());
    let first = import_into(&here, &fixture("olmoe"), None);
    let base = Snapshot::of_model(&here, &first).unwrap();
    let old = base.slots()[&"layer0.expert1".parse().unwrap()];
    let next = next_expert(&here, old.block);
    let second = base.with_block(&here, &next).unwrap().publish(&here).unwrap();
    let mut all = Vec::new();
    here.bundle(&mut all, &BundleOptions::default()).unwrap();
    there.unbundle(&mut &all[..], &UnbundleOptions::default()).unwrap();
    assert_eq!(collect(&here).blocks, [old.block]);

    // Elsewhere nothing was collected, and what is sent from there leaves out what is known here.
    rollback(&there, &second, &first, "it was worse").unwrap();
    let known = here.tips(ChainId::Meta).unwrap().into_iter().chain(here.tips(ChainId::Parameter).unwrap());
    let mut news = Vec::new();
    there.bundle(&mut news, &BundleOptions { known: known.collect(), ..BundleOptions::default() }).unwrap();
    assert!(here.unbundle(&mut &news[..], &UnbundleOptions::default()).unwrap().blocks_new > 0);
    assert_eq!(collect(&here).blocks, [], "the model that runs keeps its weights");
    let options = ManagerOptions { persist_usage: false, model: Some(second), ..ManagerOptions::default() };
    MoEModelManager::open(&here, &options).unwrap();
    assert!(here.payload(&next).is_ok());
}

#[test]
fn each_new_model_takes_the_place_of_all_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::open(dir.path()).unwrap();
    let mut model = import_into(&chain, &fixture("olmoe"), None);
    for slot in ["layer0.expert1", "layer0.expert2", "layer0.expert3", "layer0.expert0"] {
        let snapshot = Snapshot::of_model(&chain, &model).unwrap();
        let old = snapshot.slots()[&slot.parse().unwrap()].block;
        let next = next_expert(&chain, old);
        model = snapshot.with_block(&chain, &next).unwrap().publish(&chain).unwrap();
        // The models before lack weights by now, and are not what runs for that.
        assert_eq!(collect(&chain).blocks, [old], "{slot}");
    }
    let options = ManagerOptions { persist_usage: false, model: Some(model), ..ManagerOptions::default() };
    MoEModelManager::open(&chain, &options).unwrap();
}
