//! The `blyan` command as a process: what it prints, compared with what the library says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use blyan_cli::Streams;
use blyan_core::evolve::{self, EvaluateOptions};
use blyan_core::format::Change;
use blyan_core::import::{self, ImportOptions};
use blyan_core::manager::CompareOptions;
use blyan_core::manager::{GenerateOptions, ManagerOptions, SamplingOptions, Snapshot};
use blyan_core::storage::StorageError;
use blyan_core::{
    BlockHash, BlockKind, Chain, ChainError, ChainId, DType, Draft, MoEModelManager, ParentRole, TensorBlock,
    VerifyOptions,
};
use serde_json::{Value, json};

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-kjv-moe")
}

fn blyan(chain: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blyan"));
    command.arg("--chain").arg(chain).env_remove("BLYAN_CHAIN").env_remove("BLYAN_ISA").stdin(Stdio::null());
    command
}

fn run<S: AsRef<OsStr>>(chain: &Path, arguments: impl IntoIterator<Item = S>) -> Output {
    blyan(chain).args(arguments).output().unwrap()
}

/// Standard output of a command that did well.
fn text<S: AsRef<OsStr>>(chain: &Path, arguments: impl IntoIterator<Item = S>) -> String {
    let output = run(chain, arguments);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "no progress bar where nobody watches");
    String::from_utf8(output.stdout).unwrap()
}

fn document<S: AsRef<OsStr>>(chain: &Path, arguments: impl IntoIterator<Item = S>) -> Value {
    let words = arguments.into_iter().map(|word| word.as_ref().to_owned()).chain(["--json".into()]);
    serde_json::from_str(&text(chain, words)).unwrap()
}

/// The error of a command that failed with a code.
fn failure<S: AsRef<OsStr>>(chain: &Path, code: i32, arguments: impl IntoIterator<Item = S>) -> Value {
    let words = arguments.into_iter().map(|word| word.as_ref().to_owned()).chain(["--json".into()]);
    let output = run(chain, words);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(output.stdout.is_empty());
    serde_json::from_str::<Value>(&error).unwrap()["error"].clone()
}

/// A chain with the small model, and what the library imported.
fn imported() -> (tempfile::TempDir, PathBuf, BlockHash) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chain");
    let chain = Chain::open(&path).unwrap();
    let report = import::checkpoint(&chain, model(), &ImportOptions::default()).unwrap();
    (dir, path, report.model)
}

fn manager(chain: &Path) -> MoEModelManager {
    let options = ManagerOptions { persist_usage: false, ..ManagerOptions::default() };
    MoEModelManager::open(&Chain::open_read_only(chain).unwrap(), &options).unwrap()
}

#[test]
fn import_says_what_the_library_reports() {
    let dir = tempfile::tempdir().unwrap();
    let chain = dir.path().join("new/chain");
    let words = |more: &[&str]| {
        let mut words = vec!["import".to_owned(), model().to_str().unwrap().to_owned()];
        words.extend(more.iter().map(|word| (*word).to_owned()));
        words
    };
    let memory = Chain::in_memory().unwrap();
    for (more, dtype) in [(&[][..], None), (&["--dtype", "int8"], Some(DType::I8)), (&[], None)] {
        let options = ImportOptions { dtype, ..ImportOptions::default() };
        let expected = import::checkpoint(&memory, model(), &options).unwrap();
        let mut expected = json!({
            "model": expected.model, "spec": expected.spec, "root": expected.root, "dry_run": true,
            "blocks_new": expected.blocks_new, "blocks_known": expected.blocks_known,
            "payload_bytes_new": expected.payload_bytes_new,
            "payload_bytes_known": expected.payload_bytes_known, "ignored_files": expected.ignored_files,
        });
        let existed = chain.exists();
        assert_eq!(document(&chain, words(&[more, &["--dry-run"]].concat())), expected);
        assert_eq!(chain.exists(), existed, "a dry run makes nothing");
        expected["dry_run"] = false.into();
        assert_eq!(document(&chain, words(more)), expected);
    }
    let error = failure(&chain, 1, ["import", "no/such/folder"]);
    assert_eq!(error["kind"], "import");
    assert!(error["message"].as_str().unwrap().contains("no/such/folder"));
    assert!(text(&chain, words(&[])).contains("added    0 blocks"));
}

