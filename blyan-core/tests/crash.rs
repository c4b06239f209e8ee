//! A medium that fails at any operation, or loses power there with everything that was not yet
//! synced: the chain opens, verifies, and holds what was acknowledged and nothing by halves.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends at what it does not expect")]

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::support::{Failure, Rng, SimDisk};
use blyan_core::chain::{ChainError, Draft, SignatureRecord, Validators};
use blyan_core::storage::Access;
use blyan_core::{BlockHash, BlockKind, Chain, ChainId, ParentRole, VerifyOptions};

fn open(disk: &SimDisk) -> Result<Chain, ChainError> {
    Chain::open_with(Arc::new(disk.clone()), Access::ReadWrite, Validators::new())
}

/// Transactions of one to eight blocks with small and large payloads, some shared, and signatures.
fn workload() -> Vec<Vec<Draft>> {
    let mut rng = Rng::new(1);
    let spec = Draft::new(ChainId::Meta, BlockKind::SPEC, "spec", "{}");
    let root = spec.hash().unwrap();
    let mut transactions = vec![vec![spec]];
    let mut last = root;
    for number in 0..6 {
        let mut drafts = Vec::new();
        for expert in 0..=rng.below(7) {
            let payload = match rng.below(4) {
                0 => vec![5; 3000],
                1 => rng.bytes(40_000),
                _ => rng.bytes(700),
            };
            let name = format!("layer{number}.expert{expert}");
            let draft = Draft::new(ChainId::Parameter, BlockKind::EXPERT, name, payload)
                .with_parent(root, ParentRole::Dependency);
            let draft = if last != root { draft.with_parent(last, ParentRole::Evidence) } else { draft };
            drafts.push(draft);
        }
        let model = Draft::new(ChainId::Meta, BlockKind::MODEL, format!("model{number}"), rng.bytes(200))
            .with_parent(drafts[0].hash().unwrap(), ParentRole::Dependency);
        last = drafts[0].hash().unwrap();
        drafts.push(model);
        transactions.push(drafts);
    }
    transactions
}

/// Runs the transactions that are not in the chain yet; the number acknowledged, and the error.
fn run(chain: &Chain, transactions: &[Vec<Draft>]) -> (usize, Result<(), ChainError>) {
    let key = ed25519_dalek::SigningKey::from_bytes(&[3; 32]);
    for (number, drafts) in transactions.iter().enumerate() {
        let commit = || -> Result<(), ChainError> {
            let mut writer = chain.writer()?;
            for draft in drafts {
                writer.append(draft.clone())?;
            }
            let block = drafts[0].hash()?;
            writer.add_signature(&block, SignatureRecord::sign(&key, &block, 42))?;
            writer.commit()
        };
        if let Err(error) = commit() {
            return (number, Err(error));
        }
    }
    (transactions.len(), Ok(()))
}

fn hashes(transactions: &[Vec<Draft>]) -> BTreeSet<BlockHash> {
    transactions.iter().flatten().map(|draft| draft.hash().unwrap()).collect()
}

fn stored(chain: &Chain) -> BTreeSet<BlockHash> {
    chain.topological_order().map(|block| block.unwrap().hash()).collect()
}

/// What must hold of a chain on a disk whose writer got `acknowledged` transactions through.
fn check(disk: &SimDisk, transactions: &[Vec<Draft>], acknowledged: usize, context: &str) {
    let chain = open(disk).unwrap_or_else(|error| panic!("{context}: {error:?}"));
    let found = stored(&chain);
    let expected = [acknowledged, (acknowledged + 1).min(transactions.len())];
    let whole = expected.iter().any(|count| found == hashes(&transactions[..*count]));
    assert!(whole, "{context}: {} blocks after {acknowledged} transactions", found.len());
    let report = chain.verify(&VerifyOptions::full()).unwrap();
    assert!(report.is_ok(), "{context}: {:?}", report.bad);
    assert_eq!(disk.temporary_count(), 0, "{context}");
    let (_, result) = run(&chain, transactions);
    result.unwrap_or_else(|error| panic!("{context}: {error:?}"));
    let complete = complete(transactions);
    assert_eq!(stored(&chain), complete.0, "{context}");
    assert_eq!(chain.root().unwrap(), complete.1, "{context}");
    assert_eq!(disk.payload_count(), complete.2, "{context}");
    let report = chain.verify(&VerifyOptions::full()).unwrap();
    assert!(report.is_ok(), "{context}: {:?}", report.bad);
}

