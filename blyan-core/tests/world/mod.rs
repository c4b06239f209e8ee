//! A chain with a policy, keys for everybody, and rounds run on it.

#![allow(clippy::unwrap_used, reason = "a test ends where its premises fail")]

use std::collections::{BTreeMap, BTreeSet};

use blyan_core::evolve::dataset::{self, DatasetDraft};
use blyan_core::evolve::{
    Attestation, Candidate, CandidateBlocks, Evidence, Judgement, LossBits, Losses, Policy, PublicKey,
    Reason, Reveal, Statement, Verdict, claim, close_round, judge, open_round, propose_candidate, reveal,
    snapshot_of,
};
use blyan_core::kernels::NUMERICS_VERSION;
use blyan_core::manager::Snapshot;
use blyan_core::tensor::write;
use blyan_core::{BlockHash, Chain, ChainError, DType, Draft, Parent, ParentRole, Shape, Slot, TensorBlock};
use ed25519_dalek::SigningKey;
use half::bf16;
use semver::Version;

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(crate) fn public(seed: u8) -> PublicKey {
    PublicKey::of(&key(seed))
}

/// The validators; the first one owns most rounds.
pub(crate) const VALIDATORS: [u8; 3] = [1, 2, 3];
pub(crate) const OWNER: u8 = 1;

pub(crate) fn expert(layer: u32, expert: u32) -> Slot {
    Slot::Expert { layer, expert }
}

/// Appends a block that follows another, each weight made from the other's.
pub(crate) fn try_changed(
    chain: &Chain,
    before: &BlockHash,
    mut change: impl FnMut(&str, usize, f32) -> f32,
) -> Result<BlockHash, ChainError> {
    let old = chain.get(before).unwrap();
    let header = old.header();
    let block = TensorBlock::open(chain, before).unwrap();
    let tensors: Vec<(&str, DType, &Shape, Vec<u8>)> = block
        .tensors()
        .map(|(name, view)| {
            assert_eq!(view.dtype(), DType::BF16);
            let values =
                view.data().as_chunks::<2>().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32());
            let changed = values.enumerate().map(|(index, value)| bf16::from_f32(change(name, index, value)));
            (name, view.dtype(), view.shape(), changed.flat_map(bf16::to_le_bytes).collect())
        })
        .collect();
    let tensors: Vec<_> =
        tensors.iter().map(|(name, dtype, shape, data)| (*name, *dtype, *shape, &data[..])).collect();
    let Version { major, minor, patch, .. } = header.version;
    let mut draft = Draft::new(header.lane, header.kind, header.name.as_str(), write(&tensors).unwrap())
        .with_version(Version::new(major, minor, patch + 1))
        .with_parent(*before, ParentRole::Predecessor);
    draft.parents.extend(header.parents.iter().filter(|parent| parent.role == ParentRole::Dependency));
    chain.append(draft)
}

pub(crate) fn changed(
    chain: &Chain,
    before: &BlockHash,
    change: impl FnMut(&str, usize, f32) -> f32,
) -> BlockHash {
    try_changed(chain, before, change).unwrap()
}

/// Noise in −1..1, the same everywhere.
pub(crate) fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    }
}

/// A chain, its policy and the model that everything begins with.
pub(crate) struct World {
    pub(crate) chain: Chain,
    pub(crate) policy: BlockHash,
    pub(crate) model: BlockHash,
}

/// A round that was run up to its reveal.
pub(crate) struct Revealed {
    pub(crate) round: BlockHash,
    pub(crate) claims: Vec<BlockHash>,
    pub(crate) closing: BlockHash,
    pub(crate) candidates: Vec<BlockHash>,
    pub(crate) reveal: BlockHash,
}

impl World {
    pub(crate) fn new(chain: Chain, model: BlockHash, change: impl FnOnce(&mut Policy)) -> Self {
        let mut policy = Policy { required: 2, window: 32, ..Policy::new(model, VALIDATORS.map(public)) };
        change(&mut policy);
        let policy = policy.append(&chain).unwrap();
        Self { chain, policy, model }
    }

    pub(crate) fn dataset(chain: &Chain, name: &str, tokens: &[u32], vocab_size: u32) -> BlockHash {
        let draft = DatasetDraft::of_tokens(name, tokens.to_vec(), vocab_size, "CC0-1.0", "the tests");
        dataset::propose(chain, draft).unwrap()
    }

    pub(crate) fn snapshot(&self, model: &BlockHash) -> Snapshot {
        Snapshot::of_model(&self.chain, model).unwrap()
    }