#[test]
fn log_and_show_name_the_librarys_blocks() {
    let (_dir, path, model) = imported();
    let chain = Chain::open_read_only(&path).unwrap();
    let all: Vec<blyan_core::Block> = chain.topological_order().map(Result::unwrap).collect();
    let log = document(&path, ["log"]);
    let hashes: Vec<&str> =
        log["blocks"].as_array().unwrap().iter().map(|block| block["hash"].as_str().unwrap()).collect();
    assert_eq!(hashes, all.iter().map(|block| block.hash().to_string()).collect::<Vec<_>>());
    assert_eq!(document(&path, ["log", "--lane", "a"])["blocks"].as_array().unwrap().len(), 2);
    assert_eq!(
        document(&path, ["log", "--kind", "expert", "-n", "5"])["blocks"].as_array().unwrap().len(),
        5
    );
    assert_eq!(text(&path, ["log"]).lines().count(), all.len() + 1);

    let snapshot = Snapshot::of_model(&chain, &model).unwrap();
    let expert = snapshot.slots()[&"layer1.expert3".parse().unwrap()].block;
    let by_slot = document(&path, ["show", "layer1.expert3"]);
    assert_eq!(by_slot["hash"], json!(expert));
    assert_eq!(document(&path, ["show", &expert.to_string()]), by_slot);
    assert_eq!(document(&path, ["show", &expert.to_string()[..12]]), by_slot);
    assert_eq!(document(&path, ["show", "layer1.expert3", "-m", &model.to_string()[..16]]), by_slot);
    assert_eq!(document(&path, ["log", "layer1.expert3"])["blocks"][0]["hash"], json!(expert));
    let block = TensorBlock::open(&chain, &expert).unwrap();
    for tensor in by_slot["tensors"].as_array().unwrap() {
        let view = block.tensor(tensor["name"].as_str().unwrap()).unwrap();
        assert_eq!(tensor["shape"], json!(view.shape()));
        assert_eq!((&tensor["dtype"], &tensor["bytes"]), (&json!("BF16"), &json!(view.data().len())));
    }
    assert_eq!(by_slot["tensors"].as_array().unwrap().len(), 3);
    let header = chain.get(&expert).unwrap().header().clone();
    assert_eq!(by_slot["payload"]["hash"], json!(header.payload.hash));
    assert_eq!(by_slot["parents"], json!([{"hash": snapshot.spec_block(), "role": "dependency"}]));
    assert_eq!(by_slot["children"], json!([model]));

    let shown = document(&path, ["show", &model.to_string()]);
    assert_eq!(shown["slots"].as_object().unwrap().len(), snapshot.slots().len());
    assert_eq!(shown["root"], json!(snapshot.root()));
    assert_eq!(document(&path, ["show", &snapshot.spec_block().to_string()])["content"]["hidden_size"], 192);
    assert!(text(&path, ["show", "layer1.expert3"]).contains("gate_proj.weight"));

    for name in ["nonsense", "layer9.expert0", "ff", ""] {
        assert_eq!(failure(&path, 1, ["show", name])["kind"], "not_found", "{name}");
    }
}

#[test]
fn releases_are_names() {
    let (_dir, path, model) = imported();
    let release = {
        let chain = Chain::open(&path).unwrap();
        blyan_core::manager::release(&chain, &model, "tiny", "1.0.0".parse().unwrap()).unwrap();
        blyan_core::manager::release(&chain, &model, "tiny", "1.10.0".parse().unwrap()).unwrap();
        blyan_core::manager::release(&chain, &model, "tiny", "1.9.0".parse().unwrap()).unwrap()
    };
    assert_eq!(document(&path, ["show", "tiny"])["version"], "1.10.0");
    assert_eq!(document(&path, ["show", "tiny@1.9.0"])["hash"], json!(release));
    let generated = document(&path, ["generate", "And", "-n", "2", "-m", "tiny"]);
    assert_eq!(generated["model"], json!(model));
    assert_eq!(failure(&path, 1, ["show", "tiny@2.0.0"])["kind"], "not_found");
}

/// An expert whose last weight has the other sign, as the next in its slot.
fn next_expert(chain: &Chain, before: BlockHash) -> BlockHash {
    let old = chain.get(&before).unwrap();
    let mut payload = chain.payload(&before).unwrap().to_vec();
    *payload.last_mut().unwrap() ^= 0x80;
    let mut draft = Draft::new(ChainId::Parameter, BlockKind::EXPERT, old.header().name.as_str(), payload)
        .with_version(Change::Patch.next(&old.header().version))
        .with_parent(before, ParentRole::Predecessor);
    draft.parents.extend(old.header().parents.iter().filter(|p| p.role == ParentRole::Dependency));
    chain.append(draft).unwrap()
}

