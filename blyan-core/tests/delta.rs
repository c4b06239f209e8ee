//! Deltas: merged to the bits that a naive loop gives, attested, made again, and refused by name.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use crate::checkpoints::{bits, fixture, imported};
use blyan_core::chain::Damage;
use blyan_core::import::{self, ImportOptions, InvalidBlock};
use blyan_core::manager::{ManagerError, ManagerOptions, MoEModelManager, Snapshot, delta};
use blyan_core::tensor::{DeltaError, TensorError, quantize, write};
use blyan_core::{
    BlockHash, BlockKind, Chain, ChainError, DType, Draft, ParentRole, PayloadHash, Shape, Slot, TensorBlock,
    TensorView,
};

const SLOT: Slot = Slot::Expert { layer: 1, expert: 2 };

/// Tensors of a payload in the making.
#[derive(Clone, Default)]
struct Tensors(BTreeMap<String, (DType, Vec<usize>, Vec<u8>)>);

impl Tensors {
    fn with(mut self, name: &str, dtype: DType, dims: &[usize], data: Vec<u8>) -> Self {
        self.0.insert(name.to_owned(), (dtype, dims.to_vec(), data));
        self
    }

    fn floats(self, name: &str, dtype: DType, dims: &[usize], values: &[f32]) -> Self {
        let data = match dtype {
            DType::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            DType::BF16 => values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
        };
        self.with(name, dtype, dims, data)
    }

    fn without(mut self, name: &str) -> Self {
        self.0.remove(name).unwrap();
        self
    }

    fn payload(&self) -> Vec<u8> {
        let shapes: Vec<Shape> = self.0.values().map(|(_, dims, _)| Shape::new(dims.clone())).collect();
        let tensors = self.0.iter().zip(&shapes);
        let tensors = tensors.map(|((name, (dtype, _, data)), shape)| (&name[..], *dtype, shape, &data[..]));
        write(&tensors.collect::<Vec<_>>()).unwrap()
    }
}

/// Small pseudo-random numbers that repeat.
fn noise(seed: u32, len: usize) -> Vec<f32> {
    let mut bits = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let mut next = || {
        bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bits as i32 as f32 / 2f32.powi(36)
    };
    (0..len).map(|_| next()).collect()
}

