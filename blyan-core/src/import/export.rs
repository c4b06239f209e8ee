//! Blocks → checkpoint folder.

pub use super::error::ExportError;