#[test]
fn a_model_evolves_on_the_command_line() {
    let (dir, path, first) = imported();
    let first = first.to_string();
    let released = document(&path, ["release", "tiny", "1.0.0"]);
    assert_eq!((&released["model"], &released["version"]), (&json!(first), &json!("1.0.0")));

    // A candidate is tried without a model of its own.
    let slot = "layer0.expert1";
    let (old, new, second) = {
        let chain = Chain::open(&path).unwrap();
        let base = Snapshot::only_model(&chain).unwrap();
        let old = base.slots()[&slot.parse().unwrap()].block;
        let new = next_expert(&chain, old);
        let tried = document(&path, ["generate", "And", "-n", "2", "--overlay", &new.to_string()]);
        let changed = base.with_block(&chain, &new).unwrap();
        assert_eq!(tried["model"], json!(changed.model_block(&chain).unwrap()));
        (old, new, changed.publish(&chain).unwrap())
    };

    let log = document(&path, ["log", "latest"]);
    let of = |log: &Value, key: &str| -> Vec<Value> {
        log["blocks"].as_array().unwrap().iter().map(|block| block[key].clone()).collect()
    };
    assert_eq!(of(&log, "hash"), [json!(second), json!(first)]);
    assert_eq!(of(&log, "version"), ["1.0.1", "1.0.0"]);
    assert_eq!(of(&log, "changed"), [json!([slot]), Value::Null]);
    assert_eq!(of(&document(&path, ["log", slot]), "hash"), [json!(new), json!(old)]);
    assert_eq!(of(&document(&path, ["log", slot, "-m", "tiny"]), "hash"), [json!(old)]);
    assert_eq!(of(&document(&path, ["log", slot, "--all"]), "hash"), [json!(old), json!(new)]);
    assert!(text(&path, ["log", "latest"]).contains(slot));

    let diff = document(&path, ["diff", "tiny"]);
    let expected = {
        let chain = Chain::open_read_only(&path).unwrap();
        let of = |model: &str| Snapshot::named(&chain, model).unwrap();
        let options = CompareOptions { distances: true, ..CompareOptions::default() };
        blyan_core::manager::compare(&chain, &of("tiny"), &of("latest"), &options).unwrap()
    };
    assert_eq!(diff["after"]["model"], json!(second));
    assert_eq!(diff["new_payload_bytes"], json!(expected.new_payload_bytes));
    let changed = &diff["slots"][0];
    assert_eq!(
        (&changed["slot"], &changed["before"], &changed["after"]),
        (&json!(slot), &json!(old), &json!(new))
    );
    let distance = expected.slots[0].tensors[0].distance.unwrap();
    assert_eq!(changed["tensors"][0]["distance"]["norm"], json!(distance.norm));
    assert_eq!(diff["slots"].as_array().unwrap().len(), 1);
    assert!(text(&path, ["diff", "tiny", "latest"]).contains("1 slots differ"));
    assert_eq!(document(&path, ["diff", "tiny", "--no-weights"])["slots"][0]["tensors"], json!([]));
    assert_eq!(text(&path, ["diff", "tiny", "tiny"]), "the same model\n");

    // What both lose on a text is what an evaluation of each says.
    let page = dir.path().join("page.txt");
    let words = "In the beginning God created the heaven and the earth.";
    std::fs::write(&page, words).unwrap();
    let page = page.to_str().unwrap();
    let measured = document(&path, ["diff", "tiny", "--text", page, "--window", "8"]);
    for (model, side) in [("tiny", "before"), ("latest", "after")] {
        let chain = Chain::open_read_only(&path).unwrap();
        let snapshot = Snapshot::named(&chain, model).unwrap();
        let tokens = evolve::dataset::tokenize(&chain, &snapshot, words).unwrap();
        let options = EvaluateOptions { window: 8, ..EvaluateOptions::default() };
        let expected = evolve::evaluate(&chain, &snapshot, &tokens, &options).unwrap();
        let loss = &measured["loss"];
        assert_eq!(loss[format!("{side}_bits")], json!(format!("{:016x}", expected.loss_bits)));
        assert_eq!((&loss[side], &loss["tokens"]), (&json!(expected.loss()), &json!(expected.tokens)));
    }
    assert_eq!(diff["loss"], Value::Null);
    assert!(text(&path, ["diff", "tiny", "tiny", "--text", page]).contains("(+0.00 %)"));

    // What they lack goes over in one file, and again through a pipe.
    let theirs = dir.path().join("theirs");
    let file = dir.path().join("tiny.bundle");
    let file = file.to_str().unwrap();
    let bundled = document(&path, ["bundle", file, "tiny@1.0.0"]);
    let taken = document(&theirs, ["unbundle", file]);
    assert_eq!(taken["blocks_new"], bundled["blocks"]);
    assert_eq!(document(&theirs, ["unbundle", file])["blocks_new"], 0);
    assert_eq!(document(&theirs, ["releases"]), document(&path, ["releases"]));
    let news = run(&path, ["bundle", "-", "--lacking", theirs.to_str().unwrap()]);
    assert!(news.status.success());
    let mut child = blyan(&theirs)
        .args(["unbundle", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&news.stdout).unwrap();
    let taken: Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
    let root = Chain::open_read_only(&path).unwrap().root().unwrap();
    assert_eq!((&taken["blocks_new"], &taken["root"]), (&json!(2), &json!(root)));
    assert_eq!(document(&theirs, ["log", "--tips"]), document(&path, ["log", "--tips"]));
    let mut cut = fs::read(file).unwrap();
    cut.pop();
    fs::write(file, cut).unwrap();
    assert_eq!(failure(&theirs, 1, ["unbundle", file])["kind"], "chain");
    assert_eq!(failure(&theirs, 1, ["unbundle", "no-such-file"])["kind"], "chain");

    // A step back is a step forward, and what nobody needs any more can go.
    let back = document(&path, ["rollback", "tiny", "--release", "tiny@1.0.1"]);
    assert_eq!((&back["version"], &back["to"]), (&json!("1.0.2"), &json!(first)));
    let releases = document(&path, ["releases", "tiny"]);
    assert_eq!(releases["releases"][0]["model"], back["model"]);
    assert_eq!(releases["releases"][0]["predecessor"], released["release"]);
    assert_eq!(document(&path, ["releases", "other"])["releases"], json!([]));
    assert_eq!(failure(&path, 1, ["rollback", "9.9.9"])["kind"], "not_found");
    assert_eq!(failure(&path, 1, ["release", "tiny", "1.0.1", &first])["kind"], "model");
    assert_eq!(failure(&path, 1, ["release", "latest", "1.0.0"])["kind"], "model");
    let planned = document(&path, ["gc", "--dry-run"]);
    assert_eq!((&planned["blocks"], &planned["payloads"]), (&json!([new]), &json!(1)));
    assert!(text(&path, ["gc", "--dry-run"]).contains("would delete"));
    let mut done = document(&path, ["gc"]);
    done["dry_run"] = true.into();
    assert_eq!(done, planned);
    assert_eq!(document(&path, ["verify"])["collected"], json!([new]));
    assert!(text(&path, ["verify"]).contains("1 payloads collected"));
    let error = failure(&path, 1, ["show", &new.to_string()]);
    assert!(error.to_string().contains("was collected"), "{error}");
    text(&theirs, ["bundle", file]);
    text(&path, ["unbundle", file]);
    assert_eq!(document(&path, ["verify"])["collected"], json!([]));
    let kept = document(&path, ["gc", "--dry-run", "--keep", slot, "--keep", "tiny@1.0.0"]);
    assert_eq!(kept["payloads"], 1);
}

/// Another model that follows the chain's only one: [`next_expert`] in a slot.
fn next_model(path: &Path) -> BlockHash {
    let chain = Chain::open(path).unwrap();
    let base = Snapshot::only_model(&chain).unwrap();
    let expert = next_expert(&chain, base.slots()[&"layer0.expert1".parse().unwrap()].block);
    base.with_block(&chain, &expert).unwrap().publish(&chain).unwrap()
}

/// Once only their tips were left out, of which those that are not here say nothing of what they follow.
#[test]
fn a_bundle_leaves_out_what_a_chain_has_that_went_on_itself() {
    let (dir, path, _) = imported();
    let theirs = dir.path().join("theirs");
    let file = dir.path().join("news.bundle");
    let file = file.to_str().unwrap();
    text(&path, ["bundle", file]);
    text(&theirs, ["unbundle", file]);
    next_model(&theirs);
    let release = document(&path, ["release", "tiny", "1.0.0"])["release"].clone();
    let news = document(&path, ["bundle", file, "--lacking", theirs.to_str().unwrap()]);
    assert_eq!((&news["blocks"], &news["payloads"]), (&json!(1), &json!(1)));
    assert_eq!(document(&theirs, ["unbundle", file])["blocks_new"], 1);
    assert_eq!(document(&theirs, ["show", "tiny"])["hash"], release);
}

/// The model was once rolled back before its release was refused.
#[test]
fn no_model_is_rolled_back_for_a_release_that_is_refused() {
    let (_dir, path, first) = imported();
    let first = first.to_string();
    text(&path, ["release", "tiny", "1.0.0"]);
    let second = next_model(&path).to_string();
    let before = document(&path, ["log"]);
    let rollback = |release: &'static str| ["rollback", first.as_str(), "-m", &second, "--release", release];
    for (release, code, kind) in
        [("tiny@1.0.0", 1, "model"), ("Tiny@1.0.1", 2, "usage"), ("latest@1.0.1", 2, "usage")]
    {
        assert_eq!(failure(&path, code, rollback(release))["kind"], kind, "{release}");
        assert_eq!(document(&path, ["log"]), before, "{release}");
    }
    let back = document(&path, rollback("tiny@1.0.1"));
    assert_eq!(document(&path, rollback("tiny@1.0.1")), back, "it is done");
    assert_eq!(document(&path, ["show", "tiny"])["hash"], back["release"]);
}

#[test]
fn verify_names_every_bad_block_and_fails() {
    let (_dir, path, _) = imported();
    let chain = Chain::open_read_only(&path).unwrap();
    let report = chain.verify(&VerifyOptions::full()).unwrap();
    let expected = json!({
        "ok": true, "full": true, "blocks": report.blocks, "payload_bytes": report.payload_bytes, "bad": [],
        "collected": [],
    });
    assert_eq!(document(&path, ["verify"]), expected);
    assert_eq!(document(&path, ["verify", "--headers"])["full"], false);

    let shown = document(&path, ["show", "layer0.expert1"]);
    let payload = shown["payload"]["hash"].as_str().unwrap();
    let file = path.join("payloads").join(&payload[..2]).join(payload);
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::remove_file(&file).unwrap();
    fs::write(&file, bytes).unwrap();
    let output = run(&path, ["verify", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.is_empty(), "what was found is on the standard output");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&found["ok"], &found["bad"][0]["block"]), (&json!(false), &shown["hash"]));
    assert_eq!(found["bad"].as_array().unwrap().len(), 1);
    assert_eq!(failure(&path, 1, ["show", "layer0.expert1"])["kind"], "tensor");
    // Importing again repairs it.
    text(&path, ["import", model().to_str().unwrap()]);
    assert_eq!(document(&path, ["verify"]), expected);
}

