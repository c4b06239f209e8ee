//! Owns what is done with fuzzed bytes: one function for each kind of input. The fuzz targets call
//! them with whatever libFuzzer makes, `blyan-core/tests/corpus.rs` with every file of the corpus.
//!
//! Each returns the typed error, or `Ok` if the bytes were accepted, and panics if they were accepted
//! but do not hold what the type promises: one spelling for one value, views inside their block.

use std::error::Error;
use std::fs;
use std::sync::Arc;

use blyan_core::chain::{BundleOptions, ChainError, UnbundleOptions, Validators};
use blyan_core::evolve::dataset::{Audit, Dataset, Ruling, Tally, Tokens, Vote};
use blyan_core::evolve::{
    Accusation, AnyStatement, Attestation, Candidate, Claim, Closing, Evidence, InvalidEvidence, Policy,
    Reveal, Round, Statement, UsageRecord,
};
use blyan_core::format::{Migration, Release};
use blyan_core::import::{self, ImportError, ImportOptions};
use blyan_core::manager::chat::{ChatError, ChatRequest, ChatTemplates};
use blyan_core::manager::text::Tokenizer;
use blyan_core::manager::{ManagerOptions, MoEModelManager, Receipt};
use blyan_core::storage::{Access, DirMedium, StorageError};
use blyan_core::tensor::{check_delta, merge_delta, write};
use blyan_core::{
    BlockKind, Chain, ChainId, DType, Draft, Header, Manifest, ModelSpec, Payload, Shape, TensorBlock,
    VerifyOptions,
};
use serde_json::json;

/// What a target returns: a typed error of the library in a box.
pub type Outcome = Result<(), Box<dyn Error>>;

/// A target and the name of its folder in the corpus.
pub type Target = (&'static str, fn(&[u8]) -> Outcome);

/// Every target.
pub const TARGETS: [Target; 19] = [
    ("header", header),
    ("payload", payload),
    ("spec", spec),
    ("manifest", manifest),
    ("config", config),
    ("index", index),
    ("receipt", receipt),
    ("tokenizer", tokenizer),
    ("chat_template", chat_template),
    ("gguf", gguf),
    ("bundle", bundle),
    ("release", release),
    ("migration", migration),
    ("delta", delta),
    ("policy", policy),
    ("statement", statement),
    ("tokens", tokens),
    ("dataset", dataset),
    ("ballot", ballot),
];

/// A block header.
pub fn header(bytes: &[u8]) -> Outcome {
    let header = Header::from_bytes(bytes)?;
    assert_eq!(header.to_bytes()?, bytes);
    header.hash()?;
    Ok(())
}

/// The payload of a weight block: a safetensors file.
pub fn payload(bytes: &[u8]) -> Outcome {
    let block = TensorBlock::from_payload(Payload::from(bytes.to_vec()))?;
    let within = block.payload().as_ptr_range();
    for (name, view) in block.tensors() {
        let elements = view.len();
        assert_eq!(view.data().len(), view.dtype().bytes_of(elements));
        let data = view.data().as_ptr_range();
        assert!(view.data().is_empty() || (within.start <= data.start && data.end <= within.end));
        assert_eq!(block.get(name).map(|view| view.data().as_ptr_range()), Some(data));
        assert_eq!(block.scale(name).is_some(), view.dtype().is_quantized());
        assert_eq!(view.get_f32(elements), None);
        view.rows().for_each(drop);
    }
    Ok(())
}

/// The payload of a spec block.
pub fn spec(bytes: &[u8]) -> Outcome {
    let spec = ModelSpec::from_canonical_json(bytes)?;
    assert_eq!(spec.to_canonical_json(), bytes);
    for slot in spec.required_slots() {
        for tensor in spec.tensors_of(slot) {
            tensor.shape.size_bytes(DType::F32)?;
        }
    }
    Ok(())
}

/// The payload of a model block.
pub fn manifest(bytes: &[u8]) -> Outcome {
    let manifest = Manifest::from_canonical_json(bytes)?;
    assert_eq!(manifest.to_canonical_json(), bytes);
    manifest.root();
    Ok(())
}

/// A folder with this config.json and, after a zero byte, this generation_config.json, and with a
/// weight file without tensors: that all of them are missing is what a good config leads to.
pub fn config(bytes: &[u8]) -> Outcome {
    let dir = tempfile::tempdir()?;
    let (config, generation) = match bytes.iter().position(|&byte| byte == 0) {
        Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
        None => (bytes, None),
    };
    fs::write(dir.path().join("config.json"), config)?;
    if let Some(generation) = generation {
        fs::write(dir.path().join("generation_config.json"), generation)?;
    }
    fs::write(dir.path().join("model.safetensors"), b"\x02\0\0\0\0\0\0\0{}")?;
    let chain = Chain::in_memory()?;
    let options = ImportOptions { dry_run: true, ..ImportOptions::default() };
    let error = match import::checkpoint(&chain, dir.path(), &options) {
        Ok(report) => panic!("a model without weights: {report:?}"),
        Err(error) => error,
    };
    assert!(chain.is_empty()?);
    assert!(error.to_string().len() < 1 << 16, "an error to be read by people");
    match error {
        ImportError::MissingTensors { .. } => Ok(()),
        error => Err(error.into()),
    }
}

/// The file `index.redb` of a chain that lost its payload files: to read, to verify, to append to.
pub fn index(bytes: &[u8]) -> Outcome {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("index.redb"), bytes)?;
    let open = |access| Chain::open_with(Arc::new(DirMedium::new(dir.path())), access, Validators::new());
    let read_only = open(Access::ReadOnly).and_then(|chain| read_everything(&chain));
    let written = open(Access::ReadWrite).and_then(|chain| {
        let draft = Draft::new(ChainId::Dataset, BlockKind(5000), "fuzz", b"fuzz".to_vec());
        let block = chain.append(draft)?;
        assert_eq!(*chain.payload(&block)?, *b"fuzz");
        read_everything(&chain)
    });
    match read_only {
        // A writer has to recover the file before it can be read.
        Err(ChainError::Storage(StorageError::NeedsRecovery)) => {}
        other => other?,
    }
    written?;
    Ok(())
}

