//! Blocks of a random DAG give the same chain in whatever order they are appended, and that chain
//! is what a naive model of it says.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends at what it does not expect")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use blyan_core::chain::{Draft, Validators};
use blyan_core::storage::{Access, MemoryMedium};
use blyan_core::{BlockHash, BlockKind, Chain, ChainId, ParentRole};
use proptest::prelude::*;

const ROLES: [ParentRole; 4] =
    [ParentRole::Dependency, ParentRole::Predecessor, ParentRole::Base, ParentRole::Evidence];

/// Lane, name, payload and the parents' positions among the blocks before.
type Node = (usize, usize, Vec<u8>, Vec<(prop::sample::Index, usize)>);

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    let parents = prop::collection::vec((any::<prop::sample::Index>(), 0..4_usize), 0..4);
    let node = (0..3_usize, 0..3_usize, prop::collection::vec(any::<u8>(), 0..3), parents);
    prop::collection::vec(node, 1..24)
}

/// Turns the description into drafts, equal ones dropped; each one's parents come before it.
fn drafts(nodes: &[Node]) -> Vec<(BlockHash, Draft)> {
    let mut drafts: Vec<(BlockHash, Draft)> = Vec::new();
    for (lane, name, payload, parents) in nodes {
        let kind = [BlockKind::SPEC, BlockKind::EXPERT, BlockKind(5000)][*lane];
        let mut draft = Draft::new(ChainId::ALL[*lane], kind, format!("name{name}"), payload.clone());
        let mut known = BTreeSet::new();
        for (parent, role) in parents.iter().filter(|_| !drafts.is_empty()) {
            let parent = parent.get(&drafts).0;
            if known.insert(parent) {
                draft = draft.with_parent(parent, ROLES[*role]);
            }
        }
        let hash = draft.hash().unwrap();
        if drafts.iter().all(|(other, _)| *other != hash) {
            drafts.push((hash, draft));
        }
    }
    drafts
}

/// Another order in which parents come before children: of those ready, the least priority first.
fn reordered(drafts: &[(BlockHash, Draft)], priorities: &[u8]) -> Vec<Draft> {
    let mut rest: Vec<(u8, &(BlockHash, Draft))> =
        drafts.iter().enumerate().map(|(i, draft)| (priorities[i % priorities.len()], draft)).collect();
    let (mut done, mut order) = (BTreeSet::new(), Vec::new());
    while !rest.is_empty() {
        let ready = |draft: &Draft| draft.parents.iter().all(|parent| done.contains(&parent.hash));
        let next = (0..rest.len()).filter(|i| ready(&rest[*i].1.1)).min_by_key(|i| rest[*i].0).unwrap();
        let (_, (hash, draft)) = rest.remove(next);
        done.insert(*hash);
        order.push(draft.clone());
    }
    order
}

/// Everything a chain tells about its blocks.
#[derive(Debug, PartialEq)]
struct Seen {
    tips: Vec<Vec<BlockHash>>,
    root: [u8; 32],
    order: Vec<(u64, BlockHash)>,
    lanes: Vec<Vec<BlockHash>>,
    heads: Vec<Vec<BlockHash>>,
    children: BTreeMap<BlockHash, Vec<BlockHash>>,
    ancestors: BTreeMap<BlockHash, Vec<BlockHash>>,
}

fn seen(drafts: impl IntoIterator<Item = Draft>, transaction: usize) -> Seen {
    let medium = Arc::new(MemoryMedium::new());
    let chain = Chain::open_with(medium, Access::ReadWrite, Validators::new()).unwrap();
    let mut writer = chain.writer().unwrap();
    for (number, draft) in drafts.into_iter().enumerate() {
        writer.append(draft).unwrap();
        if number % transaction == 0 {
            writer.commit().unwrap();
            writer = chain.writer().unwrap();
        }
    }
    writer.commit().unwrap();
    assert!(chain.verify(&Default::default()).unwrap().is_ok());
    let order: Vec<_> = chain.topological_order().map(Result::unwrap).collect();
    let hashes = |blocks: Vec<blyan_core::Block>| blocks.iter().map(blyan_core::Block::hash).collect();
    let of_each = |each: &dyn Fn(&BlockHash) -> Vec<BlockHash>| {
        order.iter().map(|block| (block.hash(), each(&block.hash()))).collect()
    };
    Seen {
        tips: ChainId::ALL.map(|lane| chain.tips(lane).unwrap()).to_vec(),
        root: *chain.root().unwrap().as_bytes(),
        order: order.iter().map(|block| (block.height(), block.hash())).collect(),
        lanes: ChainId::ALL
            .map(|lane| chain.blocks(lane).map(|block| block.unwrap().hash()).collect())
            .to_vec(),
        heads: (0..3).map(|name| hashes(chain.heads(&format!("name{name}")).unwrap())).collect(),
        children: of_each(&|block| chain.children(block).unwrap()),
        ancestors: of_each(&|block| hashes(chain.ancestors(block).unwrap())),
    }
}