#[test]
fn generate_writes_what_the_library_writes() {
    let (dir, path, model) = imported();
    let manager = manager(&path);
    let sampled = SamplingOptions {
        temperature: 0.8,
        top_k: Some(40),
        top_p: Some(0.9),
        min_p: Some(0.05),
        repetition_penalty: Some(1.1),
        seed: 7,
    };
    let words = "--temp 0.8 --top-k 40 --top-p 0.9 --min-p 0.05 --repeat-penalty 1.1 --seed 7";
    let words: Vec<&str> = words.split(' ').collect();
    for (more, sampling) in [(vec![], SamplingOptions::default()), (words, sampled)] {
        let options = GenerateOptions {
            max_tokens: Some(24),
            sampling,
            stop: vec!["LORD".to_owned()],
            ..GenerateOptions::default()
        };
        let expected = manager.generate("And God said", &options).unwrap();
        let base = ["generate", "And God said", "-n", "24", "--stop", "LORD"];
        let arguments = || base.iter().chain(&more);
        let generated = document(&path, arguments());
        assert_eq!(generated["text"], json!(expected.text));
        assert_eq!(generated["tokens"], json!(expected.tokens));
        assert_eq!(generated["prompt_tokens"], json!(expected.prompt_tokens));
        assert_eq!(generated["finish_reason"], json!(expected.finish_reason));
        assert_eq!(generated["model"], json!(model));
        assert_eq!(generated["receipt"], serde_json::from_str::<Value>(&expected.receipt.to_json()).unwrap());
        assert_eq!(text(&path, arguments()).trim_end_matches('\n'), expected.text.trim_end_matches('\n'));
    }
    // From a file and from the standard input.
    let file = dir.path().join("prompt.txt");
    fs::write(&file, "And God said").unwrap();
    let expected = text(&path, ["generate", "And God said", "-n", "5"]);
    assert_eq!(text(&path, ["generate", "-f", file.to_str().unwrap(), "-n", "5"]), expected);
    let mut child = blyan(&path)
        .args(["generate", "-f", "-", "-n", "5"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"And God said").unwrap();
    assert_eq!(String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap(), expected);

    // What the library refuses.
    assert_eq!(failure(&path, 1, ["generate", "--chat", "Hello"])["kind"], "model", "it has no template");
    fs::write(&file, "{}").unwrap();
    assert_eq!(failure(&path, 1, ["generate", "--messages", file.to_str().unwrap()])["kind"], "content");
}

#[test]
fn chats_go_through_the_models_template() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = dir.path().join("chat-model");
    fs::create_dir(&checkpoint).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(model().join(file), checkpoint.join(file)).unwrap();
    }
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    fs::write(checkpoint.join("chat_template.jinja"), template).unwrap();
    let path = dir.path().join("chain");
    text(&path, [OsStr::new("import"), checkpoint.as_os_str()]);
    let answer = |arguments: &[&str]| document(&path, arguments);
    let asked = answer(&["generate", "--chat", "Who art thou?", "--system", "Be brief.", "-n", "6"]);
    let messages = dir.path().join("messages.json");
    let list = json!([
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who art thou?"},
    ]);
    fs::write(&messages, list.to_string()).unwrap();
    assert_eq!(answer(&["generate", "--messages", messages.to_str().unwrap(), "-n", "6"]), asked);
    let tokenizer = manager(&path).tokenizer().unwrap().clone();
    let rendered = "system: Be brief.\nuser: Who art thou?\n";
    let tokens = tokenizer.encode(rendered, false).unwrap();
    assert_eq!(asked["receipt"]["claim"]["prompt_tokens"], json!(tokens));

    fs::write(checkpoint.join("chat_template.jinja"), "{{ strftime_now('%d %b %Y %H:%M') }}").unwrap();
    let path = dir.path().join("timed");
    let answer = |arguments: &[&str]| document(&path, arguments);
    text(&path, [OsStr::new("import"), checkpoint.as_os_str()]);
    assert_eq!(failure(&path, 1, ["generate", "--chat", "Hello"])["kind"], "model");
    for (now, rendered) in [("2026-03-01", "01 Mar 2026 00:00"), ("2024-02-29T09:05:07", "29 Feb 2024 09:05")]
    {
        let asked = answer(&["generate", "--chat", "Hello", "--now", now, "-n", "1"]);
        let tokens = tokenizer.encode(rendered, false).unwrap();
        assert_eq!(asked["receipt"]["claim"]["prompt_tokens"], json!(tokens));
    }
    for now in ["2023-02-29", "2026-03", "today"] {
        failure(&path, 2, ["generate", "--chat", "Hello", "--now", now]);
    }
}

