//! Checkpoints and blocks made to do harm: each is refused with an error that names what is wrong, and
//! the chain stays as it was.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::folders::{Checkpoint, Raw, fixture, manifest, safetensors_file, state};
use blyan_core::chain::ChainError;
use blyan_core::format::FeedForward;
use blyan_core::import::{self, ImportError, ImportOptions};
use blyan_core::tensor::{self, TensorError};
use blyan_core::{
    BlockHash, BlockKind, Chain, ChainId, DType, Draft, Manifest, ModelSpec, ParentRole, Shape, Slot,
    TensorBlock,
};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

/// Imports in every type into a chain that holds a model already, and expects the same refusal.
fn refused(dir: &Path) -> ImportError {
    let chain = Chain::in_memory().unwrap();
    import::checkpoint(&chain, fixture("llama"), &ImportOptions::default()).unwrap();
    let before = state(&chain);
    let mut last = None;
    for dtype in [Some(DType::I8), Some(DType::F16), None] {
        for dry_run in [true, false] {
            let options = ImportOptions { dtype, dry_run, ..ImportOptions::default() };
            last = Some(import::checkpoint(&chain, dir, &options).expect_err("a refusal"));
            assert_eq!(state(&chain), before);
        }
    }
    // A writer that was dropped without commit holds nobody up.
    import::checkpoint(&chain, fixture("llama"), &ImportOptions::default()).unwrap();
    last.unwrap()
}

fn file(json: &str, data_len: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.resize(bytes.len() + data_len, 0);
    bytes
}

/// A valid folder with another `model.safetensors`.
fn with_weights(bytes: &[u8]) -> ImportError {
    let dir = Checkpoint::of("llama").write();
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    refused(dir.path())
}

fn with_text(name: &str, bytes: &[u8]) -> ImportError {
    let dir = Checkpoint::of("llama").write();
    fs::write(dir.path().join(name), bytes).unwrap();
    refused(dir.path())
}

macro_rules! assert_error {
    ($error:expr, $($pattern:tt)+) => {{
        let error = $error;
        assert!(matches!(&error, $($pattern)+), "{error:?}");
    }};
}

