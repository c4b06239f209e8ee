//! Owns taking single experts out of checkpoints and models: from weights, whole or some rows of them, to
//! blocks that fill a slot of another model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use semver::{Prerelease, Version};

use super::EvolveError;
use crate::chain::{Chain, Draft};
use crate::dtype::{DType, Shape};
use crate::format::{BlockKind, ChainId, ModelSpec, ParentRole, Slot, TensorSpec};
use crate::hash::{BlockHash, PayloadHash};
use crate::import::validate::check_tensors;
use crate::import::{ImportError, ImportOptions, InvalidBlock, Sink, Slots, stored_dtype};
use crate::kernels::FpEnv;
use crate::manager::Snapshot;
use crate::tensor::{
    TensorBlock, TensorError, TensorMap, TensorView, convert_into, quantize, scale_layout, scale_name, write,
};

/// Where weights are taken from.
#[derive(Debug, Clone, Copy)]
pub enum ExtractSource<'a> {
    /// A checkpoint folder or a GGUF file, read as an import reads it; all of it must be there.
    Checkpoint(&'a Path),
    /// A model of a chain, the one that is appended to or another.
    Model {
        /// The chain.
        chain: &'a Chain,
        /// The model block.
        model: BlockHash,
    },
}

/// One block to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The slot of the source whose weights are taken.
    pub from: Slot,
    /// Rows of its `gate_proj` and `up_proj`, which are columns of its `down_proj`, in the order in which
    /// the new expert has them; `None` for all. Numbers of inner neurons, so to speak: experts that
    /// divide them among themselves add up to the whole.
    pub rows: Option<Vec<usize>>,
    /// The slot that it is to fill.
    pub to: Slot,
}

impl Piece {
    /// All of a slot, for the slot of the same name.
    pub const fn whole(slot: Slot) -> Self {
        Self { from: slot, rows: None, to: slot }
    }
}

/// How to extract.
#[derive(Debug, Clone, Default)]
pub struct ExtractOptions<'a> {
    /// Type of the projections, as for an import; `None` keeps the source's.
    pub dtype: Option<DType>,
    /// Whether to append nothing, only to report what would be.
    pub dry_run: bool,
    /// See [`ImportOptions::ignore_config_keys`].
    pub ignore_config_keys: Vec<String>,
    /// Set to stop; nothing is appended then.
    pub cancel: Option<&'a AtomicBool>,
}

/// What was extracted, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ExtractReport {
    /// One for each piece, in their order.
    pub blocks: Vec<ExtractedBlock>,
    /// Blocks that the chain did not hold.
    pub blocks_new: u64,
    /// Blocks that it held.
    pub blocks_known: u64,
    /// Bytes of payloads that it did not hold.
    pub payload_bytes_new: u64,
    /// Bytes of payloads that it held, or that appeared twice.
    pub payload_bytes_known: u64,
}

/// A block that was extracted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExtractedBlock {
    /// The slot that it fills.
    pub slot: Slot,
    /// The block: the target's own, if that has exactly these weights.
    pub block: BlockHash,
    /// Its payload.
    pub payload: PayloadHash,
    /// The payload's length.
    pub len_bytes: u64,
    /// Whether the chain did not hold it.
    pub new_block: bool,
    /// Whether the chain did not hold its payload.
    pub new_payload: bool,
}

/// What cannot be extracted. Nothing was appended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExtractError {
    /// No piece was asked for.
    #[error("nothing to extract: name at least one slot")]
    Nothing,
    /// A target that is neither a model nor a spec.
    #[error("block {block} is a {kind} block: extract for a model or a spec block")]
    Target {
        /// The block.
        block: BlockHash,
        /// What it is.
        kind: BlockKind,
    },
    /// A slot that the source does not have, or that holds no weights.
    #[error("the source has no weights in {slot}")]
    NoSource {
        /// The slot.
        slot: Slot,
    },
    /// A slot that two pieces want to fill.
    #[error("two pieces are to fill {slot}: a block fills a slot alone")]
    SlotTwice {
        /// The slot.
        slot: Slot,
    },
    /// Rows of what is no expert.
    #[error("{slot} cannot be divided by rows: only experts can, and the layers of a dense model")]
    NotDivisible {
        /// The slot of the source.
        slot: Slot,
    },
    /// A row that is not there, or was named before.
    #[error("row {row} for {slot}: expected different numbers below {rows}")]
    Row {
        /// The slot to fill.
        slot: Slot,
        /// The row.
        row: usize,
        /// Rows of the source.
        rows: usize,
    },
    /// Quantized weights can only be taken as they are.
    #[error("{tensor} of {slot} is {dtype}: divide and convert weights before they are quantized")]
    Quantized {
        /// The slot of the source.
        slot: Slot,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: DType,
    },
    /// Weights that do not fit the slot that they are to fill.
    #[error("what was taken from {from} does not fit {to}: {source}")]
    DoesNotFit {
        /// The slot of the source.
        from: Slot,
        /// The slot to fill.
        to: Slot,
        /// What is wrong.
        source: Box<InvalidBlock>,
    },
    /// A tensor of the source.
    #[error("{slot}: {source}")]
    Tensor {
        /// The slot of the source.
        slot: Slot,
        /// What is wrong.
        source: Box<TensorError>,
    },
    /// The caller asked to stop.
    #[error("the extraction was cancelled; nothing was appended")]
    Cancelled,
}

