//! Owns the meaning of the keys under the architecture's name: each is honoured, known to change
//! nothing, or refused by name. What a converter leaves to llama.cpp's code, the code's constants say.

use super::error::GgufError;
use super::metadata::Metadata;
use super::rope;
use crate::format::{Architecture, AttentionSpec, FeedForward, LayerSpec, ModelSpec, QkNorm, TokenSpec};
use crate::import::config::reach;
use crate::import::weights::Weights;

/// Most layers that are read, before the spec counts blocks: keeps a hostile number from costing memory.
const MAX_LAYERS: usize = 1 << 16;

/// Keys of every architecture that change nothing about inference.
const HARMLESS: &[&str] = &[
    // How the tensors came to stand in the order that they have for llama.cpp.
    "tensor_data_layout",
    // Whether the model was trained with the stretched frequencies.
    "rope.scaling.finetuned",
];

/// Keys that ask for arithmetic that no model of these architectures has, and the values that do not.
const NEUTRAL: &[(&str, &[f64])] = &[
    ("attention.causal", &[1.0]),
    ("attention.max_alibi_bias", &[0.0]),
    ("attention.scale", &[0.0]),
    ("attn_logit_softcapping", &[0.0]),
    ("embedding_scale", &[0.0, 1.0]),
    ("expert_group_count", &[0.0, 1.0]),
    ("expert_group_used_count", &[0.0, 1.0]),
    ("expert_weights_scale", &[0.0, 1.0]),
    ("final_logit_softcapping", &[0.0]),
    ("logit_scale", &[0.0, 1.0]),
    ("nextn_predict_layers", &[0.0]),
    ("pooling_type", &[0.0]),
    ("residual_scale", &[0.0, 1.0]),
    ("router_logit_softcapping", &[0.0]),
    ("use_parallel_residual", &[0.0]),
];

/// The architecture's keys, and what the tensors say.
pub(super) struct Config<'a> {
    pub(super) metadata: &'a Metadata<'a>,
    pub(super) weights: &'a Weights,
    prefix: &'a str,
}

impl Config<'_> {
    /// The whole name of a key.
    pub(super) fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn has(&self, tensor: &str) -> bool {
        self.weights.get(tensor).is_some()
    }
}

/// Reads all keys but those of the tokenizer. `tokens` are its.
pub(super) fn read(
    metadata: &Metadata<'_>,
    weights: &Weights,
    tokens: TokenSpec,
) -> Result<ModelSpec, GgufError> {
    let name = metadata.text("general.architecture")?;
    let prefix = name.ok_or_else(|| metadata.missing("general.architecture"))?;
    let config = Config { metadata, weights, prefix };
    let experts = config.metadata.count(&config.key("expert_count"))?.unwrap_or(0);
    let architecture = match (prefix, experts) {
        ("llama", 0) => Architecture::Llama,
        ("llama", _) => Architecture::Mixtral,
        ("qwen2", _) => Architecture::Qwen2,
        ("qwen3", _) => Architecture::Qwen3,
        ("olmoe", _) => Architecture::Olmoe,
        ("qwen2moe", _) => Architecture::Qwen2Moe,
        ("qwen3moe", _) => Architecture::Qwen3Moe,
        _ => {
            return Err(GgufError::UnknownArchitecture { architecture: prefix.chars().take(80).collect() });
        }
    };
    general(metadata)?;

    let layers = metadata.required_count(&config.key("block_count"))?;
    if layers == 0 || layers > MAX_LAYERS {
        let (key, value) = (config.key("block_count"), layers.to_string());
        return Err(GgufError::InvalidValue { key, value, expected: "1 to 65536".to_owned() });
    }
    let hidden_size = metadata.required_count(&config.key("embedding_length"))?;
    let context = metadata.required_count(&config.key("context_length"))?;
    let attention = attention(&config, architecture, hidden_size, layers)?;
    let window = window(&config, architecture, context)?;
    let feed_forwards = feed_forwards(&config, architecture, layers, experts)?;
    let epsilon = config.key("attention.layer_norm_rms_epsilon");
    let (embedding, head) = weights.naming().ends();
    let rows = weights.get(embedding).and_then(|tensor| tensor.entry.shape.dims().first().copied());
    let vocab_key = config.key("vocab_size");
    let vocab_size = match (rows, metadata.count(&vocab_key)?) {
        (Some(rows), Some(count)) if rows != count => {
            let expected = format!("{rows}, the rows of {embedding}");
            return Err(GgufError::InvalidValue { key: vocab_key, value: count.to_string(), expected });
        }
        // Without an embedding the plan says that it is missing.
        (rows, count) => rows.or(count).unwrap_or(1),
    };
    let rope = rope::read(&config, attention.head_dim, context)?;
    let spec = ModelSpec {
        spec_version: 1,
        architecture,
        vocab_size,
        hidden_size,
        max_position_embeddings: reach(&rope.scaling, context),
        rms_norm_eps: metadata.number(&epsilon)?.ok_or_else(|| metadata.missing(&epsilon))?,
        tie_word_embeddings: !config.has(head),
        rope,
        attention,
        layers: feed_forwards
            .into_iter()
            .map(|feed_forward| LayerSpec { sliding_window: window, feed_forward })
            .collect(),
        tokens,
    };
    for key in HARMLESS {
        metadata.skip(&config.key(key));
    }
    for (key, neutral) in NEUTRAL {
        metadata.refuse_unless(&config.key(key), neutral)?;
    }
    metadata.refuse_unknown(&config.key(""))?;
    spec.check()?;
    Ok(spec)
}

