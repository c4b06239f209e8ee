//! Owns the typed weights of each slot: tensors of a block, checked against the spec once, read in
//! place ever after.

use std::ops::Range;

use crate::dtype::DType;
use crate::format::{ModelSpec, Slot, TensorRole};
use crate::kernels::{Isa, KernelError, Normals, Vector, Weights};
use crate::tensor::{TensorBlock, TensorError, scale_name};

use super::ModelError;
use super::team::Team;

/// Rows that one task normalizes.
const NORM_ROWS_PER_TASK: usize = 16;

/// A matrix of a block, by its place in the payload, with its optional scale and bias.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    block: TensorBlock,
    dtype: DType,
    /// Output features.
    pub(crate) rows: usize,
    /// Input features.
    pub(crate) cols: usize,
    data: Range<usize>,
    scale: Option<Range<usize>>,
    bias: Option<Place>,
    /// Found once, as the block is opened.
    normals: Option<Normals>,
}

/// A vector of a block, by its place in the payload.
#[derive(Debug, Clone)]
struct Place {
    dtype: DType,
    len: usize,
    data: Range<usize>,
}

/// The weight of a norm.
#[derive(Debug, Clone)]
pub(crate) struct Norm {
    block: TensorBlock,
    place: Place,
}

/// What a matrix meets: activations as they are, rounded to 16 bits, or to 8 bits by group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Floats,
    Quantized,
    Groups,
}

/// Weights of `layer{l}.attention`.
#[derive(Debug)]
pub(crate) struct AttentionWeights {
    pub(crate) input_layernorm: Norm,
    pub(crate) post_attention_layernorm: Norm,
    pub(crate) q_proj: Linear,
    pub(crate) k_proj: Linear,
    pub(crate) v_proj: Linear,
    pub(crate) o_proj: Linear,
    pub(crate) q_norm: Option<Norm>,
    pub(crate) k_norm: Option<Norm>,
}

/// Weights of an expert, dense, routed or shared.
#[derive(Debug)]
pub(crate) struct ExpertWeights {
    pub(crate) gate_proj: Linear,
    pub(crate) up_proj: Linear,
    pub(crate) down_proj: Linear,
    /// (1, hidden_size): gate of a shared expert.
    pub(crate) shared_expert_gate: Option<Linear>,
}

/// Bytes of the payload that weights lie in.
pub(crate) trait PayloadBytes {
    fn payload_bytes(&self) -> usize;
}

impl Linear {
    /// The matrix, for a kernel.
    pub(crate) fn weights(&self) -> Result<Weights<'_>, KernelError> {
        let payload = self.block.payload();
        let scale = self.scale.clone().map(|range| &payload[range]);
        let weights = Weights::new(self.dtype, self.rows, self.cols, &payload[self.data.clone()], scale)?;
        match &self.normals {
            Some(normals) => weights.with_normals(normals),
            None => Ok(weights),
        }
    }

    /// The bias of those rows, where there is one.
    pub(crate) fn bias(&self, rows: Range<usize>) -> Result<Option<Vector<'_>>, KernelError> {
        let Some(place) = &self.bias else { return Ok(None) };
        let (start, size) = (place.data.start, place.dtype.size_bytes());
        let data = start + rows.start * size..start + rows.end * size;
        Vector::new(place.dtype, rows.len(), &self.block.payload()[data]).map(Some)
    }

    /// What a kernel wants its inputs to be.
    pub(crate) fn wants(&self) -> Form {
        match self.dtype {
            DType::F32 | DType::BF16 | DType::F16 | DType::F8E4M3 => Form::Floats,
            DType::I8 => Form::Quantized,
            DType::I4 => Form::Groups,
        }
    }
}

impl Norm {
    /// RMS norm of rows as long as the weight, in a buffer of the team's.
    pub(crate) fn apply(&self, isa: Isa, team: &Team, x: &[f32], eps: f32) -> Result<Vec<f32>, ModelError> {
        let weight = self.vector()?;
        let rows = NORM_ROWS_PER_TASK * weight.len().max(1);
        let mut normed = team.buffers().take(x.len());
        let tasks = normed.chunks_mut(rows).zip(x.chunks(rows)).collect();
        team.for_each(tasks, |(out, x)| isa.rms_norm(x, &weight, eps, out))?;
        Ok(normed)
    }

    pub(crate) fn vector(&self) -> Result<Vector<'_>, KernelError> {
        let Place { dtype, len, data } = &self.place;
        Vector::new(*dtype, *len, &self.block.payload()[data.clone()])
    }
}

impl PayloadBytes for Linear {
    fn payload_bytes(&self) -> usize {
        self.block.payload().len()
    }
}

impl PayloadBytes for Norm {
    fn payload_bytes(&self) -> usize {
        self.block.payload().len()
    }
}

impl PayloadBytes for AttentionWeights {
    fn payload_bytes(&self) -> usize {
        self.q_proj.payload_bytes()
    }
}

impl PayloadBytes for ExpertWeights {
    fn payload_bytes(&self) -> usize {
        self.gate_proj.payload_bytes()
    }
}

/// Reads the tensors of one slot's block.
struct Reader<'a> {
    slot: Slot,
    block: &'a TensorBlock,
}