/// Makes blocks of single slots' weights, to be proposed for a model: experts of another checkpoint or
/// model of the same shapes, or parts of a dense layer.
///
/// `target` is the model block that the new blocks are made for, whose blocks in the same slots they
/// follow with the next patch version; or a spec block, for a model that is not there yet. Weights become
/// exactly the bytes that an import would make of them.
///
/// # Errors
///
/// [`EvolveError::Extract`], [`EvolveError::Import`] for a checkpoint that cannot be read, or from the
/// chain; nothing was appended then.
pub fn extract(
    chain: &Chain,
    target: &BlockHash,
    source: &ExtractSource<'_>,
    pieces: &[Piece],
    options: &ExtractOptions<'_>,
) -> Result<ExtractReport, EvolveError> {
    let _env = FpEnv::enter();
    let target = Target::open(chain, target)?;
    target.check(pieces)?;
    let source = Source::open(source, pieces, options)?;
    let mut sink = Sink::new(chain, options.dry_run)?;
    let mut report = ExtractReport::default();
    for piece in pieces {
        if options.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
            return Err(ExtractError::Cancelled.into());
        }
        let payload = source.payload(piece, &target.spec, options.dtype)?;
        let misfit =
            |source| ExtractError::DoesNotFit { from: piece.from, to: piece.to, source: Box::new(source) };
        check_tensors(&target.spec, piece.to, &payload).map_err(misfit)?;
        let len_bytes = payload.len() as u64;
        let draft = target.draft(chain, piece.to, payload)?;
        let payload = draft.payload_hash;
        let appended = sink.append(draft.draft)?;
        let block = appended.hash;
        let ExtractReport { blocks, blocks_new, blocks_known, payload_bytes_new, payload_bytes_known } =
            &mut report;
        *(if appended.new_block { blocks_new } else { blocks_known }) += 1;
        *(if appended.new_payload { payload_bytes_new } else { payload_bytes_known }) += len_bytes;
        let (new_block, new_payload) = (appended.new_block, appended.new_payload);
        blocks.push(ExtractedBlock { slot: piece.to, block, payload, len_bytes, new_block, new_payload });
    }
    sink.commit()?;
    Ok(report)
}

/// What the blocks are made for.
struct Target {
    spec_block: BlockHash,
    spec: ModelSpec,
    /// Blocks that are followed.
    slots: BTreeMap<Slot, BlockHash>,
}

struct NewBlock {
    draft: Draft,
    payload_hash: PayloadHash,
}

impl Target {
    fn open(chain: &Chain, target: &BlockHash) -> Result<Self, EvolveError> {
        match chain.get(target)?.header().kind {
            BlockKind::MODEL => {
                let snapshot = Snapshot::of_model(chain, target)?;
                let slots = snapshot.slots().iter().map(|(slot, pinned)| (*slot, pinned.block)).collect();
                Ok(Self {
                    spec_block: *snapshot.spec_block(),
                    spec: ModelSpec::clone(snapshot.spec()),
                    slots,
                })
            }
            BlockKind::SPEC => {
                let spec = ModelSpec::from_canonical_json(&chain.payload(target)?)
                    .map_err(crate::manager::ManagerError::from)?;
                Ok(Self { spec_block: *target, spec, slots: BTreeMap::new() })
            }
            kind => Err(ExtractError::Target { block: *target, kind }.into()),
        }
    }

    /// Finds what is wrong with the pieces before any weight is read.
    fn check(&self, pieces: &[Piece]) -> Result<(), ExtractError> {
        if pieces.is_empty() {
            return Err(ExtractError::Nothing);
        }
        let mut filled = BTreeSet::new();
        for piece in pieces {
            let (from, to) = (piece.from, piece.to);
            if self.spec.tensors_of(to).is_empty() {
                let source = Box::new(InvalidBlock::UnknownSlot { slot: to });
                return Err(ExtractError::DoesNotFit { from, to, source });
            }
            if !filled.insert(to) {
                return Err(ExtractError::SlotTwice { slot: to });
            }
            let expert = |slot| matches!(slot, Slot::Expert { .. } | Slot::SharedExpert { .. });
            if piece.rows.is_some() && !(expert(from) && expert(to)) {
                return Err(ExtractError::NotDivisible { slot: from });
            }
        }
        Ok(())
    }

