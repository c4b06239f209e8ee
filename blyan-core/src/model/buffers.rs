//! Owns [`Buffers`]: memory for intermediate results that passes from one layer to the next.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Numbers of the smallest buffers that are kept: a system's allocator keeps smaller ones by itself. Tests keep
/// all, so that small models use memory again, too.
const KEPT: usize = if cfg!(debug_assertions) { 1 } else { 1 << 15 };

/// Buffers that nobody uses at present. A long prompt's results take megabytes, which an allocator gives back to
/// the system and asks for again in every layer, and the system clears them each time.
#[derive(Debug, Default)]
pub(crate) struct Buffers(Mutex<Vec<Vec<f32>>>);

impl Buffers {
    /// Room for `len` numbers, for results that are all written: what they are now is not said.
    pub(crate) fn take(&self, len: usize) -> Vec<f32> {
        if len < KEPT {
            return vec![0.0; len];
        }
        let mut spare = self.spare();
        let fits = spare.iter().enumerate().filter(|(_, buffer)| buffer.capacity() >= len);
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
        self.spare().extend(buffers.into_iter().filter(|buffer| buffer.capacity() >= KEPT));
    }

    /// Frees what was given back.
    pub(crate) fn free(&self) {
        let spare = std::mem::take(&mut *self.spare());
        drop(spare);
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Vec<f32>>> {
        // A list of buffers is whole whatever panicked beside it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
