//! Owns what a weight block holds: for a spec and a slot, the names, shapes and roles of its tensors.
//! Importer, exporter, validators and forward pass all read it here.

use super::slot::Slot;
use super::spec::{AttentionSpec, FeedForward, ModelSpec, QkNorm};
use crate::dtype::Shape;

/// One tensor of a weight block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name inside the block, such as `gate_proj.weight`.
    pub name: &'static str,
    /// Dimensions, outermost first; a matrix is (outputs, inputs).
    pub shape: Shape,
    /// What it is to the arithmetic, which decides what may be done to its precision.
    pub role: TensorRole,
}

/// What a tensor is to the arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TensorRole {
    /// A matrix that multiplies activations: nearly all of a model's bytes. Quantized if asked for.
    Projection,
    /// The token embedding: looked up row by row. Rounded to a shorter float, never quantized.
    Embedding,
    /// Router or gate of a shared expert: a small error here sends a token elsewhere. Kept.
    Router,
    /// A norm's weight. Kept.
    Norm,
    /// A bias. Kept.
    Bias,
}

fn matrix(name: &'static str, rows: usize, cols: usize) -> TensorSpec {
    TensorSpec { name, shape: Shape::new([rows, cols]), role: TensorRole::Projection }
}

fn vector(name: &'static str, len: usize, role: TensorRole) -> TensorSpec {
    TensorSpec { name, shape: Shape::new([len]), role }
}

fn swiglu(hidden: usize, intermediate: usize) -> Vec<TensorSpec> {
    vec![
        matrix("gate_proj.weight", intermediate, hidden),
        matrix("up_proj.weight", intermediate, hidden),
        matrix("down_proj.weight", hidden, intermediate),
    ]
}

fn attention(hidden: usize, spec: &AttentionSpec) -> Vec<TensorSpec> {
    let queries = spec.num_attention_heads * spec.head_dim;
    let keys = spec.num_key_value_heads * spec.head_dim;
    let mut tensors = vec![
        vector("input_layernorm.weight", hidden, TensorRole::Norm),
        matrix("q_proj.weight", queries, hidden),
        matrix("k_proj.weight", keys, hidden),
        matrix("v_proj.weight", keys, hidden),
        matrix("o_proj.weight", hidden, queries),
        vector("post_attention_layernorm.weight", hidden, TensorRole::Norm),
    ];
    if spec.qkv_bias {
        let biases = [("q_proj.bias", queries), ("k_proj.bias", keys), ("v_proj.bias", keys)];
        tensors.extend(biases.map(|(name, len)| vector(name, len, TensorRole::Bias)));
    }
    if spec.output_bias {
        tensors.push(vector("o_proj.bias", hidden, TensorRole::Bias));
    }
    let norms = match spec.qk_norm {
        QkNorm::None => None,
        QkNorm::PerHead => Some((spec.head_dim, spec.head_dim)),
        QkNorm::AllHeads => Some((queries, keys)),
    };
    if let Some((query_norm, key_norm)) = norms {
        tensors.push(vector("q_norm.weight", query_norm, TensorRole::Norm));
        tensors.push(vector("k_norm.weight", key_norm, TensorRole::Norm));
    }
    tensors
}

/// Most slots of one model: its model block then fits a header.
pub(super) const MAX_SLOTS: u64 = 100_000;

impl ModelSpec {
    /// Number of [`Self::required_slots`], counted without listing them: a hostile spec names billions.
    pub(super) fn slot_count(&self) -> u64 {
        let per_layer = self.layers.iter().map(|layer| match layer.feed_forward {
            FeedForward::Dense { .. } => 2,
            FeedForward::Moe { num_experts, shared_expert_intermediate_size, .. } => {
                2 + num_experts as u64 + u64::from(shared_expert_intermediate_size.is_some())
            }
        });
        per_layer.fold(3, u64::saturating_add)
    }

    /// The tensors of the block that fills `slot`; none for a slot that this model does not have, or
    /// that holds no weights. A quantized projection `x.weight` has `x.weight_scale` besides.
    pub fn tensors_of(&self, slot: Slot) -> Vec<TensorSpec> {
        let hidden = self.hidden_size;
        let layer = |index: u32| usize::try_from(index).ok().and_then(|index| self.layers.get(index));
        match slot {
            Slot::Embedding => vec![TensorSpec {
                name: "embed_tokens.weight",
                shape: Shape::new([self.vocab_size, hidden]),
                role: TensorRole::Embedding,
            }],
            Slot::FinalNorm => vec![vector("norm.weight", hidden, TensorRole::Norm)],
            Slot::Head => vec![matrix("lm_head.weight", self.vocab_size, hidden)],
            Slot::Attention { layer: index } if layer(index).is_some() => attention(hidden, &self.attention),
            Slot::Router { layer: index } => match layer(index).map(|layer| &layer.feed_forward) {
                Some(&FeedForward::Moe { num_experts, .. }) => vec![TensorSpec {
                    name: "gate.weight",
                    shape: Shape::new([num_experts, hidden]),
                    role: TensorRole::Router,
                }],
                _ => vec![],
            },
            Slot::Expert { layer: index, expert } => match layer(index).map(|layer| &layer.feed_forward) {
                Some(&FeedForward::Moe { num_experts, moe_intermediate_size, .. })
                    if (expert as usize) < num_experts =>
                {
                    swiglu(hidden, moe_intermediate_size)
                }
                Some(&FeedForward::Dense { intermediate_size, bias }) if expert == 0 => {
                    let mut tensors = swiglu(hidden, intermediate_size);
                    if bias {
                        let (inner, role) = (intermediate_size, TensorRole::Bias);
                        tensors.push(vector("gate_proj.bias", inner, role));
                        tensors.push(vector("up_proj.bias", inner, role));
                        tensors.push(vector("down_proj.bias", hidden, role));
                    }
                    tensors
                }
                _ => vec![],
            },
            Slot::SharedExpert { layer: index } => match layer(index).map(|layer| &layer.feed_forward) {
                Some(&FeedForward::Moe { shared_expert_intermediate_size: Some(size), .. }) => {
                    let mut tensors = swiglu(hidden, size);
                    tensors.push(TensorSpec {
                        name: "shared_expert_gate.weight",
                        shape: Shape::new([1, hidden]),
                        role: TensorRole::Router,
                    });
                    tensors
                }
                _ => vec![],
            },
            _ => vec![],
        }
    }
}
