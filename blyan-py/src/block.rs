//! Owns `blyan.Block`: a stored block, its header, and the way to what it carries.

use std::sync::Arc;

use blyan_core::TensorBlock as CoreTensors;
use blyan_core::chain as core;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::chain::{ChainHandle, pickled_path};
use crate::door::run;
use crate::failure::Failure;
use crate::{tensor, values};

/// A stored block: its name, what it says about itself, and what it carries.
///
/// Equal blocks have equal hashes. Pickled, a block is the path of its chain, its hash and its report.
///
/// >>> block = next(chain.blocks(kind="expert"))
/// >>> block.lane, block.kind, block == chain[block.hash]
/// ('B', 'expert', True)
#[pyclass(frozen, weakref, module = "blyan")]
pub(crate) struct Block {
    pub(crate) handle: Arc<ChainHandle>,
    pub(crate) block: core::Block,
    /// What the import that gave this block did.
    report: Option<Py<PyAny>>,
}

impl Block {
    pub(crate) fn new(handle: &Arc<ChainHandle>, block: core::Block) -> Self {
        Self { handle: Arc::clone(handle), block, report: None }
    }

    pub(crate) fn with_report(self, report: Py<PyAny>) -> Self {
        Self { report: Some(report), ..self }
    }
}

#[pymethods]
impl Block {
    /// The block's name: BLAKE3 of its header.
    #[getter]
    fn hash<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        values::block_hash(py, &self.block.hash())
    }

    /// The lane: "A" (meta), "B" (parameters) or "D" (data sets).
    #[getter]
    fn lane(&self) -> String {
        self.block.header().lane.to_string()
    }

    /// What the payload is, such as "expert"; "kind4096" for a number without a name.
    #[getter]
    fn kind(&self) -> String {
        self.block.header().kind.to_string()
    }

    /// The number of the kind.
    #[getter]
    fn kind_number(&self) -> u16 {
        self.block.header().kind.0
    }

    /// The slot that the block fills, such as "layer0.expert1", or another name.
    #[getter]
    fn name(&self) -> &str {
        &self.block.header().name
    }

    /// Version of what the block holds (SemVer).
    #[getter]
    fn version(&self) -> String {
        self.block.header().version.to_string()
    }

    /// Length of the longest path to a block without parents.
    #[getter]
    fn height(&self) -> u64 {
        self.block.height()
    }

    /// The blocks it depends on, by hash, each with its role.
    #[getter]
    fn parents<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let parents = values::list(py, &self.block.header().parents, values::parent)?;
        Ok(parents.to_tuple())
    }

    /// BLAKE3 of the payload, as `b3sum` prints it.
    #[getter]
    fn payload_hash<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        values::payload_hash(py, &self.block.header().payload.hash)
    }

    /// Length of the payload in bytes.
    #[getter]
    fn payload_bytes(&self) -> u64 {
        self.block.header().payload.len_bytes
    }

    /// What the payload's bytes are.
    #[getter]
    fn media_type(&self) -> &str {
        &self.block.header().payload.media_type
    }

    /// The header's canonical bytes, which hash to `hash`.
    #[getter]
    fn header<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = self.block.header().to_bytes();
        let failed = |source| core::ChainError::Header { name: self.name().to_owned(), source };
        let bytes = bytes.map_err(|error| Failure::from(failed(error)).into_py(py))?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// The payload, verified and mapped: bytes that support the buffer protocol.
    #[getter]
    fn payload(&self, py: Python<'_>) -> PyResult<tensor::Payload> {
        let (chain, hash) = (self.handle.get(py)?, self.block.hash());
        run(py, move || chain.payload(&hash)).map(tensor::Payload::new)
    }

    /// The payload's tensors by name, verified and mapped.
    ///
    /// >>> expert = next(chain.blocks(kind="expert"))
    /// >>> sorted(expert.tensors)
    /// ['down_proj.weight', 'gate_proj.weight', 'up_proj.weight']
    #[getter]
    fn tensors(&self, py: Python<'_>) -> PyResult<tensor::TensorBlock> {
        let (chain, hash) = (self.handle.get(py)?, self.block.hash());
        let tensors = run(py, move || CoreTensors::open(&chain, &hash))?;
        Ok(tensor::TensorBlock::new(tensors, self.handle.dir().cloned(), Some(hash)))
    }

    /// What the import did that returned this block; `None` for a block that was looked up.
    #[getter]
    fn report(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.report.as_ref().map(|report| report.clone_ref(py))
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Self>().is_ok_and(|other| other.get().block == self.block)
    }

    fn __hash__(&self) -> u64 {
        let (head, _) =
            self.block.hash().as_bytes().split_first_chunk().map_or(([0; 8], &[][..]), |(h, t)| (*h, t));
        u64::from_le_bytes(head)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let py = slf.py();
        let path = pickled_path(py, slf.get().handle.dir(), "block")?;
        let make = py.import("blyan._pickle")?.getattr("block")?;
        let arguments = (path, slf.get().block.hash().to_string(), slf.get().report(py));
        Ok((make, arguments.into_pyobject(py)?))
    }

    fn __repr__(&self) -> String {
        let header = self.block.header();
        let (hash, payload) = (self.block.hash().short(), header.payload.len_bytes);
        format!("<Block {hash} {} {} {} {payload} bytes>", header.lane, header.kind, header.name)
    }

    fn _repr_html_<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("blyan._html")?.call_method1("block", (slf,))
    }
}

/// A block with what the import that gave it did: what unpickling makes.
#[pyfunction]
pub(crate) fn block_with_report(block: &Bound<'_, Block>, report: Py<PyAny>) -> Block {
    let block = block.get();
    Block::new(&block.handle, block.block.clone()).with_report(report)
}
