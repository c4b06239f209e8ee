//! The chain through its public API: append, look up, walk, sign, share between handles.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends at what it does not expect")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use blyan_core::chain::{
    ChainError, Draft, ParentView, SignatureRecord, ValidationError, Validator, Validators,
};
use blyan_core::storage::{Access, DirMedium, Medium, MemoryMedium, StorageError};
use blyan_core::{BlockHash, BlockKind, Chain, ChainId, Parent, ParentRole, PayloadHash, VerifyOptions};

fn in_dir(dir: impl AsRef<Path>, access: Access) -> Result<Chain, ChainError> {
    // Without the validators of the layers above: payloads here are no models.
    Chain::open_with(Arc::new(DirMedium::new(dir.as_ref())), access, Validators::new())
}

fn open(dir: impl AsRef<Path>) -> Result<Chain, ChainError> {
    in_dir(dir, Access::ReadWrite)
}

fn open_read_only(dir: impl AsRef<Path>) -> Result<Chain, ChainError> {
    in_dir(dir, Access::ReadOnly)
}

fn in_memory() -> Result<Chain, ChainError> {
    Chain::open_with(Arc::new(MemoryMedium::new()), Access::ReadWrite, Validators::new())
}

fn spec(text: &str) -> Draft {
    Draft::new(ChainId::Meta, BlockKind::SPEC, "spec", text.as_bytes())
}

fn expert(parent: BlockHash, name: &str, payload: &[u8]) -> Draft {
    Draft::new(ChainId::Parameter, BlockKind::EXPERT, name, payload)
        .with_parent(parent, ParentRole::Dependency)
}

#[test]
fn the_start_of_a_hash_finds_every_block_that_has_it() {
    let chain = in_memory().unwrap();
    let mut hashes: Vec<BlockHash> =
        (0..300).map(|number| chain.append(spec(&format!("{{\"n\":{number}}}"))).unwrap()).collect();
    hashes.sort_unstable();
    for len in [0, 1, 2, 3, 8, 15, 16, 17, 40, 63, 64] {
        for hash in &hashes {
            let prefix = &hash.to_string()[..len];
            let expected: Vec<BlockHash> =
                hashes.iter().filter(|other| other.to_string().starts_with(prefix)).copied().collect();
            assert_eq!(chain.with_prefix(prefix).unwrap(), expected, "{prefix}");
        }
    }
    let absent = (0..).map(|n: u32| format!("{n:06x}"));
    let mut absent = absent.filter(|prefix| !hashes.iter().any(|hash| hash.to_string().starts_with(prefix)));
    assert_eq!(chain.with_prefix(&absent.next().unwrap()).unwrap(), []);
    let long = format!("{}0", hashes[0]);
    for text in ["ABCD", "xyz", "0x12", "é", " ", long.as_str()] {
        assert_eq!(chain.with_prefix(text).unwrap(), [], "{text}");
    }
}

#[test]
fn what_is_appended_is_found_again_and_survives_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (root, child);
    {
        let chain = open(dir.path()).unwrap();
        root = chain.append(spec("{}")).unwrap();
        child = chain.append(expert(root, "layer0.expert0", &[7; 10_000])).unwrap();
        assert_eq!(chain.len().unwrap(), 2);
    }
    for chain in [open(dir.path()), open_read_only(dir.path())] {
        let chain = chain.unwrap();
        assert_eq!(chain.len().unwrap(), 2);
        let block = chain.get(&child).unwrap();
        assert_eq!(block.hash(), child);
        assert_eq!(block.height(), 1);
        assert_eq!(block.header().name, "layer0.expert0");
        assert_eq!(block.header().parents, [Parent::dependency(root)]);
        let all = chain.get_all(&[child, root, child]).unwrap();
        assert_eq!(all.iter().map(|block| block.hash()).collect::<Vec<_>>(), [child, root, child]);
        assert_eq!(all[1].header(), chain.get(&root).unwrap().header());
        assert_eq!(&*chain.payload(&child).unwrap(), &[7; 10_000]);
        assert!(chain.payload(&child).unwrap().is_mapped());
        assert_eq!(&*chain.payload(&root).unwrap(), b"{}");
        assert!(chain.verify(&VerifyOptions::default()).unwrap().is_ok());
    }
}

