//! Owns the meaning of config.json: every key that changes the arithmetic is read or refused by name,
//! in the spelling of transformers 4 and 5. Defaults of absent keys are those of transformers' config
//! classes, which agree between the two versions wherever a default is used here.

mod keys;
mod rope;
#[cfg(test)]
mod tests;
mod write;

use serde_json::{Map, Value};

use self::keys::Keys;
use super::error::ImportError;
use crate::format::{
    Architecture, AttentionSpec, FeedForward, LayerSpec, ModelSpec, QkNorm, RopeScaling, TokenSpec,
};

pub(super) use self::write::{Details, config_json};

const FILE: &str = "config.json";

/// Most layers that are read, before the spec counts blocks: keeps a hostile number from costing memory.
const MAX_LAYERS: usize = 1 << 16;

/// Keys that change nothing about inference: training, bookkeeping, and defaults of generation, which the caller
/// chooses here, as those of generation_config.json.
fn is_harmless(key: &str) -> bool {
    const HARMLESS: &[&str] = &[
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_commit_hash",
        "_flash_attn_2_enabled",
        "_name_or_path",
        "architectures",
        "bad_words_ids",
        "begin_suppress_tokens",
        "chunk_size_feed_forward",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "id2label",
        "initializer_range",
        "is_decoder",
        "is_llama_config",
        "label2id",
        "length_penalty",
        "max_length",
        "max_sequence_length",
        "min_length",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_labels",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "output_scores",
        "prefix",
        "pretraining_tp",
        "problem_type",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict",
        "return_dict_in_generate",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "sep_token_id",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torchscript",
        "transformers.js_config",
        "transformers_version",
        "typical_p",
        "unsloth_fixed",
        "unsloth_version",
        "use_bfloat16",
        "use_cache",
    ];
    HARMLESS.contains(&key) || key.ends_with("_dropout") || key.ends_with("_pdrop")
}

/// Reads config.json and, if there is one, generation_config.json.
pub(super) fn read(
    config: &Map<String, Value>,
    generation: Option<&Map<String, Value>>,
    ignored: &[String],
) -> Result<ModelSpec, ImportError> {
    let keys = Keys::new(FILE, config);
    let architecture = architecture(&keys)?;
    if let Some(value) = keys.get("quantization_config") {
        let reason = "import the unquantized checkpoint and choose a dtype";
        return Err(keys.unsupported("quantization_config", value, reason));
    }
    if let Some(value) = keys.get("hidden_act")
        && !matches!(value.as_str(), Some("silu" | "swish"))
    {
        return Err(keys.unsupported("hidden_act", value, "expected silu"));
    }
    // False and null turn attention bidirectional, so it is no feature that is off.
    if let Some(value) = keys.raw("is_causal")
        && *value != Value::Bool(true)
    {
        return Err(keys.unsupported("is_causal", value, "expected true"));
    }
    if let Some(value) = keys.get("pruned_heads")
        && value.as_object().is_none_or(|heads| !heads.is_empty())
    {
        return Err(keys.unsupported("pruned_heads", value, "expected none"));
    }
    same_dtype(&keys)?;

    let layers = keys.required_count("num_hidden_layers")?;
    if layers > MAX_LAYERS {
        let value = layers.into();
        return Err(keys.invalid("num_hidden_layers", &value, "at most 65536"));
    }
    let max_position_embeddings =
        keys.count("max_position_embeddings")?.unwrap_or(defaults(architecture).max_position_embeddings);
    let attention = attention(&keys, architecture)?;
    let windows = windows(&keys, architecture, layers)?;
    let feed_forwards = feed_forwards(&keys, architecture, layers)?;
    let rope = rope::read(&keys, defaults(architecture).rope_theta, max_position_embeddings, ignored)?;
    let max_position_embeddings = reach(&rope.scaling, max_position_embeddings);
    let spec = ModelSpec {
        spec_version: 1,
        architecture,
        vocab_size: keys.required_count("vocab_size")?,
        hidden_size: keys.required_count("hidden_size")?,
        max_position_embeddings,
        rms_norm_eps: keys.number("rms_norm_eps")?.unwrap_or(defaults(architecture).rms_norm_eps),
        tie_word_embeddings: keys.bool_or("tie_word_embeddings", false)?,
        attention,
        rope,
        layers: windows
            .into_iter()
            .zip(feed_forwards)
            .map(|(sliding_window, feed_forward)| LayerSpec { sliding_window, feed_forward })
            .collect(),
        tokens: tokens(&keys, generation, architecture)?,
    };
    // Read where YaRN or Llama 3 need it; means nothing to other models.
    keys.raw("original_max_position_embeddings");
    keys.refuse_unknown(is_harmless, ignored)?;
    spec.check()?;
    Ok(spec)
}

