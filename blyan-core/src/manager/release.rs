//! Owns releases: models that have a name and a version.

use semver::Version;

use crate::chain::{Block, Chain, Draft, Writer};
use crate::format::{BlockKind, ChainId, Parent, ParentRole, Release};
use crate::hash::BlockHash;

use super::ManagerError;

/// A release that the chain holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseEntry {
    /// The release block.
    pub block: BlockHash,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: Version,
    /// The model block.
    pub model: BlockHash,
    /// The release that it follows.
    pub predecessor: Option<BlockHash>,
}

impl ReleaseEntry {
    fn new(block: &Block) -> Result<Self, ManagerError> {
        let header = block.header();
        let mut followed = header.parents.iter().filter(|parent| parent.role == ParentRole::Predecessor);
        Ok(Self {
            block: block.hash(),
            name: header.name.clone(),
            version: header.version.clone(),
            model: model_of(block)?,
            predecessor: followed.next().map(|parent| parent.hash),
        })
    }
}

/// The model of a release block: its one dependency, as it was checked when it was appended.
pub(super) fn model_of(release: &Block) -> Result<BlockHash, ManagerError> {
    let header = release.header();
    let model = header.parents.iter().find(|parent| parent.role == ParentRole::Dependency);
    let (block, kind) = (release.hash(), header.kind);
    model.map(|model| model.hash).ok_or(ManagerError::NotAModel { block, kind })
}

/// Every release, by name, the highest version first, then by hash.
///
/// # Errors
///
/// [`ManagerError`] from the chain.
pub fn releases(chain: &Chain) -> Result<Vec<ReleaseEntry>, ManagerError> {
    let blocks = chain.blocks_of_kind(BlockKind::RELEASE);
    let mut releases: Vec<ReleaseEntry> =
        blocks.map(|block| ReleaseEntry::new(&block?)).collect::<Result<_, ManagerError>>()?;
    releases.sort_by(|a, b| {
        a.name.cmp(&b.name).then_with(|| b.version.cmp(&a.version)).then_with(|| a.block.cmp(&b.block))
    });
    Ok(releases)
}

/// The release block by which a model, which need not be in the chain yet, has a name and version; `None` if
/// they are free.
///
/// # Errors
///
/// [`ManagerError::ReleaseExists`] if another model has this name and version on this chain; from the chain.
pub fn find_release(
    chain: &Chain,
    model: &BlockHash,
    name: &str,
    version: &Version,
) -> Result<Option<BlockHash>, ManagerError> {
    held(&releases(chain)?, model, name, version)
}

fn held(
    releases: &[ReleaseEntry],
    model: &BlockHash,
    name: &str,
    version: &Version,
) -> Result<Option<BlockHash>, ManagerError> {
    let known = releases.iter().find(|known| known.name == name && known.version == *version);
    match known.cloned() {
        None => Ok(None),
        Some(known) if known.model == *model => Ok(Some(known.block)),
        Some(ReleaseEntry { name, version, model, .. }) => {
            Err(ManagerError::ReleaseExists { name, version, model })
        }
    }
}

/// Names a model: appends a release block, which follows the release of the same name with the next lower
/// version, and returns it. A model that has this name and version already keeps its block.
///
/// # Errors
///
/// [`ManagerError::NotAModel`]; [`ManagerError::ReleaseExists`] if another model has this name and version
/// on this chain; from the chain, for a name that is no release's.
pub fn release(
    chain: &Chain,
    model: &BlockHash,
    name: &str,
    version: Version,
) -> Result<BlockHash, ManagerError> {
    let block = chain.get(model)?;
    if block.header().kind != BlockKind::MODEL {
        return Err(ManagerError::NotAModel { block: *model, kind: block.header().kind });
    }
    if let Some(block) = find_release(chain, model, name, &version)? {
        return Ok(block);
    }
    // Begun first: nobody takes the name and version between the look and the append.
    let mut writer = chain.writer()?;
    let release = release_to(&mut writer, chain, model, name, version)?;
    writer.commit()?;
    Ok(release)
}

/// As [`release`], in a transaction, which may append the model itself.
pub(crate) fn release_to(
    writer: &mut Writer,
    chain: &Chain,
    model: &BlockHash,
    name: &str,
    version: Version,
) -> Result<BlockHash, ManagerError> {
    let releases = releases(chain)?;
    if let Some(block) = held(&releases, model, name, &version)? {
        return Ok(block);
    }
    // The highest version is the first.
    let before = releases.iter().find(|known| known.name == name && known.version < version);
    let mut parents = vec![Parent::dependency(*model)];
    parents.extend(before.map(|before| Parent::predecessor(before.block)));
    let draft = Draft {
        lane: ChainId::Meta,
        kind: BlockKind::RELEASE,
        name: name.to_owned(),
        version,
        parents,
        payload: Release { release_version: 1, model: *model }.to_canonical_json(),
        media_type: "application/json".to_owned(),
    };
    Ok(writer.append(draft)?.hash)
}
