//! Owns what a block carries, seen from Python: payloads and tensors as read-only buffers over the mapped
//! file. Each holds the map, so it outlives the chain and the block that it came from.

#![expect(unsafe_code, reason = "the buffer protocol is a C interface")]

use std::path::PathBuf;

use blyan_core::dtype::DType;
use blyan_core::hash::BlockHash;
use blyan_core::tensor::{TensorError, scale_layout};
use blyan_core::{Payload as CorePayload, Shape, TensorBlock as CoreTensors, TensorView as CoreView};
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use crate::args::{Count, DTypeArg};
use crate::buffer::{Export, bytes_of, fill, float_array, new_bytes};
use crate::chain::pickled_path;
use crate::dlpack;
use crate::door::{Job, Silent, Watch, run, run_watched};
use crate::failure::Failure;

/// The verified bytes of a payload, mapped and read-only. `bytes(payload)` copies them,
/// `memoryview(payload)` does not.
#[pyclass(frozen, weakref, module = "blyan")]
pub(crate) struct Payload {
    payload: CorePayload,
    export: Export,
}

impl Payload {
    pub(crate) fn new(payload: CorePayload) -> Self {
        let export = Export::new(c"B", 1, &[payload.len()]);
        Self { payload, export }
    }
}

#[pymethods]
impl Payload {
    fn __len__(&self) -> usize {
        self.payload.len()
    }

    /// Whether the bytes are those of a mapped file; small payloads that are no weights lie in the index.
    #[getter]
    fn mapped(&self) -> bool {
        self.payload.is_mapped()
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        new_bytes(py, &self.payload)
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        let other_bytes: &[u8] = match (other.cast::<Self>(), other.cast::<PyBytes>()) {
            (Ok(other), _) => &other.get().payload,
            (_, Ok(bytes)) => bytes.as_bytes(),
            _ => return false,
        };
        other.py().detach(|| *other_bytes == *self.payload)
    }

    fn __hash__<'py>(&self, py: Python<'py>) -> PyResult<isize> {
        self.__bytes__(py)?.hash()
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        // Pickled, a payload is its bytes.
        let make = slf.py().import("blyan._pickle")?.getattr("payload")?;
        Ok((make, (slf.get().__bytes__(slf.py())?,)))
    }

    fn __repr__(&self) -> String {
        format!("<Payload of {} bytes>", self.payload.len())
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: i32) -> PyResult<()> {
        let this = slf.get();
        // SAFETY: `view` is the interpreter's. The map lives as long as `slf`, which the view keeps.
        unsafe { fill(slf.as_any(), view, flags, &this.export, &this.payload) }
    }
}

/// A payload of bytes, for pickles.
#[pyfunction]
pub(crate) fn payload_from_bytes(bytes: &Bound<'_, PyBytes>) -> PyResult<Payload> {
    Ok(Payload::new(CorePayload::from(bytes_of(bytes)?)))
}

/// The tensors of a weight block by name: a mapping whose values share memory with the mapped file.
///
/// >>> tensors = next(chain.blocks(kind="expert")).tensors
/// >>> len(tensors), "gate_proj.weight" in tensors
/// (3, True)
#[pyclass(frozen, mapping, weakref, module = "blyan")]
pub(crate) struct TensorBlock {
    tensors: CoreTensors,
    /// Where they come from, for pickles.
    source: Source,
}

#[derive(Clone)]
struct Source {
    dir: Option<PathBuf>,
    block: Option<BlockHash>,
}

impl TensorBlock {
    pub(crate) fn new(tensors: CoreTensors, dir: Option<PathBuf>, block: Option<BlockHash>) -> Self {
        Self { tensors, source: Source { dir, block } }
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.tensors().map(|(name, _)| name).collect()
    }

    fn view(&self, name: &str) -> Option<TensorView> {
        let view = self.tensors.get(name)?;
        Some(TensorView::new(self.tensors.clone(), &view, self.source.clone()))
    }
}

#[pymethods]
impl TensorBlock {
    /// The tensors of a safetensors payload, such as `write_tensors` makes or a payload file holds.
    ///
    /// >>> made = blyan.TensorBlock(blyan.write_tensors({"w": ("F32", [2], bytes(8))}))
    /// >>> made["w"].shape
    /// (2,)
    #[new]
    fn read(py: Python<'_>, payload: &Bound<'_, PyAny>) -> PyResult<Self> {
        let payload = match payload.cast::<Payload>() {
            Ok(payload) => payload.get().payload.clone(),
            Err(_) => CorePayload::from(bytes_of(payload)?),
        };
        let tensors = run(py, move || CoreTensors::from_payload(payload))?;
        Ok(Self::new(tensors, None, None))
    }