#[test]
fn weight_files() {
    let good = safetensors_file(&Checkpoint::of("llama").tensors);
    let tensor = |name: &str, shape: &str, from: u64, to: u64| {
        format!(r#""{name}":{{"dtype":"BF16","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let in_file = |bytes: &[u8]| match with_weights(bytes) {
        ImportError::Tensor { file, source } => {
            assert_eq!(file, "model.safetensors");
            source
        }
        other => panic!("{other:?}"),
    };
    assert_error!(in_file(b""), TensorError::HeaderTruncated { .. });
    assert_error!(in_file(&good[..7]), TensorError::HeaderTruncated { .. });
    assert_error!(in_file(&good[..100]), TensorError::HeaderTruncated { .. });
    assert_error!(in_file(&good[..good.len() - 1]), TensorError::Offsets { .. });
    assert_error!(in_file(&[&good[..], &[0]].concat()), TensorError::Offsets { .. });
    assert_error!(in_file(&[0xff; 4096]), TensorError::HeaderTooLarge { .. });
    assert_error!(
        in_file(&[&99_999_999u64.to_le_bytes()[..], b"{}"].concat()),
        TensorError::HeaderTruncated { needed: 100_000_007, .. }
    );
    assert_error!(in_file(&file("{\"a\":", 0)), TensorError::Header { .. });
    let twice = format!("{{{},{}}}", tensor("a", "[1]", 0, 2), tensor("a", "[1]", 2, 4));
    assert_error!(in_file(&file(&twice, 4)), TensorError::DuplicateTensor { tensor } if tensor == "a");
    let overlap = format!("{{{},{}}}", tensor("a", "[2]", 0, 4), tensor("b", "[2]", 2, 6));
    assert_error!(in_file(&file(&overlap, 6)), TensorError::Offsets { tensor, .. } if tensor == "b");
    let beyond = format!("{{{}}}", tensor("a", "[2]", 0, 4));
    assert_error!(in_file(&file(&beyond, 2)), TensorError::Offsets { tensor, .. } if tensor == "a");
    let overflow = format!("{{{}}}", tensor("a", "[4294967296,4294967296,4294967296]", 0, 0));
    assert_error!(in_file(&file(&overflow, 0)), TensorError::Offsets { tensor, .. } if tensor == "a");
    let negative = format!("{{{}}}", tensor("a", "[-2]", 0, 0));
    assert_error!(in_file(&file(&negative, 0)), TensorError::Header { .. });

    // A header that is valid but of another model.
    assert_error!(with_weights(&file("{}", 0)), ImportError::MissingTensors { names } if names.len() == 29);
}

/// Each missing name was once looked up among all the others, for minutes, and the text had 12 MB.
#[test]
fn a_config_of_many_layers_without_tensors_is_refused_at_once() {
    let mut checkpoint = Checkpoint::of("llama");
    checkpoint.config.insert("num_hidden_layers".to_owned(), json!(49_998));
    let dir = checkpoint.write();
    fs::write(dir.path().join("model.safetensors"), file("{}", 0)).unwrap();
    let chain = Chain::in_memory().unwrap();
    let error = import::checkpoint(&chain, dir.path(), &ImportOptions::default()).unwrap_err();
    assert!(error.to_string().len() < 4096);
    assert_error!(error, ImportError::MissingTensors { names } if names.len() == 9 * 49_998 + 2);
    assert!(chain.is_empty().unwrap());
}

#[test]
fn tensors() {
    let change = |edit: &dyn Fn(&mut Checkpoint)| {
        let mut checkpoint = Checkpoint::of("mixtral_window");
        edit(&mut checkpoint);
        refused(checkpoint.write().path())
    };
    let up = "model.layers.1.block_sparse_moe.experts.2.w3.weight";
    assert_error!(
        change(&|c| { c.tensors.remove(up); c.tensors.remove("model.norm.weight"); }),
        ImportError::MissingTensors { names } if *names == [up, "model.norm.weight"]
    );
    let extra = Raw { dtype: Dtype::I64, shape: vec![1], data: vec![0; 8] };
    assert_error!(
        change(&|c| {
            c.tensors.insert("model.layers.1.extra".to_owned(), extra.clone());
            c.tensors.insert("../../etc/passwd".to_owned(), extra.clone());
        }),
        ImportError::UnexpectedTensors { names } if *names == ["../../etc/passwd", "model.layers.1.extra"]
    );
    for shape in [vec![88, 52], vec![52 * 88], vec![52, 88, 1], vec![4576, 1]] {
        assert_error!(
            change(&|c| c.tensor(up).shape.clone_from(&shape)),
            ImportError::TensorShape { tensor, expected, .. } if tensor == up && expected.dims() == [52, 88]
        );
    }
    for dtype in [Dtype::I16, Dtype::U16] {
        assert_error!(
            change(&|c| c.tensor(up).dtype = dtype),
            ImportError::Tensor { source: TensorError::DType { tensor, .. }, .. } if tensor == up
        );
    }
    assert_error!(
        change(&|c| {
            let raw = c.tensor(up);
            raw.dtype = Dtype::I8;
            raw.data.truncate(52 * 88);
        }),
        ImportError::Tensor { source: TensorError::Conversion { tensor, .. }, .. } if tensor == up
    );
    // The first weight that is no number, whatever its tensor and the type asked for.
    let all = [
        up,
        "model.norm.weight",
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.layers.0.block_sparse_moe.gate.weight",
        "model.layers.2.self_attn.k_proj.weight",
    ];
    for name in all {
        for bits in [0x7f80u16, 0xff80, 0x7fc0, 0xffff] {
            assert_error!(
                change(&|c| {
                    for at in [60, 83] {
                        c.tensor(name).data[2 * at..][..2].copy_from_slice(&bits.to_le_bytes());
                    }
                }),
                ImportError::Tensor { source: TensorError::NotFinite { tensor, index: 60, .. }, .. } if tensor == name
            );
        }
    }
}

#[test]
fn a_bad_weight_in_a_stack_or_a_late_piece_is_named_by_its_index() {
    // Rows of 2 bytes × 65,536: a piece is 128 rows.
    let mut checkpoint = Checkpoint::of("llama");
    let (hidden, rows) = (64usize, 300_000usize);
    checkpoint.config.insert("vocab_size".to_owned(), json!(rows));
    let raw = checkpoint.tensor("model.embed_tokens.weight");
    (raw.shape, raw.data) = (vec![rows, hidden], vec![0; rows * hidden * 2]);
    let bad = rows * hidden - 3;
    raw.data[2 * bad..][..2].copy_from_slice(&0x7f80u16.to_le_bytes());
    let dir = checkpoint.write();
    for dtype in [None, Some(DType::F16), Some(DType::I8)] {
        let options = ImportOptions { dtype, ..ImportOptions::default() };
        let error = import::checkpoint(&Chain::in_memory().unwrap(), dir.path(), &options).unwrap_err();
        assert_error!(
            error,
            ImportError::Tensor { source: TensorError::NotFinite { index, .. }, .. } if *index == bad
        );
    }
}

#[test]
fn what_does_not_fit_a_shorter_type_is_named() {
    let mut checkpoint = Checkpoint::of("llama");
    let name = "model.layers.0.mlp.up_proj.weight";
    checkpoint.tensor(name).data[2 * 7..][..2].copy_from_slice(&half::bf16::from_f32(70_000.0).to_le_bytes());
    let dir = checkpoint.write();
    let chain = Chain::in_memory().unwrap();
    let options = ImportOptions { dtype: Some(DType::F16), ..ImportOptions::default() };
    assert_error!(
        import::checkpoint(&chain, dir.path(), &options).unwrap_err(),
        ImportError::Tensor { source: TensorError::Overflow { tensor, index: 7, dtype: DType::F16, .. }, .. }
            if tensor == name
    );
    assert!(chain.is_empty().unwrap());
    // In its own type the same weight is welcome.
    import::checkpoint(&chain, dir.path(), &ImportOptions::default()).unwrap();
}

#[test]
fn folders() {
    let empty = tempfile::tempdir().unwrap();
    assert_error!(refused(empty.path()), ImportError::EmptyFolder { .. });
    assert_error!(refused(&empty.path().join("absent")), ImportError::Io { .. });
    let without = |file: &str| {
        let dir = Checkpoint::of("llama").write();
        fs::remove_file(dir.path().join(file)).unwrap();
        dir
    };
    assert_error!(
        refused(without("config.json").path()),
        ImportError::MissingFile { file: "config.json", .. }
    );
    let dir = without("model.safetensors");
    assert_error!(refused(dir.path()), ImportError::MissingFile { file: "model.safetensors", .. });
    fs::write(dir.path().join("pytorch_model.bin"), b"\x80\x02").unwrap();
    assert_error!(refused(dir.path()), ImportError::PickledWeights { file } if file == "pytorch_model.bin");
    // A folder where a file should be.
    fs::create_dir(dir.path().join("model.safetensors")).unwrap();
    assert_error!(refused(dir.path()), ImportError::Io { .. });
    assert_error!(refused(&dir.path().join("pytorch_model.bin")), ImportError::Io { .. });
}

/// A folder of the sharded fixture, with its index changed.
fn with_index(edit: impl Fn(&mut Value, &Path)) -> ImportError {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("mixtral_window")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = dir.path().join("model.safetensors.index.json");
    let mut index = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut index, dir.path());
    fs::write(&path, index.to_string()).unwrap();
    refused(dir.path())
}