fn read_everything(chain: &Chain) -> Result<(), ChainError> {
    let mut first = None;
    let mut note = |error: ChainError| _ = first.get_or_insert(error);
    let report = chain.verify(&VerifyOptions::headers()).map_err(&mut note);
    for lane in ChainId::ALL {
        for block in chain.blocks(lane) {
            match block {
                Err(error) => note(error),
                Ok(block) => {
                    let hash = block.hash();
                    let _ = chain.payload(&hash);
                    let _ = chain.children(&hash).map_err(&mut note);
                    let _ = chain.ancestors(&hash).map_err(&mut note);
                    let _ = chain.signatures(&hash).map_err(&mut note);
                    let _ = chain.heads(&block.header().name).map_err(&mut note);
                }
            }
        }
        let _ = chain.tips(lane).map_err(&mut note);
    }
    chain.topological_order().filter_map(Result::err).for_each(&mut note);
    let _ = chain.root().map_err(&mut note);
    let bad = report.ok().and_then(|report| report.bad.into_iter().next());
    match (first, bad) {
        (Some(error), _) => Err(error),
        (None, Some(bad)) => Err(ChainError::Damaged { block: bad.block, reason: bad.reason }),
        (None, None) => Ok(()),
    }
}

/// A receipt.
pub fn receipt(bytes: &[u8]) -> Outcome {
    let receipt = Receipt::from_json(bytes)?;
    // What was read can be written and read again, and is still the same.
    let again = Receipt::from_json(receipt.to_json().as_bytes()).expect("its own JSON is read");
    assert_eq!(again, receipt);
    assert_eq!(again.hash(), receipt.hash());
    // Its claim sealed anew differs from it at most in leaves.
    let sealed = Receipt::new(receipt.claim().clone());
    for difference in receipt.diff(&sealed) {
        assert!(difference.path.starts_with('/'), "{difference}");
    }
    assert_eq!(sealed.diff(&Receipt::new(sealed.claim().clone())), []);
    Ok(())
}

/// tokenizer.json.
pub fn tokenizer(bytes: &[u8]) -> Outcome {
    let tokenizer = Tokenizer::from_json(bytes, 1 << 16)?;
    let mut first = None;
    for text in ["", "In the beginning God", " \u{2581}a\u{301}\u{fb01}<s>\n\0\u{1f600}\t1234 don't"] {
        for special in [false, true] {
            match tokenizer.encode(text, special) {
                Ok(tokens) => {
                    let mut stream = tokenizer.stream(special);
                    for token in &tokens {
                        first = first.or(stream.push(*token).err());
                    }
                    first = first.or(tokenizer.decode(&tokens, special).err());
                }
                Err(error) => first = first.or(Some(error)),
            }
        }
    }
    first = first.or(tokenizer.decode(&[0, 1, 2, 3, 65535, 300, 0], false).err());
    tokenizer.vocabulary();
    first.map_or(Ok(()), |error| Err(error.into()))
}