    /// The block of these weights: the one that is there, or the next in its slot.
    fn draft(&self, chain: &Chain, slot: Slot, payload: Vec<u8>) -> Result<NewBlock, EvolveError> {
        let draft = |version| {
            Draft::new(ChainId::Parameter, slot.kind(), slot.to_string(), Vec::new())
                .with_version(version)
                .with_parent(self.spec_block, ParentRole::Dependency)
        };
        let payload_hash = PayloadHash::of_parallel(&payload);
        let mut draft = match self.slots.get(&slot) {
            None => draft(Version::new(1, 0, 0)),
            Some(before) => {
                let before = chain.get(before)?;
                let header = before.header();
                if header.payload.hash == payload_hash {
                    // The same block again: its version and all of its parents.
                    let mut same = draft(header.version.clone());
                    same.parents.clone_from(&header.parents);
                    same
                } else {
                    let mut version = header.version.clone();
                    (version.patch, version.pre) = (version.patch.saturating_add(1), Prerelease::EMPTY);
                    draft(version).with_parent(before.hash(), ParentRole::Predecessor)
                }
            }
        };
        draft.payload = payload;
        Ok(NewBlock { draft, payload_hash })
    }
}

/// A source, open.
enum Source<'a> {
    Checkpoint {
        /// In the type that was asked for, as an import makes them.
        whole: Option<Box<Slots<'a>>>,
        /// In the checkpoint's own type, to be divided before they are converted.
        kept: Option<Box<Slots<'a>>>,
    },
    Model {
        chain: &'a Chain,
        snapshot: Snapshot,
    },
}

impl<'a> Source<'a> {
    fn open(
        source: &ExtractSource<'a>,
        pieces: &[Piece],
        options: &ExtractOptions<'a>,
    ) -> Result<Self, EvolveError> {
        match *source {
            ExtractSource::Checkpoint(path) => {
                let open = |wanted: bool, dtype: Option<DType>| {
                    let ignore_config_keys = options.ignore_config_keys.clone();
                    let cancel = options.cancel;
                    let options =
                        ImportOptions { dtype, ignore_config_keys, cancel, ..ImportOptions::default() };
                    wanted.then(|| Slots::open(path, &options).map(Box::new)).transpose()
                };
                let whole = open(pieces.iter().any(|piece| piece.rows.is_none()), options.dtype)?;
                let kept = open(pieces.iter().any(|piece| piece.rows.is_some()), None)?;
                Ok(Self::Checkpoint { whole, kept })
            }
            ExtractSource::Model { chain, model } => {
                Ok(Self::Model { chain, snapshot: Snapshot::of_model(chain, &model)? })
            }
        }
    }

    /// Payload of a piece, in the type asked for.
    fn payload(
        &self,
        piece: &Piece,
        target: &ModelSpec,
        dtype: Option<DType>,
    ) -> Result<Vec<u8>, EvolveError> {
        let missing = || ExtractError::NoSource { slot: piece.from };
        match self {
            Self::Checkpoint { whole, kept } => {
                let slots = if piece.rows.is_some() { kept } else { whole };
                let payload = slots.as_ref().map(|slots| slots.payload(piece.from)).transpose();
                let payload = payload.map_err(|error| match error {
                    ImportError::Cancelled => EvolveError::from(ExtractError::Cancelled),
                    error => error.into(),
                })?;
                let payload = payload.flatten().ok_or_else(missing)?;
                match &piece.rows {
                    Some(_) => Ok(reshaped(&payload, piece, target, dtype)?),
                    None => Ok(payload),
                }
            }
            Self::Model { chain, snapshot } => {
                if snapshot.spec().tensors_of(piece.from).is_empty() {
                    return Err(missing().into());
                }
                let block = snapshot.slots().get(&piece.from).ok_or_else(missing)?.block;
                let in_slot = |source| ExtractError::Tensor { slot: piece.from, source: Box::new(source) };
                let block = TensorBlock::open(chain, &block).map_err(in_slot)?;
                match (&piece.rows, dtype) {
                    (None, None) => Ok(block.payload().to_vec()),
                    _ => Ok(reshaped(block.payload(), piece, target, dtype)?),
                }
            }
        }
    }
}

/// A tensor on its way into a payload.
struct Taken {
    name: String,
    dtype: DType,
    shape: Shape,
    data: Vec<u8>,
}