    fn __len__(&self) -> usize {
        self.tensors.tensors().len()
    }

    fn __contains__(&self, name: &Bound<'_, PyAny>) -> bool {
        name.extract::<String>().is_ok_and(|name| self.tensors.get(&name).is_some())
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(self.keys(py)?.try_iter()?.into_any())
    }

    fn __getitem__(&self, py: Python<'_>, name: String) -> PyResult<TensorView> {
        match self.tensors.tensor(&name) {
            Ok(view) => Ok(TensorView::new(self.tensors.clone(), &view, self.source.clone())),
            Err(error) => Err(Failure::from(error).into_py(py)),
        }
    }

    /// The tensor of that name, or `default`.
    #[pyo3(signature = (name, default=None))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self.view(name) {
            Some(view) => Ok(Some(Bound::new(py, view)?.into_any())),
            None => Ok(default),
        }
    }

    /// Names of the tensors, in byte order.
    fn keys<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.names())
    }

    /// The tensors, by name.
    fn values(&self) -> Vec<TensorView> {
        self.names().into_iter().filter_map(|name| self.view(name)).collect()
    }

    /// Names and tensors.
    fn items(&self) -> Vec<(String, TensorView)> {
        self.names().into_iter().filter_map(|name| Some((name.to_owned(), self.view(name)?))).collect()
    }

    /// The scales of a quantized tensor, one a row, of int4 one for each 32 columns; `None` for a float tensor.
    fn scale(&self, name: &str) -> Option<TensorView> {
        let view = self.tensors.scale(name)?;
        Some(TensorView::new(self.tensors.clone(), &view, self.source.clone()))
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        let Ok(same_class) = other.cast::<Self>() else { return false };
        let (ours, theirs) = (self.tensors.payload(), same_class.get().tensors.payload());
        other.py().detach(|| ours == theirs)
    }

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        PyTuple::new(py, self.names())?.hash()
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let this = slf.get();
        let make = slf.py().import("blyan._pickle")?.getattr("tensors")?;
        Ok((make, this.source.pickled(slf.py(), this.tensors.payload(), None)?))
    }

    fn __repr__(&self) -> String {
        format!("<TensorBlock {}>", self.names().join(", "))
    }
}

impl Source {
    /// Arguments for `blyan._pickle`: path and block, or else the payload's bytes; and a tensor's name.
    fn pickled<'py>(
        &self,
        py: Python<'py>,
        payload: &[u8],
        name: Option<&str>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bytes = match &self.block {
            Some(_) => None,
            None => Some(new_bytes(py, payload)?),
        };
        let place = match &self.block {
            Some(block) => Some((pickled_path(py, self.dir.as_ref(), "tensor")?, block.to_string())),
            None => None,
        };
        let mut arguments = vec![place.into_pyobject(py)?.into_any(), bytes.into_pyobject(py)?.into_any()];
        if let Some(name) = name {
            arguments.push(name.into_pyobject(py)?.into_any());
        }
        Ok(PyTuple::new(py, arguments)?.into_any())
    }
}

/// What a buffer of a dtype is called in `struct`'s words; bf16 and fp8, which it has no word for, are
/// raw unsigned numbers.
fn format_of(dtype: DType) -> &'static std::ffi::CStr {
    match dtype {
        DType::F32 => c"f",
        DType::F16 => c"e",
        DType::BF16 => c"H",
        DType::I8 => c"b",
        _ => c"B",
    }
}

/// The dimensions of what is stored: of int4, whose rows are whole bytes, half as many columns.
pub(crate) fn stored_dims(dtype: &DType, dims: &[usize]) -> Vec<usize> {
    let mut dims = dims.to_vec();
    if let (DType::I4, Some(cols)) = (dtype, dims.last_mut()) {
        *cols /= 2;
    }
    dims
}

/// One tensor: a read-only view of the mapped payload, row-major.
///
/// `numpy.asarray(view)` shares its memory. numpy has no bf16 and no fp8: those appear as raw uint16 and
/// uint8, and `dtype` says what they are; `to_f32` widens them. int4 is raw bytes of two elements each, the
/// first in the low half, stored plus 8: its memory has half the columns of `shape`. `torch.from_dlpack(view)` shares the
/// memory too, bf16 included; writing to the tensor it makes is a fault, the memory is read-only.
///
/// >>> view = chain.block(model.snapshot.slots["embedding"].block).tensors["embed_tokens.weight"]
/// >>> view.dtype, view.nbytes == memoryview(view).nbytes
/// ('BF16', True)
#[pyclass(frozen, weakref, module = "blyan")]
pub(crate) struct TensorView {
    tensors: CoreTensors,
    name: String,
    dtype: DType,
    shape: Shape,
    export: Export,
    source: Source,
}

