//! Owns the decoder: embedding, layers, final norm, head, for any number of sequences in one step.
//!
//! All tokens of a step, of however many sequences, go through every matrix product together; only
//! attention and the KV cache know which sequence a token belongs to.

use std::sync::Arc;

use crate::format::ModelSpec;
use crate::kernels::{FpEnv, Isa, KernelError};

use super::attention::{self, Positions};
use super::feed_forward::{self, LayerRouting};
use super::kv_cache::KvCache;
use super::matmul::{self, Activations, Matmul};
use super::residency::{BlockSource, Residency, ResidencyReport};
use super::rope::Rope;
use super::team::Team;
use super::weights::Norm;
use super::{ModelError, weights::Linear};

/// Which positions of a sequence's new tokens logits are wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// None: the tokens only fill the cache.
    None,
    /// The last one.
    Last,
    /// All.
    All,
}

/// New tokens of one sequence.
#[derive(Debug)]
pub struct Step<'a> {
    /// The tokens, at least one.
    pub tokens: &'a [u32],
    /// What came before them; grows by them.
    pub cache: &'a mut KvCache,
    /// Which logits are wanted.
    pub logits: Logits,
}

/// Numbers that one task adds to others.
const ADDED_PER_TASK: usize = 1 << 15;

/// Logits that are held at once where only their losses are wanted: 32 MiB.
const LOGITS_AT_ONCE: usize = 1 << 23;

/// What a step gives back.
#[derive(Debug)]
pub struct StepOutput {
    /// For each sequence (wanted positions, vocab_size), row-major; NaN has one bit pattern.
    pub logits: Vec<Vec<f32>>,
    /// Routing of every layer that routes; tokens of all sequences in order.
    pub routing: Vec<LayerRouting>,
}

/// A step under way: what its tokens have become below the layers that are still to come. A clone goes on
/// through the layers of another model of the same spec.
#[derive(Debug, Clone)]
pub(crate) struct Pass {
    positions: Positions,
    /// (tokens, hidden_size)
    states: Vec<f32>,
    /// The next layer.
    layer: usize,
}

/// A model of a spec, its weights coming from a [`BlockSource`] as they are needed.
pub struct Decoder {
    spec: Arc<ModelSpec>,
    rope: Rope,
    residency: Residency,
    isa: Isa,
    team: Arc<Team>,
    /// Tokens that went through a layer, each once for each layer.
    #[cfg(test)]
    layer_tokens: std::sync::atomic::AtomicU64,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("isa", &self.isa.name()).finish_non_exhaustive()
    }
}

impl Decoder {
    /// A model of `spec` that computes with `isa` on so many threads. Nothing is read yet.
    ///
    /// # Errors
    ///
    /// A thread that cannot be started.
    pub fn new(
        spec: Arc<ModelSpec>,
        source: Box<dyn BlockSource>,
        isa: Isa,
        threads: usize,
    ) -> std::io::Result<Self> {
        Ok(Self::of_team(spec, source, isa, Arc::new(Team::new(threads)?)))
    }

    /// Another model that computes with the same instructions on the same threads.
    pub(crate) fn beside(&self, spec: Arc<ModelSpec>, source: Box<dyn BlockSource>) -> Self {
        Self::of_team(spec, source, self.isa, Arc::clone(&self.team))
    }

    fn of_team(spec: Arc<ModelSpec>, source: Box<dyn BlockSource>, isa: Isa, team: Arc<Team>) -> Self {
        let rope = Rope::new(&spec.rope, spec.attention.head_dim);
        let residency = Residency::new(&spec, source);
        Self {
            spec,
            rope,
            residency,
            isa,
            team,
            #[cfg(test)]
            layer_tokens: std::sync::atomic::AtomicU64::new(0),
        }
    }

    /// The spec.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The instruction set that computes.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads that compute, the caller's included.
    pub fn threads(&self) -> usize {
        self.team.threads()
    }

    /// What was touched so far.
    pub fn residency(&self) -> ResidencyReport {
        self.residency.report()
    }

