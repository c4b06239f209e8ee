//! Owns grouped-query attention (arXiv:2305.13245) over the KV caches of all sequences of a step.

use rayon::prelude::*;

use crate::format::{LayerSpec, ModelSpec};
use crate::kernels::{Attention, Isa};

use super::ModelError;
use super::forward::Step;
use super::kv_cache::KvCache;
use super::matmul::{self, Activations, Matmul};
use super::weights::AttentionWeights;

/// Where each token of a step stands, and the rotation of that place.
pub(crate) struct Positions {
    /// (tokens,): index of the sequence, position in it.
    pub(crate) places: Vec<(usize, usize)>,
    /// (tokens, head_dim / 2)
    pub(crate) cos: Vec<f32>,
    /// (tokens, head_dim / 2)
    pub(crate) sin: Vec<f32>,
}

/// Attention of one layer. `normed`: (tokens, hidden_size); returns (tokens, hidden_size).
pub(crate) fn forward(
    isa: Isa,
    spec: &ModelSpec,
    (layer, layer_spec): (usize, &LayerSpec),
    weights: &AttentionWeights,
    mut normed: Activations,
    positions: &Positions,
    steps: &mut [Step<'_>],
) -> Result<Vec<f32>, ModelError> {
    let attention = &spec.attention;
    let tokens = positions.places.len();
    let head_dim = attention.head_dim;
    let kv_heads = attention.num_key_value_heads;
    let q_width = attention.num_attention_heads * head_dim;
    let kv_width = kv_heads * head_dim;

    let mut q = vec![0.0; tokens * q_width];
    let mut k = vec![0.0; tokens * kv_width];
    let mut v = vec![0.0; tokens * kv_width];
    normed.quantize_for(isa, &[&weights.q_proj, &weights.k_proj, &weights.v_proj])?;
    matmul::run(
        isa,
        vec![
            Matmul { linear: &weights.q_proj, input: &normed, out: &mut q, nanos: None },
            Matmul { linear: &weights.k_proj, input: &normed, out: &mut k, nanos: None },
            Matmul { linear: &weights.v_proj, input: &normed, out: &mut v, nanos: None },
        ],
    )?;
    drop(normed);

    for (x, norm) in [(&mut q, &weights.q_norm), (&mut k, &weights.k_norm), (&mut v, &None)] {
        // The weight's length says whether a row is a head or all heads.
        if let Some(norm) = norm {
            let mut normed = vec![0.0; x.len()];
            isa.rms_norm(x, &norm.vector()?, spec.rms_norm_eps as f32, &mut normed)?;
            *x = normed;
        }
        if let Some(limit) = attention.clip_qkv {
            isa.clamp(x, limit as f32);
        }
    }
    rotate(isa, &mut q, head_dim, positions)?;
    rotate(isa, &mut k, head_dim, positions)?;

    let mut first = 0;
    for step in steps.iter_mut() {
        let rows = first * kv_width..(first + step.tokens.len()) * kv_width;
        append(isa, step.cache, layer, &k[rows.clone()], &v[rows], head_dim)?;
        first += step.tokens.len();
    }

    let group = attention.num_attention_heads / kv_heads;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut mixed = vec![0.0; tokens * q_width];
    let steps = &*steps;
    let attend = |scores: &mut Vec<f32>, (index, (out, q)): (usize, (&mut [f32], &[f32]))| {
        let (sequence, position) = positions.places[index / kv_heads];
        let cache: &KvCache = steps[sequence].cache;
        let head = &cache.layer(layer)[index % kv_heads];
        let start = layer_spec.sliding_window.map_or(0, |window| (position + 1).saturating_sub(window));
        let bytes = start * cache.row_bytes()..(position + 1) * cache.row_bytes();
        let args = Attention {
            queries: q,
            keys: &head.keys[bytes.clone()],
            values: &head.values[bytes],
            dtype: cache.dtype().dtype(),
            head_dim,
            scale,
        };
        isa.attention(&args, scores, out)
    };
    mixed
        .par_chunks_mut(group * head_dim)
        .zip(q.par_chunks(group * head_dim))
        .enumerate()
        .try_for_each_init(Vec::new, attend)?;

    let mut mixed = Activations::new(mixed, q_width);
    mixed.quantize_for(isa, &[&weights.o_proj])?;
    let mut out = vec![0.0; tokens * spec.hidden_size];
    matmul::run(isa, vec![Matmul { linear: &weights.o_proj, input: &mixed, out: &mut out, nanos: None }])?;
    Ok(out)
}

/// Rotates every head by its token's position. `x`: (tokens, heads × head_dim).
fn rotate(isa: Isa, x: &mut [f32], head_dim: usize, positions: &Positions) -> Result<(), ModelError> {
    let half = head_dim / 2;
    let width = x.len() / positions.places.len();
    x.par_chunks_mut(width).enumerate().try_for_each(|(token, x)| {
        let angles = token * half..(token + 1) * half;
        let (cos, sin) = (&positions.cos[angles.clone()], &positions.sin[angles]);
        x.chunks_exact_mut(head_dim).try_for_each(|head| Ok(isa.rope(head, cos, sin)?))
    })
}

/// Rounds new keys and values to the cache's dtype and appends them. `k`, `v`: (tokens, kv_width).
fn append(
    isa: Isa,
    cache: &mut KvCache,
    layer: usize,
    k: &[f32],
    v: &[f32],
    head_dim: usize,
) -> Result<(), ModelError> {
    let dtype = cache.dtype().dtype();
    let row_bytes = cache.row_bytes();
    let heads = cache.layer_mut(layer);
    let width = heads.len() * head_dim;
    let write = |(index, head): (usize, &mut super::kv_cache::HeadCache)| {
        for (rows, store) in [(k, &mut head.keys), (v, &mut head.values)] {
            for row in rows.chunks_exact(width) {
                let end = store.len();
                store.resize(end + row_bytes, 0);
                isa.round_to(dtype, &row[index * head_dim..][..head_dim], &mut store[end..])?;
            }
        }
        Ok(())
    };
    if k.len() == width {
        heads.iter_mut().enumerate().try_for_each(write)
    } else {
        heads.par_iter_mut().enumerate().try_for_each(write)
    }
}
