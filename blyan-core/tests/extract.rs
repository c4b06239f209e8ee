//! Single experts out of checkpoints and models: the bytes that an import makes, whole or in parts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::folders::{CHOICES, Checkpoint, Raw, fixture, manifest, state, tensor_block, weights};
use blyan_core::evolve::{
    EvolveError, ExtractError, ExtractOptions, ExtractReport, ExtractSource, Piece, extract,
};
use blyan_core::format::FeedForward;
use blyan_core::import::{self, ImportOptions};
use blyan_core::{
    BlockHash, BlockKind, Chain, ChainId, DType, Draft, ModelSpec, ParentRole, Slot, TensorBlock,
    VerifyOptions,
};
use tempfile::TempDir;

const EXPERT: Slot = Slot::Expert { layer: 1, expert: 2 };

fn imported(folder: &Path, dtype: Option<DType>) -> (Chain, BlockHash) {
    let chain = Chain::in_memory().unwrap();
    let options = ImportOptions { dtype, ..ImportOptions::default() };
    let model = import::checkpoint(&chain, folder, &options).unwrap().model;
    (chain, model)
}

/// The mixtral fixture with another expert: the sign of one of its matrices turned.
fn changed() -> TempDir {
    let mut checkpoint = Checkpoint::of("mixtral");
    let weight = checkpoint.tensor("model.layers.1.block_sparse_moe.experts.2.w2.weight");
    let element = weight.data.len() / weight.shape.iter().product::<usize>();
    weight.data.iter_mut().skip(element - 1).step_by(element).for_each(|byte| *byte ^= 0x80);
    checkpoint.write()
}

fn options(dtype: Option<DType>) -> ExtractOptions<'static> {
    ExtractOptions { dtype, ..ExtractOptions::default() }
}

/// Extracts without and with appending; what the first says, the second does.
fn extract_twice(
    chain: &Chain,
    target: &BlockHash,
    source: &ExtractSource<'_>,
    pieces: &[Piece],
    options: &ExtractOptions<'_>,
) -> ExtractReport {
    let before = state(chain);
    let dry = ExtractOptions { dry_run: true, ..options.clone() };
    let planned = extract(chain, target, source, pieces, &dry).unwrap();
    assert_eq!(state(chain), before);
    let report = extract(chain, target, source, pieces, options).unwrap();
    assert_eq!(report, planned);
    assert_eq!(state(chain).1, before.1 + report.blocks_new);
    let again = extract(chain, target, source, pieces, options).unwrap();
    assert_eq!((again.blocks_new, again.payload_bytes_new), (0, 0));
    let hashes = |report: &ExtractReport| report.blocks.iter().map(|b| b.block).collect::<Vec<_>>();
    assert_eq!(hashes(&again), hashes(&report));
    assert!(chain.verify(&VerifyOptions::default()).unwrap().bad.is_empty());
    report
}

#[test]
fn an_expert_of_a_checkpoint_is_what_an_import_makes_of_it() {
    let folder = changed();
    for (name, dtype) in CHOICES {
        let (chain, model) = imported(&fixture("mixtral"), dtype);
        let (other, later) = imported(folder.path(), dtype);
        let sources =
            [ExtractSource::Checkpoint(folder.path()), ExtractSource::Model { chain: &other, model: later }];
        for (source, from_chain) in sources.iter().zip([false, true]) {
            // What is quantized in its own chain is taken as it is.
            let options = options(dtype.filter(|_| !from_chain));
            let report = extract_twice(&chain, &model, source, &[Piece::whole(EXPERT)], &options);
            let block = chain.get(&report.blocks[0].block).unwrap();
            let expected = tensor_block(&other, &later, &EXPERT.to_string());
            assert_eq!(&*chain.payload(&block.hash()).unwrap(), expected.payload(), "{name}");
            assert_eq!(report.blocks[0].len_bytes, expected.payload().len() as u64);
            assert_eq!(report.blocks[0].new_block, !from_chain, "{name}");
            let header = block.header();
            assert_eq!((header.name.as_str(), header.kind), ("layer1.expert2", BlockKind::EXPERT));
            assert_eq!(header.version.to_string(), "1.0.1");
            let pinned = manifest(&chain, &model);
            let role = |role| header.parents.iter().filter(move |p| p.role == role).map(|p| p.hash);
            assert_eq!(role(ParentRole::Dependency).collect::<Vec<_>>(), [pinned.spec]);
            assert_eq!(role(ParentRole::Predecessor).collect::<Vec<_>>(), [pinned.slots[&EXPERT]]);
        }
    }
}

