//! Owns [`Buffers`]: memory for intermediate results that passes from one layer to the next.

use std::sync::{Mutex, MutexGuard, TryLockError};

use crate::kernels::{GroupQuantized, Quantized};

/// Bytes of the largest buffers that stay after a step: those that every decoded token takes.
const KEPT_BYTES: usize = 64 << 10;

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
    groups: Mutex<Vec<GroupQuantized>>,
}

impl Buffers {
    /// Room for `len` numbers, for results that are all written: what they are now is not said.
    pub(crate) fn take(&self, len: usize) -> Vec<f32> {
        let spare = best_fit(&self.floats, len, Vec::capacity);
        // Rounded up, as the next layer's experts have a few tokens more or less.
        let mut buffer = spare.unwrap_or_else(|| Vec::with_capacity(len.next_power_of_two()));
        if cfg!(debug_assertions) {
            // Whoever relies on what is there gets a result that no test takes for right.
            buffer.fill(f32::NAN);
        }
        buffer.resize(len, 0.0);
        buffer
    }

    /// Takes buffers that are not used any more.
    pub(crate) fn give_back(&self, buffers: impl IntoIterator<Item = Vec<f32>>) {
        if let Some(mut spare) = lock(&self.floats) {
            spare.extend(buffers.into_iter().filter(|buffer| buffer.capacity() > 0));
        }
    }

    /// Room for activations of so many bytes, of whatever shape now.
    pub(crate) fn take_quantized(&self, bytes: usize) -> Quantized {
        best_fit(&self.quantized, bytes, Quantized::bytes).unwrap_or_default()
    }

    /// The same for those that are quantized by group.
    pub(crate) fn take_groups(&self, bytes: usize) -> GroupQuantized {
        best_fit(&self.groups, bytes, GroupQuantized::bytes).unwrap_or_default()
    }

    /// Takes those that are not used any more, if they are small.
    pub(crate) fn give_back_quantized(&self, quantized: Option<Quantized>) {
        give_back_small(&self.quantized, quantized, Quantized::bytes);
    }

    /// The same for those that are quantized by group.
    pub(crate) fn give_back_groups(&self, groups: Option<GroupQuantized>) {
        give_back_small(&self.groups, groups, GroupQuantized::bytes);
    }

    /// Frees what was given back, but for what the next token takes.
    pub(crate) fn free(&self) {
        keep_small(&self.floats, |buffer| buffer.capacity() * size_of::<f32>());
        keep_small(&self.quantized, Quantized::bytes);
        keep_small(&self.groups, GroupQuantized::bytes);
    }
}

/// The smallest that is large enough; of equal ones the one that was given back last.
fn best_fit<T>(spare: &Mutex<Vec<T>>, least: usize, size: impl Fn(&T) -> usize) -> Option<T> {
    let mut spare = lock(spare)?;
    let fits = spare.iter().enumerate().rev().filter(|(_, buffer)| size(buffer) >= least);
    let best = fits.min_by_key(|(_, buffer)| size(buffer)).map(|(index, _)| index)?;
    Some(spare.remove(best))
}

/// Takes a buffer if it is small. A long prompt's would pile up: each layer's experts have other numbers of tokens, and
/// what is too small for them would stay beside what takes its place.
fn give_back_small<T>(spare: &Mutex<Vec<T>>, buffer: Option<T>, bytes: impl Fn(&T) -> usize) {
    let small = buffer.filter(|buffer| bytes(buffer) <= KEPT_BYTES);
    if let Some(mut spare) = lock(spare) {
        spare.extend(small);
    }
}

fn keep_small<T>(spare: &Mutex<Vec<T>>, bytes: impl Fn(&T) -> usize) {
    let Some(mut spare) = lock(spare) else { return };
    let freed: Vec<T> = spare.extract_if(.., |buffer| bytes(buffer) > KEPT_BYTES).collect();
    let oldest = spare.len().saturating_sub(KEPT);
    spare.drain(..oldest);
    drop(spare);
    drop(freed);
}

/// Nothing while another thread has the list, who need not be alive: a fork leaves it behind. A list of buffers is
/// whole whatever panicked beside it.
fn lock<T>(spare: &Mutex<Vec<T>>) -> Option<MutexGuard<'_, Vec<T>>> {
    match spare.try_lock() {
        Ok(spare) => Some(spare),
        Err(TryLockError::Poisoned(spare)) => Some(spare.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_that_fits_is_taken_and_small_ones_stay() {
        let buffers = Buffers::default();
        assert_eq!(buffers.take(100).capacity(), 128);
        let large = KEPT_BYTES / size_of::<f32>();
        buffers.give_back([1000, 100, 300, large, large + 1].map(Vec::with_capacity));
        assert_eq!(buffers.take(200).capacity(), 300);
        buffers.free();
        let taken = [1, 1, 1, 1].map(|len| buffers.take(len).capacity());
        assert_eq!(taken, [100, 1000, large, 1]);

        buffers.give_back((0..KEPT + 3).map(|more| Vec::with_capacity(8 + more)));
        buffers.free();
        assert_eq!(buffers.take(8).capacity(), 8 + 3);
    }

    #[test]
    fn a_list_that_is_locked_is_done_without() {
        let buffers = Buffers::default();
        buffers.give_back([Vec::with_capacity(300)]);
        let locked = buffers.floats.lock().unwrap();
        assert_eq!(buffers.take(200).capacity(), 256);
        buffers.give_back([Vec::with_capacity(200)]);
        buffers.free();
        drop(locked);
        assert_eq!(buffers.take(200).capacity(), 300);
    }
}
