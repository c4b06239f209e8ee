//! Real chat models, made by `cargo xtask smollm2`; `cargo xtask test` runs this.

#![allow(clippy::unwrap_used, reason = "a test ends where its premises fail")]
#![allow(clippy::print_stdout, reason = "the answers are worth reading")]

mod checkpoints;

use std::path::PathBuf;

use blyan_core::manager::GenerateOptions;
use blyan_core::manager::chat::ChatRequest;
use blyan_core::{Chain, DType};
use checkpoints::{import_into, open};

fn answer(model: &str, dtype: Option<DType>, question: &str) -> String {
    let models = std::env::var_os("BLYAN_SMOLLM2").expect("BLYAN_SMOLLM2 names the folder of the models");
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::open(dir.path()).unwrap();
    import_into(&chain, &PathBuf::from(models).join(model), dtype);
    let manager = open(&chain, |_| ());
    let messages = [serde_json::json!({"role": "user", "content": question})];
    let request = ChatRequest { messages: &messages, ..ChatRequest::default() };
    let options = GenerateOptions { max_tokens: Some(64), ..GenerateOptions::default() };
    let generation = manager.chat(&request, &options).unwrap();
    println!("{model} {dtype:?}: {:?}", generation.text);
    generation.text
}

#[test]
#[ignore = "needs the models of `cargo xtask smollm2`"]
fn dense_and_upcycled_models_answer_as_transformers_does() {
    for dtype in [None, Some(DType::I8)] {
        for model in ["dense", "upcycled"] {
            let text = answer(model, dtype, "What is the capital of France?");
            assert_eq!(text, "The capital of France is Paris.", "{model} {dtype:?}");
        }
    }
}

#[test]
#[ignore = "needs the models of `cargo xtask smollm2`"]
fn experts_that_differ_answer_as_transformers_does() {
    let text = answer("upcycled-noise", None, "Name three colors.");
    assert_eq!(text, "1. Red\n2. Blue\n3. Green\n4. Yellow\n5. White");
}