#[test]
fn what_a_model_has_already_is_its_own_block() {
    for (_, dtype) in CHOICES {
        let folder = fixture("mixtral");
        let (chain, model) = imported(&folder, dtype);
        let slots = [EXPERT, Slot::Router { layer: 0 }, Slot::Embedding, Slot::Attention { layer: 1 }];
        let pieces = slots.map(Piece::whole);
        let before = state(&chain);
        let report =
            extract(&chain, &model, &ExtractSource::Checkpoint(&folder), &pieces, &options(dtype)).unwrap();
        assert_eq!(state(&chain), before);
        assert_eq!((report.blocks_new, report.blocks_known, report.payload_bytes_new), (0, 4, 0));
        for (slot, block) in slots.iter().zip(&report.blocks) {
            assert_eq!(block.block, manifest(&chain, &model).slots[slot]);
        }
    }
}

#[test]
fn an_expert_of_a_chain_can_be_rounded_or_quantized() {
    let folder = changed();
    let (other, later) = imported(folder.path(), None);
    for (name, dtype) in CHOICES {
        let (chain, model) = imported(&fixture("mixtral"), dtype);
        let (expected, later_too) = imported(folder.path(), dtype);
        let source = ExtractSource::Model { chain: &other, model: later };
        let report = extract_twice(&chain, &model, &source, &[Piece::whole(EXPERT)], &options(dtype));
        let expected = tensor_block(&expected, &later_too, &EXPERT.to_string());
        assert_eq!(&*chain.payload(&report.blocks[0].block).unwrap(), expected.payload(), "{name}");
    }
}

/// The spec of a dense model whose layers are divided among experts.
fn divided_spec(chain: &Chain, model: &BlockHash, experts: usize) -> (BlockHash, usize) {
    let spec = manifest(chain, model).spec;
    let mut spec = ModelSpec::from_canonical_json(&chain.payload(&spec).unwrap()).unwrap();
    let mut inner = 0;
    for layer in &mut spec.layers {
        if let FeedForward::Dense { intermediate_size, .. } = layer.feed_forward {
            inner = intermediate_size;
            layer.feed_forward = FeedForward::Moe {
                num_experts: experts,
                num_experts_per_tok: experts,
                moe_intermediate_size: inner / experts,
                norm_topk_prob: false,
                shared_expert_intermediate_size: None,
            };
        }
    }
    let draft = Draft::new(ChainId::Meta, BlockKind::SPEC, "spec", spec.to_canonical_json());
    (chain.append(draft).unwrap(), inner)
}

/// Every `experts`-th row, beginning with each; in descending order for the odd ones.
fn rows_of(inner: usize, experts: usize) -> Vec<Vec<usize>> {
    (0..experts)
        .map(|expert| {
            let mut rows: Vec<usize> = (expert..inner).step_by(experts).collect();
            if expert % 2 == 1 {
                rows.reverse();
            }
            rows
        })
        .collect()
}

fn pieces(layer: u32, rows: &[Vec<usize>]) -> Vec<Piece> {
    (0..)
        .zip(rows)
        .map(|(expert, rows)| Piece {
            from: Slot::Expert { layer, expert: 0 },
            rows: Some(rows.clone()),
            to: Slot::Expert { layer, expert },
        })
        .collect()
}

/// Some rows of a matrix as it stands in the checkpoint.
fn naive_rows(raw: &Raw, rows: &[usize]) -> Vec<u8> {
    let row_bytes = raw.data.len() / raw.shape[0];
    rows.iter().flat_map(|row| raw.data[row * row_bytes..(row + 1) * row_bytes].to_vec()).collect()
}

fn naive_columns(raw: &Raw, columns: &[usize]) -> Vec<u8> {
    let element = raw.data.len() / raw.shape[0] / raw.shape[1];
    let at = |row: usize, column: &usize| (row * raw.shape[1] + column) * element;
    (0..raw.shape[0])
        .flat_map(|row| {
            columns
                .iter()
                .flat_map(move |column| raw.data[at(row, column)..at(row, column) + element].to_vec())
        })
        .collect()
}