#[test]
fn shards() {
    const NORM: &str = "model.norm.weight";
    const SHARDS: [&str; 2] = ["model-00002-of-00004.safetensors", "model-00003-of-00004.safetensors"];
    for name in [
        "../model-00001-of-00004.safetensors",
        "/etc/x.safetensors",
        "a/b.safetensors",
        "..\\x.safetensors",
        "C:x.safetensors",
        ".safetensors",
        "..safetensors",
        "config.json",
        "",
        "a\0.safetensors",
    ] {
        let error = with_index(|index, _| index["weight_map"][NORM] = name.into());
        assert_error!(error, ImportError::ShardName { name: found } if found == name);
    }
    assert_error!(
        with_index(|_, dir| SHARDS.iter().for_each(|name| fs::remove_file(dir.join(name)).unwrap())),
        ImportError::MissingShards { names } if *names == SHARDS
    );
    let other = SHARDS[0];
    let error = with_index(|index, _| {
        assert_ne!(index["weight_map"][NORM], other);
        index["weight_map"][NORM] = other.into();
    });
    assert_error!(error, ImportError::ShardMismatch { tensor, indexed: Some(_), .. } if tensor == NORM);
    let error = with_index(|index, _| {
        index["weight_map"].as_object_mut().unwrap().shift_remove(NORM);
    });
    assert_error!(error, ImportError::ShardMismatch { tensor, indexed: None, .. } if tensor == NORM);
    let error = with_index(|index, _| index["weight_map"]["ghost"] = other.into());
    assert_error!(error, ImportError::ShardMismatch { tensor, found: None, .. } if tensor == "ghost");
    for map in [json!({}), json!([]), json!(null), json!({"a": 1})] {
        assert_error!(with_index(|index, _| index["weight_map"] = map.clone()), ImportError::Json { .. });
    }
    // A tensor in two files: one of them is not where the index says.
    let error = with_index(|_, dir| {
        let one = safetensors_file(&BTreeMap::from([(
            "lm_head.weight".to_owned(),
            Raw { dtype: Dtype::BF16, shape: vec![1], data: vec![0; 2] },
        )]));
        fs::write(dir.join(other), one).unwrap();
    });
    assert_error!(error, ImportError::ShardMismatch { tensor, .. } if tensor == "lm_head.weight");
    let error = with_index(|_, dir| fs::write(dir.join("model.safetensors"), file("{}", 0)).unwrap());
    assert_error!(error, ImportError::AmbiguousWeights);
}

