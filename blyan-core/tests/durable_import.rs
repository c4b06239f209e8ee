//! An import cut off at any moment: by an operation that fails, by a loss of power that takes what was
//! not synced, by SIGKILL. What was acknowledged stays, the import is there as a whole or not at all,
//! and running it again completes it without a second copy of anything.

#![allow(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::folders::Checkpoint;
use crate::support::{Failure, Rng, SimDisk};
use blyan_core::chain::{ChainError, Validators};
use blyan_core::import::{self, ImportError, ImportOptions, ImportReport};
use blyan_core::storage::Access;
use blyan_core::{BlockHash, BlockKind, Chain, ChainId, ChainRoot, Draft, VerifyOptions};
use tempfile::TempDir;

/// A small model whose import has everything an import can have: payloads in files and in the
/// index, one in two blocks, and one that the chain holds already, under another name.
fn checkpoint() -> Checkpoint {
    let mut checkpoint = Checkpoint::of("llama");
    checkpoint.config.insert("num_hidden_layers".to_owned(), 2.into());
    checkpoint.tensors.retain(|name, _| !name.starts_with("model.layers.2."));
    for part in ["gate_proj", "up_proj", "down_proj"] {
        let first = checkpoint.tensors[&format!("model.layers.0.mlp.{part}.weight")].clone();
        *checkpoint.tensor(&format!("model.layers.1.mlp.{part}.weight")) = first;
    }
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        checkpoint.files.insert(file.to_owned(), b"{}".to_vec());
    }
    checkpoint.files.insert("tokenizer.json".to_owned(), shared_text());
    checkpoint
}

/// Too long to lie in the index.
fn shared_text() -> Vec<u8> {
    format!("{{\"words\":\"{}\"}}", "amen ".repeat(2000)).into_bytes()
}

/// What the chain acknowledged before the import.
fn earlier() -> Vec<Draft> {
    let note = |name: &str, payload: Vec<u8>| Draft::new(ChainId::Dataset, BlockKind(0x4001), name, payload);
    vec![note("note", b"short".to_vec()), note("text", shared_text()), note("noise", Rng::new(3).bytes(9000))]
}

fn import(chain: &Chain, dir: &Path) -> Result<ImportReport, ImportError> {
    import::checkpoint(chain, dir, &ImportOptions::default())
}

fn stored(chain: &Chain) -> BTreeSet<BlockHash> {
    chain.topological_order().map(|block| block.unwrap().hash()).collect()
}

fn assert_verified(chain: &Chain, context: &str) {
    let report = chain.verify(&VerifyOptions::full()).unwrap_or_else(|error| panic!("{context}: {error:?}"));
    assert!(report.is_ok(), "{context}: {:?}", report.bad);
}

// --- A simulated disk.

fn open(disk: &SimDisk) -> Result<Chain, ChainError> {
    Chain::open_with(Arc::new(disk.clone()), Access::ReadWrite, Validators::new())
}

/// An import and what it does to a chain when nothing disturbs it.
struct Undisturbed {
    folder: TempDir,
    /// The disk before the import.
    disk: SimDisk,
    before: BTreeSet<BlockHash>,
    after: BTreeSet<BlockHash>,
    root: ChainRoot,
    report: ImportReport,
    payload_files: usize,
    /// Write operations of opening, importing and closing.
    operations: u64,
}

