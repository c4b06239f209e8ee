//! Versions, releases and history: which block may follow which, and what models are called.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use crate::checkpoints::{bits, fixture, import_into, imported};
use blyan_core::chain::ChainError;
use blyan_core::dtype::GROUP;
use blyan_core::format::{Change, FeedForward, Migration};
use blyan_core::manager::{
    CompareOptions, LayerGrowth, ManagerError, ManagerOptions, MoEModelManager, Release, Snapshot, compare,
    find_block, find_model, find_release, grow, lineage, migrate, release, releases, rollback,
    rollback_block,
};
use blyan_core::tensor::{quantize, scale_name, write};
use blyan_core::{
    Block, BlockHash, BlockKind, Chain, ChainId, DType, Draft, Manifest, ModelSpec, Parent, ParentRole,
    Shape, Slot, TensorBlock, VerifyOptions,
};
use semver::Version;

const PROMPT: [u32; 4] = [3, 17, 40, 200];
const EXPERT: Slot = Slot::Expert { layer: 0, expert: 1 };

fn options() -> ManagerOptions {
    ManagerOptions { persist_usage: false, threads: Some(2), ..ManagerOptions::default() }
}

fn logits(chain: &Chain, options: &ManagerOptions) -> Vec<u32> {
    bits(&MoEModelManager::open(chain, options).unwrap().logits(&PROMPT).unwrap())
}

fn version(text: &str) -> Version {
    text.parse().unwrap()
}

/// A draft that takes the place of a block, with another payload and the next patch version.
fn following(chain: &Chain, before: BlockHash, payload: Vec<u8>) -> Draft {
    let old = chain.get(&before).unwrap();
    let header = old.header();
    let mut draft = Draft::new(header.lane, header.kind, header.name.as_str(), payload)
        .with_version(Change::Patch.next(&header.version))
        .with_parent(before, ParentRole::Predecessor);
    let dependencies = header.parents.iter().filter(|parent| parent.role == ParentRole::Dependency);
    draft.parents.extend(dependencies);
    draft
}

/// A weight payload with each BF16 element of one tensor changed.
fn edited(block: &TensorBlock, tensor: &str, change: impl Fn(usize, u16) -> u16) -> Vec<u8> {
    let tensors: Vec<(&str, DType, &Shape, Vec<u8>)> = block
        .tensors()
        .map(|(name, view)| {
            let mut data = view.data().to_vec();
            if name == tensor {
                assert_eq!(view.dtype(), DType::BF16);
                for (at, bytes) in data.chunks_exact_mut(2).enumerate() {
                    let value = change(at, u16::from_le_bytes([bytes[0], bytes[1]]));
                    bytes.copy_from_slice(&value.to_le_bytes());
                }
            }
            (name, view.dtype(), view.shape(), data)
        })
        .collect();
    let tensors: Vec<_> =
        tensors.iter().map(|(name, dtype, shape, data)| (*name, *dtype, *shape, &data[..])).collect();
    write(&tensors).unwrap()
}

fn negated(chain: &Chain, block: &BlockHash) -> Vec<u8> {
    edited(&TensorBlock::open(chain, block).unwrap(), "down_proj.weight", |_, value| value ^ 0x8000)
}

/// A model and one more of the same line, in which one expert is another.
fn two_models(chain: &Chain, first: BlockHash) -> (Snapshot, Snapshot, BlockHash) {
    let base = Snapshot::of_model(chain, &first).unwrap();
    let before = base.slots()[&EXPERT].block;
    let after = chain.append(following(chain, before, negated(chain, &before))).unwrap();
    let second = base.with_block(chain, &after).unwrap().publish(chain).unwrap();
    (base, Snapshot::of_model(chain, &second).unwrap(), after)
}

#[track_caller]
fn refused(chain: &Chain, draft: Draft, expected: &str) {
    let before = (chain.len().unwrap(), chain.root().unwrap());
    match chain.append(draft).unwrap_err() {
        ChainError::Refused { source, .. } => {
            let found = format!("{source:?}");
            assert!(found.contains(expected), "{found}");
            assert!(!source.to_string().is_empty());
        }
        error => panic!("{error:?}"),
    }
    assert_eq!((chain.len().unwrap(), chain.root().unwrap()), before, "nothing changed");
}

fn hashes(blocks: &[Block]) -> Vec<BlockHash> {
    blocks.iter().map(Block::hash).collect()
}

