//! Owns the reading of rotary embedding keys: `rope_theta` and `rope_scaling` of transformers 4,
//! `rope_parameters` of transformers 5, flat or once per layer type.
//!
//! Where the two versions differ, version 5 is followed: YaRN's `factor` counts as it is written,
//! and a missing `original_max_position_embeddings` is `max_position_embeddings`.

use serde_json::Value;

use super::keys::Keys;
use crate::dtype::DType;
use crate::format::{RopeScaling, RopeSpec};
use crate::import::error::ImportError;
use crate::import::json::shortened;
use crate::kernels::math::ln_f64;

/// Reads the rotary embedding. `default_theta` is the architecture's.
pub(super) fn read(
    keys: &Keys<'_>,
    default_theta: f64,
    max_position_embeddings: usize,
    ignored: &[String],
) -> Result<RopeSpec, ImportError> {
    refuse_partial(keys)?;
    let theta = keys.number("rope_theta")?;
    let context = Context { top: keys, theta, max_position_embeddings, ignored };
    let scaling = context.spelling("rope_scaling")?;
    let parameters = context.spelling("rope_parameters")?;
    if let (Some(a), Some(b)) = (&scaling, &parameters)
        && (a.scaling != b.scaling || a.theta != b.theta)
    {
        let show = |key| keys.get(key).map(shortened).unwrap_or_default();
        let (a, b) = ("rope_scaling", "rope_parameters");
        return Err(keys.conflict(a, show(a), b, show(b)));
    }
    let stated = [&parameters, &scaling].into_iter().flatten().find_map(|rope| rope.theta);
    let rope_theta = stated.or(theta).unwrap_or(default_theta);
    let scaling = parameters.or(scaling).map_or(RopeScaling::Default, |rope| rope.scaling);
    Ok(RopeSpec { rope_theta, frequency_dtype: DType::F32, scaling })
}

struct Context<'a> {
    top: &'a Keys<'a>,
    theta: Option<f64>,
    max_position_embeddings: usize,
    ignored: &'a [String],
}

/// One spelling of the whole. The base is its own, or the one beside it.
#[derive(Debug, PartialEq)]
struct Rope {
    theta: Option<f64>,
    scaling: RopeScaling,
}

fn refuse_partial(keys: &Keys<'_>) -> Result<(), ImportError> {
    match keys.get("partial_rotary_factor") {
        Some(value) if value.as_f64() != Some(1.0) => {
            Err(keys.unsupported("partial_rotary_factor", value, "only whole heads are rotated"))
        }
        _ => Ok(()),
    }
}

