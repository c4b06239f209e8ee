//! Owns [`Trainer`]: a run from a snapshot (or from nothing) and a slice of tokens to candidates.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use blyan_core::format::FeedForward;
use blyan_core::manager::{ManagerError, Snapshot};
use blyan_core::{BlockHash, Chain, DType, ModelSpec, PayloadHash, Slot};
use rand_chacha::rand_core::Rng;

use crate::candidate::{self, Candidate};
use crate::checkpoint::{self, Description, State, broken};
use crate::decoder::{Decoder, balance_loss};
use crate::error::LearnError;
use crate::memory;
use crate::ops::losses;
use crate::optimizer::{AdamW, Moments, Optimizer, Schedule};
use crate::parameters::{Builder, Form, Mode, Parameters, is_matrix};
use crate::source::{Blocks, Seeded, Source, stream};
use crate::storage::with_floats;

/// What to train and how.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    /// Slots that learn: experts, routers, or any other slot of weights. All others stay as they are.
    pub slots: Vec<Slot>,
    /// In what form.
    pub form: Form,
    /// Steps of the whole run; the schedule ends with the last.
    pub steps: u64,
    /// Sequences of a step.
    pub batch: usize,
    /// Tokens of a sequence that are predicted.
    pub sequence: usize,
    /// Learning rate by step.
    pub schedule: Schedule,
    /// The optimizer's numbers.
    pub adamw: AdamW,
    /// Largest norm of all gradients together; larger ones are scaled down.
    pub clip: Option<f64>,
    /// Weight of the load-balancing loss (transformers' `router_aux_loss_coef`); 0 for none.
    pub balance: f64,
    /// Chooses the sequences, and what a model without base begins with.
    pub seed: u64,
    /// Threads; `None` for all cores. The bits of a run may depend on it.
    pub threads: Option<usize>,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            form: Form::Full,
            steps: 100,
            batch: 8,
            sequence: 256,
            schedule: Schedule::default(),
            adamw: AdamW::default(),
            clip: Some(1.0),
            balance: 0.0,
            seed: 0,
            threads: None,
        }
    }
}

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct StepReport {
    /// Number of the step, from 0.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Mean loss over the step's tokens before it changed anything, in nats.
    pub loss: f64,
    /// Load-balancing loss, without its weight; 0 if it has none. 1 for each use of a token is perfect
    /// balance.
    pub balance: f64,
    /// Norm of all gradients together before clipping.
    pub gradient_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Tokens predicted.
    pub tokens: u64,
    /// Time it took.
    pub time: Duration,
}

/// How [`Trainer::run`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All steps are done.
    Finished,
    /// It was cancelled between two steps: save a checkpoint to go on later.
    Cancelled,
}

/// Loss of a model and its gradients.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Gradients {
    /// Mean loss, the balancing loss with its weight included.
    pub loss: f64,
    /// Gradient of each trained tensor, row-major; of low-rank factors under their names in a delta.
    pub tensors: BTreeMap<(Slot, String), Vec<f32>>,
}

/// What a run began from.
#[derive(Debug, Clone)]
struct Base {
    /// The block in each slot; empty for a model that began from nothing.
    blocks: BTreeMap<Slot, BlockHash>,
    name: String,
}

/// A run.
#[derive(Debug)]
pub struct Trainer {
    options: TrainOptions,
    tokens: Arc<[u32]>,
    base: Base,
    decoder: Decoder,
    parameters: Parameters,
    optimizer: Optimizer,
    step: u64,
    pool: Arc<rayon::ThreadPool>,
}