#[test]
fn a_weight_block_says_what_it_follows_and_how_far_it_is() {
    let (chain, model) = imported(&fixture("olmoe"), None);
    let base = Snapshot::of_model(&chain, &model).unwrap();
    let [first, other] = [EXPERT, Slot::Expert { layer: 0, expert: 2 }].map(|slot| base.slots()[&slot].block);
    let good = following(&chain, first, negated(&chain, &first));
    for forged in ["1.0.0", "0.9.0", "1.0.0-rc.1", "1.1.0", "2.0.0", "1.1.0-rc.1", "7.0.0"] {
        refused(&chain, good.clone().with_version(version(forged)), "VersionStep");
    }
    let unparented = |draft: &Draft| {
        let mut draft = draft.clone();
        draft.parents.retain(|parent| parent.role != ParentRole::Predecessor);
        draft
    };
    refused(&chain, unparented(&good), "FirstVersion");
    refused(&chain, good.clone().with_parent(other, ParentRole::Predecessor), "Predecessors { found: 2 }");
    let elsewhere = unparented(&good).with_parent(other, ParentRole::Predecessor);
    refused(&chain, elsewhere, "Predecessor { block");
    let router = base.slots()[&Slot::Router { layer: 0 }].block;
    refused(&chain, unparented(&good).with_parent(router, ParentRole::Predecessor), "Predecessor { block");
    // A block of another spec with the same shapes is not what it follows.
    let twin = import_into(&chain, &fixture("mixtral"), None);
    let twin = Snapshot::of_model(&chain, &twin).unwrap().slots()[&EXPERT].block;
    let strange = unparented(&good).with_parent(twin, ParentRole::Predecessor);
    for forged in ["1.0.1", "1.1.0", "2.0.0"] {
        refused(&chain, strange.clone().with_version(version(forged)), "UnrelatedSpec");
    }

    let second = chain.append(good.clone().with_version(version("1.0.1-rc.1"))).unwrap();
    let back = chain.payload(&first).unwrap().to_vec();
    let third = chain.append(following(&chain, second, back)).unwrap();
    assert_eq!(chain.get(&third).unwrap().header().version, version("1.0.2"));
    assert_eq!(hashes(&lineage(&chain, &third).unwrap()), [third, second, first]);
    assert!(chain.verify(&VerifyOptions::full()).unwrap().is_ok());
}

#[test]
fn a_model_says_what_it_follows_and_how_far_it_is() {
    let (chain, model) = imported(&fixture("olmoe"), None);
    let (base, second, _) = two_models(&chain, model);
    let header = chain.get(second.base().unwrap()).unwrap().header().clone();
    assert_eq!(header.version, version("1.0.1"));
    let draft = |snapshot: &Snapshot, of: &str, before: Option<BlockHash>| {
        let manifest = snapshot.manifest();
        let mut draft = Draft::new(ChainId::Meta, BlockKind::MODEL, "model", manifest.to_canonical_json())
            .with_version(version(of))
            .with_parent(manifest.spec, ParentRole::Dependency);
        draft.parents.extend(manifest.slots.values().map(|block| Parent::dependency(*block)));
        draft.parents.extend(before.map(Parent::predecessor));
        draft
    };
    for forged in ["1.0.0", "1.0.1", "1.1.0", "2.0.0"] {
        refused(&chain, draft(&base, forged, second.base().copied()), "VersionStep");
    }
    refused(&chain, draft(&second, "3.0.0", None), "FirstVersion");
    let expert = base.slots()[&EXPERT].block;
    refused(&chain, draft(&second, "1.0.1", Some(expert)), "Predecessor { block");
    let changed = second.slots()[&EXPERT].block;
    refused(&chain, draft(&base, "1.0.1", Some(changed)), "Predecessor { block");

    // A text more is a minor change, a text less a major one.
    let template =
        Draft::new(ChainId::Parameter, BlockKind::CHAT_TEMPLATE, "chat_template", "{{ messages }}");
    let template = chain.append(template).unwrap();
    let third = second.with_block(&chain, &template).unwrap();
    refused(&chain, draft(&third, "1.0.2", second.base().copied()), "change: Minor");
    let third = third.publish(&chain).unwrap();
    assert_eq!(chain.get(&third).unwrap().header().version, version("1.1.0"));
    refused(&chain, draft(&second, "1.2.0", Some(third)), "change: Major");
    let fourth = rollback(&chain, &third, second.base().unwrap(), "no chats").unwrap();
    assert_eq!(chain.get(&fourth).unwrap().header().version, version("2.0.0"));
    assert_eq!(Snapshot::only_model(&chain).unwrap().root(), second.root());
    assert_eq!(
        hashes(&lineage(&chain, &fourth).unwrap()),
        [fourth, third, *second.base().unwrap(), *base.base().unwrap()]
    );
}

