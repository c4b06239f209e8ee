//! A thousand random damages of a chain: each is found, named and explained by verification, and
//! reading what it hit is a typed error, never other bytes than were appended.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends at what it does not expect")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::support::{Rng, SimDisk};
use blyan_core::chain::{BadBlock, ChainError, CollectOptions, Damage, Draft, SignatureRecord, Validators};
use blyan_core::storage::{Access, DirMedium, StorageError};
use blyan_core::{BlockHash, BlockKind, Chain, ChainId, Header, ParentRole, VerifyOptions, VerifyReport};

const STRIDE: usize = 4096 + 16;

fn in_dir(dir: &Path, access: Access) -> Result<Chain, ChainError> {
    Chain::open_with(Arc::new(DirMedium::new(dir)), access, Validators::new())
}

fn open(dir: &Path) -> Result<Chain, ChainError> {
    in_dir(dir, Access::ReadWrite)
}

fn open_read_only(dir: &Path) -> Result<Chain, ChainError> {
    in_dir(dir, Access::ReadOnly)
}

/// A closed chain and everything that was put into it.
struct Original {
    dir: tempfile::TempDir,
    blocks: BTreeMap<BlockHash, (Header, Vec<u8>)>,
    signatures: BTreeMap<BlockHash, SignatureRecord>,
}