/// chat_template.jinja, and what it says to a chat with tools.
pub fn chat_template(bytes: &[u8]) -> Outcome {
    let config = br#"{"bos_token":"<s>","eos_token":{"content":"</s>"}}"#;
    let templates = ChatTemplates::read(Some(config), None, Some(bytes));
    templates.check()?;
    let messages = [
        json!({"role": "system", "content": "Be kind."}),
        json!({"role": "user", "content": [{"type": "text", "text": "<b>\u{e9}\n"}], "n": 1.5}),
        json!({"role": "assistant", "thinking": "so", "tool_calls": [{"function": {"name": "f"}}]}),
        json!({"role": "user", "content": "Who?"}),
    ];
    let tools = [json!({"type": "function", "function": {"name": "f", "parameters": {"a": -1}}})];
    let request = ChatRequest { messages: &messages, add_generation_prompt: true, ..ChatRequest::default() };
    let plain = templates.render(&request);
    let with_tools = templates.render(&ChatRequest { tools: Some(&tools), ..request.clone() });
    match (plain, with_tools) {
        // What the template itself refuses is an answer, too.
        (Ok(_) | Err(ChatError::Refused { .. }), Ok(_) | Err(ChatError::Refused { .. })) => Ok(()),
        (Err(error), _) | (_, Err(error)) => Err(error.into()),
    }
}

/// A GGUF file, whole: what is accepted is a sound chain with a model that opens.
pub fn gguf(bytes: &[u8]) -> Outcome {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("model.gguf");
    fs::write(&file, bytes)?;
    let chain = Chain::in_memory()?;
    let imported = import::checkpoint(&chain, &file, &ImportOptions::default());
    let error = match imported {
        Ok(_) => {
            assert!(chain.verify(&VerifyOptions::full())?.is_ok());
            let options = ManagerOptions { threads: Some(1), ..ManagerOptions::default() };
            MoEModelManager::open(&chain, &options)?;
            return Ok(());
        }
        Err(error) => error,
    };
    assert!(chain.is_empty()?);
    assert!(error.to_string().len() < 1 << 16, "an error to be read by people");
    Err(error.into())
}

/// A bundle: all of it in a chain with every validator, or nothing.
pub fn bundle(bytes: &[u8]) -> Outcome {
    let chain = Chain::in_memory()?;
    let options = UnbundleOptions { max_payload_bytes: 1 << 20, ..UnbundleOptions::default() };
    if let Err(error) = chain.unbundle(&mut &bytes[..], &options) {
        assert!(chain.is_empty()?);
        assert!(error.to_string().len() < 1 << 16, "an error to be read by people");
        return Err(error.into());
    }
    assert!(chain.verify(&VerifyOptions::full())?.is_ok());
    let mut again = Vec::new();
    chain.bundle(&mut again, &BundleOptions::default())?;
    let other = Chain::in_memory()?;
    let report = other.unbundle(&mut &again[..], &options)?;
    assert_eq!((report.root, report.blocks_new), (chain.root()?, chain.len()?));
    Ok(())
}

/// The payload of a release block.
pub fn release(bytes: &[u8]) -> Outcome {
    let release = Release::from_canonical_json(bytes)?;
    assert_eq!(release.to_canonical_json(), bytes);
    Ok(())
}

/// The payload of a migration block.
pub fn migration(bytes: &[u8]) -> Outcome {
    let migration = Migration::from_canonical_json(bytes)?;
    assert_eq!(migration.to_canonical_json(), bytes);
    Ok(migration.check()?)
}

/// What deltas are added to: a matrix of every kind, and a vector.
fn base_of_deltas() -> Result<Vec<u8>, Box<dyn Error>> {
    let ones = |bytes: &[u8], count: usize| bytes.repeat(count);
    let [float, rows, groups, norm] = [[4, 3], [4, 32], [4, 1], [1, 3]].map(Shape::new);
    let vector = Shape::new([3]);
    let (one, one_bf16, one_f16) = (1f32.to_le_bytes(), [0x80, 0x3f], [0x00, 0x3c]);
    Ok(write(&[
        ("f32.weight", DType::F32, &float, &ones(&one, 12)),
        ("bf16.weight", DType::BF16, &float, &ones(&one_bf16, 12)),
        ("f16.weight", DType::F16, &float, &ones(&one_f16, 12)),
        ("fp8.weight", DType::F8E4M3, &float, &[0x38; 12]),
        ("fp8.weight_scale", DType::F32, &groups, &ones(&one, 4)),
        ("int8.weight", DType::I8, &float, &[100; 12]),
        ("int8.weight_scale", DType::F32, &groups, &ones(&one, 4)),
        ("int4.weight", DType::I4, &rows, &[0x7f; 64]),
        ("int4.weight_scale", DType::BF16, &groups, &ones(&one_bf16, 4)),
        ("row.weight", DType::F32, &norm, &ones(&one, 3)),
        ("norm.weight", DType::F32, &vector, &ones(&one, 3)),
    ])?)
}

