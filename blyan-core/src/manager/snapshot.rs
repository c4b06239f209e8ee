//! Owns snapshots: the slot → block map of a model, pinned by a model block or built in memory to
//! try something, and what is done with them: compare slots, change blocks, publish.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use semver::Version;

use crate::chain::{Block, Chain, Draft, Writer};
use crate::format::{BlockKind, ChainId, Change, Manifest, ModelSpec, Parent, ParentRole, Slot};
use crate::hash::{BlockHash, PayloadHash, SnapshotRoot};
use crate::model::ModelError;

use super::{ManagerError, find_model};

/// A block in a slot, with what is needed to read its payload without the chain's database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinnedBlock {
    /// The block.
    pub block: BlockHash,
    /// Its payload.
    pub payload: PayloadHash,
    /// The payload's length.
    pub len_bytes: u64,
}

/// One model: a spec and a block for each slot.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The model block this snapshot came from; the predecessor of one that it is published as.
    base: Option<BlockHash>,
    /// What says that it may follow a model of another architecture.
    migration: Option<BlockHash>,
    spec_block: BlockHash,
    spec: Arc<ModelSpec>,
    slots: BTreeMap<Slot, PinnedBlock>,
}

/// A slot that differs between two snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotChange {
    /// The slot.
    pub slot: Slot,
    /// The block on the left, if any.
    pub before: Option<BlockHash>,
    /// The block on the right, if any.
    pub after: Option<BlockHash>,
}

impl Snapshot {
    /// The model that a model block pins.
    ///
    /// # Errors
    ///
    /// [`ManagerError`] if the block is unknown, damaged or no model block, or if what it pins does
    /// not fill the slots of its spec.
    pub fn of_model(chain: &Chain, model: &BlockHash) -> Result<Self, ManagerError> {
        let block = chain.get(model)?;
        if block.header().kind != BlockKind::MODEL {
            return Err(ManagerError::NotAModel { block: *model, kind: block.header().kind });
        }
        let manifest = Manifest::from_canonical_json(&chain.payload_of(&block)?)?;
        Self::of_manifest(chain, manifest, Some(*model))
    }

    /// The model that a manifest pins, which need not be in the chain; `base` is the model block that it comes
    /// from, and that it follows if it is published.
    ///
    /// # Errors
    ///
    /// As for [`Snapshot::of_model`].
    pub fn of_manifest(
        chain: &Chain,
        manifest: Manifest,
        base: Option<BlockHash>,
    ) -> Result<Self, ManagerError> {
        let spec_block = chain.get(&manifest.spec)?;
        if spec_block.header().kind != BlockKind::SPEC {
            return Err(ManagerError::NotASpec { block: manifest.spec, kind: spec_block.header().kind });
        }
        let spec = ModelSpec::from_canonical_json(&chain.payload_of(&spec_block)?)?;
        let pinned: Vec<BlockHash> = manifest.slots.values().copied().collect();
        let blocks = chain.get_all(&pinned)?;
        let slots = manifest.slots.into_keys().zip(&blocks);
        let slots = slots.map(|(slot, block)| Ok((slot, pin(block, slot)?)));
        let slots = slots.collect::<Result<BTreeMap<_, _>, ManagerError>>()?;
        let snapshot = Self { base, migration: None, spec_block: manifest.spec, spec: Arc::new(spec), slots };
        snapshot.check_complete()?;
        Ok(snapshot)
    }

    /// The chain's only model: the one model block that no other model block follows.
    ///
    /// # Errors
    ///
    /// [`ManagerError::NoModel`], or [`ManagerError::ManyModels`] listing them.
    pub fn only_model(chain: &Chain) -> Result<Self, ManagerError> {
        Self::of_model(chain, &Self::only_model_block(chain)?)
    }

    pub(super) fn only_model_block(chain: &Chain) -> Result<BlockHash, ManagerError> {
        let heads: Vec<BlockHash> = model_heads(chain)?.into_iter().collect();
        match &heads[..] {
            [] => Err(ManagerError::NoModel),
            [model] => Ok(*model),
            _ => Err(ManagerError::ManyModels { models: heads }),
        }
    }

    /// The model of a name, see [`find_model`]: `latest`, a release, a hash or its beginning.
    ///
    /// # Errors
    ///
    /// As for [`find_model`] and [`Snapshot::of_model`].
    pub fn named(chain: &Chain, name: &str) -> Result<Self, ManagerError> {
        Self::of_model(chain, &find_model(chain, name)?)
    }

    /// The same slots, to be published as what follows another model.
    pub(super) fn onto(mut self, base: BlockHash, migration: Option<BlockHash>) -> Self {
        (self.base, self.migration) = (Some(base), migration);
        self
    }

    /// This model with other blocks of another spec, which grew from its own.
    pub(super) fn grown(
        &self,
        chain: &Chain,
        spec: BlockHash,
        slots: BTreeMap<Slot, BlockHash>,
    ) -> Result<Self, ManagerError> {
        Self::of_manifest(chain, Manifest { spec, slots }, self.base)
    }