#[test]
fn json_files() {
    for name in ["config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"]
    {
        for bytes in [
            &b""[..],
            b"{",
            b"[]",
            b"\xff{}",
            b"{\"a\":1,\"a\":1}",
            b"{\"a\":{\"b\":1,\"b\":1}}",
            b"{\"a\":1e999}",
        ] {
            assert_error!(with_text(name, bytes), ImportError::Json { file, .. } if file == name);
        }
        let deep = "{\"a\":".repeat(100_000);
        assert_error!(with_text(name, deep.as_bytes()), ImportError::Json { .. });
    }
    assert_error!(with_text("tokenizer.json", b"{\"a\":"), ImportError::Json { file, .. } if file == "tokenizer.json");
    assert_error!(with_text("chat_template.jinja", b"\xff"), ImportError::NotUtf8 { .. });
    assert_error!(
        with_text("chat_template.jinja", b"{% if %}"),
        ImportError::ChatTemplate { file: "chat_template.jinja", .. }
    );
    for config in ["{\"chat_template\": \"{{\"}", "{\"chat_template\": 3}"] {
        assert_error!(
            with_text("tokenizer_config.json", config.as_bytes()),
            ImportError::ChatTemplate { file: "tokenizer_config.json", .. }
        );
    }
    let large = vec![b' '; (4 << 20) + 1];
    assert_error!(with_text("config.json", &large), ImportError::FileTooLarge { .. });
    assert_error!(
        with_text("config.json", b"{\"model_type\":\"bert\"}"),
        ImportError::UnknownArchitecture { .. }
    );
    assert_error!(with_text("config.json", b"{}"), ImportError::MissingKey { key } if key == "model_type");
}

#[test]
fn names_of_unknown_architectures_and_keys_are_in_the_message() {
    let mut checkpoint = Checkpoint::of("llama");
    checkpoint.config.insert("attn_logit_softcapping".to_owned(), json!(50.0));
    let error = refused(checkpoint.write().path());
    assert!(error.to_string().contains("attn_logit_softcapping = 50.0"), "{error}");
    assert!(error.to_string().contains("ignore_config_keys"), "{error}");
    checkpoint.config.insert("model_type".to_owned(), json!("gemma2"));
    assert!(refused(checkpoint.write().path()).to_string().contains("gemma2"));
}

// What a stranger may append as a block of a model.

struct Model {
    chain: Chain,
    manifest: Manifest,
}

impl Model {
    fn new() -> Self {
        let chain = Chain::in_memory().unwrap();
        let report =
            import::checkpoint(&chain, fixture("mixtral_window"), &ImportOptions::default()).unwrap();
        let manifest = manifest(&chain, &report.model);
        Self { chain, manifest }
    }

    fn block(&self, slot: &str) -> BlockHash {
        self.manifest.slots[&slot.parse().unwrap()]
    }

    /// A draft of the expert `layer1.expert2` with these tensors.
    fn expert(&self, tensors: &[(&str, DType, &Shape, &[u8])]) -> Draft {
        let payload = tensor::write(tensors).unwrap();
        Draft::new(ChainId::Parameter, BlockKind::EXPERT, "layer1.expert2", payload)
            .with_parent(self.manifest.spec, ParentRole::Dependency)
    }

