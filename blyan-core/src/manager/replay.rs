//! Owns replaying a receipt: running its inputs again and naming every difference.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value as Json;

use crate::chain::{Chain, ChainError};
use crate::format::{FeedForward, Slot};
use crate::hash::BlockHash;
use crate::kernels::NUMERICS_VERSION;
use crate::model::ModelError;

use super::options::{GenerateOptions, ManagerOptions, Prompt};
use super::receipt::{Difference, FinishReason, Receipt};
use super::sampling::SamplingError;
use super::{ManagerError, MoEModelManager};

/// What replaying a receipt found.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Replay {
    /// Every leaf that is not what running it again gives; none if the receipt is true.
    pub differences: Vec<Difference>,
    /// Tokens that went through each block of weights, those of the prompt included: of an expert, those
    /// that were routed to it. The same everywhere; empty if the receipt could not be run.
    pub uses: BTreeMap<BlockHash, u64>,
}

impl Replay {
    /// Whether the receipt is true.
    pub fn is_ok(&self) -> bool {
        self.differences.is_empty()
    }
}

impl Receipt {
    /// Runs the receipt's inputs again, on the chain's blocks and this machine, and compares.
    ///
    /// `options` says how to run: threads, instruction set, chunk; its model and cache are the
    /// receipt's. Only what was run with blocks laid over a model, and was not published since, needs that
    /// model and the same overlay.
    ///
    /// # Errors
    ///
    /// [`ManagerError`] if the chain cannot be read or a block is damaged. Inputs that cannot be run
    /// are no error but a difference: an unknown model, an option out of range.
    pub fn replay(&self, chain: &Chain, options: &ManagerOptions) -> Result<Replay, ManagerError> {
        let claim = self.claim();
        let mut differences = Vec::new();
        if claim.numerics_version == NUMERICS_VERSION {
            match self.run_again(chain, options) {
                Ok((recomputed, uses)) => {
                    return Ok(Replay { differences: self.diff(&recomputed), uses });
                }
                Err(error) => differences.push(self.blame(error)?),
            }
        } else {
            differences.push(Difference {
                path: "/claim/numerics_version".to_owned(),
                claimed: Some(claim.numerics_version.into()),
                recomputed: Some(NUMERICS_VERSION.into()),
            });
        }
        // Fields that were edited besides still break their seals.
        let sealed = self.diff(self).into_iter();
        let known: HashSet<String> = differences.iter().map(|difference| difference.path.clone()).collect();
        differences.extend(sealed.filter(|difference| !known.contains(&difference.path)));
        Ok(Replay { differences, uses: BTreeMap::new() })
    }

    fn run_again(
        &self,
        chain: &Chain,
        options: &ManagerOptions,
    ) -> Result<(Receipt, BTreeMap<BlockHash, u64>), ManagerError> {
        let claim = self.claim();
        let (model, name) = match options.overlay.is_empty() {
            true => (Some(claim.model), None),
            false => (options.model, options.name.clone()),
        };
        let options = ManagerOptions {
            model,
            name,
            kv_cache: claim.options.kv_cache,
            persist_usage: false,
            // Who checks a result checks what it came from.
            trust_verified: false,
            ..options.clone()
        };
        let manager = MoEModelManager::open(chain, &options)?;
        let options = GenerateOptions {
            max_tokens: Some(usize::try_from(claim.options.max_tokens).unwrap_or(usize::MAX)),
            sampling: claim.options.sampling(),
            stop: claim.options.stop.clone(),
            // Stop tokens are the model's or none; others show in the comparison.
            ignore_eos: claim.options.stop_token_ids.is_empty(),
            logprobs: claim.options.logprobs.map(|count| count as usize),
            cancel: None,
        };
        let prompt = Prompt::Tokens(claim.prompt_tokens.clone());
        let mut stream = manager.stream(prompt, &options)?;
        let mut left = match claim.finish_reason {
            FinishReason::Cancelled => claim.output_tokens.len(),
            _ => usize::MAX,
        };
        while left > 0 {
            let Some(piece) = stream.next() else { break };
            piece?;
            left -= 1;
        }
        let receipt = stream.finish()?.receipt;
        let uses = uses(&manager, &receipt);
        Ok((receipt, uses))
    }

    /// The input that an error is about; errors about anything else are handed back.
    fn blame(&self, error: ManagerError) -> Result<Difference, ManagerError> {
        let claim = self.claim();
        let path = match &error {
            ManagerError::Chain(ChainError::NotFound { block }) if *block == claim.model => "/claim/model",
            ManagerError::NotAModel { .. } => "/claim/model",
            ManagerError::Model(ModelError::UnknownToken { .. }) | ManagerError::EmptyPrompt => {
                "/claim/prompt_tokens"
            }
            ManagerError::NoMaxTokens | ManagerError::ContextFull { .. } => "/claim/options/max_tokens",
            ManagerError::Stop(_) | ManagerError::NoTokenizer => "/claim/options/stop",
            ManagerError::Sampling(SamplingError::OutOfRange { field, .. }) => {
                return Ok(self.not_runnable(&format!("/claim/options/{field}")));
            }
            // What the model gives for these inputs, on every machine.
            ManagerError::Sampling(_) => "/claim/logits",
            ManagerError::Text(_) => "/claim/model",
            _ => return Err(error),
        };
        Ok(self.not_runnable(path))
    }

    fn not_runnable(&self, path: &str) -> Difference {
        let json = serde_json::to_value(self).unwrap_or(Json::Null);
        Difference { path: path.to_owned(), claimed: json.pointer(path).cloned(), recomputed: None }
    }
}

/// Tokens that went through each block, after a run of `manager`'s only one.
fn uses(manager: &MoEModelManager, receipt: &Receipt) -> BTreeMap<BlockHash, u64> {
    let claim = receipt.claim();
    // The last token was chosen, not read.
    let read = (claim.prompt_tokens.len() + claim.output_tokens.len()).saturating_sub(1) as u64;
    let layers = &manager.snapshot().spec().layers;
    let routed = |slot: Slot| match slot {
        Slot::Expert { layer, expert } => {
            let feed_forward = &layers.get(layer as usize)?.feed_forward;
            let routed = matches!(feed_forward, FeedForward::Moe { .. });
            manager.usage().get(layer, expert).filter(|_| routed).map(|usage| usage.tokens)
        }
        _ => None,
    };
    let slots = claim.blocks.iter().filter_map(|(name, block)| Some((name.parse().ok()?, *block)));
    slots.map(|(slot, block)| (block, routed(slot).unwrap_or(read))).collect()
}
