//! Owns the losses of windows of tokens that are run beside each other: what evaluating a model is
//! made of.

use crate::model::{KvCache, KvDType, Step};

use super::{Logits, ManagerError, MoEModelManager};

impl MoEModelManager {
    /// For each window the losses in nats of its second token and those after it, each given what
    /// stands before it in its window. At most about `pass_tokens` tokens go through the model at once;
    /// neither that nor the other windows change a bit. Keys and values are kept in F32, whatever the
    /// model was opened with. Use is not counted: judging a model is not using it.
    ///
    /// # Errors
    ///
    /// [`ManagerError`]: unknown tokens, a window that the context has no room for, a damaged block.
    pub(crate) fn window_losses(
        &self,
        windows: &[&[u32]],
        pass_tokens: usize,
    ) -> Result<Vec<Vec<f64>>, ManagerError> {
        let model = &*self.0;
        let spec = model.snapshot.spec();
        let longest = windows.iter().map(|window| window.len().saturating_sub(1)).max().unwrap_or(0);
        let chunk = (pass_tokens / windows.len().max(1)).max(1);
        let mut caches: Vec<KvCache> = windows.iter().map(|_| KvCache::new(spec, KvDType::F32)).collect();
        let mut losses: Vec<Vec<f64>> = vec![Vec::new(); windows.len()];
        for start in (0..longest).step_by(chunk) {
            let mut steps = Vec::with_capacity(windows.len());
            let mut targets = Vec::new();
            let mut taken = Vec::with_capacity(windows.len());
            for (index, (window, cache)) in windows.iter().zip(&mut caches).enumerate() {
                let end = window.len().saturating_sub(1).min(start + chunk);
                if end <= start {
                    continue;
                }
                steps.push(Step { tokens: &window[start..end], cache, logits: Logits::None });
                targets.extend_from_slice(&window[start + 1..=end]);
                taken.push((index, end - start));
            }
            let found =
                model.decoder.losses(&mut steps, &targets).map_err(|error| model.name_block(error))?;
            let mut rest = &found[..];
            for (index, count) in taken {
                let (own, others) = rest.split_at(count);
                losses[index].extend_from_slice(own);
                rest = others;
            }
        }
        Ok(losses)
    }
}
