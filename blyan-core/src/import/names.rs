//! Owns the names under which checkpoints publish the tensors of a block.

use super::gguf;
use crate::format::{Architecture, FeedForward, LayerSpec, ModelSpec, Slot};

/// Whose names the tensors of a checkpoint have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// Hugging Face's, per architecture.
    HuggingFace,
    /// ggml's.
    Gguf,
}

impl Naming {
    /// The embedding, and the head that is no part of it.
    pub(super) fn ends(self) -> (&'static str, &'static str) {
        match self {
            Self::HuggingFace => ("model.embed_tokens.weight", "lm_head.weight"),
            Self::Gguf => ("token_embd.weight", "output.weight"),
        }
    }

    /// Names of a tensor of its own, the usual one first.
    pub(super) fn published(self, spec: &ModelSpec, slot: Slot, tensor: &str) -> Vec<String> {
        match self {
            Self::HuggingFace => {
                let published = published(spec, slot, tensor);
                [Some(published), alternative(spec, slot, tensor)].into_iter().flatten().collect()
            }
            Self::Gguf => vec![gguf::published(spec, slot, tensor)],
        }
    }

    /// Where a checkpoint that stacks the experts of a layer keeps the projection `tensor` of one.
    pub(super) fn stacked(self, spec: &ModelSpec, slot: Slot, tensor: &str) -> Option<Stacked> {
        match self {
            Self::HuggingFace => stacked(spec, slot, tensor),
            Self::Gguf => gguf::stacked(spec, slot, tensor),
        }
    }

    /// The name under which to report a tensor that is not there.
    pub(super) fn expected(self, spec: &ModelSpec, slot: Slot, tensor: &str) -> String {
        match (self, self.stacked(spec, slot, tensor)) {
            // Files with a tensor for each expert are of 2023.
            (Self::Gguf, Some(stacked)) => stacked.name,
            _ => self.published(spec, slot, tensor).swap_remove(0),
        }
    }

    /// Whether a tensor that no slot uses can be left out.
    pub(super) fn is_derived(self, name: &str) -> bool {
        match self {
            Self::HuggingFace => is_derived(name),
            Self::Gguf => gguf::is_derived(name),
        }
    }

    /// Rows of a head that stand in another order than Hugging Face's, if the tensor is rotated so.
    pub(super) fn interleaved_rows(self, spec: &ModelSpec, slot: Slot, tensor: &str) -> Option<usize> {
        match self {
            Self::HuggingFace => None,
            Self::Gguf => gguf::interleaved_rows(spec, slot, tensor),
        }
    }
}

/// The name of `tensor` (a name inside the block, such as `gate_proj.weight`) of the block in `slot`
/// in a published checkpoint.
pub(super) fn published(spec: &ModelSpec, slot: Slot, tensor: &str) -> String {
    let mixtral = spec.architecture == Architecture::Mixtral;
    match slot {
        Slot::Attention { layer } => match tensor.split_once('.') {
            Some(("input_layernorm" | "post_attention_layernorm", _)) => {
                format!("model.layers.{layer}.{tensor}")
            }
            _ => format!("model.layers.{layer}.self_attn.{tensor}"),
        },
        Slot::Router { layer } if mixtral => format!("model.layers.{layer}.block_sparse_moe.{tensor}"),
        Slot::Router { layer } => format!("model.layers.{layer}.mlp.{tensor}"),
        Slot::Expert { layer, expert } => match layer_spec(spec, layer).map(|layer| &layer.feed_forward) {
            Some(FeedForward::Moe { .. }) if mixtral => {
                // Mixtral numbers the projections: w1 gate, w2 down, w3 up.
                let (name, rest) = tensor.split_once('.').unwrap_or((tensor, ""));
                let name = match name {
                    "gate_proj" => "w1",
                    "down_proj" => "w2",
                    "up_proj" => "w3",
                    other => other,
                };
                format!("model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}.{rest}")
            }
            Some(FeedForward::Moe { .. }) => format!("model.layers.{layer}.mlp.experts.{expert}.{tensor}"),
            _ => format!("model.layers.{layer}.mlp.{tensor}"),
        },
        Slot::SharedExpert { layer } if tensor.starts_with("shared_expert_gate.") => {
            format!("model.layers.{layer}.mlp.{tensor}")
        }
        Slot::SharedExpert { layer } => format!("model.layers.{layer}.mlp.shared_expert.{tensor}"),
        Slot::Embedding | Slot::FinalNorm => format!("model.{tensor}"),
        _ => tensor.to_owned(),
    }
}

/// Part of a stacked tensor that holds the experts of a whole layer: the layout that transformers 5
/// has in memory, and writes where it is told not to restore the published one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stacked {
    /// Name of the stacked tensor.
    pub(super) name: String,
    /// Its dimensions.
    pub(super) shape: [usize; 3],
    /// First of its rows, counted over the first two dimensions, that belong to the expert.
    pub(super) first_row: usize,
}

/// Where a stacked checkpoint keeps the projection `tensor` of an expert, if it is one.
fn stacked(spec: &ModelSpec, slot: Slot, tensor: &str) -> Option<Stacked> {
    let Slot::Expert { layer, expert } = slot else { return None };
    let &FeedForward::Moe { num_experts, moe_intermediate_size: inner, .. } =
        &layer_spec(spec, layer)?.feed_forward
    else {
        return None;
    };
    let (hidden, expert) = (spec.hidden_size, usize::try_from(expert).ok()?);
    let (name, shape, row_in_expert) = match tensor {
        "gate_proj.weight" => ("gate_up_proj", [num_experts, 2 * inner, hidden], 0),
        "up_proj.weight" => ("gate_up_proj", [num_experts, 2 * inner, hidden], inner),
        "down_proj.weight" => ("down_proj", [num_experts, hidden, inner], 0),
        _ => return None,
    };
    let name = format!("model.layers.{layer}.mlp.experts.{name}");
    Some(Stacked { name, shape, first_row: expert * shape[1] + row_in_expert })
}

/// Another name of the same tensor: Mixtral's router, where experts are stacked.
fn alternative(spec: &ModelSpec, slot: Slot, tensor: &str) -> Option<String> {
    match slot {
        Slot::Router { layer } if spec.architecture == Architecture::Mixtral => {
            Some(format!("model.layers.{layer}.mlp.{tensor}"))
        }
        _ => None,
    }
}

/// Whether a tensor that no slot uses can be left out: frequencies that old checkpoints carry, which
/// follow from the config.
fn is_derived(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
}

pub(super) fn layer_spec(spec: &ModelSpec, layer: u32) -> Option<&LayerSpec> {
    spec.layers.get(usize::try_from(layer).ok()?)
}
