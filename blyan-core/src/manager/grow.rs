//! Owns the growing of a model: experts added to layers, with the routers that know them.
//!
//! Every weight block depends on its spec, so all of them get a new header under the grown spec; payloads
//! are shared by hash, so a block that did not change costs a few hundred bytes.

use std::collections::BTreeMap;

use crate::chain::{Chain, Draft};
use crate::format::{BlockKind, ChainId, Change, FeedForward, Parent, Slot};

use super::{ManagerError, Snapshot};

/// What one layer gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerGrowth {
    /// The layer.
    pub layer: u32,
    /// Payloads of the new experts, in the order of their numbers after the layer's last.
    pub experts: Vec<Vec<u8>>,
    /// Payload of the router that knows them: one row more for each.
    pub router: Vec<u8>,
}

/// Appends a spec with more experts, the new experts and routers, and all other blocks of the model under
/// that spec, and returns the grown model, which can be tried and published.
///
/// # Errors
///
/// [`ManagerError::NotGrowing`] for a layer that has no router, is named twice or gets nothing; from the
/// chain, for a payload that is not what its slot needs. Nothing was appended then.
pub fn grow(chain: &Chain, base: &Snapshot, growth: &[LayerGrowth]) -> Result<Snapshot, ManagerError> {
    let mut spec = (**base.spec()).clone();
    let mut new: BTreeMap<Slot, &[u8]> = BTreeMap::new();
    for LayerGrowth { layer, experts, router } in growth {
        let refused = || ManagerError::NotGrowing { layer: *layer };
        let number = usize::try_from(*layer).map_err(|_| refused())?;
        let found = spec.layers.get_mut(number).map(|layer| &mut layer.feed_forward);
        let Some(FeedForward::Moe { num_experts, .. }) = found else { return Err(refused()) };
        for payload in experts {
            let expert = u32::try_from(*num_experts).map_err(|_| refused())?;
            new.insert(Slot::Expert { layer: *layer, expert }, payload);
            *num_experts += 1;
        }
        if experts.is_empty() || new.insert(Slot::Router { layer: *layer }, router).is_some() {
            return Err(refused());
        }
    }
    spec.check()?;
    let old_spec = chain.get(base.spec_block())?;
    let draft = Draft::new(ChainId::Meta, BlockKind::SPEC, "spec", spec.to_canonical_json())
        .with_version(Change::Minor.next(&old_spec.header().version));
    let mut writer = chain.writer()?;
    let spec_draft = Draft { parents: vec![Parent::predecessor(old_spec.hash())], ..draft };
    let spec_block = writer.append(spec_draft)?.hash;
    let mut slots = BTreeMap::new();
    for (slot, pinned) in base.slots() {
        if !slot.kind().is_weights() {
            slots.insert(*slot, pinned.block);
            continue;
        }
        let before = chain.get(&pinned.block)?;
        let payload = match new.remove(slot) {
            Some(payload) => payload.to_vec(),
            None => chain.payload_of(&before)?.to_vec(),
        };
        let draft = Draft::new(ChainId::Parameter, slot.kind(), slot.to_string(), payload)
            .with_version(Change::Minor.next(&before.header().version));
        let parents = vec![Parent::dependency(spec_block), Parent::predecessor(pinned.block)];
        slots.insert(*slot, writer.append(Draft { parents, ..draft })?.hash);
    }
    for (slot, payload) in new {
        let draft = Draft::new(ChainId::Parameter, slot.kind(), slot.to_string(), payload);
        let parents = vec![Parent::dependency(spec_block)];
        slots.insert(slot, writer.append(Draft { parents, ..draft })?.hash);
    }
    writer.commit()?;
    base.grown(chain, spec_block, slots)
}