#[test]
fn a_missing_chain_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    for place in [dir.path().to_path_buf(), dir.path().join("absent")] {
        let error = open_read_only(&place).unwrap_err();
        assert!(matches!(error, ChainError::Storage(StorageError::Missing { .. })), "{error:?}");
        assert!(!place.join("index.redb").exists());
    }
}

#[test]
fn payload_files_without_their_index_are_no_new_chain() {
    let dir = tempfile::tempdir().unwrap();
    let chain = open(dir.path()).unwrap();
    let root = chain.append(spec("{}")).unwrap();
    let expert = chain.append(expert(root, "layer0.expert0", &[7; 10_000])).unwrap();
    drop(chain);
    let index = dir.path().join("index.redb");
    let kept = std::fs::read(&index).unwrap();
    for left in [None, Some(0), Some(3), Some(kept.len())] {
        let _ = std::fs::remove_file(&index);
        if let Some(len) = left {
            std::fs::write(&index, vec![0; len]).unwrap();
        }
        for opened in [open(dir.path()), open_read_only(dir.path())] {
            let error = opened.unwrap_err();
            assert!(
                matches!(&error, ChainError::Storage(StorageError::IndexDamaged { reason }) if reason.contains("put it back")),
                "{error:?}"
            );
            assert_eq!(std::fs::read(&index).ok(), left.map(|len| vec![0; len]), "nothing was changed");
        }
    }
    std::fs::write(&index, kept).unwrap();
    assert_eq!(&*open(dir.path()).unwrap().payload(&expert).unwrap(), &[7; 10_000]);
}

#[test]
fn payload_files_carry_their_plain_blake3_and_are_read_only() {
    let dir = tempfile::tempdir().unwrap();
    let chain = open(dir.path()).unwrap();
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
    let chain = in_memory().unwrap();
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

#[test]
fn a_transaction_is_invisible_until_committed_and_gone_when_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let chain = open(dir.path()).unwrap();
    let root = chain.append(spec("{}")).unwrap();
    let child = expert(root, "layer0.expert0", b"one");
    let mut writer = chain.writer().unwrap();
    let appended = writer.append(child.clone()).unwrap();
    assert!(appended.new_block && appended.new_payload);
    let grandchild = expert(appended.hash, "layer0.expert0", b"two");
    let grandchild = writer.append(grandchild).unwrap().hash;
    assert!(writer.contains(&grandchild).unwrap());
    assert!(!chain.contains(&grandchild).unwrap());
    drop(writer);
    assert_eq!(chain.len().unwrap(), 1);
    assert_eq!(chain.tips(ChainId::Parameter).unwrap(), []);
    // The payload file that is left over is checked and used again.
    let mut writer = chain.writer().unwrap();
    let again = writer.append(child).unwrap();
    assert!(again.new_block && !again.new_payload);
    writer.commit().unwrap();
    assert_eq!(&*chain.payload(&again.hash).unwrap(), b"one");
}

#[test]
fn appending_twice_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let chain = open(dir.path()).unwrap();
    let root = chain.append(spec("{}")).unwrap();
    let first = chain.append(expert(root, "layer0.expert0", b"weights")).unwrap();
    let before = chain.root().unwrap();
    assert_eq!(chain.append(spec("{}")).unwrap(), root);
    assert_eq!(chain.append(expert(root, "layer0.expert0", b"weights")).unwrap(), first);
    assert_eq!((chain.len().unwrap(), chain.root().unwrap()), (2, before));
}

#[test]
fn a_refused_draft_leaves_the_transaction_usable() {
    let chain = in_memory().unwrap();
    let root = chain.append(spec("{}")).unwrap();
    let mut writer = chain.writer().unwrap();
    let absent = BlockHash::from_bytes([1; 32]);
    let error = writer.append(expert(absent, "layer0.expert0", b"x")).unwrap_err();
    assert!(matches!(error, ChainError::MissingParent { parent, .. } if parent == absent));
    let error = writer.append(expert(root, "../x", b"x")).unwrap_err();
    assert!(matches!(error, ChainError::Header { .. }));
    let two_roles = expert(root, "a", b"x").with_parent(root, ParentRole::Evidence);
    assert!(matches!(writer.append(two_roles), Err(ChainError::Header { .. })));
    writer.append(expert(root, "layer0.expert0", b"y")).unwrap();
    writer.commit().unwrap();
    assert_eq!(chain.len().unwrap(), 2);
    assert!(matches!(chain.get(&absent), Err(ChainError::NotFound { .. })));
    assert!(chain.get_all(&[]).unwrap().is_empty());
    let one_absent = chain.get_all(&[root, absent, root]);
    assert!(matches!(one_absent, Err(ChainError::NotFound { block }) if block == absent));
    assert!(matches!(chain.children(&absent), Err(ChainError::NotFound { .. })));
}