impl<'a> Reader<'a> {
    /// Checks that the block holds exactly the tensors that the spec has for the slot: one more
    /// would change nothing, silently.
    fn new(spec: &ModelSpec, slot: Slot, block: &'a TensorBlock) -> Result<Self, ModelError> {
        let wrong = |tensor: &str, found: String, expected: String| ModelError::WrongTensor {
            slot,
            tensor: tensor.to_owned(),
            found,
            expected,
        };
        let tensors = spec.tensors_of(slot);
        if tensors.is_empty() {
            return Err(ModelError::UnknownSlot { slot });
        }
        let mut expected = 0;
        for tensor in &tensors {
            let view = block
                .tensor(tensor.name)
                .map_err(|source| ModelError::Tensor { slot, source: Box::new(source) })?;
            if view.shape() != &tensor.shape {
                return Err(wrong(tensor.name, view.shape().to_string(), tensor.shape.to_string()));
            }
            let quantized = view.dtype().is_quantized();
            if quantized && tensor.role != TensorRole::Projection {
                let float = "F32, BF16 or F16".to_owned();
                return Err(wrong(tensor.name, view.dtype().to_string(), float));
            }
            expected += 1 + usize::from(quantized);
        }
        let found = block.tensors().len();
        if found != expected {
            return Err(ModelError::TensorCount { slot, found, expected });
        }
        Ok(Self { slot, block })
    }

    fn take(&self, name: &str) -> Result<(DType, Vec<usize>, Range<usize>), ModelError> {
        let missing = |source: TensorError| ModelError::Tensor { slot: self.slot, source: Box::new(source) };
        let view = self.block.tensor(name).map_err(missing)?;
        let range = self.block.payload_range(name).unwrap_or_default();
        Ok((view.dtype(), view.shape().dims().to_vec(), range))
    }

    fn place(&self, name: &str) -> Result<Place, ModelError> {
        let (dtype, dims, data) = self.take(name)?;
        Ok(Place { dtype, len: dims.iter().product(), data })
    }

    fn norm(&self, name: &str) -> Result<Norm, ModelError> {
        Ok(Norm { block: self.block.clone(), place: self.place(&format!("{name}.weight"))? })
    }

    fn optional_norm(&self, name: &str) -> Result<Option<Norm>, ModelError> {
        let present = self.block.get(&format!("{name}.weight")).is_some();
        present.then(|| self.norm(name)).transpose()
    }

    fn linear(&self, name: &str) -> Result<Linear, ModelError> {
        let weight = format!("{name}.weight");
        let (dtype, dims, data) = self.take(&weight)?;
        let &[rows, cols] = &dims[..] else {
            let tensor = weight;
            let (found, expected) = (format!("{dims:?}"), "a matrix".to_owned());
            return Err(ModelError::WrongTensor { slot: self.slot, tensor, found, expected });
        };
        let scale = match dtype.is_quantized() {
            true => Some(self.take(&scale_name(&weight))?.2),
            false => None,
        };
        let bias = format!("{name}.bias");
        let bias = self.block.get(&bias).is_some().then(|| self.place(&bias)).transpose()?;
        let block = self.block.clone();
        let mut linear = Linear { block, dtype, rows, cols, data, scale, bias, normals: None };
        let normals = Isa::for_rows().normals(&linear.weights().map_err(ModelError::from)?);
        linear.normals = Some(normals);
        Ok(linear)
    }
}

impl AttentionWeights {
    pub(crate) fn read(spec: &ModelSpec, layer: u32, block: &TensorBlock) -> Result<Self, ModelError> {
        let reader = Reader::new(spec, Slot::Attention { layer }, block)?;
        Ok(Self {
            input_layernorm: reader.norm("input_layernorm")?,
            post_attention_layernorm: reader.norm("post_attention_layernorm")?,
            q_proj: reader.linear("q_proj")?,
            k_proj: reader.linear("k_proj")?,
            v_proj: reader.linear("v_proj")?,
            o_proj: reader.linear("o_proj")?,
            q_norm: reader.optional_norm("q_norm")?,
            k_norm: reader.optional_norm("k_norm")?,
        })
    }
}

impl ExpertWeights {
    /// Reads `slot`, an expert or a shared expert.
    pub(crate) fn read(spec: &ModelSpec, slot: Slot, block: &TensorBlock) -> Result<Self, ModelError> {
        let reader = Reader::new(spec, slot, block)?;
        let shared = matches!(slot, Slot::SharedExpert { .. });
        Ok(Self {
            gate_proj: reader.linear("gate_proj")?,
            up_proj: reader.linear("up_proj")?,
            down_proj: reader.linear("down_proj")?,
            shared_expert_gate: shared.then(|| reader.linear("shared_expert_gate")).transpose()?,
        })
    }

    /// The matrices that the expert's inputs are multiplied with.
    pub(crate) fn inputs(&self) -> [&Linear; 2] {
        [&self.gate_proj, &self.up_proj]
    }
}

/// Reads a block that holds one matrix: embedding, router or head.
pub(crate) fn read_matrix(
    spec: &ModelSpec,
    slot: Slot,
    name: &str,
    block: &TensorBlock,
) -> Result<Linear, ModelError> {
    Reader::new(spec, slot, block)?.linear(name)
}

/// Reads the final norm's block.
pub(crate) fn read_final_norm(spec: &ModelSpec, block: &TensorBlock) -> Result<Norm, ModelError> {
    Reader::new(spec, Slot::FinalNorm, block)?.norm("norm")
}
