//! Owns the decoder in candle: the core's forward pass (docs/numerics.md) up to rounding, as a graph that can
//! be differentiated. Layers below the first trained one leave no graph behind.

use std::sync::Arc;

use blyan_core::format::{FeedForward, QkNorm};
use blyan_core::model::Rope;
use blyan_core::{ModelSpec, Slot};
use candle_core::{D, Device, Result, Tensor};

use crate::attention::{AttentionShape, attention};
use crate::error::LearnError;
use crate::experts::{Assignment, Frozen, Place, combine, run_experts};
use crate::memory::{append, room};
use crate::ops::{Angles, head_loss, linear, rms_norm, rotate, silu_mul, softmax_rows};
use crate::parameters::{Builder, Form, Mode, Weight};
use crate::storage::with_floats;

#[derive(Debug)]
struct Linear {
    weight: Weight,
    bias: Option<Weight>,
}

impl Linear {
    fn read(builder: &mut Builder<'_>, slot: Slot, name: &str) -> std::result::Result<Self, LearnError> {
        let weight = builder.required(slot, &format!("{name}.weight"))?;
        Ok(Self { weight, bias: builder.named(slot, &format!("{name}.bias"))? })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|bias| bias.tensor(mode)).transpose()?;
        linear(x, &self.weight.tensor(mode)?, bias.as_ref())
    }
}

#[derive(Debug)]
struct SwiGlu {
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl SwiGlu {
    fn read(builder: &mut Builder<'_>, slot: Slot) -> std::result::Result<Self, LearnError> {
        Ok(Self {
            gate: Linear::read(builder, slot, "gate_proj")?,
            up: Linear::read(builder, slot, "up_proj")?,
            down: Linear::read(builder, slot, "down_proj")?,
        })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.down.forward(&silu_mul(&self.gate.forward(x, mode)?, &self.up.forward(x, mode)?)?, mode)
    }
}

#[derive(Debug)]
struct Attention {
    input_norm: Weight,
    post_norm: Weight,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    q_norm: Option<Weight>,
    k_norm: Option<Weight>,
    window: Option<usize>,
}

/// The trained experts of a layer.
#[derive(Debug)]
enum Trained {
    None,
    /// (trained, 2 × inner, hidden) and (trained, hidden, inner): one variable each.
    Stacked {
        gate_up: Tensor,
        down: Tensor,
    },
    /// Gate, up and down of each.
    LowRank(Vec<[Weight; 3]>),
}

impl Trained {
    fn tensors(&self, mode: Mode) -> Result<(Tensor, Tensor)> {
        let (gate_up, down) = match self {
            // Nobody looks at them.
            Self::None => {
                let nothing = Tensor::zeros((1, 1, 1), candle_core::DType::F32, &Device::Cpu)?;
                (nothing.clone(), nothing)
            }
            Self::Stacked { gate_up, down } => (gate_up.clone(), down.clone()),
            Self::LowRank(experts) => {
                let (mut gate_up, mut down) = (Vec::new(), Vec::new());
                for [gate, up, down_proj] in experts {
                    gate_up.push(Tensor::cat(&[gate.tensor(mode)?, up.tensor(mode)?], 0)?);
                    down.push(down_proj.tensor(mode)?);
                }
                (Tensor::stack(&gate_up, 0)?, Tensor::stack(&down, 0)?)
            }
        };
        Ok(match mode {
            Mode::Train => (gate_up, down),
            Mode::Evaluate => (gate_up.detach(), down.detach()),
        })
    }
}

#[derive(Debug)]
struct Moe {
    router: Linear,
    places: Arc<Vec<Place>>,
    trained: Trained,
    inner: usize,
    per_token: usize,
    normalized: bool,
    shared: Option<(SwiGlu, Linear)>,
}

#[derive(Debug)]
enum Feed {
    Dense(SwiGlu),
    Moe(Box<Moe>),
}

/// What a layer that routes did.
#[derive(Debug)]
pub(crate) struct Routing {
    /// (tokens, experts)
    pub(crate) probabilities: Tensor,
    pub(crate) assignment: Arc<Assignment>,
}

/// What a forward pass gives.
#[derive(Debug)]
pub(crate) struct Output {
    /// (batch × positions, hidden), normed.
    x: Tensor,
    /// (vocabulary, hidden)
    head: Tensor,
    pub(crate) routing: Vec<Routing>,
}

impl Output {
    /// (batch × positions, vocabulary)
    pub(crate) fn logits(&self) -> Result<Tensor> {
        linear(&self.x, &self.head, None)
    }