    fn model(&self, manifest: &Manifest, payload: Vec<u8>) -> Draft {
        let draft = Draft::new(ChainId::Meta, BlockKind::MODEL, "model", payload)
            .with_parent(manifest.spec, ParentRole::Dependency);
        manifest.slots.values().fold(draft, |draft, block| draft.with_parent(*block, ParentRole::Dependency))
    }

    /// Expects a refusal whose debug text starts so.
    fn refused(&self, draft: Draft, expected: &str) {
        let before = state(&self.chain);
        let error = self.chain.append(draft).expect_err(expected);
        assert_eq!(state(&self.chain), before);
        let ChainError::Refused { source, .. } = &error else { panic!("{error:?}") };
        let debug = format!("{source:?}");
        assert!(debug.starts_with(&format!("ValidationError({expected}")), "{debug}");
    }
}

#[test]
fn weight_blocks_that_do_not_fit_their_spec() {
    let model = Model::new();
    let (wide, tall) = (Shape::new([52, 88]), Shape::new([88, 52]));
    let (rows52, rows88) = (Shape::new([52, 1]), Shape::new([88, 1]));
    let bf16 = vec![0u8; 52 * 88 * 2];
    let (gate, up, down) = ("gate_proj.weight", "up_proj.weight", "down_proj.weight");
    let whole: [(&str, DType, &Shape, &[u8]); 3] = [
        (gate, DType::BF16, &wide, &bf16),
        (up, DType::BF16, &wide, &bf16),
        (down, DType::BF16, &tall, &bf16),
    ];
    let good = model.expert(&whole);
    let edit = |change: &dyn Fn(&mut Draft)| {
        let mut draft = good.clone();
        change(&mut draft);
        draft
    };
    model.refused(edit(&|draft| draft.parents.clear()), "Spec { found: 0 }");
    model.refused(edit(&|draft| draft.parents[0].role = ParentRole::Evidence), "Spec { found: 0 }");
    let other = model.block("layer1.expert0");
    model.refused(good.clone().with_parent(other, ParentRole::Dependency), "UnexpectedParent");
    model.refused(edit(&|draft| draft.lane = ChainId::Meta), "Lane");
    model.refused(edit(&|draft| draft.name = "layer1.router".to_owned()), "Name");
    model.refused(edit(&|draft| draft.name = "expert".to_owned()), "Name");
    model.refused(edit(&|draft| draft.name = "layer9.expert0".to_owned()), "UnknownSlot");
    model.refused(edit(&|draft| draft.name = "layer1.expert3".to_owned()), "UnknownSlot");
    model.refused(edit(&|draft| draft.media_type = "application/json".to_owned()), "MediaType");
    model.refused(edit(&|draft| draft.payload = b"{}".to_vec()), "Tensor(HeaderTruncated");
    model.refused(edit(&|draft| draft.payload = file("{}", 0)), "Tensor(Missing");

    let with = |place: usize, tensor| {
        let mut tensors = whole.to_vec();
        tensors[place] = tensor;
        tensors
    };
    model.refused(model.expert(&whole[..2]), "Tensor(Missing");
    model.refused(model.expert(&with(2, (down, DType::BF16, &wide, &bf16))), "Shape");
    let extra = [&whole[..], &[("bias", DType::BF16, &rows52, &bf16[..104])]].concat();
    model.refused(model.expert(&extra), "UnexpectedTensor");
    let mut nan = bf16.clone();
    nan[2 * 99..][..2].copy_from_slice(&0x7fc0u16.to_le_bytes());
    model.refused(
        model.expert(&with(1, (up, DType::BF16, &wide, &nan))),
        "Tensor(NotFinite { tensor: \"up_proj.weight\", index: 99",
    );

    // Quantized: scales there, of the right shape, usable; values symmetric.
    let ones: Vec<u8> = 1f32.to_le_bytes().repeat(88);
    let int8 = vec![0x81u8; 52 * 88];
    let scaled = |values: &[u8], scale: &[u8]| {
        model.expert(&[
            whole[0],
            whole[1],
            (down, DType::I8, &tall, values),
            ("down_proj.weight_scale", DType::F32, &rows88, scale),
        ])
    };
    model.refused(model.expert(&with(2, (down, DType::I8, &tall, &int8))), "Tensor(Scale {");
    let mut asymmetric = int8.clone();
    asymmetric[5] = 0x80;
    model.refused(scaled(&asymmetric, &ones), "Tensor(NotFinite");
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let mut scales = ones.clone();
        scales[8..12].copy_from_slice(&scale.to_le_bytes());
        model.refused(scaled(&int8, &scales), "Tensor(ScaleValue");
    }
    let orphan = [&whole[..], &[("down_proj.weight_scale", DType::F32, &rows88, &ones[..])]].concat();
    model.refused(model.expert(&orphan), "UnexpectedTensor");
    let norm = Draft::new(
        ChainId::Parameter,
        BlockKind::ROUTER,
        "layer0.router",
        tensor::write(&[
            ("gate.weight", DType::I8, &Shape::new([3, 88]), &int8[..264]),
            ("gate.weight_scale", DType::F32, &Shape::new([3, 1]), &ones[..12]),
        ])
        .unwrap(),
    );
    model.refused(norm.with_parent(model.manifest.spec, ParentRole::Dependency), "Quantized");

    // I4: packed, its shape beside it, usable scales; here no matrix has whole groups.
    let (short, groups) = (Shape::new([88, 32]), Shape::new([88, 1]));
    let (nibbles, scale) = (vec![0xf0u8; 88 * 16], 0xbf80u16.to_le_bytes().repeat(88));
    let packed = |scale: &[u8]| {
        model.expert(&[
            whole[0],
            whole[1],
            (down, DType::I4, &short, &nibbles),
            ("down_proj.weight_scale", DType::BF16, &groups, scale),
        ])
    };
    model.refused(packed(&scale), "Shape");
    for bad in [0u16, 0x8000, 0x7f80, 0x7fff] {
        let mut scales = scale.clone();
        scales[8..10].copy_from_slice(&bad.to_le_bytes());
        model.refused(packed(&scales), "Tensor(ScaleValue");
    }

    // The same blocks, made well, are accepted.
    let predecessor = model.block("layer1.expert2");
    let next = good.clone().with_version(semver::Version::new(1, 0, 1));
    model.chain.append(next.with_parent(predecessor, ParentRole::Predecessor)).unwrap();
    model.chain.append(scaled(&int8, &ones)).unwrap();
}