/// The payloads for one more expert in layer 0: a copy of an expert, and a router with its row twice.
fn one_expert_more(chain: &Chain, base: &Snapshot) -> LayerGrowth {
    let block = TensorBlock::open(chain, &base.slots()[&Slot::Router { layer: 0 }].block).unwrap();
    let gate = block.tensor("gate.weight").unwrap();
    let [rows, cols] = *gate.shape().dims() else { panic!("a router is a matrix") };
    let mut data = gate.data().to_vec();
    data.extend_from_slice(gate.rows().nth(1).unwrap());
    let router = write(&[("gate.weight", gate.dtype(), &Shape::new([rows + 1, cols]), &data)]).unwrap();
    let expert = chain.payload(&base.slots()[&EXPERT].block).unwrap().to_vec();
    LayerGrowth { layer: 0, experts: vec![expert], router }
}

#[test]
fn a_model_grows_without_copying_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::open(dir.path()).unwrap();
    let model = import_into(&chain, &fixture("olmoe"), None);
    let base = Snapshot::of_model(&chain, &model).unwrap();
    let files = || walk(&dir.path().join("payloads"));
    let before = files();
    let growth = one_expert_more(&chain, &base);
    let grown = grow(&chain, &base, std::slice::from_ref(&growth)).unwrap();
    assert_eq!(files() - before, 1, "one payload is new: the router's; the expert's is a copy");

    let count = |spec: &ModelSpec| match spec.layers[0].feed_forward {
        FeedForward::Moe { num_experts, .. } => num_experts,
        FeedForward::Dense { .. } => panic!("dense"),
    };
    assert_eq!(count(grown.spec()), count(base.spec()) + 1);
    assert_eq!(chain.get(grown.spec_block()).unwrap().header().version, version("1.1.0"));
    let added = Slot::Expert { layer: 0, expert: count(base.spec()) as u32 };
    for (slot, pinned) in grown.slots() {
        let header = chain.get(&pinned.block).unwrap().header().clone();
        assert!(header.to_bytes().unwrap().len() < 400, "what a block costs that did not change");
        let old = base.slots().get(slot);
        assert_eq!(old.is_none(), *slot == added);
        if slot.kind().is_weights() {
            assert_eq!(header.version, version(if old.is_none() { "1.0.0" } else { "1.1.0" }));
        }
        let changed = [added, Slot::Router { layer: 0 }].contains(slot);
        assert_eq!(old.map(|old| old.payload) == Some(pinned.payload), !changed, "{slot}");
    }
    let next = grown.publish(&chain).unwrap();
    assert_eq!(chain.get(&next).unwrap().header().version, version("1.1.0"));
    assert_eq!(Snapshot::only_model(&chain).unwrap().base(), Some(&next));
    let diff = compare(&chain, &base, &grown, &CompareOptions::default()).unwrap();
    assert_eq!(diff.slots.iter().filter(|slot| !slot.same_payload).count(), 2);
    assert_eq!(diff.new_payload_bytes, growth.router.len() as u64);
    // It runs, and is another model: a token may now choose the copy.
    assert_ne!(
        logits(&chain, &ManagerOptions { model: Some(next), ..options() }),
        logits(&chain, &ManagerOptions { model: Some(model), ..options() })
    );

    // What does not grow, or not only that.
    for bad in
        [LayerGrowth { layer: 99, ..growth.clone() }, LayerGrowth { experts: Vec::new(), ..growth.clone() }]
    {
        assert!(matches!(grow(&chain, &base, &[bad]), Err(ManagerError::NotGrowing { .. })));
    }
    let twice = [growth.clone(), growth.clone()];
    assert!(matches!(grow(&chain, &base, &twice), Err(ManagerError::NotGrowing { layer: 0 })));
    let len = chain.len().unwrap();
    let old_router = chain.payload(&base.slots()[&Slot::Router { layer: 0 }].block).unwrap().to_vec();
    let error = grow(&chain, &base, &[LayerGrowth { router: old_router, ..growth }]).unwrap_err();
    assert!(matches!(error, ManagerError::Chain(ChainError::Refused { .. })), "{error:?}");
    assert_eq!(chain.len().unwrap(), len, "nothing by halves");

    let spec = |change: &dyn Fn(&mut ModelSpec), of: &str| {
        let mut changed = (**base.spec()).clone();
        change(&mut changed);
        Draft::new(ChainId::Meta, BlockKind::SPEC, "spec", changed.to_canonical_json())
            .with_version(version(of))
            .with_parent(*base.spec_block(), ParentRole::Predecessor)
    };
    let add = |spec: &mut ModelSpec| {
        let FeedForward::Moe { num_experts, .. } = &mut spec.layers[1].feed_forward else { panic!("dense") };
        *num_experts += 2;
    };
    refused(&chain, spec(&|_| {}, "1.1.0"), "NotGrown");
    refused(&chain, spec(&|spec| spec.rms_norm_eps *= 2.0, "1.1.0"), "NotGrown");
    refused(&chain, spec(&|spec| (add(spec), spec.rms_norm_eps *= 2.0).1, "1.1.0"), "NotGrown");
    refused(&chain, spec(&add, "1.0.1"), "change: Minor");
    refused(&chain, spec(&add, "2.0.0"), "change: Minor");
    let mut based = spec(&add, "1.1.0");
    based.parents.push(Parent::dependency(model));
    refused(&chain, based, "UnexpectedParent");
    // A re-headed block does not say patch, nor does the model.
    let draft = |of: &str| {
        let payload = chain.payload(&base.slots()[&EXPERT].block).unwrap().to_vec();
        Draft::new(ChainId::Parameter, BlockKind::EXPERT, EXPERT.to_string(), payload)
            .with_version(version(of))
            .with_parent(*grown.spec_block(), ParentRole::Dependency)
            .with_parent(base.slots()[&EXPERT].block, ParentRole::Predecessor)
    };
    refused(&chain, draft("1.0.1"), "change: Minor");
    refused(&chain, draft("2.0.0"), "change: Minor");
    // Growing again goes on from there; going back needs no reason of its own to be kept, but has one.
    let grown = Snapshot::of_model(&chain, &next).unwrap();
    let more = grow(&chain, &grown, &[one_expert_more(&chain, &grown)]).unwrap().publish(&chain).unwrap();
    assert_eq!(chain.get(&more).unwrap().header().version, version("1.2.0"));
    let planned = rollback_block(&chain, &more, &model, "too many experts").unwrap();
    assert!(!chain.contains(&planned).unwrap());
    let back = rollback(&chain, &more, &model, "too many experts").unwrap();
    assert_eq!(back, planned);
    assert_eq!(chain.get(&back).unwrap().header().version, version("2.0.0"));
    assert_eq!(Snapshot::only_model(&chain).unwrap().root(), base.root());
    assert_eq!(chain.blocks_of_kind(BlockKind::MIGRATION).count(), 1);
    assert!(chain.verify(&VerifyOptions::full()).unwrap().is_ok());
}