/// The payload of a delta block, for a base with a matrix of every kind.
pub fn delta(bytes: &[u8]) -> Outcome {
    let base = base_of_deltas()?;
    check_delta(&base, bytes)?;
    // A sum that its type does not hold is found only now.
    let merged = merge_delta(&base, bytes)?;
    let [before, after] = [base, merged].map(|payload| TensorBlock::from_payload(Payload::from(payload)));
    let (before, after) = (before?, after?);
    assert_eq!(before.tensors().count(), after.tensors().count());
    for ((name, before), (same, after)) in before.tensors().zip(after.tensors()) {
        assert_eq!((name, before.dtype(), before.shape()), (same, after.dtype(), after.shape()));
        assert!(after.to_f32_vec().iter().all(|value| value.is_finite()), "{name}");
    }
    Ok(())
}

/// A payload of one kind of evidence: what is accepted has one spelling, and makes a block of its kind.
fn evidence<T: Evidence>(bytes: &[u8]) -> Outcome {
    let evidence = T::from_payload(bytes)?;
    assert_eq!(evidence.to_payload(), bytes);
    let draft = evidence.draft();
    assert_eq!((draft.lane, draft.kind), (T::LANE, T::KIND));
    assert_eq!(draft.payload, bytes);
    // There may be more parents than a block can have.
    let header = draft.header()?;
    assert_eq!(header.hash()?, draft.hash()?);
    Ok(())
}

/// The payload of a policy block.
pub fn policy(bytes: &[u8]) -> Outcome {
    evidence::<Policy>(bytes)
}

/// A signed statement of any kind: it is of one of ours at most.
pub fn statement(bytes: &[u8]) -> Outcome {
    if let Ok(said) = AnyStatement::from_json(BlockKind(5000), bytes) {
        assert_eq!(said.to_json().as_bytes(), bytes);
    }
    let kinds: [fn(&[u8]) -> Outcome; 10] = [
        evidence::<Statement<Round>>,
        evidence::<Statement<Claim>>,
        evidence::<Statement<Closing>>,
        evidence::<Statement<Candidate>>,
        evidence::<Statement<Reveal>>,
        evidence::<Statement<Attestation>>,
        evidence::<Statement<Accusation>>,
        evidence::<Statement<UsageRecord>>,
        evidence::<Statement<Audit>>,
        evidence::<Statement<Vote>>,
    ];
    first_accepted(&kinds, bytes)
}

/// The payload of a tokens block.
pub fn tokens(bytes: &[u8]) -> Outcome {
    let tokens = Tokens::from_payload(bytes)?;
    assert_eq!(tokens.ids().len() * 4, bytes.len());
    evidence::<Tokens>(bytes)
}

/// The payload of a dataset block; alone, and as what is said about tokens that it may fit or not.
pub fn dataset(bytes: &[u8]) -> Outcome {
    evidence::<Dataset>(bytes)?;
    let chain = Chain::in_memory()?;
    chain.append(Tokens::new(vec![1, 2, 3])?.draft())?;
    if let Err(error) = Dataset::from_payload(bytes)?.append(&chain) {
        assert_eq!(chain.len()?, 1);
        return Err(error.into());
    }
    assert!(chain.verify(&VerifyOptions::full())?.is_ok());
    Ok(())
}

/// The payload of a tally or a ruling block.
pub fn ballot(bytes: &[u8]) -> Outcome {
    first_accepted(&[evidence::<Tally>, evidence::<Ruling>], bytes)
}

/// Accepted by one of several readers, or why not: by the one that understood most of it.
fn first_accepted(readers: &[fn(&[u8]) -> Outcome], bytes: &[u8]) -> Outcome {
    let (mut accepted, mut refused) = (0, None);
    for reader in readers {
        match reader(bytes) {
            Ok(()) => accepted += 1,
            Err(error) => {
                let foreign =
                    matches!(error.downcast_ref::<InvalidEvidence>(), Some(InvalidEvidence::Json { .. }));
                if refused.is_none() || !foreign {
                    refused = Some(error);
                }
            }
        }
    }
    assert!(accepted <= 1, "bytes of {accepted} kinds");
    match refused {
        Some(error) if accepted == 0 => Err(error),
        _ => Ok(()),
    }
}

/// Runs a target for libFuzzer, whose own panic hook ends the process even where the library catches
/// what one of its dependencies panics with. Only a panic that nobody catches is a finding.
pub fn fuzz(target: fn(&[u8]) -> Outcome, bytes: &[u8]) {
    static QUIET: std::sync::Once = std::sync::Once::new();
    QUIET.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            *LAST.lock().unwrap_or_else(|lock| lock.into_inner()) = panic.to_string()
        }))
    });
    static LAST: std::sync::Mutex<String> = std::sync::Mutex::new(String::new());
    if std::panic::catch_unwind(|| drop(target(bytes))).is_err() {
        #[allow(clippy::print_stderr, reason = "the report of a finding")]
        {
            eprintln!("{}", LAST.lock().unwrap_or_else(|lock| lock.into_inner()));
        }
        std::process::abort();
    }
}
