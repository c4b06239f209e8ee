//! Owns what must hold for blocks of a model to be appended, by whomever: an importer, a trainer, or
//! a stranger. Registered with the chain when it is opened.

mod versions;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use semver::Version;

use super::delta::{self, Delta};
use super::error::ImportError;
use super::texts;
use crate::chain::{ChainError, ParentView, ValidationError, Validator, Validators};
use crate::dtype::Shape;
use crate::format::{
    BlockKind, CanonicalError, ChainId, Change, Header, Manifest, ManifestError, ModelSpec, ParentRole, Slot,
    SpecError, TensorRole,
};
use crate::hash::{BlockHash, PayloadHash};
use crate::tensor::{DeltaError, TensorError, TensorMap, first_not_finite, scale_name};

/// A block of a model that does not hold what its header and parents promise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidBlock {
    /// Not the lane of blocks of this kind.
    #[error("it lies in lane {found}, blocks of its kind in lane {expected}")]
    Lane {
        /// Lane in the header.
        found: ChainId,
        /// Lane of the kind.
        expected: ChainId,
    },
    /// Not the name of blocks of this kind.
    #[error("its name fits no {kind} block: expected {expected}")]
    Name {
        /// Kind in the header.
        kind: BlockKind,
        /// What is expected.
        expected: &'static str,
    },
    /// Not the media type of payloads of this kind: equal content would have two names.
    #[error("its media type is {found:?}: expected {expected:?}")]
    MediaType {
        /// Media type in the header.
        found: String,
        /// The one expected.
        expected: &'static str,
    },
    /// Weights without the spec that gives them meaning, or with several.
    #[error("it depends on {found} spec blocks: expected one")]
    Spec {
        /// Spec blocks among its dependencies.
        found: usize,
    },
    /// The spec, its own or its parent's.
    #[error(transparent)]
    SpecPayload(#[from] SpecError),
    /// The spec's model has no such slot.
    #[error("its spec describes a model without {slot}")]
    UnknownSlot {
        /// The slot.
        slot: Slot,
    },
    /// The payload, or a tensor in it.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A tensor of another shape than the spec says.
    #[error("tensor {tensor:?} has shape {found}: its spec needs {expected}")]
    Shape {
        /// Name of the tensor.
        tensor: &'static str,
        /// Its shape.
        found: Shape,
        /// The shape that the spec needs.
        expected: Shape,
    },
    /// A tensor that may not be quantized.
    #[error("tensor {tensor:?} is quantized: only projections may be")]
    Quantized {
        /// Name of the tensor.
        tensor: &'static str,
    },
    /// A tensor that the spec does not know.
    #[error("tensor {tensor:?} is none of its spec's")]
    UnexpectedTensor {
        /// Name of the tensor.
        tensor: String,
    },
    /// The manifest of a model block.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A slot that the spec needs is not in the manifest.
    #[error("its manifest has no block in {slot}")]
    MissingSlot {
        /// The slot.
        slot: Slot,
    },
    /// Dependencies are not exactly the blocks that the manifest names.
    #[error("its manifest and its dependencies do not name the same blocks: {block} is in one of them")]
    Dependencies {
        /// The first block that only one of them names.
        block: BlockHash,
    },
    /// A block that does not belong into the slot that the manifest gives it.
    #[error("block {block} in {slot} is a {kind} named {name:?}")]
    WrongBlock {
        /// The slot.
        slot: Slot,
        /// The block.
        block: BlockHash,
        /// Its kind.
        kind: BlockKind,
        /// Its name.
        name: String,
    },
    /// A weight block of another spec.
    #[error("block {block} in {slot} belongs to another spec")]
    OtherSpec {
        /// The slot.
        slot: Slot,
        /// The block.
        block: BlockHash,
    },
    /// A first block of its kind and name that claims to be a later version.
    #[error("it follows no block, so its version is 1.0.0, not {found}")]
    FirstVersion {
        /// The version in the header.
        found: Version,
    },
    /// Several blocks whose place it takes.
    #[error("it names {found} predecessors: expected at most one")]
    Predecessors {
        /// How many.
        found: usize,
    },
    /// It takes the place of a block that has another place.
    #[error("it follows {block}, a {kind} named {name:?}: expected one of its own kind and name")]
    Predecessor {
        /// The block.
        block: BlockHash,
        /// Its kind.
        kind: BlockKind,
        /// Its name.
        name: String,
    },
    /// A version that does not say what changed.
    #[error("it has version {found} after {before}: the change is {change}, so expected {}", change.next(before))]
    VersionStep {
        /// Version of the block that it follows.
        before: Version,
        /// Version in the header.
        found: Version,
        /// What changed.
        change: Change,
    },
    /// A release whose version is not above the one that it follows.
    #[error("it follows the release {block} of version {before}: expected a higher version")]
    NotLater {
        /// The release that it follows.
        block: BlockHash,
        /// Its version.
        before: Version,
    },
    /// What it follows was made for a spec that has nothing to do with its own.
    #[error(
        "{block} was made for another spec, which neither grew into this one nor has a migration to it among the \
         evidence"
    )]
    UnrelatedSpec {
        /// The block.
        block: BlockHash,
    },
    /// A spec that follows another one and changes more than the number of experts.
    #[error(
        "it follows the spec {block} but is not that one with more experts: other changes need a migration"
    )]
    NotGrown {
        /// The spec that it follows.
        block: BlockHash,
    },
    /// A parent in a role that blocks of this kind do not have.
    #[error("{block} is a parent that blocks of its kind do not have")]
    UnexpectedParent {
        /// The parent.
        block: BlockHash,
    },
    /// A block that its payload names is of another kind.
    #[error("{block} is a {kind} block: expected a {expected}")]
    OtherKind {
        /// The block.
        block: BlockHash,
        /// Its kind.
        kind: BlockKind,
        /// The kind needed.
        expected: BlockKind,
    },
    /// The payload of a release or a migration.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    /// A text that is not what its slot needs.
    #[error("its payload is not valid: {reason}")]
    Text {
        /// What is wrong with it.
        reason: String,
    },
    /// A delta that cannot be added to its base.
    #[error(transparent)]
    Delta(#[from] DeltaError),
    /// A delta with a version of its own: equal content would have two names.
    #[error("a delta has version 1.0.0, this one {found}")]
    DeltaVersion {
        /// Version in the header.
        found: String,
    },
    /// A delta whose parents are not a spec as dependency and one base.
    #[error("a delta has two parents, its spec as dependency and its base, this one has {found}")]
    DeltaParents {
        /// Number of its parents.
        found: usize,
    },
    /// A block that names several deltas as what it was merged from.
    #[error("it names {found} deltas as its base: a block is merged from one")]
    ManyDeltas {
        /// Number of deltas.
        found: usize,
    },
    /// A merged block that does not follow the base of its delta, or fills another slot.
    #[error("it was merged from delta {delta}, so it must follow {base} in the same slot and spec")]
    OtherBase {
        /// The delta.
        delta: BlockHash,
        /// The delta's base.
        base: BlockHash,
    },
    /// A merged block that holds something else.
    #[error("merging delta {delta} into its base gives payload {expected}, it holds {found}")]
    NotMerged {
        /// The delta.
        delta: BlockHash,
        /// The payload that merging gives.
        expected: PayloadHash,
        /// The payload in the header.
        found: PayloadHash,
    },
    /// A parent could not be read.
    #[error(transparent)]
    Chain(Box<ChainError>),
}

