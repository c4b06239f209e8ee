//! Owns tensors: views into a weight block's payload, writing payloads, converting elements.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::{c_char, c_void};

use blyan_core::tensor;
use blyan_core::{DType, Payload, Shape, TensorBlock, TensorView};

use crate::block::blyan_payload;
use crate::chain::blyan_chain;
use crate::edge::{copy_out, describe, free, new_handle, out, read, slice, text};
use crate::error::{Failure, Outcome, blyan_status, edge};
use crate::hash::blyan_hash;
use crate::text::{Text, blyan_str};

/// Element type of a tensor; little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum blyan_dtype {
    /// As an option: as it is.
    Keep = 0,
    /// IEEE 754 binary32: C's float.
    F32 = 1,
    /// bfloat16: the upper half of a binary32, as uint16_t.
    Bf16 = 2,
    /// IEEE 754 binary16, as uint16_t.
    F16 = 3,
    /// 8-bit float with 4 exponent and 3 mantissa bits, no infinities (OCP E4M3FN), as uint8_t.
    F8E4M3 = 4,
    /// int8_t.
    I8 = 5,
    /// 4-bit integers, stored plus 8, two in a uint8_t, the first in the low half. A tensor of this type has
    /// half as many bytes as elements, and its scales are BF16, one for each 32 columns of a row.
    I4 = 6,
}

pub(crate) fn dtype_number(dtype: DType) -> i32 {
    let number = match dtype {
        DType::F32 => blyan_dtype::F32,
        DType::BF16 => blyan_dtype::Bf16,
        DType::F16 => blyan_dtype::F16,
        DType::F8E4M3 => blyan_dtype::F8E4M3,
        DType::I8 => blyan_dtype::I8,
        DType::I4 => blyan_dtype::I4,
    };
    number as i32
}

/// The type of an option; none for `BLYAN_DTYPE_KEEP`.
pub(crate) fn dtype_option(dtype: i32) -> Outcome<Option<DType>> {
    let of_number = |number: i32| DType::ALL.into_iter().find(|known| dtype_number(*known) == number);
    match (dtype == blyan_dtype::Keep as i32, of_number(dtype)) {
        (true, _) => Ok(None),
        (_, Some(dtype)) => Ok(Some(dtype)),
        _ => Err(Failure::argument(format!("dtype {dtype} is none: expected a blyan_dtype"))),
    }
}

/// The type of an argument.
pub(crate) fn dtype_of(dtype: i32) -> Outcome<DType> {
    dtype_option(dtype)?.ok_or_else(|| Failure::argument("BLYAN_DTYPE_KEEP is no type of a tensor"))
}

/// The tensors of a weight block: views into its mapped payload, which stay when the chain is closed.
pub struct blyan_tensors {
    block: TensorBlock,
    names: Vec<Text>,
}

impl blyan_tensors {
    fn new(block: TensorBlock) -> Self {
        let names = block.tensors().map(|(name, _)| Text::new(name)).collect();
        Self { block, names }
    }

    fn describe(&self, view: &TensorView<'_>) -> Outcome<blyan_tensor> {
        let mut names = self.names.iter().map(Text::view);
        let tensors = self.block.tensors();
        let name = tensors.zip(&mut names).find(|((name, _), _)| *name == view.name()).map(|(_, name)| name);
        Ok(blyan_tensor {
            name: name.unwrap_or(crate::text::EMPTY),
            data: view.data().as_ptr().cast(),
            nbytes: view.data().len(),
            dims: view.shape().dims().as_ptr(),
            rank: view.shape().dims().len(),
            dtype: dtype_number(view.dtype()),
            reserved: 0,
        })
    }
}

/// One tensor: where its elements are, nothing copied. Valid as long as the `blyan_tensors` that it came
/// from.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_tensor {
    /// Its name inside the block, such as "gate_proj.weight".
    pub name: blyan_str,
    /// The elements: little-endian, row-major, read-only. In blocks that an import made they are aligned
    /// to 64 bytes.
    pub data: *const c_void,
    /// Number of bytes.
    pub nbytes: usize,
    /// Dimensions, outermost first.
    pub dims: *const usize,
    /// Number of dimensions.
    pub rank: usize,
    /// A `blyan_dtype`.
    pub dtype: i32,
    /// 0.
    pub reserved: i32,
}

/// Opens the tensors of a weight block; its payload is verified, once per open chain.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_tensors_open(
    chain: *const blyan_chain,
    block: *const blyan_hash,
    tensors: *mut *mut blyan_tensors,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (tensors, chain, block) =
            unsafe { (new_handle(tensors, "tensors")?, read(chain, "chain")?, read(block, "block")?) };
        tensors.set(blyan_tensors::new(TensorBlock::open(&chain.chain, &block.block())?));
        Ok(())
    })
}

