//! Owns `blyan.UsageTracker`: counts of use, as a mapping from slots to experts.

use std::sync::Arc;

use blyan_core::usage::UsageTracker as CoreTracker;
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;

use crate::args::Count;
use crate::door::run;
use crate::failure::Failure;
use crate::model::{MoEModelManager, ModelHandle};
use crate::values;

/// Which experts of a model work, how long they take and which work together; over all processes that
/// run the model from one chain directory. A mapping from slot names to `ExpertUsage`. Pickled, it is its model.
#[pyclass(frozen, mapping, weakref, module = "blyan")]
pub(crate) struct UsageTracker {
    model: Arc<ModelHandle>,
}

impl UsageTracker {
    pub(crate) fn new(model: Arc<ModelHandle>) -> Self {
        Self { model }
    }

    fn with<T: Send, E: Into<Failure>>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&CoreTracker) -> Result<T, E> + Send,
    ) -> PyResult<T> {
        let model = self.model.get(py)?;
        run(py, move || work(model.usage()))
    }

    fn slots(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let experts = self.with(py, |usage| Ok::<_, Failure>(usage.experts()))?;
        Ok(experts.into_iter().map(|expert| expert.slot).collect())
    }
}

#[pymethods]
impl UsageTracker {
    /// The experts that most tokens used, most used first; none that were never used.
    fn top<'py>(&self, py: Python<'py>, n: Count) -> PyResult<Bound<'py, PyAny>> {
        let experts = self.with(py, move |usage| Ok::<_, Failure>(usage.top(n.0)))?;
        Ok(values::list(py, &experts, values::expert_usage)?.into_any())
    }

    /// Every expert, used or not, by layer and place.
    fn experts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let experts = self.with(py, |usage| Ok::<_, Failure>(usage.experts()))?;
        Ok(values::list(py, &experts, values::expert_usage)?.into_any())
    }

    /// Pairs of experts of a layer that worked together.
    fn co_use<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let pairs = self.with(py, |usage| Ok::<_, Failure>(usage.co_use()))?;
        Ok(values::list(py, &pairs, values::co_use)?.into_any())
    }

    /// Everything that is known, as a dict of plain values.
    fn snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let snapshot = self.with(py, |usage| Ok::<_, Failure>(usage.snapshot()))?;
        let text = serde_json::to_string(&snapshot).unwrap_or_default();
        values::json(py, &text)
    }

    /// The model block that is counted for.
    #[getter]
    fn model<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        values::block_hash(py, self.model.get(py)?.usage().model())
    }

    /// Stores what was counted since the last flush, and takes note of what other processes stored.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, CoreTracker::flush)
    }

    /// Starts all counts at 0, stored ones included.
    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, CoreTracker::reset)
    }

    fn __getitem__<'py>(&self, py: Python<'py>, slot: String) -> PyResult<Bound<'py, PyAny>> {
        let expert = self.with(py, move |usage| usage.by_name(&slot))?;
        values::expert_usage(py, &expert)
    }

    /// The use of the expert in a slot, or `default` if the model has no such expert.
    #[pyo3(signature = (slot, default=None))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        slot: String,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self.__getitem__(py, slot) {
            Err(error) if error.is_instance_of::<PyKeyError>(py) => Ok(default),
            other => other.map(Some),
        }
    }

    fn __contains__(&self, py: Python<'_>, slot: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Ok(slot) = slot.extract::<String>() else { return Ok(false) };
        Ok(self.get(py, slot, None)?.is_some())
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.slots(py)?.len())
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(self.slots(py)?.into_pyobject(py)?.try_iter()?.into_any())
    }

    /// Slots of the model's experts.
    fn keys(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.slots(py)
    }

    /// As `experts`.
    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.experts(py)
    }

    /// Slots and experts.
    fn items<'py>(&self, py: Python<'py>) -> PyResult<Vec<(String, Bound<'py, PyAny>)>> {
        let experts = self.with(py, |usage| Ok::<_, Failure>(usage.experts()))?;
        let items = experts.iter().map(|expert| Ok((expert.slot.clone(), values::expert_usage(py, expert)?)));
        items.collect()
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Self>().is_ok_and(|other| Arc::ptr_eq(&other.get().model, &self.model))
    }

    fn __hash__(&self) -> usize {
        Arc::as_ptr(&self.model) as usize
    }

    fn __reduce__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyAny>, (MoEModelManager, &'static str))> {
        // Pickled, it is its model's.
        let make = py.import("builtins")?.getattr("getattr")?;
        Ok((make, (MoEModelManager::of(&self.model), "usage")))
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        match self.with(py, |usage| Ok::<_, Failure>(usage.experts())) {
            Ok(experts) => {
                let used = experts.iter().filter(|expert| expert.calls > 0).count();
                format!("<UsageTracker: {used} of {} experts used>", experts.len())
            }
            Err(_) => "<UsageTracker of a closed model>".to_owned(),
        }
    }
}