#[test]
fn heads_follow_predecessors_of_the_same_name() {
    let chain = in_memory().unwrap();
    let root = chain.append(spec("{}")).unwrap();
    let first = chain.append(expert(root, "layer0.expert0", b"1")).unwrap();
    let successor =
        |name: &str, payload: &[u8]| expert(root, name, payload).with_parent(first, ParentRole::Predecessor);
    // Another slot may start from this block without taking its place.
    chain.append(successor("layer0.expert1", b"2")).unwrap();
    let heads = |name: &str| -> Vec<BlockHash> {
        chain.heads(name).unwrap().iter().map(blyan_core::Block::hash).collect()
    };
    assert_eq!(heads("layer0.expert0"), [first]);
    let mut forks = [b"3", b"4"].map(|payload| chain.append(successor("layer0.expert0", payload)).unwrap());
    forks.sort();
    assert_eq!(heads("layer0.expert0"), forks);
    assert_eq!(heads("layer0.expert"), []);
    assert_eq!(chain.children(&first).unwrap().len(), 3);
}

/// Accepts a block only if its payload repeats its first parent's.
struct Echo;

impl Validator for Echo {
    fn validate(
        &self,
        header: &blyan_core::Header,
        payload: &[u8],
        parents: &dyn ParentView,
    ) -> Result<(), ValidationError> {
        let parent = header.parents.first().ok_or_else(|| ValidationError::new("no parent"))?;
        let stranger = BlockHash::from_bytes([9; 32]);
        assert!(matches!(parents.header(&stranger), Err(ChainError::NotFound { .. })));
        let expected = parents.payload(&parent.hash).map_err(ValidationError::new)?;
        if payload == &*expected { Ok(()) } else { Err(ValidationError::new("not an echo")) }
    }
}

#[test]
fn the_validator_of_a_kind_sees_parents_of_the_same_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let medium = Arc::new(DirMedium::new(dir.path()));
    let validators = Validators::new().with(BlockKind::HEAD, Arc::new(Echo));
    let chain = Chain::open_with(medium, Access::ReadWrite, validators).unwrap();
    let mut writer = chain.writer().unwrap();
    let root = writer.append(spec("{}")).unwrap().hash;
    let parent = writer.append(expert(root, "layer0.expert0", &[3; 100_000])).unwrap().hash;
    let head = |payload: &[u8]| {
        Draft::new(ChainId::Parameter, BlockKind::HEAD, "head", payload)
            .with_parent(parent, ParentRole::Dependency)
    };
    let error = writer.append(head(b"other")).unwrap_err();
    assert!(matches!(error, ChainError::Refused { kind: BlockKind::HEAD, .. }), "{error:?}");
    writer.append(head(&[3; 100_000])).unwrap();
    writer.commit().unwrap();
    assert_eq!(chain.len().unwrap(), 3);
}

#[test]
fn readers_see_whole_transactions_while_one_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let chain = open(dir.path()).unwrap();
    let root = chain.append(spec("{}")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..3 {
            let (chain, done) = (chain.clone(), &done);
            scope.spawn(move || {
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    let blocks: Vec<_> = chain.blocks(ChainId::Parameter).collect::<Result<_, _>>().unwrap();
                    assert_eq!(blocks.len() % 10, 0, "a transaction was seen by halves");
                    assert!(blocks.len() >= last);
                    last = blocks.len();
                    if let Some(block) = blocks.get(reader) {
                        chain.payload(&block.hash()).unwrap();
                    }
                }
            });
        }
        // Two writers take turns.
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let chain = chain.clone();
                scope.spawn(move || {
                    for round in 0..10 {
                        let mut writer = chain.writer().unwrap();
                        for number in 0..10 {
                            let name = format!("layer{thread}.expert{number}");
                            let payload = format!("{thread} {round} {number}");
                            writer.append(expert(root, &name, payload.as_bytes())).unwrap();
                        }
                        writer.commit().unwrap();
                    }
                });
            }
        });
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(chain.len().unwrap(), 201);
    assert!(chain.verify(&VerifyOptions::full()).unwrap().is_ok());
}

