//! Keep a mixture-of-experts model as a DAG of content-addressed blocks, one expert per block, and
//! run the model from those blocks alone.

pub mod chain;
pub mod dtype;
mod error;
pub mod format;
pub mod hash;
pub mod import;
pub mod kernels;
pub mod manager;
pub mod model;
mod open;
pub mod storage;
pub mod tensor;
pub mod usage;

pub use chain::{Block, Chain, ChainError, Draft, SignatureRecord, VerifyOptions, VerifyReport, Writer};
pub use dtype::{DType, Shape};
pub use error::Error;
pub use format::{BlockKind, ChainId, Header, Manifest, ModelSpec, Parent, ParentRole, PayloadRef, Slot};
pub use hash::{BlockHash, ChainRoot, LogitsDigest, PayloadHash, ReceiptHash, SnapshotRoot};
pub use import::export;
pub use manager::{MoEModelManager, Receipt};
pub use storage::{Payload, PayloadStore};
pub use tensor::{TensorBlock, TensorView};
