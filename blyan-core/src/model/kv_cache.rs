//! Owns the keys and values of one sequence, rounded to the cache's dtype before any use.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::dtype::DType;
use crate::format::ModelSpec;
use crate::kernels::{HeadShape, Isa, KernelError};

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

/// Keys and values of one key-value head of one layer, as the attention kernel wants them to lie.
#[derive(Debug, Clone, Default)]
pub(crate) struct HeadCache {
    pub(crate) keys: Vec<u8>,
    pub(crate) values: Vec<u8>,
}

impl HeadCache {
    /// Rounds keys and values, `(head_dim,)` each, to the cache's dtype and writes them from
    /// `position` on.
    pub(crate) fn append<'x>(
        &mut self,
        isa: Isa,
        shape: HeadShape,
        position: usize,
        rows: impl ExactSizeIterator<Item = (&'x [f32], &'x [f32])>,
    ) -> Result<(), KernelError> {
        let end = position + rows.len();
        self.keys.resize(shape.keys_len(end), 0);
        self.values.resize(shape.values_len(end), 0);
        for (position, row) in (position..).zip(rows) {
            isa.store_position(shape, position, row, (&mut self.keys, &mut self.values))?;
        }
        Ok(())
    }
}

/// Keys and values of one sequence.
#[derive(Debug, Clone)]
pub struct KvCache {
    dtype: KvDType,
    shape: HeadShape,
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
            shape: HeadShape { dtype: dtype.dtype(), head_dim: attention.head_dim },
            num_key_value_heads: attention.num_key_value_heads,
            heads: vec![HeadCache::default(); spec.layers.len() * attention.num_key_value_heads],
            positions: 0,
        }
    }

    /// Whether the cache was made for a model of this shape.
    pub(crate) fn fits(&self, spec: &ModelSpec) -> bool {
        let attention = &spec.attention;
        self.shape.head_dim == attention.head_dim
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
        self.heads.len() * (self.shape.keys_len(self.positions) + self.shape.values_len(self.positions))
    }

    /// Forgets all positions from `positions` on.
    pub fn truncate(&mut self, positions: usize) {
        self.positions = self.positions.min(positions);
        self.drop_unfinished();
    }

    /// Drops rows that a step wrote without finishing.
    pub(crate) fn drop_unfinished(&mut self) {
        for head in &mut self.heads {
            head.keys.truncate(self.shape.keys_len(self.positions));
            head.values.truncate(self.shape.values_len(self.positions));
        }
    }

    /// Makes room for `positions` in all, so that growing does not double the memory.
    pub(crate) fn reserve(&mut self, positions: usize) {
        let (keys, values) = (self.shape.keys_len(positions), self.shape.values_len(positions));
        for head in &mut self.heads {
            head.keys.reserve_exact(keys.saturating_sub(head.keys.len()));
            head.values.reserve_exact(values.saturating_sub(head.values.len()));
        }
    }

    /// Counts positions that every layer has written.
    pub(crate) fn finish(&mut self, positions: usize) {
        self.positions += positions;
    }

    /// The shape of each head's part.
    pub(crate) fn shape(&self) -> HeadShape {
        self.shape
    }

    /// The key-value heads of a layer.
    pub(crate) fn layer(&self, layer: usize) -> &[HeadCache] {
        &self.heads[layer * self.num_key_value_heads..][..self.num_key_value_heads]
    }

    pub(crate) fn layer_mut(&mut self, layer: usize) -> &mut [HeadCache] {
        &mut self.heads[layer * self.num_key_value_heads..][..self.num_key_value_heads]
    }
}
