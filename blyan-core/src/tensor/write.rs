//! Owns the canonical writer of weight payloads: one set of tensors has exactly one spelling.
//!
//! The data section starts at a multiple of [`ALIGNMENT`]; the header is padded with spaces to get
//! there and has no `__metadata__`. Tensors whose size is a multiple of [`ALIGNMENT`] come first, so
//! that they stay aligned, each group in byte order of names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::Range;

use super::error::TensorError;
use super::header::MAX_RANK;
use super::packed::{self, Content};
use super::view::TensorView;
use crate::dtype::{DType, Shape};

/// Alignment of the data section: a cache line, and the widest vector register.
pub const ALIGNMENT: usize = 64;

/// Where each tensor of a payload goes, decided before any weight is read, so that weights can be
/// converted straight into the payload.
#[derive(Debug, Clone)]
pub struct PayloadLayout {
    header: Vec<u8>,
    /// In the order of the data section; ranges from its start.
    tensors: Vec<(Content, Range<usize>)>,
    data_len: usize,
}

impl PayloadLayout {
    /// Plans a payload of these tensors, in any order.
    ///
    /// # Errors
    ///
    /// [`TensorError::DuplicateTensor`], [`TensorError::Header`] for a name that the format keeps for
    /// itself, [`TensorError::Rank`] for more dimensions than are read, or [`TensorError::Size`] if the
    /// payload would be larger than any memory.
    pub fn new(tensors: &[(&str, DType, &Shape)]) -> Result<Self, TensorError> {
        Self::with_entries(tensors, "")
    }