impl From<ChainError> for InvalidBlock {
    fn from(error: ChainError) -> Self {
        Self::Chain(Box::new(error))
    }
}

/// Validators of all kinds that make up a model.
pub(crate) fn validators() -> Validators {
    let weights: Arc<dyn Validator> = Arc::new(Weights { spec: Mutex::new(None) });
    let text: Arc<dyn Validator> = Arc::new(Text);
    let mut validators = Validators::new()
        .with(BlockKind::SPEC, Arc::new(Spec))
        .with(BlockKind::MODEL, Arc::new(Model))
        .with(BlockKind::RELEASE, Arc::new(versions::ReleaseRules))
        .with(BlockKind::MIGRATION, Arc::new(versions::MigrationRules))
        .with(BlockKind::DELTA, Arc::new(Delta));
    for kind in [
        BlockKind::EMBEDDING,
        BlockKind::ATTENTION,
        BlockKind::ROUTER,
        BlockKind::EXPERT,
        BlockKind::SHARED_EXPERT,
        BlockKind::FINAL_NORM,
        BlockKind::HEAD,
    ] {
        validators = validators.with(kind, weights.clone());
    }
    for (slot, ..) in texts::FILES {
        validators = validators.with(slot.kind(), text.clone());
    }
    validators
}

pub(super) fn check_header(
    header: &Header,
    lane: ChainId,
    media_type: &'static str,
) -> Result<(), InvalidBlock> {
    if header.lane != lane {
        return Err(InvalidBlock::Lane { found: header.lane, expected: lane });
    }
    if header.payload.media_type != media_type {
        let found = header.payload.media_type.clone();
        return Err(InvalidBlock::MediaType { found, expected: media_type });
    }
    Ok(())
}