fn walk(dir: &std::path::Path) -> usize {
    let folders = std::fs::read_dir(dir).unwrap().map(|folder| folder.unwrap().path());
    folders.map(|folder| std::fs::read_dir(folder).unwrap().count()).sum()
}

#[test]
fn another_architecture_follows_by_a_migration() {
    let (chain, old) = imported(&fixture("olmoe"), None);
    let new = import_into(&chain, &fixture("qwen3_moe"), None);
    let [before, after] = [&old, &new].map(|model| Snapshot::of_model(&chain, model).unwrap());
    let migration = |change: &dyn Fn(&mut Migration)| {
        let mut migration = Migration {
            migration_version: 1,
            from: old,
            from_spec: *before.spec_block(),
            to_spec: *after.spec_block(),
            reason: "heads of their own norm".to_owned(),
        };
        change(&mut migration);
        let named = BTreeSet::from([migration.from, migration.from_spec, migration.to_spec]);
        let mut draft =
            Draft::new(ChainId::Meta, BlockKind::MIGRATION, "migration", migration.to_canonical_json());
        draft.parents.extend(named.into_iter().map(Parent::dependency));
        draft
    };
    let good = migration(&|_| {});
    for (draft, expected) in [
        (migration(&|m| m.reason = String::new()), "reason"),
        (migration(&|m| m.reason = "x".repeat(1025)), "reason"),
        (migration(&|m| m.reason = "a\nb".to_owned()), "reason"),
        (migration(&|m| m.migration_version = 2), "migration_version"),
        (migration(&|m| m.to_spec = m.from_spec), "to_spec"),
        (migration(&|m| m.from = m.from_spec), "OtherKind"),
        (migration(&|m| m.to_spec = new), "OtherKind"),
        (migration(&|m| m.from = new), "UnrelatedSpec"),
        (good.clone().with_version(version("1.0.1")), "FirstVersion"),
        (good.clone().with_parent(new, ParentRole::Dependency), "Dependencies"),
        (good.clone().with_parent(new, ParentRole::Evidence), "UnexpectedParent"),
        (Draft { parents: good.parents[1..].to_vec(), ..good.clone() }, "Dependencies"),
        (Draft { payload: [&good.payload[..], b" "].concat(), ..good.clone() }, "NotCanonical"),
        (Draft { payload: b"{}".to_vec(), ..good.clone() }, "Json"),
        (Draft { name: "why".to_owned(), ..good.clone() }, "Name"),
        (Draft { lane: ChainId::Dataset, ..good.clone() }, "Lane"),
    ] {
        refused(&chain, draft, expected);
    }

    let model = |of: &str, evidence: Option<BlockHash>| {
        let stored = chain.get(&new).unwrap();
        let header = stored.header();
        let mut draft = Draft::new(header.lane, header.kind, "model", chain.payload(&new).unwrap().to_vec())
            .with_version(version(of))
            .with_parent(old, ParentRole::Predecessor);
        draft.parents.extend(&header.parents);
        draft.parents.extend(evidence.map(|hash| Parent { hash, role: ParentRole::Evidence }));
        draft
    };
    refused(&chain, model("2.0.0", None), "UnrelatedSpec");
    let moved = migrate(&chain, &old, &new, "heads of their own norm").unwrap();
    let written = chain.append(good).unwrap();
    assert!(chain.get(&moved).unwrap().header().parents.iter().any(|parent| parent.hash == written));
    assert_eq!(chain.get(&moved).unwrap().header().version, version("2.0.0"));
    for forged in ["1.0.1", "1.1.0"] {
        refused(&chain, model(forged, Some(written)), "change: Major");
    }
    // A migration of another model says nothing.
    let (_, second, _) = two_models(&chain, old);
    let other = migration(&|m| m.from = *second.base().unwrap());
    let other = chain.append(other).unwrap();
    refused(&chain, model("2.0.0", Some(other)), "UnrelatedSpec");
    assert_eq!(Snapshot::of_model(&chain, &moved).unwrap().root(), after.root());
    assert_eq!(hashes(&lineage(&chain, &moved).unwrap()), [moved, old]);
    let error = migrate(&chain, &old, &new, "").unwrap_err();
    assert!(matches!(error, ManagerError::Chain(ChainError::Refused { .. })), "{error:?}");
}

