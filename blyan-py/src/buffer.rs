//! Owns bytes on their way into Python and out of it: buffers of others, buffers of ours, `bytes` and float
//! arrays. What is copied is copied without the interpreter's lock.

#![expect(unsafe_code, reason = "the buffer protocol is a C interface")]

use std::ffi::{CStr, c_int};

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyImportError, PyMemoryError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

/// Memory that a buffer holds on to, with what it takes to walk through it.
struct Source<'a> {
    start: *const u8,
    shape: &'a [usize],
    strides: &'a [isize],
    itemsize: usize,
    len: usize,
    is_row_major: bool,
}

// SAFETY: the pointer is read by `copy` alone, which says under what condition.
unsafe impl Send for Source<'_> {}

impl Source<'_> {
    /// The bytes in row-major order; `None` if there is no memory for them.
    ///
    /// # Safety
    ///
    /// The buffer that `self` was made of is held on to meanwhile. Another thread of Python may write to its
    /// memory, as it may while `hashlib` or a file reads it: then the copy has some of either.
    unsafe fn copy(self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(self.len).ok()?;
        if self.len == 0 {
            // The pointer may be null.
        } else if self.is_row_major {
            // SAFETY: a contiguous buffer has `len` bytes from its start on, and `bytes` has room for them.
            unsafe { std::ptr::copy_nonoverlapping(self.start, bytes.as_mut_ptr(), self.len) };
            // SAFETY: they were just written.
            unsafe { bytes.set_len(self.len) };
        } else {
            // SAFETY: shape and strides are the buffer's.
            unsafe { gather(self.start, self.shape, self.strides, self.itemsize, &mut bytes) };
        }
        Some(bytes)
    }
}

/// Appends the items of a strided array in row-major order.
///
/// # Safety
///
/// Every item that `shape` and `strides` reach from `start` is `itemsize` readable bytes.
unsafe fn gather(start: *const u8, shape: &[usize], strides: &[isize], itemsize: usize, into: &mut Vec<u8>) {
    let (Some((&count, shape)), Some((&stride, strides))) = (shape.split_first(), strides.split_first())
    else {
        // SAFETY: an item, by the caller's word.
        into.extend_from_slice(unsafe { std::slice::from_raw_parts(start, itemsize) });
        return;
    };
    let mut at = start;
    for _ in 0..count {
        // SAFETY: the items below this index are some of those below `start`.
        unsafe { gather(at, shape, strides, itemsize, into) };
        // After the last index this points nowhere, and is not read.
        at = at.wrapping_offset(stride);
    }
}

/// The bytes of any object that has the buffer protocol, whatever its items are, in row-major order.
pub(crate) fn bytes_of(given: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let py = given.py();
    let no_memory = || PyMemoryError::new_err(());
    if let Ok(bytes) = given.cast::<PyBytes>() {
        let bytes = bytes.as_bytes();
        return Ok(py.detach(|| bytes.to_vec()));
    }
    let buffer = match PyUntypedBuffer::get(given) {
        Ok(buffer) if buffer.suboffsets().is_none() => buffer,
        // An array of pointers to arrays, which numpy never makes; a single item, which has no shape; or no
        // buffer at all, of which Python's own error tells.
        _ => {
            let memory = py.import("builtins")?.getattr("memoryview")?.call1((given,))?;
            return memory.call_method0("tobytes")?.extract();
        }
    };
    let source = Source {
        start: buffer.buf_ptr().cast::<u8>().cast_const(),
        shape: buffer.shape(),
        strides: buffer.strides(),
        itemsize: buffer.item_size(),
        len: buffer.len_bytes(),
        is_row_major: buffer.is_c_contiguous(),
    };
    // SAFETY: `buffer` is released after this.
    let bytes = py.detach(move || unsafe { source.copy() });
    buffer.release(py);
    bytes.ok_or_else(no_memory)
}

/// New memory of Python's that nobody else knows of yet.
struct Fresh(*mut u8);

// SAFETY: whoever has it is the only one.
unsafe impl Send for Fresh {}

impl Fresh {
    /// # Safety
    ///
    /// The memory has room for all of `bytes`.
    unsafe fn write(self, bytes: &[u8]) {
        // SAFETY: new memory, so it is no part of `bytes`; the rest is the caller's word.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0, bytes.len()) };
    }
}

fn len_of(bytes: &[u8]) -> PyResult<ffi::Py_ssize_t> {
    ffi::Py_ssize_t::try_from(bytes.len()).map_err(|_| PyMemoryError::new_err(()))
}

/// A copy as `bytes`.
pub(crate) fn new_bytes<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let len = len_of(bytes)?;
    // SAFETY: without a source the interpreter makes an object of so many bytes for the caller to fill in.
    let made = unsafe { ffi::PyBytes_FromStringAndSize(std::ptr::null(), len) };
    // SAFETY: a new reference, or null with an exception set.
    let made = unsafe { Bound::from_owned_ptr_or_err(py, made) }?.cast_into::<PyBytes>()?;
    if !bytes.is_empty() {
        // SAFETY: the object is `bytes`.
        let memory = Fresh(unsafe { ffi::PyBytes_AsString(made.as_ptr()) }.cast());
        // SAFETY: made with that length.
        py.detach(move || unsafe { memory.write(bytes) });
    }
    Ok(made)
}

