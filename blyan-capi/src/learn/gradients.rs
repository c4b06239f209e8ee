//! Owns gradients: what a sequence says of each tensor that learns.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use crate::edge::{describe, free, new_handle, out, read, slice};
use crate::error::{blyan_status, edge};
use crate::hash::at;
use crate::learn::trainer::blyan_trainer;
use crate::text::{Text, blyan_str};

/// Gradients of every tensor that learns, by slot and name.
pub struct blyan_gradients(Vec<Gradient>);

struct Gradient {
    slot: Text,
    tensor: Text,
    values: Vec<f32>,
}

/// Gradient of one tensor. Texts and values live as long as the list.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_gradient {
    /// The slot.
    pub slot: blyan_str,
    /// Name of the tensor in the slot's block; of a low-rank factor its name in a delta.
    pub tensor: blyan_str,
    /// The derivatives of the loss, as floats in the order of the tensor's elements.
    pub values: *const f32,
    /// Number of elements.
    pub values_len: usize,
}

/// Loss of one sequence of at least 2 tokens, all but the first predicted, with the loss that balances experts
/// times its weight, and the gradients of that. Changes nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_trainer_gradients(
    trainer: *const blyan_trainer,
    tokens: *const u32,
    tokens_len: usize,
    loss: *mut f64,
    gradients: *mut *mut blyan_gradients,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (gradients, trainer, tokens, loss) = unsafe {
            (
                new_handle(gradients, "gradients")?,
                read(trainer, "trainer")?,
                slice(tokens, tokens_len, "tokens")?,
                out(loss, "loss")?,
            )
        };
        let found = trainer.run()?.gradients(tokens)?;
        let named = found.tensors.into_iter().map(|((slot, tensor), values)| Gradient {
            slot: Text::new(slot.to_string()),
            tensor: Text::new(tensor),
            values,
        });
        gradients.set(blyan_gradients(named.collect()));
        loss.set(found.loss);
        Ok(())
    })
}

/// Number of gradients; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_gradients_len(gradients: *const blyan_gradients) -> usize {
    // SAFETY: NULL or a handle.
    unsafe { gradients.as_ref() }.map_or(0, |gradients| gradients.0.len())
}

/// One of the gradients, in slot order; `size` is `sizeof *gradient`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_gradients_get(
    gradients: *const blyan_gradients,
    index: usize,
    gradient: *mut blyan_gradient,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let found = at(&unsafe { read(gradients, "gradients") }?.0, index)?;
        let description = blyan_gradient {
            slot: found.slot.view(),
            tensor: found.tensor.view(),
            values: found.values.as_ptr(),
            values_len: found.values.len(),
        };
        // SAFETY: as above.
        unsafe { describe(gradient, size, "gradient", description) }
    })
}

/// Frees a list of gradients; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_gradients_free(gradients: *mut blyan_gradients) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(gradients) }
}