    /// Mean cross entropy against the token that follows each position.
    pub(crate) fn loss(&self, targets: Arc<[u32]>) -> Result<Tensor> {
        head_loss(&self.x, &self.head, targets)
    }
}

/// A model whose trained parts are variables.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub(crate) spec: Arc<ModelSpec>,
    embedding: Weight,
    layers: Vec<(Attention, Feed)>,
    final_norm: Weight,
    /// `None`: the embedding.
    head: Option<Weight>,
}

fn slot_index(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

impl Decoder {
    pub(crate) fn read(builder: &mut Builder<'_>) -> std::result::Result<Self, LearnError> {
        let spec = Arc::clone(builder.source.spec());
        let embedding = builder.required(Slot::Embedding, "embed_tokens.weight")?;
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (index, layer) in spec.layers.iter().enumerate() {
            let layer_index = slot_index(index);
            let attention = Attention::read(builder, layer_index, layer.sliding_window)?;
            let feed = match layer.feed_forward {
                FeedForward::Dense { .. } => {
                    Feed::Dense(SwiGlu::read(builder, Slot::Expert { layer: layer_index, expert: 0 })?)
                }
                FeedForward::Moe { .. } => {
                    Feed::Moe(Box::new(Moe::read(builder, layer_index, &layer.feed_forward)?))
                }
            };
            layers.push((attention, feed));
        }
        let final_norm = builder.required(Slot::FinalNorm, "norm.weight")?;
        let head = if builder.source.has(Slot::Head) {
            Some(builder.required(Slot::Head, "lm_head.weight")?)
        } else {
            None
        };
        Ok(Self { spec, embedding, layers, final_norm, head })
    }

    /// `tokens`: `batch` sequences of equal length, one after the other, each from position 0.
    pub(crate) fn forward(&self, tokens: &[u32], batch: usize, mode: Mode) -> Result<Output> {
        let spec = &*self.spec;
        let positions = tokens.len() / batch;
        let angles = Arc::new(angles(spec, positions));
        let eps = spec.rms_norm_eps as f32;
        let ids = Tensor::from_slice(tokens, tokens.len(), &Device::Cpu)?;
        let embedding = self.embedding.tensor(mode)?;
        let mut x = embedding.index_select(&ids, 0)?;
        let mut routing = Vec::new();
        for (attention, feed) in &self.layers {
            let normed = rms_norm(&x, &attention.input_norm.tensor(mode)?, eps)?;
            x = (x + attention.forward(spec, &normed, batch, &angles, mode)?)?;
            let normed = rms_norm(&x, &attention.post_norm.tensor(mode)?, eps)?;
            let fed = match feed {
                Feed::Dense(expert) => expert.forward(&normed, mode)?,
                Feed::Moe(moe) => {
                    let (fed, layer) = moe.forward(&normed, mode)?;
                    routing.push(layer);
                    fed
                }
            };
            x = (x + fed)?;
        }
        let x = rms_norm(&x, &self.final_norm.tensor(mode)?, eps)?;
        let head = match &self.head {
            Some(head) => head.tensor(mode)?,
            None => embedding,
        };
        Ok(Output { x, head, routing })
    }
}

fn angles(spec: &ModelSpec, positions: usize) -> Angles {
    let rope = Rope::new(&spec.rope, spec.attention.head_dim);
    let (mut cos, mut sin) = (Vec::new(), Vec::new());
    (0..positions).for_each(|position| rope.push_position(position, &mut cos, &mut sin));
    Angles { cos, sin, positions }
}

impl Attention {
    fn read(
        builder: &mut Builder<'_>,
        layer: u32,
        window: Option<usize>,
    ) -> std::result::Result<Self, LearnError> {
        let slot = Slot::Attention { layer };
        Ok(Self {
            input_norm: builder.required(slot, "input_layernorm.weight")?,
            post_norm: builder.required(slot, "post_attention_layernorm.weight")?,
            q: Linear::read(builder, slot, "q_proj")?,
            k: Linear::read(builder, slot, "k_proj")?,
            v: Linear::read(builder, slot, "v_proj")?,
            o: Linear::read(builder, slot, "o_proj")?,
            q_norm: builder.named(slot, "q_norm.weight")?,
            k_norm: builder.named(slot, "k_norm.weight")?,
            window,
        })
    }

    /// `x`: (batch × positions, hidden), normed.
    fn forward(
        &self,
        spec: &ModelSpec,
        x: &Tensor,
        batch: usize,
        angles: &Arc<Angles>,
        mode: Mode,
    ) -> Result<Tensor> {
        let eps = spec.rms_norm_eps as f32;
        let prepared = |projection: &Linear, norm: &Option<Weight>| {
            let mut y = projection.forward(x, mode)?;
            if let Some(norm) = norm {
                let shape = y.shape().clone();
                let norm = norm.tensor(mode)?;
                y = match spec.attention.qk_norm {
                    QkNorm::PerHead => {
                        rms_norm(&y.reshape(((), norm.elem_count()))?, &norm, eps)?.reshape(shape)?
                    }
                    _ => rms_norm(&y, &norm, eps)?,
                };
            }
            match spec.attention.clip_qkv {
                Some(limit) => y.clamp(-(limit as f32), limit as f32),
                None => Ok(y),
            }
        };
        let q = rotate(&prepared(&self.q, &self.q_norm)?, angles)?;
        let k = rotate(&prepared(&self.k, &self.k_norm)?, angles)?;
        let v = prepared(&self.v, &None)?;
        let shape = AttentionShape {
            batch,
            positions: angles.positions,
            heads: spec.attention.num_attention_heads,
            kv_heads: spec.attention.num_key_value_heads,
            head_dim: spec.attention.head_dim,
            window: self.window,
        };
        self.o.forward(&attention(&q, &k, &v, shape)?, mode)
    }
}

impl Moe {
    fn read(
        builder: &mut Builder<'_>,
        layer: u32,
        feed: &FeedForward,
    ) -> std::result::Result<Self, LearnError> {
        let slot = Slot::Router { layer };
        let &FeedForward::Moe {
            num_experts,
            num_experts_per_tok,
            moe_intermediate_size: inner,
            norm_topk_prob,
            shared_expert_intermediate_size,
        } = feed
        else {
            return Err(LearnError::UnknownSlot { slot });
        };
        let router = Linear::read(builder, slot, "gate")?;
        let hidden = builder.source.spec().hidden_size;
        let size = inner * hidden;
        let mut places = Vec::with_capacity(num_experts);
        let (mut gate_up, mut down, mut parts) = (Vec::new(), Vec::new(), (Vec::new(), Vec::new()));
        let mut low_rank = Vec::new();
        for expert in 0..slot_index(num_experts) {
            let slot = Slot::Expert { layer, expert };
            if builder.is_trained(slot) && matches!(builder.form, Form::LowRank { .. }) {
                places.push(Place::Trained(low_rank.len()));
                low_rank.push([
                    builder.required(slot, "gate_proj.weight")?,
                    builder.required(slot, "up_proj.weight")?,
                    builder.required(slot, "down_proj.weight")?,
                ]);
                continue;
            }
            let spec = Arc::clone(builder.source.spec());
            let mut both = room(2 * size)?;
            let mut last = Vec::new();
            for tensor in spec.tensors_of(slot) {
                let values = builder.source.values(slot, &tensor)?;
                match tensor.name {
                    "down_proj.weight" => last = values,
                    // The spec's order: gate, then up.
                    _ => append(&mut both, &values)?,
                }
            }
            if builder.is_trained(slot) {
                places.push(Place::Trained(parts.1.len()));
                append(&mut gate_up, &both)?;
                append(&mut down, &last)?;
                parts.0.extend([(slot, "gate_proj.weight", size), (slot, "up_proj.weight", size)]);
                parts.1.push((slot, "down_proj.weight", size));
            } else {
                places.push(Place::Frozen(Frozen {
                    gate_up: Tensor::from_vec(both, (2 * inner, hidden), &Device::Cpu)?,
                    down: Tensor::from_vec(last, (hidden, inner), &Device::Cpu)?,
                }));
            }
        }
        let trained = if !low_rank.is_empty() {
            Trained::LowRank(low_rank)
        } else if parts.1.is_empty() {
            Trained::None
        } else {
            let name = |part: &str| format!("layer{layer}.experts.{part}");
            let count = parts.1.len();
            let dims = [count, 2 * inner, hidden];
            Trained::Stacked {
                gate_up: builder.parameters.add(name("gate_up"), &dims, gate_up, &parts.0)?,
                down: builder.parameters.add(name("down"), &[count, hidden, inner], down, &parts.1)?,
            }
        };
        let shared = match shared_expert_intermediate_size {
            Some(_) => {
                let slot = Slot::SharedExpert { layer };
                Some((SwiGlu::read(builder, slot)?, Linear::read(builder, slot, "shared_expert_gate")?))
            }
            None => None,
        };
        Ok(Self {
            router,
            places: Arc::new(places),
            trained,
            inner,
            per_token: num_experts_per_tok,
            normalized: norm_topk_prob,
            shared,
        })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<(Tensor, Routing)> {
        let probabilities = softmax_rows(&self.router.forward(x, mode)?)?;
        let assign = |p: &[f32]| Ok(Assignment::new(p, self.places.len(), self.per_token));
        let assignment = Arc::new(with_floats(&probabilities, assign)?);
        let shape = (assignment.tokens, self.per_token);
        let chosen = Tensor::from_slice(&assignment.chosen, shape, &Device::Cpu)?;
        let mut weights = probabilities.gather(&chosen, 1)?;
        if self.normalized {
            weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        }
        let (gate_up, down) = self.trained.tensors(mode)?;
        let uses = run_experts(x, (&gate_up, &down), &self.places, &assignment, self.inner)?;
        let mut y = combine(&uses, &weights, &assignment)?;
        if let Some((shared, gate)) = &self.shared {
            let gate = candle_nn::ops::sigmoid(&gate.forward(x, mode)?)?;
            y = (y + shared.forward(x, mode)?.broadcast_mul(&gate)?)?;
        }
        Ok((y, Routing { probabilities, assignment }))
    }
}

/// transformers' `load_balancing_loss_func` over all layers that route: experts × Σ over experts of the
/// share of uses times the mean probability. `None` without such layers.
pub(crate) fn balance_loss(routing: &[Routing]) -> Result<Option<Tensor>> {
    let Some(first) = routing.first() else { return Ok(None) };
    let experts = first.probabilities.dim(1)?;
    let tokens = (routing.len() * first.assignment.tokens) as f64;
    let mut uses = vec![0.0f32; experts];
    let mut mean: Option<Tensor> = None;
    for layer in routing {
        for (sum, count) in uses.iter_mut().zip(layer.assignment.counts()) {
            *sum += count as f32;
        }
        let sum = layer.probabilities.sum(0)?;
        mean = Some(match mean {
            Some(mean) => (mean + sum)?,
            None => sum,
        });
    }
    let uses = (Tensor::from_vec(uses, experts, &Device::Cpu)? / tokens)?;
    let Some(mean) = mean else { return Ok(None) };
    let loss = ((mean / tokens)? * uses)?.sum_all()?;
    Ok(Some((loss * experts as f64)?))
}