impl Undisturbed {
    fn get() -> &'static Self {
        static UNDISTURBED: OnceLock<Undisturbed> = OnceLock::new();
        UNDISTURBED.get_or_init(Self::run)
    }

    fn run() -> Self {
        let folder = checkpoint().write();
        let disk = SimDisk::new();
        let chain = open(&disk).unwrap();
        for draft in earlier() {
            chain.append(draft).unwrap();
        }
        drop(chain);
        let disk = disk.after_kill();

        let imported = disk.after_kill();
        let chain = open(&imported).unwrap();
        let before = stored(&chain);
        let report = import(&chain, folder.path()).unwrap();
        let (after, root) = (stored(&chain), chain.root().unwrap());
        drop(chain);
        assert_eq!(before.len(), earlier().len());
        assert_eq!(after.len() as u64, before.len() as u64 + report.blocks_new);
        // Each payload file is of two blocks only if it was written once.
        let files = after.len() - before.len();
        assert!(imported.payload_count() < files, "{} of {files}", imported.payload_count());
        let (payload_files, operations) = (imported.payload_count(), imported.operations());
        Self { folder, disk, before, after, root, report, payload_files, operations }
    }

    /// Opens and imports on a disk that is about to fail; whether the import was acknowledged.
    fn attempt(&self, disk: &SimDisk) -> bool {
        open(disk).is_ok_and(|chain| import(&chain, self.folder.path()).is_ok())
    }

    /// What must hold of a disk on which the import was attempted; then completes it.
    fn check(&self, disk: &SimDisk, acknowledged: bool, context: &str) {
        let chain = open(disk).unwrap_or_else(|error| panic!("{context}: {error:?}"));
        assert_eq!(disk.temporary_count(), 0, "{context}");
        let whole = stored(&chain) == self.after;
        if !whole {
            assert!(!acknowledged, "{context}: an acknowledged import is gone");
            assert_eq!(stored(&chain), self.before, "{context}: the import is there by halves");
        }
        assert_verified(&chain, context);
        for draft in earlier() {
            let payload = chain.payload(&draft.hash().unwrap());
            assert_eq!(
                payload.unwrap_or_else(|e| panic!("{context}: {e:?}"))[..],
                draft.payload,
                "{context}"
            );
        }

        let report = import(&chain, self.folder.path()).unwrap_or_else(|e| panic!("{context}: {e:?}"));
        assert_eq!((report.model, report.root), (self.report.model, self.report.root), "{context}");
        assert_eq!(report.blocks_new, if whole { 0 } else { self.report.blocks_new }, "{context}");
        assert_eq!(disk.temporary_count(), 0, "{context}");
        self.assert_complete(&chain, disk, context);
    }

    fn assert_complete(&self, chain: &Chain, disk: &SimDisk, context: &str) {
        assert_eq!(stored(chain), self.after, "{context}");
        assert_eq!(chain.root().unwrap(), self.root, "{context}");
        assert_eq!(disk.payload_count(), self.payload_files, "{context}");
        assert_verified(chain, context);
    }
}

#[test]
fn an_import_of_which_any_operation_fails_is_whole_or_absent_and_can_be_completed() {
    let undisturbed = Undisturbed::get();
    let total = undisturbed.operations;
    let mut retried = 0;
    for (at, retry) in (0..).flat_map(|at| [(at, false), (at, true)]) {
        let disk = undisturbed.disk.after_kill();
        disk.fail_at(at, Failure::Once);
        let context = format!("operation {at} of {total} failed");
        let mut acknowledged = false;
        if let Ok(chain) = open(&disk) {
            acknowledged = import(&chain, undisturbed.folder.path()).is_ok();
            if retry && !acknowledged && import(&chain, undisturbed.folder.path()).is_ok() {
                // The disk works again; unless the database gave up, so does the chain.
                undisturbed.assert_complete(&chain, &disk, &context);
                acknowledged = true;
                retried += 1;
            }
        }
        let failed = disk.has_failed();
        disk.fail_at(u64::MAX, Failure::Once);
        // The same disk: what was not synced still is not.
        undisturbed.check(&disk, acknowledged, &context);
        undisturbed.check(&disk.after_power_loss(at), true, &format!("{context}, later the power"));
        if !failed {
            assert!(acknowledged && at >= total, "{context}");
            break;
        }
    }
    // At least where the database had no part: a payload file is written, then published.
    let new_files = undisturbed.payload_files - undisturbed.disk.payload_count();
    assert!(retried >= 2 * new_files, "{retried} retried, {new_files} files");
}

#[test]
fn an_import_during_which_the_power_goes_is_whole_or_absent_and_can_be_completed() {
    let undisturbed = Undisturbed::get();
    for at in 0.. {
        let disk = undisturbed.disk.after_kill();
        disk.fail_at(at, Failure::PowerLoss);
        let acknowledged = undisturbed.attempt(&disk);
        for seed in at * 4..at * 4 + 4 {
            let context = format!("power lost at operation {at} of {}, seed {seed}", undisturbed.operations);
            let disk = disk.after_power_loss(seed);
            undisturbed.check(&disk, acknowledged, &context);
            // What completed it is acknowledged: the power may go again.
            undisturbed.check(&disk.after_power_loss(seed), true, &format!("{context}, then again"));
        }
        let context = format!("killed at operation {at} of {}", undisturbed.operations);
        undisturbed.check(&disk.after_kill(), acknowledged, &context);
        if !disk.has_failed() {
            assert!(acknowledged, "{context}");
            assert!(at >= undisturbed.operations);
            break;
        }
    }
}

// --- A real directory, and a process of its own.