/// How far the context reaches: YaRN's factor says so; published configs often leave the first training's length.
pub(crate) fn reach(scaling: &RopeScaling, max_position_embeddings: usize) -> usize {
    match *scaling {
        RopeScaling::Yarn { factor, original_max_position_embeddings: original, .. } => {
            let reach = (original as f64 * factor).min(keys::MAX_COUNT as f64);
            max_position_embeddings.max(reach as usize)
        }
        _ => max_position_embeddings,
    }
}

/// Defaults of transformers' config classes.
struct Defaults {
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    rope_theta: f64,
    /// Of `num_key_value_heads`; `None` means as many as query heads.
    num_key_value_heads: Option<usize>,
    /// Of `sliding_window`; `None` means none.
    sliding_window: Option<usize>,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
}

fn defaults(architecture: Architecture) -> Defaults {
    let qwen = Defaults {
        max_position_embeddings: 32768,
        rms_norm_eps: 1e-6,
        rope_theta: 1e4,
        num_key_value_heads: None,
        sliding_window: None,
        bos: None,
        eos: None,
        pad: None,
    };
    match architecture {
        Architecture::Mixtral => Defaults {
            max_position_embeddings: 131_072,
            rms_norm_eps: 1e-5,
            rope_theta: 1e6,
            num_key_value_heads: Some(8),
            sliding_window: None,
            bos: Some(1),
            eos: Some(2),
            pad: None,
        },
        Architecture::Olmoe => Defaults {
            max_position_embeddings: 4096,
            rms_norm_eps: 1e-5,
            eos: Some(50279),
            pad: Some(1),
            ..qwen
        },
        Architecture::Qwen2Moe => {
            Defaults { num_key_value_heads: Some(16), sliding_window: Some(4096), ..qwen }
        }
        Architecture::Qwen3Moe => {
            Defaults { num_key_value_heads: Some(4), sliding_window: Some(4096), ..qwen }
        }
        Architecture::Qwen3 | Architecture::Qwen2 => {
            Defaults { num_key_value_heads: Some(32), sliding_window: Some(4096), ..qwen }
        }
        Architecture::Llama => Defaults { max_position_embeddings: 2048, bos: Some(1), eos: Some(2), ..qwen },
    }
}

fn architecture(keys: &Keys<'_>) -> Result<Architecture, ImportError> {
    let value = keys.get("model_type").ok_or_else(|| keys.missing("model_type"))?;
    Architecture::ALL
        .into_iter()
        .find(|architecture| value.as_str() == Some(architecture.model_type()))
        .ok_or_else(|| ImportError::UnknownArchitecture { model_type: super::json::shortened(value) })
}

/// `torch_dtype` and `dtype` say what the tensors' headers say better; they must not contradict.
fn same_dtype(keys: &Keys<'_>) -> Result<(), ImportError> {
    let plain = |name: &'static str| {
        let dtype = keys.string(name)?;
        Ok::<_, ImportError>(dtype.map(|dtype| dtype.strip_prefix("torch.").unwrap_or(dtype)))
    };
    match (plain("torch_dtype")?, plain("dtype")?) {
        (Some(old), Some(new)) if old != new => Err(keys.conflict("torch_dtype", old, "dtype", new)),
        _ => Ok(()),
    }
}

