//! Keep a mixture-of-experts model as a DAG of content-addressed blocks, one expert per block, and
//! run the model from those blocks alone.

pub mod dtype;
pub mod format;
pub mod hash;
pub mod kernels;
pub mod manager;
pub mod model;
pub mod tensor;
pub mod usage;

pub use dtype::{DType, Shape};
pub use format::{BlockKind, ChainId, Manifest, ModelSpec, ParentRole, Slot};
pub use hash::{BlockHash, ChainRoot, LogitsDigest, PayloadHash, ReceiptHash, SnapshotRoot};
pub use tensor::{TensorBlock, TensorView};
