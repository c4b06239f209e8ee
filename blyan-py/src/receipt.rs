//! Owns `blyan.Receipt` and replaying it.

use blyan_core::manager::receipt::{Difference, Receipt as CoreReceipt, ReceiptError};
use blyan_core::manager::{ManagerError, ManagerOptions, Replay};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

use crate::args::{BlockArg, Count, ModelArg};
use crate::chain::Chain;
use crate::door::{Job, Silent, Watch, run_watched};
use crate::failure::Failure;
use crate::snapshot::model_of;
use crate::{buffer, values};

/// What was run and what came out, complete enough to run it again.
///
/// `to_json` gives the canonical text, which `hash` names; `from_json` reads it, in any spelling.
///
/// >>> receipt = model.generate("And God", max_tokens=4).receipt
/// >>> blyan.Receipt.from_json(receipt.to_json()) == receipt
/// True
/// >>> blyan.replay(chain, receipt)
/// True
#[pyclass(frozen, weakref, module = "blyan")]
pub(crate) struct Receipt {
    pub(crate) receipt: CoreReceipt,
}

/// How to run a receipt again, without counting that as use.
pub(crate) fn again(
    threads: Option<Count>,
    isa: Option<String>,
    prefill_chunk: Option<Count>,
) -> ManagerOptions {
    let default = ManagerOptions::default();
    ManagerOptions {
        threads: threads.map(|threads| threads.0),
        isa,
        prefill_chunk: prefill_chunk.map_or(default.prefill_chunk, |chunk| chunk.0),
        persist_usage: false,
        ..default
    }
}

impl Receipt {
    pub(crate) fn new(receipt: CoreReceipt) -> Self {
        Self { receipt }
    }

    fn claim_of<'py>(&self, py: Python<'py>, field: &str) -> PyResult<Bound<'py, PyAny>> {
        self.claim(py)?.get_item(field)
    }

    fn run_again(
        &self,
        py: Python<'_>,
        chain: &Bound<'_, Chain>,
        (model, overlay): (Option<ModelArg>, Vec<BlockArg>),
        options: ManagerOptions,
    ) -> PyResult<Replay> {
        let (receipt, chain) = (self.receipt.clone(), chain.get().handle.get(py)?);
        let overlay = overlay.into_iter().map(|block| block.0).collect();
        run_watched(py, &Watch::default(), move |_: &Job<Silent>| {
            let (model, name) = match model {
                Some(ModelArg::Block(block)) => (Some(model_of(&chain, block)?), None),
                Some(ModelArg::Name(name)) => (None, Some(name)),
                None => (None, None),
            };
            receipt.replay(&chain, &ManagerOptions { model, name, overlay, ..options })
        })
    }
}

#[pymethods]
impl Receipt {
    /// Reads a receipt from text or bytes. Raises `ReceiptError` (a `ValueError`) for anything else.
    #[staticmethod]
    fn from_json(py: Python<'_>, json: &Bound<'_, PyAny>) -> PyResult<Self> {
        let bytes = match json.cast::<PyString>() {
            Ok(text) => text.extract::<String>()?.into_bytes(),
            Err(_) => buffer::bytes_of(json)?,
        };
        let read = py.detach(|| CoreReceipt::from_json(&bytes));
        let read = read.map_err(|error| Failure::from(ManagerError::from(error)).into_py(py))?;
        Ok(Self::new(read))
    }

    /// Seals a claim: a dict of the form that `claim` gives.
    ///
    /// >>> receipt = model.generate("And", max_tokens=1).receipt
    /// >>> blyan.Receipt.of_claim(receipt.claim) == receipt
    /// True
    #[staticmethod]
    fn of_claim(claim: &Bound<'_, PyAny>) -> PyResult<Self> {
        let read = serde_json::from_str(&values::to_json(claim)?).map_err(|error| {
            let error = ReceiptError::Json { reason: error.to_string() };
            Failure::from(ManagerError::from(error)).into_py(claim.py())
        });
        Ok(Self::new(CoreReceipt::new(read?)))
    }

