//! libblyan: blyan-core behind a C ABI. One file per concept; no logic on this side of the door.
//!
//! The rules of the ABI are written once, at the top of include/blyan.h, which `cargo xtask header`
//! generates from this crate: the doc comments here are the header's.

#![expect(non_camel_case_types, reason = "the names are those that C sees")]
#![expect(
    clippy::missing_safety_doc,
    reason = "the rules at the top of the header are the contract of every function"
)]

pub mod block;
pub mod bundle;
pub mod cancel;
pub mod chain;
pub mod chat;
pub mod collect;
pub mod compare;
pub mod delta;
mod edge;
pub mod error;
pub mod evolve;
pub mod export;
pub mod generate;
pub mod grow;
pub mod hash;
pub mod history;
pub mod import;
pub mod learn;
pub mod log;
pub mod model;
pub mod receipt;
pub mod release;
pub mod session;
pub mod signature;
pub mod snapshot;
pub mod stream;
pub mod tensor;
pub mod text;
pub mod usage;
pub mod verify;
pub mod version;
pub mod writer;
