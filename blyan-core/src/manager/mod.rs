//! Generation around the forward pass: text and tokens, chat templates, sampling, receipts.

pub mod sampling;
pub mod text;