/// A chain that writes keeps its view of the last commit, and lets go of it after the next one.
#[test]
fn look_ups_between_appends_see_each_of_them_and_cost_the_index_no_room() {
    let index_bytes = |look: bool| {
        let dir = tempfile::tempdir().unwrap();
        let chain = open(dir.path()).unwrap();
        for number in 0..200_u64 {
            let block = chain.append(spec(&format!("{{\"n\":{number}}}"))).unwrap();
            if look {
                assert_eq!(chain.get(&block).unwrap().hash(), block);
                assert_eq!(chain.len().unwrap(), number + 1);
            }
        }
        let bytes = || std::fs::metadata(dir.path().join("index.redb")).unwrap().len();
        let while_open = bytes();
        drop(chain);
        (while_open, bytes())
    };
    assert_eq!(index_bytes(true), index_bytes(false));
}

/// Who begins to write sees what was committed before, with whatever view: a collection deletes what that does not name.
#[test]
fn a_writer_sees_every_commit_before_its_own() {
    let chain = in_memory().unwrap();
    let committed = AtomicU64::new(0);
    let writers = Arc::new(());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let writing = writers.clone();
            let (chain, committed) = (&chain, &committed);
            scope.spawn(move || {
                let _writing = writing;
                for _ in 0..100 {
                    let mut writer = chain.writer().unwrap();
                    let number = committed.load(Ordering::Relaxed);
                    assert_eq!(chain.len().unwrap(), number);
                    writer.append(spec(&format!("{{\"n\":{number}}}"))).unwrap();
                    committed.store(number + 1, Ordering::Relaxed);
                    writer.commit().unwrap();
                }
            });
        }
        // Keeps a view at hand, until no writer is left, whatever ended them.
        while Arc::strong_count(&writers) > 1 {
            chain.len().unwrap();
        }
    });
}

#[test]
fn a_second_writer_is_refused_at_once_and_readers_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let chain = open(dir.path()).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, ChainError::Storage(StorageError::Locked)), "{error:?}");
    let reader = open_read_only(dir.path()).unwrap();
    assert!(!reader.is_writable());
    let error = reader.append(spec("{}")).unwrap_err();
    assert!(matches!(error, ChainError::Storage(StorageError::ReadOnly)), "{error:?}");
    let root = chain.append(spec("{}")).unwrap();
    assert_eq!(reader.len().unwrap(), 1);
    chain.append(expert(root, "layer0.expert0", b"w")).unwrap();
    assert_eq!(reader.tips(ChainId::Parameter).unwrap().len(), 1);
    // What is left of a loaded model keeps nobody from writing.
    let payloads = chain.payloads().clone();
    drop(chain);
    let next = open(dir.path()).unwrap();
    assert_eq!(&*payloads.get(&PayloadHash::of(b"w"), 1).unwrap(), b"w");
    assert_eq!(next.len().unwrap(), 2);
}

const CHILD: &str = "BLYAN_TEST_CHILD";

