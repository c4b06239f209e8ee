//! Owns what comes of training: candidate blocks for a snapshot's chain, or a whole new model.

use std::collections::BTreeMap;
use std::sync::Arc;

use blyan_core::format::{Manifest, ParentRole};
use blyan_core::manager::ManagerError;
use blyan_core::manager::delta::{self, DeltaBlockError};
use blyan_core::tensor::{
    PayloadLayout, TensorError, convert_into, merge_delta, quantize, quantize_rows_into, scale_layout,
    scale_name, write,
};
use blyan_core::{
    BlockHash, BlockKind, Chain, ChainId, DType, Draft, ModelSpec, PayloadHash, Shape, Slot, TensorBlock,
    TensorView,
};

use crate::error::LearnError;
use crate::parameters::{Form, Parameters, factor_names, is_matrix};

/// A block that was trained to take another's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate {
    /// The slot.
    pub slot: Slot,
    /// The block in it when training began.
    pub base: BlockHash,
    /// The delta block that was learnt, in the forms that have one.
    pub delta: Option<BlockHash>,
    /// The block that takes the base's place.
    pub block: BlockHash,
}

fn in_slot(slot: Slot) -> impl Fn(TensorError) -> LearnError {
    move |source| LearnError::Tensor { slot, source: Box::new(source) }
}