/// Reads the tensors of a payload that the program holds, a safetensors file; it is copied.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_tensors_parse(
    payload: *const c_void,
    payload_len: usize,
    tensors: *mut *mut blyan_tensors,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (tensors, payload) = unsafe {
            (new_handle(tensors, "tensors")?, slice(payload.cast::<u8>(), payload_len, "payload")?)
        };
        let payload = Payload::from(payload.to_vec());
        tensors.set(blyan_tensors::new(TensorBlock::from_payload(payload)?));
        Ok(())
    })
}

/// Number of tensors; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_tensors_len(tensors: *const blyan_tensors) -> usize {
    // SAFETY: NULL or a handle.
    unsafe { tensors.as_ref() }.map_or(0, |tensors| tensors.names.len())
}

/// One of the tensors, in byte order of names; `size` is `sizeof *tensor`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_tensors_get(
    tensors: *const blyan_tensors,
    index: usize,
    tensor: *mut blyan_tensor,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let tensors = unsafe { read(tensors, "tensors") }?;
        let (_, view) = tensors.block.tensors().nth(index).ok_or_else(|| {
            Failure::argument(format!("index {index} is out of range: there are {}", tensors.names.len()))
        })?;
        // SAFETY: as above.
        unsafe { describe(tensor, size, "tensor", tensors.describe(&view)?) }
    })
}

/// The tensor of a name; `size` is `sizeof *tensor`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_tensors_find(
    tensors: *const blyan_tensors,
    name: *const c_char,
    name_len: usize,
    tensor: *mut blyan_tensor,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (tensors, name) = unsafe { (read(tensors, "tensors")?, text(name, name_len, "name")?) };
        let view = tensors.block.tensor(name)?;
        // SAFETY: as above.
        unsafe { describe(tensor, size, "tensor", tensors.describe(&view)?) }
    })
}

/// The scales of the quantized tensor of a name: (rows, 1) of F32, for I4 (rows, cols / 32) of BF16.
/// `BLYAN_STATUS_NOT_FOUND` for a float tensor. `size` is `sizeof *scale`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_tensors_scale(
    tensors: *const blyan_tensors,
    name: *const c_char,
    name_len: usize,
    scale: *mut blyan_tensor,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (tensors, name) = unsafe { (read(tensors, "tensors")?, text(name, name_len, "name")?) };
        tensors.block.tensor(name)?;
        let none = || Failure::new(blyan_status::NotFound, format!("tensor {name:?} has no scales"));
        let view = tensors.block.scale(name).ok_or_else(none)?;
        // SAFETY: as above.
        unsafe { describe(scale, size, "scale", tensors.describe(&view)?) }
    })
}

/// Widens a tensor's elements to float, exactly; quantized ones are not multiplied by their scale.
/// `values_len` must be the number of elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_tensors_to_f32(
    tensors: *const blyan_tensors,
    name: *const c_char,
    name_len: usize,
    values: *mut f32,
    values_len: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (tensors, name) = unsafe { (read(tensors, "tensors")?, text(name, name_len, "name")?) };
        let view = tensors.block.tensor(name)?;
        if view.len() != values_len {
            let len = view.len();
            return Err(Failure::size(format!("values has room for {values_len}, {len} are needed")));
        }
        // SAFETY: as above.
        unsafe { copy_out(&view.to_f32_vec(), values, values_len, "values") }
    })
}

/// Frees the tensors of a block; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_tensors_free(tensors: *mut blyan_tensors) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(tensors) }
}

/// What a `blyan_tensor` of the caller says.
struct Given<'a> {
    name: &'a str,
    dtype: DType,
    shape: Shape,
    data: &'a [u8],
}

/// # Safety
///
/// The tensor's pointers are valid while `'a` lasts.
unsafe fn given<'a>(tensor: &blyan_tensor) -> Outcome<Given<'a>> {
    // SAFETY: the caller's promise.
    let (name, dims, data) = unsafe {
        (
            text(tensor.name.data, tensor.name.len, "tensor's name")?,
            slice(tensor.dims, tensor.rank, "tensor's dims")?,
            slice(tensor.data.cast::<u8>(), tensor.nbytes, "tensor's data")?,
        )
    };
    Ok(Given { name, dtype: dtype_of(tensor.dtype)?, shape: Shape::new(dims), data })
}

/// Writes tensors as the payload of a weight block: canonical safetensors, the same bytes for the same
/// tensors whatever their order.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_tensors_write(
    tensors: *const blyan_tensor,
    tensors_len: usize,
    payload: *mut *mut blyan_payload,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (payload, tensors) =
            unsafe { (new_handle(payload, "payload")?, slice(tensors, tensors_len, "tensors")?) };
        // SAFETY: as above.
        let given: Vec<Given<'_>> =
            tensors.iter().map(|tensor| unsafe { given(tensor) }).collect::<Outcome<_>>()?;
        let given: Vec<_> =
            given.iter().map(|tensor| (tensor.name, tensor.dtype, &tensor.shape, tensor.data)).collect();
        payload.set(blyan_payload(tensor::write(&given)?.into()));
        Ok(())
    })
}

