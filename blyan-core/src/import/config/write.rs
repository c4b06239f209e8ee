//! Owns the writing of config.json from a spec, in the spelling of transformers 4, which version 5
//! reads too.

use serde_json::{Map, Value, json};

use crate::dtype::DType;
use crate::format::{Architecture, FeedForward, ModelSpec, RopeScaling};
use crate::import::error::ExportError;

/// What a spec does not say, because it does not change the arithmetic.
pub(in crate::import) struct Details {
    /// Element type of the embedding, under PyTorch's name.
    pub(in crate::import) torch_dtype: &'static str,
    /// Whether the head is written as a tensor of its own although the spec ties it.
    pub(in crate::import) own_head: bool,
    /// What the `compressed-tensors` format needs to know.
    pub(in crate::import) quantization_config: Option<Value>,
}

/// The bytes of config.json.
///
/// # Errors
///
/// [`ExportError::NotExpressible`] if reading them back would give another spec.
pub(in crate::import) fn config_json(spec: &ModelSpec, details: Details) -> Result<Vec<u8>, ExportError> {
    let mut config = keys(spec);
    // The reader is the judge of what the keys mean. What rotary frequencies are rounded to has no
    // key: whoever imports the folder again has to say it again.
    let mut expected = spec.clone();
    expected.rope.frequency_dtype = DType::F32;
    if !super::read(&config, None, &[]).is_ok_and(|read| read == expected) {
        return Err(ExportError::NotExpressible {
            architecture: spec.architecture.model_type(),
            reason: "its layers differ in a way that has no key",
        });
    }
    config.insert("torch_dtype".to_owned(), details.torch_dtype.into());
    if details.own_head {
        config.insert("tie_word_embeddings".to_owned(), false.into());
    }
    if let Some(quantization) = details.quantization_config {
        config.insert("quantization_config".to_owned(), quantization);
    }
    config.sort_keys();
    let mut text = format!("{:#}", Value::Object(config));
    text.push('\n');
    Ok(text.into_bytes())
}

fn class(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Mixtral => "MixtralForCausalLM",
        Architecture::Olmoe => "OlmoeForCausalLM",
        Architecture::Qwen2Moe => "Qwen2MoeForCausalLM",
        Architecture::Qwen3Moe => "Qwen3MoeForCausalLM",
        Architecture::Llama => "LlamaForCausalLM",
        Architecture::Qwen3 => "Qwen3ForCausalLM",
        Architecture::Qwen2 => "Qwen2ForCausalLM",
    }
}

fn keys(spec: &ModelSpec) -> Map<String, Value> {
    let architecture = spec.architecture;
    let attention = &spec.attention;
    let tokens = &spec.tokens;
    let mut keys = Map::new();
    let mut set = |key: &str, value: Value| {
        keys.insert(key.to_owned(), value);
    };
    set("architectures", json!([class(architecture)]));
    set("model_type", architecture.model_type().into());
    set("hidden_act", "silu".into());
    set("use_cache", true.into());
    set("vocab_size", spec.vocab_size.into());
    set("hidden_size", spec.hidden_size.into());
    set("num_hidden_layers", spec.layers.len().into());
    set("max_position_embeddings", spec.max_position_embeddings.into());
    set("rms_norm_eps", spec.rms_norm_eps.into());
    set("tie_word_embeddings", spec.tie_word_embeddings.into());
    set("num_attention_heads", attention.num_attention_heads.into());
    set("num_key_value_heads", attention.num_key_value_heads.into());
    set("head_dim", attention.head_dim.into());
    match architecture {
        Architecture::Mixtral | Architecture::Qwen2 => {}
        Architecture::Qwen2Moe => set("qkv_bias", attention.qkv_bias.into()),
        _ => set("attention_bias", attention.qkv_bias.into()),
    }
    if architecture == Architecture::Olmoe {
        set("clip_qkv", attention.clip_qkv.into());
    }
    set("rope_theta", spec.rope.rope_theta.into());
    set("rope_scaling", rope_scaling(&spec.rope.scaling));
    set("bos_token_id", tokens.bos_token_id.into());
    set("pad_token_id", tokens.pad_token_id.into());
    set(
        "eos_token_id",
        match tokens.eos_token_ids.as_slice() {
            [] => Value::Null,
            [one] => (*one).into(),
            many => many.into(),
        },
    );
    windows(spec, &mut set);
    feed_forwards(spec, &mut set);
    keys
}