/// Keys of the file as a whole: most describe where it came from.
fn general(metadata: &Metadata<'_>) -> Result<(), GgufError> {
    if let Some(value) = metadata.get("general.type")
        && metadata.text("general.type")? != Some("model")
    {
        return Err(metadata.unsupported("general.type", value, "expected a model"));
    }
    // Version 1 of the blocks had other scales.
    metadata.refuse_unless("general.quantization_version", &[2.0])
}

fn attention(
    config: &Config<'_>,
    architecture: Architecture,
    hidden_size: usize,
    layers: usize,
) -> Result<AttentionSpec, GgufError> {
    let metadata = config.metadata;
    let heads_key = config.key("attention.head_count");
    let heads = metadata.equal_counts(&heads_key, layers)?.ok_or_else(|| metadata.missing(&heads_key))?;
    let key_value_heads = metadata.equal_counts(&config.key("attention.head_count_kv"), layers)?;
    let head_dim = match metadata.count(&config.key("attention.key_length"))? {
        Some(head_dim) => head_dim,
        None if heads > 0 && hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            let expected = "a divisor of embedding_length, or attention.key_length".to_owned();
            return Err(GgufError::InvalidValue { key: heads_key, value: heads.to_string(), expected });
        }
    };
    for key in ["attention.value_length", "rope.dimension_count"] {
        let key = config.key(key);
        if let Some(value) = metadata.get(&key)
            && metadata.count(&key)? != Some(head_dim)
        {
            return Err(metadata.unsupported(&key, value, "it has to be the width of a head"));
        }
    }
    let clip_key = config.key("attention.clamp_kqv");
    let bias = |part: &str| config.has(&format!("blk.0.{part}.bias"));
    Ok(AttentionSpec {
        num_attention_heads: heads,
        num_key_value_heads: key_value_heads.unwrap_or(heads),
        head_dim,
        qkv_bias: bias("attn_q") || bias("attn_k") || bias("attn_v"),
        output_bias: bias("attn_output"),
        qk_norm: match architecture {
            Architecture::Olmoe => QkNorm::AllHeads,
            Architecture::Qwen3 | Architecture::Qwen3Moe => QkNorm::PerHead,
            _ => QkNorm::None,
        },
        clip_qkv: metadata.number(&clip_key)?.filter(|&clip| clip != 0.0),
    })
}

/// The window that all layers have.
fn window(
    config: &Config<'_>,
    architecture: Architecture,
    context: usize,
) -> Result<Option<usize>, GgufError> {
    let key = config.key("attention.sliding_window");
    let Some(window) = config.metadata.count(&key)?.filter(|&window| window > 0) else { return Ok(None) };
    match (architecture, config.metadata.get(&key)) {
        (Architecture::Mixtral | Architecture::Llama, _) => Ok(Some(window)),
        // No position sees further anyway.
        _ if window >= context => Ok(None),
        (_, Some(value)) => {
            let reason = "the file does not say which layers slide";
            Err(config.metadata.unsupported(&key, value, reason))
        }
        _ => Ok(None),
    }
}