#[test]
fn model_blocks_that_name_the_wrong_blocks() {
    let model = Model::new();
    let Model { chain, manifest } = &model;
    let json = |manifest: &Manifest| manifest.to_canonical_json();
    let edit = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = manifest.clone();
        change(&mut manifest);
        model.model(&manifest, json(&manifest))
    };
    let slot = |name: &str| name.parse::<Slot>().unwrap();
    model.refused(edit(&|m| _ = m.slots.remove(&slot("layer1.expert2"))), "MissingSlot");
    model.refused(edit(&|m| _ = m.slots.remove(&slot("head"))), "MissingSlot");
    model.refused(
        edit(&|m| {
            let (a, b) = (slot("layer1.expert0"), slot("layer1.expert1"));
            let (one, other) = (m.slots[&a], m.slots[&b]);
            m.slots.insert(a, other);
            m.slots.insert(b, one);
        }),
        "WrongBlock",
    );
    model.refused(
        edit(&|m| _ = m.slots.insert(slot("tokenizer"), m.slots[&slot("generation_config")])),
        "Dependencies",
    );
    let mut dependency = edit(&|_| {});
    dependency.parents.pop();
    model.refused(dependency, "Dependencies");
    let other = import::checkpoint(chain, fixture("llama"), &ImportOptions::default()).unwrap();
    model.refused(edit(&|_| {}).with_parent(other.spec, ParentRole::Dependency), "Dependencies");
    model.refused(edit(&|m| m.spec = other.spec), "OtherSpec");
    // Weights of another model with the same shapes.
    let mut twin = Checkpoint::of("mixtral_window");
    twin.config.insert("rms_norm_eps".to_owned(), json!(1e-3));
    let twin = import::checkpoint(chain, twin.write().path(), &ImportOptions::default()).unwrap();
    let twin = crate::folders::manifest(chain, &twin.model);
    model.refused(
        edit(&|m| _ = m.slots.insert(slot("layer0.expert0"), twin.slots[&slot("layer0.expert0")])),
        "OtherSpec",
    );
    model.refused(model.model(manifest, [json(manifest), vec![b' ']].concat()), "Manifest");
    model.refused(model.model(manifest, b"{}".to_vec()), "Manifest");
    let mut draft = edit(&|_| {});
    draft.name = "model2".to_owned();
    model.refused(draft, "Name");
    let mut draft = edit(&|_| {});
    draft.lane = ChainId::Parameter;
    model.refused(draft, "Lane");
}