#[test]
fn receipts_are_replayed() {
    let (dir, path, _) = imported();
    let file = dir.path().join("receipt.json");
    let name = file.to_str().unwrap();
    text(&path, ["generate", "And God said", "-n", "8", "--receipt", name]);
    let verified = document(&path, ["receipt", "verify", name]);
    assert_eq!((&verified["ok"], &verified["differences"]), (&json!(true), &json!([])));
    let mut receipt: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    receipt["claim"]["output_tokens"][2] = 17.into();
    fs::write(&file, receipt.to_string()).unwrap();
    let output = run(&path, ["receipt", "verify", name, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["ok"], false);
    let paths: Vec<&str> = found["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|difference| difference["path"].as_str().unwrap())
        .collect();
    assert!(paths.contains(&"/claim/output_tokens/2"), "{paths:?}");
    // What was made with a block laid over is verified with it.
    let chain = Chain::open(&path).unwrap();
    let base = Snapshot::only_model(&chain).unwrap();
    let tried = next_expert(&chain, base.slots()[&"layer0.expert1".parse().unwrap()].block).to_string();
    drop(chain);
    let model = base.base().unwrap().to_string();
    text(&path, ["generate", "And God said", "-n", "4", "--overlay", &tried, "--receipt", name]);
    let verified = document(&path, ["receipt", "verify", name, "--overlay", &tried, "-m", &model]);
    assert_eq!(verified["ok"], true);
    assert_eq!(run(&path, ["receipt", "verify", name]).status.code(), Some(1));
    fs::write(&file, "{}").unwrap();
    assert_eq!(failure(&path, 1, ["receipt", "verify", name])["kind"], "model");
    assert_eq!(failure(&path, 1, ["receipt", "verify", "no-such-file"])["kind"], "file");
}

#[test]
fn usage_is_what_was_used() {
    let (_dir, path, model) = imported();
    assert_eq!(text(&path, ["usage"]), "no expert of this model has been used\n");
    let generated = document(&path, ["generate", "And God said", "-n", "8"]);
    let usage = document(&path, ["usage", "-n", "1000"]);
    assert_eq!(usage["model"], json!(model));
    let used: Vec<&Value> = usage["experts"].as_array().unwrap().iter().collect();
    let blocks = generated["receipt"]["claim"]["blocks"].as_object().unwrap();
    let experts = blocks.iter().filter(|(slot, _)| slot.contains(".expert")).count();
    assert_eq!(used.len(), experts);
    for expert in used {
        assert_eq!(expert["block"], blocks[expert["slot"].as_str().unwrap()]);
        assert!(expert["tokens"].as_u64() > Some(0));
    }
    let one = &usage["experts"][0];
    assert_eq!(document(&path, ["usage", one["slot"].as_str().unwrap()])["experts"][0], *one);
    assert_eq!(document(&path, ["usage", "--reset"])["experts"], json!([]));
    assert_eq!(failure(&path, 1, ["usage", "embedding"])["kind"], "counts");
}

#[test]
fn an_exported_folder_is_the_same_model() {
    let (dir, path, model) = imported();
    let out = dir.path().join("out");
    let out = out.to_str().unwrap();
    let exported = document(&path, ["export", out]);
    assert_eq!(exported["model"], json!(model));
    assert!(exported["files"].as_array().unwrap().contains(&json!("model.safetensors")));
    assert_eq!(document(&path, ["import", out])["model"], json!(model));
    assert_eq!(failure(&path, 1, ["export", out])["kind"], "export");
    document(&path, ["export", out, "--overwrite"]);
}

#[test]
fn wrong_arguments_are_a_code_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none");
    for words in [
        &["frobnicate"][..],
        &["import"],
        &["import", "x", "--dtype", "int3"],
        &["log", "--lane", "X"],
        &["generate"],
        &["generate", "x", "-n", "many"],
        &["generate", "x", "-n", "0"],
        &["generate", "x", "-t", "0"],
        &["generate", "x", "--isa", "foo"],
        &["generate", "x", "--isa", ""],
        &["generate", "x", "--stop", ""],
        &["generate", "x", "--temp", "-1"],
        &["generate", "x", "--temp", "nan"],
        &["generate", "x", "--temp", "1e-38"],
        &["generate", "x", "--temp", "1e-60"],
        &["generate", "x", "--temp", "hot"],
        &["generate", "x", "--top-k", "0"],
        &["generate", "x", "--top-p", "2"],
        &["generate", "x", "--min-p", "-0.5"],
        &["generate", "x", "--repeat-penalty", "0"],
        &["receipt", "verify", "x", "-t", "0"],
        &["receipt", "verify", "x", "-m", "tiny"],
        &["import", "x", "--rope-frequencies", "int8"],
        &["export", "x", "--max-shard-bytes", "0"],
        &["generate", "x", "--messages", "y"],
        &["receipt"],
        &["show"],
        &["show", "53b64b82", "-m", "tiny"],
        &["log", "--all"],
        &["log", "latest", "--tips"],
        &["log", "latest", "--all"],
        &["log", "53b64b82", "--all"],
        &["log", "-m", "tiny"],
        &["log", "--tips", "-m", "tiny"],
        &["log", "--tips", "--all"],
        &["log", "--kind", "tree"],
        &["diff"],
        &["release", "tiny"],
        &["release", "tiny", "1.0"],
        &["rollback"],
        &["rollback", "x", "--release", "tiny"],
        &["rollback", "x", "--release", "Tiny@1.0.0"],
        &["rollback", "x", "--release", "@1.0.0"],
        &["rollback", "x", "--release", "latest@1.0.0"],
        &["rollback", "x", "--release", "layer0.expert1@1.0.0"],
        &["rollback", "x", "--release", "tiny@1.0.0+built"],
        &["bundle"],
        &["bundle", "x", "--known", "53b6"],
        &["bundle", "x", "--no-ancestors"],
        &["bundle", "x", "-m", "tiny"],
        &["bundle", "x", "53b64b82", "-m", "tiny"],
        &["unbundle"],
    ] {
        assert_eq!(failure(&path, 2, words)["kind"], "usage", "{words:?}");
        let output = run(&path, words);
        assert_eq!(output.status.code(), Some(2));
        assert!(!output.stderr.is_empty() && output.stdout.is_empty());
    }
    // No chain there, and reading makes none.
    for words in [
        &["log"][..],
        &["verify"],
        &["show", "embedding"],
        &["generate", "x"],
        &["usage"],
        &["diff", "latest"],
        &["release", "tiny", "1.0.0"],
        &["releases"],
        &["rollback", "latest"],
        &["bundle", "x"],
        &["gc"],
        &["gc", "--dry-run"],
    ] {
        assert_eq!(failure(&path, 1, words)["kind"], "chain", "{words:?}");
        assert!(!path.exists());
    }
    // The environment names a chain, too.
    let (_dir, chain, _) = imported();
    let output = Command::new(env!("CARGO_BIN_EXE_blyan"))
        .args(["log", "--json"])
        .env("BLYAN_CHAIN", &chain)
        .output()
        .unwrap();
    assert!(output.status.success());
    // An empty variable is as good as none; it was once an empty name.
    let output = Command::new(env!("CARGO_BIN_EXE_blyan"))
        .args(["generate", "And", "-n", "1"])
        .env("BLYAN_CHAIN", "")
        .env("BLYAN_ISA", "")
        .current_dir(dir.path())
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && error.contains("data"), "{error}");
    let output = blyan(&chain).args(["generate", "And", "-n", "1"]).env("BLYAN_ISA", "").output().unwrap();
    assert!(output.status.success());
}

