//! Bytes ↔ values, no I/O: block headers, slot names, specs, manifests, releases and migrations.

pub(crate) mod canonical;
pub(crate) mod header;
pub(crate) mod kind;
pub(crate) mod layout;
pub(crate) mod manifest;
pub(crate) mod migration;
pub(crate) mod release;
pub(crate) mod slot;
pub(crate) mod spec;
pub(crate) mod version;

pub use canonical::CanonicalError;
pub use header::{
    HEADER_VERSION, Header, HeaderError, MAX_HEADER_BYTES, MAX_PARENTS, MAX_TEXT_BYTES, Parent, PayloadRef,
    is_block_name,
};
pub use kind::{BlockKind, ChainId, ParentRole};
pub use layout::{TensorRole, TensorSpec};
pub use manifest::{Manifest, ManifestError};
pub use migration::{MAX_REASON_BYTES, Migration};
pub use release::Release;
pub use slot::{ParseSlotError, Slot};
pub use spec::{
    Architecture, AttentionSpec, FeedForward, LayerSpec, ModelSpec, QkNorm, RopeScaling, RopeSpec, SpecError,
    TokenSpec,
};
pub use version::Change;
