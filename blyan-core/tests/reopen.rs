//! A model opened again, as a process made by `fork` has to: the same results, threads of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::checkpoints::{fixture, import_into};
use blyan_core::Chain;
use blyan_core::manager::{GenerateOptions, ManagerOptions, MoEModelManager};

#[test]
fn a_reopened_model_gives_the_same_and_counts_for_itself() {
    let chain = Chain::in_memory().unwrap();
    import_into(&chain, &fixture("olmoe"), None);
    let options = ManagerOptions { threads: Some(2), prefill_chunk: 3, ..ManagerOptions::default() };
    let model = MoEModelManager::open(&chain, &options).unwrap();
    let generate = GenerateOptions { max_tokens: Some(6), ignore_eos: true, ..GenerateOptions::default() };
    let first = model.generate([3, 17, 40], &generate).unwrap();
    let counted = model.usage().snapshot();
    drop(chain);

    let again = model.reopen().unwrap();
    assert_eq!(again.residency(), blyan_core::manager::MoEModelManager::reopen(&model).unwrap().residency());
    assert_eq!(again.residency().blocks_verified, 0, "nothing is taken over unverified");
    assert_eq!(again.threads(), 2);
    assert_eq!(again.generate([3, 17, 40], &generate).unwrap(), first);
    assert_eq!(model.usage().snapshot(), counted, "what the copy did is not counted for the original");
}
