//! Owns `blyan.learn.Trainer`: training experts, from blocks to candidates.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, TryLockError};

use blyan_core::manager::ManagerError;
use blyan_core::{DType, ModelSpec};
use blyan_learn::{
    AdamW, Candidate, Ended, Form, Gradients, LearnError, Schedule, StepReport, TrainOptions,
    Trainer as CoreTrainer,
};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyType};

use crate::args::{Count, DTypeArg, Tokens, about_argument, unexpected};
use crate::buffer::{bytes_of, float_array, new_bytes};
use crate::chain::{Block, Chain};
use crate::door::{CancelToken, Job, Report, Silent, Watch, run_watched};
use crate::evidence::slot_of;
use crate::failure::Failure;
use crate::fork::{Local, may_train};
use crate::progress::Progress;
use crate::snapshot::{Snapshot, await_turn};
use crate::values::{self, make};

const TRAINER_BUSY: &str = "the trainer is in use by another call";

/// A run that trains slots of a snapshot (experts, routers, or any other) on tokens; all other weights stay as
/// they are, and what comes of it are candidate blocks.
///
/// `form` is "full" (all tensors, written in the types of their blocks), "low_rank" (factors of `rank` for each
/// matrix, written as a delta block and as the block that it gives) or "int8" (what the matrices gained, in 8
/// bits). A step takes `batch` sequences of `sequence` tokens. The learning rate rises over `warmup_steps` to
/// `learning_rate` and falls along a cosine to `learning_rate * learning_rate_floor`. `clip` bounds the norm of
/// all gradients together; None leaves them. `balance` weighs the load-balancing loss of routers.
///
/// One seed and one number of threads give the same bits on one machine. A trainer is used by one call at a time.
///
/// >>> from blyan import learn
/// >>> tokens = model.tokenize("In the beginning God created the heaven and the earth. " * 4)
/// >>> trainer = learn.Trainer(chain, model.snapshot, tokens, ["layer0.expert1"],
/// ...                         steps=2, batch=1, sequence=8, learning_rate=1e-3)
/// >>> trainer.run(progress=False), trainer.steps_done, trainer.trained_parameters
/// (True, 2, 147456)
#[pyclass(frozen, weakref, module = "blyan.learn")]
pub(crate) struct Trainer {
    trainer: Local<Arc<Mutex<CoreTrainer>>>,
    trained_parameters: usize,
}

/// Runs `work` with the trainer, if no other call has it.
fn with<T>(
    trainer: &Mutex<CoreTrainer>,
    work: impl FnOnce(&mut CoreTrainer) -> Result<T, LearnError>,
) -> Result<T, Failure> {
    let mut trainer = match trainer.try_lock() {
        Ok(trainer) => trainer,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return Err(Failure::Busy(TRAINER_BUSY)),
    };
    Ok(work(&mut trainer)?)
}

impl Trainer {
    fn new(trainer: CoreTrainer) -> Self {
        let trained_parameters = trainer.trained_parameters();
        Self { trainer: Local::new(Arc::new(Mutex::new(trainer))), trained_parameters }
    }

    fn shared(&self, py: Python<'_>) -> PyResult<Arc<Mutex<CoreTrainer>>> {
        self.trainer.get("trainer").cloned().map_err(|failure| failure.into_py(py))
    }

    /// Work of any length with the trainer. An interrupt waits for it: it cannot be ended in the middle.
    fn watched<T: Send + 'static>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut CoreTrainer) -> Result<T, LearnError> + Send + 'static,
    ) -> PyResult<T> {
        let trainer = self.shared(py)?;
        let watch = Watch { patient: true, ..Watch::default() };
        run_watched(py, &watch, move |_: &Job<Silent>| with(&trainer, work))
    }
}

