//! Owns the keys and values of one sequence, rounded to the cache's dtype before any use.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::dtype::DType;
use crate::format::ModelSpec;

/// Element type of a KV cache. It changes logits, so a receipt names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvDType {
    /// Half the memory and the default.
    #[default]
    F16,
    /// Exact.
    F32,
}

impl KvDType {
    pub(crate) const fn dtype(self) -> DType {
        match self {
            Self::F16 => DType::F16,
            Self::F32 => DType::F32,
        }
    }
}

/// A cache dtype that is neither `f16` nor `f32`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown kv_cache {name:?}: expected f16 or f32")]
pub struct UnknownKvDType {
    /// The name as given.
    pub name: String,
}

impl FromStr for KvDType {
    type Err = UnknownKvDType;

    fn from_str(name: &str) -> Result<Self, UnknownKvDType> {
        match name {
            "f16" => Ok(Self::F16),
            "f32" => Ok(Self::F32),
            _ => Err(UnknownKvDType { name: name.chars().take(80).collect() }),
        }
    }
}

/// Keys and values of one key-value head of one layer, each (positions, head_dim) in the cache's dtype.
#[derive(Debug, Clone, Default)]
pub(crate) struct HeadCache {
    pub(crate) keys: Vec<u8>,
    pub(crate) values: Vec<u8>,
}

/// Keys and values of one sequence.
#[derive(Debug, Clone)]
pub struct KvCache {
    dtype: KvDType,
    /// Bytes of one position of one head.
    row_bytes: usize,
    num_key_value_heads: usize,
    /// layer-major: (layers, num_key_value_heads).
    heads: Vec<HeadCache>,
    positions: usize,
}

impl KvCache {
    /// An empty cache for a model of `spec`.
    pub fn new(spec: &ModelSpec, dtype: KvDType) -> Self {
        let attention = &spec.attention;
        Self {
            dtype,
            row_bytes: attention.head_dim * dtype.dtype().size_bytes(),
            num_key_value_heads: attention.num_key_value_heads,
            heads: vec![HeadCache::default(); spec.layers.len() * attention.num_key_value_heads],
            positions: 0,
        }
    }

    /// Whether the cache was made for a model of this shape.
    pub(crate) fn fits(&self, spec: &ModelSpec) -> bool {
        let attention = &spec.attention;
        self.row_bytes == attention.head_dim * self.dtype.dtype().size_bytes()
            && self.num_key_value_heads == attention.num_key_value_heads
            && self.heads.len() == spec.layers.len() * attention.num_key_value_heads
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.positions
    }

    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.positions == 0
    }

    /// Element type.
    pub fn dtype(&self) -> KvDType {
        self.dtype
    }

    /// Bytes in use.
    pub fn size_bytes(&self) -> usize {
        self.heads.len() * 2 * self.positions * self.row_bytes
    }

    /// Forgets all positions from `positions` on.
    pub fn truncate(&mut self, positions: usize) {
        self.positions = self.positions.min(positions);
        self.drop_unfinished();
    }

    /// Drops rows that a step wrote without finishing.
    pub(crate) fn drop_unfinished(&mut self) {
        let bytes = self.positions * self.row_bytes;
        for head in &mut self.heads {
            head.keys.truncate(bytes);
            head.values.truncate(bytes);
        }
    }

    /// Makes room for `positions` in all, so that growing does not double the memory.
    pub(crate) fn reserve(&mut self, positions: usize) {
        let bytes = positions * self.row_bytes;
        for head in &mut self.heads {
            head.keys.reserve_exact(bytes.saturating_sub(head.keys.len()));
            head.values.reserve_exact(bytes.saturating_sub(head.values.len()));
        }
    }

    /// Counts positions that every layer has written.
    pub(crate) fn finish(&mut self, positions: usize) {
        self.positions += positions;
    }

    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// The key-value heads of a layer.
    pub(crate) fn layer(&self, layer: usize) -> &[HeadCache] {
        &self.heads[layer * self.num_key_value_heads..][..self.num_key_value_heads]
    }

    pub(crate) fn layer_mut(&mut self, layer: usize) -> &mut [HeadCache] {
        &mut self.heads[layer * self.num_key_value_heads..][..self.num_key_value_heads]
    }
}
