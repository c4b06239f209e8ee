//! Owns [`TensorBlock`]: a weight payload as named tensors, parsed once, never copied.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::error::TensorError;
use super::header::{self, TensorEntry};
use super::view::TensorView;
use super::{packed, scale_layout, scale_name};
use crate::chain::Chain;
use crate::dtype::{DType, Shape};
use crate::hash::BlockHash;
use crate::storage::Payload;

/// Longest header of a block's payload: it holds the tensors of one slot, a few dozen at most.
pub(crate) const MAX_BLOCK_HEADER_BYTES: u64 = 1 << 20;

/// A weight block's payload as named, typed, shaped views. Cloning shares it.
#[derive(Clone)]
pub struct TensorBlock(Arc<Inner>);

struct Inner {
    payload: Payload,
    tensors: TensorMap,
}

impl TensorBlock {
    /// Opens a weight block: verifies its payload, once per open chain, and parses it.
    ///
    /// # Errors
    ///
    /// [`TensorError::Chain`] if the block is missing or damaged, [`TensorError::NotWeights`], or
    /// [`TensorError::InBlock`] if its payload is no set of tensors.
    pub fn open(chain: &Chain, block: &BlockHash) -> Result<Self, TensorError> {
        let found = chain.get(block)?;
        let kind = found.header().kind;
        if !kind.is_weights() {
            return Err(TensorError::NotWeights { block: *block, kind });
        }
        Self::from_payload(chain.payload_of(&found)?)
            .map_err(|source| TensorError::InBlock { block: *block, source: Box::new(source) })
    }

    /// Parses a payload: types, shapes, offsets, and a valid scale for each row of each quantized
    /// tensor. Costs time in the number of tensors and scales, not of weights.
    ///
    /// # Errors
    ///
    /// [`TensorError`] naming the tensor and what is wrong with it.
    pub fn from_payload(payload: Payload) -> Result<Self, TensorError> {
        let tensors = TensorMap::parse(&payload)?;
        Ok(Self(Arc::new(Inner { payload, tensors })))
    }

    /// The tensor of that name. Costs the same whatever its size.
    ///
    /// # Errors
    ///
    /// [`TensorError::Missing`] listing the names that are there.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, TensorError> {
        self.get(name).ok_or_else(|| TensorError::Missing {
            tensor: name.to_owned(),
            present: self.0.tensors.0.keys().cloned().collect(),
        })
    }

    /// The tensor of that name, if there is one. Costs the same whatever its size.
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.0.tensors.get(&self.0.payload, name)
    }

    /// The scales of the quantized tensor `name`, (rows, 1) of F32, or for I4 (rows, cols / 32) of BF16;
    /// `None` for a float tensor.
    pub fn scale(&self, name: &str) -> Option<TensorView<'_>> {
        self.get(name).filter(|view| view.dtype().is_quantized())?;
        self.get(&scale_name(name))
    }

    /// All tensors with their names, in byte order of names. An I4 matrix is one tensor here, whatever it
    /// is stored as.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, TensorView<'_>)> {
        self.0.tensors.views(&self.0.payload)
    }

    /// The whole payload, header and all.
    pub fn payload(&self) -> &[u8] {
        &self.0.payload
    }

    /// Where a view of this block lies in its payload.
    pub(crate) fn payload_range(&self, name: &str) -> Option<Range<usize>> {
        self.0.tensors.0.get(name).map(|entry| entry.bytes.clone())
    }
}

impl fmt::Debug for TensorBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.tensors().map(|(name, view)| (name, (view.dtype(), view.shape()))))
            .finish()
    }
}

/// The parsed header of a block's payload, whoever holds the bytes.
pub(crate) struct TensorMap(BTreeMap<String, Entry>);

#[derive(Debug)]
struct Entry {
    dtype: DType,
    shape: Shape,
    /// Inside the payload: checked when it was parsed.
    bytes: Range<usize>,
}

