//! Owns the comparison of two models: which slots changed, what that costs in bytes, how far the weights
//! moved. The same on every machine: values are dequantized exactly, and sums in f64 have one order.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::chain::{Chain, ChainError};
use crate::dtype::{DType, GROUP, Shape};
use crate::format::Slot;
use crate::hash::{BlockHash, SnapshotRoot};
use crate::kernels::FpEnv;
use crate::tensor::{TensorBlock, TensorView};

use super::{ManagerError, PinnedBlock, Snapshot};

/// What to compare, and whom to tell.
#[derive(Clone, Copy, Default)]
pub struct CompareOptions<'a> {
    /// Whether to read the weights of changed slots and tell how far they moved.
    pub distances: bool,
    /// Called after each changed slot, on the calling thread: how many are done, and how many there are.
    pub progress: Option<&'a (dyn Fn(u64, u64) + Sync)>,
    /// Set to stop; it then ends with [`ChainError::Cancelled`].
    pub cancel: Option<&'a AtomicBool>,
}

/// How two models differ.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotDiff {
    /// Root of the model on the left.
    pub before: SnapshotRoot,
    /// Root of the model on the right.
    pub after: SnapshotRoot,
    /// Spec block on the left.
    pub before_spec: BlockHash,
    /// Spec block on the right.
    pub after_spec: BlockHash,
    /// Slots whose blocks differ, in slot order.
    pub slots: Vec<SlotDiff>,
    /// Bytes of payloads that only the right has, each once: what has to be sent to who has the left.
    pub new_payload_bytes: u64,
    /// Losses of both on the same tokens. A comparison measures none: [`evolve::loss_diff`](crate::evolve::loss_diff)
    /// does, or those of an attestation are put here.
    pub loss: Option<LossDiff>,
}

/// Mean losses on the same tokens, as exact bits of f64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LossDiff {
    /// Of the model on the left, in nats per predicted token.
    pub before_bits: u64,
    /// Of the model on the right.
    pub after_bits: u64,
    /// Tokens that were predicted.
    pub tokens: u64,
}

impl LossDiff {
    /// Of the model on the left, in nats per predicted token.
    pub fn before(&self) -> f64 {
        f64::from_bits(self.before_bits)
    }

    /// Of the model on the right.
    pub fn after(&self) -> f64 {
        f64::from_bits(self.after_bits)
    }
}

/// How one slot differs.
#[derive(Debug, Clone, PartialEq)]
pub struct SlotDiff {
    /// The slot.
    pub slot: Slot,
    /// The block on the left, if any.
    pub before: Option<PinnedBlock>,
    /// The block on the right, if any.
    pub after: Option<PinnedBlock>,
    /// Whether both have the same payload: only the header is another.
    pub same_payload: bool,
    /// Tensors whose bytes, type or shape differ, by name; none without
    /// [`CompareOptions::distances`], and for texts.
    pub tensors: Vec<TensorDiff>,
}

/// How one tensor differs.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorDiff {
    /// Its name inside the block.
    pub name: String,
    /// Type and shape on the left, if it is there.
    pub before: Option<(DType, Shape)>,
    /// Type and shape on the right, if it is there.
    pub after: Option<(DType, Shape)>,
    /// How far it moved; only where both sides have the same shape.
    pub distance: Option<Distance>,
}

/// How far a tensor moved: its values on the left, times their scales, from those on the right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distance {
    /// Frobenius norm of the difference.
    pub norm: f64,
    /// The same divided by the norm of the left; `None` if that is 0.
    pub relative_norm: Option<f64>,
    /// Largest magnitude of the difference.
    pub max_abs: f64,
}

/// Compares two models.
///
/// # Errors
///
/// [`ManagerError::Chain`] with [`ChainError::Cancelled`]; with [`CompareOptions::distances`] also
/// [`ManagerError::Block`] for weights that are missing, collected or damaged.
pub fn compare(
    chain: &Chain,
    before: &Snapshot,
    after: &Snapshot,
    options: &CompareOptions<'_>,
) -> Result<SnapshotDiff, ManagerError> {
    let changes = before.diff(after);
    let mut slots = Vec::with_capacity(changes.len());
    for (done, change) in (1..).zip(&changes) {
        if options.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
            return Err(ChainError::Cancelled.into());
        }
        let slot = change.slot;
        let [left, right] = [before, after].map(|snapshot| snapshot.slots().get(&slot).copied());
        let same_payload = left.zip(right).is_some_and(|(left, right)| left.payload == right.payload);
        let tensors = match options.distances && slot.kind().is_weights() && !same_payload {
            true => tensors(chain, slot, left, right)?,
            false => Vec::new(),
        };
        slots.push(SlotDiff { slot, before: left, after: right, same_payload, tensors });
        if let Some(progress) = options.progress {
            progress(done, changes.len() as u64);
        }
    }
    let mut held: HashSet<_> = before.slots().values().map(|pinned| pinned.payload).collect();
    let new = after.slots().values().filter(|pinned| held.insert(pinned.payload));
    let new_payload_bytes = new.fold(0_u64, |sum, pinned| sum.saturating_add(pinned.len_bytes));
    Ok(SnapshotDiff {
        before: before.root(),
        after: after.root(),
        before_spec: *before.spec_block(),
        after_spec: *after.spec_block(),
        slots,
        new_payload_bytes,
        loss: None,
    })
}