fn original() -> Original {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(11);
    let key = ed25519_dalek::SigningKey::from_bytes(&[5; 32]);
    let (mut blocks, mut signatures) = (BTreeMap::new(), BTreeMap::new());
    let chain = open(dir.path()).unwrap();
    let mut writer = chain.writer().unwrap();
    let mut hashes: Vec<BlockHash> = Vec::new();
    for number in 0..120 {
        let mut draft = match number % 4 {
            0 => Draft::new(ChainId::Meta, BlockKind::MODEL, "model", rng.bytes(300)),
            1 => Draft::new(ChainId::Dataset, BlockKind(5000), "data.set", rng.bytes(5000)),
            _ => {
                let name = format!("layer0.expert{}", number % 7);
                let len = 1 + rng.below(9000);
                Draft::new(ChainId::Parameter, BlockKind::EXPERT, name, rng.bytes(len))
            }
        };
        for _ in 0..rng.below(4).min(hashes.len()) {
            let parent = hashes[rng.below(hashes.len())];
            if draft.parents.iter().all(|known| known.hash != parent) {
                let role = [ParentRole::Dependency, ParentRole::Predecessor][rng.below(2)];
                draft = draft.with_parent(parent, role);
            }
        }
        let hash = writer.append(draft.clone()).unwrap().hash;
        blocks.insert(hash, (draft.header().unwrap(), draft.payload));
        hashes.push(hash);
        if number % 3 == 0 {
            let record = SignatureRecord::sign(&key, &hash, number);
            writer.add_signature(&hash, record).unwrap();
            signatures.insert(hash, record);
        }
    }
    writer.commit().unwrap();
    drop(chain);
    Original { dir, blocks, signatures }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Writes a file anew, whatever its mode.
fn replace(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

fn payload_path(dir: &Path, header: &Header) -> PathBuf {
    let name = header.payload.hash.to_string();
    dir.join("payloads").join(&name[..2]).join(&name)
}

impl Original {
    /// A copy to damage.
    fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_tree(self.dir.path(), copy.path());
        copy
    }

    fn blocks_with_files(&self) -> Vec<(BlockHash, &Header, &[u8])> {
        let in_file = |header: &Header| header.kind.is_weights() || header.payload.len_bytes > 4096;
        let blocks = self.blocks.iter().filter(|(_, (header, _))| in_file(header));
        blocks.map(|(hash, (header, payload))| (*hash, header, payload.as_slice())).collect()
    }

    /// Reads everything there is in every way: an error, or exactly what was appended. The blocks
    /// with an error.
    fn read_everything(&self, chain: &Chain, context: &str) -> BTreeSet<BlockHash> {
        let mut failed = BTreeSet::new();
        for (hash, (header, payload)) in &self.blocks {
            match chain.get(hash) {
                Ok(block) => assert_eq!(block.header(), header, "{context}"),
                Err(_) => {
                    failed.insert(*hash);
                }
            }
            match chain.payload(hash) {
                Ok(bytes) => assert_eq!(&*bytes, payload.as_slice(), "{context}"),
                Err(_) => {
                    failed.insert(*hash);
                }
            }
            match chain.signatures(hash) {
                Ok(records) => assert!(
                    records.iter().all(|record| self.signatures.get(hash) == Some(record)),
                    "{context}"
                ),
                Err(_) => {
                    failed.insert(*hash);
                }
            }
            let _ = chain.children(hash);
            let _ = chain.ancestors(hash);
            let _ = chain.heads(&header.name);
            let _ = chain.contains(hash);
        }
        for lane in ChainId::ALL {
            for block in chain.blocks(lane).flatten() {
                assert_eq!(&self.blocks[&block.hash()].0, block.header(), "{context}");
            }
            let _ = chain.tips(lane);
        }
        let _ = chain.topological_order().count();
        let _ = chain.blocks_of_kind(BlockKind::EXPERT).count();
        let _ = chain.root();
        failed
    }
}

fn verify(chain: &Chain) -> VerifyReport {
    chain.verify(&VerifyOptions::full()).unwrap()
}

fn named(report: &VerifyReport) -> BTreeSet<BlockHash> {
    report.bad.iter().map(|bad| bad.block).collect()
}

#[test]
fn the_undamaged_chain_is_fine() {
    let original = original();
    let chain = open(original.dir.path()).unwrap();
    let report = verify(&chain);
    assert!(report.is_ok(), "{:?}", report.bad);
    assert_eq!(report.blocks, 120);
    let files: BTreeSet<_> =
        original.blocks_with_files().iter().map(|(_, h, _)| h.payload.clone().hash).collect();
    let bytes: usize = original
        .blocks_with_files()
        .iter()
        .map(|(_, header, payload)| (header.payload.hash, payload.len()))
        .collect::<BTreeMap<_, _>>()
        .values()
        .sum();
    assert!(files.len() > 50);
    assert_eq!(report.payload_bytes, bytes as u64);
    assert_eq!(original.read_everything(&chain, "undamaged"), BTreeSet::new());
}

#[test]
fn damaged_payload_files_are_named_and_repaired() {
    let original = original();
    let mut rng = Rng::new(21);
    let copy = original.copy();
    let files = original.blocks_with_files();
    for round in 0..250 {
        let (hash, header, payload) = files[rng.below(files.len())];
        let path = payload_path(copy.path(), header);
        let (mut bytes, mut absent) = (payload.to_vec(), false);
        let what = match rng.below(5) {
            0 | 1 => {
                let bit = rng.below(bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
                "a flipped bit"
            }
            2 => {
                bytes.truncate(rng.below(bytes.len()));
                "a truncated file"
            }
            3 => {
                absent = true;
                "a missing file"
            }
            _ => {
                bytes.push(0);
                "a longer file"
            }
        };
        if absent {
            fs::remove_file(&path).unwrap();
        } else {
            replace(&path, &bytes);
        }
        let context = format!("round {round}: {what} of {hash}");
        {
            let chain = open_read_only(copy.path()).unwrap();
            let report = verify(&chain);
            assert_eq!(named(&report), BTreeSet::from([hash]), "{context}");
            assert!(matches!(report.bad[0].reason, Damage::Payload(_)), "{context}");
            assert_eq!(report.bad[0].name.as_deref(), Some(header.name.as_str()));
            assert!(chain.verify(&VerifyOptions::headers()).unwrap().is_ok(), "{context}");
            let error = chain.payload(&hash).unwrap_err();
            assert!(
                matches!(error, ChainError::Damaged { block, reason: Damage::Payload(_) } if block == hash),
                "{context}: {error:?}"
            );
        }
        // Importing the content again repairs it.
        let chain = open(copy.path()).unwrap();
        let draft = Draft {
            lane: header.lane,
            kind: header.kind,
            name: header.name.clone(),
            version: header.version.clone(),
            parents: header.parents.clone(),
            payload: payload.to_vec(),
            media_type: header.payload.media_type.clone(),
        };
        let mut writer = chain.writer().unwrap();
        let appended = writer.append(draft).unwrap();
        assert!(!appended.new_block && appended.new_payload && appended.hash == hash, "{context}");
        writer.commit().unwrap();
        assert!(verify(&chain).is_ok(), "{context}");
        assert_eq!(&*chain.payload(&hash).unwrap(), payload);
    }
}

#[test]
fn payloads_that_cannot_be_read_are_named_and_large_ones_are_checked_in_parts() {
    let disk = SimDisk::new();
    let chain = Chain::open_with(Arc::new(disk.clone()), Access::ReadWrite, Validators::new()).unwrap();
    let expert = |number: u8, len: usize| {
        let name = format!("layer0.expert{number}");
        Draft::new(ChainId::Parameter, BlockKind::EXPERT, name, vec![number; len])
    };
    let mut writer = chain.writer().unwrap();
    for draft in [expert(0, 0), expert(1, 3 << 20), expert(2, (64 << 20) + 12_345)] {
        writer.append(draft).unwrap();
    }
    let bad = writer.append(expert(3, 5 << 20)).unwrap().hash;
    writer.commit().unwrap();
    let report = verify(&chain);
    assert!(report.is_ok(), "{:?}", report.bad);
    assert_eq!(report.payload_bytes, (72 << 20) + 12_345);
    disk.make_unreadable(blyan_core::PayloadHash::of(&vec![3; 5 << 20]));
    let report = verify(&chain);
    assert_eq!(named(&report), BTreeSet::from([bad]));
    assert!(matches!(report.bad[0].reason, Damage::Payload(StorageError::Io { .. })));
}

#[test]
fn swapped_payload_files_are_both_named() {
    let original = original();
    let mut rng = Rng::new(22);
    let files = original.blocks_with_files();
    let copy = original.copy();
    let chain = open_read_only(copy.path()).unwrap();
    for _ in 0..100 {
        let (one, other) = (files[rng.below(files.len())], files[rng.below(files.len())]);
        if one.1.payload.hash == other.1.payload.hash {
            continue;
        }
        let paths = [payload_path(copy.path(), one.1), payload_path(copy.path(), other.1)];
        let aside = copy.path().join("aside");
        let swap = || {
            fs::rename(&paths[0], &aside).unwrap();
            fs::rename(&paths[1], &paths[0]).unwrap();
            fs::rename(&aside, &paths[1]).unwrap();
        };
        swap();
        assert_eq!(named(&verify(&chain)), BTreeSet::from([one.0, other.0]));
        swap();
    }
    assert!(verify(&chain).is_ok());
}

#[test]
fn flipped_bits_of_stored_values_name_their_block() {
    let original = original();
    let index = fs::read(original.dir.path().join("index.redb")).unwrap();
    let mut rng = Rng::new(23);
    // Where the header of each block lies, found by its bytes alone.
    let mut places = Vec::new();
    for (hash, (header, _)) in &original.blocks {
        let bytes = header.to_bytes().unwrap();
        let mut found: Vec<usize> = find_all(&index, &bytes);
        if found.len() == 1 {
            places.push((*hash, found.remove(0), bytes.len()));
        }
    }
    assert!(places.len() > 80, "{} of {} headers found", places.len(), original.blocks.len());
    let copy = original.copy();
    for round in 0..250 {
        let (hash, place, len) = places[rng.below(places.len())];
        let mut damaged = index.clone();
        let bit = rng.below(len * 8);
        damaged[place + bit / 8] ^= 1 << (bit % 8);
        // With the page's sum made good again, only the block's own hash can tell.
        let forged = round % 2 == 0;
        if forged {
            seal(&mut damaged, place + bit / 8);
        }
        replace(&copy.path().join("index.redb"), &damaged);
        let context = format!("round {round}: bit {bit} of the header of {hash}, forged: {forged}");
        let chain = open_read_only(copy.path()).unwrap();
        let report = verify(&chain);
        let bad = named(&report);
        assert!(bad.contains(&hash), "{context}: {:?}", report.bad);
        if forged {
            let reasons: Vec<_> = report.bad.iter().filter(|bad| bad.block == hash).collect();
            assert!(matches!(reasons[0].reason, Damage::HeaderHash { .. }), "{context}: {reasons:?}");
            assert_eq!(bad.len(), 1, "{context}: {:?}", report.bad);
        }
        let error = chain.get(&hash).unwrap_err();
        assert!(matches!(error, ChainError::Damaged { block, .. } if block == hash), "{context}: {error:?}");
        let failed = original.read_everything(&chain, &context);
        assert!(failed.is_subset(&bad), "{context}: {:?}", failed.difference(&bad));
    }
}

#[test]
fn flipped_bits_of_signatures_and_small_payloads_name_their_block() {
    let original = original();
    let index = fs::read(original.dir.path().join("index.redb")).unwrap();
    let mut rng = Rng::new(24);
    let mut places = Vec::new();
    for (hash, record) in &original.signatures {
        places.extend(find_all(&index, &record.signature).first().map(|at| (*hash, *at, 64)));
    }
    for (hash, (header, payload)) in &original.blocks {
        if !header.kind.is_weights() && payload.len() <= 4096 {
            places.extend(find_all(&index, payload).first().map(|at| (*hash, *at, payload.len())));
        }
    }
    assert!(places.len() > 50, "{}", places.len());
    let copy = original.copy();
    for round in 0..250 {
        let (hash, place, len) = places[rng.below(places.len())];
        let mut damaged = index.clone();
        let bit = rng.below(len * 8);
        damaged[place + bit / 8] ^= 1 << (bit % 8);
        if round % 2 == 0 {
            seal(&mut damaged, place + bit / 8);
        }
        replace(&copy.path().join("index.redb"), &damaged);
        let chain = open_read_only(copy.path()).unwrap();
        let report = chain.verify(&VerifyOptions::headers()).unwrap();
        let bad = named(&report);
        assert!(bad.contains(&hash), "round {round}: {:?}", report.bad);
        let failed = original.read_everything(&chain, &format!("round {round}"));
        assert!(failed.contains(&hash) && failed.is_subset(&bad), "round {round}: {failed:?}");
    }
}

#[test]
fn a_note_of_what_was_collected_is_missed_by_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let chain = open(dir.path()).unwrap();
    // So many that their notes take several pages.
    let mut writer = chain.writer().unwrap();
    let weights = |text: &str| Draft::new(ChainId::Parameter, BlockKind(24), "weights", text);
    let hashes: Vec<BlockHash> =
        (0..300).map(|number| writer.append(weights(&number.to_string())).unwrap().hash).collect();
    writer.commit().unwrap();
    let payload = chain.get(&hashes[0]).unwrap().header().payload.hash;
    assert_eq!(chain.collect(&CollectOptions::default()).unwrap().blocks.len(), hashes.len());
    for number in 0..10 {
        chain.append(Draft::new(ChainId::Dataset, BlockKind(5000), "note", vec![number])).unwrap();
    }
    drop(chain);
    let index = fs::read(dir.path().join("index.redb")).unwrap();
    let mut met = 0;
    for at in find_all(&index, payload.as_bytes()) {
        let mut damaged = index.clone();
        damaged[at] ^= 1;
        replace(&dir.path().join("index.redb"), &damaged);
        let Ok(chain) = open_read_only(dir.path()) else { continue };
        let Ok(report) = chain.verify(&VerifyOptions::full()) else { continue };
        let of_notes = |bad: &BadBlock| matches!(&bad.reason, Damage::Unreadable { table: "collected", .. });
        if report.bad.iter().any(of_notes) {
            met += 1;
            // Those whose notes cannot be read are missing like any other.
            assert!(report.bad.iter().any(|bad| bad.block == hashes[0]) && !report.collected.is_empty());
            drop(chain);
            // Opening for writing may refuse the page.
            if let Ok(chain) = open(dir.path()) {
                chain.append(weights("new")).unwrap();
                assert_eq!(chain.append(weights("0")).unwrap(), hashes[0]);
                assert_eq!(&chain.payload(&hashes[0]).unwrap()[..], b"0");
            }
        }
    }
    assert_eq!(met, 1);
}

/// Any bit of the index file: an error, or a block named, or everything as it was (the page is free).
#[test]
fn flipped_bits_anywhere_in_the_index_are_errors_or_harmless() {
    let original = original();
    let index = fs::read(original.dir.path().join("index.redb")).unwrap();
    let used: Vec<usize> = (0..index.len()).filter(|at| index[*at] != 0).collect();
    let mut rng = Rng::new(25);
    let copy = original.copy();
    let mut noticed = 0;
    for round in 0..300 {
        let mut damaged = index.clone();
        let at = if round % 8 == 0 { rng.below(512) } else { used[rng.below(used.len())] };
        damaged[at] ^= 1 << rng.below(8);
        replace(&copy.path().join("index.redb"), &damaged);
        let context = format!("round {round}: byte {at}");
        let Ok(chain) = open_read_only(copy.path()) else {
            noticed += 1;
            continue;
        };
        let failed = original.read_everything(&chain, &context);
        match chain.verify(&VerifyOptions::full()) {
            Ok(report) if report.is_ok() => {
                assert_eq!(failed, BTreeSet::new(), "{context}");
                assert_eq!(chain.len().unwrap(), 120, "{context}");
            }
            Ok(report) => {
                noticed += 1;
                let bad = named(&report);
                assert!(failed.is_subset(&bad), "{context}: {:?}", failed.difference(&bad));
            }
            Err(ChainError::Storage(StorageError::IndexDamaged { .. })) => noticed += 1,
            Err(error) => panic!("{context}: {error:?}"),
        }
        drop(chain);
        // A writer meets pages that no reader looks at; it may refuse, but not panic.
        if let Ok(chain) = open(copy.path()) {
            let _ = chain.append(Draft::new(ChainId::Meta, BlockKind::SPEC, "spec", "{}"));
        }
    }
    assert!(noticed > 100, "{noticed}");
}

/// Pages changed by somebody who makes their sums good again reach redb, which then reads nonsense:
/// whatever it makes of it, panics included, is an error or found, and no block is ever another.
#[test]
fn forged_pages_are_errors_or_found() {
    // redb panics by the hundred here, and a backtrace takes longer than the test.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|location| location.file().contains("redb-")) {
            report(panic);
        }
    }));
    let original = original();
    let index = fs::read(original.dir.path().join("index.redb")).unwrap();
    let used: Vec<usize> = (4096..index.len()).filter(|at| index[*at] != 0).collect();
    let rounds = std::env::var("BLYAN_FORGED_ROUNDS").map_or(150, |rounds| rounds.parse().unwrap());
    let mut rng = Rng::new(27);
    let copy = original.copy();
    for round in 0..rounds {
        let mut damaged = index.clone();
        let at = used[rng.below(used.len())];
        damaged[at] ^= 1 << rng.below(8);
        seal(&mut damaged, at);
        replace(&copy.path().join("index.redb"), &damaged);
        let Ok(chain) = open_read_only(copy.path()) else { continue };
        original.read_everything(&chain, &format!("round {round}: byte {at}"));
        let _ = chain.verify(&VerifyOptions::full());
    }
}