impl Trainer {
    /// A run that begins from a snapshot's blocks.
    ///
    /// # Errors
    ///
    /// [`LearnError`]: an option out of range, a slot that is not there, a block that cannot be read, tokens
    /// that are too few or unknown, more weights than there is memory for.
    pub fn new(
        chain: &Chain,
        snapshot: &Snapshot,
        tokens: impl Into<Arc<[u32]>>,
        options: TrainOptions,
    ) -> Result<Self, LearnError> {
        let blocks = snapshot.slots().iter().map(|(slot, pinned)| (*slot, pinned.block)).collect();
        let base = Base { blocks, name: snapshot.root().to_string() };
        Self::build(&Blocks::new(chain, snapshot), base, tokens.into(), options)
    }

    /// A run that begins from nothing: every slot of the spec is trained in full, whatever the options name;
    /// matrices begin normal with this deviation (0.02 is usual).
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn from_nothing(
        spec: Arc<ModelSpec>,
        deviation: f64,
        tokens: impl Into<Arc<[u32]>>,
        mut options: TrainOptions,
    ) -> Result<Self, LearnError> {
        if !deviation.is_finite() || deviation < 0.0 {
            let value = format!("{deviation:?}");
            return Err(LearnError::Option {
                option: "deviation",
                value,
                expected: "0 or a positive number",
            });
        }
        spec.check().map_err(ManagerError::from)?;
        options.slots = spec.required_slots();
        options.form = Form::Full;
        let name = PayloadHash::of(&spec.to_canonical_json());
        let base =
            Base { blocks: BTreeMap::new(), name: format!("nothing, spec {name}, deviation {deviation:?}") };
        let source = Seeded::new(spec, options.seed, deviation);
        Self::build(&source, base, tokens.into(), options)
    }