/// Set for the process that imports: the chain's directory, the checkpoint's, and the note to append.
const CHILD: &str = "BLYAN_DURABLE_IMPORT_CHILD";
const SIGKILL_TEST: &str =
    "durable_import::an_import_killed_at_random_moments_is_whole_or_absent_and_can_be_completed";
const KILLS: usize = 60;
const SEED: u64 = 11;

/// A block for each round, acknowledged before the round's import.
fn note(round: usize) -> Draft {
    // Every second one lies in a file.
    let payload = Rng::new(round as u64).bytes(if round.is_multiple_of(2) { 40 } else { 5000 });
    Draft::new(ChainId::Dataset, BlockKind(0x4001), format!("note{round}"), payload)
}

/// Appends a note and imports, telling of each step; then waits to be killed.
fn child(arguments: &str) {
    let mut arguments = arguments.split('\n');
    let mut argument = || arguments.next().unwrap();
    let (dir, folder, round) = (argument(), argument(), argument());
    // A line is one write: told as a whole, or not at all.
    let tell = |step: &str| io::stderr().write_all(format!("{step}\n").as_bytes()).unwrap();
    tell("begun");
    let chain = Chain::open(dir).unwrap();
    chain.append(note(round.parse().unwrap())).unwrap();
    tell("appended");
    import(&chain, Path::new(folder)).unwrap();
    tell("imported");
    // Ends with the parent, should that fail.
    let _ = io::stdin().read(&mut [0]);
}

/// What a child was seen to do.
#[derive(Default)]
struct Seen {
    begun: Option<Instant>,
    appended: bool,
    imported: Option<Instant>,
    /// What it told besides.
    other: String,
}

struct Importer {
    process: Child,
    lines: mpsc::Receiver<(Instant, String)>,
}

impl Importer {
    fn start(dir: &Path, folder: &Path, round: usize) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", SIGKILL_TEST, "--nocapture", "--test-threads=1"])
            .env(CHILD, format!("{}\n{}\n{round}", dir.display(), folder.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines() {
                let _ = sender.send((Instant::now(), line.unwrap_or_default()));
            }
        });
        Self { process, lines }
    }

    /// Waits until the child begins, then `delay`, then kills it.
    fn kill_after(mut self, delay: Duration) -> (Seen, ExitStatus) {
        let mut seen = Seen::default();
        let first = self.lines.recv_timeout(Duration::from_secs(30)).expect("the child begins");
        let kill_at = first.0 + delay;
        seen.note(first);
        std::thread::sleep(kill_at.saturating_duration_since(Instant::now()));
        self.process.kill().unwrap();
        let status = self.process.wait().unwrap();
        // The pipe keeps what it told before it died.
        self.lines.iter().for_each(|line| seen.note(line));
        (seen, status)
    }

    /// How long it takes if nobody kills it.
    fn time(mut self) -> Duration {
        let mut seen = Seen::default();
        while seen.imported.is_none() {
            let line = self.lines.recv_timeout(Duration::from_secs(60));
            seen.note(line.unwrap_or_else(|_| panic!("the child ended: {}", seen.other)));
        }
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success());
        seen.imported.unwrap() - seen.begun.unwrap()
    }
}

impl Seen {
    fn note(&mut self, (at, line): (Instant, String)) {
        match line.as_str() {
            "begun" => self.begun = Some(at),
            "appended" => self.appended = true,
            "imported" => self.imported = Some(at),
            other => self.other.push_str(other),
        }
    }
}

/// Files below a folder, relative to it, with their content.
fn files(dir: &Path) -> BTreeSet<(PathBuf, Vec<u8>)> {
    let mut all = BTreeSet::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                all.insert((path.strip_prefix(dir).unwrap().to_owned(), fs::read(&path).unwrap()));
            }
        }
    }
    all
}

/// Imports of one checkpoint after another, each as often as it takes.
struct Series {
    root: TempDir,
    /// Blocks of the imports that were acknowledged or found whole, and of notes.
    held: BTreeSet<BlockHash>,
    /// Number of the import under way.
    number: usize,
    /// Its blocks.
    in_flight: BTreeSet<BlockHash>,
}

