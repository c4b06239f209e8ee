//! Owns the rules of versions: what a block may follow, and how far its version then rises; and the blocks
//! that say so, migrations and releases. docs/format.md has them in words.

use semver::Version;

use super::{InvalidBlock, check_header, dependencies};
use crate::chain::{ParentView, ValidationError, Validator};
use crate::format::{
    BlockKind, ChainId, Change, Header, Manifest, Migration, ModelSpec, ParentRole, Release,
};
use crate::hash::BlockHash;

const FIRST: Version = Version::new(1, 0, 0);

fn parents_in(header: &Header, role: ParentRole) -> impl Iterator<Item = BlockHash> {
    header.parents.iter().filter(move |parent| parent.role == role).map(|parent| parent.hash)
}

/// The one block that this one follows, of the same kind and name, if it follows any.
fn followed(header: &Header, parents: &dyn ParentView) -> Result<Option<(BlockHash, Header)>, InvalidBlock> {
    let mut followed = parents_in(header, ParentRole::Predecessor);
    let Some(block) = followed.next() else { return Ok(None) };
    let more = followed.count();
    if more > 0 {
        return Err(InvalidBlock::Predecessors { found: 1 + more });
    }
    let before = parents.header(&block)?;
    if before.kind != header.kind || before.name != header.name {
        return Err(InvalidBlock::Predecessor { block, kind: before.kind, name: before.name });
    }
    Ok(Some((block, before)))
}

fn check_first(header: &Header) -> Result<(), InvalidBlock> {
    if header.version == FIRST {
        return Ok(());
    }
    Err(InvalidBlock::FirstVersion { found: header.version.clone() })
}

fn check_step(before: &Header, header: &Header, change: Change) -> Result<(), InvalidBlock> {
    if change.leads(&before.version, &header.version) {
        return Ok(());
    }
    let (before, found) = (before.version.clone(), header.version.clone());
    Err(InvalidBlock::VersionStep { before, found, change })
}

/// The spec that a spec block grew from.
fn grown_from(spec: &Header) -> Option<BlockHash> {
    parents_in(spec, ParentRole::Predecessor).next()
}

/// The migrations that a block names as evidence.
fn migrations(header: &Header, parents: &dyn ParentView) -> Result<Vec<Migration>, InvalidBlock> {
    let mut migrations = Vec::new();
    for parent in parents_in(header, ParentRole::Evidence) {
        if parents.header(&parent)?.kind == BlockKind::MIGRATION {
            migrations.push(Migration::from_canonical_json(&parents.payload(&parent)?)?);
        }
    }
    Ok(migrations)
}

/// A weight block follows none and is 1.0.0, or follows one of its slot: of the same spec (patch), of the
/// spec that its own grew from (minor), or of the spec that a migration comes from (major).
pub(super) fn check_weights(
    header: &Header,
    spec: BlockHash,
    parents: &dyn ParentView,
) -> Result<(), InvalidBlock> {
    let Some((block, before)) = followed(header, parents)? else { return check_first(header) };
    let had = |spec: BlockHash| dependencies(&before).any(|parent| parent == spec);
    let change = if had(spec) {
        Change::Patch
    } else if grown_from(&parents.header(&spec)?).is_some_and(had) {
        Change::Minor
    } else if migrations(header, parents)?.iter().any(|m| m.to_spec == spec && had(m.from_spec)) {
        Change::Major
    } else {
        return Err(InvalidBlock::UnrelatedSpec { block });
    };
    check_step(&before, header, change)
}

/// A model follows none and is 1.0.0, or follows one: see [`check_weights`]; a slot more makes it minor, a
/// slot less major.
pub(super) fn check_model(
    header: &Header,
    manifest: &Manifest,
    parents: &dyn ParentView,
) -> Result<(), InvalidBlock> {
    let Some((block, before)) = followed(header, parents)? else { return check_first(header) };
    let old = Manifest::from_canonical_json(&parents.payload(&block)?)?;
    let keeps = old.slots.keys().all(|slot| manifest.slots.contains_key(slot));
    let (same, grown) = (
        old.spec == manifest.spec,
        grown_from(&parents.header(&manifest.spec)?).is_some_and(|spec| spec == old.spec),
    );
    let change = if (same || grown) && !keeps {
        Change::Major
    } else if same && old.slots.len() == manifest.slots.len() {
        Change::Patch
    } else if same || grown {
        Change::Minor
    } else if migrations(header, parents)?.iter().any(|m| m.from == block && m.to_spec == manifest.spec) {
        Change::Major
    } else {
        return Err(InvalidBlock::UnrelatedSpec { block });
    };
    check_step(&before, header, change)
}