    fn check_complete(&self) -> Result<(), ManagerError> {
        let required = self.spec.required_slots();
        let missing: Vec<Slot> =
            required.iter().copied().filter(|slot| !self.slots.contains_key(slot)).collect();
        if missing.is_empty() { Ok(()) } else { Err(ManagerError::MissingSlots { slots: missing }) }
    }

    /// This model with `block` in the slot that its name says, in memory only.
    ///
    /// # Errors
    ///
    /// [`ManagerError`] if the block is unknown, fills no slot of this model's spec, or holds weights
    /// made for another spec.
    pub fn with_block(&self, chain: &Chain, block: &BlockHash) -> Result<Self, ManagerError> {
        let block = chain.get(block)?;
        let slot: Slot = block.header().name.parse()?;
        let spec = Parent { hash: self.spec_block, role: ParentRole::Dependency };
        // A text depends on no spec: models share it.
        if slot.kind().is_weights() && !block.header().parents.contains(&spec) {
            return Err(ManagerError::OtherSpec { block: block.hash(), spec: self.spec_block });
        }
        let head_of_tied = slot == Slot::Head && self.spec.tie_word_embeddings;
        if slot.kind().is_weights() && !head_of_tied && !self.spec.required_slots().contains(&slot) {
            return Err(ManagerError::UnknownSlot { slot });
        }
        let mut changed = self.clone();
        changed.slots.insert(slot, pin(&block, slot)?);
        Ok(changed)
    }

    /// This model with each of `blocks` in its slot, in memory only: to try candidates.
    ///
    /// # Errors
    ///
    /// As for [`Snapshot::with_block`]; [`ManagerError::OverlaidTwice`] for two blocks of one slot.
    pub fn with_blocks(&self, chain: &Chain, blocks: &[BlockHash]) -> Result<Self, ManagerError> {
        let mut changed = self.clone();
        let mut taken = BTreeSet::new();
        for block in blocks {
            let slot: Slot = chain.get(block)?.header().name.parse()?;
            if !taken.insert(slot) {
                return Err(ManagerError::OverlaidTwice { slot });
            }
            changed = changed.with_block(chain, block)?;
        }
        Ok(changed)
    }

    /// The slots in which two snapshots differ, in slot order.
    pub fn diff(&self, after: &Self) -> Vec<SlotChange> {
        let mut slots: Vec<Slot> = self.slots.keys().chain(after.slots.keys()).copied().collect();
        slots.sort_unstable();
        slots.dedup();
        let changes = slots.into_iter().map(|slot| SlotChange {
            slot,
            before: self.slots.get(&slot).map(|pinned| pinned.block),
            after: after.slots.get(&slot).map(|pinned| pinned.block),
        });
        changes.filter(|change| change.before != change.after).collect()
    }

    /// The model block's content.
    pub fn manifest(&self) -> Manifest {
        let slots = self.slots.iter().map(|(&slot, pinned)| (slot, pinned.block)).collect();
        Manifest { spec: self.spec_block, slots }
    }

    /// Names the snapshot.
    pub fn root(&self) -> SnapshotRoot {
        self.manifest().root()
    }

    /// Appends the snapshot to the chain as a model block that follows the one it came from, and
    /// returns that block. A snapshot that was not changed is its own model block already. Its version is
    /// the next patch for other weights, the next minor for more slots, the next major for fewer slots or
    /// another architecture.
    ///
    /// # Errors
    ///
    /// [`ManagerError`] from the chain; [`ChainError::PayloadCollected`](crate::ChainError::PayloadCollected) for weights that
    /// were collected.
    pub fn publish(&self, chain: &Chain) -> Result<BlockHash, ManagerError> {
        match self.unchanged(chain)? {
            Some(model) => Ok(model),
            None => {
                // Begun first: nobody collects what the draft was found to have.
                let mut writer = chain.writer()?;
                let model = self.append_to(&mut writer, chain)?;
                writer.commit()?;
                Ok(model)
            }
        }
    }

    /// As [`Snapshot::publish`] of a snapshot that was changed, in a transaction.
    pub(crate) fn append_to(&self, writer: &mut Writer, chain: &Chain) -> Result<BlockHash, ManagerError> {
        self.refuse_collected(chain)?;
        Ok(writer.append(self.draft(chain)?)?.hash)
    }

    /// The model block that [`Snapshot::publish`] would give, without appending it; also of weights that were
    /// collected, which are not looked at.
    ///
    /// # Errors
    ///
    /// [`ManagerError`] from the chain.
    pub fn model_block(&self, chain: &Chain) -> Result<BlockHash, ManagerError> {
        match self.unchanged(chain)? {
            Some(model) => Ok(model),
            None => Ok(self.draft(chain)?.hash()?),
        }
    }

    fn unchanged(&self, chain: &Chain) -> Result<Option<BlockHash>, ManagerError> {
        let Some(base) = &self.base else { return Ok(None) };
        let payload = PayloadHash::of(&self.manifest().to_canonical_json());
        Ok((chain.get(base)?.header().payload.hash == payload).then_some(*base))
    }

