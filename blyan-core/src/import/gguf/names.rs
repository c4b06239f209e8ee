//! Owns ggml's names of the tensors of a block, and the order of rows that they stand in.

use crate::format::{Architecture, FeedForward, ModelSpec, Slot};
use crate::import::names::{Stacked, layer_spec};

/// The name of `tensor` (a name inside the block) of the block in `slot`. Experts have names of their
/// own in files of 2023; later ones stack them.
pub(in crate::import) fn published(spec: &ModelSpec, slot: Slot, tensor: &str) -> String {
    let (part, kind) = tensor.split_once('.').unwrap_or((tensor, "weight"));
    match slot {
        Slot::Embedding => "token_embd.weight".to_owned(),
        Slot::FinalNorm => "output_norm.weight".to_owned(),
        Slot::Attention { layer } => {
            let part = match part {
                "input_layernorm" => "attn_norm",
                "post_attention_layernorm" => "ffn_norm",
                "q_proj" => "attn_q",
                "k_proj" => "attn_k",
                "v_proj" => "attn_v",
                "o_proj" => "attn_output",
                "q_norm" => "attn_q_norm",
                "k_norm" => "attn_k_norm",
                other => other,
            };
            format!("blk.{layer}.{part}.{kind}")
        }
        Slot::Router { layer } => format!("blk.{layer}.ffn_gate_inp.{kind}"),
        Slot::Expert { layer, expert } => match layer_spec(spec, layer).map(|layer| &layer.feed_forward) {
            Some(FeedForward::Moe { .. }) => format!("blk.{layer}.{}.{expert}.{kind}", projection(part)),
            _ => format!("blk.{layer}.{}.{kind}", projection(part)),
        },
        Slot::SharedExpert { layer } if part == "shared_expert_gate" => {
            format!("blk.{layer}.ffn_gate_inp_shexp.{kind}")
        }
        Slot::SharedExpert { layer } => format!("blk.{layer}.{}_shexp.{kind}", projection(part)),
        _ => "output.weight".to_owned(),
    }
}

fn projection(part: &str) -> &str {
    match part {
        "gate_proj" => "ffn_gate",
        "up_proj" => "ffn_up",
        "down_proj" => "ffn_down",
        other => other,
    }
}

/// Where the experts of a layer are stacked.
pub(in crate::import) fn stacked(spec: &ModelSpec, slot: Slot, tensor: &str) -> Option<Stacked> {
    let Slot::Expert { layer, expert } = slot else { return None };
    let &FeedForward::Moe { num_experts, moe_intermediate_size: inner, .. } =
        &layer_spec(spec, layer)?.feed_forward
    else {
        return None;
    };
    let (part, kind) = tensor.split_once('.')?;
    let (rows, cols) =
        if part == "down_proj" { (spec.hidden_size, inner) } else { (inner, spec.hidden_size) };
    Some(Stacked {
        name: format!("blk.{layer}.{}_exps.{kind}", projection(part)),
        shape: [num_experts, rows, cols],
        first_row: usize::try_from(expert).ok()? * rows,
    })
}

/// What follows from the metadata: rotary frequencies, which the importer compares with the spec.
pub(in crate::import) fn is_derived(name: &str) -> bool {
    name == super::ROPE_FREQUENCIES || name.ends_with(".attn_rot_embd.weight")
}

/// Rows of a head, where a file keeps queries and keys in the order in which llama.cpp rotates those of
/// the `llama` architecture: pairs of neighbours instead of halves of a head.
pub(in crate::import) fn interleaved_rows(spec: &ModelSpec, slot: Slot, tensor: &str) -> Option<usize> {
    let llama = matches!(spec.architecture, Architecture::Llama | Architecture::Mixtral);
    let rotated = tensor.starts_with("q_proj.") || tensor.starts_with("k_proj.");
    (llama && rotated && matches!(slot, Slot::Attention { .. })).then_some(spec.attention.head_dim)
}