/// A spec has no parents and is 1.0.0, or follows one that it has more experts than, as its only parent.
pub(super) fn check_spec(
    header: &Header,
    spec: &ModelSpec,
    parents: &dyn ParentView,
) -> Result<(), InvalidBlock> {
    if let Some(other) = header.parents.iter().find(|parent| parent.role != ParentRole::Predecessor) {
        return Err(InvalidBlock::UnexpectedParent { block: other.hash });
    }
    let Some((block, before)) = followed(header, parents)? else { return check_first(header) };
    if !spec.is_grown_from(&ModelSpec::from_canonical_json(&parents.payload(&block)?)?) {
        return Err(InvalidBlock::NotGrown { block });
    }
    check_step(&before, header, Change::Minor)
}

/// Dependencies must be exactly these blocks.
fn check_dependencies(header: &Header, named: &[BlockHash]) -> Result<(), InvalidBlock> {
    let depends: Vec<BlockHash> = dependencies(header).collect();
    let lacking = named.iter().find(|block| !depends.contains(block));
    match lacking.or_else(|| depends.iter().find(|block| !named.contains(block))) {
        Some(block) => Err(InvalidBlock::Dependencies { block: *block }),
        None => Ok(()),
    }
}

fn check_kind(
    block: BlockHash,
    expected: BlockKind,
    parents: &dyn ParentView,
) -> Result<Header, InvalidBlock> {
    let header = parents.header(&block)?;
    if header.kind == expected {
        return Ok(header);
    }
    Err(InvalidBlock::OtherKind { block, kind: header.kind, expected })
}

/// Migration blocks: a model, its spec, and another spec.
pub(super) struct MigrationRules;

impl MigrationRules {
    fn check(header: &Header, payload: &[u8], parents: &dyn ParentView) -> Result<(), InvalidBlock> {
        check_header(header, ChainId::Meta, "application/json")?;
        if header.name != "migration" {
            return Err(InvalidBlock::Name { kind: header.kind, expected: "migration" });
        }
        check_first(header)?;
        let migration = Migration::from_canonical_json(payload)?;
        if let Some(other) = header.parents.iter().find(|parent| parent.role != ParentRole::Dependency) {
            return Err(InvalidBlock::UnexpectedParent { block: other.hash });
        }
        check_dependencies(header, &[migration.from, migration.from_spec, migration.to_spec])?;
        check_kind(migration.from, BlockKind::MODEL, parents)?;
        for spec in [migration.from_spec, migration.to_spec] {
            check_kind(spec, BlockKind::SPEC, parents)?;
        }
        let model = Manifest::from_canonical_json(&parents.payload(&migration.from)?)?;
        if model.spec != migration.from_spec {
            return Err(InvalidBlock::UnrelatedSpec { block: migration.from });
        }
        Ok(())
    }
}

impl Validator for MigrationRules {
    fn validate(
        &self,
        header: &Header,
        payload: &[u8],
        parents: &dyn ParentView,
    ) -> Result<(), ValidationError> {
        Self::check(header, payload, parents).map_err(ValidationError::new)
    }
}

/// Release blocks: a name and a version of one model, after a lower version of the same name or none.
pub(super) struct ReleaseRules;

impl ReleaseRules {
    fn check(header: &Header, payload: &[u8], parents: &dyn ParentView) -> Result<(), InvalidBlock> {
        check_header(header, ChainId::Meta, "application/json")?;
        if !Release::is_name(&header.name) {
            let expected = "a name that is neither a slot's nor \"latest\"";
            return Err(InvalidBlock::Name { kind: header.kind, expected });
        }
        let release = Release::from_canonical_json(payload)?;
        check_dependencies(header, &[release.model])?;
        check_kind(release.model, BlockKind::MODEL, parents)?;
        if let Some((block, before)) = followed(header, parents)?
            && before.version >= header.version
        {
            return Err(InvalidBlock::NotLater { block, before: before.version });
        }
        Ok(())
    }
}

impl Validator for ReleaseRules {
    fn validate(
        &self,
        header: &Header,
        payload: &[u8],
        parents: &dyn ParentView,
    ) -> Result<(), ValidationError> {
        Self::check(header, payload, parents).map_err(ValidationError::new)
    }
}