/// Runs this test binary again, in the role that `child` plays.
fn spawn_child(role: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "chain::child", "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{role} {}", dir.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The next line of a child that begins with "child:".
fn hear(out: &mut impl BufRead) -> String {
    let mut line = String::new();
    loop {
        line.clear();
        assert_ne!(out.read_line(&mut line).unwrap(), 0, "the child ended");
        if let Some(at) = line.find("child:") {
            return line[at + 6..].trim().to_owned();
        }
    }
}

/// What the other processes of the tests below do; without its variable, nothing.
#[test]
fn child() {
    let Ok(task) = std::env::var(CHILD) else { return };
    let (role, dir) = task.split_once(' ').unwrap();
    let mut lines = std::io::stdin().lines();
    match role {
        "write" => match open(dir) {
            Err(ChainError::Storage(StorageError::Locked)) => println!("child: locked"),
            other => println!("child: {other:?}"),
        },
        "read" => {
            let chain = open_read_only(dir).unwrap();
            println!("child: {}", chain.len().unwrap());
            while let Some(Ok(_)) = lines.next() {
                let blocks = chain.topological_order().map(|block| block.unwrap().hash());
                let blocks: Vec<BlockHash> = blocks.collect();
                for block in &blocks {
                    chain.payload(block).unwrap();
                }
                println!("child: {}", blocks.len());
            }
        }
        "hold" => {
            let chain = open(dir).unwrap();
            let root = chain.append(spec("{}")).unwrap();
            let mut writer = chain.writer().unwrap();
            writer.append(expert(root, "layer0.expert0", b"in flight")).unwrap();
            println!("child: holding");
            // Until it is killed.
            lines.next();
        }
        other => panic!("{other}"),
    }
}

#[test]
fn another_process_cannot_write_but_follows_every_commit() {
    let dir = tempfile::tempdir().unwrap();
    let chain = open(dir.path()).unwrap();
    let root = chain.append(spec("{}")).unwrap();
    let begun = Instant::now();
    let mut second = spawn_child("write", dir.path());
    let mut out = BufReader::new(second.stdout.take().unwrap());
    assert_eq!(hear(&mut out), "locked");
    second.wait().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "a second writer must not wait");

    let mut reader = spawn_child("read", dir.path());
    let mut out = BufReader::new(reader.stdout.take().unwrap());
    let mut ask = reader.stdin.take().unwrap();
    assert_eq!(hear(&mut out), "1");
    for number in 0..20 {
        let payload = [number; 6000];
        chain.append(expert(root, &format!("layer0.expert{number}"), &payload)).unwrap();
        writeln!(ask, "look").unwrap();
        assert_eq!(hear(&mut out), (usize::from(number) + 2).to_string());
    }
    // The reader keeps nobody from closing and opening for writing.
    drop(chain);
    let chain = open(dir.path()).unwrap();
    chain.append(expert(root, "layer1.expert0", b"again")).unwrap();
    writeln!(ask, "look").unwrap();
    assert_eq!(hear(&mut out), "22");
    drop(ask);
    assert!(reader.wait().unwrap().success());
}

#[test]
fn a_payload_that_cannot_be_written_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    let medium = DirMedium::new(dir.path());
    let payload = PayloadHash::of(b"weights");
    let name = payload.to_string();
    // A folder cannot be replaced by a file.
    std::fs::create_dir_all(dir.path().join("payloads").join(&name[..2]).join(&name)).unwrap();
    medium.write_temporary("1-1", b"weights").unwrap();
    assert!(medium.publish("1-1", &payload).is_err());
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    // A name that another has is not that one's end.
    medium.write_temporary("1-2", b"weights").unwrap();
    assert!(medium.write_temporary("1-2", b"others").is_err());
    assert_eq!(std::fs::read(dir.path().join("tmp/1-2")).unwrap(), b"weights");
}

#[test]
fn a_killed_writer_is_recovered_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let mut holder = spawn_child("hold", dir.path());
    let mut out = BufReader::new(holder.stdout.take().unwrap());
    assert_eq!(hear(&mut out), "holding");
    assert!(matches!(open(dir.path()), Err(ChainError::Storage(StorageError::Locked))));
    assert_eq!(open_read_only(dir.path()).unwrap().len().unwrap(), 1);
    holder.kill().unwrap();
    holder.wait().unwrap();
    std::fs::write(dir.path().join("tmp/left-over"), b"half").unwrap();
    let error = open_read_only(dir.path()).unwrap_err();
    assert!(matches!(error, ChainError::Storage(StorageError::NeedsRecovery)), "{error:?}");
    let chain = open(dir.path()).unwrap();
    assert_eq!(chain.len().unwrap(), 1);
    assert!(chain.verify(&VerifyOptions::full()).unwrap().is_ok());
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    drop(chain);
    assert_eq!(open_read_only(dir.path()).unwrap().len().unwrap(), 1);
}