/// What follows attention in each layer: a mixture where there is a router.
fn feed_forwards(
    config: &Config<'_>,
    architecture: Architecture,
    layers: usize,
    experts: usize,
) -> Result<Vec<FeedForward>, GgufError> {
    let metadata = config.metadata;
    let mixture = matches!(
        architecture,
        Architecture::Mixtral | Architecture::Olmoe | Architecture::Qwen2Moe | Architecture::Qwen3Moe
    );
    if mixture && experts == 0 {
        return Err(metadata.missing(&config.key("expert_count")));
    }
    if !mixture {
        metadata.refuse_unless(&config.key("expert_count"), &[0.0])?;
        metadata.refuse_unless(&config.key("expert_used_count"), &[0.0])?;
    }
    let widths_key = config.key("feed_forward_length");
    let widths = metadata.counts(&widths_key, layers)?;
    let moe = if mixture { Some(moe(config, architecture, widths.as_deref(), experts)?) } else { None };
    let feed_forwards = (0..layers).map(|layer| match &moe {
        Some(moe) if !is_dense(config, layer) => Ok(moe.clone()),
        _ => {
            let width = widths.as_ref().and_then(|widths| widths.get(layer).copied());
            let intermediate_size = width.ok_or_else(|| metadata.missing(&widths_key))?;
            let bias = config.has(&format!("blk.{layer}.ffn_gate.bias"));
            Ok(FeedForward::Dense { intermediate_size, bias })
        }
    });
    let feed_forwards = feed_forwards.collect::<Result<Vec<_>, GgufError>>()?;
    let leading_key = config.key("leading_dense_block_count");
    if let Some(leading) = metadata.count(&leading_key)? {
        let dense = |feed_forward: &FeedForward| matches!(feed_forward, FeedForward::Dense { .. });
        let found = feed_forwards.iter().take_while(|feed_forward| dense(feed_forward)).count();
        if mixture && (found != leading || feed_forwards.iter().skip(leading).any(dense)) {
            let expected = format!("{found}, as the tensors have it");
            return Err(GgufError::InvalidValue { key: leading_key, value: leading.to_string(), expected });
        }
    }
    Ok(feed_forwards)
}

/// A layer of a mixture that has no router but what a dense layer has.
fn is_dense(config: &Config<'_>, layer: usize) -> bool {
    !config.has(&format!("blk.{layer}.ffn_gate_inp.weight"))
        && config.has(&format!("blk.{layer}.ffn_gate.weight"))
}

fn moe(
    config: &Config<'_>,
    architecture: Architecture,
    widths: Option<&[usize]>,
    num_experts: usize,
) -> Result<FeedForward, GgufError> {
    let metadata = config.metadata;
    let used_key = config.key("expert_used_count");
    let num_experts_per_tok = metadata.required_count(&used_key)?;
    let gating_key = config.key("expert_gating_func");
    // 0 stands for the architecture's own, which is softmax in all of these.
    if let Some(value) = metadata.get(&gating_key)
        && !matches!(metadata.count(&gating_key)?, Some(0 | 1))
    {
        return Err(metadata.unsupported(&gating_key, value, "expected 1, softmax"));
    }
    // What llama.cpp does where the file is silent.
    let silent = matches!(architecture, Architecture::Mixtral | Architecture::Qwen3Moe);
    let norm_key = config.key("expert_weights_norm");
    let norm_topk_prob = metadata.flag(&norm_key)?.unwrap_or(silent);
    let width_key = config.key("expert_feed_forward_length");
    let dense_key = config.key("feed_forward_length");
    let dense = widths.and_then(|widths| widths.first().copied());
    let moe_intermediate_size = match (metadata.count(&width_key)?, architecture) {
        (Some(width), _) => width,
        (None, Architecture::Mixtral | Architecture::Olmoe) => {
            dense.ok_or_else(|| metadata.missing(&dense_key))?
        }
        (None, _) => return Err(metadata.missing(&width_key)),
    };
    let shared_key = config.key("expert_shared_feed_forward_length");
    let shared = match architecture {
        Architecture::Qwen2Moe => {
            Some(metadata.count(&shared_key)?.or(dense).ok_or_else(|| metadata.missing(&shared_key))?)
        }
        _ => {
            metadata.refuse_unless(&shared_key, &[0.0])?;
            None
        }
    };
    metadata.refuse_unless(&config.key("expert_shared_count"), &[f64::from(u8::from(shared.is_some()))])?;
    Ok(FeedForward::Moe {
        num_experts,
        num_experts_per_tok,
        moe_intermediate_size,
        norm_topk_prob,
        shared_expert_intermediate_size: shared,
    })
}