fn le(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn base_of(chain: &Chain) -> (Snapshot, BlockHash) {
    let snapshot = Snapshot::only_model(chain).unwrap();
    let base = snapshot.slots()[&SLOT].block;
    (snapshot, base)
}

fn dims_of(chain: &Chain, base: &BlockHash, name: &str) -> (usize, usize) {
    let block = TensorBlock::open(chain, base).unwrap();
    let dims = block.tensor(name).unwrap().shape().dims().to_vec();
    (dims[0], dims[1])
}

/// Low-rank for gate and down, 8 bits for down and up.
fn delta_for(chain: &Chain, base: &BlockHash, rank: usize, dtype: DType) -> Tensors {
    let mut tensors = Tensors::default();
    for (seed, name) in [(1, "gate_proj"), (2, "down_proj")] {
        let (rows, cols) = dims_of(chain, base, &format!("{name}.weight"));
        tensors = tensors
            .floats(&format!("{name}.lora_A.weight"), dtype, &[rank, cols], &noise(seed, rank * cols))
            .floats(&format!("{name}.lora_B.weight"), dtype, &[rows, rank], &noise(seed + 9, rows * rank));
    }
    for (seed, name) in [(3, "up_proj"), (4, "down_proj")] {
        let (rows, cols) = dims_of(chain, base, &format!("{name}.weight"));
        let values = noise(seed, rows * cols).iter().map(|x| ((x * 4000.0) as i8).max(-127) as u8).collect();
        let scales: Vec<f32> = noise(seed + 5, rows).iter().map(|x| x.abs() / 64.0 + 1e-5).collect();
        tensors = tensors.with(&format!("{name}.delta"), DType::I8, &[rows, cols], values).with(
            &format!("{name}.delta_scale"),
            DType::F32,
            &[rows, 1],
            le(&scales),
        );
    }
    tensors
}

fn f32s(view: &TensorView<'_>) -> Vec<f32> {
    view.to_f32_vec()
}

/// What docs/numerics.md says, element by element.
fn naive(base: &TensorBlock, delta: &TensorBlock, matrix: &str) -> Vec<f32> {
    let view = base.tensor(&format!("{matrix}.weight")).unwrap();
    let (rows, cols) = (view.shape().dims()[0], view.shape().dims()[1]);
    let stored = f32s(&view);
    let scales = base.scale(&format!("{matrix}.weight")).map(|scale| f32s(&scale));
    let per_scale = scales.as_ref().map_or(1, |scales| rows * cols / scales.len());
    let a = delta.get(&format!("{matrix}.lora_A.weight")).map(|view| f32s(&view));
    let b = delta.get(&format!("{matrix}.lora_B.weight")).map(|view| f32s(&view));
    let difference = delta.get(&format!("{matrix}.delta")).map(|view| f32s(&view));
    let steps = delta.get(&format!("{matrix}.delta_scale")).map(|view| f32s(&view));
    let rank = b.as_ref().map_or(0, |b| b.len() / rows);
    let mut sums = Vec::new();
    for o in 0..rows {
        for i in 0..cols {
            let mut sum = 0.0f32;
            if let (Some(difference), Some(steps)) = (&difference, &steps) {
                sum = difference[o * cols + i] * steps[o];
            }
            for r in 0..rank {
                sum = b.as_ref().unwrap()[o * rank + r].mul_add(a.as_ref().unwrap()[r * cols + i], sum);
            }
            let mut weight = stored[o * cols + i];
            if let Some(scales) = &scales {
                weight *= scales[(o * cols + i) / per_scale];
            }
            sums.push(weight + sum);
        }
    }
    sums
}

#[test]
fn merging_gives_the_bits_of_a_naive_loop_in_every_dtype() {
    for (name, dtype) in [
        ("mixtral_odd", None),
        ("mixtral", Some(DType::F32)),
        ("mixtral", None),
        ("mixtral_odd", Some(DType::F16)),
        ("mixtral_odd", Some(DType::I8)),
        ("mixtral", Some(DType::F8E4M3)),
        ("mixtral", Some(DType::I4)),
    ] {
        let (chain, _) = imported(&fixture(name), dtype);
        let (snapshot, base) = base_of(&chain);
        for (rank, of_factors) in [(1, DType::F32), (5, DType::BF16), (3, DType::F16)] {
            let payload = delta_for(&chain, &base, rank, of_factors).payload();
            let block = chain.append(delta::draft(&chain, &base, payload).unwrap()).unwrap();
            let attested = delta::merged_hash(&chain, &block).unwrap();
            let merged = delta::merge(&chain, &block).unwrap();
            let header = chain.get(&merged).unwrap().header().clone();
            assert_eq!(header.payload.hash, attested);
            assert_eq!((header.kind, header.name), (BlockKind::EXPERT, SLOT.to_string()));
            assert_eq!(header.version, semver::Version::new(1, 0, 1));
            let role = |hash| header.parents.iter().find(|parent| parent.hash == hash).unwrap().role;
            assert_eq!(role(base), ParentRole::Predecessor);
            assert_eq!(role(block), ParentRole::Base);
            assert_eq!(role(*snapshot.spec_block()), ParentRole::Dependency);
            assert_eq!(header.parents.len(), 3);

            let open = |hash: &BlockHash| TensorBlock::open(&chain, hash).unwrap();
            let (before, after, term) = (open(&base), open(&merged), open(&block));
            for matrix in ["gate_proj", "up_proj", "down_proj"] {
                let weight = format!("{matrix}.weight");
                let sums = naive(&before, &term, matrix);
                let (old, new) = (before.tensor(&weight).unwrap(), after.tensor(&weight).unwrap());
                assert_eq!(new.dtype(), old.dtype());
                let bytes = le(&sums);
                let wide = TensorView::new("w", DType::F32, old.shape(), &bytes).unwrap();
                match old.dtype() {
                    DType::F32 => assert_eq!(new.data(), bytes),
                    DType::BF16 => {
                        let rounded = sums.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes());
                        assert_eq!(new.data(), rounded.collect::<Vec<u8>>());
                    }
                    DType::F16 => {
                        let rounded = sums.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes());
                        assert_eq!(new.data(), rounded.collect::<Vec<u8>>());
                    }
                    quantized => {
                        // The import's quantizer has its own oracle.
                        let expected = quantize(quantized, &wide).unwrap();
                        assert_eq!(new.data(), expected.values, "{name} {quantized} {matrix}");
                        assert_eq!(after.scale(&weight).unwrap().data(), expected.scales);
                    }
                }
                assert_ne!(new.data(), old.data(), "{name} {matrix} changed");
            }
            // What it gives runs, and a receipt names the merged block.
            let changed = snapshot.with_block(&chain, &merged).unwrap();
            let options =
                ManagerOptions { persist_usage: false, threads: Some(2), ..ManagerOptions::default() };
            let model = MoEModelManager::open_snapshot(&chain, changed, &options).unwrap();
            assert!(model.logits(&[1, 2, 3]).unwrap().iter().all(|x| x.is_finite()));
        }
    }
}