#[pymethods]
impl Trainer {
    #[new]
    #[pyo3(signature = (chain, snapshot, tokens, slots, *, form="full", rank=None, **options),
           text_signature = "(chain, snapshot, tokens, slots, *, form='full', rank=None, steps=100, batch=8, sequence=256, learning_rate=0.0001, learning_rate_floor=0.1, warmup_steps=0, betas=(0.9, 0.95), eps=1e-08, weight_decay=0.0, clip=1.0, balance=0.0, seed=0, threads=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn open(
        py: Python<'_>,
        chain: &Bound<'_, Chain>,
        snapshot: &Bound<'_, Snapshot>,
        tokens: Tokens,
        slots: Vec<String>,
        form: &str,
        rank: Option<Count>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let mut options = train_options(options, "Trainer")?;
        options.slots = slots.iter().map(|slot| slot_of(py, slot)).collect::<PyResult<_>>()?;
        options.form = form_of(form, rank).map_err(|failure| failure.into_py(py))?;
        let chain = chain.get().handle.get(py)?;
        let snapshot = snapshot.get().snapshot.clone();
        may_train().map_err(|failure| failure.into_py(py))?;
        let trainer = run_watched(py, &Watch::default(), move |_: &Job<Silent>| {
            CoreTrainer::new(&chain, &snapshot, tokens.0, options)
        })?;
        Ok(Self::new(trainer))
    }

    /// A run that begins from nothing and trains every slot of a spec (a dict as `Snapshot.spec` gives it);
    /// matrices begin normal with this deviation. Other options as for a `Trainer`.
    ///
    /// >>> from blyan import learn
    /// >>> trainer = learn.Trainer.from_nothing(model.snapshot.spec, range(100), steps=1, batch=1, sequence=8)
    /// >>> with blyan.Chain.in_memory() as another:
    /// ...     trainer.append_model(another, "bf16").kind
    /// 'model'
    #[classmethod]
    #[pyo3(signature = (spec, tokens, *, deviation=0.02, **options),
           text_signature = "($cls, spec, tokens, *, deviation=0.02, steps=100, batch=8, sequence=256, learning_rate=0.0001, learning_rate_floor=0.1, warmup_steps=0, betas=(0.9, 0.95), eps=1e-08, weight_decay=0.0, clip=1.0, balance=0.0, seed=0, threads=None)")]
    fn from_nothing(
        _class: &Bound<'_, PyType>,
        py: Python<'_>,
        spec: &Bound<'_, PyAny>,
        tokens: Tokens,
        deviation: f64,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let options = train_options(options, "from_nothing")?;
        let spec = spec_of(&values::to_json(spec)?).map_err(|failure| failure.into_py(py))?;
        may_train().map_err(|failure| failure.into_py(py))?;
        let trainer = run_watched(py, &Watch::default(), move |_: &Job<Silent>| {
            CoreTrainer::from_nothing(Arc::new(spec), deviation, tokens.0, options)
        })?;
        Ok(Self::new(trainer))
    }

    /// Does the steps that are left. True once all are done, False if it was cancelled: between two steps, so
    /// it can go on.
    ///
    /// `progress` is called with a `StepReport` after each; True shows a bar, False nothing, None a bar in a
    /// terminal or a notebook. Ctrl-C ends the run after the step it is in.
    #[pyo3(signature = (*, progress=None, cancel=None))]
    fn run(
        &self,
        py: Python<'_>,
        progress: Option<Bound<'_, PyAny>>,
        cancel: Option<Py<CancelToken>>,
    ) -> PyResult<bool> {
        let trainer = self.shared(py)?;
        let progress = Progress::open(py, progress, "train")?;
        let cancel = cancel.map(|token| token.get().flag());
        let watch = Watch { callback: progress.callback(), cancel, patient: true };
        let watched = watch.callback.is_some();
        let ended = run_watched(py, &watch, move |job: &Job<StepReport>| {
            with(&trainer, |trainer| {
                let mut report = |step: &StepReport| {
                    if watched {
                        job.report(*step);
                    }
                };
                trainer.run(&mut report, Some(&job.cancel))
            })
        });
        progress.close(py)?;
        Ok(ended? == Ended::Finished)
    }

    /// One step.
    fn step<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let report = self.watched(py, CoreTrainer::step)?;
        report.to_python(py)
    }

    /// Mean loss of tokens in nats, in windows of `sequence` predicted tokens: a guide while training. What
    /// counts is `evolve.evaluate` of the candidate.
    fn loss(&self, py: Python<'_>, tokens: Tokens) -> PyResult<f64> {
        self.watched(py, move |trainer| trainer.loss(&tokens.0))
    }

    /// Logits of every position of a sequence: float32, (tokens, vocabulary), as of `MoEModelManager.logits`.
    fn logits<'py>(&self, py: Python<'py>, sequence: Tokens) -> PyResult<Bound<'py, PyAny>> {
        let rows = sequence.0.len();
        let values = self.watched(py, move |trainer| trainer.logits(&sequence.0))?;
        let columns = values.len().checked_div(rows).unwrap_or(0);
        float_array(py, &values, &[rows, columns])
    }

    /// Loss of one sequence and its gradients: (loss, {(slot, tensor): values in row-major order}). Changes
    /// nothing.
    fn gradients<'py>(&self, py: Python<'py>, sequence: Tokens) -> PyResult<(f64, Bound<'py, PyDict>)> {
        let Gradients { loss, tensors, .. } =
            self.watched(py, move |trainer| trainer.gradients(&sequence.0))?;
        let found = PyDict::new(py);
        for ((slot, tensor), values) in tensors {
            found.set_item((slot.to_string(), tensor), float_array(py, &values, &[values.len()])?)?;
        }
        Ok((loss, found))
    }

    /// Appends a candidate for each slot that was trained, in slot order, and returns them; a slot whose
    /// weights round to those of its base has none.
    fn append_candidates<'py>(
        &self,
        py: Python<'py>,
        chain: &Bound<'py, Chain>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let target = chain.get().handle.to_append(py)?;
        let trainer = self.shared(py)?;
        let found = run_watched(py, &Watch::default(), move |job: &Job<Silent>| {
            await_turn(&target, job)?;
            with(&trainer, |trainer| trainer.append_candidates(&target))
        })?;
        Ok(values::list(py, &found, candidate)?.into_any())
    }

    /// Appends the whole model of a run from nothing, in f32, bf16 or f16, and returns its model block. `texts`
    /// are its tokenizer and other texts, by slot.
    #[pyo3(signature = (chain, dtype=None, texts=None), text_signature = "($self, chain, dtype='bf16', texts=None)")]
    fn append_model(
        &self,
        py: Python<'_>,
        chain: &Bound<'_, Chain>,
        dtype: Option<DTypeArg>,
        texts: Option<HashMap<String, Bound<'_, PyAny>>>,
    ) -> PyResult<Block> {
        let handle = &chain.get().handle;
        let (target, dtype) = (handle.to_append(py)?, dtype.map_or(DType::BF16, |dtype| dtype.0));
        let texts = texts.unwrap_or_default();
        let texts = texts.iter().map(|(slot, text)| Ok((slot_of(py, slot)?, bytes_of(text)?)));
        let mut texts = texts.collect::<PyResult<Vec<_>>>()?;
        texts.sort();
        let trainer = self.shared(py)?;
        let block = run_watched(py, &Watch::default(), move |job: &Job<Silent>| {
            await_turn(&target, job)?;
            let model = with(&trainer, |trainer| trainer.append_model(&target, dtype, &texts))?;
            Ok::<_, Failure>(target.get(&model)?)
        })?;
        Ok(Block::new(handle, block))
    }

    /// The state of the run, to be resumed from.
    fn checkpoint<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = self.watched(py, |trainer| trainer.checkpoint())?;
        new_bytes(py, &bytes)
    }

    /// Goes on from a checkpoint of the same run (base, tokens, options): on one machine with one number of
    /// threads to the same bits as a run that was never stopped.
    fn resume(&self, py: Python<'_>, checkpoint: &Bound<'_, PyAny>) -> PyResult<()> {
        let checkpoint = bytes_of(checkpoint)?;
        self.watched(py, move |trainer| trainer.resume(&checkpoint))
    }

    /// Steps done.
    #[getter]
    fn steps_done(&self, py: Python<'_>) -> PyResult<u64> {
        let trainer = self.shared(py)?;
        with(&trainer, |trainer| Ok(trainer.steps_done())).map_err(|failure| failure.into_py(py))
    }

    /// Numbers that learn.
    #[getter]
    fn trained_parameters(&self) -> usize {
        self.trained_parameters
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let learning = self.trained_parameters;
        match self.steps_done(py) {
            Ok(steps) => format!("<Trainer of {learning} parameters, {steps} steps done>"),
            Err(_) if !self.trainer.is_here() => "<Trainer of another process>".to_owned(),
            Err(_) => format!("<Trainer of {learning} parameters, in use>"),
        }
    }
}