fn le(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Tensors of a payload with their types, in the canonical layout.
fn payload(tensors: &BTreeMap<String, (DType, Shape, Vec<f32>)>) -> Result<Vec<u8>, TensorError> {
    let scales: Vec<(String, (DType, Shape))> = tensors
        .iter()
        .filter_map(|(name, (dtype, shape, _))| Some((scale_name(name), scale_layout(*dtype, shape)?)))
        .collect();
    let mut places: Vec<(&str, DType, &Shape)> =
        tensors.iter().map(|(name, (dtype, shape, _))| (name.as_str(), *dtype, shape)).collect();
    places.extend(scales.iter().map(|(name, (dtype, shape))| (name.as_str(), *dtype, shape)));
    let layout = PayloadLayout::new(&places)?;
    let mut payload = layout.zeroed();
    let mut places: BTreeMap<&str, &mut [u8]> = layout.places(&mut payload).into_iter().collect();
    for (name, (dtype, shape, values)) in tensors {
        let out = places.remove(name.as_str()).unwrap_or_default();
        let source = le(values);
        let done = match shape.dims() {
            &[_, cols] if dtype.is_quantized() => {
                let scales = places.remove(scale_name(name).as_str()).unwrap_or_default();
                quantize_rows_into(DType::F32, &source, cols, *dtype, out, scales)
            }
            _ => convert_into(DType::F32, &source, *dtype, out),
        };
        done.map_err(|error| named(error, name))?;
    }
    Ok(payload)
}

/// Conversions do not know the tensor's name.
fn named(mut error: TensorError, name: &str) -> TensorError {
    if let TensorError::NotFinite { tensor, .. }
    | TensorError::Overflow { tensor, .. }
    | TensorError::Conversion { tensor, .. } = &mut error
    {
        name.clone_into(tensor);
    }
    error
}

/// Appends the candidate of one slot; `None` if what was learnt rounds to the base.
pub(crate) fn append(
    chain: &Chain,
    spec: &Arc<ModelSpec>,
    parameters: &Parameters,
    form: Form,
    (slot, base): (Slot, BlockHash),
) -> Result<Option<Candidate>, LearnError> {
    let block = TensorBlock::open(chain, &base).map_err(in_slot(slot))?;
    let draft = match form {
        Form::Full => {
            let mut tensors = BTreeMap::new();
            for tensor in spec.tensors_of(slot) {
                let dtype = block.tensor(tensor.name).map_err(in_slot(slot))?.dtype();
                let values = parameters.values(slot, tensor.name)?;
                let values = values.ok_or(LearnError::UnknownSlot { slot })?;
                tensors.insert(tensor.name.to_owned(), (dtype, tensor.shape, values));
            }
            let payload = payload(&tensors).map_err(in_slot(slot))?;
            let header = chain.get(&base)?.header().clone();
            let mut version = header.version.clone();
            version.patch = version.patch.saturating_add(1);
            version.pre = Default::default();
            let mut draft = Draft::new(header.lane, header.kind, header.name.as_str(), payload)
                .with_version(version)
                .with_parent(base, ParentRole::Predecessor);
            let dependencies = header.parents.iter().filter(|parent| parent.role == ParentRole::Dependency);
            draft.parents.extend(dependencies);
            if draft.header()?.payload.hash == header.payload.hash {
                return Ok(None);
            }
            let block = chain.append(draft)?;
            return Ok(Some(Candidate { slot, base, delta: None, block }));
        }
        Form::LowRank { rank } => {
            let mut tensors = BTreeMap::new();
            for tensor in spec.tensors_of(slot).into_iter().filter(is_matrix) {
                let &[rows, cols] = tensor.shape.dims() else { continue };
                for (name, dims) in factor_names(tensor.name).into_iter().zip([[rank, cols], [rows, rank]]) {
                    let values = parameters.values(slot, &name)?;
                    let values = values.ok_or(LearnError::UnknownSlot { slot })?;
                    tensors.insert(name, (DType::F32, Shape::new(dims), values));
                }
            }
            delta::draft(chain, &base, payload(&tensors).map_err(in_slot(slot))?)?
        }
        Form::Int8 => {
            let payload = difference(spec, parameters, slot, &block)?;
            delta::draft(chain, &base, payload)?
        }
    };
    let merged = merge_delta(block.payload(), &draft.payload).map_err(|source| {
        let source = Box::new(source);
        ManagerError::from(DeltaBlockError::Delta { block: base, source })
    })?;
    if PayloadHash::of_parallel(&merged) == chain.get(&base)?.header().payload.hash {
        return Ok(None);
    }
    let delta = chain.append(draft)?;
    let block = delta::merge(chain, &delta)?;
    Ok(Some(Candidate { slot, base, delta: Some(delta), block }))
}

/// What the matrices of a slot gained, in 8 bits.
fn difference(
    spec: &ModelSpec,
    parameters: &Parameters,
    slot: Slot,
    base: &TensorBlock,
) -> Result<Vec<u8>, LearnError> {
    let mut parts = Vec::new();
    for tensor in spec.tensors_of(slot).into_iter().filter(is_matrix) {
        let Some(mut values) = parameters.values(slot, tensor.name)? else { continue };
        let before = dequantized(base, slot, tensor.name)?;
        values.iter_mut().zip(before).for_each(|(value, before)| *value -= before);
        let bytes = le(&values);
        let view = TensorView::new(tensor.name, DType::F32, &tensor.shape, &bytes).map_err(in_slot(slot))?;
        let quantized = quantize(DType::I8, &view).map_err(in_slot(slot))?;
        let stem = tensor.name.strip_suffix(".weight").unwrap_or(tensor.name);
        let rows = tensor.shape.dims().first().copied().unwrap_or(1);
        parts.push((format!("{stem}.delta_scale"), DType::F32, Shape::new([rows, 1]), quantized.scales));
        parts.push((format!("{stem}.delta"), DType::I8, tensor.shape, quantized.values));
    }
    let parts: Vec<_> =
        parts.iter().map(|(name, dtype, shape, data)| (&name[..], *dtype, shape, &data[..])).collect();
    write(&parts).map_err(in_slot(slot))
}

fn dequantized(block: &TensorBlock, slot: Slot, name: &str) -> Result<Vec<f32>, LearnError> {
    let view = block.tensor(name).map_err(in_slot(slot))?;
    let mut values = view.to_f32_vec();
    if let Some(scales) = block.scale(name).map(|scales| scales.to_f32_vec()) {
        let per_scale = (values.len() / scales.len().max(1)).max(1);
        for (values, scale) in values.chunks_mut(per_scale).zip(scales) {
            values.iter_mut().for_each(|value| *value *= scale);
        }
    }
    Ok(values)
}

/// Appends a whole model that has no base: spec, a block for each slot, texts, model block.
pub(crate) fn append_model(
    chain: &Chain,
    spec: &Arc<ModelSpec>,
    parameters: &Parameters,
    dtype: DType,
    texts: &[(Slot, Vec<u8>)],
) -> Result<BlockHash, LearnError> {
    if dtype.is_quantized() {
        return Err(LearnError::WholeModel { dtype });
    }
    let mut writer = chain.writer()?;
    let draft = Draft::new(ChainId::Meta, BlockKind::SPEC, "spec", spec.to_canonical_json());
    let spec_block = writer.append(draft)?.hash;
    let mut slots = BTreeMap::new();
    for slot in spec.required_slots() {
        let mut tensors = BTreeMap::new();
        for tensor in spec.tensors_of(slot) {
            let values = parameters.values(slot, tensor.name)?.ok_or(LearnError::UnknownSlot { slot })?;
            tensors.insert(tensor.name.to_owned(), (dtype, tensor.shape, values));
        }
        let payload = payload(&tensors).map_err(in_slot(slot))?;
        let draft = Draft::new(ChainId::Parameter, slot.kind(), slot.to_string(), payload);
        slots.insert(slot, writer.append(draft.with_parent(spec_block, ParentRole::Dependency))?.hash);
    }
    for (slot, bytes) in texts {
        let draft = Draft::new(ChainId::Parameter, slot.kind(), slot.to_string(), bytes.as_slice());
        slots.insert(*slot, writer.append(draft)?.hash);
    }
    let manifest = Manifest { spec: spec_block, slots };
    let mut draft = Draft::new(ChainId::Meta, BlockKind::MODEL, "model", manifest.to_canonical_json())
        .with_parent(spec_block, ParentRole::Dependency);
    for block in manifest.slots.values() {
        draft = draft.with_parent(*block, ParentRole::Dependency);
    }
    let model = writer.append(draft)?.hash;
    writer.commit()?;
    Ok(model)
}
