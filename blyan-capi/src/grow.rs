//! Owns the growing of a model: experts added to layers, with the routers that know them.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::c_void;

use blyan_core::manager::{self, LayerGrowth};

use crate::chain::blyan_chain;
use crate::edge::{new_handle, read, slice};
use crate::error::{Outcome, blyan_status, edge};
use crate::snapshot::blyan_snapshot;

/// Bytes: lent, never owned.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_bytes {
    /// First byte.
    pub data: *const c_void,
    /// Number of bytes.
    pub len: usize,
}

impl blyan_bytes {
    /// # Safety
    ///
    /// Valid for reads of as many bytes as it says.
    pub(crate) unsafe fn copy(&self, name: &str) -> Outcome<Vec<u8>> {
        // SAFETY: the caller's promise.
        Ok(unsafe { slice(self.data.cast::<u8>(), self.len, name) }?.to_vec())
    }
}

/// What one layer gets when a model grows.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_layer_growth {
    /// Payloads of the new experts, in the order of their numbers after the layer's last.
    pub experts: *const blyan_bytes,
    /// Number of new experts.
    pub experts_len: usize,
    /// Payload of the router that knows them: one row more for each.
    pub router: blyan_bytes,
    /// The layer.
    pub layer: u32,
    /// 0.
    pub reserved: u32,
}

impl blyan_layer_growth {
    /// # Safety
    ///
    /// Its pointers are valid.
    unsafe fn growth(&self) -> Outcome<LayerGrowth> {
        // SAFETY: the caller's promise.
        let experts = unsafe { slice(self.experts, self.experts_len, "experts") }?.iter();
        // SAFETY: as above.
        let experts = experts.map(|expert| unsafe { expert.copy("expert") }).collect::<Outcome<_>>()?;
        // SAFETY: as above.
        Ok(LayerGrowth { layer: self.layer, experts, router: unsafe { self.router.copy("router") }? })
    }
}

/// Appends a spec with more experts, the new experts and routers, and all other blocks of the model under
/// that spec, and gives the grown model, which can be tried and published. Payloads are shared, so what did
/// not change costs some 300 bytes a block. `BLYAN_STATUS_INVALID_ARGUMENT` for a layer that has no router,
/// is named twice or gets nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_snapshot_grow(
    snapshot: *const blyan_snapshot,
    chain: *const blyan_chain,
    growth: *const blyan_layer_growth,
    growth_len: usize,
    grown: *mut *mut blyan_snapshot,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (grown, snapshot, chain, growth) = unsafe {
            (
                new_handle(grown, "grown")?,
                read(snapshot, "snapshot")?,
                read(chain, "chain")?,
                slice(growth, growth_len, "growth")?,
            )
        };
        // SAFETY: as above.
        let growth: Vec<LayerGrowth> =
            growth.iter().map(|layer| unsafe { layer.growth() }).collect::<Outcome<_>>()?;
        let made = manager::grow(chain.to_write()?, &snapshot.snapshot, &growth)?;
        grown.set(blyan_snapshot::new(made));
        Ok(())
    })
}