#[test]
fn a_dense_layer_is_divided_by_rows() {
    for name in ["llama", "qwen3"] {
        let folder = fixture(name);
        let (chain, model) = imported(&folder, None);
        let (spec, inner) = divided_spec(&chain, &model, 4);
        let rows = rows_of(inner, 4);
        let raw: BTreeMap<String, Raw> = weights(&folder);
        let own = ExtractSource::Model { chain: &chain, model };
        for source in [ExtractSource::Checkpoint(&folder), own] {
            let report = extract_twice(&chain, &spec, &source, &pieces(1, &rows), &options(None));
            for (made, rows) in report.blocks.iter().zip(&rows) {
                let block = TensorBlock::open(&chain, &made.block).unwrap();
                let raw = |part: &str| &raw[&format!("model.layers.1.mlp.{part}")];
                for part in ["gate_proj.weight", "up_proj.weight"] {
                    assert_eq!(
                        block.tensor(part).unwrap().data(),
                        naive_rows(raw(part), rows),
                        "{name} {part}"
                    );
                }
                let down = naive_columns(raw("down_proj.weight"), rows);
                assert_eq!(block.tensor("down_proj.weight").unwrap().data(), down, "{name}");
                assert_eq!(chain.get(&made.block).unwrap().header().version.to_string(), "1.0.0");
            }
        }
    }
}

#[test]
fn a_divided_layer_is_quantized_after_it_was_divided() {
    let folder = fixture("llama");
    let (chain, model) = imported(&folder, None);
    let (spec, inner) = divided_spec(&chain, &model, 2);
    let source = ExtractSource::Checkpoint(&folder);
    let plain = extract(&chain, &spec, &source, &pieces(0, &rows_of(inner, 2)), &options(None)).unwrap();
    let small =
        extract_twice(&chain, &spec, &source, &pieces(0, &rows_of(inner, 2)), &options(Some(DType::I8)));
    for (plain, small) in plain.blocks.iter().zip(&small.blocks) {
        let plain = TensorBlock::open(&chain, &plain.block).unwrap();
        let small = TensorBlock::open(&chain, &small.block).unwrap();
        for name in ["gate_proj.weight", "up_proj.weight", "down_proj.weight"] {
            let (view, quantized) = (plain.tensor(name).unwrap(), small.tensor(name).unwrap());
            assert_eq!(quantized.dtype(), DType::I8);
            let scales = small.scale(name).unwrap().to_f32_vec();
            let cols = view.shape().dims()[1];
            for (index, (exact, code)) in view.to_f32_vec().iter().zip(quantized.to_f32_vec()).enumerate() {
                // Half a step, and what f32 loses of up to 127 of them.
                let scale = scales[index / cols];
                assert!((exact - code * scale).abs() <= scale * 0.500_1, "{name} {index}");
            }
        }
    }
}

fn refused(
    chain: &Chain,
    target: &BlockHash,
    source: &ExtractSource<'_>,
    pieces: &[Piece],
    options: &ExtractOptions<'_>,
) -> EvolveError {
    let before = state(chain);
    let error = extract(chain, target, source, pieces, options).unwrap_err();
    let dry = ExtractOptions { dry_run: true, ..options.clone() };
    let also = extract(chain, target, source, pieces, &dry).unwrap_err();
    assert_eq!(error.to_string(), also.to_string());
    assert_eq!(state(chain), before);
    error
}

