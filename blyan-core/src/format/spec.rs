//! Owns [`ModelSpec`]: a decoder described by its parts, so that an architecture is data.
//!
//! The canonical JSON of a spec is the payload of a spec block: keys in the order of the structs
//! below, every default written out, no white space, floats in their shortest form that reads
//! back equal. It names no file, no folder and no person.

use serde::{Deserialize, Serialize};

use super::layout::MAX_SLOTS;
use super::slot::Slot;
use crate::dtype::DType;
use crate::kernels::FpEnv;

/// Largest value accepted for any size in a spec; far above any published model, and small enough
/// that products of three sizes fit 64 bits.
pub(super) const MAX_DIM: usize = 1 << 20;

/// A decoder-only transformer, by its parts. Sizes count elements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Version of this description; 1.
    pub spec_version: u32,
    /// Published layout that the model came in; decides tensor names on export, never arithmetic.
    pub architecture: Architecture,
    /// Rows of embedding and head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Largest number of positions the model was made for; generation stops there.
    pub max_position_embeddings: usize,
    /// Epsilon of every norm.
    pub rms_norm_eps: f64,
    /// Whether the output head is the embedding, unless a `head` block is pinned.
    pub tie_word_embeddings: bool,
    /// Attention, equal in all layers but for its window.
    pub attention: AttentionSpec,
    /// Rotary position embedding.
    pub rope: RopeSpec,
    /// The layers in order.
    pub layers: Vec<LayerSpec>,
    /// Special tokens that generation needs.
    pub tokens: TokenSpec,
}

/// Published checkpoint layout, under Hugging Face's `model_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Architecture {
    /// Mixtral (arXiv:2401.04088).
    Mixtral,
    /// OLMoE (arXiv:2409.02060).
    Olmoe,
    /// Qwen1.5/Qwen2 MoE.
    Qwen2Moe,
    /// Qwen3 MoE.
    Qwen3Moe,
    /// Llama and its kin, dense.
    Llama,
    /// Qwen3, dense.
    Qwen3,
    /// Qwen2 and Qwen2.5, dense.
    Qwen2,
}

impl Architecture {
    /// Every supported layout.
    pub const ALL: [Self; 7] =
        [Self::Mixtral, Self::Olmoe, Self::Qwen2Moe, Self::Qwen3Moe, Self::Llama, Self::Qwen3, Self::Qwen2];

    /// Hugging Face's `model_type`.
    pub const fn model_type(self) -> &'static str {
        match self {
            Self::Mixtral => "mixtral",
            Self::Olmoe => "olmoe",
            Self::Qwen2Moe => "qwen2_moe",
            Self::Qwen3Moe => "qwen3_moe",
            Self::Llama => "llama",
            Self::Qwen3 => "qwen3",
            Self::Qwen2 => "qwen2",
        }
    }
}

/// Grouped-query attention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionSpec {
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Whether `q_proj`, `k_proj` and `v_proj` have a bias.
    pub qkv_bias: bool,
    /// Whether `o_proj` has a bias.
    pub output_bias: bool,
    /// Norm of queries and keys before rotation.
    pub qk_norm: QkNorm,
    /// Queries, keys and values are clamped to ± this, after their norm and before rotation.
    pub clip_qkv: Option<f64>,
}

/// RMS norm of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QkNorm {
    /// None.
    None,
    /// Each head by itself, weight of `head_dim` (Qwen3).
    PerHead,
    /// All heads at once, weight of heads × `head_dim` (OLMoE).
    AllHeads,
}

/// Rotary position embedding in the "rotate half" layout (arXiv:2104.09864).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RopeSpec {
    /// Base of the frequencies.
    pub rope_theta: f64,
    /// What the frequencies are rounded to: F32, or BF16 for a model that was run as a module cast to
    /// it as a whole, frequencies included.
    pub frequency_dtype: DType,
    /// How the frequencies were stretched.
    pub scaling: RopeScaling,
}

/// Stretching of rotary frequencies, under Hugging Face's `rope_type`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "snake_case", deny_unknown_fields)]
pub enum RopeScaling {
    /// None.
    Default,
    /// Positions divided by `factor`.
    Linear {
        /// Divisor of positions.
        factor: f64,
    },
    /// Llama 3.1's piecewise interpolation.
    Llama3 {
        /// Divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context the model was first trained for.
        original_max_position_embeddings: usize,
    },
    /// YaRN (arXiv:2309.00071).
    Yarn {
        /// Divisor of low frequencies.
        factor: f64,
        /// Context the model was first trained for.
        original_max_position_embeddings: usize,
        /// Multiplier of cos and sin, resolved.
        attention_factor: f64,
        /// Rotations below which a frequency is divided.
        beta_slow: f64,
        /// Rotations above which a frequency is kept.
        beta_fast: f64,
        /// Whether the bounds of the ramp are rounded to whole dimensions.
        truncate: bool,
    },
}