    fn build(
        source: &dyn Source,
        base: Base,
        tokens: Arc<[u32]>,
        options: TrainOptions,
    ) -> Result<Self, LearnError> {
        let spec = Arc::clone(source.spec());
        check(&spec, source, &tokens, &options)?;
        let trained: BTreeSet<Slot> = options.slots.iter().copied().collect();
        memory::check(&spec, &trained, options.form)?;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads.unwrap_or(0)).build();
        let pool = Arc::new(pool.map_err(|error| LearnError::Threads { reason: error.to_string() })?);
        let mut builder = Builder {
            source,
            trained: &trained,
            form: options.form,
            seed: options.seed,
            parameters: Parameters::default(),
        };
        let decoder = Decoder::read(&mut builder)?;
        let parameters = builder.parameters;
        let optimizer = Optimizer::new(options.adamw, &parameters);
        Ok(Self { options, tokens, base, decoder, parameters, optimizer, step: 0, pool })
    }

    /// The options.
    pub fn options(&self) -> &TrainOptions {
        &self.options
    }

    /// Steps done.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// Numbers that learn.
    pub fn trained_parameters(&self) -> usize {
        self.parameters.all.values().map(|parameter| parameter.var.elem_count()).sum()
    }

    /// Does the steps that are left. `progress` hears of each; `cancel`, once set, ends the run before the
    /// next one.
    ///
    /// # Errors
    ///
    /// [`LearnError::Diverged`], or candle's.
    pub fn run(
        &mut self,
        progress: &mut dyn FnMut(&StepReport),
        cancel: Option<&AtomicBool>,
    ) -> Result<Ended, LearnError> {
        while self.step < self.options.steps {
            if cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
                return Ok(Ended::Cancelled);
            }
            progress(&self.step()?);
        }
        Ok(Ended::Finished)
    }

    /// One step.
    ///
    /// # Errors
    ///
    /// [`LearnError::Diverged`] with nothing changed, or candle's.
    pub fn step(&mut self) -> Result<StepReport, LearnError> {
        let pool = Arc::clone(&self.pool);
        pool.install(|| self.step_in_pool())
    }

    fn step_in_pool(&mut self) -> Result<StepReport, LearnError> {
        let start = Instant::now();
        let (step, steps) = (self.step, self.options.steps);
        let (inputs, targets) = self.batch(step);
        let (total, loss, balance) = self.loss_of(&inputs, targets, self.options.batch)?;
        let diverged = |loss| LearnError::Diverged { step, loss };
        if !(loss + balance).is_finite() {
            return Err(diverged(loss));
        }
        let gradients = total.backward()?;
        let learning_rate = self.options.schedule.rate(step, steps);
        let change = (step, learning_rate);
        let gradient_norm = self.optimizer.step(&self.parameters, &gradients, change, self.options.clip)?;
        if !gradient_norm.is_finite() {
            return Err(diverged(loss));
        }
        self.step += 1;
        let tokens = inputs.len() as u64;
        let time = start.elapsed();
        Ok(StepReport { step, steps, loss, balance, gradient_norm, learning_rate, tokens, time })
    }

    /// Sequences of a step and the token after each token: places drawn from a stream of the step's own, so
    /// a resumed run goes on with the same.
    fn batch(&self, step: u64) -> (Vec<u32>, Arc<[u32]>) {
        let sequence = self.options.sequence;
        let places = (self.tokens.len() - sequence) as u128;
        let mut random = stream(self.options.seed, 1 << 63 | step);
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        for _ in 0..self.options.batch {
            let place = ((u128::from(random.next_u64()) * places) >> 64) as usize;
            inputs.extend_from_slice(&self.tokens[place..place + sequence]);
            targets.extend_from_slice(&self.tokens[place + 1..place + sequence + 1]);
        }
        (inputs, targets.into())
    }

    /// The loss to differentiate, its part without balance, and the balancing loss.
    fn loss_of(
        &self,
        inputs: &[u32],
        targets: Arc<[u32]>,
        batch: usize,
    ) -> Result<(candle_core::Tensor, f64, f64), LearnError> {
        let output = self.decoder.forward(inputs, batch, Mode::Train)?;
        let loss = output.loss(targets)?;
        let value = f64::from(loss.to_scalar::<f32>()?);
        if self.options.balance == 0.0 {
            return Ok((loss, value, 0.0));
        }
        let Some(balance) = balance_loss(&output.routing)? else { return Ok((loss, value, 0.0)) };
        let balance_value = f64::from(balance.to_scalar::<f32>()?);
        Ok(((loss + (balance * self.options.balance)?)?, value, balance_value))
    }

    /// Loss of one sequence, all its tokens but the first predicted, and its gradients. Changes nothing.
    ///
    /// # Errors
    ///
    /// [`LearnError::FewTokens`], [`LearnError::UnknownToken`], or candle's.
    pub fn gradients(&self, sequence: &[u32]) -> Result<Gradients, LearnError> {
        let (inputs, targets) = self.predicted(sequence)?;
        self.pool.install(|| {
            let (total, ..) = self.loss_of(inputs, targets.into(), 1)?;
            let gradients = total.backward()?;
            let mut tensors = BTreeMap::new();
            for (slot, tensor) in self.parameters.parts() {
                let Some((name, elements)) = self.parameters.part(*slot, tensor) else { continue };
                let Some(parameter) = self.parameters.all.get(name) else { continue };
                let values = match gradients.get(parameter.var.as_tensor()) {
                    Some(gradient) => with_floats(gradient, |all| Ok(all[elements].to_vec()))?,
                    None => vec![0.0; elements.len()],
                };
                tensors.insert((*slot, tensor.clone()), values);
            }
            Ok(Gradients { loss: f64::from(total.to_scalar::<f32>()?), tensors })
        })
    }

    /// Replaces each element `x` of a trained tensor by `change(x, along)`, `along` being the element of
    /// another tensor of its size. For what checks a run from outside, such as finite differences.
    ///
    /// # Errors
    ///
    /// [`LearnError::UnknownSlot`] if the tensor is not trained, or candle's.
    pub fn change(
        &mut self,
        slot: Slot,
        tensor: &str,
        along: &[f32],
        change: &dyn Fn(f32, f32) -> f32,
    ) -> Result<(), LearnError> {
        let unknown = LearnError::UnknownSlot { slot };
        let Some((name, elements)) = self.parameters.part(slot, tensor) else { return Err(unknown) };
        let Some(parameter) = self.parameters.all.get(name) else { return Err(unknown) };
        let mut values = with_floats(parameter.var.as_tensor(), |values| Ok(values.to_vec()))?;
        for (value, along) in values[elements].iter_mut().zip(along) {
            *value = change(*value, *along);
        }
        let shape = parameter.var.shape().clone();
        parameter.var.set(&candle_core::Tensor::from_vec(values, shape, &candle_core::Device::Cpu)?)?;
        Ok(())
    }

    /// Logits of every position of a sequence, (tokens, vocabulary).
    ///
    /// # Errors
    ///
    /// [`LearnError::FewTokens`] for none, [`LearnError::UnknownToken`], or candle's.
    pub fn logits(&self, sequence: &[u32]) -> Result<Vec<f32>, LearnError> {
        check_tokens(&self.decoder.spec, sequence)?;
        if sequence.is_empty() {
            return Err(LearnError::FewTokens { found: 0, needed: 1 });
        }
        self.pool.install(|| {
            let output = self.decoder.forward(sequence, 1, Mode::Evaluate)?;
            Ok(with_floats(&output.logits()?, |logits| Ok(logits.to_vec()))?)
        })
    }

    /// Mean loss of a text in nats a token, in windows of [`TrainOptions::sequence`] predicted tokens that do
    /// not overlap. A guide while training: what counts is the core's evaluation of the candidate.
    ///
    /// # Errors
    ///
    /// [`LearnError::FewTokens`], [`LearnError::UnknownToken`], or candle's.
    pub fn loss(&self, tokens: &[u32]) -> Result<f64, LearnError> {
        self.predicted(tokens)?;
        let (mut sum, mut count) = (0.0, 0usize);
        self.pool.install(|| {
            let mut start = 0;
            while start + 1 < tokens.len() {
                let end = (start + self.options.sequence).min(tokens.len() - 1);
                let output = self.decoder.forward(&tokens[start..end], 1, Mode::Evaluate)?;
                let targets = &tokens[start + 1..end + 1];
                let window = with_floats(&output.logits()?, |logits| Ok(losses(logits, targets)))?;
                sum += window.iter().sum::<f64>();
                count += window.len();
                start = end;
            }
            Ok::<_, LearnError>(())
        })?;
        Ok(sum / count as f64)
    }

    /// Checks a text; gives it without its last token, and without its first.
    fn predicted<'a>(&self, tokens: &'a [u32]) -> Result<(&'a [u32], &'a [u32]), LearnError> {
        check_tokens(&self.decoder.spec, tokens)?;
        match tokens {
            [_, _, ..] => Ok((&tokens[..tokens.len() - 1], &tokens[1..])),
            _ => Err(LearnError::FewTokens { found: tokens.len(), needed: 2 }),
        }
    }

    /// Appends a candidate for each slot that was trained, in slot order; a slot whose weights round to the
    /// base's has none. The chain must hold the blocks that training began from.
    ///
    /// # Errors
    ///
    /// [`LearnError::NoBase`] for a run from nothing, weights beyond the range of a block's type, or the
    /// chain's.
    pub fn append_candidates(&self, chain: &Chain) -> Result<Vec<Candidate>, LearnError> {
        if self.base.blocks.is_empty() {
            return Err(LearnError::NoBase);
        }
        let mut slots = self.options.slots.clone();
        slots.sort_unstable();
        slots.dedup();
        let mut candidates = Vec::new();
        for slot in slots {
            let base = *self.base.blocks.get(&slot).ok_or(LearnError::UnknownSlot { slot })?;
            let form = self.options.form;
            let found = candidate::append(chain, &self.decoder.spec, &self.parameters, form, (slot, base))?;
            candidates.extend(found);
        }
        Ok(candidates)
    }

    /// Appends the whole model, which began from nothing, and returns its model block. `texts` are its
    /// tokenizer and other files, by slot.
    ///
    /// # Errors
    ///
    /// [`LearnError::UnknownSlot`] for a run that began from blocks, [`LearnError::WholeModel`] for a
    /// quantized type, weights beyond the range of a type, or the chain's.
    pub fn append_model(
        &self,
        chain: &Chain,
        dtype: DType,
        texts: &[(Slot, Vec<u8>)],
    ) -> Result<BlockHash, LearnError> {
        candidate::append_model(chain, &self.decoder.spec, &self.parameters, dtype, texts)
    }

    /// The whole state of the run. Resumed on the same machine with the same threads, it goes on to the same
    /// bits.
    ///
    /// # Errors
    ///
    /// [`LearnError`] if it cannot be written down.
    pub fn checkpoint(&self) -> Result<Vec<u8>, LearnError> {
        let mut state = State::new();
        for (name, parameter) in &self.parameters.all {
            let values = with_floats(parameter.var.as_tensor(), |values| Ok(values.to_vec()))?;
            let Moments { first, second } = self.optimizer.moments.get(name).cloned().unwrap_or_default();
            state.insert(name.clone(), [values, first, second]);
        }
        checkpoint::to_bytes(&Description { step: self.step, run: self.description() }, &state)
    }

    /// Goes on from a checkpoint of this run: the same base, tokens and options.
    ///
    /// # Errors
    ///
    /// [`LearnError::Checkpoint`] or [`LearnError::OtherRun`]; the run is then as it was.
    pub fn resume(&mut self, checkpoint: &[u8]) -> Result<(), LearnError> {
        let (Description { step, run }, state) = checkpoint::from_bytes(checkpoint)?;
        let own = self.description();
        for field in own.keys().chain(run.keys()) {
            let [found, expected] = [&run, &own].map(|run| run.get(field).cloned().unwrap_or_default());
            if found != expected {
                return Err(LearnError::OtherRun { field: field.clone(), found, expected });
            }
        }
        if step > self.options.steps || !state.keys().eq(self.parameters.all.keys()) {
            return Err(broken("its variables or its step are not this run's".to_owned()));
        }
        let mut tensors = Vec::new();
        for (parameter, (name, parts)) in self.parameters.all.values().zip(&state) {
            if parts.iter().any(|part| part.len() != parameter.var.elem_count()) {
                return Err(broken(format!("{name} has another size")));
            }
            let [values, ..] = parts;
            let shape = parameter.var.shape().clone();
            tensors.push(candle_core::Tensor::from_slice(values, shape, &candle_core::Device::Cpu)?);
        }
        for ((name, parameter), tensor) in self.parameters.all.iter().zip(&tensors) {
            parameter.var.set(tensor)?;
            if let Some([_, first, second]) = state.get(name) {
                let moments = Moments { first: first.clone(), second: second.clone() };
                self.optimizer.moments.insert(name.clone(), moments);
            }
        }
        self.step = step;
        Ok(())
    }

    /// Everything that makes this run another than the next one.
    fn description(&self) -> BTreeMap<String, String> {
        let TrainOptions {
            slots, form, steps, batch, sequence, schedule, adamw, clip, balance, seed, ..
        } = &self.options;
        let names: BTreeSet<String> = slots.iter().map(Slot::to_string).collect();
        let tokens: Vec<u8> = self.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        let fields = [
            ("base", self.base.name.clone()),
            ("tokens", PayloadHash::of_parallel(&tokens).to_string()),
            ("slots", names.into_iter().collect::<Vec<_>>().join(" ")),
            ("form", format!("{form:?}")),
            ("steps", steps.to_string()),
            ("batch", batch.to_string()),
            ("sequence", sequence.to_string()),
            ("schedule", format!("{schedule:?}")),
            ("adamw", format!("{adamw:?}")),
            ("clip", format!("{clip:?}")),
            ("balance", format!("{balance:?}")),
            ("seed", seed.to_string()),
        ];
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn check_tokens(spec: &ModelSpec, tokens: &[u32]) -> Result<(), LearnError> {
    let vocab_size = spec.vocab_size;
    match tokens.iter().position(|&token| token as usize >= vocab_size) {
        Some(index) => Err(LearnError::UnknownToken { index, token: tokens[index], vocab_size }),
        None => Ok(()),
    }
}

fn check(
    spec: &ModelSpec,
    source: &dyn Source,
    tokens: &[u32],
    options: &TrainOptions,
) -> Result<(), LearnError> {
    let out_of_range = |option, value: &dyn std::fmt::Debug, expected| LearnError::Option {
        option,
        value: format!("{value:?}"),
        expected,
    };
    if options.slots.is_empty() {
        return Err(LearnError::NoSlots);
    }
    for &slot in &options.slots {
        let tensors = spec.tensors_of(slot);
        if tensors.is_empty() || !source.has(slot) {
            return Err(LearnError::UnknownSlot { slot });
        }
        if options.form != Form::Full && !tensors.iter().any(is_matrix) {
            return Err(LearnError::NoMatrix { slot });
        }
    }
    if let Form::LowRank { rank } = options.form
        && !(1..=1 << 16).contains(&rank)
    {
        return Err(out_of_range("rank", &rank, "1 to 65536"));
    }
    if options.batch == 0 || options.batch > 1 << 16 {
        return Err(out_of_range("batch", &options.batch, "1 to 65536"));
    }
    if options.sequence == 0 || options.sequence > spec.max_position_embeddings {
        return Err(out_of_range("sequence", &options.sequence, "1 to the model's positions"));
    }
    if let Some(threads) = options.threads.filter(|threads| !(1..=1 << 16).contains(threads)) {
        return Err(out_of_range("threads", &threads, "1 to 65536"));
    }
    let Schedule { peak, floor, .. } = options.schedule;
    let positive = |x: f64| x.is_finite() && x > 0.0;
    // Moments are f32: a rate that becomes 1 would leave them as they are, an eps that becomes 0 divide 0 by it.
    let share = |x: f64| (0.0..1.0).contains(&x) && (x as f32) < 1.0;
    if !positive(peak) {
        return Err(out_of_range("schedule.peak", &peak, "a positive number"));
    }
    if !(0.0..=1.0).contains(&floor) {
        return Err(out_of_range("schedule.floor", &floor, "0 to 1"));
    }
    let AdamW { beta1, beta2, eps, weight_decay } = options.adamw;
    for (option, value, good) in [
        ("adamw.beta1", beta1, share(beta1)),
        ("adamw.beta2", beta2, share(beta2)),
        ("adamw.eps", eps, positive(eps) && (eps as f32).is_normal()),
        ("adamw.weight_decay", weight_decay, weight_decay.is_finite() && weight_decay >= 0.0),
        ("balance", options.balance, options.balance.is_finite() && options.balance >= 0.0),
    ] {
        if !good {
            return Err(out_of_range(option, &value, "a number in the range of such numbers"));
        }
    }
    if let Some(clip) = options.clip.filter(|clip| !positive(*clip)) {
        return Err(out_of_range("clip", &clip, "a positive number"));
    }
    if options.balance > 0.0 {
        let counts: BTreeSet<usize> = spec
            .layers
            .iter()
            .filter_map(|layer| match layer.feed_forward {
                FeedForward::Moe { num_experts, .. } => Some(num_experts),
                FeedForward::Dense { .. } => None,
            })
            .collect();
        if counts.len() > 1 {
            return Err(LearnError::Balance { found: counts.into_iter().collect() });
        }
    }
    let needed = options.sequence + 1;
    if tokens.len() < needed {
        return Err(LearnError::FewTokens { found: tokens.len(), needed });
    }
    check_tokens(spec, tokens)
}
