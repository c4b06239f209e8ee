//! Keep a mixture-of-experts model as a DAG of content-addressed blocks, one expert per block, and
//! run the model from those blocks alone.
//!
//! ```
//! use blyan_core::import::{self, ImportOptions};
//! use blyan_core::manager::{GenerateOptions, ManagerOptions, MoEModelManager};
//! use blyan_core::Chain;
//!
//! # fn main() -> Result<(), blyan_core::Error> {
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tiny-kjv-moe");
//! let chain = Chain::in_memory()?; // or Chain::open("data")
//! import::checkpoint(&chain, folder, &ImportOptions::default())?;
//!
//! let model = MoEModelManager::open(&chain, &ManagerOptions::default())?;
//! let options = GenerateOptions { max_tokens: Some(8), ..GenerateOptions::default() };
//! let generation = model.generate("And God said", &options)?;
//! println!("{}", generation.text);
//!
//! // Anyone with the same blocks can check what was run.
//! assert!(generation.receipt.replay(&chain, &ManagerOptions::default())?.is_ok());
//! # Ok(())
//! # }
//! ```
//!
//! The words are in the repository's ARCHITECTURE.md, every byte on disk in docs/format.md, and the
//! arithmetic, which is the same on every machine, in docs/numerics.md.

pub mod chain;
pub mod chat;
mod error;
pub mod evolve;
pub mod format;
pub mod hash;
pub mod import;
pub mod manager;
pub mod model;
mod open;
pub mod storage;
pub mod tensor;
pub mod usage;

#[doc(inline)]
pub use blyan_kernels as kernels;
#[doc(inline)]
pub use blyan_kernels::dtype;
pub use chain::{Block, Chain, ChainError, Draft, SignatureRecord, VerifyOptions, VerifyReport, Writer};
pub use dtype::{DType, Shape};
pub use error::Error;
pub use format::{BlockKind, ChainId, Header, Manifest, ModelSpec, Parent, ParentRole, PayloadRef, Slot};
pub use hash::{
    BlockHash, CandidateRoot, ChainRoot, Commitment, LogitsDigest, PayloadHash, ReceiptHash, Salt,
    SnapshotRoot,
};
pub use import::export;
pub use manager::{MoEModelManager, Receipt};
pub use storage::{Payload, PayloadStore};
pub use tensor::{TensorBlock, TensorView};

/// The README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
