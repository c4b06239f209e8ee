//! Owns the plan of an import: which tensors of the checkpoint make up which block, in which type.
//! Made from headers alone, so that what is missing, left over or misshapen is known before any
//! weight is read.

use std::collections::BTreeSet;
use std::ops::Range;

use super::error::ImportError;
use super::gguf::Encoding;
use super::names::{Naming, Stacked};
use super::weights::{Located, Weights};
use crate::dtype::{DType, GROUP, Shape};
use crate::format::{ModelSpec, Slot, TensorRole, TensorSpec};
use crate::tensor::{PayloadLayout, TensorError, scale_layout, scale_name};

/// Bytes that are compared at a time.
const COMPARE_BYTES: u64 = 4 << 20;

/// One tensor of a block, and where it comes from.
#[derive(Debug)]
pub(super) struct PlannedTensor {
    /// Name inside the block.
    pub(super) name: &'static str,
    /// Name in the checkpoint.
    pub(super) published: String,
    pub(super) shape: Shape,
    /// Type in the checkpoint.
    pub(super) from: DType,
    /// Type in the block.
    pub(super) to: DType,
    /// Its bytes, counted from the first of the published tensor, which may be a stack of many.
    pub(super) bytes: Range<u64>,
    /// Rows of a head, if those of each stand in the order 0, h, 1, h + 1, … where h is half of it.
    pub(super) interleaved_rows: Option<usize>,
}

/// One block to build.
#[derive(Debug)]
pub(super) struct PlannedBlock {
    pub(super) slot: Slot,
    pub(super) tensors: Vec<PlannedTensor>,
    pub(super) layout: PayloadLayout,
}

/// Plans all weight blocks of a model, in the order in which they are appended.
pub(super) fn plan(
    spec: &ModelSpec,
    weights: &Weights,
    dtype: Option<DType>,
) -> Result<Vec<PlannedBlock>, ImportError> {
    let mut slots = spec.required_slots();
    // A tied head that is quantized is a block of its own: the embedding stays as it is.
    let own_head = spec.tie_word_embeddings && dtype.is_some_and(DType::is_quantized);
    if own_head {
        slots.push(Slot::Head);
    }
    let mut planner = Planner { spec, weights, dtype, used: BTreeSet::new(), missing: Missing::default() };
    let mut blocks = Vec::with_capacity(slots.len());
    let mut found = Vec::new();
    for slot in slots {
        for tensor in spec.tensors_of(slot) {
            found.push((slot, planner.find(slot, &tensor), tensor));
        }
    }
    planner.complete()?;
    let mut found = found.into_iter().peekable();
    while let Some((slot, ..)) = found.peek() {
        let slot = *slot;
        let mut tensors = Vec::new();
        while let Some((_, source, tensor)) = found.next_if(|(other, ..)| *other == slot) {
            if let Some(source) = source {
                tensors.push(planner.tensor(slot, source, tensor)?);
            }
        }
        blocks.push(PlannedBlock::new(slot, tensors)?);
    }
    Ok(blocks)
}

/// Where a tensor was found.
struct Source<'a> {
    located: &'a Located,
    /// The stack that it is part of, if it is not a tensor of its own.
    stacked: Option<Stacked>,
}

struct Planner<'a> {
    spec: &'a ModelSpec,
    weights: &'a Weights,
    dtype: Option<DType>,
    used: BTreeSet<String>,
    missing: Missing,
}

/// Names of tensors that were not found, each once, in the order in which they were looked for.
#[derive(Default)]
struct Missing {
    names: Vec<String>,
    /// The same: a config may promise half a million.
    known: BTreeSet<String>,
}