/// The slot that a block's name says, if it is one of its kind.
fn slot_of(header: &Header) -> Result<Slot, InvalidBlock> {
    let slot = header.name.parse::<Slot>().ok().filter(|slot| slot.kind() == header.kind);
    slot.ok_or(InvalidBlock::Name { kind: header.kind, expected: "the name of a slot of its kind" })
}

/// The one spec block that a block depends on.
pub(super) fn spec_of(
    dependencies: impl Iterator<Item = BlockHash>,
    kind_of: impl Fn(&BlockHash) -> Result<BlockKind, ChainError>,
) -> Result<BlockHash, InvalidBlock> {
    let mut specs = Vec::new();
    for parent in dependencies {
        if kind_of(&parent)? == BlockKind::SPEC {
            specs.push(parent);
        }
    }
    match specs.as_slice() {
        [spec] => Ok(*spec),
        _ => Err(InvalidBlock::Spec { found: specs.len() }),
    }
}

fn dependencies(header: &Header) -> impl Iterator<Item = BlockHash> {
    let dependencies = header.parents.iter().filter(|parent| parent.role == ParentRole::Dependency);
    dependencies.map(|parent| parent.hash)
}

/// Spec blocks: canonical, and of a model that can be named.
struct Spec;

impl Validator for Spec {
    fn validate(
        &self,
        header: &Header,
        payload: &[u8],
        parents: &dyn ParentView,
    ) -> Result<(), ValidationError> {
        let check = || {
            check_header(header, ChainId::Meta, "application/json")?;
            if header.name != "spec" {
                return Err(InvalidBlock::Name { kind: header.kind, expected: "spec" });
            }
            versions::check_spec(header, &ModelSpec::from_canonical_json(payload)?, parents)
        };
        check().map_err(ValidationError::new)
    }
}

/// Weight blocks: exactly the tensors that their spec has for their slot, every weight a number.
struct Weights {
    /// The spec asked for last: all blocks of an import have the same.
    spec: Mutex<Option<(BlockHash, Arc<ModelSpec>)>>,
}

impl Weights {
    fn spec(&self, hash: BlockHash, parents: &dyn ParentView) -> Result<Arc<ModelSpec>, InvalidBlock> {
        // Only whole values are ever stored, so a poisoned lock holds nothing broken.
        let last = self.spec.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((known, spec)) = last
            && known == hash
        {
            return Ok(spec);
        }
        let spec = Arc::new(ModelSpec::from_canonical_json(&parents.payload(&hash)?)?);
        *self.spec.lock().unwrap_or_else(PoisonError::into_inner) = Some((hash, spec.clone()));
        Ok(spec)
    }

    fn check(&self, header: &Header, payload: &[u8], parents: &dyn ParentView) -> Result<(), InvalidBlock> {
        check_header(header, ChainId::Parameter, "application/vnd.safetensors")?;
        let slot = slot_of(header)?;
        let spec = spec_of(dependencies(header), |parent| Ok(parents.header(parent)?.kind))?;
        // A dependency more would be another name for the same weights, and keep whatever it is from a collection.
        if let Some(block) = dependencies(header).find(|parent| *parent != spec) {
            return Err(InvalidBlock::UnexpectedParent { block });
        }
        versions::check_weights(header, spec, parents)?;
        let spec = self.spec(spec, parents)?;
        check_tensors(&spec, slot, payload)?;
        delta::check_merged(header, payload, parents)
    }
}

/// Whether a payload holds exactly the tensors of a slot, every weight a number.
pub(crate) fn check_tensors(spec: &ModelSpec, slot: Slot, payload: &[u8]) -> Result<(), InvalidBlock> {
    let expected = spec.tensors_of(slot);
    if expected.is_empty() {
        return Err(InvalidBlock::UnknownSlot { slot });
    }
    let tensors = TensorMap::parse(payload)?;
    let mut present: BTreeMap<&str, _> = tensors.views(payload).collect();
    for tensor in expected {
        let view = present.remove(tensor.name).ok_or_else(|| TensorError::Missing {
            tensor: tensor.name.to_owned(),
            present: tensors.views(payload).map(|(name, _)| name.to_owned()).collect(),
        })?;
        if *view.shape() != tensor.shape {
            let found = view.shape().clone();
            return Err(InvalidBlock::Shape { tensor: tensor.name, found, expected: tensor.shape });
        }
        if view.dtype().is_quantized() {
            if tensor.role != TensorRole::Projection {
                return Err(InvalidBlock::Quantized { tensor: tensor.name });
            }
            // Its values were checked when the header was parsed.
            present.remove(scale_name(tensor.name).as_str());
        }
        first_not_finite(view.dtype(), view.data()).map_err(|error| error.about(tensor.name))?;
    }
    match present.into_keys().next() {
        Some(tensor) => Err(InvalidBlock::UnexpectedTensor { tensor: tensor.to_owned() }),
        None => Ok(()),
    }
}

