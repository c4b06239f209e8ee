//! One expert changes alone: a new block tried in memory, compared, published, released, rolled back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use crate::checkpoints::{bits, fixture, import_into, imported};
use blyan_core::chat::ChatError;
use blyan_core::format::Change;
use blyan_core::manager::{
    GenerateOptions, ManagerError, ManagerOptions, MoEModelManager, Release, SlotChange, Snapshot, release,
};
use blyan_core::tensor::{quantize, scale_name, write};
use blyan_core::{
    BlockHash, BlockKind, Chain, ChainId, DType, Draft, Parent, ParentRole, Shape, Slot, TensorBlock,
    VerifyOptions,
};
use semver::Version;

const PROMPT: [u32; 4] = [3, 17, 40, 200];

fn options() -> ManagerOptions {
    ManagerOptions { persist_usage: false, threads: Some(2), ..ManagerOptions::default() }
}

fn open(chain: &Chain, model: BlockHash) -> MoEModelManager {
    MoEModelManager::open(chain, &ManagerOptions { model: Some(model), ..options() }).unwrap()
}

fn open_snapshot(chain: &Chain, snapshot: &Snapshot) -> MoEModelManager {
    MoEModelManager::open_snapshot(chain, snapshot.clone(), &options()).unwrap()
}

fn logits(model: &MoEModelManager) -> Vec<u32> {
    bits(&model.logits(&PROMPT).unwrap())
}

/// An expert that the prompt is routed to, and one that it is not.
fn routed_and_not(model: &MoEModelManager) -> (Slot, Slot) {
    let one = GenerateOptions { max_tokens: Some(1), ignore_eos: true, ..GenerateOptions::default() };
    let generation = model.generate(PROMPT, &one).unwrap();
    let used: BTreeSet<Slot> =
        generation.receipt.claim().blocks.keys().map(|name| name.parse().unwrap()).collect();
    let mut experts = model.snapshot().slots().keys().filter(|slot| matches!(slot, Slot::Expert { .. }));
    let routed = *experts.clone().find(|slot| used.contains(slot)).unwrap();
    (routed, *experts.find(|slot| !used.contains(slot)).unwrap())
}

/// Appends a block that takes the place of another, its payload made from the other's.
fn append_changed(
    chain: &Chain,
    before: BlockHash,
    change: impl FnOnce(&TensorBlock) -> Vec<u8>,
) -> BlockHash {
    let old = chain.get(&before).unwrap();
    let header = old.header();
    let payload = change(&TensorBlock::open(chain, &before).unwrap());
    let mut draft = Draft::new(header.lane, header.kind, header.name.as_str(), payload)
        .with_version(Change::Patch.next(&header.version))
        .with_parent(before, ParentRole::Predecessor);
    let specs = header.parents.iter().filter(|parent| parent.role == ParentRole::Dependency);
    draft.parents.extend(specs);
    chain.append(draft).unwrap()
}

/// The expert with the sign of one projection turned.
fn negated(block: &TensorBlock) -> Vec<u8> {
    let tensors: Vec<(&str, DType, &Shape, Vec<u8>)> = block
        .tensors()
        .map(|(name, view)| {
            let mut data = view.data().to_vec();
            if name == "down_proj.weight" {
                assert_eq!(view.dtype(), DType::BF16);
                data.iter_mut().skip(1).step_by(2).for_each(|byte| *byte ^= 0x80);
            }
            (name, view.dtype(), view.shape(), data)
        })
        .collect();
    let tensors: Vec<_> =
        tensors.iter().map(|(name, dtype, shape, data)| (*name, *dtype, *shape, &data[..])).collect();
    write(&tensors).unwrap()
}

/// The expert with all its projections quantized.
fn quantized(block: &TensorBlock) -> Vec<u8> {
    let views: Vec<_> = block.tensors().map(|(_, view)| view).collect();
    let values: Vec<_> = views
        .iter()
        .map(|view| {
            let rows = Shape::new([view.shape().dims()[0], 1]);
            (quantize(DType::I8, view).unwrap(), scale_name(view.name()), rows)
        })
        .collect();
    let tensors: Vec<_> = views
        .iter()
        .zip(&values)
        .flat_map(|(view, (quantized, scale, rows))| {
            [
                (view.name(), DType::I8, view.shape(), &quantized.values[..]),
                (scale.as_str(), DType::F32, rows, &quantized.scales[..]),
            ]
        })
        .collect();
    write(&tensors).unwrap()
}

