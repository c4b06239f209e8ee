//! Generation around the forward pass: text and tokens, chat templates, sampling, receipts.

pub mod chat;
pub mod receipt;
pub mod sampling;
pub mod text;