impl Series {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut series = Self { root, held: BTreeSet::new(), number: 0, in_flight: BTreeSet::new() };
        series.prepare();
        series
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("chain")
    }

    fn folder(&self, number: usize) -> PathBuf {
        self.root.path().join(format!("checkpoint{number}"))
    }

    /// Writes the checkpoint: no import is like another in any weight block.
    fn prepare(&mut self) {
        let mut checkpoint = checkpoint();
        for raw in checkpoint.tensors.values_mut() {
            // The low bits of a mantissa: the weight stays finite.
            raw.data[0] ^= self.number as u8;
        }
        let folder = self.folder(self.number);
        fs::create_dir(&folder).unwrap();
        checkpoint.write_to(&folder);
        let alone = Chain::in_memory().unwrap();
        import(&alone, &folder).unwrap();
        self.in_flight = stored(&alone);
    }

    /// What must hold after a kill.
    fn check(&mut self, round: usize, seen: &Seen, context: &str) {
        let chain = Chain::open(self.dir()).unwrap_or_else(|error| panic!("{context}: {error:?}"));
        assert_eq!(files(&self.dir().join("tmp")), BTreeSet::new(), "{context}");
        assert_verified(&chain, context);
        let found = stored(&chain);
        let note = note(round);
        let hash = note.hash().unwrap();
        if found.contains(&hash) {
            self.held.insert(hash);
            assert_eq!(chain.payload(&hash).unwrap()[..], note.payload, "{context}");
        } else {
            assert!(!seen.appended, "{context}: an acknowledged block is gone");
        }
        // What imports have in common is no evidence of this one.
        if self.in_flight.is_subset(&found) {
            self.held.append(&mut self.in_flight);
            self.number += 1;
            self.prepare();
        } else {
            assert!(seen.imported.is_none(), "{context}: an acknowledged import is gone");
        }
        assert_eq!(found, self.held, "{context}");
    }
}

#[test]
fn an_import_killed_at_random_moments_is_whole_or_absent_and_can_be_completed() {
    if let Ok(arguments) = std::env::var(CHILD) {
        return child(&arguments);
    }
    let mut series = Series::new();
    let aside = tempfile::tempdir().unwrap();
    let time = |n: usize| Importer::start(&aside.path().join(n.to_string()), &series.folder(0), 0).time();
    let mut span = (0..3).map(time).max().unwrap();
    let mut rng = Rng::new(SEED);
    let (mut cut, mut cut_while_writing, mut completed) = (0, 0, 0);
    for round in 0..KILLS {
        // Of three kills one comes after the import, if it takes as long as it did.
        let share = rng.below(1500) as u32;
        let delay = span * share / 1000;
        let context = format!("seed {SEED}, round {round}, killed after {delay:?} of {span:?}");
        let (seen, status) =
            Importer::start(&series.dir(), &series.folder(series.number), round).kill_after(delay);
        assert_eq!(status.code(), None, "{context}: it was not killed: {}", seen.other);
        assert_eq!(seen.other, "", "{context}");
        match (seen.begun, seen.imported) {
            (Some(begun), Some(imported)) => {
                completed += 1;
                span = imported - begun;
            }
            // The machine became slower: follow it.
            _ if share > 1000 => span = span * 5 / 4,
            _ => {}
        }
        if seen.imported.is_none() {
            cut += 1;
            let unfinished = |dir: &Path| dir.join("tmp").exists() && !files(&dir.join("tmp")).is_empty();
            cut_while_writing += usize::from(unfinished(&series.dir()));
        }
        series.check(round, &seen, &context);
    }
    assert!(cut >= KILLS / 4 && completed >= KILLS / 12, "{cut} cut off, {completed} completed");
    assert!(cut_while_writing > 0, "no kill came while a payload was written");

    // One more import completes what was under way; another chain gets the same without any kill.
    let undisturbed = Chain::open(series.root.path().join("undisturbed")).unwrap();
    let disturbed = Chain::open(series.dir()).unwrap();
    for round in 0..KILLS {
        for chain in [&disturbed, &undisturbed] {
            chain.append(note(round)).unwrap();
        }
    }
    for number in 0..=series.number {
        let expected = import(&undisturbed, &series.folder(number)).unwrap();
        let report = import(&disturbed, &series.folder(number)).unwrap();
        assert_eq!((report.model, report.root), (expected.model, expected.root), "seed {SEED}");
        assert_eq!(report.blocks_new > 0, number == series.number, "seed {SEED}, import {number}");
    }
    assert_eq!(stored(&disturbed), stored(&undisturbed), "seed {SEED}");
    assert_eq!(disturbed.root().unwrap(), undisturbed.root().unwrap(), "seed {SEED}");
    assert_verified(&disturbed, &format!("seed {SEED}"));
    for folder in ["payloads", "tmp"] {
        let [a, b] = [&disturbed, &undisturbed].map(|chain| files(&chain.dir().unwrap().join(folder)));
        assert!(a == b, "seed {SEED}: {} and {} files in {folder}", a.len(), b.len());
    }
}