fn predecessors(chain: &Chain, block: BlockHash) -> Vec<BlockHash> {
    let parents = chain.get(&block).unwrap().header().parents.clone();
    let predecessor = |parent: &Parent| parent.role == ParentRole::Predecessor;
    parents.into_iter().filter(predecessor).map(|parent| parent.hash).collect()
}

#[test]
fn another_expert_changes_what_is_routed_to_it_and_nothing_else() {
    let (chain, model) = imported(&fixture("olmoe"), None);
    let base = Snapshot::of_model(&chain, &model).unwrap();
    let original = open(&chain, model);
    let expected = logits(&original);
    let (routed, unrouted) = routed_and_not(&original);
    for change in [negated, quantized] {
        for (slot, changes_logits) in [(routed, true), (unrouted, false)] {
            let before = base.slots()[&slot].block;
            let after = append_changed(&chain, before, change);
            let candidate = base.with_block(&chain, &after).unwrap();
            let difference = SlotChange { slot, before: Some(before), after: Some(after) };
            assert_eq!(base.diff(&candidate), [difference]);
            assert_eq!(
                candidate.diff(&base),
                [SlotChange { before: Some(after), after: Some(before), slot }]
            );
            assert_eq!(candidate.diff(&candidate), []);
            assert_ne!(candidate.root(), base.root());
            assert_eq!(base.slots()[&slot].block, before, "the base stays as it was");
            let tried = open_snapshot(&chain, &candidate);
            assert_eq!(logits(&tried) != expected, changes_logits, "{slot}");
            assert_eq!(tried.snapshot().root(), candidate.root());

            // Putting the old block back gives the old model, whatever was between.
            let back = candidate.with_block(&chain, &before).unwrap();
            assert_eq!((back.root(), base.diff(&back)), (base.root(), Vec::new()));
            assert_eq!(logits(&open_snapshot(&chain, &back)), expected);
            assert_eq!(back.model_block(&chain).unwrap(), model);
        }
    }
    assert_eq!(chain.blocks_of_kind(BlockKind::MODEL).count(), 1, "nothing was published");
}

#[test]
fn a_published_snapshot_follows_its_base_and_can_be_rolled_back() {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::open(dir.path()).unwrap();
    let first = import_into(&chain, &fixture("olmoe"), None);
    let base = Snapshot::only_model(&chain).unwrap();
    assert_eq!(base.base(), Some(&first));
    assert_eq!(base.publish(&chain).unwrap(), first, "it is its own model block already");
    let original = open(&chain, first);
    let expected = logits(&original);
    let (slot, _) = routed_and_not(&original);
    let before = base.slots()[&slot].block;
    let after = append_changed(&chain, before, negated);
    assert_eq!(predecessors(&chain, after), [before]);
    assert_eq!(*MoEModelManager::open(&chain, &options()).unwrap().model(), first, "a block is no model yet");

    let candidate = base.with_block(&chain, &after).unwrap();
    let tried = open_snapshot(&chain, &candidate);
    let changed = logits(&tried);
    let second = candidate.publish(&chain).unwrap();
    assert_eq!(*tried.model(), second, "a snapshot in memory is called what it is published as");
    let len = chain.len().unwrap();
    assert_eq!(candidate.publish(&chain).unwrap(), second);
    assert_eq!(chain.len().unwrap(), len, "publishing again adds nothing");
    let block = chain.get(&second).unwrap();
    assert_eq!(block.header().version, Version::new(1, 0, 1));
    assert_eq!(predecessors(&chain, second), [first]);
    assert_eq!(chain.payload(&second).unwrap()[..], candidate.manifest().to_canonical_json());

    // Both models are there; the one that nothing follows is the chain's.
    let current = MoEModelManager::open(&chain, &options()).unwrap();
    assert_eq!((*current.model(), logits(&current)), (second, changed.clone()));
    assert_eq!(logits(&open(&chain, first)), expected, "the old one is opened by its name");

    // Rolling back for everybody: the old content as the next model, with all that happened on record.
    let restored = Snapshot::only_model(&chain).unwrap().with_block(&chain, &before).unwrap();
    let third = restored.publish(&chain).unwrap();
    assert!(![first, second].contains(&third));
    assert_eq!(predecessors(&chain, third), [second]);
    assert_eq!(chain.get(&third).unwrap().header().version, Version::new(1, 0, 2));
    let current = MoEModelManager::open(&chain, &options()).unwrap();
    assert_eq!((*current.model(), logits(&current)), (third, expected.clone()));
    assert_eq!(current.snapshot().root(), base.root());

    drop((original, tried, current, chain));
    let chain = Chain::open(dir.path()).unwrap();
    assert!(chain.verify(&VerifyOptions::full()).unwrap().is_ok());
    assert_eq!(logits(&open(&chain, second)), changed);
    assert_eq!(logits(&MoEModelManager::open(&chain, &options()).unwrap()), expected);
}

