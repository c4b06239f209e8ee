//! Owns the payload of a tokens block: token ids and nothing else, so that its payload hash names the
//! content, whatever is said about it.

use super::super::{Evidence, InvalidEvidence};
use crate::chain::ParentView;
use crate::format::{BlockKind, ChainId, Parent};

/// Token ids of a text, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens(Vec<u32>);

impl Tokens {
    /// Wraps token ids.
    ///
    /// # Errors
    ///
    /// [`InvalidEvidence::TokensLength`] if there are none.
    pub fn new(ids: Vec<u32>) -> Result<Self, InvalidEvidence> {
        if ids.is_empty() {
            return Err(InvalidEvidence::TokensLength { len_bytes: 0 });
        }
        Ok(Self(ids))
    }

    /// The ids.
    pub fn ids(&self) -> &[u32] {
        &self.0
    }

    /// The ids.
    pub fn into_ids(self) -> Vec<u32> {
        self.0
    }
}

/// The ids in the payload of a tokens block.
pub(super) fn ids_in(payload: &[u8]) -> Result<impl Iterator<Item = u32>, InvalidEvidence> {
    let (ids, rest) = payload.as_chunks::<4>();
    if ids.is_empty() || !rest.is_empty() {
        return Err(InvalidEvidence::TokensLength { len_bytes: payload.len() });
    }
    Ok(ids.iter().map(|id| u32::from_le_bytes(*id)))
}

impl Evidence for Tokens {
    const KIND: BlockKind = BlockKind::TOKENS;
    const LANE: ChainId = ChainId::Dataset;

    fn from_payload(bytes: &[u8]) -> Result<Self, InvalidEvidence> {
        Ok(Self(ids_in(bytes)?.collect()))
    }

    fn to_payload(&self) -> Vec<u8> {
        self.0.iter().flat_map(|id| id.to_le_bytes()).collect()
    }

    fn parents(&self) -> Vec<Parent> {
        Vec::new()
    }

    fn check_parents(&self, _: &dyn ParentView) -> Result<(), InvalidEvidence> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_little_endian_and_whole() {
        let tokens = Tokens::new(vec![1, 0x0102_0304]).unwrap();
        assert_eq!(tokens.to_payload(), [1, 0, 0, 0, 4, 3, 2, 1]);
        assert_eq!(Tokens::from_payload(&tokens.to_payload()).unwrap(), tokens);
        assert!(Tokens::new(Vec::new()).is_err());
        for len in [0, 1, 3, 5, 7] {
            let error = Tokens::from_payload(&vec![0; len]).unwrap_err();
            assert!(matches!(error, InvalidEvidence::TokensLength { len_bytes } if len_bytes == len));
        }
    }
}