/// The weights of a payload, with the rows and in the type that were asked for.
fn reshaped(
    payload: &[u8],
    piece: &Piece,
    target: &ModelSpec,
    dtype: Option<DType>,
) -> Result<Vec<u8>, ExtractError> {
    let in_slot = |source| ExtractError::Tensor { slot: piece.from, source: Box::new(source) };
    let tensors = TensorMap::parse(payload).map_err(in_slot)?;
    let expected = target.tensors_of(piece.to);
    let mut taken = Vec::new();
    for (name, view) in tensors.views(payload) {
        let spec = expected.iter().find(|tensor| tensor.name == name);
        let to = spec.map_or(view.dtype(), |spec| stored_dtype(piece.to, spec, view.dtype(), dtype));
        let as_it_is = piece.rows.is_none() && to == view.dtype();
        if view.dtype().is_quantized() && !as_it_is {
            let (tensor, dtype) = (name.to_owned(), view.dtype());
            return Err(ExtractError::Quantized { slot: piece.from, tensor, dtype });
        }
        let mut tensor = match &piece.rows {
            Some(rows) => divided(&view, rows, piece.to)?,
            None => Taken::whole(&view),
        };
        if to != tensor.dtype {
            taken.extend(tensor.convert(to, spec).map_err(in_slot)?);
        }
        taken.push(tensor);
    }
    let parts: Vec<_> =
        taken.iter().map(|tensor| (&*tensor.name, tensor.dtype, &tensor.shape, &*tensor.data)).collect();
    write(&parts).map_err(in_slot)
}

impl Taken {
    fn whole(view: &TensorView<'_>) -> Self {
        let (name, shape) = (view.name().to_owned(), view.shape().clone());
        Self { name, dtype: view.dtype(), shape, data: view.data().to_vec() }
    }

    /// Rounds or quantizes; the scales of what was quantized are a tensor of their own.
    fn convert(&mut self, to: DType, spec: Option<&TensorSpec>) -> Result<Option<Self>, TensorError> {
        let view = TensorView::new(&self.name, self.dtype, &self.shape, &self.data)?;
        // Before the bytes are: a shape that does not fit may be no matrix of whole groups.
        if let Some(spec) = spec.filter(|spec| spec.shape != self.shape) {
            let (tensor, actual) = (self.name.clone(), self.shape.clone());
            return Err(TensorError::Shape { tensor, actual, expected: spec.shape.clone() });
        }
        let scales = if to.is_quantized() {
            let quantized = quantize(to, &view)?;
            self.data = quantized.values;
            scale_layout(to, &self.shape).map(|(dtype, shape)| {
                let name = scale_name(&self.name);
                Self { name, dtype, shape, data: quantized.scales }
            })
        } else {
            let len_bytes = self.shape.size_bytes(to).map_err(|_| TensorError::Size {
                tensor: self.name.clone(),
                expected: usize::MAX,
                actual: self.data.len(),
            })?;
            let mut data = vec![0; len_bytes];
            convert_into(self.dtype, &self.data, to, &mut data).map_err(|error| error.about(&self.name))?;
            self.data = data;
            None
        };
        self.dtype = to;
        Ok(scales)
    }
}

/// The part of an expert's tensor that belongs to some of its inner neurons.
fn divided(view: &TensorView<'_>, rows: &[usize], to: Slot) -> Result<Taken, ExtractError> {
    let dims = view.shape().dims();
    // gate_proj, up_proj: (inner, hidden) and their biases (inner); down_proj: (hidden, inner), and what it
    // adds has no inner neurons.
    let inner = match (view.name(), dims) {
        ("down_proj.weight", &[_, inner]) => inner,
        ("gate_proj.weight" | "up_proj.weight" | "gate_proj.bias" | "up_proj.bias", &[inner, ..]) => inner,
        _ => return Ok(Taken::whole(view)),
    };
    let mut known = BTreeSet::new();
    let wrong = rows.iter().find(|&&row| row >= inner || !known.insert(row));
    if let Some(&row) = wrong {
        return Err(ExtractError::Row { slot: to, row, rows: inner });
    }
    let element = view.dtype().size_bytes();
    let mut data = Vec::new();
    let shape = if view.name() == "down_proj.weight" {
        for columns in view.rows() {
            for &column in rows {
                data.extend_from_slice(
                    columns.get(column * element..(column + 1) * element).unwrap_or_default(),
                );
            }
        }
        Shape::new([dims.first().copied().unwrap_or(0), rows.len()])
    } else {
        let row_bytes = view.data().len() / inner.max(1);
        for &row in rows {
            data.extend_from_slice(
                view.data().get(row * row_bytes..(row + 1) * row_bytes).unwrap_or_default(),
            );
        }
        let mut dims = dims.to_vec();
        dims.iter_mut().take(1).for_each(|first| *first = rows.len());
        Shape::new(dims)
    };
    Ok(Taken { name: view.name().to_owned(), dtype: view.dtype(), shape, data })
}