#[test]
fn releases_are_names_with_an_order() {
    let (chain, first) = imported(&fixture("olmoe"), None);
    let (_, second, _) = two_models(&chain, first);
    let second = *second.base().unwrap();
    let one = release(&chain, &first, "tiny", version("1.0.0")).unwrap();
    let two = release(&chain, &second, "tiny", version("1.0.1")).unwrap();
    let ten = release(&chain, &first, "tiny", version("1.10.0")).unwrap();
    let beta = release(&chain, &second, "tiny", version("1.10.0-beta")).unwrap();
    let other = release(&chain, &first, "other", version("0.1.0")).unwrap();
    let listed: Vec<_> =
        releases(&chain).unwrap().into_iter().map(|r| (r.block, r.model, r.predecessor)).collect();
    assert_eq!(
        listed,
        [
            (other, first, None),
            (ten, first, Some(two)),
            (beta, second, Some(two)),
            (two, second, Some(one)),
            (one, first, None)
        ]
    );
    assert_eq!(release(&chain, &second, "tiny", version("1.0.1")).unwrap(), two, "the same release");
    let found = |model: &BlockHash, of: &str| find_release(&chain, model, "tiny", &version(of));
    assert_eq!(found(&second, "1.0.1").unwrap(), Some(two));
    assert_eq!(found(&second, "1.0.2").unwrap(), None);
    let taken = release(&chain, &first, "tiny", version("1.0.1")).unwrap_err();
    for error in [taken, found(&first, "1.0.1").unwrap_err()] {
        match error {
            ManagerError::ReleaseExists { model, .. } => assert_eq!(model, second),
            error => panic!("{error:?}"),
        }
    }

    // Whoever is about to give another model the name and version was first.
    let payload = Release { release_version: 1, model: second }.to_canonical_json();
    let draft = Draft::new(ChainId::Meta, BlockKind::RELEASE, "raced", payload)
        .with_version(version("1.0.0"))
        .with_parent(second, ParentRole::Dependency);
    let mut writer = chain.writer().unwrap();
    writer.append(draft).unwrap();
    let late = std::thread::scope(|scope| {
        let late = scope.spawn(|| release(&chain, &first, "raced", version("1.0.0")));
        std::thread::sleep(std::time::Duration::from_millis(50));
        writer.commit().unwrap();
        late.join().unwrap().unwrap_err()
    });
    assert!(matches!(late, ManagerError::ReleaseExists { model, .. } if model == second), "{late:?}");

    let model = |name: &str| find_model(&chain, name);
    for (name, expected) in [
        ("tiny", first),
        ("tiny@1.0.1", second),
        ("tiny@1.10.0-beta", second),
        ("other", first),
        ("latest", second),
        (&first.to_string(), first),
        (&second.to_string()[..20], second),
        (&two.to_string(), second),
    ] {
        assert_eq!(model(name).unwrap(), expected, "{name}");
    }
    for name in ["", "tin", "tiny@1.0", "tiny@2.0.0", "latest@1.0.0", &"0".repeat(64), "é", "tiny@"] {
        assert!(matches!(model(name), Err(ManagerError::UnknownName { .. })), "{name}");
    }
    let block = |name: &str, of: Option<&str>| find_block(&chain, name, of);
    assert_eq!(block("tiny", None).unwrap(), ten);
    let [old, new] =
        [first, second].map(|model| Snapshot::of_model(&chain, &model).unwrap().slots()[&EXPERT].block);
    assert_eq!(block("layer0.expert1", None).unwrap(), new);
    assert_eq!(block("layer0.expert1", Some("tiny@1.0.0")).unwrap(), old);
    assert!(matches!(block("layer0.expert99", None), Err(ManagerError::EmptySlot { .. })));
    assert!(matches!(model(&old.to_string()), Err(ManagerError::NotAModel { .. })));

    // A manager opens any of them.
    let opened = |name: &str| {
        let options = ManagerOptions { name: Some(name.to_owned()), ..options() };
        *MoEModelManager::open(&chain, &options).unwrap().model()
    };
    assert_eq!((opened("latest"), opened("tiny"), opened("tiny@1.0.1")), (second, first, second));
    let both = ManagerOptions { name: Some("tiny".to_owned()), model: Some(first), ..options() };
    assert!(matches!(MoEModelManager::open(&chain, &both), Err(ManagerError::NamedTwice)));

    // Forged ones.
    let draft = |change: &dyn Fn(&mut Draft)| {
        let payload = Release { release_version: 1, model: second }.to_canonical_json();
        let mut draft = Draft::new(ChainId::Meta, BlockKind::RELEASE, "tiny", payload)
            .with_version(version("1.0.5"))
            .with_parent(second, ParentRole::Dependency)
            .with_parent(two, ParentRole::Predecessor);
        change(&mut draft);
        draft
    };
    refused(&chain, draft(&|d| d.version = version("1.0.1")), "NotLater");
    refused(&chain, draft(&|d| d.version = version("0.9.0")), "NotLater");
    refused(&chain, draft(&|d| d.parents[1].hash = other), "Predecessor { block");
    refused(&chain, draft(&|d| d.parents.push(Parent::predecessor(one))), "Predecessors { found: 2 }");
    refused(&chain, draft(&|d| d.parents[0].hash = first), "Dependencies");
    refused(&chain, draft(&|d| _ = d.parents.remove(0)), "Dependencies");
    refused(&chain, draft(&|d| d.parents.push(Parent::dependency(first))), "Dependencies");
    refused(&chain, draft(&|d| d.name = "latest".to_owned()), "Name");
    refused(&chain, draft(&|d| d.name = "layer0.expert1".to_owned()), "Name");
    refused(&chain, draft(&|d| d.payload.push(b' ')), "NotCanonical");
    refused(&chain, draft(&|d| d.payload = b"{\"release_version\":1}".to_vec()), "Json");
    refused(&chain, draft(&|d| d.lane = ChainId::Parameter), "Lane");
    let of_expert = Release { release_version: 1, model: old }.to_canonical_json();
    refused(&chain, draft(&|d| (d.parents[0].hash, d.payload) = (old, of_expert.clone())), "OtherKind");
    chain.append(draft(&|_| {})).unwrap();

    // Two models that two people released under one name and version.
    let rival = Release { release_version: 1, model: first }.to_canonical_json();
    let rival = draft(&|d| (d.parents[0].hash, d.payload) = (first, rival.clone()));
    chain.append(rival).unwrap();
    match model("tiny@1.0.5").unwrap_err() {
        ManagerError::AmbiguousName { candidates, .. } => assert_eq!(candidates.len(), 2),
        error => panic!("{error:?}"),
    }
    // And a name that is the start of a hash.
    let short = &second.to_string()[..8];
    release(&chain, &first, short, version("1.0.0")).unwrap();
    assert!(matches!(model(short), Err(ManagerError::AmbiguousName { .. })));
}