    /// A block for a slot of a model.
    pub(crate) fn changed(
        &self,
        model: &BlockHash,
        slot: Slot,
        change: impl FnMut(&str, usize, f32) -> f32,
    ) -> CandidateBlocks {
        let before = self.snapshot(model).slots()[&slot].block;
        BTreeMap::from([(slot, changed(&self.chain, &before, change))])
    }

    pub(crate) fn open(&self, owner: u8, split: &[u32]) -> BlockHash {
        open_round(&self.chain, &key(owner), &self.policy, split).unwrap()
    }

    pub(crate) fn claim(&self, author: u8, round: &BlockHash, blocks: &CandidateBlocks) -> BlockHash {
        claim(&self.chain, &key(author), round, blocks).unwrap()
    }

    /// Claims, closing, candidates and reveal of an open round.
    pub(crate) fn finish(
        &self,
        owner: u8,
        round: BlockHash,
        split: &[u32],
        proposals: &[(u8, CandidateBlocks)],
    ) -> Revealed {
        let claims: Vec<BlockHash> =
            proposals.iter().map(|(author, blocks)| self.claim(*author, &round, blocks)).collect();
        let closing = close_round(&self.chain, &key(owner), &round).unwrap();
        let candidates = proposals.iter().zip(&claims).map(|((author, blocks), claim)| {
            propose_candidate(&self.chain, &key(*author), claim, blocks).unwrap()
        });
        let candidates = candidates.collect();
        let reveal = reveal(&self.chain, &key(owner), &round, split).unwrap();
        Revealed { round, claims, closing, candidates, reveal }
    }

    pub(crate) fn round(&self, split: &[u32], proposals: &[(u8, CandidateBlocks)]) -> Revealed {
        self.finish(OWNER, self.open(OWNER, split), split, proposals)
    }

    /// What somebody could attest: nothing is measured.
    pub(crate) fn attestation(
        &self,
        reveal: &BlockHash,
        candidates: &[BlockHash],
        losses: &[(f64, f64)],
    ) -> Attestation {
        let shown = Statement::<Reveal>::read(&self.chain, reveal).unwrap();
        let policy = Policy::of(&self.chain, &self.policy).unwrap();
        let data = [shown.body().tokens].into_iter().chain(policy.datasets);
        let first = Statement::<Candidate>::read(&self.chain, &candidates[0]).unwrap();
        let losses = data.zip(losses).map(|(data, (base, candidate))| Losses {
            data,
            base: LossBits::of(*base),
            candidate: LossBits::of(*candidate),
        });
        Attestation {
            policy: self.policy,
            reveal: *reveal,
            base: first.body().base,
            candidates: candidates.iter().copied().collect(),
            model_root: snapshot_of(&self.chain, candidates).unwrap().root(),
            numerics_version: NUMERICS_VERSION,
            losses: losses.collect(),
        }
    }

    /// Validators attest losses that nobody measured.
    pub(crate) fn attest(
        &self,
        validators: &[u8],
        reveal: &BlockHash,
        candidates: &[BlockHash],
        losses: &[(f64, f64)],
    ) -> Vec<BlockHash> {
        let body = self.attestation(reveal, candidates, losses);
        let sign =
            |seed: &u8| Statement::sign(&key(*seed), body.clone()).unwrap().append(&self.chain).unwrap();
        validators.iter().map(sign).collect()
    }

    pub(crate) fn judge(&self) -> Judgement {
        judge(&self.chain, &self.policy).unwrap()
    }

    pub(crate) fn verdict(&self, candidate: &BlockHash) -> Verdict {
        self.judge().candidates[candidate].verdict.clone()
    }

    pub(crate) fn reason(&self, candidate: &BlockHash) -> Reason {
        match self.verdict(candidate) {
            Verdict::Refused(reason) => reason,
            accepted => panic!("{accepted:?}"),
        }
    }
}

/// All blocks of a chain as drafts.
pub(crate) fn drafts(chain: &Chain) -> Vec<Draft> {
    let drafts = chain.topological_order().map(|block| {
        let block = block.unwrap();
        let header = block.header().clone();
        Draft {
            lane: header.lane,
            kind: header.kind,
            name: header.name,
            version: header.version,
            parents: header.parents,
            payload: chain.payload(&block.hash()).unwrap().to_vec(),
            media_type: header.payload.media_type,
        }
    });
    drafts.collect()
}

/// Names of blocks in the order in which their drafts stand.
pub(crate) fn parents(draft: &Draft) -> BTreeSet<BlockHash> {
    draft.parents.iter().map(|Parent { hash, .. }| *hash).collect()
}