    /// The canonical text: fields in a fixed order, no white space.
    fn to_json(&self) -> String {
        self.receipt.to_json()
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.receipt.to_json().as_bytes())
    }

    /// Names the receipt.
    #[getter]
    fn hash<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        values::receipt_hash(py, &self.receipt.hash())
    }

    /// What was run and what came out, as a dict.
    #[getter]
    fn claim<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        values::json(py, &self.receipt.to_json())?.get_item("claim")
    }

    /// The model block.
    #[getter]
    fn model<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        values::block_hash(py, &self.receipt.claim().model)
    }

    /// The spec block.
    #[getter]
    fn spec<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        values::block_hash(py, &self.receipt.claim().spec)
    }

    /// Names spec and slots of the model that ran.
    #[getter]
    fn snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        values::snapshot_root(py, &self.receipt.claim().snapshot)
    }

    /// Tokens of the prompt.
    #[getter]
    fn prompt_tokens(&self) -> Vec<u32> {
        self.receipt.claim().prompt_tokens.clone()
    }

    /// Tokens that were chosen.
    #[getter]
    fn output_tokens(&self) -> Vec<u32> {
        self.receipt.claim().output_tokens.clone()
    }

    /// The output as text; `None` if the model has no tokenizer.
    #[getter]
    fn text(&self) -> Option<String> {
        self.receipt.claim().text.clone()
    }

    /// Why the run ended.
    #[getter]
    fn finish_reason(&self) -> String {
        values::finish_reason(self.receipt.claim().finish_reason)
    }

    /// Digest of the logits that each output token was chosen from.
    #[getter]
    fn logits<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        values::logits_digest(py, &self.receipt.claim().logits)
    }

    /// Version of the arithmetic.
    #[getter]
    fn numerics_version(&self) -> u32 {
        self.receipt.claim().numerics_version
    }

    /// Every option that decides the outcome, with defaults resolved.
    #[getter]
    fn options<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.claim_of(py, "options")
    }

    /// Every block that was touched, by the name of its slot.
    #[getter]
    fn blocks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let blocks = PyDict::new(py);
        for (slot, block) in &self.receipt.claim().blocks {
            blocks.set_item(slot, values::block_hash(py, block)?)?;
        }
        Ok(blocks)
    }

    /// Every leaf in which `recomputed` differs, and every field edited after this receipt was sealed.
    fn diff<'py>(&self, py: Python<'py>, recomputed: &Self) -> PyResult<Bound<'py, PyAny>> {
        let differences = py.detach(|| self.receipt.diff(&recomputed.receipt));
        differences_to_python(py, &differences)
    }

    /// Runs the receipt's inputs again and returns every difference: an empty list if it is true. What ran with
    /// an overlay, and was not published since, needs the same `overlay` and the `model` below it (a block or a
    /// name; without one, the chain's only model).
    ///
    /// `threads`, `isa` and `prefill_chunk` say how to run; they never change a result.
    /// Ctrl-C ends the call; the run goes on beside it to its end, and keeps the chain open until then.
    #[pyo3(signature = (chain, *, model=None, overlay=vec![], threads=None, isa=None, prefill_chunk=None),
           text_signature = "($self, chain, *, model=None, overlay=(), threads=None, isa=None, prefill_chunk=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn replay<'py>(
        &self,
        py: Python<'py>,
        chain: &Bound<'py, Chain>,
        model: Option<ModelArg>,
        overlay: Vec<BlockArg>,
        threads: Option<Count>,
        isa: Option<String>,
        prefill_chunk: Option<Count>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let replay = self.run_again(py, chain, (model, overlay), again(threads, isa, prefill_chunk))?;
        differences_to_python(py, &replay.differences)
    }

    /// Runs the receipt's inputs again and returns the tokens that went through each block of weights; of an
    /// expert those that were routed to it. Empty if it cannot be run. Whether the receipt is true is for
    /// `replay`, which has the same options.
    #[pyo3(signature = (chain, *, model=None, overlay=vec![], threads=None, isa=None, prefill_chunk=None),
           text_signature = "($self, chain, *, model=None, overlay=(), threads=None, isa=None, prefill_chunk=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn uses<'py>(
        &self,
        py: Python<'py>,
        chain: &Bound<'py, Chain>,
        model: Option<ModelArg>,
        overlay: Vec<BlockArg>,
        threads: Option<Count>,
        isa: Option<String>,
        prefill_chunk: Option<Count>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let replay = self.run_again(py, chain, (model, overlay), again(threads, isa, prefill_chunk))?;
        let uses = PyDict::new(py);
        for (block, tokens) in &replay.uses {
            uses.set_item(values::block_hash(py, block)?, *tokens)?;
        }
        Ok(uses)
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Self>().is_ok_and(|other| other.get().receipt == self.receipt)
    }

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        self.hash(py)?.hash()
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (String,))> {
        let class = slf.py().get_type::<Self>();
        Ok((class.getattr("from_json")?, (slf.get().receipt.to_json(),)))
    }

    fn __repr__(&self) -> String {
        let claim = self.receipt.claim();
        let reason = values::finish_reason(claim.finish_reason);
        let (hash, model) = (self.receipt.hash().short(), claim.model.short());
        format!("<Receipt {hash} of model {model}: {} tokens, {reason}>", claim.output_tokens.len())
    }

    fn _repr_html_<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("blyan._html")?.call_method1("receipt", (slf,))
    }
}

fn differences_to_python<'py>(py: Python<'py>, differences: &[Difference]) -> PyResult<Bound<'py, PyAny>> {
    let side = |value: &Option<serde_json::Value>| match value {
        Some(value) => values::json(py, &value.to_string()),
        None => Ok(py.None().into_bound(py)),
    };
    let made = values::list(py, differences, |py, difference| {
        let (claimed, recomputed) = (side(&difference.claimed)?, side(&difference.recomputed)?);
        values::make(
            py,
            "Difference",
            (difference.path.as_str(), claimed, recomputed, difference.to_string()),
        )
    });
    Ok(made?.into_any())
}