    /// Plans a file of a checkpoint: transformers reads only those that name their format.
    pub(crate) fn published(tensors: &[(&str, DType, &Shape)]) -> Result<Self, TensorError> {
        Self::with_entries(tensors, r#""__metadata__":{"format":"pt"}"#)
    }

    /// `entries` stand in the header before all tensors.
    fn with_entries(tensors: &[(&str, DType, &Shape)], entries: &str) -> Result<Self, TensorError> {
        let mut stored = Vec::with_capacity(tensors.len());
        // As they are given: a packed one is stored under other names.
        let mut given = BTreeSet::new();
        for &(name, dtype, shape) in tensors {
            if !given.insert(name) {
                return Err(TensorError::DuplicateTensor { tensor: name.to_owned() });
            }
            let rank = shape.dims().len();
            if rank > MAX_RANK {
                return Err(TensorError::Rank { tensor: name.to_owned(), rank, max: MAX_RANK });
            }
            stored.extend(packed::stored(name, dtype, shape)?);
        }
        stored.sort_by(|a, b| {
            let key = |tensor: &packed::Stored| !tensor.len_bytes.is_multiple_of(ALIGNMENT);
            (key(a), &a.name).cmp(&(key(b), &b.name))
        });
        let mut header = format!("{{{entries}");
        let mut placed: Vec<(Content, Range<usize>)> = Vec::with_capacity(stored.len());
        let mut names = BTreeSet::new();
        let mut offset = 0usize;
        for tensor in stored {
            let overflow =
                || TensorError::Size { tensor: tensor.name.clone(), expected: usize::MAX, actual: 0 };
            // The one key of the header that is no tensor's: no reader would find it.
            if tensor.name == "__metadata__" {
                let reason = "no tensor can be called \"__metadata__\"".to_owned();
                return Err(TensorError::Header { reason });
            }
            if !names.insert(tensor.name.clone()) {
                return Err(TensorError::DuplicateTensor { tensor: tensor.name });
            }
            let end = offset.checked_add(tensor.len_bytes).ok_or_else(overflow)?;
            let comma = if header.len() == 1 { "" } else { "," };
            let key = serde_json::Value::from(tensor.name.as_str());
            let dims: Vec<String> = tensor.shape.dims().iter().map(usize::to_string).collect();
            // Writing to a string cannot fail.
            let _ = write!(
                header,
                r#"{comma}{key}:{{"dtype":"{}","shape":[{}],"data_offsets":[{offset},{end}]}}"#,
                tensor.dtype,
                dims.join(",")
            );
            // All of it is one allocation, which `isize` limits; padding takes up to one more alignment.
            let len_bytes = end.checked_add(8 + header.len() + ALIGNMENT);
            len_bytes.filter(|&len| isize::try_from(len).is_ok()).ok_or_else(overflow)?;
            placed.push((tensor.content, offset..end));
            offset = end;
        }
        header.push('}');
        let padded = (8 + header.len()).next_multiple_of(ALIGNMENT) - 8;
        let mut bytes = (padded as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(8 + padded, b' ');
        Ok(Self { header: bytes, tensors: placed, data_len: offset })
    }

    /// Length of the whole payload.
    pub fn len_bytes(&self) -> usize {
        self.header.len() + self.data_len
    }

    /// The bytes before the data section.
    pub(crate) fn header(&self) -> &[u8] {
        &self.header
    }

    /// What follows, in the order of the data section.
    pub(crate) fn contents(&self) -> impl Iterator<Item = &Content> {
        self.tensors.iter().map(|(content, _)| content)
    }

    /// A payload with its header written, and the shapes of I4 matrices; all other data is zero.
    pub fn zeroed(&self) -> Vec<u8> {
        let mut payload = vec![0; self.len_bytes()];
        self.write_fixed(&mut payload);
        payload
    }

    /// As [`Self::zeroed`], in memory that was used before: what the places hold is left as it is, and up to
    /// the caller to write.
    pub(crate) fn reuse(&self, mut payload: Vec<u8>) -> Vec<u8> {
        if payload.capacity() < self.len_bytes() {
            return self.zeroed();
        }
        payload.resize(self.len_bytes(), 0);
        self.write_fixed(&mut payload);
        payload
    }

    /// Writes all that is not in a place of [`Self::places`].
    fn write_fixed(&self, payload: &mut [u8]) {
        if let Some(header) = payload.get_mut(..self.header.len()) {
            header.copy_from_slice(&self.header);
        }
        let data = payload.get_mut(self.header.len()..).unwrap_or_default();
        for (content, range) in &self.tensors {
            if let (Content::Bytes(bytes), Some(place)) = (content, data.get_mut(range.clone())) {
                place.copy_from_slice(bytes);
            }
        }
    }

    /// The place of each tensor in a payload that [`Self::zeroed`] made, in the order of the data.
    pub fn places<'a>(&'a self, payload: &'a mut [u8]) -> Vec<(&'a str, &'a mut [u8])> {
        let mut rest = payload.get_mut(self.header.len()..).unwrap_or_default();
        let mut places = Vec::with_capacity(self.tensors.len());
        for (content, range) in &self.tensors {
            let Some((place, tail)) = std::mem::take(&mut rest).split_at_mut_checked(range.len()) else {
                break;
            };
            if let Content::Tensor(name) = content {
                places.push((name.as_str(), place));
            }
            rest = tail;
        }
        places
    }
}

/// Writes tensors, in any order, as a canonical payload.
///
/// # Errors
///
/// As [`PayloadLayout::new`]; [`TensorError::Size`] also if bytes contradict shape and dtype.
pub fn write(tensors: &[(&str, DType, &Shape, &[u8])]) -> Result<Vec<u8>, TensorError> {
    let plan: Vec<_> = tensors.iter().map(|&(name, dtype, shape, _)| (name, dtype, shape)).collect();
    let layout = PayloadLayout::new(&plan)?;
    // Before memory is asked for: a shape may say anything.
    for &(name, dtype, shape, data) in tensors {
        TensorView::new(name, dtype, shape, data)?;
    }
    let data: BTreeMap<&str, &[u8]> = tensors.iter().map(|&(name, .., data)| (name, data)).collect();
    let mut payload = layout.zeroed();
    for (name, place) in layout.places(&mut payload) {
        // As long as its place, by the check above.
        if let Some(data) = data.get(name) {
            place.copy_from_slice(data);
        }
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spelling_is_fixed() {
        let (a, b, c) = (Shape::new([3]), Shape::new([8, 4]), Shape::new([64]));
        let payload = write(&[
            ("z.weight", DType::BF16, &b, &[1; 64]),
            ("a", DType::I8, &a, &[2; 3]),
            ("c", DType::I8, &c, &[3; 64]),
        ])
        .unwrap();
        let header = concat!(
            r#"{"c":{"dtype":"I8","shape":[64],"data_offsets":[0,64]},"#,
            r#""z.weight":{"dtype":"BF16","shape":[8,4],"data_offsets":[64,128]},"#,
            r#""a":{"dtype":"I8","shape":[3],"data_offsets":[128,131]}}"#
        );
        let padded = header.len() + 64 - (8 + header.len()) % 64;
        let mut expected = (padded as u64).to_le_bytes().to_vec();
        expected.extend_from_slice(format!("{header:padded$}").as_bytes());
        expected.extend_from_slice(&[&[3u8; 64][..], &[1; 64], &[2; 3]].concat());
        assert_eq!(payload, expected);
        assert_eq!((8 + padded) % 64, 0);
    }

    #[test]
    fn other_readers_read_it_and_the_order_given_does_not_matter() {
        let (a, b) = (Shape::new([2, 2]), Shape::new([]));
        let x = write(&[("a\"", DType::F32, &a, &[1; 16]), ("é", DType::F16, &b, &[2; 2])]).unwrap();
        let y = write(&[("é", DType::F16, &b, &[2; 2]), ("a\"", DType::F32, &a, &[1; 16])]).unwrap();
        assert_eq!(x, y);
        let read = safetensors::SafeTensors::deserialize(&x).unwrap();
        assert_eq!(read.tensor("a\"").unwrap().shape(), [2, 2]);
        assert_eq!(read.tensor("é").unwrap().data(), [2; 2]);
        assert_eq!(super::super::header::parse(&x, 1 << 20).unwrap().len(), 2);
        assert_eq!(super::super::header::parse(&write(&[]).unwrap(), 1 << 20).unwrap(), []);
    }

    #[test]
    fn used_memory_keeps_nothing_but_what_the_places_hold() {
        let (a, b) = (Shape::new([3, 64]), Shape::new([5]));
        let layout = PayloadLayout::new(&[("a", DType::I4, &a), ("b", DType::F32, &b)]).unwrap();
        let zeroed = layout.zeroed();
        for len in [0, zeroed.len() - 1, zeroed.len(), zeroed.len() + 1] {
            let mut payload = layout.reuse(vec![0xff; len]);
            for (name, place) in layout.places(&mut payload) {
                assert!(len < zeroed.len() || place.iter().all(|byte| *byte == 0xff), "{name}");
                place.fill(0);
            }
            assert_eq!(payload, zeroed, "{len}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let shape = Shape::new([2]);
        let tensor = ("a", DType::I8, &shape, &[0u8; 2][..]);
        assert!(matches!(write(&[tensor, tensor]), Err(TensorError::DuplicateTensor { .. })));
        assert!(matches!(write(&[("a", DType::I8, &shape, &[0; 3])]), Err(TensorError::Size { .. })));
        // Not stored under one name, but given under one.
        let (whole, packed) = (Shape::new([8]), Shape::new([1, 32]));
        let both = [("a", DType::F32, &whole, &[0; 32][..]), ("a", DType::I4, &packed, &[0; 16][..])];
        assert!(matches!(write(&both), Err(TensorError::DuplicateTensor { .. })));
        let refused = |shape: &Shape, dtype| {
            matches!(write(&[("a", dtype, shape, &[])]), Err(TensorError::Size { actual: 0, .. }))
        };
        assert!(refused(&Shape::new([usize::MAX, 2]), DType::I8));
        // Shapes that their data does not have: nothing is allocated for them.
        for dtype in [DType::F32, DType::I4] {
            assert!(refused(&Shape::new([1 << 24, 1 << 24]), dtype));
        }
        // Data that fits, but not with the header before it, and two whose sum wraps.
        let half = Shape::new([usize::MAX / 2]);
        assert!(refused(&half, DType::I8));
        assert!(matches!(
            write(&[("a", DType::I8, &half, &[]), ("b", DType::I8, &half, &[])]),
            Err(TensorError::Size { .. })
        ));
        let deep = Shape::new([1; 9]);
        assert!(matches!(write(&[("a", DType::I8, &deep, &[0])]), Err(TensorError::Rank { rank: 9, .. })));
    }
}