#[test]
fn what_a_delta_does_not_name_stays_byte_for_byte() {
    let (chain, _) = imported(&fixture("llama_bias"), Some(DType::I8));
    let slot = Slot::Expert { layer: 0, expert: 0 };
    let base = Snapshot::only_model(&chain).unwrap().slots()[&slot].block;
    let (rows, cols) = dims_of(&chain, &base, "up_proj.weight");
    let tensors = Tensors::default()
        .floats("up_proj.lora_A.weight", DType::F32, &[1, cols], &noise(1, cols))
        .floats("up_proj.lora_B.weight", DType::F32, &[rows, 1], &noise(2, rows));
    let block = chain.append(delta::draft(&chain, &base, tensors.payload()).unwrap()).unwrap();
    let merged = delta::merge(&chain, &block).unwrap();
    let (before, after) =
        (TensorBlock::open(&chain, &base).unwrap(), TensorBlock::open(&chain, &merged).unwrap());
    assert!(before.get("up_proj.bias").is_some());
    for (name, view) in before.tensors() {
        if !name.starts_with("up_proj.weight") {
            assert_eq!(after.tensor(name).unwrap().data(), view.data(), "{name}");
        }
    }
    assert_eq!(after.tensors().len(), before.tensors().len());
}

#[test]
fn threads_do_not_change_the_hash() {
    let (chain, _) = imported(&fixture("mixtral"), Some(DType::I4));
    let (_, base) = base_of(&chain);
    let payload = delta_for(&chain, &base, 4, DType::F32).payload();
    let block = chain.append(delta::draft(&chain, &base, payload).unwrap()).unwrap();
    let hash = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| delta::merged_hash(&chain, &block).unwrap())
    };
    assert_eq!(hash(1), hash(5));
}

fn refusal(error: &ChainError) -> &InvalidBlock {
    let ChainError::Refused { source, .. } = error else { panic!("not refused: {error:?}") };
    source.downcast_ref().unwrap_or_else(|| panic!("{source:?}"))
}