/// One decoder layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerSpec {
    /// A position attends to itself and to the `sliding_window - 1` positions before it.
    pub sliding_window: Option<usize>,
    /// What follows attention.
    pub feed_forward: FeedForward,
}

/// SwiGLU feed-forward, dense or a mixture of experts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum FeedForward {
    /// One expert that every token uses, in the slot `layer{l}.expert0`.
    Dense {
        /// Rows of `gate_proj` and `up_proj`.
        intermediate_size: usize,
        /// Whether the three projections have a bias.
        bias: bool,
    },
    /// Softmax over all experts, then the best `num_experts_per_tok`, ties to the lowest index.
    Moe {
        /// Experts in the layer.
        num_experts: usize,
        /// Experts a token uses.
        num_experts_per_tok: usize,
        /// Rows of an expert's `gate_proj` and `up_proj`.
        moe_intermediate_size: usize,
        /// Whether the chosen experts' weights are divided by their sum.
        norm_topk_prob: bool,
        /// An expert that every token uses besides, times the sigmoid of its gate.
        shared_expert_intermediate_size: Option<usize>,
    },
}

/// Special tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSpec {
    /// Token that starts a text, where the model has one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text, ascending.
    pub eos_token_ids: Vec<u32>,
    /// Token that fills a batch.
    pub pad_token_id: Option<u32>,
}

/// A spec that describes no model.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// Not the JSON of a spec.
    #[error("the model spec is not valid JSON of version 1: {reason}")]
    Json {
        /// What the parser said.
        reason: String,
    },
    /// Valid JSON, but not in its one canonical spelling.
    #[error("the model spec is not in canonical form")]
    NotCanonical,
    /// A field has a value that makes no sense.
    #[error("the model spec has {field} = {value}: {reason}")]
    Invalid {
        /// Path of the field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is expected of it.
        reason: &'static str,
    },
}

fn invalid(field: &'static str, value: impl ToString, reason: &'static str) -> SpecError {
    SpecError::Invalid { field, value: value.to_string(), reason }
}

fn check_dim(field: &'static str, value: usize) -> Result<(), SpecError> {
    if value == 0 || value > MAX_DIM {
        return Err(invalid(field, value, "expected 1 to 1048576"));
    }
    Ok(())
}

fn check_positive(field: &'static str, value: f64) -> Result<(), SpecError> {
    if !value.is_finite() || value <= 0.0 {
        return Err(invalid(field, value, "expected a positive finite number"));
    }
    Ok(())
}

impl ModelSpec {
    /// The canonical bytes: the payload of the spec block.
    ///
    /// # Panics
    ///
    /// Never: a spec holds nothing that JSON cannot.
    pub fn to_canonical_json(&self) -> Vec<u8> {
        #[expect(clippy::expect_used, reason = "strings, numbers and lists always serialize")]
        serde_json::to_vec(self).expect("a spec serializes")
    }

    /// Reads canonical bytes and checks every field.
    ///
    /// # Errors
    ///
    /// [`SpecError`] naming what is wrong.
    pub fn from_canonical_json(bytes: &[u8]) -> Result<Self, SpecError> {
        // Numbers are read by f64 operations.
        let _env = FpEnv::enter();
        let spec: Self =
            serde_json::from_slice(bytes).map_err(|error| SpecError::Json { reason: error.to_string() })?;
        if spec.to_canonical_json() != bytes {
            return Err(SpecError::NotCanonical);
        }
        spec.check()?;
        Ok(spec)
    }

    /// Checks every field against the others.
    ///
    /// # Errors
    ///
    /// [`SpecError::Invalid`] for the first field that makes no sense.
    pub fn check(&self) -> Result<(), SpecError> {
        if self.spec_version != 1 {
            return Err(invalid("spec_version", self.spec_version, "expected 1"));
        }
        check_dim("vocab_size", self.vocab_size)?;
        check_dim("hidden_size", self.hidden_size)?;
        check_dim("layers", self.layers.len())?;
        if self.max_position_embeddings == 0 || self.max_position_embeddings > 1 << 24 {
            let value = self.max_position_embeddings;
            return Err(invalid("max_position_embeddings", value, "expected 1 to 16777216"));
        }
        check_positive("rms_norm_eps", self.rms_norm_eps)?;
        self.attention.check()?;
        self.rope.check()?;
        for layer in &self.layers {
            layer.check()?;
        }
        let slots = self.slot_count();
        if slots > MAX_SLOTS {
            return Err(invalid("layers", format!("{slots} slots"), "expected at most 100000"));
        }
        // Published checkpoints name special tokens beyond their vocabulary: such a token is never
        // chosen, so only the order is checked.
        let tokens = &self.tokens;
        if !tokens.eos_token_ids.is_sorted_by(|a, b| a < b) {
            let value = format!("{:?}", tokens.eos_token_ids);
            return Err(invalid("tokens.eos_token_ids", value, "expected ascending ids"));
        }
        Ok(())
    }