impl<'a> Planner<'a> {
    /// Looks up a tensor under each of its published names.
    fn find(&mut self, slot: Slot, tensor: &TensorSpec) -> Option<Source<'a>> {
        let naming = self.weights.naming();
        let published = match slot {
            // Tied, they are one, which some savers keep under the name that comes first in the alphabet.
            Slot::Embedding | Slot::Head if self.spec.tie_word_embeddings => {
                let (embedding, head) = naming.ends();
                vec![embedding.to_owned(), head.to_owned()]
            }
            _ => naming.published(self.spec, slot, tensor.name),
        };
        for name in &published {
            if let Some(located) = self.weights.get(name) {
                self.used.insert(name.clone());
                return Some(Source { located, stacked: None });
            }
        }
        if let Some(stacked) = naming.stacked(self.spec, slot, tensor.name)
            && let Some(located) = self.weights.get(&stacked.name)
        {
            self.used.insert(stacked.name.clone());
            return Some(Source { located, stacked: Some(stacked) });
        }
        let missing = naming.expected(self.spec, slot, tensor.name);
        if self.missing.known.insert(missing.clone()) {
            self.missing.names.push(missing);
        }
        None
    }

    /// Checks that everything was found and nothing is left over.
    fn complete(&mut self) -> Result<(), ImportError> {
        if !self.missing.names.is_empty() {
            return Err(ImportError::MissingTensors { names: std::mem::take(&mut self.missing.names) });
        }
        let naming = self.weights.naming();
        let (embedding, head) = naming.ends();
        if self.spec.tie_word_embeddings
            && let (Some(embedding), Some(tensor)) = (self.weights.get(embedding), self.weights.get(head))
        {
            if !self.equal(tensor, embedding)? {
                return Err(ImportError::TiedHeadDiffers);
            }
            self.used.insert(head.to_owned());
        }
        let unexpected: Vec<String> = self
            .weights
            .names()
            .filter(|name| !self.used.contains(*name) && !naming.is_derived(name))
            .map(str::to_owned)
            .collect();
        if unexpected.is_empty() { Ok(()) } else { Err(ImportError::UnexpectedTensors { names: unexpected }) }
    }

    fn equal(&self, a: &Located, b: &Located) -> Result<bool, ImportError> {
        if a.entry.dtype != b.entry.dtype || a.entry.shape != b.entry.shape {
            return Ok(false);
        }
        let len = a.entry.bytes.end - a.entry.bytes.start;
        let mut start = 0;
        while start < len {
            let end = len.min(start + COMPARE_BYTES);
            let mut chunks = [Vec::new(), Vec::new()];
            for (chunk, tensor) in chunks.iter_mut().zip([a, b]) {
                chunk.resize(usize::try_from(end - start).unwrap_or_default(), 0);
                self.weights.read(tensor, start..end, chunk)?;
            }
            if chunks[0] != chunks[1] {
                return Ok(false);
            }
            start = end;
        }
        Ok(true)
    }

    /// Checks shape and type of a tensor that was found.
    fn tensor(
        &self,
        slot: Slot,
        source: Source<'_>,
        tensor: TensorSpec,
    ) -> Result<PlannedTensor, ImportError> {
        let entry = &source.located.entry;
        let wrong_shape = |expected: Shape| ImportError::TensorShape {
            file: self.weights.file_name(source.located).to_owned(),
            tensor: entry.name.clone(),
            actual: entry.shape.clone(),
            expected,
        };
        let expected =
            source.stacked.as_ref().map_or(tensor.shape.clone(), |stacked| Shape::new(stacked.shape));
        let naming = self.weights.naming();
        // Writers of GGUF drop dimensions of 1.
        let equal = match naming {
            Naming::HuggingFace => entry.shape == expected,
            Naming::Gguf => without_ones(&entry.shape) == without_ones(&expected),
        };
        if !equal {
            return Err(wrong_shape(expected));
        }
        let tensor_error = |error| self.weights.error(source.located, error);
        let from = entry.supported_dtype().map_err(tensor_error)?;
        if from.is_quantized() {
            let error = TensorError::Conversion {
                tensor: entry.name.clone(),
                from,
                to: self.dtype.unwrap_or(DType::BF16),
            };
            return Err(tensor_error(error));
        }
        let size = tensor.shape.size_bytes(from).map_err(|_| wrong_shape(tensor.shape.clone()))? as u64;
        let start = match &source.stacked {
            // The header vouches for the size of the whole stack, so this cannot overflow.
            Some(stacked) => (stacked.first_row * stacked.shape[2] * from.size_bytes()) as u64,
            None => 0,
        };
        Ok(PlannedTensor {
            name: tensor.name,
            published: entry.name.clone(),
            from,
            to: target(slot, &tensor, kept(tensor.role, from, source.located.encoding), self.dtype),
            bytes: start..start + size,
            shape: tensor.shape,
            interleaved_rows: naming.interleaved_rows(self.spec, slot, tensor.name),
        })
    }
}

/// The dimensions that matter.
fn without_ones(shape: &Shape) -> &[usize] {
    let dims = shape.dims();
    let ones = dims.iter().take_while(|&&dim| dim == 1).count();
    dims.get(ones..).unwrap_or_default()
}

/// The type in which a tensor is kept where none is chosen. A quantized one has no type of ours: of the
/// product of an 8-bit number and a scale F16 holds 11 bits, so that rounding costs a 16th of a step at
/// most, where in BF16 it costs up to half of one. What is always kept is small, and loses nothing as F32.
fn kept(role: TensorRole, from: DType, encoding: Encoding) -> DType {
    match (encoding, role) {
        (Encoding::Blocks(_), TensorRole::Projection | TensorRole::Embedding) => DType::F16,
        _ => from,
    }
}

/// The type in which a tensor is stored: this is the whole policy.
pub(crate) fn target(slot: Slot, tensor: &TensorSpec, from: DType, choice: Option<DType>) -> DType {
    let whole_groups = tensor.shape.dims().last().is_some_and(|cols| cols.is_multiple_of(GROUP));
    match (tensor.role, choice) {
        // The head decides which token comes: its error is seen at once, not averaged over layers.
        (TensorRole::Projection, Some(DType::I4)) if slot == Slot::Head || !whole_groups => DType::I8,
        (TensorRole::Projection, Some(dtype)) => dtype,
        (TensorRole::Embedding, Some(dtype)) if !dtype.is_quantized() => dtype,
        _ => from,
    }
}

impl PlannedBlock {
    fn new(slot: Slot, tensors: Vec<PlannedTensor>) -> Result<Self, ImportError> {
        let scales: Vec<(String, (DType, Shape))> = tensors
            .iter()
            .filter_map(|tensor| Some((scale_name(tensor.name), scale_layout(tensor.to, &tensor.shape)?)))
            .collect();
        let mut places: Vec<(&str, DType, &Shape)> =
            tensors.iter().map(|tensor| (tensor.name, tensor.to, &tensor.shape)).collect();
        places.extend(scales.iter().map(|(name, (dtype, shape))| (name.as_str(), *dtype, shape)));
        let layout = PayloadLayout::new(&places)
            .map_err(|source| ImportError::Tensor { file: slot.to_string(), source })?;
        Ok(Self { slot, tensors, layout })
    }
}