    /// Tokens that went through a layer so far, each once for each layer.
    #[cfg(test)]
    pub(crate) fn layer_tokens(&self) -> u64 {
        self.layer_tokens.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Computes the new tokens of every sequence and appends them to its cache. On an error no
    /// cache has changed.
    ///
    /// # Errors
    ///
    /// [`ModelError`]: no or unknown tokens, a full context, a missing or damaged block.
    pub fn forward(&self, steps: &mut [Step<'_>]) -> Result<StepOutput, ModelError> {
        self.check_all(steps)?;
        if steps.is_empty() {
            return Ok(StepOutput { logits: Vec::new(), routing: Vec::new() });
        }
        let _fp_env = self.enter();
        let output = self.all_layers(steps).and_then(|(pass, routing)| {
            let logits = self.logits(steps, &pass.states)?;
            Ok(StepOutput { logits, routing })
        });
        end(steps, output)
    }

    /// What every call that computes begins with.
    fn enter(&self) -> FpEnv {
        self.team.after_fork();
        FpEnv::enter()
    }

    fn all_layers(&self, steps: &mut [Step<'_>]) -> Result<(Pass, Vec<LayerRouting>), ModelError> {
        let mut pass = self.embedded(steps)?;
        let routing = self.layers(&mut pass, steps, self.spec.layers.len())?;
        Ok((pass, routing))
    }

    /// Begins a pass that ends with the losses of `targets`, the tokens that follow each new token of every
    /// sequence: as many as the steps have together, in their order. [`Decoder::advance`] takes it as far as
    /// somebody wants to see it, [`Decoder::losses`] to the end.
    ///
    /// # Errors
    ///
    /// As [`Decoder::forward`], and for no sequences, targets that are no tokens of the model or of another
    /// number.
    pub(crate) fn begin(&self, steps: &[Step<'_>], targets: &[u32]) -> Result<Pass, ModelError> {
        let vocab_size = self.spec.vocab_size;
        if let Some(&token) = targets.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(ModelError::UnknownToken { token, vocab_size });
        }
        let tokens: usize = steps.iter().map(|step| step.tokens.len()).sum();
        if tokens != targets.len() {
            let (expected, actual) = (tokens, targets.len());
            return Err(KernelError::Length { argument: "targets", expected, actual }.into());
        }
        if steps.is_empty() {
            return Err(ModelError::NoTokens);
        }
        self.check_all(steps)?;
        let _fp_env = self.enter();
        self.embedded(steps)
    }

    /// Takes a pass up to `layer`, which is not run. On an error the caches are good for nothing.
    ///
    /// # Errors
    ///
    /// [`ModelError`]: a missing or damaged block.
    pub(crate) fn advance(
        &self,
        pass: &mut Pass,
        steps: &mut [Step<'_>],
        layer: usize,
    ) -> Result<(), ModelError> {
        let _fp_env = self.enter();
        self.layers(pass, steps, layer).map(drop)
    }

    /// Takes a pass to its end and gives for every new token the loss in nats of its target. The new
    /// positions are then in the caches, for the layers that this model ran. Logits are made a part at a
    /// time: their memory is bounded, however many tokens there are.
    ///
    /// # Errors
    ///
    /// As [`Decoder::advance`].
    pub(crate) fn losses(
        &self,
        mut pass: Pass,
        steps: &mut [Step<'_>],
        targets: &[u32],
    ) -> Result<Vec<f64>, ModelError> {
        let _fp_env = self.enter();
        let output = self.layers(&mut pass, steps, self.spec.layers.len());
        let output = output.and_then(|_| self.losses_of(&pass.states, targets));
        end(steps, output)
    }

    fn check_all(&self, steps: &[Step<'_>]) -> Result<(), ModelError> {
        steps.iter().try_for_each(|step| self.check(step))
    }

    fn check(&self, step: &Step<'_>) -> Result<(), ModelError> {
        if step.tokens.is_empty() {
            return Err(ModelError::NoTokens);
        }
        if !step.cache.fits(&self.spec) {
            return Err(ModelError::ForeignCache);
        }
        let vocab_size = self.spec.vocab_size;
        if let Some(&token) = step.tokens.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(ModelError::UnknownToken { token, vocab_size });
        }
        let needed = step.cache.len() + step.tokens.len();
        let capacity = self.spec.max_position_embeddings;
        if needed > capacity {
            return Err(ModelError::ContextFull { needed, capacity });
        }
        Ok(())
    }

    /// What stands before the first layer.
    fn embedded(&self, steps: &[Step<'_>]) -> Result<Pass, ModelError> {
        Ok(Pass { positions: self.positions(steps), states: self.embed(steps)?, layer: 0 })
    }

    /// Runs the layers of a pass up to `end`, and returns which experts they used.
    fn layers(
        &self,
        pass: &mut Pass,
        steps: &mut [Step<'_>],
        end: usize,
    ) -> Result<Vec<LayerRouting>, ModelError> {
        let (isa, team, spec) = (self.isa, &*self.team, &*self.spec);
        let Pass { positions, states, layer: next } = pass;
        let mut routing = Vec::new();
        for (layer, layer_spec) in spec.layers.iter().enumerate().take(end).skip(*next) {
            let weights = self.residency.attention(spec, layer)?;
            let normed = self.norm(states, &weights.input_layernorm)?;
            let output = attention::forward(
                (isa, team),
                spec,
                (layer, layer_spec),
                weights,
                normed,
                positions,
                steps,
            )?;
            add(isa, team, states, output)?;
            let normed = self.norm(states, &weights.post_attention_layernorm)?;
            let (output, layer_routing) =
                feed_forward::forward(isa, team, spec, layer, &self.residency, normed)?;
            add(isa, team, states, output)?;
            routing.extend(layer_routing);
            *next = layer + 1;
            #[cfg(test)]
            self.layer_tokens.fetch_add(positions.tokens as u64, std::sync::atomic::Ordering::Relaxed);
        }
        team.buffers().free();
        Ok(routing)
    }

    fn positions(&self, steps: &[Step<'_>]) -> Positions {
        let mut positions = Positions { tokens: 0, cos: Vec::new(), sin: Vec::new() };
        for step in steps {
            for offset in 0..step.tokens.len() {
                let position = step.cache.len() + offset;
                positions.tokens += 1;
                self.rope.push_position(position, &mut positions.cos, &mut positions.sin);
            }
        }
        positions
    }

    /// (tokens, hidden_size)
    fn embed(&self, steps: &[Step<'_>]) -> Result<Vec<f32>, ModelError> {
        let hidden = self.spec.hidden_size;
        let embedding = self.residency.embedding(&self.spec)?.weights()?;
        let tokens = steps.iter().map(|step| step.tokens.len()).sum::<usize>();
        let mut residual = vec![0.0; tokens * hidden];
        let ids = steps.iter().flat_map(|step| step.tokens);
        for (&token, row) in ids.zip(residual.chunks_exact_mut(hidden)) {
            self.isa.dequantize_row(&embedding, token as usize, row)?;
        }
        Ok(residual)
    }

    fn norm(&self, x: &[f32], weight: &Norm) -> Result<Activations, ModelError> {
        let normed = weight.apply(self.isa, &self.team, x, self.spec.rms_norm_eps as f32)?;
        Ok(Activations::new(normed, self.spec.hidden_size))
    }

    /// For each sequence (wanted positions, vocab_size).
    fn logits(&self, steps: &[Step<'_>], residual: &[f32]) -> Result<Vec<Vec<f32>>, ModelError> {
        let hidden = self.spec.hidden_size;
        let mut wanted = Vec::new();
        let mut counts = Vec::with_capacity(steps.len());
        let mut rest = residual;
        for step in steps {
            let (rows, remainder) = rest.split_at(step.tokens.len() * hidden);
            let rows = match step.logits {
                Logits::None => &rows[..0],
                Logits::Last => &rows[rows.len() - hidden..],
                Logits::All => rows,
            };
            wanted.extend_from_slice(rows);
            counts.push(rows.len() / hidden);
            rest = remainder;
        }
        if wanted.is_empty() {
            return Ok(vec![Vec::new(); steps.len()]);
        }
        let mut all = Vec::new();
        self.head(&wanted, &mut all)?;
        if let [_] = counts[..] {
            return Ok(vec![all]);
        }
        let mut rest = &all[..];
        let logits = counts.into_iter().map(|count| {
            let (rows, remainder) = rest.split_at(count * self.spec.vocab_size);
            rest = remainder;
            rows.to_vec()
        });
        Ok(logits.collect())
    }

    /// Final norm and head: residual (tokens, hidden_size), logits (tokens, vocab_size).
    fn head(&self, residual: &[f32], logits: &mut Vec<f32>) -> Result<(), ModelError> {
        let head: &Linear = self.residency.head(&self.spec)?;
        let mut normed = self.norm(residual, self.residency.final_norm(&self.spec)?)?;
        normed.arrange_for(self.isa, &self.team, &[head])?;
        logits.clear();
        logits.resize(normed.tokens() * head.rows, 0.0);
        let product = Matmul { linear: head, input: normed.all(), out: logits, nanos: None };
        matmul::run(self.isa, &self.team, vec![product])?;
        normed.give_back(self.team.buffers());
        Ok(())
    }

    /// Loss of each token's target: residual (tokens, hidden_size), targets (tokens,).
    fn losses_of(&self, residual: &[f32], targets: &[u32]) -> Result<Vec<f64>, ModelError> {
        let (hidden, vocab_size) = (self.spec.hidden_size, self.spec.vocab_size);
        let tokens_at_once = (LOGITS_AT_ONCE / vocab_size).max(1);
        let mut losses = vec![0.0; targets.len()];
        let mut logits = Vec::new();
        let parts = residual.chunks(tokens_at_once * hidden);
        let parts = parts.zip(targets.chunks(tokens_at_once)).zip(losses.chunks_mut(tokens_at_once));
        for ((residual, targets), losses) in parts {
            self.head(residual, &mut logits)?;
            let rows = logits.chunks_exact_mut(vocab_size);
            let tasks = rows.zip(targets).zip(losses).collect();
            self.team.for_each(tasks, |((logits, target), loss)| {
                *loss = self.isa.loss(logits, *target as usize)?;
                Ok::<_, ModelError>(())
            })?;
        }
        Ok(losses)
    }
}

/// `states += output`, which is used up.
fn add(isa: Isa, team: &Team, states: &mut [f32], output: Vec<f32>) -> Result<(), ModelError> {
    let tasks = states.chunks_mut(ADDED_PER_TASK).zip(output.chunks(ADDED_PER_TASK)).collect();
    team.for_each(tasks, |(states, output)| isa.add(states, output))?;
    team.buffers().give_back([output]);
    Ok(())
}

/// Makes the new positions the caches' own if all of a step succeeded.
fn end<T>(steps: &mut [Step<'_>], output: Result<T, ModelError>) -> Result<T, ModelError> {
    if output.is_ok() {
        steps.iter_mut().for_each(|step| step.cache.finish(step.tokens.len()));
    }
    output
}