impl Report for StepReport {
    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let &Self { step, steps, loss, balance, gradient_norm, learning_rate, tokens, time, .. } = self;
        let elapsed_s = time.as_secs_f64();
        make(py, "StepReport", (step, steps, loss, balance, gradient_norm, learning_rate, tokens, elapsed_s))
    }
}

fn candidate<'py>(py: Python<'py>, candidate: &Candidate) -> PyResult<Bound<'py, PyAny>> {
    let delta = candidate.delta.as_ref().map(|delta| values::block_hash(py, delta)).transpose()?;
    let [base, block] = [&candidate.base, &candidate.block].map(|block| values::block_hash(py, block));
    make(py, "TrainedBlock", (candidate.slot.to_string(), base?, delta, block?))
}

fn form_of(name: &str, rank: Option<Count>) -> Result<Form, Failure> {
    match (name, rank) {
        ("full", None) => Ok(Form::Full),
        ("int8", None) => Ok(Form::Int8),
        ("low_rank", Some(rank)) => Ok(Form::LowRank { rank: rank.0 }),
        ("low_rank", None) => Err(Failure::Argument("form \"low_rank\" needs a rank".to_owned())),
        ("full" | "int8", Some(_)) => Err(Failure::Argument(format!("form {name:?} has no rank"))),
        _ => Err(Failure::Argument(format!("there is no form {name:?}: full, low_rank or int8"))),
    }
}