/// Blocks, root and payload files of the undisturbed chain.
fn complete(transactions: &[Vec<Draft>]) -> (BTreeSet<BlockHash>, blyan_core::ChainRoot, usize) {
    static COMPLETE: std::sync::OnceLock<(BTreeSet<BlockHash>, blyan_core::ChainRoot, usize)> =
        std::sync::OnceLock::new();
    COMPLETE
        .get_or_init(|| {
            let disk = SimDisk::new();
            let chain = open(&disk).unwrap();
            run(&chain, transactions).1.unwrap();
            (hashes(transactions), chain.root().unwrap(), disk.payload_count())
        })
        .clone()
}

/// Write operations of the undisturbed workload, opening included.
fn operations(transactions: &[Vec<Draft>]) -> u64 {
    let disk = SimDisk::new();
    let chain = open(&disk).unwrap();
    run(&chain, transactions).1.unwrap();
    drop(chain);
    disk.operations()
}

/// Opens and runs on a disk that is about to fail; the number of transactions acknowledged.
fn run_failing(disk: &SimDisk, transactions: &[Vec<Draft>]) -> usize {
    match open(disk) {
        Ok(chain) => run(&chain, transactions).0,
        Err(_) => 0,
    }
}

#[test]
fn power_lost_at_every_operation_loses_nothing_acknowledged() {
    let transactions = workload();
    let total = operations(&transactions);
    assert!(total > 100, "{total}");
    for at in 0..total {
        let disk = SimDisk::new();
        disk.fail_at(at, Failure::PowerLoss);
        let acknowledged = run_failing(&disk, &transactions);
        for seed in 0..3 {
            let context = format!("power lost at operation {at} of {total}, seed {seed}");
            let survivor = disk.after_power_loss(at * 3 + seed);
            check(&survivor, &transactions, acknowledged, &context);
        }
    }
}

#[test]
fn power_lost_twice_in_a_row_loses_nothing_acknowledged() {
    let transactions = workload();
    let total = operations(&transactions);
    let mut rng = Rng::new(7);
    for round in 0..200 {
        let disk = SimDisk::new();
        disk.fail_at(rng.below(total as usize) as u64, Failure::PowerLoss);
        let first = run_failing(&disk, &transactions);
        let disk = disk.after_power_loss(round);
        disk.fail_at(rng.below(60) as u64, Failure::PowerLoss);
        // The second run begins with what the first got through, which is acknowledged again.
        let second = run_failing(&disk, &transactions);
        let disk = disk.after_power_loss(round + 1000);
        check(&disk, &transactions, first.max(second), &format!("round {round}"));
    }
}

#[test]
fn a_process_killed_at_every_operation_leaves_a_whole_chain() {
    let transactions = workload();
    for at in 0..operations(&transactions) {
        let disk = SimDisk::new();
        disk.fail_at(at, Failure::PowerLoss);
        let acknowledged = run_failing(&disk, &transactions);
        check(&disk.after_kill(), &transactions, acknowledged, &format!("killed at {at}"));
    }
}

#[test]
fn one_failed_operation_is_an_error_and_a_whole_chain() {
    let transactions = workload();
    for at in 0..operations(&transactions) {
        let disk = SimDisk::new();
        disk.fail_at(at, Failure::Once);
        let acknowledged = run_failing(&disk, &transactions);
        let context = format!("operation {at} failed");
        let healthy = disk.after_kill();
        check(&healthy, &transactions, acknowledged, &context);
    }
}
