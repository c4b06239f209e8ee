//! Owns DLPack: tensors for torch and others, sharing the mapped memory.
//!
//! The structures are those of dlpack.h, versions 0.8 (a capsule "dltensor") and 1.0
//! ("dltensor_versioned", which alone can say that memory is read-only).

#![expect(unsafe_code, reason = "DLPack is a C interface")]

use std::ffi::{CStr, c_void};

use blyan_core::dtype::DType;
use blyan_core::{TensorBlock, TensorView};
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::tensor::stored_dims;

/// Device type of main memory.
pub(crate) const CPU: i32 = 1;

const FLAG_READ_ONLY: u64 = 1;
const FLAG_IS_COPIED: u64 = 1 << 1;

const NAME: &CStr = c"dltensor";
const NAME_VERSIONED: &CStr = c"dltensor_versioned";

#[repr(C)]
struct DlDevice {
    device_type: i32,
    device_id: i32,
}

#[repr(C)]
struct DlDataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device: DlDevice,
    ndim: i32,
    dtype: DlDataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct DlManagedTensor {
    tensor: DlTensor,
    manager_ctx: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut DlManagedTensor)>,
}

#[repr(C)]
struct DlVersion {
    major: u32,
    minor: u32,
}

#[repr(C)]
struct DlManagedTensorVersioned {
    version: DlVersion,
    manager_ctx: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut DlManagedTensorVersioned)>,
    flags: u64,
    tensor: DlTensor,
}

/// What the structures point into; freed by their deleter, on any thread.
struct Kept {
    /// Keeps the map.
    _tensors: TensorBlock,
    /// Memory of its own, if the consumer has to have a copy.
    copy: Option<Vec<u8>>,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

/// What a consumer asks for.
pub(crate) struct Wanted {
    pub(crate) has_stream: bool,
    pub(crate) max_version: Option<(u32, u32)>,
    pub(crate) dl_device: Option<(i32, i32)>,
    pub(crate) copy: Option<bool>,
}

/// Type code and bits; fp8 and int4 are raw bytes, as in the buffer protocol.
fn data_type(dtype: DType) -> DlDataType {
    let (code, bits) = match dtype {
        DType::F32 => (2, 32),
        DType::F16 => (2, 16),
        DType::BF16 => (4, 16),
        DType::I8 => (0, 8),
        _ => (1, 8),
    };
    DlDataType { code, bits, lanes: 1 }
}

/// A capsule of the newest version that the consumer knows.
pub(crate) fn capsule<'py>(
    py: Python<'py>,
    tensors: &TensorBlock,
    view: &TensorView<'_>,
    wanted: &Wanted,
) -> PyResult<Bound<'py, PyAny>> {
    let refuse = |message: &'static str| Err(PyBufferError::new_err(message));
    if wanted.has_stream {
        return refuse("a stream makes no sense for memory of the CPU: pass None");
    }
    if wanted.dl_device.is_some_and(|device| device != (CPU, 0)) {
        return refuse("the tensor is in the memory of the CPU and is not copied elsewhere");
    }
    let versioned = wanted.max_version.is_some_and(|(major, _)| major >= 1);
    let aligned = (view.data().as_ptr() as usize).is_multiple_of(view.dtype().size_bytes());
    let must_copy = !versioned || !aligned;
    let copy = match wanted.copy {
        Some(false) if must_copy => {
            return refuse("the memory is read-only or not aligned, which this consumer cannot be told");
        }
        wanted => must_copy || wanted == Some(true),
    };
    let dims = stored_dims(&view.dtype(), view.shape().dims());
    let shape: Vec<i64> = dims.iter().map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX)).collect();
    let mut strides = vec![1_i64; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
    }
    let data = view.data();
    let copied = copy.then(|| py.detach(|| data.to_vec()));
    let mut kept = Box::new(Kept { _tensors: tensors.clone(), copy: copied, shape, strides });
    let data = kept.copy.as_mut().map_or(view.data().as_ptr().cast_mut(), |copy| copy.as_mut_ptr());
    let tensor = DlTensor {
        data: data.cast(),
        device: DlDevice { device_type: CPU, device_id: 0 },
        ndim: i32::try_from(kept.shape.len()).unwrap_or(i32::MAX),
        dtype: data_type(view.dtype()),
        shape: kept.shape.as_mut_ptr(),
        strides: kept.strides.as_mut_ptr(),
        byte_offset: 0,
    };
    let manager_ctx = Box::into_raw(kept).cast();
    let (pointer, name, destructor): (*mut c_void, _, ffi::PyCapsule_Destructor) = if versioned {
        let managed = DlManagedTensorVersioned {
            version: DlVersion { major: 1, minor: 0 },
            manager_ctx,
            deleter: Some(delete_versioned),
            flags: if copy { FLAG_IS_COPIED } else { FLAG_READ_ONLY },
            tensor,
        };
        (Box::into_raw(Box::new(managed)).cast(), NAME_VERSIONED, drop_versioned)
    } else {
        let managed = DlManagedTensor { tensor, manager_ctx, deleter: Some(delete) };
        (Box::into_raw(Box::new(managed)).cast(), NAME, drop_unversioned)
    };
    // SAFETY: the pointer is not null, the name lives for ever, the destructor takes this pointer.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyCapsule_New(pointer, name.as_ptr(), Some(destructor))) }
}

/// # Safety
///
/// `managed` is from [`capsule`] and is deleted once.
unsafe extern "C" fn delete(managed: *mut DlManagedTensor) {
    if managed.is_null() {
        return;
    }
    // SAFETY: both boxes were made by `capsule`.
    unsafe {
        let managed = Box::from_raw(managed);
        drop(Box::from_raw(managed.manager_ctx.cast::<Kept>()));
    }
}

/// # Safety
///
/// As [`delete`].
unsafe extern "C" fn delete_versioned(managed: *mut DlManagedTensorVersioned) {
    if managed.is_null() {
        return;
    }
    // SAFETY: both boxes were made by `capsule`.
    unsafe {
        let managed = Box::from_raw(managed);
        drop(Box::from_raw(managed.manager_ctx.cast::<Kept>()));
    }
}

/// What a capsule that nobody consumed still holds; a consumer renames it.
unsafe fn unconsumed(capsule: *mut ffi::PyObject, name: &CStr) -> *mut c_void {
    // SAFETY: called by the interpreter with a capsule that is being freed.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, name.as_ptr()) == 0 {
            return std::ptr::null_mut();
        }
        ffi::PyCapsule_GetPointer(capsule, name.as_ptr())
    }
}

unsafe extern "C" fn drop_unversioned(capsule: *mut ffi::PyObject) {
    // SAFETY: a capsule of this name holds what `capsule` made.
    unsafe { delete(unconsumed(capsule, NAME).cast()) }
}

unsafe extern "C" fn drop_versioned(capsule: *mut ffi::PyObject) {
    // SAFETY: a capsule of this name holds what `capsule` made.
    unsafe { delete_versioned(unconsumed(capsule, NAME_VERSIONED).cast()) }
}