fn attention(keys: &Keys<'_>, architecture: Architecture) -> Result<AttentionSpec, ImportError> {
    let hidden_size = keys.required_count("hidden_size")?;
    let heads = keys.required_count("num_attention_heads")?;
    let key_value_heads = match (keys.raw("num_key_value_heads"), keys.count("num_key_value_heads")?) {
        (_, Some(heads)) => heads,
        // Null means as many as query heads, absent means the class's default.
        (Some(_), None) => heads,
        (None, None) => defaults(architecture).num_key_value_heads.unwrap_or(heads),
    };
    let head_dim = match keys.count("head_dim")? {
        Some(head_dim) => head_dim,
        None if architecture == Architecture::Qwen3 => match keys.raw("head_dim") {
            None => 128,
            Some(null) => return Err(keys.invalid("head_dim", null, "a whole number")),
        },
        None if heads > 0 && hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            let value = heads.into();
            return Err(keys.invalid("num_attention_heads", &value, "a divisor of hidden_size, or head_dim"));
        }
    };
    // OLMoE's norms of queries and keys are as wide as the model; another head_dim contradicts them.
    if architecture == Architecture::Olmoe && head_dim.checked_mul(heads) != Some(hidden_size) {
        let value = head_dim.into();
        return Err(keys.invalid("head_dim", &value, "hidden_size / num_attention_heads"));
    }
    let (qkv_bias, output_bias) = match architecture {
        Architecture::Qwen2Moe => (keys.bool_or("qkv_bias", true)?, false),
        Architecture::Qwen2 => (true, false),
        Architecture::Mixtral => (false, false),
        _ => {
            let bias = keys.bool_or("attention_bias", false)?;
            (bias, bias)
        }
    };
    Ok(AttentionSpec {
        num_attention_heads: heads,
        num_key_value_heads: key_value_heads,
        head_dim,
        qkv_bias,
        output_bias,
        qk_norm: match architecture {
            Architecture::Qwen3 | Architecture::Qwen3Moe if !keys.bool_or("use_qk_norm", true)? => {
                let reason = "queries and keys are always normalised";
                return Err(keys.unsupported("use_qk_norm", &Value::Bool(false), reason));
            }
            Architecture::Olmoe => QkNorm::AllHeads,
            Architecture::Qwen3 | Architecture::Qwen3Moe => QkNorm::PerHead,
            _ => QkNorm::None,
        },
        clip_qkv: match architecture {
            Architecture::Olmoe => keys.number("clip_qkv")?,
            _ => None,
        },
    })
}

/// The window of each layer.
fn windows(
    keys: &Keys<'_>,
    architecture: Architecture,
    layers: usize,
) -> Result<Vec<Option<usize>>, ImportError> {
    let layer_types = keys.strings("layer_types")?;
    if let (Some(types), Some(value)) = (&layer_types, keys.raw("layer_types")) {
        if types.len() != layers {
            return Err(keys.invalid("layer_types", value, "one type for each of num_hidden_layers"));
        }
        if types.iter().any(|name| !matches!(*name, "full_attention" | "sliding_attention")) {
            let reason = "expected full_attention or sliding_attention";
            return Err(keys.unsupported("layer_types", value, reason));
        }
    }
    let slides =
        |types: &[&str]| types.iter().map(|name| *name == "sliding_attention").collect::<Vec<bool>>();
    let window = |enabled: bool| -> Result<Option<usize>, ImportError> {
        // Where windows are switched off the number is left over from a default.
        let value = keys.raw("sliding_window");
        if !enabled {
            return Ok(None);
        }
        match (keys.count("sliding_window")?, value) {
            (Some(0), Some(value)) => Err(keys.invalid("sliding_window", value, "at least 1, or null")),
            // Null means none, absent means the class's default.
            (None, None) => Ok(defaults(architecture).sliding_window),
            (window, _) => Ok(window),
        }
    };

    let windows = match architecture {
        // No window in these; a key that asks for one is refused as unknown.
        Architecture::Llama | Architecture::Olmoe => vec![None; layers],
        Architecture::Mixtral => vec![window(true)?; layers],
        Architecture::Qwen3Moe => {
            let use_window = keys.bool_or("use_sliding_window", false)?;
            let window = window(use_window)?;
            // Transformers 5 gives every layer the window, early versions of 4 those from here on.
            if let Some(value) = keys.get("max_window_layers")
                && window.is_some()
                && value.as_u64() != Some(0)
            {
                let reason = "versions of transformers disagree on which layers it means";
                return Err(keys.unsupported("max_window_layers", value, reason));
            }
            vec![window; layers]
        }
        Architecture::Qwen3 | Architecture::Qwen2 | Architecture::Qwen2Moe => {
            let use_window = keys.bool_or("use_sliding_window", false)?;
            let window = window(use_window)?;
            let first = keys.count("max_window_layers")?.unwrap_or(28);
            let sliding = match (&layer_types, window) {
                (Some(types), _) => slides(types),
                (None, None) => vec![false; layers],
                (None, Some(_)) if architecture != Architecture::Qwen2Moe => {
                    (0..layers).map(|layer| layer >= first).collect()
                }
                (None, Some(_)) => {
                    let reason = "versions of transformers disagree on which layers slide: add layer_types";
                    return Err(keys.unsupported("use_sliding_window", &Value::Bool(true), reason));
                }
            };
            if let (Some(value), None) = (keys.get("layer_types"), window)
                && sliding.contains(&true)
            {
                let expected = "sliding_window and use_sliding_window with sliding_attention";
                return Err(keys.invalid("layer_types", value, expected));
            }
            sliding.into_iter().map(|slides| window.filter(|_| slides)).collect()
        }
    };
    // Where layer_types means nothing to transformers it may still not say something else.
    if let (Some(types), Some(value)) = (&layer_types, keys.get("layer_types"))
        && slides(types).iter().zip(&windows).any(|(slides, window)| *slides != window.is_some())
    {
        return Err(keys.unsupported("layer_types", value, "it contradicts sliding_window"));
    }
    Ok(windows)
}