impl TensorMap {
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, TensorError> {
        let entries = header::parse(payload, MAX_BLOCK_HEADER_BYTES)?;
        let (matrices, others) = packed::take_matrices(entries, payload)?;
        let mut tensors = Self(others.into_iter().map(Entry::new).collect::<Result<_, _>>()?);
        let matrices = matrices.into_iter();
        tensors.0.extend(matrices.map(|(name, shape, data)| (name, Entry::packed(shape, &data))));
        for (_, view) in tensors.views(payload) {
            tensors.check_scale(payload, &view)?;
        }
        Ok(tensors)
    }

    /// The tensor of that name in `payload`, which must be the bytes that were parsed.
    pub(crate) fn get<'a>(&'a self, payload: &'a [u8], name: &str) -> Option<TensorView<'a>> {
        let (name, entry) = self.0.get_key_value(name)?;
        Some(entry.view(payload, name))
    }

    pub(crate) fn views<'a>(
        &'a self,
        payload: &'a [u8],
    ) -> impl ExactSizeIterator<Item = (&'a str, TensorView<'a>)> {
        self.0.iter().map(|(name, entry)| (name.as_str(), entry.view(payload, name)))
    }

    /// A quantized tensor is a matrix whose rows, or their groups, have one usable scale each.
    fn check_scale(&self, payload: &[u8], view: &TensorView<'_>) -> Result<(), TensorError> {
        if !view.dtype().is_quantized() {
            return Ok(());
        }
        let rows = view.shape().dims().first().copied().unwrap_or(1);
        let bad = || TensorError::Scale { tensor: view.name().to_owned(), dtype: view.dtype(), rows };
        let (dtype, shape) = scale_layout(view.dtype(), view.shape()).ok_or_else(bad)?;
        let scale = self.get(payload, &scale_name(view.name())).ok_or_else(bad)?;
        if scale.dtype() != dtype || *scale.shape() != shape {
            return Err(bad());
        }
        let unusable = match dtype {
            // The largest of a group may be above or below zero, and so may the scale.
            DType::BF16 => scale.data().as_chunks().0.iter().position(|bytes| {
                let magnitude = u16::from_le_bytes(*bytes) & 0x7fff;
                magnitude == 0 || magnitude >= 0x7f80
            }),
            _ => scale.data().as_chunks().0.iter().position(|bytes| {
                let value = f32::from_le_bytes(*bytes);
                !(value.is_finite() && value > 0.0)
            }),
        };
        let Some(index) = unusable else { return Ok(()) };
        let row = index / shape.dims().last().copied().unwrap_or(1).max(1);
        let value = scale.get_f32(index).unwrap_or(f32::NAN);
        Err(TensorError::ScaleValue { tensor: scale.name().to_owned(), row, value })
    }
}

impl Entry {
    fn new(entry: TensorEntry) -> Result<(String, Self), TensorError> {
        let (dtype, bytes) = (entry.supported_dtype()?, Self::range(&entry));
        Ok((entry.name, Self { dtype, shape: entry.shape, bytes }))
    }

    /// An I4 matrix, whose bytes are those of its packed form.
    fn packed(shape: Shape, data: &TensorEntry) -> Self {
        Self { dtype: DType::I4, shape, bytes: Self::range(data) }
    }

    fn range(entry: &TensorEntry) -> Range<usize> {
        // The header was checked against the payload's length, which fits memory.
        let [start, end] =
            [entry.bytes.start, entry.bytes.end].map(|at| usize::try_from(at).unwrap_or(usize::MAX));
        start..end
    }