impl Context<'_> {
    fn spelling(&self, key: &str) -> Result<Option<Rope>, ImportError> {
        let Some(value) = self.top.get(key) else { return Ok(None) };
        let Some(map) = value.as_object() else { return Err(self.top.invalid(key, value, "an object")) };
        let keys = self.top.child(key, map);
        if !map.values().any(Value::is_object) {
            // An empty object says no more than an absent one.
            return if map.is_empty() { Ok(None) } else { self.flat(&keys).map(Some) };
        }
        // One object per layer type: supported as far as they are equal.
        let mut common: Option<(&str, Rope)> = None;
        for layer_type in map.keys() {
            let Some(value) = keys.get(layer_type) else { continue };
            let known = matches!(layer_type.as_str(), "full_attention" | "sliding_attention");
            let Some(inner) = value.as_object().filter(|_| known) else {
                return Err(ImportError::UnknownKey { key: keys.path(layer_type), value: shortened(value) });
            };
            let rope = self.flat(&keys.child(layer_type, inner))?;
            match &common {
                Some((_, first)) if *first != rope => {
                    let reason = "all layers must rotate alike";
                    return Err(keys.unsupported(layer_type, value, reason));
                }
                Some(_) => {}
                None => common = Some((layer_type, rope)),
            }
        }
        Ok(common.map(|(_, rope)| rope))
    }

    fn flat(&self, keys: &Keys<'_>) -> Result<Rope, ImportError> {
        refuse_partial(keys)?;
        let theta = keys.number("rope_theta")?;
        if let (Some(inner), Some(outer)) = (theta, self.theta)
            && inner != outer
        {
            return Err(ImportError::ConflictingKeys {
                key: keys.path("rope_theta"),
                value: inner.to_string(),
                other: "rope_theta".to_owned(),
                other_value: outer.to_string(),
            });
        }
        let (new, old) = (keys.string("rope_type")?, keys.string("type")?);
        if let (Some(new), Some(old)) = (new, old)
            && new != old
        {
            return Err(keys.conflict("rope_type", new, "type", old));
        }
        let factor = || keys.number("factor")?.ok_or_else(|| keys.missing("factor"));
        let scaling = match new.or(old).unwrap_or("default") {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: factor()? },
            "llama3" => {
                let required = |key| keys.number(key)?.ok_or_else(|| keys.missing(key));
                RopeScaling::Llama3 {
                    factor: factor()?,
                    low_freq_factor: required("low_freq_factor")?,
                    high_freq_factor: required("high_freq_factor")?,
                    original_max_position_embeddings: self.original(keys)?,
                }
            }
            "yarn" => self.yarn(keys)?,
            other => {
                let key = if new.is_some() { "rope_type" } else { "type" };
                let reason = "expected default, linear, llama3 or yarn";
                return Err(keys.unsupported(key, &other.into(), reason));
            }
        };
        // The first models with YaRN say so; it meant something to their own code's other scalings alone.
        keys.refuse_unknown(|key| key == "finetuned", self.ignored)?;
        Ok(Rope { theta: theta.or(self.theta), scaling })
    }

    /// The context that a model was first trained for; some configs keep it beside the rope keys.
    fn original(&self, keys: &Keys<'_>) -> Result<usize, ImportError> {
        let key = "original_max_position_embeddings";
        match (keys.count(key)?, self.top.count(key)?) {
            (Some(inner), Some(outer)) if inner != outer => Err(ImportError::ConflictingKeys {
                key: keys.path(key),
                value: inner.to_string(),
                other: key.to_owned(),
                other_value: outer.to_string(),
            }),
            (inner, outer) => Ok(inner.or(outer).unwrap_or(self.max_position_embeddings)),
        }
    }

    fn yarn(&self, keys: &Keys<'_>) -> Result<RopeScaling, ImportError> {
        let original = self.original(keys)?;
        let factor = match keys.number("factor")? {
            Some(factor) => factor,
            // DeepSeek's spelling: the ratio of the two contexts.
            None if original > 0 => self.max_position_embeddings as f64 / original as f64,
            None => return Err(keys.missing("factor")),
        };
        // Zero counts as absent, as it does in Python.
        let set = |key| Ok::<_, ImportError>(keys.number(key)?.filter(|&value| value != 0.0));
        let (mscale, mscale_all_dim) = (set("mscale")?, set("mscale_all_dim")?);
        let attention_factor = match (keys.number("attention_factor")?, mscale, mscale_all_dim) {
            (Some(attention_factor), ..) => attention_factor,
            (None, Some(one), Some(all)) => yarn_mscale(factor, one) / yarn_mscale(factor, all),
            _ => yarn_mscale(factor, 1.0),
        };
        Ok(RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: original,
            attention_factor,
            beta_slow: set("beta_slow")?.unwrap_or(1.0),
            beta_fast: set("beta_fast")?.unwrap_or(32.0),
            // Null is no, as it is in Python, and absent is yes.
            truncate: keys.bool_or("truncate", keys.raw("truncate").is_none())?,
        })
    }
}

/// The paper's multiplier of cos and sin for a context stretched by `factor`. The logarithm is the
/// kernels' own: the platform's may differ in its last bit, and the result is part of the spec.
fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * ln_f64(factor) + 1.0 }
}