#[test]
fn deltas_that_fit_nothing_are_refused_by_name() {
    let (chain, _) = imported(&fixture("mixtral"), None);
    let (snapshot, base) = base_of(&chain);
    let good = delta_for(&chain, &base, 2, DType::F32);
    let (rows, cols) = dims_of(&chain, &base, "gate_proj.weight");
    let refused = |tensors: &Tensors| {
        let before = chain.len().unwrap();
        let error = chain.append(delta::draft(&chain, &base, tensors.payload()).unwrap()).unwrap_err();
        assert_eq!(chain.len().unwrap(), before);
        match error {
            ChainError::Refused { .. } => format!("{}", refusal(&error)),
            other => panic!("{other:?}"),
        }
    };
    let a = "gate_proj.lora_A.weight";
    let b = "gate_proj.lora_B.weight";
    let cases: Vec<(Tensors, &str)> = vec![
        (Tensors::default(), "the delta holds no tensor"),
        (good.clone().without(a), "stands without \"gate_proj.lora_A.weight\""),
        (good.clone().without(b), "stands without \"gate_proj.lora_B.weight\""),
        (
            good.clone().floats(a, DType::F32, &[3, cols], &noise(1, 3 * cols)),
            "lora_A has rank 3, lora_B has rank 2",
        ),
        (good.clone().floats(a, DType::F32, &[2, cols + 1], &noise(1, 2 * cols + 2)), "with r of at least 1"),
        (good.clone().floats(b, DType::F32, &[rows + 1, 2], &noise(1, 2 * rows + 2)), "with r of at least 1"),
        (good.clone().floats(a, DType::F32, &[2 * cols], &noise(1, 2 * cols)), "[r, "),
        (
            good.clone().floats(a, DType::F32, &[0, cols], &[]).floats(b, DType::F32, &[rows, 0], &[]),
            "with r of at least 1",
        ),
        (good.clone().floats("x_proj.lora_A.weight", DType::F32, &[1, 1], &[0.0]), "no matrix of the base"),
        (good.clone().floats("gate_proj.weight", DType::F32, &[1, 1], &[0.0]), "is no part of a delta"),
        (good.clone().floats("up_proj.delta", DType::F32, &[1, 1], &[0.0]), "expected I8"),
        (good.clone().without("up_proj.delta"), "is no part of a delta"),
        (good.clone().without("up_proj.delta_scale"), "needs up_proj.delta_scale"),
        (
            good.clone().with("up_proj.delta", DType::I8, &[1, cols], vec![1; cols]).floats(
                "up_proj.delta_scale",
                DType::F32,
                &[1, 1],
                &[1.0],
            ),
            "\"up_proj.weight\" needs",
        ),
        (
            good.clone().with(a, DType::I8, &[2, cols], vec![1; 2 * cols]).floats(
                "gate_proj.lora_A.weight_scale",
                DType::F32,
                &[2, 1],
                &[1.0; 2],
            ),
            "expected F32, BF16 or F16",
        ),
        (
            good.clone().floats(a, DType::F32, &[2, cols], &vec![f32::NAN; 2 * cols]),
            "tensor \"gate_proj.lora_A.weight\": element 0 is NaN",
        ),
        (
            good.clone().floats(b, DType::BF16, &[rows, 2], &vec![f32::INFINITY; 2 * rows]),
            "tensor \"gate_proj.lora_B.weight\": element 0 is inf",
        ),
        (
            good.clone().floats("up_proj.delta_scale", DType::F32, &[rows, 1], &vec![f32::NAN; rows]),
            "the scale of row 0",
        ),
    ];
    for (tensors, expected) in cases {
        let message = refused(&tensors);
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    }
    // −128 is no quantized weight, in a delta either.
    let (up_rows, up_cols) = dims_of(&chain, &base, "up_proj.weight");
    let lowest =
        good.clone().with("up_proj.delta", DType::I8, &[up_rows, up_cols], vec![0x80; up_rows * up_cols]);
    assert!(refused(&lowest).contains("element 0 is -128"));

    // Parents: another slot's block, another kind, too many, none.
    let other = snapshot.slots()[&Slot::Expert { layer: 1, expert: 3 }].block;
    let spec = *snapshot.spec_block();
    let draft = |parents: &[(BlockHash, ParentRole)]| {
        let draft =
            Draft::new(blyan_core::ChainId::Parameter, BlockKind::DELTA, SLOT.to_string(), good.payload());
        parents.iter().fold(draft, |draft, (hash, role)| draft.with_parent(*hash, *role))
    };
    let error =
        chain.append(draft(&[(spec, ParentRole::Dependency), (other, ParentRole::Base)])).unwrap_err();
    assert!(matches!(refusal(&error), InvalidBlock::WrongBlock { block, .. } if *block == other));
    for parents in [
        &[][..],
        &[(spec, ParentRole::Dependency)],
        &[(base, ParentRole::Base)],
        &[(spec, ParentRole::Dependency), (base, ParentRole::Predecessor)],
        &[(spec, ParentRole::Dependency), (base, ParentRole::Base), (other, ParentRole::Evidence)],
        &[(spec, ParentRole::Dependency), (base, ParentRole::Base), (other, ParentRole::Base)],
    ] {
        let error = chain.append(draft(parents)).unwrap_err();
        assert!(matches!(refusal(&error), InvalidBlock::DeltaParents { .. }), "{error:?}");
    }
    let version = draft(&[(spec, ParentRole::Dependency), (base, ParentRole::Base)])
        .with_version(semver::Version::new(1, 0, 1));
    assert!(matches!(refusal(&chain.append(version).unwrap_err()), InvalidBlock::DeltaVersion { .. }));

    let texts = delta::draft(&chain, &spec, good.payload());
    assert!(matches!(texts, Err(ManagerError::Delta(delta::DeltaBlockError::NoBase { .. }))));
    assert!(matches!(
        delta::merge(&chain, &base),
        Err(ManagerError::Delta(delta::DeltaBlockError::NotADelta { kind: BlockKind::EXPERT, .. }))
    ));
}