#[test]
fn what_cannot_be_extracted_is_refused_by_name() {
    let folder = fixture("mixtral");
    let (chain, model) = imported(&folder, None);
    let source = ExtractSource::Checkpoint(&folder);
    let plain = options(None);
    let whole = Piece::whole(EXPERT);
    let rows = |rows: &[usize]| Piece { rows: Some(rows.to_vec()), ..whole.clone() };

    let none = refused(&chain, &model, &source, &[], &plain);
    assert!(matches!(none, EvolveError::Extract(ExtractError::Nothing)));
    let twice = refused(&chain, &model, &source, &[whole.clone(), rows(&[0])], &plain);
    assert!(matches!(twice, EvolveError::Extract(ExtractError::SlotTwice { slot: EXPERT })));
    let expert = manifest(&chain, &model).slots[&EXPERT];
    let target = refused(&chain, &expert, &source, std::slice::from_ref(&whole), &plain);
    assert!(matches!(target, EvolveError::Extract(ExtractError::Target { kind: BlockKind::EXPERT, .. })));
    let missing = BlockHash::from_bytes([7; 32]);
    assert!(matches!(
        refused(&chain, &missing, &source, std::slice::from_ref(&whole), &plain),
        EvolveError::Chain(_)
    ));

    for (slot, from) in [
        (Slot::Expert { layer: 1, expert: 99 }, EXPERT),
        (Slot::Tokenizer, Slot::Tokenizer),
        (Slot::SharedExpert { layer: 0 }, EXPERT),
    ] {
        let error = refused(&chain, &model, &source, &[Piece { from, rows: None, to: slot }], &plain);
        assert!(matches!(error, EvolveError::Extract(ExtractError::DoesNotFit { to, .. }) if to == slot));
    }
    let nowhere = Piece { from: Slot::Expert { layer: 9, expert: 0 }, ..whole.clone() };
    let own = ExtractSource::Model { chain: &chain, model };
    for source in [source, own] {
        let error = refused(&chain, &model, &source, std::slice::from_ref(&nowhere), &plain);
        assert!(matches!(error, EvolveError::Extract(ExtractError::NoSource { .. })), "{error}");
        // Too few rows for the slot, whatever they are.
        let error = refused(&chain, &model, &source, &[rows(&[1, 0])], &plain);
        assert!(matches!(error, EvolveError::Extract(ExtractError::DoesNotFit { .. })), "{error}");
        let error = refused(&chain, &model, &source, &[rows(&[])], &plain);
        assert!(matches!(error, EvolveError::Extract(ExtractError::DoesNotFit { .. })), "{error}");
        for (wrong, row) in [(&[0, 1, usize::MAX][..], usize::MAX), (&[3, 4, 3], 3)] {
            let error = refused(&chain, &model, &source, &[rows(wrong)], &plain);
            assert!(
                matches!(error, EvolveError::Extract(ExtractError::Row { row: found, .. }) if found == row)
            );
        }
    }
    let router = Slot::Router { layer: 0 };
    let piece = Piece { rows: Some(vec![0]), ..Piece::whole(router) };
    let error = refused(&chain, &model, &source, &[piece], &plain);
    assert!(matches!(error, EvolveError::Extract(ExtractError::NotDivisible { slot }) if slot == router));

    let (small, small_model) = imported(&folder, Some(DType::I8));
    let quantized = ExtractSource::Model { chain: &small, model: small_model };
    for (piece, dtype) in [(rows(&[0]), None), (whole.clone(), Some(DType::BF16))] {
        let error = refused(&chain, &model, &quantized, &[piece], &options(dtype));
        assert!(
            matches!(error, EvolveError::Extract(ExtractError::Quantized { slot: EXPERT, .. })),
            "{error}"
        );
    }

    // Another architecture's expert has other shapes.
    let other = fixture("qwen2_moe");
    let error =
        refused(&chain, &model, &ExtractSource::Checkpoint(&other), std::slice::from_ref(&whole), &plain);
    assert!(matches!(error, EvolveError::Extract(ExtractError::DoesNotFit { .. })), "{error}");
    let nothing = Path::new("/nowhere");
    let error =
        refused(&chain, &model, &ExtractSource::Checkpoint(nothing), std::slice::from_ref(&whole), &plain);
    assert!(matches!(error, EvolveError::Import(_)));

    let stop = AtomicBool::new(true);
    let cancelled = ExtractOptions { cancel: Some(&stop), ..plain };
    let error = refused(&chain, &model, &source, &[whole], &cancelled);
    assert!(matches!(error, EvolveError::Extract(ExtractError::Cancelled)));
}

/// Nothing is appended when the last of several pieces is wrong.
#[test]
fn all_pieces_or_none() {
    let folder = changed();
    let (chain, model) = imported(&fixture("mixtral"), None);
    let bad = Piece { rows: Some(vec![usize::MAX]), ..Piece::whole(Slot::Expert { layer: 0, expert: 0 }) };
    let source = ExtractSource::Checkpoint(folder.path());
    refused(&chain, &model, &source, &[Piece::whole(EXPERT), bad], &options(None));
}