impl Validator for Weights {
    fn validate(
        &self,
        header: &Header,
        payload: &[u8],
        parents: &dyn ParentView,
    ) -> Result<(), ValidationError> {
        self.check(header, payload, parents).map_err(ValidationError::new)
    }
}

/// Model blocks: a manifest that fills the spec's slots with blocks made for them, and names exactly
/// the blocks that it depends on.
struct Model;

impl Model {
    fn check(header: &Header, payload: &[u8], parents: &dyn ParentView) -> Result<(), InvalidBlock> {
        check_header(header, ChainId::Meta, "application/json")?;
        if header.name != "model" {
            return Err(InvalidBlock::Name { kind: header.kind, expected: "model" });
        }
        let manifest = Manifest::from_canonical_json(payload)?;
        let mut named: Vec<BlockHash> = manifest.slots.values().copied().chain([manifest.spec]).collect();
        named.sort_unstable();
        // Parents ascend and are unique, so the sorted lists are equal or differ at one place.
        let depends: Vec<BlockHash> = dependencies(header).collect();
        if named != depends {
            let differs = named.iter().zip(&depends).find(|(a, b)| a != b).map(|(a, b)| a.min(b));
            let longer = if named.len() > depends.len() { named.last() } else { depends.last() };
            let block = *differs.or(longer).unwrap_or(&manifest.spec);
            return Err(InvalidBlock::Dependencies { block });
        }
        let spec = parents.header(&manifest.spec)?;
        if spec.kind != BlockKind::SPEC {
            return Err(InvalidBlock::Spec { found: 0 });
        }
        let spec = ModelSpec::from_canonical_json(&parents.payload(&manifest.spec)?)?;
        for slot in spec.required_slots() {
            if !manifest.slots.contains_key(&slot) {
                return Err(InvalidBlock::MissingSlot { slot });
            }
        }
        for (&slot, &block) in &manifest.slots {
            let header = parents.header(&block)?;
            let weights = slot.kind().is_weights();
            if weights && spec.tensors_of(slot).is_empty() {
                return Err(InvalidBlock::UnknownSlot { slot });
            }
            if header.kind != slot.kind() || header.name != slot.to_string() {
                return Err(InvalidBlock::WrongBlock { slot, block, kind: header.kind, name: header.name });
            }
            // The weights' own validator saw to it that a spec is among their dependencies, and only one.
            if weights && !dependencies(&header).any(|parent| parent == manifest.spec) {
                return Err(InvalidBlock::OtherSpec { slot, block });
            }
        }
        versions::check_model(header, &manifest, parents)
    }
}

impl Validator for Model {
    fn validate(
        &self,
        header: &Header,
        payload: &[u8],
        parents: &dyn ParentView,
    ) -> Result<(), ValidationError> {
        Self::check(header, payload, parents).map_err(ValidationError::new)
    }
}

/// Texts: what their file in a checkpoint would be.
struct Text;

impl Text {
    fn check(header: &Header, payload: &[u8]) -> Result<(), InvalidBlock> {
        let media_type = match header.kind {
            BlockKind::CHAT_TEMPLATE => "text/plain;charset=utf-8",
            _ => "application/json",
        };
        check_header(header, ChainId::Parameter, media_type)?;
        // Models share a text: equal ones have one name.
        if let Some(parent) = header.parents.first() {
            return Err(InvalidBlock::UnexpectedParent { block: parent.hash });
        }
        if header.version != Version::new(1, 0, 0) {
            return Err(InvalidBlock::FirstVersion { found: header.version.clone() });
        }
        let slot = slot_of(header)?;
        texts::check(slot, "payload", payload)
            .map(drop)
            .map_err(|error: ImportError| InvalidBlock::Text { reason: error.to_string() })
    }
}

impl Validator for Text {
    fn validate(&self, header: &Header, payload: &[u8], _: &dyn ParentView) -> Result<(), ValidationError> {
        Self::check(header, payload).map_err(ValidationError::new)
    }
}