#[test]
fn a_delta_of_another_spec_is_refused() {
    let (chain, _) = imported(&fixture("mixtral"), None);
    let (_, base) = base_of(&chain);
    let good = delta_for(&chain, &base, 2, DType::F32);
    let options = ImportOptions { rope_frequencies: Some(DType::BF16), ..ImportOptions::default() };
    let other = import::checkpoint(&chain, fixture("mixtral"), &options).unwrap();
    let draft =
        Draft::new(blyan_core::ChainId::Parameter, BlockKind::DELTA, SLOT.to_string(), good.payload())
            .with_parent(base, ParentRole::Base)
            .with_parent(other.spec, ParentRole::Dependency);
    let error = chain.append(draft).unwrap_err();
    assert!(matches!(refusal(&error), InvalidBlock::OtherSpec { .. }));
}

#[test]
fn a_sum_that_is_no_weight_is_refused() {
    let (chain, _) = imported(&fixture("mixtral"), Some(DType::F16));
    let (_, base) = base_of(&chain);
    let (rows, cols) = dims_of(&chain, &base, "gate_proj.weight");
    let tensors = Tensors::default()
        .floats("gate_proj.lora_A.weight", DType::F32, &[1, cols], &vec![1.0; cols])
        .floats("gate_proj.lora_B.weight", DType::F32, &[rows, 1], &vec![1e6; rows]);
    let block = chain.append(delta::draft(&chain, &base, tensors.payload()).unwrap()).unwrap();
    let Err(ManagerError::Delta(delta::DeltaBlockError::Delta { block: named, source })) =
        delta::merge(&chain, &block)
    else {
        panic!("a weight of F16 beyond its range");
    };
    assert_eq!(named, block);
    assert!(matches!(
        *source,
        DeltaError::Tensor(TensorError::Overflow { ref tensor, dtype: DType::F16, .. }) if tensor == "gate_proj.weight"
    ));
}

#[test]
fn a_block_that_claims_a_delta_must_be_what_it_gives() {
    let (chain, _) = imported(&fixture("mixtral"), None);
    let (snapshot, base) = base_of(&chain);
    let append = |seed: usize| {
        let payload = delta_for(&chain, &base, seed, DType::F32).payload();
        chain.append(delta::draft(&chain, &base, payload).unwrap()).unwrap()
    };
    let (one, two) = (append(1), append(2));
    let good = delta::merged_draft(&chain, &one).unwrap();
    let attested = delta::merged_hash(&chain, &one).unwrap();

    let other = delta::merged_draft(&chain, &two).unwrap();
    let lying = Draft { payload: other.payload.clone(), ..good.clone() };
    match refusal(&chain.append(lying).unwrap_err()) {
        InvalidBlock::NotMerged { expected, found, delta, .. } => {
            assert_eq!((*expected, *found, *delta), (attested, PayloadHash::of(&other.payload), one));
        }
        other => panic!("{other:?}"),
    }
    let both = good.clone().with_parent(two, ParentRole::Base);
    assert!(matches!(refusal(&chain.append(both).unwrap_err()), InvalidBlock::ManyDeltas { found: 2 }));
    let sibling = snapshot.slots()[&Slot::Expert { layer: 1, expert: 3 }].block;
    let mut orphan = good.clone();
    orphan.parents.retain(|parent| parent.role != ParentRole::Predecessor);
    // A version of its own, or it would be refused for following nothing.
    orphan.version = semver::Version::new(1, 0, 0);
    for orphan in [orphan.clone(), orphan.with_parent(sibling, ParentRole::Evidence)] {
        assert!(matches!(refusal(&chain.append(orphan).unwrap_err()), InvalidBlock::OtherBase { .. }));
    }
    // A base that is no delta is only said.
    let mut said = good.clone();
    said.parents.retain(|parent| parent.hash != one);
    chain.append(said.with_parent(sibling, ParentRole::Base)).unwrap();
    assert_eq!(chain.append(good).unwrap(), delta::merge(&chain, &one).unwrap());
}

