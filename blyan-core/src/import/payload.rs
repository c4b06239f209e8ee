//! Owns the building of one block's payload: weights are read in pieces, on all threads of the current rayon
//! pool, and converted straight into their place, so that memory stays near the payload's own size.

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::*;

use super::error::ImportError;
use super::plan::{PlannedBlock, PlannedTensor};
use super::weights::{Located, Weights};
use crate::tensor::{TensorError, convert_into, first_not_finite, quantize_rows_into, scale_name};

/// Bytes of a checkpoint that a thread reads and converts at a time: they stay in its second-level cache. At
/// least one row.
const PIECE_BYTES: usize = 256 << 10;

impl PlannedBlock {
    /// Reads and converts all tensors, into `memory` where it is large enough. `check` is called before each
    /// piece, to stop early.
    pub(super) fn build(
        &self,
        weights: &Weights,
        memory: Vec<u8>,
        check: &(dyn Fn() -> Result<(), ImportError> + Sync),
    ) -> Result<Vec<u8>, ImportError> {
        let mut payload = self.layout.reuse(memory);
        let mut places: BTreeMap<&str, &mut [u8]> = self.layout.places(&mut payload).into_iter().collect();
        for tensor in &self.tensors {
            let values = places.remove(tensor.name).unwrap_or_default();
            let scales = places.remove(scale_name(tensor.name).as_str()).unwrap_or_default();
            tensor.fill(weights, values, scales, check)?;
        }
        // What is not written would be left of the memory's last use.
        debug_assert!(places.is_empty(), "no tensor fills {:?}", places.keys());
        Ok(payload)
    }
}

impl PlannedTensor {
    /// The first error in the order of the elements, whatever the threads.
    fn fill(
        &self,
        weights: &Weights,
        values: &mut [u8],
        scales: &mut [u8],
        check: &(dyn Fn() -> Result<(), ImportError> + Sync),
    ) -> Result<(), ImportError> {
        let Some(located) = weights.get(&self.published) else {
            return Err(ImportError::MissingTensors { names: vec![self.published.clone()] });
        };
        // A piece is whole rows, as each row has its scales, and whole heads where rows change places in them.
        let cols = self.cols();
        let rows = (PIECE_BYTES / (cols * self.from.size_bytes())).max(1);
        let rows = rows.next_multiple_of(self.interleaved_rows.unwrap_or(1).max(1));
        let elements: usize = self.shape.dims().iter().product();
        let scale_bytes = scales.len() / (elements / cols).max(1);
        let mut scales = scales.chunks_mut((rows * scale_bytes).max(1));
        let values = values.chunks_mut(self.to.bytes_of(rows * cols)).enumerate();
        let pieces: Vec<_> =
            values.map(|(number, values)| (number, values, scales.next().unwrap_or_default())).collect();
        let failed = pieces
            .into_par_iter()
            .map_init(Vec::new, |source, (number, values, scales)| {
                check()?;
                let first = number * rows * cols;
                let elements = (rows * cols).min(elements - first);
                self.fill_piece(weights, located, first..first + elements, source, values, scales)
            })
            .find_map_first(Result::err);
        failed.map_or(Ok(()), Err)
    }

    /// Reads and converts some elements, whole rows; `source` is memory to do it in.
    fn fill_piece(
        &self,
        weights: &Weights,
        located: &Located,
        elements: Range<usize>,
        source: &mut Vec<u8>,
        values: &mut [u8],
        scales: &mut [u8],
    ) -> Result<(), ImportError> {
        let from = self.from.size_bytes();
        let start = self.bytes.start + (elements.start * from) as u64;
        let bytes = start..start + (elements.len() * from) as u64;
        let converted = if self.from == self.to {
            self.read(weights, located, bytes, values)?;
            first_not_finite(self.to, values)
        } else {
            source.resize(elements.len() * from, 0);
            self.read(weights, located, bytes, source)?;
            if self.to.is_quantized() {
                quantize_rows_into(self.from, source, self.cols(), self.to, values, scales)
            } else {
                convert_into(self.from, source, self.to, values)
            }
        };
        // Positions in errors count from the first element of the published tensor.
        let offset = elements.start + usize::try_from(self.bytes.start).unwrap_or_default() / from;
        converted.map_err(|error| weights.error(located, shifted(error, offset)))
    }

    /// Elements of a row; of a vector, all.
    fn cols(&self) -> usize {
        self.shape.dims().last().copied().unwrap_or(1).max(1)
    }

    /// Reads elements of the published tensor, its rows in Hugging Face's order.
    fn read(
        &self,
        weights: &Weights,
        located: &Located,
        bytes: Range<u64>,
        out: &mut [u8],
    ) -> Result<(), ImportError> {
        let Some(head_rows) = self.interleaved_rows else { return weights.read(located, bytes, out) };
        // A bias has one element in a row, and is read whole: a head of it may be no whole block.
        let cols = match self.shape.dims() {
            [_, cols] => *cols,
            _ => 1,
        };
        let row_bytes = cols * self.from.size_bytes();
        let head_bytes = (head_rows * row_bytes) as u64;
        // Whole heads, as rows change places within one. The spec has heads times their rows.
        let first = bytes.start / head_bytes * head_bytes;
        let last = bytes.end.next_multiple_of(head_bytes);
        let mut heads = vec![0; usize::try_from(last - first).unwrap_or_default()];
        weights.read(located, first..last, &mut heads)?;
        let skipped = usize::try_from(bytes.start - first).unwrap_or_default() / row_bytes;
        for (number, out) in out.chunks_mut(row_bytes).enumerate() {
            let (head, row) = ((skipped + number) / head_rows, (skipped + number) % head_rows);
            let half = head_rows / 2;
            let stored = head * head_rows + row % half * 2 + row / half;
            if let Some(row) = heads.get(stored * row_bytes..(stored + 1) * row_bytes) {
                out.copy_from_slice(row);
            }
        }
        Ok(())
    }
}

/// The same error, about an element further on.
fn shifted(mut error: TensorError, offset: usize) -> TensorError {
    if let TensorError::NotFinite { index, .. } | TensorError::Overflow { index, .. } = &mut error {
        *index += offset;
    }
    error
}