#[test]
fn candidates_are_laid_over_a_model() {
    let (chain, model) = imported(&fixture("olmoe"), None);
    let base = Snapshot::of_model(&chain, &model).unwrap();
    let before = base.slots()[&EXPERT].block;
    let candidate = chain.append(following(&chain, before, negated(&chain, &before))).unwrap();
    let len = chain.len().unwrap();
    let overlaid = ManagerOptions { overlay: vec![candidate], ..options() };
    let expected = base.with_block(&chain, &candidate).unwrap();
    let manager = MoEModelManager::open(&chain, &overlaid).unwrap();
    assert_eq!(manager.snapshot().root(), expected.root());
    assert_eq!(*manager.model(), expected.model_block(&chain).unwrap());
    let twice = ManagerOptions { overlay: vec![candidate, before], ..options() };
    let error = MoEModelManager::open(&chain, &twice).unwrap_err();
    assert!(matches!(error, ManagerError::OverlaidTwice { slot: EXPERT }), "{error:?}");
    assert_eq!(chain.len().unwrap(), len, "nothing was appended");

    // What it wrote can be checked by who lays the same block over, and by all once it is published.
    let generation = manager.generate(
        PROMPT,
        &blyan_core::manager::GenerateOptions { max_tokens: Some(3), ..Default::default() },
    );
    let receipt = generation.unwrap().receipt;
    assert!(receipt.replay(&chain, &overlaid).unwrap().is_ok());
    assert!(!receipt.replay(&chain, &options()).unwrap().is_ok());
    expected.publish(&chain).unwrap();
    assert!(receipt.replay(&chain, &options()).unwrap().is_ok());
}