#[test]
fn a_lost_merged_payload_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::open(dir.path()).unwrap();
    import::checkpoint(&chain, fixture("mixtral"), &ImportOptions::default()).unwrap();
    let (_, base) = base_of(&chain);
    let step = |base: &BlockHash, rank| {
        let payload = delta_for(&chain, base, rank, DType::BF16).payload();
        delta::merge(&chain, &chain.append(delta::draft(&chain, base, payload).unwrap()).unwrap()).unwrap()
    };
    let first = step(&base, 2);
    let second = step(&first, 3);
    let [before_first, before_second] = [first, second].map(|block| chain.payload(&block).unwrap().to_vec());
    let files = [first, second].map(|block| {
        let name = chain.get(&block).unwrap().header().payload.hash.to_string();
        dir.path().join("payloads").join(&name[..2]).join(name)
    });
    drop(chain);
    files.iter().for_each(|file| std::fs::remove_file(file).unwrap());

    let chain = Chain::open(dir.path()).unwrap();
    assert!(chain.payload(&second).is_err());
    assert_eq!(&delta::merged_bytes(&chain, &second).unwrap()[..], before_second);
    assert!(!files[0].exists() && !files[1].exists());
    assert!(delta::materialise(&chain, &second).unwrap());
    assert!(!delta::materialise(&chain, &second).unwrap());
    assert_eq!(&chain.payload(&second).unwrap()[..], before_second);
    assert!(chain.payload(&first).is_err(), "only what was asked for");
    assert!(delta::materialise(&chain, &first).unwrap());
    assert_eq!(&chain.payload(&first).unwrap()[..], before_first);
    let report = chain.verify(&blyan_core::VerifyOptions::full()).unwrap();
    assert!(report.is_ok(), "{:?}", report.bad);

    // A block of another origin cannot be made again, and says so.
    let file = {
        let name = chain.get(&base).unwrap().header().payload.hash.to_string();
        dir.path().join("payloads").join(&name[..2]).join(name)
    };
    drop(chain);
    std::fs::remove_file(file).unwrap();
    let chain = Chain::open(dir.path()).unwrap();
    assert!(matches!(
        delta::materialise(&chain, &base),
        Err(ManagerError::Delta(delta::DeltaBlockError::NotMerged { .. }))
    ));
}

#[test]
fn deltas_of_routers_merge_too_and_bits_do_not_depend_on_the_reader() {
    let (chain, _) = imported(&fixture("mixtral"), None);
    let snapshot = Snapshot::only_model(&chain).unwrap();
    let router = snapshot.slots()[&Slot::Router { layer: 0 }].block;
    let (rows, cols) = dims_of(&chain, &router, "gate.weight");
    let tensors = Tensors::default()
        .floats("gate.lora_A.weight", DType::F32, &[1, cols], &noise(7, cols))
        .floats("gate.lora_B.weight", DType::F32, &[rows, 1], &noise(8, rows));
    let block = chain.append(delta::draft(&chain, &router, tensors.payload()).unwrap()).unwrap();
    let merged = delta::merge(&chain, &block).unwrap();
    assert_eq!(chain.get(&merged).unwrap().header().kind, BlockKind::ROUTER);
    let options = ManagerOptions { persist_usage: false, threads: Some(1), ..ManagerOptions::default() };
    let logits = |snapshot: Snapshot| {
        let model = MoEModelManager::open_snapshot(&chain, snapshot, &options).unwrap();
        bits(&model.logits(&[3, 17, 40]).unwrap())
    };
    assert_ne!(logits(snapshot.clone()), logits(snapshot.with_block(&chain, &merged).unwrap()));
}

#[test]
fn what_is_wrong_with_the_chain_is_no_reason_to_refuse_a_block() {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::open(dir.path()).unwrap();
    import::checkpoint(&chain, fixture("mixtral"), &ImportOptions::default()).unwrap();
    let (_, base) = base_of(&chain);
    let delta = delta_for(&chain, &base, 2, DType::BF16).payload();
    let delta = chain.append(delta::draft(&chain, &base, delta).unwrap()).unwrap();
    let merged = delta::merged_draft(&chain, &delta).unwrap();
    let file = {
        let name = chain.get(&base).unwrap().header().payload.hash.to_string();
        dir.path().join("payloads").join(&name[..2]).join(name)
    };
    drop(chain);
    std::fs::rename(&file, dir.path().join("kept")).unwrap();
    let chain = Chain::open(dir.path()).unwrap();
    let before = chain.len().unwrap();
    match chain.append(merged.clone()).unwrap_err() {
        ChainError::Damaged { block, reason: Damage::Payload(_) } => assert_eq!(block, base),
        error => panic!("{error:?}"),
    }
    assert_eq!(chain.len().unwrap(), before);

    std::fs::rename(dir.path().join("kept"), &file).unwrap();
    chain.append(merged).unwrap();
}
