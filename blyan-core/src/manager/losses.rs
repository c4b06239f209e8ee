//! Owns the losses of windows of tokens that are run beside each other, by a model and by candidates for its
//! place: what evaluating and judging models is made of.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::format::Slot;
use crate::model::{Decoder, KvCache, KvDType, ModelError, Pass, Step};

use super::assemble::decoder_beside;
use super::{Logits, ManagerError, MoEModelManager, Model, Snapshot};

/// Losses in nats by window, in order of position.
pub(crate) type WindowLosses = Vec<Vec<f64>>;

/// A model and candidates for its place, run together: below the first layer in which a candidate differs it
/// has the base's states, which only the base computes.
pub(crate) struct Together<'a> {
    base: &'a Model,
    candidates: Vec<Candidate<'a>>,
    /// The candidates, those first that leave the base's path first.
    order: Vec<usize>,
}

struct Candidate<'a> {
    snapshot: &'a Snapshot,
    decoder: Decoder,
    /// The first layer that it runs itself; the number of layers if only what follows them differs, `None` if
    /// not even the embedding is the base's.
    first_own: Option<usize>,
}

/// The first layer that a candidate has to run itself. Weights are equal if their payloads are.
fn first_own_layer(base: &Snapshot, candidate: &Snapshot) -> Option<usize> {
    if base.spec_block() != candidate.spec_block() {
        return None;
    }
    let payload = |snapshot: &Snapshot, slot: &Slot| snapshot.slots().get(slot).map(|pinned| pinned.payload);
    let slots: BTreeSet<&Slot> = base.slots().keys().chain(candidate.slots().keys()).collect();
    let changed = slots.into_iter().filter(|slot| payload(base, slot) != payload(candidate, slot));
    let mut first = base.spec().layers.len();
    for slot in changed {
        match *slot {
            Slot::Embedding => return None,
            Slot::Attention { layer }
            | Slot::Router { layer }
            | Slot::Expert { layer, .. }
            | Slot::SharedExpert { layer } => first = first.min(layer as usize),
            // After the layers, or no part of the arithmetic.
            Slot::FinalNorm
            | Slot::Head
            | Slot::Tokenizer
            | Slot::TokenizerConfig
            | Slot::SpecialTokensMap
            | Slot::ChatTemplate
            | Slot::GenerationConfig => {}
        }
    }
    Some(first)
}

impl Candidate<'_> {
    fn losses(&self, shared: &Pass, steps: &mut [Step<'_>], targets: &[u32]) -> Result<Vec<f64>, ModelError> {
        let pass = match self.first_own {
            Some(_) => shared.clone(),
            None => self.decoder.begin(steps, targets)?,
        };
        self.decoder.losses(pass, steps, targets)
    }
}

