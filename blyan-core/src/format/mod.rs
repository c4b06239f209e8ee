//! Bytes ↔ values, no I/O: block headers, slot names, specs and manifests.

pub(crate) mod header;
pub(crate) mod kind;
pub(crate) mod layout;
pub(crate) mod manifest;
pub(crate) mod slot;
pub(crate) mod spec;

pub use header::{
    HEADER_VERSION, Header, HeaderError, MAX_HEADER_BYTES, MAX_PARENTS, MAX_TEXT_BYTES, Parent, PayloadRef,
    is_block_name,
};
pub use kind::{BlockKind, ChainId, ParentRole};
pub use layout::{TensorRole, TensorSpec};
pub use manifest::{Manifest, ManifestError};
pub use slot::{ParseSlotError, Slot};
pub use spec::{
    Architecture, AttentionSpec, FeedForward, LayerSpec, ModelSpec, QkNorm, RopeScaling, RopeSpec, SpecError,
    TokenSpec,
};