    fn view<'a>(&'a self, payload: &'a [u8], name: &'a str) -> TensorView<'a> {
        let data = payload.get(self.bytes.clone()).unwrap_or_default();
        TensorView { name, dtype: self.dtype, shape: &self.shape, data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::write;

    fn block(tensors: &[(&str, DType, &Shape, &[u8])]) -> Result<TensorBlock, TensorError> {
        TensorBlock::from_payload(write(tensors).unwrap().into())
    }

    #[test]
    fn views_are_aligned_and_not_copied() {
        let (matrix, vector) = (Shape::new([8, 16]), Shape::new([3]));
        let data: Vec<u8> = (0..=255).collect();
        let block =
            block(&[("norm", DType::BF16, &vector, &data[..6]), ("w", DType::BF16, &matrix, &data)]).unwrap();
        let view = block.tensor("w").unwrap();
        assert_eq!((view.dtype(), view.shape().dims(), view.data()), (DType::BF16, &[8, 16][..], &data[..]));
        let within = view.data().as_ptr().addr() - block.payload().as_ptr().addr();
        assert_eq!(within % super::super::ALIGNMENT, 0);
        assert_eq!(block.clone().tensor("w").unwrap().data().as_ptr(), view.data().as_ptr());
        assert_eq!(view.rows().len(), 8);
        assert_eq!(view.get_f32(3), Some(view.to_f32_vec()[3]));
        assert_eq!(view.get_f32(128), None);
        assert_eq!(block.tensors().map(|(name, _)| name).collect::<Vec<_>>(), ["norm", "w"]);
        assert!(matches!(block.tensor("x"), Err(TensorError::Missing { .. })));
    }

    #[test]
    fn scales_are_checked() {
        let (matrix, rows, flat) = (Shape::new([2, 3]), Shape::new([2, 1]), Shape::new([2]));
        let scales = |values: [f32; 2]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let good = scales([0.5, f32::MIN_POSITIVE]);
        let weight = ("w", DType::I8, &matrix, &[1u8; 6][..]);
        let whole = block(&[weight, ("w_scale", DType::F32, &rows, &good)]).unwrap();
        assert_eq!(whole.scale("w").unwrap().to_f32_vec(), [0.5, f32::MIN_POSITIVE]);
        assert!(whole.scale("w_scale").is_none());
        for tensors in [
            vec![weight],
            vec![weight, ("w_scale", DType::F32, &flat, &good[..])],
            vec![weight, ("w_scale", DType::F16, &rows, &good[..4])],
            vec![("w", DType::I8, &flat, &[1; 2]), ("w_scale", DType::F32, &rows, &good)],
        ] {
            assert!(matches!(block(&tensors), Err(TensorError::Scale { .. })));
        }
        for bad in [f32::NAN, f32::INFINITY, 0.0, -1.0] {
            let bad = scales([1.0, bad]);
            assert!(matches!(
                block(&[weight, ("w_scale", DType::F32, &rows, &bad)]),
                Err(TensorError::ScaleValue { row: 1, .. })
            ));
        }
    }

    #[test]
    fn i4_is_read_in_place_and_checked() {
        let (matrix, scales, flat) = (Shape::new([2, 64]), Shape::new([2, 2]), Shape::new([4]));
        let data: Vec<u8> = (0..64).collect();
        let ones = 0xbf80u16.to_le_bytes().repeat(4);
        let weight = ("w", DType::I4, &matrix, &data[..]);
        let payload = write(&[weight, ("w_scale", DType::BF16, &scales, &ones)]).unwrap();

        // Another reader sees the tensors of compressed-tensors.
        let stored = safetensors::SafeTensors::deserialize(&payload).unwrap();
        let packed = stored.tensor("w_packed").unwrap();
        assert_eq!((packed.dtype(), packed.shape()), (safetensors::Dtype::I32, &[2, 8][..]));
        let shape = stored.tensor("w_shape").unwrap();
        assert_eq!((shape.dtype(), shape.shape()), (safetensors::Dtype::I64, &[2][..]));
        assert_eq!(shape.data(), [2u64.to_le_bytes(), 64u64.to_le_bytes()].concat());

        let whole = TensorBlock::from_payload(payload.clone().into()).unwrap();
        assert_eq!(whole.tensors().map(|(name, _)| name).collect::<Vec<_>>(), ["w", "w_scale"]);
        let view = whole.tensor("w").unwrap();
        assert_eq!(
            (view.dtype(), view.shape(), view.data(), view.len()),
            (DType::I4, &matrix, &data[..], 128)
        );
        let values = view.to_f32_vec();
        assert_eq!(values[62..66], [7.0, -7.0, -8.0, -6.0]);
        assert!((0..128).all(|i| view.get_f32(i) == Some(values[i])) && view.get_f32(128).is_none());
        assert_eq!(whole.scale("w").unwrap().to_f32_vec(), [-1.0; 4]);

        for tensors in [
            vec![weight],
            vec![weight, ("w_scale", DType::BF16, &flat, &ones[..])],
            vec![weight, ("w_scale", DType::F16, &scales, &ones[..])],
        ] {
            assert!(matches!(block(&tensors), Err(TensorError::Scale { .. })));
        }
        for bad in [0u16, 0x8000, 0x7f80, 0xff80, 0x7fc1] {
            let mut scale = ones.clone();
            scale[4..6].copy_from_slice(&bad.to_le_bytes());
            let found = block(&[weight, ("w_scale", DType::BF16, &scales, &scale)]);
            assert!(matches!(found, Err(TensorError::ScaleValue { row: 1, .. })), "{bad:#x}");
        }
        let text = |from: &str, to: &str| {
            let mut bytes = payload.clone();
            let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
            assert_eq!(from.len(), to.len());
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
            TensorBlock::from_payload(bytes.into())
        };
        for (from, to) in [
            ("w_shape", "w_shap_"),
            (r#"I64","shape":[2]"#, r#"F64","shape":[2]"#),
            (r#""shape":[2,8]"#, r#""shape":[8,2]"#),
            (r#"I64","shape":[2]"#, r#"I8","shape":[16]"#),
        ] {
            assert!(
                matches!(text(from, to), Err(TensorError::Packed { tensor, .. }) if tensor == "w"),
                "{to}"
            );
        }
        assert!(
            matches!(text("w_packed", "w_picked"), Err(TensorError::DType { dtype, .. }) if dtype == "I32")
        );
        assert!(matches!(text(r#""I32""#, r#""U32""#), Err(TensorError::DType { .. })));
        let twice = write(&[weight, ("w_packed", DType::I8, &flat, &[0; 4])]);
        assert!(matches!(twice, Err(TensorError::DuplicateTensor { tensor }) if tensor == "w_packed"));
        for dims in [[2u64, 63], [2, 65], [4, 32], [u64::MAX, 64], [2, 1 << 63], [2, 0]] {
            let mut bytes = payload.clone();
            let end = bytes.len() - 8;
            // The shape stands last: behind the weights for its size, behind the scales for its name.
            bytes[end - 8..].copy_from_slice(&dims.map(u64::to_le_bytes).concat());
            assert!(TensorBlock::from_payload(bytes.into()).is_err(), "{dims:?}");
        }
        let odd = Shape::new([2, 48]);
        assert!(matches!(write(&[("w", DType::I4, &odd, &data[..48])]), Err(TensorError::Packed { .. })));
        let cube = Shape::new([1, 2, 32]);
        assert!(matches!(write(&[("w", DType::I4, &cube, &data[..32])]), Err(TensorError::Packed { .. })));
        let small = Shape::new([4]);
        let beside =
            write(&[("v", DType::I8, &small, &[0; 4]), weight, ("w_scale", DType::BF16, &scales, &ones)]);
        let mut beside = beside.unwrap();
        let at = beside.windows(3).position(|window| window == br#""v""#).unwrap();
        beside[at + 1] = b'w';
        let error = TensorBlock::from_payload(beside.into()).unwrap_err();
        assert!(matches!(error, TensorError::Packed { tensor, .. } if tensor == "w"));
    }

    #[test]
    fn types_that_blocks_cannot_hold_are_named() {
        let payload = write(&[("w", DType::I8, &Shape::new([2]), &[0; 2])]).unwrap();
        let text = String::from_utf8(payload).unwrap().replace("\"I8\"", "\"U8\"");
        let error = TensorBlock::from_payload(text.into_bytes().into()).unwrap_err();
        assert!(matches!(error, TensorError::DType { dtype, .. } if dtype == "U8"));
    }
}