#[test]
fn two_that_follow_one_model_are_branches() {
    let (chain, model) = imported(&fixture("olmoe"), None);
    let base = Snapshot::of_model(&chain, &model).unwrap();
    let slots = [Slot::Expert { layer: 0, expert: 1 }, Slot::Expert { layer: 1, expert: 2 }];
    let blocks = slots.map(|slot| append_changed(&chain, base.slots()[&slot].block, negated));
    let [left, right] = blocks.map(|block| base.with_block(&chain, &block).unwrap());
    let mut branches = [&left, &right].map(|snapshot| snapshot.publish(&chain).unwrap());
    branches.sort();
    match Snapshot::only_model(&chain).unwrap_err() {
        ManagerError::ManyModels { models } => assert_eq!(models, branches),
        error => panic!("{error:?}"),
    }
    assert_eq!(left.diff(&right).iter().map(|change| change.slot).collect::<Vec<_>>(), slots);
    // In either order, the two changes together are one snapshot.
    let both = left.with_block(&chain, &blocks[1]).unwrap();
    assert_eq!(both.root(), right.with_block(&chain, &blocks[0]).unwrap().root());
}

#[test]
fn a_text_can_be_changed_alone() {
    let (chain, model) = imported(&fixture("llama"), None);
    let base = Snapshot::of_model(&chain, &model).unwrap();
    let template = |text: &str| {
        let name = Slot::ChatTemplate.to_string();
        chain.append(Draft::new(ChainId::Parameter, BlockKind::CHAT_TEMPLATE, name, text)).unwrap()
    };
    let first = base.with_block(&chain, &template("{{ messages[0].content }}")).unwrap();
    let changes = base.diff(&first);
    assert_eq!(changes.iter().map(|c| (c.slot, c.before)).collect::<Vec<_>>(), [(Slot::ChatTemplate, None)]);
    let second = first.with_block(&chain, &template("{{ messages[0].role }}")).unwrap();
    let published = second.publish(&chain).unwrap();
    let messages = [serde_json::json!({"role": "user", "content": "Hello"})];
    let request = blyan_core::manager::chat::ChatRequest { messages: &messages, ..Default::default() };
    for (model, expected) in [(open_snapshot(&chain, &first), "Hello"), (open(&chain, published), "user")] {
        assert_eq!(model.chat_prompt(&request).unwrap(), expected);
    }
    // One that does not compile once made the whole model unopenable.
    let broken = second.with_block(&chain, &template("{% if %}")).unwrap();
    let model = open(&chain, broken.publish(&chain).unwrap());
    assert_eq!(logits(&model), logits(&open_snapshot(&chain, &base)));
    for error in [
        model.chat_prompt(&request).unwrap_err(),
        model.chat(&request, &GenerateOptions::default()).unwrap_err(),
    ] {
        assert!(matches!(error, ManagerError::Chat(ChatError::Syntax { line: 1, .. })), "{error:?}");
    }
}