    /// The slots that a model of this spec must fill, in order: embedding, layers, final norm and,
    /// unless it is tied, the head.
    pub fn required_slots(&self) -> Vec<Slot> {
        let mut slots = vec![Slot::Embedding];
        for (layer, spec) in (0..).zip(&self.layers) {
            slots.push(Slot::Attention { layer });
            match spec.feed_forward {
                FeedForward::Dense { .. } => slots.push(Slot::Expert { layer, expert: 0 }),
                FeedForward::Moe { num_experts, shared_expert_intermediate_size, .. } => {
                    slots.push(Slot::Router { layer });
                    let experts = u32::try_from(num_experts).unwrap_or(u32::MAX);
                    slots.extend((0..experts).map(|expert| Slot::Expert { layer, expert }));
                    if shared_expert_intermediate_size.is_some() {
                        slots.push(Slot::SharedExpert { layer });
                    }
                }
            }
        }
        slots.push(Slot::FinalNorm);
        if !self.tie_word_embeddings {
            slots.push(Slot::Head);
        }
        slots
    }
}

impl AttentionSpec {
    fn check(&self) -> Result<(), SpecError> {
        check_dim("attention.num_attention_heads", self.num_attention_heads)?;
        check_dim("attention.num_key_value_heads", self.num_key_value_heads)?;
        check_dim("attention.head_dim", self.head_dim)?;
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return Err(invalid(
                "attention.num_key_value_heads",
                self.num_key_value_heads,
                "expected a divisor of num_attention_heads",
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(invalid("attention.head_dim", self.head_dim, "rotation needs an even width"));
        }
        check_dim("attention.num_attention_heads * head_dim", self.num_attention_heads * self.head_dim)?;
        self.clip_qkv.map_or(Ok(()), |clip| check_positive("attention.clip_qkv", clip))
    }
}

impl RopeSpec {
    fn check(&self) -> Result<(), SpecError> {
        check_positive("rope.rope_theta", self.rope_theta)?;
        if self.rope_theta <= 1.0 {
            return Err(invalid("rope.rope_theta", self.rope_theta, "expected more than 1"));
        }
        if !matches!(self.frequency_dtype, DType::F32 | DType::BF16) {
            return Err(invalid("rope.frequency_dtype", self.frequency_dtype, "expected F32 or BF16"));
        }
        match self.scaling {
            RopeScaling::Default => Ok(()),
            RopeScaling::Linear { factor } => check_positive("rope.scaling.factor", factor),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                check_positive("rope.scaling.factor", factor)?;
                check_positive("rope.scaling.low_freq_factor", low_freq_factor)?;
                check_positive("rope.scaling.high_freq_factor", high_freq_factor)?;
                if high_freq_factor <= low_freq_factor {
                    return Err(invalid(
                        "rope.scaling.high_freq_factor",
                        high_freq_factor,
                        "expected more than low_freq_factor",
                    ));
                }
                check_original(original_max_position_embeddings)
            }
            RopeScaling::Yarn {
                factor,
                original_max_position_embeddings,
                attention_factor,
                beta_slow,
                beta_fast,
                truncate: _,
            } => {
                check_positive("rope.scaling.factor", factor)?;
                check_positive("rope.scaling.attention_factor", attention_factor)?;
                check_positive("rope.scaling.beta_slow", beta_slow)?;
                check_positive("rope.scaling.beta_fast", beta_fast)?;
                check_original(original_max_position_embeddings)
            }
        }
    }
}

fn check_original(positions: usize) -> Result<(), SpecError> {
    if positions == 0 || positions > 1 << 24 {
        let field = "rope.scaling.original_max_position_embeddings";
        return Err(invalid(field, positions, "expected 1 to 16777216"));
    }
    Ok(())
}

impl LayerSpec {
    fn check(&self) -> Result<(), SpecError> {
        if self.sliding_window == Some(0) {
            return Err(invalid("layers.sliding_window", 0, "expected at least 1"));
        }
        match self.feed_forward {
            FeedForward::Dense { intermediate_size, bias: _ } => {
                check_dim("layers.feed_forward.intermediate_size", intermediate_size)
            }
            FeedForward::Moe {
                num_experts,
                num_experts_per_tok,
                moe_intermediate_size,
                norm_topk_prob: _,
                shared_expert_intermediate_size,
            } => {
                if num_experts == 0 || num_experts > 1 << 16 {
                    let field = "layers.feed_forward.num_experts";
                    return Err(invalid(field, num_experts, "expected 1 to 65536"));
                }
                if num_experts_per_tok == 0 || num_experts_per_tok > num_experts {
                    let field = "layers.feed_forward.num_experts_per_tok";
                    return Err(invalid(field, num_experts_per_tok, "expected 1 to num_experts"));
                }
                check_dim("layers.feed_forward.moe_intermediate_size", moe_intermediate_size)?;
                shared_expert_intermediate_size.map_or(Ok(()), |size| {
                    check_dim("layers.feed_forward.shared_expert_intermediate_size", size)
                })
            }
        }
    }
}
