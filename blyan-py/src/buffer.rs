//! Owns filling in the buffer protocol's structure, and float arrays for Python.

#![expect(unsafe_code, reason = "the buffer protocol is a C interface")]

use std::ffi::{CStr, c_int};

use pyo3::exceptions::{PyBufferError, PyImportError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyTuple};

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
    let memory = PyByteArray::new_with(py, size_of_val(values), |bytes| {
        for (bytes, value) in bytes.chunks_exact_mut(size_of::<f32>()).zip(values) {
            bytes.copy_from_slice(&value.to_ne_bytes());
        }
        Ok(())
    })?;
    let shape = PyTuple::new(py, shape)?;
    match py.import("numpy") {
        Ok(numpy) => numpy.call_method1("frombuffer", (memory, "f4"))?.call_method1("reshape", (shape,)),
        Err(error) if error.is_instance_of::<PyImportError>(py) => {
            let view = py.import("builtins")?.getattr("memoryview")?.call1((memory,))?;
            view.call_method1("cast", ("f", shape))
        }
        Err(error) => Err(error),
    }
}