/// The same by definition, one quadratic loop after the other.
fn model(drafts: &[(BlockHash, Draft)]) -> Seen {
    let mut heights: BTreeMap<BlockHash, u64> = BTreeMap::new();
    let mut ancestors: BTreeMap<BlockHash, BTreeSet<(u64, BlockHash)>> = BTreeMap::new();
    for (hash, draft) in drafts {
        let parents = draft.parents.iter().map(|parent| parent.hash);
        heights.insert(*hash, parents.clone().map(|parent| heights[&parent] + 1).max().unwrap_or(0));
        let mut all = BTreeSet::new();
        for parent in parents {
            all.extend(ancestors[&parent].iter().copied());
            all.insert((heights[&parent], parent));
        }
        ancestors.insert(*hash, all);
    }
    let mut order: Vec<(u64, BlockHash)> = heights.iter().map(|(hash, height)| (*height, *hash)).collect();
    order.sort();
    let draft = |hash: &BlockHash| &drafts.iter().find(|(other, _)| other == hash).unwrap().1;
    let sorted = |mut hashes: Vec<BlockHash>| {
        hashes.sort();
        hashes
    };
    let children = |of: &BlockHash| -> Vec<&(BlockHash, Draft)> {
        drafts.iter().filter(|(_, child)| child.parents.iter().any(|parent| parent.hash == *of)).collect()
    };
    let tips: Vec<Vec<BlockHash>> = ChainId::ALL
        .map(|lane| {
            let in_lane = drafts.iter().filter(|(_, draft)| draft.lane == lane);
            let tips = in_lane.filter(|(hash, _)| children(hash).iter().all(|(_, child)| child.lane != lane));
            sorted(tips.map(|(hash, _)| *hash).collect())
        })
        .to_vec();
    let mut hasher = blake3::Hasher::new_derive_key("blyan chain root 1");
    for tip in sorted(tips.concat()) {
        hasher.update(tip.as_bytes());
    }
    Seen {
        root: *hasher.finalize().as_bytes(),
        lanes: ChainId::ALL
            .map(|lane| order.iter().map(|(_, hash)| *hash).filter(|hash| draft(hash).lane == lane).collect())
            .to_vec(),
        heads: (0..3)
            .map(|name| {
                let name = format!("name{name}");
                let named = drafts.iter().filter(|(_, draft)| draft.name == name);
                let heads = named.filter(|(hash, _)| {
                    children(hash).iter().all(|(_, child)| {
                        child.name != name
                            || child
                                .parents
                                .iter()
                                .all(|p| p.hash != *hash || p.role != ParentRole::Predecessor)
                    })
                });
                sorted(heads.map(|(hash, _)| *hash).collect())
            })
            .collect(),
        children: drafts
            .iter()
            .map(|(hash, _)| (*hash, sorted(children(hash).iter().map(|(child, _)| *child).collect())))
            .collect(),
        ancestors: ancestors
            .into_iter()
            .map(|(hash, all)| (hash, all.into_iter().map(|(_, ancestor)| ancestor).collect()))
            .collect(),
        tips,
        order,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_order_that_respects_parents_gives_the_same_chain(
        nodes in nodes(),
        priorities in prop::collection::vec(any::<u8>(), 1..24),
        transaction in 1..5_usize,
    ) {
        let drafts = drafts(&nodes);
        let expected = model(&drafts);
        let in_order = drafts.iter().map(|(_, draft)| draft.clone());
        prop_assert_eq!(&seen(in_order, 100), &expected);
        prop_assert_eq!(&seen(reordered(&drafts, &priorities), transaction), &expected);
    }
}
