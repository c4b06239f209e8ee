//! Owns the building of one block's payload: weights are read in pieces and converted straight into
//! their place, so that memory stays near the payload's own size.

use std::collections::BTreeMap;
use std::ops::Range;

use super::error::ImportError;
use super::plan::{PlannedBlock, PlannedTensor};
use super::weights::{Located, Weights};
use crate::tensor::{TensorError, convert_into, first_not_finite, quantize_rows_into, scale_name};

/// Bytes of a checkpoint that are in memory at a time, besides the payload; at least one row.
const PIECE_BYTES: usize = 16 << 20;

impl PlannedBlock {
    /// Reads and converts all tensors. `check` is called between pieces, to stop early.
    pub(super) fn build(
        &self,
        weights: &Weights,
        check: &dyn Fn() -> Result<(), ImportError>,
    ) -> Result<Vec<u8>, ImportError> {
        let mut payload = self.layout.zeroed();
        let mut places: BTreeMap<&str, &mut [u8]> = self.layout.places(&mut payload).into_iter().collect();
        for tensor in &self.tensors {
            let values = places.remove(tensor.name).unwrap_or_default();
            let scales = places.remove(scale_name(tensor.name).as_str()).unwrap_or_default();
            tensor.fill(weights, values, scales, check)?;
        }
        Ok(payload)
    }
}

impl PlannedTensor {
    fn fill(
        &self,
        weights: &Weights,
        values: &mut [u8],
        scales: &mut [u8],
        check: &dyn Fn() -> Result<(), ImportError>,
    ) -> Result<(), ImportError> {
        let Some(located) = weights.get(&self.published) else {
            return Err(ImportError::MissingTensors { names: vec![self.published.clone()] });
        };
        let from = self.from.size_bytes();
        // A piece is whole rows, as each row has its scales.
        let cols = self.shape.dims().last().copied().unwrap_or(1).max(1);
        let rows = (PIECE_BYTES / (cols * from)).max(1);
        let piece_elements = rows * cols;
        let mut source = Vec::new();
        let elements: usize = self.shape.dims().iter().product();
        let scale_bytes = scales.len() / (elements / cols).max(1);
        let mut scales = scales.chunks_mut((rows * scale_bytes).max(1));
        for (number, values) in values.chunks_mut(self.to.bytes_of(piece_elements)).enumerate() {
            check()?;
            let first = number * piece_elements;
            let elements = piece_elements.min(elements - first);
            let start = self.bytes.start + (first * from) as u64;
            let bytes = start..start + (elements * from) as u64;
            let converted = if self.from == self.to {
                self.read(weights, located, bytes, values)?;
                first_not_finite(self.to, values)
            } else {
                source.resize(elements * from, 0);
                self.read(weights, located, bytes, &mut source)?;
                if self.to.is_quantized() {
                    let scales = scales.next().unwrap_or_default();
                    quantize_rows_into(self.from, &source, cols, self.to, values, scales)
                } else {
                    convert_into(self.from, &source, self.to, values)
                }
            };
            // Positions in errors count from the first element of the published tensor.
            let offset = first + usize::try_from(self.bytes.start).unwrap_or_default() / from;
            converted.map_err(|error| weights.error(located, shifted(error, offset)))?;
        }
        Ok(())
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
