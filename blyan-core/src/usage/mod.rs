//! Which experts work, how long they take and which work together.
//!
//! [`UsageTracker`] counts; `counts` owns the numbers, `file` the file in the chain's directory that
//! they outlive the process in.

mod counts;
mod file;
mod histogram;
#[cfg(test)]
mod tests;
mod tracker;

pub use file::UsageError;
pub use tracker::{CoUse, ExpertUsage, ExpertUse, UsageLayout, UsageSnapshot, UsageTracker};