fn tensors(
    chain: &Chain,
    slot: Slot,
    before: Option<PinnedBlock>,
    after: Option<PinnedBlock>,
) -> Result<Vec<TensorDiff>, ManagerError> {
    let open = |pinned: PinnedBlock| {
        let block = pinned.block;
        TensorBlock::open(chain, &block).map_err(|source| ManagerError::Block {
            slot,
            block,
            source: Box::new(source),
        })
    };
    let (before, after) = (before.map(open).transpose()?, after.map(open).transpose()?);
    let mut names: BTreeMap<&str, ()> = BTreeMap::new();
    for block in [&before, &after].into_iter().flatten() {
        // The scales of a quantized tensor are part of its values.
        let scales: HashSet<&str> =
            block.tensors().filter_map(|(name, _)| block.scale(name)).map(|scale| scale.name()).collect();
        names.extend(block.tensors().map(|(name, _)| (name, ())).filter(|(name, ())| !scales.contains(name)));
    }
    let mut diffs = Vec::new();
    for name in names.into_keys() {
        let values = |block: &'_ Option<TensorBlock>| -> Option<(DType, Shape)> {
            let view = block.as_ref()?.get(name)?;
            Some((view.dtype(), view.shape().clone()))
        };
        let (left, right) = (values(&before), values(&after));
        let mut distance = None;
        if let (Some(before), Some(after)) = (&before, &after)
            && let (Some(a), Some(b)) = (Values::of(before, name), Values::of(after, name))
        {
            if a.bytes() == b.bytes() && left == right {
                continue;
            }
            if a.view.shape() == b.view.shape() {
                distance = Some(a.distance(&b));
            }
        }
        diffs.push(TensorDiff { name: name.to_owned(), before: left, after: right, distance });
    }
    Ok(diffs)
}

/// A tensor and its scales.
struct Values<'a> {
    view: TensorView<'a>,
    scale: Option<TensorView<'a>>,
}

/// Sums over one row.
#[derive(Clone, Copy, Default)]
struct Sums {
    difference: f64,
    before: f64,
    max_abs: f64,
}

impl<'a> Values<'a> {
    fn of(block: &'a TensorBlock, name: &str) -> Option<Self> {
        Some(Self { view: block.get(name)?, scale: block.scale(name) })
    }

    fn bytes(&self) -> (&[u8], Option<&[u8]>) {
        (self.view.data(), self.scale.map(|scale| scale.data()))
    }

    /// Rows and columns: a vector is one row.
    fn rows_and_cols(&self) -> (usize, usize) {
        match self.view.shape().dims() {
            [rows, rest @ ..] if !rest.is_empty() => (*rows, rest.iter().product()),
            dims => (1, dims.iter().product()),
        }
    }

    /// A row of values times their scales, exactly: 8 bits of one and 24 of the other fit f64.
    fn row(&self, row: usize, cols: usize) -> Vec<f64> {
        let dtype = self.view.dtype();
        let row_bytes = dtype.bytes_of(cols);
        let bytes = self.view.data().get(row * row_bytes..(row + 1) * row_bytes).unwrap_or_default();
        let shape = Shape::new([1, cols]);
        let values = TensorView::new(self.view.name(), dtype, &shape, bytes);
        let values = values.map(|view| view.to_f32_vec()).unwrap_or_default();
        let Some(scale) = &self.scale else { return values.into_iter().map(f64::from).collect() };
        let per_row = scale.shape().dims().get(1).copied().unwrap_or(1);
        let group = if per_row == 1 && dtype != DType::I4 { cols.max(1) } else { GROUP };
        let groups = values.chunks(group).enumerate();
        groups
            .flat_map(|(group, values)| {
                let scale = f64::from(scale.get_f32(row * per_row + group).unwrap_or_default());
                values.iter().map(move |value| f64::from(*value) * scale)
            })
            .collect()
    }

    /// Sums along each row, then over the rows in their order, whatever thread had which row.
    fn distance(&self, after: &Self) -> Distance {
        let (rows, cols) = self.rows_and_cols();
        let row = |row: usize| {
            let _env = FpEnv::enter();
            let mut sums = Sums::default();
            for (a, b) in self.row(row, cols).iter().zip(after.row(row, cols)) {
                let difference = b - a;
                sums.difference += difference * difference;
                sums.before += a * a;
                sums.max_abs = sums.max_abs.max(difference.abs());
            }
            sums
        };
        let by_row: Vec<Sums> = (0..rows).into_par_iter().map(row).collect();
        let _env = FpEnv::enter();
        let mut sums = Sums::default();
        for row in by_row {
            sums.difference += row.difference;
            sums.before += row.before;
            sums.max_abs = sums.max_abs.max(row.max_abs);
        }
        let norm = sums.difference.sqrt();
        let relative_norm = (sums.before > 0.0).then(|| norm / sums.before.sqrt());
        Distance { norm, relative_norm, max_abs: sums.max_abs }
    }
}