impl MoEModelManager {
    /// This model and candidates for its place, on its threads and with its instruction set. Reads nothing yet.
    pub(crate) fn together<'a>(&'a self, candidates: &[&'a Snapshot]) -> Together<'a> {
        let base = &*self.0;
        let candidates: Vec<Candidate<'a>> = candidates
            .iter()
            .map(|&snapshot| Candidate {
                snapshot,
                decoder: decoder_beside(&base.decoder, snapshot, &base.payloads, base.record.as_ref()),
                first_own: first_own_layer(&base.snapshot, snapshot),
            })
            .collect();
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        order.sort_by_key(|&index| candidates[index].first_own);
        Together { base, candidates, order }
    }
}

impl Together<'_> {
    /// For each window the losses of its second token and those after it, each given what stands before it
    /// in its window: of the base, and of each candidate. At most about `pass_tokens` tokens go through a
    /// model at once; neither that nor the other windows nor the other models change a bit. Keys and values
    /// are kept in F32, whatever the base was opened with. Use is not counted: judging a model is not using it.
    ///
    /// # Errors
    ///
    /// [`ManagerError`]: unknown tokens, a window that the context has no room for, a damaged block of any
    /// of the models.
    pub(crate) fn window_losses(
        &self,
        windows: &[&[u32]],
        pass_tokens: usize,
    ) -> Result<(WindowLosses, Vec<WindowLosses>), ManagerError> {
        let base = self.base;
        let longest = windows.iter().map(|window| window.len().saturating_sub(1)).max().unwrap_or(0);
        let chunk = (pass_tokens / windows.len().max(1)).max(1);
        let mut base_run = Run::new(&base.snapshot, windows);
        let mut runs: Vec<Run> =
            self.candidates.iter().map(|candidate| Run::new(candidate.snapshot, windows)).collect();
        for start in (0..longest).step_by(chunk) {
            let part = Part { windows, tokens: start..longest.min(start.saturating_add(chunk)) };
            let targets = part.targets();
            let mut steps = part.steps(&mut base_run.caches);
            let named = |error| base.snapshot.name_block(error);
            let mut pass = base.decoder.begin(&steps, &targets).map_err(named)?;
            for &index in &self.order {
                let (candidate, run) = (&self.candidates[index], &mut runs[index]);
                if let Some(layer) = candidate.first_own {
                    base.decoder.advance(&mut pass, &mut steps, layer).map_err(named)?;
                }
                let found = candidate.losses(&pass, &mut part.steps(&mut run.caches), &targets);
                let found = found.map_err(|error| candidate.snapshot.name_block(error))?;
                part.share_out(&found, &mut run.losses);
                if part.tokens.end == longest {
                    // Windows that fit a pass need the keys and values of one candidate at a time.
                    run.caches = Vec::new();
                }
            }
            let found = base.decoder.losses(pass, &mut steps, &targets).map_err(named)?;
            part.share_out(&found, &mut base_run.losses);
        }
        Ok((base_run.losses, runs.into_iter().map(|run| run.losses).collect()))
    }

    /// Tokens that went through a layer so far, each once for each layer: by the base, by each candidate.
    #[cfg(test)]
    pub(crate) fn layer_tokens(&self) -> (u64, Vec<u64>) {
        let candidates = self.candidates.iter().map(|candidate| candidate.decoder.layer_tokens());
        (self.base.decoder.layer_tokens(), candidates.collect())
    }
}

/// What one model keeps of its windows.
struct Run {
    caches: Vec<KvCache>,
    losses: WindowLosses,
}

impl Run {
    fn new(snapshot: &Snapshot, windows: &[&[u32]]) -> Self {
        let cache = || KvCache::new(snapshot.spec(), KvDType::F32);
        Self { caches: windows.iter().map(|_| cache()).collect(), losses: vec![Vec::new(); windows.len()] }
    }
}

/// The part of some windows that goes through the models in one pass.
struct Part<'w> {
    windows: &'w [&'w [u32]],
    /// Places in each window, as far as it has them, of the tokens that are read.
    tokens: Range<usize>,
}

impl<'w> Part<'w> {
    /// The places that are in a window, if any; its last token is only predicted.
    fn of(&self, window: &[u32]) -> Option<Range<usize>> {
        let end = window.len().saturating_sub(1).min(self.tokens.end);
        (self.tokens.start < end).then_some(self.tokens.start..end)
    }

    fn targets(&self) -> Vec<u32> {
        let targets = self.windows.iter().filter_map(|window| {
            let tokens = self.of(window)?;
            Some(&window[tokens.start + 1..=tokens.end])
        });
        targets.flatten().copied().collect()
    }

    /// A step of each window that is not over, with its cache.
    fn steps<'s>(&self, caches: &'s mut [KvCache]) -> Vec<Step<'s>>
    where
        'w: 's,
    {
        let steps = self.windows.iter().zip(caches).filter_map(|(window, cache)| {
            Some(Step { tokens: &window[self.of(window)?], cache, logits: Logits::None })
        });
        steps.collect()
    }

    /// Appends what was found for the steps' tokens to the losses of their windows.
    fn share_out(&self, found: &[f64], losses: &mut [Vec<f64>]) {
        let mut rest = found;
        for (window, losses) in self.windows.iter().zip(losses) {
            let count = self.of(window).map_or(0, |tokens| tokens.len());
            let (own, others) = rest.split_at(count);
            losses.extend_from_slice(own);
            rest = others;
        }
    }
}
