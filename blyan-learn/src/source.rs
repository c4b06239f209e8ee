//! Owns where weights come from before training: the blocks of a snapshot, or a seed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use blyan_core::format::{TensorRole, TensorSpec};
use blyan_core::kernels::{Isa, Weights, math};
use blyan_core::manager::Snapshot;
use blyan_core::tensor::scale_name;
use blyan_core::{Chain, ModelSpec, Slot, TensorBlock};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::error::LearnError;
use crate::memory::{filled, room};

/// Gives the weights of a model in f32.
pub(crate) trait Source {
    fn spec(&self) -> &Arc<ModelSpec>;

    /// Whether a block fills the slot.
    fn has(&self, slot: Slot) -> bool;

    /// A tensor of a slot, row-major.
    fn values(&self, slot: Slot, tensor: &TensorSpec) -> Result<Vec<f32>, LearnError>;
}

/// The blocks that a snapshot pins.
pub(crate) struct Blocks<'a> {
    chain: &'a Chain,
    snapshot: &'a Snapshot,
    /// The block read last: its tensors are asked for one after the other.
    last: RefCell<Option<(Slot, TensorBlock)>>,
}

impl<'a> Blocks<'a> {
    pub(crate) fn new(chain: &'a Chain, snapshot: &'a Snapshot) -> Self {
        Self { chain, snapshot, last: RefCell::new(None) }
    }

    pub(crate) fn block(&self, slot: Slot) -> Result<TensorBlock, LearnError> {
        if let Some((known, block)) = &*self.last.borrow()
            && *known == slot
        {
            return Ok(block.clone());
        }
        let pinned = self.snapshot.slots().get(&slot).ok_or(LearnError::UnknownSlot { slot })?;
        let block = TensorBlock::open(self.chain, &pinned.block)
            .map_err(|source| LearnError::Tensor { slot, source: Box::new(source) })?;
        *self.last.borrow_mut() = Some((slot, block.clone()));
        Ok(block)
    }
}

impl Source for Blocks<'_> {
    fn spec(&self) -> &Arc<ModelSpec> {
        self.snapshot.spec()
    }

    fn has(&self, slot: Slot) -> bool {
        self.snapshot.slots().contains_key(&slot)
    }

    fn values(&self, slot: Slot, tensor: &TensorSpec) -> Result<Vec<f32>, LearnError> {
        let block = self.block(slot)?;
        let missing = |source| LearnError::Tensor { slot, source: Box::new(source) };
        let view = block.tensor(tensor.name).map_err(missing)?;
        if *view.shape() != tensor.shape {
            let (actual, expected) = (view.shape().clone(), tensor.shape.clone());
            let tensor = tensor.name.to_owned();
            return Err(missing(blyan_core::tensor::TensorError::Shape { tensor, actual, expected }));
        }
        let (true, &[rows, cols]) = (view.dtype().is_quantized(), view.shape().dims()) else {
            return Ok(view.to_f32_vec());
        };
        let scale = block.tensor(&scale_name(tensor.name)).map_err(missing)?;
        let weights = Weights::new(view.dtype(), rows, cols, view.data(), Some(scale.data()))?;
        let mut values = filled(0.0, rows * cols)?;
        let isa = Isa::for_rows();
        for (row, out) in values.chunks_exact_mut(cols.max(1)).enumerate() {
            isa.dequantize_row(&weights, row, out)?;
        }
        Ok(values)
    }
}

/// A model that has learnt nothing: matrices normal around 0, norms 1, biases 0.
pub(crate) struct Seeded {
    spec: Arc<ModelSpec>,
    seed: u64,
    deviation: f64,
    /// The stream of each tensor.
    streams: BTreeMap<(Slot, &'static str), u64>,
}

impl Seeded {
    pub(crate) fn new(spec: Arc<ModelSpec>, seed: u64, deviation: f64) -> Self {
        let slots = spec.required_slots().into_iter();
        let names = slots.flat_map(|slot| {
            let tensors = spec.tensors_of(slot);
            tensors.into_iter().map(move |tensor| (slot, tensor.name))
        });
        // Stream 0 is that of the batches.
        let streams = names.zip(1..).collect();
        Self { spec, seed, deviation, streams }
    }
}

impl Source for Seeded {
    fn spec(&self) -> &Arc<ModelSpec> {
        &self.spec
    }

    fn has(&self, slot: Slot) -> bool {
        self.streams.keys().any(|(known, _)| *known == slot)
    }

    fn values(&self, slot: Slot, tensor: &TensorSpec) -> Result<Vec<f32>, LearnError> {
        let len: usize = tensor.shape.dims().iter().product();
        let stream = *self.streams.get(&(slot, tensor.name)).ok_or(LearnError::UnknownSlot { slot })?;
        match tensor.role {
            TensorRole::Norm => filled(1.0, len),
            TensorRole::Bias => filled(0.0, len),
            _ => normal(self.seed, stream, self.deviation, len),
        }
    }
}

/// Random numbers of a stream.
pub(crate) fn stream(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut key = *b"\0\0\0\0\0\0\0\0blyan training stream 1\0";
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut random = ChaCha8Rng::from_seed(key);
    random.set_stream(stream);
    random
}

/// A number of 0 (never) to 1.
fn unit(random: &mut ChaCha8Rng) -> f64 {
    ((random.next_u64() >> 11) as f64 + 1.0) / (1u64 << 53) as f64
}

/// Normal numbers (Box and Muller), the same on every machine.
fn normal(seed: u64, number: u64, deviation: f64, len: usize) -> Result<Vec<f32>, LearnError> {
    let mut random = stream(seed, number);
    let mut values = room(len.saturating_add(1))?;
    while values.len() < len {
        let radius = deviation * (-2.0 * math::ln_f64(unit(&mut random))).sqrt();
        let (sin, cos) = math::sin_cos_f64(2.0 * std::f64::consts::PI * unit(&mut random));
        values.push((radius * cos) as f32);
        values.push((radius * sin) as f32);
    }
    values.truncate(len);
    Ok(values)
}

/// Numbers of −limit to limit.
pub(crate) fn uniform(seed: u64, number: u64, limit: f64, len: usize) -> Result<Vec<f32>, LearnError> {
    let mut random = stream(seed, number);
    let mut values = room(len)?;
    values.extend((0..len).map(|_| ((2.0 * unit(&mut random) - 1.0) * limit) as f32));
    Ok(values)
}