impl TensorView {
    fn new(tensors: CoreTensors, view: &CoreView<'_>, source: Source) -> Self {
        let (dtype, shape) = (view.dtype(), view.shape().clone());
        Self {
            name: view.name().to_owned(),
            export: Export::new(format_of(dtype), dtype.size_bytes(), &stored_dims(&dtype, shape.dims())),
            dtype,
            shape,
            tensors,
            source,
        }
    }

    fn view(&self, py: Python<'_>) -> PyResult<CoreView<'_>> {
        self.tensors.tensor(&self.name).map_err(|error| Failure::from(error).into_py(py))
    }
}

#[pymethods]
impl TensorView {
    /// Its name in the block, such as "gate_proj.weight".
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// Element type: "F32", "BF16", "F16", "F8_E4M3", "I8" or "I4".
    #[getter]
    fn dtype(&self) -> &'static str {
        self.dtype.name()
    }

    /// Dimensions, outermost first.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.shape.dims())
    }

    /// Number of dimensions.
    #[getter]
    fn ndim(&self) -> usize {
        self.shape.dims().len()
    }

    /// Number of elements.
    #[getter]
    fn size(&self) -> usize {
        self.shape.dims().iter().product()
    }

    /// Bytes of an element; 1 for "I4", of which a byte holds two.
    #[getter]
    fn itemsize(&self) -> usize {
        self.dtype.size_bytes()
    }

    /// Bytes of all elements.
    #[getter]
    fn nbytes(&self) -> usize {
        self.dtype.bytes_of(self.size())
    }

    /// The elements widened to float32, exactly: a new array, or a `memoryview` where numpy is missing.
    /// Quantized elements are not multiplied by their scale.
    fn to_f32<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let view = self.view(py)?;
        let values = run(py, || Ok::<_, Failure>(view.to_f32_vec()))?;
        float_array(py, &values, self.shape.dims())
    }

    /// Element `index`, counted row-major, widened to a float; `IndexError` beyond the end.
    fn get_f32(&self, py: Python<'_>, index: Count) -> PyResult<f32> {
        let value = self.view(py)?.get_f32(index.0);
        value.ok_or_else(|| pyo3::exceptions::PyIndexError::new_err("beyond the end of the tensor"))
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        new_bytes(py, self.view(py)?.data())
    }

    /// DLPack: a capsule that shares the memory, marked read-only. A consumer that asks for the old
    /// protocol, which cannot say so, gets a copy, or `BufferError` with `copy=False`.
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        slf: &Bound<'py, Self>,
        stream: Option<Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let this = slf.get();
        let wanted = dlpack::Wanted { has_stream: stream.is_some(), max_version, dl_device, copy };
        dlpack::capsule(slf.py(), &this.tensors, &this.view(slf.py())?, &wanted)
    }

    /// Where the memory is, in DLPack's words: (1, 0), the CPU.
    fn __dlpack_device__(&self) -> (i32, i32) {
        (dlpack::CPU, 0)
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        let Ok(other) = other.cast::<Self>() else { return false };
        let (py, other) = (other.py(), other.get());
        let same_bytes = || {
            let (ours, theirs) = (self.view(py).ok()?.data(), other.view(py).ok()?.data());
            Some(py.detach(|| ours == theirs))
        };
        (&self.name, self.dtype, &self.shape) == (&other.name, other.dtype, &other.shape)
            && same_bytes().unwrap_or(false)
    }

    fn __hash__<'py>(&self, py: Python<'py>) -> PyResult<isize> {
        (&self.name, self.dtype.name(), self.shape(py)?).into_pyobject(py)?.hash()
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let this = slf.get();
        let make = slf.py().import("blyan._pickle")?.getattr("tensor")?;
        Ok((make, this.source.pickled(slf.py(), this.tensors.payload(), Some(&this.name))?))
    }

    fn __repr__(&self) -> String {
        format!("<TensorView {} {} {:?}>", self.name, self.dtype, self.shape.dims())
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: i32) -> PyResult<()> {
        let this = slf.get();
        // SAFETY: `view` is the interpreter's. `tensors` keeps the bytes mapped as long as `slf`, which
        // the view keeps.
        unsafe { fill(slf.as_any(), view, flags, &this.export, this.view(slf.py())?.data()) }
    }
}

/// A tensor to write: name, dtype, shape and bytes.
type Given = (String, DType, Shape, Vec<u8>);