#[test]
fn a_truncated_or_foreign_index_is_a_typed_error() {
    let original = original();
    let index = fs::read(original.dir.path().join("index.redb")).unwrap();
    let copy = original.copy();
    let mut rng = Rng::new(26);
    for round in 0..60 {
        let bytes = match round % 3 {
            0 => index[..rng.below(index.len())].to_vec(),
            1 => rng.bytes(20_000),
            _ => [index.as_slice(), &[1; 100]].concat(),
        };
        replace(&copy.path().join("index.redb"), &bytes);
        match open_read_only(copy.path()) {
            Err(ChainError::Storage(_)) => {}
            Err(error) => panic!("{error:?}"),
            // A file cut behind its last used page, or read from the front only.
            Ok(chain) => {
                let failed = original.read_everything(&chain, "truncated");
                match chain.verify(&VerifyOptions::full()) {
                    Ok(report) => assert!(failed.is_subset(&named(&report))),
                    Err(ChainError::Storage(_)) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
        // An index that is not one must not be taken for a new chain and overwritten.
        if let Ok(chain) = open(copy.path()) {
            assert!(bytes.is_empty() || chain.len().is_ok_and(|len| len == 120));
        }
    }
}

/// Opening one waits for somebody to write into it.
#[cfg(unix)]
#[test]
fn a_pipe_in_the_place_of_a_file_is_an_error() {
    let original = original();
    let pipe = |path: &Path| {
        fs::remove_file(path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    {
        let copy = original.copy();
        let chain = open(copy.path()).unwrap();
        let (hash, header, _) = original.blocks_with_files()[0];
        pipe(&payload_path(copy.path(), header));
        assert!(chain.payload(&hash).is_err());
        assert_eq!(named(&verify(&chain)).into_iter().collect::<Vec<_>>(), [hash]);
    }
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let copy = original.copy();
        pipe(&copy.path().join("index.redb"));
        assert!(matches!(in_dir(copy.path(), access), Err(ChainError::Storage(StorageError::Io { .. }))));
    }
}

fn find_all(haystack: &[u8], needle: &[u8]) -> Vec<usize> {
    let first = needle[0];
    let starts = 0..haystack.len().saturating_sub(needle.len());
    starts.filter(|at| haystack[*at] == first && haystack[*at..].starts_with(needle)).collect()
}

/// Writes the sum of the page that holds a byte, as docs/format.md defines it.
fn seal(index: &mut [u8], byte: usize) {
    let page = (byte - 4096) / STRIDE + 1;
    let start = 4096 + (page - 1) * STRIDE;
    let mut hasher = blake3::Hasher::new_derive_key("blyan index page 1");
    hasher.update(&(page as u64).to_le_bytes());
    hasher.update(&index[start..start + 4096]);
    let sum = hasher.finalize();
    index[start + 4096..start + STRIDE].copy_from_slice(&sum.as_bytes()[..16]);
}