/// Reads the index with redb alone, as docs/format.md describes the file around it.
#[test]
fn the_index_is_the_documented_file() {
    use redb::{ReadOnlyDatabase, ReadableDatabase, ReadableTable, TableDefinition};

    let dir = tempfile::tempdir().unwrap();
    let key = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
    let (parent, child, header, record) = {
        let chain = open(dir.path()).unwrap();
        let parent = chain.append(spec("{}")).unwrap();
        let child = chain.append(expert(parent, "layer0.expert0", b"w")).unwrap();
        let record = SignatureRecord::sign(&key, &child, 0x0102);
        chain.add_signature(&child, record).unwrap();
        let header = chain.get(&child).unwrap().header().to_bytes().unwrap();
        (*parent.as_bytes(), *child.as_bytes(), header, record)
    };
    let stored = std::fs::read(dir.path().join("index.redb")).unwrap();
    let mut plain = stored[..4096].to_vec();
    plain[320..336].fill(0);
    for (number, page) in stored[4096..].chunks_exact(4112).enumerate() {
        let mut hasher = blake3::Hasher::new_derive_key("blyan index page 1");
        hasher.update(&(number as u64 + 1).to_le_bytes()).update(&page[..4096]);
        let sum_matches = hasher.finalize().as_bytes()[..16] == page[4096..];
        assert!(sum_matches || page.iter().all(|byte| *byte == 0), "page {}", number + 1);
        plain.extend_from_slice(&page[..4096]);
    }
    let path = dir.path().join("plain.redb");
    std::fs::write(&path, plain).unwrap();
    let read = ReadOnlyDatabase::open(&path).unwrap().begin_read().unwrap();

    let meta = read.open_table(TableDefinition::<&str, u64>::new("meta")).unwrap();
    assert_eq!(meta.get("index_version").unwrap().unwrap().value(), 3);
    assert_eq!(meta.get("settled").unwrap().unwrap().value(), 0);
    assert_eq!(meta.get("settled_lanes").unwrap().unwrap().value(), 0);
    let numbers = read.open_table(TableDefinition::<[u8; 16], ()>::new("recent")).unwrap();
    for (hash, number) in [(parent, 0_u64), (child, 1)] {
        let key = [&hash[..8], &number.to_be_bytes()].concat();
        assert!(numbers.get(<[u8; 16]>::try_from(key).unwrap()).unwrap().is_some());
    }
    let blocks = read.open_table(TableDefinition::<u64, &[u8]>::new("blocks")).unwrap();
    let block = blocks.get(0).unwrap().unwrap().value().to_vec();
    assert!(block.starts_with(&[0; 8]) && block.ends_with(b"application/json{}"));
    let len = u32::try_from(header.len()).unwrap().to_le_bytes();
    let expected = [[1, 0, 0, 0, 0, 0, 0, 0].as_slice(), &len, &header].concat();
    assert_eq!(blocks.get(1).unwrap().unwrap().value(), expected);

    let (zero, one) = ([0; 8], [0, 0, 0, 0, 0, 0, 0, 1]);
    let lanes = read.open_table(TableDefinition::<[u8; 19], [u8; 32]>::new("recent_lanes")).unwrap();
    let entries = lanes.iter().unwrap().map(Result::unwrap);
    let entries: Vec<_> = entries.map(|(key, hash)| (key.value().to_vec(), hash.value())).collect();
    let expected = [
        ([zero.as_slice(), &[0, 0, 1], &zero].concat(), parent),
        ([one.as_slice(), &[1, 0, 19], &one].concat(), child),
    ];
    assert_eq!(entries, expected);
    let names = read.open_table(TableDefinition::<&[u8], u8>::new("names")).unwrap();
    let name = [b"layer0.expert0\0".as_slice(), &one].concat();
    assert_eq!(names.get(name.as_slice()).unwrap().unwrap().value(), 1);
    let children = read.open_table(TableDefinition::<[u8; 16], u8>::new("children")).unwrap();
    let (edge, role) = children.iter().unwrap().next().unwrap().unwrap();
    assert_eq!((edge.value().to_vec(), role.value()), ([zero, one].concat(), 0));
    let tips = read.open_table(TableDefinition::<[u8; 9], ()>::new("tips")).unwrap();
    let keys: Vec<_> = tips.iter().unwrap().map(|entry| entry.unwrap().0.value().to_vec()).collect();
    assert_eq!(keys, [[[0].as_slice(), &zero].concat(), [[1].as_slice(), &one].concat()]);
    let signatures = read.open_table(TableDefinition::<[u8; 72], [u8; 64]>::new("signatures")).unwrap();
    let (at, signature) = signatures.iter().unwrap().next().unwrap().unwrap();
    let public_key = key.verifying_key().to_bytes();
    let expected = [child.as_slice(), &public_key, &[0, 0, 0, 0, 0, 0, 1, 2]].concat();
    assert_eq!((at.value().to_vec(), signature.value()), (expected, record.signature));
}