/// A view, an array of numpy, or (dtype, shape, bytes).
fn read_tensor(name: String, given: &Bound<'_, PyAny>) -> PyResult<Given> {
    if let Ok(view) = given.cast::<TensorView>() {
        let view = view.get();
        let data = view.view(given.py())?.data();
        return Ok((name, view.dtype, view.shape.clone(), given.py().detach(|| data.to_vec())));
    }
    if let Ok(tuple) = given.cast::<PyTuple>() {
        let (dtype, shape, data): (DTypeArg, Vec<Count>, Bound<'_, PyAny>) = tuple.extract()?;
        let shape: Vec<usize> = shape.into_iter().map(|dim| dim.0).collect();
        return Ok((name, dtype.0, Shape::new(shape), bytes_of(&data)?));
    }
    let dtype = |format: &str| match format {
        "f" | "<f" => Some(DType::F32),
        "e" | "<e" => Some(DType::F16),
        "b" | "<b" => Some(DType::I8),
        _ => None,
    };
    let memory = given.py().import("builtins")?.getattr("memoryview")?.call1((given,))?;
    let format: String = memory.getattr("format")?.extract()?;
    let dtype = dtype(&format).ok_or_else(|| {
        PyTypeError::new_err(format!(
            "tensor {name:?} has items of format {format:?}: expected float32, float16 or int8; give others \
             as (dtype, shape, bytes)"
        ))
    })?;
    let shape: Vec<usize> = memory.getattr("shape")?.extract()?;
    Ok((name, dtype, Shape::new(shape), bytes_of(given)?))
}

/// The payload of a weight block: a safetensors file in its one canonical form.
///
/// `tensors` maps names to views, arrays of float32, float16 or int8, or (dtype, shape, bytes).
#[pyfunction]
pub(crate) fn write_tensors<'py>(
    py: Python<'py>,
    tensors: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyBytes>> {
    let mut given = Vec::new();
    for name in tensors.try_iter()? {
        let name = name?;
        given.push(read_tensor(name.extract()?, &tensors.get_item(&name)?)?);
    }
    let bytes = run(py, move || {
        let tensors: Vec<_> = given
            .iter()
            .map(|(name, dtype, shape, data)| (name.as_str(), *dtype, shape, data.as_slice()))
            .collect();
        blyan_core::tensor::write(&tensors)
    })?;
    new_bytes(py, &bytes)
}

/// Rounds a tensor to "int8" or "fp8" with one scale a row, or to "int4" with one for each 32 columns: the
/// (values, scales) that `write_tensors` takes under the names `x` and `x_scale`.
#[pyfunction]
pub(crate) fn quantize<'py>(
    py: Python<'py>,
    dtype: DTypeArg,
    tensor: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyTuple>> {
    let (name, from, shape, data) = read_tensor("tensor".to_owned(), tensor)?;
    let to = dtype.0;
    let dims = shape.dims().to_vec();
    let quantized = run_watched(py, &Watch::default(), move |_: &Job<Silent>| {
        let view = CoreView::new(&name, from, &shape, &data)?;
        blyan_core::tensor::quantize(to, &view)
    })?;
    let values = (to.name(), dims.clone(), new_bytes(py, &quantized.values)?).into_pyobject(py)?;
    let (kind, scales) = scale_layout(to, &Shape::new(dims.clone())).unwrap_or((DType::F32, Shape::new([])));
    let scales =
        (kind.name(), scales.dims().to_vec(), new_bytes(py, &quantized.scales)?).into_pyobject(py)?;
    (values, scales).into_pyobject(py)
}

/// Rounds the elements of a tensor to the float type `dtype`, to nearest, ties to even: the (dtype, shape,
/// bytes) that `write_tensors` takes. Each has to be finite and to stay so.
///
/// >>> import numpy as np
/// >>> dtype, shape, data = blyan.convert("bf16", np.array([[1.0, -2.0]], "f4"))
/// >>> dtype, shape, data.hex()
/// ('BF16', [1, 2], '803f00c0')
#[pyfunction]
pub(crate) fn convert<'py>(
    py: Python<'py>,
    dtype: DTypeArg,
    tensor: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyTuple>> {
    let (name, from, shape, data) = read_tensor("tensor".to_owned(), tensor)?;
    let to = dtype.0;
    let dims = shape.dims().to_vec();
    let converted = run_watched(py, &Watch::default(), move |_: &Job<Silent>| {
        // Has as many bytes as its shape says.
        let data = CoreView::new(&name, from, &shape, &data)?.data();
        let mut out = vec![0; data.len() / from.size_bytes() * to.size_bytes()];
        blyan_core::tensor::convert_into(from, data, to, &mut out)?;
        Ok::<_, TensorError>(out)
    })?;
    (to.name(), dims, new_bytes(py, &converted)?).into_pyobject(py)
}