/// What follows attention in each layer.
fn feed_forwards(
    keys: &Keys<'_>,
    architecture: Architecture,
    layers: usize,
) -> Result<Vec<FeedForward>, ImportError> {
    let dense = |bias: bool| {
        Ok::<_, ImportError>(FeedForward::Dense {
            intermediate_size: keys.required_count("intermediate_size")?,
            bias,
        })
    };
    let experts = || -> Result<(usize, usize), ImportError> {
        let experts = keys.count_of("num_experts", "num_local_experts")?;
        Ok((experts.ok_or_else(|| keys.missing("num_experts"))?, keys.required_count("num_experts_per_tok")?))
    };
    match architecture {
        Architecture::Llama => Ok(vec![dense(keys.bool_or("mlp_bias", false)?)?; layers]),
        Architecture::Qwen3 | Architecture::Qwen2 => Ok(vec![dense(false)?; layers]),
        Architecture::Mixtral | Architecture::Olmoe => {
            let (num_experts, num_experts_per_tok) = experts()?;
            let norm_topk_prob = if architecture == Architecture::Mixtral {
                // Mixtral always renormalises; a key that says otherwise would be disobeyed.
                if let Some(value) = keys.get("norm_topk_prob")
                    && *value != Value::Bool(true)
                {
                    return Err(keys.unsupported("norm_topk_prob", value, "mixtral always renormalises"));
                }
                true
            } else {
                keys.bool_or("norm_topk_prob", false)?
            };
            let moe = FeedForward::Moe {
                num_experts,
                num_experts_per_tok,
                moe_intermediate_size: keys.required_count("intermediate_size")?,
                norm_topk_prob,
                shared_expert_intermediate_size: None,
            };
            Ok(vec![moe; layers])
        }
        Architecture::Qwen2Moe | Architecture::Qwen3Moe => {
            let step = keys.count("decoder_sparse_step")?.unwrap_or(1);
            if step == 0 {
                return Err(keys.invalid("decoder_sparse_step", &0.into(), "at least 1"));
            }
            let mlp_only = keys.indices("mlp_only_layers")?;
            let (num_experts, num_experts_per_tok) = experts()?;
            let moe_intermediate_size = keys.required_count("moe_intermediate_size")?;
            let norm_topk_prob = keys.bool_or("norm_topk_prob", false)?;
            let shared = match architecture {
                Architecture::Qwen2Moe => Some(keys.required_count("shared_expert_intermediate_size")?),
                // Qwen3-Coder's says that there is none.
                _ => match keys.get("shared_expert_intermediate_size") {
                    Some(value) if value.as_u64() != Some(0) => {
                        let reason = "qwen3_moe has no shared expert";
                        return Err(keys.unsupported("shared_expert_intermediate_size", value, reason));
                    }
                    _ => None,
                },
            };
            // Not needed where no layer is dense, but never unknown.
            keys.raw("intermediate_size");
            let moe = FeedForward::Moe {
                num_experts,
                num_experts_per_tok,
                moe_intermediate_size,
                norm_topk_prob,
                shared_expert_intermediate_size: shared,
            };
            (0..layers)
                .map(|layer| {
                    let sparse = num_experts > 0
                        && !mlp_only.contains(&(layer as u64))
                        && (layer + 1).is_multiple_of(step);
                    if sparse { Ok(moe.clone()) } else { dense(false) }
                })
                .collect()
        }
    }
}

/// Special tokens: generation_config.json where it names them, else config.json, else the class's.
fn tokens(
    keys: &Keys<'_>,
    generation: Option<&Map<String, Value>>,
    architecture: Architecture,
) -> Result<TokenSpec, ImportError> {
    let generation = generation.map(|map| Keys::new("generation_config.json", map));
    let class = defaults(architecture);
    let source = |key: &str| {
        keys.raw(key);
        match &generation {
            Some(generation) if generation.get(key).is_some() => Some(generation),
            _ => keys.raw(key).map(|_| keys),
        }
    };
    let one = |key: &str, default: Option<u32>| match source(key) {
        Some(keys) => keys.token(key),
        None => Ok(default),
    };
    Ok(TokenSpec {
        bos_token_id: one("bos_token_id", class.bos)?,
        eos_token_ids: match source("eos_token_id") {
            Some(keys) => keys.tokens("eos_token_id")?,
            None => class.eos.into_iter().collect(),
        },
        pad_token_id: one("pad_token_id", class.pad)?,
    })
}