/// A spec, whose keys may come in any order.
fn spec_of(json: &str) -> Result<ModelSpec, Failure> {
    let spec: ModelSpec =
        serde_json::from_str(json).map_err(|error| Failure::Argument(format!("spec: {error}")))?;
    spec.check().map_err(ManagerError::from)?;
    Ok(spec)
}

/// The options of a run, by their names. `function` is named in errors.
fn train_options(given: Option<&Bound<'_, PyDict>>, function: &str) -> PyResult<TrainOptions> {
    let mut options = TrainOptions::default();
    for (name, value) in given.into_iter().flat_map(PyDictMethods::iter) {
        let name: String = name.extract()?;
        let (schedule, adamw): (&mut Schedule, &mut AdamW) = (&mut options.schedule, &mut options.adamw);
        let set = match name.as_str() {
            "steps" => value.extract().map(|steps: Count<u64>| options.steps = steps.0),
            "batch" => value.extract().map(|batch: Count| options.batch = batch.0),
            "sequence" => value.extract().map(|sequence: Count| options.sequence = sequence.0),
            "learning_rate" => value.extract().map(|rate: f64| schedule.peak = rate),
            "learning_rate_floor" => value.extract().map(|floor: f64| schedule.floor = floor),
            "warmup_steps" => value.extract().map(|steps: Count<u64>| schedule.warmup_steps = steps.0),
            "betas" => value.extract().map(|(beta1, beta2): (f64, f64)| {
                (adamw.beta1, adamw.beta2) = (beta1, beta2);
            }),
            "eps" => value.extract().map(|eps: f64| adamw.eps = eps),
            "weight_decay" => value.extract().map(|decay: f64| adamw.weight_decay = decay),
            "clip" => value.extract().map(|clip: Option<f64>| options.clip = clip),
            "balance" => value.extract().map(|balance: f64| options.balance = balance),
            "seed" => value.extract().map(|seed: Count<u64>| options.seed = seed.0),
            "threads" => value.extract().map(|threads: Option<Count>| {
                options.threads = threads.map(|threads| threads.0);
            }),
            _ => return Err(unexpected(function, &name)),
        };
        set.map_err(|error| about_argument(value.py(), &name, error))?;
    }
    Ok(options)
}