fn rope_scaling(scaling: &RopeScaling) -> Value {
    match *scaling {
        RopeScaling::Default => Value::Null,
        // The enum's own serialization uses Hugging Face's words.
        _ => serde_json::to_value(scaling).unwrap_or_default(),
    }
}

fn windows(spec: &ModelSpec, set: &mut impl FnMut(&str, Value)) {
    let window = spec.layers.iter().find_map(|layer| layer.sliding_window);
    match spec.architecture {
        Architecture::Llama | Architecture::Olmoe => {}
        Architecture::Mixtral => set("sliding_window", window.into()),
        Architecture::Qwen3Moe => {
            set("use_sliding_window", window.is_some().into());
            set("sliding_window", window.into());
        }
        Architecture::Qwen3 | Architecture::Qwen2 | Architecture::Qwen2Moe => {
            set("use_sliding_window", window.is_some().into());
            set("sliding_window", window.into());
            let slides = |layer: &crate::format::LayerSpec| layer.sliding_window.is_some();
            let first = spec.layers.iter().position(slides).unwrap_or(spec.layers.len());
            set("max_window_layers", first.into());
            if window.is_some() {
                let name = |slides| if slides { "sliding_attention" } else { "full_attention" };
                set("layer_types", spec.layers.iter().map(|layer| name(slides(layer))).collect());
            }
        }
    }
}

fn feed_forwards(spec: &ModelSpec, set: &mut impl FnMut(&str, Value)) {
    let mut dense_layers = Vec::new();
    let (mut dense, mut moe) = (None, None);
    for (index, layer) in spec.layers.iter().enumerate() {
        match layer.feed_forward {
            FeedForward::Dense { intermediate_size, bias } => {
                dense_layers.push(index);
                dense.get_or_insert((intermediate_size, bias));
            }
            FeedForward::Moe {
                num_experts,
                num_experts_per_tok,
                moe_intermediate_size,
                norm_topk_prob,
                shared_expert_intermediate_size,
            } => {
                moe.get_or_insert((
                    num_experts,
                    num_experts_per_tok,
                    moe_intermediate_size,
                    norm_topk_prob,
                    shared_expert_intermediate_size,
                ));
            }
        }
    }
    // A mixture without a sparse layer is written with no experts.
    let dense_size = dense.map_or(0, |(size, _)| size);
    let (experts, per_token, moe_size, norm_topk_prob, shared) =
        moe.unwrap_or((0, 1, dense_size, false, None));
    match spec.architecture {
        Architecture::Llama => {
            set("intermediate_size", dense_size.into());
            set("mlp_bias", dense.is_some_and(|(_, bias)| bias).into());
        }
        Architecture::Qwen3 | Architecture::Qwen2 => set("intermediate_size", dense_size.into()),
        Architecture::Mixtral => {
            set("intermediate_size", moe_size.into());
            set("num_local_experts", experts.into());
            set("num_experts_per_tok", per_token.into());
        }
        Architecture::Olmoe => {
            set("intermediate_size", moe_size.into());
            set("num_experts", experts.into());
            set("num_experts_per_tok", per_token.into());
            set("norm_topk_prob", norm_topk_prob.into());
        }
        Architecture::Qwen2Moe | Architecture::Qwen3Moe => {
            set("intermediate_size", dense.map_or(moe_size, |(size, _)| size).into());
            set("moe_intermediate_size", moe_size.into());
            set("num_experts", experts.into());
            set("num_experts_per_tok", per_token.into());
            set("norm_topk_prob", norm_topk_prob.into());
            set("decoder_sparse_step", 1.into());
            set("mlp_only_layers", dense_layers.into());
            if spec.architecture == Architecture::Qwen2Moe {
                set("shared_expert_intermediate_size", shared.unwrap_or(dense_size).into());
            }
        }
    }
}
