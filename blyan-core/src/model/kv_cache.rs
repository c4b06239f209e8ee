//! Owns the keys and values of one sequence, rounded to the cache's dtype before any use.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::dtype::DType;
use crate::format::ModelSpec;
use crate::kernels::{HeadShape, Isa, KernelError};

use super::huge_pages;

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

/// Keys and values of one key-value head of one layer, as the attention kernel wants them to lie, with room for
/// more after them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(crate) keys: &'a [u8],
    pub(crate) values: &'a [u8],
}

/// The same to write.
#[derive(Debug)]
pub(crate) struct HeadMut<'a> {
    keys: &'a mut [u8],
    values: &'a mut [u8],
}

impl<'a> HeadMut<'a> {
    /// Rounds keys and values, `(head_dim,)` each, to the cache's dtype and writes them from `position` on, where
    /// there must be room.
    pub(crate) fn write<'x>(
        self,
        isa: Isa,
        shape: HeadShape,
        position: usize,
        rows: impl IntoIterator<Item = (&'x [f32], &'x [f32])>,
    ) -> Result<Head<'a>, KernelError> {
        for (position, row) in (position..).zip(rows) {
            isa.store_position(shape, position, row, (&mut *self.keys, &mut *self.values))?;
        }
        Ok(Head { keys: self.keys, values: self.values })
    }
}

/// Positions that a layer has room for beyond those it needs, at least; a cache for which nobody said how many
/// there will be.
const MORE_POSITIONS: usize = 64;

/// Heads begin with cache lines, as long as their parts are whole ones.
const CACHE_LINE_BYTES: usize = 64;

/// Keys and values of one layer, in one piece: of each key-value head the keys of `capacity` positions, then their
/// values. Many heads share a huge page.
#[derive(Debug, Default)]
struct LayerCache {
    memory: Vec<u8>,
    /// Of the first head.
    start: usize,
    capacity: usize,
}

impl LayerCache {
    fn new(shape: HeadShape, heads: usize, capacity: usize) -> Self {
        let bytes = heads.saturating_mul(Self::head_bytes(shape, capacity)).saturating_add(CACHE_LINE_BYTES);
        let mut memory = vec![0; bytes];
        huge_pages::advise(&mut memory);
        let start = memory.as_ptr().align_offset(CACHE_LINE_BYTES).min(CACHE_LINE_BYTES);
        Self { memory, start, capacity }
    }

    fn head_bytes(shape: HeadShape, capacity: usize) -> usize {
        shape.keys_len(capacity).saturating_add(shape.values_len(capacity))
    }

    fn heads(&self, shape: HeadShape) -> impl Iterator<Item = Head<'_>> {
        let heads = self.memory.get(self.start..).unwrap_or_default();
        heads.chunks_exact(Self::head_bytes(shape, self.capacity).max(1)).map(move |head| {
            let (keys, values) = head.split_at(shape.keys_len(self.capacity));
            Head { keys, values }
        })
    }

    fn heads_mut(&mut self, shape: HeadShape) -> impl Iterator<Item = HeadMut<'_>> {
        let capacity = self.capacity;
        let heads = self.memory.get_mut(self.start..).unwrap_or_default();
        heads.chunks_exact_mut(Self::head_bytes(shape, capacity).max(1)).map(move |head| {
            let (keys, values) = head.split_at_mut(shape.keys_len(capacity));
            HeadMut { keys, values }
        })
    }

    /// The first `positions` of every head, or those that there are, with room for `capacity`.
    fn copy(&self, shape: HeadShape, heads: usize, positions: usize, capacity: usize) -> Self {
        let mut copy = Self::new(shape, heads, capacity);
        let positions = positions.min(self.capacity);
        for (to, from) in copy.heads_mut(shape).zip(self.heads(shape)) {
            let (keys, values) = (shape.keys_len(positions), shape.values_len(positions));
            to.keys[..keys].copy_from_slice(&from.keys[..keys]);
            to.values[..values].copy_from_slice(&from.values[..values]);
        }
        copy
    }
}

/// Keys and values of one sequence.
#[derive(Debug)]
pub struct KvCache {
    dtype: KvDType,
    shape: HeadShape,
    num_key_value_heads: usize,
    layers: Vec<LayerCache>,
    positions: usize,
    /// Positions that there will be at once, and those that there may be in the end; 0 if nobody said.
    at_once: usize,
    expected: usize,
}

impl Clone for KvCache {
    fn clone(&self) -> Self {
        let (heads, positions) = (self.num_key_value_heads, self.positions);
        let layers = self.layers.iter().map(|layer| layer.copy(self.shape, heads, positions, positions));
        Self { layers: layers.collect(), ..*self }
    }
}

impl KvCache {
    /// An empty cache for a model of `spec`.
    pub fn new(spec: &ModelSpec, dtype: KvDType) -> Self {
        let attention = &spec.attention;
        Self {
            dtype,
            shape: HeadShape { dtype: dtype.dtype(), head_dim: attention.head_dim },
            num_key_value_heads: attention.num_key_value_heads,
            layers: spec.layers.iter().map(|_| LayerCache::default()).collect(),
            positions: 0,
            at_once: 0,
            expected: 0,
        }
    }