/// A receipt's place that could not be written was once found out after the text.
#[test]
fn a_receipts_place_is_opened_before_the_text() {
    let (dir, path, _) = imported();
    let inside = dir.path().join("no/such/folder/receipt.json");
    for place in [inside.as_path(), dir.path()] {
        let place = place.to_str().unwrap();
        let error = failure(&path, 1, ["generate", "And God said", "-n", "2", "--receipt", place]);
        assert_eq!(error["kind"], "file");
        let output = run(&path, ["generate", "And God said", "-n", "2", "--receipt", place]);
        assert!(output.stdout.is_empty(), "nothing was written before the place was opened");
    }
    // What fails later leaves no empty file, and no emptied one.
    let place = dir.path().join("receipt.json");
    let name = place.to_str().unwrap();
    failure(&path, 1, ["generate", "--chat", "Hello", "--receipt", name]);
    assert!(!place.exists());
    fs::write(&place, "precious".repeat(1000)).unwrap();
    failure(&path, 1, ["generate", "--chat", "Hello", "--receipt", name]);
    assert_eq!(fs::read_to_string(&place).unwrap(), "precious".repeat(1000));
    text(&path, ["generate", "And", "-n", "1", "--receipt", name]);
    assert_eq!(document(&path, ["receipt", "verify", name])["ok"], true);
}