#[test]
fn specs_and_texts_that_are_none() {
    let model = Model::new();
    let spec = model.chain.payload(&model.manifest.spec).unwrap().to_vec();
    let draft = |payload: Vec<u8>| Draft::new(ChainId::Meta, BlockKind::SPEC, "spec", payload);
    model.refused(draft([&spec[..], b" "].concat()), "SpecPayload(");
    model.refused(draft(b"{}".to_vec()), "SpecPayload(");
    // Few bytes that describe billions of slots.
    let mut huge = ModelSpec::from_canonical_json(&spec).unwrap();
    let FeedForward::Moe { num_experts, .. } = &mut huge.layers[0].feed_forward else { panic!("dense") };
    *num_experts = 65536;
    huge.layers = vec![huge.layers[0].clone(); 1000];
    model.refused(draft(huge.to_canonical_json()), "SpecPayload(Invalid { field: \"layers\"");
    let mut named = draft(spec);
    named.name = "other".to_owned();
    model.refused(named, "Name");

    let text = |kind, name: &str, payload: &[u8]| Draft::new(ChainId::Parameter, kind, name, payload);
    model.refused(text(BlockKind::TOKENIZER, "tokenizer", b"{"), "Text");
    model.refused(text(BlockKind::CHAT_TEMPLATE, "chat_template", b"\xff"), "Text");
    model.refused(text(BlockKind::CHAT_TEMPLATE, "tokenizer", b""), "Name");
    let template = || text(BlockKind::CHAT_TEMPLATE, "chat_template", b"{{ messages }}");
    model.refused(template().with_version("1.0.1".parse().unwrap()), "FirstVersion");
    let first = model.chain.append(template()).unwrap();
    model.refused(template().with_parent(first, ParentRole::Predecessor), "UnexpectedParent");
    model.refused(text(BlockKind::GENERATION_CONFIG, "generation_config", b"{\"a\":1,\"a\":2}"), "Text");
    model.chain.append(text(BlockKind::TOKENIZER, "tokenizer", b"{}")).unwrap();
}

#[test]
fn a_block_that_is_no_tensors_is_named() {
    let model = Model::new();
    let error = TensorBlock::open(&model.chain, &model.manifest.spec).unwrap_err();
    assert_error!(error, TensorError::NotWeights { kind: BlockKind::SPEC, .. });
    // A chain without validators takes anything; reading it as weights does not.
    let medium = std::sync::Arc::new(blyan_core::storage::MemoryMedium::new());
    let access = blyan_core::storage::Access::ReadWrite;
    let chain = Chain::open_with(medium, access, blyan_core::chain::Validators::new()).unwrap();
    let block = chain.append(Draft::new(ChainId::Parameter, BlockKind::EXPERT, "x", file("{", 0))).unwrap();
    assert_error!(TensorBlock::open(&chain, &block).unwrap_err(), TensorError::InBlock { block: named, .. } if *named == block);
}

/// Damages one byte at a time, everywhere it could matter: an error or a whole model, never a panic.
#[test]
fn every_damaged_byte_of_the_headers_is_survived() {
    let source = Checkpoint::of("llama").write();
    let chain = Chain::in_memory().unwrap();
    let options = ImportOptions { dry_run: true, ..ImportOptions::default() };
    let expected = import::checkpoint(&chain, source.path(), &options).unwrap();
    let weights = fs::read(source.path().join("model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let mut accepted = 0;
    for (name, len) in [("model.safetensors", header), ("config.json", usize::MAX)] {
        let path = source.path().join(name);
        let original = fs::read(&path).unwrap();
        for at in (0..original.len().min(len)).step_by(7) {
            for flip in [0x01, 0x80] {
                let mut damaged = original.clone();
                damaged[at] ^= flip;
                fs::write(&path, damaged).unwrap();
                if let Ok(report) = import::checkpoint(&chain, source.path(), &options) {
                    // A header has no redundancy: dtypes of equal size, or padding, may read as well.
                    accepted += 1;
                    assert_eq!(report.blocks_new, expected.blocks_new);
                }
            }
        }
        fs::write(&path, original).unwrap();
    }
    assert!(accepted < 300, "{accepted} damages went unnoticed");
    assert!(chain.is_empty().unwrap());
}