#[test]
fn going_back_is_a_step_forward() {
    let (chain, first) = imported(&fixture("olmoe"), None);
    let (base, second, _) = two_models(&chain, first);
    let second = *second.base().unwrap();
    let planned = rollback_block(&chain, &second, &first, "it was worse").unwrap();
    let third = rollback(&chain, &second, &first, "it was worse").unwrap();
    assert_eq!(third, planned);
    assert_eq!(rollback_block(&chain, &third, &first, "again").unwrap(), third);
    assert_eq!(Snapshot::of_model(&chain, &third).unwrap().root(), base.root());
    assert_eq!(chain.get(&third).unwrap().header().version, version("1.0.2"));
    assert_eq!(hashes(&lineage(&chain, &third).unwrap()), [third, second, first]);
    assert_eq!(chain.blocks_of_kind(BlockKind::MIGRATION).count(), 0, "the architecture is the same");
    assert_eq!(rollback(&chain, &third, &first, "again").unwrap(), third, "there is nothing to do");
    let other = import_into(&chain, &fixture("mixtral"), None);
    let error = rollback(&chain, &third, &other, "no").unwrap_err();
    assert!(matches!(error, ManagerError::NotInHistory { model, of } if (model, of) == (other, third)));
    let error = rollback(&chain, &first, &second, "forward").unwrap_err();
    assert!(matches!(error, ManagerError::NotInHistory { .. }), "{error:?}");
}

/// Values times scales, by their definition.
fn dequantized(block: &TensorBlock, name: &str) -> Vec<f64> {
    let view = block.tensor(name).unwrap();
    let cols = *view.shape().dims().last().unwrap();
    let scale = block.scale(name);
    (0..view.len())
        .map(|at| {
            let value = f64::from(view.get_f32(at).unwrap());
            let (row, col) = (at / cols, at % cols);
            let scale = scale.map(|scale| match view.dtype() {
                DType::I4 => scale.get_f32(row * (cols / GROUP) + col / GROUP).unwrap(),
                _ => scale.get_f32(row).unwrap(),
            });
            value * scale.map_or(1.0, f64::from)
        })
        .collect()
}

