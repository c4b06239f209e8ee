//! Owns what is trained: variables by name, where each tensor of a block lies in them, and the matrices that
//! are a base plus low-rank factors.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use blyan_core::Slot;
use blyan_core::format::TensorSpec;
use candle_core::{Device, Tensor, Var};

use crate::error::LearnError;
use crate::memory::filled;
use crate::source::{Source, uniform};
use crate::storage::with_floats;

/// In what form a slot is trained and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Form {
    /// All of its tensors, written in the types of its block.
    #[default]
    Full,
    /// Low-rank factors of each of its matrices (arXiv:2106.09685), written as a delta block in F32 and as
    /// the block that the delta gives.
    LowRank {
        /// Rank of the factors.
        rank: usize,
    },
    /// All of its matrices; what they gained is written as a delta block of 8 bits, and as the block that the
    /// delta gives.
    Int8,
}

/// Whether a graph is kept for derivatives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Train,
    Evaluate,
}

/// A tensor of the model.
#[derive(Debug, Clone)]
pub(crate) enum Weight {
    Plain(Tensor),
    /// base (out, in) + b (out, rank) × a (rank, in)
    LowRank {
        base: Tensor,
        a: Tensor,
        b: Tensor,
    },
}

impl Weight {
    pub(crate) fn tensor(&self, mode: Mode) -> candle_core::Result<Tensor> {
        let tensor = match self {
            Self::Plain(tensor) => tensor.clone(),
            Self::LowRank { base, a, b } => (base + b.matmul(a)?)?,
        };
        Ok(if mode == Mode::Evaluate { tensor.detach() } else { tensor })
    }
}

/// One variable.
#[derive(Debug, Clone)]
pub(crate) struct Parameter {
    pub(crate) var: Var,
    /// Whether weight decay pulls at it: at matrices, not at norms and biases.
    pub(crate) decays: bool,
}

/// Where a tensor of a block lies.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    parameter: String,
    elements: Range<usize>,
}

/// Everything that is trained.
#[derive(Debug, Default)]
pub(crate) struct Parameters {
    pub(crate) all: BTreeMap<String, Parameter>,
    parts: BTreeMap<(Slot, String), Part>,
}

impl Parameters {
    /// Adds a variable; `parts` says which tensors of which blocks lie in it, in order and without gaps.
    pub(crate) fn add(
        &mut self,
        name: String,
        dims: &[usize],
        values: Vec<f32>,
        parts: &[(Slot, &str, usize)],
    ) -> Result<Tensor, LearnError> {
        let var = Var::from_vec(values, dims, &Device::Cpu)?;
        let tensor = var.as_tensor().clone();
        let mut start = 0;
        for &(slot, tensor, len) in parts {
            let part = Part { parameter: name.clone(), elements: start..start + len };
            self.parts.insert((slot, tensor.to_owned()), part);
            start += len;
        }
        self.all.insert(name, Parameter { var, decays: dims.len() > 1 });
        Ok(tensor)
    }

    /// The trained values of a tensor of a block, or of a low-rank factor under its name in a delta;
    /// `None` if it is not trained.
    pub(crate) fn values(&self, slot: Slot, tensor: &str) -> Result<Option<Vec<f32>>, LearnError> {
        let Some(part) = self.parts.get(&(slot, tensor.to_owned())) else { return Ok(None) };
        let Some(parameter) = self.all.get(&part.parameter) else { return Ok(None) };
        let values = |all: &[f32]| Ok(all[part.elements.clone()].to_vec());
        Ok(Some(with_floats(parameter.var.as_tensor(), values)?))
    }

    /// Which parameter holds a tensor, and where.
    pub(crate) fn part(&self, slot: Slot, tensor: &str) -> Option<(&str, Range<usize>)> {
        let part = self.parts.get(&(slot, tensor.to_owned()))?;
        Some((&part.parameter, part.elements.clone()))
    }

    /// Tensors of blocks that are trained.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &(Slot, String)> {
        self.parts.keys()
    }
}

/// Takes weights from a source and makes variables of what is trained.
pub(crate) struct Builder<'a> {
    pub(crate) source: &'a dyn Source,
    pub(crate) trained: &'a BTreeSet<Slot>,
    pub(crate) form: Form,
    pub(crate) seed: u64,
    pub(crate) parameters: Parameters,
}

/// Names of the low-rank factors of a matrix in a delta, A first.
pub(crate) fn factor_names(matrix: &str) -> [String; 2] {
    let stem = matrix.strip_suffix(".weight").unwrap_or(matrix);
    [format!("{stem}.lora_A.weight"), format!("{stem}.lora_B.weight")]
}

/// Whether a delta can be added to a tensor.
pub(crate) fn is_matrix(tensor: &TensorSpec) -> bool {
    tensor.shape.dims().len() == 2 && tensor.name.ends_with(".weight")
}

impl Builder<'_> {
    pub(crate) fn is_trained(&self, slot: Slot) -> bool {
        self.trained.contains(&slot)
    }

    /// A tensor of a slot: fixed, a variable, or fixed with factors.
    pub(crate) fn weight(&mut self, slot: Slot, tensor: &TensorSpec) -> Result<Weight, LearnError> {
        let values = self.source.values(slot, tensor)?;
        let dims = tensor.shape.dims();
        if !self.is_trained(slot) || (self.form != Form::Full && !is_matrix(tensor)) {
            return Ok(Weight::Plain(Tensor::from_vec(values, dims, &Device::Cpu)?));
        }
        let name = |tensor: &str| format!("{slot}.{tensor}");
        let Form::LowRank { rank } = self.form else {
            let parts = [(slot, tensor.name, values.len())];
            return Ok(Weight::Plain(self.parameters.add(name(tensor.name), dims, values, &parts)?));
        };
        let (rows, cols) = (dims.first().copied().unwrap_or(1), dims.last().copied().unwrap_or(1));
        let [name_a, name_b] = factor_names(tensor.name);
        // As PEFT begins: A uniform, B zero, so that the first step starts from the base.
        let number = 1 << 32 | self.parameters.all.len() as u64;
        let a = uniform(self.seed, number, 1.0 / (cols as f64).sqrt(), rank * cols)?;
        let b = filled(0.0, rows * rank)?;
        let a_parts = [(slot, name_a.as_str(), rank * cols)];
        let b_parts = [(slot, name_b.as_str(), rows * rank)];
        Ok(Weight::LowRank {
            base: Tensor::from_vec(values, dims, &Device::Cpu)?,
            a: self.parameters.add(name(&name_a), &[rank, cols], a, &a_parts)?,
            b: self.parameters.add(name(&name_b), &[rows, rank], b, &b_parts)?,
        })
    }

    /// The tensor of that name among those of a slot, if the spec has one.
    pub(crate) fn named(&mut self, slot: Slot, name: &str) -> Result<Option<Weight>, LearnError> {
        let tensors = self.source.spec().tensors_of(slot);
        tensors.iter().find(|tensor| tensor.name == name).map(|tensor| self.weight(slot, tensor)).transpose()
    }

    /// As [`Self::named`], where the spec must have it.
    pub(crate) fn required(&mut self, slot: Slot, name: &str) -> Result<Weight, LearnError> {
        self.named(slot, name)?.ok_or(LearnError::UnknownSlot { slot })
    }
}