    /// Whether the cache was made for a model of this shape.
    pub(crate) fn fits(&self, spec: &ModelSpec) -> bool {
        let attention = &spec.attention;
        self.shape.head_dim == attention.head_dim
            && self.num_key_value_heads == attention.num_key_value_heads
            && self.layers.len() == spec.layers.len()
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
        let heads = self.layers.len() * self.num_key_value_heads;
        heads * LayerCache::head_bytes(self.shape, self.positions)
    }

    /// Forgets all positions from `positions` on.
    pub fn truncate(&mut self, positions: usize) {
        self.positions = self.positions.min(positions);
    }

    /// Says how many positions there will be: a prompt `at_once`, in steps of its parts, then up to as many as
    /// `expected`.
    pub(crate) fn expect(&mut self, at_once: usize, expected: usize) {
        (self.at_once, self.expected) = (at_once, expected);
    }

    /// Makes room for as many `positions` in a layer. What is in huge pages takes memory as a whole, used or not: so
    /// after the prompt a layer grows by an eighth at a time, up to what is expected.
    pub(crate) fn make_room(&mut self, layer: usize, positions: usize) {
        let layer = &mut self.layers[layer];
        if layer.capacity < positions {
            let positions = positions.max(self.at_once);
            let grown = positions.saturating_add((positions / 8).max(MORE_POSITIONS));
            let capacity = if positions <= self.expected { grown.min(self.expected) } else { grown };
            *layer = layer.copy(self.shape, self.num_key_value_heads, self.positions, capacity);
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

    /// The key-value heads of a layer in which room was made.
    pub(crate) fn heads(&self, layer: usize) -> impl Iterator<Item = Head<'_>> {
        self.layers[layer].heads(self.shape)
    }

    pub(crate) fn heads_mut(&mut self, layer: usize) -> impl Iterator<Item = HeadMut<'_>> {
        self.layers[layer].heads_mut(self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: usize = 3;

    /// A key and a value that no other position or head has.
    fn row(head: usize, position: usize) -> (Vec<f32>, Vec<f32>) {
        let number = |d: usize| (head * 1000 + position) as f32 + d as f32 / 8.0;
        ((0..20).map(number).collect(), (0..20).map(|d| -number(d)).collect())
    }

    fn cache(dtype: KvDType) -> KvCache {
        KvCache {
            dtype,
            shape: HeadShape { dtype: dtype.dtype(), head_dim: 20 },
            num_key_value_heads: HEADS,
            layers: vec![LayerCache::default(), LayerCache::default()],
            positions: 0,
            at_once: 0,
            expected: 0,
        }
    }

    fn add(cache: &mut KvCache, count: usize) {
        let (shape, first) = (cache.shape(), cache.len());
        for layer in 0..2 {
            cache.make_room(layer, first + count);
            for (number, head) in cache.heads_mut(layer).enumerate() {
                let rows: Vec<_> = (first..first + count).map(|position| row(number, position)).collect();
                let rows = rows.iter().map(|(key, value)| (&key[..], &value[..]));
                head.write(Isa::SCALAR, shape, first, rows).unwrap();
            }
        }
        cache.finish(count);
    }

    /// Every head of both layers holds what was written.
    fn check(cache: &KvCache) {
        for layer in 0..2 {
            assert_eq!(cache.heads(layer).count(), HEADS);
            for (number, head) in cache.heads(layer).enumerate() {
                let shape = cache.shape();
                let mut keys = vec![0; shape.keys_len(cache.len())];
                let mut values = vec![0; shape.values_len(cache.len())];
                for position in 0..cache.len() {
                    let (key, value) = row(number, position);
                    Isa::SCALAR
                        .store_position(shape, position, (&key, &value), (&mut keys, &mut values))
                        .unwrap();
                }
                // The last block of keys may hold positions that were forgotten.
                let whole = shape.keys_len(cache.len() / 16 * 16);
                assert_eq!(head.keys[..whole], keys[..whole]);
                assert_eq!(head.values[..values.len()], values);
                assert_eq!(head.keys.as_ptr().addr() % 32, 0);
            }
        }
    }

    #[test]
    fn positions_stay_where_layers_grow_are_cut_and_are_copied() {
        for dtype in [KvDType::F16, KvDType::F32] {
            for (at_once, expected) in [(0, 0), (3, 5), (100, 130), (600, 5000)] {
                let mut cache = cache(dtype);
                cache.expect(at_once, expected);
                for count in [1, 1, 40, 1, 100, 700, 1] {
                    add(&mut cache, count);
                    check(&cache);
                    let needed = cache.len().max(at_once);
                    let most = needed + (needed / 8).max(MORE_POSITIONS);
                    let capacity = cache.layers[1].capacity;
                    assert!(capacity >= needed);
                    assert!(capacity <= if expected > needed { most.min(expected) } else { most });
                }
                let mut copy = cache.clone();
                copy.truncate(50);
                add(&mut copy, 3);
                add(&mut copy, 60);
                check(&copy);
                check(&cache);
                assert_eq!((cache.len(), copy.len()), (844, 113));
            }
        }
    }

    #[test]
    fn layers_that_nothing_was_written_to_are_copied() {
        let mut cache = cache(KvDType::F16);
        cache.finish(7);
        let mut copy = cache.clone();
        copy.make_room(1, 100);
        assert!(
            copy.heads(1).all(|head| head.values[..copy.shape().values_len(7)].iter().all(|&byte| byte == 0))
        );
    }
}