#[test]
fn payloads_are_verified_from_within_a_busy_pool() {
    let dir = tempfile::tempdir().unwrap();
    let chain = open(dir.path()).unwrap();
    let root = chain.append(spec("{}")).unwrap();
    let blocks: Vec<BlockHash> = (0..8_u8)
        .map(|number| {
            chain.append(expert(root, &format!("layer0.expert{number}"), &vec![number; 3 << 20])).unwrap()
        })
        .collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(|| {
        use rayon::prelude::*;
        // Many threads ask for the same payloads at once.
        (0..64_usize).into_par_iter().for_each(|ask| {
            let block = blocks[ask % blocks.len()];
            let payload = chain.payload(&block).unwrap();
            assert_eq!(payload[payload.len() / 2], (ask % blocks.len()) as u8);
        });
    });
}

/// A callback on a thread of the pool held it up, and a thread that waited there was given work that called back.
#[test]
fn a_verification_calls_back_on_its_own_thread_and_may_be_used_there() {
    let chain = in_memory().unwrap();
    let root = chain.append(spec("{}")).unwrap();
    for number in 0..64_u8 {
        chain.append(expert(root, &format!("layer0.expert{number}"), &vec![number; 9 << 10])).unwrap();
    }
    let verify = || {
        let here = std::thread::current().id();
        let told = std::sync::Mutex::new(Vec::new());
        let progress = |now: blyan_core::chain::VerifyProgress| {
            assert_eq!(std::thread::current().id(), here);
            // As if another thread used the chain while this one waits: both share the pool.
            assert!(chain.verify(&VerifyOptions::full()).unwrap().is_ok());
            told.lock().unwrap().push(now.payload_bytes);
        };
        let options = VerifyOptions { progress: Some(&progress), ..VerifyOptions::full() };
        assert!(chain.verify(&options).unwrap().is_ok());
        let told = told.into_inner().unwrap();
        assert!(told.is_sorted() && told.last() == Some(&(64 * (9 << 10))), "{told:?}");
    };
    verify();
    for threads in [1, 2] {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(verify);
    }
    let progress = |_| panic!("of the callback");
    let options = VerifyOptions { progress: Some(&progress), ..VerifyOptions::full() };
    let verify = std::panic::AssertUnwindSafe(|| chain.verify(&options));
    assert!(std::panic::catch_unwind(verify).is_err());
}

/// A root, and the blocks of a bundle, were gathered lane by lane, each from what was committed by then.
#[test]
fn roots_and_bundles_are_of_one_commit() {
    let chain = in_memory().unwrap();
    let first = chain.append(spec("{}")).unwrap();
    let roots = std::sync::Mutex::new(vec![chain.root().unwrap()]);
    let done = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..300 {
                let mut writer = chain.writer().unwrap();
                let parent = writer.append(spec(&format!("{{{number}}}"))).unwrap().hash;
                writer.append(expert(parent, "layer0.expert0", &[1])).unwrap();
                writer.append(expert(first, "layer0.expert1", format!("{number}").as_bytes())).unwrap();
                // Others may see it before this thread does.
                let mut roots = roots.lock().unwrap();
                writer.commit().unwrap();
                roots.push(chain.root().unwrap());
            }
            done.store(true, Ordering::Release);
        });
        let mut seen = Vec::new();
        while !done.load(Ordering::Acquire) {
            seen.push(chain.root().unwrap());
            chain.bundle(&mut std::io::sink(), &blyan_core::chain::BundleOptions::default()).unwrap();
        }
        seen
    });
    let roots = roots.into_inner().unwrap();
    assert!(seen.iter().all(|root| roots.contains(root)));
}

/// A hash that shares its first eight bytes with a block's was once taken for that block, damaged.
#[test]
fn a_hash_that_starts_like_a_block_is_not_found() {
    let chain = in_memory().unwrap();
    let block = chain.append(spec("{}")).unwrap();
    let mut bytes = *block.as_bytes();
    bytes[31] ^= 1;
    let alike = BlockHash::from_bytes(bytes);
    assert!(!chain.contains(&alike).unwrap());
    assert!(matches!(chain.get(&alike), Err(ChainError::NotFound { block }) if block == alike));
}