    /// How much changed since the model that this one follows.
    fn change(&self, chain: &Chain, base: &BlockHash) -> Result<Change, ManagerError> {
        let before = Manifest::from_canonical_json(&chain.payload(base)?)?;
        let same = before.spec == self.spec_block;
        let spec = chain.get(&self.spec_block)?;
        if !same && !predecessors(&spec).any(|spec| spec == before.spec) {
            return match self.migration {
                Some(_) => Ok(Change::Major),
                None => Err(ManagerError::NeedsMigration { from: *base, spec: self.spec_block }),
            };
        }
        Ok(if before.slots.keys().any(|slot| !self.slots.contains_key(slot)) {
            Change::Major
        } else if same && before.slots.len() == self.slots.len() {
            Change::Patch
        } else {
            Change::Minor
        })
    }

    /// A model that cannot run would take the place of one that can, whose weights the next collection takes.
    pub(crate) fn refuse_collected(&self, chain: &Chain) -> Result<(), ManagerError> {
        let weights = self.slots.values().map(|pinned| (pinned.block, pinned.payload));
        Ok(chain.refuse_collected(weights)?)
    }

    pub(super) fn draft(&self, chain: &Chain) -> Result<Draft, ManagerError> {
        let mut version = Version::new(1, 0, 0);
        if let Some(base) = &self.base {
            version = self.change(chain, base)?.next(&chain.get(base)?.header().version);
        }
        let dependencies = self.slots.values().map(|pinned| pinned.block).chain([self.spec_block]);
        let mut parents: Vec<Parent> =
            dependencies.map(|hash| Parent { hash, role: ParentRole::Dependency }).collect();
        parents.extend(self.base.map(Parent::predecessor));
        parents.extend(self.migration.map(|hash| Parent { hash, role: ParentRole::Evidence }));
        Ok(Draft {
            lane: ChainId::Meta,
            kind: BlockKind::MODEL,
            name: "model".to_owned(),
            version,
            parents,
            payload: self.manifest().to_canonical_json(),
            media_type: "application/json".to_owned(),
        })
    }

    /// A forward pass names a slot; the snapshot knows the block.
    pub(super) fn name_block(&self, error: ModelError) -> ManagerError {
        match error {
            ModelError::Tensor { slot, source } => match self.slots.get(&slot) {
                Some(pinned) => ManagerError::Block { slot, block: pinned.block, source },
                None => ManagerError::MissingSlots { slots: vec![slot] },
            },
            error => ManagerError::Model(error),
        }
    }

    /// The spec.
    pub fn spec(&self) -> &Arc<ModelSpec> {
        &self.spec
    }

    /// The spec's block.
    pub fn spec_block(&self) -> &BlockHash {
        &self.spec_block
    }

    /// The model block this snapshot came from.
    pub fn base(&self) -> Option<&BlockHash> {
        self.base.as_ref()
    }

    /// The block of each slot.
    pub fn slots(&self) -> &BTreeMap<Slot, PinnedBlock> {
        &self.slots
    }
}

/// The model blocks that no other model block follows. Blocks of other kinds may have their name, and
/// may say to follow them: they hide no model.
fn model_heads(chain: &Chain) -> Result<BTreeSet<BlockHash>, ManagerError> {
    let is_model = |block: &Block| block.header().kind == BlockKind::MODEL;
    let mut models = BTreeSet::new();
    // However many blocks of other kinds say to follow one, and its children are many then, it is looked at once.
    let mut looked_at = BTreeSet::new();
    let mut open = chain.heads("model")?;
    while let Some(block) = open.pop() {
        if is_model(&block) {
            models.insert(block.hash());
            continue;
        }
        for followed in predecessors(&block) {
            if !looked_at.insert(followed) {
                continue;
            }
            let mut followers = chain.children(&followed)?.into_iter().map(|child| chain.get(&child));
            let has_heir = followers.try_fold(false, |found, follower| {
                let follower = follower?;
                let follows = is_model(&follower) && predecessors(&follower).any(|block| block == followed);
                Ok::<_, ManagerError>(found || follows)
            })?;
            if !has_heir {
                open.push(chain.get(&followed)?);
            }
        }
    }
    Ok(models)
}

fn predecessors(block: &Block) -> impl Iterator<Item = BlockHash> + '_ {
    let parents = block.header().parents.iter();
    parents.filter(|parent| parent.role == ParentRole::Predecessor).map(|parent| parent.hash)
}

fn pin(block: &Block, slot: Slot) -> Result<PinnedBlock, ManagerError> {
    let header = block.header();
    if header.name != slot.to_string() || header.kind != slot.kind() {
        let (name, kind) = (header.name.clone(), header.kind);
        return Err(ManagerError::WrongBlock { slot, block: block.hash(), name, kind });
    }
    let payload = &header.payload;
    Ok(PinnedBlock { block: block.hash(), payload: payload.hash, len_bytes: payload.len_bytes })
}