#[test]
fn a_diff_tells_slots_bytes_and_how_far_weights_moved() {
    let (chain, model) = imported(&fixture("olmoe"), None);
    let base = Snapshot::of_model(&chain, &model).unwrap();
    let before = base.slots()[&EXPERT].block;
    let old = TensorBlock::open(&chain, &before).unwrap();
    // One element doubled, by its exponent.
    let payload = edited(&old, "up_proj.weight", |at, value| if at == 7 { value + 0x80 } else { value });
    let len = payload.len() as u64;
    let patched = chain.append(following(&chain, before, payload)).unwrap();
    let after = base.with_block(&chain, &patched).unwrap();
    let options = CompareOptions { distances: true, ..CompareOptions::default() };
    let diff = compare(&chain, &base, &after, &options).unwrap();
    assert_eq!((diff.before, diff.after), (base.root(), after.root()));
    assert_eq!((diff.slots.len(), diff.new_payload_bytes, diff.loss), (1, len, None));
    let slot = &diff.slots[0];
    assert_eq!((slot.slot, slot.before.unwrap().block, slot.after.unwrap().block), (EXPERT, before, patched));
    let [tensor] = &slot.tensors[..] else { panic!("{:?}", slot.tensors) };
    let moved = f64::from(old.tensor("up_proj.weight").unwrap().get_f32(7).unwrap()).abs();
    let distance = tensor.distance.unwrap();
    assert_eq!((tensor.name.as_str(), distance.norm, distance.max_abs), ("up_proj.weight", moved, moved));

    // Quantized, against plain sums over the whole tensor.
    for dtype in [DType::I8, DType::F8E4M3, DType::I4] {
        let mut tensors = Vec::new();
        for (name, view) in old.tensors() {
            let Ok(quantized) = quantize(dtype, &view) else { continue };
            let dims = view.shape().dims();
            let scales = match dtype {
                DType::I4 => (DType::BF16, Shape::new([dims[0], dims[1] / GROUP])),
                _ => (DType::F32, Shape::new([dims[0], 1])),
            };
            tensors.push((name.to_owned(), dtype, view.shape().clone(), quantized.values));
            tensors.push((scale_name(name), scales.0, scales.1, quantized.scales));
        }
        if tensors.len() != 6 {
            assert_eq!(dtype, DType::I4, "not every width has whole groups");
            continue;
        }
        let views: Vec<_> =
            tensors.iter().map(|(name, dtype, shape, data)| (&name[..], *dtype, shape, &data[..])).collect();
        let block = chain.append(following(&chain, before, write(&views).unwrap())).unwrap();
        let diff = compare(&chain, &base, &base.with_block(&chain, &block).unwrap(), &options).unwrap();
        assert_eq!(diff.slots[0].tensors.len(), 3, "scales are no tensors of their own");
        let new = TensorBlock::open(&chain, &block).unwrap();
        for tensor in &diff.slots[0].tensors {
            let (a, b) = (dequantized(&old, &tensor.name), dequantized(&new, &tensor.name));
            let norm = a.iter().zip(&b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
            let whole = a.iter().map(|a| a * a).sum::<f64>().sqrt();
            let distance = tensor.distance.unwrap();
            assert!(
                (distance.norm - norm).abs() <= 1e-12 * norm && norm > 0.0,
                "{dtype} {distance:?} {norm}"
            );
            assert!((distance.relative_norm.unwrap() - norm / whole).abs() <= 1e-12);
            let largest = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert_eq!(distance.max_abs, largest);
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let again = pool
            .install(|| compare(&chain, &base, &base.with_block(&chain, &block).unwrap(), &options).unwrap());
        assert_eq!(again, diff, "whatever the threads");
    }
    assert_eq!(compare(&chain, &base, &base, &options).unwrap().slots, []);
    let cancel = std::sync::atomic::AtomicBool::new(true);
    let options = CompareOptions { cancel: Some(&cancel), ..options };
    let error = compare(&chain, &base, &after, &options).unwrap_err();
    assert!(matches!(error, ManagerError::Chain(ChainError::Cancelled)), "{error:?}");
    // Models that have nothing in common still have a difference.
    let other = import_into(&chain, &fixture("llama"), None);
    let other = Snapshot::of_model(&chain, &other).unwrap();
    let options = CompareOptions { distances: true, ..CompareOptions::default() };
    let diff = compare(&chain, &base, &other, &options).unwrap();
    assert!(diff.slots.iter().any(|slot| slot.before.is_some() && slot.after.is_none()));
    assert!(diff.slots.iter().flat_map(|slot| &slot.tensors).any(|tensor| tensor.distance.is_none()));
}

/// The first blocks of an import have the hashes that they always had.
#[test]
fn an_import_starts_a_line() {
    let (chain, model) = imported(&fixture("olmoe"), None);
    let manifest = Manifest::from_canonical_json(&chain.payload(&model).unwrap()).unwrap();
    for block in manifest.slots.values().chain([&manifest.spec, &model]) {
        let header = chain.get(block).unwrap().header().clone();
        assert_eq!(header.version, version("1.0.0"));
        assert!(header.parents.iter().all(|parent| parent.role == ParentRole::Dependency));
    }
}