/// Rounds elements to another float type, to nearest even; `out_len` must be the bytes that they need.
/// Both are a `blyan_dtype`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_convert(
    from: i32,
    source: *const c_void,
    source_len: usize,
    to: i32,
    out: *mut c_void,
    out_len: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let source = unsafe { slice(source.cast::<u8>(), source_len, "source") }?;
        let (from, to) = (dtype_of(from)?, dtype_of(to)?);
        let expected = source_len / from.size_bytes() * to.size_bytes();
        if !source_len.is_multiple_of(from.size_bytes()) || expected != out_len {
            return Err(Failure::size(format!(
                "{source_len} bytes of {from} are {expected} bytes of {to}, out has room for {out_len}"
            )));
        }
        let mut converted = vec![0; out_len];
        tensor::convert_into(from, source, to, &mut converted)?;
        // SAFETY: as above.
        unsafe { copy_out(&converted, out.cast::<u8>(), out_len, "out") }
    })
}

/// Quantizes a float matrix to `BLYAN_DTYPE_I8` or `BLYAN_DTYPE_F8E4M3`, one scale a row, as an import
/// does; `data_len` must be its elements, `scales_len` its rows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_quantize(
    source: *const blyan_tensor,
    to: i32,
    data: *mut c_void,
    data_len: usize,
    scales: *mut f32,
    scales_len: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let given = unsafe { given(read(source, "source")?) }?;
        let to = dtype_of(to)?;
        if to == DType::I4 {
            // Its scales are BF16, and more than one a row: the caller's would be too few.
            return Err(Failure::argument(
                "I4 has a BF16 scale for each 32 columns: blyan_quantize_i4 gives them",
            ));
        }
        let view = TensorView::new(given.name, given.dtype, &given.shape, given.data)?;
        let rows = given.shape.dims().first().copied().unwrap_or(0);
        if view.is_empty() || (data_len, scales_len) != (view.len(), rows) {
            return Err(Failure::size(format!(
                "room for {data_len} elements and {scales_len} scales, {} and {rows} are needed",
                view.len()
            )));
        }
        // SAFETY: as above.
        unsafe { both(data, scales) }?;
        let quantized = tensor::quantize(to, &view)?;
        // SAFETY: as above; a scale is four little-endian bytes, and every target is little-endian.
        unsafe {
            copy_out(&quantized.values, data.cast::<u8>(), data_len, "data")?;
            copy_out(&quantized.scales, scales.cast::<u8>(), quantized.scales.len(), "scales")
        }
    })
}

/// Sees that neither buffer is missing before one of them is written.
///
/// # Safety
///
/// As [`out`].
unsafe fn both<T>(data: *mut c_void, scales: *mut T) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe {
        out(data.cast::<u8>(), "data")?;
        out(scales, "scales")?;
    }
    Ok(())
}

/// Quantizes a float matrix to `BLYAN_DTYPE_I4`, as an import does, with a BF16 scale for each 32 columns of a
/// row; `data_len` must be half of its elements in bytes, as two share one, `scales_len` the groups of all rows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_quantize_i4(
    source: *const blyan_tensor,
    data: *mut c_void,
    data_len: usize,
    scales: *mut u16,
    scales_len: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let given = unsafe { given(read(source, "source")?) }?;
        let view = TensorView::new(given.name, given.dtype, &given.shape, given.data)?;
        let quantized = tensor::quantize(DType::I4, &view)?;
        let (values, groups) = (quantized.values.len(), quantized.scales.len() / size_of::<u16>());
        if (data_len, scales_len) != (values, groups) {
            return Err(Failure::size(format!(
                "room for {data_len} bytes and {scales_len} scales, {values} and {groups} are needed"
            )));
        }
        if values > 0 {
            // SAFETY: as above.
            unsafe { both(data, scales) }?;
        }
        // SAFETY: as above; a scale is two little-endian bytes, and every target is little-endian.
        unsafe {
            copy_out(&quantized.values, data.cast::<u8>(), data_len, "data")?;
            copy_out(&quantized.scales, scales.cast::<u8>(), quantized.scales.len(), "scales")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_number_and_others_are_refused() {
        for dtype in DType::ALL {
            assert_eq!(dtype_option(dtype_number(dtype)).unwrap(), Some(dtype));
        }
        assert_eq!(dtype_option(0).unwrap(), None);
        assert!(dtype_of(0).is_err());
        assert!(dtype_option(7).is_err());
        assert!(dtype_option(-1).is_err());
    }
}
