//! Owns verification: every block against its name, every entry of the index against the blocks.

use std::sync::atomic::AtomicBool;

use super::Chain;
use super::error::{ChainError, Damage};
use crate::hash::BlockHash;

/// What to verify, and whom to tell.
#[derive(Clone, Copy, Default)]
pub struct VerifyOptions<'a> {
    /// Whether to read every payload, on all cores, or only the index.
    pub full: bool,
    /// Called after each step, from any thread.
    pub progress: Option<&'a (dyn Fn(VerifyProgress) + Sync)>,
    /// Set to stop; the verification then ends with [`ChainError::Cancelled`].
    pub cancel: Option<&'a AtomicBool>,
}

/// How far a verification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VerifyProgress {
    /// Blocks whose headers were verified.
    pub blocks: u64,
    /// Payload bytes hashed.
    pub payload_bytes: u64,
    /// Payload bytes to hash.
    pub total_payload_bytes: u64,
}

/// A block that is not what was appended.
#[derive(Debug)]
pub struct BadBlock {
    /// The block.
    pub block: BlockHash,
    /// Its name, where its header can be read.
    pub name: Option<String>,
    /// What is wrong with it.
    pub reason: Damage,
}

/// What a verification found.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// Blocks verified.
    pub blocks: u64,
    /// Payload bytes hashed, each payload once.
    pub payload_bytes: u64,
    /// Every bad block and reason.
    pub bad: Vec<BadBlock>,
}

impl VerifyReport {
    /// Whether everything is as it was appended.
    pub fn is_ok(&self) -> bool {
        self.bad.is_empty()
    }
}

impl Chain {
    /// Verifies the chain, going on after each bad block.
    ///
    /// # Errors
    ///
    /// [`ChainError::Cancelled`]; [`ChainError::Storage`] if the index cannot be read at all.
    pub fn verify(&self, options: &VerifyOptions<'_>) -> Result<VerifyReport, ChainError> {
        let reader = self.reader()?;
        let mut report = VerifyReport::default();
        for block in self.topological_order() {
            report.blocks += 1;
            let found = block.and_then(|block| {
                if options.full {
                    reader.payload(&block.hash(), block.header(), self.payloads())?;
                }
                Ok(())
            });
            match found {
                Ok(()) => {}
                Err(ChainError::Damaged { block, reason }) => {
                    report.bad.push(BadBlock { block, name: None, reason });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(report)
    }
}