#[test]
fn every_command_explains_itself_by_examples() {
    let dir = tempfile::tempdir().unwrap();
    for words in [
        &["--help"][..],
        &["import", "--help"],
        &["export", "--help"],
        &["log", "--help"],
        &["show", "--help"],
        &["verify", "--help"],
        &["generate", "--help"],
        &["usage", "--help"],
        &["receipt", "verify", "--help"],
        &["diff", "--help"],
        &["release", "--help"],
        &["releases", "--help"],
        &["rollback", "--help"],
        &["bundle", "--help"],
        &["unbundle", "--help"],
        &["gc", "--help"],
    ] {
        let help = text(dir.path(), words);
        assert!(help.contains("  blyan "), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    }
    assert!(text(dir.path(), ["--version"]).starts_with("blyan "));
}

/// A stream whose reader is gone.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_closed_output_is_quiet_and_a_cancelled_command_leaves_the_chain_sound() {
    let (_dir, path, _) = imported();
    let chain = path.to_str().unwrap();
    let cancel = Arc::new(AtomicBool::new(false));
    let call = |words: &[&str], out: &mut dyn Write, cancel: &Arc<AtomicBool>| {
        let mut err = Vec::new();
        let words = ["blyan", "--chain", chain].into_iter().chain(words.iter().copied());
        let code = blyan_cli::run(words, &mut Streams { out, err: &mut err, terminal: false }, cancel);
        (code, String::from_utf8(err).unwrap())
    };
    for words in [&["log"][..], &["verify"], &["generate", "And", "-n", "9"]] {
        assert_eq!(call(words, &mut Closed, &cancel), (0, String::new()), "{words:?}");
    }
    let cancel = Arc::new(AtomicBool::new(true));
    let before = Chain::open_read_only(&path).unwrap().len().unwrap();
    let model = model();
    for words in [
        &["import", model.to_str().unwrap(), "--dtype", "int8"][..],
        &["verify"],
        &["generate", "And God said"],
        &["export", "never-written"],
        &["bundle", "never-written"],
        &["gc"],
    ] {
        let mut out = Vec::new();
        assert_eq!(call(words, &mut out, &cancel), (130, "blyan: stopped\n".to_owned()), "{words:?}");
    }
    let chain = Chain::open(&path).unwrap();
    assert_eq!(chain.len().unwrap(), before);
    assert!(chain.verify(&VerifyOptions::full()).unwrap().is_ok());
    assert!(!Path::new("never-written").exists());
}

