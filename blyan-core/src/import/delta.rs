//! Owns what must hold for a delta block, and for a weight block that says it was made by merging one.

use super::validate::{InvalidBlock, check_header, spec_of};
use crate::chain::{ChainError, ParentView, ValidationError, Validator};
use crate::format::{BlockKind, ChainId, Header, ParentRole, Slot};
use crate::hash::{BlockHash, PayloadHash};
use crate::tensor::{check_delta, merge_delta};

/// Delta blocks: named as their slot, made of nothing but a base in that slot and its spec, and what they
/// hold can be added to the base.
pub(super) struct Delta;

impl Delta {
    fn check(header: &Header, payload: &[u8], parents: &dyn ParentView) -> Result<(), InvalidBlock> {
        check_header(header, ChainId::Parameter, "application/vnd.safetensors")?;
        let slot = header.name.parse::<Slot>().ok().filter(|slot| slot.kind().is_weights());
        let expected = "the name of a slot of weights";
        let slot = slot.ok_or(InvalidBlock::Name { kind: header.kind, expected })?;
        if header.version != semver::Version::new(1, 0, 0) {
            return Err(InvalidBlock::DeltaVersion { found: header.version.to_string() });
        }
        let base = only(header, ParentRole::Base)?;
        let spec = only(header, ParentRole::Dependency)?;
        if header.parents.len() != 2 {
            return Err(InvalidBlock::DeltaParents { found: header.parents.len() });
        }
        if parents.header(&spec)?.kind != BlockKind::SPEC {
            return Err(InvalidBlock::Spec { found: 0 });
        }
        let base_header = parents.header(&base)?;
        if base_header.kind != slot.kind() || base_header.name != header.name {
            let (kind, name) = (base_header.kind, base_header.name);
            return Err(InvalidBlock::WrongBlock { slot, block: base, kind, name });
        }
        if !base_header.parents.iter().any(|parent| parent.hash == spec) {
            return Err(InvalidBlock::OtherSpec { slot, block: base });
        }
        Ok(check_delta(&parents.payload(&base)?, payload)?)
    }
}

impl Validator for Delta {
    fn validate(
        &self,
        header: &Header,
        payload: &[u8],
        parents: &dyn ParentView,
    ) -> Result<(), ValidationError> {
        Self::check(header, payload, parents).map_err(ValidationError::new)
    }
}

/// The one parent of a role.
fn only(header: &Header, role: ParentRole) -> Result<BlockHash, InvalidBlock> {
    let mut of_role = header.parents.iter().filter(|parent| parent.role == role);
    match (of_role.next(), of_role.next()) {
        (Some(parent), None) => Ok(parent.hash),
        _ => Err(InvalidBlock::DeltaParents { found: header.parents.len() }),
    }
}

/// Checks a weight block one of whose bases is a delta: it follows the delta's base, depends on its spec,
/// and holds exactly what merging the two gives. Other bases say nothing that could be checked.
pub(super) fn check_merged(
    header: &Header,
    payload: &[u8],
    parents: &dyn ParentView,
) -> Result<(), InvalidBlock> {
    let mut deltas = Vec::new();
    for parent in header.parents.iter().filter(|parent| parent.role == ParentRole::Base) {
        let base = parents.header(&parent.hash)?;
        if base.kind == BlockKind::DELTA {
            deltas.push((parent.hash, base));
        }
    }
    let (delta, delta_header) = match &mut deltas[..] {
        [] => return Ok(()),
        [(hash, header)] => (*hash, header),
        many => return Err(InvalidBlock::ManyDeltas { found: many.len() }),
    };
    let base = only(delta_header, ParentRole::Base)?;
    let follows =
        |parent: &crate::format::Parent| parent.hash == base && parent.role == ParentRole::Predecessor;
    if !header.parents.iter().any(follows) {
        return Err(InvalidBlock::OtherBase { delta, base });
    }
    let spec_kind =
        |parent: &BlockHash| -> Result<BlockKind, ChainError> { Ok(parents.header(parent)?.kind) };
    let of_header = header.parents.iter().filter(|parent| parent.role == ParentRole::Dependency);
    let spec = spec_of(of_header.map(|parent| parent.hash), spec_kind)?;
    if spec != only(delta_header, ParentRole::Dependency)? || header.name != delta_header.name {
        return Err(InvalidBlock::OtherBase { delta, base });
    }
    let merged = merge_delta(&parents.payload(&base)?, &parents.payload(&delta)?)?;
    if merged != payload {
        let expected = PayloadHash::of(&merged);
        return Err(InvalidBlock::NotMerged { delta, expected, found: header.payload.hash });
    }
    Ok(())
}
