//! Owns [`Buffers`]: memory for intermediate results that passes from one layer to the next.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::kernels::Quantized;

/// Bytes of buffers that are freed at the end of a step. Smaller ones stay, as every decoded token takes them.
const FREED_BYTES: usize = 64 << 10;

/// How many stay: about as many as a token of a mixture of experts takes at once.
const KEPT: usize = 64;

/// Buffers that nobody uses at present. Weights that pass by drive everything else out of a core's caches, so each
/// piece of memory that a layer does not touch saves time: an allocator's lists, and the zeros that new buffers are
/// filled with. A long prompt's results take megabytes, which an allocator gives back to the system and asks for
/// again in every layer, and the system clears them each time.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    floats: Mutex<Vec<Vec<f32>>>,
    quantized: Mutex<Vec<Quantized>>,
}

impl Buffers {
    /// Room for `len` numbers, for results that are all written: what they are now is not said.
    pub(crate) fn take(&self, len: usize) -> Vec<f32> {
        let mut spare = lock(&self.floats);
        // Of equal ones, the one that was used last.
        let fits = spare.iter().enumerate().rev().filter(|(_, buffer)| buffer.capacity() >= len);
        let best = fits.min_by_key(|(_, buffer)| buffer.capacity()).map(|(index, _)| index);
        let buffer = best.map(|index| spare.swap_remove(index));
        drop(spare);
        // Rounded up, as the next layer's experts have a few tokens more or less.
        let mut buffer = buffer.unwrap_or_else(|| Vec::with_capacity(len.next_power_of_two()));
        if cfg!(debug_assertions) {
            // Whoever relies on what is there gets a result that no test takes for right.
            buffer.fill(f32::NAN);
        }
        buffer.resize(len, 0.0);
        buffer
    }

    /// Takes buffers that are not used any more.
    pub(crate) fn give_back(&self, buffers: impl IntoIterator<Item = Vec<f32>>) {
        lock(&self.floats).extend(buffers.into_iter().filter(|buffer| buffer.capacity() > 0));
    }

    /// Room for activations, of whatever shape.
    pub(crate) fn take_quantized(&self) -> Quantized {
        lock(&self.quantized).pop().unwrap_or_default()
    }

    /// Takes those that are not used any more.
    pub(crate) fn give_back_quantized(&self, quantized: impl IntoIterator<Item = Quantized>) {
        lock(&self.quantized).extend(quantized);
    }

    /// Frees what was given back, but for what the next token takes.
    pub(crate) fn free(&self) {
        keep_small(&mut lock(&self.floats), |buffer| buffer.capacity() * size_of::<f32>());
        keep_small(&mut lock(&self.quantized), Quantized::bytes);
    }
}

fn keep_small<T>(spare: &mut Vec<T>, bytes: impl Fn(&T) -> usize) {
    spare.retain(|buffer| bytes(buffer) < FREED_BYTES);
    spare.truncate(KEPT);
}

/// A list of buffers is whole whatever panicked beside it.
fn lock<T>(spare: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    spare.lock().unwrap_or_else(PoisonError::into_inner)
}