/// What a buffer says about its items. Lives in the object that exports it, which the buffer keeps.
pub(crate) struct Export {
    format: &'static CStr,
    itemsize: isize,
    shape: Box<[isize]>,
    /// Row-major.
    strides: Box<[isize]>,
}

impl Export {
    /// Shape and item size are those of something that is in memory: no product of them overflows.
    pub(crate) fn new(format: &'static CStr, itemsize: usize, dims: &[usize]) -> Self {
        let shape: Box<[isize]> =
            dims.iter().map(|&dim| isize::try_from(dim).unwrap_or(isize::MAX)).collect();
        let itemsize = isize::try_from(itemsize).unwrap_or(1);
        let mut strides = vec![itemsize; shape.len()].into_boxed_slice();
        for axis in (1..shape.len()).rev() {
            // Beside a dimension of 0 the others may be of any size.
            strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
        }
        Self { format, itemsize, shape, strides }
    }

    /// Whether the items also lie column-major: where no two dimensions have more than one.
    fn is_column_major(&self) -> bool {
        self.shape.contains(&0) || self.shape.iter().filter(|&&dim| dim > 1).count() <= 1
    }
}

/// Answers a request for a buffer with read-only memory.
///
/// # Safety
///
/// `view` is what the interpreter passed to `__getbuffer__`, and `data` stays valid and unchanged as
/// long as `owner` exists; `export` is part of `owner`.
pub(crate) unsafe fn fill(
    owner: &Bound<'_, PyAny>,
    view: *mut ffi::Py_buffer,
    flags: c_int,
    export: &Export,
    data: &[u8],
) -> PyResult<()> {
    // SAFETY: the interpreter passes a structure of its own, or null.
    let Some(view) = (unsafe { view.as_mut() }) else {
        return Err(PyBufferError::new_err("no buffer to fill in"));
    };
    view.obj = std::ptr::null_mut();
    if flags & ffi::PyBUF_WRITABLE == ffi::PyBUF_WRITABLE {
        return Err(PyBufferError::new_err("the memory is read-only: copy it to write"));
    }
    let wants = |flag: c_int| flags & flag == flag;
    if wants(ffi::PyBUF_F_CONTIGUOUS) && !export.is_column_major() {
        return Err(PyBufferError::new_err("the memory is row-major: copy it to have it column-major"));
    }
    view.buf = data.as_ptr().cast_mut().cast();
    view.len = isize::try_from(data.len()).unwrap_or(isize::MAX);
    view.readonly = 1;
    view.itemsize = export.itemsize;
    view.ndim = c_int::try_from(export.shape.len()).unwrap_or(c_int::MAX);
    let null = std::ptr::null_mut;
    view.format = if wants(ffi::PyBUF_FORMAT) { export.format.as_ptr().cast_mut() } else { null() };
    view.shape = if wants(ffi::PyBUF_ND) { export.shape.as_ptr().cast_mut() } else { std::ptr::null_mut() };
    let strides = wants(ffi::PyBUF_STRIDES);
    view.strides = if strides { export.strides.as_ptr().cast_mut() } else { std::ptr::null_mut() };
    view.suboffsets = std::ptr::null_mut();
    view.internal = std::ptr::null_mut();
    view.obj = owner.clone().into_ptr();
    Ok(())
}

/// A writable float32 array of its own memory: numpy's, or a `memoryview` where numpy is missing.
pub(crate) fn float_array<'py>(
    py: Python<'py>,
    values: &[f32],
    shape: &[usize],
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: any f32 is four bytes that can be read.
    let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) };
    let len = len_of(bytes)?;
    // SAFETY: without a source the interpreter makes an object of so many bytes for the caller to fill in.
    let memory = unsafe { ffi::PyByteArray_FromStringAndSize(std::ptr::null(), len) };
    // SAFETY: a new reference, or null with an exception set.
    let memory = unsafe { Bound::from_owned_ptr_or_err(py, memory) }?;
    // SAFETY: the object is a `bytearray`.
    let fresh = Fresh(unsafe { ffi::PyByteArray_AsString(memory.as_ptr()) }.cast());
    // SAFETY: made with that length.
    py.detach(move || unsafe { fresh.write(bytes) });
    let shape = PyTuple::new(py, shape)?;
    match py.import("numpy") {
        Ok(numpy) => numpy.call_method1("frombuffer", (memory, "f4"))?.call_method1("reshape", (shape,)),
        Err(error) if error.is_instance_of::<PyImportError>(py) => {
            let view = py.import("builtins")?.getattr("memoryview")?.call1((memory,))?;
            // A view with a dimension of none cannot be made.
            match values.is_empty() {
                true => view.call_method1("cast", ("f",)),
                false => view.call_method1("cast", ("f", shape)),
            }
        }
        Err(error) => Err(error),
    }
}