/// An output that is closed early once hid what the exit code and a file were to say.
#[test]
fn a_closed_output_hides_no_finding_and_loses_no_receipt() {
    let (dir, path, _) = imported();
    let chain = path.to_str().unwrap();
    let call = |words: &[&str]| {
        let (mut err, cancel) = (Vec::new(), Arc::new(AtomicBool::new(false)));
        let words = ["blyan", "--chain", chain].into_iter().chain(words.iter().copied());
        let mut streams = Streams { out: &mut Closed, err: &mut err, terminal: false };
        let code = blyan_cli::run(words, &mut streams, &cancel);
        assert_eq!(String::from_utf8(err).unwrap(), "");
        code
    };
    let file = dir.path().join("receipt.json");
    let file = file.to_str().unwrap();
    assert_eq!(call(&["generate", "And God said", "--ignore-eos", "--receipt", file]), 0);
    let receipt: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(receipt["claim"]["finish_reason"], "cancelled");
    assert_eq!(call(&["receipt", "verify", file]), 0);

    let mut lying = receipt;
    lying["claim"]["text"] = "And it was so.".into();
    fs::write(file, lying.to_string()).unwrap();
    assert_eq!(call(&["receipt", "verify", file]), 1);

    let payload = document(&path, ["show", "layer0.expert1"])["payload"]["hash"].clone();
    let payload = payload.as_str().unwrap();
    fs::remove_file(path.join("payloads").join(&payload[..2]).join(payload)).unwrap();
    assert_eq!(call(&["verify"]), 1);
    assert_eq!(call(&["verify", "--json"]), 1);
}

/// A name that is no UTF-8 once ended an export, and a bundle, with a panic, after the work was done.
#[cfg(unix)]
#[test]
fn paths_need_no_utf_8() {
    use std::os::unix::ffi::OsStrExt;

    let (dir, path, model) = imported();
    let out = dir.path().join(OsStr::from_bytes(b"out-\xff"));
    let words = ["export".as_ref(), out.as_os_str()];
    let exported = document(&path, words);
    assert_eq!(exported["model"], json!(model));
    assert!(exported["dir"].as_str().unwrap().ends_with("out-\u{fffd}"), "{exported}");
    let chain = dir.path().join(OsStr::from_bytes(b"chain-\xff"));
    assert_eq!(document(&chain, ["import".as_ref(), out.as_os_str()])["model"], json!(model));
    let file = dir.path().join(OsStr::from_bytes(b"\xff.bundle"));
    let bundled = document(&path, ["bundle".as_ref(), file.as_os_str()]);
    assert!(bundled["file"].as_str().unwrap().ends_with("\u{fffd}.bundle"), "{bundled}");
    assert!(file.exists());
}

#[test]
fn a_file_that_is_not_there_makes_no_chain() {
    let dir = tempfile::tempdir().unwrap();
    let chain = dir.path().join("chain");
    assert_eq!(failure(&chain, 1, ["import", "no/such/model"])["kind"], "import");
    assert_eq!(failure(&chain, 1, ["unbundle", "no-such-file"])["kind"], "chain");
    let no_bundle = dir.path().join("no-bundle");
    fs::write(&no_bundle, "BLYAN, but no bundle").unwrap();
    for path in [dir.path(), &no_bundle] {
        assert_eq!(failure(&chain, 1, ["unbundle", path.to_str().unwrap()])["kind"], "chain");
    }
    // The standard input, which is empty.
    assert_eq!(failure(&chain, 1, ["unbundle", "-"])["kind"], "chain");
    assert!(!chain.exists());
}

/// Both once failed where the import itself would have succeeded.
#[test]
fn a_dry_run_takes_an_empty_directory_and_a_killed_writers_chain() {
    let (dir, path, model) = imported();
    let checkpoint = self::model();
    let words = ["import", checkpoint.to_str().unwrap(), "--dry-run"];
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let planned = document(&empty, words);
    assert_eq!((&planned["model"], &planned["blocks_known"]), (&json!(model), &json!(0)));
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0, "a dry run makes nothing");
    // The index as it is while somebody writes.
    let (index, left) = (path.join("index.redb"), dir.path().join("left.redb"));
    let writer = Chain::open(&path).unwrap();
    fs::copy(&index, &left).unwrap();
    drop(writer);
    fs::copy(&left, &index).unwrap();
    let error = Chain::open_read_only(&path).unwrap_err();
    assert!(matches!(error, ChainError::Storage(StorageError::NeedsRecovery)), "{error:?}");
    let planned = document(&path, words);
    assert_eq!((&planned["model"], &planned["blocks_new"]), (&json!(model), &json!(0)));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_text_and_keeps_its_receipt() {
    let (dir, path, _) = imported();
    let receipt = dir.path().join("receipt.json");
    let mut child = blyan(&path)
        .args(["generate", "And God said", "--ignore-eos", "--threads", "1", "--isa", "scalar", "--receipt"])
        .arg(&receipt)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Some text has come, so the model runs; the scalar code is far from the end of its context.
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 1]).unwrap();
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    out.read_to_end(&mut Vec::new()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    let receipt: Value = serde_json::from_slice(&fs::read(&receipt).unwrap()).unwrap();
    assert_eq!(receipt["claim"]["finish_reason"], "cancelled");
}

/// A read of a silent input is not what the process hangs on.
#[cfg(unix)]
#[test]
fn ctrl_c_ends_the_wait_for_an_input() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chain");
    let mut child =
        blyan(&path).args(["unbundle", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"BLYANBND").unwrap();
    // From then on it listens.
    while !path.join("index.redb").exists() {
        assert_eq!(child.try_wait().unwrap(), None);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let silent = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(silent);
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(Chain::open(&path).unwrap().is_empty().unwrap());
}
