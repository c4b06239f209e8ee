//! Owns what a chain's blocks may be called: hashes and their beginnings, slots, releases, `latest`.

use crate::chain::{Block, Chain};
use crate::format::{BlockKind, Release, Slot};
use crate::hash::BlockHash;

use super::release::model_of;
use super::{ManagerError, Snapshot};

/// Fewest digits of a hash that are taken for one.
pub const MIN_HASH_DIGITS: usize = 4;
/// Candidates that an error lists.
const MAX_CANDIDATES: usize = 8;

/// The model block of a name: `latest` for the one model that no other follows, a release (`name` is its
/// highest version, `name@1.2.3` one), or the hash of a model or release block or at least its first
/// [`MIN_HASH_DIGITS`] digits.
///
/// # Errors
///
/// [`ManagerError::UnknownName`], [`ManagerError::AmbiguousName`], [`ManagerError::NoModel`],
/// [`ManagerError::ManyModels`] or [`ManagerError::NotAModel`]; the chain's own.
pub fn find_model(chain: &Chain, name: &str) -> Result<BlockHash, ManagerError> {
    if name == Release::LATEST {
        return Snapshot::only_model_block(chain);
    }
    let found = find(chain, name)?;
    let block = chain.get(&found)?;
    match block.header().kind {
        BlockKind::MODEL => Ok(found),
        BlockKind::RELEASE => model_of(&block),
        kind => Err(ManagerError::NotAModel { block: found, kind }),
    }
}

/// The block of a name: as for [`find_model`], where a release is its own block and a hash may be of any
/// block; or a slot such as `layer0.expert1`, of the model named `of`, or of the latest.
///
/// # Errors
///
/// As for [`find_model`]; [`ManagerError::EmptySlot`].
pub fn find_block(chain: &Chain, name: &str, of: Option<&str>) -> Result<BlockHash, ManagerError> {
    if let Ok(slot) = name.parse::<Slot>() {
        let snapshot = Snapshot::named(chain, of.unwrap_or(Release::LATEST))?;
        let pinned = snapshot.slots().get(&slot);
        return pinned.map(|pinned| pinned.block).ok_or(ManagerError::EmptySlot { slot });
    }
    if name == Release::LATEST {
        return Snapshot::only_model_block(chain);
    }
    find(chain, name)
}

fn find(chain: &Chain, name: &str) -> Result<BlockHash, ManagerError> {
    let mut candidates = match name.len() >= MIN_HASH_DIGITS {
        true => chain.with_prefix(name)?,
        false => Vec::new(),
    };
    candidates.extend(released_as(chain, name)?);
    match candidates.as_slice() {
        [] => Err(ManagerError::UnknownName { name: name.chars().take(80).collect() }),
        [block] => Ok(*block),
        _ => {
            candidates.truncate(MAX_CANDIDATES);
            Err(ManagerError::AmbiguousName { name: name.to_owned(), candidates })
        }
    }
}

/// The release blocks that `name` or `name@version` means; one, unless they are of different models.
fn released_as(chain: &Chain, text: &str) -> Result<Vec<BlockHash>, ManagerError> {
    let (name, version) = text.split_once('@').map_or((text, None), |(name, version)| (name, Some(version)));
    let mut best: Vec<Block> = Vec::new();
    for block in chain.blocks_of_kind(BlockKind::RELEASE) {
        let block = block?;
        let header = block.header();
        if header.name != name || version.is_some_and(|version| header.version.to_string() != version) {
            continue;
        }
        match best.first().map(|best| header.version.cmp(&best.header().version)) {
            Some(std::cmp::Ordering::Less) => {}
            Some(std::cmp::Ordering::Equal) => best.push(block),
            None | Some(std::cmp::Ordering::Greater) => best = vec![block],
        }
    }
    best.sort_unstable_by_key(Block::hash);
    let mut releases: Vec<(BlockHash, BlockHash)> = Vec::new();
    for block in best {
        let model = model_of(&block)?;
        // Several people may release one model as one version, after different releases.
        if releases.iter().all(|(_, known)| *known != model) {
            releases.push((block.hash(), model));
        }
    }
    Ok(releases.into_iter().map(|(block, _)| block).collect())
}