#[test]
fn blocks_that_belong_elsewhere_are_refused() {
    let (chain, model) = imported(&fixture("olmoe"), None);
    let other = import_into(&chain, &fixture("mixtral"), None);
    let base = Snapshot::of_model(&chain, &model).unwrap();
    let other = Snapshot::of_model(&chain, &other).unwrap();
    let slot = Slot::Expert { layer: 0, expert: 0 };
    let foreign = other.slots()[&slot].block;
    match base.with_block(&chain, &foreign).unwrap_err() {
        ManagerError::OtherSpec { block, spec } => assert_eq!((block, spec), (foreign, *base.spec_block())),
        error => panic!("{error:?}"),
    }
    let refused = |block: &BlockHash| base.with_block(&chain, block).unwrap_err();
    assert!(matches!(refused(&model), ManagerError::SlotName(_)));
    assert!(matches!(refused(&BlockHash::from_bytes([7; 32])), ManagerError::Chain(_)));
    let disguised = Draft::new(ChainId::Dataset, BlockKind(0x4001), slot.to_string(), b"weights".to_vec())
        .with_parent(*base.spec_block(), ParentRole::Dependency);
    let disguised = chain.append(disguised).unwrap();
    assert!(matches!(refused(&disguised), ManagerError::WrongBlock { block, .. } if block == disguised));
    for block in [*base.spec_block(), base.slots()[&slot].block] {
        let error = Snapshot::of_model(&chain, &block).unwrap_err();
        assert!(matches!(error, ManagerError::NotAModel { block: named, .. } if named == block), "{error:?}");
    }
}

#[test]
fn what_is_called_a_model_and_is_none_is_no_model() {
    let (chain, model) = imported(&fixture("llama"), None);
    let note = Draft::new(ChainId::Dataset, BlockKind(0x4001), "model", b"notes about it".to_vec());
    chain.append(note.clone()).unwrap();
    // Not even one that says to follow it.
    chain.append(note.clone().with_parent(model, ParentRole::Predecessor)).unwrap();
    assert_eq!(Snapshot::only_model(&chain).unwrap().base(), Some(&model));
    // Nor does it bring back a model that another one follows.
    let base = Snapshot::of_model(&chain, &model).unwrap();
    let slot = Slot::Expert { layer: 0, expert: 0 };
    let changed = append_changed(&chain, base.slots()[&slot].block, negated);
    let second = base.with_block(&chain, &changed).unwrap().publish(&chain).unwrap();
    assert_eq!(Snapshot::only_model(&chain).unwrap().base(), Some(&second));
}

#[test]
fn a_release_names_a_model() {
    let (chain, model) = imported(&fixture("llama"), None);
    let block = release(&chain, &model, "tiny", Version::new(1, 2, 0)).unwrap();
    let stored = chain.get(&block).unwrap();
    let header = stored.header();
    assert_eq!((header.lane, header.kind), (ChainId::Meta, BlockKind::RELEASE));
    assert_eq!((header.name.as_str(), &header.version), ("tiny", &Version::new(1, 2, 0)));
    assert_eq!(header.parents, [Parent { hash: model, role: ParentRole::Dependency }]);
    let content: Release = serde_json::from_slice(&chain.payload(&block).unwrap()).unwrap();
    assert_eq!(content, Release { release_version: 1, model });
    assert_eq!(release(&chain, &model, "tiny", Version::new(1, 2, 0)).unwrap(), block, "the same release");
    assert_ne!(release(&chain, &model, "tiny", Version::new(1, 3, 0)).unwrap(), block);
    assert_eq!(Snapshot::only_model(&chain).unwrap().base(), Some(&model), "a release is no model");

    let error = release(&chain, &block, "tiny", Version::new(1, 2, 0)).unwrap_err();
    assert!(matches!(error, ManagerError::NotAModel { block: named, .. } if named == block), "{error:?}");
    let error = release(&chain, &model, "Not a name", Version::new(1, 2, 0)).unwrap_err();
    assert!(matches!(error, ManagerError::Chain(_)), "{error:?}");
}

#[test]
fn many_that_say_to_follow_a_model_are_looked_at_once() {
    let chain = Chain::in_memory().unwrap();
    let model = import_into(&chain, &fixture("olmoe"), None);
    let mut writer = chain.writer().unwrap();
    // A look at all of them for each of them is nine million blocks.
    for number in 0..3000_u32 {
        let draft = Draft::new(ChainId::Meta, BlockKind(0x4001), "model", number.to_le_bytes())
            .with_parent(model, ParentRole::Predecessor);
        writer.append(draft).unwrap();
    }
    writer.commit().unwrap();
    let start = std::time::Instant::now();
    assert_eq!(*Snapshot::only_model(&chain).unwrap().base().unwrap(), model);
    assert!(start.elapsed().as_secs() < 20);
}
